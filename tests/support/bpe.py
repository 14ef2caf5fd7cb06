"""A tiny tokenizer built as Gemma's is: BPE over ▁-spelled text, byte fallback, every split a merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS = [
    "the river sees the red house and the cat likes the river",
    "আমি বাংলায় গান গাই, আমি বাংলার গান গাই",
    "བོད་ཀྱི་སྐད་ཡིག་ནི་བོད་མིའི་སྐད་ཡིག་ཡིན།",
    "Монгол хэл бол монголчуудын хэл юм",
    "بۇ ئۇيغۇر تىلىدا يېزىلغان بىر جۈملە",
    "two lines\n\nof text, 12 + 30 = 42\n",
]
SPECIAL = ["<pad>", "<eos>", "<unk>", "<unused0>", "<unused1>", "<turn>"]
LINES = ["\n", "\n\n", "\n\n\n"]


def bpe_spec(texts: list[str] = TEXTS, size: int = 220) -> dict[str, Any]:
    """A tokenizer.json; <bos> has the last id, so that pruning must move it."""
    learned = _learn(texts, size)
    pieces = [*SPECIAL, *LINES, *(f"<0x{byte:02X}>" for byte in range(256)), *learned, "<bos>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    added = [_added(vocab, piece, piece not in LINES) for piece in [*SPECIAL, *LINES, "<bos>"]]
    bos, text = {"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<bos>": {"id": "<bos>", "ids": [vocab["<bos>"]], "tokens": ["<bos>"]}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, text],
            "special_tokens": special,
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": _all_splits(learned, vocab),
        },
    }


def _learn(texts: list[str], size: int) -> list[str]:
    from tokenizers import Tokenizer, models, normalizers, trainers

    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Sequence([normalizers.Replace("\n", "▁"), normalizers.Replace(" ", "▁")])
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    found = inner.get_vocab()
    return sorted(found, key=found.__getitem__)


def _all_splits(learned: list[str], vocab: dict[str, int]) -> list[list[str]]:
    """As transformers rebuilds Gemma's merges: by the id of the result, every split that exists."""
    return [
        [piece[:cut], piece[cut:]]
        for piece in learned
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]


def _added(vocab: dict[str, int], piece: str, special: bool) -> dict[str, Any]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": vocab[piece], "content": piece, "special": special, **off}


def byte_level_spec(texts: list[str] = TEXTS, size: int = 400) -> dict[str, Any]:
    """A tokenizer.json built as SmolLM's is: byte-level BPE, no fallback needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return json.loads(inner.to_str())


def tokenizer_of(spec: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(spec))


def save_bpe(folder: Path, spec: dict[str, Any], model: Any, **roles: str) -> Path:
    """`model` with the tokenizer `spec` as an HF folder; `roles` such as bos_token="<bos>"."""
    from transformers import PreTrainedTokenizerFast

    vocab = spec["model"]["vocab"]
    for role, piece in roles.items():
        setattr(model.config, f"{role}_id", vocab[piece])
        setattr(model.generation_config, f"{role}_id", vocab[piece])
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer_of(spec), **roles).save_pretrained(folder)
    return folder
