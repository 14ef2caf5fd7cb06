"""MiLiC-Eval from files of exactly its shape: below the mirror of its repository and under eval/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bpe import byte_level_spec, save_bpe

from lrnb.errors import UserError
from lrnb.scoring import evaluate
from lrnb.tasks import loading, task_file
from lrnb.tasks.rows import solved

SPLITS = ("train_1", "train_2", "train_3", "dev", "test")
SIZE = {"test": 4, "dev": 2}


def choice_row(split: str, i: int) -> dict:
    turns = [f"A: {split} {i}", f"B: reply {i}"]
    options = [f"option {n} of {i}" for n in range(5 if i == 3 else 4)]
    return {"id": i, "context": turns, "options": options, "answer": "ABCDE"[4 if i == 3 else i % 4]}


def topic_row(split: str, i: int) -> dict:
    names = [("science", "科学"), ("sports", "体育")][i % 2]
    return {"id": i, "text": f"{split} {i}", "label": dict(zip(("en", "zh"), names, strict=True))}


def math_row(split: str, i: int) -> dict:
    solution = f"{split}: {i} and 2\nmake {i + 2}. The answer is {i + 2}."
    return {
        "id": i,
        "question": f"{split} {i} + 2 = ?",
        "answer": str(i + 2),
        "cot": {"en": solution, "zh": "加"},
    }


ROWS = {
    "response_selection": choice_row,
    "reading_comprehension": choice_row,
    "text_classification_sentence": topic_row,
    "text_classification_passage": topic_row,
    "math": math_row,
}
TASKS = {
    "milic_response": "response_selection",
    "milic_reading": "reading_comprehension",
    "milic_topic": "text_classification_sentence",
    "milic_topic_passage": "text_classification_passage",
    "milic_math": "math",
}


def write(folder: Path, row: object, size: int = 6) -> None:
    folder.mkdir(parents=True)
    for split in SPLITS:
        rows = [row(split, i) for i in range(SIZE.get(split, size))]  # type: ignore[operator]
        (folder / f"{split}.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False))


@pytest.fixture(params=["hub/pkupie/milic-eval/data", "hub/pkupie/milic-eval", "eval"])
def root(request, tmp_path) -> Path:
    """A data root with the files of Tibetan at one of the places where they may lie."""
    for name, folder in TASKS.items():
        place = name if request.param == "eval" else folder
        write(tmp_path / request.param / place / "bo", ROWS[folder])
    return tmp_path


def docs(name: str, root: Path, lang: str = "bo", **options: object) -> list[dict]:
    return loading.load_tasks([name], lang, root, **options)[name]._splits["test"]


def right(doc: dict) -> str:
    return doc["options"][doc["answer"]]


def test_turns_are_lines_and_answers_letters_up_to_e(root):
    found = docs("milic_response", root)
    assert found[1]["prompt"] == "A: test 1\nB: reply 1\nNext:"
    assert [right(doc) for doc in found] == [f"option {n} of {i}" for i, n in enumerate([0, 1, 2, 4])]
    assert len(found[3]["options"]) == 5
    assert docs("milic_reading", root)[0]["prompt"] == "A: test 0\nB: reply 0\nAnswer:"
    assert docs("milic_reading", root, split="dev")[1]["prompt"].startswith("A: dev 1\n")


def test_kazakh_and_mongolian_are_there_in_one_script():
    for name in (name for name in task_file.available() if name.startswith("milic")):
        hub = task_file.spec(name).metadata.hub
        assert hub.code_of("kk", "Arabic") == hub.code_of("kk") == "kk"
        assert hub.code_of("mn", "Mongolian") == "mn"
        assert hub.code_of("kk", "Cyrillic") == hub.code_of("mn", "Cyrillic") == ""
        assert hub.code_of("bo", "Tibetan") == "bo"


def test_topics_are_their_english_names(root):
    for name in ("milic_topic", "milic_topic_passage"):
        found = docs(name, root)
        assert found[1]["prompt"] == "Text: test 1\nTopic:"
        assert [right(doc) for doc in found] == ["science", "sports"] * 2
        assert sorted(found[0]["options"]) == ["science", "sports"]


def test_examples_in_math_show_the_worked_solution_and_items_are_judged_by_the_number(root):
    task = loading.load_tasks(["milic_math"], "bo", root, shots=2, seed=1)["milic_math"]
    task.build_all_requests()
    prompt = task.instances[0].args[0]
    assert prompt.endswith("\n\nQuestion: test 0 + 2 = ?\nAnswer:")
    example, again, _ = prompt.split("\n\n")
    number = int(example.split()[2])
    assert example == (
        f"Question: train_2 {number} + 2 = ?\nAnswer: train_2: {number} and 2 make {number + 2}. "
        f"The answer is {number + 2}."
    )
    assert again.startswith("Question: train_2")
    assert task.eval_docs[0]["answer"] == "2"
    assert task.process_results(task.eval_docs[0], ["0 and 2 make 2"])["exact_match"] == 1
    assert task.process_results(task.eval_docs[0], ["2 and 0 make 3"])["exact_match"] == 0


def test_a_solution_that_does_not_say_the_answer_last_ends_with_it(tmp_path):
    def row(split: str, i: int) -> dict:
        return math_row(split, i) | {"cot": {"en": f"{i + 2}, since 2 are added to 9", "zh": ""}}

    write(tmp_path / "eval" / "milic_math" / "bo", row)
    shown = solved(task_file.spec("milic_math"), "bo", tmp_path, 0)[1]["shown"]
    assert shown == "3, since 2 are added to 9 The answer is 3."


def lettered(root: Path, **options: object) -> object:
    task = loading.load_tasks(["milic_response_letters"], "bo", root, **options)["milic_response_letters"]
    task.build_all_requests()
    return task


@pytest.fixture
def letters_root(tmp_path) -> Path:
    write(tmp_path / "hub/pkupie/milic-eval/data/response_selection/bo", choice_row)
    write(tmp_path / "eval/milic_reading/bo", lambda split, i: choice_row(split, i) | {"question": f"Q{i}"})
    return tmp_path


def test_letters_stand_before_the_options_of_the_file_and_are_what_is_scored(letters_root):
    task = lettered(letters_root)
    context, letter = task.instances[1].args
    own = context.split("\n\n")
    assert own[-1] == (
        "A: test 0\nB: reply 0\n"
        "A. option 0 of 0\nB. option 1 of 0\nC. option 2 of 0\nD. option 3 of 0\nAnswer:"
    )
    assert letter == " B"
    assert [doc["answer"] for doc in task._splits["test"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 4, 4, 4]
    assert [a.args[1] for a in task.instances[-5:]] == [" A", " B", " C", " D", " E"]
    reading = loading.load_tasks(["milic_reading_letters"], "bo", letters_root)["milic_reading_letters"]
    assert "B: reply 2\nQuestion: Q2\nA. option" in reading._splits["test"][6]["prompt"]


def test_every_item_has_five_examples_of_each_training_set(letters_root):
    task = lettered(letters_root)
    assert (task.config.num_fewshot, len(task), task.distinct) == (5, 12, 4)
    shown = [request.args[0].split("\n\n")[:-1] for request in task.instances]
    sets = [{example.split()[1] for example in examples} for examples in shown]
    assert [len(examples) for examples in shown] == [5] * len(shown)
    assert sets[0] == {"train_1"}
    assert sets[:12:4] == [{"train_1"}, {"train_2"}, {"train_3"}]
    assert lettered(letters_root, shots=2).config.num_fewshot == 2


def test_a_score_is_the_mean_over_the_training_sets_and_counts_items_once(letters_root):
    task = lettered(letters_root)

    def right_with_the_first_set(sample: dict, scorer: object) -> dict:
        return {"item": sample["doc"]["item"], "correct": sample["doc"]["set"] == 0}

    task.item = right_with_the_first_set
    rows = task.items([{"doc": doc, "doc_id": n} for n, doc in enumerate(task._splits["test"])], None, {4})
    assert [row["item"] for row in rows] == [0, 1, 2, 3]
    assert [row["cut"] for row in rows] == [False, True, False, False]
    assert [row["correct"] for row in rows] == pytest.approx([1 / 3] * 4)


def test_shares_and_right_or_wrong_stand_in_one_table(letters_root, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    spec = byte_level_spec()
    size = {"vocab_size": len(spec["model"]["vocab"]), "hidden_size": 16, "intermediate_size": 32}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 4096}
    folder = save_bpe(
        tmp_path / "m", spec, LlamaForCausalLM(LlamaConfig(**size, **heads)), eos_token="<|end|>"
    )
    tasks = loading.load_tasks(["milic_response", "milic_response_letters"], "bo", letters_root)
    scores, items = evaluate.score_models({"m": folder}, tasks, cache=tmp_path / "cache", device="cpu")
    again, kept = evaluate.score_models({"m": folder}, tasks, cache=tmp_path / "cache", device="cpu")
    assert scores["n"].tolist() == [4, 4]
    assert scores["shots"].tolist() == [0, 5]
    assert items["correct"].dtype == kept["correct"].dtype == float
    items.to_parquet(tmp_path / "items.parquet")
    assert again["value"].tolist() == scores["value"].tolist()
    shares = items.loc[items["task"] == "milic_response_letters", "correct"]
    assert set((3 * shares).round(9)) <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "F"}, r"milic_response/bo/test\.json:1: 'answer' must be an index into the 4 options"),
        ({"answer": "Z9"}, r"test\.json:1: 'answer' must be an index"),
        ({"context": ["A: x", None]}, r"test\.json:1: 'context' is a list, but not of texts"),
        ({"context": []}, r"test\.json:1: 'context' is a list, but not of texts"),
        ({"options": ["a", " "]}, r"test\.json:1: 'options' must be two or more texts"),
    ],
)
def test_rows_that_break_the_shape_are_named(tmp_path, change, message):
    folder = tmp_path / "eval/milic_response/bo"
    write(folder, lambda split, i: choice_row(split, i) | (change if i == 0 else {}))
    for name in ("milic_response", "milic_response_letters"):
        with pytest.raises(UserError, match=message):
            docs(name, tmp_path)


def test_an_index_is_an_answer_too_and_a_label_needs_english(tmp_path):
    write(tmp_path / "eval/milic_response/bo", lambda s, i: choice_row(s, i) | {"answer": 2})
    assert {right(doc)[:8] for doc in docs("milic_response", tmp_path)} == {"option 2"}
    write(tmp_path / "eval/milic_topic/bo", lambda s, i: topic_row(s, i) | {"label": {"zh": "体育"}})
    with pytest.raises(UserError, match=r"test\.json:1: 'label' has no text under 'en', but \['zh'\]"):
        docs("milic_topic", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"test\.json: a JSON list of one row or more is expected"),
        ("[]", r"test\.json: a JSON list of one row or more is expected"),
        ("[1]", r"test\.json:1: a JSON object is expected, not int"),
        ('[{"text"', r"test\.json: not JSON \(.*mend the file, or fetch it again"),
        ("[" * 900 + "]" * 900, r"test\.json: not JSON \(more than 50 lists"),
        ("9" * 5000, r"test\.json: not JSON"),
    ],
)
def test_files_that_are_no_list_of_rows_are_named(tmp_path, text, message):
    (tmp_path / "eval/milic_topic/bo").mkdir(parents=True)
    (tmp_path / "eval/milic_topic/bo/test.json").write_text(text)
    with pytest.raises(UserError, match=message):
        docs("milic_topic", tmp_path)


def test_texts_are_in_one_unicode_form(tmp_path):
    typed = "\u09a1\u09bc"  # as one letter or as two: NFC has two
    write(tmp_path / "eval/milic_topic/bo", lambda s, i: topic_row(s, i) | {"text": "\u09dc"})
    assert docs("milic_topic", tmp_path)[0]["prompt"] == f"Text: {typed}\nTopic:"


@pytest.mark.parametrize("lang", ["bo", "ug", "kk", "mn"])
def test_all_four_languages_have_every_task(tmp_path, lang):
    for name, folder in TASKS.items():
        write(tmp_path / "hub/pkupie/milic-eval/data" / folder / lang, ROWS[folder])
        assert len(docs(name, tmp_path, lang)) == 4
