"""Figures of the conflict atlas. Every function returns a plotly Figure and changes nothing.

`where` names a part of the model: "(model)", "layer 3", "layer 3 q", "embed", or a tensor (`Atlas.rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrnb import conflicts
from lrnb.atlas import Atlas
from lrnb.conflicts import MODEL
from lrnb.plots_merge import MODULES
from lrnb.style import CLASS_COLOURS, INK, OUTCOMES, finish
from lrnb.whatif import WhatIf

COLUMNS = {  # column of the map: (what it is, unit)
    "sft_discarded_share": ("SFT entries discarded", "% of SFT's kept"),
    "ct_discarded_share": ("CT entries discarded", "% of CT's kept"),
    "conflict_share": ("sign conflicts", "% of SFT's kept"),
    "sft_discarded_mass": ("SFT mass discarded", "% of SFT's kept L1"),
    "reserved": ("won back by slack", "% of SFT's kept"),
    "cosine": ("cosine of the task vectors", "cosine"),
    "ct_l2": ("size of CT's task vector", "L2 norm"),
    "sft_l2": ("size of SFT's task vector", "L2 norm"),
}
FATES = {  # what becomes of an SFT entry that trimming kept
    "alone": ("CT has none here", "#bdbdbd"),
    "agreed": ("CT agrees", OUTCOMES["agreed"]),
    "won": ("conflict, SFT wins", CLASS_COLOURS[2]),
    "reserved": ("conflict, won back by slack", OUTCOMES["reserved"]),
    "discarded": ("conflict, discarded", OUTCOMES["discarded"]),
}


def slack(found: WhatIf, where: str = MODEL, bars: int = 80) -> go.Figure:
    """Left: histogram of SFT's defeats by margin, the part won back shaded up to xi. Right: what becomes of
    both parents' kept entries."""
    rows = found.atlas.rows(where)
    lost, won, edges = found.margins(rows, bars)
    total = conflicts.sums(found.table.iloc[rows])
    fig = make_subplots(rows=1, cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.14)
    middle = (edges[:-1] + edges[1:]) / 2
    for name, y in (("reserved", won[:-1]), ("discarded", (lost - won)[:-1])):
        fig.add_bar(x=middle, y=y, name=_word(name), marker={"color": OUTCOMES[name]}, width=np.diff(edges))
    _fate_bars(fig, total)
    finish(
        fig,
        f"{_name(where)}, {found.atlas.title}: {total['sft_discarded']:,.0f} of {total['sft_kept']:,.0f} "
        f"kept SFT entries lose (n = {total['n']:,.0f} weights)",
    )
    one = np.ptp(found.xi[rows]) == 0  # one line for one threshold
    xi = float(found.xi[rows[0]])
    if one and xi > 0:
        line = {"color": INK, "dash": "dash"}
        side = "top left" if xi > edges[-1] / 2 else "top right"
        at = {"annotation_text": f"ξ = {xi:.2g}", "annotation_position": side, "row": 1, "col": 1}
        fig.add_vline(x=min(xi, edges[-1]), line=line, **at)
    fig.update_xaxes(title_text="δ = |w τ CT| − |w τ SFT|", row=1, col=1, range=[0, edges[-1]])
    fig.update_yaxes(title_text="entries", row=1, col=1)
    fig.update_xaxes(title_text="share of the kept entries (%)", row=1, col=2, range=[0, 100])
    fig.update_yaxes(autorange="reversed", row=1, col=2)  # CT above SFT
    return fig.update_layout(barmode="stack", bargap=0)


def _word(outcome: str) -> str:
    return {"reserved": "won back by slack", "agreed": "merged", "ceded": "given up to slack"}.get(
        outcome, outcome
    )


def _fate_bars(fig: go.Figure, total: Mapping[str, float]) -> None:
    """Two stacked bars, in percent of what trimming kept of each parent."""
    won, ct, sft = total["reserved"], total["ct_kept"], total["sft_kept"]
    parts = {
        "agreed": [ct - total["ct_discarded"] - won, sft - total["sft_discarded"]],
        "reserved": [0, won],
        "ceded": [won, 0],
        "discarded": [total["ct_discarded"], total["sft_discarded"] - won],
    }
    inks = OUTCOMES | {"ceded": CLASS_COLOURS[1]}
    for name, (a, b) in parts.items():
        fig.add_bar(
            x=[100 * a / max(ct, 1), 100 * b / max(sft, 1)],
            y=["CT", "SFT"],
            orientation="h",
            name=_word(name),
            marker={"color": inks[name]},
            width=0.5,
            showlegend=name in ("agreed", "ceded"),
            hovertemplate="%{y}: %{x:.2f}% of its kept entries<extra>" + _word(name) + "</extra>",
            row=1,
            col=2,
        )


def _name(where: str) -> str:
    known = where.startswith("layer ") or where in MODULES
    return "Whole model" if where == MODEL else escape(where.capitalize() if known else where)


def cell_values(atlas: Atlas, column: str, trim_scope: str = "model") -> pd.DataFrame:
    """layer x module of one of COLUMNS, exact; layer -1: outside the layers. NaN where there is no tensor."""
    table = atlas.exact(trim_scope).assign(**{c: atlas.tensors[c] for c in ("ct_l2", "sft_l2", "cosine")})
    found = {key: _cell_value(part, column) for key, part in table.groupby(["layer", "module"])}
    wide = pd.Series(found).unstack()
    return wide.reindex(columns=[m for m in MODULES if m in wide])


