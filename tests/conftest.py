"""Pico fixtures: two-layer models and small corpora, made in milliseconds, without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parent.parent
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sees",
    "likes",
    "red",
    "blue",
    "house",
    "river",
    "two",
    "three",
    "and",
    "in",
    "on",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
]


def pico_tokenizer():
    """Word level, with beginning, end, padding and unknown marks; 4 + 25 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **marks)


def pico_model(kind: str = "llama", seed: int = 0):
    """A random two-layer Llama or Gemma 3 with 64 tokens; Gemma's window is 8 tokens."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    size = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**size, **heads, max_position_embeddings=256))
    window = {
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    return Gemma3ForCausalLM(Gemma3TextConfig(**size, **heads, **window, max_position_embeddings=256))


def save_pico(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    pico_model(kind, seed).save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def pico_llama(tmp_path: Path) -> Path:
    """A complete Hugging Face folder of a pico Llama."""
    return save_pico(tmp_path / "base")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real texts and tasks; tests that need them are skipped, saying why, where they are absent."""
    folder = Path(os.environ.get("LRNB_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "eval").is_dir():
        pytest.skip(
            f"real data is absent: no folder {folder / 'eval'}; set LRNB_DATA to a folder that has it"
        )
    return folder


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    """A running browser; skipped, saying why, where there is none and none is required."""
    from browser import browser

    with browser() as found:
        yield found


@pytest.fixture(scope="module", params=["light", "dark"])
def lab(
    request: pytest.FixtureRequest, chrome: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A running JupyterLab, in both of its themes."""
    from lab import Lab

    lab = Lab(tmp_path_factory.mktemp("lab"), dark=request.param == "dark")
    yield lab
    lab.close()
