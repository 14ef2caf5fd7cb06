"""Opening folders: what is fine opens with the right bits; what is wrong is named, as real files."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import edit_header, edit_index
from support.reference import BF16, save_folder

from lrnb.checkpoints.reading import INDEX, open_checkpoint, read_config
from lrnb.checkpoints.small_files import small_files
from lrnb.checkpoints.writing import new_checkpoint, write_checkpoint
from lrnb.errors import UserError
from lrnb.study import files


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "model.embed_tokens.weight": rng.standard_normal((6, 4)).astype(np.float32),
        "half": rng.standard_normal(5).astype(np.float16),
        "brain": rng.standard_normal((3, 1)).astype(BF16),
        "steps": np.arange(3),
        "flags": np.array([True, False, True]),
        "empty": np.zeros((0, 4), np.float32),
        "number": np.array(2.5, np.float32),
    }


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "single", tensors())


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "sharded", tensors(), shards=3)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_checkpoint(folder)
    assert folder.name in str(caught.value)


@pytest.mark.parametrize("shards", [1, 3])
def test_reads_what_was_written(tmp_path, shards):
    opened = open_checkpoint(save_folder(tmp_path / "model", tensors(), shards=shards))
    assert list(opened) == sorted(tensors())
    for name, wanted in tensors().items():
        assert (opened[name].dtype, opened[name].shape) == (wanted.dtype, wanted.shape)
        assert opened[name].tobytes() == wanted.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        opened["half"][0] = 1
    assert len(opened.files) == shards


def test_tying(tmp_path):
    table = np.ones((4, 2), np.float32)
    both = {"model.embed_tokens.weight": table, "lm_head.weight": table}
    cases = [
        (both, {"tie_word_embeddings": True}, True, 1),
        (both, {"tie_word_embeddings": False}, False, 0),
        ({"model.embed_tokens.weight": table}, {"tie_word_embeddings": True}, True, 0),
        (both | {"lm_head.weight": table + 1}, {"tie_word_embeddings": True}, False, 0),
    ]
    for i, (given, config, tied, copies) in enumerate(cases):
        opened = open_checkpoint(save_folder(tmp_path / str(i), given, config=config))
        assert (opened.tied, len(opened.aliases)) == (tied, copies)


# folders that are no model


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "no such folder")


def test_no_config(single):
    (single / "config.json").unlink()
    refused(single, r"no config\.json")


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_config_that_is_not_json(single, text):
    (single / "config.json").write_text(text)
    refused(single, r"config\.json: (cannot be read as JSON|expected a JSON object)")


def test_no_weights(single):
    (single / "model.safetensors").unlink()
    refused(single, r"no model\.safetensors")


def test_an_adapter(single):
    (single / "adapter_config.json").write_text("{}")
    refused(single, "PEFT adapter.*open_source")


def test_pickle_is_refused_and_never_run(single, tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "code ran",)

    (single / "model.safetensors").unlink()
    (single / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    refused(single, r"pytorch_model\.bin: a pickle file.*open_source")
    assert not (tmp_path / "code ran").exists()


# indexes


def test_shard_missing(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refused(sharded, r"model-00002-of-00003\.safetensors: this file is missing")


def test_shard_too_many(sharded):
    shutil.copy(sharded / "model-00002-of-00003.safetensors", sharded / "model-00004-of-00003.safetensors")
    refused(sharded, r"model-00004-of-00003\.safetensors: a weight file that .* does not name")


def test_shard_beside_a_single_file(single):
    shutil.copy(single / "model.safetensors", single / "model-00001-of-00002.safetensors")
    refused(single, "a shard beside")


def test_shards_without_index(sharded):
    (sharded / INDEX).unlink()
    refused(sharded, "shards without")


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": {"a": 3}}', '{"weight_map": {}}'])
def test_index_that_is_not_one(sharded, text):
    (sharded / INDEX).write_text(text)
    refused(sharded, INDEX)


def test_index_promises_too_much(sharded):
    edit_index(sharded, lambda names: names.update(ghost="model-00001-of-00003.safetensors"))
    refused(sharded, "'ghost' is in the index, but not the file")


def test_index_promises_too_little(sharded):
    edit_index(sharded, lambda names: names.pop("half"))
    refused(sharded, "'half' is in the file, but not the index")


@pytest.mark.parametrize("where", ["absolute", "dots", "nested"])
def test_index_that_leads_out(sharded, tmp_path, where):
    outside = tmp_path / "outside.safetensors"
    shutil.copy(sharded / "model-00001-of-00003.safetensors", outside)
    name = {
        "absolute": str(outside),
        "dots": "../outside.safetensors",
        "nested": "x/../../outside.safetensors",
    }
    edit_index(sharded, lambda names: names.update(half=name[where]))
    refused(sharded, "names the file .* outside")


def test_link_that_leads_out(single, tmp_path):
    outside = tmp_path / "outside.safetensors"
    (single / "model.safetensors").rename(outside)
    (single / "model.safetensors").symlink_to(outside)
    refused(single, "a link to a file outside")


def test_the_hub_caches_own_links_are_fine(single, tmp_path):
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.move(single / name, blobs / f"hash-of-{name}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"hash-of-{name}")
    assert len(open_checkpoint(snapshot)) == len(tensors())


# files


@pytest.mark.parametrize("size", [0, 5, 100])
def test_truncated_in_the_header(single, size):
    os.truncate(single / "model.safetensors", size)
    refused(single, r"model\.safetensors: not a whole safetensors file.*truncated")


def test_truncated_in_the_data(sharded):
    file = sharded / "model-00001-of-00003.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    refused(
        sharded, r"model-00001-of-00003\.safetensors: not a whole .* bytes; .*not fully covered\): truncated"
    )


def test_longer_than_its_header(single):
    with open(single / "model.safetensors", "ab") as file:
        file.write(b"extra")
    refused(single, r"model\.safetensors: not a whole .* bytes; .*not fully covered")


def test_header_that_is_not_json(single):
    (single / "model.safetensors").write_bytes((20).to_bytes(8, "little") + b"x" * 40)
    refused(single, r"model\.safetensors: not a whole .*invalid JSON in header")


def shift(header):
    for item in header.values():
        if "data_offsets" in item:
            item["data_offsets"] = [x + 4 for x in item["data_offsets"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["half"].update(shape=[4]), "not a whole .* invalid shape"),
        (lambda h: h["half"].update(shape=[-5]), "not a whole .*`-5`, expected usize"),
        (lambda h: h["half"].update(shape=["5"]), "not a whole .*string .*, expected usize"),
        (lambda h: h["half"].pop("data_offsets"), "not a whole .*missing field `data_offsets`"),
        (lambda h: h.update(half=3), "not a whole .*`3`, expected"),
        (
            lambda h: h["half"].update(dtype="F8_E4M3", shape=[10]),
            "quantised weights .FP8; 'half' shows it",
        ),
        (lambda h: h["half"].update(data_offsets=h["steps"]["data_offsets"]), "not a whole .*invalid"),
        (shift, "not a whole .*invalid offset for tensor `.*`"),
    ],
)
def test_wrong_header(single, change, message):
    edit_header(single / "model.safetensors", change)
    refused(single, message)


def test_a_name_given_twice_in_a_header(single):
    file = single / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    twin = json.dumps(json.loads(data[8 : 8 + length])["half"]).encode()
    raw = data[8 : 8 + length].rstrip()[:-1] + b',"half":' + twin + b"}"
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])
    refused(single, "is given twice")


@pytest.mark.parametrize("name", ["half", "brain", "model.embed_tokens.weight"])
def test_nan_and_inf_are_named_and_counted(tmp_path, name):
    given = tensors()
    given[name].reshape(-1)[:3] = [np.nan, np.inf, -np.inf]
    folder = save_folder(tmp_path / "model", given)
    refused(folder, f"'{name}' holds NaN or Inf in 3 of {given[name].size} entries")
    assert len(open_checkpoint(folder, finite=False)) == len(given)


# writing


@pytest.mark.parametrize("shard_bytes", [40, 10**9])
def test_written_folders_open_again(single, tmp_path, shard_bytes):
    (single / "tokenizer.json").write_text("{}")
    (single / "generation_config.json").write_text('{"max_length": 3}')
    (single / "pytorch_model.bin").write_bytes(b"")
    out = write_checkpoint(tmp_path / "out", tensors(), like=single, shard_bytes=shard_bytes)
    opened = open_checkpoint(out)
    assert {n: x.tobytes() for n, x in opened.items()} == {n: x.tobytes() for n, x in tensors().items()}
    assert {"tokenizer.json", "generation_config.json", "config.json"} < {p.name for p in out.iterdir()}
    assert not (out / "pytorch_model.bin").exists()
    assert (len(opened.files) > 1) == (out / INDEX).is_file() == (shard_bytes == 40)


def test_written_files_satisfy_the_safetensors_library(single, tmp_path):
    from safetensors.numpy import load_file

    given = {name: x for name, x in tensors().items() if name != "brain"}
    out = write_checkpoint(tmp_path / "out", given, like=single)
    loaded = load_file(out / "model.safetensors")
    assert {n: x.tobytes() for n, x in loaded.items()} == {n: x.tobytes() for n, x in given.items()}


LAYOUT = {"b": (np.dtype(np.float32), (3, 5)), "a": (BF16, (4,)), "n": (np.dtype(np.int64), ())}
LAYOUT |= {"none": (np.dtype(np.float16), (0, 2))}


def parts() -> list[tuple[str, int, np.ndarray]]:
    """LAYOUT's entries in three, two, one and no pieces; `values()` has the whole."""
    b, a, n = (values()[name].reshape(-1) for name in "ban")
    return [("b", 0, b[:4]), ("b", 4, b[4:5]), ("b", 5, b[5:]), ("a", 0, a[:3]), ("a", 3, a[3:]), ("n", 0, n)]


