"""Figures and widgets of the atlas: what is drawn is what was counted."""

from __future__ import annotations

import numpy as np
import pytest
from test_atlas import made
from test_widgets import drawn, messages

from lrnb import atlas as atlases
from lrnb import conflicts, plots_atlas, plots_budgets, saturation, widgets
from lrnb.atlas import Atlas
from lrnb.params import UserError
from lrnb.whatif import what_if
from lrnb.widgets_atlas import command

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return atlases.build(**made("normal"), density=0.5, slack=0.2, facts={"ct_tokens": 100_000, "ct": "a b"})


@pytest.fixture(scope="module")
def budgets(atlas) -> dict[int, Atlas]:
    models = made("heavy")
    return {25_000: atlases.build(**models, density=0.5, facts={"ct_tokens": 25_000}), 100_000: atlas}


@pytest.fixture(autouse=True)
def somebody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRNB_HEADLESS", raising=False)


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
@pytest.mark.parametrize("where", ["(model)", "layer 2", "layer 2 up", "model.norm.weight"])
def test_the_slack_figure_draws_the_losses_and_fates(atlas, where, trim_scope):
    found = what_if(atlas, density=0.4, slack=0.3, trim_scope=trim_scope)
    fig = plots_atlas.slack(found, where)
    total = conflicts.sums(found.table.iloc[atlas.rows(where)])
    back, lost, *fates = fig.data
    assert sum(back.y) + sum(lost.y) == pytest.approx(total["sft_discarded"], rel=0.006)
    assert sum(back.y) == pytest.approx(total["reserved"], rel=0.01)
    assert bool(fig.layout.shapes) == (np.ptp(found.xi[atlas.rows(where)]) == 0)  # a line for one xi
    assert np.sum([bar.x for bar in fates], axis=0) == pytest.approx([100, 100])
    assert dict(zip([bar.name for bar in fates], fates, strict=True))["discarded"].x[1] == pytest.approx(
        100 * (total["sft_discarded"] - total["reserved"]) / total["sft_kept"]
    )
    assert f"n = {total['n']:,.0f} weights" in fig.layout.title.text


@pytest.mark.parametrize("column", list(plots_atlas.COLUMNS))
def test_the_map_shows_the_exact_numbers_of_the_atlas(atlas, column):
    fig = plots_atlas.conflict_map(atlas, column, "tensor")
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
    one = Atlas(tensors, atlas.histograms, atlas.facts)
    deltas = {p: np.concatenate([np.ravel(x) for x in task_vectors(p)]).astype(float) for p in ("ct", "sft")}
    shown = {c: plots_atlas.cell_values(one, c).loc[2, "up"] for c in plots_atlas.COLUMNS}
    assert shown["ct_l2"] == pytest.approx(np.linalg.norm(deltas["ct"]))
    across = deltas["ct"] @ deltas["sft"]
    assert shown["cosine"] == pytest.approx(across / shown["ct_l2"] / shown["sft_l2"])
    total = conflicts.sums(atlas.exact("model"))
    assert shown["sft_discarded_share"] == pytest.approx(100 * total["sft_discarded_share"])


def task_vectors(parent):
    models = made("normal")
    return [models[parent][name] - models["base"][name] for name in models["base"]]


def test_the_sign_histogram_holds_every_kept_entry_once(atlas):
    found = what_if(atlas, density=0.4, slack=0.3)
    table = plots_atlas.by_magnitude(found, "layer 1")
    total = conflicts.sums(found.table.iloc[atlas.rows("layer 1")])
    assert table[list(plots_atlas.FATES)].sum().sum() == pytest.approx(total["sft_kept"])
    assert table[["won", "reserved", "discarded"]].sum().sum() == pytest.approx(total["conflicts"])
    assert table["reserved"].sum() == pytest.approx(total["reserved"])
    fig = plots_atlas.sign_histogram(found, "layer 1")
    assert sum(sum(bar.y) for bar in fig.data) == pytest.approx(total["sft_kept"])


def test_figures_along_budgets(budgets):
    table = saturation.along(budgets, saturation.elections(budgets, density=0.5, slack=0.2))
    assert table["ct_tokens"].tolist() == [25_000, 100_000]
    modules = what_if(budgets[100_000], density=0.5, slack=0.2).table
    fig = plots_budgets.along_budgets(table, 100_000, modules)
    assert list(fig.data[0].y) == pytest.approx(table["ct_l2"].tolist())
    assert list(fig.data[0].marker.size) == [6, 13]
    rows = modules[modules["module"] == "up"]
    bars = fig.data[-1]
    want = 100 * rows["sft_discarded"].sum() / rows["sft_kept"].sum()
    assert bars.y[list(bars.x).index("up")] == pytest.approx(want)
    assert "At 100k CT tokens" in fig.layout.title.text
    grid = saturation.grid(budgets, (0.2, 0.5), (0.0, 0.5))
    assert len(grid) == 8
    assert [line.name for line in plots_budgets.by_density(grid).data] == ["density 0.2", "density 0.5"]
    price = plots_budgets.price_of_slack(grid, 0.5)
    assert [line.x[0] for line in price.data] == [0, 0]
    assert all(line.y[1] > 0 for line in price.data)


