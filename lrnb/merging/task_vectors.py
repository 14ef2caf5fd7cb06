"""Task vectors: base and parents opened together and read span by span, by several threads.

Everything downstream sees a model as one long vector: its float tensors in the order of their
names, each flattened, tied weights once. That order decides what "lowest index" means.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lrnb.checkpoints.alignment import align, not_compared
from lrnb.checkpoints.bad_rows import bad_rows
from lrnb.checkpoints.comparing import compare
from lrnb.checkpoints.layouts import under_names_of, unwrapped
from lrnb.checkpoints.opening import open_source
from lrnb.checkpoints.packed_experts import unpacked
from lrnb.checkpoints.reading import BFLOAT16, Checkpoint, check_finite, is_float
from lrnb.checkpoints.rows import GatheredRows, placed
from lrnb.errors import UserError
from lrnb.merging.cpu import Cpu, Operands, Worker, run_all
from lrnb.study.environment import cpu_quota

CLUSTER = 64  # entries sampled side by side
FLOATS = ("float64", "float32", "float16", "bfloat16")
SAMPLE = 1 << 16  # entries that the plausibility of a parent is judged by
Model = Mapping[str, Any] | str | Path
T = TypeVar("T")


class Opened(dict[str, np.ndarray]):
    """Tensors that are ready as they are, and {tied name: first name}."""

    aliases: dict[str, str] = {}


class Span(NamedTuple):
    """Entries `start` to `stop` of a tensor; `first` is the index of its first entry in the scope."""

    name: str
    start: int
    stop: int
    first: int


class TaskVectors:
    """A base and its parents, opened once for any number of merges.

    `base` and each parent: a folder, an open `Checkpoint`, or a dict of tensors (numpy or torch).
    Refused with a UserError that names the tensor: differing names, shapes, tying or non-float
    tensors; NaN and Inf are refused by the first pass over them. Task vectors are computed span by
    span and never stored. threads: 0 for all cores of this process. `worker` makes what computes on
    one thread, by default loops compiled for the CPU. `first`: how messages call the base; the name
    of the first parent where that stands in for it. Where vocabularies differ, `vocabulary` says what
    becomes of their rows, and `tokenizer` whose is written (`lrnb/checkpoints/alignment.py`): task vectors
    are then of the rows that all models have.
    """

    def __init__(
        self,
        base: Model,
        parents: Mapping[str, Model],
        *,
        method: str = "merge",
        threads: int = 0,
        worker: Callable[[int], Worker] = Cpu,
        first: str = "base",
        vocabulary: str = "refuse",
        tokenizer: str = "",
    ) -> None:
        if not parents:
            raise UserError(f"{method}: no parents given. Give at least one model beside the base.")
        if "base" in parents:
            raise UserError(f"{method}: a parent is called base; give it another name.")
        self.base, self.aliases = _open(base)
        self.models = {label: _open(model)[0] for label, model in parents.items()}
        self.first = first
        self.notes = self._same_names()
        given = {first: self.base, **self.models}
        self.alignment, self.doubts = align(method, given, vocabulary, tokenizer), not_compared(given)
        if self.alignment:
            laid = {label: self.alignment.laid(label) for label in given}
            self.base, self.models = laid[first], {label: laid[label] for label in parents}
            self.doubts += self.alignment.doubts
        compare(method, self.base, self.models, self.aliases, first)
        self.parents = list(self.models)
        stored = [name for name in sorted(self.base) if name not in self.aliases]
        self.names = [name for name in stored if is_float(self.base[name].dtype)]
        self.others = [name for name in stored if name not in set(self.names)]
        self.cuts: dict[tuple[Any, ...], Any] = {}  # filled by election.cuts
        self.tick: Callable[[int], Any] = lambda entries: None  # told how many entries were gone through
        self.workers = [worker(len(self.parents)) for _ in range(threads or cores())]

    def _same_names(self) -> list[str]:
        """All models under the base's names, where these differ by prefix or packed experts alone; notes."""
        self.base, wrapped = unwrapped(self.base)
        self.base, packed = unpacked(self.base, list(self.models.values()))
        notes = [wrapped, packed]
        self.aliases = self.base.aliases if any(notes) and isinstance(self.base, Checkpoint) else self.aliases
        for label, model in self.models.items():
            parts, packed = unpacked(model, [self.base])
            self.models[label], renamed = under_names_of(self.base, parts)
            notes += [packed, renamed]
        return [text for text in notes if text]

    def alone(self, worker: Worker) -> TaskVectors:
        """The same vectors for one worker, so that others can work on other scopes."""
        mine = copy.copy(self)
        mine.workers = [worker]
        return mine

    def spans(self, names: list[str], stops: Sequence[int] = (), size: int = 0) -> list[Span]:
        """The tensors `names` as one scope, in order, cut at `stops` and into portions of `size` entries, by
        default what a worker takes at once."""
        found: list[Span] = []
        first, size, marks = 0, size or self.workers[0].span, sorted(set(stops))
        for name in names:
            n = self.base[name].size
            edges = {*range(0, n, size), n, *(m - first for m in marks if first < m < first + n)}
            cuts = sorted(edges)
            found += [Span(name, a, b, first + a) for a, b in pairwise(cuts)]
            first += n
        return found

    def run(self, spans: Sequence[Span], work: Callable[[Worker, Span, Operands], T]) -> list[T]:
        """`work` on every span, on all workers; results in the order of the spans."""

        def one(worker: Worker, span: Span) -> T:
            result = work(worker, span, self.operands(span))
            self.tick(span.stop - span.start)
            return result

        return run_all(self.workers, spans, one)

    def operands(self, span: Span) -> Operands:
        """base and parents over a span, as workers take them."""
        ours, *theirs = (self.values(label, span) for label in (None, *self.parents))
        if {x.dtype for x in (ours, *theirs)} == {BFLOAT16}:
            ours, *theirs = (x.view(np.uint16) for x in (ours, *theirs))
        else:
            ours, wide = as_real(ours), np.float64 in [x.dtype for x in theirs]
            theirs = [as_real(x).astype(np.float64 if wide else np.float32, copy=False) for x in theirs]
        return Operands(_fixed(ours), tuple(map(_fixed, theirs)), span[:3])

    def empty(self, name: str, dtype: np.dtype) -> Any:
        """Room for a merged tensor, all of its rows."""
        return np.empty(self.shape(name), dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a merged tensor: the base's, where vocabularies differ with the rows that are written."""
        tables = self.alignment.tables if self.alignment else {}
        return tables.get(name, self.base[name].shape)

    def placed(self, span: Span, result: Any) -> Iterator[tuple[int, Any]]:
        """(first entry, values): where a merged span goes in its tensor, which may have other rows beside."""
        if self.alignment is None or span.name not in self.alignment.tables:
            return iter([(span.start, result)])
        width = int(np.prod(self.base[span.name].shape[1:], dtype=np.int64))
        return placed(self.alignment.merged.slots, width, span.start, result)

    def flat(self, label: str | None, name: str) -> Any:
        """A tensor of a parent, None for the base, in one dimension; its slices are arrays."""
        return (self.base if label is None else self.models[label])[name].reshape(-1)

    def values(self, label: str | None, span: Span) -> np.ndarray:
        """A 1-D view of a parent, None for the base, in its own dtype and where it lies."""
        return self.flat(label, span.name)[span.start : span.stop]

    def in_memory(self, x: Any) -> np.ndarray:
        """Some of `values` as an array."""
        return x

    def delta(self, parent: str, span: Span) -> np.ndarray:
        """parent - base as 1-D float32, whatever the dtypes (design, section 2)."""
        theirs, ours = (self.in_memory(self.values(label, span)) for label in (parent, None))
        return difference(theirs, ours)

    def sample(self, names: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
        """About `size` entries of a scope, the same ones each time: deltas (parents, size), base (size,).

        Clusters of entries side by side, spread evenly: cheap to read from disk.
        """
        rng, total, found = np.random.default_rng(0), self.size(names), []
        for name in (name for name in names if self.base[name].size):
            n = self.base[name].size
            at = clusters(n, size / total, rng)
            some = [rows_of(self.flat(label, name), *at) for label in (None, *self.parents)]
            ours, *theirs = map(self.in_memory, some)
            found.append([as_float32(ours), *(difference(x, ours) for x in theirs)])
        base, *deltas = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return np.stack(deltas), base

    def scopes(self, trim_scope: str) -> list[list[str]]:
        """The groups of tensors that share a threshold: one of all, or one each."""
        if trim_scope not in ("model", "tensor"):
            raise UserError(f"trim_scope must be 'model' or 'tensor', got {trim_scope!r}")
        return [self.names] if trim_scope == "model" else [[name] for name in self.names]

    def stored(self, name: str) -> str:
        """The name under which a tied tensor is merged; else `name` itself."""
        return self.aliases.get(name, name)

    def size(self, names: list[str]) -> int:
        """Number of entries in the tensors `names`."""
        return sum(self.base[name].size for name in names)

    def refuse_inputs(self) -> None:
        """UserError naming the first tensor that holds NaN or Inf, if there is one."""
        for label, model in {self.first: self.base, **self.models}.items():
            tensors = {name: model[name] for name in self.names}
            if isinstance(model, Checkpoint):
                check_finite(str(model.folder), tensors, bad_rows(model.folder))
            else:
                check_finite(label, tensors)

    def refuse_deltas(self) -> None:
        """UserError where an input, or a difference to the base, is not finite."""
        self.refuse_inputs()
        for span in self.spans(self.names):
            for parent in self.parents:
                if not np.isfinite(self.delta(parent, span)).all():
                    raise UserError(
                        f"{span.name!r}: {parent} - base is beyond float32's range. "
                        f"Give the base that {parent} was trained from."
                    )


def cores() -> int:
    """CPU cores that this process may use, by its affinity and by its control groups."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(there, cpu_quota())))


def as_float32(x: np.ndarray) -> np.ndarray:
    if x.dtype == BFLOAT16:  # several times faster than ml_dtypes' own conversion
        return (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return x.astype(np.float32, copy=False)


def _fixed(x: np.ndarray) -> np.ndarray:
    """A read-only view, as of mapped files: the loops are compiled for one kind of array."""
    view = x.view()
    view.flags.writeable = False
    return view


def as_real(x: np.ndarray) -> np.ndarray:
    """x in the type that it is computed with: float32, or float64 where it is stored so."""
    return x if x.dtype == np.float64 else as_float32(x)


def difference(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """theirs - ours in float32, by way of float64 where one is stored so."""
    with np.errstate(over="ignore", invalid="ignore"):
        return as_float32(as_real(theirs) - as_real(ours))


def clusters(n: int, rate: float, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """(length, rows): n entries cut into rows, and some of these, spread evenly, about rate * n entries."""
    length = min(CLUSTER, n)
    count = max(1, round(rate * n / length))
    return length, ((np.arange(count) + rng.random(count)) * (n // length) / count).astype(np.int64)


def rows_of(x: Any, length: int, rows: np.ndarray) -> Any:
    """Rows of a 1-D array (numpy or torch) cut into rows of `length`, as one vector."""
    if isinstance(x, GatheredRows):
        return x.at((rows[:, None] * length + np.arange(length)).reshape(-1))
    return x[: len(x) // length * length].reshape(-1, length)[rows].reshape(-1)


def square(x: np.ndarray) -> float:
    """Sum of squares in float64."""
    wide = x.astype(np.float64)
    return float(wide @ wide)


def _open(model: Model) -> tuple[Mapping[str, np.ndarray], dict[str, str]]:
    """The tensors as numpy arrays, contiguous, and {tied name: first name}."""
    if isinstance(model, str | Path):
        model = open_source(model, finite=False)
    if isinstance(model, Checkpoint | Opened):
        return model, model.aliases
    views = {name: to_numpy(value) for name, value in model.items()}
    if odd := [name for name, x in views.items() if is_float(x.dtype) and x.dtype.name not in FLOATS]:
        raise UserError(f"{odd[0]!r} is {views[odd[0]].dtype}; merged are {', '.join(FLOATS)}. Convert it")
    return {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in views.items()}, _shared(views)


def _shared(views: Mapping[str, np.ndarray]) -> dict[str, str]:
    """{name: earlier name} of arrays that are the same memory read the same way."""
    first: dict[Any, str] = {}
    aliases = {}
    for name in sorted(views, key=lambda n: (n == "lm_head.weight", n)):
        x = views[name]
        key = (x.__array_interface__["data"][0], x.shape, x.strides, x.dtype.str)
        if x.size and first.setdefault(key, name) != name:
            aliases[name] = first[key]
    return aliases


def to_numpy(x: Any) -> np.ndarray:
    """A numpy view of a numpy array, a number or a torch tensor (bfloat16 by way of its bits)."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        x = np.asarray(x)
        return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
    x = x.detach().cpu()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(BFLOAT16)
    return x.numpy()


def like_input(result: np.ndarray, x: Any) -> Any:
    """`result` as the kind of tensor that `x` is: torch on the same device, or numpy."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor) or isinstance(result, torch.Tensor):
        return result
    if result.dtype == BFLOAT16:
        return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16).to(x.device)
    return torch.from_numpy(result).to(x.device)
