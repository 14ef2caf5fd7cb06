"""Notebooks run as a person runs them: Run All, and Run All once more, without restarting the kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from lrnb.pipeline.notebooks import QUIET, _environ, _this_python
from lrnb.study.parameters import ROOT

WIDGET = "application/vnd.jupyter.widget-view+json"  # in a headless run these are progress bars
TIMES = re.compile(r"[\d.]+ m?s\b")  # of the playground
AFRESH = "get_ipython().reset(new_session=True)"  # as a kernel that has just started: no names, no history


def with_parameters(name: str, **parameters: Any) -> NotebookNode:
    """notebooks/<name>.ipynb with other values in its parameters cell, as a person would write them."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for key, value in parameters.items():
        line = f"{key} = {value!r}"
        cell.source, found = re.subn(rf"(?m)^{key} = .*$", lambda _, line=line: line, cell.source)
        assert found == 1, key
    return notebook


class Kernel:
    """One kernel for many notebooks, each from a clean start: torch is imported once."""

    def __init__(self, client: NotebookClient) -> None:
        self.client = client

    def start_afresh(self) -> None:
        self.run(AFRESH)

    def run(self, code: str) -> None:
        self.run_all(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]))

    def run_all(self, notebook: NotebookNode) -> list[str]:
        """What each code cell shows, but for progress bars and warnings. An error in a cell raises."""
        self.client.nb = notebook
        self.client.reset_execution_trackers()
        for index, cell in enumerate(notebook.cells):
            self.client.execute_cell(cell, index)
        return [_shown(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


@contextmanager
def kernel() -> Iterator[Kernel]:
    """A kernel as the batch runner starts it, in the checkout's root."""
    client = NotebookClient(nbformat.v4.new_notebook(), km=_this_python()(), timeout=300)
    with _environ(QUIET), client.setup_kernel(cwd=str(ROOT), cleanup_kc=True):
        yield Kernel(client)


def _shown(outputs: list[NotebookNode]) -> str:
    """Outputs as one text, without progress bars, measured times and the ids that plotly makes up."""
    printed = "".join(o.text for o in outputs if o.get("name") == "stdout")
    shown = [o.data for o in outputs if "data" in o and WIDGET not in o.data]
    text = json.dumps([TIMES.sub("", printed), *shown], sort_keys=True)
    return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "", text)
