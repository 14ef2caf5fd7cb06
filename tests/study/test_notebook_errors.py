"""What a notebook shows of a mistake that the user can mend."""

from __future__ import annotations

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from lrnb.study import notebook_errors

RAISE = "from lrnb.errors import UserError\nraise UserError('<b>the corpus</b> is empty; add text')"


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.delenv("LRNB_HEADLESS", raising=False)
    found = InteractiveShell()
    found.display_pub = CapturingDisplayPublisher()
    monkeypatch.setattr("IPython.get_ipython", lambda: found)
    return found


def test_the_sentence_comes_first_and_the_traceback_is_folded(shell: InteractiveShell) -> None:
    notebook_errors.fold_tracebacks()
    with capture_output() as shown:
        result = shell.run_cell(RAISE)
    page = shell.display_pub.outputs[0]["data"]["text/html"]
    sentence, folded = page.split("<details>")
    assert "&lt;b&gt;the corpus&lt;/b&gt; is empty; add text" in sentence
    assert "raise UserError" in folded and "\x1b" not in folded
    assert not result.success  # Run All stops
    assert "Traceback" not in shown.stdout + shown.stderr


def test_other_errors_and_headless_runs_are_as_they_were(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRNB_HEADLESS", "1")
    notebook_errors.fold_tracebacks()
    with capture_output() as shown:
        shell.run_cell(RAISE)
    assert not shell.display_pub.outputs and "UserError" in shown.stdout
    monkeypatch.delenv("LRNB_HEADLESS")
    notebook_errors.fold_tracebacks()
    with capture_output() as shown:
        shell.run_cell("1 / 0")
    assert not shell.display_pub.outputs and "ZeroDivisionError" in shown.stdout
