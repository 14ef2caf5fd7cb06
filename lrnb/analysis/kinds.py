"""What the models of a study are: trained ones, then merges, in the order of every table and legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple, Protocol

from lrnb.merging.methods import METHODS
from lrnb.merging.registry import Look
from lrnb.study.parameters import SFT_X, budget_name


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


def arm_model(kind: str, name: str) -> str:
    """What a kind of model is called whose SFT saw the rows in X that `sft_x` calls `name`.

    ("sft", "human") -> "sft-x-human", ("ct_then_sft", "human") -> "ct_then_sft-x-human", ("ties", "human") ->
    "ties-sft-x-human"; of "" the kind itself.
    """
    if not name:
        return kind
    head = kind.removesuffix("sft")
    return f"{head}{SFT_X}{name}" if head != kind else f"{kind}-{SFT_X}{name}"


def kind_and_rows(model: str) -> tuple[str, str]:
    """`arm_model` undone: the kind of model and the name of its rows in X; "" of one that saw none."""
    head, found, name = model.partition(SFT_X)
    if not found:
        return model, ""
    return (head.removesuffix("-") if head.endswith("-") else f"{head}sft"), name


def ordered(methods: Iterable[str]) -> list[str]:
    """Each once, in the order of KINDS, arms on rows in X by kind; models made elsewhere last."""
    there, places = dict.fromkeys(methods), [*KINDS]
    known = [name for name in there if kind_and_rows(name)[0] in KINDS]
    known.sort(key=lambda name: places.index(kind_and_rows(name)[0]))
    return known + [name for name in there if name not in known]


def look_of(kind: str) -> Look:
    """How it looks in figures: an arm on rows in X as its kind; models made elsewhere look alike."""
    own = kind_and_rows(kind)[0]
    return KINDS[own].look if own in KINDS else ELSEWHERE


def label(kind: str) -> str:
    """The name of a kind of model as a reader sees it; an unknown one is escaped and kept."""
    return KINDS[kind].label if kind in KINDS else escape(_name(kind))


def model_label(method: str, tokens: int) -> str:
    """A model as text shows it: "CT-then-SFT 16k"; nothing is escaped."""
    name = _name(method)
    return f"{name} {budget_name(tokens)}" if tokens else name


def _name(method: str) -> str:
    """ "TIES", "sft-x-human", "CT-then-sft-x-human", "TIES with sft-x-human"; of the unknown its own name."""
    kind, name = kind_and_rows(method)
    if not name or kind not in KINDS:
        return KINDS[method].label if method in KINDS else method
    short = f"{SFT_X}{name}"
    heads = {"sft": "", "ct_then_sft": "CT-then-"}
    return f"{heads[kind]}{short}" if kind in heads else f"{KINDS[kind].label} with {short}"
