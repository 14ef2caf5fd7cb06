"""The conflict atlas: what a merge's election keeps and drops, and what is needed to ask "what if".

One atlas is made of a base and its parents, CT and SFT or any others. `tensors` holds exact numbers at one
setting, a row a tensor; `sample` holds some of the entries of all task vectors and `magnitudes` how large
they all are, from which `what_ifs.py` tells the same numbers at any other setting without the models.

A folder holds tensors.parquet, sample.npz and atlas.json.
"""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb.conflicts import kernels as loops
from lrnb.conflicts import sample as samples
from lrnb.conflicts.counts import MODEL, PLACE, accounts, open_parents, place, setting, with_shares
from lrnb.conflicts.magnitudes import Magnitudes, Sparse, cropped, edges, sparse
from lrnb.conflicts.sample import Sample
from lrnb.errors import UserError
from lrnb.merging.cpu import Operands, Worker, run_all
from lrnb.merging.registry import PerParent
from lrnb.merging.task_vectors import Model, Span, TaskVectors
from lrnb.study.environment import versions
from lrnb.study.files import atomic_folder, write_text
from lrnb.study.parameters import budget_name

FORMAT = 3  # 2 had histograms of two parents; 1 no masses of overlap and conflicts
TABLE, ARRAYS, FACTS = "tensors.parquet", "sample.npz", "atlas.json"
SCOPES = ("model", "tensor")
EDGES = edges(0, loops.BINS)


@dataclass(frozen=True)
class Atlas:
    """Exact table, sample and magnitudes; facts: parents, protect, density, slack, weights, zero_sign,
    ct_tokens, where it is from."""

    tensors: pd.DataFrame
    sample: Sample
    magnitudes: Magnitudes
    facts: dict[str, Any]

    @property
    def parents(self) -> list[str]:
        return list(self.facts["parents"])

    @property
    def protect(self) -> str:
        """The parent that slack is for."""
        return str(self.facts["protect"])

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
        """The exact counts of one trim scope, columns as `counts.shares` without the "(model)" row."""
        if trim_scope not in SCOPES:
            raise UserError(f"trim_scope must be one of {SCOPES}, got {trim_scope!r}")
        own = {c: c.removeprefix(f"{trim_scope}_") for c in self.tensors if c.startswith(f"{trim_scope}_")}
        return self.tensors[["tensor", "layer", "module", "n", *own]].rename(columns=own)


def build(
    base: TaskVectors | Model,
    parents: Mapping[str, Model] | None = None,
    *,
    density: PerParent,
    slack: float | None = None,
    slack_threshold: float | None = None,
    protect: str = "sft",
    weights: PerParent = None,
    zero_sign: str = "majority",
    facts: Mapping[str, Any] | None = None,
) -> Atlas:
    """The atlas of one merge; models as in `counts.shares`, read span by span.

    density, slack, protect, weights, zero_sign: the setting whose numbers are stored exactly, for both trim
    scopes. facts: kept beside them, for example ct_tokens.
    """
    vectors = open_parents(base, parents)
    options = setting(
        vectors.parents, density=density, slack=slack, slack_threshold=slack_threshold, protect=protect,
        weights=weights, zero_sign=zero_sign,
    )  # fmt: skip
    if not vectors.names:
        raise UserError("conflicts: the models hold no float tensors, so there is nothing to look at")
    seen = _look_at_all(vectors)
    table, magnitudes = pd.DataFrame([one.row for one in seen]), cropped([one.magnitudes for one in seen])
    _warn_of_size(table, vectors.parents)
    for scope in SCOPES:
        counted = accounts(vectors, replace(options, trim_scope=scope), magnitudes)
        exact = with_shares(counted, protect).drop(columns=PLACE)
        table = pd.concat([table, exact.add_prefix(f"{scope}_")], axis=1)
    given = {
        "parents": vectors.parents,
        "protect": protect,
        "density": dict(zip(vectors.parents, options.density, strict=True)),
        "weights": dict(zip(vectors.parents, options.weights, strict=True)),
        "slack": options.slack,
        "slack_threshold": options.slack_threshold,
        "zero_sign": zero_sign,
    }
    return Atlas(
        table, samples.joined_sample([one.drawn for one in seen]), magnitudes, dict(facts or {}) | given
    )


