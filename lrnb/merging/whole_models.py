"""Merging whole checkpoints: folders to a folder, or to arrays in memory, with measured shares.

Every method goes through `engine.merge`, span by span; what is in memory is a few spans a thread and what
the method holds to settle a scope.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.reading import is_float
from lrnb.checkpoints.vocabulary_files import check_ids
from lrnb.checkpoints.writing import SHARD_BYTES, new_checkpoint, space_needed
from lrnb.errors import UserError
from lrnb.merging.card import make_report, manifest, model_card
from lrnb.merging.card_header import card_header
from lrnb.merging.engine import collect, merge
from lrnb.merging.jobs import Job, open_job, output_dtypes, trial_of
from lrnb.merging.methods import find
from lrnb.merging.task_vectors import Model, TaskVectors, as_float32
from lrnb.study.files import MANIFEST, free_space, write_text
from lrnb.study.progress import Meter

Check = Callable[[Path], Mapping[str, Any]]


def merge_state(
    method: str,
    base: TaskVectors | Model | None,
    models: Mapping[str, Model] | None = None,
    *,
    dtype: str = "auto",
    **options: Any,
) -> dict[str, np.ndarray]:
    """The merge kept in memory: {name: float32 array}, for scoring candidates.

    `base` is a folder (with `models` as {"ct": folder, "sft": folder}), or a `TaskVectors` opened
    once for many calls. Values are those that `merge_checkpoints` would write, so rounded to the
    checkpoint's dtype, then given as float32. Methods and options as there.
    """
    how, vectors = find(method), _vectors(method, base, models)
    dtypes = output_dtypes(how, vectors, dtype)
    merged = collect(how, how.settle(vectors.parents, options), vectors, dtypes)
    merged |= {name: vectors.base[name] for name in vectors.others}
    merged |= {copy: merged[name] for copy, name in vectors.aliases.items()}
    return {
        name: array.astype(np.float32, copy=False) if is_float(array.dtype) else array
        for name, array in merged.items()
    }


def _vectors(
    method: str, base: TaskVectors | Model | None, models: Mapping[str, Model] | None
) -> TaskVectors:
    if isinstance(base, TaskVectors):
        if models is not None:
            raise UserError(f"{method}: models are already in the TaskVectors; leave them out")
        return base
    if not models or (base is None and find(method).base):
        raise UserError(f"{method}: give {'models' if base is not None else 'a base'}")
    first = "base" if base is not None else next(iter(models))
    return TaskVectors(models[first] if base is None else base, models, method=method, first=first)


def merge_into(own: Mapping[str, Any], method: str, vectors: TaskVectors, **options: Any) -> None:
    """The values of `merge_state`, written over the weights of an open model while they are computed.

    own: {name: contiguous array}: numpy for a `TaskVectors`, torch on the same device for a
    `DeviceVectors`; tied names may be left out. Tensors that are not floats are left as they are.
    """
    how = find(method)
    copies = {name: [c for c, n in vectors.aliases.items() if n == name and c in own] for name in own}

    def put(name: str, start: int, values: Any) -> None:
        value = as_float32(values) if isinstance(values, np.ndarray) else values
        for each in (name, *copies[name]):
            own[each].reshape(-1)[start : start + len(values)] = value

    merge(how, how.settle(vectors.parents, options), vectors, output_dtypes(how, vectors, "auto"), put)


def merge_checkpoints(
    method: str,
    base: str | Path | None,
    models: Mapping[str, str | Path],
    out: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    check: Check | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Merge models into the complete Hugging Face folder `out`, atomically; returns the report.

    `base` and `models` ({name: where}): folders or Hub ids, see `opening.open_source`; None for a method that
    needs no base. options: those of the method (`methods.METHODS`), and for all of them dtype: auto (each
    tensor as in base), float32, bfloat16, float16. device: auto, cpu, cuda. threads: 0 for all cores.
    tokenizer: whose tokenizer, chat templates and generation settings go along, base or a parent's name; by
    default see `owner.default_owner`. vocabulary: what becomes of rows where vocabularies differ, refuse,
    owner, base or body=NAME, see `lrnb/checkpoints/alignment.py`; under owner the tokenizer is by default
    that of a model with all tokens. by_tensor(name, place): the options of one tensor, over those given for
    all, see `ByTensor`. layers: how many the models have to have. check: called with the merged folder before
    it gets its name; what it returns is the report's "check", its "warnings" are the merge's, and its
    UserError leaves nothing. The folder holds weights, config, tokenizer, a model card and manifest.json with
    report and hashes.

    An existing `out` is replaced if it is a merge made here, otherwise only with force=True. UserError
    before anything is written where an input or option is wrong; see `TaskVectors`.
    """
    job = open_job(method, base, models, Path(out), **options)
    started, size = time.monotonic(), job.entry_bytes()
    with trial_of(job) as trial, Meter(f"merge {method}", job.bytes_read()) as meter:

        def tick(entries: int) -> None:
            trial.look()
            meter.update(entries * size)

        job.vectors.tick = tick
        report = write(job, shard_bytes, check, trial)
    return report | {"seconds": round(time.monotonic() - started, 3)}


def _checked(check: Check, folder: Path, doubts: list[str]) -> dict[str, Any]:
    """The merge opened and used, by whoever can: nothing here imports a model."""
    found = dict(check(folder))
    return {"warnings": [*doubts, *found.pop("warnings", ())], "check": found}


def plan_merge(
    method: str,
    base: str | Path | None,
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
    with trial_of(job) as trial:
        notes = job.notes + trial()
    free = free_space(job.out)
    short = ["the disk is too small for this"] if free < space_needed(specs) else []
    return {
        "method": method,
        "models": {k: str(v) for k, v in {"base": base, **models}.items() if v is not None},
        "options": job.given,
        "recipe": job.recipe,
        "entries": vectors.size(vectors.names),
        **({"vocabulary": vectors.alignment.facts} if vectors.alignment else {}),
        "tensors": len(specs),
        "output_bytes": space_needed(specs),
        "disk_free": free,
        "memory_bytes": job.memory(),
        "threads": len(vectors.workers),
        "passes": job.options.passes(),
        "notes": notes,
        "warnings": [*job.doubts, *short],
    }


def write(
    job: Job,
    shard_bytes: int = SHARD_BYTES,
    check: Check | None = None,
    opened: Callable[[], list[str]] = list,
) -> dict[str, Any]:
    """Merge into the folder; the report that the model card and the manifest hold.

    opened: gives the notes on how the folder opens, or refuses it before it gets its name.
    """
    vectors = job.vectors
    copies = {name: [c for c, n in vectors.aliases.items() if n == name] for name in vectors.aliases.values()}
    with new_checkpoint(job.out, job.specs(), job.files, shard_bytes=shard_bytes) as writer:

        def put(name: str, start: int, values: np.ndarray) -> None:
            for each in (name, *copies.get(name, ())):
                writer.put(each, start, values)

        for name in vectors.others:
            put(name, 0, vectors.base[name].reshape(-1))
        tallies = merge(job.method, job.by_tensor or job.options, vectors, job.dtypes, put)
        if vectors.alignment:
            check_ids(writer.folder, vectors.alignment)
        writer.close()
        report = make_report(job, tallies)
        report["notes"] = report["notes"] + opened()
        report |= _checked(check, writer.folder, report["warnings"]) if check else {}
        write_text(writer.folder / "README.md", model_card(report, card_header(job)))
        write_text(writer.folder / MANIFEST, manifest(writer.folder, job, report))
    return report
