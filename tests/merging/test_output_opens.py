"""A merged folder is one that transformers opens and that is spoken to rightly, on real small models.

Each situation is one that users of merging tools report; what must not be written is not there afterwards.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.pico import save_pico

from lrnb.checkpoints.small_files import small_files
from lrnb.checkpoints.trial import trial_opening
from lrnb.cli import main
from lrnb.errors import UserError

MODELS = ("--base", "base", "--model", "ct=ct", "--model", "sft=sft")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
TEMPLATE = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, ct and sft: pico Llamas with tokenizers, ct and sft a step away from base."""
    place = tmp_path_factory.mktemp("models")
    save_pico(place / "base")
    rng = np.random.default_rng(0)
    for name in ("ct", "sft"):
        shutil.copytree(place / "base", place / name)
        change_weights(place / name, lambda t: {k: x + moved(rng, x) for k, x in t.items()})
    return place


def moved(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return (1e-3 * rng.standard_normal(x.shape)).astype(x.dtype)


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, made the current folder."""
    shutil.copytree(models, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "w"


def change_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def edit(file: str | Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes a key away."""
    found = json.loads(Path(file).read_text()) | values
    Path(file).write_text(json.dumps({key: x for key, x in found.items() if x is not None}))


def written(name: str) -> dict[str, Any]:
    return json.loads((Path("out") / name).read_text())


class Merge:
    """Runs `lrnb merge average`; `refused` looks that nothing was written."""

    def __init__(self, capsys: pytest.CaptureFixture) -> None:
        self.capsys = capsys

    def __call__(self, *more: str) -> str:
        assert main.main(["merge", "average", *MODELS, "--out", "out", *more]) == 0
        return self.capsys.readouterr().err

    def refused(self, *more: str) -> str:
        before = sorted(path.name for path in Path().iterdir())
        assert main.main(["merge", "average", *MODELS, "--out", "out", *more]) == 2
        assert sorted(path.name for path in Path().iterdir()) == before
        said = self.capsys.readouterr().err
        assert len(said.splitlines()) <= 20
        return said


@pytest.fixture
def merge(place: Path, capsys: pytest.CaptureFixture) -> Merge:
    return Merge(capsys)


# whose tokenizer, and what goes with it


def speaking(folder: str) -> None:
    """A chat template, and an end of an answer that base does not have."""
    (Path(folder) / "chat_template.jinja").write_text(TEMPLATE)
    for name in ("config.json", "generation_config.json"):
        edit(Path(folder) / name, eos_token_id=[2, 7], pad_token_id=0)


@pytest.mark.parametrize("how", [(), ("--tokenizer", "sft")])
def test_a_chat_template_comes_with_its_own_end(merge: Merge, how: tuple[str, ...]) -> None:
    speaking("sft")
    said = merge(*how)
    assert Path("out/chat_template.jinja").read_text() == TEMPLATE
    assert written("config.json")["eos_token_id"] == [2, 7]
    assert written("config.json")["pad_token_id"] == 0
    assert written("generation_config.json")["eos_token_id"] == [2, 7]
    assert "ids of special tokens are those of sft" in said
    assert "those of sft" in Path("out/README.md").read_text()


def test_every_chat_template_and_processor_goes_along(merge: Merge) -> None:
    speaking("sft")
    Path("sft/additional_chat_templates").mkdir()
    Path("sft/additional_chat_templates/tool_use.jinja").write_text(TEMPLATE)
    Path("sft/preprocessor_config.json").write_text('{"size": 3}')
    Path("base/preprocessor_config.json").write_text('{"size": 4}')
    merge()
    assert Path("out/additional_chat_templates/tool_use.jinja").read_text() == TEMPLATE
    assert written("preprocessor_config.json") == {"size": 3}


def test_what_is_left_behind_is_said(merge: Merge) -> None:
    speaking("sft")
    spec = json.loads(Path("sft/tokenizer.json").read_text())
    spec["model"]["vocab"] |= {"cat": 5, "a": 6}  # two words change their places
    Path("sft/tokenizer.json").write_text(json.dumps(spec))
    said = merge("--vocabulary", "base")
    assert "template and generation settings of sft are left behind (another vocabulary" in said
    assert not Path("out/chat_template.jinja").exists()
    assert written("generation_config.json")["eos_token_id"] == 2


def test_the_tokenizers_own_end_ends_an_answer(merge: Merge) -> None:
    edit("base/tokenizer_config.json", eos_token="river")  # a token that the ids do not name
    river = json.loads(Path("base/tokenizer.json").read_text())["model"]["vocab"]["river"]
    said = merge("--tokenizer", "base")
    assert written("generation_config.json")["eos_token_id"] == [2, river]
    assert written("config.json")["eos_token_id"] == [2, river]
    assert f"has {river} too" in said


# configurations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_attention_heads": 4, "head_dim": 8},
            "num_attention_heads is 2 in config.json of base but 4 in",
        ),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 2 in config.json of base but 1 in that of sft"),
        ({"model_type": "mistral"}, "model_type is 'llama' in config.json of base but 'mistral' in"),
    ],
)
def test_models_that_compute_differently(merge: Merge, change: dict[str, Any], message: str) -> None:
    edit("sft/config.json", **change)
    assert message in merge.refused()


