"""The merges that the paper's open questions 1 and 4 are asked with. Each has a name that a pool keeps.

Question 1, slack against other selectors: TIES-SV with the same number of entries won back, chosen by each
rule. The ends are the same for all rules: nothing won back (TIES), and everything.

Question 4, can the plateau be removed: TIES and task arithmetic with weights that are evened out and as they
are, and three methods that hold no such election.

All options are fixed, the same at every CT budget, so that only CT differs: what is not given here stands at
the declaration's default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lrnb.checkpoints.importance import BY_ENTRY
from lrnb.merging.methods import find
from lrnb.merging.selectors import RULES

SELECTORS = (*RULES, *BY_ENTRY)  # of TIES-SV's reserve_by; the first is the paper's
DENSITIES = (0.5, 0.2)  # in the order in which they are run
SHARES = (0.3, 0.1, 0.5)  # of SFT's lost entries that are won back; in that order, too
EVENED = ("none", "norm", "share")


class Asked(NamedTuple):
    """A merge that is asked for: its method and the options that are given."""

    method: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """ "ties_sv density=0.5 slack=0.1 reserve_by=margin" """
        return " ".join([self.method, *(f"{option}={value}" for option, value in self.options)])


def no_slack(density: float) -> Asked:
    """Where every selector's line begins."""
    return Asked("ties", (("density", density),))


def all_won_back(density: float) -> Asked:
    """Where it ends."""
    return Asked("ties_sv", (("density", density), ("slack", 1.0)))


def selected(density: float, share: float, selector: str) -> Asked:
    """A point between."""
    return Asked("ties_sv", (("density", density), ("slack", share), ("reserve_by", selector)))


def evened_merge(method: str, how: str) -> Asked:
    """TIES (density 0.5, as conflicts/shares.csv counts it) or task arithmetic, with weights evened out."""
    given: tuple[tuple[str, Any], ...] = (("density", 0.5),) if method == "ties" else ()
    return Asked(method, given if how == "none" else (*given, ("equalise", how)))


TIES = [evened_merge("ties", how) for how in EVENED]
#: Localize-and-Stitch has no default; the middle of its candidates
RIVALS = [Asked("widen"), Asked("layer_swap"), Asked("localize_and_stitch", (("density", 0.1),))]


def selector_merges(density: float, shares: Sequence[float] = SHARES) -> list[Asked]:
    """Question 1 at one density, the ends of the lines first."""
    between = [selected(density, share, rule) for share in shares for rule in SELECTORS]
    return [no_slack(density), all_won_back(density), *between]


def plateau_merges() -> list[Asked]:
    """Question 4."""
    return [*TIES, *(evened_merge("task_arithmetic", how) for how in EVENED), *RIVALS]


def in_order(budgets: Iterable[int]) -> list[tuple[Asked, int]]:
    """All merges at all CT budgets, those first that a pool of few has most use for.

    One cell of question 1 and TIES evened; the rest of question 4; the rest of question 1. The first and the
    last budget come before those between.
    """
    first = [*selector_merges(DENSITIES[0], SHARES[:1]), *TIES]
    groups = [first, plateau_merges(), *map(selector_merges, DENSITIES)]
    first_budget, *between = budgets
    budgets = [first_budget, *between[-1:], *between[:-1]]
    return list(dict.fromkeys((one, budget) for group in groups for budget in budgets for one in group))


def published_merges(methods: Iterable[str], budgets: Iterable[int]) -> list[tuple[Asked, int]]:
    """Every method of these at the settings that its declaration calls published, at all CT budgets."""
    asked = [Asked(name, tuple(one.options.items())) for name in methods for one in find(name).published]
    return [(one, budget) for budget in budgets for one in asked]


def shown_name(one: Asked) -> str:
    """As a reader sees it: "TIES, evened by norm"."""
    how = dict(one.options).get("equalise", "none")
    return find(one.method).label + (f", evened by {how}" if how != "none" else "")


def names_of(asked: Iterable[Asked], budgets: Iterable[int]) -> list[str]:
    """Their names in a pool, at every CT budget."""
    budgets = list(budgets)
    return [f"{one.name}@{budget}" for one in asked for budget in budgets]
