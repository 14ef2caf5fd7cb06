"""Figures along CT tokens, from the atlases of a study. Every function returns a plotly Figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrnb.conflicts import MODEL
from lrnb.plots_merge import MODULES
from lrnb.style import CLASS_COLOURS, colour, finish, token_axis


def along_budgets(
    table: pd.DataFrame, at: int | None = None, modules: pd.DataFrame | None = None
) -> go.Figure:
    """Size of both task vectors and what the election discards, against CT tokens.

    table: of `saturation.along`; at: the budget that is marked; modules: rows of a WhatIf's table at this
    budget, drawn as a third panel of the discarded share by module.
    """
    panels = 3 if modules is not None else 2
    fig = make_subplots(rows=1, cols=panels, horizontal_spacing=0.1)
    for col in (1, 2):
        logs = token_axis(fig, table["ct_tokens"], row=1, col=col)
    x = [logs[int(t)] for t in table["ct_tokens"]]
    lines = [
        ("CT: size of τ", table["ct_l2"], "ct", "dot", 1),
        ("SFT: size of τ", table["sft_l2"], "sft", "dot", 1),
        ("CT: discarded", 100 * table["ct_discarded_share"], "ct", "solid", 2),
        ("SFT: discarded", 100 * table["sft_discarded_share"], "sft", "solid", 2),
        ("SFT: won back", 100 * table["reserved"] / table["sft_kept"].clip(lower=1), "ties_sv", "dash", 2),
    ]
    here = (table["ct_tokens"] == at).to_numpy()
    for name, y, method, dash, col in lines:
        marker = {"size": np.where(here, 13, 6), "color": colour(method)}
        line = {"color": colour(method), "dash": dash, "width": 2.5}
        fig.add_scatter(x=x, y=y, name=name, mode="lines+markers", line=line, marker=marker, row=1, col=col)
    if modules is not None:
        _module_bars(fig, modules)
    n = int(table["n"].iloc[0]) if len(table) else 0
    finish(fig, f"{_at(table, at)} (n = {n:,} weights)")
    for col in (1, 2):
        fig.update_xaxes(title_text="CT tokens (log scale)", row=1, col=col)
        fig.update_yaxes(
            title_text=("L2 norm of τ", "share of the kept entries (%)")[col - 1], row=1, col=col
        )
    return fig.update_yaxes(rangemode="tozero")


def _module_bars(fig: go.Figure, rows: pd.DataFrame) -> None:
    rows = rows[rows["tensor"] != MODEL]
    total = rows.groupby("module")[["sft_discarded", "sft_kept"]].sum()
    total = total.reindex([m for m in MODULES if m in total.index])
    share = 100 * total["sft_discarded"] / total["sft_kept"].where(total["sft_kept"] > 0)
    fig.add_bar(x=list(total.index), y=share, marker={"color": colour("sft")}, showlegend=False, row=1, col=3)
    fig.update_xaxes(title_text="module", type="category", row=1, col=3)
    fig.update_yaxes(title_text="SFT: discarded (%)", row=1, col=3)


def _at(table: pd.DataFrame, at: int | None) -> str:
    if at is None:
        return "Task vectors and discarded entries along CT tokens"
    row = table[table["ct_tokens"] == at].iloc[0]
    lost = 100 * row["sft_discarded_share"]
    return f"At {row['budget']} CT tokens {lost:.1f}% of SFT's kept entries are discarded"


def by_density(grid: pd.DataFrame) -> go.Figure:
    """Discarded share of SFT's kept entries against CT tokens, one line a density (`saturation.grid`)."""
    rows = grid[grid["slack"] == 0]
    fig = go.Figure()
    logs = token_axis(fig, rows["ct_tokens"])
    for place, (density, part) in enumerate(rows.groupby("density")):
        ink = CLASS_COLOURS[place % len(CLASS_COLOURS)]
        x = [logs[int(t)] for t in part["ct_tokens"]]
        y, name = 100 * part["sft_discarded_share"], f"density {density:g}"
        fig.add_scatter(
            x=x, y=y, name=name, mode="lines+markers", line={"color": ink}, marker={"symbol": place}
        )
    n = int(rows["n"].iloc[0]) if len(rows) else 0
    title = f"SFT entries discarded at any density (n = {n:,} weights)"
    finish(fig, title, "CT tokens (log scale)", "share of SFT's kept entries (%)")
    return fig.update_yaxes(rangemode="tozero")


def price_of_slack(grid: pd.DataFrame, density: float) -> go.Figure:
    """What SFT regains against what CT gives up, in L1 mass, along slack; one line a budget."""
    rows = grid[grid["density"] == density]
    fig = go.Figure()
    for place, (_, part) in enumerate(rows.groupby("ct_tokens")):
        x = 100 * part["ceded_mass"] / part["ct_kept_mass"]
        y = 100 * part["reserved_mass"] / part["sft_kept_mass"]
        text = [f"ρ {s:g}" for s in part["slack"]]
        hover = "%{text}: CT gives up %{x:.2f}%, SFT regains %{y:.2f}%<extra>%{fullData.name}</extra>"
        fig.add_scatter(
            x=x,
            y=y,
            text=text,
            name=f"{part['budget'].iloc[0]} CT tokens",
            mode="lines+markers",
            line={"color": CLASS_COLOURS[place % len(CLASS_COLOURS)]},
            hovertemplate=hover,
        )
    n = int(rows["n"].iloc[0]) if len(rows) else 0
    title = f"Density {density:g}: what slack gives to SFT and takes from CT (n = {n:,} weights)"
    return finish(fig, title, "CT's kept L1 mass given up (%)", "SFT's kept L1 mass regained (%)")
