"""What a merge method declares about itself, and the one place where its options are checked.

A method is one file in `merging/methods/` that ends in `METHOD = Method(...)`, and one line in
`merging/methods/__init__.py`. Command line and help, mergekit reader, card and manifest, candidates on dev,
colours, sliders and the steps of a study read the declaration; no code asks how a method's name is spelled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lrnb.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from lrnb.merging.cpu import Operands, Tally, Worker
    from lrnb.merging.task_vectors import Span, TaskVectors

PerParent = float | Mapping[str, float] | Sequence[float] | None  # for all, by name, in the parents' order
Made = TypeVar("Made", bound="Options")
ANY_METHOD = "02_merge/any_method"  # the notebook of a method that has none of its own
LARGEST = 1e30  # bound of a number that has none of its own: float32 holds it, and its products with weights


class _Required:
    """The default of an option that has to be given."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class Option:
    """What one option is, for everything that asks for it.

    kind: number, switch, choice, folder, or parent (a parent's name). low, high: the range of a number, both
    ends in it, but low itself where `above`. per_parent: one number for all parents, {parent: number} (the
    default, or 1, for those left out), or one a parent in their order. named: commands want it by a parent's
    name, since one for all says nothing. search: its candidates on dev, none where it is not searched;
    parameter: the study's parameter that holds them, a field of `Study`. mergekit: its name in a mergekit
    configuration, "" where that has none. flag: its name as a command's option, where it is another one.
    label: as sliders and axes call it.
    """

    help: str
    default: Any = REQUIRED
    kind: str = "number"
    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False
    choices: tuple[str, ...] = ()
    per_parent: bool = False
    named: bool = False
    search: tuple[float, ...] = ()
    parameter: str = ""
    mergekit: str = ""
    flag: str = ""
    label: str = ""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def range(self) -> str:
        """The range of a number as "(0, 1]", "at least 0", or "" where there is none."""
        if self.high < LARGEST:
            return f"{'(' if self.above else '['}{self.low:g}, {self.high:g}]"
        return f"at least {self.low:g}" if self.low > -LARGEST else ""

    @property
    def slide(self) -> tuple[float, float, float]:
        """From, to and step of a slider; of a number without a range between 0 and 2."""
        step = 0.05
        if self.high == LARGEST:
            return max(self.low, 0.0), 2.0, step
        return self.low + step * self.above, self.high, step

    @property
    def start(self) -> float:
        """Where a slider begins: the default, else the candidate in the middle."""
        return self.search[len(self.search) // 2] if self.default in (None, REQUIRED) else float(self.default)

    def read(self, name: str, value: Any) -> Any:
        """One value, checked. UserError says what was expected."""
        if self.kind == "number":
            return self._number(name, value)
        if self.kind == "switch":
            if value not in (0, 1):
                raise UserError(f"{name}: expected true or false, got {value!r}")
            return bool(value)
        if self.choices and value not in self.choices:
            raise UserError(f"{name} must be one of {', '.join(self.choices)}, got {value!r}")
        return value

    def _wanted(self, number: float) -> str:
        if self.high < LARGEST:
            return f"lie in {self.range}"
        return f"be {self.range}" if number < self.low and self.range else f"be a number up to {LARGEST:g}"

    def _number(self, name: str, value: Any) -> float:
        try:
            number = float("no number" if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            raise UserError(f"{name}: expected a number, got {value!r}") from None
        if not self.low <= number <= self.high or (self.above and number == self.low):
            raise UserError(f"{name} must {self._wanted(number)}, got {value!r}")
        return number


def option(help: str, default: Any = REQUIRED, **facts: Any) -> Any:
    """A field of a method's options: its help, its default (none: it has to be given), facts of `Option`."""
    kind = "switch" if isinstance(default, bool) else "choice" if "choices" in facts else "number"
    spec = Option(help, default, **{"kind": kind, **facts})
    given = {} if spec.required else {"default": default}
    return field(metadata={"option": spec}, **given)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every method's options: fields made by `option`, those per parent as a tuple of floats.

    The functions say what follows from the values; a method overrides those whose answer is another one.
    """

    def complaint(self, parents: Sequence[str], spell: Callable[[str], str]) -> str:
        """What is wrong with the values together or with these parents, after the method's name; or ""."""
        return ""

    def unfit(self, names: Sequence[str]) -> str:
        """What is wrong with models of these tensors, after the method's name; or ""."""
        return ""

    def scope(self) -> str:
        """What is settled together: "model", all tensors, or "tensor", each by itself."""
        return "model"

    def passes(self) -> int:
        """How often the inputs are gone through."""
        return 1

    def memory(self, sizes: Sequence[int], parents: int) -> float:
        """Bytes that settling holds while scopes of these sizes (entries) are open, beside the spans."""
        return 0

    def refuse(self, vectors: TaskVectors) -> None:
        """UserError where the values do not fit the opened models; asked before anything is merged."""

    def doubts(self, parents: Sequence[str], entries: int) -> list[str]:
        """Warnings about values that are allowed and hardly meant, for a model of so many entries."""
        return []

    def recipe(self, parents: Sequence[str]) -> dict[str, Any]:
        """The values for a reader, {parent: number} where they are by parent; what is not set is left out."""
        found = {name: getattr(self, name) for name in fields(type(self))}
        return {
            name: dict(zip(parents, value, strict=True)) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value is not None
        }

    def measured(self, parents: Sequence[str], entries: int, tally: Tally) -> dict[str, Any]:
        """What a merge reports of its counts: `parents` by name and more; nothing where it counts nothing."""
        return {}


def no_weight(weights: Sequence[Any] | None, spell: Callable[[str], str]) -> str:
    """The complaint about weights that are all 0."""
    wanted = f"needs {spell('weights')} other than 0 for one parent at least"
    return wanted if weights and not any(weights) else ""


class Settled(Protocol):
    """A scope of which everything is decided that its spans share. Spans may be merged on any thread."""

    def spans(self) -> list[Span]: ...

    def merge(
        self, worker: Worker, span: Span, data: Operands, dtype: np.dtype
    ) -> tuple[np.ndarray, Tally | None]:
        """A span in its output dtype, and what was counted in it."""
        ...


class Prepare(Protocol):
    """Settles the scope of the tensors `names`; may go through them."""

    def __call__(self, vectors: TaskVectors, names: list[str], options: Any) -> Settled: ...


@dataclass(frozen=True)
class Look:
    """A method in every figure: a colour, plotly's names of a marker and of a dash.

    No other method has the colour or the marker, nor has a trained model (`lrnb/analysis/kinds.py`).
    """

    colour: str
    symbol: str
    dash: str = "solid"


@dataclass(frozen=True)
class Mergekit:
    """A method in mergekit's configurations (0.1.5), beside the options' own names.

    name: its `merge_method`. base: what `base_model` is: "apart" from the parents, a "parent" among others,
    the "first" parent, or "aside", where only shapes and tokenizer are its. defaults: what mergekit does
    where ours is another default; never in the file. fixed: parameters that are read with just this value.
    ignored: {parameter: why it changes nothing}. Every parameter that mergekit's method reads has to be one
    of these or an option's. extra: parameters that no option is called like; translate(values, parents) makes
    options of all values.
    """

    name: str
    base: str = "apart"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Option] = field(default_factory=dict)
    translate: Callable[[dict[str, Any], Sequence[str]], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Published:
    """A setting that a paper or its authors' code gives to be used untuned; options: for parents ct and sft.

    source: where it stands, so that it can be looked up.
    """

    options: Mapping[str, Any]
    source: str

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.options.items())


def no_scores(options: Mapping[str, Any]) -> str:
    """What a method needs beside models."""
    return ""


@dataclass(frozen=True)
class Method:
    """The declaration of a merge method.

    name: in files, parameters and Python; label: as a reader sees it; summary: a line of help; source: the
    paper. prepare(vectors, names, options) settles one scope, see `Prepare`. parents: how many it takes,
    (least, most), most 0 for any number. base: whether it needs a base; one without takes shapes, dtypes,
    configuration and tokenizer of its first parent, and a base that is given is only compared. after: the
    method whose choice on dev the search starts from, which fixes the options that both search. notebook: the
    study's, below notebooks/. cost: the usual seconds of its step at preset nano on a quiet core. published:
    settings of its paper, none where that tunes on the tasks it is measured on. needs: the kind of scores of
    `lrnb importance` that it reads with these options, as its option `importance`, or "".
    """

    name: str
    label: str
    summary: str
    source: str
    look: Look
    options: type[Options]
    prepare: Prepare
    parents: tuple[int, int] = (1, 0)
    base: bool = True
    after: Method | None = None
    notebook: str = ANY_METHOD
    cost: float = 20
    mergekit: Mergekit | None = None
    published: tuple[Published, ...] = ()
    needs: Callable[[Mapping[str, Any]], str] = no_scores

    def fields(self) -> dict[str, Option]:
        """The options by name, in their order."""
        return fields(self.options)

    def searched(self) -> dict[str, Option]:
        """The options that are searched on dev; those that `after` has chosen already are not."""
        known = {name for name, spec in self.after.fields().items() if spec.search} if self.after else set()
        return {name: spec for name, spec in self.fields().items() if spec.search and name not in known}

    def settle(
        self,
        parents: Sequence[str],
        given: Mapping[str, Any],
        *,
        who: str = "",
        spell: Callable[[str], str] = str,
    ) -> Any:
        """The options for these parents, checked, defaults filled in; None counts as not given.

        who and spell: how messages call the method and its options, such as "merge ties" and "--density".
        UserError for parents that are too few or too many, an option that is unknown, missing or out of
        range, and values that contradict each other.
        """
        who, (least, most) = who or self.name, self.parents
        if len(parents) < least or (most and len(parents) > most):
            wanted = f"{least} models" if least == most else f"at least {least} models"
            where = " beside the base" if self.base else ""
            raise UserError(f"{who} takes {wanted}{where}, got {len(parents)}: {', '.join(parents)}")
        return settle(self.options, parents, given, who=who, spell=spell)


def refuse_unfit(method: str, options: Options, names: Sequence[str]) -> None:
    """UserError where the options do not go with models of these tensors."""
    if wrong := options.unfit(names):
        raise UserError(f"{method} {wrong}")


def fields(options: type[Options]) -> dict[str, Option]:
    """The options by name, in their order."""
    return {x.name: x.metadata["option"] for x in dataclasses.fields(options)}


def settle(
    options: type[Made],
    parents: Sequence[str],
    given: Mapping[str, Any],
    *,
    who: str,
    spell: Callable[[str], str] = str,
) -> Made:
    """Options of a class, checked: see `Method.settle`."""
    known = fields(options)
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"{who} has no {_unknown(unknown[0], known, spell)}")
    values = {name: value for name, value in given.items() if value is not None}
    if missing := [name for name, spec in known.items() if spec.required and name not in values]:
        raise UserError(f"{who} needs {spell(missing[0])}, {known[missing[0]].help}")
    read = {name: _value(known[name], f"{who}: {spell(name)}", parents, x) for name, x in _all(known, values)}
    made = options(**read)
    if wrong := made.complaint(parents, spell):
        raise UserError(f"{who} {wrong}")
    return made


