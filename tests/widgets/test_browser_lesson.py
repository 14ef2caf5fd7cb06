"""The four notebooks of the lesson in a real JupyterLab, in both themes; see `browser`."""

from __future__ import annotations

from typing import Any

import pytest
from support.browser import Notebook
from support.lab import Lab

from lrnb.widgets.lesson import LESSON


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSON)
def test_a_lesson_runs_asks_and_compares(name: str, chrome: Any, lab: Lab) -> None:
    notebook = Notebook(chrome, lab, lab.add(f"lesson/{name}"))
    notebook.run()
    for key in LESSON[name]:
        assert notebook.page.locator(f".lrnb-exercise-{key} .lrnb-check").count() == 1
    predicted = notebook.page.locator("[class*=lrnb-predict-]")
    assert predicted.count() == notebook.page.locator(".lrnb-predictions tr").count() - 1
    predicted.first.locator("input[type=radio]").first.click()
    notebook.page.locator(".jp-CodeCell .cm-content").last.click()
    notebook.page.keyboard.press("Control+Enter")
    notebook.settle()
    rows = notebook.page.locator(".lrnb-predictions tr").all_text_contents()
    assert [("no prediction" in row) for row in rows[1:]] == [False] + [True] * (len(rows) - 2)
    notebook.picture(f"{name}-{'dark' if lab.dark else 'light'}")
    notebook.check()
    notebook.close()
