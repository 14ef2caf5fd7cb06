"""`lrnb report --export`: tables, LaTeX and images for a paper, from a made-up run folder."""

from __future__ import annotations

import re
import struct
import subprocess
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pandas as pd
import pytest
from support.browser import chromium
from support.made_run import write_made_run

from lrnb.analysis import results, trust
from lrnb.cli import main
from lrnb.figures import images
from lrnb.figures.scores import predicted_classes
from lrnb.report import export, main_table, page
from lrnb.study.stages import RunPaths


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_run(tmp_path_factory.mktemp("runs"), n=40)


@pytest.fixture(scope="module")
def exported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export without kaleido, from the command line."""
    out = tmp_path_factory.mktemp("export") / "paper"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "find_spec", lambda name: None)
        assert main.main(["report", str(made), "--export", str(out)]) == 0
    return out


def test_every_table_of_the_page_is_there(made: Path, exported: Path) -> None:
    there = {path.stem for path in (exported / "tables").iterdir()}
    assert {"scores", "english_kept", "differences", "detectable", "answers", "discarded"} <= there
    assert {"chosen_on_dev", "findings", "parameters", "failures_overlap", "failures_failures"} <= there
    scores, items = results.gather(RunPaths(page.study_of(made)))
    marked = trust.marks(scores, items)
    kept = pd.read_csv(exported / "tables" / "scores.csv", na_filter=False)
    assert kept["mark"].tolist() == marked["mark"].tolist()
    assert kept["value"].tolist() == pytest.approx(marked["value"].tolist())
    captions = pd.read_csv(exported / "captions.csv")
    assert {"headline", "front", "differences-1", "predicted-1", "failures-1"} <= set(captions["figure"])
    assert captions["caption"].str.len().min() > 10


def test_without_kaleido_the_tables_are_written_and_it_is_said(
    made: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    (exported / "main.csv").unlink()
    assert main.main(["report", str(made), "--export", str(exported)]) == 0  # an export is replaced
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [str(exported), f"No SVG and PNG: kaleido is not installed. {images.WITHOUT}"]
    assert (exported / "main.csv").is_file() and list((exported / "figures").iterdir()) == []
    assert main.main(["report", str(made), "--export", str(exported.parent)]) == 2
    assert "exists and is no export of a report" in capsys.readouterr().err


def test_the_main_table_is_whole_latex_with_the_marks_of_the_page(made: Path, exported: Path) -> None:
    text, wide = (exported / "main.tex").read_text(), pd.read_csv(exported / "main.csv", na_filter=False)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows if "multicolumn" not in line} == {3}  # mean, topic, reading
    assert text.count("{") == text.count("}")
    base = next(line for line in rows if line.startswith("base"))
    assert base.count(r"$^{\times}$") == 2  # it always gives one class of topic
    study = page.study_of(made)
    scores, items = results.gather(RunPaths(study))
    (table, _) = page.score_tables(scores, items)
    best = [c for models in table["groups"].values() for cells in models.values()
            for task, c in cells.items() if c["best"] and task in table["columns"]]  # fmt: skip
    assert [f"{c['value']:.1f}" for c in best] and text.count(r"\textbf") == len(best)
    assert r"Made \textless{}/script\textgreater{}" in text  # which pdfTeX's usual font would print as others
    assert wide.loc[0, "topic"].endswith("✕") and wide.iloc[-1]["method"] == "majority"


def test_letters_that_tex_reads_otherwise_are_escaped() -> None:
    assert main_table.tex("a_b & 50% {x} ~^\\ <|> বাংলা") == (
        r"a\_b \& 50\% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}\textbar{}\textgreater{} বাংলা"
    )


def test_the_main_table_is_set_by_latex_and_is_no_wider_than_the_text(tmp_path: Path) -> None:
    if which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-recommended")
    tasks = ["topic_classification_of_a_name", "a_b%c&d#$", "x~y^z\\{w}|<q>", "r", "s_t", "u"]
    cell = {"value": 40.0, "ci_low": 30.0, "ci_high": 50.0, "mark": "°", "collapsed": True, "best": False}
    levels = {task: {"n": 60, "chance": 25.0, "majority": float("nan")} for task in tasks}
    row = {task: cell | {"best": task == "r"} for task in tasks}
    table = {"columns": tasks, "levels": levels, "groups": {16384: {"ties": row, "own_1%-merge": row}}}
    (tmp_path / "main.tex").write_text(main_table.latex_scores(table, "Odia & 50% #2 $3 {x}", "tab:or"))
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "paper.tex").write_text(head + r"\input{main.tex}\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "paper.pdf").is_file(), done.stdout[-800:]
    assert "Overfull" not in done.stdout and "Missing character" not in done.stdout


def test_figures_are_drawn_at_the_width_of_a_page(tmp_path: Path) -> None:
    if find_spec("kaleido") is None:
        pytest.skip("kaleido is not installed")
    chromium()
    counts = pd.DataFrame({"বাংলা": [3, 1], "བོད་ཡིག": [1, 3]}, index=["truth", "ties@16k"])
    fig = predicted_classes(counts, "topic")
    assert images.save_images({"classes": fig, "again": fig}, tmp_path) == ""
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in ("classes", "again") for kind in ("svg", "png")
    }
    drawn = (tmp_path / "classes.svg").read_text(encoding="utf-8")
    assert "বাংলা" in drawn and "what the models answer" not in drawn
    assert re.search(r'<svg[^>]* width="605"', drawn)
    width, _ = struct.unpack(">II", (tmp_path / "classes.png").read_bytes()[16:24])
    assert width == pytest.approx(6.3 * 300, abs=2)


def test_a_browser_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("kaleido") is None:
        pytest.skip("kaleido is not installed")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    fig = predicted_classes(pd.DataFrame({"x": [1]}, index=["truth"]), "topic")
    said = images.save_images({"one": fig}, tmp_path)
    assert said.startswith("No SVG and PNG: ") and said.endswith(images.WITHOUT)
    assert list(tmp_path.iterdir()) == []


def test_figures_have_names_of_their_own(made: Path) -> None:
    names = [name for name, _ in export.named_figures(page.page_content(page.study_of(made)))]
    assert len(names) == len(set(names)) > 15
