"""The playground in Python: the merge in the open model, the answers, their figure, table and widget."""

from __future__ import annotations

import json
import re
import shutil
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
import yaml
from support.pico_run import BUDGET, byte_study, pico_study

from benchmarks import playground as benchmark
from lrnb import figures, widgets
from lrnb.cli import main
from lrnb.data.microworld_language import invent_language
from lrnb.errors import UserError
from lrnb.figures.text import text_html
from lrnb.merging.whole_models import merge_into, merge_state
from lrnb.pipeline import notebooks
from lrnb.scoring import evaluate
from lrnb.scoring.open_model import read_weights
from lrnb.study.files import MANIFEST
from lrnb.study.parameters import ROOT, Study
from lrnb.study.stages import RunPaths
from lrnb.tasks import loading
from lrnb.tuning import on_dev
from lrnb.tuning.live_merge import PARENTS, Playground, Prompt, resident, softmax

MERGES = [
    ("ties", {"density": 0.4, "lam": 0.9}),
    ("ties_sv", {"density": 0.4, "lam": 1.0, "slack": 0.4}),
    ("average", {"alpha": 0.3}),
    ("task_arithmetic", {"lam": 0.7}),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return pico_study(tmp_path_factory.mktemp("pico") / "runs")


@pytest.fixture(scope="module")
def bench(study: Study) -> Playground:
    return Playground(study, BUDGET)


@pytest.fixture
def somebody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRNB_HEADLESS", raising=False)


def folders(study: Study) -> dict[str, Path]:
    return {"base": RunPaths(study).base, **on_dev.parent_folders(RunPaths(study), BUDGET)}


def weights(bench: Playground) -> dict[str, np.ndarray]:
    return {name: x.numpy().copy() for name, x in bench.scorer.model.state_dict().items()}


@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_eval_precision_reaches_whatever_scores(
    study: Study, precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = [], evaluate.Scorer.__init__

    def watched(self: evaluate.Scorer, model: torch.nn.Module, *given: object, **options: object) -> None:
        opened.append(model.dtype)
        real(self, model, *given, **options)

    monkeypatch.setattr(evaluate.Scorer, "__init__", watched)
    asked = study.model_copy(update={"eval_precision": precision, "device": "cpu"})
    on_dev.dev_scorer(asked)
    Playground(asked, BUDGET)
    paths = RunPaths(study)
    command = ["evaluate", str(paths.base), "--tasks", "world_sums", "--lang", "qaa", "--limit", "2"]
    command += ["--data-root", str(paths.data_root), "--device", "cpu", "--precision", precision]
    assert main.main(command) == 0
    assert opened == [dtype] * 3


# the merge


@pytest.mark.parametrize(("method", "options"), MERGES)
def test_the_open_model_holds_the_merge_bit_for_bit(bench: Playground, method: str, options: dict) -> None:
    bench.merge(method, **options)
    want = merge_state(
        method, folders(bench.study)["base"], on_dev.parent_folders(RunPaths(bench.study), BUDGET), **options
    )
    found = weights(bench)
    for name, array in want.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    np.testing.assert_array_equal(found["lm_head.weight"], found["model.embed_tokens.weight"])  # tied


def test_thresholds_are_looked_for_once_a_density(bench: Playground) -> None:
    bench.merge("ties", density=0.33)
    known = len(bench.vectors.cuts)
    for slack in (0.1, 0.6):
        bench.merge("ties_sv", density=0.33, slack=slack)
    assert len(bench.vectors.cuts) == known
    bench.merge("ties", density=0.34)
    assert len(bench.vectors.cuts) == known + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("method", "options"), MERGES)
def test_tensors_that_stay_on_their_device_merge_to_the_same_bits(
    study: Study, method: str, options: dict, dtype: torch.dtype
) -> None:
    states = {
        role: {name: x.to(dtype) for name, x in read_weights(folder).items()}
        for role, folder in folders(study).items()
    }
    own = {name: torch.zeros_like(x) for name, x in states["base"].items()}
    parents = {role: states[role] for role in ("ct", "sft")}
    for _ in range(2):  # the second time with remembered thresholds
        merge_into(own, method, resident(states), **options)
        want = merge_state(method, states["base"], parents, **options)
        for name, array in want.items():
            np.testing.assert_array_equal(own[name].float().numpy(), array, err_msg=name)


def test_a_gpu_that_is_not_there_is_named(study: Study) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="torch sees no GPU here"):
        Playground(study, device="cuda")


# the answers


