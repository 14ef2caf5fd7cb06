"""Options that several methods have in common, said once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lrnb.merging.registry import option

#: a source of `published` settings, for this very job: the commands in the README of the authors' code
WIDEN = "the authors of WIDEN, arXiv 2408.03092, for Sailor-7B (CT) and Qwen1.5-7B-Chat"


def density_option(search: Sequence[float] = (0.2, 0.5, 0.8), **facts: Any) -> Any:
    """The share of entries kept of each parent; search: its candidates on dev."""
    text = "the share of entries kept"
    return option(text, low=0, high=1, above=True, per_parent=True, search=tuple(search), **facts)


def trimmed_density_option() -> Any:
    """The same with the study's `densities` and mergekit's name."""
    return density_option(parameter="densities", mergekit="density")


def at_threshold_option() -> Any:
    """What becomes of entries that equal the threshold."""
    text = "equal magnitudes at the threshold: keep all, or the first so that exactly k stay"
    return option(text, "keep-all", choices=("keep-all", "exact"))


def trim_scope_option(default: str) -> Any:
    """What a threshold is over."""
    return option("one threshold a model or a tensor", default, choices=("model", "tensor"))
