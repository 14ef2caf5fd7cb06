"""Links to what a run has left: from the notebooks' folder, and only what JupyterLab can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrnb import widgets
from lrnb.study.parameters import ROOT, Study
from lrnb.study.stages import RunPaths
from lrnb.widgets import links as module


def links(runs: Path) -> str:
    return widgets.run_links(RunPaths(Study(runs=str(runs)))).data


def test_a_run_in_the_checkout_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert "`runs/nano/qaa` yet: `make study`" in links(tmp_path / "runs")
    run = tmp_path / "runs" / "nano" / "qaa"
    (run / "notebooks").mkdir(parents=True)
    for name in ("report.html", "notebooks/my ct.ipynb", "notebooks/.draft.ipynb"):
        (run / name).write_text("")
    text = links(tmp_path / "runs")
    assert "[report.html](../runs/nano/qaa/report.html)" in text
    assert "[my ct](../runs/nano/qaa/notebooks/my%20ct.ipynb)" in text and "draft" not in text
    assert str(tmp_path) not in text


def test_of_a_run_elsewhere_the_path_is_told(tmp_path: Path) -> None:
    assert not tmp_path.is_relative_to(ROOT)
    (tmp_path / "nano" / "qaa").mkdir(parents=True)
    (tmp_path / "nano" / "qaa" / "report.html").write_text("")
    assert links(tmp_path) == (
        f"The report is `{tmp_path}/nano/qaa/report.html`. JupyterLab shows what lies in the checkout only."
    )
