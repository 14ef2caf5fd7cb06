"""`lrnb merge` given something wrong: status 2, a message with what, where and what to do, nothing written.

Every case runs the whole command on real files and looks at the whole folder before and after.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.checkpoints import edit_header, edit_index, one_layer
from support.reference import save_folder
from support.rights import unreadable

from lrnb.checkpoints.opening import open_source
from lrnb.checkpoints.reading import open_checkpoint
from lrnb.cli import main
from lrnb.study import files

METHODS = {
    "average": (),
    "task-arithmetic": (),
    "ties": ("--density", "0.5"),
    "ties-sv": ("--density", "0.5", "--slack", "0.3"),
}
MODELS = ("--base", "base", "--model", "ct=ct", "--model", "sft=sft")
SHARD, INDEX = "model-00001-of-00002.safetensors", "model.safetensors.index.json"
AGAIN = r"Copy or download the file again\."
UNTRUSTED = r"Do not trust this checkpoint; get it from its source again\."
ITSELF = r"Put the file itself there\."
DAMAGED = r"The training diverged or the file is damaged; use an earlier checkpoint\."
CUDA = shutil.which("nvidia-smi") is not None
NAMES = ("base", "ct", "sft")


def small() -> dict[str, dict[str, np.ndarray]]:
    """base, ct and sft with a float32 and a bfloat16 tensor and one of integers."""
    rng = np.random.default_rng(0)
    base = {"model.embed_tokens.weight": rng.normal(size=(6, 4)).astype(np.float32)}
    base |= {"a.weight": rng.normal(size=(8, 10)).astype(ml_dtypes.bfloat16), "steps": np.arange(3)}
    return {
        name: {key: moved(x, rng if name != "base" else None) for key, x in base.items()} for name in NAMES
    }


def moved(x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    if rng is None or x.dtype == np.int64:
        return x.copy()
    return (x + 0.1 * rng.normal(size=x.shape)).astype(x.dtype)


def save(folder: Path, models: dict[str, dict[str, np.ndarray]], **how: Any) -> None:
    for name, tensors in models.items():
        save_folder(folder / name, tensors, **how)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with base, ct and sft in two shards each."""
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    save(Path(), small(), shards=2)
    return tmp_path / "w"


def contents(folder: Path) -> dict[str, Any]:
    """Everything below a folder, links not followed: kind, time and, where it may be read, checksum."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        state, checksum = path.lstat(), None
        if path.is_symlink():
            found[str(path.relative_to(folder))] = str(path.readlink())
        elif not path.is_file():  # a folder, or a pipe
            found[str(path.relative_to(folder))] = state.st_mode
        else:
            with contextlib.suppress(PermissionError):
                checksum = zlib.crc32(path.read_bytes())
            found[str(path.relative_to(folder))] = (state.st_mtime_ns, checksum)
    return found


def merge(*arguments: object) -> int:
    return main.main(["merge", *map(str, arguments)])


class Refused:
    """Runs a command that must be refused; the folder around it stays as it is."""

    def __init__(self, place: Path, capsys: pytest.CaptureFixture) -> None:
        self.place, self.capsys = place, capsys

    def __call__(self, message: str, *arguments: object, out: object = "out") -> None:
        before = contents(self.place)
        self.capsys.readouterr()
        given = arguments or ("average", *MODELS)
        status = merge(*given, "--out", out)
        said = self.capsys.readouterr()
        assert status == 2
        lines = said.err.splitlines()
        error = "\n".join(itertools.dropwhile(lambda line: line.startswith("lrnb: warning: "), lines))
        assert error.startswith("lrnb: ")
        assert re.search(message, error), error
        assert "Traceback" not in said.err + said.out
        assert contents(self.place) == before


@pytest.fixture
def refused(place: Path, capsys: pytest.CaptureFixture) -> Refused:
    return Refused(place, capsys)


def command(*arguments: object, debug: bool = False, **how: Any) -> subprocess.Popen:
    """The command in a process of its own."""
    words = [sys.executable, "-m", "lrnb", *(["--debug"] if debug else []), "merge", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


# files


def shards_one(change: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: change(folder / SHARD) and None


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def lead_out(folder: Path, name: str) -> None:
    shutil.copy(folder / SHARD, folder.parent / "outside.safetensors")
    edit_index(folder, lambda names: names.update({x: name for x, file in names.items() if file == SHARD}))
    (folder / SHARD).unlink()


def link_out(folder: Path) -> None:
    shutil.move(folder / SHARD, folder.parent / "outside.safetensors")
    (folder / SHARD).symlink_to("../outside.safetensors")


def header(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Edit the header of the shard with the table and `steps`."""
    return lambda folder: edit_header(folder / SHARD, change)


