"""Where tasks come from: prompts in the language, examples, the Hub's layouts, the harness's own tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.task_rows import labelled, write_rows, write_task

from lrnb.data.character_kinds import script_share
from lrnb.errors import UserError
from lrnb.study.parameters import ROOT, read_yaml
from lrnb.tasks import includes, loading, task_file
from lrnb.tasks.hub import covers
from lrnb.tasks.rows import solved

LANGS = ("ta", "te", "or", "bn", "bo", "ug", "mn")


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


# prompts in the language


@pytest.mark.parametrize("lang", LANGS)
def test_native_prompts_are_in_the_language_s_script_and_cover_its_tasks(lang):
    study = read_yaml(ROOT / "params" / f"{lang}.yaml")
    prompts = task_file.native_prompts(lang)
    assert set(prompts) <= set(task_file.available())
    for name in prompts:
        prompt = task_file.spec(name).prompt_in(lang, "native")
        row = dict.fromkeys(("text", "question", "context", "passage"), "") | {"options": [], "letters": ""}
        shown = prompt.template.render(row | {"relation": "cause"}) + "".join(prompt.labels)
        scripts = {study["script"], "Mongolian"} if name.startswith("milic") else {study["script"]}
        assert not shown.strip() or max(script_share(shown, script) for script in scripts) == 1
    own = {*study["tasks"], *(name for name in prompts if "hub" in str(task_file.spec(name).metadata.hub))}
    for name in {*own, *(n for n in task_file.available() if covers(task_file.spec(n), lang, "test"))}:
        assert name in prompts


def test_native_prompts_change_words_not_what_is_right(data_root):
    both = [
        loading.load_tasks(["topic"], "bn", data_root, limit=40, prompts=p)["topic"]
        for p in ("english", "native")
    ]
    english, native = (task._splits["test"] for task in both)
    for a, b in zip(english, native, strict=True):
        assert (a["item"], a["answer"], a["names"]) == (b["item"], b["answer"], b["names"])
        assert not set(a["options"]) & set(b["options"])
        assert a["prompt"].removeprefix("Text: ").removesuffix("\nTopic:") in b["prompt"]
    where = english[0]["names"].index("politics")
    assert native[0]["options"][where] == "রাজনীতি"
    assert native[0]["prompt"].endswith("\nবিষয়:")


def test_english_versions_keep_english_prompts(data_root):
    loaded = loading.load_tasks(["topic_en"], "bn", data_root, limit=3, prompts="native")["topic_en"]
    assert loaded._splits["test"][0]["prompt"].startswith("Text: ")


def test_reading_items_says_how_far_it_is_without_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("LRNB_PROGRESS", str(told := tmp_path / "progress.json"))
    write_rows(tmp_path, labelled(3), "eval/colour/en/test.jsonl")
    write_rows(tmp_path, labelled(3), "eval/colour/bn/test.jsonl")
    name = write_task(tmp_path)
    loading.load_tasks([name, f"{name}_en", name], "bn", tmp_path)
    found = json.loads(told.read_text())
    assert (found["stage"], found["done"], found["total"]) == ("reading items", 2, 2) and found["rate"] > 0


def test_a_task_file_has_an_english_version_too(tmp_path):
    write_rows(tmp_path, labelled(3), "eval/colour/en/test.jsonl")
    loaded = loading.load_tasks([write_task(tmp_path) + "_en"], "bn", tmp_path)
    assert loaded["colour_en"]._splits["test"][0]["prompt"] == "t0 in English?"


def test_a_task_file_can_bring_its_own_native_prompt(tmp_path):
    write_rows(tmp_path, labelled(3))
    native = {"bn": {"doc_to_text": "{{text}}?", "labels": {"red": "লাল", "blue": "নীল", "green": "সবুজ"}}}
    meta = json.loads(json.dumps(yaml.safe_load(Path(write_task(tmp_path)).read_text())["metadata"]))
    name = write_task(tmp_path, metadata={**meta, "native": native})
    doc = loading.load_tasks([name], "bn", tmp_path, prompts="native")["colour"]._splits["test"][0]
    assert (doc["prompt"], sorted(doc["options"])) == ("t0?", sorted(["লাল", "নীল", "সবুজ"]))
    with pytest.raises(UserError, match="has no prompt in 'ta'"):
        task_file.spec(name).prompt_in("ta", "native")
    del native["bn"]["labels"]["green"]
    with pytest.raises(UserError, match="lack 'green'"):
        task_file.spec(write_task(tmp_path, metadata={**meta, "native": native})).prompt_in("bn", "native")


# examples before an item


def shown_before(root: Path, **options: object) -> str:
    task = loading.load_tasks([write_task(root)], "bn", root, shots=1, **options)["colour"]
    task.build_all_requests()
    return task.instances[0].args[0]


def test_examples_are_in_the_language_where_there_are_any(tmp_path):
    write_rows(tmp_path, labelled(3))
    write_rows(tmp_path, [{"text": "english", "label": "red"}], "sft/colour.jsonl")
    assert shown_before(tmp_path).startswith("english in English? red")
    write_rows(tmp_path, [{"text": "own", "label": "red"}], "eval/colour/bn/train.jsonl")
    assert shown_before(tmp_path).startswith("own in Bengali? red")


def test_the_seed_picks_one_of_several_training_sets(tmp_path):
    write_rows(tmp_path, labelled(3))
    for number in (1, 2, 3):
        write_rows(
            tmp_path, [{"text": f"set{number}", "label": "red"}], f"eval/colour/bn/train_{number}.jsonl"
        )
    assert [shown_before(tmp_path, seed=seed)[:4] for seed in range(4)] == ["set1", "set2", "set3", "set1"]


def test_examples_follow_the_seed_and_stay(data_root):
    def shown(seed: int) -> list[str]:
        task = loading.load_tasks(["math"], "bn", data_root, limit=5, seed=seed, shots=2)["math"]
        task.build_all_requests()
        return [request.args[0] for request in task.instances]

    assert shown(1) == shown(1)
    assert shown(1)[0].split("\n\n")[:2] != shown(2)[0].split("\n\n")[:2]
    assert script_share(shown(1)[0], "Bengali") > 0.5


# the Hub's layouts, as folders on disk


def hub(root: Path, path: str) -> Path:
    folder = root / "hub" / path
    folder.mkdir(parents=True)
    return folder


def configured(folder: Path, config: str, splits: dict[str, list[dict]]) -> None:
    """A data set with a configuration, its files named in the card, as on the Hub."""
    files = [{"split": split, "path": f"data/{config}/{split}.jsonl"} for split in splits]
    for split, rows in splits.items():
        lines(folder / "data" / config / f"{split}.jsonl", rows)
    card = yaml.safe_dump({"configs": [{"config_name": config, "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{card}---\n")


def docs(name: str, lang: str, root: Path, **options: object) -> list[dict]:
    return loading.load_tasks([name], lang, root, **options)[name]._splits["test"]


def test_sib_200_from_its_layout(tmp_path):
    folder = hub(tmp_path, "Davlan/sib200") / "data" / "ben_Beng"
    folder.mkdir(parents=True)
    rows = [f"{i}\ttravel\tt{i}\n" for i in range(3)]
    for name, n in {"test": 3, "dev": 1, "train": 2}.items():
        (folder / f"{name}.tsv").write_text("index_id\tcategory\ttext\n" + "".join(rows[:n]))
    found = docs("topic", "bn", tmp_path)
    assert [doc["prompt"] for doc in found] == [f"Text: t{i}\nTopic:" for i in range(3)]
    assert {doc["names"][doc["answer"]] for doc in found} == {"travel"}
    assert len(docs("topic", "bn", tmp_path, split="dev")) == 1
    assert loading.has_dev("topic", "bn", tmp_path)
    assert len(solved(task_file.spec("topic"), "bn", tmp_path, 0)) == 2


def test_local_files_win_over_the_hub(tmp_path):
    configured(hub(tmp_path, "Davlan/sib200"), "ben_Beng", {"test": [{"category": "travel", "text": "hub"}]})
    write_rows(tmp_path, [{"text": "local", "label": "travel"}], "eval/topic/bn/test.jsonl")
    assert docs("topic", "bn", tmp_path)[0]["prompt"].startswith("Text: local")


def test_belebele_from_its_layout(tmp_path):
    row = {"flores_passage": "P", "question": "Q", "correct_answer_num": "3"}
    row |= {f"mc_answer{n}": f"A{n}" for n in range(1, 5)}
    configured(hub(tmp_path, "facebook/belebele"), "khk_Cyrl", {"test": [row]})
    doc = docs("belebele", "mn", tmp_path)[0]
    assert (doc["prompt"], doc["options"][doc["answer"]]) == ("P\nQuestion: Q\nAnswer:", "A3")


def test_xcopa_from_its_layout(tmp_path):
    row = {"premise": "P", "choice1": "a", "choice2": "b", "question": "effect", "label": 1, "idx": 0}
    configured(hub(tmp_path, "cambridgeltl/xcopa"), "ta", {"test": [row], "validation": [row]})
    doc = docs("causal_choice", "ta", tmp_path)[0]
    assert (doc["prompt"], doc["options"][doc["answer"]]) == ("P\nWhat was the effect?", "b")


def test_xstorycloze_from_its_layout(tmp_path):
    row = {f"input_sentence_{n}": f"s{n}." for n in range(1, 5)}
    row |= {"sentence_quiz1": "e1", "sentence_quiz2": "e2", "answer_right_ending": 2}
    configured(hub(tmp_path, "juletxara/xstory_cloze"), "te", {"eval": [row], "train": [row]})
    doc = docs("story_choice", "te", tmp_path)[0]
    assert (doc["prompt"], doc["options"][doc["answer"]]) == ("s1. s2. s3. s4.", "e2")


def test_mgsm_from_its_layout(tmp_path):
    row = {"question": "Q", "answer": "", "answer_number": 7, "equation_solution": ""}
    example = {**row, "question": "ప్రశ్న: Q0", "answer": "దశ: 3 + 4 = 7"}
    configured(hub(tmp_path, "juletxara/mgsm"), "te", {"test": [row], "train": [example]})
    assert docs("math_generate", "te", tmp_path)[0]["answer"] == "7"
    assert len(docs("math", "te", tmp_path)[0]["options"]) == 4
    assert solved(task_file.spec("math_generate"), "te", tmp_path, 0)[0]["prompt"] == "Question: Q0\nAnswer:"


def test_indic_xcopa_from_its_layout(tmp_path):
    row = {"premise": "P", "choice1": "a", "choice2": "b", "question": "cause", "label": 0, "changed": False}
    lines(hub(tmp_path, "ai4bharat/IndicCOPA") / "data" / "test.or.jsonl", [row])
    doc = docs("indic_causal_choice", "or", tmp_path)[0]
    assert (doc["prompt"], doc["options"][doc["answer"]]) == ("P\nWhat was the cause?", "a")


@pytest.mark.parametrize("answer", [None, "A", "1,5"])
def test_a_milic_answer_that_is_no_number_is_refused_not_zero(tmp_path, answer):
    path = hub(tmp_path, "pkupie/milic-eval") / "math" / "bo" / "test.json"
    path.parent.mkdir(parents=True)
    rows = [{"question": "Q", "answer": "1,200"}, {"question": "Q", "answer": "12 km"}]
    path.write_text(json.dumps(rows))
    assert [doc["answer"] for doc in docs("milic_math", "bo", tmp_path)] == ["1200", "12"]
    path.write_text(json.dumps([*rows, {"question": "Q", "answer": answer}]))
    with pytest.raises(UserError, match=rf"pkupie/milic-eval \(bo, test\):3: 'answer' is {answer!r};"):
        docs("milic_math", "bo", tmp_path)


@pytest.fixture
def colours(tmp_path):
    """A task file whose rows are on the Hub only; returns a function that loads it."""
    hub(tmp_path, "me/colours")
    lines(tmp_path / "hub" / "me" / "colours" / "bn.jsonl", [{"t": "x", "c": "red"}])
    source = {"path": "me/colours", "code": {"bn": "bn"}, "files": "{code}.jsonl", "splits": {"test": "test"}}

    def load(**changes: object):
        meta = yaml.safe_load(Path(write_task(tmp_path)).read_text())["metadata"]
        given = {**source, "fields": {"text": "t", "label": "c"}, **changes}
        return docs_of_colour(write_task(tmp_path, metadata={**meta, "hub": given}), tmp_path)

    return load


def docs_of_colour(name: str, root: Path) -> list[dict]:
    return loading.load_tasks([name], "bn", root)["colour"]._splits["test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fields": {"text": "t", "label": "colour"}},
            r"no such field for 'label'.*the row has \['c', 't'\]",
        ),
        ({"fields": {"text": "t | int(", "label": "c"}}, "no valid expression"),
        ({"fields": {"text": "t.__class__.__mro__", "label": "c"}}, "unsafe|no such field"),
        ({"path": "../elsewhere"}, "inside the data root"),
        ({"fields": None, "code": None}, "metadata.hub.code is missing; metadata.hub.fields is missing"),
        ({"files": "../../../secret.jsonl"}, "inside the data root"),
        ({"files": "{code}.jsonl", "code": {"bn": "../../../secret"}}, "inside the data root"),
        ({"files": "{code}.jsonl", "code": {"bn": "/secret"}}, "inside the data root"),
        ({"files": 3}, r"hub.files must be a text or a list of texts, not 3"),
        ({"files": ["none.jsonl", "nor.jsonl"]}, "cannot be had.*; tried: .*/me/colours/none.jsonl"),
        ({"fields": {"text": "1 / 0", "label": "c"}}, "division by zero"),
        ({"files": "{nope}.jsonl"}, "cannot be filled in"),
        ({"files": "{code}/none.jsonl"}, "cannot be had.*Check the network.*/hub/me/colours, or rows"),
        (
            {"splits": {"test": []}},
            r"colour\.yaml: metadata\.hub\.splits\.test must have one entry or more, not \[\]",
        ),
        ({"splits": {"test": "test", "train": []}}, r"hub\.splits\.train must have one entry or more"),
        ({"splits": {"test": ["test", 3]}}, r"splits\.test\.1 must be a text, not 3"),
        ({"splits": {"test": None}}, r"splits\.test must be a text or a list of texts, not None"),
        ({"splits": {"test": ""}}, r"splits\.test\.0 must be a text that is not empty"),
        (
            {"splits": {"test": {"name": "test"}}},
            r"splits\.test must be a text or a list of texts, not {'name'",
        ),
    ],
)
def test_hub_sections_that_break_the_rules(colours, tmp_path, changes, message):
    assert colours()[0]["prompt"] == "x in Bengali?"
    lines(tmp_path / "secret.jsonl", [{"t": "secret", "c": "red"}])  # beside the data root's hub folder
    with pytest.raises(UserError, match=message):
        colours(**changes)


def test_a_language_that_nobody_has_says_what_there_is(tmp_path):
    with pytest.raises(UserError, match="task 'belebele' has no file"):
        loading.load_tasks(["belebele"], "ug", tmp_path)


def test_sib_200_and_belebele_are_found_in_every_language_and_script():
    """The lists are those that libraries hold: the harness's of Belebele, NLLB's of FLORES-200."""
    import lm_eval
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as flores

    sib, belebele = (task_file.spec(name).metadata.hub for name in ("topic", "belebele"))
    folder = Path(lm_eval.__file__).parent / "tasks" / "belebele"
    assert set(belebele.code) == {p.stem.removeprefix("belebele_") for p in folder.glob("belebele_*_*.yaml")}
    beside = {"arb_Latn", "min_Arab", "nqo_Nkoo", "sat_Olck"}  # NLLB calls the last one sat_Beng
    assert set(sib.code) == set(flores) - {"sat_Beng"} | beside
    known = {"kk": ("Cyrillic", "kaz_Cyrl"), "km": ("Khmer", "khm_Khmr"), "sat": ("Ol_Chiki", "sat_Olck")}
    assert all(sib.code_of(lang, script) == code for lang, (script, code) in known.items())
    assert sib.code_of("kk", "Arabic") == sib.code_of("mn", "Mongolian") == ""
    assert (
        sib.code_of("en", "Thai") == belebele.code_of("en", "Thai") == "eng_Latn"
    )  # X's script, English items


def test_the_study_s_script_picks_the_configuration(tmp_path):
    for code, text in (("kas_Arab", "کٲشُر"), ("kas_Deva", "कॉशुर"), ("eng_Latn", "Kashmiri")):
        path = tmp_path / "hub" / "Davlan" / "sib200" / "data" / code / "test.tsv"
        path.parent.mkdir(parents=True)
        path.write_text(f"index_id\tcategory\ttext\n1\ttravel\t{text}\n", encoding="utf-8")
    for script, text in (("Arabic", "کٲشُر"), ("Devanagari", "कॉशुर")):
        loaded = loading.load_tasks(["topic", "topic_en"], "ks", tmp_path, script=script)
        assert text in loaded["topic"]._splits["test"][0]["prompt"]
        assert "Kashmiri" in loaded["topic_en"]._splits["test"][0]["prompt"]
    with pytest.raises(UserError, match="no file .*sib200 on the Hub has none in this language and script"):
        loading.load_tasks(["topic"], "ks", tmp_path, script="Latin")


def test_an_empty_split_on_the_hub_is_refused(colours, tmp_path):
    (tmp_path / "hub" / "me" / "colours" / "bn.jsonl").write_text("")
    with pytest.raises(UserError, match="me/colours.*(is empty|cannot be had)"):
        colours()


# values out of range, two tasks of one name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit 0 is out of range; it is at least 1"),
        ({"limit": -5}, "limit -5 is out of range"),
        ({"shots": -1}, "shots -1 is out of range; it is at least 0"),
        ({"shots": 4}, "shots 4 is out of range for task 'colour': it has 0 to 3"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"prompts": "klingon"}, "prompts 'klingon' is not known; it is one of english, native"),
        ({"normalisation": "foo"}, "normalisation 'foo' is not known; it is one of task, none"),
        ({"split": "train"}, "split 'train' is not known; it is one of test, dev"),
    ],
)
def test_options_out_of_range_are_named(tmp_path, options, message):
    write_rows(tmp_path, labelled(6))
    examples = [{**row, "text": f"e{i}"} for i, row in enumerate(labelled(3))]
    write_rows(tmp_path, examples, "eval/colour/bn/train.jsonl")
    name = write_task(tmp_path)
    assert len(loading.load_tasks([name], "bn", tmp_path, limit=1, shots=3, seed=0)["colour"]) == 1
    with pytest.raises(UserError, match=message):
        loading.load_tasks([name], "bn", tmp_path, **options)


def test_two_tasks_of_one_name_are_refused(tmp_path):
    write_rows(tmp_path, labelled(6))
    first = Path(write_task(tmp_path))
    second = first.with_name("other.yaml")
    second.write_text(first.read_text())
    assert list(loading.load_tasks([str(first)] * 2, "bn", tmp_path)) == ["colour"]
    with pytest.raises(UserError, match=r"two tasks are called 'colour', the second is .*other\.yaml"):
        loading.load_tasks([str(first), str(second)], "bn", tmp_path)


# files that cannot be read


def test_a_folder_named_as_a_task_file_is_refused(tmp_path):
    folder = tmp_path / "colour.yaml"
    folder.mkdir()
    for use in (task_file.spec, lambda name: loading.load_tasks([name], "bn", tmp_path), harness_file):
        with pytest.raises(
            UserError, match=r"colour\.yaml cannot be read \(Is a directory\); give a \.yaml file"
        ):
            use(str(folder))


def harness_file(name: str) -> object:
    from lrnb.tasks import harness

    return harness.load_file(Path(name), 0, mirrors=Path(name), limit=None, seed=0)


def test_a_task_file_without_permission_is_refused(tmp_path, monkeypatch):
    name, read = write_task(tmp_path), Path.read_text

    def denied(path: Path, *given: object, **options: object) -> str:
        if str(path) == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *given, **options)

    assert task_file.spec(name).name == "colour"
    monkeypatch.setattr(Path, "read_text", denied)  # root may read every file
    for use in (task_file.spec, lambda name: loading.load_tasks([name], "bn", tmp_path), harness_file):
        with pytest.raises(
            UserError,
            match=r"colour\.yaml cannot be read \(Permission denied\); give a \.yaml file that you may read",
        ):
            use(name)


def test_files_that_include_each_other_are_refused(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("include: two.yaml\n")
    two.write_text("include: one.yaml\n")
    with pytest.raises(UserError, match=r"one\.yaml includes itself"):
        loading.load_tasks([str(one)], "bn", tmp_path)


def test_a_harness_task_without_its_data_says_where_they_go(tmp_path):

    path = tmp_path / "local_xcopa.yaml"
    task = {"include": str(includes.OWN / "xcopa" / "default_ta.yaml"), "dataset_path": "me/nowhere"}
    path.write_text(yaml.safe_dump(task))
    (tmp_path / "hub" / "me" / "nowhere").mkdir(parents=True)
    message = r"the data of harness task .* \(me/nowhere\) cannot be had .*files into .*hub/me/nowhere$"
    with pytest.raises(UserError, match=message):
        loading.load_tasks([str(path)], "ta", tmp_path)


def test_a_packaged_file_that_is_wrong_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a task that nobody knows."""
    text = (task_file.FOLDER / "next_passage.yaml").read_text(encoding="utf-8")
    (tmp_path / "antonyms.yaml").write_text(text.replace("family: ", "family: lexical  # "))
    monkeypatch.setattr(task_file, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"antonyms.yaml: .*family must be one of"):
        loading.load_tasks(["antonyms"], "bn", tmp_path)
