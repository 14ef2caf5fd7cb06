"""Merging on another device: a worker on torch, with the same methods and the same bits as `workers.Cpu`.

Files are moved to the device span by span and stay there between the passes as long as a quarter of its
memory is left; tensors that live on a GPU are merged there (`DeviceVectors`) and never leave it. Written
for CUDA; it runs on torch's CPU device too, which is how the tests compare it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lrnb.checkpoints.reading import BFLOAT16, HEAD
from lrnb.errors import UserError
from lrnb.merging import formulas
from lrnb.merging.cpu import Ballot, Bounds, Cpu, Formula, Operands, Scan, Tally, View, Worker
from lrnb.merging.task_vectors import Opened, Span, T, TaskVectors, cores


def worker_for(device: str, threads: int = 0) -> tuple[Callable[[int], Worker], int]:
    """(maker of workers, how many) for `device` auto, cpu or cuda. auto is the CPU: reading and writing
    the files takes most of the time. UserError for an unknown device, or cuda where there is none."""
    if threads < 0:
        raise UserError(f"threads must be 0 (all cores) or more, got {threads}")
    if device in ("auto", "cpu"):
        return Cpu, threads or cores()
    if device != "cuda":
        raise UserError(f"device must be auto, cpu or cuda, got {device!r}")
    import torch

    if not torch.cuda.is_available():
        raise UserError("device cuda: torch sees no GPU here. Use --device cpu, or a machine with a GPU")
    return lambda parents: Torch(parents, "cuda"), 1


class Torch:
    """One worker that computes on a torch device, a whole tensor at a time."""

    span = 1 << 26

    def __init__(self, parents: int, device: str, stay: bool = False) -> None:
        import torch

        self.torch, self.device, self.stay = torch, torch.device(device), stay  # stay: results too
        self.kept: dict[tuple[str, int, int, int], Any] = {}

    def scan(self, data: Operands, bounds: Bounds) -> tuple[list[Scan], int]:
        """As Cpu.scan."""
        sizes = [abs(tau) for tau in self._deltas(data)]
        found = [_scan(x, float(low), float(high)) for x, low, high in zip(sizes, *bounds, strict=True)]
        return found, sum(_count(~x.isfinite()) for x in sizes)

    def position(self, data: Operands, parent: int, value: np.float32, rank: int) -> int:
        """As Cpu.position."""
        equal = abs(self._deltas(data)[parent]) == float(value)
        return int(equal.nonzero()[rank - 1])

    def vote(self, data: Operands, ballot: Ballot) -> View:
        """As Cpu.vote."""
        total = formulas.weighted_sum(self._trimmed(data, ballot), ballot.weights)
        return View(_count(total > 0) - _count(total < 0))

    def observe(self, data: Operands, ballot: Ballot, low: np.float32, high: np.float32) -> View:
        """As Cpu.observe."""
        taus = self._trimmed(data, ballot)
        total, own = formulas.weighted_sum(taus, ballot.weights), taus[ballot.own]
        lost, even = formulas.discarded(own, total.sign()), (total == 0) & formulas.conflict(taus)
        level = _count(even & (own < 0)), _count(even & (own > 0))
        margins = _scan(abs(total[lost]), float(low), float(high))
        return View(_count(total > 0) - _count(total < 0), _count(lost), level, margins)

    def losses(self, data: Operands, ballot: Ballot) -> np.ndarray:
        """As Cpu.losses."""
        taus = self._trimmed(data, ballot)
        gamma = formulas.elect(taus, ballot.weights, ballot.zero)
        lost = formulas.discarded(taus[ballot.own], gamma) & formulas.conflict(taus)
        return np.asarray(lost.nonzero().reshape(-1).cpu().numpy())

    def ties(
        self, data: Operands, ballot: Ballot, dtype: np.dtype, won: np.ndarray | None = None
    ) -> tuple[np.ndarray, Tally]:
        """As Cpu.ties."""
        b, taus, reserved = ballot, self._trimmed(data, ballot), 0
        gamma = formulas.elect(taus, b.weights, b.zero)
        if b.own >= 0:
            narrow = formulas.won_back(taus, b.weights, gamma, b.own, b.xi, b.by_sum)
            gamma, reserved = self.torch.where(narrow, -gamma, gamma), _count(narrow)
        if won is not None:
            at = self.torch.from_numpy(won).to(gamma.device)
            gamma[at], reserved = -gamma[at], reserved + len(won)
        merged = formulas.mean(taus, b.weights, gamma, b.normalize)
        result, bad = self._add(data, merged * float(b.lam), dtype)
        kept = np.array([_count(tau != 0) for tau in taus])
        lost = np.array([_count(formulas.discarded(tau, gamma)) for tau in taus])
        conflicts, overlap = _count(formulas.conflict(taus)), _count(formulas.overlap(taus))
        return result, Tally(conflicts, overlap, reserved, bad, kept, lost)

    def average(
        self, data: Operands, shares: Sequence[float], keep: bool, dtype: np.dtype
    ) -> tuple[np.ndarray, int]:
        """As Cpu.average."""
        base, *parents = self._load(data)
        total = formulas.weighted_sum(parents, shares)
        same = self.torch.stack([x == parents[0] for x in parents]).all(0) & keep
        result, bad = self._round(self.torch.where(same, parents[0], total), dtype)
        return result, bad + _count(~base.isfinite())

    def arithmetic(self, data: Operands, factors: Sequence[float], dtype: np.dtype) -> tuple[np.ndarray, int]:
        """As Cpu.arithmetic."""
        return self._add(data, formulas.weighted_sum(self._deltas(data), factors), dtype)

    def look(self, data: Operands, look: Callable[[list[Any], int], T]) -> list[T]:
        """As Cpu.look."""
        return [look(self._deltas(data), data.key[1])]

    def step(self, data: Operands, formula: Formula, dtype: np.dtype, row: int = 1) -> tuple[np.ndarray, int]:
        """As Cpu.step."""
        taus = self._deltas(data)
        odd = sum(_count(~tau.isfinite()) for tau in taus)
        result, bad = self._add(data, formula(taus, data.key[1]), dtype)
        return result, bad + odd

    def deltas_at(self, data: Operands, parent: int, where: np.ndarray) -> np.ndarray:
        """As Cpu.deltas_at."""
        tau = self._deltas(data)[parent]
        return np.asarray(tau[self.torch.from_numpy(where).to(tau.device)].cpu().numpy())

    def gram(self, data: Operands, of: str) -> np.ndarray:
        """As Cpu.gram."""
        rows = self._deltas(data) if of == "deltas" else self._load(data)[1:]
        wide = self.torch.stack([x.double() for x in rows])
        return (wide @ wide.T).cpu().numpy()

    def mass(self, data: Operands, thresholds: Sequence[np.float32]) -> np.ndarray:
        """As Cpu.mass."""
        taus = formulas.trim_all(self._deltas(data), thresholds)
        return np.array([float(abs(tau).double().sum()) for tau in taus])

    def products(self, data: Operands, width: int, by_row: bool) -> np.ndarray:
        """As Cpu.products."""
        base, *parents = (x.double().reshape(-1, width) for x in self._load(data))
        rows = [base * base, *(x * x for x in parents), *(x * base for x in parents)]
        return np.stack([x.sum(dim=1 if by_row else 0).cpu().numpy() for x in rows])

    def as_array(self, x: np.ndarray) -> Any:
        """As Cpu.as_array."""
        return self.torch.from_numpy(x).to(self.device)

    def as_numpy(self, x: Any) -> np.ndarray:
        """As Cpu.as_numpy."""
        return np.asarray(x.cpu().numpy())

    def _load(self, data: Operands) -> list[Any]:
        """base and parents on the device, float32 or float64."""
        arrays: list[Any] = [data.base, *data.parents]
        if not self.stay:
            arrays = [self._keep((*data.key, i), x) for i, x in enumerate(arrays)]
        return [x if x.dtype == self.torch.float64 else x.float() for x in arrays]

    def _keep(self, key: tuple[str, int, int, int], x: np.ndarray) -> Any:
        if key in self.kept:
            return self.kept[key]
        tensor = self.torch.from_numpy(x.view(np.int16).copy() if x.dtype == np.uint16 else x.copy())
        tensor = tensor.to(self.device)
        tensor = tensor.view(self.torch.bfloat16) if x.dtype == np.uint16 else tensor
        if self.device.type == "cuda":
            free, total = self.torch.cuda.mem_get_info(self.device)
            if free > total / 4:
                self.kept[key] = tensor
        return tensor

    def _deltas(self, data: Operands) -> list[Any]:
        base, *parents = self._load(data)
        return [(parent - base).float() for parent in parents]

    def _trimmed(self, data: Operands, ballot: Ballot) -> list[Any]:
        return formulas.trim_all(self._deltas(data), ballot.thresholds)

    def _add(self, data: Operands, step: Any, dtype: np.dtype) -> tuple[np.ndarray, int]:
        """base + step; the base's own bits where the step is 0."""
        base = self._load(data)[0]
        return self._round(self.torch.where(step != 0, base + step, base), dtype)

    def _round(self, x: Any, dtype: np.dtype) -> tuple[Any, int]:
        """In `dtype` where results stay on the device, or as bfloat16; else the caller rounds."""
        if self.stay or (dtype == BFLOAT16 and x.dtype == self.torch.float32):
            x = x.to(getattr(self.torch, dtype.name))
        bad = _count(~x.isfinite())
        if self.stay:
            return x, bad
        if x.dtype == self.torch.bfloat16:
            return x.view(self.torch.int16).cpu().numpy().view(BFLOAT16), bad
        return x.cpu().numpy(), bad


