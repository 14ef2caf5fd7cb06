"""Where a living figure stands: as wide as the cell whatever its width becomes, in the colours of the theme.

plotly may draw a FigureWidget before it stands in the page, when its width is not known, and asks again only
when the window tells that it was resized. So that is told, by the style sheet: it is the part of the page
that notices when it is put there.
"""

from __future__ import annotations

from typing import Any

from lrnb.figures.theme import theme_style

WATCH = "new ResizeObserver(() => window.dispatchEvent(new Event('resize'))).observe(this.parentElement)"


def framed(figure: Any) -> Any:
    """A FigureWidget in its place; above it, unseen, the theme's style sheet, which watches the width."""
    import ipywidgets as w

    figure._config = figure._config | {"responsive": True, "displaylogo": False}
    style = theme_style().replace("<style>", f'<style onload="{WATCH}">')
    return w.VBox([w.HTML(style, layout={"width": "100%", "height": "0", "margin": "0"}), figure])
