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
from support import made_languages, made_run
from support.pico import save_pico

from lrnb.analysis import pool, seeds
from lrnb.cli import main
from lrnb.conflicts import atlas
from lrnb.conflicts import counts as conflicts
from lrnb.pipeline import estimate, runner, steps
from lrnb.report import terminal
from lrnb.study.parameters import PRESETS, ROOT, Study, load_study
from lrnb.study.stages import RunPaths

LANGUAGES = ("ta", "te", "or", "bn", "bo", "ug", "mn")
NONE = ("released", "or")  # the authors released no weights for Odia
DATA = ("--set", "data_root=anywhere")


def run(*arguments: str) -> int:
    return main.main([str(a) for a in arguments])


def test_help_takes_a_fraction_of_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "lrnb", "--help"], capture_output=True, text=True, cwd=ROOT
        )
        seconds.append(time.perf_counter() - start)
    assert all(
        name in done.stdout
        for name in ("run", "merge", "evaluate", "compare", "conflicts", "report", "lab", "exec")
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
        (["check", "bn"], "bn: no such file; did you mean params/bn.yaml?"),
        (["run", "params/bn"], "params/bn: no such file; did you mean params/bn.yaml?"),
        (["check", "xx"], "xx: no such file. Found in params/: all, bn,"),
        (["run", "params/bn.yaml", "--preset", "smol", "--set", "data_root=nowhere"], "nowhere"),
        (["run", "params/bn.yaml", "--preset", "nano"], "qaa"),
        (["run", "params/qaa.yaml", "--set", "hub_dataset_en=x", "--set", "sft_mixx=1"], "sft_mix"),
        (["run", "params/qaa.yaml", "--set", "released_ct=x"], "no notebook of this study reads it"),
        (["run", "params/qaa.yaml", "--seeds", "2", "--seed", "1"], "--seeds"),
        (["run", "params/qaa.yaml", "--seeds", "0"], "at least 1"),
        (["run", "params/qaa.yaml", "--seeds", "8-"], "0-31"),
        (["run", "params/qaa.yaml", "--seeds", "8-3"], "did you mean 3-8"),
        (["run", "params/qaa.yaml", "--pool", "{tmp}"], "--pool needs --seeds or --seed"),
        (["run", "params/qaa.yaml", "--profile", "sluurm", "--set", "runs={tmp}"], "slurm"),
        (["run", "params/or.yaml", "--preset", "released"], "no CT weights for Odia"),
        (["run", "params/qaa.yaml", "--set", "tasks=[world_topick]"], "did you mean 'world_topic'"),
        (
            ["evaluate", "{tmp}", "--tasks", "topic", "--lang", "bn", "--data-root", "{tmp}/no"],
            "is no folder",
        ),
        (
            ["evaluate", "{tmp}", "--tasks", "x.yaml", "--lang", "bn", "--data-root", "{tmp}"],
            "x.yaml cannot be read",
        ),
        (["evaluate", "{tmp}", "--tasks", " topik ", "--lang", "bn", "--data-root", "{tmp}"], "task 'topik'"),
        (
            ["evaluate", "{tmp}", "--tasks", "topic", "--lang", "bn", "--data-root", "{tmp}", "--limit", "0"],
            "limit 0 is out of range",
        ),
        (["report", "{tmp}/none"], "no such run folder"),
        (["merge", "ties", "--base", "b", "--model", "ct=c", "--out", "o"], "needs --density"),
        (["conflicts", "--base", "b", "--model", "ct=c"], "needs two models or more, such as --model ct=DIR"),
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
    from lrnb.errors import UserError

    with pytest.raises(UserError):
        run("--debug", "run", "params/none.yaml")


def test_paths_count_from_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"tasks": ["topic", "own.yaml"], "tasks_en": ["own.yaml"], "sft_mix": {"own.yaml": 3}}
    study = load_study(ROOT / "params" / "bn.yaml", "smol", given | {"data_root": "data", "runs": "runs"})
    monkeypatch.chdir(tmp_path)
    assert main.anchor(study).compared == ["topic", f"{tmp_path}/own.yaml", f"{tmp_path}/own.yaml_en"]
    assert main.anchor(study).sft_mix == {f"{tmp_path}/own.yaml": 3}
    assert main.anchor(study).data_root == str(tmp_path / "data")
    assert main.anchor(study).runs == str(tmp_path / "runs")
    monkeypatch.chdir(ROOT)
    assert main.anchor(study).data_root == "data"


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
    assert run("run", file, "--preset", preset, "--dry-run", *DATA, *elsewhere) == 2
    text, told = capsys.readouterr()
    assert "data_root anywhere: no folder eval/ in it" in told
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
    assert n == 6_738_415_616
    assert counts["ct"] == study.ct_budgets[-1]
    trained = 8 * n * (counts["ct"] + counts["sft"]) + 2 * n * counts["scoring"]  # and activations again
    assert estimate.hours([study], 1e15) == pytest.approx(trained / 1e15 / 3600)
    kept = [study.model_copy(update={"keep": keep}) for keep in ("scores", "chosen", "all")]
    models = [estimate.disk_bytes(one, steps.plan(one).values()) / (4 * n) for one in kept]
    assert study.keep == "scores"
    assert models == pytest.approx(
        [15, 15 + 4 * 3 - 1, 15 + 4 * 3 - 1 + 6], abs=1
    )  # four methods, three budgets
    examples = (sum(study.sft_mix.values()) + study.sft_rows) * 256
    assert counts["sft"] == examples * (3 + 3 * 2) * (
        1 + len(study.ct_budgets)
    )  # rates, then twice the epochs
    once = estimate.tokens(study.model_copy(update={"tuning_trials": 1}))
    assert once["sft"] == counts["sft"] / 9
    assert once["scoring"] < counts["scoring"]
    assert load_study(ROOT / "params" / "bn.yaml", "released").ct_budgets
    released = load_study(ROOT / "params" / "bn.yaml", "released")
    assert estimate.tokens(released)["ct"] == estimate.tokens(released)["sft"] == 0


