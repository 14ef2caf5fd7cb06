"""`lrnb evaluate` on folders that are wrong: a message with status 2, no score of another model."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.pico import pico_tokenizer, save_pico

from lrnb.checkpoints.tokenizer_probe import refuse_endless
from lrnb.cli.main import main
from lrnb.errors import UserError
from lrnb.tasks.time_limit import time_limit

WEIGHT = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return save_pico(tmp_path_factory.mktemp("model") / "whole")


def config(**changes):
    return edited("config.json", lambda values: values.update(changes))


def tokenizer(**changes):
    return edited("tokenizer.json", lambda values: values.update(changes))


def edited(name, change):
    def damage(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return damage


def written(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def pipe(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    os.mkfifo(folder / "tokenizer_config.json")


def weights(change):
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def fewer_rows(folder: Path) -> None:
    def cut(tensors):
        for name in [name for name in tensors if "embed_tokens" in name or "lm_head" in name]:
            tensors[name] = np.ascontiguousarray(tensors[name][:10])

    weights(cut)(folder)
    config(vocab_size=10)(folder)


def no_number(tensors) -> None:
    tensors[WEIGHT] = np.full_like(tensors[WEIGHT], np.nan)


ENDLESS = {
    "type": "Split",
    "pattern": {"Regex": r"(?=((\S+\s*)+)+$#)x|\s+"},  # tries all ways to cut a text
    "behavior": "Removed",
    "invert": False,
}
OWN = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
UNCLOSED = {"type": "Replace", "pattern": {"Regex": "(("}, "content": "a"}
FOLDERS = {
    "a config that is no JSON": (written("config.json", b"{"), "config.json: cannot be read as JSON"),
    "a config that is a list": (written("config.json", b"[]"), "expected a JSON object"),
    "no kind of model": (written("config.json", b"{}"), "transformers cannot open it .*model_type"),
    "a kind that nobody knows": (config(model_type="nosuch"), "transformers cannot open it .*nosuch"),
    "code of its own": (config(model_type="mine", auto_map=OWN), "needs code of its own"),
    "a million layers": (config(num_hidden_layers=10**6), "num_hidden_layers is 1000000, and"),
    "a layer too many": (config(num_hidden_layers=3), r"lack 'model\.layers\.2.*random"),
    "a layer too few": (config(num_hidden_layers=1), r"no place for 'model\.layers\.1"),
    "layers below zero": (config(num_hidden_layers=-1), "num_hidden_layers is -1"),
    "a width beyond memory": (config(hidden_size=10**9), "hidden_size is 1000000000"),
    "a width that is a word": (config(hidden_size="many"), "hidden_size is 'many'"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads is 0"),
    "heads that do not divide": (config(num_attention_heads=3), "transformers cannot open it .*multiple"),
    "fewer tokens than rows": (config(vocab_size=5), r"embed_tokens.weight' is \(64, 32\), .* \(5, 32\)"),
    "no window": (config(max_position_embeddings=0), "max_position_embeddings is 0"),
    "a rule of positions that nobody knows": (config(rope_parameters={"rope_type": "x"}), "cannot open it"),
    "a dtype that nobody knows": (config(dtype="float7"), "transformers cannot open it .*float7"),
    "an encoder": (config(model_type="bert"), "its weights lack .*Give a whole causal language model"),
    "a weight missing": (weights(lambda tensors: tensors.pop(WEIGHT)), f"lack '{WEIGHT}' .1 in all"),
    "a weight of NaN": (weights(no_number), f"'{WEIGHT}' holds NaN"),
    "weights cut off": (
        lambda folder: written("model.safetensors", (folder / "model.safetensors").read_bytes()[:-9])(folder),
        "not a whole safetensors file",
    ),
    "a norm of NaN": (config(rms_norm_eps=float("nan")), "rms_norm_eps is NaN"),
    "a norm of roots that there are not": (config(rms_norm_eps=-100.0), "NaN in place of log-likelihoods"),
    "a tokenizer that is garbage": (written("tokenizer.json", b"garbage"), "no tokenizer that works"),
    "a tokenizer without a model": (written("tokenizer.json", b"{}"), "no tokenizer that works .*missing"),
    "a tokenizer in bytes": (written("tokenizer.json", bytes(range(256))), "no tokenizer that works .*UTF-8"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "transformers cannot open it"),
    "a pipe": (pipe, "tokenizer_config.json: not a file, but a pipe"),
    "a Git LFS pointer": (
        written("generation_config.json", b"version https://git-lfs.github.com/spec/v1"),
        "generation_config.json: a Git LFS pointer",
    ),
    "settings that are no JSON": (written("tokenizer_config.json", b"{"), "cannot open it .*JSON"),
    "settings that are a list": (written("tokenizer_config.json", b"[]"), "transformers cannot open it"),
    "a pattern that is none": (tokenizer(normalizer=UNCLOSED), "no tokenizer that works .*parenthesis"),
    "a pattern without end": (tokenizer(pre_tokenizer=ENDLESS), "no tokenizer that works .*limit"),
    "a tokenizer of another model": (fewer_rows, "gives token .* and the model has 10 of them"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_wrong_folder_is_named(kind, whole, root, tmp_path, capsys):
    damage, message = FOLDERS[kind]
    folder = shutil.copytree(whole, tmp_path / "wrong")
    damage(folder)
    command = ["evaluate", str(folder), "--tasks", str(root / "label.yaml"), "--lang", "bn"]
    status, told = main([*command, "--data-root", str(root)]), capsys.readouterr()
    assert status == 2, told
    assert re.search(message, told.err), told.err
    assert "Traceback" not in told.err and "label" not in told.out


def test_a_number_a_layer_is_left_to_transformers():
    from lrnb.checkpoints.openable import possible_number

    assert possible_number([64, 64], 10)
    assert not possible_number(64, 10)


def test_the_whole_folder_is_scored(whole, root, capsys):
    command = ["evaluate", str(whole), "--tasks", str(root / "label.yaml"), "--lang", "bn"]
    assert main([*command, "--data-root", str(root)]) == 0
    assert "label" in capsys.readouterr().out


def test_a_tokenizer_that_does_not_end_is_cut_off(tmp_path):
    from tokenizers import normalizers

    growing = pico_tokenizer()
    ten = [normalizers.Replace("a", "a" * 10)] * 30
    growing.backend_tokenizer.normalizer = normalizers.Sequence(ten)
    growing.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"json: (the tokenizer did not cut|no tokenizer that works)"):
        refuse_endless(tmp_path, ["a cat"], seconds=2)
    refuse_endless(tmp_path, ["blue"], seconds=20)


def test_a_tokenizer_that_ended_is_remembered_with_its_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))
    pico_tokenizer().save_pretrained(tmp_path)
    refuse_endless(tmp_path, ["blue"])
    monkeypatch.setattr("lrnb.checkpoints.tokenizer_probe.sys.executable", "/bin/false")
    refuse_endless(tmp_path, ["blue"])
    with pytest.raises(UserError, match="no tokenizer that works"):
        refuse_endless(tmp_path, ["blue", "red"])
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(UserError, match="no tokenizer that works"):
        refuse_endless(tmp_path, ["blue"])


def test_an_expression_that_does_not_end_is_cut_off():
    limit = time_limit("the filter of task 'x'", 0.2)
    with pytest.raises(UserError, match="the filter of task 'x' runs for more than 0.2 s"), limit:
        re.search(r"(a+)+$", "a" * 60 + "b")
