"""What base, CT, SFT and a merge answer to one prompt: a figure of the options and a table of the texts."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lrnb.analysis.failures import REPLACEMENT
from lrnb.analysis.kinds import label
from lrnb.figures.style import FAINT, INK, blank, colour, finish
from lrnb.figures.text import MARK, RULE, fonts_of, html_cell, html_table, text_html
from lrnb.tuning.live_merge import Prompt

SHOWN = 36  # characters of an option beside its bars
BOX = f"max-height:11em;overflow-y:auto;border:{RULE};padding:6px 8px"
GLOSS = '<div lang="en" style="opacity:.75;font-style:italic">{}</div>'
Gloss = Callable[[str], str]  # a text word for word in English; "" where there is no need
PICKS = {"acc": "the likeliest", "acc_norm": "nats per character", "acc_bytes": "nats per byte"}


def no_gloss(_: str) -> str:
    return ""


def option_shares(
    answers: pd.DataFrame, prompt: Prompt, script: str = "", gloss: Gloss = no_gloss
) -> go.Figure:
    """Share of each option (softmax of its log-likelihood, percent), a bar a model, with the chance line.

    answers: of `Playground.answers`. The right option is marked. script: of the options, for their font;
    gloss: of `Playground`.
    """
    fig, n = blank(), len(prompt.options)
    for row in answers.itertuples():
        name = label(row.model)
        fig.add_bar(
            y=list(range(n)),
            x=[100 * share for share in row.shares],
            orientation="h",
            name=name,
            marker={"color": colour(row.model)},
            customdata=[round(value, 2) for value in row.loglikelihoods],
            hovertemplate=f"{name}: %{{x:.1f}}%, %{{customdata}} nats<extra></extra>",
        )
    if n:
        fig.add_vline(x=100 / n, line={"color": INK, "width": 1.3, "dash": "dash"})
        at = {"x": 100 / n, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
        fig.add_annotation(text="chance", font={"size": 11, "color": FAINT}, **at)
    else:
        fig.add_annotation(text="no options: only the texts below", showarrow=False, font={"size": 15})
    names = [_tick(option, i == prompt.gold, gloss(option)) for i, option in enumerate(prompt.options)]
    title = f"{escape(prompt.name)}: share of each option (n = {n} options)"
    finish(fig, title, "share of the option among all (%)", "option", 170 + 74 * max(n, 1), rows=True)
    fig.update_layout(barmode="group", bargap=0.22)
    fig.update_yaxes(tickvals=list(range(n)), ticktext=names, ticklabelstandoff=6, range=[n - 0.5, -0.5])
    fig.update_yaxes(tickfont={"family": fonts_of(script)} if fonts_of(script) else {})
    return fig.update_xaxes(range=[0, 101])


def _tick(option: str, right: bool, meaning: str) -> str:
    short = escape(option if len(option) <= SHOWN else option[: SHOWN - 1] + "…")
    told = f"<br><i>{escape(meaning)}</i>" if meaning else ""
    return (f"<b>{short} ✓</b>" if right else short) + told


def answers_table(
    answers: pd.DataFrame, prompt: Prompt, lang: str = "", script: str = "", gloss: Gloss = no_gloss
) -> str:
    """The prompt, what each model writes after it, and each option's share and log-likelihood, as HTML.

    lang, script: of the study, for the font and the `lang` of texts that are not in Latin letters. gloss: of
    `Playground`; what it says of a text stands below it.
    """

    def shown(text: str) -> str:
        meaning = gloss(text)
        return text_html(text, lang, script) + (GLOSS.format(escape(meaning)) if meaning else "")

    models, wide = list(answers.itertuples()), f"width:{100 // (len(answers) + 1)}%"
    asked, *options = map(shown, (prompt.text, *prompt.options))
    rows = [
        [html_cell("", "th", wide), *map(_head, models)],
        [html_cell("writes", "th"), *(_written(m, shown(m.text)) for m in models)],
        *(_option(models, prompt, i, option) for i, option in enumerate(options)),
    ]
    return (
        f'<div class="lrnb-answers" style="line-height:1.45"><div style="{BOX}">{asked}</div>'
        f"{html_table(rows)}{_legend(answers, prompt)}</div>"
    )


def _head(model: Any) -> str:
    name = f'<span style="border-bottom:3px solid {colour(model.model)}">{label(model.model)}</span>'
    return html_cell(name, "th")


def _written(model: Any, text: str) -> str:
    return html_cell(text, model=model.model, what="text")


def _option(models: list[Any], prompt: Prompt, i: int, option: str) -> list[str]:
    """One row of the table: an option, and per model its share, nats, and a mark where it is picked."""
    right = '<span title="the right option">✓</span>' if i == prompt.gold else ""
    found = [
        f"<b>{100 * m.shares[i]:.1f}%</b>{' ◀' if m.picks == i else ''}"
        f'<br><span style="opacity:.75">{m.loglikelihoods[i]:.2f} nats</span>'
        for m in models
    ]
    cells = [html_cell(text, model=m.model, option=i) for m, text in zip(models, found, strict=True)]
    name = f'<div style="display:flex;gap:6px">{option}{right}</div>'
    return [html_cell(name, "th", "font-weight:normal"), *cells]


def _legend(answers: pd.DataFrame, prompt: Prompt) -> str:
    told = [f"◀ the study's pick ({PICKS[prompt.metric]})"] if prompt.options else []
    told += ["✓ the right option"] if prompt.gold >= 0 else []
    if answers["text"].str.contains(REPLACEMENT, regex=False).any():
        told.append(MARK.format(why="", shown=REPLACEMENT) + " bytes that form no character")
    return f'<div style="opacity:.8;padding:4px 8px">{", ".join(told)}</div>'
