"""The figure of a pool of seeds: intervals over seeds, where single runs lie, and this run."""

from __future__ import annotations

import pandas as pd
import pytest

from lrnb.figures.pooled import leads_and_discarded, pooled_leads_by_budget
from lrnb.figures.style import FAINT, INK

BUDGETS = [16_384, 65_536]


def rows() -> pd.DataFrame:
    both = [{"method": method, "ct_tokens": b} for method in ("average", "ties") for b in BUDGETS]
    ends = {"difference": 4.0, "ci_low": 3.0, "ci_high": 5.0, "low": -6.0, "high": 14.0, "seeds": 32}
    runs = {"own": [1.0, 20.0, None, 2.0], "outside": [False, True, False, False]}
    return pd.DataFrame(both).assign(**ends, **runs)


def test_bars_hold_the_interval_and_where_single_runs_lie() -> None:
    fig = pooled_leads_by_budget(rows())
    assert [trace.name for trace in fig.data if trace.name] == ["average", "TIES", "this run"]
    thin, thick = fig.data[0], fig.data[1]
    assert list(thick.y - thick.error_y.arrayminus) == [3.0, 3.0]
    assert list(thin.y + thin.error_y.array) == [14.0, 14.0]
    assert "n = 32 seeds" in fig.layout.title.text


def test_this_run_is_a_ring_where_it_has_a_value_darker_outside() -> None:
    ring = pooled_leads_by_budget(rows()).data[-1]
    assert list(ring.y) == [1.0, 20.0, 2.0]
    assert list(ring.marker.line.color) == [FAINT, INK, FAINT]
    alone = pooled_leads_by_budget(rows().assign(own=float("nan")))
    assert "this run" not in {trace.name for trace in alone.data}


def test_discarded_shares_stand_below_the_leads_on_the_same_axis() -> None:
    fig = leads_and_discarded(rows(), {BUDGETS[0]: 0.02, BUDGETS[1]: 0.14})
    below = fig.data[-1]
    assert (
        below.yaxis == "y2" and list(below.y) == pytest.approx([2, 14]) and list(below.text) == ["2%", "14%"]
    )
    assert list(below.x) == [14.0, 16.0] == list(fig.layout.xaxis.tickvals)
    assert fig.layout.yaxis.domain[0] > fig.layout.yaxis2.domain[1]
    assert any("4.69" in note.text for note in fig.layout.annotations)


def test_one_run_is_called_one_run() -> None:
    alone = rows().assign(own=float("nan"), low=float("nan"), high=float("nan"), seeds=1)
    assert "in this run: 95% interval of its items" in pooled_leads_by_budget(alone).layout.title.text
