"""Scoring: the tree equals plain scoring, the harness's own model agrees, collapse is visible."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from support.pico import pico_model, pico_tokenizer, save_pico, sharp
from support.pico_tasks import load_tasks

from lrnb.errors import UserError
from lrnb.scoring import evaluate, predictions, scorer
from lrnb.scoring.evaluate import Scorer
from lrnb.tasks.harness import choice, run_harness


def requests(seed: int = 0, items: int = 25, longest: int = 50) -> list[tuple]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(items):
        context = rng.integers(4, 29, rng.integers(1, longest)).tolist()
        for _ in range(rng.integers(2, 6)):
            found.append((None, context, rng.integers(4, 29, rng.integers(1, 12)).tolist()))
    return found


def one_by_one(model, pairs: list[tuple]) -> list[tuple[float, bool]]:
    """The plain way: each context with each option alone through the whole model."""
    results = []
    for _, context, option in pairs:
        with torch.no_grad():
            logits = model(torch.tensor([context + option])).logits[0]
        logs = logits.log_softmax(-1)[len(context) - 1 : -1]
        value = logs[range(len(option)), option].double().sum().item()
        results.append((value, logs.argmax(-1).tolist() == option))
    return results


def assert_same(found, expected) -> None:
    assert [f[0] for f in found] == pytest.approx([e[0] for e in expected], abs=1e-4)
    assert [f[1] for f in found] == [e[1] for e in expected]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_tree_equals_one_by_one(kind):
    model = sharp(kind)
    scorer = Scorer(model, pico_tokenizer())
    assert scorer.tree
    pairs = requests()
    found = scorer._loglikelihood_tokens(pairs)
    assert_same(found, one_by_one(model, pairs))
    assert np.std([value for value, _ in found]) > 1
    assert any(greedy for _, greedy in scorer._loglikelihood_tokens(_likeliest(model)))


def long_options() -> list[tuple]:
    """Options of up to 100 tokens, as of next_passage, where the rounding of many tokens adds up."""
    rng = np.random.default_rng(1)
    return [
        (None, context, rng.integers(4, 29, rng.integers(20, 101)).tolist())
        for context in rng.integers(4, 29, (12, 30)).tolist()
        for _ in range(4)
    ]


def apart(found, expected) -> np.ndarray:
    """Differences of log-likelihoods, in nats."""
    return np.array([f[0] - e[0] for f, e in zip(found, expected, strict=True)])


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_in_float64_the_tree_is_the_plain_way(kind):
    model, pairs = sharp(kind).double(), long_options()
    found = Scorer(model, pico_tokenizer())
    assert found.tree
    assert np.abs(apart(found._loglikelihood_tokens(pairs), one_by_one(model, pairs))).max() < 1e-9


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_in_float32_the_tree_is_as_near_to_float64_as_the_plain_way(kind):
    model, pairs = sharp(kind), long_options()
    tree, plain = Scorer(model, pico_tokenizer())._loglikelihood_tokens(pairs), one_by_one(model, pairs)
    exact = one_by_one(model.double(), pairs)
    noise = apart(plain, exact).std()
    assert 0 < noise < 1e-2
    assert np.abs(apart(tree, exact)).mean() < 3 * noise
    assert np.abs(apart(tree, plain)).mean() < 3 * noise


def _likeliest(model) -> list[tuple]:
    """Contexts followed by the model's own first choice."""
    pairs = []
    for _, context, _ in requests(items=3):
        with torch.no_grad():
            best = int(model(torch.tensor([context])).logits[0, -1].argmax())
        pairs.append((None, context, [best]))
    return pairs


def test_the_sliding_window_matters_here():
    model, pairs = sharp("gemma"), requests()
    expected = one_by_one(model, pairs)
    wide = sharp("gemma")
    wide.config.sliding_window = 10_000
    found = Scorer(wide, pico_tokenizer())._loglikelihood_tokens(pairs)
    assert max(abs(f[0] - e[0]) for f, e in zip(found, expected, strict=True)) > 0.1


