"""One notebook run safely, and the study's graph: reruns, failures, kills, two runs at once."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
from filelock import Timeout
from rich.console import Console
from support.mini_checkout import ATLAS, KEYS, SETUP, WRITE, Checkout, gone, write_checkout, write_notebook
from support.pico import pico_model

from lrnb.cli.main import main
from lrnb.errors import UserError
from lrnb.pipeline import estimate, freshness, graph, monitor, notebooks, runner
from lrnb.pipeline import steps as plan
from lrnb.study import files, stages
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.stages import RunPaths


def outputs(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


# one notebook


def test_notebook_gets_its_parameters_and_runs_in_the_checkout_with_this_python(tmp_path: Path) -> None:
    body = "import os, sys; print(steps + 1, rate, sys.executable, os.getcwd(), os.environ['LRNB_X'])"
    notebook = write_notebook(tmp_path / "{odd} name.ipynb", "steps = 1\nrate = 0.5\nnames = ['a']", body)
    out = notebooks.exec_notebook(notebook, {"steps": 2}, tmp_path / "out" / "{a}.ipynb", {"LRNB_X": "here"})
    assert outputs(out).split() == ["3", "0.5", sys.executable, str(ROOT), "here"]
    assert [p.name for p in out.parent.iterdir()] == ["{a}.ipynb"]
    assert "LRNB_X" not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_kernel_needs_no_port_that_another_process_could_take(tmp_path: Path) -> None:
    body = "import ipykernel; print(ipykernel.get_connection_info(unpack=True)['transport'])"
    notebook = write_notebook(tmp_path / "n.ipynb", "", body)
    assert outputs(notebooks.exec_notebook(notebook, {}, tmp_path / "o.ipynb")).split() == ["ipc"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stepz": 2}, "did you mean 'steps'"),
        ({"zzz": 2}, "it declares steps, rate, names, flag"),
        ({"steps": "2"}, "steps is '2', expected int"),
        ({"steps": 2.5}, "steps is 2.5, expected int"),
        ({"steps": True}, "expected int"),
        ({"flag": 1}, "expected bool"),
        ({"names": "a"}, "expected list"),
        ({"names": [1]}, "expected list"),
        ({"x; open('owned', 'w')": 1}, "not a Python name"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(tmp_path: Path, params: dict, message: str) -> None:
    declared = "steps = 1\nrate = 0.5\nnames = ['a']\nflag = False"
    notebook = write_notebook(tmp_path / "n.ipynb", declared, "open('ran', 'w')")
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        notebooks.exec_notebook(notebook, params, tmp_path / "out" / "n.ipynb")
    assert not (tmp_path / "out").exists()


def test_the_studys_own_ranges_hold_for_a_notebook_run_alone(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", "densities = [0.5]", "1")
    with pytest.raises(UserError, match=r"densities must lie in \(0, 1\]"):
        notebooks.exec_notebook(notebook, {"densities": [50.0]}, tmp_path / "n.out.ipynb")


def test_failing_cell_leaves_its_error_and_no_output(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", "a = 0", "print('before')", "1 / a", "print('after')")
    out = tmp_path / "out" / "n.ipynb"
    with pytest.raises(notebooks.NotebookFailed, match=r"(?s)cell 3:.*ZeroDivisionError.*n.failed.ipynb"):
        notebooks.exec_notebook(notebook, {}, out)
    assert [p.name for p in out.parent.iterdir()] == ["n.failed.ipynb"]
    assert "before" in outputs(out.parent / "n.failed.ipynb")
    notebooks.exec_notebook(notebook, {"a": 1}, out)
    assert [p.name for p in out.parent.iterdir()] == ["n.ipynb"]


def test_a_users_mistake_inside_a_notebook_is_told_without_traceback(tmp_path: Path) -> None:
    body = "from lrnb.study.parameters import UserError\nraise UserError('the corpus is empty; add text')"
    notebook = write_notebook(tmp_path / "n.ipynb", "a = 0", body)
    with pytest.raises(notebooks.NotebookFailed) as caught:
        notebooks.exec_notebook(notebook, {}, tmp_path / "o.ipynb")
    assert "cell 2: the corpus is empty; add text" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(("kind", "is_final"), [("UserError", True), ("TryAgain", False)])
def test_what_the_user_must_mend_is_final_and_a_killed_process_is_not(
    tmp_path: Path, kind: str, is_final: bool
) -> None:
    body = f"from lrnb import errors\nraise errors.{kind}('process 1 was killed')"
    notebook = write_notebook(tmp_path / "n.ipynb", "a = 0", body)
    with pytest.raises(notebooks.NotebookFailed, match="cell 2: process 1 was killed\n") as caught:
        notebooks.exec_notebook(notebook, {}, tmp_path / "o.ipynb")
    assert caught.value.is_final is is_final


def test_killed_kernel_is_a_failure(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", "a = 0", "import os; os.kill(os.getpid(), 9)", "print(1)")
    with pytest.raises(notebooks.NotebookFailed, match=r"kernel was killed.*smaller batch"):
        notebooks.exec_notebook(notebook, {}, tmp_path / "o.ipynb")
    assert not (tmp_path / "o.ipynb").exists()
    assert (tmp_path / "o.failed.ipynb").exists()


def test_a_kernel_whose_messages_come_late_as_on_a_busy_machine_has_not_failed(tmp_path: Path) -> None:
    body = (
        "import time\nkernel = get_ipython().kernel\npublish = kernel._publish_status\n"
        "def late(status, *given, **named):\n    time.sleep(5 * (status == 'idle'))\n"
        "    publish(status, *given, **named)\nkernel._publish_status = late\nprint('late')"
    )
    notebook = write_notebook(tmp_path / "n.ipynb", "a = 0", body)
    assert outputs(notebooks.exec_notebook(notebook, {}, tmp_path / "o.ipynb")).split() == ["late"]


def test_cells_that_did_not_run_are_noticed(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", "a = 0", "print(1)")
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        cell.metadata["papermill"] = {"status": "completed", "exception": None}
    nb.cells[0].execution_count = 1
    nbformat.write(nb, path)
    with pytest.raises(RuntimeError, match="cell 1 did not run"):
        notebooks._require_every_cell(path)


def test_missing_notebook_and_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such notebook"):
        notebooks.exec_notebook(tmp_path / "none.ipynb", {}, tmp_path / "o.ipynb")
    (tmp_path / "file").write_text("")
    notebook = write_notebook(tmp_path / "n.ipynb", "a = 0", "1")
    with pytest.raises(UserError, match="cannot write here"):
        notebooks.exec_notebook(notebook, {}, tmp_path / "file" / "o.ipynb")


# the study's graph, on a checkout whose notebooks only write their artefacts

ALL = {"base", "corpus", "sft", "ct", "cts_1k", "average", "ties", "ties_sv", "eval_parents"}
ALL |= {"eval_merged", "scores", "report"} | ATLAS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A miniature study that ran once, from nothing."""
    checkout = Checkout(write_checkout(tmp_path_factory.mktemp("study") / "check {out}"))
    status, text = checkout.run()
    assert status == 0, text
    assert checkout.steps_run(text) == ALL
    assert "report.html" in text
    return checkout


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\udc80"])
def test_a_record_that_cannot_be_read_counts_as_none(checkout: Checkout, text: str) -> None:
    record = checkout.lang / ".done" / "scores.json"
    record.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "scores" in checkout.outdated()


