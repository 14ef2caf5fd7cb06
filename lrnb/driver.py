"""Merging whole checkpoints: folders to a folder, or to arrays in memory, with measured shares.

Every method goes through the functions of `lrnb/merge.py` and `lrnb/ties_sv.py`, piece by piece;
one output tensor is in memory at a time.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoint_writer import Spec, write_checkpoint
from lrnb.checkpoints import BFLOAT16, Checkpoint, is_float, open_checkpoint
from lrnb.election import Tally, per_parent, rules
from lrnb.merge import (
    DtypeOf,
    Pieces,
    arithmetic_pieces,
    assemble,
    average_pieces,
    average_shares,
    ties_pieces,
)
from lrnb.params import UserError
from lrnb.store import MANIFEST, hashes, sha256, versions, write_text
from lrnb.ties_sv import slack_maker
from lrnb.vectors import Model, TaskVectors

OUTPUTS = {"float32": np.dtype("f4"), "bfloat16": BFLOAT16, "float16": np.dtype("f2")}
COMMON = {"density", "weights", "lam", "zero_sign", "at_threshold"}
OPTIONS = {
    "average": {"alpha", "weights"},
    "task_arithmetic": {"lam"},
    "ties": COMMON,
    "ties_sv": COMMON | {"slack", "slack_threshold", "protect"},
}
IMPLAUSIBLE = 1.0  # |task vector| / |base|; two unrelated models of equal size come to about 1.4


def plan(
    method: str,
    vectors: TaskVectors,
    dtype_of: DtypeOf,
    trim_scope: str,
    options: Mapping[str, Any],
    tally: Tally,
) -> Pieces:
    """The pieces of a merge named by its method. UserError for an unknown method or option."""
    if method not in OPTIONS:
        raise UserError(f"unknown merge method {method!r}; methods are {', '.join(OPTIONS)}")
    if unknown := set(options) - OPTIONS[method]:
        raise UserError(
            f"{method}: unknown option {sorted(unknown)[0]!r}; options are "
            f"{', '.join(sorted(OPTIONS[method]))}"
        )
    given = dict(options)
    if method == "average":
        shares = average_shares(vectors.parents, given.get("alpha"), given.get("weights"))
        return average_pieces(vectors, dtype_of, shares)
    if method == "task_arithmetic":
        lams = per_parent(vectors.parents, given.get("lam"), 1.0, "lam", -1e30, 1e30)
        return arithmetic_pieces(vectors, dtype_of, lams)
    if "density" not in given:
        raise UserError(f"{method}: no density given. Give the share to keep, such as density=0.5")
    lam = given.pop("lam", 1.0)
    slack = {key: given.pop(key) for key in ("slack", "slack_threshold", "protect") if key in given}
    checked = rules(vectors.parents, **given)
    make = slack_maker(vectors.parents, checked.weights, **slack) if method == "ties_sv" else None
    return ties_pieces(
        vectors, dtype_of, checked, lam=lam, trim_scope=trim_scope, make_slack=make, watch=tally.add
    )


def _dtype_of(vectors: TaskVectors, dtype: str) -> DtypeOf:
    if dtype == "auto":
        return lambda name: vectors.base[name].dtype
    if dtype not in OUTPUTS:
        raise UserError(f"dtype must be auto or one of {', '.join(OUTPUTS)}, got {dtype!r}")
    return lambda name: OUTPUTS[dtype]


def _all_tensors(
    vectors: TaskVectors, merged: Iterator[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """The merged tensors, their tied copies, and the tensors that are not floats."""
    copies: dict[str, list[str]] = {}
    for copy, name in vectors.aliases.items():
        copies.setdefault(name, []).append(copy)
    for name, array in merged:
        for each in [name, *copies.get(name, [])]:
            yield each, array
    for name in vectors.others:
        yield name, vectors.base[name]


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
    vectors = _vectors(method, base, models)
    dtype_of = _dtype_of(vectors, dtype)
    pieces = plan(method, vectors, dtype_of, trim_scope, options, Tally.zero(len(vectors.parents)))
    merged = assemble(vectors, pieces, dtype_of)
    return {
        name: array.astype(np.float32, copy=False) if is_float(array.dtype) else array
        for name, array in _all_tensors(vectors, merged)
    }


def _vectors(method: str, base: TaskVectors | Model, models: Mapping[str, Model] | None) -> TaskVectors:
    if isinstance(base, TaskVectors):
        if models is not None:
            raise UserError(f"{method}: models are already in the TaskVectors; leave them out")
        return base
    return TaskVectors(base, models or {}, method=method)


def merge_checkpoints(
    method: str,
    base: str | Path,
    models: Mapping[str, str | Path],
    out: str | Path,
    *,
    trim_scope: str = "model",
    dtype: str = "auto",
    force: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Merge folders into the complete Hugging Face folder `out`, atomically; returns the report.

    method: average (alpha or weights), task_arithmetic (lam), ties (density, weights, lam,
    zero_sign, at_threshold), ties_sv (these and slack or slack_threshold, protect).
    trim_scope (ties, ties_sv): model (one threshold over all) or tensor. dtype: auto (each tensor
    as in base), float32, bfloat16, float16. The folder holds weights, config and tokenizer of the
    base, a model card and manifest.json with the report.

    An existing `out` is replaced if it is a merge made here, otherwise only with `force`. UserError
    before anything is written where an input or option is wrong; see `TaskVectors`.
    """
    out = Path(out)
    _check_out(out, [Path(base), *map(Path, models.values())], force)
    vectors = TaskVectors(open_checkpoint(base), dict(models), method=method)
    dtype_of, tally = _dtype_of(vectors, dtype), Tally.zero(len(models))
    pieces = plan(method, vectors, dtype_of, trim_scope, options, tally)
    scope = {"trim_scope": trim_scope} if method.startswith("ties") else {}
    options = {**options, **scope, "dtype": dtype}
    doubts = _implausible(vectors)
    report: dict[str, Any] = {}

    def finish(folder: Path) -> None:
        report.update(make_report(method, vectors, options, tally) | {"warnings": doubts})
        write_text(folder / "README.md", model_card(report))
        write_text(folder / MANIFEST, _manifest(folder, out, vectors, report))

    merged = _all_tensors(vectors, assemble(vectors, pieces, dtype_of))
    write_checkpoint(out, merged, base, specs=_specs(vectors, dtype_of), finish=finish)
    return report


