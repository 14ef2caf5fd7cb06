"""What a notebook declares: its cell tagged `parameters`, one `name = literal` a line.

`notebook_params` reads it from the file, for the batch runner; `open_notebook` from the cells that were run.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrnb.errors import UserError
from lrnb.study.notebook_errors import fold_tracebacks
from lrnb.study.parameters import ROOT, Study, validate
from lrnb.study.stages import RunPaths

INJECTED = "# Parameters"  # how papermill begins the cell that it adds


def notebook_params(path: Path) -> dict[str, Any]:
    """The names and default values in a notebook's cell tagged `parameters`.

    UserError where it holds anything but literals, because papermill would accept derived values and then
    keep the old ones.
    """
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise UserError(f"{path}: {len(tagged)} cells are tagged `parameters`; exactly one must be")
    try:
        return _literals("".join(tagged[0]["source"]))
    except (AttributeError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: parameters cell: one `name = literal` a line, please ({error})") from None


def _literals(source: str) -> dict[str, Any]:
    """The names and values of `name = literal` lines; AttributeError, ValueError or SyntaxError otherwise."""
    lines = [(node.targets, node.value) for node in ast.parse(source).body]  # type: ignore[attr-defined]
    return {target.id: ast.literal_eval(value) for (target,), value in lines}


def open_notebook() -> tuple[Study, RunPaths]:
    """The Study of a notebook's parameters cell, frozen, and the folders of its run: a notebook's set-up.

    Work goes on in the checkout's root (JupyterLab starts in the notebook's own folder). Values come from the
    source of the cells that were run, so that no other variable of the notebook can pass for a parameter.
    UserError for a name that is no parameter (with the nearest one), a wrong type or range, no such cell.
    """
    os.chdir(ROOT)
    fold_tracebacks()
    checked = validate(parameters_of(_cells_run()), f"{_notebook()}: parameters cell", strict=True)
    study = DeclaredStudy.model_construct(checked.model_fields_set, **dict(checked))
    return study, RunPaths(study)


def _cells_run() -> list[str]:
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise UserError("open_notebook() reads a notebook's parameters cell; in a script, use load_study()")
    return shell.history_manager.input_hist_raw


def parameters_of(cells: Iterable[str]) -> dict[str, Any]:
    """What the latest parameters cell of `cells` set, in the order in which they were run.

    That is a cell of nothing but literals, `preset` and `runs` among them. Cells of literals with parameters
    that were run after it are laid over it: the one that papermill adds, or a person's. UserError where
    there is none.
    """
    values: dict[str, Any] = {}
    for source in cells:
        try:
            found = _literals(source)
        except (AttributeError, ValueError, SyntaxError):
            continue
        injected = source.startswith(INJECTED)
        if {"preset", "runs"} <= found.keys() and not injected:
            values = found
        elif values and (injected or Study.model_fields.keys() & found.keys()):
            values |= found
    if not values:
        raise UserError(
            f"{_notebook()}: no parameters cell was run. Run the cell tagged `parameters` first; it holds "
            "one `name = literal` a line and nothing else, `preset` and `runs` among them"
        )
    return values


def _notebook() -> str:
    """The notebook's name: from the batch runner, or from Jupyter."""
    return os.environ.get("LRNB_NOTEBOOK") or Path(os.environ.get("JPY_SESSION_NAME", "notebook")).name


class DeclaredStudy(Study):
    """A Study of which only the declared parameters can be read.

    The others are in no manifest and no freshness key: a result that depends on them would go stale unseen.
    """

    def __getattribute__(self, name: str) -> Any:
        if name in Study.model_fields and name not in self.model_fields_set:
            line = f"{name} = {super().__getattribute__(name)!r}"
            raise UserError(
                f"{_notebook()}: the parameter {name!r} is read here, but the parameters cell does not "
                f"declare it. Add the line `{line}` there"
            )
        return super().__getattribute__(name)