def test_settings_that_differ_are_warned_about(merge: Merge) -> None:
    edit("ct/config.json", rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    edit("sft/config.json", max_position_embeddings=512, hidden_act="gelu", rms_norm_eps=1e-5)
    said = merge()
    for words in (
        "ct: rope, theta, is 1000000.0 in its config.json and 10000.0 in that of base",
        "sft: max_position_embeddings is 512 in its config.json and 256",
        "sft: hidden_act is gelu in its config.json and silu",
        "sft: rms_norm_eps is 1e-05 in its config.json and 1e-06",
    ):
        assert f"warning: {words}" in said
    assert "1000000.0" in Path("out/README.md").read_text()
    assert said.count("warning") == 4


@pytest.mark.parametrize(
    ("key", "value"), [("rope_theta", 1e6), ("rms_norm_eps", 1e-3), ("hidden_act", "gelu")]
)
def test_a_setting_that_the_base_leaves_to_its_default(merge: Merge, key: str, value: Any) -> None:
    """Llama-2-7b-hf names no rope_theta."""
    for name in ("base", "ct", "sft"):
        edit(f"{name}/config.json", rope_parameters=None, **{key: None})
    assert key not in merge("--force")
    edit("ct/config.json", **{key: value})
    assert (
        f"ct: {key.replace('rope_', 'rope, ')}{',' * ('rope' in key)} is {value} in its config.json"
        in merge("--force")
    )


def test_two_spellings_of_one_rope_are_no_difference(merge: Merge) -> None:
    edit("ct/config.json", rope_parameters=None, rope_theta=10000.0, rope_scaling=None)
    assert "warning" not in merge()


# quantisation


def test_settings_of_a_quantisation_are_left_out(merge: Merge) -> None:
    for name in ("base", "ct", "sft"):
        settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        edit(f"{name}/config.json", quantization_config=settings)
    assert "quantisation settings in config.json are left out" in merge()
    assert "quantization_config" not in written("config.json")


QUANTISED = {
    "bitsandbytes": ({"load_in_8bit": True}, {"SCB": np.ones(3, np.float32)}, "bitsandbytes", "dequantize()"),
    "gptq": ({}, {"qweight": np.ones((2, 2), np.int32), "g_idx": np.ones(3, np.int32)}, "GPTQ", "bfloat16"),
    "awq": ({}, {"qweight": np.ones((2, 2), np.int32)}, "AWQ", "made from"),
    "fp8": ({}, {"weight_scale_inv": np.ones(2, np.float32)}, "FP8", "FineGrainedFP8Config"),
    "hqq": ({}, {"weight": np.ones((4, 4), np.uint8)}, "hqq", "made from"),
}


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("said_in_config", [True, False])
def test_quantised_weights_are_called_by_their_name(merge: Merge, kind: str, said_in_config: bool) -> None:
    settings, tensors, name, way = QUANTISED[kind]
    change_weights(
        Path("sft"), lambda t: t | {f"model.layers.0.mlp.up_proj.{k}": x for k, x in tensors.items()}
    )
    if said_in_config:
        edit("sft/config.json", quantization_config={"quant_method": kind, **settings})
    elif kind == "hqq":
        return  # nothing says so then, and the names differ
    said = merge.refused()
    assert f"sft: quantised weights ({name}" in said
    assert way in said


# what a folder holds


def test_buffers_are_left_out(merge: Merge) -> None:
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32) for i in range(2)}
    change_weights(Path("base"), lambda t: t | extra)
    merge()
    assert not set(extra) & set(load_file("out/model.safetensors"))
    assert len(load_file("out/model.safetensors")) == len(load_file("ct/model.safetensors"))


