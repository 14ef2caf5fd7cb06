"""Merging models of different vocabularies: rows by token text, the policies, what is written and refused.

The reference: by hand the rows that all have are put in one order, and those models are merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.checkpoints import pico
from support.reference import bits, save_folder
from support.vocabularies import EMBED, HEAD, SHARED, WIDTH, ids_of, save_with_tokens, with_rows

from lrnb.checkpoints.reading import open_checkpoint
from lrnb.cli import main
from lrnb.errors import UserError
from lrnb.merging import cpu, methods
from lrnb.merging.whole_models import merge_checkpoints, merge_state, plan_merge


def required(name: str) -> dict[str, Any]:
    """Every option that a method cannot do without: a number at 0.5, scores of entries of no tensor."""
    given = {key: spec.kind for key, spec in methods.find(name).fields().items() if spec.required}
    return {key: {"ct": {}, "sft": {}} if kind == "folder" else 0.5 for key, kind in given.items()}


GIVEN: dict[str, dict[str, Any]] = {
    "average": {"alpha": 0.3}, "task_arithmetic": {"lam": {"ct": 1.0, "sft": 0.7}}, "ties": {"density": 0.4},
    "ties_sv": {"density": 0.5, "slack": 0.3}, "slerp": {"t": 0.4}, "nuslerp": {"t": 0.3},
}  # fmt: skip
METHODS = {name: GIVEN.get(name, required(name)) for name in methods.METHODS}
SHAPES = [(False, True, "bpe"), (True, False, "unigram"), (True, True, "words")]  # moved, untied, tokenizer
CASES = [(name, *shape) for name in METHODS for shape in (SHAPES if name in GIVEN else SHAPES[2:])]
BF16 = np.dtype(ml_dtypes.bfloat16)
NEW = [f"bn{i}" for i in range(6)]
ROLES = {"bos_token_id": 1, "eos_token_id": 2}


def moved(tokens: list[str], seed: int) -> list[str]:
    """The same tokens at other ids, but the first."""
    return [tokens[0], *(tokens[i] for i in 1 + np.random.default_rng(seed).permutation(len(tokens) - 1))]


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Base and SFT of SHARED and a CT with NEW, padded; ids of CT moved where asked for."""

    def make(
        shuffled: bool = False, head: bool = False, kind: str = "words", chat: tuple = ("<|im|>",)
    ) -> Any:
        pieces = [*(moved(SHARED, 1) if shuffled else SHARED), *NEW]
        roles = {key: pieces.index(SHARED[i]) for key, i in ROLES.items()}
        how: dict[str, Any] = {"kind": kind}
        base, sft, ct = (with_rows(n, i, head, BF16) for i, n in enumerate((12, 12 + len(chat), 24)))
        found = {"base": save_with_tokens(tmp_path / "base", base, SHARED, **how, **ROLES)}
        found["ct"] = save_with_tokens(tmp_path / "ct", ct, pieces, **how, **roles)
        found["sft"] = save_with_tokens(tmp_path / "sft", sft, SHARED, chat, **how, **ROLES)
        (found["base"] / "generation_config.json").write_text(json.dumps(ROLES | {"do_sample": False}))
        return found

    return make


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(x) for name, x in open_checkpoint(folder).items()}


def by_hand(folders: dict[str, Path], method: str, order: list[str]) -> dict[str, np.ndarray]:
    """The merge of the rows that all have, in this order, with the tensors beside them; float32."""
    models = {}
    for label, folder in folders.items():
        rows, ids = tensors_of(folder), ids_of(folder)
        tables = {name: rows[name][[ids[t] for t in order]] for name in (EMBED, HEAD) if name in rows}
        models[label] = rows | tables
    base = models.pop("base")
    return merge_state(method, base if methods.find(method).base else None, models, **METHODS[method])


def merge(folders: dict[str, Path], method: str, out: Path, **how: Any) -> dict[str, Any]:
    options = METHODS[method] | how
    return merge_checkpoints(method, folders["base"], {k: folders[k] for k in ("ct", "sft")}, out, **options)


