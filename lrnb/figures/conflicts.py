"""Figures of the conflict atlas. Every function returns a plotly Figure and changes nothing.

`where` names a part of the model: "(model)", "layer 3", "layer 3 q", "embed", or a tensor (`Atlas.rows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrnb.conflicts import counts
from lrnb.conflicts.atlas import Atlas, cosine_columns
from lrnb.conflicts.counts import MODEL
from lrnb.conflicts.what_ifs import WhatIf
from lrnb.figures.merging import MODULES
from lrnb.figures.style import FATES, INK, MARGIN, OUTCOME_NAMES, OUTCOMES, blank, finish


def map_columns(atlas: Atlas) -> dict[str, tuple[str, str]]:
    """What a map can show: column -> (what it is, unit)."""
    own, parents = atlas.protect, sorted(atlas.parents, key=lambda parent: parent != atlas.protect)
    kept = f"% of {shown(own)}'s kept"
    lost = {
        f"{parent}_discarded_share": (f"{shown(parent)} entries discarded", f"% of {shown(parent)}'s kept")
        for parent in parents
    }
    more = {
        "conflict_share": ("sign conflicts", kept),
        f"{own}_discarded_mass": (f"{shown(own)} mass discarded", f"{kept} L1"),
        "reserved": ("won back by slack", kept),
    }
    cosines = {
        name: (f"cosine of {' and '.join(shown(atlas.parents[i]) for i in pair)}", "cosine")
        for name, pair in cosine_columns(atlas.parents).items()
    }
    sizes = {f"{p}_l2": (f"size of {shown(p)}'s task vector", "L2 norm") for p in atlas.parents}
    return lost | more | cosines | sizes


def fate_looks(found: WhatIf) -> dict[str, tuple[str, str]]:
    """What becomes of an entry of the protected parent that trimming kept: fate -> (in words, colour)."""
    others = [shown(parent) for parent in found.atlas.parents if parent != found.protect]
    one = others[0] if len(others) == 1 else ""
    return {
        "alone": (f"{one or 'no other'} has {'none' if one else 'one'} here", FATES["alone"]),
        "agreed": (f"{one} agrees" if one else "the others agree", OUTCOMES["agreed"]),
        "won": (f"conflict, {shown(found.protect)} wins", FATES["won"]),
        "reserved": ("conflict, won back by slack", OUTCOMES["reserved"]),
        "discarded": ("conflict, discarded", OUTCOMES["discarded"]),
    }


def shown(parent: str) -> str:
    """A parent's name for a reader: CT, SFT; others as they are called, escaped."""
    return parent.upper() if parent in ("ct", "sft") else escape(parent)


