"""A real browser, Debian's chromium, driven by playwright, at a real JupyterLab (see `lab`).

Nothing outside the machine is asked: such a request fails the test, as does any error in the
browser's console, in the page or in a cell. Screenshots go to LRNB_ARTIFACTS, else to artifacts/.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.lab import WAIT, Lab

from lrnb.study.parameters import ROOT

WIDE, HIGH = 1280, 900
LATE = "[anywidget] Failed to initialize model."
IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
LISTEN = """() => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  window.lrnb = {heard: performance.now(), settled: 0};
  kernel.anyMessage.connect(() => { window.lrnb.heard = performance.now(); });
}"""
QUIET = """([quiet, patience]) => new Promise(done => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const begun = performance.now(), state = window.lrnb;
  const look = () => {
    const now = performance.now();
    if (kernel.status != 'idle') state.heard = now;
    const answered = state.heard > state.settled || now - begun > patience;
    if (!answered || now - state.heard < quiet) return setTimeout(look, 10);
    state.settled = now;
    requestAnimationFrame(() => setTimeout(done));
  };
  look();
})"""
DRAWN = """() => [...document.querySelectorAll('.lrnb-figure')].every(
  figure => [figure, ...figure.querySelectorAll('*')].some(element => element._fullData?.length)
)"""
POINT = """(figure, [x, y]) => {
  const {xaxis, yaxis} = figure._fullLayout, box = figure.getBoundingClientRect();
  return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(y)];
}"""
RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"
CELLS = "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map(c => c.toJSON())"


def chromium() -> str:
    """The system's browser. Where it is absent the test is skipped, or fails where CI requires it."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None or not _has_playwright():
        why = (
            "no chromium on PATH (apt-get install chromium)"
            if found is None
            else "playwright is not installed"
        )
        if os.environ.get("CI") or os.environ.get("LRNB_REQUIRE_BROWSER"):
            pytest.fail(f"browser tests are required here, but {why}")
        pytest.skip(f"browser tests need a browser: {why}")
    return found


def _has_playwright() -> bool:
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return False
    return True


