"""The known layouts of the data sets of preset paper, made in folders and opened by the code for the Hub."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml

from lrnb.data import corpus, fineweb, hub_sets
from lrnb.errors import UserError
from lrnb.pipeline import preflight
from lrnb.study.parameters import ROOT, Study, load_study, read_yaml
from lrnb.tasks import loading, task_file
from lrnb.tasks.hub import covers


def made(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def scripted(folder: Path) -> Path:
    """A data set with a loading script, which `datasets` refuses before it looks at any file."""
    made(folder, **{f"{folder.name}.py": "raise SystemExit('a script was run')"})
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        datasets.load_dataset(str(folder), streaming=True)
    return folder


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)


# running text


def hub_study(lang: str, preset: str = "smol", **given: object) -> Study:
    known = {"corpus_source": "hub", "base_prune": False}
    return load_study(ROOT / "params" / f"{lang}.yaml", preset, known | given)


@pytest.mark.parametrize(("lang", "config"), [("ta", "tam_Taml"), ("mn", "khk_Cyrl"), ("or", "ory_Orya")])
def test_a_study_that_names_no_set_takes_fineweb(lang: str, config: str) -> None:
    study = hub_study(lang)
    assert fineweb.hub_text(study)[:2] == ("HuggingFaceFW/fineweb-2", config)
    assert fineweb.hub_text_en(study)[:2] == ("HuggingFaceFW/fineweb", "sample-10BT")
    assert fineweb.apart(fineweb.hub_text(study)).split == "test"
    paper = hub_study(lang, "paper")
    assert fineweb.hub_text(paper).dataset == paper.hub_dataset != fineweb.SET
    assert fineweb.apart(fineweb.hub_text(paper)) is None


def test_a_new_language_is_called_by_its_code_and_script() -> None:
    new = hub_study("bn").model_copy(update={"lang": "sat", "script": "Ol_Chiki"})
    assert fineweb.hub_text(new).config == "sat_Olck"
    unknown = new.model_copy(update={"lang": "ps", "script": "Arabic"})  # CLDR knows pus, and pbu of it
    with pytest.raises(UserError, match=r"no configuration is known here for 'ps'.*hub_config=tel_Telu"):
        fineweb.hub_text(unknown)
    assert any("'ps'" in told for told in preflight.faults(unknown, hub=False))
    given = unknown.model_copy(update={"hub_config": "pbt_Arab"})
    assert fineweb.hub_text(given).config == "pbt_Arab"


@pytest.mark.parametrize(
    ("lang", "script", "config"),
    [
        ("kk", "Cyrillic", "kaz_Cyrl"),
        ("kk", "Arabic", "kaz_Arab"),
        ("xh", "Latin", "xho_Latn"),
        ("zh", "Han", "cmn_Hani"),
        ("km", "Khmer", "khm_Khmr"),
        ("ce", "Cyrillic", "che_Cyrl"),  # not in FLORES-200
        ("mn", "Cyrillic", "khk_Cyrl"),
        ("fa", "Arabic", "fas_Arab"),
        ("th", "Thai", "tha_Thai"),
        ("kk", "", ""),
    ],
)
def test_configurations_of_fineweb(lang: str, script: str, config: str) -> None:
    assert fineweb.config_of(lang, script) == config


def red_pajama(folder: Path) -> Path:
    """Files whose `meta` is of another kind in each, or within one."""
    rows = {
        "arxiv": [{"text": "one\u2028line", "meta": {"url": "u"}}],
        "cc_2019-30": [{"text": "two", "pred_label": "__label__cc", "source": "cc/2019"}],
        "github": [{"text": "three", "meta": "x"}, {"text": "four", "meta": [1]}],
    }
    texts = {
        f"{k}_sample.jsonl": "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in v)
        for k, v in rows.items()
    }
    return made(scripted(folder), **texts)


def test_the_english_text_of_preset_paper_is_read_past_its_script(tmp_path):
    preset = read_yaml(ROOT / "params" / "preset" / "paper.yaml")
    folder = red_pajama(tmp_path / preset["hub_dataset_en"].partition("/")[2])
    found = list(corpus.read_hub(str(folder), files=preset["hub_files_en"]))
    assert sorted(found) == sorted(["one\u2028line", "two", "three", "four"])
    with pytest.raises(
        UserError, match=r"cannot be opened \(RuntimeError: Dataset scripts are no longer.*tried: "
    ):
        list(corpus.read_hub(str(folder)))


def indic_corp(folder: Path, text: str) -> Path:
    splits = [{"split": "ben_Beng", "path": "data/bn.txt"}, {"split": "tel_Telu", "path": "data/te.txt"}]
    card = yaml.safe_dump({"configs": [{"config_name": "indiccorp_v2", "data_files": splits}]})
    made(folder / "data", **{"bn.txt": text, "te.txt": "x\n"})
    return made(folder, **{"README.md": f"---\n{card}---\n"})


def test_lines_up_to_a_blank_one_are_a_document(tmp_path):
    study = read_yaml(ROOT / "params" / "bn.yaml")["paper"]
    folder = indic_corp(tmp_path / "IndicCorpV2", "\nবাক্য এক।\nবাক্য দুই।\n\n\nবাক্য তিন।\n \nবাক্য চার।\n")
    found = list(corpus.read_hub(str(folder), study["hub_config"], split=study["hub_split"]))
    assert found == ["বাক্য এক।\nবাক্য দুই।", "বাক্য তিন।", "বাক্য চার।"]


def test_without_blank_lines_a_line_is_a_document(tmp_path, monkeypatch):
    folder = indic_corp(tmp_path / "set", "এক\nদুই\nতিন\n\nচার\n")
    monkeypatch.setattr(hub_sets, "LOOKED_AT", 3)
    assert list(corpus.read_hub(str(folder), "indiccorp_v2", split="ben_Beng"))[:3] == ["এক", "দুই", "তিন"]


def test_a_blank_line_astray_parts_no_documents(tmp_path):
    lines = [f"line {n}" for n in range(2000)]
    folder = indic_corp(tmp_path / "set", "\n".join([*lines[:700], "", *lines[700:], ""]))
    assert list(corpus.read_hub(str(folder), "indiccorp_v2", split="ben_Beng")) == lines


def test_a_blank_row_of_documents_joins_nothing(tmp_path):
    parquet(tmp_path / "set" / "data" / "train-00000.parquet", [{"text": t} for t in ("a", "", "b", "c")])
    found = list(corpus.read_hub(str(tmp_path / "set")))
    assert [text for text in found if text] == ["a", "b", "c"]


@pytest.mark.parametrize("lang", ["bo", "ug", "mn"])
def test_mc2_is_read_by_its_file(tmp_path, lang):
    study = read_yaml(ROOT / "params" / f"{lang}.yaml")["paper"]
    line = json.dumps({"title": "t", "text": "one", "url": "u"}) + "\n"
    made(tmp_path / "mc2", **{study["hub_files"]: line, f"{lang}-crawl-only-release-0.jsonl": line * 2})
    assert list(corpus.read_hub(str(tmp_path / "mc2"), files=study["hub_files"])) == ["one"]


def test_compressed_lines_are_read_and_a_broken_one_is_named(tmp_path):
    folder = made(tmp_path / "set", **{"b.jsonl": '{"text": "a"}\n\n{"text": \n'})
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n'))
    assert list(corpus.read_hub(str(folder), files="a.jsonl.gz")) == ["one"]
    for broken in ('{"text": ', "[1]"):
        (folder / "b.jsonl").write_text(f'{{"text": "a"}}\n\n{broken}\n')
        with pytest.raises(UserError, match=r"b\.jsonl: line 3 cannot be read as a JSON object"):
            list(corpus.read_hub(str(folder), files="b.jsonl"))
    with pytest.raises(UserError, match=r"a name or pattern must end with one of \.jsonl"):
        list(corpus.read_hub(str(folder), files="b*"))


# tasks


@pytest.mark.parametrize("place", ["refs/convert/parquet", "."])
def test_a_set_with_a_script_is_read_from_its_conversion(tmp_path, place):
    row = {f"input_sentence_{n}": f"s{n}." for n in range(1, 5)}
    row |= {"sentence_quiz1": "e1", "sentence_quiz2": "e2", "answer_right_ending": 2}
    folder = scripted(tmp_path / "hub" / "juletxara" / "xstory_cloze")
    with pytest.raises(
        UserError, match="RuntimeError: Dataset scripts are no longer supported.*; tried: .*cloze"
    ):
        loading.load_tasks(["story_choice"], "te", tmp_path)
    parquet(folder / place / "te" / "eval" / "0000.parquet", [row])
    doc = loading.load_tasks(["story_choice"], "te", tmp_path)["story_choice"]._splits["test"][0]
    assert doc["options"][doc["answer"]] == "e2"


def test_indic_copa_is_read_past_its_script(tmp_path):
    row = {"premise": "P", "choice1": "a", "choice2": "b", "question": "cause", "label": 0, "changed": False}
    folder = scripted(tmp_path / "hub" / "ai4bharat" / "IndicCOPA")
    made(folder / "data", **{"test.or.jsonl": json.dumps(row) + "\n"})
    loaded = loading.load_tasks(["indic_causal_choice"], "or", tmp_path)["indic_causal_choice"]
    assert loaded._splits["test"][0]["prompt"] == "P\nWhat was the cause?"


@pytest.mark.parametrize("prefix", ["", "Question: ", "প্রশ্ন: "])
def test_mgsm_s_known_prefix_alone_is_cut(tmp_path, prefix):
    """Also where a mirror lacks it: a colon of the problem's own stays."""
    row = {"question": f"{prefix}A: 3 + 4?", "answer": "Step: 7", "answer_number": 7}
    for split in ("test", "train"):
        parquet(tmp_path / "hub/juletxara/mgsm/bn" / split / "0000.parquet", [row])
    loaded = loading.load_tasks(["math_generate"], "bn", tmp_path)["math_generate"]
    assert loaded._splits["test"][0]["prompt"] == "Question: A: 3 + 4?\nAnswer:"


