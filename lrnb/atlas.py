"""The conflict atlas: what a merge's election keeps and drops, and what is needed to ask "what if".

One atlas is made of one base, one CT and one SFT model. `tensors` holds exact numbers at the study's
density and slack, one row a tensor; `Histograms` hold the joint distribution of both task vectors, from
which `lrnb/whatif.py` computes the same numbers for any other setting without the weights.

A folder holds tensors.parquet, joint.npz and atlas.json.
"""

from __future__ import annotations

import json
import threading
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrnb import conflict_kernels as loops
from lrnb.conflicts import COUNTS, MASSES, MODEL, accounts, open_vectors, place, slack_of, with_shares
from lrnb.election import PerParent, rules
from lrnb.environment import versions
from lrnb.histograms import Histograms, cropped, sparse
from lrnb.params import UserError, budget_name
from lrnb.store import atomic_folder, write_text
from lrnb.vectors import Model, Span, TaskVectors
from lrnb.workers import Cpu, Joint, Operands, Worker

FORMAT = 2  # 1 had no masses of overlap and conflicts
TABLE, ARRAYS, FACTS = "tensors.parquet", "joint.npz", "atlas.json"
ARRAY_NAMES = ("same", "opposite", "own", "ties")
SCOPES = ("model", "tensor")
SIZES = ["ct_l1", "sft_l1", "ct_l2", "sft_l2", "ct_max", "sft_max", "ct_nonzero", "sft_nonzero", "cosine"]


@dataclass(frozen=True)
class Atlas:
    """Exact table, histograms, and facts: density, slack, weights, zero_sign, ct_tokens, where it is from."""

    tensors: pd.DataFrame
    histograms: Histograms
    facts: dict[str, Any]

    @property
    def title(self) -> str:
        """CT's tokens in words where they are known: "CT 262k"."""
        tokens = self.facts.get("ct_tokens")
        return f"CT {budget_name(tokens)}" if tokens else "CT"

    def rows(self, where: str = MODEL) -> np.ndarray:
        """Numbers of the tensors of `where`: "(model)", "layer 3", "layer 3 q", "embed", or a name."""
        t, places = self.tensors, self.places
        layers = "layer " + t["layer"].astype(str)
        found = (t["tensor"] == where) | (places == where) | (layers == where) | (where == MODEL)
        if not np.any(found):
            raise UserError(f"{where!r}: no such tensor, layer or cell in this atlas")
        return np.flatnonzero(found)

    @cached_property
    def places(self) -> pd.Series:
        """The cell of each tensor in a map of layer x module: "layer 3 q", "embed"."""
        layer = self.tensors["layer"]
        return ("layer " + layer.astype(str) + " ").where(layer >= 0, "") + self.tensors["module"]

    @property
    def cells(self) -> list[str]:
        """All `places`, in order, each once."""
        return list(dict.fromkeys(self.places))

    def exact(self, trim_scope: str) -> pd.DataFrame:
        """The exact counts of one trim scope, columns as `conflicts.shares` without the "(model)" row."""
        if trim_scope not in SCOPES:
            raise UserError(f"trim_scope must be one of {SCOPES}, got {trim_scope!r}")
        own = {c: c.removeprefix(f"{trim_scope}_") for c in self.tensors if c.startswith(f"{trim_scope}_")}
        return self.tensors[["tensor", "layer", "module", "n", *own]].rename(columns=own)


def build(
    base: TaskVectors | Model,
    ct: Model | None = None,
    sft: Model | None = None,
    *,
    density: PerParent,
    slack: float | None = None,
    slack_threshold: float | None = None,
    weights: PerParent = None,
    zero_sign: str = "majority",
    facts: Mapping[str, Any] | None = None,
) -> Atlas:
    """The atlas of one merge; models as in `conflicts.shares`, read span by span.

    density, slack, weights, zero_sign: the setting whose numbers are stored exactly, for both trim scopes.
    facts: kept beside them, for example ct_tokens.
    """
    vectors = open_vectors(base, ct, sft)
    checked = rules(vectors.parents, density, weights, zero_sign)
    rule = slack_of(slack, slack_threshold)
    if not vectors.names:
        raise UserError("conflicts: the models hold no float tensors, so there is nothing to look at")
    rows, found = [], []
    for name in vectors.names:
        joint = _joint(vectors, name)
        rows.append(_sizes(vectors, name, joint))
        found.append([sparse(x) for x in joint[:3]])  # dense, many small tensors would fill the memory
    table, histograms = pd.DataFrame(rows), cropped(found)
    _warn_of_size(table)
    for scope in SCOPES:
        exact = accounts(vectors, checked, rule, scope, histograms)
        own = exact[[*COUNTS, *MASSES, "xi", "zero"]].add_prefix(f"{scope}_")
        table = with_shares(pd.concat([table, own], axis=1), f"{scope}_")
    given = {
        "density": dict(zip(vectors.parents, checked.densities, strict=True)),
        "weights": {p: float(w) for p, w in zip(vectors.parents, checked.weights, strict=True)},
        "slack": None if slack_threshold is not None else slack or 0.0,
        "slack_threshold": slack_threshold,
        "zero_sign": zero_sign,
    }
    return Atlas(table, histograms, dict(facts or {}) | given)