def _cell_value(part: pd.DataFrame, column: str) -> float:
    if column in ("ct_l2", "sft_l2"):
        return float(np.linalg.norm(part[column]))
    if column == "cosine":
        ct, sft = (np.linalg.norm(part[f"{parent}_l2"]) for parent in ("ct", "sft"))
        across = (part["cosine"] * part["ct_l2"] * part["sft_l2"]).sum()
        return float(across / (ct * sft)) if ct * sft else float("nan")
    total = conflicts.sums(part)
    if column.endswith("_share"):
        return 100 * total[column]
    of = "sft_kept_mass" if column.endswith("mass") else "sft_kept"
    return 100 * total[column] / total[of] if total[of] else float("nan")


def conflict_map(atlas: Atlas, column: str = "sft_discarded_share", trim_scope: str = "model") -> go.Figure:
    """Heatmap of layer x module for one of COLUMNS, exact numbers at the atlas's own setting."""
    values = cell_values(atlas, column, trim_scope)
    what, unit = COLUMNS[column]
    layers = ["outside" if layer < 0 else f"layer {layer}" for layer in values.index]
    fig = go.Figure(
        go.Heatmap(
            z=values.astype(object).where(values.notna(), None).to_numpy().tolist(),  # NaN is no JSON
            x=list(values.columns),
            y=layers,
            colorscale="Cividis",
            colorbar={"title": {"text": unit, "side": "right"}},
            hovertemplate="%{y}, %{x}: %{z:.3g} " + unit + "<extra></extra>",
            hoverongaps=False,
        )
    )
    n, facts = int(atlas.tensors["n"].sum()), atlas.facts
    setting = f"density {_setting(facts['density'])}, {_slack(facts)}, trim scope {trim_scope}"
    finish(fig, f"{what}, {atlas.title}: {setting} (n = {n:,} weights)", "module", "", _tall(len(layers)))
    fig.update_xaxes(type="category", showgrid=False)
    return fig.update_yaxes(type="category", autorange="reversed", showgrid=False)


def _setting(value: Mapping[str, float]) -> str:
    one = sorted(set(value.values()))
    return f"{one[0]:g}" if len(one) == 1 else ", ".join(f"{key} {x:g}" for key, x in value.items())


def _slack(facts: Mapping[str, Any]) -> str:
    xi = facts["slack_threshold"]
    return f"slack {facts['slack']:g}" if xi is None else f"slack ξ {xi:g}"


def _tall(rows: int) -> int:
    return int(np.clip(150 + 24 * rows, 300, 760))


def cell_name(layer: str, module: str) -> str:
    """`where` of a cell of the map, from its labels."""
    return module if layer == "outside" else f"{layer} {module}"


def by_magnitude(found: WhatIf, where: str) -> pd.DataFrame:
    """SFT's kept entries by their magnitude and fate: low, high (of |tau_SFT|), and FATES, in entries."""
    from lrnb import whatif_kernels as k

    rows, h = found.atlas.rows(where), found.atlas.histograms
    part = found.results[rows].sum(axis=0)
    kept = found.views[rows, 1, k.N].sum(axis=0)
    lost, won_back = part[:, k.LOST + 1], part[:, k.RESERVED]
    columns = {
        "alone": kept - part[:, k.OVERLAP],
        "agreed": part[:, k.OVERLAP] - part[:, k.CONFLICTS],
        "won": part[:, k.CONFLICTS] - lost,
        "reserved": won_back,
        "discarded": lost - won_back,
    }
    table = pd.DataFrame({"low": h.edges[:-1], "high": h.edges[1:], **columns}).iloc[1:]
    seen = np.flatnonzero(table[list(FATES)].sum(axis=1) > 0)
    return table.iloc[seen[0] : seen[-1] + 1] if len(seen) else table.iloc[:0]


def sign_histogram(found: WhatIf, where: str = MODEL) -> go.Figure:
    """Histogram of the kept SFT entries by magnitude, coloured by what CT does at the same weight."""
    table = by_magnitude(found, where)
    fig = go.Figure()
    middle = np.sqrt(table["low"] * table["high"])
    for name, (word, ink) in FATES.items():
        fig.add_bar(
            x=np.log2(middle),
            y=table[name],
            width=np.log2(table["high"] / table["low"]),
            name=word,
            marker={"color": ink, "line": {"width": 0}},
            customdata=np.stack([table["low"], table["high"]], -1),
            hovertemplate="|τ SFT| %{customdata[0]:.2g} to %{customdata[1]:.2g}: %{y:,.0f} entries"
            "<extra>" + word + "</extra>",
        )
    total = conflicts.sums(found.table.iloc[found.atlas.rows(where)])
    finish(
        fig,
        f"{_name(where)}, {found.atlas.title}: {total['conflicts']:,.0f} sign conflicts, SFT loses "
        f"{total['sft_discarded']:,.0f} (n = {total['n']:,.0f} weights)",
        "|τ SFT| (log scale)",
        "entries kept by trimming",
    )
    ticks: Any = (
        np.arange(np.floor(np.log2(table["low"].min())), np.log2(table["high"].max()) + 1)
        if len(table)
        else []
    )
    fig.update_xaxes(tickvals=ticks, ticktext=[f"2<sup>{t:.0f}</sup>" for t in ticks])
    return fig.update_layout(barmode="stack", bargap=0, legend={"traceorder": "normal"})
