"""Parameters are strict, manifests come last, files appear whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import yaml

from lrnb import params, store, sweep
from lrnb.params import ROOT, UserError, load_study

REAL = ("ta", "te", "or", "bn", "bo", "ug", "mn")


@pytest.mark.parametrize("lang", REAL)
@pytest.mark.parametrize("preset", ["smol", "released", "paper"])
def test_every_real_language_resolves(lang: str, preset: str) -> None:
    study = load_study(ROOT / "params" / f"{lang}.yaml", preset)
    assert study.lang == lang and study.lang_name and study.script and study.tasks and study.hub_dataset


@pytest.mark.parametrize("lang", params.SYNTHETIC)
def test_the_micro_world_resolves(lang: str) -> None:
    assert load_study(ROOT / "params" / f"{lang}.yaml", "nano").base_source == "scratch"


@pytest.mark.parametrize(
    ("lang", "preset", "changes", "message"),
    [
        ("bn", "smoll", {}, "unknown preset 'smoll'.*Did you mean 'smol'"),
        ("xx", "smol", {}, r"xx.yaml: no such file. Found beside it: bn, bo"),
        ("bn", "smol", {"ct_lrr": 1}, "unknown parameter 'ct_lrr'; did you mean 'ct_lr'"),
        ("bn", "smol", {"ct_lr": "fast"}, "ct_lr: Input should be a valid number.*got 'fast'"),
        ("bn", "smol", {"ct_budgets": [5, 3]}, "ct_budgets must be positive and ascending"),
        ("bn", "smol", {"densities": [0]}, "density 0 keeps nothing"),
        ("bn", "smol", {"slacks": [1.5]}, r"slacks must lie in \[0, 1\]"),
        ("bn", "nano", {}, "for 'bn' use smol"),
        ("qaa", "smol", {}, "goes with preset nano only"),
    ],
)
def test_bad_parameters_are_refused_by_name(lang: str, preset: str, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_study(ROOT / "params" / f"{lang}.yaml", preset, changes)


def test_a_study_survives_being_stored() -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    stored = yaml.safe_load(yaml.safe_dump(study.model_dump(), sort_keys=False))
    assert repr(params.validate(stored, "x").model_dump()) == repr(study.model_dump())


def test_a_section_counts_for_its_preset_only() -> None:
    assert load_study(ROOT / "params" / "mn.yaml", "smol").script == "Cyrillic"
    assert load_study(ROOT / "params" / "mn.yaml", "paper").script == "Mongolian"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "expected `key: value` lines, got list"),
        ("lang: bn\nlang: te\n", r"\['lang'\] given twice"),
        ("lang: !!python/object/apply:os.system ['touch pwned']\n", "not valid YAML"),
    ],
)
def test_bad_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        params.read_yaml(path)
    assert not Path("pwned").exists()


def test_overrides_are_read_as_yaml() -> None:
    assert params.parse_override("ct_budgets=[1, 2]") == ("ct_budgets", [1, 2])
    assert params.parse_override("ct_lr=1e-4") == ("ct_lr", 1e-4)
    assert params.parse_override("data_root=") == ("data_root", "")
    with pytest.raises(UserError, match="expected key=value"):
        params.parse_override("import os; x=1")


@pytest.mark.parametrize(
    ("tokens", "name"), [(320, "320"), (16384, "16k"), (3_000_000, "3M"), (10**10, "10B")]
)
def test_budget_names(tokens: int, name: str) -> None:
    assert params.budget_name(tokens) == name


def write_notebook(path: Path, source: str, tags: list[str]) -> Path:
    cell = {
        "cell_type": "code",
        "source": source,
        "metadata": {"tags": tags},
        "outputs": [],
        "execution_count": None,
    }
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_parameters_cells_hold_literals_only(tmp_path: Path) -> None:
    good = write_notebook(tmp_path / "a.ipynb", 'a = 1  # units\nb = ["x"]\n', ["parameters"])
    assert params.notebook_params(good) == {"a": 1, "b": ["x"]}
    for source, tags in (
        ("a = 1", []),
        ("a = 1\nb = a + 1", ["parameters"]),
        ("import os", ["parameters"]),
    ):
        with pytest.raises(UserError, match="parameters"):
            params.notebook_params(write_notebook(tmp_path / "b.ipynb", source, tags))


def test_here_checks_a_notebooks_own_values() -> None:
    assert params.here({"lang": "qaa", "ct_lr": 0.1, "unrelated": 3}).declared() == {
        "lang": "qaa",
        "ct_lr": 0.1,
    }
    with pytest.raises(UserError, match="parameters cell: ct_lr"):
        params.here({"ct_lr": -1})


def test_a_manifest_is_written_last_and_only_on_success(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    with store.Stage(folder, "x", {"a": 1}) as stage:
        (folder / "out.txt").write_text("hello")
        stage.facts["n"] = 3
        assert not (folder / "manifest.json").exists()
    manifest = store.read_manifest(folder)
    assert manifest["params"] == {"a": 1} and manifest["facts"] == {"n": 3}
    assert manifest["outputs"]["out.txt"] == store.sha256(folder / "out.txt")
    with pytest.raises(RuntimeError), store.Stage(folder, "x", {}):
        raise RuntimeError
    assert not (folder / "manifest.json").exists()


def test_an_input_that_is_missing_or_unfinished_names_its_notebook(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="base is missing. Run notebooks/01_ct/00_base.ipynb first"):
        store.Stage(tmp_path / "ct", "ct", {}, [tmp_path / "base"])
    (tmp_path / "merge" / "ties").mkdir(parents=True)
    with pytest.raises(UserError, match="ties is unfinished. Run notebooks/02_merge/02_ties.ipynb"):
        store.require(tmp_path / "merge" / "ties")


def test_the_same_outputs_have_the_same_fingerprint(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with store.Stage(tmp_path / name, name, {"name": name}):
            (tmp_path / name / "out").write_text("same")
    assert store.fingerprint(tmp_path / "a") == store.fingerprint(tmp_path / "b")


def test_an_atomic_folder_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("old", "new"):
        with store.atomic_folder(target) as folder:
            (folder / text).write_text(text)
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(RuntimeError), store.atomic_folder(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "new").read_text() == "new"


def _die_writing(target: Path) -> None:
    with store.atomic_folder(target) as folder:
        (folder / "half").write_text("x")
        os.kill(os.getpid(), 9)


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "model"
    killed = multiprocessing.get_context("spawn").Process(target=_die_writing, args=(target,))
    killed.start()
    killed.join()
    (left,) = tmp_path.iterdir()
    assert (left / "half").is_file() and not target.exists()
    mine = left.with_name(left.name.replace(str(killed.pid), str(os.getpid())))
    elsewhere = tmp_path / ".model.another-machine-1.tmp"
    mine.mkdir()
    elsewhere.mkdir()
    with store.Stage(target, "x", {}):
        (target / "out").write_text("x")
    assert sorted(tmp_path.iterdir()) == sorted([elsewhere, mine, target])
    left.mkdir()
    with store.atomic_folder(target) as folder:
        (folder / "out").write_text("y")
    assert sorted(tmp_path.iterdir()) == sorted([elsewhere, mine, target])


def test_what_a_killed_process_moved_away_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    gone = multiprocessing.get_context("spawn").Process()
    gone.start()
    gone.join()
    old = tmp_path / f"{sweep.unfinished(target)}{gone.pid}.old"
    old.mkdir()
    sweep.sweep(target)
    assert old.is_dir()
    target.mkdir()
    sweep.sweep(target)
    assert not old.exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match="cannot write here"):
        store.make_folder(blocker / "runs")


def _hold(path: Path, ready) -> None:
    with store.lock(path):
        ready.set()
        multiprocessing.Event().wait(30)


def test_two_runs_at_once_are_told_apart(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", ready))
    other.start()
    assert ready.wait(60)
    with (
        pytest.raises(UserError, match="in use by another run"),
        store.lock(tmp_path / "run", timeout=0.1),
    ):
        pass
    os.kill(other.pid, 9)
    other.join()
    with store.lock(tmp_path / "run", timeout=5):
        pass


def test_missing_data_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LRNB_DATA", raising=False)
    study = load_study(ROOT / "params" / "bn.yaml", "smol")
    with pytest.raises(UserError, match="no data: give --set data_root=FOLDER"):
        _ = store.RunPaths(study).data_root
    study.data_root = str(tmp_path)
    with pytest.raises(UserError, match="no folder eval/ in it"):
        _ = store.RunPaths(study).data_root
