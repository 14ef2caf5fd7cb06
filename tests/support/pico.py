"""Two-layer models and their tokenizer, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch


def sharp(kind: str, seed: int = 0):
    """A pico model with larger weights, so that wrong masks change its answers clearly."""
    model = pico_model(kind, seed).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(4 if "embed" in name else 8)
    return model


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
