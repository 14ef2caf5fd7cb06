"""Cleaning a corpus, near duplicates too: this tree, an older one and datatrove, on text with known twins.

    python -m benchmarks.corpus --data DATA [--old OLD_TREE] [--megabytes 30] [--rounds 3]

The text is made from the sentences of DATA/corpus/bn.*, seeded: documents of 6 to 17 sentences; EXACT of them
are copies of earlier ones, NEAR are copies with one word replaced, ALIKE share half of their sentences with
an earlier one, which is no duplicate. Every side runs in a process of its own, in turn, on one thread;
processor seconds without start-up and compiling. Then this tree alone on 100 and 300 MB, for its memory.
Writes results/<date>-corpus.json and .md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import measure, peer
from benchmarks.atlas import write
from benchmarks.merge import RESULTS, ROOT, now
from lrnb.data.corpus import read_local

EXACT, NEAR, ALIKE = 0.05, 0.10, 0.05  # shares of the documents
LANG, SCRIPT, THRESHOLD = "bn", "Bengali", 0.8
LARGE = (100, 300)  # megabytes
OURS = """
import json, sys, time
from collections import Counter
from lrnb.data import clean
rule = ("Bengali", 0.5, float(sys.argv[2]))
list(clean(["নদীর ধারে একটি ছোট গ্রাম " * 20, "অন্য একটি লেখা " * 20], *rule, Counter()))
started = time.process_time()
texts = (json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8"))
kept = sum(1 for _ in clean(texts, *rule, Counter()))
print(json.dumps({"cpu_seconds": time.process_time() - started, "kept": kept}))
"""
DATATROVE = """
import json, shutil, sys, time
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
config = MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=10, hashes_per_bucket=6, n_grams=5)
step = MinhashDedupSignature(sys.argv[2], config=config, language="ben_Beng")
rows = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
list(map(step.get_signature, map(step.get_shingles, rows[:50])))
started = time.process_time()
for text in rows:
    step.get_signature(step.get_shingles(text))
print(json.dumps({"cpu_seconds": time.process_time() - started}))
"""


def sentences(data_root: Path) -> list[str]:
    """The different sentences of more than 20 characters."""
    parts = (re.split(r"(?<=[।.!?])\s+", text) for text in read_local(data_root, LANG))
    return list(dict.fromkeys(part for own in parts for part in own if len(part) > 20))


def documents(known: list[str], megabytes: float, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(kind, text) of documents, kinds being new, exact, near and alike."""
    draw, made, size = np.random.default_rng(seed), list[list[str]](), 0
    kinds, shares = ["exact", "near", "alike", "new"], [EXACT, NEAR, ALIKE, 1 - EXACT - NEAR - ALIKE]
    while size < 1e6 * megabytes:
        kind = str(draw.choice(kinds, p=shares)) if made else "new"
        own = _document(kind, known, made, draw)
        if kind == "new":
            made.append(own)
        text = " ".join(own)
        size += len(text.encode())
        yield kind, text


