"""Whatever a user gives as a model opens with the right bits, or is refused by name, as real files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from support.hub_cache import to_hub
from support.pico import pico_model, pico_tokenizer, save_pico
from support.reference import save_folder

from lrnb.checkpoints.opening import hub_files, open_source
from lrnb.checkpoints.reading import open_checkpoint
from lrnb.checkpoints.torch_bin import check_torch
from lrnb.errors import UserError

BIN_INDEX = "pytorch_model.bin.index.json"


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("LRNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def refused(given, message: str, *, base=None) -> str:
    with pytest.raises(UserError, match=message) as caught:
        open_source(given, base=base)
    assert Path(given).name in str(caught.value)
    return str(caught.value)


def table(dtype: str = "bfloat16") -> dict:
    import torch

    torch.manual_seed(0)
    names = {"model.embed_tokens.weight": (6, 4), "a": (5,), "b": (3, 2), "empty": (0, 4), "number": ()}
    tensors = {name: torch.randn(shape).to(getattr(torch, dtype)) for name, shape in names.items()}
    return tensors | {"steps": torch.arange(3)}


def save_bin(folder: Path, tensors: dict, *, shards: int = 1, config: dict | None = None, **how) -> Path:
    import torch

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": False} | (config or {})))
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin", **how)
        return folder
    weight_map = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        part = {name: tensors[name] for name in list(tensors)[i::shards]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / BIN_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def value(tensor) -> np.ndarray:
    """A torch tensor as float64, by way of Python numbers: nothing shared with the reader."""
    return np.array(tensor.tolist(), np.float64).reshape(tensor.shape)


def assert_opens(folder: Path, tensors: dict) -> None:
    opened = open_source(folder)
    assert list(opened) == sorted(tensors)
    for name, wanted in tensors.items():
        assert opened[name].dtype.name == str(wanted.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(opened[name].astype(np.float64), value(wanted))
        assert opened[name].flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            opened[name][...] = 0


# folders


def test_a_safetensors_folder_wins_over_bin(tmp_path):
    folder = save_folder(tmp_path / "model", {"a": np.ones(3, np.float32)})
    (folder / "pytorch_model.bin").write_bytes(b"not opened")
    opened = open_source(folder)
    assert [path.name for path in opened.files] == ["model.safetensors"]
    assert opened["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("given", ["no/such/folder", "./nowhere", "nowhere", "/no/where"])
def test_a_path_that_is_not_there_is_named(given):
    refused(given, f"{given}: no such folder. Give a Hugging Face model folder")
    refused(Path(given), "no such folder")


def test_a_path_that_the_system_refuses_is_named():
    refused("x" * 300, r"x{300}: cannot be read \(File name too long\). Mend the path or its rights")


def test_a_file_instead_of_a_folder(tmp_path):
    file = save_folder(tmp_path / "model", {"a": np.ones(3, np.float32)}) / "model.safetensors"
    refused(file, f"a file, not a folder. Give the folder that it lies in: {file.parent}")


def test_gguf_is_refused_with_the_way_to_convert(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    refused(tmp_path / "m.gguf", r"m\.gguf: GGUF files are quantised.*convert_gguf.*make smol-base")


# .bin


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_bin_folders_open_with_the_same_bits(tmp_path, shards, dtype):
    folder = save_bin(tmp_path / "model", table(dtype), shards=shards)
    assert_opens(folder, table(dtype))
    assert len(open_source(folder).files) == shards
    assert sorted(folder.iterdir()) == sorted({*open_source(folder).files, *folder.glob("*.json")})


def test_parameters_and_ordered_tables_open(tmp_path):
    state = pico_model().state_dict(keep_vars=True)
    assert_opens(save_bin(tmp_path / "model", state), {n: x.detach() for n, x in state.items()})


def spans(file: Path) -> list[tuple[int, int]]:
    """Addresses at which this process has mapped a file (Linux)."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split()[0].split("-") for line in lines if line.endswith(str(file))]
    return [(int(start, 16), int(stop, 16)) for start, stop in found]


