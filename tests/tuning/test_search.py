"""What is tried on dev: from the declarations, the study's short forms, and `search` over both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrnb.errors import UserError
from lrnb.merging.methods import METHODS
from lrnb.pipeline import notebooks, steps
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.tuning import on_dev, search


def nano(**given: Any) -> Study:
    return load_study(ROOT / "params" / "qaa.yaml", "nano", given)


@pytest.mark.parametrize(
    ("size", "most", "kept"),
    [
        (9, 6, [0, 2, 3, 5, 6, 8]),
        (9, 3, [0, 4, 8]),
        (6, 3, [0, 3, 5]),
        (9, 5, [0, 2, 4, 6, 8]),
        (4, 1, [1]),
        (3, 3, [0, 1, 2]),
        (2, 6, [0, 1]),
    ],
)
def test_a_grid_that_is_too_large_is_thinned_evenly(size: int, most: int, kept: list[int]) -> None:
    assert search.thinned(list(range(size)), most) == kept


def test_every_arm_of_the_presets_tries_as_many_candidates() -> None:
    for name, lang, tried in (
        ("nano", "qaa", 3),
        ("smol", "bn", 2),
        ("released", "bn", 6),
        ("paper", "bn", 6),
    ):
        study = load_study(ROOT / "params" / f"{lang}.yaml", name)
        assert study.tuning_trials == tried
        sizes = {method: search.grid_size(study, method) for method in study.methods}
        assert set(sizes.values()) == {tried}  # nothing of the presets' own lists is left out
        assert len(search.sft_candidates(study)) == tried
        for method in study.methods:
            grid = search.candidate_grid(study, method)
            assert len(grid) == tried
            assert sum(search.is_default(study, method, options) for options in grid) == 1


def test_one_candidate_is_the_declared_default() -> None:
    study = nano(tuning_trials=1)
    assert search.candidate_grid(study, "task_arithmetic") == [{"lam": 1.0}]
    assert search.candidate_grid(study, "ties") == [{"density": 0.5, "lam": 1.0}]
    assert search.candidate_grid(nano(tuning_trials=1, alphas=[0.1, 0.2, 0.3]), "average") == [{"alpha": 0.2}]
    assert not search.is_default(study, "ties_sv", {"slack": 0.3, "density": 0.2, "lam": 1.0})  # TIES' choice


def test_the_preset_searches_the_methods_that_the_study_has_unless_it_says_itself() -> None:
    assert nano().search == {"ties": {"lam": [1.0]}}
    assert nano(methods=["average"]).search == {}
    own = {"slerp": {"t": [0.5]}}
    assert nano(methods=["ties", "slerp"], search=own).search == own  # later ones win, as everywhere


def test_candidates_are_those_of_search_over_the_short_forms() -> None:
    study = nano(lams=[0.7, 1.0], densities=[0.2], search={"ties": {"lam": [0.4]}})
    assert search.candidates(study, "ties") == {"density": [0.2], "lam": [0.4]}
    assert search.candidates(study, "task_arithmetic") == {"lam": [0.7, 1.0]}  # apart from that of TIES
    assert search.candidate_grid(study, "average") == [{"alpha": a} for a in study.alphas]
    assert search.merges_on_dev(study) == 3 + 2 + 1 + 3


def test_a_method_takes_over_what_the_one_before_it_chose_unless_it_is_searched() -> None:
    assert search.taken_over(nano(), "ties_sv") == ("density", "lam")
    assert search.taken_over(nano(search={"ties_sv": {"density": [0.3]}}), "ties_sv") == ("lam",)
    assert search.taken_over(nano(), "ties") == ()
    assert search.settings(nano(trim_scope="tensor"), "ties")["trim_scope"] == "tensor"
    assert search.settings(nano(), "average") == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ["tis"]}, r"unknown merge method 'tis'.*did you mean 'ties'"),
        ({"methods": ["ties_sv"]}, "methods: ties_sv starts from the choice of ties; add it"),
        ({"search": {"ties": {"densty": [0.5]}}}, r"ties has no option 'densty'.*did you mean 'density'"),
        ({"search": {"ties": {"density": []}}}, "search: ties: density: the list is empty"),
        ({"search": {"ties": {"density": [1.5]}}}, r"search: ties: density must lie in \(0, 1\], got 1.5"),
        ({"methods": ["average"], "search": {"ties": {"lam": [1]}}}, "search: ties is not among methods"),
        ({"densities": [0]}, r"densities must lie in \(0, 1\], got 0"),
        ({"slacks": [1.5]}, r"slacks must lie in \[0, 1\], got 1.5"),
        ({"densities": [0.2, 0.5, 0.2]}, "densities: 0.2 is there twice; give each value once"),
        ({"search": {"ties_sv": {"slack_threshold": [0.1]}}}, "no option 'slack_threshold' to search"),
    ],
)
def test_what_the_declarations_do_not_allow_is_refused_before_anything_runs(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        steps.plan(nano(**given))


def test_every_method_is_a_step_and_those_without_a_notebook_share_any_method() -> None:
    plan = steps.plan(nano(methods=["average", "task_arithmetic", "ties"]))
    assert [folder.parent.name for folder in plan["average"].results] == ["average", "task_arithmetic"]
    assert "ties_sv" not in plan
    assert plan["eval_merged"].needs == ("average", "ties")
    assert plan["discarded"].needs[-1] == "ties"
    alone = steps.plan(nano(methods=["task_arithmetic"]))
    assert [folder.parent.name for folder in alone["task_arithmetic"].results] == ["task_arithmetic"]


def test_steps_stand_in_the_order_in_which_they_can_run() -> None:
    plan = steps.plan(nano(methods=["ties_sv", "nuslerp", "ties"]))
    assert [name for name in plan if name in METHODS] == ["ties", "ties_sv", "nuslerp"]


def test_every_step_takes_the_search_of_any_method_of_the_study() -> None:
    """Also where its notebook knows nothing of the study's `methods`."""
    study = nano(methods=["average", "slerp"], search={"slerp": {"t": [0.3]}})
    for step in steps.plan(study).values():
        if step.notebook:
            notebooks.check_params(step.source, steps.step_params(step, study))