def values() -> dict[str, np.ndarray]:
    found = {"b": np.arange(15, dtype=np.float32).reshape(3, 5), "a": np.arange(4).astype(BF16)}
    return found | {"n": np.array(7), "none": np.zeros((0, 2), np.float16)}


def assert_holds(folder: Path, wanted: dict[str, np.ndarray]) -> None:
    opened = open_checkpoint(folder)
    assert {n: (x.dtype, x.shape, x.tobytes()) for n, x in opened.items()} == {
        n: (x.dtype, x.shape, x.tobytes()) for n, x in wanted.items()
    }


@pytest.mark.parametrize("shard_bytes", [20, 10**9])
def test_entries_may_come_in_any_order(single, tmp_path, shard_bytes):
    orders = [parts(), parts()[::-1], parts()[1::2] + parts()[::2]]
    for i, order in enumerate(orders):
        with new_checkpoint(
            tmp_path / str(i), LAYOUT, small_files(single, single), shard_bytes=shard_bytes
        ) as writer:
            for part in order:
                writer.put(*part)
            assert not (tmp_path / str(i)).exists()
            writer.close()
        assert_holds(tmp_path / str(i), values())
    files = [{p.name: p.read_bytes() for p in (tmp_path / str(i)).iterdir()} for i in range(len(orders))]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_entries_may_come_from_several_threads(single, tmp_path, step):
    wanted = {f"t{i}": np.arange(i * 1000, i * 1000 + 2500, dtype=np.float32) for i in range(4)}
    specs = {name: (x.dtype, x.shape) for name, x in wanted.items()}
    pieces = [(name, i, x[i : i + step]) for name, x in wanted.items() for i in range(0, x.size, step)]
    np.random.default_rng(0).shuffle(pieces)
    with new_checkpoint(tmp_path / "out", specs, small_files(single, single)) as writer:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda piece: writer.put(*piece), pieces))
        writer.close()
    assert_holds(tmp_path / "out", wanted)


