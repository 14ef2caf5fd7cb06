"""Figures of merging: what was chosen, and what trimming and election keep, along CT tokens and by module."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.conflicts.counts import MODEL
from lrnb.figures.style import (
    DASHES,
    DENSITY_SHADES,
    OUTCOME_NAMES,
    OUTCOMES,
    blank,
    colour,
    counted,
    finish,
    level_line,
    shade,
    token_axis,
)
from lrnb.merging.methods import METHODS
from lrnb.study.parameters import budget_name

MODULES = ["embed", "q", "k", "v", "o", "gate", "up", "down", "norm", "lm_head", "other"]
TOKENS = "CT tokens (log scale)"


def candidates_on_dev(choices: pd.DataFrame, x: str, title: str, line: str | None = None) -> go.Figure:
    """Dev score of every candidate against the parameter `x`; the chosen one of a budget is ringed.

    One line per budget (and, dashed, per value of `line`); bars: 95% intervals, from `dev_error`; the chance
    level. Both where the table has them.
    """
    fig = blank()
    budgets, values = (sorted(choices[by].unique()) if by else [""] for by in ("ct_tokens", line))
    told = (lambda value: value) if line and isinstance(values[0], str) else "{:g}".format
    for key, rows in choices.groupby(["ct_tokens"] + ([line] if line else [])):
        rows, ink = rows.sort_values(x), shade(budgets.index(key[0]), len(budgets))
        beside = f", {_option_name(line)} {told(key[1])}" if line else ""
        dash = DASHES[values.index(key[1]) % len(DASHES)] if line else "solid"
        look: dict[str, Any] = {"line": {"color": ink, "width": 2, "dash": dash}, "marker": {"size": 7}}
        if "dev_error" in rows:
            look["error_y"] = {"array": 1.96 * rows["dev_error"], "color": ink, "thickness": 1, "width": 3}
        name = f"{budget_name(int(key[0]))} CT tokens{beside}"
        fig.add_scatter(x=rows[x], y=rows["dev_score"], name=name, mode="lines+markers", **look)
        ring = {"size": 16, "symbol": "circle-open", "color": ink, "line": {"width": 3}}
        best = rows[rows["chosen"].astype(bool)]
        look = {"mode": "markers", "showlegend": False, "hoverinfo": "skip"}
        fig.add_scatter(x=best[x], y=best["dev_score"], marker=ring, **look)
    if len(choices) and "chance" in choices:
        level_line(fig, float(choices["chance"].iloc[0]), "chance", "dash")
    title = f"{title} ({counted(choices, 'dev items')}, 95% intervals, ring: chosen)"
    return finish(fig, title, _option_name(x), "dev score (%)")


def _option_name(name: str) -> str:
    """An option as the methods' declarations call it on sliders and axes: alpha -> "α (share of CT)"."""
    found = (how.fields()[name].label for how in METHODS.values() if name in how.fields())
    return next(filter(None, found), name)


def shares_by_budget(shares: pd.DataFrame) -> go.Figure:
    """What the election costs each parent against CT tokens, and the size of the task vectors.

    shares: shares.csv at one setting. Left: percent of the parent's kept entries. Right: L2 norms.
    """
    return _along(_whole(shares), f"{_setting(shares)}: what the election costs each parent")


def shares_along_budgets(
    table: pd.DataFrame, at: int | None = None, modules: pd.DataFrame | None = None
) -> go.Figure:
    """The same from the atlases of a study.

    table: of `lrnb.conflicts.along_budgets`; at: the budget that is marked; modules: rows of a WhatIf's table
    at this budget, drawn as a third plot of the discarded share by module.
    """
    title = "Task vectors and discarded entries along CT tokens"
    if at is not None:
        row = table[table["ct_tokens"] == at].iloc[0]
        lost = 100 * row["sft_discarded_share"]
        title = f"At {row['budget']} CT tokens {lost:.1f}% of SFT's kept entries are discarded"
    fig = _along(table, title, at, 2 if modules is None else 3)
    if modules is not None:
        _module_bars(fig, modules)
    return fig


