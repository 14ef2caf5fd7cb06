"""A command line with a button that copies it. Needs no network."""

from __future__ import annotations

from html import escape
from typing import Any

from lrnb.widgets.explorer import headless, html_part

COPY = "this.nextElementSibling.select(); "
COPY += "this.textContent = document.execCommand('copy') ? 'Copied' : 'Press Ctrl+C'"
LOOK = "flex:1; resize:vertical; field-sizing:content; font-family:var(--jp-code-font-family, monospace); "
LOOK += "font-size:var(--jp-code-font-size, 13px); color:var(--jp-ui-font-color1, #222); "
LOOK += "background:var(--jp-layout-color1, #fff); border:1px solid var(--jp-border-color1, #999)"


def copy_button(text: str) -> Any:
    """A button that copies `text`, beside a box that shows it; set `.value` to `copied` of another one.

    Headless: the text itself.
    """
    return text if headless() else html_part(copied(text), "lrnb-copy")


def copied(text: str) -> str:
    """The button and the box as HTML."""
    return (
        f'<div style="display:flex; gap:8px; align-items:flex-start">'
        f'<button class="jupyter-button" onclick="{COPY}">Copy</button>'
        f'<textarea readonly rows="3" aria-label="command" style="{LOOK}">{escape(text)}</textarea></div>'
    )
