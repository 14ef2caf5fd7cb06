"""What the models of a study are: trained ones, then merges, in the order of every table and legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple, Protocol

from lrnb.merging.methods import METHODS
from lrnb.merging.registry import Look
from lrnb.study.parameters import budget_name


class Kind(Protocol):
    """What a kind of model is called, and how it looks in every figure; every merge method is one."""

    @property
    def label(self) -> str: ...
    @property
    def look(self) -> Look: ...


class Trained(NamedTuple):
    """A kind of model that is trained, not merged."""

    label: str
    look: Look


TRAINED: Mapping[str, Kind] = {
    "base": Trained("base", Look("#8c8c8c", "circle-open", "dot")),
    "ct": Trained("CT", Look("#E69F00", "square-open", "dot")),
    "sft": Trained("SFT-en", Look("#56B4E9", "diamond-open", "dot")),
    "ct_then_sft": Trained("CT-then-SFT", Look("#24292f", "circle")),
}
KINDS: Mapping[str, Kind] = {**TRAINED, **METHODS}
ELSEWHERE = Look("#4d4d4d", "star", "longdash")


def ordered(methods: Iterable[str]) -> list[str]:
    """Each once, in the order of KINDS; models that were made elsewhere come after them."""
    there = dict.fromkeys(methods)
    return [kind for kind in KINDS if kind in there] + [name for name in there if name not in KINDS]


def look_of(kind: str) -> Look:
    """How it looks in figures; models that were made elsewhere look alike."""
    return KINDS[kind].look if kind in KINDS else ELSEWHERE


def label(kind: str) -> str:
    """The name of a kind of model as a reader sees it; an unknown one is escaped and kept."""
    return KINDS[kind].label if kind in KINDS else escape(kind)


def model_label(method: str, tokens: int) -> str:
    """A model as text shows it: "CT-then-SFT 16k"; nothing is escaped."""
    name = KINDS[method].label if method in KINDS else method
    return f"{name} {budget_name(tokens)}" if tokens else name
