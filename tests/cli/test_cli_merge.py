"""The merge command: options to arguments, refusals before anything is opened, what it prints and writes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.reference import assert_same_bits, save_folder

from lrnb.checkpoints.reading import open_checkpoint
from lrnb.cli import main, merge
from lrnb.merging.whole_models import merge_checkpoints
from lrnb.study.parameters import ROOT

pytestmark = pytest.mark.usefixtures("bare_tensors")

NOWHERE = ("--base", "b", "--model", "ct=c", "--model", "sft=s")
CONFIG = """
merge_method: ties
base_model: base
models:
  - {model: ct, parameters: {weight: 1, density: 0.5}}
  - {model: sft, parameters: {weight: 2, density: 0.5}}
parameters: {int8_mask: true}
"""


def run(*arguments: object) -> int:
    return main.main(["merge", *map(str, arguments)])


def arguments(*given: object) -> dict[str, Any]:
    parsed = main.parser().parse_args(["merge", *map(str, given), "--out", "o"])
    found = merge.arguments_of(parsed)
    assert found.pop("out") == "o"
    return found


@pytest.fixture
def pico(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with base, ct and sft of 112 entries and CONFIG as recipe.yaml."""
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (8, 10), "b.weight": (32,)}
    base = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_folder(tmp_path / "base", base)
    for name in ("ct", "sft"):
        steps = {key: rng.normal(size=x.shape).astype(np.float32) for key, x in base.items()}
        save_folder(tmp_path / name, {key: base[key] + steps[key] / 10 for key in base})
        (tmp_path / name / "tokenizer.json").write_text(json.dumps({"of": name}))
    (tmp_path / "recipe.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODELS = ("--base", "base", "--model", "ct=ct", "--model", "sft=sft")
BOTH = {"ct": "ct", "sft": "sft"}


# options to arguments


def test_nothing_is_passed_that_was_not_given() -> None:
    wanted = {"method": "average", "base": "b", "models": {"ct": "c", "sft": "s"}}
    assert arguments("average", *NOWHERE) == wanted
    wanted |= {"method": "task_arithmetic"}
    for spelt in ("task-arithmetic", "task_arithmetic"):
        assert arguments(spelt, *NOWHERE) == wanted


def test_every_option_of_ties_sv_arrives() -> None:
    given = (
        "--density 0.5 --density sft=0.3 --lam 0.8 --weight ct=2 --slack-threshold 1e-3 --protect ct".split()
    )
    given += "--trim-scope tensor --at-threshold exact --zero-sign positive --no-normalize".split()
    given += "--dtype float16 --device cpu --threads 2 --tokenizer sft --force".split()
    assert arguments("ties-sv", *NOWHERE, *given) == {
        "method": "ties_sv",
        "base": "b",
        "models": {"ct": "c", "sft": "s"},
        "density": {"ct": 0.5, "sft": 0.3},
        "lam": 0.8,
        "weights": {"ct": 2.0},
        "slack_threshold": 1e-3,
        "protect": "ct",
        "trim_scope": "tensor",
        "at_threshold": "exact",
        "zero_sign": "positive",
        "normalize": False,
        "dtype": "float16",
        "device": "cpu",
        "threads": 2,
        "tokenizer": "sft",
        "force": True,
    }


def test_lam_by_parent_is_for_task_arithmetic() -> None:
    found = arguments("task-arithmetic", *NOWHERE, "--lam", "ct=0.5", "--lam", "sft=-1", "--normalize")
    assert found["lam"] == {"ct": 0.5, "sft": -1.0}
    assert found["normalize"] is True
    assert arguments("average", *NOWHERE, "--alpha", "0.4")["alpha"] == 0.4


def test_a_hub_id_and_an_equals_sign_in_a_folder_are_kept() -> None:
    found = arguments("average", "--base", "owner/base", "--model", "ct=runs/x=1", "--model", "sft=owner/s")
    assert (found["base"], found["models"]) == ("owner/base", {"ct": "runs/x=1", "sft": "owner/s"})


def test_a_configuration_with_options_over_it(pico: Path, capsys: pytest.CaptureFixture) -> None:
    wanted = {"method": "ties", "base": "base", "models": BOTH}
    wanted |= {"weights": {"ct": 1.0, "sft": 2.0}, "density": {"ct": 0.5, "sft": 0.5}}
    mergekits = {"trim_scope": "tensor", "at_threshold": "exact", "zero_sign": "positive"}
    assert arguments("recipe.yaml") == wanted | mergekits
    assert capsys.readouterr().err == "lrnb: recipe.yaml: int8_mask is ignored: it changes no result\n"
    ours = {"trim_scope": "model", "at_threshold": "keep-all", "zero_sign": "majority"}
    given = "--trim-scope model --at-threshold keep-all --zero-sign majority".split()
    more = {"dtype": "bfloat16", "device": "cpu", "threads": 0, "tokenizer": "ct", "force": True}
    given += "--dtype bfloat16 --device cpu --threads 0 --tokenizer ct --force".split()
    assert arguments("recipe.yaml", *given) == wanted | ours | more


def test_a_file_is_a_configuration_unless_it_is_called_like_a_method(pico: Path) -> None:
    (pico / "recipe").write_text(CONFIG)
    assert arguments("recipe")["base"] == "base"
    (pico / "average").write_text(CONFIG)
    assert arguments("average", *NOWHERE)["base"] == "b"


# refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tise {models}", "unknown merge method 'tise'; methods are average, "),
        ("none.yaml", "none.yaml: cannot be read as YAML: [Errno 2] No such file"),
        ("average {models} --density 0.5", "merge average has no --density; its options are --alpha, --norm"),
        ("average {models} --trim-scope model", "merge average has no --trim-scope"),
        (
            "task-arithmetic {models} --weight ct=1",
            "merge task-arithmetic has no --weight; its options are --e",
        ),
        ("ties {models} --density 1 --slack 0.1", "merge ties has no --slack"),
        ("ties {models} --density 1 --alpha 1", "merge ties has no --alpha"),
        ("ties {models} --density 1 --protect ct", "merge ties has no --protect"),
        ("ties {models}", "merge ties needs --density, the share of entries kept"),
        (
            "ties {models} --density ct=0.5",
            "lrnb: --density: give it for sft too, or one number for all",
        ),
        ("ties {models} --density it=0.5", "lrnb: --density: give it for ct, sft too"),
        ("ties {models} --density 0.5 --density 0.6", "--density 0.6: given twice; keep one"),
        ("ties {models} --density ct=1 --density ct=1", "--density ct: given twice; keep one"),
        ("ties {models} --density half", "argument --density: invalid number value: 'half'"),
        ("ties {models} --density 1 --lam ct=1", "merge ties: --lam: expected a number, got {'ct': 1.0}"),
        ("ties {models} --density 1 --weight 2", "argument --weight: 2: expected NAME=N"),
        (
            "ties-sv {models} --density 1",
            "merge ties-sv needs one of --slack (a share) and --slack-threshold",
        ),
        (
            "ties-sv {models} --density 1 --slack 0.1 --slack-threshold 1",
            "merge ties-sv needs one of --slack",
        ),
        (
            "ties-sv {models} --density 1 --slack 1 --protect it",
            "merge ties-sv: --protect: no parent is called 'it'; give one of ct, sft",
        ),
        (
            "ties-sv --base b --model a=a --density 1 --slack 1",
            "merge ties-sv: --protect: no parent is called 'sft'; give one of a",
        ),
        (
            "average {models} --alpha 1 --weight ct=1",
            "merge average takes --alpha for two parents, without --weight",
        ),
        ("average {models} --model it=i --alpha 1", "merge average takes --alpha for two parents"),
        ("average {models} --tokenizer it", "tokenizer: no model 'it'; give one of base, ct, sft"),
        ("average {models} --threads -1", "threads must be 0 (all cores) or more, got -1"),
        ("average {models} --model ct=d", "--model ct: given twice; keep one"),
        ("average {models} --model base=d", "average: give at least one parent, and none called base"),
        ("average {models} --model it=", "argument --model: 'it=': expected NAME=DIR"),
        ("average --base b", "average takes at least 1 models beside the base, got 0"),
        ("average --model ct=c", "average needs a base, the model that all parents were trained from"),
        ("recipe.yaml --density 0.5", "recipe.yaml: write density into that file, or give a method"),
        ("recipe.yaml --base b", "recipe.yaml: write base into that file"),
        ("recipe.yaml --no-normalize", "recipe.yaml: write normalize into that file"),
        ("recipe.yaml --tokenizer it", "tokenizer: no model 'it'; give one of base, ct, sft"),
        ("linear.yaml --zero-sign positive", "average has no zero_sign"),
    ],
)
def test_refused_before_anything_is_opened(
    given: str, message: str, pico: Path, capsys: pytest.CaptureFixture
) -> None:
    (pico / "linear.yaml").write_text("merge_method: linear\nmodels: [{model: x, parameters: {weight: 1}}]\n")
    arguments = given.replace("{models}", " ".join(NOWHERE)).split()
    if message.startswith(("argument ", "--")):  # what argparse itself refuses
        with pytest.raises(SystemExit, match="2"):
            run(*arguments, "--out", "o")
    else:
        assert run(*arguments, "--out", "o") == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (pico / "o").exists()