def test_a_harness_s_task_is_read_from_the_conversion(tmp_path):
    row = {"premise": "P.", "choice1": "a", "choice2": "b", "question": "cause", "label": 0, "idx": 0}
    folder = scripted(tmp_path / "hub" / "cambridgeltl" / "xcopa")
    with pytest.raises(
        UserError, match=r"RuntimeError: Dataset scripts.*tried: .*/xcopa, .*/convert/parquet\)"
    ):
        loading.load_tasks(["harness:xcopa_ta"], "ta", tmp_path)
    for split, n in (("validation", 1), ("test", 2)):
        parquet(folder / "refs/convert/parquet/ta" / split / "0000.parquet", [row] * n)
    assert len(loading.load_tasks(["harness:xcopa_ta"], "ta", tmp_path)["xcopa_ta"]) == 2


PAIRS = (
    "sen\twrong_sen\tprefix\tlang\tphenomenon\tUD_id\n"
    "அவள் வந்தாள்\tஅவள் வந்தான்\tஅவள்\ttam\tSV-G\t1\nநான் வந்தேன்\tநான் வந்தாய்\tநான்\ttam\tSV-P\t2\n"
)


@pytest.mark.parametrize("lang", ["ta", "ug", "kk"])
def test_minimal_pairs_have_no_prompt_and_the_right_sentence_first(tmp_path, lang):
    study = load_study(ROOT / "params" / f"{lang}.yaml", "paper")
    (name,) = study.tasks_language
    code = name.rpartition("_")[2]
    card = yaml.safe_dump({"configs": [{"config_name": code, "data_files": f"{code}/data.tsv"}]})
    folder = made(tmp_path / "hub" / "jumelet" / "multiblimp", **{"README.md": f"---\n{card}---\n"})
    made(folder / code, **{"data.tsv": PAIRS})
    (task,) = loading.load_tasks(
        [name], lang, tmp_path, shots=3
    ).values()  # asked without examples all the same
    assert (len(task), task.chance, task.metric, task.config.num_fewshot) == (2, 0.5, "acc", 0)
    doc = task.eval_docs[0]
    assert (task.doc_to_text(doc), task.doc_to_target(doc)) == ("", 0)
    assert task.doc_to_choice(doc) == ["அவள் வந்தாள்", "அவள் வந்தான்"]


