"""Figures and widgets of the atlas: what is drawn is what was counted."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from support.atlases import inputs, made
from support.explorers import drawn, messages

from lrnb import figures, widgets
from lrnb.conflicts import along_budgets, counts
from lrnb.conflicts import atlas as atlases
from lrnb.conflicts.atlas import Atlas
from lrnb.conflicts.what_ifs import what_if
from lrnb.errors import UserError
from lrnb.figures import conflicts as of_atlas
from lrnb.widgets.conflicts import command

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return atlases.build(
        **inputs("normal"), density=0.5, slack=0.2, facts={"ct_tokens": 100_000, "ct": "a b"}
    )


@pytest.fixture(scope="module")
def budgets(atlas) -> dict[int, Atlas]:
    return {
        25_000: atlases.build(**inputs("heavy"), density=0.5, facts={"ct_tokens": 25_000}),
        100_000: atlas,
    }


@pytest.fixture(autouse=True)
def somebody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRNB_HEADLESS", raising=False)


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
@pytest.mark.parametrize("where", ["(model)", "layer 2", "layer 2 up", "model.norm.weight"])
def test_the_slack_figure_draws_the_losses_and_fates(atlas, where, trim_scope):
    found = what_if(atlas, density=0.4, slack=0.3, trim_scope=trim_scope)
    fig = figures.slack_histogram(found, where)
    total = found.sums(where)
    back, lost, *fates = fig.data
    assert sum(back.y) + sum(lost.y) == pytest.approx(total["sft_discarded"], rel=0.006)
    assert sum(back.y) == pytest.approx(total["reserved"], rel=0.01)
    assert bool(fig.layout.shapes) == (np.ptp(found.xi[atlas.rows(where)]) == 0)  # a line for one xi
    assert np.sum([bar.x for bar in fates], axis=0) == pytest.approx([100, 100])
    assert dict(zip([bar.name for bar in fates], fates, strict=True))["discarded"].x[1] == pytest.approx(
        100 * (total["sft_discarded"] - total["reserved"]) / total["sft_kept"]
    )
    assert f"n = {total['n']:,.0f} weights" in fig.layout.title.text


COLUMNS = [
    "sft_discarded_share", "ct_discarded_share", "conflict_share", "sft_discarded_mass", "reserved", "cosine",
    "ct_l2", "sft_l2",
]  # fmt: skip


@pytest.mark.parametrize("column", COLUMNS)
def test_the_map_shows_the_exact_numbers_of_the_atlas(atlas, column):
    assert list(of_atlas.map_columns(atlas)) == COLUMNS
    fig = figures.conflict_heatmap(atlas, column, "tensor")
    heat = fig.data[0]
    row = atlas.tensors[atlas.places == "layer 3 up"].iloc[0]
    shown = heat.z[list(heat.y).index("layer 3")][list(heat.x).index("up")]
    if column in ("cosine", "ct_l2", "sft_l2"):
        assert shown == pytest.approx(row[column])
    elif column.endswith("_share"):
        assert shown == pytest.approx(100 * row[f"tensor_{column}"])
    else:
        of = "sft_kept_mass" if column.endswith("mass") else "sft_kept"
        assert shown == pytest.approx(100 * row[f"tensor_{column}"] / row[f"tensor_{of}"])
    assert next(iter(heat.y)) == "outside"
    assert heat.z[0][list(heat.x).index("up")] is None


def test_a_cell_of_several_tensors_is_their_sum(atlas):
    """up and the norm of layer 2 in one cell."""
    tensors = atlas.tensors.assign(layer=2, module="up")
    one = replace(atlas, tensors=tensors)
    deltas = {p: np.concatenate([np.ravel(x) for x in task_vectors(p)]).astype(float) for p in ("ct", "sft")}
    shown = {c: of_atlas.cell_values(one, c).loc[2, "up"] for c in COLUMNS}
    assert shown["ct_l2"] == pytest.approx(np.linalg.norm(deltas["ct"]))
    across = deltas["ct"] @ deltas["sft"]
    assert shown["cosine"] == pytest.approx(across / shown["ct_l2"] / shown["sft_l2"])
    total = counts.sums(atlas.exact("model"))
    assert shown["sft_discarded_share"] == pytest.approx(100 * total["sft_discarded_share"])


def task_vectors(parent):
    models = made("normal")
    return [models[parent][name] - models["base"][name] for name in models["base"]]


def test_the_sign_histogram_holds_every_kept_entry_once(atlas):
    found = what_if(atlas, density=0.4, slack=0.3)
    table, total = found.by_magnitude(atlas.rows("layer 1")), found.sums("layer 1")
    assert table[list(of_atlas.fate_looks(found))].sum().sum() == pytest.approx(total["sft_kept"])
    assert table[["won", "reserved", "discarded"]].sum().sum() == pytest.approx(total["conflicts"])
    assert table["reserved"].sum() == pytest.approx(total["reserved"])
    fig = figures.sign_histogram(found, "layer 1")
    assert sum(sum(bar.y * bar.width) for bar in fig.data) == pytest.approx(total["sft_kept"])


def test_figures_along_budgets(budgets):
    table = along_budgets.along(budgets, along_budgets.elections(budgets, density=0.5, slack=0.2))
    assert table["ct_tokens"].tolist() == [25_000, 100_000]
    modules = what_if(budgets[100_000], density=0.5, slack=0.2).table
    fig = figures.shares_along_budgets(table, 100_000, modules)
    lines = {line.name: line for line in fig.data if line.name}
    assert list(lines["CT: size of τ"].y) == pytest.approx(table["ct_l2"].tolist())
    assert list(lines["CT: size of τ"].marker.size) == [6, 13]
    rows = modules[modules["module"] == "up"]
    bars = fig.data[-1]
    want = 100 * rows["sft_discarded"].sum() / rows["sft_kept"].sum()
    assert bars.y[list(bars.x).index("up")] == pytest.approx(want)
    assert "At 100k CT tokens" in fig.layout.title.text
    grid = along_budgets.grid(budgets, (0.2, 0.5), (0.0, 0.5))
    assert len(grid) == 8
    assert [line.name for line in figures.by_density(grid).data] == ["density 0.2", "density 0.5"]
    price = figures.price_of_slack(grid, 0.5)
    assert [line.x[0] for line in price.data] == [0, 0]
    assert all(line.y[1] > 0 for line in price.data)


def test_an_atlas_made_otherwise_says_so():
    options = {"density": {"ct": 0.2, "sft": 0.6}, "weights": {"ct": 2.0}, "slack_threshold": 1.2e-2}
    made_so = atlases.build(**inputs("normal"), **options, zero_sign="positive")
    explorer = widgets.slack_explorer(made_so)
    assert "density 0.2 of CT, 0.6 of SFT." in explorer.box.children[0].value
    assert "--weight ct=2" in explorer.command.value
    assert "--zero-sign positive" in explorer.command.value
    assert 0 < explorer.controls["slack"].value < 1
    assert "slack ξ 0.012" in figures.conflict_heatmap(made_so).layout.title.text
    with pytest.raises(UserError, match="at least one budget"):
        widgets.budget_player({})


def test_the_last_step_tells_a_plateau(budgets):
    import pandas as pd

    table = pd.DataFrame({"ct_tokens": [1, 2, 4], "flat": [0.0, 9.0, 10.0], "steep": [0.0, 1.0, 10.0]})
    assert along_budgets.last_step(table, "flat") == pytest.approx(0.1)
    assert along_budgets.last_step(table, "steep") == pytest.approx(0.9)
    assert np.isnan(along_budgets.last_step(table.head(2), "flat"))


def test_cells_add_up_to_the_model(budgets):
    cells = along_budgets.cells(budgets, "model")
    for budget, atlas in budgets.items():
        rows = cells[cells["ct_tokens"] == budget]
        assert rows["sft_discarded"].sum() == atlas.tensors["model_sft_discarded"].sum()


def test_names_from_models_are_escaped(atlas):
    names = atlas.tensors.assign(tensor=[EVIL, *atlas.tensors["tensor"][1:]])
    evil = replace(atlas, tensors=names)
    for fig in (
        figures.slack_histogram(what_if(evil, density=0.5), EVIL),
        figures.sign_histogram(what_if(evil, density=0.5), EVIL),
    ):
        assert "<img" not in fig.layout.title.text
    with pytest.raises(UserError, match="no such tensor, layer or cell"):
        evil.rows("layer 99")


def test_a_headless_widget_is_the_figure(atlas, budgets, monkeypatch):
    monkeypatch.setenv("LRNB_HEADLESS", "somewhere.json")
    setting = widgets.start(atlas)
    assert setting == {"density": 0.5, "slack": 0.2, "trim_scope": "model"}
    assert widgets.slack_explorer(atlas) == figures.slack_histogram(what_if(atlas, **setting))
    assert widgets.conflict_map(atlas) == figures.conflict_heatmap(atlas)
    assert widgets.sign_explorer(atlas) == figures.sign_histogram(what_if(atlas, **setting))
    table = along_budgets.along(budgets, along_budgets.elections(budgets, **setting))
    last = what_if(budgets[100_000], **setting).table
    assert widgets.budget_player(budgets) == figures.shares_along_budgets(table, 100_000, last)


def test_share_and_threshold_of_slack_follow_each_other(atlas):
    explorer = widgets.slack_explorer(atlas)
    sent = messages(explorer)
    explorer.controls["slack"].value = 0.4
    assert len(sent) == 1  # the threshold that follows draws nothing again
    xi = what_if(atlas, density=0.5, slack=0.4).table["xi"].iloc[-1]
    assert explorer.controls["threshold"].value == pytest.approx(xi, rel=0.05)
    assert "--slack 0.4 " in explorer.command.value
    explorer.controls["threshold"].value = 10 ** explorer.controls["threshold"].max
    assert explorer.controls["slack"].value == pytest.approx(1)
    assert "--slack-threshold" in explorer.command.value
    wanted = figures.slack_histogram(
        what_if(atlas, density=0.5, slack_threshold=explorer.controls["threshold"].value)
    )
    assert drawn(explorer)["data"] == wanted.to_plotly_json()["data"]


def test_what_the_browser_sends_back_is_not_a_move(atlas):
    """Sliders round what they are set to and report it."""
    explorer = widgets.slack_explorer(atlas)
    explorer.controls["slack"].value = 0.4
    explorer.controls["threshold"].value *= 10**0.009
    assert "--slack 0.4 " in explorer.command.value
    explorer.controls["threshold"].value *= 1.3
    share = explorer.controls["slack"].value
    explorer.controls["slack"].value = round(share, 2)
    assert "--slack-threshold" in explorer.command.value
    explorer.controls["slack"].value = share + 0.2
    assert "--slack " in explorer.command.value


def test_what_the_browser_sends_back_late_is_no_move_of_a_hand(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = widgets.slack_explorer(atlas)
    slack, threshold = explorer.controls["slack"], explorer.controls["threshold"]
    first = threshold.value
    slack.value = 0.4
    threshold.value = first * 10**0.009  # of the value before, rounded
    assert (explorer.by, slack.value) == ("slack", 0.4)
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock + 60)
    threshold.value = first  # a minute later it is a hand
    assert explorer.by == "threshold" and slack.value < 0.4


def test_a_click_on_a_cell_opens_it_below(atlas):
    explorer = widgets.conflict_map(atlas)
    below = explorer.box.children[-1]
    where = below.children[1].children[0]
    click = {"event_type": "plotly_click", "device_state": None, "selector": None}
    points = {"trace_indexes": [0], "point_indexes": [[1, 0]], "xs": ["up"], "ys": ["layer 1"]}
    explorer.figure._js2py_pointsCallback = click | {"points": points}
    assert where.value == "layer 1 up"
    points = {"trace_indexes": [0], "point_indexes": [[0, 0]], "xs": ["embed"], "ys": ["outside"]}
    explorer.figure._js2py_pointsCallback = click | {"points": points}
    assert where.value == "embed"


def test_the_command_is_one_that_lrnb_merge_takes(atlas):
    import shlex

    from lrnb.cli.main import parser
    from lrnb.cli.merge import arguments_of

    options = {"density": 0.3, "slack": 0.2, "weights": {"ct": 1.0, "sft": 1.5}, "trim_scope": "tensor"}
    words = shlex.split(command(atlas, options))
    given = arguments_of(parser().parse_args(words[1:]))
    assert given["models"]["ct"] == "a b"
    assert (given["density"], given["slack"], given["trim_scope"]) == (0.3, 0.2, "tensor")
    assert given["weights"]["sft"] == 1.5


@pytest.fixture(scope="module")
def three() -> Atlas:
    """Three parents, one of which has a name to be escaped."""
    models = inputs("normal")
    models["parents"] |= {EVIL: {n: x * np.float32(1.1) for n, x in models["base"].items()}}
    return atlases.build(**models, density=0.5, slack=0.2, protect="ct")


def test_figures_of_more_than_two_parents(three):
    found = what_if(three, density=0.4, slack=0.3)
    total = found.sums()
    fig = figures.slack_histogram(found)
    back, lost, *fates = fig.data
    assert sum(back.y) + sum(lost.y) == pytest.approx(total["ct_discarded"], rel=0.006)
    assert np.sum([bar.x for bar in fates], axis=0) == pytest.approx([100, 100, 100])
    assert "the others" in fig.layout.xaxis.title.text
    signs = figures.sign_histogram(found)
    assert sum(sum(bar.y * bar.width) for bar in signs.data) == pytest.approx(total["ct_kept"])
    maps = [figures.conflict_heatmap(three, column) for column in of_atlas.map_columns(three)]
    assert not any("<img" in figure.to_json() for figure in (fig, signs, *maps))


def test_widgets_of_more_than_two_parents(three):
    explorer = widgets.slack_explorer(three)
    explorer.controls[f"weight_{EVIL}"].value = 1.5
    assert explorer.found.weights.tolist() == [1, 1, 1.5]
    assert "--protect ct" in explorer.command.value
    assert "CT discarded" in widgets.sign_explorer(three).box.children[-1].value


def test_an_axis_of_magnitudes_always_has_two_ticks() -> None:
    """Where training moved all weights by nearly the same, no power of two lies among them."""
    octaves = [f"2<sup>{n}</sup>" for n in range(-2, 3)]
    assert of_atlas._octaves(0.2, 5.0)["ticktext"] == octaves
    assert of_atlas._octaves(0.0011, 0.0014)["ticktext"] == ["0.0011", "0.0014"]
