"""Task files and items: safe reading, clear refusals, seeded sampling and shuffling, SFT rows."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from support.task_rows import TASK, labelled, write_rows, write_task

from lrnb import statistics
from lrnb.errors import UserError
from lrnb.tasks import loading, task_file
from lrnb.tasks.rows import _shape, data_file, distractors, documents, sft_examples


def docs_of(folder: Path, rows: list[object], **options: object) -> list[dict]:
    task = task_file.spec(write_task(folder))
    return documents(task, write_rows(folder, rows), lang="bn", **options)


def test_every_packaged_task_is_valid():
    specs = [task_file.spec(name) for name in task_file.available()]
    assert {"topic", "math", "next_passage", "translation_choice"} <= {s.name for s in specs}
    assert all(spec.name == spec.path.stem for spec in specs)
    families = get_args(task_file.Metadata.model_fields["family"].annotation)
    assert {spec.metadata.family for spec in specs} == set(families)


def test_documents_hold_prompt_and_shuffled_options(tmp_path):
    docs = docs_of(tmp_path, labelled(60))
    assert docs[7]["prompt"] == "t7 in Bengali?"
    assert all(doc["options"][doc["answer"]] == "red" for doc in docs[:20])
    assert {doc["answer"] for doc in docs[:20]} == {0, 1, 2}
    assert all(sorted(doc["options"]) == ["blue", "green", "red"] for doc in docs)
    assert docs == docs_of(tmp_path, labelled(60))
    assert docs != docs_of(tmp_path, labelled(60), seed=1)


def test_the_right_option_stands_equally_often_everywhere(tmp_path):
    docs = docs_of(tmp_path, labelled(900))
    counts = np.bincount([doc["answer"] for doc in docs], minlength=3)
    assert abs(counts - 300).max() < 60  # 4 standard errors


def test_limit_samples_over_sorted_labels_and_nests(tmp_path):
    small, large = (docs_of(tmp_path, labelled(300), limit=n) for n in (30, 90))
    assert len(small) == 30
    assert {doc["names"][doc["answer"]] for doc in small} == {"red", "blue", "green"}
    assert {doc["item"] for doc in small} <= {doc["item"] for doc in large}
    whole = {doc["item"]: doc for doc in docs_of(tmp_path, labelled(300))}
    assert all(whole[doc["item"]] == doc for doc in small)


def test_single_tasks_can_have_their_own_number_of_items(data_root):
    sizes = {"limit": 20, "limits": {"topic_en": 7}}
    loaded = loading.load_tasks(["topic", "topic_en"], "bn", data_root, **sizes)
    assert {name: len(task) for name, task in loaded.items()} == {"topic": 20, "topic_en": 7}
    with pytest.raises(UserError, match="did you mean 'topic'"):
        loading.load_tasks(["topic"], "bn", data_root, limits={"topc": 7})


def test_names_are_indices_in_the_file_for_long_options(tmp_path):
    rows = [{"text": "x", "options": ["one a", "two b", "three c"], "answer": 1}] * 5
    for doc in docs_of(tmp_path, rows):
        assert doc["names"][doc["answer"]] == "1"
        assert doc["options"][doc["names"].index("2")] == "three c"


@pytest.mark.parametrize("answer", [0, 1, 2, 7, 18, 99, 100, 1001, 70000, 276000, -3, 10**20])
@pytest.mark.parametrize("others", [[], [7, 2], [12, 18, 18, 57, 94, 31]])
def test_distractors_are_distinct_wrong_and_of_one_shape(answer, others):
    alike = [o for o in others if _shape(o) == _shape(answer)]
    for seed in range(50):
        found = distractors(answer, alike, np.random.default_rng(seed))
        assert len({answer, *found}) == 4
        assert {_shape(n) for n in found} == {_shape(answer)}
        assert set(found) <= set(others) or len(set(alike) - {answer}) < 3


def test_distractors_follow_the_seed():
    first, again, other = (
        [distractors(50, [], np.random.default_rng([s, i])) for i in range(20)] for s in (0, 0, 1)
    )
    assert first == again != other


def zeros(number: int) -> int:
    return len(str(number)) - len(str(number).rstrip("0"))


RULES = {  # options of an item -> how good each looks to one who has not read the question
    "roundest": lambda options: [zeros(n) for n in options],
    "central": lambda options: [-abs(n - np.median(options)) for n in options],
    "lowest": lambda options: [-n for n in options],
    "nearest to the others": lambda options: [-sum(abs(n - m) for m in options) for n in options],
}


@pytest.mark.parametrize("rows", ["all", "few"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lang", ["bn", "en"])
def test_math_cannot_be_guessed_without_the_question(data_root, tmp_path, lang, rule, rows):
    """Of the real MGSM items 250 over four seeds; "few": eight a file, so near numbers stand in."""
    path = data_file(task_file.spec("math"), lang, "test", data_root)
    lines, right, several = path.read_text().splitlines(keepends=True), [], 250 if rows == "all" else 8
    for seed, first in [(s, k) for s in range(4) for k in range(0, len(lines), several)]:
        (tmp_path / "rows.jsonl").write_text("".join(lines[first : first + several]))
        drawn = {"seed": 1000 * seed + first}  # draws go by seed and place in the file
        docs = documents(task_file.spec("math"), tmp_path / "rows.jsonl", lang=lang, **drawn)
        for doc in docs:
            looks = RULES[rule]([int(n) for n in doc["options"]])
            right.append((looks[doc["answer"]] == max(looks)) / looks.count(max(looks)))
    assert len(right) == 4 * 250
    low, high = statistics.interval([[right]]) if len(set(right)) > 1 else (right[0],) * 2
    assert low <= 0.25 <= high


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x", "label": "purple"}, "label 'purple' is not among"),
        ({"text": "x"}, "needs 'label'.*; the row has text$"),
        ({"text": "x", "answer": 1.5}, "a whole 'answer'"),
        ({"text": "x", "options": ["a", "b"], "answer": 2}, "an index into the 2 options"),
        ({"text": "x", "options": ["a"], "answer": 0}, "two or more texts"),
        ({"text": "x", "options": ["a", " "], "answer": 0}, "two or more texts"),
        ({"text": "x", "options": ["a", "a", "b"], "answer": 0}, "stands there twice"),
        ({"label": "red"}, "'text' is undefined.*; the row has label$"),
        ([1], "a JSON object is expected"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    with pytest.raises(UserError, match=message) as caught:
        docs_of(tmp_path, [*labelled(3), row])
    assert "test.jsonl:4" in str(caught.value)


def test_broken_json_and_empty_files_are_refused(tmp_path):
    task, path = task_file.spec(write_task(tmp_path)), write_rows(tmp_path, labelled(2))
    path.write_text(path.read_text() + '{"text": ')
    with pytest.raises(UserError, match=r"test\.jsonl:3: not JSON"):
        documents(task, path, lang="bn")
    path.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        documents(task, path, lang="bn")


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'topic'"):
        task_file.spec("topik")
    with pytest.raises(UserError, match="unknown task"):
        task_file.spec("../tasks/topic")


def test_missing_data_says_what_there_is(tmp_path):
    write_rows(tmp_path, labelled(3))
    task = task_file.spec(write_task(tmp_path))
    with pytest.raises(UserError, match="there is: bn/test") as caught:
        data_file(task, "ta", "dev", tmp_path)
    assert str(tmp_path / "eval/colour/ta/dev.jsonl") in str(caught.value)
    for root in (tmp_path / "nowhere", ""):
        with pytest.raises(UserError, match="set data_root"):
            data_file(task, "bn", "test", root)


def test_functions_in_task_files_are_refused(tmp_path):
    path = Path(write_task(tmp_path))
    for tag in ("!function os.system", "!!python/object/apply:os.system [ls]"):
        path.write_text(path.read_text() + f"doc_to_choice: {tag}\n")
        with pytest.raises(UserError, match="may not run code"):
            task_file.spec(str(path))


def test_templates_cannot_reach_python(tmp_path):
    trap = "{{ text.__class__.__mro__[1].__subclasses__() }}"
    task = task_file.spec(write_task(tmp_path, doc_to_text=trap))
    with pytest.raises(UserError, match="unsafe"):
        documents(task, write_rows(tmp_path, labelled(3)), lang="bn")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process_docs": "x"}, "'process_docs' is not allowed"),
        (
            {"output_type": "loglikelihood"},
            "output_type must be one of 'multiple_choice' or 'generate_until', not 'loglikelihood'",
        ),
        ({"output_type": "generate_until"}, "metric of generate_until must be one of exact_match, not 'acc'"),
        ({"output_type": "generate_until", "metric": "exact_match"}, "needs until"),
        ({"doc_to_txt": "x"}, "'doc_to_txt' is not allowed here; did you mean 'doc_to_text'"),
        ({"metadata": {**TASK["metadata"], "famly": "math"}}, "metadata 'famly' is not .*mean 'family'"),
        ({"hub": {}, "metadata": {**TASK["metadata"], "hubs": 1}}, "'hub' is not allowed|'hubs'"),
        ({"doc_to_text": "{{ text"}, "no valid template"),
        ({"family": "poetry"}, "metadata.family must be one of 'text_classification'.*, not 'poetry'"),
        ({"data": "../../etc"}, "inside the data root"),
        ({"sft": "/etc/passwd"}, "inside the data root"),
        (
            {"metadata": {}},
            "metadata.family is missing; metadata.metric is missing; metadata.data is missing",
        ),
    ],
)
def test_task_files_that_break_the_rules(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        task_file.spec(write_task(tmp_path, **changes))


def test_sft_examples_are_the_prompts_of_the_task(tmp_path):
    write_rows(tmp_path, labelled(30), "sft/colour.jsonl")
    name = write_task(tmp_path)
    found = sft_examples(name, 12, tmp_path, seed=3)
    right = {f"t{i} in English?": " " + row["label"] for i, row in enumerate(labelled(30))}
    assert len({example["prompt"] for example in found}) == 12
    assert all(right[example["prompt"]] == example["completion"] for example in found)
    assert found == sft_examples(name, 12, tmp_path, seed=3)
    assert found != sft_examples(name, 12, tmp_path, seed=4)
    with pytest.raises(UserError, match="has 30; ask for less"):
        sft_examples(name, 31, tmp_path)


def test_sft_examples_need_a_training_file(tmp_path):
    with pytest.raises(UserError, match="set data_root"):
        sft_examples(write_task(tmp_path), 1, tmp_path)
    with pytest.raises(UserError, match="no English training rows"):
        sft_examples(write_task(tmp_path, sft=None), 1, tmp_path)


def test_load_gives_harness_tasks(tmp_path):
    write_rows(tmp_path, labelled(9))
    write_rows(tmp_path, [{"text": "solved", "label": "blue"}] * 4, "sft/colour.jsonl")
    tasks = loading.load_tasks([write_task(tmp_path)], "bn", tmp_path, shots=2)
    task = tasks["colour"]
    task.build_all_requests()
    assert len(task) == 9
    assert task.chance == pytest.approx(1 / 3)
    shown = "solved in English? blue\n\n" * 2 + "t0 in Bengali?"
    assert task.instances[0].args[0] == shown
    assert sorted(r.args[1] for r in task.instances[:3]) == [" blue", " green", " red"]


REAL = [("topic", "bn"), ("topic", "mn"), ("topic_en", "bn"), ("math", "te"), ("math_en", "bn"),
        ("next_passage", "bo"), ("translation_choice", "ug"), ("tatoeba_choice", "mn"),
        ("causal_choice", "ta"), ("causal_choice_en", "ta")]  # fmt: skip


@pytest.mark.parametrize(("name", "lang"), REAL)
def test_real_files_load_and_render(data_root, name, lang):
    task = loading.load_tasks([name], lang, data_root, limit=40)[name]
    docs = task._splits["test"]
    options = {"topic": 7, "causal_choice": 2}.get(name.removesuffix("_en"), 4)
    assert {len(doc["options"]) for doc in docs} == {options}
    assert task.chance == pytest.approx(1 / options)
    assert len({doc["prompt"] for doc in docs}) > 35


@pytest.mark.parametrize(
    "name",
    [
        "topic",
        "math",
        "reading_comprehension",
        "response_selection",
        "next_passage",
        "causal_choice",
    ],
)
def test_real_sft_rows_render(data_root, name):
    found = sft_examples(name, 100, data_root)
    assert len(found) == 100
    assert all(e["prompt"].strip() and e["completion"].startswith(" ") for e in found)


def test_parallel_languages_give_the_same_rows(data_root):
    tasks = loading.load_tasks(["topic", "topic_en"], "bn", data_root, limit=50)
    bengali, english = (tasks[name]._splits["test"] for name in ("topic", "topic_en"))
    assert [d["item"] for d in bengali] == [d["item"] for d in english]
    assert [d["options"] for d in bengali] == [d["options"] for d in english]
    assert bengali[0]["prompt"] != english[0]["prompt"]


META = TASK["metadata"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_type": ["multiple_choice"]}, "output_type must be one of 'multiple_choice'"),
        ({"labels": 5}, "labels must be a list, not 5"),
        ({"target_delimiter": 3}, "target_delimiter must be a text, not 3"),
        ({"task": ["a"]}, "task must be a text"),
        ({"metadata": {**META, "native": ["bn"]}}, "native must be a mapping"),
        ({"metadata": {**META, "native": {"bn": 3}}}, "native.bn must be a template, or doc_to_text"),
        ({"metadata": {**META, "native": {"bn": {"doc_to_text": "x", "labels": 5}}}}, "must be a mapping"),
        ({"output_type": "generate_until", "metadata": {**META, "metric": "exact_match"},
          "generation_kwargs": ["x"]}, "generation_kwargs must be a mapping"),
        ({5: 1, "code": 2}, "'5' is not allowed here"),
    ],
)  # fmt: skip
def test_values_of_a_wrong_type_are_named(tmp_path, changes, message):
    path = tmp_path / "colour.yaml"
    top = {k: v for k, v in changes.items() if k != "labels"}
    meta = {**top.pop("metadata", META), **{k: v for k, v in changes.items() if k == "labels"}}
    path.write_text(yaml.safe_dump({**TASK, "metadata": meta, **top}))
    with pytest.raises(UserError, match=message):
        task_file.spec(str(path))


@pytest.mark.parametrize("text", ["{{ 1 / 0 }}", "{{ text + 1 }}", "{% include '/etc/passwd' %}"])
def test_a_template_that_fails_names_row_and_file(tmp_path, text):
    task = task_file.spec(write_task(tmp_path, doc_to_text=text))
    path = write_rows(tmp_path, labelled(3))
    with pytest.raises(UserError, match=r"test\.jsonl:1: .*needed by doc_to_text of .*colour\.yaml"):
        documents(task, path, lang="bn")
