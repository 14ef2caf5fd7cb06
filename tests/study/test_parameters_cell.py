"""What a notebook declares, from its file and from the cells that were run in a real IPython."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from pydantic import ValidationError
from traitlets.config import Config

from lrnb.errors import UserError
from lrnb.study.parameters import ROOT
from lrnb.study.parameters_cell import notebook_params, open_notebook, parameters_of

CELL = 'preset = "nano"\nlang = "qaa"  # language X\nseed = 0\nruns = "runs"\nct_budgets = [16, 64]'


def write_notebook(path: Path, source: str, tags: list[str]) -> Path:
    cell = {
        "cell_type": "code",
        "source": source,
        "metadata": {"tags": tags},
        "outputs": [],
        "execution_count": None,
    }
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_parameters_cells_hold_literals_only(tmp_path: Path) -> None:
    good = write_notebook(tmp_path / "a.ipynb", 'a = 1  # units\nb = ["x"]\n', ["parameters"])
    assert notebook_params(good) == {"a": 1, "b": ["x"]}
    for source, tags in (
        ("a = 1", []),
        ("a = 1\nb = a + 1", ["parameters"]),
        ("a = b = 1", ["parameters"]),
        ("import os", ["parameters"]),
    ):
        with pytest.raises(UserError, match="parameters"):
            notebook_params(write_notebook(tmp_path / "b.ipynb", source, tags))


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[InteractiveShell]:
    """The IPython of a notebook; it and the working folder are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/02_merge/my copy.ipynb")
    yield InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    InteractiveShell.clear_instance()


def test_only_what_the_cell_set_is_read_and_it_is_frozen(shell: InteractiveShell) -> None:
    for cell in (CELL, "tasks = [t for t in 'ab']\nslacks = 3.5\neval_batch = len(tasks)", "x = 1"):
        shell.run_cell(cell, store_history=True).raise_error()
    study, paths = open_notebook()
    wanted = {"preset": "nano", "lang": "qaa", "seed": 0, "runs": "runs", "ct_budgets": [16, 64]}
    assert study.declared() == wanted
    assert str(paths.ct(64)) == "runs/nano/qaa/ct/64"
    assert Path.cwd() == ROOT
    with pytest.raises(ValidationError, match="frozen"):
        study.seed = 1
    shell.run_cell("# Parameters\nseed = 2\nslacks = [0.5]\n", store_history=True).raise_error()
    assert open_notebook()[0].declared() == wanted | {"seed": 2, "slacks": [0.5]}
    assert study.seed == 0
    shell.run_cell(CELL.replace("16", "32"), store_history=True).raise_error()
    assert open_notebook()[0].declared() == wanted | {"ct_budgets": [32, 64]}


def test_a_parameter_that_is_not_declared_cannot_be_read(shell: InteractiveShell) -> None:
    shell.run_cell(CELL, store_history=True).raise_error()
    study, _ = open_notebook()
    message = "my copy.ipynb: the parameter 'eval_batch' is read .* Add the line `eval_batch = 16`"
    with pytest.raises(UserError, match=message):
        _ = study.eval_batch
    with pytest.raises(UserError, match="'tasks' is read"):
        _ = study.compared
    assert study.model_copy(update={"eval_batch": 8}).eval_batch == 8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('trim_scop = "tensor"', "my copy.ipynb: .*unknown parameter 'trim_scop'; did you mean 'trim_scope'"),
        ("script_min_share = 50.0", "script_min_share: Input should be less than or equal to 1"),
        ('seed = "1"', "seed: Input should be a valid integer"),
    ],
)
def test_bad_values_are_refused_in_jupyter_too(shell: InteractiveShell, line: str, message: str) -> None:
    shell.run_cell(f"{CELL}\n{line}", store_history=True).raise_error()
    with pytest.raises(UserError, match=message):
        open_notebook()


def test_a_misspelt_parameter_of_papermill_is_refused(shell: InteractiveShell) -> None:
    for cell in (CELL, '# Parameters\ntrim_scop = "tensor"'):
        shell.run_cell(cell, store_history=True).raise_error()
    with pytest.raises(UserError, match="did you mean 'trim_scope'"):
        open_notebook()


def test_a_cell_that_papermill_adds_is_laid_over_whatever_it_names() -> None:
    """Even where it sets the preset: the names that it leaves out stay declared."""
    added = '# Parameters\npreset = "smol"\nruns = "elsewhere"\n'
    assert parameters_of([CELL, added])["seed"] == 0
    assert parameters_of([CELL, added])["preset"] == "smol"


def test_a_cell_that_is_no_parameters_cell_is_said() -> None:
    cells = ["", "x = 1", 'import os\npreset = "nano"', 'preset = "nano"\nruns = str(1)', "seed = 1"]
    with pytest.raises(UserError, match="no parameters cell was run.*`name = literal` a line"):
        parameters_of(cells)


def test_a_script_is_told_what_to_use() -> None:
    with pytest.raises(UserError, match=r"in a script, use load_study\(\)"):
        open_notebook()