def _joint(vectors: TaskVectors, name: str) -> Joint:
    """The histograms of one tensor: counts added under a lock, moments in the order of the spans."""
    total, guard = Cpu.no_joint(), threading.Lock()

    def one(worker: Worker, span: Span, data: Operands) -> np.ndarray:
        assert isinstance(worker, Cpu)
        found = worker.joint(data)
        with guard:
            for ours, theirs in zip(total[:3], found[:3], strict=True):
                ours += theirs
        return found.moments

    moments = [total.moments, *vectors.run(vectors.spans([name]), one)]
    total.moments[:] = np.sum(moments, axis=0)
    if not np.isfinite(total.moments[:, loops.L1]).all():
        vectors.refuse_deltas()
    total.moments[:, loops.MAX] = np.max([m[:, loops.MAX] for m in moments], axis=0)
    return total


def _sizes(vectors: TaskVectors, name: str, joint: Joint) -> dict[str, Any]:
    shape = vectors.base[name].shape
    n, moments = vectors.base[name].size, joint.moments
    row = place(name, n) | {"shape": "x".join(map(str, shape))}
    for i, parent in enumerate(("ct", "sft")):
        row[f"{parent}_l1"] = moments[i, loops.L1]
        row[f"{parent}_l2"] = float(np.sqrt(moments[i, loops.L2]))
        row[f"{parent}_max"] = moments[i, loops.MAX]
        row[f"{parent}_nonzero"] = 1 - int(joint.own[i, :2].sum()) / max(n, 1)
    size = row["ct_l2"] * row["sft_l2"]
    row["cosine"] = moments[0, loops.CROSS] / size if size else float("nan")
    return row


def sizes(atlas: Atlas) -> pd.DataFrame:
    """tensor, n and SIZES of both task vectors, one row a tensor and one row "(model)"."""
    t = atlas.tensors
    whole: dict[str, Any] = {"tensor": MODEL, "n": int(t["n"].sum())}
    for parent in ("ct", "sft"):
        whole[f"{parent}_l1"] = t[f"{parent}_l1"].sum()
        whole[f"{parent}_l2"] = float(np.sqrt((t[f"{parent}_l2"] ** 2).sum()))
        whole[f"{parent}_max"] = t[f"{parent}_max"].max()
        whole[f"{parent}_nonzero"] = (t[f"{parent}_nonzero"] * t["n"]).sum() / max(whole["n"], 1)
    size = whole["ct_l2"] * whole["sft_l2"]
    across = (t["cosine"] * t["ct_l2"] * t["sft_l2"]).sum()
    whole["cosine"] = across / size if size else float("nan")
    return pd.concat([t[["tensor", "n", *SIZES]], pd.DataFrame([whole])], ignore_index=True)


def _warn_of_size(table: pd.DataFrame) -> None:
    """Magnitudes beyond the last bin are counted in it, so what-ifs take them for smaller than they are."""
    top = 2.0 ** (loops.LOWEST + loops.OCTAVES)
    large = table.loc[(table[["ct_max", "sft_max"]] >= top).any(axis=1), "tensor"]
    if len(large):
        text = (
            f"{large.iloc[0]!r}: a task vector holds values of {top:g} and more; what-ifs will be off there"
        )
        warnings.warn(text, stacklevel=3)


def save(atlas: Atlas, folder: Path | str) -> Path:
    """Write the folder anew, whole or not at all."""
    h = atlas.histograms
    with atomic_folder(Path(folder)) as temporary:
        atlas.tensors.to_parquet(temporary / TABLE, index=False)
        np.savez_compressed(
            temporary / ARRAYS, same=h.same, opposite=h.opposite, own=h.own, ties=h.ties, first=h.first
        )
        facts = {"format": FORMAT, **atlas.facts, "versions": versions()}
        write_text(temporary / FACTS, json.dumps(facts, indent=1, default=str))
    return Path(folder)


def load(folder: Path | str) -> Atlas:
    """Read an atlas. UserError where it is none, or was written by another version."""
    folder = Path(folder)
    remedy = "Make it with lrnb conflicts ... --out DIR, or with notebooks/03_analysis/02_discarded"
    if missing := [name for name in (TABLE, ARRAYS, FACTS) if not (folder / name).is_file()]:
        raise UserError(f"{folder}: no conflict atlas here ({missing[0]} is missing). {remedy}")
    try:
        facts = dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))
        if facts.get("format") != FORMAT:
            raise UserError(f"{folder}: an atlas of format {facts.get('format')}, this is {FORMAT}. {remedy}")
        stored = dict(np.load(folder / ARRAYS, allow_pickle=False))
        table = pd.read_parquet(folder / TABLE)
        found = Histograms(**{name: stored[name] for name in ARRAY_NAMES}, first=int(stored["first"]))
        _check_shapes(table, found)
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{folder}: the atlas is damaged ({error}). {remedy}") from None
    return Atlas(table, found, facts)


def _check_shapes(table: pd.DataFrame, h: Histograms) -> None:
    bins = len(h.edges) - 1
    shapes = {"same": (bins, bins), "opposite": (bins, bins), "ties": (2, bins)}
    wrong = [name for name, shape in shapes.items() if getattr(h, name).shape != (len(table), *shape)]
    if wrong or h.own.shape[:2] != (len(table), 2):
        raise ValueError(f"{(wrong or ['own'])[0]} does not fit {len(table)} tensors")
