"""What a run has left to look at, as links that JupyterLab opens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lrnb.study.parameters import ROOT
from lrnb.study.stages import RunPaths


def run_links(paths: RunPaths) -> Any:
    """The report and the executed notebooks of a run, for a notebook right below notebooks/.

    JupyterLab reaches what lies in the checkout, where `lrnb lab` opens it; of a run elsewhere it says where.
    """
    from IPython.display import Markdown

    return Markdown("\n\n".join(_lines(paths.lang.absolute())))


def _lines(run: Path) -> list[str]:
    report, executed = run / "report.html", sorted((run / "notebooks").glob("[!.]*.ipynb"))
    if not report.is_file():
        return [f"There is no report in `{_told(run)}` yet: `make study` makes it."]
    if not run.is_relative_to(ROOT):
        return [f"The report is `{report}`. JupyterLab shows what lies in the checkout only."]
    links = ", ".join(_link(path, path.stem) for path in executed)
    shown = f"{_link(report, 'report.html')} (press **Trust HTML** above it to see its figures)"
    return [f"The report: {shown}.", f"The notebooks as they were run: {links or 'none'}.",
            f"All of it lies in `{_told(run)}`, in the file browser on the left."]  # fmt: skip


def _told(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _link(path: Path, text: str) -> str:
    return f"[{text}]({quote(Path(os.path.relpath(path, ROOT / 'notebooks')).as_posix())})"
