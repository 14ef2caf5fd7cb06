"""Options without a token are refused before anything is scored; cut contexts are counted and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.pico import pico_tokenizer, save_pico, sharp
from support.pico_tasks import load_tasks

from lrnb.errors import UserError
from lrnb.scoring import evaluate
from lrnb.scoring.scorer import Scorer
from lrnb.tasks import loading

NOTHING = "♪"  # a text, but some tokenizers take it out


def losing_tokenizer():
    """The pico tokenizer, which takes notes out."""
    from tokenizers import normalizers

    tokenizer = pico_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(NOTHING, "")
    return tokenizer


def put_option(root: Path, row: int, option: str) -> None:
    path = root / "eval" / "choice" / "bn" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = next(n for n in range(4) if n != rows[row]["answer"])
    rows[row]["options"][wrong] = option
    path.write_text("".join(json.dumps(line) + "\n" for line in rows))


def test_an_option_without_a_token_names_task_and_item_before_anything_is_scored(root):
    put_option(root, 30, NOTHING)
    done = []
    judge = Scorer(sharp("llama"), losing_tokenizer(), progress=done.append)
    message = r"task 'choice', item 30 \(row 31\): the option ' ♪' has no token"
    for score in (evaluate.score_one, evaluate.dev_score):
        with pytest.raises(UserError, match=message):
            score(judge, load_tasks(root))
    assert done == []
    put_option(root, 30, "red house")
    assert len(evaluate.score_one(judge, load_tasks(root))) == 80


def test_an_option_longer_than_the_window_is_named(root):
    put_option(root, 3, " ".join(["red"] * 30))
    judge = Scorer(sharp("llama"), pico_tokenizer(), max_length=25)
    with pytest.raises(
        UserError, match=r"task 'choice', item 3 \(row 4\): an answer of 30 tokens does not fit"
    ):
        evaluate.score_one(judge, load_tasks(root))


def test_cut_contexts_are_counted_by_task_and_said(root, tmp_path, caplog):
    folder = save_pico(tmp_path / "m")
    tasks = load_tasks(root)  # contexts of 9 words in one, of 20 in the other, options of 1 to 4
    longest = [
        max(len(option.split()) for option in doc["options"]) for doc in tasks["choice"]._splits["test"]
    ]
    expected = [22 - (size - 1) < 20 for size in longest]
    assert 0 < sum(expected) < 40
    for _ in range(2):  # the second time from the cache
        scores, items = evaluate.score_models(
            {"m": folder}, tasks, device="cpu", max_length=22, cache=tmp_path / "cache"
        )
        assert scores.set_index("task")["cut"].to_dict() == {"label": 0, "choice": sum(expected)}
        assert items.loc[items["task"] == "choice", "cut"].tolist() == expected
    assert f"task 'choice': {sum(expected)} of 40 items are longer than the model's 22 tokens" in caplog.text
    assert "task 'label'" not in caplog.text


def test_cut_contexts_of_written_answers_are_counted_too(root):
    task = {"task": "write", "output_type": "generate_until", "doc_to_text": "{{text}}",
            "generation_kwargs": {"until": ["."], "max_gen_toks": 4},
            "metadata": {"family": "math", "metric": "exact_match", "data": "write"}}  # fmt: skip
    (root / "write.yaml").write_text(yaml.safe_dump(task))
    rows = [{"text": " ".join(["red"] * n), "answer": 1} for n in (5, 8, 9, 20)]
    (root / "eval" / "write" / "bn").mkdir(parents=True)
    (root / "eval" / "write" / "bn" / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    loaded = loading.load_tasks([str(root / "write.yaml")], "bn", root)
    items = evaluate.score_one(Scorer(sharp("llama"), pico_tokenizer(), max_length=12), loaded)
    assert items["cut"].tolist() == [False, False, True, True]