def test_a_model_without_tree_masks_is_scored_plainly(monkeypatch):
    model, pairs = sharp("llama"), requests()
    monkeypatch.setattr(scorer, "masks", lambda *_: None)
    found = Scorer(model, pico_tokenizer())
    assert not found.tree
    assert_same(found._loglikelihood_tokens(pairs), one_by_one(model, pairs))


@pytest.mark.parametrize("options", [{"token_budget": 1}, {"token_budget": 9999}, {"batch": 3}])
def test_batches_do_not_change_scores(options):
    model, pairs = sharp("llama"), requests()
    plain = Scorer(model, pico_tokenizer())._loglikelihood_tokens(pairs)
    assert_same(Scorer(model, pico_tokenizer(), **options)._loglikelihood_tokens(pairs), plain)


def test_logits_in_blocks_are_the_same(monkeypatch):
    model, pairs = sharp("llama"), requests()
    plain = Scorer(model, pico_tokenizer())._loglikelihood_tokens(pairs)
    monkeypatch.setattr(scorer, "LOGITS_AT_ONCE", 64 * 5)
    assert_same(Scorer(model, pico_tokenizer())._loglikelihood_tokens(pairs), plain)


def test_long_contexts_lose_their_left():
    model = sharp("llama")
    cut = Scorer(model, pico_tokenizer(), max_length=20)
    context, options = [1, *range(4, 29)], [[5, 6, 7], [8]]
    found = cut._loglikelihood_tokens([(None, context, option) for option in options])
    kept = [1, *context[-17:]]
    assert_same(found, one_by_one(model, [(None, kept, option) for option in options]))
    with pytest.raises(UserError, match="does not fit 20"):
        cut._loglikelihood_tokens([(None, context, list(range(4, 26)))])


# weights swapped in place


def test_load_state_equals_the_model_it_came_from(tmp_path):
    folder = save_pico(tmp_path / "other", seed=1)
    swapped = Scorer(sharp("llama"), pico_tokenizer())
    state = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in state
    swapped.load_state(state)
    pairs = requests()
    assert_same(swapped._loglikelihood_tokens(pairs), one_by_one(pico_model("llama", 1), pairs))


def test_load_state_refuses_other_weights(tmp_path):
    target = Scorer(pico_model(), pico_tokenizer())
    state = load_file(save_pico(tmp_path / "m") / "model.safetensors")
    name = "model.norm.weight"
    with pytest.raises(UserError, match=r"weights lack 'model\.norm\.weight'"):
        target.load_state({key: value for key, value in state.items() if key != name})
    with pytest.raises(UserError, match=r"is \(31,\), the model's is \(32,\)"):
        target.load_state({**state, name: state[name][1:]})
    with pytest.raises(UserError, match="no weight 'extra'"):
        target.load_state({**state, "extra": state[name]})


# tasks through the harness


