"""What a person sees while a study runs: steps, progress, rate and time left; and what failed, in full."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrnb.pipeline.graph import Node
from lrnb.pipeline.notebooks import resources_of
from lrnb.pipeline.profiles import Profile
from lrnb.pipeline.steps import EVALUATE
from lrnb.report.tables import print_facts, print_table
from lrnb.study.files import json_object

MARKS = {
    "pending": " ",
    "queued": "[yellow]·[/]",
    "waiting": "[yellow]…[/]",
    "running": "[yellow]▶[/]",
    "done": "[green]✓[/]",
    "failed": "[red]✗[/]",
}
EVERY = 10.0  # seconds between lines where there is no terminal


@dataclass
class Board:
    """The state of a run, read from the small files that the steps write."""

    todo: list[Node]
    started: float = field(default_factory=time.time)
    queued: set[str] = field(default_factory=set)  # steps that a cluster has; begun or not

    def status(self, name: str) -> dict[str, Any]:
        """{"state", "started", "time", "error"}: state pending, queued, waiting, running, done or failed."""
        state = "queued" if name in self.queued else "pending"
        none: dict[str, Any] = {"state": state, "started": 0.0, "time": 0.0, "error": ""}
        return json_object(self._beside(name, "json")) or none

    def progress(self, name: str) -> dict[str, Any]:
        return json_object(self._beside(name, "progress.json"))

    def _beside(self, name: str, ending: str) -> Path:
        status = next(node.status for node in self.todo if node.name == name)
        return status.with_name(f"{status.name}.{ending}")

    def states(self) -> dict[str, str]:
        return {step.name: self.status(step.name)["state"] for step in self.todo}

    def took(self, name: str) -> float:
        """Seconds that a step has run so far."""
        status = self.status(name)
        end = {"running": time.time(), "done": status["time"]}.get(status["state"])
        return end - status["started"] if end else 0.0

    def total(self, name: str) -> float | None:
        """Seconds of a whole step: as it took, or by its own progress; None where neither says it yet."""
        state, took, found = self.status(name)["state"], self.took(name), self.progress(name)
        if state == "done":
            return took if took > 1 else None  # found up to date: says nothing about the work
        if state == "running" and 0 < found.get("done", 0) < found["total"] and found["rate"] > 0:
            return took + (found["total"] - found["done"]) / found["rate"]
        return None

    def left(self) -> str:
        """Estimated time to the end, from the steps whose time is known and the costs of the others."""
        known = {step.name: total for step in self.todo if (total := self.total(step.name)) is not None}
        if not known or self._scoring_is_unknown(known):
            return "…"
        pace = sum(known.values()) / sum(step.cost for step in self.todo if step.name in known)
        open_steps = [s for s in self.todo if self.status(s.name)["state"] not in ("done", "failed")]
        rest = [max(known.get(s.name, pace * s.cost) - self.took(s.name), 0) for s in open_steps]
        busy = sum(self.took(step.name) for step in self.todo)
        at_once = max(busy / max(time.time() - self.started, 1e-9), 1)
        return clock(max(sum(rest) / at_once, *rest, 0))

    def _scoring_is_unknown(self, known: Mapping[str, float]) -> bool:
        """Costs are those of preset nano; elsewhere scoring takes most, and how long, only its speed says."""
        scoring = [node.name for node in self.todo if node.step.notebook == EVALUATE]
        other = any(node.study.preset != "nano" for node in self.todo)
        return other and bool(scoring) and not known.keys() & {*scoring}

    def headline(self) -> str:
        states = list(self.states().values())
        done, failed = states.count("done"), states.count("failed")
        failures = f", {failed} failed" if failed else ""
        elapsed = clock(time.time() - self.started)
        return f"{done}/{len(states)} steps done{failures}; {elapsed} so far, about {self.left()} left"


def clock(seconds: float) -> str:
    """75 -> '1:15', 3700 -> '1:01:40'."""
    minutes, rest = divmod(max(int(seconds), 0), 60)  # of a clock that was set back
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: float) -> str:
    """12345 -> '12.3k', 1200000 -> '1.2M'."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.1f}{letter}"
    return f"{number:.0f}"


def speed(rate: float) -> str:
    """12345 -> '12.3k/s', 0.8 -> '0.8/s'."""
    return f"{rate:.1f}/s" if rate < 10 else f"{count(rate)}/s"


def progress_line(progress: dict[str, Any]) -> str:
    """'ct: 12.3k of 262.1k tokens, 9.8k/s, 0:25 left', or without a total what is done; empty before that."""
    if not progress.get("total") and not progress.get("done"):
        return ""
    done, total, rate = progress["done"], progress["total"], progress["rate"]
    left = f", {clock((total - done) / rate)} left" if rate > 0 and done < total else ""
    what = f"{progress['stage']}: " if progress.get("stage") else ""
    many = f"{count(done)} of {count(total)}" if total else count(done)
    return f"{what}{many} {progress['unit']}, {speed(rate)}{left}"