def _document(kind: str, known: list[str], made: list[list[str]], draw: np.random.Generator) -> list[str]:
    if kind == "new":
        return [known[i] for i in draw.integers(len(known), size=int(draw.integers(6, 18)))]
    own = list(made[int(draw.integers(len(made)))])
    if kind == "near":
        place = int(draw.integers(len(own)))
        words = own[place].split(" ")
        words[int(draw.integers(len(words)))] = known[int(draw.integers(len(known)))].split(" ")[0]
        own[place] = " ".join(words)
    if kind == "alike":
        own[: len(own) // 2] = [known[i] for i in draw.integers(len(known), size=len(own) // 2)]
    return own


def write_text(path: Path, known: list[str], megabytes: float) -> dict[str, Any]:
    """A file of documents, and how many there are of each kind."""
    counts, size = dict.fromkeys(("new", "exact", "near", "alike"), 0), 0
    with path.open("w", encoding="utf-8") as file:
        for kind, text in documents(known, megabytes):
            counts[kind] += 1
            size += len(text.encode())
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return {"documents": counts, "bytes": size}


def run(python: str, code: str, tree: Path, *arguments: str) -> dict[str, Any]:
    """What a process of its own prints as JSON, with its peak of anonymous memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        done = measure.run_whole([python, "-c", code, *arguments], measure.variables(tree), Path(folder))
    return json.loads(done.stdout) | {"peak_anon_bytes": done.peak_anon_bytes, "seconds": done.seconds}


def sides(old: Path | None, text: Path, trove: Path | None) -> dict[str, tuple[str, str, Path, list[str]]]:
    """name -> (Python, code, tree, arguments)."""
    own = [(name, tree) for name, tree in (("before", old), ("after", ROOT)) if tree]
    found = {
        f"{name}: {what}": (sys.executable, OURS, tree, [str(text), near])
        for name, tree in own
        for what, near in (("cleaning, exact duplicates", "1"), ("and near duplicates", str(THRESHOLD)))
    }
    if trove:
        found["datatrove: MinHash signatures alone"] = (
            str(trove),
            DATATROVE,
            ROOT,
            [str(text), "signatures"],
        )
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The table."""
    megabytes, kinds = result["text"]["bytes"] / 1e6, result["text"]["documents"]
    lines = [
        f"# Cleaning a corpus, {result['started'][:10]}",
        "",
        f"{result['machine']['processor']}, one thread; {megabytes:.0f} MB of {LANG}, {result['rounds']} "
        f"rounds in turn, medians (least to most). "
        f"{', '.join(f'{n:,} {kind}' for kind, n in kinds.items())}; "
        f"right is to keep {kinds['new'] + kinds['alike']:,}.",
        "",
        "| | MB a processor second | documents kept | peak anonymous memory, MB |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["side"] for row in result["runs"]):
        own = [row for row in result["runs"] if row["side"] == name]
        rates = sorted(row.get("megabytes", megabytes) / row["cpu_seconds"] for row in own)
        kept = f"{own[0]['kept']:,}" if "kept" in own[0] else ""
        peak = f"{max(row['peak_anon_bytes'] for row in own) / 1e6:.0f}"
        lines.append(
            f"| {name} | {median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f}) | {kept} | {peak} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command: see `measure.status`."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("--data", type=Path, required=True, help="folder with corpus/")
    add("--old", type=Path, help="another checkout of this project")
    add("--datatrove", action="store_true", help="datatrove too, in an environment of its own")
    add("--megabytes", type=float, default=30)
    add("--rounds", type=int, default=3)
    add("--large", action=argparse.BooleanOptionalAction, default=True, help="100 and 300 MB too")
    add("--dir", type=Path, default=Path.home() / ".cache" / "lrnb" / "bench")
    add("--results", type=Path, default=RESULTS)
    return measure.status(bench, top.parse_args(arguments))


def bench(given: argparse.Namespace) -> None:
    """Everything, and the files of the result."""
    known = sentences(given.data)
    given.dir.mkdir(parents=True, exist_ok=True)
    text = given.dir / "corpus.jsonl"
    trove = peer.environment(given.dir, "datatrove") / "python" if given.datatrove else None
    result: dict[str, Any] = {"started": now(), "machine": measure.machine(), "commit": measure.commit(ROOT)}
    result |= {"versions": measure.versions(), "rounds": given.rounds, "runs": []}
    result["text"] = write_text(text, known, given.megabytes)
    for number in range(1, given.rounds + 1):
        for side, (python, code, tree, arguments) in sides(given.old, text, trove).items():
            _add(result, {"round": number, "side": side} | run(python, code, tree, *arguments))
    for megabytes in LARGE if given.large else ():
        write_text(text, known, megabytes)
        found = run(sys.executable, OURS, ROOT, str(text), str(THRESHOLD))
        _add(result, {"side": f"after: {megabytes} MB", "megabytes": megabytes} | found)
    text.unlink()
    write(result, given.results, "corpus", markdown(result))


def _add(result: dict[str, Any], row: dict[str, Any]) -> None:
    result["runs"].append(row)
    print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