def test_an_adapter_beside_a_whole_model(merge: Merge) -> None:
    Path("sft/adapter_config.json").write_text("{}")
    said = merge.refused()
    assert "sft: holds a LoRA adapter (adapter_config.json) and a whole model (model.safetensors)" in said


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "tokenizer_config.json", "LICENSE"])
def test_pipes_are_not_waited_for(merge: Merge, name: str) -> None:
    Path("base", name).unlink(missing_ok=True)
    os.mkfifo(Path("base", name))
    if name in ("README.md", "manifest.json"):  # somebody else's notes, without which a merge goes on
        merge()
    else:
        assert f"base/{name}: not a file, but a pipe" in merge.refused()


def test_a_bomb_of_aliases_in_a_card(merge: Merge) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    card = "\n".join(["---", *levels, "base_model: [*a29]", "license: *a29", "language: *a29", "---", ""])
    Path("sft/README.md").write_text(card)
    merge()


def test_a_name_of_a_million_letters(merge: Merge) -> None:
    long = {"x" * 1_000_000: np.ones(3, np.float32), "y\n" * 1000: np.ones(3, np.float32)}
    change_weights(Path("sft"), lambda t: t | long)
    assert len(merge.refused()) < 3000


# what transformers would not open, or would make another model of


def settings(**values: Any) -> Callable[[], None]:
    return lambda: (
        edit("base/config.json", **values)
        or [
            edit(f"{name}/config.json", **{k: values[k] for k in KINDS if k in values})
            for name in ("ct", "sft")
        ]
    )


