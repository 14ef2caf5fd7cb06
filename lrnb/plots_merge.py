"""Figures of merging: what was chosen, what trimming and election keep. Part of `lrnb.plots`."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrnb.params import budget_name
from lrnb.style import CLASS_COLOURS, OUTCOMES, colour, finish, level, shade, token_axis

MODULES = ["embed", "q", "k", "v", "o", "gate", "up", "down", "norm", "lm_head", "other"]


def candidates(choices: pd.DataFrame, x: str, title: str, line: str | None = None) -> go.Figure:
    """Dev score of every candidate against the parameter `x`; the chosen one of a budget is ringed.

    One line per budget (and per value of `line`); the chance level where the table has it.
    """
    fig = go.Figure()
    groups = ["ct_tokens"] + ([line] if line else [])
    for place, (key, rows) in enumerate(choices.groupby(groups)):
        rows = rows.sort_values(x)
        name = budget_name(int(key[0])) + (f", {line} {key[1]:g}" if line else "")
        ink = CLASS_COLOURS[place % len(CLASS_COLOURS)]
        fig.add_scatter(
            x=rows[x],
            y=rows["dev_score"],
            mode="lines+markers",
            name=name,
            line={"color": ink, "width": 2},
            marker={"size": 7},
        )
        best = rows[rows["chosen"].astype(bool)]
        fig.add_scatter(
            x=best[x],
            y=best["dev_score"],
            mode="markers",
            showlegend=False,
            marker={"size": 16, "symbol": "circle-open", "color": ink, "line": {"width": 3}},
            hoverinfo="skip",
        )
    if len(choices) and "chance" in choices:
        level(fig, float(choices["chance"].iloc[0]), "chance", "dash")
    n = int(choices["n"].iloc[0]) if len(choices) else 0
    return finish(fig, f"{title} (n = {n} dev items, ring: chosen)", x, "dev score (%)")


def _whole(shares: pd.DataFrame) -> pd.DataFrame:
    return shares[shares["tensor"] == "(model)"].sort_values("ct_tokens")


def shares_by_budget(shares: pd.DataFrame) -> go.Figure:
    """What the election costs each parent against CT tokens, and the size of the task vectors.

    shares: shares.csv at one setting. Left: percent of the parent's kept entries. Right: L2 norms.
    """
    rows = _whole(shares)
    fig = make_subplots(rows=1, cols=2, horizontal_spacing=0.14)
    logs = token_axis(fig, rows["ct_tokens"])
    x = [logs[int(t)] for t in rows["ct_tokens"]]
    won = 100 * rows["reserved"] / rows["sft_kept"]
    lines = [
        ("SFT: discarded", 100 * rows["sft_discarded"] / rows["sft_kept"], "sft", "solid", 1),
        ("CT: discarded", 100 * rows["ct_discarded"] / rows["ct_kept"], "ct", "solid", 1),
        ("SFT: won back by slack", won, "ties_sv", "dash", 1),
        ("SFT: size of τ", rows["sft_l2"], "sft", "dot", 2),
        ("CT: size of τ", rows["ct_l2"], "ct", "dot", 2),
    ]
    for name, y, method, dash, col in lines:
        if name != "SFT: won back by slack" or won.any():
            fig.add_scatter(
                x=x,
                y=y,
                name=name,
                mode="lines+markers",
                row=1,
                col=col,
                line={"color": colour(method), "dash": dash, "width": 2.5},
                marker={"symbol": "diamond" if method == "sft" else "square"},
            )
    n = int(rows["n"].iloc[0]) if len(rows) else 0
    finish(
        fig,
        f"{_setting(shares)}: what the election costs each parent (n = {n:,} weights)",
        "CT tokens (log scale)",
    )
    fig.update_yaxes(title_text="share of the kept entries (%)", rangemode="tozero", row=1, col=1)
    return fig.update_yaxes(title_text="L2 norm of τ", rangemode="tozero", row=1, col=2)


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


def fates(shares: pd.DataFrame) -> go.Figure:
    """What becomes of each parent's entries, in percent of all weights, for every budget.

    A whole bar is what trimming kept of the parent; its parts are merged, won back, discarded (after
    slack: what SFT wins back CT loses).
    """
    rows = _whole(shares)
    names = [budget_name(int(t)) for t in rows["ct_tokens"]]
    places = [[n for n in names for _ in "ab"], ["CT", "SFT"] * len(names)]
    won = np.stack([0 * rows["reserved"], rows["reserved"]], -1).astype(float)
    lost = rows[["ct_discarded", "sft_discarded"]].to_numpy(float) + won[:, ::-1] - won  # after slack
    kept = rows[["ct_kept", "sft_kept"]].to_numpy(float)
    total = rows["n"].to_numpy(float)[:, None]
    fig = go.Figure()
    for name, part in (("agreed", kept - lost - won), ("reserved", won), ("discarded", lost)):
        words = {"agreed": "merged", "reserved": "won back by slack"}.get(name, name)
        fig.add_bar(
            x=places,
            y=(100 * part / total).ravel(),
            name=words,
            marker={"color": OUTCOMES[name]},
            hovertemplate="%{x}: %{y:.2f}% of all weights<extra>" + words + "</extra>",
        )
    n = int(rows["n"].iloc[0]) if len(rows) else 0
    finish(
        fig,
        f"{_setting(shares)}: what becomes of each parent's entries (n = {n:,} weights)",
        "",
        "share of all weights (%)",
        380,
    )
    return fig.update_layout(barmode="stack", bargap=0.35, legend={"traceorder": "normal"})


def shares_by(shares: pd.DataFrame, by: str) -> go.Figure:
    """Discarded share of the trimmed SFT entries, one line per budget, by `module` or `layer`."""
    rows = shares[shares["tensor"] != "(model)"]
    if by == "layer":
        rows = rows[rows["layer"] >= 0]
    if by == "module":
        rows = rows.assign(module=pd.Categorical(rows["module"], MODULES, ordered=True))
    counted = ["sft_discarded", "sft_kept", "n"]
    total = rows.groupby(["ct_tokens", by], sort=True, observed=True)[counted].sum()
    fig = go.Figure()
    for place, (budget, group) in enumerate(total.groupby(level=0)):
        places = group.index.get_level_values(1)
        x = [escape(str(p)) for p in places] if by == "module" else places
        y = 100 * group["sft_discarded"] / group["sft_kept"].where(group["sft_kept"] > 0)
        style = {"color": shade(place, total.index.get_level_values(0).nunique())}
        add = fig.add_bar if by == "module" else fig.add_scatter
        add(x=x, y=y, name=f"{budget_name(int(budget))} CT tokens", marker=style)
    fig.update_yaxes(rangemode="tozero")
    if by == "layer":
        fig.update_xaxes(dtick=1 if rows["layer"].nunique() < 20 else None)
    n = int(total["n"].groupby(level=0).sum().iloc[0]) if len(total) else 0
    return finish(
        fig,
        f"SFT entries discarded, by {by} (n = {n:,} weights)",
        by,
        "share of the kept SFT entries (%)",
        380,
    )
