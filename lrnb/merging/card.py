"""What a merged folder says of itself: the report, the model card, the manifest."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from lrnb.checkpoints.reading import Checkpoint, readable
from lrnb.merging.by_tensor import BY_TENSOR
from lrnb.merging.cpu import Tally
from lrnb.merging.election import total
from lrnb.merging.jobs import Job
from lrnb.study.environment import versions
from lrnb.study.files import MANIFEST, visible_files


def make_report(job: Job, tallies: Sequence[Tally]) -> dict[str, Any]:
    """What was asked for and what was measured; counts are entries, shares are fractions.

    `parents` holds what the method counts of each, see `Options.measured` of its file.
    """
    vectors, n = job.vectors, job.vectors.size(job.vectors.names)
    report: dict[str, Any] = {"method": job.method.name, "options": job.given, "models": vectors.parents}
    report |= {"entries": n, "parents": {}}
    if tallies:
        report |= job.options.measured(vectors.parents, n, total(tallies, len(vectors.parents)))
    if vectors.alignment:
        report |= {"vocabulary": vectors.alignment.facts}
    for row in report["parents"].values() if job.by_tensor else ():
        row.pop("asked_density", None)  # of the first tensor; the recipe has all
    return report | {"recipe": job.recipe, "notes": job.notes, "warnings": job.doubts}


def model_card(report: Mapping[str, Any], header: str) -> str:
    """README.md of a merged folder: the recipe and the measured shares; header: of `card_header`."""
    recipe = [f"- {plain(key)}: {plain(value)}" for key, value in _spoken(report["recipe"])]
    lines = [
        "---",
        header.rstrip("\n"),
        "---",
        f"# Merge by {report['method']}",
        "",
        "Made by lrnb, without training. The recipe, every default filled in:",
        "",
        *recipe,
    ]
    if report["parents"]:
        left = " after slack" if "reserved" in report else ""
        lines += ["", f"| parent | kept of all | discarded of kept{left} |", "|---|---|---|"]
        lines += [
            f"| {plain(name)} | {x['kept_share']:.4f} | {x['discarded_share']:.4f} |"
            for name, x in report["parents"].items()
        ]
        lines += ["", f"Conflicts: {report['conflict_share']:.4f} of {report['entries']:,}."]
    if "vocabulary" in report:
        lines += ["", plain(vocabulary_line(report["vocabulary"])) + "."]
    if "reserved" in report:
        lines += [
            f"Won back by slack: {report['reserved']:,} entries, "
            f"{report['reserved_share']:.4f} of those TIES would discard."
        ]
    lines += [f"\nNote: {plain(text)}." for text in report["notes"]]
    lines += _used(report["check"]) if "check" in report else []
    return "\n".join([*lines, *[f"\nWarning: {plain(text)}." for text in report["warnings"]]]) + "\n"


def vocabulary_line(facts: Mapping[str, Any]) -> str:
    """What became of the rows of differing vocabularies, in a sentence; facts: of an `Alignment`."""
    kept = [f"{n:,} from {who}" for who, n in facts["kept"].items()]
    rest = {"without a token": facts.get("without_token", 0)}
    rest |= {f"of {who} left behind": n for who, n in facts.get("left_behind", {}).items()}
    parts = [f"{facts['merged']:,} merged", *kept, *(f"{n:,} {what}" for what, n in rest.items() if n)]
    head = f"Vocabulary {facts['policy']}, tokenizer of {facts['tokenizer']}"
    return f"{head}: {facts['rows']:,} rows, {', '.join(parts)}"


def _used(check: Mapping[str, Any]) -> list[str]:
    """Bits per byte of a little text by every model, and what the merge wrote."""
    names = list(next(iter(check["bits_per_byte"].values())))
    rows = [
        f"| {plain(text)} | {' | '.join(f'{bits[name]:.3f}' for name in names)} |"
        for text, bits in check["bits_per_byte"].items()
    ]
    head = [f"| bits per byte | {' | '.join(map(plain, names))} |", "|---" * (len(names) + 1) + "|"]
    told = f"Asked to go on from “{plain(check['prompt'])}”, it wrote “{plain(check['answer'])}”."
    return ["", "Tried on a little text (less is better):", "", *head, *rows, "", told]


def _spoken(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of a recipe; of folders the last name only, the manifest has the rest."""

    def name(given: str) -> str:
        return Path(given).name if Path(given).is_dir() else given

    rest = [
        (key, value) for key, value in recipe.items() if key not in ("method", "base", "models", BY_TENSOR)
    ]
    if BY_TENSOR in recipe:
        rest += [("by tensor", f"{len(recipe[BY_TENSOR])} groups of tensors, all in {MANIFEST}")]
    models = ({"base": recipe["base"]} if "base" in recipe else {}) | recipe["models"]
    lines = [(label, name(where)) for label, where in models.items()] + rest
    return [
        (key, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value))
        for key, value in lines
    ]


def plain(text: object) -> str:
    """Text that Markdown and HTML show as it is."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")


def manifest(folder: Path, job: Job, report: Mapping[str, Any]) -> str:
    """Inputs and outputs by hash. No times: the same merge gives the same bytes."""
    vectors, out = job.vectors, job.out
    models = ({"base": vectors.base} if job.method.base else {}) | vectors.models
    opened = {label: model for label, model in models.items() if isinstance(model, Checkpoint)}
    written = visible_files(folder)
    read = [path for model in opened.values() for path in model.files]
    found = xxh3([*written.values(), *read], len(vectors.workers))
    inputs = {
        label: {
            "folder": os.path.relpath(model.files[0].parent.resolve(), out.resolve()),
            "xxh3_128": {path.name: found[path] for path in model.files},
        }
        for label, model in opened.items()
    }
    text = {
        "stage": "merge",
        "report": report,
        "inputs": inputs,
        "outputs": {name: found[path] for name, path in written.items()},
        "hash": "xxh3_128",
        "versions": versions(),
    }
    return json.dumps(text, indent=1, default=str)


def xxh3(files: Iterable[Path], threads: int = 1) -> dict[Path, str]:
    """XXH3-128 of files in hexadecimal, as `xxhsum -H2` prints it.

    As fast as memory can be read, which sha256 is not. It shows damage and mix-ups; it is no
    protection against forgery.
    """

    def one(path: Path) -> str:
        with readable(path):
            data = np.memmap(path, np.uint8, "r").data if path.stat().st_size else b""
        return xxhash.xxh3_128(data).hexdigest()

    largest_first = sorted(set(files), key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        return dict(zip(largest_first, pool.map(one, largest_first), strict=True))
