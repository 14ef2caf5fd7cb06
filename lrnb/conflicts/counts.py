"""What trimming and election keep, drop and win back, tensor by tensor, counted exactly.

The counts come from the same election that merging uses, so they equal a merge's report. What other
settings would count is estimated from the atlas (`lrnb/conflicts/atlas.py`, `lrnb/conflicts/what_ifs.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb.conflicts import kernels as loops
from lrnb.conflicts.magnitudes import Magnitudes
from lrnb.errors import UserError
from lrnb.merging import formulas
from lrnb.merging.cpu import Ballot, Cpu, Operands, Worker
from lrnb.merging.election import Scope, cuts, quotas, settle_election
from lrnb.merging.engine import run
from lrnb.merging.layers import layer_of
from lrnb.merging.methods.ties_sv import TiesSV
from lrnb.merging.registry import PerParent, settle
from lrnb.merging.task_vectors import Model, Span, TaskVectors
from lrnb.merging.thresholds import Bracket

MODEL = "(model)"
PLACE = ["tensor", "layer", "module", "n"]


class Account(NamedTuple):
    """An election counted: (2 P + SHARED,) entries and (P, MASSES) sums of |task vector|; see `kernels`."""

    counts: np.ndarray
    masses: np.ndarray


def count_columns(parents: Sequence[str]) -> list[str]:
    """The counts of entries in a table, in the order of `Account.counts`."""
    return [*_each(parents, "kept"), *_each(parents, "discarded"), "overlap", "conflicts", "reserved"]


def mass_columns(parents: Sequence[str]) -> list[str]:
    """The sums of |task vector| in a table."""
    names = ("kept_mass", "discarded_mass", "overlap_mass", "conflict_mass")
    return [*(column for name in names for column in _each(parents, name)), "ceded_mass", "reserved_mass"]


def _each(parents: Sequence[str], name: str) -> list[str]:
    return [f"{parent}_{name}" for parent in parents]


def columns(parents: Sequence[str], own: int, found: Account) -> dict[str, np.ndarray]:
    """Counts and masses by name; arrays of `found` may have more axes in front. own: whom slack is for."""
    masses = np.moveaxis(found.masses, -1, 0)  # (MASSES, ..., P)
    won, given_up = masses[4][..., own], np.delete(masses[4], own, axis=-1).sum(axis=-1)
    each = [mass[..., p] for mass in masses[:4] for p in range(len(parents))]
    counted = np.moveaxis(found.counts, -1, 0)
    names = [*count_columns(parents), *mass_columns(parents)]
    return dict(zip(names, [*counted, *each, given_up, won], strict=True))


def shares(
    base: TaskVectors | Model,
    parents: Mapping[str, Model] | None = None,
    *,
    density: PerParent,
    slack: float | None = None,
    slack_threshold: float | None = None,
    protect: str = "sft",
    trim_scope: str = "model",
    weights: PerParent = None,
    zero_sign: str = "majority",
    at_threshold: str = "keep-all",
    equalise: str = "none",
    reserve_by: str = "margin",
    **scores: Any,
) -> pd.DataFrame:
    """One row a tensor and one row "(model)"; counts are entries, masses sums of |task vector|.

    `base` and each of `parents` are folders or dicts of arrays, or `base` alone a `TaskVectors`, opened once
    for many calls. Options as of `methods.ties_sv`; protect: the parent that slack wins entries back for;
    scores: seed and importance, for the `reserve_by` that needs them.
    Columns: tensor, layer (-1 outside layers), module, n; of each parent kept and discarded (by the election
    of plain TIES, before slack); overlap (kept by all); conflicts (some signs differ); reserved (those of
    `protect` discarded that slack wins back); the masses of these, at overlap and conflicts of each parent;
    ceded_mass (what the others give up at the reserved entries); xi (the margin up to which slack wins back,
    NaN without slack and by another rule; of the tensor's scope); and shares in [0, 1], see `with_shares`.
    """
    vectors = open_parents(base, parents)
    options = setting(
        vectors.parents, density=density, slack=slack, slack_threshold=slack_threshold, protect=protect,
        trim_scope=trim_scope, weights=weights, zero_sign=zero_sign, at_threshold=at_threshold,
        equalise=equalise, reserve_by=reserve_by, **scores,
    )  # fmt: skip
    return with_shares(with_model(accounts(vectors, options)), protect)


def open_parents(base: TaskVectors | Model, parents: Mapping[str, Model] | None = None) -> TaskVectors:
    """All parents over their base. UserError where one is missing or they do not match."""
    if not isinstance(base, TaskVectors):
        base = TaskVectors(base, parents or {}, method="conflicts")
    if len(base.parents) < 2:
        raise UserError(f"conflicts: they are between parents, so give two or more; got {base.parents}")
    if not all(isinstance(worker, Cpu) for worker in base.workers):
        raise UserError("conflicts: they are counted on the CPU. Give tensors in main memory, or folders")
    return base


def setting(parents: Sequence[str], *, spell: Callable[[str], str] = str, **given: Any) -> TiesSV:
    """The options of an election, checked as those of TIES-SV are, without slack where none is given."""
    if given.get("slack") is None and given.get("slack_threshold") is None:
        given["slack"] = 0.0
    return settle(TiesSV, parents, given, who="conflicts", spell=spell)


def accounts(vectors: TaskVectors, options: TiesSV, known: Magnitudes | None = None) -> pd.DataFrame:
    """The rows of all tensors: PLACE, counts, masses, xi and `zero`, the sign that exact ties took.

    known: the magnitudes of these vectors; they spare most of the search for the thresholds.
    """
    scopes: dict[str, Scope] = {}
    rule = options.rule(vectors)

    def prepare(mine: TaskVectors, names: list[str]) -> Scope:
        if known:
            cuts(mine, names, options, _brackets(mine, names, options, known))
        scope = settle_election(mine, names, options, rule)
        scope = replace(scope, ballot=replace(scope.ballot, own=rule.own))
        scopes.update(dict.fromkeys(names, scope))
        return scope

    def count(scope: Scope, worker: Worker, span: Span, data: Operands) -> Account:
        ballot = scope.at(span)
        found = account_of(data, ballot)
        if scope.choice is None:
            return found
        return _with_chosen(found, worker, data, ballot, scope.choice.won(worker, span, data, ballot))

    sums: dict[str, list[Account]] = {name: [] for name in vectors.names}
    for span, found in run(vectors, vectors.scopes(options.trim_scope), prepare, count):
        sums[span.name].append(found)
    no_margin = options.slack == 0 or options.reserve_by != "margin"
    rows = [_row(name, vectors, sums[name], scopes[name], no_margin) for name in vectors.names]
    names = [*PLACE, *count_columns(vectors.parents), *mass_columns(vectors.parents), "xi", "zero"]
    return pd.DataFrame(rows, columns=names)


def account_of(data: Operands, ballot: Ballot) -> Account:
    """What one election keeps, drops and wins back over a span; needs `ballot.own`."""
    p, b = len(data.parents), ballot
    counts, lanes = np.zeros(2 * p + loops.SHARED), np.zeros((p, loops.MASSES * loops.LANES))
    sign, marks = np.empty(loops.BLOCK, np.float32), np.empty(loops.BLOCK, np.uint32)
    loops.account(
        data.base, data.parents, 0, len(data.base), b.thresholds, b.weights, b.zero, b.own, b.xi, b.by_sum,
        1.0, sign, marks, counts, lanes,
    )  # fmt: skip
    return Account(counts, masses_of(lanes))


def _with_chosen(found: Account, worker: Worker, data: Operands, ballot: Ballot, at: np.ndarray) -> Account:
    """An account without slack, and the entries `at` won back: their number, and the masses on both sides."""
    deltas = [worker.deltas_at(data, parent, at) for parent in range(len(data.parents))]
    taus = formulas.trim_all(deltas, ballot.thresholds)
    counts, masses = found.counts.copy(), found.masses.copy()
    counts[2 * len(taus) + loops.RESERVED] += len(at)
    for parent, tau in enumerate(taus):
        counted = tau * taus[ballot.own] < 0 if parent != ballot.own else tau != 0
        masses[parent, loops.MASSES - 1] += abs(tau[counted]).sum(dtype=np.float64)
    return Account(counts, masses)


def masses_of(lanes: np.ndarray) -> np.ndarray:
    """(..., P, MASSES) from sums that were kept beside each other."""
    return lanes.reshape(*lanes.shape[:-1], loops.MASSES, loops.LANES).sum(axis=-1)


def _brackets(vectors: TaskVectors, names: list[str], options: TiesSV, known: Magnitudes) -> list[Bracket]:
    """What is known of a scope's thresholds: one tensor's, or the whole model's."""
    ks = [max(k, 1) for k in quotas(options, vectors.size(names))]
    if names == vectors.names:
        return known.whole.brackets(0, ks)
    return known.brackets(vectors.names.index(names[0]), ks)


def _row(
    name: str, vectors: TaskVectors, found: list[Account], scope: Scope, no_margin: bool
) -> dict[str, Any]:
    p = len(vectors.parents)
    counts = sum((a.counts for a in found), np.zeros(2 * p + loops.SHARED)).astype(np.int64)
    masses = sum((a.masses for a in found), np.zeros((p, loops.MASSES)))
    counted = columns(vectors.parents, scope.ballot.own, Account(counts, masses))
    return {
        **place(name, vectors.base[name].size),
        **{column: x.item() for column, x in counted.items()},
        "xi": float("nan") if no_margin else float(scope.ballot.xi),
        "zero": int(scope.ballot.zero),
    }


def place(name: str, n: int) -> dict[str, Any]:
    """Where a tensor stands in the network: PLACE."""
    return {"tensor": name, "layer": layer_of(name), "module": module_of(name), "n": n}


def with_model(table: pd.DataFrame) -> pd.DataFrame:
    """The table and a last row "(model)" with its sums; xi where all rows have the same."""
    whole = place(MODEL, int(table["n"].sum()))
    same = table["xi"].nunique(dropna=False) == 1
    whole["xi"] = table["xi"].iloc[0] if same and len(table) else float("nan")
    whole |= {column: float(table[column].to_numpy().sum()) for column in _summed(table)}
    columns = [column for column in table if column in whole]
    return pd.DataFrame({column: np.append(table[column], whole[column]) for column in columns})


def parents_of(table: Iterable[str]) -> list[str]:
    """The parents that a table counts, or a row of it, by the names of its columns."""
    return [column.removesuffix("_kept") for column in table if column.endswith("_kept")]


def _summed(table: pd.DataFrame) -> list[str]:
    parents = parents_of(table)
    return [*count_columns(parents), *mass_columns(parents)]


def with_shares(table: pd.DataFrame, protect: str = "sft") -> pd.DataFrame:
    """Adds a parent's discarded share (`ct_discarded_share`), of its kept entries, and conflict_share, of
    those of `protect`; 0 where there is nothing to take a share of."""
    shares = {f"{parent}_discarded_share": (f"{parent}_discarded", parent) for parent in parents_of(table)}
    shares |= {"conflict_share": ("conflicts", protect)}
    kept = {parent: table[f"{parent}_kept"] for parent in parents_of(table)}
    some = {parent: n.where(n > 0, 1) for parent, n in kept.items()}
    return table.assign(**{name: table[part] / some[of] for name, (part, of) in shares.items()})


def sums(table: pd.DataFrame, protect: str = "sft") -> Mapping[str, float]:
    """n, counts and masses of any rows of a table, added up, with shares."""
    row = with_shares(table[["n", *_summed(table)]].sum().to_frame().T, protect)
    return row.iloc[0].to_dict()


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
