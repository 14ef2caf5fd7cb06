"""What base, CT, SFT and a merge answer to one prompt: a figure of the options and a table of the texts.

Prompts, options and answers come from corpora and models: everything is escaped, kept within its cell
whatever its writing direction, and bytes that form no character are marked.
"""

from __future__ import annotations

import re
import unicodedata
from html import escape

import pandas as pd
import plotly.graph_objects as go

from lrnb.params import ENGLISH
from lrnb.playground import Prompt
from lrnb.style import FAINT, INK, colour, finish, label

SHOWN = 36  # characters of an option beside its bars
FONTS = {"Arabic": "Noto Naskh Arabic", "Tibetan": "Noto Serif Tibetan"}  # others: Noto Sans and the script
GARBAGE = re.compile("\ufffd+")
HIDDEN = {c for c in range(0x20) if c not in (0x09, 0x0A)} | {0x7F, *range(0x80, 0xA0)}
TURNS = {0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # would move the text around it
MARK = (
    '<span class="lrnb-garbage" title="{why}" style="background:rgba(213,94,0,.25);'
    'border-bottom:2px solid #D55E00">{shown}</span>'
)
LINE = "1px solid rgba(128,128,128,.35)"
CELL = f"padding:4px 8px;vertical-align:top;text-align:start;border-bottom:{LINE}"
BOX = f"max-height:11em;overflow-y:auto;border:{LINE};padding:6px 8px"
TABLE = "border-collapse:collapse;table-layout:fixed;width:100%"
LETTERS = "white-space:pre-wrap;overflow-wrap:anywhere"


def option_shares(answers: pd.DataFrame, prompt: Prompt) -> go.Figure:
    """Share of each option (softmax of its log-likelihood, percent), a bar a model, with the chance line.

    answers: of `Playground.answers`. The right option is marked.
    """
    fig, n = go.Figure(), len(prompt.options)
    for row in answers.itertuples():
        fig.add_bar(
            y=list(range(n)),
            x=[100 * share for share in row.shares],
            orientation="h",
            name=label(row.model),
            marker={"color": colour(row.model)},
            customdata=[round(value, 2) for value in row.loglikelihoods],
            hovertemplate=f"{label(row.model)}: %{{x:.1f}}%, %{{customdata}} nats<extra></extra>",
        )
    if n:
        fig.add_vline(x=100 / n, line={"color": INK, "width": 1.3, "dash": "dash"})
        at = {"x": 100 / n, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
        fig.add_annotation(text="chance", font={"size": 11, "color": FAINT}, **at)
    else:
        fig.add_annotation(text="no options: only the texts below", showarrow=False, font={"size": 15})
    names = [_tick(option, i == prompt.gold) for i, option in enumerate(prompt.options)]
    title = f"{escape(prompt.name)}: share of each option (n = {n} options)"
    finish(fig, title, "share of the option among all (%)", "", 170 + 74 * max(n, 1))
    fig.update_layout(barmode="group", bargap=0.22, legend={"y": -62 / (58 + 74 * max(n, 1))})
    fig.update_yaxes(tickvals=list(range(n)), ticktext=names, ticklabelstandoff=6, range=[n - 0.5, -0.5])
    return fig.update_xaxes(range=[0, 101])


def _tick(option: str, right: bool) -> str:
    short = option if len(option) <= SHOWN else option[: SHOWN - 1] + "…"
    return f"<b>{escape(short)} ✓</b>" if right else escape(short)


def answers_table(answers: pd.DataFrame, prompt: Prompt, lang: str = "", script: str = "") -> str:
    """The prompt, what each model writes after it, and each option's share and log-likelihood, as HTML.

    lang, script: of the study, for the font and the `lang` of texts that are not in Latin letters.
    """
    heads = "".join(f'<th style="{CELL}">{_head(row.model)}</th>' for row in answers.itertuples())
    texts = "".join(
        f'<td style="{CELL};width:20%" data-model="{escape(row.model)}" data-what="text">'
        f"{text_html(row.text, lang, script)}</td>"
        for row in answers.itertuples()
    )
    rows = "".join(_option(answers, prompt, i, lang, script) for i in range(len(prompt.options)))
    asked = text_html(prompt.text, lang, script)
    return (
        f'<div class="lrnb-answers" style="line-height:1.45"><div style="{BOX}">{asked}</div>'
        f'<table style="{TABLE}"><tr><th style="{CELL};width:20%"></th>{heads}</tr>'
        f'<tr><th style="{CELL}">writes</th>{texts}</tr>{rows}</table>{_legend(answers, prompt)}</div>'
    )


def _head(model: str) -> str:
    return f'<span style="border-bottom:3px solid {colour(model)}">{label(model)}</span>'


def _option(answers: pd.DataFrame, prompt: Prompt, i: int, lang: str, script: str) -> str:
    """One row of the table: an option, and per model its share, nats, and a mark where it is picked."""
    right = '<span title="the right option">✓</span>' if i == prompt.gold else ""
    cells = "".join(
        f'<td style="{CELL}" data-model="{escape(row.model)}" data-option="{i}">'
        f"<b>{100 * row.shares[i]:.1f}%</b>{' ◀' if row.picks == i else ''}"
        f'<br><span style="opacity:.75">{row.loglikelihoods[i]:.2f} nats</span></td>'
        for row in answers.itertuples()
    )
    option = text_html(prompt.options[i], lang, script)
    name = f'<div style="display:flex;gap:6px">{option}{right}</div>'
    return f'<tr><th style="{CELL};font-weight:normal">{name}</th>{cells}</tr>'


def _legend(answers: pd.DataFrame, prompt: Prompt) -> str:
    rules = {"acc": "the likeliest", "acc_norm": "nats per character", "acc_bytes": "nats per byte"}
    told = [f"◀ the study's pick ({rules[prompt.metric]})"] if prompt.options else []
    told += ["✓ the right option"] if prompt.gold >= 0 else []
    if any(GARBAGE.search(text) for text in answers["text"]):
        told.append(MARK.format(why="", shown="�") + " bytes that form no character")
    return f'<div style="opacity:.8;padding:4px 8px">{", ".join(told)}</div>'


def text_html(text: str, lang: str = "", script: str = "") -> str:
    """A text of a model or corpus as HTML: escaped, with lang and font, garbage marked, a dir a line."""
    if not text.strip():
        return f'<span style="opacity:.7">{"(white space only)" if text else "(nothing)"}</span>'
    own = any(ord(c) > 0x24F and c.isalpha() for c in text)
    fonts = f"font-family:'{FONTS.get(script, f'Noto Sans {script}')}',system-ui,sans-serif;"
    style = escape(f"{fonts if own and script else ''}{LETTERS}")
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    blocks = [f'<span dir="{direction(x)}" style="display:block">{_marked(x)}</span>' for x in lines]
    return f'<div lang="{escape(lang if own and lang else ENGLISH)}" style="{style}">{"".join(blocks)}</div>'


def direction(text: str) -> str:
    """rtl where most letters are written from right to left (Uyghur), else ltr."""
    kinds = [unicodedata.bidirectional(c) for c in text]
    return "rtl" if sum(k in ("R", "AL") for k in kinds) > kinds.count("L") else "ltr"


def _marked(text: str) -> str:
    """Escaped; runs of U+FFFD, control characters and characters that turn the text around are shown."""

    def garbage(found: re.Match[str]) -> str:
        n, end = len(found[0]), found.end() == len(clean)
        why = "bytes of a character that is not finished" if end else "bytes that form no character"
        return MARK.format(why=f"{n}: {why}", shown=found[0])

    clean = escape("".join(map(_visible, text)))
    return GARBAGE.sub(garbage, clean)


def _visible(c: str) -> str:
    if ord(c) in HIDDEN | TURNS:
        return f"⟨{ord(c):02X}⟩"
    return c
