"""Written answers: numbers in any digits, batched greedy generation, the counting of exact matches."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.pico import pico_model, pico_tokenizer, sharp

from lrnb.errors import UserError
from lrnb.scoring import evaluate, scorer
from lrnb.tasks import loading, task_file
from lrnb.tasks.rows import documents
from lrnb.tasks.written_answers import exact, number_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18", "18"),
        ("উত্তর হল ১৮।", "18"),  # Bengali
        ("సమాధానం ౧౮.", "18"),  # Telugu
        ("பதில் ௧௮", "18"),  # Tamil
        ("ଉତ୍ତର ୧୮", "18"),  # Odia
        ("ལན་ནི་༡༨།", "18"),  # Tibetan
        ("جاۋاب ١٨", "18"),  # Arabic-Indic
        ("ᠬᠠᠷᠢᠭᠤ ᠑᠘", "18"),  # traditional Mongolian
        ("$1,234,567.50", "1234567.5"),
        ("১০,০০,০০০ টাকা", "1000000"),  # Indian groups
        ("١٬٢٣٤٫٥", "1234.5"),
        ("-৭", "-7"),
        ("\u22127 degrees", "-7"),
        ("5-3", "3"),  # no minus after a digit
        ("x-3", "3"),
        ("2, 3", "3"),
        ("కోవిడ్-19", "19"),  # no minus after a vowel sign or virama
        ("1 000 000", "1000000"),
        ("1\u00a0000\u00a0000", "1000000"),
        ("12\u202f000 km", "12000"),
        ("10 00 000", "1000000"),
        ("১২،৩৪৫", "12345"),  # Arabic comma
        ("1.000.000", "1000000"),
        ("1.000", "1"),  # one point is a decimal point
        ("1,234.50 and 2024 1 000", "1000"),
        ("12 345 6789", "6789"),
        ("5, 100", "100"),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.1"),
        ("1,23", ""),  # decimal comma or list: refused, as every form that is not certain
        ("1,5", ""),
        ("1,2345", ""),
        ("1 2345", "2345"),
        ("1 000,5", ""),
        ("12 then 3/4", ""),
        ("3 / 4", ""),
        ("2 1/2", ""),
        ("১½", ""),
        ("12, then ½", ""),
        ("1.2.3", ""),
        ("1234 000", ""),
        ("12 / 4 = 3", "3"),
        ("007.0", "7"),
        ("-0", "0"),
        ("18.", "18"),
        (".5", "0.5"),  # a point before the first digit
        ("about .5 of it", "0.5"),
        ("$.50", "0.5"),
        ("-.5", "-0.5"),
        ("৳ .৫", "0.5"),
        ("٫٥", "0.5"),
        ("5-.5", "0.5"),
        ("No.5", "5"),  # of a word, an ellipsis
        ("সংখ্যা.৫", "5"),
        ("it is ...5", "5"),
        ("12 .5", ""),
        (".5.5", ""),
        ("1/.5", ""),
        ("3/4.5", ""),
        ("1e5", ""),
        ("1E5", ""),
        ("1.5e3", ""),
        ("1e-3", ""),
        ("1e\u22123", ""),
        ("১e৫", ""),
        (".5e3", ""),
        ("1.e5", ""),
        ("1e5 or 7", "7"),
        ("10^5", ""),
        ("10⁵", ""),
        ("2**10", ""),
        ("2e 5", "5"),
        ("7 m²", "7"),
        ("10 20 30", "30"),  # a list
        ("১০ ২০ ৩০", "30"),
        ("10 200 300", ""),  # a list, or groups of one number
        ("12 500 km", ""),
        ("1 500 000", ""),
        ("1 000 500", ""),
        ("10 20 300", ""),
        ("10 20 30 400 500", ""),
        ("10\u00a0200\u00a0300", "10200300"),
        ("1 050", "1050"),
        ("1 000.50", "1000.5"),
        ("5 1 000", "1000"),
        ("no number, ½ neither", ""),
        ("", ""),
    ],
)
def test_numbers_are_read_in_any_digits(text, expected):
    assert number_in(text) == expected


def test_the_rule_says_which_number_counts():
    text = "first 12 eggs, then 34"
    assert (number_in(text, "first"), number_in(text, "last")) == ("12", "34")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((12, "12"), (12.0, "12"), (-1.5, "-1.5"), (1e22, "1" + 22 * "0")),
        *(("1,200", "1200"), ("12 km", "12"), (".5", "0.5"), (0.5, "0.5"), (1e-07, "0.0000001")),
        *(("1e5", ""), ("10 200 300", ""), ("10 20 30", "")),
        *((None, ""), ("A", ""), (True, ""), (float("nan"), ""), ("12 or 13", ""), ("1,5", ""), ([3], "")),
    ],
)
def test_a_right_answer_is_read_whole_or_refused(value, expected):
    assert exact(value) == expected


whole = st.integers(0, 10**10)
digits = st.sampled_from(["0123456789", "০১২৩৪৫৬৭৮৯", "༠༡༢༣༤༥༦༧༨༩", "٠١٢٣٤٥٦٧٨٩"])


@given(st.lists(whole, min_size=1), digits, st.sampled_from(["{}", "so {}.", "({})"]))
def test_a_list_gives_its_last_number_or_none(numbers, script, around):
    text = around.format(" ".join(map(str, numbers))).translate(str.maketrans("0123456789", script))
    assert number_in(text) in (str(numbers[-1]), "")
    assert number_in(text, "first") in (str(numbers[0]), "")
    if all(len(str(n)) != 3 for n in numbers):  # no group of thousands is there
        assert (number_in(text), number_in(text, "first")) == (str(numbers[-1]), str(numbers[0]))


@given(whole, st.integers(0, 9), st.integers(1, 6), digits)
def test_every_way_to_write_a_number_gives_it_or_nothing(n, tenth, power, script):
    def read(text: str) -> str:
        return number_in(text.translate(str.maketrans("0123456789", script)))

    grouped = f"{n:,}"
    assert read(grouped) == read(grouped.replace(",", "\u202f")) == str(n)
    later = grouped.split(",")[1:]
    assert read(grouped.replace(",", " ")) == (str(n) if all(g[0] == "0" for g in later) else "")
    assert read(f".{n}{tenth}") == read(f"0.{n}{tenth}")
    assert read(f"{n}.{tenth}e{power}") == read(f"{n}E-{power}") == read(f"{n}^{power}") == ""


def test_the_first_number_is_not_a_part_of_a_mixed_one():
    assert (number_in("2 1/2", "first"), number_in("2 ½ or 3", "first")) == ("", "")


def asked(prompts: list[str], **options) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=(prompt, {"max_gen_toks": 8, "until": [], **options})) for prompt in prompts]


def alone(model, tokenizer, prompt: str, new: int) -> list[int]:
    """Greedy tokens, each from a whole forward pass without cache or padding."""
    ids = tokenizer.encode(prompt)
    for _ in range(new):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return ids[len(tokenizer.encode(prompt)) :]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_batched_answers_equal_those_made_alone(kind):
    model, tokenizer = sharp(kind), pico_tokenizer()
    prompts = ["the cat", "a dog sees the red house on 7", "two", "river in the house and the dog likes"]
    found = scorer.Scorer(model, tokenizer).generate_until(asked(prompts))
    expected = [tokenizer.decode(alone(model, tokenizer, p, 8), skip_special_tokens=True) for p in prompts]
    assert found == expected
    assert len(set(found)) > 1


def test_a_stop_string_ends_its_row_only():
    model, tokenizer = sharp("llama"), pico_tokenizer()
    judge = scorer.Scorer(model, tokenizer)
    whole = judge.generate_until(asked(["the cat", "two"]))
    stop = whole[0].split()[2]
    found = judge.generate_until(asked(["the cat", "two"], until=[stop]))
    assert found == [text.split(stop)[0] for text in whole]
    assert found[0] != whole[0]


def test_a_checkpoint_that_samples_is_still_asked_greedily():
    model, tokenizer = sharp("llama"), pico_tokenizer()
    judge = scorer.Scorer(model, tokenizer)
    plain = judge.generate_until(asked(["the cat"]))
    model.generation_config.do_sample, model.generation_config.temperature = True, 5.0
    assert [judge.generate_until(asked(["the cat"])) for _ in range(3)] == [plain] * 3
    assert model.generation_config.do_sample
    with pytest.raises(UserError, match="written greedily"):
        judge.generate_until(asked(["the cat"], do_sample=True))


def test_progress_counts_written_answers(tmp_path):
    done = []
    judge = scorer.Scorer(pico_model(), pico_tokenizer(), batch=2, progress=done.append)
    judge.generate_until(asked(["the cat", "two", "a dog"]))
    assert done == [2, 1]


@pytest.fixture
def sums(tmp_path):
    """A data root with three sums in Bengali and English."""
    for lang in ("bn", "en"):
        path = tmp_path / "eval" / "math" / lang / "test.jsonl"
        path.parent.mkdir(parents=True)
        rows = [{"question": f"two and {n}", "answer": n} for n in (3, 5, 1200)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


class Parrot(scorer.Scorer):
    """The real scorer with answers that are known."""

    said = ("৩", "no idea", "the answer is 1,200\nQuestion: 7")

    def generate_until(self, requests, disable_tqdm=True):
        super().generate_until(requests)
        return [text.split("\n")[0] for text in self.said]


def test_written_answers_are_counted_by_their_number(sums):
    tasks = loading.load_tasks(["math_generate"], "bn", sums)
    items = evaluate.score_one(Parrot(pico_model(), pico_tokenizer()), tasks)
    assert items["prediction"].tolist() == ["3", "", "1200"]
    assert items["gold"].tolist() == ["3", "5", "1200"]
    assert items["correct"].tolist() == [True, False, True]
    assert items["generation"].tolist() == ["৩", "no idea", "the answer is 1,200"]
    assert [len(o) + len(v) for o, v in zip(items["options"], items["loglikelihoods"], strict=True)] == [
        0
    ] * 3
    assert tasks["math_generate"].chance == 0
    assert items["context"][0] == "Question: two and 3\nAnswer:"
    named = items.assign(model="m", method="ct", ct_tokens=1)
    scores = evaluate.summary(named, tasks)
    assert scores.loc[0, ["value", "chance", "metric", "n"]].tolist() == [
        pytest.approx(200 / 3),
        0,
        "exact_match",
        3,
    ]


def test_choices_and_written_answers_go_into_one_parquet(sums, tmp_path):
    import pandas as pd

    tasks = loading.load_tasks(["math", "math_generate"], "bn", sums)
    items = evaluate.score_one(Parrot(pico_model(), pico_tokenizer()), tasks)
    items.to_parquet(tmp_path / "items.parquet")
    back = pd.read_parquet(tmp_path / "items.parquet")
    assert back["task"].tolist() == ["math"] * 3 + ["math_generate"] * 3
    assert [len(o) for o in back["options"]] == [4] * 3 + [0] * 3


def test_real_sums_have_the_same_answers_as_choices(data_root):
    written = loading.load_tasks(["math_generate"], "te", data_root, limit=60)["math_generate"]._splits[
        "test"
    ]
    chosen = loading.load_tasks(["math"], "te", data_root, limit=60)["math"]._splits["test"]
    assert [d["answer"] for d in written] == [d["names"][d["answer"]] for d in chosen]
    assert [d["prompt"] for d in written] == [d["prompt"] for d in chosen]


def test_an_answer_that_is_no_number_is_refused(sums):
    path = sums / "eval" / "math" / "bn" / "test.jsonl"
    path.write_text(json.dumps({"question": "x", "answer": "seven"}) + "\n")
    with pytest.raises(UserError, match=r"test\.jsonl:1: 'answer' is 'seven'; .* needs one number"):
        documents(task_file.spec("math_generate"), path, lang="bn")


def test_the_table_of_a_folder_holds_written_answers_beside_choices(sums, tmp_path):
    from support.pico import save_pico

    names = ["math", "math_generate"]
    models = {"m": save_pico(tmp_path / "m")}
    table = evaluate.evaluate_models(models, names, "bn", sums)[0].set_index("task")
    assert table.loc["math_generate", ["metric", "chance", "n"]].tolist() == ["exact_match", 0, 3]
    alone, _ = evaluate.evaluate_models(models, ["math_generate"], "bn", sums)
    assert alone["n"].tolist() == [3]


def test_the_command_prints_every_task_whole(sums, tmp_path, capsys):
    from support.pico import save_pico

    from lrnb.cli import main

    given = ["--tasks", "math,math_generate,math_en", "--lang", "bn", "--data-root", str(sums)]
    given += ["--normalisation", "token", "--seed", "2", "--device", "cpu", "--precision", "bf16"]
    assert main.main(["evaluate", str(save_pico(tmp_path / "m")), *given]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["math"][1] == lines["math_en"][1] == "acc_tokens"
    assert lines["math_generate"][1:3] + lines["math_generate"][6:8] == ["exact_match", "0.0°", "0.0", "3"]
