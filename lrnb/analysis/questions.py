"""What the stored merges of `question_merges` say, over the seeds of their pool, each seed once.

Every number is a contrast: a sum of merges by weights, within one seed on the same items. Scores have the
crossed interval over seeds and items (`statistics.over_seeds`), what has one number a seed Student's t
(`statistics.over_runs`). Holm's correction runs within a question, for each measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lrnb import statistics
from lrnb.analysis import pool
from lrnb.analysis.comparisons import ModelKey
from lrnb.analysis.pool_lines import Line, arm_name, headline_lines, right_of, seeds_share_items
from lrnb.analysis.question_merges import (
    DENSITIES,
    EVENED,
    RIVALS,
    SELECTORS,
    SHARES,
    TIES,
    Asked,
    all_won_back,
    evened_merge,
    names_of,
    no_slack,
    plateau_merges,
    selected,
)
from lrnb.errors import UserError
from lrnb.study.parameters import ROOT

Terms = Mapping[tuple[Asked, int], float]  # a merge at a CT budget: its weight
X, EN, BITS_X, BITS_EN = "score in X", "score in English", "bits per byte in X", "bits per byte in English"
MEASURES = (X, EN, BITS_X, BITS_EN)


def read_questions(path: Path) -> list[Line]:
    """The `asked_runs` of the pool at `path`; a relative path counts from the checkout.

    UserError where these are fewer than two.
    """
    path = ROOT / path
    lines = pool.read_pool(path)
    if len(found := asked_runs(lines)) < 2:
        raise UserError(
            f"{path}: {len(found)} of its {len(lines)} runs have the merges of question 1, and two are "
            "needed; `make questions` goes on where it stopped"
        )
    return found


def asked_runs(lines: Sequence[Line]) -> list[Line]:
    """Those with a cell of question 1, on the instruction set with most seeds."""
    return [line for line in headline_lines(lines) if cells_of([line])]


def planned_budgets(lines: Sequence[Line]) -> list[int]:
    """The CT budgets of the runs, ascending."""
    return list(lines[0]["parameters"]["ct_budgets"])


def budgets_of(lines: Sequence[Line]) -> list[int]:
    """Those at which every run has TIES of question 4."""
    return [b for b in planned_budgets(lines) if all(_has(line, TIES, [b]) for line in lines)]


def _ends(lines: Sequence[Line]) -> tuple[int, int]:
    """The first and the last of `budgets_of`. UserError where there are not two."""
    if len(budgets := budgets_of(lines)) < 2:
        raise UserError(
            f"question 4 goes from one CT budget to another, and all {len(lines)} runs have TIES at "
            f"{len(budgets)}; `make questions` goes on where it stopped"
        )
    return budgets[0], budgets[-1]


class Cell(NamedTuple):
    """Where selectors are compared, all winning back as many entries."""

    density: float
    share: float
    ct_tokens: int

    @property
    def merges(self) -> list[Asked]:
        ends = [no_slack(self.density), all_won_back(self.density)]
        return [*ends, *(selected(self.density, self.share, rule) for rule in SELECTORS)]


def planned_cells(lines: Sequence[Line]) -> list[Cell]:
    """All cells of question 1, ascending."""
    return [Cell(d, s, b) for d in sorted(DENSITIES) for s in sorted(SHARES) for b in planned_budgets(lines)]


def cells_of(lines: Sequence[Line]) -> list[Cell]:
    """Those that every run has."""
    return [c for c in planned_cells(lines) if all(_has(line, c.merges, [c.ct_tokens]) for line in lines)]


def merges_of(lines: Sequence[Line]) -> list[Asked]:
    """Those of question 4 that every run has at all of `budgets_of`."""
    budgets = budgets_of(lines)
    return [one for one in plateau_merges() if all(_has(line, [one], budgets) for line in lines)]


def _has(line: Line, asked: Iterable[Asked], budgets: Iterable[int]) -> bool:
    return set(names_of(asked, budgets)) <= line["items"].keys()


class Answers:
    """The runs of a pool, unpacked once."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines, self.rights = list(lines), [right_of(line) for line in lines]

    def contrast(self, terms: Terms, measure: str) -> statistics.Difference:
        """A sum of merges over the seeds: scores in points, bits per byte, or a count of `counts` by name.

        A merge minus itself is 0, and nothing about it is unsure.
        """
        if not any(terms.values()):
            return statistics.Difference(0.0, 0.0, 0.0, 1.0, 0)
        if measure not in (X, EN):
            return statistics.over_runs([self._number(line, terms, measure) for line in self.lines])
        bound = max(sum(w for w in terms.values() if w * sign > 0) * sign for sign in (1, -1))
        samples = [self._items(right, terms, measure == EN) for right in self.rights]
        found = statistics.over_seeds(samples, shared=seeds_share_items(self.lines), bounds=(-bound, bound))
        return found._replace(**{name: 100 * getattr(found, name) for name in ("value", "ci_low", "ci_high")})

    def _items(self, right: Any, terms: Terms, english: bool) -> list[pd.Series]:
        """Of every task the sum of the answers, item by item."""
        keys: dict[ModelKey, float] = {(one.name, tokens): w for (one, tokens), w in terms.items()}
        tasks = [task for task in right[next(iter(keys))] if task.endswith("_en") == english]
        return [pd.Series(sum(w * right[key][task] for key, w in keys.items())) for task in tasks]

    def _number(self, line: Line, terms: Terms, measure: str) -> float:
        lang = {BITS_X: line["parameters"]["lang"], BITS_EN: "en"}.get(measure)
        kind, column = ("bits", lang) if lang else ("counts", measure)
        return float(sum(w * line[kind][arm_name(a.name, b)][column] for (a, b), w in terms.items()))

    def row(self, terms: Terms, measure: str) -> dict[str, Any]:
        """The contrast as a row of a table: difference, ci_low, ci_high, p, seeds."""
        found = self.contrast(terms, measure)
        ends = {"difference": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
        return ends | {"p": found.p, "seeds": len(self.lines)}


def minus(these: Terms, those: Terms) -> dict[tuple[Asked, int], float]:
    """One sum of merges minus another."""
    return {key: these.get(key, 0.0) - those.get(key, 0.0) for key in {**these, **those}}


def mean_of(keys: Sequence[tuple[Asked, int]]) -> dict[tuple[Asked, int], float]:
    """The mean of several merges; one may stand there more than once."""
    found = dict.fromkeys(keys, 0.0)
    for key in keys:
        found[key] += 1 / len(keys)
    return found


def with_holm_by(rows: Sequence[Mapping[str, Any]], by: str = "measure") -> pd.DataFrame:
    """The rows with p_holm, corrected over all rows of each measure."""
    table = pd.DataFrame(rows)
    return table.assign(p_holm=table.groupby(by)["p"].transform(lambda p: statistics.holm(p.to_numpy())))


# Question 1


def selector_points(lines: Sequence[Line]) -> pd.DataFrame:
    """Score in X minus that of no slack, at every density, CT budget, selector and reserved share, in points.

    Columns: density, ct_tokens, selector, share (0 and 1 are the same for all), difference, ci_low, ci_high,
    p, seeds, start (the score without slack, percent), reserved (entries) and ceded_share (of CT's mass, in
    percent), both means over the seeds.
    """
    answers, cells, rows = Answers(lines), cells_of(lines), []
    for density, budget in sorted({(cell.density, cell.ct_tokens) for cell in cells}):
        shares = [cell.share for cell in cells if (cell.density, cell.ct_tokens) == (density, budget)]
        level = answers.contrast({(no_slack(density), budget): 1.0}, X).value
        head = {"density": density, "ct_tokens": budget, "start": level}
        for selector in SELECTORS:
            own = {0.0: no_slack(density)} | {s: selected(density, s, selector) for s in shares}
            for share, one in (own | {1.0: all_won_back(density)}).items():
                rows.append(
                    head | {"selector": selector, "share": share} | _point(answers, one, density, budget)
                )
    return pd.DataFrame(rows)


def _point(answers: Answers, one: Asked, density: float, budget: int) -> dict[str, Any]:
    own = {(one, budget): 1.0}
    ceded = answers.contrast(own, "ceded_share").value
    counted = {"reserved": answers.contrast(own, "reserved").value, "ceded_share": 100 * ceded}
    return answers.row(minus(own, {(no_slack(density), budget): 1.0}), X) | counted


def selector_contrasts(lines: Sequence[Line]) -> pd.DataFrame:
    """Each selector against the paper's margin and against no slack, mean over the cells that all runs have.

    Columns: selector, against ("margin" or "no slack"), measure (MEASURES), difference (points, or bits per
    byte), ci_low, ci_high, p, seeds, cells (how many), p_holm (over the rows of a measure).
    """
    answers, cells = Answers(lines), cells_of(lines)
    none = mean_of([(no_slack(cell.density), cell.ct_tokens) for cell in cells])
    rows = []
    for selector in SELECTORS:
        own = _of_selector(selector, cells)
        for against, other in {"margin": _of_selector(SELECTORS[0], cells), "no slack": none}.items():
            if selector != against:
                head = {"selector": selector, "against": against, "cells": len(cells)}
                rows += [head | {"measure": m} | answers.row(minus(own, other), m) for m in MEASURES]
    return with_holm_by(rows)


def _of_selector(selector: str, cells: Sequence[Cell]) -> Terms:
    return mean_of([(selected(cell.density, cell.share, selector), cell.ct_tokens) for cell in cells])


def price_of_selectors(lines: Sequence[Line]) -> pd.DataFrame:
    """What each selector takes and costs: mean over seeds and cells, a row a selector and share.

    Columns: selector, share, reserved (entries), reserved_share (of SFT's kept mass) and ceded_share (of
    CT's), both in percent.
    """
    answers, rows = Answers(lines), []
    for selector in SELECTORS:
        for share in sorted({cell.share for cell in cells_of(lines)}):
            own = _of_selector(selector, [cell for cell in cells_of(lines) if cell.share == share])
            row = {"selector": selector, "share": share, "reserved": answers.contrast(own, "reserved").value}
            for name in ("reserved_share", "ceded_share"):
                row[name] = 100 * answers.contrast(own, name).value
            rows.append(row)
    return pd.DataFrame(rows)


# Question 4


def discarded_points(lines: Sequence[Line]) -> pd.DataFrame:
    """Share of SFT's kept entries that the election discards, at density 0.5, by how weights are evened out.

    Columns: how, ct_tokens, difference (the share in percent), ci_low, ci_high, p, seeds.
    """
    answers = Answers(lines)
    rows = []
    for how in EVENED:
        for budget in budgets_of(lines):
            row = answers.row({(evened_merge("ties", how), budget): 100.0}, "sft_discarded_share")
            rows.append({"how": how, "ct_tokens": budget} | row)
    return pd.DataFrame(rows)


def discarded_growth(lines: Sequence[Line]) -> pd.DataFrame:
    """How much that share grows from the first to the last CT budget, and how much less where weights are
    evened out, in percentage points.

    Columns: how, against ("" or "none"), difference, ci_low, ci_high, p, seeds, p_holm (over all rows).
    """
    answers, (first, last) = Answers(lines), _ends(lines)
    growth = {h: {(one, last): 100.0, (one, first): -100.0} for h, one in zip(EVENED, TIES, strict=True)}
    asked = [(how, "", growth[how]) for how in EVENED]
    asked += [(how, "none", minus(growth[how], growth["none"])) for how in EVENED[1:]]
    rows = [{"how": h, "against": other} | answers.row(t, "sft_discarded_share") for h, other, t in asked]
    return with_holm_by(rows, "seeds")


def plateau_points(lines: Sequence[Line]) -> pd.DataFrame:
    """The score in X of every method of question 4 minus its own at the first CT budget, in points.

    Columns: merge, ct_tokens, difference, ci_low, ci_high, p, seeds, score and english (percent).
    """
    answers, budgets = Answers(lines), budgets_of(lines)
    rows = []
    for one in merges_of(lines):
        for budget in budgets:
            own = {(one, budget): 1.0}
            levels = {"score": answers.contrast(own, X).value, "english": answers.contrast(own, EN).value}
            gain = answers.row(minus(own, {(one, budgets[0]): 1.0}), X)
            rows.append({"merge": one, "ct_tokens": budget} | gain | levels)
    return pd.DataFrame(rows)


def plateau_contrasts(lines: Sequence[Line]) -> pd.DataFrame:
    """What evened weights and the other methods change: in the gain along CT tokens, and at the last budget.

    Columns: merge, against (an `Asked`: the same without evening, or TIES), what ("gain" from the first to
    the last budget, "last" budget), measure (scores in X and English), difference in points, ci_low, ci_high,
    p, seeds, p_holm (over the rows of a measure).
    """
    answers, (first, last) = Answers(lines), _ends(lines)
    rows = []
    for one, other in _pairs(merges_of(lines)):
        for what, past in (("gain", -1.0), ("last", 0.0)):
            own, rest = ({(m, last): 1.0} | ({(m, first): past} if past else {}) for m in (one, other))
            rows += [{"merge": one, "against": other, "what": what, "measure": measure}
                     | answers.row(minus(own, rest), measure) for measure in (X, EN)]  # fmt: skip
    return with_holm_by(rows)


def _pairs(there: Sequence[Asked]) -> list[tuple[Asked, Asked]]:
    """Each merge of question 4 and what it is held against, where both are there."""
    same = [
        (evened_merge(m, how), evened_merge(m, "none"))
        for m in ("ties", "task_arithmetic")
        for how in EVENED[1:]
    ]
    plain = evened_merge("ties", "none")
    others = [evened_merge("task_arithmetic", "none"), *RIVALS]
    return [pair for pair in [*same, *((one, plain) for one in others)] if set(pair) <= set(there)]


def flattening(lines: Sequence[Line]) -> dict[str, Any]:
    """TIES as it is: its gain in X over the last step of CT tokens minus that over the first, in points.

    Below zero where the curve flattens. difference, ci_low, ci_high, p, seeds; first and last: the two gains.
    """
    answers, budgets, one = Answers(lines), budgets_of(lines), evened_merge("ties", "none")
    steps = [minus({(one, b): 1.0}, {(one, a): 1.0}) for a, b in (budgets[:2], budgets[-2:])]
    found = answers.row(minus(steps[1], steps[0]), X)
    return found | dict(zip(("first", "last"), (answers.contrast(s, X).value for s in steps), strict=True))