class Seen(NamedTuple):
    """A tensor after a look at all its entries: its row of the table, what its magnitudes are, its sample."""

    row: dict[str, Any]
    magnitudes: list[Sparse]
    drawn: samples.Drawn


def _look_at_all(vectors: TaskVectors) -> list[Seen]:
    """Every tensor, the largest first, each by one worker."""
    order = sorted(vectors.names, key=lambda name: -vectors.base[name].size)
    found = run_all(vectors.workers, order, lambda worker, name: _look(vectors.alone(worker), name))
    each = dict(zip(order, found, strict=True))
    return [each[name] for name in vectors.names]


def _look(vectors: TaskVectors, name: str) -> Seen:
    """One pass over a tensor: its magnitudes, its sample and its sizes."""
    n, p = vectors.base[name].size, len(vectors.parents)
    some = vectors.sample([name], min(n, samples.LOOK))[0] if n else np.empty((p, 0), np.float32)
    levels = samples.rarity_levels(some, EDGES)
    limits = samples.limits(some, levels, EDGES, n)
    own, highs = np.zeros((p, loops.PLACES), np.uint32), np.zeros(p, np.uint32)
    totals = np.zeros(len(limits), np.int64)
    lanes, room, picks = np.zeros((p, loops.LANES)), min(n, vectors.workers[0].span), []
    found, classes = np.empty((p, room), np.float32), np.empty(room, np.uint8)

    def one(worker: Worker, span: Span, data: Operands) -> np.ndarray:
        m = loops.look(
            data.base, data.parents, span.start, levels, limits, own, lanes, highs, totals, found, classes
        )
        picks.append((found[:, :m].copy(), classes[:m].copy()))
        return worker.gram(data, "deltas")

    gram = sum(vectors.run(vectors.spans([name]), one), np.zeros((p, p)))
    l1 = lanes.sum(axis=1)
    if not np.isfinite(l1).all():
        vectors.refuse_deltas()
    entries, kinds = [np.concatenate(x, axis=-1) for x in zip(*picks, strict=True)] or [found, classes]
    still = own[:, :2].sum(axis=1) / max(n, 1)
    row = place(name, n) | {"shape": "x".join(map(str, vectors.base[name].shape))}
    row |= _measured(vectors.parents, l1, gram, highs.view(np.float32), 1 - still)
    return Seen(row, [sparse(x) for x in own], samples.draw(entries, kinds, totals))


def _measured(
    parents: Sequence[str], l1: np.ndarray, gram: np.ndarray, largest: np.ndarray, nonzero: np.ndarray
) -> dict[str, float]:
    """A tensor's columns of sizes: arrays have one a parent, gram their dot products."""
    found: dict[str, float] = {}
    for i, parent in enumerate(parents):
        sizes = {"l1": l1[i], "l2": np.sqrt(gram[i, i]), "max": largest[i], "nonzero": nonzero[i]}
        found |= {f"{parent}_{name}": float(x) for name, x in sizes.items()}
    for column, (i, j) in cosine_columns(parents).items():
        size = float(np.sqrt(gram[i, i] * gram[j, j]))
        found[column] = gram[i, j] / size if size else float("nan")
    return found


