"""The map of the claim: what its cells are, its surface and band, and whether conflict foretells the lead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.made_pool import made_line
from support.made_run import BUDGETS, made_study, write_made_run

from lrnb import figures
from lrnb.analysis import findings, pool, pool_answers, pool_lines, region
from lrnb.errors import UserError
from lrnb.pipeline import notebooks
from lrnb.report.results_page import results_page
from lrnb.study.files import write_text
from lrnb.study.parameters import ROOT
from lrnb.study.recipe import RECIPE

PLACES = [(240, 0.0), (240, 0.2), (960, 0.0), (960, 0.2)]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> pool_lines.Line:
    runs = tmp_path_factory.mktemp("runs")
    write_made_run(runs, n=60)
    return pool.run_line(made_study(runs))


@pytest.fixture
def folder(line: pool_lines.Line, tmp_path: Path) -> Path:
    tmp_path = tmp_path / "results" / "map"
    for number, (examples, share) in enumerate(PLACES):
        given = {"sft_mix": {"topic": examples}, "base_bilingual": 0.8 * share, "base_alone": 0.2 * share}
        cell = line | {"parameters": line["parameters"] | given}
        lines = [made_line(cell, seed) for seed in range(3)] + [made_line(cell, 0, "avx2")]
        write_text(path := tmp_path / f"cell{number}" / "nano-qaa.jsonl", "")
        pool.write_pool(path, lines)
    return tmp_path


def points(curve: float = 0.0, noise: float = 0.0) -> pd.DataFrame:
    """Leads of four seeds on a known surface: (1 - 2 c + curve c² + 3 s + x) + the seed's own level."""
    rng, rows = np.random.default_rng(1), []
    for seed in range(4):
        for c, tokens in zip((-1, -0.5, 0, 0.5, 1), (4**k for k in range(6, 11)), strict=True):
            for s, examples in ((-1, 240), (1, 3840)):
                for x, share in ((-1, 0.0), (1, 0.2)):
                    lead = 1 - 2 * c + curve * c**2 + 3 * s + x + seed - 1.5 + rng.normal(0, noise)
                    place = {"ct_tokens": tokens, "sft_examples": examples, "x_share": share}
                    rows.append(place | {"seed": seed, "lead": lead, "sft_discarded_share": 0.1 + 0.02 * c})
    return pd.DataFrame(rows)


def test_a_cell_is_a_pool_with_each_seed_once(folder: Path) -> None:
    cells = region.read_cells(folder)
    assert [*cells] == PLACES
    assert all([line["seed"] for line in lines] == [0, 1, 2] for lines in cells.values())
    assert region.why_no_cell_counts(cells) == ""
    sure = {where: [line | {"chance": dict.fromkeys(line["chance"], 100.0)} for line in lines]
            for where, lines in cells.items()}  # fmt: skip
    assert region.why_no_cell_counts(sure) == "No score in X is above chance"
    old = {
        where: [{k: line[k] for k in line if k != "chance"} for line in lines]
        for where, lines in sure.items()
    }
    assert region.why_no_cell_counts(old) == ""  # of lines that do not say it
    twice = (folder / "cell0" / "nano-qaa.jsonl").read_text(encoding="utf-8")
    write_text(folder / "again" / "nano-qaa.jsonl", twice)
    with pytest.raises(UserError, match=r"another pool has 240 SFT examples and 0 of X"):
        region.read_cells(folder)
    with pytest.raises(UserError, match="make map"):
        region.read_cells(folder / "nowhere")


def test_the_leads_of_a_cell_are_those_of_its_pool(folder: Path) -> None:
    cells = region.read_cells(folder)
    table = region.cell_leads(cells)
    own = pool_answers.pooled_leads(cells[960, 0.2])
    ties = own[(own["method"] == "ties") & (own["baseline"] == "ct_then_sft")]
    here = table[(table["method"] == "ties") & (table["sft_examples"] == 960) & (table["x_share"] == 0.2)]
    assert here["difference"].tolist() == ties["difference"].tolist()
    assert sorted(here["ct_tokens"]) == BUDGETS
    found = region.seed_points(cells, "ties")
    assert len(found) == len(PLACES) * len(BUDGETS) * 3
    mean = (
        found[(found["sft_examples"] == 960) & (found["x_share"] == 0.2)].groupby("ct_tokens")["lead"].mean()
    )
    assert mean.tolist() == pytest.approx(here.sort_values("ct_tokens")["difference"].tolist())


def test_what_stands_beside_the_lead(folder: Path, line: pool_lines.Line) -> None:
    row = region.seed_points(region.read_cells(folder), "ties").iloc[0]
    tokens = str(int(row["ct_tokens"]))
    assert row["sft_discarded_share"] == line["shares"][tokens]["sft_discarded_share"]
    assert row["ct_l2"] == line["shares"][tokens]["ct_l2"]
    assert row["x_forgotten"] == pytest.approx(0.1)  # as the made run has it
    assert row["en_forgotten"] == pytest.approx(int(tokens) / 4e5, abs=2e-4)


