"""RegMean: the matrix whose outputs are nearest, in least squares, to what each parent's own would be.

    G_i = X_i' X_i / tokens, what is off its diagonal times `off_diagonal`
    W   = (sum W_i G_i) (sum G_i)^-1
        = base + (sum tau_i G_i) (sum G_i)^-1

X_i are the inputs that a linear layer of parent i gets on text of its own, a row a token; W is (outputs,
inputs). What has no such matrix, and embeddings and head, takes the mean of the parents.

Source: Jin et al. 2023, "Dataless Knowledge Fusion by Merging Weights of Language Models", arXiv 2212.09849,
where the factor is alpha; the mean over tokens, and the head left out, as in MergeBench's code of it. The G_i
are made by `lrnb importance --kind gram`, for each parent. An input that is 0 in all text says nothing of its
column of W, which takes the mean. The factor stays below 1, where few tokens would leave no inverse.

Two inputs that the parents have in different shares: each column is nearer to the parent that has more.

>>> import numpy as np
>>> base = {"q.weight": np.zeros((1, 2), np.float32)}
>>> ct, sft = {"q.weight": np.float32([[4, 4]])}, {"q.weight": np.float32([[0, 0]])}
>>> grams = {"ct": {"q.weight": np.diag([3.0, 1])}, "sft": {"q.weight": np.diag([1.0, 3])}}
>>> regmean(base, {"ct": ct, "sft": sft}, importance=grams)["q.weight"].tolist()
[[3.0, 1.0]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.checkpoints.importance import GRAM, open_scores
from lrnb.checkpoints.reading import check_finite
from lrnb.errors import UserError
from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.matrices import matrix_memory, prepare_matrix, weighed_mean
from lrnb.merging.registry import Look, Method, Options, Settled, option
from lrnb.merging.task_vectors import TaskVectors

Array = Any
Grams = Sequence[Mapping[str, np.ndarray]]  # of each parent: {tensor: (inputs, inputs)}


@dataclass(frozen=True, kw_only=True)
class RegMean(Options):
    """The options of RegMean."""

    importance: tuple[Any, ...] = option(
        "folder of lrnb importance --kind gram", kind="folder", per_parent=True, named=True
    )
    off_diagonal: float = option(
        "factor on what is off the Gram matrices' diagonal", 0.9, low=0, high=0.99,
        search=(0.1, 0.5, 0.9),
    )  # fmt: skip

    def scope(self) -> str:
        """A matrix by itself."""
        return "tensor"

    def passes(self) -> int:
        """One to solve."""
        return 2

    def memory(self, sizes: Sequence[int], parents: int) -> float:
        """Task vectors and Gram matrices of a layer that has up to three times as many inputs as outputs."""
        return 4 * matrix_memory(sizes, parents)

    def grams(self) -> Grams:
        """Those of each parent, opened."""
        return [x if isinstance(x, Mapping) else open_scores(Path(x), GRAM) for x in self.importance]

    def refuse(self, vectors: TaskVectors) -> None:
        """Gram matrices of other layers, or that are not finite."""
        for parent, own in zip(vectors.parents, self.grams(), strict=True):
            _refuse_misfit(parent, own, vectors)


def _refuse_misfit(parent: str, grams: Mapping[str, np.ndarray], vectors: TaskVectors) -> None:
    who = f"regmean: importance of {parent}"
    for name in (name for name in grams if name in vectors.names):
        shape, found = vectors.base[name].shape, grams[name].shape
        if len(shape) != 2 or found != (shape[1], shape[1]):
            raise UserError(
                f"{who}: {name!r} has the shape {found}, and the tensor is {shape}; make them of that parent "
                "with lrnb importance --kind gram"
            )
    check_finite(who, {name: grams[name] for name in grams if name in vectors.names})


def regmean(
    base: Tensors, parents: Mapping[str, Tensors], *, importance: Mapping[str, Any], off_diagonal: float = 0.9
) -> Tensors:
    """RegMean, formula above. importance: of each parent a folder, or {tensor: Gram matrix (inputs, inputs)}.

    Tensors are dicts; result and errors as in `average`. UserError where Gram matrices do not fit.
    """
    return merge_tensors(METHOD, base, parents, {"importance": importance, "off_diagonal": off_diagonal})


def _prepare(vectors: TaskVectors, names: list[str], options: RegMean) -> Settled:
    """Solves for the matrix, where every parent has its Gram matrix."""
    name, found = names[0], options.grams()
    for parent, own in zip(vectors.parents, found, strict=True):
        _refuse_misfit(parent, {name: own[name]} if name in own else {}, vectors)
    grams = [np.asarray(own[name], np.float64) for own in found if name in own]
    merged = partial(_nearest, grams, options.off_diagonal) if len(grams) == len(found) else None
    return prepare_matrix(vectors, names, 1.0, merged)


def _nearest(grams: list[np.ndarray], factor: float, taus: list[Array]) -> Array:
    """The step of a matrix: (sum tau_i G_i) (sum G_i)^-1."""
    own = [_damped(gram, factor) for gram in grams]
    unseen = np.flatnonzero(np.diagonal(sum(own)) == 0)
    for gram in own:
        gram[unseen, unseen] = 1.0
    return weighed_mean(taus, own)


def _damped(gram: np.ndarray, factor: float) -> np.ndarray:
    """The matrix with what is off its diagonal times a factor."""
    found = factor * gram
    np.fill_diagonal(found, np.diagonal(gram))
    return found


def _needs(options: Mapping[str, Any]) -> str:
    return GRAM


METHOD = Method(
    name="regmean",
    label="RegMean",
    summary="each linear layer nearest, in least squares, to what each parent gives on text of its own",
    source="Jin et al. 2023, arXiv 2212.09849",
    look=Look("#8C510A", "pentagon"),
    options=RegMean,
    prepare=_prepare,
    cost=16,
    needs=_needs,
)