def test_what_is_put_need_not_be_contiguous(single, tmp_path):
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    with new_checkpoint(tmp_path / "out", {"t": (table.dtype, (3,))}, small_files(single, single)) as writer:
        writer.put("t", 0, table[:, 1])
        writer.close()
    assert open_checkpoint(tmp_path / "out")["t"].tolist() == [1, 5, 9]


@pytest.mark.parametrize(
    ("name", "start", "given"),
    [
        ("b", 0, np.zeros(15)),
        ("a", 0, np.zeros(4, np.uint16)),
        ("a", 0, np.zeros(4, np.float16)),
        ("b", 1, np.zeros(15, np.float32)),
        ("b", -1, np.zeros(15, np.float32)),
        ("b", 15, np.zeros(1, np.float32)),
        ("b", 0, np.zeros((3, 5), np.float32)),
        ("n", 0, np.array(7)),
        ("none", 0, np.zeros(1, np.float16)),
        ("c", 0, np.zeros(1, np.float32)),
    ],
)
def test_what_was_not_promised_is_not_written(single, tmp_path, name, start, given):
    with new_checkpoint(tmp_path / "out", LAYOUT, small_files(single, single)) as writer:
        before = (writer.folder / "model.safetensors").read_bytes()
        with pytest.raises(ValueError, match=f"'{name}'.* was not promised"):
            writer.put(name, start, given)
        assert (writer.folder / "model.safetensors").read_bytes() == before
        for part in parts():
            writer.put(*part)
        writer.close()
    assert_holds(tmp_path / "out", values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[1:], r"'b' was promised but not written \(entries 0:4\)"),
        (lambda found: found[:1] + found[2:], r"'b' was promised but not written \(entries 4:5\)"),
        (lambda found: found[:4] + found[5:], r"'a' was promised but not written \(entries 3:4\)"),
        (lambda found: found[:5], r"'n' was promised but not written \(entries 0:1\)"),
        (lambda found: [], r"'b' was promised but not written \(entries 0:15\)"),
        (lambda found: [*found, found[1]], r"'b' was written twice \(entries 4:5\)"),
        (lambda found: [*found, found[5]], r"'n' was written twice"),
        (lambda found: [("b", 1, np.zeros(4, np.float32)), *found[1:]], r"'b' was promised but .* 0:1"),
        (lambda found: [("b", 1, np.zeros(14, np.float32)), found[0], *found[3:]], r"'b' was written twice"),
    ],
)  # fmt: skip
def test_close_finds_gaps_and_what_was_written_twice(single, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):  # noqa: SIM117
        with new_checkpoint(tmp_path / "out", LAYOUT, small_files(single, single)) as writer:
            for part in change(parts()):
                writer.put(*part)
            writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["single"]