def test_answers_are_those_of_the_study(bench: Playground, study: Study) -> None:
    """Log-likelihoods and picks equal evaluate's for base, CT, SFT and a merge, on the same items."""
    bench.merge("ties", density=0.5, lam=1.0)
    prompts = bench.prompts(each=2)
    tables = {prompt.name: bench.answers(prompt) for prompt in prompts}
    tasks = loading.load_tasks(study.tasks, study.lang, RunPaths(study).data_root, limit=2, seed=study.seed)
    scorer = evaluate.Scorer.from_folder(folders(study)["base"], device="cpu")
    merged = merge_state("ties", bench.vectors, density=0.5, lam=1.0)
    states = {role: read_weights(folder) for role, folder in folders(study).items()} | {"ties": merged}
    for model, state in states.items():
        scorer.load_state(state)
        for item in evaluate.score_one(scorer, tasks).itertuples():
            prompt = next(p for p in prompts if p.name == f"{item.task} {item.item}")
            row = tables[prompt.name].set_index("model").loc[model]
            np.testing.assert_allclose(row["loglikelihoods"], item.loglikelihoods, rtol=0, atol=2e-5)
            names = item.options
            assert names[row["picks"]] == item.prediction
            assert names[prompt.gold] == item.gold


def test_texts_are_the_models_own_greedy_continuations(bench: Playground) -> None:
    prompt = bench.prompts(each=1)[0]
    bench.merge("average", alpha=0.5)
    table = bench.answers(prompt).set_index("model")
    assert list(table.index) == [*PARENTS, "average"]
    bench.merge("average", alpha=0.5)  # the parents were asked last
    scorer = bench.scorer
    ids = torch.tensor([scorer.tok_encode(prompt.text)])
    for _ in range(bench.new_tokens):
        word = scorer.model(ids).logits[0, -1].argmax()
        if int(word) == scorer.eot_token_id:
            break
        ids = torch.cat([ids, word.reshape(1, 1)], 1)
    new = ids[0, len(scorer.tok_encode(prompt.text)) :]
    assert table.loc["average", "text"] == scorer.tokenizer.decode(new, skip_special_tokens=True)


def test_a_slider_move_asks_the_merge_alone(bench: Playground) -> None:
    prompt = Prompt("nobody asked this :", ("1", "2"))
    asked: list[int] = []
    bench.scorer.progress = asked.append
    bench.merge("ties", density=0.2)
    first = bench.answers(prompt)
    assert sum(asked) == 8  # options scored and an answer written, four models
    bench.merge("ties", density=0.9)
    second = bench.answers(prompt)
    assert sum(asked) == 10
    bench.scorer.progress = None
    pd.testing.assert_frame_equal(first.iloc[:3], second.iloc[:3])
    assert first.iloc[3]["loglikelihoods"] != second.iloc[3]["loglikelihoods"]
    assert bench.numbers()["the other models"] == "known already"
    assert bench.seconds["merge"] > 0 and bench.seconds["answer"] > 0


def test_another_budget_brings_its_ct_and_ct_then_sft(tmp_path: Path) -> None:
    study = pico_study(tmp_path / "runs")
    paths, more = RunPaths(study), 2 * BUDGET
    shutil.copytree(paths.sft, paths.ct(more))
    shutil.copytree(paths.ct(BUDGET), paths.ct_then_sft(more))
    bench = Playground(study, BUDGET)
    prompt = bench.prompts(each=1)[0]
    before = bench.answers(prompt).set_index("model")["loglikelihoods"]
    assert list(before.index) == [*PARENTS, "ties"]
    bench.at(more)
    after = bench.answers(prompt).set_index("model")["loglikelihoods"]
    assert list(after.index) == [*PARENTS, "ct_then_sft", "ties"]
    assert after["ct"] == after["sft"] == before["sft"] != before["ct"]
    assert after["ct_then_sft"] == before["ct"] and after["base"] == before["base"]
    with pytest.raises(UserError, match="among its ct_budgets"):
        bench.at(4 * BUDGET)
    assert bench.budget == more and bench.answers(prompt).iloc[1]["loglikelihoods"] == after["ct"]


def test_prompts_come_by_how_far_slack_moves_a_share(bench: Playground) -> None:
    prompts = bench.by_movement([*bench.prompts(each=3), Prompt("no options")], density=0.4)

    def moved(prompt: Prompt) -> float:
        shares = []
        for slack in (0.0, 1.0):
            bench.merge("ties_sv", density=0.4, lam=1.0, slack=slack)
            shares.append(np.array(bench.answers(prompt).iloc[-1]["shares"]))
        return float(np.abs(shares[0] - shares[1]).max(initial=0))

    found = [moved(prompt) for prompt in prompts]
    assert found == sorted(found, reverse=True) and found[0] > found[-1] == 0