@contextlib.contextmanager
def display(board: Board, console: Any) -> Iterator[Callable[[], None]]:
    """A function to call now and then: redraws a table on a terminal, prints lines elsewhere."""
    if not console.is_terminal:
        printer = Lines(board, console)
        yield printer.refresh
        printer.changes()
        return
    from rich.live import Live

    with Live(table(board), console=console, refresh_per_second=4) as live:
        yield lambda: live.update(table(board))
        live.update(table(board))


def table(board: Board) -> Any:
    """One row a step, in the order of the study."""
    from rich.console import Group
    from rich.table import Table

    grid = Table(box=None, padding=(0, 1), show_header=False)
    for step in board.todo:
        state = board.status(step.name)
        style = "dim" if state["state"] == "pending" else ""
        grid.add_row(MARKS[state["state"]], step.name, *_row(board, step.name, state), style=style)
    return Group(board.headline(), grid)


def _row(board: Board, name: str, state: dict[str, Any]) -> tuple[str, str]:
    """Time taken so far, and what is happening."""
    if state["state"] == "running":
        happening = progress_line(board.progress(name)) or "starting"
        return clock(time.time() - state["started"]), happening
    if state["state"] == "queued":
        return "", "in the cluster's queue"
    if state["state"] == "waiting":
        return "", "another study is making it"
    return clock(state["time"] - state["started"]) if state["state"] in ("done", "failed") else "", ""


class Lines:
    """Progress for logs: a line when a step starts or ends, and one every ten seconds."""

    def __init__(self, board: Board, console: Any) -> None:
        self.board, self.console = board, console
        self.seen: dict[str, str] = {}
        self.last = time.monotonic()

    def changes(self) -> None:
        for name, state in self.board.states().items():
            if state != self.seen.get(name, "pending"):
                self._print(f"{name}: {state}")
                self.last = time.monotonic()
            self.seen[name] = state

    def refresh(self) -> None:
        self.changes()
        if time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            running = [name for name, state in self.seen.items() if state == "running"]
            parts = [f"{name} ({progress_line(self.board.progress(name)) or 'starting'})" for name in running]
            self._print("; ".join([*parts, self.board.headline()]))

    def _print(self, text: str) -> None:
        stamp = clock(time.time() - self.board.started)
        self.console.print(f"[{stamp}] {text}", markup=False, highlight=False, soft_wrap=True)


def notes(board: Board, console: Any) -> None:
    """Print what finished steps have to say."""
    for step in board.todo:
        status = board.status(step.name)
        if status["state"] == "done" and status["error"]:
            console.print(f"! {status['error']}", markup=False, highlight=False, soft_wrap=True)


def failures(board: Board, console: Any, reasons: Mapping[str, str] | None = None) -> list[str]:
    """Print every failed step's error in full and where its log is; returns the names.

    `reasons`: what else ended a step, which counts where it is known.
    """
    states, reasons, told = board.states(), reasons or {}, {}
    for node in board.todo:
        if states[node.name] == "failed":
            told[node.name] = board.status(node.name)["error"]
        if states[node.name] != "done" and node.name in reasons:
            told[node.name] = reasons[node.name]
    for node in (node for node in board.todo if node.name in told):
        console.print(f"\n✗ {node.name}", style="bold red", markup=False)
        console.print(told[node.name], markup=False, highlight=False, soft_wrap=True)
        console.print(f"log: {node.log}", markup=False, highlight=False, soft_wrap=True)
    return [*told]


DUE, NOT_DUE = "to run because", "(up to date)"


def print_plan(nodes: Mapping[str, Node], todo: Mapping[str, str], needs: Iterable[tuple[str, str]]) -> None:
    """Every step with what it waits for and why it would run; then what the studies need."""
    rows = [
        {
            "step": name,
            "notebook": node.step.notebook or "(report)",
            "needs": ", ".join(node.needs),
            DUE: todo.get(name, NOT_DUE),
        }
        for name, node in nodes.items()
    ]
    studies = [node.study for node in nodes.values()]
    who = f"{studies[0].preset} / {', '.join(dict.fromkeys(study.lang for study in studies))}"
    print_table(rows, f"{who}: {len(todo)} of {len(nodes)} steps to run", "step")
    print_facts(needs)


ASKED = ("mem_mb", "runtime", "cpus_per_task")  # with a column of their own


def print_requests(nodes: Iterable[Node], profile: Profile) -> None:
    """What the job of every step asks the cluster for, by the names that stand in the profile."""
    rows = []
    for node in nodes:
        asked = profile.requests(resources_of(node.step, node.study), node.classes)
        own = {name: str(asked.pop(name, "")) for name in ("gpu", *ASKED)}
        others = " ".join(f"{name}={value}" for name, value in asked.items() if name != "tasks")
        rows.append({"job": node.name, "class": node.classes[0], **own, "others": others})
    if rows:
        print_table(rows, f"what each job asks for ({profile.folder}; empty: what the cluster gives)", "job")
