"""A task file and its rows."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

TASK = {
    "task": "colour",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}} in {{language}}?",
    "metadata": {
        "family": "text_classification",
        "metric": "acc",
        "data": "colour",
        "sft": "sft/colour.jsonl",
        "labels": ["red", "blue", "green"],
    },
}


def write_task(folder: Path, **changes: object) -> str:
    """A task file; `changes` replace top-level keys, or keys of metadata."""
    meta = {**TASK["metadata"], **{k: v for k, v in changes.items() if k in TASK["metadata"]}}
    top = {k: v for k, v in changes.items() if k not in TASK["metadata"]}
    path = folder / "colour.yaml"
    path.write_text(yaml.safe_dump({**TASK, "metadata": meta, **top}))
    return str(path)


def write_rows(root: Path, rows: list[object], name: str = "eval/colour/bn/test.jsonl") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(n: int) -> list[dict[str, str]]:
    return [{"text": f"t{i}", "label": ("red", "blue", "green")[i * 3 // n]} for i in range(n)]
