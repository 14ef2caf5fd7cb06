"""Widgets in Python: what goes to the browser, what is drawn, what an error looks like."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
from support.explorers import drawn, kept, messages, spoken
from support.processes import in_fresh_python

from lrnb import widgets
from lrnb.errors import UserError
from lrnb.widgets.explorer import differences


@pytest.fixture(autouse=True)
def somebody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRNB_HEADLESS", raising=False)


def bars(heights: int = 3, many: bool = False, broken: str = "") -> go.Figure:
    if broken:
        raise UserError(broken)
    fig = go.Figure(go.Bar(y=np.arange(heights) + 1))
    if many:
        fig.add_scatter(y=[0, 1])
        fig.add_vline(x=1)
    return fig.update_layout(title_text=f"{heights} bars")


def bar_explorer() -> widgets.Explorer:
    controls = {"heights": widgets.Slider("bars", 3, 1, 9, 1), "many": widgets.Check("two")}
    controls["broken"] = widgets.Choice("word", "", ["", "<b>no</b>"])
    return widgets.explore("bars", "Try <this>.", bars, controls, numbers=lambda **s: {"bars": s["heights"]})


def test_only_what_changes_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = bar_explorer()
    sent = messages(explorer)
    explorer.controls["heights"].value = 5
    assert drawn(explorer) == bars(5).to_plotly_json()
    assert [list(message["style_data"]) for message in sent] == [["y"]]
    assert [list(message["layout_data"]) for message in sent] == [["title.text"]]
    assert ">5</b>" in explorer.box.children[-1].value
    monkeypatch.setenv("LRNB_HEADLESS", "somewhere.json")  # nobody is there to move a slider
    assert bar_explorer() == bars(3)
    assert widgets.copy_button("lrnb merge") == "lrnb merge"


def test_a_page_that_loads_later_or_again_finds_the_present_figure() -> None:
    """The first traces are in the state that opens the widget; later ones come into it as well."""
    explorer = bar_explorer()
    assert kept(explorer) == bars().to_plotly_json()
    for heights, many in ((5, False), (5, True), (4, True)):
        explorer.controls["heights"].value, explorer.controls["many"].value = heights, many
        assert kept(explorer) == bars(heights, many).to_plotly_json()
    opened = widgets.explore("bars", "", bars, {"broken": widgets.Choice("word", "no such", ["", "no such"])})
    assert "no such" in opened.box.children[2].value
    opened.controls["broken"].value = ""
    assert kept(opened) == bars().to_plotly_json()


def test_the_message_that_opens_a_figure_holds_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows it is lost where a page still loads; and only differences are sent later."""
    said = spoken(monkeypatch)
    explorer = bar_explorer()
    own = [(kind, state) for model, kind, state in said if model == explorer.figure.model_id]
    ((kind, state),) = own
    assert kind == "comm_open" and len(state["_widget_data"]) == len(bars().data)
    assert state["_widget_layout"]["title"]["text"] == bars().layout.title.text
    assert "lrnb-figure" in state["_dom_classes"] and state["_config"]["responsive"]
    said.clear()
    explorer.controls["heights"].value = 5
    assert said and not any("_widget_data" in state for _, _, state in said)


def test_other_traces_replace_the_old_ones_and_a_click_is_still_heard() -> None:
    explorer, heard = bar_explorer(), []
    explorer.on_click(lambda x, y: heard.append((x, y)))
    for many in (True, False):
        explorer.controls["many"].value = many
        assert drawn(explorer) == bars(many=many).to_plotly_json()
    click = {"event_type": "plotly_click", "device_state": None, "selector": None}
    points = {"trace_indexes": [0], "point_indexes": [1], "xs": [1], "ys": [2]}
    explorer.figure._js2py_pointsCallback = click | {"points": points}
    assert heard == [(1, 2)]


def test_held_controls_are_drawn_once() -> None:
    explorer = bar_explorer()
    sent = messages(explorer)
    with explorer.hold():
        explorer.controls["heights"].value = 5
        explorer.controls["heights"].value = 7
    assert [message["layout_data"] for message in sent] == [{"title.text": "7 bars"}]
    assert explorer.state == {"heights": 7, "many": False, "broken": ""}


def test_errors_stand_in_the_widget_escaped_and_go_when_mended() -> None:
    explorer = bar_explorer()
    hint, _, error, _, _ = explorer.box.children
    explorer.controls["broken"].value = "<b>no</b>"
    assert "&lt;b&gt;no" in error.value
    explorer.controls["broken"].value = ""
    assert error.value == ""
    assert hint.value == "Try &lt;this&gt;."


def test_a_fault_of_the_program_is_shown_too_and_goes_to_the_log() -> None:
    explorer = widgets.explore(
        "x", "Try.", lambda a: go.Figure(go.Bar(y=[1 / a])), {"a": widgets.Slider("a", 1)}
    )
    with pytest.raises(ZeroDivisionError):
        explorer.controls["a"].value = 0
    assert "ZeroDivisionError: float division by zero" in explorer.box.children[2].value
    assert explorer.figure.data[0].y == (1,)


def test_differences_name_changed_added_and_removed_properties() -> None:
    y, other = ({"dtype": "i1", "bdata": data} for data in ("AQID", "AQIE"))
    old = {"a": {"b": 1, "c": [1, 2]}, "y": y, "x": y, "gone": 1}
    new = {"a": {"b": 1, "c": [1, 3]}, "y": y, "x": other, "z": 2}
    assert differences(old, new) == ["a.c", "x", "gone", "z"]


def test_headless_widgets_need_no_widget_library() -> None:
    code = (
        "import os, sys; os.environ['LRNB_HEADLESS'] = 'x'\nfrom lrnb import widgets; import numpy as np\n"
        "from lrnb.conflicts import atlas; t = [{'w': np.arange(9, dtype='f4') * k} for k in (0, 1, -2)]\n"
        "made = atlas.build(t[0], {'ct': t[1], 'sft': t[2]}, density=0.5, slack=0.1)\n"
        "widgets.slack_explorer(made)\n"
        "print(sorted({'ipywidgets', 'anywidget'} & set(sys.modules)))"
    )
    assert in_fresh_python(code) == "[]"
