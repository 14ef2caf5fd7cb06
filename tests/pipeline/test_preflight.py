"""What is not there is refused by a dry run as by a run, before anything is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lrnb.cli.main import tell_slow_precision
from lrnb.data import corpus, mongolian, packing
from lrnb.errors import UserError
from lrnb.merging.task_vectors import cores
from lrnb.pipeline import estimate, preflight, runner, speed, supplies
from lrnb.study.files import write_text
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.tasks import rows


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        (
            "smol",
            {"base_source": "gguf:gemm3"},
            "base_source gguf:gemm3: no base 'gemm3'; known are .*did you",
        ),
        (
            "smol",
            {"base_source": "/nowhere/model"},
            "base_source '/nowhere/model': no such folder. Give a folder",
        ),
        ("smol", {"base_source": ""}, "base_source is empty: give scratch"),
        (
            "nano",
            {"sft_mix": {"world_sums": 100_000}},
            "sft_mix asks for 100,000 rows of 'world_sums', .* 1,600",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_anything(
    tmp_path: Path, preset: str, given: dict, message: str
) -> None:
    lang = "qaa" if preset == "nano" else "bn"
    for start in (lambda study: preflight.refuse_missing(study, hub=False), runner.run_study):
        with pytest.raises(UserError, match=message):
            start(load_study(ROOT / "params" / f"{lang}.yaml", preset, given | {"runs": str(tmp_path)}))
    assert not list(tmp_path.iterdir())


TOPIC = '{"text": "a farm", "label": "travel"}'
SUM = '{"question": "1 + 1?", "answer": 2}'


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No base of this machine's user is at hand."""
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))


def data_root(folder: Path, **files: str) -> Path:
    """A small data root that a study of topics and sums can use; `files`: other contents."""
    kept = {f"eval/{task}/{code}/{split}.jsonl": row
            for task, row in (("topic", TOPIC), ("math", SUM))
            for code in ("bn", "en") for split in ("dev", "test")}  # fmt: skip
    kept |= {
        "sft/math.jsonl": f"{SUM}\n{SUM}",
        "corpus/bn.txt": "ক খ গ\nঘ ঙ চ",
        "corpus/en.txt": "a b c\nd e f",
    }
    for name, text in (kept | files).items():
        write_text(folder / name, text)
    return folder


def small_study(root: Path, **given: object) -> Study:
    tasks = {"tasks": ["topic", "math"], "tasks_en": ["topic"], "tasks_written": [], "test_limits": {}}
    tasks |= {
        "sft_mix": {"math": 2},
        "dev_tasks": [],
        "heldout_bytes": 1,
        "data_root": str(root),
        "runs": str(root / "runs"),
    }
    return load_study(ROOT / "params" / "bn.yaml", "smol", tasks | given)


def test_data_that_are_right_are_let_through(tmp_path: Path) -> None:
    assert preflight.faults(small_study(data_root(tmp_path)), hub=True) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("eval/topic/bn/test.jsonl", f"{TOPIC}\n{{", r"eval/topic/bn/test.jsonl:2: not JSON"),
        ("eval/topic/en/test.jsonl", '{"label": "travel"}', r"eval/topic/en/test.jsonl:1: .*text"),
        ("eval/math/bn/dev.jsonl", '{"question": "?"}', r"eval/math/bn/dev.jsonl:1: needs"),
        ("sft/math.jsonl", SUM, r"sft_mix asks for 2 rows of 'math', .*sft/math.jsonl has 1"),
        ("sft/math.jsonl", f"{SUM}\n[]", r"sft/math.jsonl:2: a JSON object is expected"),
        ("corpus/bn.txt", "", r"corpus/bn.txt: holds no document"),
    ],
)
def test_every_row_is_read_before_anything(tmp_path: Path, file: str, text: str, message: str) -> None:
    study = small_study(data_root(tmp_path / "data", **{file: text}))
    for hub in (True, False):
        with pytest.raises(UserError, match=message):
            preflight.refuse_missing(study, hub=hub)
    with pytest.raises(UserError, match=message):
        runner.run_study(study)
    assert not (tmp_path / "data" / "runs").exists()


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRNB_DATA", raising=False)
    root = data_root(tmp_path, **{"eval/math/bn/test.jsonl": "{}", "sft/math.jsonl": "x"})
    (root / "corpus" / "en.txt").unlink()
    found = preflight.faults(small_study(root), hub=True)
    assert len(found) == 3
    with pytest.raises(
        UserError, match=r"(?s)3 things.*1\. .*math/bn/test.*2\. .*sft/math.*3\. .*no text for 'en'"
    ):
        preflight.refuse_missing(small_study(root))
    with pytest.raises(UserError, match="no data: give --set data_root"):
        preflight.refuse_missing(small_study(root).model_copy(update={"data_root": ""}))


