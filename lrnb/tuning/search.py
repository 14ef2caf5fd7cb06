"""What is tried on dev: the candidates of every arm of a study, as many of each as `tuning_trials` allows.

A merge method's candidates are, later ones first: `search: {METHOD: {OPTION: [values]}}` of the study, the
short form that the option's declaration names (`densities`), the declaration's own values. A method with
`after` takes what that one chose for the options that both search, unless `search` names them. SFT's
candidates are learning rates, then epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import isclose, prod
from typing import Any, NamedTuple, TypeVar

from lrnb.errors import UserError, did_you_mean
from lrnb.merging.methods import METHODS, find
from lrnb.merging.registry import ANY_METHOD, Option
from lrnb.study.parameters import Study

PARENTS = ("ct", "sft")  # of every merge of a study with one language
RATES, EPOCHS = (1.0, 0.5, 0.25), (1, 2)  # of SFT: factors on sft_lr and sft_epochs, the fixed default first
Candidate = TypeVar("Candidate")


class SftCandidate(NamedTuple):
    """How SFT may be trained: peak learning rate, end of its cosine (0: a tenth of it), passes."""

    lr: float
    min_lr: float
    epochs: int


def sft_candidates(study: Study, arm: str = "") -> list[SftCandidate]:
    """The first `tuning_trials` of {1, 1/2, 1/4} of `sft_lr` at `sft_epochs`, then the same at twice as many.

    arm: "sft" or "ct_then_sft" (default: by `sft_parent`); its rates and epochs in `sft_search` are tried in
    their place, in that order.
    """
    given = study.sft_search.get(arm or ("sft" if study.sft_parent == "base" else "ct_then_sft"), {})  # type: ignore[call-overload]
    rates = given.get("lr", [study.sft_lr * rate for rate in RATES])
    epochs = given.get("epochs", [study.sft_epochs * times for times in EPOCHS])
    made = [
        SftCandidate(rate, study.sft_min_lr * (rate / study.sft_lr), int(passes))
        for passes, rate in product(epochs, rates)
    ]
    return made[: study.tuning_trials]


def sft_default(study: Study) -> SftCandidate:
    """How SFT is trained where nothing is tried."""
    return SftCandidate(study.sft_lr, study.sft_min_lr, study.sft_epochs)


def searched(study: Study, method: str) -> list[str]:
    """The options that are searched for a method, in the order of its declaration. UserError if unknown."""
    how, given = find(method), study.search.get(method, {})
    for name in given:
        _searchable(method, name, how.fields())
    return [name for name in how.fields() if name in how.searched() or name in given]


def candidates(study: Study, method: str) -> dict[str, list[Any]]:
    """The values of every option that is searched. UserError for an empty list or a value out of range."""
    known = find(method).fields()
    return {name: _values(study, method, name, known[name]) for name in searched(study, method)}


def choices_of(study: Study, method: str) -> dict[str, list[str]]:
    """The words that are tried for the options of a method that are choices; only `search` names such."""
    known, given = find(method).fields(), study.search.get(method, {})
    names = [name for name in searched(study, method) if name in given and known[name].kind == "choice"]
    return {name: _values(study, method, name, known[name]) for name in names}


def _searchable(method: str, name: str, known: dict[str, Option]) -> None:
    able = [option for option, spec in known.items() if _able(option, spec)]
    if name not in able:
        hint = did_you_mean(name, able)
        raise UserError(f"search: {method} has no option {name!r} to search; it has {', '.join(able)}{hint}")


def _able(name: str, spec: Option) -> bool:
    """A choice that the study does not make for all methods; or a number for all parents, and none that is
    off by default and only stands in another one's place.
    """
    if spec.kind == "choice":
        return name not in Study.model_fields
    return spec.kind == "number" and not spec.named and (bool(spec.search) or spec.default is not None)


def _values(study: Study, method: str, name: str, spec: Option) -> list[Any]:
    own = study.search.get(method, {}).get(name)
    where = f"search: {method}: {name}" if own is not None or not spec.parameter else spec.parameter
    if own is None:  # a notebook declares the lists that it needs
        own = list(getattr(study, spec.parameter) if spec.parameter else spec.search)
    values = list(own)
    if not values:
        raise UserError(f"{where}: the list is empty; give at least one value, or leave the line out")
    if twice := [value for value in values if values.count(value) > 1]:
        raise UserError(f"{where}: {_told(twice[0])} is there twice; give each value once")
    return [spec.read(where, value) for value in values]


def _told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def candidate_grid(study: Study, method: str) -> list[dict[str, Any]]:
    """The candidates of a method that are tried: one dict of options each, in the order of the study's lists.

    All combinations, `thinned` to `tuning_trials`. A single one is the declaration's default, if it is there.
    """
    lists = candidates(study, method)
    grid = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    usual = [options for options in grid if is_default(study, method, options)]
    return usual if usual and study.tuning_trials == 1 else thinned(grid, study.tuning_trials)


def thinned(grid: list[Candidate], most: int) -> list[Candidate]:
    """`most` of the grid, spread evenly over its order: the first, the last, and between them the nearest to
    equal steps, upwards where two are as near; of one the middle. A grid that is no larger is tried whole.
    """
    last = len(grid) - 1
    if most == 1:
        return [grid[last // 2]]
    return [grid[int(i * last / (most - 1) + 0.5)] for i in range(most)] if last >= most else grid


def grid_size(study: Study, method: str) -> int:
    """How many combinations the study's lists give, of which `candidate_grid` are tried."""
    return prod(map(len, candidates(study, method).values()))


