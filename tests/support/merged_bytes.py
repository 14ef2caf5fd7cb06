"""Proof that merged bytes stay what they were: small checkpoints, every method, hashes of what is written.

`merged_bytes.json` beside this file holds the hashes and the commit that made them; `test_bytes.py` makes
them anew. To make them with another tree, name its modules:

    PYTHONPATH=TREE:tests python -P -m support.merged_bytes --commit COMMIT --module lrnb.driver

Everything is made of whole numbers by numpy's RandomState, whose streams never change.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from support.reference import BF16, save_folder

STORED = Path(__file__).with_suffix(".json")
SHAPES = {
    "model.embed_tokens.weight": (97, 64),
    "model.layers.0.q_proj.weight": (203, 301),  # more than the 65,536 that are collected without a sample
    "model.layers.0.norm.weight": (1023,),
    "model.layers.1.q_proj.weight": (129, 128),
    "model.layers.1.norm.weight": (1,),
    "model.norm.weight": (7,),
}
PARENTS = ("ct", "sft", "third")
F2, F4, F8 = (np.dtype(name) for name in ("f2", "f4", "f8"))
KINDS = {  # of a tensor in base, ct, sft and third; of several the tensors take turns
    "f32": [(F4, F4, F4, F4)],
    "bf16": [(BF16, BF16, BF16, BF16)],
    "mixed": [
        (F2, F2, F4, F2),
        (BF16, F4, BF16, F2),
        (F8, F8, F4, F8),
        (F4, F4, F8, BF16),
        (BF16, F8, F4, F4),
    ],
}
TIES = {"density": 0.15}  # the threshold of float32 is a magnitude that many entries have
FULL = {"density": {"ct": 0.6, "sft": 0.9, "third": 1.0}, "weights": {"ct": 1.0, "sft": 0.7}, "lam": 1.3}
EXACT = {"trim_scope": "tensor", "at_threshold": "exact", "zero_sign": "positive"}
OPTIONS: dict[str, dict[str, Any]] = {  # the method is the word before the first space
    "average": {},
    "average alpha": {"alpha": 0.3},
    "average sum": {"weights": {"ct": 0.5, "sft": 0.25}, "normalize": False},
    "task_arithmetic": {"lam": 1.0},
    "task_arithmetic each": {"lam": {"ct": 0.7, "sft": -0.4}},
    "ties": TIES,
    "ties tensor": TIES | {"trim_scope": "tensor"},
    "ties exact": TIES | {"at_threshold": "exact"},
    "ties as mergekit": TIES | EXACT,
    "ties positive": FULL | {"zero_sign": "positive"},
    "ties sum": FULL | {"normalize": False},
    "ties whole": {"density": 1.0},
    "ties float32": TIES | {"dtype": "float32"},
    "ties float16": FULL | {"dtype": "float16"},
    "ties_sv": TIES | {"slack": 0.3},
    "ties_sv tensor": FULL | {"slack": 0.5, "trim_scope": "tensor"},
    "ties_sv exact": FULL | {"slack": 0.1, "at_threshold": "exact"},
    "ties_sv as mergekit": FULL | {"slack": 0.7} | EXACT,
    "ties_sv all": FULL | {"slack": 1.0, "zero_sign": "positive"},
    "ties_sv ties": {"density": 1.0, "slack": 0.004},
    "ties_sv threshold": FULL | {"slack_threshold": 2**-9},
    "ties_sv threshold tensor": {"density": 1.0, "slack_threshold": 2**-10, "trim_scope": "tensor"},
    "ties_sv ct": FULL | {"slack": 0.4, "protect": "ct", "normalize": False},
}
SENSELESS = {
    ("f32", 2, "ties float32"),
    ("f32", 3, "ties float32"),
    *((kind, 3, "average alpha") for kind in KINDS),
}
CASES = [case for case in itertools.product(KINDS, (2, 3), OPTIONS) if case not in SENSELESS]


def entries(random: np.random.RandomState, shape: tuple[int, ...], last: int) -> list[np.ndarray]:
    """Base and three parents in float64, all whole multiples of 2^-24: many equal magnitudes, sums that
    are 0, entries that nobody changed. last: added to all, far below what float32 holds."""
    base = random.randint(-(2**20), 2**20, shape) * 2.0**-22
    coarse = random.randint(-64, 65, (3, *shape)) ** 3 * 2.0**-24
    fine = random.randint(-(2**16), 2**16, (3, *shape)) * 2.0**-24
    steps = np.where(random.randint(0, 2, shape), coarse, fine)
    kind = random.randint(0, 12, shape)
    steps[1] = np.where(kind < 2, -steps[0], steps[1])
    steps[:, kind == 3] = 0
    return [x + last * 2.0**-44 for x in (base, *(base + step for step in steps))]


def make(kind: str, n: int, root: Path) -> dict[str, Path]:
    """{base and n parents: folder}; embeddings are tied, one tensor holds whole numbers."""
    random = np.random.RandomState(n)
    models: dict[str, dict[str, np.ndarray]] = {label: {} for label in ("base", *PARENTS[:n])}
    for i, (name, shape) in enumerate(SHAPES.items()):
        types = KINDS[kind][i % len(KINDS[kind])]
        made = entries(random, shape, int(F8 in types))
        for label, x, dtype in zip(models, made, types, strict=False):
            models[label][name] = x.astype(dtype)
    for tensors in models.values():
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["positions"] = np.arange(5)
    config = {"tie_word_embeddings": True}
    return {label: save_folder(root / label, x, config=config) for label, x in models.items()}


def given(options: dict[str, Any], parents: dict[str, Path]) -> dict[str, Any]:
    """The options for these parents."""
    each = {name: x for name, x in options.items() if isinstance(x, dict)}
    return options | {name: {p: x[p] for p in x if p in parents} for name, x in each.items()}


def hashes(merge: Callable[..., Any], **options: Any) -> Iterator[tuple[str, str]]:
    """(case, SHA-256 of its weights) of every merge, with `merge` = `merge_checkpoints`."""
    with tempfile.TemporaryDirectory() as root:
        for kind, n in dict.fromkeys(case[:2] for case in CASES):
            folders = make(kind, n, Path(root) / f"{kind} {n}")
            base = folders.pop("base")
            for name in (case[2] for case in CASES if case[:2] == (kind, n)):
                out = Path(root) / "out"
                merge(name.split()[0], base, folders, out, **given(OPTIONS[name], folders), **options)
                file = out / "model.safetensors"
                yield f"{kind}, {n} parents: {name}", hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    """Store the hashes of the tree that is imported."""
    top = argparse.ArgumentParser(description="Store the hashes of every merge.")
    top.add_argument("--commit", required=True, help="of the tree that is imported")
    top.add_argument("--module", default="lrnb.merging.whole_models", help="that has merge_checkpoints")
    given = top.parse_args()
    found = dict(hashes(importlib.import_module(given.module).merge_checkpoints))
    STORED.write_text(json.dumps({"commit": given.commit, "sha256": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