def test_odia_exams_are_those_rows_of_the_set_that_are_odia(tmp_path):
    row = {"unique_question_id": "1", "subject": "Oriya", "question_text": "ପ୍ରଶ୍ନ?", "correct_answer": "c"}
    row |= {f"option_{letter}": f"ଉତ୍ତର {letter}" for letter in "abcd"}
    card = {"config_name": "IndicParam", "data_files": [{"split": "test", "path": "data/test-*.parquet"}]}
    folder = tmp_path / "hub" / "bharatgenai" / "IndicParam"
    made(folder, **{"README.md": f"---\n{yaml.safe_dump({'configs': [card]})}---\n"})
    parquet(folder / "data" / "test-00000-of-00001.parquet", [row, row | {"subject": "Bodo"}])
    name = load_study(ROOT / "params" / "or.yaml", "paper").tasks[-1]
    (task,) = loading.load_tasks([name], "or", tmp_path).values()
    (doc,) = task.eval_docs
    assert task.doc_to_text(doc).splitlines()[0::4] == ["Question: ପ୍ରଶ୍ନ?", "D. ଉତ୍ତର d"]
    assert task.doc_to_choice(doc)[task.doc_to_target(doc)] == "C"


# from the Hub itself: what would be asked for


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What is asked of `datasets`, where every data set with a repository's name has a script."""
    places = []

    def load(place: str, name: str | None = None, data_files: str = "", **options: object) -> object:
        places.append(data_files or f"{place} {name or ''}".strip())
        if not data_files:
            raise RuntimeError("Dataset scripts are no longer supported, but found x.py")
        raise FileNotFoundError("no such file")

    monkeypatch.setattr(datasets, "load_dataset", load)
    return places


