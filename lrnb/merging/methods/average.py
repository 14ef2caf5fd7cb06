"""The weighted average of the parents.

    theta = alpha * CT + (1 - alpha) * SFT,    or    sum(w_i * theta_i) / sum(w_i)

Source: Wortsman et al. 2022, "Model soups", arXiv 2203.05482. An entry that is equal in all parents is kept
as it is; the base gives the dtypes and is checked against, its values do not enter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.linear import OfParents
from lrnb.merging.registry import Look, Mergekit, Method, Options, PerParent, Published, no_weight, option
from lrnb.merging.task_vectors import TaskVectors


@dataclass(frozen=True, kw_only=True)
class Average(Options):
    """alpha is the share of the parent named ct, else of the first."""

    alpha: float | None = option(
        "share of ct (or of the first) in the average of two", None, low=0, high=1, search=(0.3, 0.5, 0.7),
        parameter="alphas", label="α (share of CT)",
    )  # fmt: skip
    weights: tuple[float, ...] | None = option(
        "a parent's weight", None, per_parent=True, named=True, mergekit="weight", flag="weight"
    )
    normalize: bool = option("divide by the weights", True, mergekit="normalize")

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """alpha and weights say the same."""
        if self.alpha is not None and (self.weights is not None or len(parents) != 2):
            return f"takes {spell('alpha')} for two parents, without {spell('weights')}"
        if self.normalize and any(self.weights or ()) and not sum(self.weights or ()):
            return (
                f"cannot divide by {spell('weights')} that add up to 0; change them, or leave normalize out"
            )
        return no_weight(self.weights, spell)

    def shares(self, parents: Sequence[str]) -> list[float]:
        """Each parent's share."""
        if self.alpha is not None:
            lead = list(parents).index("ct") if "ct" in parents else 0
            return [self.alpha if i == lead else 1 - self.alpha for i in range(2)]
        weights = self.weights or (1.0,) * len(parents)
        return [weight / sum(weights) if self.normalize else weight for weight in weights]

    def recipe(self, parents: Sequence[str]) -> dict[str, Any]:
        """The shares, however they were given."""
        return {
            "shares": dict(zip(parents, self.shares(parents), strict=True)), "normalize": self.normalize
        }  # fmt: skip


def average(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    alpha: float | None = None,
    weights: PerParent = None,
    normalize: bool = True,
) -> Tensors:
    """Weighted average of tensors or dicts of tensors (numpy or torch); formula above.

    `parents` is {name: same kind as base} or a list; `weights` one number a parent. normalize=False leaves
    the division out. Returns base's kind, shapes and dtypes. UserError where tensors do not match or an
    option is out of range.
    """
    given = {"alpha": alpha, "weights": weights, "normalize": normalize}
    return merge_tensors(METHOD, base, parents, given)


def _prepare(vectors: TaskVectors, names: list[str], options: Average) -> OfParents:
    """Nothing but the shares."""
    shares = options.shares(vectors.parents)
    return OfParents(vectors, names, shares, keep=options.normalize, whole=not options.normalize)


METHOD = Method(
    name="average",
    label="average",
    summary="shares of the parents: alpha * ct + (1 - alpha) * sft, or by weights",
    source="Wortsman et al. 2022, arXiv 2203.05482",
    look=Look("#0072B2", "square"),
    options=Average,
    prepare=_prepare,
    notebook="02_merge/01_average",
    cost=11,
    mergekit=Mergekit("linear", base="parent", ignored={"int8_mask": "it changes no result"}),
    published=(Published({"alpha": 0.5}, "Wortsman et al. 2022, the uniform soup"),),
)
