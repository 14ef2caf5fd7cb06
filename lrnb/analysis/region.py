"""A map of the paper's claim: merging's lead over a region of CT tokens, SFT examples and X in the base.

A cell is a pool (`lrnb.analysis.pool`) in a folder of its own: the same seeds, other parameters. What lies
between the cells is read off a smooth surface that is fitted to every seed by itself, so that its interval
holds whatever differs from seed to seed: worlds, items, trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lrnb import statistics
from lrnb.analysis import pool, pool_answers, results
from lrnb.analysis.no_result import why_no_result
from lrnb.analysis.pool_lines import BASELINE, Line, arm_name, headline_lines
from lrnb.errors import UserError
from lrnb.study.parameters import ROOT

AXES = ["ct_tokens", "sft_examples", "x_share"]
#: surfaces beside the lead: column -> what it is
BESIDE = {
    "sft_discarded_share": "share of SFT's entries that the election discards (density 0.5)",
    "ct_l2": "size of CT's task vector, L2 norm",
    "x_forgotten": "bits per byte in X that SFT after CT costs",
    "en_forgotten": "bits per byte in English that CT costs",
}
PLACED = ("sft_mix", "base_bilingual", "base_alone")  # the parameters that make a place
Cells = dict[tuple[int, float], list[Line]]


def read_cells(folder: Path) -> Cells:
    """(SFT examples, share of the base's documents with X) -> runs, of the pools in `folder`, each seed once.

    UserError where there is none, or where two pools stand for one cell.
    """
    found: Cells = {}
    folder = ROOT / folder  # an absolute one stays what it is
    for path in sorted(folder.glob("*/*.jsonl")):
        lines = headline_lines(pool.read_pool(path))
        _refuse_others(lines, found, path)
        where = _place(lines[0]["parameters"]) if lines else (0, 0.0)
        if where in found:
            raise UserError(f"{path}: another pool has {where[0]} SFT examples and {where[1]:g} of X too")
        found |= {where: lines} if lines else {}
    if not found:
        raise UserError(f"{folder}: no cell of a map in it; `make map` runs and keeps them")
    return dict(sorted(found.items()))


def _refuse_others(lines: Sequence[Line], cells: Cells, path: Path) -> None:
    """UserError where runs differ from those of the other cells in more than their place."""
    first = next((own[0] for own in cells.values()), lines[0] if lines else {})
    for line in lines:
        keys = [key for key in ("recipe", "world") if line[key] != first[key]]
        here, there = line["parameters"], first["parameters"]
        keys += [key for key in here | there if key not in PLACED and here.get(key) != there.get(key)]
        if keys:
            raise UserError(
                f"{path}: its runs differ from the other cells in {', '.join(keys)}; remove the folder, and "
                "`make map` runs them anew"
            )


def _place(parameters: Mapping[str, Any]) -> tuple[int, float]:
    seen = parameters["base_bilingual"] + parameters["base_alone"]
    return sum(parameters["sft_mix"].values()), round(seen, 6)


def cell_leads(cells: Cells) -> pd.DataFrame:
    """Merge minus CT-then-SFT in every cell at every CT budget, in points, mean of the tasks in X.

    Columns: AXES, method, difference, ci_low, ci_high (95%, over seeds and items: `statistics.over_seeds`),
    p, p_holm (over all cells and budgets of a method), seeds.
    """
    tables = []
    for (examples, share), lines in cells.items():
        table = pool_answers.pooled_leads(lines)
        if len(table):
            own = table[table["baseline"] == BASELINE]
            tables.append(own.assign(sft_examples=examples, x_share=share))
    columns = [*AXES, "method", "difference", "ci_low", "ci_high", "p", "seeds"]
    if not tables:
        return pd.DataFrame(columns=[*columns, "p_holm"])
    table = pd.concat(tables)[columns].reset_index(drop=True)
    return table.assign(
        p_holm=table.groupby("method")["p"].transform(lambda p: statistics.holm(p.to_numpy()))
    )


def why_no_cell_counts(cells: Cells) -> str:
    """Why no cell compares anything (`why_no_result`), "" where one does or chance levels are not known."""
    tables = [
        pool_answers.pooled_scores(pool_answers.Pool(lines, [])) for lines in cells.values() if len(lines) > 1
    ]
    return why_no_result(pd.concat(tables)) if tables else ""


def seed_points(cells: Cells, method: str) -> pd.DataFrame:
    """A row a cell, CT budget and seed: AXES, seed, lead (points) and the columns of BESIDE."""
    rows = []
    for (examples, share), lines in cells.items():
        leads = pool_answers.seed_leads(lines)
        own = leads[(leads["method"] == method) & (leads["baseline"] == BASELINE)]
        own = own[own["task"] == results.headline(own)].set_index(["seed", "ct_tokens"])["value"]
        for line in lines:  # the first lines of a pool had no shares
            for tokens, beside in line.get("shares", {}).items():
                place = {"ct_tokens": int(tokens), "sft_examples": examples, "x_share": share}
                lead = own.get((line["seed"], int(tokens)), np.nan)
                rows.append(place | {"seed": line["seed"], "lead": lead} | _beside(line, int(tokens), beside))
    return pd.DataFrame(rows).dropna(subset="lead").reset_index(drop=True)


def _beside(line: Line, tokens: int, shares: Mapping[str, float]) -> dict[str, float]:
    bits, lang = line["bits"], line["parameters"]["lang"]
    ct, tuned = bits[arm_name("ct", tokens)], bits[arm_name(BASELINE, tokens)]
    return {
        "sft_discarded_share": shares["sft_discarded_share"],
        "ct_l2": shares["ct_l2"],
        "x_forgotten": tuned[lang] - ct[lang],
        "en_forgotten": ct["en"] - bits["base"]["en"],
    }


def surface(points: pd.DataFrame, at: pd.DataFrame, column: str = "lead") -> pd.DataFrame:
    """`column` at the places `at` (AXES) with its 95% band: mean, low, high.

    To each seed's points a surface is fitted by least squares: quadratic in log CT tokens, linear in log SFT
    examples and in the share of X, CT's slope free to change with both. Its value at a place is one number
    a seed, and the band is Student's t over the seeds. An axis with a single value has no term, with two CT
    budgets there is no quadratic one, and a seed counts whose points decide all terms.
    UserError with fewer than two such seeds.
    """
    there = {seed: _terms(own, points) for seed, own in points.groupby("seed")}
    whole = [seed for seed, terms in there.items() if np.linalg.matrix_rank(terms) == terms.shape[1]]
    if len(whole) < 2:
        raise UserError(
            f"a surface needs two seeds that have all cells, and {len(whole)} of {len(there)} have: "
            "`make map` goes on where it stopped"
        )
    values = []
    for seed in whole:
        own = points.loc[points["seed"] == seed, column].to_numpy(float)
        values.append(_terms(at, points) @ np.linalg.lstsq(there[seed], own, rcond=None)[0])
    mean, error = np.mean(values, axis=0), stats.sem(values, axis=0)
    half = error * stats.t.ppf(0.975, len(values) - 1)
    return at[AXES].assign(mean=mean, low=mean - half, high=mean + half)


def _terms(rows: pd.DataFrame, points: pd.DataFrame) -> np.ndarray:
    """The columns of the regression: (rows, terms). Axes are centred and scaled by what `points` span."""
    ct, sft, seen = (
        _scaled(rows[axis], points[axis], log) for axis, log in zip(AXES, (1, 1, 0), strict=True)
    )
    budgets, examples, shares = (points[axis].nunique() for axis in AXES)
    columns = {"1": np.ones(len(rows))}
    columns |= {"ct": ct} if budgets > 1 else {}
    columns |= {"ct²": ct**2} if budgets > 2 else {}
    columns |= {"sft": sft} | ({"ct·sft": ct * sft} if budgets > 1 else {}) if examples > 1 else {}
    columns |= {"x": seen} | ({"ct·x": ct * seen} if budgets > 1 else {}) if shares > 1 else {}
    return np.stack([*columns.values()], axis=1)


def _scaled(values: pd.Series, spanned: pd.Series, log: int) -> np.ndarray:
    here, there = (np.log2(x.to_numpy(float)) if log else x.to_numpy(float) for x in (values, spanned))
    middle, half = (there.max() + there.min()) / 2, (there.max() - there.min()) / 2
    return (here - middle) / half if half else np.zeros(len(here))


def foretold(points: pd.DataFrame, by: str = "sft_discarded_share") -> pd.DataFrame:
    """How well `by` foretells the lead within a seed: correlation over all points, and at equal CT tokens.

    Rows `all` and `equal CT tokens`: r, low, high, seeds. Mean of Fisher's z over the seeds with Student's
    t. At equal CT tokens each budget's mean is taken off both first: what is left is not mere growth of CT.
    """
    apart = points.groupby(["seed", "ct_tokens"])[["lead", by]].transform("mean")
    within = points.assign(**{name: points[name] - apart[name] for name in ("lead", by)})
    rows = {"all": points, "equal CT tokens": within}
    return pd.DataFrame({name: _correlated(table, by) for name, table in rows.items()}).T


def _correlated(points: pd.DataFrame, by: str) -> dict[str, float]:
    with np.errstate(invalid="ignore"):  # what never varies foretells nothing: NaN
        found = [np.corrcoef(own["lead"], own[by])[0, 1] for _, own in points.groupby("seed")]
    z = np.arctanh(np.clip(found, -0.999999, 0.999999))
    half = stats.sem(z) * stats.t.ppf(0.975, len(z) - 1) if len(z) > 1 else np.nan
    ends = {"r": z.mean(), "low": z.mean() - half, "high": z.mean() + half}
    return {name: float(np.tanh(value)) for name, value in ends.items()} | {"seeds": len(z)}


def fine_grid(points: pd.DataFrame, steps: int = 41) -> pd.DataFrame:
    """Places between the cells for a figure: CT tokens and SFT examples finely, shares of X as they are."""
    tokens, examples = (_spaced(points[axis], steps) for axis in AXES[:2])
    shares = sorted(points["x_share"].unique())
    return pd.MultiIndex.from_product([tokens, examples, shares], names=AXES).to_frame(index=False)


def _spaced(values: Sequence[float], steps: int) -> np.ndarray:
    return np.geomspace(min(values), max(values), steps) if min(values) < max(values) else np.unique(values)