def _along(rows: pd.DataFrame, title: str, at: int | None = None, plots: int = 2) -> go.Figure:
    fig = blank(rows=1, cols=plots, horizontal_spacing=0.28 / plots)
    kept = {parent: rows[f"{parent}_kept"].where(rows[f"{parent}_kept"] > 0) for parent in ("ct", "sft")}
    lines = [
        ("SFT: discarded", 100 * rows["sft_discarded"] / kept["sft"], "sft", "solid", 1),
        ("CT: discarded", 100 * rows["ct_discarded"] / kept["ct"], "ct", "solid", 1),
        ("SFT: won back by slack", 100 * rows["reserved"] / kept["sft"], "ties_sv", "dash", 1),
        ("SFT: size of τ", rows["sft_l2"], "sft", "dot", 2),
        ("CT: size of τ", rows["ct_l2"], "ct", "dot", 2),
    ]
    sizes = 6 if at is None else np.where(rows["ct_tokens"] == at, 13, 6)
    for name, y, method, dash, col in lines:
        x = token_axis(fig, rows["ct_tokens"], row=1, col=col)
        look = {"symbol": "diamond" if method == "sft" else "square", "size": sizes, "color": colour(method)}
        line = {"color": colour(method), "dash": dash, "width": 2.5}
        if method != "ties_sv" or y.any() or at is not None:
            where = {"mode": "lines+markers", "row": 1, "col": col}
            fig.add_scatter(x=x, y=y, name=name, line=line, marker=look, **where)
    finish(fig, f"{title} ({counted(rows, 'weights')})")
    for col, unit in ((1, "share of the kept entries (%)"), (2, "L2 norm of τ")):
        fig.update_xaxes(title_text=TOKENS, row=1, col=col)
        fig.update_yaxes(title_text=unit, rangemode="tozero", row=1, col=col)
    return fig


def _module_bars(fig: go.Figure, rows: pd.DataFrame) -> None:
    total = rows[rows["tensor"] != MODEL].groupby("module")[["sft_discarded", "sft_kept"]].sum()
    total = total.reindex([m for m in MODULES if m in total.index])
    share = 100 * total["sft_discarded"] / total["sft_kept"].where(total["sft_kept"] > 0)
    look = {"marker": {"color": colour("sft")}, "showlegend": False}
    fig.add_bar(x=list(total.index), y=share, row=1, col=3, **look)
    fig.update_xaxes(title_text="module", type="category", tickangle=-60, row=1, col=3)
    fig.update_layout(height=460, legend={"y": -0.43})  # below the slanted names
    fig.update_yaxes(title_text="SFT: discarded (%)", rangemode="tozero", row=1, col=3)


def by_density(grid: pd.DataFrame) -> go.Figure:
    """Discarded share of SFT's kept entries against CT tokens, one line a density.

    grid: of `lrnb.conflicts.along_budgets`.
    """
    rows, fig = grid[grid["slack"] == 0], blank()
    x = token_axis(fig, rows["ct_tokens"])
    for place, (density, part) in enumerate(rows.groupby("density")):
        line = {"color": shade(place, rows["density"].nunique(), DENSITY_SHADES)}
        look = {"mode": "lines+markers", "line": line, "marker": {"symbol": place, "size": 8}}
        y = 100 * part["sft_discarded_share"]
        fig.add_scatter(x=x[part.index], y=y, name=f"density {density:g}", **look)
    title = f"SFT entries discarded at any density ({counted(rows, 'weights')})"
    finish(fig, title, TOKENS, "share of SFT's kept entries (%)")
    return fig.update_yaxes(rangemode="tozero")


def price_of_slack(grid: pd.DataFrame, density: float) -> go.Figure:
    """What SFT regains against what CT gives up, in L1 mass, along slack; one line a budget.

    Slack stands at the points of the last budget, where they lie apart, and at all under the mouse.
    """
    rows, fig = grid[grid["density"] == density], blank()
    last = rows["ct_tokens"].nunique() - 1
    for place, (_, part) in enumerate(rows.groupby("ct_tokens")):
        told = [f"ρ {slack:g}" for slack in part["slack"]]
        apart = [place == last and slack >= 0.2 for slack in part["slack"]]
        fig.add_scatter(
            x=100 * part["ceded_mass"] / part["ct_kept_mass"],
            y=100 * part["reserved_mass"] / part["sft_kept_mass"],
            customdata=told,
            text=[name if far else "" for name, far in zip(told, apart, strict=True)],
            name=f"{part['budget'].iloc[0]} CT tokens",
            mode="lines+markers+text",
            textposition="top left",
            textfont={"size": 11},
            cliponaxis=False,
            line={"color": shade(place, rows["ct_tokens"].nunique())},
            hovertemplate="%{customdata}: CT gives up %{x:.2f}%, SFT regains %{y:.2f}%"
            "<extra>%{fullData.name}</extra>",
        )
    title = f"Density {density:g}: what slack gives to SFT and takes from CT ({counted(rows, 'weights')})"
    return finish(fig, title, "CT's kept L1 mass given up (%)", "SFT's kept L1 mass regained (%)")


