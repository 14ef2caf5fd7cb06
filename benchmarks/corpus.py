"""A corpus cleaned, cut into tokens, packed and opened: this tree, an older one and datatrove; known twins.

    python -m benchmarks.corpus --data DATA [--old OLD_TREE] [--megabytes 30] [--rounds 3]

The text is made from the sentences of DATA/corpus/bn.*, seeded: documents of 6 to 17 sentences; EXACT of them
are copies of earlier ones, NEAR are copies with one word replaced, ALIKE share half of their sentences with
an earlier one, which is no duplicate. Every side runs in a process of its own, in turn. Cleaning, with ITEMS
sentences written backwards in place of evaluation items: processor seconds and seconds of the clock, with
reading, without start-up and compiling; then this tree alone on 100 and 300 MB, for its memory.
Tokens: a byte-level BPE of 32,000 pieces learnt on the sentences, seconds of the clock, which others on the
machine lengthen. Opening: the packed file as training opens it, with 1,000 rows at random.
Writes results/<date>-corpus.json and .md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure, peer
from benchmarks.atlas import write
from benchmarks.corpus_sides import CLEAN, DATATROVE, OPEN, RESUMED, TOKENS
from benchmarks.merge import RESULTS, ROOT, now
from lrnb.data.corpus import read_local

EXACT, NEAR, ALIKE = 0.05, 0.10, 0.05  # shares of the documents
LANG, SCRIPT, THRESHOLD = "bn", "Bengali", 0.8
AT_ONCE = "after: two processes at once, 1 thread each"
LARGE = (100, 300)  # megabytes
THREADS, PIECES = (1, 2), 32_000  # of cleaning and tokenizing; of the tokenizer
TOKEN_HEAD = (
    "",
    "| tokens | MB/s, tokens alone | packed too | opening, ms | memory a row, bytes | a row, ms |",
    "|---|---|---|---|---|---|",
)
ITEMS = 2_000  # that are looked for


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
            file.write(json.dumps({"kind": kind, "text": text}, ensure_ascii=False) + "\n")
    return {"documents": counts, "bytes": size}


def write_items(path: Path, known: list[str]) -> None:
    """Texts that no document holds."""
    path.write_text(json.dumps([text[::-1] for text in known[:ITEMS]], ensure_ascii=False), encoding="utf-8")


def write_tokenizer(path: Path, known: list[str]) -> None:
    """A tokenizer.json: byte-level BPE learnt on the sentences."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=PIECES, special_tokens=marks, show_progress=False)
    made.train_from_iterator(known, trainer)
    made.save(str(path))


def run(python: str, code: str, tree: Path, *arguments: Path | str, threads: int = 1) -> dict[str, Any]:
    """What a process of its own prints as JSON, with the peaks of its memory in bytes."""
    own = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))  # as a study sets them
    own["TOKENIZERS_PARALLELISM"] = str(threads > 1).lower()
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-c", code, *map(str, arguments)]
        done = measure.run_whole(command, measure.variables(tree) | own, Path(folder))
    peaks = {"peak_anon_bytes": done.peak_anon_bytes, "peak_rss_bytes": done.peak_rss_bytes}
    return json.loads(done.stdout.splitlines()[-1]) | peaks | {"seconds": done.seconds}


def trees(old: Path | None) -> list[tuple[str, Path]]:
    """Name and folder of the trees that are compared."""
    return [(name, tree) for name, tree in (("before", old), ("after", ROOT)) if tree]


class Side(NamedTuple):
    """A process that is measured."""

    python: str
    code: str
    tree: Path
    arguments: list[Path | str]
    threads: int = 1

    def run(self) -> dict[str, Any]:
        """What it prints, and its memory."""
        return run(self.python, self.code, self.tree, *self.arguments, threads=self.threads)