def test_the_surface_is_the_one_the_points_lie_on() -> None:
    at = pd.DataFrame(
        {"ct_tokens": [4**6, 4**8, 4**10], "sft_examples": [240, 960, 3840], "x_share": [0.0, 0.1, 0.2]}
    )
    found = region.surface(points(curve=1.5), at)
    assert found["mean"].tolist() == pytest.approx([1 + 2 + 1.5 - 3 - 1, 1, 1 - 2 + 1.5 + 3 + 1])
    half = 3.182446 * np.std([0, 1, 2, 3], ddof=1) / 2
    assert (found["high"] - found["mean"]).tolist() == pytest.approx([half] * 3, rel=1e-5)
    with pytest.raises(UserError, match="two seeds that have all cells, and 1 of 1 have"):
        region.surface(points().query("seed == 0"), at)


def test_only_seeds_that_have_all_cells_make_a_surface() -> None:
    flat = points().assign(lead=10.0)
    at = region.fine_grid(flat, 3)
    half_way = flat[(flat["seed"] < 3) | (flat["sft_examples"] == 240)]
    assert region.surface(half_way, at)["mean"].tolist() == pytest.approx([10.0] * len(at))
    two = flat[flat["ct_tokens"].isin([4**6, 4**10])]
    assert region.surface(two, at)["mean"].tolist() == pytest.approx([10.0] * len(at))


def test_cells_of_other_runs_are_no_map(folder: Path) -> None:
    path = folder / "cell1" / "nano-qaa.jsonl"
    lines = [line | {"recipe": 0} for line in pool.read_pool(path)]
    pool.write_pool(path, lines)
    with pytest.raises(UserError, match=r"cell1.*differ from the other cells in recipe; remove"):
        region.read_cells(folder)
    pool.write_pool(
        path, [line | {"recipe": RECIPE, "parameters": line["parameters"] | {"ct_lr": 9}} for line in lines]
    )
    with pytest.raises(UserError, match="in ct_lr"):
        region.read_cells(folder)


def test_an_axis_with_one_value_has_no_term() -> None:
    one = points().query("sft_examples == 240 and x_share == 0")
    found = region.surface(one, region.fine_grid(one, 3))
    assert found["mean"].tolist() == pytest.approx([1 + 2 - 4, 1 - 4, 1 - 2 - 4])


def test_growth_of_ct_alone_foretells_nothing_at_equal_tokens() -> None:
    flat = points(noise=0.1).query("sft_examples == 240 and x_share == 0")
    noisy = flat.assign(sft_discarded_share=flat["sft_discarded_share"] + 1e-3 * np.arange(len(flat)) % 7)
    assert region.foretold(noisy).loc["all", "r"] < -0.9
    both = points().assign(sft_discarded_share=lambda t: 0.1 - 0.01 * t["lead"])
    found = region.foretold(both)
    assert (found["r"] < -0.99).all()
    assert (found["seeds"] == 4).all()


def test_the_figure_has_every_cell_and_the_line_where_the_lead_is_zero() -> None:
    given = points()
    keys = region.AXES
    cells = given.groupby(keys)["lead"].mean().rename("difference").reset_index()
    cells = cells.assign(
        ci_low=cells["difference"] - 1, ci_high=cells["difference"] + 1, seeds=4, method="ties"
    )
    fig = figures.lead_map(cells, region.surface(given, region.fine_grid(given)))
    heat = [trace for trace in fig.data if trace.type == "heatmap"]
    assert sum(len(trace.z) for trace in heat) == len(cells)
    assert {text for trace in heat for text in trace.text} >= {f"{cells['difference'].max():+.1f}<br>±1.0"}
    lines = [trace for trace in fig.data if trace.type == "contour"]
    assert len(lines) == 3 * 2
    assert all(trace.contours.start == trace.contours.end == 0 for trace in lines)
    beside = figures.beside_map(given, "sft_discarded_share", "what")
    assert beside.layout.coloraxis.cmin == pytest.approx(0.08)


def test_the_words_count_the_cells_after_holm() -> None:
    rows = pd.DataFrame({"ct_tokens": [4096, 16384, 65536, 262144], "difference": [6.0, 3.0, 0.1, -4.0]})
    half, p = pd.Series([2.0, 4.0, 1.0, 2.0]), [0.001, 0.2, 0.8, 0.002]
    ends = {"ci_low": rows["difference"] - half, "ci_high": rows["difference"] + half}
    rows = rows.assign(method="ties", seeds=4, p_holm=p, **ends)
    (found,) = findings.findings_of_map(rows, margin=2.0)
    for part in ("4 cells of at least 4 seeds", "better in 1 (at 4k CT tokens)", "worse in 1 (at 262k CT"):
        assert part in found["text"]
    assert "the same within 2 points in 1, not distinguishable in 1" in found["text"]
    told = region.foretold(points().assign(sft_discarded_share=lambda t: 0.1 - 0.01 * t["lead"]))
    assert "r = −1.00" in findings.finding_of_mechanism(told)["text"]


def test_the_notebook_draws_a_map_and_the_results_page_tables_it(folder: Path, tmp_path: Path) -> None:
    notebook, out = ROOT / "notebooks" / "03_analysis" / "06_map.ipynb", tmp_path / "map.ipynb"
    text = notebooks.exec_notebook(notebook, {"pools": str(folder)}, out).read_text(encoding="utf-8")
    assert "TIES against CT-then-SFT in 8 cells of at least 3 seeds" in text
    assert text.count("coloraxis") >= 3 + len(region.BESIDE)
    page = results_page(folder.parent)
    assert "| X in the base | SFT examples | 16k | 65k |" in page
    assert page.count("| 20% | 960 |") == 1
    assert "Preset nano" not in page  # the cells are no pools of their own
