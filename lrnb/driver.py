"""Merging whole checkpoints: folders to a folder, or to arrays in memory, with measured shares.

Every method goes through the plans of `lrnb/merge.py` and `lrnb/ties_sv.py`, span by span; what is in
memory is a few spans a thread and what the exact selection collects.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.card import make_report, manifest, model_card
from lrnb.checkpoint_writer import SHARD_BYTES, Spec, nearest_folder, new_checkpoint, space_needed
from lrnb.checkpoints import BFLOAT16, Checkpoint, is_float
from lrnb.device import worker_for
from lrnb.election import rules, total
from lrnb.merge import (
    DtypeOf,
    Plan,
    arithmetic_factors,
    arithmetic_plan,
    average_plan,
    average_shares,
    collect,
    run,
    ties_plan,
)
from lrnb.params import UserError
from lrnb.progress import Meter
from lrnb.select import SIGMAS, sample_size
from lrnb.sources import open_source
from lrnb.store import MANIFEST, write_text
from lrnb.ties_sv import slack_rule
from lrnb.vectors import Model, Span, TaskVectors

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


def _dtype_of(vectors: TaskVectors, dtype: str) -> DtypeOf:
    if dtype == "auto":
        return lambda name: vectors.base[name].dtype
    if dtype not in OUTPUTS:
        raise UserError(f"dtype must be auto or one of {', '.join(OUTPUTS)}, got {dtype!r}")
    return lambda name: OUTPUTS[dtype]


def merge_state(
    method: str,
    base: TaskVectors | Model,
    models: Mapping[str, Model] | None = None,
    *,
    trim_scope: str = "model",
    dtype: str = "auto",
    **options: Any,
) -> dict[str, np.ndarray]:
    """The merge kept in memory: {name: float32 array}, for scoring candidates.

    `base` is a folder (with `models` as {"ct": folder, "sft": folder}), or a `TaskVectors` opened
    once for many calls. Values are those that `merge_checkpoints` would write, so rounded to the
    checkpoint's dtype, then given as float32. Methods and options as there.
    """
    if isinstance(base, TaskVectors) and models is not None:
        raise UserError(f"{method}: models are already in the TaskVectors; leave them out")
    vectors = base if isinstance(base, TaskVectors) else TaskVectors(base, models or {}, method=method)
    dtype_of = _dtype_of(vectors, dtype)
    scopes = plan(method, vectors.parents, trim_scope, options)(vectors, dtype_of)
    merged = collect(vectors, scopes, dtype_of)
    merged |= {name: vectors.base[name] for name in vectors.others}
    merged |= {copy: merged[name] for copy, name in vectors.aliases.items()}
    return {
        name: array.astype(np.float32, copy=False) if is_float(array.dtype) else array
        for name, array in merged.items()
    }


def merge_checkpoints(
    method: str,
    base: str | Path,
    models: Mapping[str, str | Path],
    out: str | Path,
    *,
    trim_scope: str = "model",
    dtype: str = "auto",
    device: str = "auto",
    threads: int = 0,
    tokenizer: str = "base",
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    **options: Any,
) -> dict[str, Any]:
    """Merge models into the complete Hugging Face folder `out`, atomically; returns the report.

    `base` and `models` ({name: where}): folders or Hub ids, see `sources.open_source`.
    method: average (alpha or weights), task_arithmetic (lam), ties (density, weights, lam,
    zero_sign, at_threshold), ties_sv (these and slack or slack_threshold, protect); all: normalize.
    trim_scope (ties, ties_sv): model (one threshold over all) or tensor. dtype: auto (each tensor
    as in base), float32, bfloat16, float16. device: auto, cpu, cuda. threads: 0 for all cores.
    tokenizer: whose tokenizer files go along, base or a parent's name. The folder holds weights,
    config, tokenizer, a model card and manifest.json with the report and hashes.

    An existing `out` is replaced if it is a merge made here, otherwise only with `force`. UserError
    before anything is written where an input or option is wrong; see `TaskVectors`.
    """
    how = {
        "trim_scope": trim_scope,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "tokenizer": tokenizer,
    }
    job = _open_job(method, base, models, Path(out), force, how, options)
    started, size = time.monotonic(), job.entry_bytes()
    with Meter(f"merge {method}", job.bytes_read()) as meter:
        job.vectors.tick = lambda entries: meter.update(entries * size)
        report = _write(job, shard_bytes)
    return report | {"seconds": round(time.monotonic() - started, 3)}


def plan_merge(
    method: str,
    base: str | Path,
    models: Mapping[str, str | Path],
    out: str | Path,
    *,
    trim_scope: str = "model",
    dtype: str = "auto",
    device: str = "auto",
    threads: int = 0,
    tokenizer: str = "base",
    force: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """What `merge_checkpoints` with the same arguments would do and need; nothing is written.

    Headers, shapes, options and `out` are checked; of the values only a sample is read. Bytes:
    output_bytes and disk_free on disk, memory_bytes a bound on anonymous memory beside Python's own.
    """
    how = {
        "trim_scope": trim_scope,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "tokenizer": tokenizer,
    }
    job = _open_job(method, base, models, Path(out), force, how, options)
    vectors, specs = job.vectors, job.specs()
    return {
        "method": method,
        "models": {label: str(where) for label, where in {"base": base, **models}.items()},
        "options": job.options,
        "entries": vectors.size(vectors.names),
        "tensors": len(specs),
        "output_bytes": space_needed(specs),
        "disk_free": shutil.disk_usage(nearest_folder(job.out)).free,
        "memory_bytes": job.memory(),
        "threads": len(vectors.workers),
        "passes": job.passes(),
        "warnings": job.doubts,
    }


@dataclass(frozen=True)
class _Job:
    """One merge of folders, opened and checked."""

    method: str
    out: Path
    vectors: TaskVectors
    plan: Plan
    dtype_of: DtypeOf
    tokenizer: Path
    options: dict[str, Any]
    doubts: list[str]

    def specs(self) -> dict[str, Spec]:
        base = self.vectors.base
        merged = {name: (self.dtype_of(name), base[name].shape) for name in self.vectors.names}
        merged |= {copy: merged[name] for copy, name in self.vectors.aliases.items()}
        return merged | {name: (base[name].dtype, base[name].shape) for name in self.vectors.others}

    def passes(self) -> int:
        """How often the inputs are gone through, if no bracket of the selection misses."""
        if not self.method.startswith("ties"):
            return 1
        return 2 if self.method == "ties" and self.options.get("zero_sign") == "positive" else 3

    def entry_bytes(self) -> float:
        models, names = [self.vectors.base, *self.vectors.models.values()], self.vectors.names
        size = sum(model[name].nbytes for model in models for name in names)
        return size / max(self.vectors.size(names), 1)

    def bytes_read(self) -> int:
        return round(self.passes() * self.entry_bytes() * self.vectors.size(self.vectors.names))

    def memory(self) -> int:
        """Scratch of all workers, the sample, and twice what the selection collects."""
        n, parents = self.vectors.size(self.vectors.names), len(self.vectors.parents)
        scratch = len(self.vectors.workers) * self.vectors.workers[0].span * 4 * (2 * parents + 3)
        sample = sample_size(n)
        inside = n * min(1.0, 2 * SIGMAS * 0.5 / sample**0.5)
        return round(scratch + (sample * 3 + inside * 2) * 4 * parents) if self.passes() > 1 else scratch


def _open_job(
    method: str,
    base: str | Path,
    models: Mapping[str, str | Path],
    out: Path,
    force: bool,
    how: Mapping[str, Any],
    options: dict[str, Any],
) -> _Job:
    given = {"base": base, **models}
    planned = plan(method, list(models), how["trim_scope"], options)  # wrong options before anything else
    if how["tokenizer"] not in given:
        raise UserError(f"tokenizer: no model {how['tokenizer']!r}; give one of {', '.join(given)}")
    factory, threads = worker_for(how["device"], how["threads"])
    opened = {label: open_source(where, base=base, finite=False) for label, where in given.items()}
    _check_out(out, opened, force)
    parents = {label: opened[label] for label in models}
    vectors = TaskVectors(opened["base"], parents, method=method, threads=threads, worker=factory)
    dtype_of, doubts = _dtype_of(vectors, how["dtype"]), _implausible(vectors)
    said = options | {"trim_scope": how["trim_scope"]} if method.startswith("ties") else dict(options)
    said |= {"dtype": how["dtype"]} | ({"tokenizer": how["tokenizer"]} if how["tokenizer"] != "base" else {})
    return _Job(method, out, vectors, planned, dtype_of, opened[how["tokenizer"]].folder, said, doubts)


def _write(job: _Job, shard_bytes: int) -> dict[str, Any]:
    """Merge into the folder; the report that the model card and the manifest hold."""
    vectors, tallies = job.vectors, []
    copies = {name: copy for copy, name in vectors.aliases.items()}
    assert isinstance(vectors.base, Checkpoint)
    like = (vectors.base.folder, job.tokenizer)
    with new_checkpoint(job.out, job.specs(), *like, shard_bytes=shard_bytes) as writer:

        def put(span: Span, result: np.ndarray) -> None:
            writer.put(span.name, span.start, result)
            if span.name in copies:
                writer.put(copies[span.name], span.start, result)

        for name in vectors.others:
            writer.put(name, 0, vectors.base[name].reshape(-1))
        for _, tally in run(vectors, job.plan(vectors, job.dtype_of), put):
            tallies.append(tally)
        measured = total(tallies, len(vectors.parents))
        report = make_report(job.method, vectors, job.options, measured) | {"warnings": job.doubts}
        write_text(writer.folder / "README.md", model_card(report))
        writer.close()
        write_text(writer.folder / MANIFEST, manifest(writer.folder, job.out, vectors, report))
    return report


def _check_out(out: Path, models: Mapping[str, Checkpoint], force: bool) -> None:
    for model in models.values():
        for folder in {model.folder.resolve(), *(path.parent.resolve() for path in model.files)}:
            target = out.resolve()
            if target.is_relative_to(folder) or folder.is_relative_to(target):
                raise UserError(f"{out}: lies in or around the input {folder}. Choose another folder.")
    if force or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        ours = json.loads((out / MANIFEST).read_text(encoding="utf-8")).get("stage") == "merge"
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise UserError(
            f"{out}: exists and is not a merge made here. Choose another folder, "
            "remove it, or give --force (force=True) to replace it."
        )


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
