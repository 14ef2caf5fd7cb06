"""Scores of entries by gradients: against finite differences, and from the command line into a merge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.pico import pico_tokenizer, save_pico

from lrnb.cli.main import main
from lrnb.errors import UserError
from lrnb.training.importance import importance, importance_rows

PAIRS = [
    {"prompt": "the red cat sees", "completion": " a dog"},
    {"prompt": "two blue", "completion": " house in the river"},
]
TEXTS = ["the cat likes a dog", "one"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = save_pico(tmp_path / "sft", seed=3)
    pico_tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    loud = {name: w * (5 if w.ndim == 2 else 1) for name, w in weights.items()}
    save_file(loud, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def log_likelihood(net: torch.nn.Module, row: dict | str) -> float:
    """log p of a text but its first token, or of an answer after its prompt, token by token."""
    tokenizer = pico_tokenizer()
    text, prompt = (row, None) if isinstance(row, str) else (row["prompt"] + row["completion"], row["prompt"])
    ids = tokenizer(text)["input_ids"]
    start = 1 if prompt is None else len(tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        logp = net(torch.tensor([ids])).logits.log_softmax(-1)[0]
    return sum(float(logp[i - 1, ids[i]]) for i in range(start, len(ids)))


def slopes(folder: Path, rows: list, name: str, at: int) -> np.ndarray:
    """d log p / d entry of every row, by central differences (in float64, but for Llama's norms)."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    entry, step, found = dict(net.named_parameters())[name].data.view(-1), 3e-3, []
    for row in rows:
        ends = []
        for sign in (1, -1):
            entry[at] += sign * step
            ends.append(log_likelihood(net, row))
            entry[at] -= sign * step
        found.append((ends[0] - ends[1]) / (2 * step))
    return np.array(found)


@pytest.mark.parametrize("rows", [PAIRS, TEXTS[:1]], ids=["pairs", "texts"])
def test_scores_are_the_slopes_of_the_log_likelihood(rows: list, model: Path, tmp_path: Path) -> None:
    for kind in ("fisher", "gradient"):
        importance(kind, model, rows, tmp_path / kind)
    found = {kind: load_file(tmp_path / kind / "model.safetensors") for kind in ("fisher", "gradient")}
    rng = np.random.default_rng(0)
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"):
        flat = found["fisher"][name].reshape(-1)
        large = np.argsort(-flat)[: max(20, flat.size // 10)]
        for at in map(int, rng.choice(large, 3, replace=False)):
            wanted = slopes(model, rows, name, at)
            assert found["gradient"][name].reshape(-1)[at] == pytest.approx(wanted.mean(), rel=1e-2, abs=1e-3)
            assert flat[at] == pytest.approx((wanted**2).mean(), rel=2e-2)


def test_a_merge_reads_them_from_the_command_line(model: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    weights, rng = load_file(model / "model.safetensors"), np.random.default_rng(1)
    for name in ("base", "ct"):
        Path(name).mkdir()
        for file in (x for x in model.iterdir() if x.suffix == ".json"):
            (Path(name) / file.name).write_bytes(file.read_bytes())
        moved = {k: (w + 0.01 * rng.normal(size=w.shape)).astype(np.float32) for k, w in weights.items()}
        save_file(moved, Path(name) / "model.safetensors", metadata={"format": "pt"})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    command = ["importance", "--model", "sft", "--text", "rows.jsonl", "--out", "scores", "--kind"]
    assert main([*command, "fisher"]) == 0
    assert "fisher of 2 rows, 6 tokens" in capsys.readouterr().out
    merge = ["merge", "ties-sv", "--base", "base", "--model", "ct=ct", "--model", "sft=sft", "--out", "out"]
    merge += ["--density", "0.8", "--slack", "0.3", "--reserve-by"]
    assert main([*merge, "fisher", "--importance", "scores"]) == 0
    report = json.loads(Path("out/manifest.json").read_text())["report"]
    assert report["reserved_share"] == pytest.approx(0.3, abs=1e-3)
    capsys.readouterr()
    for more, message in (
        (["gradient", "--importance", "scores"], "scores by fisher, and gradient is asked for"),
        (["fisher", "--importance", "ct"], "ct: no scores (importance.json missing"),
        (["fisher", "--importance", "ct=scores"], "importance is one folder, of the parent"),
        (["fisher"], "takes --importance with --reserve-by fisher or gradient, and needs it"),
        (["margin", "--importance", "scores"], "takes --importance with --reserve-by"),
    ):
        assert main([*merge, *more]) == 2
        assert message in capsys.readouterr().err
    for name in ("ct", "sft"):
        assert main([*command[:2], name, *command[3:-2], f"{name}-gram", "--kind", "gram"]) == 0
    assert "gram of 2 rows" in capsys.readouterr().out
    merge = ["merge", "regmean", *merge[2:8], "--out", "regmean", "--importance", "ct=ct-gram"]
    assert main(merge) == 2
    assert "--importance: give it for sft too" in capsys.readouterr().err
    assert main([*merge, "--importance", "sft=sft-gram"]) == 0
    assert main([*command, "gradient", "--rows", "1"]) == 0
    assert main([*command[:-2], "ct", "--kind", "gradient"]) == 2
    assert "exists and is no folder of scores" in capsys.readouterr().err


def test_gram_matrices_are_of_what_comes_into_each_linear_layer(model: Path, tmp_path: Path) -> None:
    """Of an attention and an MLP, against what hooks of our own see."""
    from transformers import AutoModelForCausalLM

    packed = {"input_ids": np.array([3, 4, 5, 6]), "position_ids": np.array([0, 1, 0, 1])}
    facts = importance("gram", model, [*PAIRS, packed], tmp_path / "gram")
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    names = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")
    seen: dict[str, list] = {name: [] for name in names}
    for name in names:
        net.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0][0]))
    tokens = [pico_tokenizer()(row["prompt"] + row["completion"])["input_ids"] for row in PAIRS]
    with torch.no_grad():
        for ids in (*tokens, [3, 4], [5, 6]):  # packed documents do not see each other
            net(torch.tensor([ids]))
    found = load_file(tmp_path / "gram" / "model.safetensors")
    assert facts["tokens"] == sum(map(len, tokens)) + 4 and facts["rows"] == 3
    assert "lm_head.weight" not in found and "model.norm.weight" not in found
    for name in names:
        inputs = torch.cat(seen[name]).double()
        wanted = (inputs.T @ inputs / len(inputs)).numpy()
        np.testing.assert_allclose(found[f"{name}.weight"], wanted, rtol=1e-4, atol=1e-6)


def test_rows_that_do_not_fit_are_left_out_and_none_is_refused(model: Path, tmp_path: Path) -> None:
    rows = [*PAIRS, {"prompt": "the " * 30, "completion": " cat"}, "the " * 30, "one"]
    facts = importance("fisher", model, rows, tmp_path / "out", max_len=8)
    assert (facts["rows"], facts["left_out"]) == (3, 2)  # the long text is cut, the long pair is not
    assert facts["tokens"] == 2 + 4 + 7
    with pytest.raises(UserError, match="no row of text fits 8 tokens"):
        importance("fisher", model, rows[2:3], tmp_path / "none", max_len=8)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n',
            "rows.jsonl:2: expected a text for",
        ),
        ('{"prompt": "a", "completion": ""}\n', "rows.jsonl:1"),
        ("", "rows.jsonl"),
    ],
)
def test_a_wrong_row_is_named(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        importance_rows(tmp_path / "rows.jsonl", 9)
