"""Where a living figure stands: as wide as the cell whatever its width becomes, in the colours of the theme.

plotly may draw a FigureWidget before it stands in the page, when its width is not known, and asks again only
when the window tells that it was resized. So that is told, by the style sheet: it is the part of the page
that notices when it is put there. It also names the controls around for screen readers, which ipywidgets
leaves to sight: sliders, their numbers, groups of buttons, and the buttons that play.
"""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import plotly.graph_objects as go
from plotly.basedatatypes import Undefined

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
    the widget is lost, and the figure stays blank; `living.js` mends what is lost where that takes long.
    """
    found = _kind()(figure)
    found._config = found._config | {"responsive": True, "displaylogo": False}
    found.add_class("lrnb-figure")
    found.whole = True
    found.open()
    return found


@cache
def _kind() -> Any:
    """The class of living figures: plotly's FigureWidget, loaded by `living.js`."""
    import ipywidgets as w
    from traitlets import Instance, Unicode

    class Code(w.Widget):
        """plotly's module, sent to a page once for all figures."""

        text = Unicode(str(go.FigureWidget._esm)).tag(sync=True)

    code = Code()

    class Living(go.FigureWidget):
        _esm = Path(__file__).with_name("living.js")
        _code = Instance(w.Widget).tag(sync=True, **w.widget_serialization)
        _own_id = Unicode().tag(sync=True)
        whole = False

        def open(self) -> None:
            if self.whole:
                self._code, self._own_id = code, uuid4().hex
                self._model_id = self._own_id
                self.on_msg(_send_present)
                super().open()

        def _send_update_msg(self, restyle_data: Any, relayout_data: Any, *given: Any, **more: Any) -> None:
            """Where one trace changes and another stays, what stays is sent too.

            plotly sends a word for "as it was" there, which takes the value away from views that open later.
            """
            found = self._normalize_trace_indexes(given[0] if given else more.get("trace_indexes"))
            traces = [self.data[index] for index in found]
            whole = {
                path: [_present(path, *pair) for pair in zip(traces, values, strict=True)]
                for path, values in restyle_data.items()
            }
            super()._send_update_msg(whole, relayout_data, *given, **more)

    return Living


def _send_present(figure: Any, asked: Any, _: Any) -> None:
    if asked == "present":
        figure.send_state(["_widget_data", "_widget_layout"])
        figure.send(asked)


def _present(path: str, trace: Any, value: Any) -> Any:
    """The new value of a trace's property, else the one that it has; None where it is not set."""
    return trace[path] if value is Undefined and path in trace else value


def framed(figure: Any) -> Any:
    """A FigureWidget in its place; above it, unseen, the style sheet that looks after the page around it."""
    import ipywidgets as w

    style = theme_style().replace("<style>", f'<style onload="{escape(PUT_THERE)}">')
    unseen = w.HTML(style, layout={"width": "100%", "height": "0", "margin": "0"})
    return w.VBox([unseen, figure]).add_class("lrnb-frame")
