"""Steps and kernels forked by a nursery: each a process of its own that ends with who asked for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest

from lrnb.pipeline import notebooks, runner, warm
from lrnb.study.parameters import ROOT, load_study

VARIABLES = notebooks.QUIET | notebooks.environment(load_study(ROOT / "params" / "qaa.yaml", "nano"))
NOBODY = 99  # status of a command that would have to run here
ASK = f"""import sys
from lrnb.pipeline import warm
status = warm.hand_over()
sys.exit({NOBODY} if status is None else status)"""
FACTS = """import json, os, sys
forked = "torch" in sys.modules
import pandas, torch, tqdm.auto, tqdm.notebook
facts = {
    "forked": forked, "pids": [os.getpid(), os.getppid(), os.getsid(0)], "cwd": os.getcwd(),
    "threads": torch.get_num_threads(), "hash": hash("lrnb"), "given": os.environ["LRNB_X"],
    "left": sorted({"LRNB_NURSERY", "LRNB_KERNEL"} & set(os.environ)), "path": len(sys.path),
    "bars": issubclass(tqdm.auto.tqdm, tqdm.notebook.tqdm),
    "columns": pandas.get_option("display.max_columns"),
}
with open(os.environ["LRNB_X"], "w") as file:
    json.dump(facts, file)"""
SLEEP = """import os, pathlib, time
pathlib.Path(os.environ["LRNB_X"]).write_text(str(os.getpid()))
time.sleep(120)"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a nursery needs Linux")


