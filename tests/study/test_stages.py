"""Old results stay until new ones are whole; what was made from something that changed is not computed on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from lrnb.errors import UserError
from lrnb.study import files, stages
from lrnb.study.files import MANIFEST

SPAWN = multiprocessing.get_context("spawn")


def make(folder: Path, text: str, inputs: Iterable[Path] = (), name: str = "out") -> Path:
    """A finished stage that holds one file in a folder, as a model of one budget stands in CT's."""
    with stages.Stage(folder, folder.name, {"text": text}, inputs) as stage:
        files.write_text(stage.draft / "1k" / name, text)
    return folder


def names(folder: Path) -> list[str]:
    """What stands in a folder, but for locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_manifest_names_what_was_made_and_what_from(tmp_path: Path) -> None:
    base = make(tmp_path / "base", "base")
    with stages.Stage(tmp_path / "sft", "sft", {"a": 1}, [base]) as stage:
        (stage.draft / "out.txt").write_text("hello")
        stage.facts["n"] = 3
        assert not stage.folder.exists()
    manifest = stages.read_manifest(tmp_path / "sft")
    assert manifest["params"] == {"a": 1} and manifest["facts"] == {"n": 3}
    assert manifest["outputs"] == {"out.txt": files.sha256(tmp_path / "sft" / "out.txt")}
    assert manifest["inputs"] == {"../base": stages.fingerprint(base)}
    assert names(tmp_path) == ["base", "sft"]


def test_a_stage_that_fails_leaves_the_results_before_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "ties", "old")
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(KeyboardInterrupt), stages.Stage(folder, "ties", {}) as stage:
        (stage.draft / "new").write_text("half")
        raise KeyboardInterrupt
    assert (folder / MANIFEST).read_bytes() == before
    assert (folder / "1k" / "out").read_text() == "old"
    assert names(tmp_path) == ["ties"]


def test_a_new_result_replaces_the_old_one_whole(tmp_path: Path) -> None:
    make(tmp_path / "ties", "old", name="old")
    folder = make(tmp_path / "ties", "new", name="new")
    assert names(folder / "1k") == ["new"]
    assert names(tmp_path) == ["ties"]


def test_a_stage_made_again_alike_is_left_as_it_is(tmp_path: Path) -> None:
    """Its manifest too, by which a run knows its results; not with a damaged file or another parameter."""
    folder = make(tmp_path / "ties", "same")
    before = (folder / MANIFEST).stat().st_mtime_ns
    make(folder, "same")
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    (folder / "1k" / "out").write_text("damaged")
    make(folder, "same")
    assert (folder / "1k" / "out").read_text() == "same"
    with stages.Stage(folder, "ties", {"text": "other"}) as stage:
        files.write_text(stage.draft / "1k" / "out", "same")
    assert stages.read_manifest(folder)["params"] == {"text": "other"}
    assert names(tmp_path) == ["ties"]


@pytest.mark.parametrize("name", [MANIFEST, f"1k/{MANIFEST}"])
@pytest.mark.parametrize("text", ["", '{"outputs"', "{}"])
def test_a_stage_with_a_damaged_manifest_is_made_again(tmp_path: Path, name: str, text: str) -> None:
    """Its own, or that of a model in it; one that differs in its times alone stays."""

    def make_model(seconds: int) -> bytes:
        with stages.Stage(tmp_path / "ties", "ties", {}) as stage:
            files.write_text(stage.draft / "1k" / "model", "weights")
            files.write_text(stage.draft / "1k" / MANIFEST, f'{{"stage": "merge", "seconds": {seconds}}}')
        return (tmp_path / "ties" / name).read_bytes()

    whole = make_model(1)
    assert make_model(2) == whole
    (tmp_path / "ties" / name).write_text(text)
    assert json.loads(make_model(3)).keys() == json.loads(whole).keys()


def _die(folder: Path, moment: int) -> None:
    """Make a stage and be killed in the block (0), or before the `moment`th change of a name after it."""
    moments, rename = iter(range(moment - 1, -1, -1)), os.replace

    def replace(*given: Path) -> None:
        if not next(moments):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*given)

    with stages.Stage(folder, folder.name, {}) as stage:
        files.write_text(stage.draft / "1k" / "out", "new")
        files.write_text(stage.draft / "work" / "resume", "new")
        if not moment:
            os.kill(os.getpid(), signal.SIGKILL)
        os.replace = replace


@pytest.mark.parametrize(("moment", "text"), [(0, "old"), (1, "old"), (2, "new"), (3, "new")])
def test_a_kill_at_any_moment_leaves_old_results_or_new_ones(tmp_path: Path, moment: int, text: str) -> None:
    """Killed in the block, before the manifest has its name, and before each of the two renames."""
    folder = make(tmp_path / "ct", "old")
    child = SPAWN.Process(target=_die, args=(folder, moment))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert (stages.require(folder / "1k") / "out").read_text() == text
    manifest = stages.read_manifest(folder)
    assert manifest["outputs"] == {"1k/out": files.sha256(folder / "1k" / "out")}
    make(folder, "last")
    assert names(tmp_path) == ["ct"] and names(folder) == ["1k", MANIFEST]


def test_a_stage_that_resumes_keeps_its_draft_and_the_results_before_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "ct", "old")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), stages.Stage(folder, "ct", {}, resumes=True) as stage:
            with open(stage.draft / "steps", "a") as file:
                file.write("x")
            files.write_text(stage.draft / "work" / "resume", "point")
            raise error
        assert (folder / "1k" / "out").read_text() == "old"
    with stages.Stage(folder, "ct", {}, resumes=True) as stage:
        assert (stage.draft / "work" / "resume").is_file()
    assert (folder / "steps").read_text() == "xx"
    assert names(folder) == [MANIFEST, "steps"] and names(tmp_path) == ["ct"]


def test_a_stage_that_is_refused_before_its_first_resume_point_leaves_no_draft(tmp_path: Path) -> None:
    with pytest.raises(UserError), stages.Stage(tmp_path / "ct", "ct", {}, resumes=True):
        raise UserError("ct_budgets: ...")
    assert names(tmp_path) == []


def test_two_at_the_same_stage_are_told_apart(tmp_path: Path) -> None:
    with stages.Stage(tmp_path / "ct", "ct", {}) as stage:
        with pytest.raises(UserError, match="ct is in use by another run"):
            make(tmp_path / "ct", "other")
        (stage.draft / "out").write_text("mine")
    assert names(tmp_path / "ct") == [MANIFEST, "out"]


def test_a_folder_behind_a_link_stays_there(tmp_path: Path) -> None:
    large = tmp_path / "large" / "ct"
    large.mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "ct").symlink_to(large)
    make(tmp_path / "runs" / "ct", "new")
    assert (tmp_path / "runs" / "ct").is_symlink()
    assert names(large) == ["1k", MANIFEST] and names(large.parent) == ["ct"]


def test_an_input_that_is_missing_or_unfinished_names_its_notebook(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="base is missing. Run notebooks/01_ct/00_base.ipynb first"):
        stages.Stage(tmp_path / "ct", "ct", {}, [tmp_path / "base"])
    (tmp_path / "merge" / "ties").mkdir(parents=True)
    with pytest.raises(UserError, match="ties is unfinished. Run notebooks/02_merge/02_ties.ipynb"):
        stages.require(tmp_path / "merge" / "ties")


def test_the_same_outputs_have_the_same_fingerprint(tmp_path: Path) -> None:
    a, b = (make(tmp_path / name, "same") for name in ("a", "b"))
    assert stages.fingerprint(a) == stages.fingerprint(b)
    within = stages.fingerprint(a / "1k")
    (a / MANIFEST).unlink()  # then the files themselves are read
    assert stages.fingerprint(a / "1k") == within


def chain(root: Path, ct: str = "ct") -> Path:
    """base -> ct -> merge/ties -> scores, as far as they are not there yet; returns the scores."""
    (root / "params.yaml").write_text("")
    base, made = root / "base", root / "ct"
    if not base.exists():
        make(base, "base")
    make(made, ct, [base])
    if not (root / "scores").exists():
        make(root / "merge" / "ties", "ties", [base, made / "1k"])
        make(root / "scores", "scores", [root / "merge" / "ties" / "1k"])
    return root / "scores"


def test_results_made_from_what_has_changed_since_are_refused_with_what_to_run(tmp_path: Path) -> None:
    root = tmp_path / "nano-seed1" / "qaa"
    root.mkdir(parents=True)
    scores = chain(root)
    assert stages.current(scores) == scores
    chain(root, "ct trained again")
    assert stages.stale(scores) == [(root / "merge" / "ties", root / "ct" / "1k")]
    message = (
        f"{root}/merge/ties was made from {root}/ct/1k, which has changed since. "
        "Run notebooks/02_merge/02_ties.ipynb again, or all that is not up to date: "
        f"lrnb run {root}/params.yaml --preset nano"
    )
    with pytest.raises(UserError) as caught:
        stages.Stage(root / "failures", "failures", {}, [scores])
    assert str(caught.value) == message
    assert not (root / "failures").exists()


def command(path: Path) -> str:
    """What is said to run where `path` is missing."""
    with pytest.raises(UserError) as caught:
        stages.require(path)
    return str(caught.value).partition("not up to date: ")[2]


def test_the_remedy_goes_to_the_same_preset_seed_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    language = "lrnb run params/LANG.yaml --preset"  # pasted into a shell, <lang> would read a file
    assert command(Path("runs/nano/shared/sft")) == "lrnb run params/qaa.yaml --preset nano"
    assert command(Path("runs/smol/shared/sft")) == f"{language} smol"
    assert command(Path("runs/smol-seed2/bn/ct/25k")) == "lrnb run params/bn.yaml --preset smol --seed 2"
    assert command(Path("my runs/paper/shared/sft")) == f"{language} paper --set 'runs={tmp_path}/my runs'"
    params = run_folder(tmp_path / "runs" / "smol" / "bn", preset="smol", lang="bn")
    assert command(Path("runs/smol/bn/ct")) == f"lrnb run {params} --preset smol"
    assert command(Path("runs/smol/shared/sft")) == f"lrnb run {params} --preset smol"


def test_the_remedy_of_a_copy_goes_to_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = run_folder(tmp_path / "copy" / "nano" / "qaa", preset="nano", lang="qaa")
    there = f"--preset nano --set runs={tmp_path}/copy"
    for missing in ("qaa/ct", "shared/sft"):
        assert command(Path("copy", "nano", missing)) == f"lrnb run {params} {there}"
    run_folder(tmp_path / "copy" / "mine", preset="nano", lang="qaa")
    home = tmp_path / "copy" / "nano" / "qaa"
    expected = f"first move {tmp_path}/copy/mine to {home}, then lrnb run {home}/params.yaml {there}"
    assert command(Path("copy", "mine", "ct")) == expected


def run_folder(folder: Path, **values: str) -> Path:
    """A run folder that holds its parameters only."""
    files.write_text(folder / "params.yaml", "".join(f"{key}: {value}\n" for key, value in values.items()))
    return folder / "params.yaml"


def test_results_made_again_alike_or_from_inputs_that_are_gone_are_current(tmp_path: Path) -> None:
    scores = chain(tmp_path)
    chain(tmp_path)  # CT trained again, to the same weights
    assert stages.stale(scores) == []
    files.remove(tmp_path / "base")  # to save room
    assert stages.current(scores) == scores