def test_an_atlas_made_otherwise_says_so():
    options = {"density": {"ct": 0.2, "sft": 0.6}, "weights": {"ct": 2.0}, "slack_threshold": 1.2e-2}
    made_so = atlases.build(**made("normal"), **options, zero_sign="positive")
    explorer = widgets.slack_explorer(made_so)
    assert "density 0.2 of CT, 0.6 of SFT" in explorer.box.children[0].value
    assert "--weight ct=2" in explorer.command.text
    assert "--zero-sign positive" in explorer.command.text
    assert 0 < explorer.controls["slack"].value < 1
    assert "slack ξ 0.012" in plots_atlas.conflict_map(made_so).layout.title.text
    with pytest.raises(UserError, match="at least one budget"):
        widgets.budget_player({})


def test_the_last_step_tells_a_plateau(budgets):
    import pandas as pd

    table = pd.DataFrame({"ct_tokens": [1, 2, 4], "flat": [0.0, 9.0, 10.0], "steep": [0.0, 1.0, 10.0]})
    assert saturation.last_step(table, "flat") == pytest.approx(0.1)
    assert saturation.last_step(table, "steep") == pytest.approx(0.9)
    assert np.isnan(saturation.last_step(table.head(2), "flat"))


def test_cells_add_up_to_the_model(budgets):
    cells = saturation.cells(budgets, "model")
    for budget, atlas in budgets.items():
        rows = cells[cells["ct_tokens"] == budget]
        assert rows["sft_discarded"].sum() == atlas.tensors["model_sft_discarded"].sum()


def test_names_from_models_are_escaped(atlas):
    names = atlas.tensors.assign(tensor=[EVIL, *atlas.tensors["tensor"][1:]])
    evil = Atlas(names, atlas.histograms, atlas.facts)
    for fig in (
        plots_atlas.slack(what_if(evil, density=0.5), EVIL),
        plots_atlas.sign_histogram(what_if(evil, density=0.5), EVIL),
    ):
        assert "<img" not in fig.layout.title.text
    with pytest.raises(UserError, match="no such tensor, layer or cell"):
        evil.rows("layer 99")


def test_a_headless_widget_is_the_figure(atlas, budgets, monkeypatch):
    monkeypatch.setenv("LRNB_HEADLESS", "somewhere.json")
    setting = widgets.start(atlas)
    assert setting == {"density": 0.5, "slack": 0.2, "trim_scope": "model"}
    assert widgets.slack_explorer(atlas) == plots_atlas.slack(what_if(atlas, **setting))
    assert widgets.conflict_map(atlas) == plots_atlas.conflict_map(atlas)
    assert widgets.sign_explorer(atlas) == plots_atlas.sign_histogram(what_if(atlas, **setting))
    table = saturation.along(budgets, saturation.elections(budgets, **setting))
    last = what_if(budgets[100_000], **setting).table
    assert widgets.budget_player(budgets) == plots_budgets.along_budgets(table, 100_000, last)


def test_share_and_threshold_of_slack_follow_each_other(atlas):
    explorer = widgets.slack_explorer(atlas)
    sent = messages(explorer)
    explorer.controls["slack"].value = 0.4
    assert len(sent) == 1  # the threshold that follows draws nothing again
    xi = what_if(atlas, density=0.5, slack=0.4).table["xi"].iloc[-1]
    assert explorer.controls["threshold"].value == pytest.approx(xi, rel=0.05)
    assert "--slack 0.4 " in explorer.command.text
    explorer.controls["threshold"].value = 10 ** explorer.controls["threshold"].max
    assert explorer.controls["slack"].value == pytest.approx(1)
    assert "--slack-threshold" in explorer.command.text
    wanted = plots_atlas.slack(
        what_if(atlas, density=0.5, slack_threshold=explorer.controls["threshold"].value)
    )
    assert drawn(explorer)["data"] == wanted.to_plotly_json()["data"]


def test_what_the_browser_sends_back_is_not_a_move(atlas):
    """Sliders round what they are set to and report it."""
    explorer = widgets.slack_explorer(atlas)
    explorer.controls["slack"].value = 0.4
    explorer.controls["threshold"].value *= 10**0.009
    assert "--slack 0.4 " in explorer.command.text
    explorer.controls["threshold"].value *= 1.3
    share = explorer.controls["slack"].value
    explorer.controls["slack"].value = round(share, 2)
    assert "--slack-threshold" in explorer.command.text
    explorer.controls["slack"].value = share + 0.2
    assert "--slack " in explorer.command.text


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

    from lrnb.cli import parser
    from lrnb.cli_merge import arguments_of

    options = {"density": 0.3, "slack": 0.2, "weights": {"ct": 1.0, "sft": 1.5}, "trim_scope": "tensor"}
    words = shlex.split(command(atlas, options))
    given = arguments_of(parser().parse_args(words[1:]))
    assert given["models"]["ct"] == "a b"
    assert (given["density"], given["slack"], given["trim_scope"]) == (0.3, 0.2, "tensor")
    assert given["weights"]["sft"] == 1.5