def test_nothing_is_written_after_close(single, tmp_path):
    with new_checkpoint(tmp_path / "out", LAYOUT, small_files(single, single)) as writer:
        for part in parts():
            writer.put(*part)
        writer.close()
        with pytest.raises(ValueError, match="'a' was not promised, or the writer is closed"):
            writer.put(*parts()[3])
        writer.close()
    assert_holds(tmp_path / "out", values())


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError("odd"), KeyboardInterrupt()]
)
def test_an_error_midway_leaves_nothing(single, tmp_path, error):
    refusal = pytest.raises(type(error))
    if isinstance(error, OSError):
        refusal = pytest.raises(UserError, match=rf"out: could not be written \({error.strerror or error}\)")
    with (
        refusal,
        new_checkpoint(tmp_path / "new" / "runs" / "out", LAYOUT, small_files(single, single)) as writer,
    ):
        writer.put(*parts()[0])
        assert (tmp_path / "new" / "runs").is_dir()
        raise error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["single"]


def test_an_error_midway_keeps_folders_in_use(single, tmp_path):
    with (
        pytest.raises(RuntimeError),
        new_checkpoint(tmp_path / "a" / "b" / "out", LAYOUT, small_files(single, single)),
    ):
        (tmp_path / "a" / "other.txt").write_text("of another program")
        raise RuntimeError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["other.txt"]


@pytest.mark.parametrize("name", ["tokenizer.json", "LICENSE", "config.json"])
def test_links_to_files_elsewhere_are_not_copied(single, tmp_path, name):
    (tmp_path / "secret.json").write_text('{"token": "not for others"}')
    (single / name).unlink(missing_ok=True)
    (single / name).symlink_to(tmp_path / "secret.json")
    with pytest.raises(UserError, match=f"{name}: a link to a file outside .*single. Put the file itself"):
        write_checkpoint(tmp_path / "out", tensors(), like=single)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.json", "single"]


def test_links_within_a_folder_and_in_the_hub_cache_are_copied(single, tmp_path):
    (single / "words.txt").write_text("{}")
    (single / "tokenizer.json").symlink_to("words.txt")
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "0a1b", tmp_path / "hub" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(single / name, blobs / name)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    for i, like in enumerate((single, snapshot)):
        out = write_checkpoint(tmp_path / str(i), tensors(), like=like)
        assert (out / "tokenizer.json").read_text() == "{}"
        assert not (out / "tokenizer.json").is_symlink()


def test_a_disk_too_small_is_said_before_writing(single, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"needs [\d,]{9,} bytes, the disk has [\d,]+ free"):
        write_checkpoint(tmp_path / "new" / "out", tensors(), like=single)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["single"]


def test_an_input_that_cannot_be_read_is_no_output_that_cannot_be_written(single, tmp_path):
    specs = {name: (value.dtype, value.shape) for name, value in tensors().items()}
    gone = tmp_path / "ct" / "model.safetensors"

    def write(opened: Path | None) -> None:
        with new_checkpoint(tmp_path / "out", specs, small_files(single, single)) as writer:
            (opened or writer.folder / "none" / "file").read_bytes()

    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read \(No such file"):
        write(gone)
    with pytest.raises(UserError, match="out: could not be written"):
        write(None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", [False, True])
def test_a_setting_that_is_no_number_is_refused(tmp_path: Path, inside: bool) -> None:
    settings = '{"rms_norm_eps": NaN}'
    text = f'{{"text_config": {settings}}}' if inside else settings
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: rms_norm_eps is NaN, and so would be all"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')  # as Mamba 2 has it
    assert read_config(tmp_path)["time_step_limit"][0] == 0
