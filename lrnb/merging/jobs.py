"""A merge of folders before it runs: options checked, models opened and compared, needs known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.alignment import check_policy, table_rows, vocabulary_tables
from lrnb.checkpoints.comparing import compare
from lrnb.checkpoints.configurations import compare_configs
from lrnb.checkpoints.opening import open_source
from lrnb.checkpoints.owner import default_owner, owner_notes, tokenizer_notes
from lrnb.checkpoints.reading import BFLOAT16, Checkpoint, readable
from lrnb.checkpoints.small_files import SmallFiles, small_files
from lrnb.checkpoints.trial import Trial, trial_opening
from lrnb.checkpoints.vocabulary_files import fitted_files
from lrnb.checkpoints.writing import Spec
from lrnb.errors import UserError
from lrnb.merging.by_tensor import ByTensor, options_by_tensor, refuse_other_depth, spoken_groups
from lrnb.merging.gpu import worker_for
from lrnb.merging.kinship import kinship_doubts
from lrnb.merging.methods import find
from lrnb.merging.registry import Method, Options, refuse_unfit
from lrnb.merging.task_vectors import TaskVectors
from lrnb.study.files import MANIFEST

OUTPUTS = {"float32": np.dtype("f4"), "bfloat16": BFLOAT16, "float16": np.dtype("f2")}


@dataclass(frozen=True)
class Job:
    """One merge of folders, opened and checked.

    owner: the folder of the model whose tokenizer goes along. files: what lies beside the weights. notes:
    whose they are, and what was changed or left behind there.
    given: the options as they were asked for. recipe: all that is needed to repeat the merge, defaults too.
    """

    method: Method
    options: Options
    out: Path
    vectors: TaskVectors
    dtypes: dict[str, np.dtype]
    owner: Path
    files: SmallFiles
    notes: list[str]
    given: dict[str, Any]
    doubts: list[str]
    recipe: dict[str, Any]
    by_tensor: dict[str, Options] = field(default_factory=dict)

    def specs(self) -> dict[str, Spec]:
        """Every tensor of the output."""
        base = self.vectors.base
        merged = {name: (self.dtypes[name], self.vectors.shape(name)) for name in self.vectors.names}
        merged |= {name: (base[name].dtype, base[name].shape) for name in self.vectors.others}
        return merged | {copy: merged[name] for copy, name in self.vectors.aliases.items()}

    def entry_bytes(self) -> float:
        """Bytes that one pass reads for an entry."""
        models, names = [self.vectors.base, *self.vectors.models.values()], self.vectors.names
        size = sum(model[name].nbytes for model in models for name in names)
        return size / max(self.vectors.size(names), 1)

    def bytes_read(self) -> int:
        """Of all passes, if no bracket of a selection misses."""
        return round(self.options.passes() * self.entry_bytes() * self.vectors.size(self.vectors.names))

    def memory(self) -> int:
        """A bound on what is held at once: the workers' scratch, and what the method holds to settle."""
        vectors, parents = self.vectors, len(self.vectors.parents)
        scratch = len(vectors.workers) * vectors.workers[0].span * 4 * (2 * parents + 3)
        if vectors.alignment:  # rows are gathered before they are read
            scratch += len(vectors.workers) * vectors.workers[0].span * 8 * (parents + 1)
        sizes = sorted(map(vectors.size, vectors.scopes(self.options.scope())))
        return round(scratch + self.options.memory(sizes[-len(vectors.workers) :], parents))