def starting_tokenizer():
    """The pico tokenizer with <s> in front of every text, as Gemma's has."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = pico_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("tokenizer", [pico_tokenizer(), starting_tokenizer()])
def test_the_harness_own_model_agrees_to_the_item(root, kind, tokenizer):
    from lm_eval.models.huggingface import HFLM

    model, tasks = sharp(kind), load_tasks(root)
    own = run_harness(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8), tasks)
    ours = run_harness(Scorer(model, tokenizer), tasks)
    for name in tasks:
        for a, b in zip(ours[name], own[name], strict=True):
            assert_same(a["filtered_resps"], b["filtered_resps"])
            assert [a[m] for m in ("acc", "acc_bytes")] == [b[m] for m in ("acc", "acc_bytes")]


def test_score_models(root, tmp_path):
    folders = {f"m{seed}": save_pico(tmp_path / f"m{seed}", seed=seed) for seed in range(3)}
    models = {**folders, "ties_16k": evaluate.ScoredModel(folders["m1"], "ties", 16384)}
    done = []
    scores, items = evaluate.score_models(
        models, load_tasks(root), preset="nano", lang="bn", seed=4, progress=done.append
    )
    assert list(scores.columns) == evaluate.SCORE_COLUMNS
    assert list(items.columns) == evaluate.ITEM_COLUMNS
    assert (len(scores), len(items), sum(done)) == (8, 320, 320)
    assert set(scores["chance"].round(2)) == {33.33, 25.0}
    assert (scores["ci_low"] < scores["value"]).all()
    assert (scores["value"] < scores["ci_high"]).all()
    row = scores.iloc[-1]
    assert (row["method"], row["ct_tokens"], row["metric"]) == ("ties", 16384, "acc_bytes")
    same = items[items["model"] == "m1"], items[items["model"] == "ties_16k"]
    assert same[0]["prediction"].tolist() == same[1]["prediction"].tolist()
    assert ((items["gold"] == items["prediction"]) == items["correct"]).all()
    assert set(items["generation"]) == {""}
    assert items["context"].tolist()[:3] == [
        d["prompt"] for d in load_tasks(root)["label"]._splits["test"][:3]
    ]


@pytest.mark.parametrize(
    ("name", "metric", "size"),
    [
        ("none", "acc", lambda words: 1),
        ("byte", "acc_bytes", lambda words: len(" ".join(words))),
        ("character", "acc_norm", lambda words: len(" ".join(words))),
        ("token", "acc_tokens", len),
        ("task", "acc_bytes", lambda words: len(" ".join(words))),
    ],
)
def test_normalisations_divide_by_what_they_say(root, name, metric, size):
    task = load_tasks(root, normalisation=name)["choice"]
    assert task.metric == metric
    judge = Scorer(sharp("llama"), pico_tokenizer())
    items = evaluate.score_one(judge, {"choice": task})
    options = [doc["options"] for doc in task._splits["test"]]
    expected = [
        row.options[
            int(np.argmax([v / size(o.split()) for v, o in zip(row.loglikelihoods, texts, strict=True)]))
        ]
        for row, texts in zip(items.itertuples(), options, strict=True)
    ]
    assert items["prediction"].tolist() == expected
    assert items["correct"].tolist() == (items["prediction"] == items["gold"]).tolist()
    plain = evaluate.score_one(judge, {"choice": load_tasks(root, normalisation="none")["choice"]})
    assert (plain["prediction"].tolist() != expected) == (name != "none")


@pytest.mark.parametrize(("metric", "best"), [("acc", 1), ("acc_norm", 1), ("acc_bytes", 0)])
def test_bytes_are_not_characters(metric, best):
    """Two Bengali letters are six bytes: -1 a byte but -3 a character; four Latin ones -1.25 either way."""
    judge = Scorer(pico_model(), pico_tokenizer())
    assert choice([-6.0, -5.0], ["কখ", "abcd"], metric, [], judge) == best


def test_swapped_weights_score_as_opened_ones(root, tmp_path):
    folders = {f"m{seed}": save_pico(tmp_path / f"m{seed}", seed=seed) for seed in range(2)}
    _, together = evaluate.score_models(folders, load_tasks(root))
    _, alone = evaluate.score_models({"m1": folders["m1"]}, load_tasks(root))
    second = together[together["model"] == "m1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(second, alone)
    _, gemma = evaluate.score_models(
        {"m0": folders["m0"], "g": save_pico(tmp_path / "g", "gemma")}, load_tasks(root)
    )
    assert len(gemma) == 160


def test_items_survive_parquet(root, tmp_path, pico_llama):
    _, items = evaluate.score_models({"m": pico_llama}, load_tasks(root))
    items.to_parquet(tmp_path / "items.parquet")
    back = pd.read_parquet(tmp_path / "items.parquet")
    assert back["loglikelihoods"].map(list).tolist() == items["loglikelihoods"].tolist()
    best = [o[int(np.argmax(v))] for o, v in zip(back["options"], back["loglikelihoods"], strict=True)]
    acc = back["task"] == "label"
    assert back["prediction"][acc].tolist() == pd.Series(best)[acc].tolist()


def test_dev_score_is_the_score(root, pico_llama):
    tasks = load_tasks(root)
    scores, _ = evaluate.score_models({"m": pico_llama}, tasks)
    found = evaluate.dev_score(Scorer.from_folder(pico_llama), tasks)
    values = dict(zip(scores["task"], scores["value"], strict=True))
    assert found == pytest.approx({**values, "mean": np.mean(list(values.values()))})


def test_ties_do_not_favour_the_right_option(root):
    model = pico_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    found = evaluate.score_one(Scorer(model, pico_tokenizer()), load_tasks(root))
    label = found[found["task"] == "label"]
    assert all(len(set(values)) == 1 for values in label["loglikelihoods"])
    assert 0.1 < label["correct"].mean() < 0.6


def test_no_network_is_touched(root, pico_llama, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    models, names = {"m": pico_llama}, [str(root / "label.yaml")]
    scores, _ = evaluate.evaluate_models(models, names, "bn", root, given={"limit": 5})
    assert scores["n"].tolist() == [5]


def test_a_tokenizer_without_the_script_is_refused(data_root, pico_llama):
    given = {"limit": 9, "prompts": "native"}
    with pytest.raises(UserError, match=r"99% of the tokens of task 'tatoeba_choice'.*falls back to bytes"):
        evaluate.evaluate_models({"m": pico_llama}, ["tatoeba_choice"], "bn", data_root, given=given)


def test_code_in_a_model_folder_is_never_run(tmp_path, pico_llama, monkeypatch):
    """Not even where the user would say yes to the question that transformers asks by default."""
    config = json.loads((pico_llama / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Theirs"}}
    (pico_llama / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "code ran"
    (pico_llama / "theirs.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match="code of its own.*not run"):
        Scorer.from_folder(pico_llama)
    assert not mark.exists()


def test_evaluate_models_names_what_is_missing(root, tmp_path, pico_llama):
    with pytest.raises(UserError, match=r"none: no such folder\. Give a Hugging Face model folder"):
        evaluate.evaluate_models({"m": tmp_path / "none"}, [str(root / "label.yaml")], "bn", root)
    with pytest.raises(UserError, match="unknown task 'labl'"):
        evaluate.evaluate_models({"m": pico_llama}, ["labl"], "bn", root)
    with pytest.raises(UserError, match="no model to score"):
        evaluate.score_models({}, load_tasks(root))


# what a collapsed model looks like


def _answers(gold: list[str], prediction: list[str]) -> pd.DataFrame:
    return pd.DataFrame({
        "model": "m", "method": "ct", "ct_tokens": 16, "task": "topic", "gold": gold,
        "options": [sorted(set(gold))] * len(gold), "prediction": prediction,
        "correct": np.array(gold) == np.array(prediction),
    })  # fmt: skip


def test_collapse_is_flagged_beside_the_majority_line():
    gold = ["sports"] * 25 + ["travel"] * 35 + ["health"] * 40
    row = predictions.collapsed(_answers(gold, ["travel"] * 90 + ["health"] * 10)).iloc[0]
    assert (row["top"], row["top_share"], bool(row["collapsed"])) == ("travel", pytest.approx(90), True)
    assert (row["majority"], row["majority_share"]) == ("health", pytest.approx(40))
    assert not predictions.collapsed(_answers(gold, gold)).iloc[0]["collapsed"]
    uneven = ["sports"] * 90 + ["travel"] * 10
    assert not predictions.collapsed(_answers(uneven, uneven)).iloc[0]["collapsed"]


# texts


def test_generate_until_is_greedy_and_stops():
    model, tokenizer = sharp("llama"), pico_tokenizer()
    found = Scorer(model, tokenizer)
    request = SimpleNamespace(args=("the cat", {"max_gen_toks": 6, "until": []}))
    text = found.generate_until([request])[0]
    with torch.no_grad():
        ids = tokenizer.encode("the cat")
        first = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    assert text.startswith(tokenizer.decode([first]))
    stop = text.split()[1]
    request = SimpleNamespace(args=("the cat", {"max_gen_toks": 6, "until": [stop]}))
    assert found.generate_until([request]) == [text.split(stop)[0]]
