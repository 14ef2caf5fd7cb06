"""Parameters are strict, manifests come last, files appear whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import yaml

from lrnb.errors import UserError
from lrnb.study import files, parameters, stages
from lrnb.study.parameters import ROOT, Study, load_study, parse_override

REAL = ("ta", "te", "or", "bn", "bo", "ug", "mn")


@pytest.mark.parametrize("lang", REAL)
@pytest.mark.parametrize("preset", ["smol", "released", "paper"])
def test_every_real_language_resolves(lang: str, preset: str) -> None:
    study = load_study(ROOT / "params" / f"{lang}.yaml", preset)
    assert study.lang == lang and study.lang_name and study.script and study.tasks
    assert bool(study.hub_dataset) == (preset == "paper")


@pytest.mark.parametrize("lang", parameters.SYNTHETIC)
def test_the_micro_world_resolves(lang: str) -> None:
    assert load_study(ROOT / "params" / f"{lang}.yaml", "nano").base_source == "scratch"


@pytest.mark.parametrize(
    ("lang", "preset", "changes", "message"),
    [
        ("bn", "smoll", {}, "unknown preset 'smoll'.*did you mean 'smol'"),
        ("xx", "smol", {}, r"xx.yaml: no such file. Found beside it: all, bn, bo"),
        (
            "bn",
            "smol",
            {"lang": "odia"},
            "lang: a code of ISO 639.*got 'odia'.; Odia is 'or'. docs/parameters.md",
        ),
        ("bn", "smol", {"script": "Odia"}, r"did you mean 'Oriya'\?$"),
        ("bn", "smol", {"ct_lrr": 1}, "unknown parameter 'ct_lrr'; did you mean 'ct_lr'"),
        ("bn", "smol", {"ct_lr": "fast"}, "ct_lr: Input should be a valid number.*got 'fast'"),
        ("bn", "smol", {"ct_budgets": [5, 3]}, "ct_budgets must be positive and ascending"),
        (
            "bn",
            "smol",
            {"ct_budgets": [1100]},
            r"1,100 .* take 2 steps of 1,024 .*so 2,048 would be",
        ),
        ("bn", "smol", {"extra_models": {"ct": "x"}}, "extra_models: 'ct' is no name for a model"),
        ("bn", "released", {"extend_vocabulary": 9}, "extend_vocabulary goes with CT that is trained"),
        (
            "bn",
            "smol",
            {"extend_vocabulary": 9, "vocabulary": "refuse"},
            "vocabulary=refuse refuses to merge",
        ),
        ("bn", "smol", {"extra_models": {"<b>": "x"}}, "extra_models: '<b>' is no name for a model"),
        ("bn", "nano", {}, "for 'bn' use smol"),
        ("qaa", "smol", {}, "goes with preset nano only"),
        ("or", "smol", {"script": "Odia"}, "script 'Odia' is no script of Unicode; did you mean 'Oriya'"),
        (
            "bn",
            "smol",
            {"script": "a}|x{"},
            "is no script of Unicode; its name begins what Unicode",
        ),
        ("or", "smol", {"script": "Jawa"}, "did you mean 'Javanese'"),
        ("qaa", "nano", {"base_source": "gguf:smollm2"}, "nano trains its own base .scratch.*use smol"),
        ("qaa", "nano", {"base_source": "some/folder"}, "for another base use smol"),
        ("bn", "smol", {"base_source": "scratch"}, "which preset smol does not have"),
    ],
)
def test_bad_parameters_are_refused_by_name(lang: str, preset: str, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_study(ROOT / "params" / f"{lang}.yaml", preset, changes)


def test_a_study_survives_being_stored() -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    stored = yaml.safe_load(yaml.safe_dump(study.model_dump(), sort_keys=False))
    assert repr(parameters.validate(stored, "x").model_dump()) == repr(study.model_dump())


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
        parameters.read_yaml(path)
    assert not Path("pwned").exists()


def test_overrides_are_read_as_yaml() -> None:
    assert parameters.parse_override("ct_budgets=[1, 2]") == ("ct_budgets", [1, 2])
    assert parameters.parse_override("ct_lr=1e-4") == ("ct_lr", 1e-4)
    assert parameters.parse_override("ct_budgets=[1e6]") == ("ct_budgets", [1_000_000])
    assert parameters.parse_override("search={ties: {lam: [1e-1]}}") == ("search", {"ties": {"lam": [0.1]}})
    assert parameters.parse_override("data_root=") == ("data_root", "")
    with pytest.raises(UserError, match="expected key=value"):
        parameters.parse_override("import os; x=1")


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (320, "320"),
        (16_384, "16k"),
        (25_000, "25k"),
        (3_000_000, "3M"),
        (1_048_576_000, "1B"),
        (10**10, "10B"),
        (1_900_000, "1900k"),
        (2_500_000_000, "2500M"),
        (65_536, "65k"),
        (262_144, "262k"),
        (1_048_576, "1M"),
        (131_072_000, "131072k"),
        (5_242_880_000, "5B"),
        (10_737_418_240, "10B"),
        (1_500, "1500"),
        (1_572_864, "1572k"),
        (1_966_080, "1966k"),
        (1_900_001, "1900001"),
        (1_234_567_000, "1234567k"),
        (3 * 2**29, "1610M"),
    ],
)
def test_budget_names(tokens: int, name: str) -> None:
    assert parameters.budget_name(tokens) == name


def test_whole_thousands_have_names_of_their_own() -> None:
    names = [parameters.budget_name(1000 * n) for n in range(1, 20_000)]
    assert len(set(names)) == len(names)


def test_powers_of_two_and_what_lies_between_have_names_of_their_own() -> None:
    budgets = [2**power * eighths // 8 for power in range(10, 36) for eighths in range(8, 16)]
    assert len({parameters.budget_name(budget) for budget in budgets}) == len(budgets)
    parameters.Study(ct_budgets=budgets)


def test_an_atomic_folder_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("old", "new"):
        with files.atomic_folder(target) as folder:
            (folder / text).write_text(text)
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(RuntimeError), files.atomic_folder(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "new").read_text() == "new"


def _die_writing(target: Path) -> None:
    with files.atomic_folder(target) as folder:
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
    with files.atomic_folder(target) as folder:
        (folder / "out").write_text("y")
    assert sorted(tmp_path.iterdir()) == sorted([elsewhere, mine, target])


def test_what_a_killed_process_moved_away_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    gone = multiprocessing.get_context("spawn").Process()
    gone.start()
    gone.join()
    old = tmp_path / f"{files.unfinished(target)}{gone.pid}.old"
    old.mkdir()
    files.sweep(target)
    assert old.is_dir()
    target.mkdir()
    files.sweep(target)
    assert not old.exists()


def test_who_holds_the_lock_sweeps_what_other_machines_left(tmp_path: Path) -> None:
    target = tmp_path / "ct"
    left = [".ct.gpu-node-7-123.abcd0123.tmp", ".ct.gpu-node-7-5.old", ".ct.x-1.tmp", ".ct.x-1.ipynb"]
    kept = [".ct.lock", ".ct.x.tmp", "ct.x-1.tmp", ".cts.x-1.tmp", "ct"]
    for name in left + kept:
        (tmp_path / name).touch()
    files.sweep(target)
    assert len(list(tmp_path.iterdir())) == len(left + kept)
    files.sweep(target, everywhere=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match="cannot write here"):
        files.make_folder(blocker / "runs")


def _hold(path: Path, ready) -> None:
    with files.lock(path):
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
        files.lock(tmp_path / "run", timeout=0.1),
    ):
        pass
    os.kill(other.pid, 9)
    other.join()
    with files.lock(tmp_path / "run", timeout=5):
        pass


def test_missing_data_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LRNB_DATA", raising=False)
    study = load_study(ROOT / "params" / "bn.yaml", "smol")
    with pytest.raises(UserError, match="no data: give --set data_root=FOLDER"):
        _ = stages.RunPaths(study).data_root
    study = study.model_copy(update={"data_root": str(tmp_path)})
    with pytest.raises(UserError, match="no folder eval/ in it"):
        _ = stages.RunPaths(study).data_root


@pytest.mark.parametrize(
    ("script", "hint"),
    [
        ("Gothik", "; did you mean 'Gothic'"),
        ("Uyghur", "; did you mean 'Arabic'"),
        ("Odia", "; did you mean 'Oriya'"),
        ("Bangla", "; did you mean 'Bengali'"),
        ("Traditional_Mongolian", "; did you mean 'Mongolian'"),
        ("Zzzz", ""),
        ("Unknown", ""),
    ],
)
def test_what_is_no_script_of_a_language_is_refused_with_the_nearest(script: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"script '{script}' is no script of Unicode{hint}"):
        parameters.validate({"script": script}, "here")


def test_every_script_that_is_meant_is_one() -> None:
    assert [name for name in parameters.SCRIPTS_OF.values() if not parameters.is_script(name)] == []


@pytest.mark.parametrize(
    "given",
    [{"ct_lr": float("inf")}, {"lams": [float("nan")]}, {"search": {"ties": {"lam": [float("inf")]}}},
     {"margin": "1e400"}, {"sft_mix": {"topic": -1}}, {"sft_mix": {"topic": 0}}],
)  # fmt: skip
def test_numbers_are_finite_and_counts_positive(given: dict) -> None:
    name = next(iter(given))
    with pytest.raises(UserError, match=rf"here: {name}.*(finite number|greater than)"):
        parameters.validate(given, "here")


@pytest.mark.parametrize(
    "given",
    [{"alphas": [True]}, {"ct_lr": True}, {"search": {"ties": {"lam": [True]}}},
     {"merge_languages": [[False, "ug"]]}],
)  # fmt: skip
def test_true_is_no_number_and_no_is_no_language(given: dict) -> None:
    with pytest.raises(UserError, match=f"here: {next(iter(given))}: holds true or false.*quote them"):
        parameters.validate(given, "here")
    assert not parameters.validate({"activation_checkpointing": False}, "here").activation_checkpointing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods=[ties", r"the value is no YAML .*close brackets"),
        ("runs=a: b: c", r"the value is no YAML .*Quote text"),
        (
            "sft_mix={topic:400}",
            r"'topic:400' has no value; put a space after the colon: sft_mix=\{topic: 400\}",
        ),
        ("search={ties: {lam:1}}", r"'lam:1' has no value"),
    ],
)
def test_a_value_that_is_no_yaml_is_told_with_what_to_do(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parameters.parse_override(text)
    assert parameters.parse_override("lang_name='a: b'") == ("lang_name", "a: b")
    assert parameters.parse_override("sft_mix={topic: 400}") == ("sft_mix", {"topic": 400})


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O: No space left on device")]
)
def test_a_full_disk_is_named_whatever_stage_meets_it(tmp_path: Path, error: Exception) -> None:
    folder = tmp_path / "stage"
    with (
        pytest.raises(
            UserError, match=rf"{folder}: the disk is full \([\d,]+ bytes free\).*same command again"
        ),
        stages.Stage(folder, "s", {}) as stage,
    ):
        (stage.draft / "half").write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_another_error_in_a_stage_stays_what_it_is(tmp_path: Path) -> None:
    error = OSError(19, "no such device")
    with pytest.raises(OSError) as caught, stages.Stage(tmp_path / "stage", "s", {}):  # noqa: PT011
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError("flock")])
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(UserError, match=r"has no locks .*--set runs=FOLDER"), files.lock(tmp_path / "x"):
        pass


def test_a_file_may_name_languages_and_nothing_else(tmp_path: Path) -> None:
    names = {path.stem for path in (parameters.ROOT / "params").glob("*.yaml")} - {"all"}
    real = parameters.load_languages([parameters.ROOT / "params" / "all.yaml"], "smol")
    assert {study.lang for study in real} == names - {*parameters.SYNTHETIC, "kk", "km"}  # the next check
    for name in ("qaa", "qab"):
        (tmp_path / f"{name}.yaml").write_text(f"lang: {name}\n")
    both = tmp_path / "both.yaml"
    both.write_text("languages: [qab, qaa]\n")
    assert [study.lang for study in parameters.load_languages([both], "nano", seed=2)] == ["qab", "qaa"]
    with pytest.raises(UserError, match="qaa: given more than once; name every language once"):
        parameters.load_languages([both, tmp_path / "qaa.yaml"], "nano")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "languages: [qaa]\nct_lr: 1",
            "both.yaml: languages stands alone in its file; ct_lr goes with --set",
        ),
        ("languages: qaa", "languages: 'qaa'; give names of files beside it"),
        ("languages: []", "give names of files beside it"),
        ("languages: [zz]", "zz.yaml: no such file. Found beside it: both"),
    ],
)
def test_a_file_of_languages_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "both.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        parameters.load_languages([tmp_path / "both.yaml"], "nano")


@pytest.mark.parametrize("name", ["runs", "data_root", "released_ct"])
def test_a_path_at_home_is_the_one_that_a_shell_would_give(name, monkeypatch, tmp_path):
    """A shell leaves the ~ of `--set data_root=~/data` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for written, there in (("~/data", tmp_path / "data"), ("~", tmp_path), ("a~/b", "a~/b"), ("~b", "~b")):
        study = Study(preset="nano", lang="qaa", **dict([parse_override(f"{name}={written}")]))
        assert getattr(study, name) == str(there)


def test_paths_at_home_are_read_in_lists_and_tables_too(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    study = Study(
        preset="nano",
        lang="qaa",
        extra_models={"mine": "~/m"},
        tasks=["~/t.yaml"],
        test_limits={"~/t.yaml": 3},
    )
    assert study.extra_models == {"mine": f"{tmp_path}/m"}
    assert study.tasks == [*study.test_limits] == [f"{tmp_path}/t.yaml"]


def test_without_a_home_it_is_refused(monkeypatch):
    def nowhere(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(UserError, match=r"~/data: there is no home folder \(HOME\); give the whole path"):
        load_study(ROOT / "params" / "qaa.yaml", "nano", {"data_root": "~/data"})