@pytest.mark.slow
def test_a_terminal_that_is_not_utf8_shows_what_it_can(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}.items():
        monkeypatch.setenv(name, value)
    checkout.make_trouble("")
    status, text = checkout.run()
    assert status == 0, text
    assert "report: " in text


@pytest.fixture
def checkout(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished study, to be changed by one test."""
    shutil.copytree(finished.root, tmp_path / "copy")
    return Checkout(tmp_path / "copy")


def test_every_step_left_manifest_notebook_and_parameters(finished: Checkout) -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", {"ct_budgets": [1024]})
    study = study.model_copy(update={"runs": str(finished.root / "runs")})
    for step in plan.plan(study).values():
        assert all(path.is_file() for path in step.results)
        assert not step.notebook or (step.executed.is_file() and step.params.is_file())
    values = stages.read_manifest(finished.lang / "scored" / "merged")["params"]
    assert values["group"] == "merged"


def test_rerun_has_nothing_to_do_even_after_touching_files(checkout: Checkout) -> None:
    for path in (checkout.root / "notebooks").rglob("*.ipynb"):
        path.touch()
    status, text = checkout.run()
    assert (status, "Nothing to do" in text) == (0, True)
    assert not checkout.steps_run(text)


def test_changed_parameter_runs_only_what_depends_on_it(checkout: Checkout) -> None:
    before = (checkout.root / "runs/nano/shared/base/manifest.json").read_bytes()
    status, text = checkout.run("--set", "slacks=[0.2]")
    assert status == 0, text
    assert checkout.steps_run(text) == {"ties_sv", "eval_merged", "scores", "report"} | ATLAS
    assert (checkout.root / "runs/nano/shared/base/manifest.json").read_bytes() == before


def test_artefacts_changed_by_hand_or_deleted_are_made_again(checkout: Checkout) -> None:
    shutil.rmtree(checkout.lang / "conflicts")
    status, text = checkout.run()
    assert status == 0, text
    assert checkout.steps_run(text) == {"report"} | ATLAS
    manifest = checkout.lang / "scored" / "merged" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    status, text = checkout.run()
    assert status == 0, text
    assert checkout.steps_run(text) == {"eval_merged", "scores", "failures", "report"}


@pytest.mark.slow
def test_change_of_the_packages_own_code_counts_unless_told_otherwise(checkout: Checkout) -> None:
    with open(checkout.root / "lrnb" / "figures" / "scores.py", "a") as file:
        file.write("# edited\n")
    why = checkout.why_due()
    assert set(why) == ALL and why["base"] == "lrnb's code changed"
    assert not checkout.outdated("--keep-code")
    shutil.rmtree(checkout.lang / "conflicts")
    status, text = checkout.run("--keep-code", "--set", "slacks=[0.2]")
    assert status == 0, text
    assert checkout.steps_run(text) == {"ties_sv", "eval_merged", "scores", "report"} | ATLAS
    assert "base" in checkout.outdated("--set", "slacks=[0.2]")


def test_code_counts_and_the_parameters_cell_does_not(tmp_path: Path) -> None:
    hashes = [
        freshness.notebook_hash(write_notebook(tmp_path / "n.ipynb", parameters, body))
        for parameters, body in (("a = 1", "print(a)"), ("a = 2", "print(a)"), ("a = 1", "print(-a)"))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_results_deleted_or_changed_count_and_touched_ones_do_not(checkout: Checkout) -> None:
    result = checkout.lang / "conflicts" / "out.txt"
    result.touch()
    assert checkout.outdated() == []
    later = dict.fromkeys(("signs", "saturation", "failures"), "after discarded")
    after = {"discarded": "its results changed"} | later | {"report": "after discarded"}
    result.write_text(result.read_text().swapcase())
    assert checkout.why_due() == after
    result.unlink()
    assert checkout.why_due() == after
    (checkout.lang / "report.html").unlink()
    (checkout.lang / "conflicts" / "manifest.json").unlink()
    (checkout.lang / ".done" / "ct.json").unlink()
    (checkout.root / "runs/nano/shared/world/out.txt").unlink()
    why = checkout.why_due()
    assert (why["base"], why["ct"], why["sft"]) == ("its results changed", "no finished run", "after base")


def test_a_dry_run_names_what_changed(checkout: Checkout) -> None:
    notebook = checkout.root / "notebooks" / "03_analysis" / "03_sign_conflicts.ipynb"
    notebook.write_text(notebook.read_text().replace("out.txt", "out.txt "))
    (checkout.lang / "report.html").unlink()
    given = ("ct_lr=0.5", "zero_sign=positive")
    assert checkout.why_due("--set", given[1]) == {
        "discarded": "zero_sign changed",
        "signs": "after discarded",
        "saturation": "after discarded",
        "failures": "after discarded",
        "report": "after discarded",
    }
    why = checkout.why_due("--set", given[0])
    assert why["ct"] == "ct_lr changed" and why["cts_1k"] == "after ct" and "base" not in why
    assert checkout.why_due() == {"signs": "notebook's code changed", "report": "report.html is missing"}


def test_run_folder_spelled_otherwise_is_the_same(checkout: Checkout) -> None:
    assert checkout.outdated("--set", f"runs={checkout.root / 'runs'}") == []


def test_dates_decide_nothing_and_are_left_alone(checkout: Checkout) -> None:
    """A clock that was set back, stamps of Snakemake that are lost or of another day, a result made anew."""
    stamps = checkout.lang / ".stamps"
    assert {path.name for path in stamps.iterdir()} == ALL
    later = time.time() + 1e6
    for path in [path for path in checkout.lang.rglob("*") if path.is_file()][::2]:
        os.utime(path, (later, later))
    (stamps / "base").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in stamps.iterdir()}
    assert checkout.outdated() == []
    (checkout.lang / "report.html").unlink()
    status, text = checkout.run()
    assert status == 0, text
    assert checkout.steps_run(text) == {"report"}
    after = {path.name: path.stat().st_mtime_ns for path in stamps.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"report"}
    assert checkout.outdated() == []


@pytest.mark.slow
def test_step_whose_notebook_changes_while_it_runs_stays_outdated(checkout: Checkout) -> None:
    notebook = checkout.root / "notebooks" / "03_analysis" / "02_discarded.ipynb"
    text = notebook.read_text().replace("asleep", "awake")
    later = f"from pathlib import Path; Path({str(notebook)!r}).write_text(Path('later.ipynb').read_text())"
    keys, folders = KEYS["03_analysis/02_discarded"]
    declared = f"preset = 'nano'\nlang = 'qaa'\nseed = 0\nruns = 'runs'\n{keys}"
    (checkout.root / "later.ipynb").write_text(text)
    write_notebook(notebook, declared, SETUP, later, WRITE.format(folders=folders))
    status, text = checkout.run()
    assert status == 0, text
    assert "discarded: code changed while it ran" in text
    assert "changed while it ran" in (checkout.lang / "logs" / "discarded.log").read_text()
    assert checkout.outdated() == ["discarded", "signs", "saturation", "failures", "report"]
    assert checkout.run()[0] == 0
    assert checkout.outdated() == []


def test_data_of_the_language_counts_and_other_languages_do_not(tmp_path: Path) -> None:
    names = ["corpus/bn.jsonl.gz", "corpus/en.jsonl.gz", "corpus/ta.jsonl.gz", "sft/topic.jsonl"]
    names += ["eval/topic/bn/test.jsonl", "eval/topic/ta/test.jsonl", "hub/them/set/test.parquet"]
    paths = [tmp_path / name for name in names]
    for file in paths:
        files.write_text(file, "{}")
    values = {"data_root": str(tmp_path), "base_prune": True}
    study = load_study(ROOT / "params" / "bn.yaml", "smol", values)
    steps = plan.plan(study)
    plain = study.model_copy(update={"base_prune": False})

    def hashes() -> list[str]:
        own = [freshness.data_hash(steps[name], study) for name in ("base", "sft", "corpus", "eval_merged")]
        return [*own, freshness.data_hash(steps["base"], plain)]

    for file, expected in zip(paths, ("1011", "1111", "1000", "1111", "1011", "1000", "0111"), strict=True):
        before = hashes()
        file.write_text("{} ")
        changed = "".join(str(int(a != b)) for a, b in zip(before, hashes(), strict=True))
        assert changed == f"{expected}0", file


def test_a_users_own_model_and_task_file_count(tmp_path: Path) -> None:
    model, task = tmp_path / "model" / "model.safetensors", tmp_path / "own.yaml"
    mine = tmp_path / "mine" / "model.safetensors"
    for path in (model, task, mine, tmp_path / "data" / "eval" / "items"):
        files.write_text(path, "made")
    own = {"base_source": str(model.parent), "tasks": ["topic", str(task)], "sft_mix": {f"{task}": 10}}
    own["extra_models"] = {"mine": str(mine.parent)}
    study = load_study(ROOT / "params" / "bn.yaml", "smol", own | {"data_root": str(tmp_path / "data")})
    steps = plan.plan(study)

    def keys() -> dict[str, dict[str, str]]:
        names = ("base", "corpus", "sft", "eval_merged", "scores")
        return {name: freshness.input_key(steps[name], steps, study) for name in names}

    changes = {model: {"base"}, task: {"corpus", "sft", "eval_merged"}, mine: {"eval_merged", "scores"}}
    for path, expected in changes.items():
        before = keys()
        files.write_text(path, "made anew")
        assert {name for name, key in keys().items() if key != before[name]} == expected


def test_what_a_users_task_file_includes_counts(tmp_path: Path) -> None:
    own, middle, last = (tmp_path / f"{name}.yaml" for name in ("own", "middle", "last"))
    files.write_text(own, "include: middle.yaml")
    files.write_text(middle, "include: last.yaml")
    files.write_text(last, "dataset_name: one")
    before = freshness._own_files({"tasks": [str(own)]})
    files.write_text(last, "dataset_name: two")
    changed = freshness._own_files({"tasks": [str(own)]})
    assert changed != before
    files.write_text(middle, f"include: {tmp_path / 'middle.yaml'}")  # refused when it is loaded
    assert freshness._own_files({"tasks": [str(own)]}).keys() == before.keys()


def test_another_name_in_params_for_prompts_counts_where_prompts_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "eval").mkdir()
    study = load_study(ROOT / "params" / "bn.yaml", "smol", {"data_root": str(tmp_path)})
    steps, names = plan.plan(study), ("base", "corpus", "sft", "eval_merged", "scores")
    before = {name: freshness.input_key(steps[name], steps, study) for name in names}
    assert not any("name of bn" in key for key in before.values())  # the usual name is none of the inputs
    monkeypatch.setattr(freshness, "language_name", {"bn": "Bangla", "en": "English"}.get)
    after = {name: freshness.input_key(steps[name], steps, study) for name in names}
    changed = {name: freshness.changed_inputs(after[name], before[name]) for name in names}
    own = ["name of bn"]
    assert changed == {"base": [], "corpus": own, "sft": [], "eval_merged": own, "scores": []}


def test_how_traditional_mongolian_is_written_counts_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(lang: str, preset: str) -> dict[str, str]:
        study = load_study(ROOT / "params" / f"{lang}.yaml", preset, {"data_root": str(ROOT)})
        steps = plan.plan(study)
        return freshness.input_key(steps["ct"], steps, study)

    before = key("mn", "paper"), key("bn", "paper")
    monkeypatch.setattr(freshness, "versions", lambda names: dict.fromkeys(names, "0.0"))
    assert freshness.changed_inputs(before[0], key("mn", "paper")) == ["text"]
    assert before[1] == key("bn", "paper")


def test_data_behind_links_count_and_links_in_a_circle_end(tmp_path: Path) -> None:
    file, hub = tmp_path / "disk" / "set" / "test.parquet", tmp_path / "hub"
    files.write_text(file, "{}")
    hub.mkdir()
    (hub / "them").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "round").symlink_to(hub)
    before = freshness._listing(hub)
    assert [name for name, _ in before] == ["them/set/test.parquet"]
    files.write_text(file, "{} ")
    assert freshness._listing(hub) != before


def test_data_root_has_one_spelling_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "eval").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    keys = []
    for place in ("data", str(tmp_path / "data"), "other"):
        study = load_study(ROOT / "params" / "bn.yaml", "smol", {"data_root": place, "runs": place})
        keys.append(freshness._placeless(plan.step_params(plan.plan(study)["sft"], study)))
    assert keys[0] == keys[1] != keys[2]
    assert keys[0]["data_root"] == str(tmp_path / "data")


def test_table_over_seeds_is_in_the_reports_which_stay_up_to_date(checkout: Checkout) -> None:
    scores = "method,ct_tokens,task,value,ci_low,ci_high,chance\nties,1024,topic,50.0,40.0,60.0,25.0\n"
    (checkout.lang / "scores" / "scores.csv").write_text(scores)
    shares = "tensor,setting,ct_tokens,density,sft_discarded,sft_kept\n(model),fixed,1024,0.5,10,100\n"
    (checkout.lang / "conflicts" / "shares.csv").write_text(shares)
    one = {
        "method": "ties",
        "ct_tokens": 1024,
        "task": "topic",
        "item": range(4),
        "correct": [True, False] * 2,
    }
    pd.DataFrame(one).to_parquet(checkout.lang / "scores" / "items.parquet")
    status, text = checkout.run("--seeds", "1")
    assert status == 0, text
    assert not checkout.steps_run(text)
    assert "ties,1024,topic,1,50.0" in (checkout.lang / "report.html").read_text()
    assert checkout.outdated() == []
    note = json.loads((checkout.lang.parent / "qaa-seeds.json").read_text())
    assert note["ct_budgets"] == [1024]
    assert not {"seed", "runs"} & set(note)


def test_another_stored_pool_outdates_the_report_alone(checkout: Checkout) -> None:
    assert checkout.outdated() == []
    stored = checkout.root / "docs" / "results" / "nano" / "nano-qaa.jsonl"
    stored.parent.mkdir(parents=True)
    stored.write_text('{"about": "none yet"}\n')
    assert checkout.outdated() == ["report"]


def test_after_a_failure_no_old_table_is_printed(checkout: Checkout) -> None:
    scores = "method,ct_tokens,task,value,ci_low,ci_high,chance\nties,1024,topic,50.0,40.0,60.0,25.0\n"
    (checkout.lang / "scores" / "scores.csv").write_text(scores)
    assert "Percent right" in checkout.run()[1]
    write_notebook(checkout.root / "notebooks/03_analysis/01_scores.ipynb", "ct_budgets = [1024]", "1 / 0")
    status, text = checkout.run()
    assert status == 1
    assert "Percent right" not in text
    assert "the table of an earlier run was left alone, runs/nano/qaa/scores/scores.csv" in text


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("raise", "the shares do not add up"),
        pytest.param("kill", "kernel was killed", marks=pytest.mark.slow),
    ],
)
def test_failure_is_shown_in_full_the_rest_runs_and_the_rerun_continues(
    checkout: Checkout, trouble: str, message: str
) -> None:
    checkout.make_trouble(trouble)
    (checkout.lang / "scores" / "manifest.json").unlink()
    status, text = checkout.run()
    assert status == 1
    assert checkout.steps_run(text) == {"discarded", "scores"}
    assert message in text
    assert "discarded.failed.ipynb" in text
    assert "logs/discarded.log" in text
    (checkout.lang / "trouble").unlink()
    status, text = checkout.run()
    assert status == 0, text
    assert checkout.steps_run(text) == {"report"} | ATLAS


@pytest.mark.parametrize(
    ("trouble", "attempts"), [("raise", 1), pytest.param("kill", 2, marks=pytest.mark.slow)]
)
def test_a_mistake_of_the_user_is_not_tried_again_and_a_killed_kernel_is(
    checkout: Checkout, trouble: str, attempts: int
) -> None:
    checkout.make_trouble(trouble)
    (checkout.root / "config.yaml").write_text("executor: local\nretries: 1\n")
    left = checkout.lang / "notebooks" / ".discarded.ipynb.a-node-far-away-17.ipynb"
    left.touch()
    status, text = checkout.run("--profile", ".")
    assert status == 1, text
    log = (checkout.lang / "logs" / "snakemake.log").read_text()
    assert log.count("Error in rule discarded:") == attempts
    assert ("Trying to restart" in log) is (attempts == 2)
    assert not left.exists()  # what a node left half-made goes with the next attempt


def test_second_language_finds_base_and_sft_done(finished: Checkout) -> None:
    status, text = finished.run("--dry-run", lang="qab")
    assert status == 0
    rows = [line for line in text.splitlines() if "up to date" in line]
    assert [row.split()[0] for row in rows] == ["base", "sft"]


def test_a_shared_step_needed_twice_at_once_is_made_once(tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "checkout")
    base = root / "notebooks" / "01_ct" / "00_base.ipynb"
    keys = "preset = 'nano'\nlang = 'en'\nseed = 0\nruns = 'runs'\nbase_lr = 0.003"
    note = "os.makedirs(paths.root, exist_ok=True)\nopen(paths.root / 'made', 'a').write('x')\ntime.sleep(2)"
    write_notebook(base, keys, SETUP, note, WRITE.format(folders="[paths.world, paths.base]"))
    commands = []
    for lang in ("qaa", "qab"):
        file = root / "runs" / "nano" / lang / "params.yaml"
        files.write_text(file, plan.as_yaml(load_study(ROOT / f"params/{lang}.yaml", "nano").model_dump()))
        commands.append([sys.executable, "-m", "lrnb", "exec", "base", "--study", str(file)])
    env = os.environ | {"PYTHONPATH": str(root)}
    running = [subprocess.Popen(command, env=env, cwd=root) for command in commands]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert (root / "runs" / "nano" / "made").read_text() == "x"


def test_second_run_in_one_folder_is_refused_and_a_killed_run_continues(checkout: Checkout) -> None:
    checkout.make_trouble("sleep")
    slow = checkout.start(warm=True)
    checkout.wait_asleep()
    status, text = checkout.run()
    assert status == 2
    assert f"process {slow.pid}" in text
    child = checkout.owner()["child"]
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    os.kill(child, 0)  # its Snakemake lives on
    (checkout.lang / "trouble").unlink()
    status, text = checkout.run()
    assert status == 0, text
    assert checkout.steps_run(text) == {"report"} | ATLAS
    assert gone(child)


def test_what_a_killed_run_left_is_known_by_its_command_and_nothing_else_is_ended(tmp_path: Path) -> None:
    """Not by when it was started: that moves when the clock is set."""
    sleeping = ["sh", "-c", "while :; do sleep 1; done"]
    processes = [subprocess.Popen([*sleeping, str(tmp_path)]), subprocess.Popen([*sleeping, "/elsewhere"])]
    for process in processes:
        runner.remember_child(tmp_path, process.pid, "local", tmp_path)
        runner.end_left_over(tmp_path)
    assert [gone(process.pid) for process in processes] == [True, False]
    processes[1].kill()


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(x, marks=pytest.mark.slow) for x in (signal.SIGINT, signal.SIGHUP))],
)
def test_interrupted_run_leaves_no_process_and_says_how_to_continue(checkout: Checkout, number: int) -> None:
    checkout.make_trouble("sleep")
    slow = checkout.start(warm=True)
    checkout.wait_asleep()
    family = psutil.Process(slow.pid).children(recursive=True)
    slow.send_signal(number)
    text, _ = slow.communicate(timeout=60)
    assert slow.returncode == 130
    assert "continues where it was" in text
    assert family
    assert all(gone(process.pid) for process in family)


@pytest.mark.slow
def test_a_run_goes_on_after_its_nursery_was_killed(checkout: Checkout) -> None:
    if not runner.can_be_warm(load_study(ROOT / "params" / "qaa.yaml", "nano"), ""):
        pytest.skip("a run has a nursery on Linux, where there is no GPU")
    checkout.make_trouble("sleep")
    slow = checkout.start(warm=True)
    checkout.wait_asleep()
    (checkout.lang / "trouble").unlink()
    children = psutil.Process(checkout.owner()["child"]).children()
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    (nursery,) = (child for child in living if "lrnb.pipeline.nursery" in child.cmdline())
    nursery.kill()
    text, _ = slow.communicate(timeout=120)
    assert slow.returncode == 0, text
    assert checkout.steps_run(text) == {"report"} | ATLAS
    assert checkout.outdated() == []


def test_folder_that_cannot_be_written_is_said_before_starting(checkout: Checkout) -> None:
    (checkout.root / "blocked").write_text("a file where a folder should be")
    status, text = checkout.run("--set", "runs=blocked")
    assert status == 2
    assert "cannot write here" in text


def test_full_disk_is_said_before_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", {"runs": str(tmp_path)})
    (tmp_path / "nano" / "qaa").mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(
        UserError, match=r"qaa: needs [\d,]{9,} bytes, the disk has [\d,]+ free\. Free space, or use"
    ):
        runner.require_disk([*graph.graph([study]).values()])


def test_a_run_asks_the_disk_for_the_steps_that_are_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", {"runs": str(tmp_path)})

    def asked(nodes: list[graph.Node]) -> None:
        raise UserError(",".join(node.name for node in nodes))

    monkeypatch.setattr(freshness, "outdated", lambda *_: dict.fromkeys(("failures", "report"), "why"))
    monkeypatch.setattr(runner, "require_disk", asked)
    with pytest.raises(UserError, match="^failures,report$"):
        runner.run_study(study)


@pytest.mark.parametrize(("options", "warm"), [([], 1), (["--no-warm"], 0)])
def test_a_run_has_a_nursery_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], warm: int
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(runner, "can_be_warm", lambda *_: True)
    monkeypatch.setattr(runner, "_watch", lambda _study, _board, command, *_: asked.extend(command))
    assert main(["run", str(ROOT / "params/qaa.yaml"), "--set", f"runs={tmp_path}", *options]) == 1
    assert f"warm={warm}" in asked


def test_disk_is_asked_for_what_is_still_to_be_written() -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", {"ct_budgets": [1024, 2048]})
    steps, model = plan.plan(study), 4 * estimate.parameters(study)
    small = estimate.disk_bytes(study, [steps["scores"]])
    written = {
        "base": 1,
        "sft": 2,  # the best so far, and the candidate in training
        "ct": 2,
        "cts_1k": 2,
        "average": 4,
        "ties": 2,
        "eval_merged": 0,
        "report": 0,
    }
    resume = {"ct": 6 * model}
    for name, models in written.items():
        asked = estimate.disk_bytes(study, [steps[name]]) - small
        assert asked == models * model + resume.get(name, 0), name
    packed = round(8.1 * 2048)
    assert estimate.disk_bytes(study, [steps["corpus"]]) == small + packed
    assert estimate.disk_bytes(study, steps.values()) == small + packed + 16 * model  # 14 that stay
    large = study.model_copy(update={"ct_budgets": [10**10]})  # and what an interrupted stage goes on from
    assert estimate.disk_bytes(large, [steps["corpus"]]) == small + round(8.1e10) + round(4.1e10)
    for given, models in {
        ("tuning_trials", 1): 14,
        ("keep", "all"): 22,  # and the resume points of CT
        ("keep", "scores"): 11,  # while CT trains: base, two of SFT, CT, resume points
    }.items():
        other = study.model_copy(update=dict([given]))
        found = estimate.disk_bytes(other, plan.plan(other).values())
        assert found == small + packed + models * model, given
    rest = study.model_copy(update={"methods": ["average", "slerp"], "search": {}})
    assert estimate.disk_bytes(rest, [plan.plan(rest)["slerp"]]) == small


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_of_a_folder_are_counted_in_its_headers(tmp_path: Path, dtype: str) -> None:
    model = pico_model().to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    values = {"base_source": str(tmp_path), "data_root": "data"}
    study = load_study(ROOT / "params" / "bn.yaml", "smol", values)
    assert estimate.parameters(study) == sum(p.numel() for p in model.parameters())


CT = plan.plan(load_study(ROOT / "params" / "qaa.yaml", "nano"))["ct"]


@pytest.mark.parametrize("job", [None, "17"])  # a box, an allocation of Slurm
def test_gpus_are_lent_one_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, job: str | None) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", job) if job else monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    with notebooks.gpu_slot(CT, study) as first, notebooks.gpu_slot(CT, study) as second:
        assert [first, second] == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3"}]
    with notebooks.gpu_slot(plan.plan(study)["corpus"], study) as none:
        assert none == {}
    (folder,) = tmp_path.iterdir()  # below the user's cache, not in a /tmp that others write too
    assert all(str(os.getuid()) in path.name for path in folder.iterdir())


def test_a_job_of_slurm_does_not_wait_for_the_gpu_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each has its own GPU, and calls it 0."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path))
    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with notebooks.gpu_slot(CT, study) as first:
        monkeypatch.setenv("SLURM_JOB_ID", "18")
        with notebooks.gpu_slot(CT, study) as second:
            assert first == second == {"CUDA_VISIBLE_DEVICES": "0"}


def test_a_step_that_trains_on_several_gpus_gets_all_or_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,4")
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path))
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", {"devices": 2})
    steps, entered = plan.plan(study), []
    assert [notebooks.devices_of(steps[name], study) for name in ("base", "ct", "sft")] == [1, 2, 2]

    def train() -> None:
        with notebooks.gpu_slot(steps["ct"], study) as gpus:
            entered.append(gpus["CUDA_VISIBLE_DEVICES"])

    with notebooks.gpu_slot(steps["base"], study), notebooks.gpu_slot(steps["eval_parents"], study):
        waiting = threading.Thread(target=train)
        waiting.start()
        time.sleep(0.5)
        with notebooks.gpu_slot(steps["average"], study) as third:  # which it does not keep while it waits
            assert third == {"CUDA_VISIBLE_DEVICES": "4"} and not entered
    waiting.join(10)
    assert entered in (["0,3"], ["0,4"], ["3,4"])


def test_snakemake_and_slurm_are_told_all_devices_of_a_step() -> None:
    values = {"devices": 4, "nodes": 2, "threads": 2}
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", values)
    steps = plan.plan(study)
    assert notebooks.resources_of(steps["ct"], study) == {"gpu": 8, "tasks": 0, "nodes": 2}
    assert notebooks.resources_of(steps["ties"], study) == {"gpu": 1, "tasks": 0}
    assert notebooks.resources_of(steps["corpus"], study) == {"gpu": 0, "tasks": 1}
    assert (notebooks.threads_of(steps["ct"], study), notebooks.threads_of(steps["ties"], study)) == (8, 2)


def test_a_step_that_waits_in_vain_for_something_else_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its error was taken for that of a busy GPU, and the step began again on the next one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))
    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    with pytest.raises(Timeout), notebooks.gpu_slot(CT, study):
        raise Timeout("a lock of the cache")
    with pytest.raises(Timeout), files.lock(tmp_path / "run"):
        raise Timeout("a lock of the cache")


# several languages


BOTH = "qaa qab"


@pytest.mark.slow
def test_several_languages_are_one_graph_in_which_base_and_sft_are_made_once(tmp_path: Path) -> None:
    checkout = Checkout(write_checkout(tmp_path / "check {out}"))
    status, text = checkout.run("--jobs", "3", lang=BOTH)
    assert status == 0, text
    own = {f"{lang}/{step}" for lang in BOTH.split() for step in ALL - {"base", "sft"}}
    assert checkout.steps_run(text) == own | {"shared/base", "shared/sft"}
    for lang in (BOTH, *BOTH.split()):
        status, text = checkout.run(lang=lang)
        assert status == 0
        assert "Nothing to do" in text, lang
    assert checkout.outdated("--set", "sft_lr=0.001", "--keep-code") != []


@pytest.mark.slow
def test_a_language_that_fails_leaves_the_others_whole(checkout: Checkout) -> None:
    checkout.make_trouble("raise")
    status, text = checkout.run(lang=BOTH)
    assert status == 1
    assert "✗ qaa/discarded" in text
    assert "the shares do not add up" in text
    assert "Not finished: qaa/discarded, qaa/signs, qaa/saturation, qaa/failures, qaa/report" in text
    assert (checkout.lang.with_name("qab") / "report.html").is_file()
    (checkout.lang / "trouble").unlink()
    status, text = checkout.run(lang=BOTH)
    assert status == 0, text
    assert checkout.steps_run(text) == {f"qaa/{step}" for step in {"report"} | ATLAS}


def two_studies(**given: object) -> list[Study]:
    return [load_study(ROOT / "params" / f"{lang}.yaml", "nano", given) for lang in BOTH.split()]


def test_seeds_of_several_languages_are_one_graph_in_which_each_seed_shares_its_own_base(
    tmp_path: Path,
) -> None:
    both = two_studies(runs=str(tmp_path))
    studies = [study.model_copy(update={"seed": seed}) for seed in (0, 1) for study in both]
    nodes = graph.graph(studies)
    assert len(nodes) == 2 * len(graph.graph(both))
    assert nodes["nano-seed1/qab/ct"].needs == ("nano-seed1/shared/base", "nano-seed1/qab/corpus")
    assert [nodes[f"{root}/shared/base"].place for root in ("nano", "nano-seed1")] == [0, 2]
    assert {*graph.outdated_nodes(studies, nodes)} == {*nodes}


def test_the_first_language_is_started_first() -> None:
    urgent = graph.priorities(graph.graph(two_studies()))
    later = max(value for name, value in urgent.items() if name.startswith("qab/"))
    assert later < min(value for name, value in urgent.items() if name.startswith("qaa/"))
    assert urgent["shared/base"] == max(urgent.values())


def test_what_is_shared_must_be_the_same_for_all() -> None:
    first, second = two_studies()
    other = second.model_copy(update={"sft_lr": 0.1})
    with pytest.raises(UserError, match=r"sft is shared by qaa and qab, .*\(sft_lr: 0.0005 and 0.1\)"):
        graph.graph([first, other])


def test_a_run_beside_another_is_held_against_all_its_languages(tmp_path: Path) -> None:
    first, second = two_studies(runs=str(tmp_path))
    folder = files.make_folder(RunPaths(first).lang)
    with runner.run_lock(folder), pytest.raises(UserError, match="qaa: another lrnb run is at work there"):
        runner.run_studies([second, first])
    assert not (RunPaths(second).lang / runner.OWNER).exists()


def test_needs_of_several_languages_count_what_they_share_once() -> None:
    studies = two_studies()
    one, whole = estimate.tokens(studies[0]), estimate._summed(studies)
    assert whole["base"] == one["base"]
    assert whole["ct"] == 2 * one["ct"]
    assert one["sft"] < whole["sft"] < 2 * one["sft"]
    asked = dict(estimate.describe(studies, []))
    assert "world_sums (qaa)" in asked["test tasks"] and "world_sums (qab)" in asked["test tasks"]


# what is shown while it runs


def board(
    folder: Path, study: Study | None = None, **states: tuple[str, float, float, dict]
) -> monitor.Board:
    """A board of steps with cost 10; each has a state, its start and last change (s ago), its progress."""
    now, study = time.time(), study or Study(runs=str(folder))
    home = RunPaths(study).lang
    for name, (state, started, last, progress) in states.items():
        facts = {"state": state, "started": now - started, "time": now - last, "error": ""}
        files.write_text(home / ".status" / f"{name}.json", json.dumps(facts))
        files.write_text(home / ".status" / f"{name}.progress.json", json.dumps(progress))
    steps = [
        plan.Step(name, plan.EVALUATE if name.startswith("eval") else "", home, (), cost=10)
        for name in (*states, "last")
    ]
    return monitor.Board([graph.Node(step.name, 0, study, step, ()) for step in steps], started=now - 1000)


def seconds_left(
    folder: Path, study: Study | None = None, **states: tuple[str, float, float, dict]
) -> object:
    minutes, seconds = board(folder, study, **states).left().split(":")
    return pytest.approx(60 * int(minutes) + int(seconds), abs=3)


def test_time_left_waits_for_the_first_step_to_say_something(tmp_path: Path) -> None:
    assert board(tmp_path, first=("running", 1000, 1000, {})).left() == "…"
    whole = {"done": 5, "total": 5, "rate": 1.0}  # a part of the step that is over says nothing of the rest
    assert board(tmp_path, first=("running", 1000, 1000, whole)).left() == "…"
    half = {"done": 50, "total": 100, "rate": 0.05}
    assert seconds_left(tmp_path, first=("running", 1000, 1000, half)) == 1000 + 2000


def test_time_left_is_weighed_by_cost_and_does_not_grow_with_a_slow_step(tmp_path: Path) -> None:
    done = ("done", 1000, 900, {})
    assert seconds_left(tmp_path, first=done, slow=("running", 30, 30, {})) == 70 + 100
    assert seconds_left(tmp_path, first=done, slow=("running", 900, 900, {})) == 100
    found_fresh = ("done", 1000, 999.9, {})
    assert board(tmp_path, first=found_fresh, slow=("running", 30, 30, {})).left() == "…"


def test_no_time_left_before_scoring_has_a_speed(tmp_path: Path) -> None:
    """Costs are those of preset nano, where scoring is short."""
    half, first = {"done": 50, "total": 100, "rate": 0.05}, {"done": 1, "total": 100, "rate": 0.1}
    study = Study(runs=str(tmp_path), preset="smol", lang="bn")
    states = {"ct": ("running", 1000, 1000, half), "eval_parents": ("running", 9, 9, {})}
    assert board(tmp_path, study, **states).left() == "…"
    assert board(tmp_path, study, ct=states["ct"]).left() != "…"  # nothing to be scored
    states["eval_parents"] = ("running", 9, 9, first)
    assert board(tmp_path, study, **states).left() != "…"


def test_a_step_that_a_cluster_has_not_begun_is_queued(tmp_path: Path) -> None:
    """Whatever an older attempt said counts less than what the step itself says."""
    shown = board(tmp_path, first=("running", 5, 5, {}))
    console = Console(file=io.StringIO(), width=80)
    lines = monitor.Lines(shown, console)
    lines.changes()
    shown.queued = {"first", "last"}
    lines.changes()
    assert shown.states() == {"first": "running", "last": "queued"}
    assert [line.split("] ")[1] for line in console.file.getvalue().splitlines()] == [
        "first: running",
        "last: queued",
    ]
    console.print(monitor.table(shown))
    assert "· last in the cluster's queue" in " ".join(console.file.getvalue().split())


def test_slow_rates_keep_a_decimal() -> None:
    progress = {"stage": "ct", "done": 8, "total": 16, "unit": "rows", "rate": 0.8}
    assert monitor.progress_line(progress) == "ct: 8 of 16 rows, 0.8/s, 0:10 left"
    assert monitor.progress_line(progress | {"rate": 12_345.0}).startswith("ct: 8 of 16 rows, 12.3k/s")
    assert monitor.progress_line(progress | {"total": 0}) == "ct: 8 rows, 0.8/s"
