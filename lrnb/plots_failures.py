"""Figures of why answers fail, and examples of answers side by side as HTML.

Text from data and models is escaped and shown in the font of its script where the system has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import regex

from lrnb import failures
from lrnb.failures import REPLACEMENT
from lrnb.params import budget_name
from lrnb.style import FAINT, INK, METHODS, colour, finish, label, level, task_name

LONGEST = 420  # characters of a text that are shown
#: Unicode script -> fonts that have it; the first one the system has is used
FONTS = {
    "Arabic": "'Noto Naskh Arabic', 'Noto Sans Arabic', 'UKIJ Tuz', 'Microsoft Uighur'",
    "Bengali": "'Noto Sans Bengali', 'Noto Serif Bengali', 'Nirmala UI', 'Bangla Sangam MN'",
    "Georgian": "'Noto Sans Georgian', 'DejaVu Sans', 'Sylfaen'",
    "Mongolian": "'Noto Sans Mongolian', 'Mongolian Baiti', 'Menksoft'",
    "Oriya": "'Noto Sans Oriya', 'Nirmala UI', 'Oriya Sangam MN'",
    "Tamil": "'Noto Sans Tamil', 'Nirmala UI', 'Tamil Sangam MN'",
    "Telugu": "'Noto Sans Telugu', 'Nirmala UI', 'Telugu Sangam MN'",
    "Tibetan": "'Noto Serif Tibetan', 'Jomolhari', 'Microsoft Himalaya', 'Kailasa'",
}
RIGHT_TO_LEFT = ("Arabic", "Hebrew", "Thaana", "Syriac", "Nko")
CONTROLS = regex.compile(r"[\p{Cc}\u202a-\u202e\u2066-\u2069--[\n\t]]", flags=regex.VERSION1)
VERTICAL = "writing-mode: vertical-lr; text-orientation: mixed; height: 15em; overflow-x: auto; "
TABLE = "border-collapse: collapse; width: 100%; table-layout: fixed; font-size: 14px"
CELL = "text-align: left; vertical-align: top; padding: 6px 10px; overflow-wrap: anywhere; "
CELL += "border: 1px solid #d8dee4"


def _model(name: str) -> str:
    method, _, budget = name.partition("@")
    return f"{label(method)} {escape(budget)}".strip()


def nothing(title: str, why: str) -> go.Figure:
    """An empty figure that says why it is empty."""
    fig = go.Figure().add_annotation(text=escape(why), showarrow=False, font={"size": 14, "color": FAINT})
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    return finish(fig, title, height=160)


def _spread(rows: pd.DataFrame, column: str, ink: str) -> dict[str, Any]:
    """The 95% interval of a column as plotly's error bars."""
    above, below = rows["ci_high"] - rows[column], rows[column] - rows["ci_low"]
    look = {"thickness": 1.3, "width": 0, "color": ink}
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **look}


def shares(table: pd.DataFrame, column: str, task: str, title: str, what: str) -> go.Figure:
    """Percent `column` of every model on a task with its interval; the expected share as a bar, if any.

    table: of `lrnb.failures`; title: what is counted; what: the x axis.
    """
    rows = table[(table["task"] == task) & table[column].notna()]
    title = f"{task_name(task)}: {title}"
    if not len(rows):
        return nothing(title, "nothing to count here")
    fig, y = go.Figure(), [_model(name) for name in rows["model"]]
    fig.add_scatter(
        x=rows[column],
        y=y,
        mode="markers",
        error_x=_spread(rows, column, FAINT),
        showlegend=False,
        marker={"size": 10, "color": [colour(method) for method in rows["method"]]},
        customdata=rows[["n"]],
        hovertemplate="%{y}: %{x:.1f}% of n = %{customdata[0]}<extra></extra>",
    )
    if "expected" in rows:
        mark = {"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": INK}}
        fig.add_scatter(x=rows["expected"], y=y, mode="markers", marker=mark, name="chance")
    fig.update_yaxes(autorange="reversed").update_xaxes(rangemode="tozero")
    few, many, height = int(rows["n"].min()), int(rows["n"].max()), 150 + 24 * len(rows)
    n = f"n = {few}" if few == many else f"n = {few} to {many}"
    finish(fig, f"{title} ({n}, 95% intervals)", what, "", height)
    return fig.update_layout(showlegend="expected" in rows, legend={"y": -60 / (height - 112)})