def raw_header(raw: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / SHARD).write_bytes(len(raw).to_bytes(8, "little") + raw)


def overlap(h: dict) -> None:
    h["steps"]["data_offsets"] = [h["steps"]["data_offsets"][0] + x for x in (8, 32)]


def empty_tensor(shape: list[int]) -> Callable[[Path], None]:
    """An empty tensor of an odd shape more, in the shard and in the index."""

    def change(folder: Path) -> None:
        edit_header(
            folder / SHARD, lambda h: h.update(z={"dtype": "F32", "shape": shape, "data_offsets": [0, 0]})
        )
        edit_index(folder, lambda names: names.update(z=SHARD))

    return change


def loop(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to(SHARD)


def dangle(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("nothing")


def pipe_for(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def pointer_for(file: Path) -> None:
    """What `git clone` leaves of a large file where Git LFS is not installed."""
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 123\n")


def folder_for(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


TABLE, STEPS = "'model.embed_tokens.weight'", "'steps'"
DEEP = b"[" * 100_000
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda f: os.truncate(f / SHARD, 150), rf"{{}}/{SHARD}: not a whole safetensors.*{AGAIN}"),
    "data truncated": (
        lambda f: os.truncate(f / SHARD, (f / SHARD).stat().st_size - 1),
        rf"{{}}/{SHARD}: not a whole safetensors file \([\d,]+ bytes; .*incomplete.*\): truncated.*{AGAIN}",
    ),
    "missing": (lambda f: (f / SHARD).unlink(), rf"{{}}/{SHARD}: this file is missing\. {AGAIN}"),
    "extra": (
        lambda f: shutil.copy(f / SHARD, f / "model-00003-of-00002.safetensors"),
        r"{}/model-00003-of-00002\.safetensors: a weight file that .*index\.json does not name\. Remove it",
    ),
    "index leads up": (
        lambda f: lead_out(f, "../outside.safetensors"),
        rf"{{}}/{INDEX}: names the file .* outside {{}}\. {UNTRUSTED}",
    ),
    "index leads to the root": (
        lambda f: lead_out(f, str(f.absolute().parent / "outside.safetensors")),
        rf"{{}}/{INDEX}: names the file .* outside {{}}\. {UNTRUSTED}",
    ),
    "link out": (link_out, rf"{{}}/{SHARD}: a link to a file outside {{}}\. {ITSELF}"),
    "header too long": (
        raw_header(b" " * 7 + b"{}"[:1]),
        rf"{{}}/{SHARD}: not a whole safetensors file .*header.*{AGAIN}",
    ),
    "header of 2^63 bytes": (
        lambda f: (f / SHARD).write_bytes((1 << 63).to_bytes(8, "little") + b"{}"),
        rf"{{}}/{SHARD}: not a whole safetensors file \(10 bytes; .*header too large.*{AGAIN}",
    ),
    "overlap": (
        header(lambda h: h["model.embed_tokens.weight"].update(data_offsets=[8, 104])),
        rf"{{}}/{SHARD}: not a whole safetensors file .*invalid offset for tensor `.*`.*{AGAIN}",
    ),
    "gap": (
        header(overlap),
        rf"{{}}/{SHARD}: not a whole safetensors file .*invalid offset for tensor `steps`.*{AGAIN}",
    ),
    "float8": (
        header(lambda h: h["steps"].update(dtype="F8_E5M2", shape=[24])),
        rf"{{}}/{SHARD}: quantised weights \(FP8; {STEPS} shows it\), .* Give the model in bfloat16",
    ),
    "no such dtype": (
        header(lambda h: h["steps"].update(dtype="Q4")),
        rf"{{}}/{SHARD}: not a whole safetensors file .*unknown variant `Q4`.*{AGAIN}",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), r"{}: no config\.json\. Give a Hugging Face"),
    "config no object": (
        lambda f: (f / "config.json").write_text("3"),
        rf"{{}}/config\.json: expected a JSON object, got int\. {AGAIN}",
    ),
    "an adapter beside a whole model": (
        lambda f: (f / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
        r"{}: holds a LoRA adapter \(adapter_config.json\) and a whole model",
    ),
    "a table of config that is none": (
        lambda f: [
            edit_config(x, text_config="x", tie_word_embeddings=None) for x in (f, Path("base"), Path("sft"))
        ],
        r"config\.json: .*text_config",
    ),
    "deep config": (lambda f: (f / "config.json").write_bytes(DEEP), rf"{{}}/config\.json: .*{AGAIN}"),
    "deep index": (lambda f: (f / INDEX).write_bytes(DEEP), rf"{{}}/{INDEX}: .*{AGAIN}"),
    "deep header": (raw_header(DEEP), rf"{{}}/{SHARD}: not a whole safetensors file .*header.*{AGAIN}"),
    "too many dimensions": (
        header(lambda h: h["steps"].update(shape=[3] + [1] * 99)),
        rf"{{}}/{SHARD}: .*{STEPS}.*{AGAIN}",
    ),
    "true for a number": (
        header(lambda h: h["steps"].update(shape=[True, 3])),
        rf"{{}}/{SHARD}: .*boolean `true`, expected.*{AGAIN}",
    ),
    "huge and empty": (empty_tensor([0, 1 << 62, 1 << 62]), rf"{{}}/{SHARD}: .*'z'.*{AGAIN}"),
    "larger than any array": (empty_tensor([0, 1 << 70]), rf"{{}}/{SHARD}: .*expected usize.*{AGAIN}"),
    "zero byte in the index": (lambda f: lead_out(f, "a\0b"), rf"{{}}/{INDEX}: .*a\\x00b"),
    "half a character in the index": (lambda f: lead_out(f, "\ud800"), rf"{{}}/{INDEX}: .*\\ud800"),
    "link to itself": (loop, rf"{{}}/{SHARD}: a link to nothing\. {AGAIN}"),
    "link to nothing": (lambda f: dangle(f / SHARD), rf"{{}}/{SHARD}: a link to nothing\. {AGAIN}"),
    "folder for a shard": (
        lambda f: folder_for(f / SHARD),
        rf"{{}}/{SHARD}: not a file, but a folder\. {AGAIN}",
    ),
    "link to no config": (
        lambda f: dangle(f / "config.json"),
        rf"{{}}/config\.json: a link to nothing\. {AGAIN}",
    ),
    "folder for a config": (
        lambda f: folder_for(f / "config.json"),
        rf"{{}}/config\.json: not a file, but a folder\. {AGAIN}",
    ),
    "pipe for a config": (lambda f: pipe_for(f / "config.json"), rf"{{}}/config\.json: .*a pipe\. {AGAIN}"),
    "pipe for a shard": (lambda f: pipe_for(f / SHARD), rf"{{}}/{SHARD}: not a file, but a pipe\. {AGAIN}"),
    "pointer for a shard": (shards_one(pointer_for), rf"{{}}/{SHARD}: a Git LFS pointer, .*git lfs pull"),
    "pointer for an index": (lambda f: pointer_for(f / INDEX), rf"{{}}/{INDEX}: a Git LFS pointer"),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("model", ["base", "ct"])
def test_damaged_files(refused: Refused, case: str, model: str) -> None:
    change, message = FILES[case]
    change(Path(model))
    refused(message.replace("{}", model))


COPIED = ("tokenizer.json", "generation_config.json", "LICENSE")


@pytest.mark.parametrize("name", COPIED)
def test_files_that_a_merge_would_carry_on(refused: Refused, place: Path, name: str) -> None:
    """Nothing is wrong with the output then, and a merge without its tokenizer is none."""
    file = place / "base" / name
    dangle(file)
    refused(rf"base/{re.escape(name)}: a link to nothing\. {AGAIN}")
    if file.suffix:
        folder_for(file)
        refused(rf"base/{re.escape(name)}: not a file, but a folder\. {AGAIN}")
        file.rmdir()
    file.unlink(missing_ok=True)
    file.write_text("{}")
    with unreadable(file):
        refused(
            rf"base/{re.escape(name)}: cannot be read \(Permission denied\)\. Mend the path or its rights"
        )
    (place / "base" / "LICENSES").mkdir()  # not a file, and none is expected
    assert merge("average", *MODELS, "--out", "out") == 0
    assert (place / "out" / name).read_text() == "{}"


@pytest.mark.parametrize("name", ["config.json", INDEX, SHARD, ""])
def test_inputs_that_may_not_be_read(refused: Refused, place: Path, name: str) -> None:
    with unreadable(place / "ct" / name):
        refused(r"ct/.*: cannot be read \(Permission denied\)\. Mend the path or its rights")


def test_a_model_in_a_folder_that_may_not_be_read(refused: Refused, place: Path) -> None:
    (place / "locked").mkdir()
    (place / "ct").rename(place / "locked" / "ct")
    given = ("average", "--base", "base", "--model", "ct=locked/ct")
    with unreadable(place / "locked"):
        refused(r"locked/ct: cannot be read \(Permission denied\)\. Mend the path or its rights", *given)


def test_models_without_tensors(refused: Refused) -> None:
    save(Path("none"), {name: {} for name in NAMES})
    refused("none/base: .*no tensors", "average", "--base", "none/base", "--model", "ct=none/ct")


def test_a_file_and_a_typo_for_a_folder(refused: Refused) -> None:
    file = f"base/{SHARD}"
    refused(f"{file}: a file, not a folder. Give the folder", "average", "--base", file, *MODELS[2:])
    refused("bsae: no such folder. Give", "average", "--base", "bsae", *MODELS[2:])
    refused(
        "or/bsae: neither a folder, nor .* Check the spelling", "average", "--base", "or/bsae", *MODELS[2:]
    )


class Trap:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("code ran"),)


def test_code_in_a_pickle_does_not_run(refused: Refused, place: Path) -> None:
    import torch

    for file in (SHARD, SHARD.replace("1-of", "2-of"), INDEX):
        (place / "ct" / file).unlink()
    torch.save({"a.weight": torch.ones(2), "x": Trap()}, "ct/pytorch_model.bin")
    refused(r"ct/pytorch_model\.bin: holds more than tensors \(.*\), so .*Get the model as safetensors")
    pickle.loads(pickle.dumps(Trap()))  # the trap does work
    assert (place / "code ran").exists()


@pytest.mark.parametrize("debug", [False, True])
def test_the_command_in_a_process_of_its_own(place: Path, debug: bool) -> None:
    os.truncate(f"ct/{SHARD}", 150)
    before = contents(place)
    process = command("average", *MODELS, "--out", "out", debug=debug)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (1 if debug else 2)
    assert ("Traceback" in err) is debug
    assert f"ct/{SHARD}: not a whole safetensors file" in err
    assert debug or len(err.splitlines()) == 1
    assert not out
    assert contents(place) == before


# models that do not belong together


def change_model(name: str, change: Callable[[dict[str, np.ndarray]], Any], **config: Any) -> None:
    tensors = {key: x.copy() for key, x in open_checkpoint(name).items()}
    change(tensors)
    shutil.rmtree(name)
    save_folder(Path(name), tensors, config=config)


HEAD = {"lm_head.weight": np.ones((6, 4), np.float32)}
EMBED, WEIGHT = "model.embed_tokens.weight", "a.weight"
UNLIKE: dict[str, tuple[Callable[[dict], Any], str]] = {
    "shape": (
        lambda t: t.update({WEIGHT: t[WEIGHT][:7]}),
        r"'a.weight' is \(8, 10\) in base but \(7, 10\) in ct: .*; give",
    ),
    "flat": (
        lambda t: t.update({WEIGHT: t[WEIGHT].reshape(-1)}),
        r"'a.weight' is \(8, 10\) in base but \(80,\) in ct",
    ),
    "vocabulary": (
        lambda t: t.update({EMBED: np.ones((9, 4), np.float32)}),
        rf"'{EMBED}' is \(6, 4\) in base but \(9, 4\) in ct: their vocabularies differ. .*no tokenizer.json",
    ),
    "missing": (
        lambda t: t.pop(WEIGHT),
        r"'a.weight' is in base but not in ct \(1 such tensors\)\. Give the base",
    ),
    "extra": (
        lambda t: t.update(x=t[WEIGHT], y=t[WEIGHT]),
        r"'x' is in ct but not in base \(2 such tensors\)\. Give the base",
    ),
    "integers": (
        lambda t: t.update(steps=t["steps"] + 1),
        r"'steps' is not a float tensor \(int64\) and .*; make them eq",
    ),
    "integers for floats": (
        lambda t: t.update({EMBED: t[EMBED].astype(np.int32)}),
        f"'{EMBED}' is float32 in base but int32 in ct: .*; save both in",
    ),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_models_that_differ(refused: Refused, case: str) -> None:
    change, message = UNLIKE[case]
    change_model("ct", change)
    refused(f"average: {message}")


@pytest.mark.parametrize("tied", NAMES)
def test_tied_against_untied(refused: Refused, tied: str) -> None:
    for name in NAMES:
        extra = {"lm_head.weight": open_checkpoint(name)[EMBED] + (name != tied)}
        change_model(name, lambda t, extra=extra: t.update(extra), tie_word_embeddings=True)
    states = r"tied in base but separate in ct" if tied == "base" else rf"separate in base but tied in {tied}"
    refused(rf"embeddings are {states}\. Give the base that (ct|sft) was trained from, or save")


def test_a_parent_of_another_base_is_warned_about_and_merged(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree("ct")
    save_folder(Path("ct"), {key: x * (1 if key == "steps" else -3) for key, x in small()["base"].items()})
    assert merge("ties", *MODELS, "--density", "0.5", "--out", "out") == 0
    warning = (
        "ct: its task vector is 4.00 times as long as the base; it was probably not trained from this base"
    )
    assert f"lrnb: warning: {warning}. Check the base\n" in capsys.readouterr().err
    assert f"Warning: {warning}" in (place / "out" / "README.md").read_text()


# values


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, ct and sft with a bfloat16 tensor of several spans, as safetensors and, under bin/, as .bin."""
    import torch

    folder, rng = tmp_path_factory.mktemp("big"), np.random.default_rng(0)
    base = rng.normal(size=(2000, 1200)).astype(ml_dtypes.bfloat16)
    for name in NAMES:
        tensors = {"big": base if name == "base" else moved(base, rng), "small": np.ones(3, np.float16)}
        save_folder(folder / name, tensors)
        (folder / "bin" / name).mkdir(parents=True)
        shutil.copy(folder / name / "config.json", folder / "bin" / name)
        bits = {"big": torch.from_numpy(tensors["big"].view(np.int16)).view(torch.bfloat16)}
        torch.save(bits | {"small": torch.ones(3).half()}, folder / "bin" / name / "pytorch_model.bin")
    return folder


@contextlib.contextmanager
def poisoned(file: Path, marks: dict[int, float]) -> Iterator[None]:
    """Other bfloat16 numbers in the tensor `big` of a file, for a while."""
    start = file.read_bytes().index(open_source(file.parent, finite=False)["big"].tobytes())
    numbers = np.memmap(file, np.uint16, "r+", start, (2000 * 1200,))
    before = {i: int(numbers[i]) for i in marks}
    for i, value in marks.items():
        numbers[i] = np.array(value, ml_dtypes.bfloat16).view(np.uint16)
    try:
        yield
    finally:
        for i, bits in before.items():
            numbers[i] = bits


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize(("kind", "value"), [("", np.nan), ("", np.inf), ("bin", np.nan)])
def test_nan_and_inf(
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    big: Path,
    kind: str,
    method: str,
    model: str,
    value: float,
) -> None:
    """In the first, a middle and the last span of a tensor; some entries that trimming would drop."""
    monkeypatch.chdir(big / kind)
    (file,) = (path for path in Path(model).iterdir() if path.suffix in (".bin", ".safetensors"))
    with poisoned(file, {5: value, 1_300_000: -value, 2_399_999: value}):
        message = rf"{model}: 'big' holds NaN or Inf in 3 of 2,400,000 entries\. {DAMAGED}"
        before = contents(big)
        refused(message, method, *MODELS, *METHODS[method])
        assert contents(big) == before


@pytest.mark.parametrize("method", METHODS)
def test_inf_in_all_models_alike(refused: Refused, method: str) -> None:
    for name in NAMES:
        change_model(name, lambda t: t[EMBED].fill(-np.inf))
    refused(f"'{EMBED}' holds NaN or Inf in 24 of 24 entries", method, *MODELS, *METHODS[method])


@pytest.mark.parametrize("method", [name for name in METHODS if name != "average"])
def test_differences_beyond_float32(refused: Refused, method: str) -> None:
    change_model("base", lambda t: t[EMBED].fill(-3e38))
    change_model("sft", lambda t: t[EMBED].fill(3e38))
    message = f"'{EMBED}': sft - base is beyond float32's range. Give the base that sft was trained from"
    refused(message, method, *MODELS, *METHODS[method])
    assert merge("average", *MODELS, "--out", "out") == 0  # needs no difference


@pytest.mark.parametrize("method", METHODS)
def test_results_beyond_float16(refused: Refused, method: str) -> None:
    for name in NAMES:
        change_model(name, lambda t: t[EMBED].reshape(-1)[:2].fill(70_000))
    message = (
        f"'{EMBED}': 2 merged entries are beyond float16's range. Lower lam or the weights, or write float32"
    )
    refused(message, method, *MODELS, *METHODS[method], "--dtype", "float16")
    assert merge(method, *MODELS, *METHODS[method], "--dtype", "float32", "--out", "out") == 0


# where the result goes


def test_an_out_with_other_files_is_kept(refused: Refused, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("years of work")
    refused("out: exists and is not a merge made here. .*give --force")
    refused("out/thesis.tex: exists and is not a merge made here", out="out/thesis.tex")
    (place / "out" / "manifest.json").write_text('{"stage": "ct"}')
    refused("out: exists and is not a merge made here")
    assert merge("average", *MODELS, "--out", "out", "--force") == 0
    assert not (place / "out" / "thesis.tex").exists()
    assert sorted(path.name for path in place.iterdir()) == ["base", "ct", "out", "sft"]


@pytest.mark.parametrize(
    "out", ["ct", "sft/merged", "base/a/b", "./ct/../ct/.", "..", "{place}/ct", "link", "link/merged", "up/w"]
)  # fmt: skip
def test_an_out_in_or_around_an_input(refused: Refused, place: Path, out: str) -> None:
    Path("link").symlink_to("sft")
    Path("up").symlink_to("..")
    given = ("average", "--base", "base", "--model", "ct=ct", "--model", "sft=link", "--force")
    refused("lies in or around the input .*. Choose another folder", *given, out=out.format(place=place))


def test_an_out_that_cannot_be_made(refused: Refused) -> None:
    Path("file").write_text("in the way")
    refused("file: cannot write here", out="file/merged")
    refused("out/" + "x" * 256, out="out/" + "x" * 256)


def test_an_out_in_a_folder_that_may_not_be_written(refused: Refused, place: Path) -> None:
    with limited(place / "locked", "ro"):
        refused(r"locked: cannot write here \((Read-only file system|Permission denied)\)", out="locked/out")
        refused("locked/a/b: cannot write here", out="locked/a/b/out")


@contextlib.contextmanager
def limited(folder: Path, how: str) -> Iterator[None]:
    """A file system of its own for a while; for "ro" a locked folder where that is enough."""
    folder.mkdir()
    if how == "ro" and os.geteuid():
        folder.chmod(0o500)
        yield
        return
    command = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"this process may not mount a tmpfs ({how})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small(refused: Refused, place: Path) -> None:
    with limited(place / "disk", "size=8m"):
        refused(
            r"out: needs [\d,]{10,} bytes, the disk has [\d,]+ free\. Free space, or choose", out="disk/a/out"
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_disk_that_fills_up(
    refused: Refused, place: Path, big: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """9.6 MB to a disk of 8 MB that was said to be large; an earlier merge there is kept."""
    usage = shutil.disk_usage(place)._replace(free=10**12)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    models = ("--base", big / "base", "--model", f"ct={big / 'ct'}", "--model", f"sft={big / 'sft'}")
    before = contents(big)
    with limited(place / "disk", "size=8m"):
        assert merge("average", *MODELS, "--out", "disk/out") == 0
        message = (
            r"disk/out: could not be written \(No space left on device\); nothing was left there\. Free space"
        )
        refused(message, method, *models, *METHODS[method], "--dtype", "float32", out="disk/out")
        refused(message.replace("/out", "/new/out"), method, *models, *METHODS[method], "--dtype", "float32",
                out="disk/new/out")  # fmt: skip
    assert contents(big) == before


# interruption


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """base, ct and sft of 32M bfloat16 numbers each; merging takes some tenths of a second at least."""
    folder, rng = tmp_path_factory.mktemp("huge"), np.random.default_rng(0)
    base, (shapes, config) = rng.normal(size=1 << 20).astype(ml_dtypes.bfloat16), one_layer(1 << 23)
    for name in NAMES:
        tile = base if name == "base" else moved(base, rng)
        tensors = {key: np.resize(tile, shape) for key, shape in shapes.items()}
        save_folder(folder / name, tensors, config=config)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_run_again(huge: Path, kind: signal.Signals) -> None:
    before = contents(huge)
    given = ("ties", *MODELS, "--density", "0.5", "--zero-sign", "positive", "--out", "out")
    as_usual = {"cwd": huge, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    process = command(*given, **as_usual)
    while not list(huge.glob(".out.*")) and process.poll() is None:
        time.sleep(0.001)
    time.sleep(0.02)  # into the merge
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert not (huge / "out").exists()
    assert not out
    assert "Traceback" not in err
    if kind == signal.SIGINT:
        assert process.returncode == 130
        assert err.startswith("lrnb: stopped.")
        assert contents(huge) == before
    else:
        assert process.returncode in (-kind, 128 + kind)
    again = command(*given, cwd=huge)
    out, err = again.communicate(timeout=120)
    said = re.sub("merge ties: .*\n", "", err)  # progress, where it takes long
    assert (again.returncode, said.count("\n")) == (0, 1)
    assert said.startswith("lrnb: no model has a tokenizer")
    assert sorted(path.name for path in huge.iterdir()) == ["base", "ct", "out", "sft"]
    outputs = json.loads((huge / "out" / "manifest.json").read_text())["outputs"]
    shutil.rmtree(huge / "out")
    assert contents(huge) == before
    assert SEEN.setdefault("outputs", outputs) == outputs


SEEN: dict[str, Any] = {}


# options and configurations that are refused when models or devices are looked at


@pytest.mark.parametrize(
    ("method", "option", "value", "message"),
    [
        ("ties", "--density", "0", r"density must lie in \(0, 1\], got 0.0"),
        ("ties", "--density", "2", r"density must lie in \(0, 1\], got 2.0"),
        ("ties", "--density", "nan", r"density must lie in \(0, 1\], got nan"),
        ("ties-sv", "--slack", "nan", r"slack must lie in \[0, 1\], got nan"),
        ("average", "--alpha", "nan", r"alpha must lie in \[0, 1\], got nan"),
        ("ties", "--weight", "ct=-1", "--weight must be .*, got -1.0"),
        ("task-arithmetic", "--lam", "inf", "lam must be .*, got inf"),
    ],
)
def test_numbers_out_of_range(refused: Refused, method: str, option: str, value: str, message: str) -> None:
    usual = METHODS[method] if option not in METHODS[method] else METHODS[method][:-2]
    refused(message, method, *MODELS, *usual, option, value)


def test_weights_too_small_for_float32(refused: Refused) -> None:
    tiny = ("--weight", "ct=1e-300", "--weight", "sft=1e-300")
    refused(
        "merge ties needs --weight other than 0 for one",
        "ties",
        *MODELS,
        "--density",
        "0.5",
        *tiny,
    )


@pytest.mark.skipif(CUDA, reason="there is a GPU here")
def test_cuda_without_a_gpu(refused: Refused) -> None:
    refused("device cuda: torch sees no GPU here. Use --device cpu", "average", *MODELS, "--device", "cuda")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "merge_method: ties\nslices: []\n",
            "recipe.yaml: slices must list at least one `- sources: ...`",
        ),
        (
            "merge_method: arcee_fusion\n",
            "recipe.yaml: merge_method 'arcee_fusion' is not supported; supported: ",
        ),
        ("a: !!python/object/apply:pathlib.Path.touch [{p: x}]", "recipe.yaml: cannot be read as YAML"),
        (
            "merge_method: linear\nmodels: [{model: cta, parameters: {weight: 1}}]\n",
            "cta: no such folder",
        ),
    ],
)
def test_configurations(refused: Refused, place: Path, text: str, message: str) -> None:
    (place / "recipe.yaml").write_text(text)
    refused(message, "recipe.yaml")


# odd, but fine


def test_odd_names_and_paths_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that would be paths or HTML, tensors without entries or dimensions, spaces and other scripts."""
    monkeypatch.chdir(tmp_path)
    names = ["../x", "/etc/passwd", "<script>alert(1)</script>", "a\nb", "", "x" * 5000, "é 中文", "a\0b"]
    base = {name: np.full(3, i, np.float32) for i, name in enumerate(names)}
    base |= {"none": np.zeros((0, 4), np.float32), "one": np.array(2.5, np.float32)}
    folder = Path("with spaces", "বাংলা <b>")
    save(folder, {"base": base, "ct": {name: np.array(x + np.float32(1)) for name, x in base.items()}})
    models = ("--base", f"{folder}/base", "--model", f"ct={folder}/ct")
    for method, options in METHODS.items():
        protect = ("--protect", "ct") if method == "ties-sv" else ()
        given = ("--density", "1", "--slack", "0") if protect else options and ("--density", "1")
        assert merge(method, *models, *given, *protect, "--out", folder / method) == 0
        merged = open_checkpoint(folder / method)
        assert {name: x.tolist() for name, x in merged.items()} == {
            n: (x + 1).tolist() for n, x in base.items()
        }
    assert {path.name for path in folder.iterdir()} == {"base", "ct", *METHODS}
    assert [path.name for path in tmp_path.iterdir()] == ["with spaces"]


def test_a_parent_that_is_the_base_and_one_given_twice(place: Path) -> None:
    same = ("--base", "base", "--model", "ct=base", "--model", "sft=base")
    assert merge("ties", *same, "--density", "0.5", "--out", "one") == 0
    base, one = open_checkpoint("base"), open_checkpoint("one")
    assert all(one[name].tobytes() == base[name].tobytes() for name in base)
    assert merge("average", "--base", "base", "--model", "ct=ct", "--model", "sft=ct", "--out", "two") == 0
    ct, two = open_checkpoint("ct"), open_checkpoint("two")
    assert all(two[name].tobytes() == ct[name].tobytes() for name in ct)
    assert merge("average", "--base", "base", "--model", "ct=two", "--out", "three") == 0
    assert all(x.tobytes() == ct[name].tobytes() for name, x in open_checkpoint("three").items())


def test_an_out_that_is_a_link_or_a_file(place: Path) -> None:
    """What was in place of it is gone, and nothing of it left beside."""
    assert merge("average", *MODELS, "--out", "first") == 0
    (place / "link").symlink_to("first")
    (place / "dangling").symlink_to("nowhere")
    (place / "file").write_text("x")
    for out in ("link", "dangling", "file"):
        assert merge("average", *MODELS, "--out", out, "--force") == 0
        assert len(open_checkpoint(out)) == 3
    names = ["base", "ct", "dangling", "file", "first", "link", "sft"]
    assert sorted(path.name for path in place.iterdir()) == names


def test_an_out_of_the_current_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.parent / "here").mkdir()
    monkeypatch.chdir(place.parent / "here")
    models = ("--base", place / "base", "--model", f"ct={place / 'ct'}")
    assert merge("average", *models, "--out", ".") in (0, 2)
    assert sorted(path.name for path in place.parent.iterdir()) == ["here", "w"]


def test_an_out_that_holds_what_an_input_links_to(refused: Refused, place: Path) -> None:
    """As in the Hub's cache, whose snapshots are links to blobs."""
    snapshot = place / "hub" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (place / "ct").rename(place / "hub" / "blobs")
    for path in (place / "hub" / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    given = ("average", "--base", "base", "--model", f"ct={snapshot}", "--force")
    refused("hub/blobs: lies in or around the input", *given, out="hub/blobs")
    assert merge(*given, "--out", "out") == 0


def test_a_name_that_is_no_text(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        merge("average", "--base", "base", "--model", "\udcff=ct", "--out", "out")
    assert "expected NAME=DIR" in capsys.readouterr().err