def test_the_hub_is_asked_for_the_set_and_then_its_conversion(asked, tmp_path):
    converted = "hf://datasets/juletxara/xstory_cloze@refs/convert/parquet/te/eval/*.parquet"
    reason = "RuntimeError: Dataset scripts are no longer supported, but found x.py"
    message = f"({reason}; tried: juletxara/xstory_cloze, {converted})"
    with pytest.raises(UserError) as found:
        loading.load_tasks(["story_choice"], "te", tmp_path)
    assert message in str(found.value)
    assert asked == ["juletxara/xstory_cloze te", converted]


def test_the_hub_is_asked_for_files_by_name(asked, tmp_path):
    with pytest.raises(
        UserError, match=r"FileNotFoundError: no such file; tried: hf://datasets/pkupie/milic-eval/data/"
    ):
        loading.load_tasks(["milic_math"], "kk", tmp_path)
    assert asked == [f"hf://datasets/pkupie/milic-eval/{p}math/kk/test.json" for p in ("data/", "")]
    asked.clear()
    with pytest.raises(UserError, match="cannot be opened"):
        list(corpus.read_hub("togethercomputer/RedPajama-Data-1T-Sample", files="*_sample.jsonl"))
    assert asked == ["hf://datasets/togethercomputer/RedPajama-Data-1T-Sample/*_sample.jsonl"]


def test_global_piqa_and_celep_are_read_as_the_harness_reads_them(tmp_path):
    row = {"prompt": "P", "label": 2, "language": "ory_orya"} | {f"solution{n}": f"s{n}" for n in range(4)}
    parquet(tmp_path / "hub/mrlbenchmarks/global-piqa-parallel/ory_orya/test/0.parquet", [row])
    doc = loading.load_tasks(["global_piqa"], "or", tmp_path)["global_piqa"]._splits["test"][0]
    assert (doc["prompt"], doc["options"][doc["answer"]]) == ("P", "s2")
    row = {
        "instruction": "I",
        "passage": "P",
        "question": "Q",
        "answer": "C",
        **dict(zip("ABCD", "abcd", strict=True)),
    }
    parquet(tmp_path / "hub/keramjan/CELEP1/main/train/0.parquet", [row])
    doc = loading.load_tasks(["celep"], "ug", tmp_path)["celep"]._splits["test"][0]
    assert (doc["prompt"], doc["options"][doc["answer"]]) == ("I\nP\nQuestion: Q\nAnswer:", "c")


@pytest.mark.parametrize("lang", ["bn", "bo", "mn", "or", "ta", "te", "ug"])
def test_every_task_of_preset_paper_has_its_rows_on_the_hub(lang):
    study = read_yaml(ROOT / "params" / f"{lang}.yaml")["paper"]
    for name in (*study["tasks"], *study.get("tasks_language", ())):
        assert loading.is_harness(name) or covers(task_file.spec(name), lang, "test")
    for name in study["tasks_en"]:
        assert covers(task_file.spec(name), "en", "test")