def across(table: pd.DataFrame, column: str, title: str, what: str) -> go.Figure:
    """Percent `column` by language and task, one mark a method; table: of `failures.across`."""
    rows = table[table[column].notna()] if column in table else table
    if not len(rows):
        return nothing(f"Across languages: {title}", "no language here has written answers")
    places = rows["lang"] + ", " + rows["task"].map(task_name) + " (n = " + rows["n"].astype(str) + ")"
    names, methods = list(dict.fromkeys(places)), list(dict.fromkeys(rows["method"]))
    fig = go.Figure()
    for method, own in rows.groupby("method", sort=False):
        beside = 0.7 * ((methods.index(method) + 0.5) / len(methods) - 0.5)
        fig.add_scatter(
            x=own[column],
            y=[names.index(place) + beside for place in places[own.index]],
            error_x=_spread(own, column, colour(str(method))),
            mode="markers",
            name=label(str(method)),
            marker={"symbol": METHODS[str(method)][2], "size": 9, "color": colour(str(method))},
            customdata=places[own.index],
            hovertemplate="%{customdata}: %{x:.1f}%<extra>%{fullData.name}</extra>",
        )
    ticks = {"tickvals": list(range(len(names))), "ticktext": names}
    fig.update_yaxes(**ticks, range=[len(names) - 0.5, -0.5]).update_xaxes(rangemode="tozero")
    height = 150 + 110 * len(names)
    finish(fig, f"Across languages: {title} (95% intervals)", what, "", height)
    return fig.update_layout(legend={"y": -60 / (height - 112)})


def against_kept(points: pd.DataFrame, slopes: pd.DataFrame, task: str) -> go.Figure:
    """Score of a task against the percent of SFT's entries that the election kept, and the fitted line.

    points: of `failures.against_kept`; slopes: of `failures.fragility`.
    """
    rows = points[points["task"] == task]
    if not len(rows):
        return nothing(task_name(task), "no TIES merge was scored here")
    fig = go.Figure()
    for method, own in rows.groupby("method", sort=False):
        fig.add_scatter(
            x=own["kept"],
            y=own["value"],
            error_y=_spread(own, "value", colour(str(method))),
            mode="markers+text",
            name=label(str(method)),
            text=[budget_name(int(t)) for t in own["ct_tokens"]],
            textposition="top right",
            textfont={"size": 11, "color": FAINT},
            marker={"symbol": METHODS[str(method)][2], "size": 10, "color": colour(str(method))},
            hovertemplate="%{x:.1f}% kept: %{y:.1f}% right<extra>%{fullData.name}</extra>",
        )
    said = _line(fig, rows, slopes[slopes["task"] == task])
    level(fig, float(rows["chance"].iloc[0]), "chance", "dash")
    title = f"{task_name(task)}: {said} (n = {int(rows['n'].iloc[0])} items)"
    finish(fig, title, "SFT's trimmed entries that the election keeps (%)", "correct (%)", 360)
    return fig.update_layout(margin={"r": 70})


def _line(fig: go.Figure, rows: pd.DataFrame, slope: pd.DataFrame) -> str:
    """Draws the fitted line; says the slope, or that there is none."""
    if not len(slope) or np.isnan(slope["slope"].iloc[0]):
        return f"{rows['ct_tokens'].nunique()} budgets, too few for a slope"
    own = slope.iloc[0]
    x = np.array([rows["kept"].min(), rows["kept"].max()])
    y = rows["value"].mean() + own["slope"] / 10 * (x - rows["kept"].mean())
    line = {"color": INK, "width": 1.2}
    fig.add_scatter(x=x, y=y, mode="lines", line=line, name="fitted", hoverinfo="skip")
    ends = "" if np.isnan(own["ci_low"]) else f", 95% {own['ci_low']:+.1f} to {own['ci_high']:+.1f}"
    return f"{own['slope']:+.1f} points per 10% kept{ends}".replace("-", "−")


# examples