def test_a_wrong_task_file_hides_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "mine.yaml", "task: mine\n")
    root = data_root(tmp_path / "data", **{"eval/topic/bn/train.jsonl": "{"})
    found = preflight.faults(small_study(root, tasks=["topic", str(tmp_path / "mine.yaml")]), hub=False)
    assert any("mine.yaml" in one for one in found)
    assert any("topic/bn/train.jsonl:1: not JSON" in one for one in found)


def test_no_dev_items_to_choose_sft_on_are_refused_before_anything(tmp_path: Path) -> None:
    root = data_root(tmp_path)
    (root / "eval/math/en/dev.jsonl").unlink()
    (told,) = preflight.faults(small_study(root), hub=True)
    assert "none of ['math']" in told
    assert "or --set tuning_trials=1" in told
    assert preflight.faults(small_study(root, tuning_trials=1), hub=True) == []


def test_text_for_ct_is_counted_against_the_budgets(tmp_path: Path, pico_llama: Path) -> None:
    """Sixteen words of X are there in four documents with two marks each, of which one is held out."""
    text = "a b c d\ne f g h\ni j k l\nm n o p"
    root = data_root(tmp_path, **{"corpus/bn.txt": text, "corpus/en.txt": text})
    steps = {"ct_budgets": [10], "seq_len": 10, "ct_batch": 1, "micro_batch": 0, "script": "Latin"}
    enough = small_study(root, **steps, base_source=str(pico_llama), base_prune=False)
    x, en = supplies.corpus_supplies(enough)
    assert (x.tokens, x.needed, en.needed) == (18, 8, 2)
    assert "8 tokens needed, " in str(x)
    assert "enough is there" in str(x)
    (told,) = preflight.faults(enough.model_copy(update={"ct_budgets": [10, 40]}), hub=True)
    assert "corpus/bn.txt: 18 tokens are left for CT (1 of 4 documents" in told
    assert "asks for 32 in 'bn'" in told
    assert "--set ct_epochs=2" in told
    read_again = enough.model_copy(update={"ct_budgets": [10, 40], "ct_epochs": 2})
    assert preflight.faults(read_again, hub=True) == []
    for text in (
        "a b c d " * 90,
        "a b c d\n" * 90,
        "ক খ গ ঘ\n" * 9 + "a b c d",
    ):  # in one line, or all the same
        write_text(root / "corpus/bn.txt", text)
        (told,) = preflight.faults(enough, hub=False)
        assert re.search(
            r"bn.txt: 0 tokens are left for CT \(1 of 1 documents .* a document: cut the text", told
        )
    write_text(root / "corpus/bn.txt", "ক খ গ ঘ\n" * 9)
    assert re.search(
        r"corpus/bn.txt: cleaning left no text \(.*other script", preflight.faults(enough, hub=False)[0]
    )
    (pico_llama / "tokenizer.json").unlink()
    supplies.tokenizer_of.cache_clear()
    assert "no tokenizer that can be read" in preflight.faults(enough, hub=True)[0]


def test_a_text_of_evaluation_items_is_not_counted(tmp_path: Path, pico_llama: Path) -> None:
    """What the corpus stage drops does not fill a budget: three documents are items, two are not."""
    item = "a farm on the hill where the old river bends twice before it meets the sea number {}"
    asked = "\n".join(json.dumps({"text": item.format(n), "label": "travel"}) for n in range(3))
    text = "\n".join([*(f"{item.format(n)} x{n}" for n in range(3)), "k l m n", "o p q r"])
    root = data_root(
        tmp_path, **{"eval/topic/bn/test.jsonl": asked, "corpus/bn.txt": text, "corpus/en.txt": text}
    )
    steps = {"ct_budgets": [10], "seq_len": 10, "ct_batch": 1, "micro_batch": 0, "script": "Latin"}
    study = small_study(root, **steps, base_source=str(pico_llama), base_prune=False)
    (told,) = preflight.faults(study, hub=False)
    assert "bn.txt: 6 tokens are left for CT (1 of 2 documents" in told and "asks for 8 in 'bn'" in told
    write_text(root / "corpus/bn.txt", "\n".join(item.format(n) for n in range(3)))
    (told,) = preflight.faults(study, hub=False)
    assert "cleaning left no text (holds items of topic: 3)" in told