def _scan(values: Any, low: float, high: float) -> Scan:
    """Magnitudes around a bracket."""
    inside = values[(values > low) & (values < high)].cpu().numpy()
    return Scan(_count(values > high), _count(values == high), _count(values == low), inside)


def _count(marked: Any) -> int:
    return int(marked.sum())


def on_gpu(models: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all tensors of all models live on one CUDA device, none of them in float64."""
    torch = sys.modules.get("torch")
    values = [x for model in models for x in model.values()]
    if torch is None or not values or not all(isinstance(x, torch.Tensor) for x in values):
        return False
    devices = {x.device for x in values}
    return (
        len(devices) == 1 and devices.pop().type == "cuda" and all(x.dtype != torch.float64 for x in values)
    )


class DeviceVectors(TaskVectors):
    """Task vectors of torch tensors that stay where they are, all on one device, none in float64.

    What `TaskVectors` knows of them by shape and type are stand-ins that take no memory.
    """

    def __init__(
        self,
        base: Mapping[str, Any],
        parents: Mapping[str, Mapping[str, Any]],
        *,
        method: str,
        first: str = "base",
    ) -> None:
        given: dict[str | None, Mapping[str, Any]] = {None: base, **dict(parents.items())}
        self.tensors = {k: {n: x.detach().contiguous() for n, x in m.items()} for k, m in given.items()}
        device = str(next(iter(base.values())).device)
        models = {label: stand_in(tensors) for label, tensors in self.tensors.items()}
        children = {label: models[label] for label in parents}
        make = partial(Torch, device=device, stay=True)
        super().__init__(models[None], children, method=method, threads=1, worker=make, first=first)
        for copy, name in self.aliases.items():
            for label, model in parents.items():
                same = copy not in model or model[copy].data_ptr() == model[name].data_ptr()
                if not same and not bool((model[copy] == model[name]).all()):
                    raise UserError(
                        f"{method}: {copy!r} is tied to {name!r} in {first} but differs in {label}"
                    )

    def flat(self, label: str | None, name: str) -> Any:
        """As TaskVectors.flat."""
        return self.tensors[label][name].reshape(-1)

    def in_memory(self, x: Any) -> np.ndarray:
        """As TaskVectors.in_memory."""
        return x.float().cpu().numpy()

    def operands(self, span: Span) -> Operands:
        """Views of the tensors on their device."""
        ours, *theirs = (self.values(label, span) for label in self.tensors)
        return Operands(ours, tuple(theirs), span[:3])

    def empty(self, name: str, dtype: np.dtype) -> Any:
        """Room for a merged tensor, on the device."""
        import torch

        like = self.tensors[None][name]
        return torch.empty(like.shape, dtype=getattr(torch, dtype.name), device=like.device)

    def refuse_inputs(self) -> None:
        """As TaskVectors.refuse_inputs."""
        for label, tensors in self.tensors.items():
            for name in self.names:
                if bad := int((~tensors[name].isfinite()).sum()):
                    raise UserError(
                        f"{label or 'base'}: {name!r} holds NaN or Inf in {bad:,} entries. "
                        "The training diverged; use an earlier checkpoint."
                    )


def stand_in(tensors: Mapping[str, Any]) -> Opened:
    """Arrays of the same shapes and types that take no memory; tensors that are not floats are copied."""
    made, first = Opened(), dict[Any, str]()
    made.aliases = {}
    for name in sorted(tensors, key=lambda n: (n == HEAD, n)):
        x = tensors[name].detach()
        if not x.is_floating_point():
            made[name] = x.cpu().numpy()
            continue
        dtype = (
            BFLOAT16 if str(x.dtype) == "torch.bfloat16" else np.dtype(str(x.dtype).removeprefix("torch."))
        )
        made[name] = np.broadcast_to(np.zeros((), dtype), tuple(x.shape))
        key = (x.data_ptr(), tuple(x.shape), x.stride(), dtype)
        if x.numel() and first.setdefault(key, name) != name:
            made.aliases[name] = first[key]
    return made
