"""What readers are sent to is there: relative links of the README, the docs and the notebooks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lrnb.study.parameters import ROOT

LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
NOTEBOOKS = [p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *NOTEBOOKS]


def prose(path: Path) -> str:
    """The Markdown of a page or of a notebook's cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_point_to_what_is_there(path: Path) -> None:
    links = [link for link in LINK.findall(prose(path)) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
