"""Examples before an item are never the item itself, nor a row of the same text."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import yaml
from support.task_rows import labelled, write_rows, write_task

from lrnb.errors import UserError
from lrnb.tasks import includes, loading


def prompts(task: object) -> list[str]:
    """The whole prompt of every item, its own part last."""
    task.build_all_requests()  # type: ignore[attr-defined]
    shown = {request.doc_id: request.args[0] for request in task.instances}  # type: ignore[attr-defined]
    return [shown[number] for number in sorted(shown)]


def own_rows(n: int) -> list[dict]:
    """Rows of XCOPA, whose right choice names the row."""
    return [
        {"premise": f"P{i}.", "choice1": f"right{i}", "choice2": f"wrong{i}", "question": "cause", "label": 0,
         "idx": i, "changed": False}
        for i in range(n)
    ]  # fmt: skip


def xcopa(root: Path, rows: list[dict], splits: tuple[str, ...], shots: int) -> object:
    """The harness's XCOPA over rows in one file, which is each of the splits."""
    path = root / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"data_files": dict.fromkeys(splits, str(path))}
    task = {"include": str(includes.OWN / "xcopa" / "default_ta.yaml"), "task": "own", "dataset_path": "json"}
    (root / "own.yaml").write_text(yaml.safe_dump({**task, "dataset_kwargs": files}))
    return loading.load_tasks([str(root / "own.yaml")], "ta", root, shots=shots)["own"]


@pytest.mark.parametrize("splits", [("test",), ("test", "validation")])
def test_no_item_is_among_its_own_examples(tmp_path, splits, caplog):
    found = prompts(xcopa(tmp_path, own_rows(12), splits, 3))
    assert len(found) == 12
    for number, prompt in enumerate(found):
        examples = prompt.split("\n\n")[:-1]
        assert len(examples) == 3
        assert f"right{number}" not in prompt
        assert all("right" in example for example in examples)
    assert "12 of its 12 items stand among its examples as well" in caplog.text


def test_where_too_few_are_left_it_is_refused(tmp_path):
    assert len(prompts(xcopa(tmp_path, own_rows(4), ("test",), 3))) == 4
    with pytest.raises(UserError, match="shots 3 is out of range for task 'own': it has 0 to 2 that are not"):
        xcopa(tmp_path, own_rows(3), ("test",), 3)
    twice = [*own_rows(3), own_rows(3)[0]]  # four rows, but two of them are one item
    with pytest.raises(UserError, match="it has 0 to 2 that are not the item itself"):
        xcopa(tmp_path, twice, ("test",), 3)


def test_without_shots_test_rows_alone_are_enough(tmp_path):
    assert len(prompts(xcopa(tmp_path, own_rows(2), ("test",), 0))) == 2


def test_examples_that_a_task_of_the_harness_brings_are_no_items_either(tmp_path):
    """gsm8k_cot shows its own examples in their order; an item that is one of them loses it."""
    known = yaml.safe_load((includes.OWN / "gsm8k" / "gsm8k-cot.yaml").read_text())["fewshot_config"][
        "samples"
    ]
    rows = [{"question": text, "answer": "so #### 3"} for text in (known[1]["question"], "1 + 2?")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"data_files": {"test": str(tmp_path / "own.jsonl")}}
    task = {"include": str(includes.OWN / "gsm8k" / "gsm8k-cot.yaml"), "task": "own", "dataset_path": "json"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**task, "dataset_kwargs": files}))
    loaded = loading.load_tasks([str(tmp_path / "own.yaml")], "en", tmp_path, shots=3)["own"]
    one, other = prompts(loaded)
    starts = [sample["question"][:40] for sample in known]
    assert [one.count(start) for start in starts[:5]] == [1, 1, 1, 1, 0]  # the second is the item itself
    assert one.rindex(starts[1]) > one.rindex(starts[3])
    assert [other.count(start) for start in starts[:4]] == [1, 1, 1, 0]


def test_a_twin_in_the_training_rows_is_not_shown_before_its_item(tmp_path, caplog):
    test = [{"text": f"caf\u00e9 {i}", "label": "red"} for i in range(6)]
    twins = [{"text": unicodedata.normalize("NFD", f"  caf\u00e9   {i}"), "label": "blue"} for i in range(3)]
    write_rows(tmp_path, test)
    write_rows(tmp_path, [*twins, *labelled(3)], "eval/colour/bn/train.jsonl")
    name = write_task(tmp_path)
    for seed in range(5):
        task = loading.load_tasks([name], "bn", tmp_path, shots=3, seed=seed)["colour"]
        for number, prompt in enumerate(prompts(task)):
            *examples, own = prompt.split("\n\n")
            assert own.startswith(f"caf\u00e9 {number}")
            shown = [unicodedata.normalize("NFC", " ".join(example.split())) for example in examples]
            assert len(shown) == 3
            assert not any(example.startswith(f"caf\u00e9 {number} ") for example in shown)
    assert "task 'colour': 3 of its 6 items stand among its examples as well" in caplog.text
    other = [prompt for prompt in prompts(task) if "blue" in prompt]
    assert other  # twins of other items may be shown


def test_without_twins_the_draw_is_the_harness_s_own(tmp_path, caplog):
    write_rows(tmp_path, labelled(6))
    rows = [{"text": f"e{i}", "label": "red"} for i in range(8)]
    write_rows(tmp_path, rows, "eval/colour/bn/train.jsonl")
    name = write_task(tmp_path)
    task = loading.load_tasks([name], "bn", tmp_path, shots=3, seed=7)["colour"]
    plain = loading.load_tasks([name], "bn", tmp_path, shots=3, seed=7)["colour"]
    plain.sampler = plain.sampler.sampler  # as the harness made it
    assert prompts(task) == prompts(plain)
    assert "stand among" not in caplog.text
