"""What trimming and election keep, drop and win back, tensor by tensor.

The counts come from the same election that merging uses, so they equal a merge's report.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from lrnb.election import PerParent, rules, total
from lrnb.merge import run, ties_plan
from lrnb.params import UserError
from lrnb.ties_sv import slack_rule
from lrnb.vectors import Model, TaskVectors, square
from lrnb.workers import Tally

MODEL, FLOAT32 = "(model)", np.dtype(np.float32)
COLUMNS = [
    "tensor", "layer", "module", "n", "ct_l2", "sft_l2", "cosine", "ct_kept", "sft_kept", "overlap",
    "conflicts", "ct_discarded", "sft_discarded", "reserved",
]  # fmt: skip


def shares(
    base: TaskVectors | Model,
    ct: Model | None = None,
    sft: Model | None = None,
    *,
    density: PerParent,
    slack: float = 0.0,
    slack_threshold: float | None = None,
    trim_scope: str = "model",
    weights: PerParent = None,
    zero_sign: str = "majority",
    at_threshold: str = "keep-all",
) -> pd.DataFrame:
    """One row a tensor and one row "(model)"; counts are entries.

    `base`, `ct`, `sft` are folders or dicts of arrays, or `base` alone a `TaskVectors` of ct and
    sft, opened once for many calls. Columns: tensor, layer (-1 outside layers), module, n, ct_l2,
    sft_l2 (length of the untrimmed task vectors), cosine (of these; NaN where one is zero), kept,
    overlap (kept by both), conflicts (signs differ), discarded (lost the final election, so after
    slack), reserved (won back by slack). Without slack, discarded is what plain TIES discards.
    """
    vectors = _open(base, ct, sft)
    checked = rules(vectors.parents, density, weights, zero_sign, at_threshold)
    given = slack if slack_threshold is None else None
    rule = slack_rule(vectors.parents, given, slack_threshold)
    tallies: dict[str, list[Tally]] = {name: [] for name in vectors.names}
    scopes = ties_plan(checked, trim_scope=trim_scope, slack=rule)(vectors, lambda name: FLOAT32)
    for span, tally in run(vectors, scopes, lambda span, result: None):
        tallies[span.name].append(tally)
    totals = {name: total(found, 2) for name, found in tallies.items()}
    products = {name: _products(vectors, name) for name in tallies}
    rows = [_row(name, vectors.base[name].size, totals[name], products[name]) for name in tallies]
    whole = total(list(totals.values()), 2), sum(products.values(), np.zeros(3))
    return pd.DataFrame([*rows, _row(MODEL, vectors.size(vectors.names), *whole)], columns=COLUMNS)


def _open(base: TaskVectors | Model, ct: Model | None, sft: Model | None) -> TaskVectors:
    if isinstance(base, TaskVectors):
        if base.parents != ["ct", "sft"]:
            raise UserError(f"conflicts: the parents must be ct and sft, got {base.parents}")
        return base
    if ct is None or sft is None:
        raise UserError("conflicts: give ct and sft beside the base")
    return TaskVectors(base, {"ct": ct, "sft": sft}, method="conflicts")


def _products(vectors: TaskVectors, name: str) -> np.ndarray:
    """(ct . ct, sft . sft, ct . sft) of the untrimmed task vectors, float64."""
    sums = np.zeros(3)
    for piece in vectors.spans([name]):
        ct, sft = vectors.delta("ct", piece), vectors.delta("sft", piece)
        across = float(ct.astype(np.float64) @ sft.astype(np.float64))
        sums += np.array([square(ct), square(sft), across])
    return sums


def _row(name: str, n: int, tally: Tally, products: np.ndarray) -> dict[str, Any]:
    ct, sft = np.sqrt(products[:2])
    return {
        "tensor": name,
        "layer": layer_of(name),
        "module": module_of(name),
        "n": n,
        "ct_l2": ct,
        "sft_l2": sft,
        "cosine": products[2] / (ct * sft) if ct * sft else float("nan"),
        "ct_kept": tally.kept[0],
        "sft_kept": tally.kept[1],
        "overlap": tally.overlap,
        "conflicts": tally.conflicts,
        "ct_discarded": tally.lost[0],
        "sft_discarded": tally.lost[1],
        "reserved": tally.reserved,
    }


def layer_of(name: str) -> int:
    """Number of the layer a tensor belongs to, -1 for none."""
    found = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
    return int(found[1]) if found else -1


def module_of(name: str) -> str:
    """q, k, v, o, gate, up, down, embed, lm_head, norm, other, or (model) for the model's row."""
    if name == MODEL:
        return MODEL
    if "embed" in name or name.endswith("wte.weight"):
        return "embed"
    if "lm_head" in name:
        return "lm_head"
    if "norm" in name:
        return "norm"
    found = re.search(r"\.(q|k|v|o|gate|up|down)_proj\.", name)
    return found[1] if found else "other"
