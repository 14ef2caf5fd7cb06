"""The figure of forgetting, and bits per byte along an option: every number is at its place."""

from __future__ import annotations

import pandas as pd
import pytest

from lrnb import figures

BITS = pd.DataFrame(
    [
        ("base", "base", 0, 0.20, 0.30), ("sft", "sft", 0, 0.25, 0.20), ("ct@16k", "ct", 16384, 0.15, 0.35),
        ("ct@64k", "ct", 65536, 0.10, 0.40), ("ct_then_sft@64k", "ct_then_sft", 65536, 0.22, 0.25),
        ("ties@64k", "ties", 65536, 0.18, 0.30), ("mine", "mine", 65536, 0.30, 0.30),
    ],
    columns=["model", "method", "ct_tokens", "qaa", "en"],
)  # fmt: skip


def test_every_model_of_the_budget_stands_beside_the_base() -> None:
    fig = figures.forgetting(BITS, "qaa", 65536)
    names = ["base", "CT", "SFT-en", "CT-then-SFT", "TIES", "mine"]
    for axis, values in (("y", [0.2, 0.1, 0.25, 0.22, 0.18, 0.3]), ("y2", [0.3, 0.4, 0.2, 0.25, 0.3, 0.3])):
        stems = [trace for trace in fig.data if (trace.yaxis or "y") == axis]
        assert [trace.y[1] for trace in stems] == names
        assert [trace.x for trace in stems] == [(values[0], value) for value in values]
        assert [trace.text[1] for trace in stems] == [f"{value:.3f}" for value in values]
    assert [(line.xref, line.x0) for line in fig.layout.shapes] == [("x", 0.2), ("x2", 0.3)]
    low, high = fig.layout.xaxis.range
    assert low < 0.1 - 0.02
    assert high > 0.3 + 0.02
    assert "64k" not in fig.layout.title.text
    assert "65k" in fig.layout.title.text


def test_a_merge_is_drawn_between_the_levels_of_its_parents() -> None:
    table = pd.DataFrame({"λ": [0.0, 1.0], "X": [0.2, 0.3], "English": [0.4, 0.5]})
    levels = {"base": {"X": 0.2, "English": 0.4}, "ct": {"X": 0.1, "English": 0.6}}
    fig = figures.bits_along(table, "λ", levels)
    assert [trace.name for trace in fig.data] == ["merge", "base", "CT"] * 2
    assert [list(trace.y) for trace in fig.data] == [
        [0.2, 0.3], [0.2, 0.2], [0.1, 0.1], [0.4, 0.5], [0.4, 0.4], [0.6, 0.6],
    ]  # fmt: skip
    assert [bool(trace.showlegend) for trace in fig.data] == [True] * 3 + [False] * 3
    with pytest.raises(KeyError):
        figures.bits_along(table.drop(columns="X"), "λ", levels)