def artifacts() -> Path:
    folder = Path(os.environ.get("LRNB_ARTIFACTS") or ROOT / "artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# the browser


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


class Page:
    """One browser page that remembers everything that went wrong in it."""

    def __init__(self, found: Any, offline: bool = False) -> None:
        self.context = found.new_context(viewport={"width": WIDE, "height": HIGH})
        self.context.set_default_timeout(1000 * WAIT)
        self.context.set_offline(offline)
        self.page, self.errors = self.context.new_page(), []
        self.page.on("pageerror", lambda error: self.errors.append(f"page: {error}"))
        self.page.on("console", self._console)
        self.page.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(f"console: {message.text} ({message.location.get('url')})")

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            self.errors.append(f"asked for {request.url}")

    def check(self) -> None:
        assert self.errors == [], self.errors

    def screenshot(self, name: str) -> Path:
        path = artifacts() / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def close(self) -> None:
        self.context.close()


class Notebook(Page):
    """A notebook, open in JupyterLab."""

    def __init__(self, found: Any, lab: Lab, path: str, script: str = "") -> None:
        """script: what the page runs before anything else."""
        super().__init__(found)
        self.context.add_init_script(script)
        self.address = f"{lab.url}/lab/tree/{path}?reset&token={lab.token}"
        self.load()

    def load(self) -> None:
        """Load the page, anew where it is loaded: a kernel that runs goes on, what was not saved is lost."""
        self.page.goto(self.address)
        self.page.wait_for_function(IDLE)
        self.page.evaluate(LISTEN)

    def run(self) -> None:
        """Run all cells; a failed cell, an undrawn figure or an error in the page fails the test.

        But for anywidget's complaint where a figure takes longer than two seconds: `living.js` mends that.
        """
        self.run_cells()
        self.errors[:] = [error for error in self.errors if LATE not in error]
        self.check()

    def run_cells(self) -> None:
        """The same without a look at the page's errors."""
        self.page.evaluate(RUN_ALL)
        self.settle()
        cells = [cell for cell in self.page.evaluate(CELLS) if cell["cell_type"] == "code"]
        outputs = [output for cell in cells for output in cell["outputs"]]
        failed = [o["evalue"] for o in outputs if o["output_type"] == "error"]
        failed += [o["data"]["text/html"] for o in outputs if "lrnb-failed" in str(o.get("data"))]
        assert failed == []
        assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())
        self.check_figures()

    def reload(self) -> None:
        """Save, and load the page again, as with F5; the kernel goes on."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.page.goto(self.page.url.split("?")[0])
        self.page.wait_for_function(IDLE)
        self.page.evaluate(LISTEN)
        self.check_figures()

    def check_figures(self) -> None:
        """Every widget's figure is drawn, with traces in it."""
        self.page.wait_for_function(DRAWN)

    def settle(self) -> None:
        """Wait until kernel and page have spoken since the last time, or had 5 s to, and then were quiet."""
        self.page.evaluate(QUIET, [300, 5000])

    def text(self, css: str) -> str:
        return self.page.locator(css).text_content()

    def shows(self, css: str, text: str) -> None:
        """Wait until this text stands in the element: plotly draws a while after the page was told."""
        self.page.locator(css, has_text=text).wait_for()

    def number(self, word: str, within: str = "") -> str:
        """What stands beside `word` in the line of numbers."""
        return self.text(f'{within} .lrnb-numbers [data-number="{word}"] b')

    def drag(self, css: str, share: float, steps: int = 12) -> None:
        """Drag a slider with the mouse to `share` of its length, in steps, as a hand does."""
        slider, handle = self.page.locator(f"{css} .noUi-base"), self.page.locator(f"{css} .noUi-handle")
        slider.scroll_into_view_if_needed()
        track, knob = slider.bounding_box(), handle.bounding_box()
        self.page.mouse.move(knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + share * track["width"], track["y"] + 3, steps=steps)
        self.page.mouse.up()
        self.settle()

    def press(self, css: str, key: str, times: int = 1) -> None:
        """Move a slider with the keyboard: ArrowRight, ArrowLeft, Home, End."""
        self.page.locator(f"{css} .noUi-handle").focus()
        for _ in range(times):
            self.page.keyboard.press(key)
        self.settle()

    def click_point(self, css: str, x: Any, y: Any) -> None:
        """Click the place (x, y), in the axes' own values, of a plotly figure."""
        figure = self.page.locator(f"{css} .js-plotly-plot")
        figure.scroll_into_view_if_needed()
        place = figure.evaluate(POINT, [x, y])
        self.page.mouse.move(*place, steps=4)
        self.page.wait_for_timeout(300)  # plotly knows what is under the mouse a moment later
        self.page.mouse.click(*place)
        self.settle()

    def picture(self, name: str) -> Path:
        """A screenshot of the whole notebook, as high as it is."""
        high = self.page.evaluate("() => document.querySelector('.jp-WindowedPanel-inner').scrollHeight")
        self.page.set_viewport_size({"width": WIDE, "height": min(int(high) + 200, 12000)})
        self.page.evaluate("() => { document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0; }")
        self.page.wait_for_timeout(500)
        path = self.screenshot(name)
        self.page.set_viewport_size({"width": WIDE, "height": HIGH})
        return path


# an executed notebook as a page


def export(notebook: Path, folder: Path) -> Path:
    """nbconvert's HTML of an executed notebook, as the README has the command."""
    away = ["--HTMLExporter.require_js_url=", "--HTMLExporter.mathjax_url="]
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "html",
        *away,
        f"--output-dir={folder}",
        str(notebook),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / f"{notebook.stem}.html"


def check_export(found: Any, notebook: Path, folder: Path) -> int:
    """Open the export without a network: every figure is drawn, nothing is asked for. Returns how many."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    figures = sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
    page = Page(found, offline=True)
    page.page.goto(export(notebook, folder).as_uri())
    page.page.wait_for_function(
        "n => document.querySelectorAll('.js-plotly-plot:has(.main-svg)').length == n",
        arg=figures,
        timeout=30_000,
    )
    page.check()
    page.close()
    return figures
