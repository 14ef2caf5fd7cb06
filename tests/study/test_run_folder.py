"""A finished run is opened by its folder, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lrnb.errors import UserError
from lrnb.study.parameters import ROOT, Study
from lrnb.study.run_folder import open_run


def write_run(runs: Path, name: str = "nano/qaa") -> Path:
    run = runs / name
    run.mkdir(parents=True)
    (run / "params.yaml").write_text(yaml.safe_dump(Study(runs="elsewhere").model_dump()), encoding="utf-8")
    return run


def test_a_run_is_read_where_it_lies_and_work_goes_on_in_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study, paths = open_run(write_run(tmp_path / "moved"))
    assert study.runs == str(tmp_path / "moved")
    assert paths.base == tmp_path / "moved" / "nano" / "shared" / "base"
    assert Path.cwd() == ROOT


def test_a_run_in_the_checkout_is_named_from_its_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study, paths = open_run("notebooks/lesson/run/nano/qaa")
    assert study.runs == "notebooks/lesson/run"
    assert str(paths.sft) == "notebooks/lesson/run/nano/shared/sft"


def test_what_is_no_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no params.yaml, so this is no run"):
        open_run(tmp_path)
    with pytest.raises(UserError, match=r"belongs to a folder nano/qaa, and is in nano/other"):
        open_run(write_run(tmp_path, "nano/other"))
