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

from lrnb.checkpoints import BFLOAT16, HEAD
from lrnb.params import UserError
from lrnb.vectors import Opened, Span, TaskVectors, clusters, cores, rows_of
from lrnb.workers import Ballot, Bounds, Cpu, Operands, Scan, Tally, View, Worker

FMAX = float(np.finfo(np.float32).max)


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
        deltas = [delta.abs() for delta in self._deltas(data)]
        bad = sum(int((~(delta <= FMAX)).sum()) for delta in deltas)
        both = zip(deltas, *bounds, strict=True)
        return [_scan(delta, float(low), float(high)) for delta, low, high in both], bad

    def position(self, data: Operands, parent: int, value: np.float32, rank: int) -> int:
        """As Cpu.position."""
        equal = self._deltas(data)[parent].abs() == float(value)
        return int(equal.nonzero()[rank - 1])

    def vote(self, data: Operands, ballot: Ballot) -> View:
        """As Cpu.vote."""
        total = self._sum(self._trimmed(data, ballot), ballot)
        return View(int((total > 0).sum() - (total < 0).sum()))

    def observe(self, data: Operands, ballot: Ballot, low: np.float32, high: np.float32) -> View:
        """As Cpu.observe."""
        trimmed = self._trimmed(data, ballot)
        total, own = self._sum(trimmed, ballot), trimmed[ballot.own]
        loses = ((own > 0) & (total < 0)) | ((own < 0) & (total > 0))
        even = (total == 0) & self._conflict(trimmed)
        level = (int((even & (own < 0)).sum()), int((even & (own > 0)).sum()))
        lead = int((total > 0).sum() - (total < 0).sum())
        return View(lead, int(loses.sum()), level, _scan(total[loses].abs(), float(low), float(high)))

    def ties(self, data: Operands, ballot: Ballot, dtype: np.dtype) -> tuple[np.ndarray, Tally]:
        """As Cpu.ties."""
        torch, trimmed = self.torch, self._trimmed(data, ballot)
        conflict = self._conflict(trimmed)
        up, reserved = self._elect(trimmed, conflict, ballot)
        agree = [((x > 0) & up) | ((x < 0) & ~up) for x in trimmed]
        top, bottom = torch.zeros_like(trimmed[0]), torch.zeros_like(trimmed[0])
        for x, yes, weight in zip(trimmed, agree, ballot.weights, strict=True):
            top = top + torch.where(yes, x * float(weight), 0.0)
            bottom = bottom + torch.where(yes, float(weight), 0.0)
        share = torch.where(bottom == 0, 1.0, bottom) if ballot.mean else torch.ones_like(bottom)
        result, bad = self._write(data, float(ballot.lam) * (top / share), dtype)
        kept = np.array([int((x != 0).sum()) for x in trimmed])
        lost = kept - np.array([int(yes.sum()) for yes in agree])
        overlap = int(torch.stack([x != 0 for x in trimmed]).all(0).sum())
        return result, Tally(int(conflict.sum()), overlap, reserved, bad, kept, lost)

    def average(
        self, data: Operands, shares: np.ndarray, keep: bool, dtype: np.dtype
    ) -> tuple[np.ndarray, int]:
        """As Cpu.average."""
        base, *parents = self._load(data)
        total = self._sum(parents, None, shares)
        same = self.torch.stack([x == parents[0] for x in parents]).all(0) & keep
        result, bad = self._round(self.torch.where(same, parents[0], total), dtype)
        return result, bad + int((~(base.abs() <= FMAX)).sum())

    def arithmetic(self, data: Operands, factors: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, int]:
        """As Cpu.arithmetic."""
        return self._write(data, self._sum(self._deltas(data), None, factors), dtype)

    def _load(self, data: Operands) -> list[Any]:
        """base and parents as float32 on the device."""
        arrays: list[Any] = [data.base, *data.parents]
        if self.stay:
            return [x.float() for x in arrays]
        if data.key is None:
            return [self._move(x).float() for x in arrays]
        return [self._keep((*data.key, i), x).float() for i, x in enumerate(arrays)]

    def _move(self, x: np.ndarray) -> Any:
        tensor = self.torch.from_numpy(x.view(np.int16).copy() if x.dtype == np.uint16 else x.copy())
        tensor = tensor.to(self.device)
        return tensor.view(self.torch.bfloat16) if x.dtype == np.uint16 else tensor

    def _keep(self, key: tuple[str, int, int, int], x: np.ndarray) -> Any:
        if key in self.kept:
            return self.kept[key]
        tensor = self._move(x)
        if self.device.type == "cuda":
            free, total = self.torch.cuda.mem_get_info(self.device)
            if free > total / 4:
                self.kept[key] = tensor
        return tensor

    def _deltas(self, data: Operands) -> list[Any]:
        base, *parents = self._load(data)
        return [parent - base for parent in parents]

    def _trimmed(self, data: Operands, ballot: Ballot) -> list[Any]:
        pairs = zip(self._deltas(data), ballot.thresholds, strict=True)
        return [self.torch.where(x.abs() >= float(t), x, 0.0) for x, t in pairs]

    def _sum(self, arrays: list[Any], ballot: Ballot | None, factors: np.ndarray | None = None) -> Any:
        weights = ballot.weights if ballot is not None else factors
        assert weights is not None
        total = arrays[0] * float(weights[0])
        for x, weight in zip(arrays[1:], weights[1:], strict=True):
            total = total + x * float(weight)
        return total

    def _conflict(self, trimmed: list[Any]) -> Any:
        stack = self.torch.stack
        return stack([x > 0 for x in trimmed]).any(0) & stack([x < 0 for x in trimmed]).any(0)

    def _elect(self, trimmed: list[Any], conflict: Any, ballot: Ballot) -> tuple[Any, int]:
        """Where the elected sign is +, and how many entries slack won back."""
        total = self._sum(trimmed, ballot)
        up = (total > 0) | ((total == 0) & (float(ballot.zero) > 0))
        if ballot.own < 0:
            return up, 0
        own = trimmed[ballot.own]
        near = total.abs() <= float(ballot.xi) if ballot.by_sum else self._reach(trimmed, ballot)
        wins = near & conflict & (((own > 0) & ~up) | ((own < 0) & up))
        return up ^ wins, int(wins.sum())

    def _reach(self, trimmed: list[Any], ballot: Ballot) -> Any:
        rest = [i for i in range(len(trimmed)) if i != ballot.own]
        if not rest:
            return self.torch.ones_like(trimmed[0], dtype=self.torch.bool)
        against = self._sum([trimmed[i] for i in rest], None, ballot.weights[rest]).abs()
        return (trimmed[ballot.own] * float(ballot.weights[ballot.own])).abs() + float(ballot.xi) >= against

    def _write(self, data: Operands, step: Any, dtype: np.dtype) -> tuple[np.ndarray, int]:
        base = self._load(data)[0]
        dtype = np.dtype(np.float32) if data.wide else dtype
        return self._round(self.torch.where(step != 0, base + step, base), dtype)

    def _round(self, x: Any, dtype: np.dtype) -> tuple[Any, int]:
        """In `dtype` as numpy (float32 where the caller is to round), or on the device where results stay."""
        if dtype == BFLOAT16 or self.stay:
            x = x.to(getattr(self.torch, dtype.name))
        bad = int((~(x.abs() <= self.torch.finfo(x.dtype).max)).sum())
        if self.stay:
            return x, bad
        if dtype == BFLOAT16:
            return x.view(self.torch.int16).cpu().numpy().view(BFLOAT16), bad
        return x.cpu().numpy(), bad


