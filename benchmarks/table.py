"""From single times to medians, ratios against the goals, and the table in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

MERGES = ("ties-tensor", "ties-model", "ties-sv", "average", "task-arithmetic")
MEGA = 1e6
Medians = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Goal:
    """One row of the table: what is compared, in which unit, and how far it should get."""

    what: str
    value: Callable[[Medians], float]  # KeyError where a part was not measured
    unit: str
    goal: float | None = None
    stretch: float | None = None
    more_is_better: bool = False
    shape: str | None = None  # the goal is judged at this shape only


def ratio(above: str, below: str, key: str = "seconds") -> Callable[[Medians], float]:
    """The median of one run over that of another."""
    return lambda medians: medians[above][key] / medians[below][key]


def to_copy(job: str, key: str) -> Callable[[Medians], float]:
    """The median of one run over the faster of the two plain copies."""
    return lambda medians: medians[job][key] / copy_seconds(medians)


def copy_seconds(medians: Medians) -> float:
    """Read three, write one: the faster of one and two threads."""
    return min(medians[job]["seconds"] for job in ("copy 1", "copy 2"))


def peak_anonymous(medians: Medians) -> float:
    """The most anonymous memory that any of our merges took, in MB. KeyError unless all were run."""
    return max(medians[f"lrnb {name}"]["peak_anon_bytes"] for name in MERGES) / MEGA


MERGING, WHOLE = "merge_seconds", "seconds"
GOALS = (
    Goal("TIES, tensor scope: mergekit / lrnb, whole command",
         ratio("mergekit ties", "lrnb ties-tensor"), "×", 40, 80, True),
    Goal("TIES, tensor scope: mergekit / lrnb, merging only",
         ratio("mergekit ties", "lrnb ties-tensor", MERGING), "×"),
    Goal("task arithmetic: mergekit / lrnb, whole command",
         ratio("mergekit task-arithmetic", "lrnb task-arithmetic"), "×"),
    Goal("average: mergekit / lrnb, whole command",
         ratio("mergekit average", "lrnb average"), "×"),
    Goal("TIES-SV / TIES, model scope, merging", ratio("lrnb ties-sv", "lrnb ties-model", MERGING), "×", 1.3),
    Goal("TIES, model scope / read 3, write 1: merging", to_copy("lrnb ties-model", MERGING), "×", 3, 2),
    Goal("TIES, model scope / read 3, write 1: whole command", to_copy("lrnb ties-model", WHOLE), "×"),
    Goal("average / read 3, write 1: merging", to_copy("lrnb average", MERGING), "×", 1.5, 1.1),
    Goal("average / read 3, write 1: whole command", to_copy("lrnb average", WHOLE), "×"),
    Goal("task arithmetic / read 3, write 1: merging",
         to_copy("lrnb task-arithmetic", MERGING), "×", 1.5, 1.1),
    Goal("task arithmetic / read 3, write 1: whole command", to_copy("lrnb task-arithmetic", WHOLE), "×"),
    Goal("peak anonymous memory, any method (judged at 7b)", peak_anonymous, " MB", 300, 200, shape="7b"),
    Goal("`lrnb merge --help`", lambda medians: medians["lrnb help"][WHOLE], " s", 0.3),
)  # fmt: skip


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """{job: {measure: median over the rounds}}; of peaks the largest. Absent measures stay absent."""
    found: dict[str, dict[str, float]] = {}
    for job in dict.fromkeys(run["job"] for run in runs):
        mine = [run for run in runs if run["job"] == job]
        found[job] = {}
        for key in (WHOLE, MERGING, "peak_anon_bytes", "peak_rss_bytes"):
            values = [run[key] for run in mine if run.get(key) is not None]
            if values:
                found[job][key] = max(values) if key.startswith("peak") else median(values)
    return found


def rows(found: Medians, shape: str) -> list[dict[str, Any]]:
    """The goals with what was measured; `measured` is None where a part was not run."""
    table = []
    for goal in GOALS:
        try:
            value = goal.value(found)
        except KeyError:
            value = None
        row = {key: x for key, x in asdict(goal).items() if key != "value"} | {"measured": value}
        judged = value if goal.shape in (None, shape) else None
        row["met"] = _met(goal, goal.goal, judged)
        row["stretch_met"] = _met(goal, goal.stretch, judged)
        table.append(row)
    return table


def _met(goal: Goal, wanted: float | None, value: float | None) -> bool | None:
    if wanted is None or value is None:
        return None
    return value >= wanted if goal.more_is_better else value <= wanted


def markdown(result: Mapping[str, Any]) -> str:
    """The whole result for a reader: where, the goals, every command's medians and single times."""
    machine, versions = result["machine"], result["versions"]
    peer = f", mergekit {result['peer_versions']['mergekit']}" if result.get("peer_versions") else ""
    known = ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy", "numba") if name in versions)
    cached = "inputs in the page cache" if result["inputs"]["cached"] else "inputs larger than the page cache"
    lines = [
        f"# Merging, shape {result['shape']}, {result['finished'][:10]}",
        "",
        f"{result['parameters']:,} parameters, three bf16 checkpoints, density {result['density']}, "
        f"{result['rounds']} rounds in turn, medians; {cached}.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"kernel {machine['kernel']}; {known}{peer}.",
        "",
        "| | measured | goal | stretch |",
        "|---|---|---|---|",
        *[_goal_line(row) for row in result["table"]],
        "",
        "| run | whole command, s | merging, s | anonymous peak, MB | single whole times, s |",
        "|---|---|---|---|---|",
        *[_run_line(job, result) for job in result["medians"]],
    ]
    return "\n".join(lines) + "\n"


def _goal_line(row: Mapping[str, Any]) -> str:
    measured = "not run" if row["measured"] is None else _number(row["measured"]) + row["unit"]
    goal, stretch = _verdict(row, "goal", "met"), _verdict(row, "stretch", "stretch_met")
    return f"| {row['what']} | {measured} | {goal} | {stretch} |"


def _verdict(row: Mapping[str, Any], wanted: str, met: str) -> str:
    if row[wanted] is None:
        return ""
    bound = f"{'at least' if row['more_is_better'] else 'at most'} {row[wanted]:g}{row['unit']}"
    return bound if row[met] is None else f"{bound}: {'met' if row[met] else 'not met'}"


def _run_line(job: str, result: Mapping[str, Any]) -> str:
    values = result["medians"][job]
    cells = [_number(values[key]) if key in values else "" for key in (WHOLE, MERGING)]
    anon = f"{values['peak_anon_bytes'] / MEGA:,.0f}" if "peak_anon_bytes" in values else ""
    single = ", ".join(_number(run[WHOLE]) for run in result["runs"] if run["job"] == job)
    return f"| {job} | {cells[0]} | {cells[1]} | {anon} | {single} |"


def _number(value: float) -> str:
    """Three figures that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
