"""The options of trimming and election, which TIES, TIES-SV and the conflict tables share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrnb.merging.combining import empty_shares
from lrnb.merging.cpu import Tally
from lrnb.merging.equalising import equalise_option, equalising_passes
from lrnb.merging.registry import Options, no_weight, option
from lrnb.merging.shared_options import at_threshold_option, trim_scope_option, trimmed_density_option
from lrnb.merging.thresholds import SIGMAS, sample_size


@dataclass(frozen=True, kw_only=True)
class Merging(Options):
    """How entries are kept, signs elected and the rest merged; see `lrnb/merging/election.py`."""

    density: tuple[float, ...] = trimmed_density_option()
    weights: tuple[float, ...] = option(
        "a parent's weight", 1.0, low=0, per_parent=True, named=True, mergekit="weight", flag="weight"
    )
    normalize: bool = option("divide by the weights", True, mergekit="normalize")
    at_threshold: str = at_threshold_option()
    zero_sign: str = option(
        "sign where the weighted sum is exactly 0", "majority", choices=("majority", "positive")
    )
    lam: float = option(
        "factor on the merged task vector",
        1.0,
        search=(0.5, 0.75, 1.0),
        parameter="lams",
        mergekit="lambda",
        label="λ",
    )
    trim_scope: str = trim_scope_option("model")
    equalise: str = equalise_option()

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """A sum that float32 cannot tell from none elects nothing."""
        return no_weight([*map(np.float32, self.weights)], spell)

    def scope(self) -> str:
        """As asked for."""
        return self.trim_scope

    def passes(self) -> int:
        """To cut, to count votes unless the sign of ties is given, to merge; and to equalise."""
        return (2 if self.zero_sign == "positive" else 3) + equalising_passes(self.equalise)

    def memory(self, sizes: Sequence[int], parents: int) -> float:
        """The sample, or what the selection collects inside its bracket and a copy of one parent's."""
        total = 0.0
        for n in sizes:
            sample = min(n, sample_size(n))
            inside = n * min(1.0, 2 * SIGMAS * 0.5 / max(sample, 1) ** 0.5)
            total += max((2 * parents + 1) * sample, parents * sample + (parents + 1) * inside)
        return 4 * total

    def doubts(self, parents: Sequence[str], entries: int) -> list[str]:
        """Of every parent of which trimming keeps nothing."""
        return empty_shares(parents, self.density, entries)

    def measured(self, parents: Sequence[str], entries: int, tally: Tally) -> dict[str, Any]:
        """kept_share and conflict_share are of all entries, discarded_share of the parent's kept ones."""
        rows = {}
        for i, parent in enumerate(parents):
            kept, lost = int(tally.kept[i]), int(tally.lost[i])
            rows[parent] = {
                "asked_density": self.density[i], "kept": kept, "kept_share": share(kept, entries),
                "discarded": lost, "discarded_share": share(lost, kept),
            }  # fmt: skip
        conflicts = share(tally.conflicts, entries)
        return {"parents": rows, "conflicts": tally.conflicts, "conflict_share": conflicts}


def share(part: int, whole: int) -> float:
    """part / whole, 0 of nothing."""
    return part / whole if whole else 0.0