def mapped(opened, where: list[tuple[int, int]]) -> set[str]:
    """Names of the tensors that lie in a mapped file, so are no copies."""
    homes = {name: x.__array_interface__["data"][0] for name, x in opened.items() if x.size}
    return {name for name, at in homes.items() if any(start <= at < stop for start, stop in where)}


def test_views_and_disordered_tensors_open_right(tmp_path):
    import torch

    whole = torch.randn(6, 8).to(torch.bfloat16)
    tensors = {
        "row": whole[2], "rows": whole[1:3], "column": whole[:, 3], "turned": whole.T,
        "wide": whole[0].expand(3, 8),
        "flat": whole.reshape(-1)[7:], "late": whole[3:, 4:], "one": whole[5:, ::9], "none": whole[:, :0],
    }  # fmt: skip
    folder = save_bin(tmp_path / "model", tensors)
    assert_opens(folder, tensors)
    opened = open_source(folder)
    assert opened["turned"] is opened["turned"]
    data = spans(folder / "pytorch_model.bin")
    assert sorted(name for name in tensors if name in mapped(opened, data)) == ["flat", "one", "row", "rows"]


def test_ordered_tensors_are_views_of_the_mapped_file(tmp_path):
    folder = save_bin(tmp_path / "model", table())
    opened = open_source(folder)
    assert mapped(opened, spans(folder / "pytorch_model.bin")) == {n for n, x in opened.items() if x.size}


def test_tied_tensors_in_one_storage(tmp_path):
    import torch

    shared = torch.randn(4, 2)
    both = {"model.embed_tokens.weight": shared, "lm_head.weight": shared}
    opened = open_source(save_bin(tmp_path / "tied", both, config={"tie_word_embeddings": True}))
    assert opened.tied
    assert opened.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert_opens(tmp_path / "tied", both)
    apart = open_source(save_bin(tmp_path / "apart", both))
    assert (apart.tied, apart.aliases) == (False, {})