def test_size_of_the_scratch_model_is_near_the_real_one() -> None:
    from lrnb.data.microworld import make_world, vocabulary
    from lrnb.training.base import scratch_model

    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    shape = {"width": study.base_width, "layers": study.base_layers, "heads": study.base_heads}
    model = scratch_model(vocab_size=len(vocabulary(make_world())), **shape)
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
        base, {"ct": ct, "sft": sft}, density={"ct": 0.2, "sft": 0.6}, weights={"ct": 0.5}, slack=0.3
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


def test_conflicts_of_three_parents(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = ("base", "a", "b", "code")
    base, *parents = (save_pico(tmp_path / name, seed=seed) for seed, name in enumerate(names))
    models = [word for name, x in zip(names[1:], parents, strict=True) for word in ("--model", f"{name}={x}")]
    options = ["--slack", "0.3", "--protect", "code", "--out", tmp_path / "atlas"]
    assert run("conflicts", "--base", base, *models, *options) == 0
    assert "code discarded" in capsys.readouterr().out
    made = atlas.load(tmp_path / "atlas")
    assert (made.parents, made.protect) == (["a", "b", "code"], "code")
    assert run("conflicts", "--base", base, *models[:2]) == 2
    assert "conflicts needs two models" in capsys.readouterr().err
    assert run("conflicts", "--base", base, *models[:4]) == 0  # without slack nobody is protected
    assert "a discarded, % of its kept" in capsys.readouterr().out
    assert run("conflicts", "--base", base, *models[:4], "--slack", "0.1") == 2
    assert "--protect: no parent is called 'sft'; give one of a, b" in capsys.readouterr().err


def test_a_misspelt_option_is_told_with_the_nearest_one(capsys: pytest.CaptureFixture) -> None:
    for given, near in ((["merge", "ties", "--densty", "2", "--out", "o"], "--density"),
                        (["run", "params/qaa.yaml", "--dryrun"], "--dry-run")):  # fmt: skip
        with pytest.raises(SystemExit, match="2"):
            run(*given)
        told = capsys.readouterr().err
        assert told.startswith(f"usage: lrnb {given[0]}") and told.endswith(f"; did you mean {near}?\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--density", "0"], "conflicts: --density must lie in (0, 1]"),
        (["--density", "ct=0.5"], "--density: give it for sft too"),
        (["--density", "x=0.5"], "--density: give it for ct, sft too"),
        (["--slack", "2"], "--slack must lie in [0, 1]"),
        (
            ["--slack", "0.1", "--slack-threshold", "1"],
            "one of --slack (a share) and --slack-threshold",
        ),
        (["--threads", "-1"], "threads must be 0 (all cores) or more"),
        (["--protect", "code"], "protect: no parent is called 'code'; give one of ct, sft"),
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
    items = frame[["method", "ct_tokens"]].assign(task="topic", item=0, correct=True).drop_duplicates()
    items.assign(model=items["method"]).to_parquet(folder / "scores" / "items.parquet")
    (folder / "conflicts").mkdir()
    shares = {"tensor": ["(model)", "a"], "setting": "fixed", "ct_tokens": 1000, "density": 0.5}
    shares |= {"sft_discarded": [10 + shift, 1], "sft_kept": [100, 10]}
    pd.DataFrame(shares).to_csv(folder / "conflicts" / "shares.csv", index=False)