def cosine_columns(parents: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Of every two parents the column of their task vectors' cosine: cosine of two, else cosine_a_b."""
    pairs = list(combinations(range(len(parents)), 2))
    names = [f"cosine_{parents[i]}_{parents[j]}" for i, j in pairs] if len(pairs) > 1 else ["cosine"]
    return dict(zip(names, pairs, strict=True))


def sizes(atlas: Atlas) -> pd.DataFrame:
    """tensor, n, and of every parent's task vector l1, l2, max and nonzero, and the cosines; one row a tensor
    and one row "(model)"."""
    t, parents = atlas.tensors, atlas.parents
    whole: dict[str, Any] = {"tensor": MODEL, "n": int(t["n"].sum())}
    for parent in parents:
        whole[f"{parent}_l1"] = t[f"{parent}_l1"].sum()
        whole[f"{parent}_l2"] = float(np.sqrt((t[f"{parent}_l2"] ** 2).sum()))
        whole[f"{parent}_max"] = t[f"{parent}_max"].max()
        whole[f"{parent}_nonzero"] = (t[f"{parent}_nonzero"] * t["n"]).sum() / max(whole["n"], 1)
    for column, (i, j) in cosine_columns(parents).items():
        a, b = f"{parents[i]}_l2", f"{parents[j]}_l2"
        across, size = (t[column] * t[a] * t[b]).sum(), whole[a] * whole[b]
        whole[column] = across / size if size else float("nan")
    return pd.concat([t[list(whole)], pd.DataFrame([whole])], ignore_index=True)


def _warn_of_size(table: pd.DataFrame, parents: Sequence[str]) -> None:
    """Magnitudes beyond the last bin are counted in it, so thresholds there come out too small."""
    large = table.loc[(table[[f"{parent}_max" for parent in parents]] >= EDGES[-1]).any(axis=1), "tensor"]
    if len(large):
        text = f"{large.iloc[0]!r}: a task vector holds values of {EDGES[-1]:g} and more"
        warnings.warn(f"{text}; what-ifs will be off there", stacklevel=3)


def save(atlas: Atlas, folder: Path | str) -> Path:
    """Write the folder anew, whole or not at all."""
    s, m = atlas.sample, atlas.magnitudes
    with atomic_folder(Path(folder)) as temporary:
        atlas.tensors.to_parquet(temporary / TABLE, index=False)
        np.savez_compressed(
            temporary / ARRAYS,
            entries=s.entries,
            runs=s.runs,
            stands=s.stands,
            counts=m.counts,
            first=m.first,
        )
        facts = {"format": FORMAT, **atlas.facts, "versions": versions()}
        write_text(temporary / FACTS, json.dumps(facts, indent=1, default=str))
    return Path(folder)


def load(folder: Path | str) -> Atlas:
    """Read an atlas. UserError where it is none, or was written by another version."""
    folder = Path(folder)
    remedy = (
        f"Make it with lrnb conflicts ... --out {folder}, or in a study with "
        "notebooks/03_analysis/02_discarded"
    )
    try:
        facts = dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))
        if facts.get("format") != FORMAT:
            raise UserError(f"{folder}: an atlas of format {facts.get('format')}, this is {FORMAT}. {remedy}")
        stored = dict(np.load(folder / ARRAYS, allow_pickle=False))
        table = pd.read_parquet(folder / TABLE)
        sample = Sample(stored["entries"], stored["runs"], stored["stands"])
        made = Atlas(table, sample, Magnitudes(stored["counts"], int(stored["first"])), facts)
        _check_shapes(made)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise UserError(f"{folder}: no conflict atlas here ({missing} is missing). {remedy}") from None
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{folder}: the atlas is damaged ({error}). {remedy}") from None
    return made


def _check_shapes(made: Atlas) -> None:
    s, size = made.sample, (len(made.tensors), len(made.parents))
    fits = {
        "counts": made.magnitudes.counts.shape[:2] == size,
        "entries": len(s.entries) == size[1] and s.runs[:, 2].max(initial=0) == s.entries.shape[1],
        "runs": s.runs.shape == (len(s.stands), 3) and s.runs[:, 0].max(initial=-1) < size[0],
    }
    if wrong := [name for name, good in fits.items() if not good]:
        raise ValueError(f"{wrong[0]} does not fit {size[0]} tensors of {size[1]} parents")
