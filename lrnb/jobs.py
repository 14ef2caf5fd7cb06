"""A merge of folders before it runs: methods and options checked, models opened, needs known."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoint_writer import Spec
from lrnb.checkpoints import BFLOAT16, Checkpoint
from lrnb.device import worker_for
from lrnb.election import per_parent, rules
from lrnb.merge import (
    DtypeOf,
    Plan,
    arithmetic_factors,
    arithmetic_plan,
    average_plan,
    average_shares,
    ties_plan,
)
from lrnb.params import UserError
from lrnb.select import SIGMAS, sample_size
from lrnb.sources import open_source
from lrnb.store import MANIFEST
from lrnb.ties_sv import slack_rule
from lrnb.vectors import TaskVectors

OUTPUTS = {"float32": np.dtype("f4"), "bfloat16": BFLOAT16, "float16": np.dtype("f2")}
COMMON = {"density", "weights", "lam", "zero_sign", "at_threshold", "normalize"}
OPTIONS = {
    "average": {"alpha", "weights", "normalize"},
    "task_arithmetic": {"lam", "normalize"},
    "ties": COMMON,
    "ties_sv": COMMON | {"slack", "slack_threshold", "protect"},
}
IMPLAUSIBLE = 1.0  # |task vector| / |base|; two unrelated models of equal size come to about 1.4


def plan(method: str, parents: list[str], trim_scope: str, options: Mapping[str, Any]) -> Plan:
    """What a method does, all options checked. UserError for an unknown method or option."""
    if method not in OPTIONS:
        raise UserError(f"unknown merge method {method!r}; methods are {', '.join(OPTIONS)}")
    if unknown := set(options) - OPTIONS[method]:
        raise UserError(
            f"{method}: unknown option {sorted(unknown)[0]!r}; options are "
            f"{', '.join(sorted(OPTIONS[method]))}"
        )
    given = dict(options)
    if method == "average":
        shares = average_shares(parents, given.pop("alpha", None), given.pop("weights", None), **given)
        return average_plan(shares, keep=given.get("normalize", True))
    if method == "task_arithmetic":
        return arithmetic_plan(arithmetic_factors(parents, given.pop("lam", None), **given))
    if "density" not in given:
        raise UserError(f"{method}: no density given. Give the share to keep, such as density=0.5")
    if trim_scope not in ("model", "tensor"):
        raise UserError(f"trim_scope must be 'model' or 'tensor', got {trim_scope!r}")
    slack = {key: given.pop(key) for key in ("slack", "slack_threshold", "protect") if key in given}
    rule = slack_rule(parents, **slack) if method == "ties_sv" else None
    return ties_plan(rules(parents, **_without(given, "lam")), given.get("lam", 1.0), trim_scope, rule)


def _without(options: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != key}


def resolved(method: str, parents: list[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a merge with all defaults filled in, one value a parent where they have their own."""
    given = dict(options)
    if method == "average":
        normalize = given.get("normalize", True)
        shares = average_shares(parents, given.get("alpha"), given.get("weights"), normalize)
        return {"shares": dict(zip(parents, shares, strict=True)), "normalize": normalize}
    if method == "task_arithmetic":
        factors = arithmetic_factors(parents, given.get("lam"), given.get("normalize", False))
        return {"lam": dict(zip(parents, factors, strict=True))}
    defaults = {"lam": 1.0, "zero_sign": "majority", "at_threshold": "keep-all", "normalize": True}
    each = {
        name: dict(zip(parents, per_parent(parents, given.get(name), 1.0, name, 0.0, 1e30), strict=True))
        for name in ("density", "weights")
    }
    return defaults | ({"protect": "sft"} if method == "ties_sv" else {}) | given | each


def output_dtype(vectors: TaskVectors, dtype: str) -> DtypeOf:
    if dtype == "auto":
        return lambda name: vectors.base[name].dtype
    if dtype not in OUTPUTS:
        raise UserError(f"dtype must be auto or one of {', '.join(OUTPUTS)}, got {dtype!r}")
    return lambda name: OUTPUTS[dtype]


@dataclass(frozen=True)
class Job:
    """One merge of folders, opened and checked."""

    method: str
    out: Path
    vectors: TaskVectors
    plan: Plan
    dtype_of: DtypeOf
    tokenizer: Path
    options: dict[str, Any]
    doubts: list[str]
    recipe: dict[str, Any] = field(default_factory=dict)  # all that is needed to repeat it, defaults too

    def specs(self) -> dict[str, Spec]:
        base = self.vectors.base
        merged = {name: (self.dtype_of(name), base[name].shape) for name in self.vectors.names}
        merged |= {copy: merged[name] for copy, name in self.vectors.aliases.items()}
        return merged | {name: (base[name].dtype, base[name].shape) for name in self.vectors.others}

    def passes(self) -> int:
        """How often the inputs are gone through, if no bracket of the selection misses."""
        if not self.method.startswith("ties"):
            return 1
        counted = self.options.get("zero_sign") != "positive" or "slack" in self.options
        return 3 if counted else 2

    def entry_bytes(self) -> float:
        models, names = [self.vectors.base, *self.vectors.models.values()], self.vectors.names
        size = sum(model[name].nbytes for model in models for name in names)
        return size / max(self.vectors.size(names), 1)

    def bytes_read(self) -> int:
        return round(self.passes() * self.entry_bytes() * self.vectors.size(self.vectors.names))

    def memory(self) -> int:
        """Scratch of all workers; the sample, or what the selection collects and a copy of one parent's."""
        vectors, parents = self.vectors, len(self.vectors.parents)
        scratch = len(vectors.workers) * vectors.workers[0].span * 4 * (2 * parents + 3)
        if self.passes() == 1:
            return scratch
        sizes = sorted(map(vectors.size, vectors.scopes(self.options["trim_scope"])))
        selection = 0.0
        for n in sizes[-len(vectors.workers) :]:  # as many scopes at once
            sample = min(n, sample_size(n))
            inside = n * min(1.0, 2 * SIGMAS * 0.5 / max(sample, 1) ** 0.5)
            selection += max((2 * parents + 1) * sample, parents * sample + (parents + 1) * inside)
        return round(scratch + 4 * selection)


