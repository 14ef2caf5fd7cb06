"""A miniature checkout: the real package and Snakefile, with notebooks that compute nothing."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil

from lrnb.pipeline import runner
from lrnb.pipeline.monitor import DUE, NOT_DUE
from lrnb.study.parameters import ROOT


def write_notebook(path: Path, parameters: str, *cells: str) -> Path:
    """A notebook with a parameters cell and code cells, as JupyterLab would save it."""
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nb = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


ATLAS = {"discarded", "signs", "saturation", "failures"}  # the first and those that need it
KEYS = {
    "01_ct/00_base": ("base_lr = 0.003", "[paths.world, paths.base]"),
    "01_ct/01_corpus": ("seq_len = 64", "[paths.corpus]"),
    "01_ct/02_ct": ("ct_lr = 0.0004\nct_budgets = [1024]", "[paths.ct()]"),
    "01_ct/03_sft": ("sft_lr = 0.0005\nsft_parent = 'base'", None),
    "02_merge/01_average": ("alphas = [0.5]", "[paths.merge('average'), paths.merge('task_arithmetic')]"),
    "02_merge/02_ties": ("densities = [0.5]", "[paths.merge('ties')]"),
    "02_merge/03_ties_sv": ("slacks = [0.1]", "[paths.merge('ties_sv')]"),
    "02_merge/04_evaluate": ("test_limit = 200\ngroup = 'parents'", "[paths.scored(group)]"),
    "03_analysis/01_scores": ("ct_budgets = [1024]", "[paths.scores]"),
    "03_analysis/02_discarded": ("zero_sign = 'majority'", "[paths.conflicts]"),
    "03_analysis/03_sign_conflicts": ("ct_budgets = [1024]", "[paths.signs]"),
    "03_analysis/04_saturation": ("ct_budgets = [1024]", "[paths.saturation]"),
    "03_analysis/05_failures": ("script = 'Georgian'", "[paths.lang / 'failures']"),
}
SETUP = """import os, time
from filelock import Timeout

from lrnb.errors import UserError
from lrnb.study import Stage, open_notebook, write_text
study, paths = open_notebook()"""
TROUBLE = """trouble = paths.lang / 'trouble'
what = trouble.read_text() if trouble.exists() else ''
if what == 'raise':
    raise UserError('the shares do not add up')
if what == 'kill':
    os.kill(os.getpid(), 9)
if what == 'sleep':
    trouble.with_name('asleep').write_text('')
    time.sleep(120)"""
WRITE = """for folder in {folders}:
    with Stage(folder, 'mini', study.declared()) as stage:
        write_text(stage.draft / 'out.txt', repr(study.declared()))"""
SFT = "paths.sft if sft_parent == 'base' else paths.ct_then_sft() / sft_parent.split('/')[1]"
REPORT = """from lrnb.study import write_text
def write_report(folder):
    seeds = [path.read_text() for path in folder.parent.glob("*-seeds.csv")]
    write_text(folder / "report.html", f"<p>mini {seeds}</p>")
    return folder / "report.html"
"""


PAGE_OF_ALL = """def runs_of(runs, preset):
    return []
def finished(studies):
    return studies
"""


def write_checkout(root: Path) -> Path:
    """The real package, Snakefile and parameters, with notebooks that compute nothing."""
    shutil.copytree(ROOT / "lrnb", root / "lrnb", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "params", root / "params")
    shutil.copy(ROOT / "Snakefile", root)
    (root / "lrnb" / "report" / "page.py").write_text(REPORT)
    (root / "lrnb" / "report" / "languages_page.py").write_text(PAGE_OF_ALL)
    for name, (keys, folders) in KEYS.items():
        declared = f"preset = 'nano'\nlang = 'qaa'\nseed = 0\nruns = 'runs'\n{keys}"
        body = WRITE.format(folders=folders or f"[{SFT}]")
        trouble = [TROUBLE] if name == "03_analysis/02_discarded" else []
        write_notebook(root / "notebooks" / f"{name}.ipynb", declared, SETUP, *trouble, body)
    return root


def to_run(text: str) -> dict[str, str]:
    """Of a dry run on a wide terminal, the steps that would run, and why."""
    lines = text.splitlines()
    head = next(number for number, line in enumerate(lines) if DUE in line)
    rows = itertools.takewhile(lambda line: line.startswith(" "), lines[head + 1 :])
    found = {row.split()[0]: row[lines[head].index(DUE) :].strip() for row in rows}
    return {name: why for name, why in found.items() if why != NOT_DUE}


class Checkout:
    """Commands in a miniature checkout, each its own process, as a user starts them.

    Its notebooks import too little for a nursery to pay: runs have one where a test asks for it.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.lang = root, root / "runs" / "nano" / "qaa"

    def start(self, *extra: str, lang: str = "qaa", warm: bool = False) -> subprocess.Popen:
        params = [f"params/{code}.yaml" for code in lang.split()]
        command = [sys.executable, "-m", "lrnb", "run", *params, "--set", "ct_budgets=[1024]"]
        return subprocess.Popen(
            [*command, *([] if warm else ["--no-warm"]), *extra],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": str(self.root), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *extra: str, lang: str = "qaa") -> tuple[int, str]:
        process = self.start(*extra, lang=lang)
        text, _ = process.communicate(timeout=900)
        return process.returncode, text

    def outdated(self, *extra: str) -> list[str]:
        """Steps that would run."""
        return [*self.why_due(*extra)]

    def why_due(self, *extra: str) -> dict[str, str]:
        """Steps that would run, and why."""
        status, text = self.run("--dry-run", *extra)
        assert status == 0, text
        return to_run(text)

    def steps_run(self, text: str) -> set[str]:
        lines = [line.split("] ", 1)[-1] for line in text.splitlines()]
        return {line.split(": ")[0] for line in lines if line.endswith((": done", ": failed"))}

    def owner(self) -> dict:
        return json.loads((self.lang / runner.OWNER).read_text())

    def make_trouble(self, what: str) -> None:
        """Let the next run of the step `discarded` raise, die or hang."""
        (self.lang / "trouble").write_text(what)
        shutil.rmtree(self.lang / "conflicts")
        (self.lang / ".status" / "discarded.json").unlink()

    def wait_asleep(self) -> None:
        for _ in range(3000):
            if (self.lang / "asleep").exists():
                return
            time.sleep(0.1)
        raise AssertionError("the step did not start")


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