def slack_histogram(found: WhatIf, where: str = MODEL, bars: int = 80) -> go.Figure:
    """Left: histogram of the protected parent's defeats by margin, the part won back shaded up to xi. Right:
    what becomes of all parents' kept entries."""
    rows = found.atlas.rows(where)
    lost, won, edges = found.margins(rows, bars)
    total, own = found.sums(where), found.protect
    others = [shown(parent) for parent in found.atlas.parents if parent != own]
    against = others[0] if len(others) == 1 else "the others"
    fig = blank(rows=1, cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.14)
    middle = (edges[:-1] + edges[1:]) / 2
    for outcome, y in (("reserved", won[:-1]), ("discarded", (lost - won)[:-1])):
        look = {"name": OUTCOME_NAMES[outcome], "marker": {"color": OUTCOMES[outcome]}}
        fig.add_bar(x=middle, y=y, width=np.diff(edges), **look)
    _fate_bars(fig, total, found.atlas.parents, own)
    lose = f"{total[f'{own}_discarded']:,.0f} of {total[f'{own}_kept']:,.0f} kept {shown(own)} entries lose"
    finish(fig, _title(found.atlas, where, lose, total["n"]))
    xi = float(found.xi[rows[0]])
    if np.ptp(found.xi[rows]) == 0 and xi > 0:  # one line for one threshold
        at = min(xi, edges[-1])
        fig.add_vline(x=at, line={"color": INK, "dash": "dash"}, row=1, col=1)
        above = {"y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "font": {"size": 11}}
        fig.add_annotation(x=at, text=f"ξ = {xi:.2g}", **above)
    margin = f"δ = |w τ {against}| − |w τ {shown(own)}|"
    fig.update_xaxes(title_text=margin, row=1, col=1, range=[0, edges[-1]])
    fig.update_yaxes(title_text="entries", row=1, col=1)
    fig.update_xaxes(title_text="share of the kept entries (%)", row=1, col=2, range=[0, 100])
    fig.update_yaxes(title_text="parent", autorange="reversed", row=1, col=2)  # CT above SFT
    room = {"t": MARGIN + 16}  # between title and plot, for the name of the threshold
    return fig.update_layout(barmode="stack", bargap=0, legend={"traceorder": "normal"}, margin=room)


def _fate_bars(fig: go.Figure, total: Mapping[str, float], parents: Sequence[str], own: str) -> None:
    """A stacked bar a parent, in percent of what trimming kept of it. Who gives up what slack wins back is
    known of two parents; of more the others' bars are those before slack."""
    won = total["reserved"]
    ceded = {parent: won if parent != own and len(parents) == 2 else 0 for parent in parents}
    back = {parent: won if parent == own else 0 for parent in parents}
    kept, lost = ({parent: total[f"{parent}_{name}"] for parent in parents} for name in ("kept", "discarded"))
    parts = {
        "agreed": [kept[p] - lost[p] - ceded[p] for p in parents],
        "reserved": [back[p] for p in parents],
        "ceded": [ceded[p] for p in parents],
        "discarded": [lost[p] - back[p] for p in parents],
    }
    for outcome, entries in parts.items():
        name = OUTCOME_NAMES[outcome]
        look = {"name": name, "marker": {"color": OUTCOMES[outcome]}, "width": 0.5, "orientation": "h"}
        fig.add_bar(
            x=[100 * n / max(kept[p], 1) for n, p in zip(entries, parents, strict=True)],
            y=[shown(parent) for parent in parents],
            showlegend=outcome in ("agreed", "ceded"),
            hovertemplate="%{y}: %{x:.2f}% of its kept entries<extra>" + name + "</extra>",
            row=1,
            col=2,
            **look,
        )


def _title(atlas: Atlas, where: str, said: str, n: float) -> str:
    known = where.startswith("layer ") or where in MODULES
    name = "Whole model" if where == MODEL else escape(where.capitalize() if known else where)
    return f"{name}, {atlas.title}: {said} (n = {n:,.0f} weights)"


def cell_values(atlas: Atlas, column: str, trim_scope: str = "model") -> pd.DataFrame:
    """layer x module of one of `map_columns`, exact; layer -1: outside the layers. NaN where no tensor is."""
    sizes = {f"{parent}_l2": atlas.tensors[f"{parent}_l2"] for parent in atlas.parents}
    cosines = {name: atlas.tensors[name] for name in cosine_columns(atlas.parents)}
    table = atlas.exact(trim_scope).assign(**sizes, **cosines)
    found = {key: _cell_value(atlas, part, column) for key, part in table.groupby(["layer", "module"])}
    wide = pd.Series(found).unstack()
    return wide.reindex(columns=[m for m in MODULES if m in wide])


def _cell_value(atlas: Atlas, part: pd.DataFrame, column: str) -> float:
    if column.endswith("_l2"):
        return float(np.linalg.norm(part[column]))
    if pair := cosine_columns(atlas.parents).get(column):
        a, b = (part[f"{atlas.parents[i]}_l2"] for i in pair)
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float((part[column] * a * b).sum() / size) if size else float("nan")
    total = counts.sums(part, atlas.protect)
    if column.endswith("_share"):
        return 100 * total[column]
    of = f"{atlas.protect}_kept_mass" if column.endswith("mass") else f"{atlas.protect}_kept"
    return 100 * total[column] / total[of] if total[of] else float("nan")


def conflict_heatmap(atlas: Atlas, column: str = "", trim_scope: str = "model") -> go.Figure:
    """Heatmap of layer x module for one of `map_columns`, by default what the protected parent loses; exact
    numbers at the atlas's own setting."""
    column = column or f"{atlas.protect}_discarded_share"
    values = cell_values(atlas, column, trim_scope)
    what, unit = map_columns(atlas)[column]
    layers = ["outside" if layer < 0 else f"layer {layer}" for layer in values.index]
    fig = blank().add_heatmap(
        z=values.astype(object).where(values.notna(), None).to_numpy().tolist(),  # NaN is no JSON
        x=list(values.columns),
        y=layers,
        colorscale="Cividis",
        colorbar={"title": {"text": unit, "side": "right"}},
        texttemplate="%{z:.3g}",
        hovertemplate="%{y}, %{x}: %{z:.3g} " + unit + "<extra></extra>",
        hoverongaps=False,
    )
    n, facts, height = int(atlas.tensors["n"].sum()), atlas.facts, 150 + 24 * len(layers)
    setting = f"density {_setting(facts['density'])}, {_slack(facts)}, trim scope {trim_scope}"
    title = f"{what}, {atlas.title}: {setting} (n = {n:,} weights)"
    finish(fig, title, "module", "layer", min(max(height, 300), 760))
    fig.update_xaxes(type="category", showgrid=False)
    return fig.update_yaxes(type="category", autorange="reversed", showgrid=False)


def _setting(value: Mapping[str, float]) -> str:
    one = sorted(set(value.values()))
    return f"{one[0]:g}" if len(one) == 1 else ", ".join(f"{escape(p)} {x:g}" for p, x in value.items())


def _slack(facts: Mapping[str, Any]) -> str:
    xi = facts["slack_threshold"]
    return f"slack {facts['slack']:g}" if xi is None else f"slack ξ {xi:g}"


def cell_name(layer: str, module: str) -> str:
    """`where` of a cell of the map, from its labels."""
    return module if layer == "outside" else f"{layer} {module}"


def sign_histogram(found: WhatIf, where: str = MODEL) -> go.Figure:
    """How densely the protected parent's kept entries lie along magnitude, in entries per octave since bins
    differ in width; coloured by what the others do at the same weight."""
    own, fig = found.protect, blank()
    table = found.by_magnitude(found.atlas.rows(where))
    middle, octaves = np.sqrt(table["low"] * table["high"]), np.log2(table["high"] / table["low"])
    for name, (word, ink) in fate_looks(found).items():
        fig.add_bar(
            x=np.log2(middle),
            y=table[name] / octaves,
            width=octaves,
            name=word,
            marker={"color": ink, "line": {"width": 0}},
            customdata=table[["low", "high", name]],
            hovertemplate=f"|τ {shown(own)}| %{{customdata[0]:.2g}} to %{{customdata[1]:.2g}}: "
            f"%{{customdata[2]:,.0f}} entries<extra>{word}</extra>",
        )
    total = found.sums(where)
    lose = f"{shown(own)} loses {total[f'{own}_discarded']:,.0f}"
    title = _title(found.atlas, where, f"{total['conflicts']:,.0f} sign conflicts, {lose}", total["n"])
    finish(fig, title, f"|τ {shown(own)}| (log scale)", "kept entries per octave", 440)
    fig.update_xaxes(**_octaves(table["low"].min(), table["high"].max()) if len(table) else {})
    return fig.update_layout(barmode="stack", bargap=0, legend={"traceorder": "normal", "y": -0.28})


def _octaves(low: float, high: float) -> dict[str, Any]:
    """Ticks of a log2 axis at the powers of two; where fewer than two lie on it, at its ends."""
    ticks = np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
    if len(ticks) < 2:
        return {"tickvals": np.log2([low, high]), "ticktext": [f"{low:.2g}", f"{high:.2g}"]}
    return {"tickvals": ticks, "ticktext": [f"2<sup>{t:.0f}</sup>" for t in ticks]}
