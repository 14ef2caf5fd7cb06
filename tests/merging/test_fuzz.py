"""Files with some bytes changed: a merge says what is wrong or ends well, without a traceback or a hang.

LRNB_FUZZ_SECONDS gives it more than its 15 seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from support.pico import save_pico

from lrnb.cli import main
from lrnb.tasks.time_limit import time_limit

SECONDS = float(os.environ.get("LRNB_FUZZ_SECONDS", "15"))
HANG = 60  # seconds
MODELS = ("--base", "base", "--model", "ct=ct", "--model", "sft=sft")
TEMPLATE = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=8)
WHOLE = (b"", b"{}", b"[]", b"null", b"\xff\xfe\x00", b"[" * 5000, b"1" * 5000, b'{"a":' * 900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """base, ct and sft with every kind of file; the current folder meanwhile."""
    place, before = tmp_path_factory.mktemp("fuzz"), Path.cwd()
    save_pico(place / "base")
    (place / "base" / "chat_template.jinja").write_text(TEMPLATE)
    (place / "base" / "README.md").write_text("---\nlicense: mit\nbase_model: [a/b]\n---\n")
    (place / "base" / "LICENSE").write_text("MIT License")
    (place / "base" / "manifest.json").write_text(json.dumps({"stage": "sft", "facts": {"source": "a/b"}}))
    for name in ("ct", "sft"):
        shutil.copytree(place / "base", place / name)
    os.chdir(place)
    yield place
    os.chdir(before)


@contextlib.contextmanager
def changed(file: Path, content: bytes) -> Iterator[None]:
    whole = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(whole)


def flipped(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    new = bytearray(content or b" ")
    for place, value in changes:
        new[place % len(new)] = value
    return bytes(new)


def merged_or_refused(capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    start = time.monotonic()
    with time_limit("merge", HANG):
        status = main.main(["merge", "average", *MODELS, "--out", "out"])
    assert time.monotonic() - start < HANG
    said = capsys.readouterr().err
    assert len(said.splitlines()) <= 20 and len(said) < 10_000
    assert status in (0, 2)
    assert Path("out").exists() == (status == 0), said
    assert [path.name for path in sorted(Path().glob("*")) if path.name != "out"] == ["base", "ct", "sft"]
    shutil.rmtree("out", ignore_errors=True)


def test_bytes_of_any_file_may_be_wrong(folder: Path, capsys: pytest.CaptureFixture) -> None:
    files = [f"{name}/{path.name}" for name in ("base", "sft") for path in sorted(Path("base").iterdir())]
    end, seen = time.monotonic() + SECONDS, []

    @seed(0)
    @settings(
        max_examples=int(SECONDS * 20), deadline=None, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    @given(st.sampled_from(files), CHANGES | st.sampled_from(WHOLE))
    def one(name: str, change: list[tuple[int, int]] | bytes) -> None:
        if time.monotonic() > end:
            return
        seen.append(name)
        file = Path(name)
        content = change if isinstance(change, bytes) else flipped(file.read_bytes(), change)
        with changed(file, content):
            merged_or_refused(capsys)

    one()
    assert len(seen) >= 5  # the budget is enough for something, on a busy machine too


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_may_end_anywhere(folder: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    for name_of in ("base", "sft"):
        file = Path(name_of, name)
        whole = file.read_bytes()
        for size in np.linspace(0, len(whole) - 1, 4).astype(int):
            with changed(file, whole[:size]):
                merged_or_refused(capsys)