def _all(known: Mapping[str, Option], values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found = {name: values.get(name, spec.default) for name, spec in known.items()}
    return [(name, value) for name, value in found.items() if value is not None]


def _value(spec: Option, name: str, parents: Sequence[str], value: Any) -> Any:
    if spec.kind == "parent" and value not in parents:
        raise UserError(f"{name}: no parent is called {value!r}; give one of {', '.join(parents)}")
    if not spec.per_parent:
        return spec.read(name, value)
    return tuple(spec.read(name, x) for x in _each(spec, name, parents, value))


def _each(spec: Option, name: str, parents: Sequence[str], value: Any) -> list[Any]:
    """One value a parent, in their order."""
    value = value.tolist() if hasattr(value, "tolist") else value  # arrays and numbers of numpy
    if isinstance(value, Mapping):
        if unknown := [x for x in value if x not in parents]:
            raise UserError(f"{name}: no parent {unknown[0]!r}; parents are {[*parents]}")
        if spec.kind == "folder" and (left := [x for x in parents if x not in value]):
            raise UserError(f"{name}: give a folder for {', '.join(left)} too")
        rest = 1.0 if spec.required or spec.default is None else spec.default
        return [value.get(parent, rest) for parent in parents]
    if isinstance(value, Collection) and not isinstance(value, str):
        if len(value) != len(parents):
            raise UserError(f"{name}: {len(value)} values for {len(parents)} parents {[*parents]}")
        return list(value)
    return [value] * len(parents)


def _unknown(name: str, known: Collection[str], spell: Callable[[str], str]) -> str:
    hint = did_you_mean(name, known, spell)
    return f"{spell(name)}; its options are {', '.join(map(spell, sorted(known)))}{hint}"