def cleaners(old: Path | None, text: Path, trove: Path | None) -> dict[str, Side]:
    """What is compared, by name. Older trees clean with one thread."""
    items, near = text.with_name("items.json"), str(THRESHOLD)
    kinds: dict[str, list[Path | str]] = {
        "cleaning, exact duplicates": [text, "1", "", ""],
        "and near duplicates": [text, near, "", ""],
        "and evaluation items": [text, near, items, ""],
    }
    if find_spec("fasttext"):
        kinds["and the language check"] = [text, near, items, "lid.176"]
    found = {
        f"{name}: {what}": Side(sys.executable, CLEAN, tree, own)
        for name, tree in trees(old)
        for what, own in kinds.items()
    }
    found |= {
        f"after: {what}, {THREADS[-1]} threads": Side(sys.executable, CLEAN, ROOT, own, THREADS[-1])
        for what, own in kinds.items()
    }
    if trove:
        own: list[Path | str] = [text, "signatures"]
        found["datatrove: MinHash signatures alone"] = Side(str(trove), DATATROVE, ROOT, own)
    return found


def judged(row: Mapping[str, Any], kinds: Mapping[str, int]) -> dict[str, float]:
    """Recall and precision of what was dropped, near duplicates counted where they are looked for."""
    twins = ["exact"] if "exact duplicates" in row["side"] else ["exact", "near"]
    right = sum(row["dropped"].get(kind, 0) for kind in twins)
    there, dropped = sum(kinds[kind] for kind in twins), sum(row["dropped"].values())
    return {"recall": right / there, "precision": right / dropped if dropped else 1.0}


