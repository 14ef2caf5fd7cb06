"""Sizes of model: what makes one, the rates chosen, the lead at each, the notebook and the results page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.made_pool import BUDGETS, skilled_line

from lrnb.analysis import pool, sizes
from lrnb.cli import sizes as command
from lrnb.errors import UserError
from lrnb.figures.sizes import leads_by_model_size
from lrnb.pipeline.notebooks import QUIET, exec_notebook
from lrnb.report.results_page import results_page
from lrnb.study.parameters import ROOT, load_study
from lrnb.study.recipe import counted_parameters


def test_four_sizes_have_about_the_parameters_that_they_are_named_by() -> None:
    asked = dict(zip(command.SIZES, (0.2e6, 0.65e6, 1.5e6, 3e6), strict=True))
    needs = {row["size"]: row for row in command.needs_of_sizes(1e9)}
    for size, wanted in asked.items():
        assert needs[size]["parameters"] == pytest.approx(wanted, rel=0.06)
        shape = command.SIZES[size]
        assert shape["base_width"] % 8 == 0  # four heads of even width
    assert needs["3M"]["minutes"] > 10 * needs["0.2M"]["minutes"] > 0
    with pytest.raises(UserError, match="size '9M': give one of 0.2M"):
        command.options_of("9M")


def test_rates_go_with_width_and_are_chosen_on_seeds_of_their_own(tmp_path: Path) -> None:
    usual = load_study(ROOT / "params" / "qaa.yaml", "nano")
    assert command.options_of("0.65M")["ct_lr"] == usual.ct_lr
    assert command.options_of("3M", 2.0)["base_lr"] == pytest.approx(2 * usual.base_lr * 128 / 248, rel=0.01)
    ran = []

    def run(words: list[str]) -> int:
        ran.append(words)
        folder = Path(words[words.index("--pool") + 1])
        if folder.name.partition("-x")[2]:
            bits = {"0.5": 2.0, "1": 1.0, "2": float("nan")}[folder.name.partition("-x")[2]]
            line = {
                "seed": 100,
                "isa": "avx2",
                "parameters": {"ct_budgets": [9]},
                "bits": {"ct@9": {"qaa": bits}},
            }
            folder.mkdir(parents=True)
            (folder / "nano-qaa.jsonl").write_text(json.dumps(line) + "\n")
        return 0

    with pytest.raises(UserError, match="choose the learning rates first, `make size-rates`"):
        command.run_sizes(tmp_path, tmp_path / "runs", run=run)
    assert command.choose_rates(tmp_path, tmp_path / "runs", run) == dict.fromkeys(command.SIZES, 1.0)
    assert {words[words.index("--seeds") + 1] for words in ran} == {"100-101"} and len(ran) == 12
    ran.clear()
    command.run_sizes(tmp_path, tmp_path / "runs", run=run)
    assert [Path(words[words.index("--pool") + 1]).name for words in ran] == list(command.SIZES)
    assert all(
        "base_width=" in " ".join(words) and words[words.index("--seeds") + 1] == "0-3" for words in ran
    )


def made_pools(home: Path, leads: dict[str, float]) -> None:
    """Pools of four seeds whose TIES leads by so much at each size."""
    for size, lead in leads.items():
        study = load_study(ROOT / "params" / "qaa.yaml", "nano", dict(command.SIZES[size]))
        given = {"parameters": counted_parameters(study) | {"ct_budgets": [*BUDGETS]}, "recipe": 2}
        skill = {"ct_then_sft": 0.4, "ties": 0.4 + lead}
        lines = [skilled_line(seed, skill) | given | {"world": "w"} for seed in range(4)]
        pool.write_pool(home / size / "nano-qaa.jsonl", lines)


def test_the_lead_at_each_size_and_as_the_model_doubles(tmp_path: Path) -> None:
    made_pools(tmp_path / "sizes", {"0.2M": 0.0, "0.65M": 0.1, "3M": 0.2})
    found = sizes.read_sizes(tmp_path / "sizes")
    assert [*found] == sorted(found) and len(found) == 3
    leads = sizes.leads_by_size(found)
    last = leads[(leads["parameters"] == max(found)) & (leads["method"] == "ties")]
    assert last["difference"].tolist() == pytest.approx([20, 20], abs=4)
    growth = sizes.growth_with_size(found)
    assert growth["slope"].to_numpy() == pytest.approx(5, abs=1) and (growth["p_holm"] < 0.05).all()
    assert "each time the model doubles" in sizes.findings_of_sizes(growth)[0]
    assert len(leads_by_model_size(leads).data) == 2
    with pytest.raises(UserError, match="0 sizes of model in it; `make sizes` runs"):
        sizes.read_sizes(tmp_path / "none")
    page = results_page(tmp_path)
    assert "## Size of the model" in page and "## Preset" not in page and "0-3" not in page


@pytest.mark.slow
def test_its_notebook_runs(tmp_path: Path) -> None:
    made_pools(tmp_path / "sizes", {"0.2M": 0.0, "3M": 0.2})
    given = {"pools": str(tmp_path / "sizes")}
    out = exec_notebook(ROOT / "notebooks/03_analysis/11_sizes.ipynb", given, tmp_path / "out.ipynb", QUIET)
    assert "each time the model doubles" in out.read_text(encoding="utf-8")