def test_an_invented_language_is_glossed_and_a_real_one_is_not(bench: Playground, study: Study) -> None:
    text = invent_language("qaa", 0).say(("thing_is", "horse", "muddy"))
    assert bench.gloss(text) == "horse as-for muddy is ."
    assert bench.gloss("the horse is muddy .") == ""
    asked = bench.prompts(each=1)[0]
    page = figures.answers_table(bench.answers(asked), asked, "qaa", "Georgian", bench.gloss)
    assert escape(bench.gloss(asked.text)) in page
    real = Playground(study.model_copy(update={"data_root": str(RunPaths(study).data_root)}), BUDGET)
    assert real.gloss(text) == ""


def test_own_prompts_may_have_no_options(bench: Playground) -> None:
    table = bench.answers(Prompt("topic :"))
    assert table["picks"].tolist() == [-1] * 4
    assert table["shares"].tolist() == [()] * 4
    np.testing.assert_allclose(softmax(np.array([-1000.0, -1000.0, -1001.0])).sum(), 1)


def test_parents_that_changed_since_are_named(tmp_path: Path) -> None:
    changed = pico_study(tmp_path / "runs")
    paths = RunPaths(changed)
    manifest = paths.sft / MANIFEST
    made = json.loads(manifest.read_text()) | {"inputs": {"../base": "of then"}}
    manifest.write_text(json.dumps(made))
    message = f"{paths.sft} was made from {paths.base}, which has changed since. Run notebooks/01_ct/03_sft"
    with pytest.raises(UserError, match=re.escape(message)):
        Playground(changed)


def test_a_missing_stage_and_wrong_options_are_named(bench: Playground, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="base is missing. Run notebooks/01_ct/00_base.ipynb first"):
        Playground(Study(runs=str(tmp_path)))
    with pytest.raises(UserError, match="density must lie in"):
        bench.merge("ties", density=2.0)
    with pytest.raises(UserError, match="ties has no slack; its options are"):
        bench.merge("ties", density=0.5, slack=0.5)
    bench.merge("average", alpha=1.0)  # and goes on
    row = bench.answers(bench.prompts(1)[0]).set_index("model")
    assert row.loc["average", "loglikelihoods"] == row.loc["ct", "loglikelihoods"]


# figure and table

EVIL = "<script>alert(1)</script>"


def made(*texts: str, options: int = 2) -> pd.DataFrame:
    values = tuple(float(-i) for i in range(options))
    shares = tuple(softmax(np.array(values)).tolist())
    rows = [(m, t, values, shares, 0) for m, t in zip((*PARENTS, "ties_sv"), texts, strict=True)]
    return pd.DataFrame(rows, columns=["model", "text", "loglikelihoods", "shares", "picks"])


def test_figure_has_a_bar_a_model_the_chance_line_and_the_right_option() -> None:
    prompt = Prompt("?", (EVIL, "b" * 60, "c", "d"), gold=2, name="topic 7")
    fig = figures.option_shares(made("", "", "", "", options=4), prompt)
    assert [trace.name for trace in fig.data] == ["base", "CT", "SFT-en", "TIES-SV"]
    assert [sum(trace.x) for trace in fig.data] == pytest.approx([100] * 4)
    assert fig.layout.shapes[0].x0 == 25
    assert "n = 4 options" in fig.layout.title.text
    ticks = fig.layout.yaxis.ticktext
    assert ticks[0].startswith("&lt;script") and ticks[1].endswith("…") and ticks[2] == "<b>c ✓</b>"
    none = figures.option_shares(made("", "", "", "", options=0), Prompt("?"))
    assert "no options" in none.layout.annotations[0].text


def test_table_escapes_and_marks_what_is_no_text() -> None:
    texts = (EVIL, "ab\ufffd\ufffdcd", "end\ufffd", "\u202eturned\x07")
    page = figures.answers_table(made(*texts), Prompt(EVIL, (EVIL, "b"), gold=1), "bn", "Bengali")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3
    assert 'title="2: bytes that form no character"' in page
    assert 'title="1: bytes of a character that is not finished"' in page
    assert "⟨U+202E⟩turned⟨U+0007⟩" in page
    assert page.count("◀") == 5  # four models pick the first option; the legend
    assert re.findall(r'data-model="ct" data-option="1"[^>]*><b>([\d.]+)%', page) == ["26.9"]
    assert "garbage" not in figures.answers_table(made("a", "b", "c", "d"), Prompt("?"))


