"""What all widgets are made of: controls, one living figure, and the numbers below it.

In a headless run (LRNB_HEADLESS is set) a widget is the figure for the same state, and no widget
library is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import Any

import plotly.graph_objects as go

from lrnb.errors import UserError
from lrnb.widgets.frame import framed, living


def headless() -> bool:
    """Whether nobody is there to move a slider: a batch run."""
    return bool(os.environ.get("LRNB_HEADLESS"))


@dataclass(frozen=True)
class Slider:
    """A number from `low` to `high`."""

    label: str
    value: float
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01

    def build(self, w: Any) -> Any:
        whole = all(float(x).is_integer() for x in (self.value, self.low, self.high, self.step))
        kind = w.IntSlider if whole else w.FloatSlider
        places = "d" if whole else f".{max(0, -floor(log10(self.step)))}f"
        number = int if whole else float
        low, high, step = number(self.low), number(self.high), number(self.step)
        look = _look(self) | {"readout_format": places, "layout": {"width": "360px", "flex": "0 0 auto"}}
        return kind(number(self.value), min=low, max=high, step=step, **look)


@dataclass(frozen=True)
class Choice:
    """One of `options`: a list, or pairs (what is shown, value). A few are buttons, many a list."""

    label: str
    value: Any
    options: Sequence[Any]
    own_row: bool = False

    def build(self, w: Any) -> Any:
        if len(self.options) > 5:
            return w.Dropdown(options=list(self.options), value=self.value, **_look(self))
        look = _look(self) | {"style": {"description_width": "auto", "button_width": "auto"}}
        if self.own_row:
            look["layout"] = {"width": "100%"}
        return w.ToggleButtons(options=list(self.options), value=self.value, **look)


@dataclass(frozen=True)
class Check:
    """Yes or no."""

    label: str
    value: bool = False

    def build(self, w: Any) -> Any:
        return w.Checkbox(self.value, indent=False, **_look(self))


def _look(control: Any) -> dict[str, Any]:
    return {"description": control.label, "tooltip": control.label, "style": {"description_width": "auto"}}


def explore(
    name: str, hint: str, draw: Callable[..., go.Figure], controls: Mapping[str, Any], **more: Any
) -> Any:
    """The widget, or in a headless run the figure for the state that `controls` start with."""
    if headless():
        return draw(**{key: control.value for key, control in controls.items()})
    return Explorer(name, hint, draw, controls, **more)


class Explorer:
    """Controls around one living figure. Shows itself as the last line of a cell.

    name: class of the whole in the page, `lrnb-<name>`; its parts are `lrnb-hint`, `lrnb-controls`,
    `lrnb-control-<key>`, `lrnb-error`, `lrnb-figure`, `lrnb-numbers`. hint: one sentence that says
    what to try. draw(**state): a Figure for {key: value of the control}; what it raises is shown.
    controls: {key: Slider, Choice, Check or any ipywidgets widget with a value}.
    numbers(**state): {word: number or text} to read below the figure. below: further widgets.
    While the kernel draws, JupyterLab keeps only the latest value of a slider that moves, so that sliders
    may speak while they move however long a redraw takes.
    """

    def __init__(
        self,
        name: str,
        hint: str,
        draw: Callable[..., go.Figure],
        controls: Mapping[str, Any],
        numbers: Callable[..., Mapping[str, Any]] | None = None,
        below: Sequence[Any] = (),
    ) -> None:
        import ipywidgets as w

        self._draw, self._numbers = draw, numbers
        self._click: Callable[[Any, Any], None] | None = None
        self._held = False
        self.controls = {key: _control(key, control, w) for key, control in controls.items()}
        self._error, self._text = html_part("", "lrnb-error"), html_part("", "lrnb-numbers")
        self._open_figure()
        for control in self.controls.values():
            control.observe(self._changed, "value")
        layout = w.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 24px")
        row = w.Box(list(self.controls.values()), layout=layout).add_class("lrnb-controls")
        figure = framed(self.figure)
        parts = [html_part(escape(hint), "lrnb-hint"), row, self._error, figure, self._text, *below]
        self.box = w.VBox(parts).add_class(f"lrnb-{name}").add_class("lrnb-explorer")

    @property
    def state(self) -> dict[str, Any]:
        return {key: control.value for key, control in self.controls.items()}

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Several controls are set within, the figure is drawn once at the end."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
        self._changed()

    def on_click(self, what: Callable[[Any, Any], None]) -> None:
        """Call what(x, y) with the place of a point, bar or cell that is clicked in the first trace."""
        self._click = what
        self._listen()

    def redraw(self) -> None:
        """Draw the present state. What `draw` raises stands in the widget; the figure stays as it was."""
        with self._told():
            self._transplant(self._draw(**self.state))
            self._text.value = _numbers(self._numbers(**self.state)) if self._numbers else ""

    def _open_figure(self) -> None:
        """The figure opens with its first traces, see `living`."""
        first = go.Figure()
        with self._told():
            first = self._draw(**self.state)
            self._text.value = _numbers(self._numbers(**self.state)) if self._numbers else ""
        self.figure = living(first)
        self._drawn = first.to_plotly_json()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A user's mistake within stands in the widget; any other error does so too, and is raised."""
        try:
            yield
            self._error.value = ""
        except Exception as error:
            self._error.value = _message(error)
            if not isinstance(error, UserError):
                raise

    def _changed(self, _: Any = None) -> None:
        if not self._held:
            self.redraw()

    def _transplant(self, fig: go.Figure) -> None:
        """Bring the living figure to `fig`, in one message that holds only what differs.

        Compared with what was drawn last, not with what is shown: a zoom by hand stays.
        """
        new, old = fig.to_plotly_json(), self._drawn
        kinds = [[trace.get("type") for trace in drawn["data"]] for drawn in (old, new)]
        if kinds[0] != kinds[1]:
            self.figure.data = ()
            self.figure.add_traces(fig.data)
            self._listen()
            old = {"data": new["data"], "layout": old["layout"]}
        with self.figure.batch_update():
            for i, trace in enumerate(fig.data):
                _assign(self.figure.data[i], trace, differences(old["data"][i], new["data"][i]))
            _assign(self.figure.layout, fig.layout, differences(old["layout"], new["layout"]))
        self._keep(new)

    def _keep(self, drawn: dict[str, Any]) -> None:
        """What a page draws that comes later or is loaded again: plotly keeps the first figure there.

        Kept for a page that asks, and not sent: pages that are open have the differences already.
        """
        self._drawn = drawn
        asked = {"_widget_data": self.figure._data, "_widget_layout": self.figure._layout}
        self.figure._trait_values |= deepcopy(asked)

    def _listen(self) -> None:
        if self._click and self.figure.data:
            self.figure.data[0].on_click(self._clicked)

    def _clicked(self, trace: Any, points: Any, _: Any) -> None:
        if self._click and points.xs:
            self._click(points.xs[0], points.ys[0])

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Paths of the properties, with dots, in which two figures' plotly dicts differ."""
    found: list[str] = []
    for key in {**old, **new}:
        if key == "template" and key in old:
            continue  # one look for all figures, and large
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and "bdata" not in {**a, **b}:  # an array
            found += differences(a, b, f"{place}{key}.")
        elif a != b:
            found.append(place + key)
    return found


def _assign(owner: Any, drawn: Any, paths: list[str]) -> None:
    for path in paths:
        owner[path] = drawn[path]


def _control(key: str, control: Any, w: Any) -> Any:
    built = control.build(w) if hasattr(control, "build") else control
    return built.add_class(f"lrnb-control-{key}")


def html_part(text: str, name: str) -> Any:
    """A piece of HTML with a class to find it by; what comes from data must be escaped already."""
    import ipywidgets as w

    return w.HTML(text).add_class(name)


def _numbers(found: Mapping[str, Any]) -> str:
    """`word value` pairs as HTML, escaped; a value is found in the page by its word."""
    spans = [
        f'<span data-number="{escape(word)}">{escape(word)} <b>{escape(str(value))}</b></span>'
        for word, value in found.items()
    ]
    return f'<div style="display:flex;flex-wrap:wrap;gap:2px 24px">{"".join(spans)}</div>'


def _message(error: Exception) -> str:
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return f'<div role="alert" style="color:var(--jp-error-color0,#b00)">{escape(text)}</div>'