def test_examples_of_sft_are_counted_and_time_is_that_of_the_jobs(tmp_path: Path, pico_llama: Path) -> None:
    root = data_root(tmp_path, **{"sft/math.jsonl": f"{SUM}\n" * 6})
    given = {"base_source": str(pico_llama), "base_prune": False, "sft_mix": {"math": 6}, "tuning_trials": 1}
    study = small_study(root, **given)
    tokenizer = supplies.tokenizer_of(str(pico_llama))
    (one,) = {example["prompt"] + example["completion"] for example in rows.sft_examples("math", 6, root)}
    (ids,) = packing.tokenize(tokenizer, [one])
    assert estimate.tokens(study)["sft"] == 6 * len(ids) * (1 + len(study.ct_budgets))
    short = study.model_copy(update={"sft_max_len": 8})
    assert supplies.example_tokens(short, "math") == 48
    if cores() > 1:
        alone, usual = (dict(estimate.describe([study], [], jobs))["time"] for jobs in (1, None))
        assert " on 1 CPU core at" in alone
        assert f" on {cores()} CPU cores at" in usual


def test_long_documents_are_no_warning(pico_llama: Path) -> None:
    tokenizer = supplies.tokenizer_of(str(pico_llama))
    tokenizer.model_max_length = 4
    assert [len(ids) for ids in packing.tokenize(tokenizer, ["a b c d e f g h"])] == [10]
    corpus.audit(tokenizer, ["a b c d e f g h"])
    assert not tokenizer.deprecation_warnings  # what transformers has warned of


def test_text_that_is_held_out_as_a_whole_is_refused_without_a_base(tmp_path: Path) -> None:
    root = data_root(tmp_path, **{"corpus/en.txt": "a b c d " * 900})
    (told,) = preflight.faults(small_study(root), hub=False)
    assert "corpus/en.txt: 0 tokens are left for CT (1 of 1 documents are kept out" in told


UTF_16 = "text\tlabel\na farm\ttravel\n".encode("utf-16")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eval/topic/bn/train.tsv", UTF_16),
        ("eval/topic/en/train.tsv", UTF_16),
        ("eval/math/ta/test.tsv", UTF_16),  # of another language, read for the vocabulary that is kept
        ("sft/other.tsv", UTF_16),
        ("corpus/bn.txt", "ক খ গ\nঘ ঙ চ\n".encode() * 9 + "ক".encode("utf-16")),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_damaged_file_that_any_step_reads_is_refused(
    tmp_path: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supplies, "COUNTED", 4)  # the text is damaged behind what is counted
    root = data_root(tmp_path)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    (told,) = preflight.faults(small_study(root), hub=False)
    assert re.search(rf"{name}:\d+: is no UTF-8 text \(.*convert it", told)


def test_a_study_needs_a_task_in_x(tmp_path: Path) -> None:
    assert "tasks: none is given" in preflight.faults(small_study(data_root(tmp_path), tasks=[]), hub=True)[0]


def test_released_weights_have_not_seen_words_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"lang": "mn", "script": "Mongolian", "base_source": "org/none", "tasks": ["milic_topic"]}
    for installed, preset, told in ((object(), "released", 1), (None, "released", 0), (object(), "paper", 0)):
        monkeypatch.setattr(mongolian, "mongol_norm", installed)
        found = preflight.faults(Study(preset=preset, **given), hub=False)
        assert sum("pip uninstall mongol-norm" in one for one in found) == told


def test_the_speed_of_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = speed.training_flops()
    assert 1e8 < found < 1e13
    monkeypatch.setattr(speed, "measure", lambda kind, rounded=False: 1.0)
    assert speed.training_flops() == found
    assert speed.bf16_slowdown() == 1.0
    (tmp_path / "cache" / "speed.json").write_text("no JSON")
    assert speed.training_flops() == 1.0
    monkeypatch.setenv("LRNB_CACHE", "/proc/nowhere")
    assert speed.training_flops() == 1.0


def test_a_precision_that_is_slow_here_is_told_and_counted(
    tmp_path: Path, pico_llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(speed, "measure", lambda kind, rounded=False: 1e9 if rounded else 1e10)
    given = {"base_source": str(pico_llama), "base_prune": False, "device": "cpu"}
    studies = [small_study(data_root(tmp_path), precision=how, **given) for how in ("bf16", "fp32")]
    slow, plain = (dict(estimate.describe([study], [], 1)) for study in studies)
    assert "10.0 times slower than fp32" in slow["precision"] and "precision=fp32" in slow["precision"]
    assert "(training in bf16 1.0e+09)" in slow["time"] and "precision" not in plain
    for study in studies:
        tell_slow_precision(study)
    assert capsys.readouterr().err == f"precision: {slow['precision']}\n"
    counts = estimate.tokens(studies[0])
    trained, scored = 6 * (counts["ct"] + counts["sft"]), 2 * counts["scoring"]
    assert estimate.hours(studies[:1], 1e10, 1e9) / estimate.hours(studies[1:], 1e10) == pytest.approx(
        (10 * trained + scored) / (trained + scored)
    )
    monkeypatch.setattr(speed, "measure", lambda kind, rounded=False: 1e10)
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "another"))
    assert "precision" not in dict(estimate.describe(studies[:1], [], 1))