def open_job(
    method: str,
    base: str | Path | None,
    models: Mapping[str, str | Path],
    out: Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    threads: int = 0,
    tokenizer: str = "",
    vocabulary: str = "refuse",
    force: bool = False,
    by_tensor: ByTensor | None = None,
    layers: int | None = None,
    **given: Any,
) -> Job:
    """Check everything that can be checked without reading values. Arguments: `merge_checkpoints`."""
    how = find(method)
    options = None if by_tensor else how.settle(list(models), given)  # wrong options before anything else
    sources = _sources(how, base, models)
    if tokenizer and tokenizer not in sources:
        raise UserError(f"tokenizer: no model {tokenizer!r}; give one of {', '.join(sources)}")
    check_policy(method, vocabulary, list(sources) if how.base else list(models), tokenizer)
    factory, workers = worker_for(device, threads)
    with readable(out):  # names the model
        _check_apart(out, {Path(x).resolve() for x in sources.values() if Path(x).is_dir()})
    _check_out(out, force)
    opened = {label: open_source(where, base=base, finite=False) for label, where in sources.items()}
    _check_apart(out, {folder for model in opened.values() for folder in _homes(model)})
    parents = {label: opened[label] for label in models}
    first = "base" if how.base else next(iter(parents))
    unlike = compare_configs(method, opened, first)
    vectors = TaskVectors(
        opened[first], parents, method=method, threads=workers, worker=factory, first=first,
        vocabulary=vocabulary, tokenizer=tokenizer,
    )  # fmt: skip
    refuse_other_depth(method, vectors.names, layers)
    own = options_by_tensor(how, vectors, given, by_tensor) if by_tensor else {}
    options = options or next(iter(own.values()))
    options.refuse(vectors)
    refuse_unfit(method, options, vectors.names)
    owner = vectors.alignment.owner if vectors.alignment else tokenizer or default_owner(first, opened)
    dtypes = output_dtypes(how, vectors, dtype)
    doubts = [*unlike, *kinship_doubts(how, vectors)]
    doubts += options.doubts(vectors.parents, vectors.size(vectors.names)) + vectors.doubts
    if not how.base and "base" in opened:
        _compare_unused(method, opened["base"], parents, vectors)
        doubts.append(f"{method} needs no base: the one given was compared with the models, and is not used")
    said = given | {"dtype": dtype} | ({"tokenizer": tokenizer} if tokenizer else {})
    said |= {"vocabulary": vocabulary} if vocabulary != "refuse" else {}
    recipe: dict[str, Any] = {"method": method} | ({} if base is None else {"base": str(base)})
    recipe |= {"models": {label: str(where) for label, where in models.items()}}
    recipe |= spoken_groups(own, vectors.parents) if own else options.recipe(vectors.parents)
    recipe |= {"dtype": dtype, "tokenizer": owner, "vocabulary": vocabulary}
    files = _files(vectors, opened[owner], dtypes)
    notes = vectors.notes + tokenizer_notes(owner, opened) + owner_notes(first, owner, opened) + files.notes
    return Job(
        how, options, out, vectors, dtypes, opened[owner].folder, files, notes, said, doubts, recipe, own
    )


def _files(vectors: TaskVectors, owner: Checkpoint, dtypes: Mapping[str, np.dtype]) -> SmallFiles:
    """What the output holds beside its weights."""
    assert isinstance(vectors.base, Checkpoint)
    kinds = {kind.name for kind in dtypes.values()}
    files = small_files(vectors.base.folder, owner.folder, kinds.pop() if len(kinds) == 1 else "")
    return fitted_files(files, vectors.alignment) if vectors.alignment else files


def trial_of(job: Job) -> AbstractContextManager[Trial]:
    """What tries whether transformers opens the output, with the tokenizer that it gets."""
    vectors = job.vectors
    assert isinstance(vectors.base, Checkpoint)
    shapes = {name: shape for name, (_, shape) in job.specs().items()}
    given = vectors.alignment.models if vectors.alignment else vectors.models
    models = {k: x for k, x in given.items() if k in vectors.parents and isinstance(x, Checkpoint)}
    others = {label: {"config": x.config, "rows": table_rows(x)} for label, x in models.items()}
    homes = {label: str(x.folder) for label, x in models.items()}
    return trial_opening(
        job.files, shapes, vectors.base.folder, job.owner, homes=homes, first=vectors.first, others=others
    )


def _sources(method: Method, base: str | Path | None, models: Mapping[str, Any]) -> dict[str, str | Path]:
    """Where all models are, by name; the one whose tokenizer is taken first."""
    if not models or "base" in models:
        raise UserError(f"{method.name}: give at least one parent, and none called base; got {[*models]}")
    if base is None and method.base:
        raise UserError(f"{method.name} needs a base, the model that all parents were trained from")
    own = {} if base is None else {"base": base}
    return own | dict(models) if method.base else dict(models) | own


def _compare_unused(
    method: str, base: Checkpoint, parents: Mapping[str, Checkpoint], vectors: TaskVectors
) -> None:
    """UserError where an unused base is of another kind; under a policy its vocabulary may differ."""
    others = {label: {"base": base, label: model} for label, model in parents.items()}
    if vectors.alignment:
        others = {label: {k: _bare(m) for k, m in pair.items()} for label, pair in others.items()}
    for label, pair in others.items():
        compare(method, pair["base"], {label: pair[label]}, base.aliases)


def _bare(model: Checkpoint) -> Checkpoint:
    """The model with empty tables."""
    return model.with_tensors({name: model[name][:0] for name in vocabulary_tables(model)})


def output_dtypes(method: Method, vectors: TaskVectors, dtype: str) -> dict[str, np.dtype]:
    """The dtype of each merged tensor; auto is the base's, or the first parent's where no base is needed."""
    if dtype != "auto" and dtype not in OUTPUTS:
        raise UserError(f"dtype must be auto or one of {', '.join(OUTPUTS)}, got {dtype!r}")
    like = vectors.base if method.base else vectors.models[vectors.parents[0]]
    return {name: OUTPUTS.get(dtype, like[name].dtype) for name in vectors.names}


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