def _scan(values: Any, low: float, high: float) -> Scan:
    """Magnitudes around a bracket."""
    inside = values[(values > low) & (values < high)].cpu().numpy()
    return Scan(int((values > high).sum()), int((values == high).sum()), int((values == low).sum()), inside)


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
        self, base: Mapping[str, Any], parents: Mapping[str, Mapping[str, Any]], *, method: str
    ) -> None:
        given: dict[str | None, Mapping[str, Any]] = {None: base, **dict(parents.items())}
        self.tensors = {k: {n: x.detach().contiguous() for n, x in m.items()} for k, m in given.items()}
        device = str(next(iter(base.values())).device)
        models = {label: stand_in(tensors) for label, tensors in self.tensors.items()}
        children = {label: models[label] for label in parents}
        make = partial(Torch, device=device, stay=True)
        super().__init__(models[None], children, method=method, threads=1, worker=make)
        for copy, name in self.aliases.items():
            for label, model in parents.items():
                same = copy not in model or model[copy].data_ptr() == model[name].data_ptr()
                if not same and not bool((model[copy] == model[name]).all()):
                    raise UserError(f"{method}: {copy!r} is tied to {name!r} in base but differs in {label}")

    def _flat(self, label: str | None, name: str) -> Any:
        return self.tensors[label][name].reshape(-1)

    def operands(self, span: Span) -> Operands:
        """Views of the tensors on their device."""
        both = [self._flat(label, span.name)[span.start : span.stop] for label in self.tensors]
        return Operands(both[0], tuple(both[1:]), False)

    def delta(self, parent: str, span: Span) -> np.ndarray:
        """As TaskVectors.delta."""
        base, theirs = (self._flat(x, span.name)[span.start : span.stop].float() for x in (None, parent))
        return (theirs - base).cpu().numpy()

    def sample(self, names: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
        """As TaskVectors.sample."""
        rng, total = np.random.default_rng(0), self.size(names)
        rows: list[list[Any]] = []
        for name in (name for name in names if self.base[name].size):
            at = clusters(self.base[name].size, size / total, rng)
            rows.append(
                [rows_of(self._flat(label, name), *at).float().cpu().numpy() for label in self.tensors]
            )
        base, *theirs = (np.concatenate(column) for column in zip(*rows, strict=True))
        return np.stack([x - base for x in theirs]), base

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
