"""Merging whole checkpoints: folders to a folder, or to arrays in memory, with measured shares.

Every method goes through the plans of `lrnb/merge.py` and `lrnb/ties_sv.py`, span by span; what is in
memory is a few spans a thread and what the exact selection collects.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.card import make_report, manifest, model_card
from lrnb.checkpoint_writer import SHARD_BYTES, nearest_folder, new_checkpoint, space_needed
from lrnb.checkpoints import Checkpoint, is_float
from lrnb.election import total
from lrnb.jobs import Job, open_job, output_dtype, plan
from lrnb.merge import collect, run
from lrnb.params import UserError
from lrnb.progress import Meter
from lrnb.store import MANIFEST, write_text
from lrnb.vectors import Model, Span, TaskVectors, as_float32


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
    dtype_of = output_dtype(vectors, dtype)
    scopes = plan(method, vectors.parents, trim_scope, options)(vectors, dtype_of)
    merged = collect(vectors, scopes, dtype_of)
    merged |= {name: vectors.base[name] for name in vectors.others}
    merged |= {copy: merged[name] for copy, name in vectors.aliases.items()}
    return {
        name: array.astype(np.float32, copy=False) if is_float(array.dtype) else array
        for name, array in merged.items()
    }


def merge_into(
    own: Mapping[str, Any], method: str, vectors: TaskVectors, *, trim_scope: str = "model", **options: Any
) -> None:
    """The values of `merge_state`, written over the weights of an open model while they are computed.

    own: {name: contiguous array}: numpy for a `TaskVectors`, torch on the same device for a
    `DeviceVectors`; tied names may be left out. Tensors that are not floats are left as they are.
    """
    dtype_of = output_dtype(vectors, "auto")
    scopes = plan(method, vectors.parents, trim_scope, options)(vectors, dtype_of)
    copies = {name: [c for c, n in vectors.aliases.items() if n == name and c in own] for name in own}

    def put(span: Span, result: Any) -> None:
        value = as_float32(result) if isinstance(result, np.ndarray) else result
        for name in (span.name, *copies[span.name]):
            own[name].reshape(-1)[span.start : span.stop] = value

    run(vectors, scopes, put)


def merge_checkpoints(
    method: str,
    base: str | Path,
    models: Mapping[str, str | Path],
    out: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    **options: Any,
) -> dict[str, Any]:
    """Merge models into the complete Hugging Face folder `out`, atomically; returns the report.

    `base` and `models` ({name: where}): folders or Hub ids, see `sources.open_source`.
    method: average (alpha or weights), task_arithmetic (lam), ties (density, weights, lam,
    zero_sign, at_threshold), ties_sv (these and slack or slack_threshold, protect); all: normalize.
    trim_scope (ties, ties_sv): model (one threshold over all) or tensor. dtype: auto (each tensor
    as in base), float32, bfloat16, float16. device: auto, cpu, cuda. threads: 0 for all cores.
    tokenizer: whose tokenizer files go along, base (default) or a parent's name. The folder holds
    weights, config, tokenizer, a model card and manifest.json with the report and hashes.

    An existing `out` is replaced if it is a merge made here, otherwise only with force=True. UserError
    before anything is written where an input or option is wrong; see `TaskVectors`.
    """
    job = open_job(method, base, models, Path(out), **options)
    started, size = time.monotonic(), job.entry_bytes()
    with Meter(f"merge {method}", job.bytes_read()) as meter:
        job.vectors.tick = lambda entries: meter.update(entries * size)
        report = write(job, shard_bytes)
    return report | {"seconds": round(time.monotonic() - started, 3)}


def plan_merge(
    method: str,
    base: str | Path,
    models: Mapping[str, str | Path],
    out: str | Path,
    **options: Any,
) -> dict[str, Any]:
    """What `merge_checkpoints` with the same arguments would do and need; nothing is written.

    Headers, shapes, options and `out` are checked; of the values only a sample is read. Bytes:
    output_bytes and disk_free on disk, memory_bytes a bound on anonymous memory beside Python's own.
    """
    job = open_job(method, base, models, Path(out), **options)
    vectors, specs = job.vectors, job.specs()
    free = shutil.disk_usage(nearest_folder(job.out)).free
    short = ["the disk is too small for this"] if free < space_needed(specs) else []
    return {
        "method": method,
        "models": {label: str(where) for label, where in {"base": base, **models}.items()},
        "options": job.options,
        "recipe": job.recipe,
        "entries": vectors.size(vectors.names),
        "tensors": len(specs),
        "output_bytes": space_needed(specs),
        "disk_free": free,
        "memory_bytes": job.memory(),
        "threads": len(vectors.workers),
        "passes": job.passes(),
        "warnings": [*job.doubts, *short],
    }


def write(job: Job, shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Merge into the folder; the report that the model card and the manifest hold."""
    vectors = job.vectors
    copies = {name: [c for c, n in vectors.aliases.items() if n == name] for name in vectors.aliases.values()}
    assert isinstance(vectors.base, Checkpoint)
    like = (vectors.base.folder, job.tokenizer)
    with new_checkpoint(job.out, job.specs(), *like, shard_bytes=shard_bytes) as writer:

        def put(span: Span, result: np.ndarray) -> None:
            for name in (span.name, *copies.get(span.name, ())):
                writer.put(name, span.start, result)

        for name in vectors.others:
            writer.put(name, 0, vectors.base[name].reshape(-1))
        counted = run(vectors, job.plan(vectors, job.dtype_of), put)
        measured = total([tally for _, tally in counted], len(vectors.parents))
        report = make_report(job.method, vectors, job.options, measured)
        report |= {"recipe": job.recipe, "warnings": job.doubts}
        write_text(writer.folder / "README.md", model_card(report))
        writer.close()
        write_text(writer.folder / MANIFEST, manifest(writer.folder, job.out, vectors, report))
    return report
