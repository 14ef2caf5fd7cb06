"""The figure of a pool of seeds: intervals over seeds, where single runs lie, and this run."""

from __future__ import annotations

import pandas as pd

from lrnb.figures.pooled import pooled_leads_by_budget
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
