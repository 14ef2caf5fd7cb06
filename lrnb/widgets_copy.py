"""A command line with a button that copies it. Needs no network."""

from __future__ import annotations

from functools import cache
from typing import Any

from lrnb.widgets_base import headless

COPY_ESM = """
function render({ model, el }) {
  const button = document.createElement("button");
  const text = document.createElement("textarea");
  const show = () => { text.value = model.get("text"); button.textContent = "Copy"; };
  text.readOnly = true;
  text.rows = 2;
  text.setAttribute("aria-label", "command");
  button.className = "jupyter-button";
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(text.value); button.textContent = "Copied"; }
    catch { text.select(); button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C"; }
  });
  model.on("change:text", show);
  show();
  el.classList.add("lrnb-copy");
  el.append(button, text);
}
export default { render };
"""
COPY_CSS = """
.lrnb-copy { display: flex; gap: 8px; align-items: flex-start; width: 100%; }
.lrnb-copy textarea { flex: 1; font-family: var(--jp-code-font-family, monospace); resize: vertical;
  font-size: var(--jp-code-font-size, 13px); color: var(--jp-ui-font-color1, #222);
  background: var(--jp-layout-color1, #fff); border: 1px solid var(--jp-border-color1, #999); }
"""


@cache
def _copy_class() -> type:
    import anywidget
    import traitlets

    traits = {"_esm": COPY_ESM, "_css": COPY_CSS, "text": traitlets.Unicode("").tag(sync=True)}
    return type("CopyButton", (anywidget.AnyWidget,), traits)


def copy_button(text: str) -> Any:
    """A button that copies `text`, beside a box that shows it; set `.text` for another one.

    Headless: the text itself.
    """
    return text if headless() else _copy_class()(text=text)