def _check_out(out: Path, inputs: list[Path], force: bool) -> None:
    for folder in inputs:
        real, target = folder.resolve(), out.resolve()
        if target.is_relative_to(real) or real.is_relative_to(target):
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
            "remove it, or give force to replace it."
        )


def _specs(vectors: TaskVectors, dtype_of: DtypeOf) -> dict[str, Spec]:
    names = [*vectors.names, *vectors.aliases]
    specs = {name: (dtype_of(name), vectors.base[name].shape) for name in names}
    return specs | {n: (vectors.base[n].dtype, vectors.base[n].shape) for n in vectors.others}


def _implausible(vectors: TaskVectors) -> list[str]:
    """A warning for every parent that does not look trained from this base."""
    doubts = []
    for parent in vectors.parents:
        if (size := vectors.relative_size(parent)) > IMPLAUSIBLE:
            doubts.append(
                f"{parent}: its task vector is {size:.2f} times as long as the base; it "
                "was probably not trained from this base. Check the base"
            )
            warnings.warn(doubts[-1], stacklevel=3)
    return doubts


def make_report(
    method: str, vectors: TaskVectors, options: Mapping[str, Any], tally: Tally
) -> dict[str, Any]:
    """What was asked for and what was measured; counts are entries, shares are fractions.

    kept_share is of all entries, discarded_share of the parent's kept entries, conflict_share of
    all entries, reserved_share of the conflicts that TIES alone would have taken from `protect`.
    """
    n = vectors.size(vectors.names)
    report: dict[str, Any] = {
        "method": method, "options": dict(options), "models": list(vectors.parents), "entries": n,
        "parents": {},
    }  # fmt: skip
    if not method.startswith("ties"):
        return report
    asked = per_parent(vectors.parents, options["density"], 1.0, "density", 0.0, 1.0)
    for i, parent in enumerate(vectors.parents):
        kept, lost = tally.kept[i], tally.discarded[i]
        report["parents"][parent] = {
            "asked_density": asked[i], "kept": kept, "kept_share": _share(kept, n),
            "discarded": lost, "discarded_share": _share(lost, kept),
        }  # fmt: skip
    report |= {"conflicts": tally.conflicts, "conflict_share": _share(tally.conflicts, n)}
    if method == "ties_sv":
        left = tally.discarded[vectors.parents.index(options.get("protect", "sft"))]
        report |= {
            "reserved": tally.reserved,
            "reserved_share": _share(tally.reserved, tally.reserved + left),
        }
    return report


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def model_card(report: Mapping[str, Any]) -> str:
    """README.md of a merged folder: the recipe and the measured shares."""
    recipe = [f"- {key}: {value}" for key, value in report["options"].items()]
    lines = [
        "---",
        "tags: [merge]",
        "---",
        f"# Merge by {report['method']}",
        "",
        f"Parents: {', '.join(report['models'])}. Made by lrnb, without training.",
        "",
        *recipe,
    ]
    if report["parents"]:
        lines += ["", "| parent | kept of all | discarded of kept |", "|---|---|---|"]
        lines += [
            f"| {name} | {x['kept_share']:.4f} | {x['discarded_share']:.4f} |"
            for name, x in report["parents"].items()
        ]
        lines += ["", f"Conflicts: {report['conflict_share']:.4f} of {report['entries']:,}."]
    if "reserved" in report:
        lines += [
            f"Won back by slack: {report['reserved']:,} entries, "
            f"{report['reserved_share']:.4f} of those TIES would discard."
        ]
    return "\n".join([*lines, *[f"\nWarning: {text}." for text in report["warnings"]]]) + "\n"


def _manifest(folder: Path, out: Path, vectors: TaskVectors, report: Mapping[str, Any]) -> str:
    """Inputs and outputs by hash. No times: the same merge gives the same bytes."""
    inputs = {}
    for label, model in {"base": vectors.base, **vectors.models}.items():
        assert isinstance(model, Checkpoint)
        inputs[label] = {
            "folder": os.path.relpath(model.folder.resolve(), out.resolve()),
            "sha256": {path.name: sha256(path) for path in model.files},
        }
    manifest = {
        "stage": "merge",
        "report": report,
        "inputs": inputs,
        "outputs": hashes(folder),
        "versions": versions(),
    }
    return json.dumps(manifest, indent=1, default=str)
