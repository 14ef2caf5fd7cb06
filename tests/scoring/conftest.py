"""Fixtures of scoring: two tasks of pico words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.pico_tasks import words


@pytest.fixture
def root(tmp_path) -> Path:
    """Two tasks of pico words: class labels (one word) and options of one to four words."""
    rng = np.random.default_rng(0)
    label_rows = [{"text": words(rng, 9), "label": str(rng.choice(["red", "blue", "house"]))}
                  for _ in range(40)]  # fmt: skip
    choice_rows = [{"text": words(rng, 20), "answer": int(rng.integers(3)),
                    "options": list(dict.fromkeys(words(rng, int(rng.integers(1, 5)))
                                                  for _ in range(12)))[:4]}
                   for _ in range(40)]  # fmt: skip
    for name, rows in (("label", label_rows), ("choice", choice_rows)):
        for lang in ("bn", "en"):
            path = tmp_path / "eval" / name / lang / "test.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        metric = {"label": "acc", "choice": "acc_bytes"}[name]
        meta = {"family": "text_classification", "metric": metric, "data": name}
        task = {"task": name, "output_type": "multiple_choice", "doc_to_text": "{{text}}"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**task, "metadata": meta}))
    return tmp_path