def test_table_over_seeds_is_mean_and_spread(tmp_path: Path) -> None:
    folders = [tmp_path / str(k) for k in range(3)]
    for k, folder in enumerate(folders):
        scores_of(folder, shift=float(k))
    table = seeds.seeds_table(folders).set_index(["method", "task"])
    assert table.loc[("ties", "mean"), ["seeds", "mean", "sd", "min", "max"]].tolist() == [3, 41, 1, 40, 42]
    assert table.loc[("ties, density 0.5", "sft_discarded_share"), "mean"] == pytest.approx(11)


def test_results_are_printed_with_the_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano", {"runs": str(tmp_path)})
    scores_of(tmp_path / "nano" / "qaa", shift=0)
    (tmp_path / "nano" / "qaa" / "report.html").write_text("")
    terminal.print_results(study)
    text = capsys.readouterr().out
    assert "40.0" in text
    assert "50.0" in text
    assert text.rstrip().endswith("report.html")


def test_one_task_stands_for_itself_in_the_table() -> None:
    rows = [("base", 0, 25.0, 20.0, 30.0), ("ties", 1000, 40.0, 35.0, 45.0)]
    scores = pd.DataFrame(rows, columns=["method", "ct_tokens", "value", "ci_low", "ci_high"])
    table = terminal.by_model(scores.assign(task="topic", chance=20.0))
    assert list(table.columns) == ["method", "CT tokens", "topic", "95%\nitems only"]
    assert table["95%\nitems only"].tolist() == ["20–30", "35–45", ""]
    assert table["topic"].tolist() == ["25.0°", "40.0", "20.0"]  # the first is not above chance
    assert table["method"].tolist() == ["base", "ties", "chance"]


def test_lab_starts_at_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(main.os, "execv", lambda _, command: started.append(command))
    run("lab", "--no-browser")
    assert started[0][1:] == ["-m", "jupyterlab", "notebooks/00_start_here.ipynb", "--no-browser"]
    assert (ROOT / started[0][3]).is_file()
    assert shutil.which("jupyter-lab", path=str(Path(sys.executable).parent))


def test_seeds_are_a_number_or_a_range() -> None:
    assert [*main.parse_seeds("3")] == [0, 1, 2]
    assert [*main.parse_seeds("3-5")] == [3, 4, 5]
    assert [*main.parse_seeds("0-0")] == [0]


