"""Texts of corpora and models as HTML: escaped, in the font and the direction of their script.

Bytes that form no character are marked; characters that would move the text around are shown by number.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from html import escape

import regex

from lrnb.analysis.failures import REPLACEMENT, script_of
from lrnb.study.parameters import ENGLISH

#: Unicode script -> fonts that have it, where they are not Noto Sans; the first that the system has is used.
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
NUMBERED = regex.compile(r"[\p{Cc}\u200e\u200f\u202a-\u202e\u2066-\u2069--[\n\t]]", flags=regex.VERSION1)
LETTERS = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6"
VERTICAL = ";writing-mode:vertical-lr;text-orientation:mixed;height:15em;overflow-x:auto"
MARK = (
    '<mark class="lrnb-garbage" title="{why}" style="color:inherit;background:rgba(213,94,0,.25);'
    'border-bottom:2px solid #D55E00">{shown}</mark>'
)
RULE = "1px solid rgba(128,128,128,.35)"
CELL = f"padding:4px 8px;vertical-align:top;text-align:start;border-bottom:{RULE}"
TABLE = "border-collapse:collapse;table-layout:fixed;width:100%"


def fonts_of(script: str) -> str:
    """The font stack of a script, in CSS; "" for Latin, which every font has."""
    named = FONTS.get(script, f"'Noto Sans {script}'")
    return f"{named}, system-ui, sans-serif" if script not in ("", "Latin") else ""


def text_html(text: str, lang: str = "", script: str = "", longest: int = 0) -> str:
    """A text of a data set or a model as a block of HTML; each line has its own direction.

    lang, script: of X; a text that is mostly in other letters is marked as English. Mongolian's traditional
    script runs downwards. longest: characters that are shown, 0 for all.
    """
    if not text.strip():
        return f'<span style="opacity:.7">({"white space only" if text else "nothing"})</span>'
    own = script in ("", "Latin") or script_of(text, script) == "x"
    named = own and script not in ("", "Latin")
    style = escape(f"font-family:{fonts_of(script)};{LETTERS}" if named else LETTERS)
    style += VERTICAL if named and script == "Mongolian" else ""
    cut = text[:longest] + " …" if 0 < longest < len(text) else text
    lines = (
        f'<span dir="{direction(line)}" style="display:block">{_marked(line)}</span>'
        for line in regex.findall(r"[^\n]*\n|[^\n]+", cut)
    )
    return f'<div lang="{escape(lang if own and lang else ENGLISH)}" style="{style}">{"".join(lines)}</div>'


def direction(text: str) -> str:
    """rtl where most letters are written from right to left (Uyghur), else ltr."""
    kinds = [unicodedata.bidirectional(c) for c in text]
    return "rtl" if sum(k in ("R", "AL") for k in kinds) > kinds.count("L") else "ltr"


def _marked(text: str) -> str:
    """Escaped; runs of U+FFFD, control characters and characters that turn the text around are shown."""

    def garbage(found: regex.Match[str]) -> str:
        last = found.end() == len(shown)
        why = "bytes of a character that is not finished" if last else "bytes that form no character"
        return MARK.format(why=f"{len(found[0])}: {why}", shown=found[0])

    shown = escape(NUMBERED.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text))
    return regex.sub(f"{REPLACEMENT}+", garbage, shown)


def html_cell(content: str, tag: str = "td", style: str = "", **data: object) -> str:
    """A cell of a table; content is HTML already. data: its data- attributes."""
    named = "".join(f' data-{key}="{escape(str(value))}"' for key, value in data.items())
    return f'<{tag} style="{CELL};{style}"{named}>{content}</{tag}>'


def html_table(rows: Iterable[Iterable[str]]) -> str:
    """Rows of cells as a table that is as wide as its place."""
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<table style="{TABLE}">{body}</table>'