@pytest.mark.parametrize("name", ["a", "model.embed_tokens.weight"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bin_with_nan_or_inf(tmp_path, name, bad):
    tensors = table()
    tensors[name].view(-1)[1:3] = bad
    folder = save_bin(tmp_path / "model", tensors, shards=2)
    refused(folder, f"'{name}' holds NaN or Inf in 2 of {tensors[name].numel()} entries")


class Trap:
    """A pickle that makes a file when it is opened without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("how", ["zip", "zip, inside", "legacy", "plain"])
def test_code_in_a_pickle_does_not_run(tmp_path, how):
    import torch

    mark, folder = tmp_path / "code ran", save_bin(tmp_path / "model", table())
    file = folder / "pytorch_model.bin"
    if how == "plain":
        file.write_bytes(pickle.dumps(Trap(mark)))
    else:
        trap = table() | {"trap": Trap(mark)} if how == "zip, inside" else Trap(mark)
        torch.save(trap, file, _use_new_zipfile_serialization=how != "legacy")
    remedy = "Get the model as safetensors" if how.startswith("zip") else "Convert it once: python"
    refused_message = refused(folder, rf"pytorch_model\.bin: .*{remedy}")
    assert not mark.exists()
    assert "Traceback" not in refused_message
    if how != "plain":
        torch.load(file, weights_only=False)  # the trap does work
        assert mark.exists()


def test_legacy_files_are_refused_and_the_remedy_works(tmp_path):
    import subprocess
    import sys

    folder = save_bin(tmp_path / "model", table(), _use_new_zipfile_serialization=False)
    message = refused(folder, "format before torch 1.6")
    code = message.split('python -c "')[1].rstrip('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    assert_opens(folder, table())


@pytest.mark.parametrize("size", [0, 3, 500, -1, -300])
def test_truncated_bin(tmp_path, size):
    file = save_bin(tmp_path / "model", table(), shards=2) / "pytorch_model-00002-of-00002.bin"
    os.truncate(file, size if size >= 0 else file.stat().st_size + size)
    refused(file.parent, r"pytorch_model-00002-of-00002\.bin: not a whole \.bin file.*Copy or download")


def rezip(file: Path, change, compression: int = zipfile.ZIP_STORED) -> None:
    """Write the zip file anew with `change(name, data)` in place of each record."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def test_bin_whose_data_does_not_fit_its_tensors(tmp_path):
    folder = save_bin(tmp_path / "model", table())
    rezip(folder / "pytorch_model.bin", lambda name, data: data)
    assert_opens(folder, table())  # written anew, at other offsets and unaligned
    rezip(folder / "pytorch_model.bin", lambda name, data: data[:-2] if name.endswith("data/0") else data)
    refused(folder, r"pytorch_model\.bin: its tensors do not fit its data")


def test_torchscript_is_refused(tmp_path):
    import torch

    folder = save_bin(tmp_path / "model", table())
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "pytorch_model.bin")
    refused(
        folder, r"pytorch_model\.bin: .* is compressed, encrypted or too large\. Get the model as safetensors"
    )


def test_bin_of_a_machine_with_the_other_byte_order(tmp_path):
    tensors = {"a": table("float32")["a"], "b": table("float32")["b"]}
    folder = save_bin(tmp_path / "model", tensors)

    def swapped(name: str, data: bytes) -> bytes:
        if "/data/" in name:
            return np.frombuffer(data, "<f4").byteswap().tobytes()
        return b"big" if name.endswith("byteorder") else data

    rezip(folder / "pytorch_model.bin", swapped)
    assert_opens(folder, tensors)
    rezip(folder / "pytorch_model.bin", lambda name, data: b"odd" if name.endswith("byteorder") else data)
    refused(folder, r"pytorch_model\.bin: cannot be read \(.*odd.*\)\. Copy or download")


def test_compressed_bin(tmp_path):
    folder = save_bin(tmp_path / "model", table())
    rezip(folder / "pytorch_model.bin", lambda name, data: data, zipfile.ZIP_DEFLATED)
    refused(folder, "compressed")


def test_bin_with_a_password(tmp_path):
    """torch's reader does not look at the mark."""
    folder = save_bin(tmp_path / "model", table())
    file = folder / "pytorch_model.bin"
    with zipfile.ZipFile(file) as archive:
        spot = next(x for x in archive.infolist() if x.filename.endswith("byteorder")).header_offset
        raw = bytearray(file.read_bytes())
        listed = raw.index(b"PK\x01\x02", archive.start_dir)
        while raw[listed + 42 : listed + 46] != spot.to_bytes(4, "little"):
            listed = raw.index(b"PK\x01\x02", listed + 4)
    raw[spot + 6] |= 1
    raw[listed + 8] |= 1
    file.write_bytes(raw)
    refused(folder, r"pytorch_model\.bin: '.*byteorder' is compressed, encrypted or too large")


def test_a_name_that_safetensors_keeps_for_itself(tmp_path):
    folder = save_bin(tmp_path / "model", table() | {"__metadata__": table()["a"]})
    refused(folder, r"pytorch_model\.bin: not a plain table of names and tensors \('__metadata__' is")


def test_bin_that_holds_something_else(tmp_path):
    import torch

    odd = {
        "nested": {"state_dict": table()}, "list": [torch.ones(2)], "number": table() | {"step": 3},
        "sparse": {"a": torch.eye(3).to_sparse()}, "complex": {"a": torch.ones(2, dtype=torch.complex64)},
    }  # fmt: skip
    for name, given in odd.items():
        message = "dtype torch.complex64, which is not merged" if name == "complex" else "not a plain table"
        refused(save_bin(tmp_path / name, given), rf"pytorch_model\.bin: .*{message}")


def test_bin_index_is_checked_like_that_of_safetensors(tmp_path):
    def broken(name: str, change) -> Path:
        folder = save_bin(tmp_path / name, table(), shards=2)
        index = json.loads((folder / BIN_INDEX).read_text())
        change(folder, index["weight_map"])
        (folder / BIN_INDEX).write_text(json.dumps(index))
        return folder

    one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    outside = tmp_path / "outside.bin"
    cases = [
        (lambda f, m: (f / two).unlink(), f"{two}: this file is missing"),
        (lambda f, m: m.update(ghost=one), "'ghost' is in the index, but not the file"),
        (lambda f, m: m.pop("a"), "'a' is in the file, but not the index"),
        (lambda f, m: m.update(a="../outside.bin"), "names the file .* outside"),
        (lambda f, m: m.update(a=str(outside)), "names the file .* outside"),
        (lambda f, m: shutil.copy(f / two, f / "pytorch_model-3.bin"), "does not name"),
        (
            lambda f, m: [shutil.move(f / two, outside), (f / two).symlink_to(outside)],
            "a link to a file outside",
        ),
    ]
    for i, (change, message) in enumerate(cases):
        refused(broken(str(i), change), message)
    folder = save_bin(tmp_path / "no-index", table(), shards=2)
    (folder / BIN_INDEX).unlink()
    refused(folder, "shards without pytorch_model")


def test_other_bin_files_in_a_folder_are_left_alone(tmp_path):
    folder = save_bin(tmp_path / "model", table())
    (folder / "training_args.bin").write_bytes(pickle.dumps(Trap(tmp_path / "code ran")))
    assert_opens(folder, table())
    assert not (tmp_path / "code ran").exists()


@pytest.mark.parametrize("version", ["2.9.1+cu128", "1.13.1", "2.6"])
def test_old_torch_is_refused(version):
    with pytest.raises(UserError, match=r"cannot open \.bin files safely: 2\.10 or newer"):
        check_torch(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.15.0+cpu", "3.0", "2.10.0a0+git1234"])
def test_new_torch_is_fine(version):
    check_torch(version)


# adapters


def save_base(folder: Path, *, tied: bool = False, kind: str = "safetensors") -> Path:
    """A pico Llama in bfloat16, its head tied or not."""
    import torch
    from transformers import LlamaForCausalLM

    config = pico_model().config
    config.tie_word_embeddings = tied
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    if kind == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def save_adapter(folder: Path, base: Path, *, size: float = 1e-3, **settings) -> Path:
    """A LoRA adapter with random weights, as peft writes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **settings}
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def by_hand(adapter: Path, base: Path, scale: float) -> dict[str, np.ndarray]:
    """W + scale · B A in float64; saved modules replace the base's."""
    from safetensors.numpy import load_file

    changed = {name: x.astype(np.float64) for name, x in open_source(base).items()}
    given = load_file(adapter / "adapter_model.safetensors")
    given = {name.removeprefix("base_model.model."): x.astype(np.float64) for name, x in given.items()}
    for name, x in given.items():
        if name.endswith(".lora_A.weight"):
            step = scale * given[name.replace("lora_A", "lora_B")] @ x
            changed[name.replace("lora_A.weight", "weight")] += step
        elif name.endswith(".lora_embedding_A"):
            step = scale * given[name.replace("embedding_A", "embedding_B")] @ x
            changed[name.replace("lora_embedding_A", "weight")] += step.T
        elif "lora_" not in name and "base_layer" not in name:
            changed[name] = x
    return changed


LORA_KINDS = {
    "plain": ({}, 6 / 4),
    "rslora": ({"use_rslora": True}, 6 / 2),
    "lm_head saved": ({"modules_to_save": ["lm_head"]}, 6 / 4),
    "embeddings saved": ({"modules_to_save": ["embed_tokens"]}, 6 / 4),
    "embeddings adapted": ({"target_modules": ["embed_tokens", "lm_head", "v_proj"]}, 6 / 4),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", LORA_KINDS)
def test_adapters_are_the_formula(tmp_path, kind):
    settings, scale = LORA_KINDS[kind]
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, **settings)
    opened, wanted = open_source(adapter, base=base), by_hand(adapter, base, scale)
    assert list(opened) == sorted(wanted)
    changed = 0
    for name, x in wanted.items():
        assert opened[name].dtype == np.float32
        np.testing.assert_allclose(opened[name], x, rtol=2e-7, atol=1e-9)
        changed += not np.array_equal(opened[name], open_source(base)[name].astype(np.float32))
    assert changed == {"plain": 4, "rslora": 4, "embeddings adapted": 4}.get(kind, 5)
    assert opened.config["tie_word_embeddings"] is False


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("again", [False, True])
def test_an_adapter_trained_with_more_tokens_brings_their_rows(tmp_path, again):
    from safetensors.numpy import load_file, save_file

    base, grown = save_base(tmp_path / "base"), save_base(tmp_path / "grown")
    tokenizer, model = pico_tokenizer(), open_model(grown)
    tokenizer.add_tokens([f"bn{i}" for i in range(40)])
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=16)
    model.save_pretrained(grown)
    adapter = save_adapter(tmp_path / "adapter", grown, modules_to_save=["embed_tokens", "lm_head"])
    tokenizer.save_pretrained(adapter)
    own = load_file(adapter / "adapter_model.safetensors")
    tables, kinds = ("lm_head", "model.embed_tokens"), ("modules_to_save", "original_module")
    place = "base_model.model.{}.weight"
    as_peft = {place.format(f"{n}.{kind}"): own[place.format(n)] for n in tables for kind in kinds}
    if again:  # what peft 0.21 writes beside them where it resized the model itself
        save_file(own | as_peft, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    opened = open_source(adapter, base=base)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert np.array_equal(opened[name], own[f"base_model.model.{name}"]) and len(opened[name]) == 80
    assert opened.config["vocab_size"] == 80 and (opened.folder / "tokenizer.json").is_file()
    whole = open_source(base)
    changed = {
        n for n in opened if "_proj" in n and not np.array_equal(opened[n], whole[n].astype(np.float32))
    }
    assert {name.split(".")[-2] for name in changed} <= {"q_proj", "down_proj"} and len(changed) >= 2


def open_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_small_deltas_are_not_rounded_to_bfloat16(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, size=1e-4)
    opened, ground = open_source(adapter, base=base), open_source(base)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.count_nonzero(opened[name] != ground[name].astype(np.float32)) > 0.9 * ground[name].size
    rounded = opened[name].astype(ml_dtypes.bfloat16)
    assert np.count_nonzero(rounded != ground[name]) < 0.5 * ground[name].size


def test_adapter_files_folder_and_tokenizer(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    opened = open_source(adapter, base=base)
    assert opened.files == [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    assert opened.folder.is_relative_to(tmp_path / "cache")
    own = (base / "tokenizer.json").read_bytes()
    assert (opened.folder / "tokenizer.json").read_bytes() == own
    shutil.copy(base / "tokenizer_config.json", adapter)
    (adapter / "tokenizer.json").write_bytes(own + b"\n")
    (base / "added_tokens.json").write_text("{}")
    again = open_source(adapter, base=base)
    assert (again.folder / "tokenizer.json").read_bytes() == own + b"\n"
    assert not (again.folder / "added_tokens.json").exists()


def test_the_densified_folder_is_kept_until_something_changes(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    first = open_source(adapter, base=base)
    file = first.folder / "model.safetensors"
    stamp = file.stat().st_mtime_ns
    same = open_source(adapter, base=base)
    assert (same.folder, file.stat().st_mtime_ns) == (first.folder, stamp)
    os.truncate(file, 100)  # a damaged cache is made anew
    assert open_source(adapter, base=base)["lm_head.weight"].size == 64 * 32
    shutil.rmtree(adapter)
    changed = open_source(save_adapter(tmp_path / "adapter", base, size=2e-3), base=base)
    assert changed.folder != first.folder


def test_base_as_bin_and_adapter_as_bin(tmp_path):
    import torch
    from safetensors.torch import load_file

    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    wanted = dict(open_source(adapter, base=base))
    pickled = save_base(tmp_path / "pickled", kind="bin")
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    opened = open_source(adapter, base=pickled)
    assert [path.name for path in opened.files] == ["adapter_config.json", "adapter_model.bin"]
    assert all(np.array_equal(opened[name], wanted[name]) for name in wanted)


def test_tied_base(tmp_path):
    base = save_base(tmp_path / "base", tied=True)
    adapter = save_adapter(tmp_path / "plain", base)
    opened = open_source(adapter, base=base)
    assert opened.tied
    assert "lm_head.weight" not in opened
    wanted = by_hand(adapter, base, 6 / 4)
    assert all(np.allclose(opened[name], wanted[name], rtol=2e-7, atol=1e-9) for name in wanted)


def test_unchanged_tied_embeddings_beside_an_adapter_are_fine(tmp_path):
    from safetensors.numpy import load_file, save_file

    base = save_base(tmp_path / "base", tied=True)
    adapter = save_adapter(tmp_path / "adapter", base)
    wanted = dict(open_source(adapter, base=base))
    name = "base_model.model.model.embed_tokens.weight"  # as peft's save_embedding_layers writes it
    weights = load_file(adapter / "adapter_model.safetensors")
    weights[name] = open_source(base)["model.embed_tokens.weight"].astype(np.float32)
    save_file(weights, adapter / "adapter_model.safetensors")
    opened = open_source(adapter, base=base)
    assert opened.tied
    assert all(np.array_equal(opened[name], wanted[name]) for name in wanted)
    save_file(weights | {name: weights[name] + 1}, adapter / "adapter_model.safetensors")
    refused(adapter, "changes 'model.embed_tokens', which is tied", base=base)


@pytest.mark.filterwarnings("ignore")
def test_adapters_that_change_tied_embeddings(tmp_path):
    base = save_base(tmp_path / "base", tied=True)
    for i, settings in enumerate(
        [
            {"target_modules": ["embed_tokens"]},
            {"target_modules": ["lm_head"]},
            {"modules_to_save": ["lm_head"]},
            {"modules_to_save": ["embed_tokens"]},
            {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        ]
    ):
        adapter = save_adapter(tmp_path / str(i), base, **settings)
        refused(adapter, "changes '(lm_head|model.embed_tokens)', which is tied", base=base)
    together = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    adapter = save_adapter(tmp_path / "together", base, **together)
    opened, wanted = open_source(adapter, base=base), by_hand(adapter, base, 6 / 4)
    assert opened.tied
    assert np.array_equal(opened["model.embed_tokens.weight"], wanted["lm_head.weight"])


def test_adapter_without_base(tmp_path):
    base = save_base(tmp_path / "base")
    refused(save_adapter(tmp_path / "adapter", base), "needs the base it was trained from")
    refused(tmp_path / "adapter", "neither a folder|no such folder", base="nowhere/adapter")


def test_an_adapters_tokenizer_is_not_a_link_to_elsewhere(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    (tmp_path / "secret").write_text("not for others")
    (adapter / "tokenizer.json").symlink_to(tmp_path / "secret")
    refused(adapter, r"tokenizer\.json: a link to a file outside .*adapter. Put the file itself", base=base)
    assert not any((tmp_path / "cache").rglob("tokenizer*"))


def edit_settings(adapter: Path, **changes) -> Path:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return adapter


def test_adapters_that_do_not_fit(tmp_path):
    from safetensors.numpy import load_file, save_file

    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"

    def written(change) -> Path:
        save_file(change(dict(weights)), adapter / "adapter_model.safetensors")
        return adapter

    other = written(lambda w: w | {name.replace("layers.1", "layers.7"): w[name]})
    refused(
        other, "changes the module 'model.layers.7.self_attn.q_proj', which .*base does not have", base=base
    )
    refused(
        written(lambda w: {k: x for k, x in w.items() if k != name}), "layers.1.self_attn.q_proj", base=base
    )
    refused(written(lambda w: w | {name: w[name][:, :5].copy()}), "size mismatch for .*layers.1", base=base)
    refused(written(lambda w: w | {name: w[name] * np.nan}), f"'{name}' holds NaN", base=base)
    written(lambda w: w)
    refused(edit_settings(adapter, target_modules=["c_attn"]), "c_attn", base=base)
    assert not any((tmp_path / "cache").rglob("*.safetensors"))
    refused(edit_settings(adapter, peft_type="PROMPT_TUNING"), "an adapter of type PROMPT_TUNING", base=base)
    refused(edit_settings(adapter, peft_type="LORA", task_type="SEQ_CLS"), "for SEQ_CLS", base=base)
    trap = {"task_type": "CAUSAL_LM", "megatron_config": {"a": 1}, "megatron_core": "antigravity"}
    refused(edit_settings(adapter, **trap), "names code to import", base=base)
    (adapter / "adapter_model.safetensors").unlink()
    refused(edit_settings(adapter, megatron_config=None), "but no adapter_model.safetensors", base=base)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["experts", "images"])
def test_adapters_of_models_that_lie_otherwise_in_files(tmp_path, kind):
    """A mixture of experts (packed once it is open) and Gemma 3 with eyes, as peft merges them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    experts_or_images(kind).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    packed = ["mlp.experts.gate_up_proj"] if kind == "experts" else None
    settings = {"target_modules": ["q_proj"], "target_parameters": packed, "init_lora_weights": False}
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    opened, base = open_source(tmp_path / "adapter", base=tmp_path / "base"), open_source(tmp_path / "base")
    assert set(opened) == set(base)
    changed = {name for name in base if not np.array_equal(opened[name], base[name])}
    assert all("q_proj" in name or "experts" in name for name in changed)
    assert len(changed) == (18 if kind == "experts" else 3)  # 2 layers: q, and gate and up of 4 experts each
    merged, text = AutoModelForCausalLM.from_pretrained(opened.folder), torch.arange(10)[None]
    assert torch.allclose(merged(input_ids=text).logits, adapted(input_ids=text).logits, atol=1e-5)


def experts_or_images(kind: str):
    import transformers as tf

    size = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "head_dim": 8,
    }
    size |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    if kind == "experts":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        return tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**size, **experts))
    eyes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    eyes |= {"image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model"}
    config = tf.Gemma3Config(text_config=size, vision_config=eyes, mm_tokens_per_image=4)
    return tf.Gemma3ForConditionalGeneration(config)


def test_tensors_that_the_adapters_settings_do_not_name(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "k_proj"])
    edit_settings(adapter, target_modules=["q_proj"])
    refused(adapter, r"k_proj.lora_A.weight' \(4 such tensors\) belongs to no module that", base=base)


def test_settings_of_a_quantisation_do_not_keep_an_adapter_out(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    config = json.loads((base / "config.json").read_text())
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    assert open_source(adapter, base=base)["lm_head.weight"].dtype == np.float32


def test_code_in_an_adapter_does_not_run(tmp_path):
    import torch

    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(Trap(tmp_path / "code ran"), adapter / "adapter_model.bin")
    refused(adapter, r"adapter_model\.bin: holds more than tensors", base=base)
    assert not (tmp_path / "code ran").exists()


def test_base_that_transformers_reads_otherwise(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    tensors = {name.removeprefix("model."): x for name, x in open_checkpoint(base).items()}
    config = json.loads((base / "config.json").read_text())
    bare = save_folder(tmp_path / "bare", tensors, config=config)
    with pytest.raises(UserError, match="bare: 'embed_tokens.weight' is not as transformers .* names it"):
        open_source(adapter, base=bare)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"hidden_size": 64}, {"vocab_size": 10**9}])
def test_base_whose_config_is_of_another_model(tmp_path, changes):
    """Found before such a model is made: the last one would take 128 GB."""
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match="weights lack|config.json describes|vocab_size is 1000000000"):
        open_source(adapter, base=base)


# the Hub


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_cached_hub_id_opens_offline(tmp_path, kind):
    wanted = {n: x.tobytes() for n, x in open_source(save_base(tmp_path / "base", kind=kind)).items()}
    snapshot = to_hub(tmp_path / "base", tmp_path / "hub", "some-org/some.model")
    opened = open_source("some-org/some.model")
    assert opened.folder == snapshot
    assert {n: x.tobytes() for n, x in opened.items()} == wanted
    assert open_source(f"some-org/some.model@{snapshot.name}").folder == snapshot
    assert open_source(Path("some-org/some.model")).folder == snapshot
    refused("some-org/some.model@v2", "some-org/some.model@v2: neither a folder, nor a model")


def test_a_revision_of_a_cached_hub_id(tmp_path):
    snapshot = to_hub(save_pico(tmp_path / "base"), tmp_path / "hub", "org/model", revision="v1.0")
    assert open_source("org/model@v1.0").folder == snapshot
    refused("org/model", "org/model: neither a folder")


def test_a_cached_adapter_with_a_cached_base(tmp_path):
    base = save_base(tmp_path / "base", kind="bin")
    adapter = save_adapter(tmp_path / "adapter", base)
    wanted = dict(open_source(adapter, base=base))
    to_hub(base, tmp_path / "hub", "org/base")
    to_hub(adapter, tmp_path / "hub", "org/adapter")
    opened = open_source("org/adapter", base="org/base")
    assert all(np.array_equal(opened[name], wanted[name]) for name in wanted)
    assert (opened.folder / "tokenizer.json").is_file()


def test_a_hub_id_that_is_not_cached():
    message = refused(
        "org/nothing", "org/nothing: neither a folder, nor a model that can be had from the Hub"
    )
    assert "hf download" in message
    assert "HF_HUB_OFFLINE" in message


def test_a_shard_that_the_cache_does_not_have(tmp_path):
    folder = save_folder(tmp_path / "m", {"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)}, shards=2)
    snapshot = to_hub(folder, tmp_path / "hub", "org/model")
    (snapshot / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: this file is missing"):
        open_source("org/model")


def test_what_is_fetched_of_a_repository():
    texts = ["config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "LICENSE"]
    texts += ["additional_chat_templates/tool_use.jinja"]
    skipped = [
        "modeling_evil.py",
        "training_args.bin",
        "onnx/model.onnx",
        "x/model.safetensors",
        "a.gguf",
        "flax.msgpack",
    ]
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    bins = ["pytorch_model.bin"]
    index = ["model.safetensors.index.json"]
    both = [*texts, *skipped, *shards, *index, *bins, "consolidated.safetensors"]
    assert hub_files("o/m", both) == sorted([*texts, *shards, *index])
    assert hub_files("o/m", [*texts, *skipped, *bins]) == sorted([*texts, *bins])
    lora = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
    assert hub_files("o/m", [*lora, *texts]) == sorted([*lora[:2], *texts])
    with pytest.raises(UserError, match=r"adapter_model.safetensors\) and a whole model \(pytorch"):
        hub_files("o/m", [lora[1], *texts, *bins])
    with pytest.raises(UserError, match=r"adapter_config.json\) and a whole model \(pytorch_model.bin"):
        hub_files("o/m", [*lora, *texts, *bins])
    with pytest.raises(UserError, match="o/m: no safetensors and no pytorch_model.* It has GGUF files"):
        hub_files("o/m", [*texts, *skipped])
