"""Merging as plain functions on tensors: task vectors, average, task arithmetic, TIES.

Sources: TIES, Yadav et al. 2023, arXiv 2306.01708; task arithmetic, Ilharco et al. 2023, arXiv
2212.04089. Where the papers leave room, the docstrings here and in `lrnb/election.py` say what was
chosen. TIES-SV is in `lrnb/ties_sv.py`. Folders are merged by `lrnb/driver.py`, through the same
plans; its `merge_state` and `merge_checkpoints` are also names of this module.

All arithmetic is float32, in the order of the parents, and the result is rounded once. Where a tensor is
stored in float64, its task vector, its average and the last addition are taken in float64.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lrnb.device import DeviceVectors, on_gpu
from lrnb.election import PerParent, Rules, Slack, elect, per_parent, rules
from lrnb.params import UserError
from lrnb.rounding import cast
from lrnb.vectors import Span, T, TaskVectors, like_input, working_dtype
from lrnb.workers import Operands, Tally, Worker, run_all

Tensors = Any  # a tensor, or a dict name -> tensor; numpy or torch
DtypeOf = Callable[[str], np.dtype]  # output dtype of a tensor
Merged = tuple[np.ndarray, Tally | None]  # a span in its output dtype, and its counts
MergeSpan = Callable[[Worker, Span, Operands], Merged]
Prepare = Callable[
    [TaskVectors, list[str]], tuple[list[Span], MergeSpan]
]  # settles what a scope's spans share
Scopes = list[tuple[list[str], Prepare]]
Look = Callable[[Worker, Span, Operands], tuple[np.ndarray, T | None]]  # these two are MergeSpan and
Looks = Callable[[TaskVectors, list[str]], tuple[list[Span], Look[T]]]  # Prepare, for any counts
Plan = Callable[[TaskVectors, DtypeOf], Scopes]  # what to do with each scope; made before any reading


def ties_plan(rules: Rules, lam: float = 1.0, trim_scope: str = "model", slack: Slack | None = None) -> Plan:
    """TIES, with `slack` TIES-SV, over all scopes. Options are checked here."""
    factor = per_parent(["lam"], lam, 1.0, "lam", -1e30, 1e30)[0]

    def plan(vectors: TaskVectors, dtype_of: DtypeOf) -> Scopes:
        def prepare(mine: TaskVectors, names: list[str]) -> tuple[list[Span], MergeSpan]:
            scope = elect(mine, names, rules, slack, factor)

            def merge(worker: Worker, span: Span, data: Operands) -> Merged:
                dtype = dtype_of(span.name)
                result, tally = worker.ties(data, scope.at(span), dtype)
                return finish(mine, span, data, result, dtype, tally.bad), tally

            return scope.spans(), merge

        return [(names, prepare) for names in vectors.scopes(trim_scope)]

    return plan


def average_plan(shares: Sequence[float], keep: bool = True) -> Plan:
    """sum of share * parent; with `keep` an entry that is equal in all parents is kept as it is."""

    def plan(vectors: TaskVectors, dtype_of: DtypeOf) -> Scopes:
        def merge(worker: Worker, span: Span, data: Operands) -> Merged:
            dtype = dtype_of(span.name)
            if data.wide:
                return cast(_average_wide(vectors, span, shares, keep), dtype, span.name), None
            result, bad = worker.average(data, np.array(shares, np.float32), keep, dtype)
            if bad:
                vectors.refuse_inputs()
            return cast(result, dtype, span.name, bad), None

        return [(vectors.names, lambda mine, names: (mine.spans(names), merge))]

    return plan


def _average_wide(vectors: TaskVectors, span: Span, shares: Sequence[float], keep: bool) -> np.ndarray:
    arrays = [vectors.parent_span(parent, span) for parent in vectors.parents]
    wide = working_dtype(*(x.dtype for x in arrays))
    arrays = [x.astype(wide, copy=False) for x in arrays]
    total = arrays[0] * wide.type(shares[0])
    for x, share in zip(arrays[1:], shares[1:], strict=True):
        total = total + x * wide.type(share)
    np.copyto(total, arrays[0], where=np.logical_and.reduce([x == arrays[0] for x in arrays]) & keep)
    if not all(np.isfinite(x).all() for x in [*arrays, vectors.base_span(span)]):
        vectors.refuse_inputs()
    return total


def arithmetic_plan(lams: Sequence[float]) -> Plan:
    """base + sum of lam * task vector."""
    factors = np.array(lams, np.float32)

    def plan(vectors: TaskVectors, dtype_of: DtypeOf) -> Scopes:
        def merge(worker: Worker, span: Span, data: Operands) -> Merged:
            dtype = dtype_of(span.name)
            result, bad = worker.arithmetic(data, factors, dtype)
            if bad:
                vectors.refuse_deltas()
            return finish(vectors, span, data, result, dtype, bad), None

        return [(vectors.names, lambda mine, names: (mine.spans(names), merge))]

    return plan


def finish(
    vectors: TaskVectors, span: Span, data: Operands, result: np.ndarray, dtype: np.dtype, bad: int
) -> np.ndarray:
    """A worker's result in `dtype`; where float64 is at play the result was the step alone."""
    if not data.wide:
        return cast(result, dtype, span.name, bad)
    base = vectors.base_span(span)
    total = base.astype(working_dtype(base.dtype), copy=False) + result
    kept = result == 0  # -0.0 + 0.0 would lose its sign
    total[kept] = base[kept]
    return cast(total, dtype, span.name)


