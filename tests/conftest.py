"""Pico fixtures: two-layer models and small corpora, made in milliseconds, without a network."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pico import save_pico

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parent.parent
LONGEST = ("pipeline", "widgets")  # folders of tests that take minutes, begun first so that no worker waits


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)


@pytest.fixture
def pico_llama(tmp_path: Path) -> Path:
    """A complete Hugging Face folder of a pico Llama."""
    return save_pico(tmp_path / "base")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real texts and tasks; tests that need them are skipped, saying why, where they are absent."""
    folder = Path(os.environ.get("LRNB_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "eval").is_dir():
        pytest.skip(
            f"real data is absent: no folder {folder / 'eval'}; set LRNB_DATA to a folder that has it"
        )
    return folder


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    """A running browser; skipped, saying why, where there is none and none is required."""
    from support.browser import browser

    with browser() as found:
        yield found


@pytest.fixture(scope="module", params=["light", pytest.param("dark", marks=pytest.mark.slow)])
def lab(
    request: pytest.FixtureRequest, chrome: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A running JupyterLab, in both of its themes."""
    from support.lab import Lab

    lab = Lab(tmp_path_factory.mktemp("lab"), dark=request.param == "dark")
    yield lab
    lab.close()


@pytest.fixture
def bare_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges of tensors that are no whole model: nobody asks whether transformers opens what is written.

    That question has its own tests, in tests/merging/test_output_opens.py.
    """
    from lrnb.checkpoints.trial import Trial
    from lrnb.merging import whole_models

    monkeypatch.setattr(whole_models, "trial_of", lambda job: contextlib.nullcontext(Trial("", [], None, 0)))