def markdown(result: Mapping[str, Any]) -> str:
    """The tables."""
    megabytes, kinds = result["text"]["bytes"] / 1e6, result["text"]["documents"]
    lines = [
        f"# Cleaning and packing a corpus, {result['started'][:10]}",
        "",
        f"{result['machine']['processor']}; {megabytes:.0f} MB of {LANG}, {result['rounds']} "
        f"rounds in turn, medians (least to most). {_kinds(kinds)}; "
        f"right is to keep {kinds['new'] + kinds['alike']:,}.",
        "",
        "| | MB a processor second | MB a second | kept | recall | precision | peak anonymous memory, MB "
        "| files too, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_cleaned_line(name, own, megabytes) for name, own in _by_side(result["runs"]).items()]
    lines += [*TOKEN_HEAD] if result["tokens"] else []
    lines += [_token_line(name, own) for name, own in _by_side(result["tokens"]).items()]
    lines += ["", _kept_line(result["kept"])]
    return "\n".join(lines) + "\n"


def _kinds(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())


def _by_side(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["side"], []).append(row)
    return found


def _cleaned_line(name: str, own: list[dict[str, Any]], megabytes: float) -> str:
    rate, clock = (
        _spread([row.get("megabytes", megabytes) / row[key] for row in own]) if key in own[0] else ""
        for key in ("cpu_seconds", "clock")
    )
    kept, recall, precision = ("", "", "")
    if "kept" in own[0]:
        kept = f"{own[0]['kept']:,}"
        recall, precision = (f"{own[0][key]:.3f}" for key in ("recall", "precision"))
    peaks = [f"{max(row[key] for row in own) / 1e6:.0f}" for key in ("peak_anon_bytes", "peak_rss_bytes")]
    return f"| {name} | {rate} | {clock} | {kept} | {recall} | {precision} | {' | '.join(peaks)} |"


def _spread(rates: list[float]) -> str:
    return f"{median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"


def _kept_line(row: Mapping[str, Any]) -> str:
    """What the ids that an interrupted stage goes on from cost and save."""
    first, again = (row["bytes"] / 1e6 / row[key] for key in ("first_cpu", "again_cpu"))
    return (
        f"Tokens that are kept as they are cut: {first:.1f} MB a processor second, looked up again "
        f"{again:.1f}, {row['on_disk'] / row['tokens']:.1f} bytes a token."
    )


def _token_line(name: str, own: list[dict[str, Any]]) -> str:
    cutting, packing = (
        _spread([row["bytes"] / 1e6 / row[key] for row in own]) for key in ("cutting", "packing")
    )
    opened = [row["opened"] for row in own if "opened" in row]
    if not opened:
        return f"| {name} | {cutting} | {packing} |  |  |  |"
    shown = f"{1e3 * median(row['opening'] for row in opened):.1f}"
    held = f"{median(row['held'] / row['rows'] for row in opened):.0f}"
    each = f"{1e3 * median(row['a_row'] for row in opened):.2f}"
    return f"| {name} | {cutting} | {packing} | {shown} | {held} | {each} |"


def main(arguments: list[str] | None = None) -> int:
    """The command: see `measure.status`."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__.splitlines()[0])
    add = top.add_argument
    add("--data", type=Path, required=True, help="folder with corpus/")
    add("--old", type=Path, help="another checkout of this project")
    add("--datatrove", action="store_true", help="datatrove too, in an environment of its own")
    add("--megabytes", type=float, default=30)
    add("--rounds", type=int, default=3)
    add("--tokens", action=argparse.BooleanOptionalAction, default=True, help="cutting and packing too")
    add("--large", action=argparse.BooleanOptionalAction, default=True, help="100 and 300 MB too")
    add("--dir", type=Path, default=Path.home() / ".cache" / "lrnb" / "bench")
    add("--results", type=Path, default=RESULTS)
    return measure.status(bench, top.parse_args(arguments))


def bench(given: argparse.Namespace) -> None:
    """Everything, and the files of the result."""
    known = sentences(given.data)
    given.dir.mkdir(parents=True, exist_ok=True)
    text, place = given.dir / "corpus.jsonl", given.dir.absolute()
    trove = peer.environment(given.dir, "datatrove") / "python" if given.datatrove else None
    result: dict[str, Any] = {"started": now(), "machine": measure.machine(), "commit": measure.commit(ROOT)}
    result |= {"versions": measure.versions(), "rounds": given.rounds, "runs": [], "tokens": []}
    result["text"] = write_text(text, known, given.megabytes)
    write_items(text.with_name("items.json"), known)
    for number in range(1, given.rounds + 1):
        for name, side in cleaners(given.old, text, trove).items():
            found = {"round": number, "side": name} | side.run()
            _add(result["runs"], _with_judgement(found, result["text"]))
    write_tokenizer(place / "bpe.json", known)
    for number in range(1, given.rounds + 1) if given.tokens else ():
        for row in token_rows(given.old, text, place):
            _add(result["tokens"], {"round": number} | row)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        result["kept"] = run(sys.executable, RESUMED, ROOT, text, place / "bpe.json", folder)
    for megabytes in LARGE if given.large else ():
        made = write_text(text, known, megabytes)
        found = run(sys.executable, CLEAN, ROOT, text, str(THRESHOLD), "", "", threads=THREADS[-1])
        found = {"side": f"after: {megabytes} MB", "megabytes": megabytes} | found
        _add(result["runs"], _with_judgement(found, made))
    text.unlink()
    write(result, given.results, "corpus", markdown(result))


def _with_judgement(row: dict[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    return row | (judged(row, text["documents"]) if "dropped" in row else {})


def token_rows(old: Path | None, text: Path, place: Path) -> Iterator[dict[str, Any]]:
    """Tokens of each tree by one thread and by several, and how the packed file opens."""
    packed = place / "packed.arrow"
    for name, tree in trees(old):
        for threads in THREADS:
            row: dict[str, Any] = {"side": f"{name}: {threads} thread{'s' * (threads > 1)}"}
            row |= run(sys.executable, TOKENS, tree, text, place / "bpe.json", packed, threads=threads)
            yield row | {"opened": run(sys.executable, OPEN, tree, packed)}
    packed.unlink()
    yield {"side": AT_ONCE} | at_once(text, place)


def at_once(text: Path, place: Path) -> dict[str, Any]:
    """Tokens by two processes of one thread at the same time, as if one of them did it all: the most that the
    machine gives to two threads."""
    files = [place / f"packed-{number}.arrow" for number in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(run, sys.executable, TOKENS, ROOT, text, place / "bpe.json", file) for file in files
        ]
        rows = [one.result() for one in both]
    for file in files:
        file.unlink()
    return {"bytes": rows[0]["bytes"]} | {
        key: max(row[key] for row in rows) / 2 for key in ("cutting", "packing")
    }


def _add(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    rows.append(row)
    print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
