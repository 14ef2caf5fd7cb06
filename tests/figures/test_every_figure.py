"""What holds for every figure that notebooks, widgets and the report draw: names, room, colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nbformat
import plotly.graph_objects as go
import pytest
from support.every_figure import every_figure

from lrnb import figures
from lrnb.analysis.kinds import TRAINED, look_of
from lrnb.figures import style, theme
from lrnb.study.parameters import ROOT

NO_FIGURES = {"answers_table", "examples_html", "task_name", "follow_theme"}
OF_THE_PAPER = (*TRAINED, "average", "task_arithmetic", "ties", "ties_sv")
WIDEST = 105  # characters of a title in a cell of 848 pixels


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, go.Figure]:
    return every_figure(tmp_path_factory.mktemp("figures"))


def axes_shown(fig: go.Figure) -> Iterator[Any]:
    """The axes of panels that hold something, but for those whose ticks stand at another panel."""
    used = {trace.xaxis or "x" for trace in fig.data} | {trace.yaxis or "y" for trace in fig.data}
    for axis in [*fig.select_xaxes(), *fig.select_yaxes()]:
        if axis.plotly_name.replace("axis", "") in used and axis.showticklabels is not False:
            yield axis


def is_named(fig: go.Figure, axis: Any) -> bool:
    """By its own title, or that of the lowest panel of its column."""
    below = [other for other in fig.select_xaxes() if other.domain and other.domain == axis.domain]
    return bool(axis.title.text or any(other.title.text for other in below))


def test_every_axis_has_a_name(drawn: dict[str, go.Figure]) -> None:
    shown = [(name, axis, fig) for name, fig in drawn.items() for axis in axes_shown(fig)]
    assert {f"{name}: {axis.plotly_name}" for name, axis, fig in shown if not is_named(fig, axis)} == set()
    assert len(shown) >= 2 * len(drawn)


def test_every_function_that_draws_is_among_them(drawn: dict[str, go.Figure]) -> None:
    support = (ROOT / "tests" / "support" / "every_figure.py").read_text(encoding="utf-8")
    code = support + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "lrnb/report").glob("*.py"))
    assert [name for name in dir(figures) if name not in NO_FIGURES and name not in code] == []


def test_titles_fit_the_cell_and_names_beside_the_plot_have_room(drawn: dict[str, go.Figure]) -> None:
    assert {name for name, fig in drawn.items() if len(fig.layout.title.text) > WIDEST} == set()
    beside = [
        fig for fig in drawn.values() if any(note.xref == "paper" and note.x == 1 and note.xanchor == "left"
                                             for note in fig.layout.annotations)
    ]  # fmt: skip
    assert len(beside) >= 3
    assert all(fig.layout.margin.r >= 60 for fig in beside)


def test_dev_scores_carry_their_intervals(drawn: dict[str, go.Figure]) -> None:
    lines = [trace for trace in drawn["candidates_on_dev"].data if trace.mode == "lines+markers"]
    assert [list(trace.error_y.array) for trace in lines] == [[pytest.approx(1.96 * 4.8)] * 3] * 2


def test_a_colour_means_one_thing() -> None:
    methods = {look_of(method).colour for method in OF_THE_PAPER}
    families = [methods, {*style.OUTCOMES.values(), *style.FATES.values()}]
    families += [{*style.BUDGET_SHADES}, {*style.DENSITY_SHADES}, {*style.CLASS_COLOURS[:-1]}]
    for place, family in enumerate(families):
        for other in families[place + 1 :]:
            assert not family & other


def test_what_a_dark_theme_would_hide_is_made_lighter_and_nothing_else() -> None:
    changed = theme.lightened()
    assert changed and set(changed) & {*style.BUDGET_SHADES}
    for old, new in changed.items():
        assert theme.colour_contrast(old, theme.DARK) < theme.SEEN <= theme.colour_contrast(new, theme.DARK)
    assert not {look_of("ties").colour, *theme.THEME} & set(changed)
    assert theme.colour_contrast("#000000", "#ffffff") == pytest.approx(21)
    sheet = theme.theme_style()
    assert all(f"rgb({', '.join(map(str, theme.channels(old)))})" in sheet for old in [*changed, style.INK])


def test_notebooks_that_draw_follow_the_theme() -> None:
    told = {}
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code = "".join(cell.source for cell in cells if cell.cell_type == "code")
        if "figures." in code:
            told[path.stem] = "figures.follow_theme()" in code
    assert len(told) > 10
    assert [name for name, follows in told.items() if not follows] == []
