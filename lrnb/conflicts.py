"""What trimming and election keep, drop and win back, tensor by tensor, counted exactly.

The counts come from the same election that merging uses, so they equal a merge's report. What other
settings would count is estimated from the atlas (`lrnb/atlas.py`, `lrnb/whatif.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lrnb.election import PerParent, Rules, Scope, cuts, elect, quotas, rules
from lrnb.histograms import Histograms
from lrnb.merge import Look, Looks, run
from lrnb.params import UserError
from lrnb.select import Bracket
from lrnb.ties_sv import ShareSlack, ThresholdSlack, slack_rule
from lrnb.vectors import Model, Span, TaskVectors
from lrnb.workers import Account, Cpu, Operands, Worker

MODEL = "(model)"
PLACE = ["tensor", "layer", "module", "n"]
COUNTS = [
    "ct_kept", "sft_kept", "ct_discarded", "sft_discarded", "overlap", "conflicts", "reserved",
]  # fmt: skip
MASSES = [
    "ct_kept_mass", "sft_kept_mass", "ct_discarded_mass", "sft_discarded_mass", "ct_overlap_mass",
    "sft_overlap_mass", "ct_conflict_mass", "sft_conflict_mass", "ceded_mass", "reserved_mass",
]  # fmt: skip
SHARES = {  # share: (of what, in what)
    "ct_discarded_share": ("ct_discarded", "ct_kept"),
    "sft_discarded_share": ("sft_discarded", "sft_kept"),
    "conflict_share": ("conflicts", "sft_kept"),
}
NOTHING = np.empty(0, np.float32)


def shares(
    base: TaskVectors | Model,
    ct: Model | None = None,
    sft: Model | None = None,
    *,
    density: PerParent,
    slack: float | None = None,
    slack_threshold: float | None = None,
    trim_scope: str = "model",
    weights: PerParent = None,
    zero_sign: str = "majority",
    at_threshold: str = "keep-all",
) -> pd.DataFrame:
    """One row a tensor and one row "(model)"; counts are entries, masses sums of |task vector|.

    `base`, `ct`, `sft` are folders or dicts of arrays, or `base` alone a `TaskVectors` of ct and
    sft, opened once for many calls. Columns: tensor, layer (-1 outside layers), module, n; kept;
    discarded (by the election of plain TIES, before slack); overlap (kept by both); conflicts (signs
    differ); reserved (the part of sft_discarded that slack wins back); the masses of these, at overlap and
    conflicts of both parents; ceded_mass (CT's at the reserved entries: what slack costs CT); xi (the
    margin up to which slack wins back, NaN without slack; of the tensor's scope); SHARES in [0, 1].
    """
    vectors = open_vectors(base, ct, sft)
    checked = rules(vectors.parents, density, weights, zero_sign, at_threshold)
    table = accounts(vectors, checked, slack_of(slack, slack_threshold), trim_scope)
    return with_shares(with_model(table))


def open_vectors(base: TaskVectors | Model, ct: Model | None, sft: Model | None) -> TaskVectors:
    """Both parents over their base. UserError where one is missing or they do not match."""
    if isinstance(base, TaskVectors):
        if base.parents != ["ct", "sft"]:
            raise UserError(f"conflicts: the parents must be ct and sft, got {base.parents}")
        if not all(isinstance(worker, Cpu) for worker in base.workers):
            raise UserError("conflicts: they are counted on the CPU. Give tensors in main memory, or folders")
        return base
    if ct is None or sft is None:
        raise UserError("conflicts: give ct and sft beside the base")
    return TaskVectors(base, {"ct": ct, "sft": sft}, method="conflicts")


def slack_of(slack: float | None, slack_threshold: float | None) -> ShareSlack | ThresholdSlack:
    """The slack that is given, none where neither is. UserError where both are, or out of range."""
    given = 0.0 if slack is None and slack_threshold is None else slack
    return slack_rule(["ct", "sft"], given, slack_threshold)


def accounts(
    vectors: TaskVectors,
    rules: Rules,
    rule: ShareSlack | ThresholdSlack,
    trim_scope: str,
    known: Histograms | None = None,
) -> pd.DataFrame:
    """The rows of all tensors: PLACE, COUNTS, MASSES, xi and `zero`, the sign that exact ties took.

    known: histograms of these vectors; they spare most of the search for the thresholds.
    """
    own, scopes = vectors.parents.index("sft"), {}

    def prepare(mine: TaskVectors, names: list[str]) -> tuple[list[Span], Look[Account]]:
        if known:
            cuts(mine, names, rules, _brackets(mine, names, rules, known))
        scope = elect(mine, names, rules, rule)
        scope = replace(scope, ballot=replace(scope.ballot, own=own))
        scopes.update(dict.fromkeys(names, scope))

        def look(worker: Worker, span: Span, data: Operands) -> tuple[np.ndarray, Account]:
            assert isinstance(worker, Cpu)
            return NOTHING, worker.account(data, scope.at(span))

        return scope.spans(), look

    plan: list[tuple[list[str], Looks[Account]]] = [(names, prepare) for names in vectors.scopes(trim_scope)]
    sums: dict[str, list[Account]] = {name: [] for name in vectors.names}
    for span, found in run(vectors, plan, lambda span, result: None):
        sums[span.name].append(found)
    no_slack = isinstance(rule, ShareSlack) and not rule.slack
    rows = [_row(name, vectors, sums[name], scopes[name], no_slack) for name in vectors.names]
    return pd.DataFrame(rows, columns=[*PLACE, *COUNTS, *MASSES, "xi", "zero"])


def _brackets(vectors: TaskVectors, names: list[str], rules: Rules, known: Histograms) -> list[Bracket]:
    """What is known of a scope's thresholds: one tensor's, or the whole model's."""
    ks = [max(k, 1) for k in quotas(rules, vectors.size(names))]
    if names == vectors.names:
        return known.whole.brackets(0, ks)
    return known.brackets(vectors.names.index(names[0]), ks)


def _row(
    name: str, vectors: TaskVectors, found: list[Account], scope: Scope, no_slack: bool
) -> dict[str, Any]:
    counts = sum((a.counts for a in found), np.zeros(len(COUNTS), np.int64))
    masses = sum((a.masses.reshape(-1) for a in found), np.zeros(len(MASSES)))
    return {
        **place(name, vectors.base[name].size),
        **dict(zip(COUNTS, counts.tolist(), strict=True)),
        **dict(zip(MASSES, masses.tolist(), strict=True)),
        "xi": float("nan") if no_slack else float(scope.ballot.xi),
        "zero": int(scope.ballot.zero),
    }


def place(name: str, n: int) -> dict[str, Any]:
    """Where a tensor stands in the network: PLACE."""
    return {"tensor": name, "layer": layer_of(name), "module": module_of(name), "n": n}


def with_model(table: pd.DataFrame) -> pd.DataFrame:
    """The table and a last row "(model)" with its sums; xi where all rows have the same."""
    whole = place(MODEL, int(table["n"].sum())) | table[[*COUNTS, *MASSES]].sum().to_dict()
    same = table["xi"].nunique(dropna=False) == 1
    whole["xi"] = table["xi"].iloc[0] if same and len(table) else float("nan")
    kept = [column for column in table if column in whole]
    return pd.concat([table[kept], pd.DataFrame([whole])[kept]], ignore_index=True)


def with_shares(table: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """Adds SHARES; 0 where there is nothing to take a share of."""
    found = {
        prefix + name: table[prefix + part] / table[prefix + of].where(table[prefix + of] > 0, 1)
        for name, (part, of) in SHARES.items()
    }
    return table.assign(**found)


def sums(table: pd.DataFrame) -> Mapping[str, float]:
    """COUNTS and MASSES of any rows of a table, added up, with SHARES."""
    row = with_shares(table[["n", *COUNTS, *MASSES]].sum().to_frame().T)
    return row.iloc[0].to_dict()


def layer_of(name: str) -> int:
    """Number of the layer a tensor belongs to, -1 for none."""
    found = re.search(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.", name)
    return int(found[1]) if found else -1


def module_of(name: str) -> str:
    """q, k, v, o, gate, up, down, embed, lm_head, norm, other, or (model) for the model's row."""
    if name == MODEL:
        return MODEL
    if "embed" in name or name.endswith("wte.weight"):
        return "embed"
    if "lm_head" in name:
        return "lm_head"
    if "norm" in name or re.search(r"\.ln_\w+\.", name):
        return "norm"
    found = re.search(r"\.(q|k|v|o|gate|up|down)_proj\.", name)
    return found[1] if found else "other"
