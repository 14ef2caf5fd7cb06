"""Merging on another device: a worker on torch, with the same methods and the same bits as `workers.Cpu`.

Inputs stay on the device between the passes as long as a quarter of its memory is left. Written for a
CUDA GPU; it runs on torch's CPU device too, which is how the tests compare it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lrnb.checkpoints import BFLOAT16
from lrnb.params import UserError
from lrnb.vectors import cores
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

    def __init__(self, parents: int, device: str) -> None:
        import torch

        self.torch, self.device = torch, torch.device(device)
        self.kept: dict[tuple[str, int, int, int], Any] = {}

    def scan(self, data: Operands, bounds: Bounds) -> tuple[list[Scan], int]:
        """As Cpu.scan."""
        deltas = [delta.abs() for delta in self._deltas(data)]
        bad = sum(int((~(delta <= FMAX)).sum()) for delta in deltas)
        both = zip(deltas, *bounds, strict=True)
        return [_scan(delta, float(low), float(high)) for delta, low, high in both], bad

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
        arrays = [data.base, *data.parents]
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

    def _round(self, x: Any, dtype: np.dtype) -> tuple[np.ndarray, int]:
        if dtype == BFLOAT16:
            x = x.to(self.torch.bfloat16)
        bad = int((~(x.abs() <= FMAX)).sum())
        if dtype == BFLOAT16:
            return x.view(self.torch.int16).cpu().numpy().view(BFLOAT16), bad
        return x.cpu().numpy(), bad


def _scan(values: Any, low: float, high: float) -> Scan:
    """Magnitudes around a bracket."""
    inside = values[(values > low) & (values < high)].cpu().numpy()
    return Scan(int((values > high).sum()), int((values == high).sum()), int((values == low).sum()), inside)