def test_out_and_method_are_required(capsys: pytest.CaptureFixture) -> None:
    for given, missing in (((), "METHOD, --out"), (("average", *NOWHERE), "--out")):
        with pytest.raises(SystemExit, match="2"):
            run(*given)
        assert f"required: {missing}" in capsys.readouterr().err


# what is written and printed


def test_summary_says_the_measured_shares(pico: Path, capsys: pytest.CaptureFixture) -> None:
    given = ("--density", "0.5", "--slack", "0.5", "--out", "out")
    assert run("ties-sv", *MODELS, *given) == 0
    report = json.loads((pico / "out" / "manifest.json").read_text())["report"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ties-sv of ct, sft: 112 entries, ")
    assert lines[1].split() == "parent kept of all discarded of kept".split()
    ct, sft = report["parents"]["ct"], report["parents"]["sft"]
    assert lines[2].split() == ["ct", "56", "50.00%", str(ct["discarded"]), f"{ct['discarded_share']:.2%}"]
    assert lines[3].split() == ["sft", "56", "50.00%", str(sft["discarded"]), f"{sft['discarded_share']:.2%}"]
    assert lines[4] == f"conflicts: {report['conflicts']}, {report['conflict_share']:.2%} of all entries"
    assert (
        lines[5]
        == f"won back:  {report['reserved']}, {report['reserved_share']:.2%} of what ties would discard"
    )
    assert lines[6:] == ["out"]
    assert report["conflicts"] > report["reserved"] > 0


def test_json_is_the_whole_report(pico: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("average", *MODELS, "--alpha", "0.25", "--out", "out", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report.pop("seconds") > 0
    assert report == json.loads((pico / "out" / "manifest.json").read_text())["report"]
    assert report["options"]["alpha"] == 0.25


def test_average_prints_no_table_of_shares(pico: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("average", *MODELS, "--out", "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("average of ct, sft: 112 entries, ")
    assert lines[1:] == ["out"]


def test_names_are_printed_as_they_are(pico: Path, capsys: pytest.CaptureFixture) -> None:
    models = ("--base", "base", "--model", "[red]=ct", "--model", ":x:=sft")
    assert run("ties", *models, "--density", "0.5", "--out", "out") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:4]] == ["[red]", ":x:"]


def test_a_doubtful_base_is_one_line_of_warning(pico: Path, capsys: pytest.CaptureFixture) -> None:
    base = open_checkpoint("base")
    save_folder(pico / "far", {name: base[name] * -5 for name in base})
    assert run("average", "--base", "base", "--model", "far=far", "--out", "out") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warned) == 1
    assert warned[0].startswith("lrnb: warning: far: its task vector is 6.00 times as long as the base")


def test_a_configuration_merges_like_its_arguments(pico: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("recipe.yaml", "--out", "one") == 0
    assert "int8_mask is ignored" in capsys.readouterr().err
    merge_checkpoints(**arguments("recipe.yaml"), out="two")
    assert_same_bits(dict(open_checkpoint("one")), dict(open_checkpoint("two")))
    assert run("recipe.yaml", "--trim-scope", "model", "--dtype", "float16", "--out", "one") == 0
    report = json.loads((pico / "one" / "manifest.json").read_text())["report"]
    assert report["options"]["trim_scope"] == "model"
    assert {x.dtype.name for x in open_checkpoint("one").values()} == {"float16"}


def test_force_replaces_a_folder_that_is_no_merge(pico: Path) -> None:
    (pico / "out").mkdir()
    (pico / "out" / "mine.txt").write_text("x")
    assert run("average", *MODELS, "--out", "out") == 2
    assert run("average", *MODELS, "--out", "out", "--force") == 0


def test_dry_run_shows_plan_and_needs_and_writes_nothing(pico: Path, capsys: pytest.CaptureFixture) -> None:
    given = ("ties", *MODELS, "--density", "0.5", "--dtype", "bfloat16", "--out", "out", "--dry-run")
    assert run(*given) == 0
    rows = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert {"method", "base", "ct", "sft", "density", "passes", "memory"} <= set(rows)
    assert rows["tensors"].strip() == "2 with 112 entries"
    assert rows["disk"].strip().endswith("GB free")
    assert rows["out"].strip() == "out (dry run: nothing was written)"
    assert run(*given, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["output_bytes"] >= 2 * 112
    assert not (pico / "out").exists()
    assert run("recipe.yaml", "--out", "out", "--dry-run") == 0
    assert not (pico / "out").exists()


def test_dry_run_refuses_what_a_merge_would(pico: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("ties", *MODELS, "--density", "2", "--out", "out", "--dry-run") == 2
    assert "merge ties: --density must lie in" in capsys.readouterr().err
    assert run("average", *MODELS, "--model", "x=none", "--out", "out", "--dry-run") == 2
    assert "none" in capsys.readouterr().err


def test_tokenizer_of_a_parent_and_threads_and_device(pico: Path) -> None:
    given = ("--tokenizer", "sft", "--threads", "1", "--device", "cpu")
    assert run("average", *MODELS, *given, "--out", "out") == 0
    assert json.loads((pico / "out" / "tokenizer.json").read_text()) == {"of": "sft"}
    assert run("average", *MODELS, "--threads", "2", "--out", "two") == 0
    assert_same_bits(dict(open_checkpoint("out")), dict(open_checkpoint("two")))


@pytest.mark.parametrize("method", ["average", "ties", "task-arithmetic"])
def test_normalize_divides_by_the_weights_or_not(method: str, pico: Path) -> None:
    """One parent with factor 2: twice the parent, or the step once or twice."""
    base, ct = open_checkpoint("base"), open_checkpoint("ct")
    factor = ("--lam", "ct=2") if method == "task-arithmetic" else ("--weight", "ct=2")
    density = ("--density", "1") if method == "ties" else ()
    models = ("--base", "base", "--model", "ct=ct")
    for flag, times in (("--normalize", 1), ("--no-normalize", 2)):
        assert run(method, *models, *factor, *density, flag, "--out", "out") == 0
        merged = open_checkpoint("out")
        for name in base:
            step = ct[name] * times if method == "average" else base[name] + times * (ct[name] - base[name])
            np.testing.assert_allclose(merged[name], step, atol=1e-6)


def test_a_configuration_without_normalize_and_with_a_tokenizer(pico: Path) -> None:
    text = CONFIG.replace("int8_mask: true", "normalize: false") + "tokenizer_source: sft\n"
    (pico / "recipe.yaml").write_text(text)
    assert run("recipe.yaml", "--out", "out") == 0
    report = json.loads((pico / "out" / "manifest.json").read_text())["report"]
    assert report["options"]["normalize"] is False
    assert json.loads((pico / "out" / "tokenizer.json").read_text()) == {"of": "sft"}


# help


def cpu_seconds(code: str) -> tuple[float, str]:
    """What a fresh Python takes for some code, the least of five, and what it printed; a busy machine
    stretches the clock's seconds more than these."""
    found = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found), done.stdout


def test_help_takes_a_fraction_of_a_second_and_loads_nothing_big() -> None:
    """The declarations need numpy, a tenth of a second on a quiet core; the help of all commands does not."""
    code = (
        "import sys, contextlib, lrnb.cli.main\n"
        "with contextlib.suppress(SystemExit): lrnb.cli.main.main({given})\n"
        "print(sorted({{'torch', 'pydantic', 'yaml', 'rich', 'numba', 'numpy'}} & set(sys.modules)))"
    )
    seconds, printed = cpu_seconds(code.format(given=["merge", "--help"]))
    assert printed.splitlines()[-1] == "['numpy']"
    assert "usage: lrnb merge METHOD --base DIR" in printed
    assert "--at-threshold" in printed and len(printed.splitlines()) < 110
    assert seconds < 8 * cpu_seconds("import numpy")[0]  # torch takes thirty times as much
    assert cpu_seconds(code.format(given=["--help"]))[1].splitlines()[-1] == "[]"


def test_the_home_folder_of_a_named_model_is_found(monkeypatch, tmp_path):
    """A shell expands `--base ~/x`, but not `--model ct=~/x`."""
    from lrnb.cli import evaluate, merge

    monkeypatch.setenv("HOME", str(tmp_path))
    assert merge.model("ct=~/x") == merge.folder("ct=~/x") == ("ct", f"{tmp_path}/x")
    assert evaluate.split_name("ct=~/x") == ("ct", f"{tmp_path}/x")