def test_a_notebook_refuses_a_misspelt_method_before_anything_is_computed(tmp_path: Path) -> None:
    study = nano(runs=str(tmp_path), search={"tie": {"density": [0.5]}})
    with pytest.raises(UserError, match="unknown merge method 'tie'.*did you mean 'ties'"):
        on_dev.choose_on_dev(study, "ties")
    assert not any(tmp_path.iterdir())


def test_sft_en_is_made_alike_whatever_the_language() -> None:
    """All languages share it: its dev items are of the tasks of `sft_mix`, not of a language's own."""
    studies = [load_study(ROOT / "params" / f"{lang}.yaml", "smol") for lang in ("bn", "mn", "ug")]
    given = [steps.step_params(steps.plan(study)["sft"], study) for study in studies]
    assert given[0] == given[1] == given[2]
    assert given[0]["tasks"] == given[0]["dev_tasks"] == []
    baseline = [s for s in steps.plan(studies[0]).values() if s.name.startswith("cts_")]
    assert {tuple(steps.step_params(s, studies[0])["dev_tasks"]) for s in baseline} == {("topic",)}


def test_rates_and_epochs_of_an_arm_can_be_given() -> None:
    given = {"ct_then_sft": {"lr": [2e-4, 1e-4], "epochs": [2]}}
    study = Study(tuning_trials=3, sft_lr=4e-4, sft_min_lr=1e-4, sft_search=given)
    assert search.sft_candidates(study, "ct_then_sft") == [(2e-4, 5e-5, 2), (1e-4, 2.5e-5, 2)]
    assert search.sft_candidates(study.model_copy(update={"sft_parent": "ct/16k"}))[0].lr == 2e-4
    assert search.sft_candidates(study) == search.sft_candidates(study.model_copy(update={"sft_search": {}}))
    assert search.sft_candidates(study)[0] == search.sft_default(study)


@pytest.mark.parametrize(
    "given", [{"sft": {"lr": []}}, {"sft": {"epochs": [1.5]}}, {"sft": {"lr": [1e-4, 1e-4]}}, {"cts": {}},
              {"sft": {"rate": [1e-4]}}, {"sft": {"lr": [-1.0]}}],
)  # fmt: skip
def test_rates_and_epochs_that_nobody_can_train_with_are_refused(given: dict) -> None:
    with pytest.raises(ValueError, match="sft_search"):
        Study(sft_search=given)