@pytest.fixture
def seeds_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that `lrnb run` made: it copies a made run in place of making one; seed 9 fails."""
    made, ran = made_run.write_made_run(tmp_path / "made", n=20), []

    def run_studies(studies: list[Study], **_: object) -> list[str]:
        (study,) = studies
        ran.append(study.seed)
        shutil.copytree(made.parent, RunPaths(study).root, dirs_exist_ok=True)
        return ["ct"] if study.seed == 9 else []

    def load_study(*given: object) -> Study:
        changes = dict(given[2]) | {"seed": given[3] or 0}
        return made_run.made_study(tmp_path / "runs").model_copy(update=changes)

    monkeypatch.setattr(runner, "run_studies", run_studies)
    monkeypatch.setattr("lrnb.study.parameters.load_study", load_study)
    monkeypatch.setattr("lrnb.tasks.loading.require_known", lambda names: None)
    monkeypatch.setattr(main, "instruction_set", lambda: "avx512")
    monkeypatch.setattr("lrnb.pipeline.notebooks.visible_gpus", list)
    return ran


def test_several_languages_end_with_a_table_and_the_page_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def run_studies(studies: list[Study], **_: object) -> list[str]:
        assert [study.lang for study in studies] == ["qaa", "qab", "qac"]
        made_languages.write_made_languages(tmp_path / "runs", seeds=(0,), n=20)
        return ["qac/saturation", "qac/report"]

    monkeypatch.setattr(runner, "run_studies", run_studies)
    files = [str(ROOT / "params" / f"{lang}.yaml") for lang in ("qaa", "qab", "qac")]
    assert run("run", *files, "--set", f"runs={tmp_path / 'runs'}", "--set", "world_languages=3") == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "3 languages, 1 seed: merge minus CT-then-SFT, points" in told
    assert f"all languages: {tmp_path / 'runs' / 'nano.html'}" in told
    assert (tmp_path / "runs" / "nano.html").is_file()


@pytest.mark.parametrize(("profile", "steps"), [("slurm", 68), ("local", 34)])
def test_on_a_cluster_languages_and_seeds_are_one_graph(
    profile: str, steps: int, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    files = [str(ROOT / "params" / f"{lang}.yaml") for lang in ("qaa", "qab")]
    asked = ["--seeds", "2", "--profile", profile, "--dry-run", "--set", f"runs={tmp_path}"]
    assert run("run", *files, *asked) == 0
    told = capsys.readouterr().out
    assert f"nano / qaa, qab: {steps} of {steps} steps to run" in told
    assert ("nano-seed1/qab/report" in told) is (profile == "slurm")
    assert ("seeds 0, 1, one after the other" in told) is (profile == "local")
    assert "no finished run" in told
    jobs = [line.split() for line in told.partition("what each job asks for")[2].splitlines()[2:]]
    assert len(jobs) == (steps if profile == "slurm" else 0)
    ct = ["nano/qaa/ct", "gpu", "1", "128000", "2880", "8", "slurm_partition=gpu"]
    assert (ct in jobs) is (profile == "slurm")


def test_a_pool_grows_seed_by_seed_and_goes_on_where_it_was(
    seeds_made: list[int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["run", "params/qaa.yaml", "--pool", str(tmp_path / "pool"), "--seeds"]
    assert run(*command, "8-9") == 1
    assert [line["seed"] for line in pool.read_pool(tmp_path / "pool" / "nano-qaa.jsonl")] == [8]
    assert run(*command, "7-8") == 0
    assert seeds_made == [8, 9, 7]
    assert "has 1 of these 2 seeds on avx512" in capsys.readouterr().out
    assert run(*command, "7-8") == 0 and seeds_made == [8, 9, 7]
    assert "2 seeds on avx512: merge" in " ".join(capsys.readouterr().out.split())
    assert run(*command, "4", "--set", "ct_lr=0.5") == 2
    assert "ct_lr (0.5 here" in capsys.readouterr().err and seeds_made == [8, 9, 7]