def average_shares(
    parents: list[str], alpha: float | None, weights: PerParent, normalize: bool = True
) -> list[float]:
    """Each parent's share. `alpha` is that of the parent named ct, else of the first."""
    if alpha is None:
        numbers = per_parent(parents, weights, 1.0, "weights", 0.0, 1e30)
        if not sum(numbers):
            raise UserError("weights: all are 0. Give at least one parent a weight above 0")
        return [number / sum(numbers) if normalize else number for number in numbers]
    if weights is not None or len(parents) != 2:
        raise UserError(f"alpha is for two parents and no weights; parents are {parents}")
    share = per_parent(["alpha"], alpha, 0.5, "alpha", 0.0, 1.0)[0]
    lead = parents.index("ct") if "ct" in parents else 0
    return [share if i == lead else 1 - share for i in range(2)]


def arithmetic_factors(parents: list[str], lam: PerParent, normalize: bool = False) -> list[float]:
    """Each task vector's factor; `normalize` divides them by their sum."""
    lams = per_parent(parents, lam, 1.0, "lam", -1e30, 1e30)
    if normalize and not sum(lams):
        raise UserError("lam: the factors add up to 0, so they cannot be normalized")
    return [lam / sum(lams) for lam in lams] if normalize else lams


def task_vector(base: Tensors, parent: Tensors) -> Tensors:
    """parent - base in float32, shape of the base; a tensor or a dict of its float tensors."""
    if not isinstance(base, Mapping):
        return task_vector({"tensor": base}, {"tensor": parent})["tensor"]
    vectors = TaskVectors(base, {"parent": parent}, method="task_vector")

    def merge(worker: Worker, span: Span, data: Operands) -> Merged:
        return vectors.delta("parent", span), None

    scopes: Scopes = [(vectors.names, lambda mine, names: (mine.spans(names), merge))]
    found = collect(vectors, scopes, lambda name: np.dtype(np.float32))
    if not all(np.isfinite(x).all() for x in found.values()):
        vectors.refuse_deltas()
    return {
        name: like_input(found[vectors.stored(name)], x)
        for name, x in base.items()
        if vectors.stored(name) in found
    }


def ties(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    density: PerParent,
    weights: PerParent = None,
    lam: float = 1.0,
    zero_sign: str = "majority",
    at_threshold: str = "keep-all",
    normalize: bool = True,
) -> Tensors:
    """TIES: trim each task vector to `density`, elect a sign per entry, average those agreeing.

    `base` is a tensor or a dict of tensors; a dict is one scope, with one threshold over all of it
    (call per tensor for thresholds per tensor). `parents` is {name: same kind as base} or a list.
    `density` and `weights` are numbers, or one per parent. With normalize=False the agreeing entries
    are added instead of averaged. Returns base's kind, shapes and dtypes. UserError where tensors do
    not match or an option is out of range.
    """

    def plan(parents: list[str]) -> Plan:
        return ties_plan(rules(parents, density, weights, zero_sign, at_threshold, normalize), lam)

    return run_on_tensors("ties", base, parents, plan)