@dataclass
class Asking:
    """Commands in a checkout that has a nursery."""

    root: Path
    nursery: subprocess.Popen

    def start(self, cell: str, facts: Path) -> subprocess.Popen:
        """`lrnb exec` of a notebook with one cell, forked by the nursery."""
        notebook, out = facts.with_suffix(".ipynb"), facts.with_suffix(".out.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), notebook)
        return subprocess.Popen(
            [sys.executable, "-c", ASK, "exec", str(notebook), "--out", str(out)],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": str(self.root), "LRNB_X": str(facts)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, cell: str, facts: Path) -> tuple[int, str]:
        process = self.start(cell, facts)
        text, _ = process.communicate(timeout=120)
        return process.returncode, text


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    root = tmp_path_factory.mktemp("warm")
    shutil.copytree(ROOT / "lrnb", root / "lrnb", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv(warm.NURSERY, "")  # put back afterwards
        nursery = warm.start_nursery(VARIABLES | {"PYTHONPATH": str(root)})
        yield Asking(root, nursery)
        nursery.kill()
        nursery.wait()


def within(seconds: float, found: object) -> bool:
    """Whether a function says yes before the time is over."""
    end = time.time() + seconds
    while not found() and time.time() < end:  # type: ignore[operator]
        time.sleep(0.05)
    return bool(found())  # type: ignore[operator]


def sleeping(asking: Asking, facts: Path) -> tuple[subprocess.Popen, int]:
    """A command whose kernel sleeps, and the kernel."""
    command = asking.start(SLEEP, facts)
    assert within(60, lambda: facts.exists() and facts.read_text())
    return command, int(facts.read_text())


def test_a_kernel_is_a_process_of_its_own_with_its_commands_environment(
    asking: Asking, tmp_path: Path
) -> None:
    found = []
    for number in range(2):
        facts = tmp_path / f"{number}.json"
        assert asking.run(FACTS, facts) == (0, f"{facts.with_suffix('.out.ipynb')}\n")
        found.append(json.loads(facts.read_text()))
    for facts in found:
        own, parent, session = facts["pids"]
        assert own == session != parent != asking.nursery.pid
        assert facts["forked"] and facts["bars"]
        assert (facts["cwd"], facts["threads"], facts["columns"]) == (str(asking.root), 1, 20)
        assert facts["left"] == []
    pids = [pid for facts in found for pid in facts["pids"][:2]]
    assert len({*pids, asking.nursery.pid}) == 5
    env = {"LRNB_X": str(tmp_path / "cold"), "PYTHONPATH": str(asking.root)}
    cold = notebooks.exec_notebook(tmp_path / "0.ipynb", {}, tmp_path / "cold.ipynb", VARIABLES | env)
    assert cold.is_file()
    by_hand = json.loads((tmp_path / "cold").read_text())
    assert not by_hand["forked"]
    for key in ("threads", "hash", "bars", "columns", "path"):
        assert found[0][key] == by_hand[key], key


def test_the_interrupt_before_a_shutdown_is_not_told(asking: Asking, tmp_path: Path) -> None:
    """Jupyter interrupts every kernel before it asks it to end: here while it gives its last reply."""
    cell = """import time
kernel = get_ipython().kernel
reply = kernel.shell_handlers["kernel_info_request"]
async def slowly(*request):
    await reply(*request)
    time.sleep(2)
kernel.shell_handlers["kernel_info_request"] = slowly"""
    facts = tmp_path / "slow"
    assert asking.run(cell, facts) == (0, f"{facts.with_suffix('.out.ipynb')}\n")


def test_what_a_kernel_does_at_its_end_is_done(asking: Asking, tmp_path: Path) -> None:
    cell = """import atexit, os
kept = open(os.environ["LRNB_X"], "w")
circle = [open(os.environ["LRNB_X"] + ".circle", "w")]
circle.append(circle)
for file in (kept, circle[0]):
    print("written", file=file)
atexit.register(lambda: open(os.environ["LRNB_X"] + ".exit", "w").write("written"))"""
    assert asking.run(cell, tmp_path / "end")[0] == 0
    for name in ("end", "end.circle", "end.exit"):
        assert (tmp_path / name).read_text().strip() == "written", name


def test_an_error_and_a_killed_kernel_are_told_as_without_a_nursery(asking: Asking, tmp_path: Path) -> None:
    status, text = asking.run("import os; os.kill(os.getpid(), 9)", tmp_path / "killed")
    assert (status, "the kernel was killed" in text) == (1, True)
    assert (tmp_path / "killed.out.failed.ipynb").is_file()
    status, text = asking.run("1 / 0", tmp_path / "raised")
    assert (status, "ZeroDivisionError" in text) == (1, True)


def test_a_killed_commands_kernel_ends(asking: Asking, tmp_path: Path) -> None:
    command, kernel = sleeping(asking, tmp_path / "pid")
    step = psutil.Process(kernel).ppid()
    command.kill()
    command.wait()
    assert within(10, lambda: not psutil.pid_exists(kernel) and not psutil.pid_exists(step))


def test_a_command_works_itself_where_lrnb_was_edited_since(asking: Asking, tmp_path: Path) -> None:
    page = asking.root / "lrnb" / "report" / "page.py"
    before = page.read_text()
    page.write_text(before + "# edited\n")
    assert asking.run("1", tmp_path / "edited") == (NOBODY, "")
    page.write_text(before)
    assert asking.run("1", tmp_path / "as before")[0] == 0


def test_a_command_works_itself_after_its_nursery_was_killed(asking: Asking, tmp_path: Path) -> None:
    command, kernel = sleeping(asking, tmp_path / "pid")
    asking.nursery.kill()
    assert (command.wait(timeout=10), command.stdout.read()) == (NOBODY, "")  # type: ignore[union-attr]
    assert within(10, lambda: not psutil.pid_exists(kernel))
    assert asking.run("1", tmp_path / "later") == (NOBODY, "")


def test_without_a_nursery_a_command_works_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(warm.NURSERY, raising=False)
    assert warm.hand_over() is None


def test_no_nursery_for_gpus_several_threads_other_nodes_and_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert runner.can_be_warm(study, "")
    assert not runner.can_be_warm(study, "slurm")
    assert not runner.can_be_warm(study.model_copy(update={"threads": 2}), "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert not runner.can_be_warm(study, "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not runner.can_be_warm(study, "")