def pair(items: pd.DataFrame) -> list[str]:
    """The two models whose answers stand side by side: CT-then-SFT and TIES-SV at the smallest budget.

    Where one is missing, the last two models.
    """
    there = list(dict.fromkeys(items["model"]))
    wanted = [[m for m in there if m.startswith(f"{method}@")] for method in ("ct_then_sft", "ties_sv")]
    return [found[0] for found in wanted] if all(wanted) else there[-2:]


def examples(
    items: pd.DataFrame, chosen: pd.Series, models: Sequence[str], n: int = 3
) -> list[dict[str, Any]]:
    """The first n items on which one of `models` is `chosen` (a mask over items), with all their answers.

    Rows: task, item, context, gold, answers (model -> text), right (model -> bool).
    """
    own = items[items["model"].isin(models)]
    keys = own.loc[chosen.reindex(own.index), ["task", "item"]].drop_duplicates().head(n)
    return [
        _beside(own[(own["task"] == task) & (own["item"] == item)], models)
        for task, item in keys.itertuples(index=False)
    ]


def _beside(rows: pd.DataFrame, models: Sequence[str]) -> dict[str, Any]:
    by = {row["model"]: row for row in rows.to_dict("records")}
    there = [model for model in models if model in by]
    first = by[there[0]]
    return {
        **{key: first[key] for key in ("task", "item", "context")},
        "gold": _shown(first, first["gold"]),
        "answers": {m: by[m]["generation"] or _shown(by[m], by[m]["prediction"]) for m in there},
        "right": {m: bool(by[m]["correct"]) for m in there},
    }


def _shown(row: dict[str, Any], name: Any) -> str:
    """An option's text where the item has it, its name otherwise."""
    texts = failures.option_texts(row) if len(row["options"]) else []
    names = [str(option) for option in row["options"]]
    return texts[names.index(str(name))] if texts and str(name) in names else str(name)


def examples_html(rows: Sequence[dict[str, Any]], lang: str = "", script: str = "") -> str:
    """Examples as an HTML table: context, right answer, the answer of each model; everything escaped.

    lang, script: of X. A task's texts carry its language and the fonts of its script; Mongolian's
    traditional script runs downwards. U+FFFD, broken bytes, is marked. A note where there are no rows.
    """
    if not rows:
        return "<p><i>No such example in this study.</i></p>"
    models = list(rows[0]["answers"])
    titles = ["context", "right", *map(_model, models)]
    head = "".join(f'<th style="{CELL}">{title}</th>' for title in titles)
    body = "".join(_example(row, models, lang, script) for row in rows)
    widths = "".join(f'<col style="width: {w}%">' for w in (44, 16, *[40 // len(models)] * len(models)))
    return (
        f'<table style="{TABLE}"><colgroup>{widths}</colgroup><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _example(row: dict[str, Any], models: Sequence[str], lang: str, script: str) -> str:
    own = ("en", "Latin") if str(row["task"]).endswith("_en") else (lang, script)
    cells = [text_html(row["context"], *own), text_html(row["gold"], *own)]
    for model in models:
        mark = "✓" if row["right"].get(model) else "✗"
        cells.append(f"<b>{mark}</b>{text_html(row['answers'].get(model, ''), *own)}")
    return "<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in cells) + "</tr>"


def text_html(text: str, lang: str = "", script: str = "") -> str:
    """A text of a data set or a model as a block: escaped, in its language's direction, font and way.

    Control characters, those that turn the direction of writing among them, are shown by number.
    """
    cut = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    cut = CONTROLS.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", cut)
    mark = f'<mark title="bytes that are no text">{REPLACEMENT}</mark>'
    shown = escape(cut).replace(REPLACEMENT, mark) or "<i>(nothing)</i>"
    own = failures.script_of(text, script) == "x"
    fonts = f"{FONTS[script]}, " if script in FONTS else ""
    style = f"font-family: {fonts}system-ui, sans-serif; text-align: start; "
    style += "white-space: pre-wrap; line-height: 1.6; "
    style += VERTICAL if own and script == "Mongolian" else "unicode-bidi: isolate"
    way = "rtl" if own and script in RIGHT_TO_LEFT else "auto"
    return f'<div lang="{escape(lang)}" dir="{way}" style="{style}">{shown}</div>'
