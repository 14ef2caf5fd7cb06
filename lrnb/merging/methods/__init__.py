"""The merge methods, a file each; a new one is a file here and a line in NAMES.

`METHODS` has their declarations by name, in the order of every table and legend.
"""

from __future__ import annotations

from importlib import import_module

from lrnb.errors import UserError, did_you_mean
from lrnb.merging.registry import Method

NAMES = (
    "average",
    "task_arithmetic",
    "ties",
    "ties_sv",
    "slerp",
    "nuslerp",
    "widen",
    "layer_swap",
    "lines",
    "localize_and_stitch",
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della",
    "sce",
    "consensus_ta",
    "pcb",
    "iso_c",
    "tsv_m",
    "regmean",
)
METHODS: dict[str, Method] = {name: import_module(f"{__name__}.{name}").METHOD for name in NAMES}


def find(name: str) -> Method:
    """The method called `name`. UserError with the nearest one for an unknown name."""
    if name in METHODS:
        return METHODS[name]
    raise UserError(
        f"unknown merge method {name!r}; methods are {', '.join(METHODS)}{did_you_mean(name, METHODS)}"
    )