def text(name: str, content: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(content)


KINDS = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim")  # equal in all, or refused
OWN = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
UNOPENED = {
    "a layer too many": (settings(num_hidden_layers=3), r"base: its weights lack 'model\.layers\.2"),
    "a layer too few": (settings(num_hidden_layers=1), r"base: its config.json leaves no place for 'model"),
    "a million layers": (settings(num_hidden_layers=10**6), "num_hidden_layers is 1000000, and the folder"),
    "another width": (settings(hidden_size=48), r"is \(64, 32\), and its config.json describes \(64, 48\)"),
    "fewer tokens": (settings(vocab_size=60), r"is \(64, 32\), and its config.json describes \(60, 32\)"),
    "heads that do not divide": (settings(num_attention_heads=3), "base: transformers cannot open it"),
    "no kind": (settings(model_type=None), "base: transformers cannot open it .*model_type"),
    "a kind that nobody knows": (settings(model_type="nosuch"), "base: transformers cannot open it .*nosuch"),
    "an encoder": (settings(model_type="bert"), r"base: .* lack 'bert\.|base: transformers cannot open it"),
    "no language model": (settings(model_type="vit"), "base: transformers cannot open it .*no causal"),
    "code of its own": (settings(model_type="mine", auto_map=OWN), "base needs code of its own|cannot open"),
    "a rope that nobody knows": (settings(rope_parameters={"rope_type": "x"}), "base: transformers cannot"),
    "a dtype that nobody knows": (settings(dtype="float7"), None),  # the output's own is written
    "generation settings": (text("base/generation_config.json", "[]"), "base"),
    "a tokenizer that is none": (
        text("base/tokenizer_config.json", "[]"),
        "base: transformers cannot open it",
    ),
}


@pytest.mark.parametrize("case", UNOPENED)
def test_what_transformers_does_not_open_is_not_written(merge: Merge, case: str) -> None:
    change, message = UNOPENED[case]
    change()
    if message is None:
        merge()
        return
    assert re.search(message, said := merge.refused()), said
    assert re.search(message, said := merge.refused("--dry-run")), said


def test_a_weight_that_is_missing_everywhere(merge: Merge) -> None:
    for name in ("base", "ct", "sft"):
        change_weights(Path(name), lambda t: {k: x for k, x in t.items() if "layers.1.mlp.up" not in k})
    assert "base: its weights lack 'model.layers.1.mlp.up_proj.weight' (1 in all)" in merge.refused()


def more_tokens(folder: str, *tokens: str) -> None:
    """Tokens added to a tokenizer up to its last row, and these beyond."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"t{i}" for i in range(64 - len(tokenizer))])
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.save_pretrained(folder)


def test_ids_beyond_the_rows(merge: Merge) -> None:
    for name in ("base", "ct", "sft"):
        more_tokens(name, "<|im_start|>", "<|im_end|>")
    said = merge.refused()
    assert (
        "base: its tokenizer has 2 tokens beyond the 64 rows of the embeddings ('<|im_start|>', '<|im_e"
        in said
    )


def test_the_mark_of_an_image_needs_no_row(merge: Merge) -> None:
    for name in ("base", "ct", "sft"):
        more_tokens(name, "<image_soft_token>")  # of Gemma 3 270M and 1B, which cannot see
    assert "tokens without a row of embeddings: <image_soft_token>" in merge()


def test_auto_map_beside_a_kind_that_transformers_has(merge: Merge) -> None:
    edit("base/config.json", auto_map=OWN)
    Path("base/mine.py").write_text("raise SystemExit('code of a stranger ran')")
    assert "auto_map in config.json is left out" in merge()
    assert "auto_map" not in written("config.json")
    assert not Path("out/mine.py").exists()


def test_the_output_opens(merge: Merge) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    speaking("sft")
    merge()
    model = AutoModelForCausalLM.from_pretrained("out")
    tokenizer = AutoTokenizer.from_pretrained("out")
    ids = tokenizer("the cat sees a dog", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]
    assert model.generation_config.eos_token_id == [2, 7]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "cat"}], tokenize=False) == "cat</s>"


def test_a_process_of_its_own_asks(place: Path) -> None:
    """`lrnb merge` imports no transformers; a wrong configuration is found while it computes."""
    edit("base/config.json", num_hidden_layers=3)
    words = [sys.executable, "-m", "lrnb", "merge", "average", *MODELS, "--out", "out"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "lrnb: base: its weights lack 'model.layers.2." in done.stderr
    assert sorted(path.name for path in place.iterdir()) == ["base", "ct", "sft"]
    assert not (place.parent / "cache" / "openings.json").exists()


def test_an_answer_that_does_not_come_is_no_yes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformers")
    files = small_files(place / "base", place / "base")
    refusal = pytest.raises(UserError, match="transformers did not open the merged folder within 0 s")
    with trial_opening(files, {}, place / "base", place / "base", seconds=0.01) as trial, refusal:
        trial()
    assert not (place.parent / "cache" / "openings.json").exists()


def test_rows_that_are_not_finite_are_named_by_their_tokens(merge: Merge) -> None:
    def spoilt(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors["model.embed_tokens.weight"][[6, 60]] = np.nan
        return tensors

    change_weights(Path("sft"), spoilt)
    assert "64 of 2,048 entries, in 2 of 64 rows: 6 ('cat'), 60 (no token). If no text has" in merge.refused()


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "base_model.model.", "-model.", "language_model."]
)
@pytest.mark.parametrize("names", [("sft",), ("base",), ("base", "ct", "sft")])
def test_names_that_differ_by_a_prefix_are_matched(merge: Merge, prefix: str, names: tuple[str, ...]) -> None:
    merge()
    plain = load_file("out/model.safetensors")
    for name in names:
        change_weights(
            Path(name),
            lambda t: {
                k.removeprefix(prefix[1:]) if prefix[0] == "-" else prefix + k: x for k, x in t.items()
            },
        )
    if "base" in names and prefix == "language_model.":  # nobody's wrapper: transformers is asked
        assert "base: its weights lack" in merge.refused("--force")
        return
    assert f"{names[0]}: its names have another prefix" in merge() or prefix == "-model."
    found = load_file("out/model.safetensors")
    assert {k.removeprefix("model.") for k in found} == {k.removeprefix("model.") for k in plain}
    assert all(np.array_equal(x, plain[k if k in plain else f"model.{k}"]) for k, x in found.items())


def packed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As vLLM lays a Llama out: transformers would fill gate and up with random numbers."""
    return {
        k.replace("gate_proj", "gate_up_proj"): np.concatenate([x, tensors[k.replace("gate_", "up_")]])
        if "gate_proj" in k else x
        for k, x in tensors.items() if not k.endswith(".up_proj.weight")
    }  # fmt: skip


def test_packed_tensors_get_advice_that_helps(merge: Merge) -> None:
    change_weights(Path("sft"), packed)
    said = merge.refused()
    assert "sft is laid out otherwise than the base in its files" in said
    assert "transformers does not read it" in said and "save_pretrained('NEW')" not in said


@pytest.mark.parametrize("key", ["eos_token_id", "pad_token_id"])
def test_an_end_or_padding_without_a_row(merge: Merge, key: str) -> None:
    edit("base/generation_config.json", **{key: 64})
    assert f"{key} of its generation_config.json is 64, beyond the 64 rows" in merge.refused()


@pytest.mark.parametrize(
    "where", ["chat_template.jinja", "tokenizer_config.json", "additional_chat_templates/x.jinja"]
)
def test_a_chat_template_that_is_none(merge: Merge, where: str) -> None:
    if where.endswith("json"):
        edit(f"base/{where}", chat_template="{% for m in %}")
    else:
        Path("base", where).parent.mkdir(exist_ok=True)
        Path("base", where).write_text("{% for m in %}")
    assert re.search("base: its chat template '(default|x)' fails", merge.refused())


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "tokenizer_config.json", "generation_config.json", "LICENSE"]
)
@pytest.mark.parametrize("kind", ["pipe", "pointer"])
def test_odd_files_that_are_not_used(merge: Merge, name: str, kind: str) -> None:
    Path("sft", name).unlink(missing_ok=True)
    os.mkfifo(Path("sft", name)) if kind == "pipe" else Path("sft", name).write_text(POINTER)
    assert (
        f"sft/{name}: {'not a file, but a pipe' if kind == 'pipe' else 'a Git LFS pointer'}"
        in merge.refused()
    )