@pytest.mark.parametrize(("method", "shuffled", "head", "kind"), CASES)
def test_owner_keeps_new_rows_and_merges_the_others_as_by_hand(
    place: Callable,
    tmp_path: Path,
    method: str,
    shuffled: bool,
    head: bool,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = place(shuffled, head, kind)
    monkeypatch.setattr(cpu.Cpu, "span", 13)  # no multiple of a row
    report = merge(folders, method, tmp_path / "out", vocabulary="owner", threads=2)
    out, ids = tensors_of(tmp_path / "out"), ids_of(tmp_path / "out")
    ct_ids, sft_ids = ids_of(folders["ct"]), ids_of(folders["sft"])
    order = sorted(SHARED, key=ids.__getitem__)
    wanted = by_hand(folders, method, order)
    for name in out:
        found = out[name][[ids[t] for t in order]] if name in (EMBED, HEAD) else out[name]
        assert np.array_equal(bits(found), bits(wanted[name].astype(BF16))), name
    ct, sft = tensors_of(folders["ct"]), tensors_of(folders["sft"])
    for name in (EMBED, HEAD)[: 1 + head]:
        assert out[name].shape == (24, WIDTH)
        for token in NEW:
            assert np.array_equal(bits(out[name][ids[token]]), bits(ct[name][ct_ids[token]]))
        assert np.array_equal(bits(out[name][ids["<|im|>"]]), bits(sft[name][sft_ids["<|im|>"]]))
        assert np.array_equal(bits(out[name][19:]), bits(ct[name][19:]))  # padding
    assert set(ids) == {*SHARED, *NEW, "<|im|>"} and ids["<|im|>"] == 18
    assert {t: ids[t] for t in ct_ids} == ct_ids
    config = json.loads((tmp_path / "out/config.json").read_text())
    kept = {token: config[key] for key, token in (("bos_token_id", "<s>"), ("eos_token_id", "</s>"))}
    assert kept == {token: ids[token] for token in kept} and config["vocab_size"] == 24
    if methods.find(method).base:
        generation = json.loads((tmp_path / "out/generation_config.json").read_text())
        assert (generation["eos_token_id"], generation["do_sample"]) == (ids["</s>"], False)
    assert report["vocabulary"]["kept"] == {"ct": 6, "sft": 1} and report["vocabulary"]["without_token"] == 5
    card = (tmp_path / "out/README.md").read_text()
    assert (
        "- vocabulary: owner" in card
        and "24 rows, 12 merged, 6 from ct, 1 from sft, 5 without a token" in card
    )


def test_base_leaves_the_others_tokens_behind_and_says_so(place: Callable, tmp_path: Path) -> None:
    folders = place(shuffled=True)
    report = merge(folders, "ties", tmp_path / "out", vocabulary="base")
    wanted = by_hand(folders, "ties", SHARED)
    for name, found in tensors_of(tmp_path / "out").items():
        assert np.array_equal(bits(found), bits(wanted[name].astype(BF16))), name
    assert ids_of(tmp_path / "out") == ids_of(folders["base"])
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 12
    assert any("6 tokens of ct are left behind: 'bn0', 'bn1'" in text for text in report["warnings"])
    assert report["vocabulary"]["left_behind"] == {"ct": 6, "sft": 1}


@pytest.mark.parametrize("body", ["ct", "sft", "base"])
def test_body_takes_embeddings_and_head_whole(place: Callable, tmp_path: Path, body: str) -> None:
    folders = place(shuffled=True, head=True)
    (folders["ct"] / "tokenizer.json").rename(folders["ct"] / "other.json")  # rows are not matched
    how = {"ct": {"tokenizer": "ct"}}.get(body, {})
    merge(folders, "ties", tmp_path / "out", vocabulary=f"body={body}", **how)
    found, own = tensors_of(tmp_path / "out"), tensors_of(folders[body])
    assert all(np.array_equal(bits(found[name]), bits(own[name])) for name in (EMBED, HEAD))
    models = {
        k: {n: x for n, x in tensors_of(f).items() if n not in (EMBED, HEAD)} for k, f in folders.items()
    }
    wanted = merge_state("ties", models.pop("base"), models, **METHODS["ties"])
    assert all(np.array_equal(bits(found[name]), bits(x.astype(BF16))) for name, x in wanted.items())
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == len(own[EMBED])


def test_a_token_that_only_parents_have_is_their_mean_and_equal_rows_stay(tmp_path: Path) -> None:
    rows = {label: with_rows(14, i, dtype=BF16) for i, label in enumerate(("ct", "sft", "third"))}
    for model in rows.values():
        model[EMBED][13] = rows["ct"][EMBED][13]
    folders = {k: save_with_tokens(tmp_path / k, x, SHARED, ["<a>", "<b>"]) for k, x in rows.items()}
    base = save_with_tokens(tmp_path / "base", with_rows(13, 9, dtype=BF16), [*SHARED, "old"])
    merge_checkpoints(
        "ties", base, folders, tmp_path / "out", density=0.5, vocabulary="owner", tokenizer="ct"
    )
    found, ids = tensors_of(tmp_path / "out")[EMBED], ids_of(tmp_path / "out")
    mean = sum(model[EMBED][12].astype(np.float32) for model in rows.values()) / np.float32(3)
    assert np.array_equal(found[ids["<a>"]], mean.astype(BF16))
    assert np.array_equal(bits(found[ids["<b>"]]), bits(rows["ct"][EMBED][13]))
    assert np.array_equal(bits(found[ids["old"]]), bits(tensors_of(base)[EMBED][12]))  # no parent has it


def test_the_tokenizer_is_that_of_the_model_with_all_pieces(place: Callable, tmp_path: Path) -> None:
    folders = place(chat=())
    models = {k: folders[k] for k in ("sft", "ct")}
    assert (
        plan_merge("average", folders["base"], models, tmp_path / "o", vocabulary="owner")["recipe"][
            "tokenizer"
        ]
        == "ct"
    )
    named = plan_merge(
        "average", folders["base"], models, tmp_path / "o", vocabulary="owner", tokenizer="sft"
    )
    assert named["recipe"]["tokenizer"] == "sft" and named["vocabulary"]["rows"] == 18
    assert "takes in 6 pieces of others as whole tokens ('bn0', " in "".join(named["warnings"])


def test_the_same_tokens_are_merged_as_ever_whatever_the_files_look_like(
    place: Callable, tmp_path: Path
) -> None:
    folders = place(chat=())
    file = folders["sft"] / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation": None}, indent=7))
    (folders["base"] / "x").write_text("")
    models = {"sft": folders["sft"]}
    plain = merge_state("ties", folders["base"], models, density=0.5)
    assert "vocabulary" not in merge_checkpoints(
        "ties", folders["base"], models, tmp_path / "out", density=0.5, vocabulary="owner"
    )
    out = tensors_of(tmp_path / "out")
    assert all(np.array_equal(out[name].astype(np.float32), x) for name, x in plain.items())


def other_words(folders: dict[str, Path]) -> None:
    """As many tokens in CT as in base, others from the seventh on."""
    tokens = [*SHARED[:7], *(f"bn{i}" for i in range(5))]
    save_with_tokens(folders["ct"], with_rows(12, 5, dtype=BF16), tokens)


def damaged(folders: dict[str, Path]) -> None:
    (folders["ct"] / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')


def without(label: str) -> Callable[[dict[str, Path]], None]:
    return lambda folders: (folders[label] / "tokenizer.json").unlink()


def not_finite(folders: dict[str, Path]) -> None:
    tensors = tensors_of(folders["ct"])
    tensors[EMBED][15] = np.nan
    save_folder(folders["ct"], tensors, config={"tie_word_embeddings": True})


@pytest.mark.parametrize(
    ("harm", "how", "message"),
    [
        (None, {}, r"is \(12, 8\) in base but \(24, 8\) in ct: the vocabularies differ at 6 ids "
         r"\(base \| ct\): 12 nothing \| 'bn0'; 13 .*\. Give --vocabulary owner .*body=NAME"),
        (other_words, {}, r"^average: the vocabularies differ at 5 ids .*: 7 't4' \| 'bn0'; 8 .*Give --v"),
        (None, {"vocabulary": "own"}, "vocabulary must be refuse, owner, base or body=NAME, got 'own'"),
        (None, {"vocabulary": "body=cd"}, "no model that is merged is called 'cd'; they are base, ct, sft"),
        (None, {"vocabulary": "body=ct", "tokenizer": "sft"}, "goes with the tokenizer of ct, not of sft"),
        (None, {"vocabulary": "base", "tokenizer": "sft"}, "goes with the tokenizer of base, not of sft"),
        (damaged, {"vocabulary": "owner"}, r"ct/tokenizer.json: cannot be read as a tokenizer .* again\."),
        (without("ct"), {"vocabulary": "owner"}, "ct has no tokenizer.json, which rows are matched by. Copy"),
        (without("base"), {}, r"\(24, 8\) in ct: their vocabularies differ. .*base has no tokenizer.json"),
        (not_finite, {"vocabulary": "owner"}, f"ct: '{EMBED}' holds NaN or Inf in 8 of 192 entries"),
    ],
)  # fmt: skip
def test_refused(place: Callable, tmp_path: Path, harm: Any, how: dict, message: str) -> None:
    folders = place()
    if harm:
        harm(folders)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        merge_checkpoints(
            "average", folders["base"], {k: folders[k] for k in ("ct", "sft")}, tmp_path / "out", **how
        )
    assert sorted(tmp_path.rglob("*")) == before and len(str(caught.value)) < 1200


@pytest.mark.parametrize("vocabulary", ["refuse", "owner"])
@pytest.mark.parametrize("rows", [(12, 24, 16), (24, 12, 16)])
def test_other_padding_is_no_other_vocabulary(tmp_path: Path, rows: tuple[int, ...], vocabulary: str) -> None:
    names = ("base", "ct", "sft")
    folders = {
        name: save_with_tokens(tmp_path / name, with_rows(n, i, True, BF16), SHARED)
        for i, (name, n) in enumerate(zip(names, rows, strict=True))
    }
    report = merge(folders, "ties", tmp_path / "out", vocabulary=vocabulary)
    out, wanted = tensors_of(tmp_path / "out"), by_hand(folders, "ties", SHARED)
    for name, x in out.items():
        assert np.array_equal(
            bits(x[:12] if name in (EMBED, HEAD) else x), bits(wanted[name].astype(BF16))
        ), name
    assert np.array_equal(bits(out[EMBED][12:]), bits(tensors_of(folders["base"])[EMBED][12:]))
    assert len(out[EMBED]) == rows[0] and report["vocabulary"]["merged"] == 12
    (folders["sft"] / "chat_template.jinja").write_text("{{ messages }}")
    report = merge(folders, "ties", tmp_path / "out", vocabulary=vocabulary)
    assert len(tensors_of(tmp_path / "out")[EMBED]) == 16 and report["vocabulary"]["tokenizer"] == "sft"


def test_tensors_in_memory_have_no_tokens(tmp_path: Path) -> None:
    base = pico()
    grown = base | {EMBED: np.zeros((18, 8), np.float32)}
    with pytest.raises(
        UserError, match="vocabularies differ; merge folders with tokenizers, and give --vocab"
    ):
        merge_state("average", base, {"ct": grown})


def test_transformers_opens_what_owner_writes(tmp_path: Path) -> None:
    import torch
    from support.pico import pico_model, pico_tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = {label: tmp_path / label for label in ("base", "ct", "sft")}
    for label, folder in folders.items():
        model, tokenizer = pico_model(), pico_tokenizer()
        model.resize_token_embeddings(len(tokenizer))
        if label == "ct":
            tokenizer.add_tokens(NEW)
            model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
        if label == "sft":
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|im|>"]})
            model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    merge(folders, "average", tmp_path / "out", vocabulary="owner")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model, ct = (AutoModelForCausalLM.from_pretrained(x) for x in (tmp_path / "out", folders["ct"]))
    ids = tokenizer("<|im|> the bn3 cat")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|im|>", "the", "bn3", "cat"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the bn3 cat"
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[ids[2]], ct.get_input_embeddings().weight[ids[2]]) and len(rows) == 36
    assert model(torch.tensor([ids])).logits.shape == (1, 4, 36)


def test_conflicts_are_of_the_rows_that_all_have(place: Callable, capsys: pytest.CaptureFixture) -> None:
    folders = place()
    given = [
        "conflicts",
        "--base",
        folders["base"],
        "--model",
        f"ct={folders['ct']}",
        "--model",
        f"sft={folders['sft']}",
    ]
    assert main.main([str(x) for x in given]) == 2
    assert "Give --vocabulary owner" in capsys.readouterr().err
    assert main.main([*map(str, given), "--vocabulary", "owner", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["vocabulary"]["merged"] == 12
