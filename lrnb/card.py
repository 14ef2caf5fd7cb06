"""What a merged folder says of itself: the report, the model card, the manifest."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints import Checkpoint
from lrnb.election import per_parent
from lrnb.environment import versions
from lrnb.store import visible_files
from lrnb.vectors import TaskVectors
from lrnb.workers import Tally


def make_report(
    method: str, vectors: TaskVectors, options: Mapping[str, Any], tally: Tally
) -> dict[str, Any]:
    """What was asked for and what was measured; counts are entries, shares are fractions.

    kept_share is of all entries, discarded_share of the parent's kept entries, conflict_share of
    all entries, reserved_share of the conflicts that TIES alone would have taken from `protect`.
    """
    n = vectors.size(vectors.names)
    report: dict[str, Any] = {
        "method": method, "options": dict(options), "models": list(vectors.parents), "entries": n,
        "parents": {},
    }  # fmt: skip
    if not method.startswith("ties"):
        return report
    asked = per_parent(vectors.parents, options["density"], 1.0, "density", 0.0, 1.0)
    for i, parent in enumerate(vectors.parents):
        kept, lost = int(tally.kept[i]), int(tally.lost[i])
        report["parents"][parent] = {
            "asked_density": asked[i], "kept": kept, "kept_share": _share(kept, n),
            "discarded": lost, "discarded_share": _share(lost, kept),
        }  # fmt: skip
    report |= {"conflicts": tally.conflicts, "conflict_share": _share(tally.conflicts, n)}
    if method == "ties_sv":
        left = int(tally.lost[vectors.parents.index(options.get("protect", "sft"))])
        report |= {
            "reserved": tally.reserved,
            "reserved_share": _share(tally.reserved, tally.reserved + left),
        }
    return report


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def model_card(report: Mapping[str, Any]) -> str:
    """README.md of a merged folder: the recipe and the measured shares."""
    recipe = [f"- {plain(key)}: {plain(value)}" for key, value in _spoken(report["recipe"])]
    lines = [
        "---",
        "tags: [merge]",
        "---",
        f"# Merge by {report['method']}",
        "",
        "Made by lrnb, without training. The recipe, every default filled in:",
        "",
        *recipe,
    ]
    if report["parents"]:
        lines += ["", "| parent | kept of all | discarded of kept |", "|---|---|---|"]
        lines += [
            f"| {plain(name)} | {x['kept_share']:.4f} | {x['discarded_share']:.4f} |"
            for name, x in report["parents"].items()
        ]
        lines += ["", f"Conflicts: {report['conflict_share']:.4f} of {report['entries']:,}."]
    if "reserved" in report:
        lines += [
            f"Won back by slack: {report['reserved']:,} entries, "
            f"{report['reserved_share']:.4f} of those TIES would discard."
        ]
    return "\n".join([*lines, *[f"\nWarning: {plain(text)}." for text in report["warnings"]]]) + "\n"


def _spoken(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of a recipe; of folders the last name only, the manifest has the rest."""

    def name(given: str) -> str:
        return Path(given).name if Path(given).is_dir() else given

    rest = [(key, value) for key, value in recipe.items() if key not in ("method", "base", "models")]
    models = {"base": recipe["base"], **recipe["models"]}
    lines = [(label, name(where)) for label, where in models.items()] + rest
    return [
        (key, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value))
        for key, value in lines
    ]


def plain(text: object) -> str:
    """Text that Markdown and HTML show as it is."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")


def manifest(folder: Path, out: Path, vectors: TaskVectors, report: Mapping[str, Any]) -> str:
    """Inputs and outputs by hash. No times: the same merge gives the same bytes."""
    models = {"base": vectors.base, **vectors.models}
    opened = {label: model for label, model in models.items() if isinstance(model, Checkpoint)}
    written = visible_files(folder)
    maps = {path: model.maps.get(path) for model in opened.values() for path in model.files}
    found = xxh3(dict.fromkeys(written.values()) | maps, len(vectors.workers))
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


def xxh3(files: Mapping[Path, Any], threads: int = 1) -> dict[Path, str]:
    """XXH3-128 of files in hexadecimal, as `xxhsum -H2` prints it; a value is the file's open map, or None.

    As fast as memory can be read, which sha256 is not. It shows damage and mix-ups; it is no
    protection against forgery.
    """
    import xxhash

    def one(path: Path) -> str:
        if not path.stat().st_size:
            return xxhash.xxh3_128(b"").hexdigest()
        data = files[path] if files[path] is not None else np.memmap(path, np.uint8, "r").data
        return xxhash.xxh3_128(data).hexdigest()

    largest_first = sorted(files, key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        return dict(zip(largest_first, pool.map(one, largest_first), strict=True))
