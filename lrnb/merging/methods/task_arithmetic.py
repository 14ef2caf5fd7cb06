"""Task arithmetic: task vectors, each by its factor, added to the base.

    theta = base + sum(lambda_i * tau_i)

Source: Ilharco et al. 2023, "Editing Models with Task Arithmetic", arXiv 2212.04089. Two of its points have
names of their own: lambda 1 for each is the Chat Vector (Huang et al. 2023, arXiv 2310.04799: the model
trained on a language, plus what chat tuning changed), and 1/n for each is the average of the task vectors.
`equalise` multiplies the lambdas by factors that follow from the task vectors' sizes, see
`lrnb/merging/equalising.py`.

>>> from lrnb.merging.by_hand import BASE, TAU_CT, TAU_SFT
>>> parents = {"ct": BASE + TAU_CT, "sft": BASE + TAU_SFT}
>>> (task_arithmetic(BASE, parents) - BASE).round(3).tolist()                    # the Chat Vector
[0.35, -0.2, 0.7, -0.35, -0.1, 0.4]
>>> (task_arithmetic(BASE, parents, lam=0.5) - BASE).round(3).tolist()           # the average
[0.175, -0.1, 0.35, -0.175, -0.05, 0.2]
>>> (task_arithmetic(BASE, parents, equalise="norm") - BASE).round(3).tolist()   # factors 0.956 and 1.044
[0.295, -0.187, 0.704, -0.383, -0.051, 0.409]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrnb.merging.engine import Tensors, merge_tensors
from lrnb.merging.equalising import equalise_option, equalising_factors, equalising_passes
from lrnb.merging.linear import OfTaskVectors
from lrnb.merging.registry import Look, Mergekit, Method, Option, Options, PerParent, Published, option
from lrnb.merging.shared_options import WIDEN
from lrnb.merging.task_vectors import TaskVectors


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Options):
    lam: tuple[float, ...] = option(
        "factor on task vectors", 1.0, per_parent=True, search=(0.5, 0.75, 1.0), parameter="lams", label="λ",
        mergekit="weight",
    )  # fmt: skip
    normalize: bool = option("divide by the sum of the factors", False, mergekit="normalize")
    equalise: str = equalise_option()

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """Nothing can be divided by 0."""
        wrong = self.normalize and not sum(self.lam)
        return f"cannot divide by the sum of {spell('lam')}, which is 0; leave normalize out" if wrong else ""

    def factors(self) -> list[float]:
        """Each task vector's factor."""
        return [lam / sum(self.lam) for lam in self.lam] if self.normalize else list(self.lam)

    def recipe(self, parents: Sequence[str]) -> dict[str, Any]:
        """The factors as they are multiplied."""
        even = {} if self.equalise == "none" else {"equalise": self.equalise}
        return {"lam": dict(zip(parents, self.factors(), strict=True))} | even

    def passes(self) -> int:
        """One more for the sizes of the task vectors, where these count."""
        return 1 + equalising_passes(self.equalise)


def task_arithmetic(
    base: Tensors,
    parents: Mapping[str, Tensors] | Sequence[Tensors],
    *,
    lam: PerParent = 1.0,
    normalize: bool = False,
    equalise: str = "none",
) -> Tensors:
    """base + sum of lam_i * task vector_i; `lam` is a number or one per parent, divided by their sum
    with `normalize`; equalise: none, norm, share or square. Tensors, result and errors as in `average`."""
    given = {"lam": lam, "normalize": normalize, "equalise": equalise}
    return merge_tensors(METHOD, base, parents, given)


def _prepare(vectors: TaskVectors, names: list[str], options: TaskArithmetic) -> OfTaskVectors:
    """Nothing but the factors, and the task vectors' sizes where these count."""
    even = equalising_factors(vectors, names, options.equalise)
    return OfTaskVectors(vectors, names, [a * b for a, b in zip(options.factors(), even, strict=True)])


def _from_mergekit(given: dict[str, Any], parents: Sequence[str]) -> dict[str, Any]:
    """lambda * weight of each; with `normalize` divided by the sum of the weights unless that is about 0."""
    weights, lam = given["lam"], given.get("lambda", 1.0)
    total = sum(weights.values()) if given.get("normalize") else 1.0
    lam /= total if abs(total) >= 1e-8 else 1.0
    return {"lam": {name: lam * weight for name, weight in weights.items()}}


METHOD = Method(
    name="task_arithmetic",
    label="task arithmetic",
    summary="base + sum of lam * (parent - base)",
    source="Ilharco et al. 2023, arXiv 2212.04089",
    look=Look("#009E73", "diamond"),
    options=TaskArithmetic,
    prepare=_prepare,
    notebook="02_merge/01_average",
    cost=11,
    mergekit=Mergekit(
        "task_arithmetic",
        ignored={
            "int8_mask": "it changes no result",
            "density": "task_arithmetic does not trim, in mergekit neither",
            "rescale": "nothing is trimmed",
        },
        extra={"lambda": Option("factor on all", 1.0)},
        translate=_from_mergekit,
    ),
    published=(
        Published({"lam": 0.4}, "Yadav et al. 2023, arXiv 2306.01708, where there is no validation set"),
        Published({"lam": 1.0}, f"Chat Vector, arXiv 2310.04799; {WIDEN}"),
    ),
)