def fates(shares: pd.DataFrame) -> go.Figure:
    """What becomes of each parent's entries, in percent of all weights, for every budget.

    A whole bar is what trimming kept of the parent; its parts are merged, won back, discarded (after
    slack: what SFT wins back CT loses).
    """
    rows, fig = _whole(shares), blank()
    names = [budget_name(int(t)) for t in rows["ct_tokens"]]
    places = [[n for n in names for _ in "ab"], ["CT", "SFT"] * len(names)]
    won = np.stack([0 * rows["reserved"], rows["reserved"]], -1).astype(float)
    lost = rows[["ct_discarded", "sft_discarded"]].to_numpy(float) + won[:, ::-1] - won  # after slack
    kept, total = rows[["ct_kept", "sft_kept"]].to_numpy(float), rows["n"].to_numpy(float)[:, None]
    for outcome, part in (("agreed", kept - lost - won), ("reserved", won), ("discarded", lost)):
        name = OUTCOME_NAMES[outcome]
        hover = {"hovertemplate": "%{x}: %{y:.2f}% of all weights<extra>" + name + "</extra>"}
        look = {"name": name, "marker": {"color": OUTCOMES[outcome]}, **hover}
        fig.add_bar(x=places, y=(100 * part / total).ravel(), **look)
    title = f"{_setting(shares)}: what becomes of each parent's entries ({counted(rows, 'weights')})"
    finish(fig, title, "parent, CT tokens", "share of all weights (%)", 400)
    return fig.update_layout(barmode="stack", bargap=0.35, legend={"traceorder": "normal"})


def shares_by(shares: pd.DataFrame, by: str) -> go.Figure:
    """Discarded share of the trimmed SFT entries, one line per budget, by `module` or `layer`."""
    rows, fig = shares[shares["tensor"] != MODEL], blank()
    if by == "layer":
        rows = rows[rows["layer"] >= 0]
        ends = [rows["layer"].min() - 0.5, rows["layer"].max() + 0.5] if len(rows) else None
        fig.update_xaxes(dtick=1 if rows["layer"].nunique() < 20 else None, range=ends)
    else:
        rows = rows.assign(module=pd.Categorical(rows["module"], MODULES, ordered=True))
    keys, columns = ["ct_tokens", by], ["sft_discarded", "sft_kept", "n"]
    total = rows.groupby(keys, observed=True)[columns].sum().reset_index()
    for place, (budget, part) in enumerate(total.groupby("ct_tokens")):
        x = part[by] if by == "layer" else [escape(str(module)) for module in part[by]]
        y = 100 * part["sft_discarded"] / part["sft_kept"].where(part["sft_kept"] > 0)
        look = {"marker": {"color": shade(place, total["ct_tokens"].nunique())}}
        add = fig.add_bar if by == "module" else fig.add_scatter
        add(x=x, y=y, name=f"{budget_name(int(budget))} CT tokens", **look)
    said = counted(total.groupby("ct_tokens")[["n"]].sum(), "weights")
    title = f"SFT entries discarded, by {by} ({said})"
    return finish(fig, title, by, "share of the kept SFT entries (%)", 380).update_yaxes(rangemode="tozero")


def _whole(shares: pd.DataFrame) -> pd.DataFrame:
    return shares[shares["tensor"] == MODEL].sort_values("ct_tokens")


def _setting(shares: pd.DataFrame) -> str:
    """Density (and slack) of these rows in words; "as chosen on dev" where budgets differ."""
    same = {key: shares[key].nunique() == 1 for key in ("density", "slack")}
    if not any(same.values()):
        return "Density and slack as chosen on dev"
    words = [
        f"{key} {shares[key].iloc[0]:g}" if same[key] else f"{key} as chosen on dev"
        for key in same
        if key == "density" or shares[key].any()
    ]
    return ", ".join(words).capitalize()