@pytest.mark.parametrize(
    ("text", "lang", "script", "want"),
    [
        ("بۇ ئۇيغۇر تىلى", "ug", "Arabic", ('lang="ug"', 'dir="rtl"', "Noto Naskh Arabic")),
        ("Text: بۇ ئۇيغۇر تىلىدا يېزىلغان\nTopic:", "ug", "Arabic", ('lang="ug"', 'dir="rtl"')),
        ("sports", "ug", "Arabic", ('lang="en"', 'dir="ltr"')),
        ("বাংলা", "bn", "Bengali", ('lang="bn"', 'dir="ltr"', "Noto Sans Bengali")),
    ],
)
def test_scripts_have_their_language_direction_and_font(
    text: str, lang: str, script: str, want: tuple[str, ...]
) -> None:
    page = text_html(text, lang, script)
    assert [part for part in want if part not in page] == []


def test_a_model_without_the_script_writes_marked_garbage(tmp_path: Path, data_root: Path) -> None:
    study = byte_study(tmp_path / "runs", data_root, "ug", "Arabic")
    bench = Playground(study)
    prompt = bench.prompts(1)[0]
    table = bench.answers(prompt)
    assert table["text"].str.contains("\ufffd").any()
    page = figures.answers_table(table, prompt, study.lang, study.script)
    assert 'dir="rtl"' in page and 'class="lrnb-garbage"' in page


# widget, notebook, benchmark


def cell(page: str, model: str, option: int) -> str:
    return re.findall(rf'data-model="{model}" data-option="{option}"[^>]*><b>([\d.]+%)', page)[0]


@pytest.mark.usefixtures("somebody_is_there")
def test_widget_answers_anew_when_a_slider_moves(bench: Playground) -> None:
    prompts = bench.prompts(each=2)
    widget = widgets.merge_playground(bench, prompts, density=0.3)
    table = widget.box.children[-1]
    before = table.value
    widget.controls["slack"].value = 1.0
    assert table.value != before
    bench.merge("ties_sv", density=0.3, lam=1.0, slack=1.0)
    want = bench.answers(prompts[0])
    assert cell(table.value, "ties_sv", 1) == f"{100 * want.iloc[3]['shares'][1]:.1f}%"
    assert cell(table.value, "base", 1) == cell(before, "base", 1)
    assert [tuple(t.x) for t in widget.figure.data] == [
        tuple(100 * s for s in shares) for shares in want["shares"]
    ]


@pytest.mark.usefixtures("somebody_is_there")
def test_widget_shows_a_methods_own_sliders_and_takes_own_prompts(bench: Playground) -> None:
    widget = widgets.merge_playground(bench, bench.prompts(each=1))

    def visible() -> set[str]:
        names = ("density", "lam", "slack", "alpha")
        return {name for name in names if widget.controls[name].layout.display != "none"}

    assert visible() == {"density", "lam", "slack"}
    widget.controls["method"].value = "average"
    assert visible() == {"alpha"}
    widget.controls["options"].value = "one"
    widget.controls["text"].value = "<b>topic :"
    assert "only one" in widget.box.children[2].value
    widget.controls["options"].value = "one\n <two>"
    assert widget.box.children[2].value == ""
    assert "&lt;b&gt;topic" in widget.box.children[-1].value
    assert widget.figure.layout.yaxis.ticktext == ("one", "&lt;two&gt;")


def test_headless_is_the_figure(bench: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRNB_HEADLESS", "somewhere.json")
    prompts = bench.prompts(each=1)
    fig = widgets.merge_playground(bench, prompts, "ties", density=0.7)
    bench.merge("ties", density=0.7, lam=1.0)
    assert isinstance(fig, go.Figure)
    look = (bench.study.script, bench.gloss)
    assert fig == figures.option_shares(bench.answers(prompts[0]), prompts[0], *look)
    with pytest.raises(UserError, match="no prompts"):
        widgets.merge_playground(bench, [])


def test_notebook_runs_headless(study: Study, tmp_path: Path) -> None:
    notebook = ROOT / "notebooks" / "explore" / "playground.ipynb"
    given = {"runs": study.runs, "ct_budgets": study.ct_budgets, "tasks": study.tasks}
    out = notebooks.exec_notebook(
        notebook, given, tmp_path / "out.ipynb", {"LRNB_PROGRESS": str(tmp_path / "p")}
    )
    text = out.read_text(encoding="utf-8")
    assert "application/vnd.plotly.v1+json" in text
    assert "lrnb-answers" in text
    assert "application/vnd.jupyter.widget" not in text


def test_benchmark_times_every_kind_of_move(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = RunPaths(study).lang
    (folder / "params.yaml").write_text(yaml.safe_dump(study.model_dump()), encoding="utf-8")
    given = [str(folder), "--each", "1", "--shape", "pico", "--rounds", "1", "--results", str(tmp_path)]
    assert benchmark.main(given) == 0
    shown = capsys.readouterr().out
    assert shown.count("| ties_sv |") == 6
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}
    assert benchmark.main([]) == 2
