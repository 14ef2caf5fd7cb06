"""Running a merge method: on every scope of task vectors, span by span, on all workers.

A method settles each scope (`registry.Prepare`) and merges its spans (`registry.Settled`). Folders are merged
by `whole_models.py`, tensors by the functions in `methods/`, both through `merge`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from lrnb.errors import UserError
from lrnb.merging.cpu import Operands, Tally, Worker, run_all
from lrnb.merging.gpu import DeviceVectors, on_gpu
from lrnb.merging.kept_rows import kept_rows
from lrnb.merging.registry import Method, Options, Settled, refuse_unfit
from lrnb.merging.task_vectors import Span, T, TaskVectors, like_input

Tensors = Any  # a tensor, or a dict name -> tensor; numpy or torch
Put = Callable[[str, int, np.ndarray], None]  # takes values of a tensor from an entry on, on any thread


class HasSpans(Protocol):
    def spans(self) -> list[Span]: ...


S = TypeVar("S", bound=HasSpans)


def merge(
    method: Method,
    options: Options | Mapping[str, Options],
    vectors: TaskVectors,
    dtypes: Mapping[str, np.dtype],
    put: Put,
) -> list[Tally]:
    """Merge all scopes; `put` gets every entry of the result once. Returns what was counted, in order.

    options: as `Method.settle` made them for these vectors' parents, or {tensor: its own}, each tensor then a
    scope by itself. UserError where they do not go with the tensors' names.
    """
    for each in [options] if isinstance(options, Options) else options.values():
        refuse_unfit(method.name, each, vectors.names)

    def of(names: list[str]) -> Options:
        return options if isinstance(options, Options) else options[names[0]]

    def one(settled: Settled, worker: Worker, span: Span, data: Operands) -> Tally | None:
        result, tally = settled.merge(worker, span, data, dtypes[span.name])
        for start, part in vectors.placed(span, result):
            put(span.name, start, part)
        return tally

    for name, start, rows in kept_rows(vectors, dtypes):
        put(name, start, rows)
    scopes = vectors.scopes(options.scope() if isinstance(options, Options) else "tensor")
    found = run(vectors, scopes, lambda mine, names: method.prepare(mine, names, of(names)), one)
    return [tally for _, tally in found if tally is not None]


def run(
    vectors: TaskVectors,
    scopes: Sequence[list[str]],
    prepare: Callable[[TaskVectors, list[str]], S],
    one: Callable[[S, Worker, Span, Operands], T],
) -> list[tuple[Span, T]]:
    """`prepare` every scope of tensors, then look at each of its spans; (span, result) in order.

    One scope is shared by all workers; of several, the largest first, each worker takes whole ones.
    """
    if len(scopes) < 2 or len(vectors.workers) < 2:
        return [found for names in scopes for found in _run_scope(vectors, names, prepare, one)]
    order = sorted(range(len(scopes)), key=lambda i: -vectors.size(scopes[i]))
    done = run_all(
        vectors.workers, order, lambda worker, i: _run_scope(vectors.alone(worker), scopes[i], prepare, one)
    )
    each = dict(zip(order, done, strict=True))
    return [found for i in range(len(scopes)) for found in each[i]]


def _run_scope(
    vectors: TaskVectors,
    names: list[str],
    prepare: Callable[[TaskVectors, list[str]], S],
    one: Callable[[S, Worker, Span, Operands], T],
) -> list[tuple[Span, T]]:
    settled = prepare(vectors, names)
    spans = settled.spans()
    found = vectors.run(spans, lambda worker, span, data: one(settled, worker, span, data))
    return list(zip(spans, found, strict=True))


def collect(
    method: Method, options: Options, vectors: TaskVectors, dtypes: Mapping[str, np.dtype]
) -> dict[str, np.ndarray]:
    """The merged float tensors in memory."""
    found = {name: vectors.empty(name, dtypes[name]) for name in vectors.names}

    def put(name: str, start: int, values: np.ndarray) -> None:
        found[name].reshape(-1)[start : start + len(values)] = values

    merge(method, options, vectors, dtypes, put)
    return found


def merge_tensors(
    method: Method,
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    options: Mapping[str, Any],
) -> Tensors:
    """Merge a tensor or a dict of tensors; the result has base's kind, shapes and dtypes."""
    if not isinstance(parents, Mapping):
        parents = {f"parent {i + 1}": parent for i, parent in enumerate(parents)}
    first = "base" if method.base else next(iter(parents), "base")
    _refuse_mixed(method.name, {first: base, **parents})
    if not isinstance(base, Mapping):
        alone = {label: {"tensor": parent} for label, parent in parents.items()}
        return merge_tensors(method, {"tensor": base}, alone, options)["tensor"]
    make = DeviceVectors if on_gpu([base, *parents.values()]) else TaskVectors
    vectors = make(base, parents, method=method.name, first=first)
    settled = method.settle(vectors.parents, options)
    merged = collect(method, settled, vectors, {name: vectors.base[name].dtype for name in vectors.names})
    merged |= {name: vectors.base[name].copy() for name in vectors.others}
    results = {name: like_input(array, base[name]) for name, array in merged.items()}
    return {name: results[vectors.stored(name)] for name in base}


def _refuse_mixed(method: str, given: Mapping[str, Tensors]) -> None:
    """UserError where one model is a dict of tensors and another a tensor."""
    dicts = [label for label, model in given.items() if isinstance(model, Mapping)]
    if others := [label for label in given if label not in dicts] if dicts else []:
        raise UserError(
            f"{method}: {dicts[0]} is a dict of tensors and {others[0]} is none; give dicts, or a tensor each"
        )


def task_vector(base: Tensors, parent: Tensors) -> Tensors:
    """parent - base in float32, shape of the base; a tensor or a dict of its float tensors."""
    _refuse_mixed("task_vector", {"base": base, "parent": parent})
    if not isinstance(base, Mapping):
        return task_vector({"tensor": base}, {"tensor": parent})["tensor"]
    vectors = TaskVectors(base, {"parent": parent}, method="task_vector", threads=1)
    spans = vectors.spans(vectors.names)
    found = {name: np.empty(vectors.base[name].shape, np.float32) for name in vectors.names}
    for span in spans:
        found[span.name].reshape(-1)[span.start : span.stop] = vectors.delta("parent", span)
    if not all(np.isfinite(x).all() for x in found.values()):
        vectors.refuse_deltas()
    return {
        name: like_input(found[vectors.stored(name)], x)
        for name, x in base.items()
        if vectors.stored(name) in found
    }
