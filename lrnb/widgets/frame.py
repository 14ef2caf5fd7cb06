"""Where a living figure stands: as wide as the cell whatever its width becomes, in the colours of the theme.

plotly may draw a FigureWidget before it stands in the page, when its width is not known, and asks again only
when the window tells that it was resized. So that is told, by the style sheet: it is the part of the page
that notices when it is put there. It also names the controls around for screen readers, which ipywidgets
leaves to sight: sliders, their numbers, groups of buttons, and the buttons that play.
"""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from lrnb.figures.theme import theme_style

PUT_THERE = """
const whole = this.closest('.lrnb-explorer'), name = (part, word) => part.setAttribute('aria-label', word);
new ResizeObserver(() => window.dispatchEvent(new Event('resize'))).observe(this.parentElement);
const say = () => {
  whole.querySelectorAll('.lrnb-controls > *').forEach(control => {
    const word = control.querySelector('label')?.textContent.trim();
    control.querySelectorAll('.noUi-handle, .widget-readout').forEach(part => name(part, word));
    const buttons = control.querySelector('.widget-toggle-button')?.parentElement;
    if (buttons) { name(buttons, word); buttons.setAttribute('role', 'group'); }
  });
  whole.querySelectorAll('.widget-play button').forEach((b, i) => name(b, ['play', 'stop', 'repeat'][i]));
  if (whole.querySelector('.main-svg')) coming.disconnect();
};
const coming = new MutationObserver(say);
coming.observe(whole, {childList: true, subtree: true});
"""


def living(figure: go.Figure) -> Any:
    """A FigureWidget that holds the whole figure in the message that opens it.

    plotly opens an empty one and sends the figure after it. What comes while a page still loads the code of
    the widget is lost, and the figure stays blank.
    """

    class Living(go.FigureWidget):
        whole = False

        def open(self) -> None:
            if self.whole:
                super().open()

    found = Living(figure)
    found._config = found._config | {"responsive": True, "displaylogo": False}
    found.add_class("lrnb-figure")
    found.whole = True
    found.open()
    return found


def framed(figure: Any) -> Any:
    """A FigureWidget in its place; above it, unseen, the style sheet that looks after the page around it."""
    import ipywidgets as w

    style = theme_style().replace("<style>", f'<style onload="{escape(PUT_THERE)}">')
    unseen = w.HTML(style, layout={"width": "100%", "height": "0", "margin": "0"})
    return w.VBox([unseen, figure]).add_class("lrnb-frame")
