"""What a widget shows and sends."""

from __future__ import annotations

from typing import Any

import comm
import plotly.graph_objects as go
import pytest
from comm.base_comm import BaseComm

from lrnb import widgets


def spoken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    """(model, kind of message, state) of all that widgets made from now on say to a page."""
    said: list[tuple[str, str, dict[str, Any]]] = []

    class Heard(BaseComm):
        def publish_msg(self, msg_type: str, data: Any = None, *_: Any, **__: Any) -> None:
            said.append((self.comm_id, msg_type, (data or {}).get("state", {})))

    monkeypatch.setattr(comm, "create_comm", Heard)
    return said


def messages(explorer: widgets.Explorer) -> list[dict]:
    """What goes to the browser from now on."""
    sent: list[dict] = []
    explorer.figure.observe(
        lambda change: sent.append(change["new"]) if change["new"] else None, "_py2js_update"
    )
    return sent


def drawn(explorer: widgets.Explorer) -> dict:
    """The living figure, without plotly's names of traces, emptied lists and the width."""
    return _plain(explorer.figure.to_plotly_json())


def kept(explorer: widgets.Explorer) -> dict:
    """The same of what a page finds that loads the widget from the kernel."""
    figure = explorer.figure
    return _plain(go.Figure(figure._widget_data, figure._widget_layout).to_plotly_json())


def _plain(fig: dict) -> dict:
    layout = {key: x for key, x in fig["layout"].items() if x != [] and key != "width"}
    traces = [{key: x for key, x in trace.items() if key != "uid"} for trace in fig["data"]]
    return {"data": traces, "layout": layout}
