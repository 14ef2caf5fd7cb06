"""Figures in JupyterLab's theme: a style sheet over the page, so that figures are the same wherever they go.

Neutral colours become those of the theme, also where it changes later; in a dark theme colours that would
not be seen on it are made lighter. What is exported, or stands in a report, is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lrnb.analysis.kinds import ELSEWHERE, KINDS
from lrnb.figures.style import (
    BUDGET_SHADES,
    CLASS_COLOURS,
    DENSITY_SHADES,
    FAINT,
    FATES,
    INK,
    OUTCOMES,
    PAPER,
    RULE,
)

DARK = "#111111"  # of JupyterLab's dark theme, below a cell's output
SEEN = 3.0  # contrast of a mark with what is behind it, WCAG 1.4.11
THEME = {
    INK: "var(--jp-ui-font-color1)",
    FAINT: "var(--jp-ui-font-color2)",
    RULE: "var(--jp-border-color2)",
    PAPER: "var(--jp-layout-color0)",
}
PLOT = ".jp-OutputArea .js-plotly-plot"
PAGE = f"""
{PLOT} .main-svg, {PLOT} .modebar {{background: transparent !important}}
{PLOT} .bglayer .bg, {PLOT} .legend .bg {{fill: transparent !important}}
{PLOT} .modebar-btn path {{fill: var(--jp-ui-font-color2) !important}}
"""


def follow_theme() -> None:
    """Figures below follow JupyterLab's theme, light or dark; for the first cell of a notebook."""
    from IPython.display import HTML, display

    display(HTML(theme_style()))


def theme_style() -> str:
    """The style sheet as HTML."""
    neutral = (rule for old, new in THEME.items() for rule in _rules(old, new))
    dark = (
        rule
        for old, new in lightened().items()
        for rule in _rules(old, new, "body[data-jp-theme-light=false] ")
    )
    return "<style>" + PAGE + "\n".join([*neutral, *dark]) + "</style>"


def _rules(old: str, new: str, where: str = "") -> Iterator[str]:
    """Marks, lines and words of one colour; what appears below the mouse has its own background."""
    rgb = ", ".join(str(part) for part in channels(old))
    for what in ("fill", "stroke"):
        found = f'{where}{PLOT} {"" if old != PAPER else ":not(text)"}[style*="{what}: rgb({rgb})"]'
        yield f"{found}:not(.hoverlayer *, .contourlayer *) {{{what}: {new} !important}}"


def lightened() -> dict[str, str]:
    """The figures' colours that a dark theme would hide: what they become there."""
    used = [kind.look.colour for kind in KINDS.values()]
    used += [
        ELSEWHERE.colour,
        *CLASS_COLOURS,
        *OUTCOMES.values(),
        *FATES.values(),
        *BUDGET_SHADES,
        *DENSITY_SHADES,
    ]
    seen = {*THEME, *(one for one in used if colour_contrast(one, DARK) >= SEEN)}
    return {one: lighter(one) for one in dict.fromkeys(used) if one not in seen}


def lighter(colour: str) -> str:
    """The colour with as little white as makes it seen on a dark theme."""
    steps = ([round(part + (255 - part) * step / 20) for part in channels(colour)] for step in range(21))
    mixed = ("#" + "".join(f"{part:02x}" for part in one) for one in steps)
    return next(one for one in mixed if colour_contrast(one, DARK) >= SEEN)


def colour_contrast(one: str, other: str) -> float:
    """Contrast of two colours by WCAG, from 1 (none) to 21."""
    high, low = sorted((_luminance(channels(one)), _luminance(channels(other))), reverse=True)
    return (high + 0.05) / (low + 0.05)


def channels(colour: str) -> list[int]:
    """Red, green and blue of "#rrggbb", from 0 to 255."""
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _luminance(rgb: Iterable[int]) -> float:
    linear = [(x / 255 / 12.92) if x <= 10 else ((x / 255 + 0.055) / 1.055) ** 2.4 for x in rgb]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
