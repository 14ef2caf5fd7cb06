"""The command line: help at once, messages instead of tracebacks, what it passes on, what it prints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import save_pico

from lrnb import atlas, cli, conflicts, estimate, tables
from lrnb.params import PRESETS, ROOT, load_study

LANGUAGES = ("ta", "te", "or", "bn", "bo", "ug", "mn")
NONE = ("released", "or")  # the authors released no weights for Odia
DATA = ("--set", "data_root=anywhere")


def run(*arguments: str) -> int:
    return cli.main([str(a) for a in arguments])


def test_help_takes_a_fraction_of_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "lrnb", "--help"], capture_output=True, text=True, cwd=ROOT
        )
        seconds.append(time.perf_counter() - start)
    assert all(
        name in done.stdout for name in ("run", "merge", "evaluate", "conflicts", "report", "lab", "exec")
    )
    assert min(seconds) < 1


def test_help_of_run_names_every_preset(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("run", "--help")
    help_text = capsys.readouterr().out
    assert all(preset in help_text for preset in PRESETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "params/qaa.yaml", "--set", "ct_lrr=1"], "did you mean 'ct_lr'"),
        (["run", "params/qaa.yaml", "--set", "ct_lr=fast"], "ct_lr"),
        (["run", "params/qaa.yaml", "--set", "ct_lr"], "expected key=value"),
        (["run", "params/qaa.yaml", "--preset", "nanoo"], "did you mean 'nano'"),
        (["run", "params/xx.yaml"], "no such file"),
        (["run", "params/bn.yaml", "--preset", "smol", "--set", "data_root=nowhere"], "nowhere"),
        (["run", "params/bn.yaml"], "qaa"),
        (["run", "params/qaa.yaml", "--set", "hub_dataset_en=x", "--set", "sft_mixx=1"], "sft_mix"),
        (["run", "params/qaa.yaml", "--set", "released_ct=x"], "no notebook of this study reads it"),
        (["run", "params/qaa.yaml", "--seeds", "2", "--seed", "1"], "--seeds"),
        (["run", "params/qaa.yaml", "--profile", "sluurm", "--set", "runs={tmp}"], "slurm"),
        (["run", "params/or.yaml", "--preset", "released"], "no CT weights for Odia"),
        (["run", "params/qaa.yaml", "--set", "tasks=[world_topick]"], "did you mean 'world_topic'"),
        (
            ["evaluate", "{tmp}", "--tasks", "topic", "--lang", "bn", "--data-root", "{tmp}/no"],
            "is no folder",
        ),
        (
            ["evaluate", "{tmp}", "--tasks", "x.yaml", "--lang", "bn", "--data-root", "{tmp}"],
            "x.yaml does not",
        ),
        (["evaluate", "{tmp}", "--tasks", " topik ", "--lang", "bn", "--data-root", "{tmp}"], "task 'topik'"),
        (
            ["evaluate", "{tmp}", "--tasks", "topic", "--lang", "bn", "--data-root", "{tmp}", "--limit", "0"],
            "limit 0 is out of range",
        ),
        (["report", "{tmp}/none"], "no such run folder"),
        (
            ["merge", "ties", "--base", "b", "--model", "ct", "--out", "o", "--density", "1"],
            "expected NAME=DIR",
        ),
        (["merge", "ties", "--base", "b", "--model", "ct=c", "--out", "o"], "needs --density"),
        (["conflicts", "--base", "b", "--model", "ct=c"], "needs --model ct=DIR and --model sft=DIR"),
        (["exec", "{tmp}/none.ipynb"], "no such notebook"),
        (["exec", "notebooks/01_ct/02_ct.ipynb", "-p", "ct_lrr=1"], "unknown parameter 'ct_lrr'"),
        (["exec", "ctt", "--study", "{tmp}/params.yaml"], "no such file"),
    ],
)
def test_mistakes_get_a_message_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(*(a.replace("{tmp}", str(tmp_path)) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert message.lower() in error.lower()
    assert "Traceback" not in error


def test_debug_shows_the_traceback() -> None:
    from lrnb.params import UserError

    with pytest.raises(UserError):
        run("--debug", "run", "params/none.yaml")


def test_paths_count_from_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(ROOT / "params" / "bn.yaml", "smol", {"data_root": "data", "runs": "runs"})
    monkeypatch.chdir(tmp_path)
    assert cli.anchor(study).data_root == str(tmp_path / "data")
    assert cli.anchor(study).runs == str(tmp_path / "runs")
    monkeypatch.chdir(ROOT)
    assert cli.anchor(study).data_root == "data"


@pytest.mark.parametrize(
    ("preset", "lang"),
    [
        (preset, lang)
        for preset in ("smol", "paper", "released")
        for lang in LANGUAGES
        if (preset, lang) != NONE
    ],
)
def test_dry_run_of_every_language_resolves(
    lang: str, preset: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    file, elsewhere = ROOT / "params" / f"{lang}.yaml", ("--set", f"runs={tmp_path}")
    assert run("run", file, "--preset", preset, "--dry-run", *DATA, *elsewhere) == 0
    text = capsys.readouterr().out
    for label in ("base:", "test tasks:", "parameters:", "disk:", "memory:", "time:"):
        assert label in text
    study = load_study(file, preset)
    named = {"smol": study.base_source, "paper": study.hub_dataset, "released": study.released_ct}
    assert named[preset]
    assert named[preset] in text


def test_dry_run_computes_and_writes_nothing(tmp_path: Path) -> None:
    assert run("run", ROOT / "params" / "qaa.yaml", "--dry-run", "--set", f"runs={tmp_path}/r") == 0
    assert not (tmp_path / "r").exists()


def test_estimate_follows_the_formula() -> None:
    study = load_study(ROOT / "params" / "bn.yaml", "paper")
    n, counts = estimate.parameters(study), estimate.tokens(study)
    assert n == 7_000_000_000
    assert counts["ct"] == study.ct_budgets[-1]
    trained = 6 * n * (counts["ct"] + counts["sft"]) + 2 * n * counts["scoring"]
    assert estimate.hours(study, 1e15) == pytest.approx(trained / 1e15 / 3600)
    assert estimate.disk_bytes(study) > 20 * 4 * n
    assert load_study(ROOT / "params" / "bn.yaml", "released").ct_budgets
    released = load_study(ROOT / "params" / "bn.yaml", "released")
    assert estimate.tokens(released)["ct"] == 0


def test_size_of_the_scratch_model_is_near_the_real_one() -> None:
    from lrnb.base import scratch_model

    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    shape = {"width": study.base_width, "layers": study.base_layers, "heads": study.base_heads}
    model = scratch_model(vocab_size=262, **shape)
    real = sum(p.numel() for p in model.parameters())
    assert estimate.parameters(study) == pytest.approx(real, rel=0.1)


def test_merge_and_conflicts_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    base, ct, sft = (save_pico(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "ct", "sft")))
    models = ["--base", base, "--model", f"ct={ct}", "--model", f"sft={sft}"]
    options = ["--density", "0.5", "--slack", "0.2", "--out", tmp_path / "out"]
    assert run("merge", "ties_sv", *models, *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["reserved"] > 0
    assert {"config.json", "manifest.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_an_atlas_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    base, ct, sft = (save_pico(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "ct", "sft")))
    models, out = ["--base", base, "--model", f"ct={ct}", "--model", f"sft={sft}"], tmp_path / "atlas"
    options = ["--density", "ct=0.2", "--density", "sft=0.6", "--weight", "ct=0.5", "--slack", "0.3"]
    assert run("conflicts", *models, *options, "--out", out) == 0
    assert "sft discarded, % of its kept" in capsys.readouterr().out
    made = atlas.load(out)
    wanted = conflicts.shares(
        base, ct, sft, density={"ct": 0.2, "sft": 0.6}, weights={"ct": 0.5, "sft": 1.0}, slack=0.3
    )
    assert made.exact("model")["reserved"].sum() == wanted["reserved"].iloc[-1] > 0
    assert run("conflicts", *models, *options, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["trim_scope_model"]["sft_discarded"] == wanted["sft_discarded"].iloc[-1]
    assert run("conflicts", *models, "--out", out) == 0  # an atlas is replaced
    same = ["--base", base, "--model", f"ct={base}", "--model", f"sft={sft}"]
    for extra in ([], ["--json"]):
        capsys.readouterr()
        assert run("conflicts", *same, *extra) == 0  # nothing is lost to a parent that equals the base
    assert json.loads(capsys.readouterr().out)["cosine"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--density", "0"], "density must be above 0"),
        (["--density", "ct=0.5"], "--density by name: give it for both"),
        (["--density", "x=0.5"], "expected NAME=NUMBER with NAME one of ct, sft"),
        (["--slack", "2"], "slack must lie in"),
        (["--slack", "0.1", "--slack-threshold", "1"], "one of --slack and --slack-threshold"),
        (["--threads", "-1"], "--threads -1: give a number"),
        (["--out", "."], "exists and is no atlas"),
    ],
)
def test_conflicts_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture, options: list, message: str
) -> None:
    base = save_pico(tmp_path / "base")
    models = ["--base", base, "--model", f"ct={base}", "--model", f"sft={base}"]
    given = [str(tmp_path) if option == "." else option for option in options]
    assert run("conflicts", *models, *given) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def scores_of(folder: Path, shift: float) -> None:
    rows = [("base", 0, "mean", 25.0), ("ties", 1000, "mean", 40.0), ("ties", 1000, "topic", 50.0)]
    frame = pd.DataFrame(rows, columns=["method", "ct_tokens", "task", "value"])
    (folder / "scores").mkdir(parents=True)
    frame = frame.assign(value=frame["value"] + shift, ci_low=30.0, ci_high=90.0, chance=25.0)
    frame.to_csv(folder / "scores" / "scores.csv", index=False)
    (folder / "conflicts").mkdir()
    shares = {"tensor": ["(model)", "a"], "setting": "fixed", "ct_tokens": 1000, "density": 0.5}
    shares |= {"sft_discarded": [10 + shift, 1], "sft_kept": [100, 10]}
    pd.DataFrame(shares).to_csv(folder / "conflicts" / "shares.csv", index=False)


def test_table_over_seeds_is_mean_and_spread(tmp_path: Path) -> None:
    folders = [tmp_path / str(k) for k in range(3)]
    for k, folder in enumerate(folders):
        scores_of(folder, shift=float(k))
    table = tables.seeds_table(folders).set_index(["method", "task"])
    assert table.loc[("ties", "mean"), ["seeds", "mean", "sd", "min", "max"]].tolist() == [3, 41, 1, 40, 42]
    assert table.loc[("ties, density 0.5", "sft_discarded_share"), "mean"] == pytest.approx(11)


def test_results_are_printed_with_the_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", {"runs": str(tmp_path)})
    scores_of(tmp_path / "nano" / "qaa", shift=0)
    (tmp_path / "nano" / "qaa" / "report.html").write_text("")
    tables.print_results(study)
    text = capsys.readouterr().out
    assert "40.0" in text
    assert "50.0" in text
    assert text.rstrip().endswith("report.html")


def test_one_task_stands_for_itself_in_the_table() -> None:
    rows = [("base", 0, 25.0, 20.0, 30.0), ("ties", 1000, 40.0, 35.0, 45.0)]
    scores = pd.DataFrame(rows, columns=["method", "ct_tokens", "value", "ci_low", "ci_high"])
    table = tables.by_model(scores.assign(task="topic", chance=20.0))
    assert list(table.columns) == ["method", "CT tokens", "topic", "95%"]
    assert table["95%"].tolist() == ["20–30", "35–45", ""]
    assert table["topic"].tolist() == ["25.0°", "40.0", "20.0"]  # the first is not above chance
    assert table["method"].tolist() == ["base", "ties", "chance"]


def test_lab_starts_at_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(cli.os, "execv", lambda _, command: started.append(command))
    run("lab", "--no-browser")
    assert started[0][1:] == ["-m", "jupyterlab", "notebooks/00_start_here.ipynb", "--no-browser"]
    assert (ROOT / started[0][3]).is_file()
    assert shutil.which("jupyter-lab", path=str(Path(sys.executable).parent))