def is_default(study: Study, method: str, options: dict[str, Any]) -> bool:
    """Whether the options that are searched, for the method or the one before it, have their defaults here.

    One without a default has the middle of its declared candidates for it, where its slider begins.
    """
    known = find(method).fields()
    names = {*searched(study, method), *taken_over(study, method)}
    return all(name not in options or _is_start(known[name], options[name]) for name in names)


def _is_start(spec: Option, value: float | str) -> bool:
    return value == spec.default if isinstance(value, str) else isclose(value, spec.start)


def taken_over(study: Study, method: str) -> tuple[str, ...]:
    """The options that a method takes from the choice of the method it comes after."""
    how = find(method)
    if how.after is None:
        return ()
    own = searched(study, method)
    return tuple(name for name in searched(study, how.after.name) if name in how.fields() and name not in own)


def settings(study: Study, method: str) -> dict[str, Any]:
    """The study's parameters that are options of a method, which nobody searches: trim_scope, zero_sign."""
    return {name: getattr(study, name) for name in find(method).fields() if name in Study.model_fields}


def stays_on_disk(study: Study, method: str) -> bool:
    """Whether the chosen merges of a method are written; those of others are made in memory and scored.

    By `keep`: all, the paper's four (chosen), which are those with a notebook of their own, or none (scores).
    """
    return study.keep == "all" or (study.keep == "chosen" and find(method).notebook != ANY_METHOD)


def elected(study: Study) -> list[str]:
    """The study's methods whose choice on dev the conflict atlases are made at: the last has the word."""
    return [method for method in ("ties", "ties_sv") if method in study.methods]


def merges_on_dev(study: Study) -> int:
    """Merges that are tried on dev, for one budget."""
    return sum(len(candidate_grid(study, method)) for method in study.methods)


def methods_together(study: Study, langs: Sequence[str]) -> list[str]:
    """The study's methods that take the CT of several languages and SFT, each after the one it starts from.

    UserError where none does.
    """
    most = {name: find(name).parents[1] for name in study.methods}
    found = [name for name in METHODS if name in most and not 0 < most[name] <= len(langs)]
    found = [name for name in found if (after := find(name).after) is None or after.name in found]
    if not found:
        raise UserError(
            f"merge_languages: none of {', '.join(most)} merges {len(langs) + 1} models; add ties"
        )
    return found


def for_languages(options: Mapping[str, Any], langs: Sequence[str]) -> dict[str, Any]:
    """The options of a merge of CT and SFT for one of the CT of several languages and SFT.

    The languages share CT's part of an average, by their codes; all else is for each of the parents.
    """
    alpha = options.get("alpha")
    if alpha is None or len(langs) == 1:
        return dict(options)
    weights = dict.fromkeys(langs, alpha / len(langs)) | {"sft": 1 - alpha}
    return {name: value for name, value in options.items() if name != "alpha"} | {"weights": weights}


def check_search(study: Study) -> None:
    """UserError where `search` names a method, an option or values that the declarations do not allow."""
    for method, lists in study.search.items():
        known = find(method).fields()
        searched(study, method)  # the names
        for name in lists:
            _values(study, method, name, known[name])


def check_methods(study: Study) -> None:
    """UserError where `methods` or `search` of a study ask for what the declarations do not allow."""
    check_search(study)
    if taken := [name for name in study.extra_models if name in METHODS]:
        raise UserError(f"extra_models: {taken[0]!r} is a merge method; give the model another name")
    for method in study.search:
        if method not in study.methods:
            raise UserError(
                f"search: {method} is not among methods, {', '.join(study.methods)}; add it there"
            )
    for method in study.methods:
        how, first = find(method), {name: values[0] for name, values in candidates(study, method).items()}
        if how.after is not None:
            if how.after.name not in study.methods:
                raise UserError(f"methods: {method} starts from the choice of {how.after.name}; add it")
            chosen = candidates(study, how.after.name)
            first |= {name: chosen[name][0] for name in taken_over(study, method)}
        given = settings(study, method) | first
        how.settle(PARENTS, given | {"importance": kind} if (kind := how.needs(given)) else given)