def average(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    alpha: float | None = None,
    weights: PerParent = None,
    normalize: bool = True,
) -> Tensors:
    """Weighted average: alpha * CT + (1 - alpha) * SFT, or sum(w_i * parent_i) / sum(w_i).

    `base` gives the dtypes and is checked against; its values do not enter. normalize=False leaves
    the division out. Arguments and errors as in `ties`.
    """

    def plan(parents: list[str]) -> Plan:
        return average_plan(average_shares(parents, alpha, weights, normalize), keep=normalize)

    return run_on_tensors("average", base, parents, plan)


def task_arithmetic(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    lam: PerParent = 1.0,
    normalize: bool = False,
) -> Tensors:
    """base + sum of lam_i * task vector_i; `lam` is a number or one per parent, divided by their sum
    with `normalize`. Else as `ties`."""
    return run_on_tensors(
        "task_arithmetic",
        base,
        parents,
        lambda names: arithmetic_plan(arithmetic_factors(names, lam, normalize)),
    )


def run(
    vectors: TaskVectors,
    scopes: Sequence[tuple[list[str], Looks[T]]],
    put: Callable[[Span, np.ndarray], None],
) -> list[tuple[Span, T]]:
    """Merge all scopes; `put` gets every span's result, on any thread. Returns the counts, in order.

    One scope is shared by all workers; of several, the largest first, each worker takes whole ones.
    """
    if len(scopes) < 2 or len(vectors.workers) < 2:
        return [counted for scope in scopes for counted in _run_scope(vectors, *scope, put)]
    order = sorted(range(len(scopes)), key=lambda i: -vectors.size(scopes[i][0]))
    found = run_all(
        vectors.workers, order, lambda worker, i: _run_scope(vectors.alone(worker), *scopes[i], put)
    )
    each = dict(zip(order, found, strict=True))
    return [counted for i in range(len(scopes)) for counted in each[i]]


def _run_scope(
    vectors: TaskVectors, names: list[str], prepare: Looks[T], put: Callable[[Span, np.ndarray], None]
) -> list[tuple[Span, T]]:
    spans, merge = prepare(vectors, names)

    def one(worker: Worker, span: Span, data: Operands) -> T | None:
        result, tally = merge(worker, span, data)
        put(span, result)
        return tally

    counts = vectors.run(spans, one)
    return [(span, tally) for span, tally in zip(spans, counts, strict=True) if tally is not None]


def collect(vectors: TaskVectors, scopes: Scopes, dtype_of: DtypeOf) -> dict[str, np.ndarray]:
    """The merged float tensors in memory."""
    found = {name: vectors.empty(name, dtype_of(name)) for name in vectors.names}

    def put(span: Span, result: np.ndarray) -> None:
        found[span.name].reshape(-1)[span.start : span.stop] = result

    run(vectors, scopes, put)
    return found


def run_on_tensors(
    method: str,
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    plan: Callable[[list[str]], Plan],
) -> Tensors:
    """Apply a merge to a tensor or a dict of tensors; the result has base's kind and dtypes."""
    if not isinstance(parents, Mapping):
        parents = {f"parent {i + 1}": parent for i, parent in enumerate(parents)}
    if not isinstance(base, Mapping):
        alone = {label: {"tensor": parent} for label, parent in parents.items()}
        return run_on_tensors(method, {"tensor": base}, alone, plan)["tensor"]
    make = DeviceVectors if on_gpu([base, *parents.values()]) else TaskVectors
    vectors = make(base, parents, method=method)

    def dtype_of(name: str) -> np.dtype:
        return vectors.base[name].dtype

    merged = collect(vectors, plan(vectors.parents)(vectors, dtype_of), dtype_of)
    merged |= {name: vectors.base[name].copy() for name in vectors.others}
    results = {name: like_input(array, base[name]) for name, array in merged.items()}
    return {name: results[vectors.stored(name)] for name in base}


def __getattr__(name: str) -> Any:
    """`merge_state`, `merge_checkpoints`: they need ties_sv, which needs this module."""
    if name in ("merge_state", "merge_checkpoints"):
        return getattr(importlib.import_module("lrnb.driver"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
