"""The small run that ships with the lesson: small, whole, and still what its command would make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lrnb import analysis
from lrnb.errors import UserError
from lrnb.pipeline import lesson_run
from lrnb.pipeline.lesson_run import LARGEST, SHIPPED, ship
from lrnb.study.files import MANIFEST, sha256, write_text
from lrnb.study.parameters import ROOT, load_study, parse_override
from lrnb.study.recipe import RECIPE, counted_parameters, searches
from lrnb.study.run_folder import study_of
from lrnb.study.stages import read_manifest, stale

(RUN,) = (path.parent for path in SHIPPED.glob("*/*/params.yaml"))
HOMES = [path.parent for path in sorted(SHIPPED.rglob(MANIFEST)) if "recipe" in read_manifest(path.parent)]


def test_it_is_small() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST == 5_000_000


def test_its_parameters_are_those_of_the_command_that_makes_it() -> None:
    rule = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nlesson-run:")[1].split("\n\n")[0]
    given = dict(map(parse_override, re.findall(r"--set (\S+)", rule)))
    made, wanted = study_of(RUN), load_study(ROOT / "params" / "qaa.yaml", "nano", given)
    assert counted_parameters(made) == counted_parameters(wanted)
    assert searches(made) == searches(wanted)


def test_every_stage_is_of_todays_recipe_and_of_its_own_inputs() -> None:
    assert {read_manifest(home)["recipe"] for home in HOMES} == {RECIPE}
    assert stale(*HOMES) == []


@pytest.mark.parametrize("home", HOMES, ids=lambda home: home.relative_to(SHIPPED).as_posix())
def test_the_files_that_are_there_are_those_that_were_made(home: Path) -> None:
    made = read_manifest(home)["outputs"]
    there = {name: home / name for name in made if (home / name).is_file()}
    assert {name: sha256(path) for name, path in there.items()} == {name: made[name] for name in there}


def test_its_atlas_names_the_models_that_ship() -> None:
    study = study_of(RUN)
    facts = analysis.atlas_at(study, study.ct_budgets[-1]).facts
    assert all((Path(facts[name]) / "model.safetensors").is_file() for name in ("base", "ct", "sft"))


def test_what_is_not_finished_is_not_shipped(tmp_path: Path) -> None:
    run = tmp_path / "nano" / "qaa"
    write_text(run / "params.yaml", (RUN / "params.yaml").read_text(encoding="utf-8"))
    with pytest.raises(UserError, match=r"base is missing. Run notebooks/01_ct/00_base"):
        ship(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_too_large_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lesson_run, "LARGEST", 1000)
    with pytest.raises(UserError, match="more than 1,000"):
        ship(RUN, tmp_path / "out")
    assert not (tmp_path / "out").exists()
