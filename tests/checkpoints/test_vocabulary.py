"""Pruning: the given texts are cut as before, everything else still encodes, logits stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bpe import TEXTS, bpe_spec, byte_level_spec, save_bpe, tokenizer_of
from support.pico import save_pico

from lrnb.checkpoints.vocabulary import building_merges, kept_ids, prune_vocabulary, pruned_tokenizer
from lrnb.errors import UserError

SPEC = bpe_spec()
BYTE_LEVEL = byte_level_spec()
ROLES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
OUTSIDE = "日本語 🚀 Ελληνικά <unused0>\n\n\n\nགཞན the রাত"
words = st.text(alphabet="theriv sd আমিব গানোдмэлхБོདསྐ་\n12<>🚀", max_size=40)
corpora = st.lists(st.sampled_from(TEXTS) | words, max_size=4)


def prune_spec(spec: dict, texts: list[str]) -> dict:
    tokenizer = tokenizer_of(spec)
    used = {i for text in texts for i in tokenizer.encode(text, add_special_tokens=False).ids}
    return pruned_tokenizer(spec, kept_ids(spec, used))


def pieces(spec: dict, text: str) -> list[str]:
    return tokenizer_of(spec).encode(text, add_special_tokens=False).tokens


@pytest.mark.parametrize("spec", [SPEC, BYTE_LEVEL], ids=["byte fallback", "byte level"])
@settings(max_examples=60, deadline=None)
@given(texts=corpora, other=words)
def test_given_texts_keep_their_pieces_and_any_text_comes_back(
    spec: dict, texts: list[str], other: str
) -> None:
    pruned = prune_spec(spec, texts)
    old, new = tokenizer_of(spec), tokenizer_of(pruned)
    for text in texts:
        assert pieces(pruned, text) == pieces(spec, text)
    for text in (other, OUTSIDE):
        ids = new.encode(text, add_special_tokens=False).ids
        before = old.encode(text, add_special_tokens=False).ids
        assert new.decode(ids, skip_special_tokens=False) == text
        assert old.decode(before, skip_special_tokens=False) == text
        assert max(ids, default=0) < new.get_vocab_size()


@pytest.mark.parametrize("spec", [SPEC, BYTE_LEVEL], ids=["byte fallback", "byte level"])
@pytest.mark.parametrize("texts", [[], TEXTS[:1], TEXTS[1:3], TEXTS])
def test_merges_are_closed_and_in_their_old_order(spec: dict, texts: list[str]) -> None:
    model = prune_spec(spec, texts)["model"]
    old = [tuple(pair) for pair in spec["model"]["merges"]]
    places = [old.index(tuple(pair)) for pair in model["merges"]]
    assert places == sorted(set(places))
    for left, right in model["merges"]:
        assert {left, right, left + right} <= set(model["vocab"])
    assert sorted(model["vocab"].values()) == list(range(len(model["vocab"])))


def test_fewer_texts_keep_less_and_no_text_keeps_the_bytes() -> None:
    sizes = [len(prune_spec(SPEC, TEXTS[:n])["model"]["vocab"]) for n in range(len(TEXTS) + 1)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[-1] <= len(SPEC["model"]["vocab"])
    bare = prune_spec(SPEC, [])["model"]["vocab"]
    assert {f"<0x{byte:02X}>" for byte in range(256)} <= set(bare)
    assert {"<bos>", "<turn>"} <= set(bare)
    assert "<unused0>" not in bare
    assert "<unused0>" in prune_spec(SPEC, ["<unused0>"])["model"]["vocab"]


def test_building_merges_by_hand() -> None:
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("a", "bc"): 2, ("ab", "c"): 3}
    assert building_merges("abc", ranks) == [("b", "c"), ("a", "bc")]
    assert building_merges("a", ranks) == []
    assert building_merges("abd", ranks) == []  # not a piece that these merges reach


def test_merges_written_as_strings_are_understood() -> None:
    older = BYTE_LEVEL | {"model": dict(BYTE_LEVEL["model"])}
    older["model"]["merges"] = [" ".join(pair) for pair in BYTE_LEVEL["model"]["merges"]]
    assert prune_spec(older, TEXTS[:2]) == prune_spec(BYTE_LEVEL, TEXTS[:2])


def bpe_model(kind: str, tied: bool):
    import torch
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

    size = len(SPEC["model"]["vocab"])
    config = {"llama": LlamaConfig, "gemma": Gemma3TextConfig}[kind](
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def test_pruning_says_how_far_it_is_without_a_terminal(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LRNB_PROGRESS", str(told := tmp_path / "progress.json"))
    full = save_bpe(tmp_path / "full", SPEC, bpe_model("llama", True), **ROLES)
    prune_vocabulary(full, iter(TEXTS * 3), tmp_path / "small")
    found = json.loads(told.read_text())
    assert (found["stage"], found["done"]) == ("checking pieces", 3 * len(TEXTS)) and found["rate"] > 0


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("gemma", True)])
def test_pruned_model_gives_the_same_logits_on_kept_tokens(tmp_path: Path, kind: str, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    full = save_bpe(tmp_path / "full", SPEC, bpe_model(kind, tied), **ROLES)
    facts = prune_vocabulary(full, iter(TEXTS[1:3]), tmp_path / "small", keep=["▁the"])
    info = json.loads((tmp_path / "small/vocabulary.json").read_text())
    assert info == facts | {"kept_ids": info["kept_ids"]}
    assert (facts["old_size"], facts["new_size"]) == (len(SPEC["model"]["vocab"]), len(info["kept_ids"]))
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("full", "small")]
    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / name) for name in ("full", "small")]
    assert models[1].config.vocab_size == len(tokenizers[1]) == facts["new_size"] < facts["old_size"]
    assert models[1].config.tie_word_embeddings is tied
    for text in TEXTS[1:3]:
        ids = [tokenizer(text, return_tensors="pt").input_ids for tokenizer in tokenizers]
        names = [t.convert_ids_to_tokens(i[0]) for t, i in zip(tokenizers, ids, strict=True)]
        assert names[0] == names[1]
        assert names[0][0] == "<bos>"
        with torch.no_grad():
            before, after = (m(i).logits for m, i in zip(models, ids, strict=True))
        torch.testing.assert_close(after, before[..., info["kept_ids"]], rtol=0, atol=1e-5)


def test_special_ids_follow_their_tokens(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    model = bpe_model("llama", True)
    full = save_bpe(tmp_path / "full", SPEC, model, **ROLES)
    stored = json.loads((full / "generation_config.json").read_text())
    stored["eos_token_id"] = [SPEC["model"]["vocab"][piece] for piece in ("<eos>", "<turn>")]
    (full / "generation_config.json").write_text(json.dumps(stored))
    (full / "NOTICE").write_text("terms\n")
    prune_vocabulary(full, TEXTS[:1], tmp_path / "small")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "small")
    config = AutoConfig.from_pretrained(tmp_path / "small")
    for role, piece in ROLES.items():
        assert getattr(tokenizer, role) == piece
        assert getattr(config, f"{role}_id") == tokenizer.convert_tokens_to_ids(piece)
    assert config.bos_token_id < SPEC["model"]["vocab"]["<bos>"]
    eos = GenerationConfig.from_pretrained(tmp_path / "small").eos_token_id
    assert tokenizer.convert_ids_to_tokens(eos) == ["<eos>", "<turn>"]
    assert (tmp_path / "small/NOTICE").read_text().startswith("terms\nVocabulary cut from ")


def test_a_folder_can_be_pruned_in_place_and_again_to_the_same_bytes(tmp_path: Path) -> None:
    full = save_bpe(tmp_path / "full", SPEC, bpe_model("llama", True), **ROLES)
    for out in (tmp_path / "one", tmp_path / "two", full):
        prune_vocabulary(full, TEXTS[:2], out)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "vocabulary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert (tmp_path / "one" / name).read_bytes() == (full / name).read_bytes()


def test_a_tokenizer_that_is_not_bpe_is_refused(tmp_path: Path) -> None:
    folder = save_pico(tmp_path / "words")
    with pytest.raises(UserError, match=r"WordLevel.*base_prune=False"):
        prune_vocabulary(folder, ["the cat"], tmp_path / "out")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="is missing"):
        prune_vocabulary(folder, ["the cat"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