def open_job(
    method: str,
    base: str | Path,
    models: Mapping[str, str | Path],
    out: Path,
    *,
    trim_scope: str = "model",
    dtype: str = "auto",
    device: str = "auto",
    threads: int = 0,
    tokenizer: str = "base",
    force: bool = False,
    **options: Any,
) -> Job:
    """Check everything that can be checked without reading values. Arguments: `driver.merge_checkpoints`."""
    if not models or "base" in models:
        raise UserError(f"{method}: give at least one parent, and none called base; got {list(models)}")
    given = {"base": base, **models}
    planned = plan(method, list(models), trim_scope, options)  # wrong options before anything else
    if tokenizer not in given:
        raise UserError(f"tokenizer: no model {tokenizer!r}; give one of {', '.join(given)}")
    factory, workers = worker_for(device, threads)
    _check_apart(out, {Path(x).resolve() for x in given.values() if Path(x).is_dir()})
    _check_out(out, force)
    opened = {label: open_source(where, base=base, finite=False) for label, where in given.items()}
    _check_apart(out, {folder for model in opened.values() for folder in _homes(model)})
    parents = {label: opened[label] for label in models}
    vectors = TaskVectors(opened["base"], parents, method=method, threads=workers, worker=factory)
    dtype_of, doubts = output_dtype(vectors, dtype), _implausible(vectors)
    doubts += _empty(vectors, options.get("density"))
    said = options | {"trim_scope": trim_scope} if method.startswith("ties") else dict(options)
    said |= {"dtype": dtype} | ({"tokenizer": tokenizer} if tokenizer != "base" else {})
    recipe = {"method": method, "base": str(base), "models": {k: str(v) for k, v in models.items()}}
    recipe |= {**resolved(method, list(models), options), **said, "tokenizer": tokenizer}
    home = opened[tokenizer].folder
    return Job(method, out, vectors, planned, dtype_of, home, said, doubts, recipe)


def _check_out(out: Path, force: bool) -> None:
    """UserError where `out` cannot be a new folder, or holds anything but a merge made here."""
    try:
        there = out.exists() or out.is_symlink()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{out}: no folder can be called this ({error}). Choose another.") from None
    if out.name in ("", ".."):
        raise UserError(f"{out}: give the new folder a name of its own, such as --out merged.")
    if force or not there or (out.is_dir() and not any(out.iterdir())) or _made_here(out):
        return
    raise UserError(
        f"{out}: exists and is not a merge made here, or holds more than that. Choose another folder, "
        "remove it, or give --force (force=True) to replace it."
    )


def _made_here(out: Path) -> bool:
    """Whether all that `out` holds was written by an earlier merge."""
    try:
        written = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        return written["stage"] == "merge" and {p.name for p in out.iterdir()} <= {
            *written["outputs"],
            MANIFEST,
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _check_apart(out: Path, folders: Iterable[Path]) -> None:
    try:
        target = out.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{out}: no folder can be called this ({error}). Choose another.") from None
    for folder in folders:
        if target.is_relative_to(folder) or folder.is_relative_to(target):
            raise UserError(f"{out}: lies in or around the input {folder}. Choose another folder.")


def _homes(model: Checkpoint) -> set[Path]:
    """All folders that the files of a model lie in, those behind links too."""
    files = {folder for path in model.files for folder in (path.parent.resolve(), path.resolve().parent)}
    return {model.folder.resolve(), *files}


def _implausible(vectors: TaskVectors) -> list[str]:
    """A warning for every parent that does not look trained from this base."""
    doubts = []
    for parent in vectors.parents:
        if (size := vectors.relative_size(parent)) > IMPLAUSIBLE:
            doubts.append(
                f"{parent}: its task vector is {size:.2f} times as long as the base; it "
                "was probably not trained from this base. Check the base"
            )
            warnings.warn(doubts[-1], stacklevel=4)
    return doubts


def _empty(vectors: TaskVectors, density: Any) -> list[str]:
    """A warning for every parent of which trimming keeps nothing."""
    n = vectors.size(vectors.names)
    kept = per_parent(vectors.parents, density, 1.0, "density", 0.0, 1.0)
    empty = [parent for parent, share in zip(vectors.parents, kept, strict=True) if round(share * n) == 0]
    return [f"{parent}: this density keeps none of {n:,} entries" for parent in empty]