def test_recipes_and_texts_that_are_no_files(place: Path, capsys: pytest.CaptureFixture) -> None:
    os.mkfifo("pipe.yaml")
    Path("device.yaml").symlink_to("/dev/zero")
    Path("pointer.yaml").write_text(POINTER)
    for name, what in (("pipe", "a pipe"), ("device", "a device"), ("pointer", "a Git LFS pointer")):
        for given in ([f"{name}.yaml"], ["average", *MODELS, "--check", f"{name}.yaml"]):
            assert main.main(["merge", *given, "--out", "out"]) == 2
            assert f"{name}.yaml: " in (said := capsys.readouterr().err) and what in said


def test_adapter_weights_alone_beside_a_whole_model(merge: Merge) -> None:
    save_file(
        {"base_model.model.lm_head.lora_A.weight": np.ones((1, 2), np.float32)},
        "sft/adapter_model.safetensors",
    )
    assert "sft: holds a LoRA adapter (adapter_model.safetensors) and a whole model" in merge.refused()


def test_a_tokenizer_is_taken_from_a_model_that_has_one(merge: Merge) -> None:
    for name in ("base", "ct"):
        for path in Path(name).glob("*token*"):
            path.unlink()
    assert "base: has no tokenizer" in merge.refused("--tokenizer", "base")
    assert "special tokens are those of sft" in merge()
    assert Path("out/tokenizer.json").is_file()
    Path("sft/tokenizer.json").unlink()
    Path("sft/tokenizer_config.json").unlink()
    shutil.rmtree("out")
    assert "no model has a tokenizer" in merge()
