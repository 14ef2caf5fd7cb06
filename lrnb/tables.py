"""Tables in the terminal: the plan of a study, its results, and results over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb.params import Study
from lrnb.plan import Step
from lrnb.store import RunPaths, write_text

if TYPE_CHECKING:
    import pandas as pd


def print_plan(
    study: Study, steps: dict[str, Step], todo: list[str], needs: Iterable[tuple[str, str]]
) -> None:
    """Every step with what it waits for and whether it would run; then what the study needs."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    grid = Table(
        title=f"{study.preset} / {study.lang}: {len(todo)} of {len(steps)} steps to run", title_justify="left"
    )
    for column in ("step", "notebook", "needs", ""):
        grid.add_column(column, overflow="fold")
    for step in steps.values():
        state = "to run" if step.name in todo else "up to date"
        grid.add_row(step.name, step.notebook or "(report)", ", ".join(step.needs), state)
    console.print(grid)
    for label, value in needs:
        console.print(f"{label + ':':<18}{value}", highlight=False, markup=False, soft_wrap=True)


def print_results(study: Study) -> None:
    """Scores of a finished study, one row a model, and where the report is."""
    import pandas as pd

    from lrnb.trust import NOT_ABOVE

    paths = RunPaths(study)
    table, report = paths.scores / "scores.csv", paths.lang / "report.html"
    if table.is_file():
        name = study.lang_name or study.lang
        title = f"Percent right in {name} ({study.preset}, seed {study.seed})"
        print_frame(
            by_model(pd.read_csv(table)), f"{title}; en: mean in English; {NOT_ABOVE} not above chance"
        )
    if report.is_file():
        print(f"report: {report}")


def print_left_alone(study: Study) -> None:
    """After a failure before the scores: say that a table there is an earlier run's."""
    table = RunPaths(study).scores / "scores.csv"
    if table.is_file():
        print(f"No new scores: the table of an earlier run was left alone, {table}")


def by_model(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a model (method, CT tokens): mean, interval, tasks in X, mean in English; last, chance.

    A score that is not above chance is marked.
    """
    import pandas as pd

    from lrnb.stats import above_chance
    from lrnb.trust import NOT_ABOVE

    keys = ["method", "ct_tokens"]
    below = ~above_chance(scores["ci_low"], scores["chance"])
    shown = scores["value"].map("{:.1f}".format) + below.map({True: NOT_ABOVE, False: ""})
    level = scores.drop_duplicates("task").assign(method="chance", ct_tokens=0)
    level["shown"] = level["chance"].map("{:.1f}".format)
    both = pd.concat([scores.assign(shown=shown), level])
    wide = both.pivot_table(index=keys, columns="task", values="shown", aggfunc="first", sort=False)
    tasks = [task for task in dict.fromkeys(scores["task"]) if not task.startswith("mean")]
    own = [task for task in tasks if not task.endswith("_en")]
    head = "mean" if "mean" in wide else own[0]  # a single task in X stands for itself
    means = scores[scores["task"] == head].set_index(keys)
    bounds = zip(means["ci_low"], means["ci_high"], strict=True)
    interval = [f"{low:.0f}–{high:.0f}" for low, high in bounds]
    shown = list(dict.fromkeys([head, *own]))
    table = wide[shown].rename(columns=lambda task: task.removeprefix("world_"))
    table.insert(1, "95%", table.index.map(dict(zip(means.index, interval, strict=True))))
    english = [task for task in ("mean_en", *tasks) if task in wide and task.endswith("_en")]
    if english:
        table["en"] = wide[english[0]]
    return table.fillna("").reset_index().rename(columns={"ct_tokens": "CT tokens"})


def print_frame(frame: pd.DataFrame, title: str) -> None:
    """A data frame as a table; fractions with one decimal, counts as they are."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="", padding=(0, 1), box=None)
    for name, column in frame.items():
        numeric = column.dtype.kind in "iuf" or column.astype(str).str.match(r"$|[+-]?\d").all()
        grid.add_column(str(name), justify="right" if numeric else "left", no_wrap=True)
    for row in frame.itertuples(index=False):
        grid.add_row(*map(_cell, row))
    Console().print(grid)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def seeds_table(folders: Iterable[Path]) -> pd.DataFrame:
    """Scores, and SFT's discarded share in percent, over the run folders of several seeds.

    Columns: method, ct_tokens, task, seeds, mean, sd, min, max; sd is the sample's (n - 1).
    """
    import pandas as pd

    frames = [frame for folder in folders for frame in (_scores(folder), _discarded(folder))]
    keys = ["method", "ct_tokens", "task"]
    grouped = pd.concat(frames).groupby(keys, sort=False)["value"]
    return (
        grouped.agg(["count", "mean", "std", "min", "max"])
        .reset_index()
        .rename(columns={"count": "seeds", "std": "sd"})
    )


def _scores(folder: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(folder / "scores" / "scores.csv")[["method", "ct_tokens", "task", "value"]]


def _discarded(folder: Path) -> pd.DataFrame:
    """SFT's discarded entries in percent of its kept ones, whole model, at the fixed density."""
    import pandas as pd

    rows = pd.read_csv(folder / "conflicts" / "shares.csv")
    rows = rows[(rows["tensor"] == "(model)") & (rows["setting"] == "fixed")]
    value = 100 * rows["sft_discarded"] / rows["sft_kept"]
    return pd.DataFrame(
        {
            "method": "ties, density " + rows["density"].astype(str),
            "ct_tokens": rows["ct_tokens"],
            "task": "sft_discarded_share",
            "value": value,
        }
    )


def print_seeds(studies: list[Study]) -> None:
    """Write `<runs>/<preset>/<lang>-seeds.csv` and print the means over tasks.

    Beside it `<lang>-seeds.json`: the parameters that the seeds have in common; and
    `<lang>-seeds-differences.csv`: every merge against CT-then-SFT over the seeds.
    """
    from lrnb import seeds

    folders = [RunPaths(study).lang for study in studies]
    table = seeds_table(folders).merge(seeds.intervals(folders), how="left")
    first = RunPaths(studies[0])
    out = first.root / f"{studies[0].lang}-seeds.csv"
    write_text(out, table.to_csv(index=False))
    apart = seeds.differences(folders)
    write_text(out.with_name(f"{out.stem}-differences.csv"), apart.to_csv(index=False))
    common = studies[0].model_dump(exclude={"seed", "runs"})
    write_text(out.with_suffix(".json"), json.dumps(common, indent=1, ensure_ascii=False))
    shown = table[table["task"].isin(["mean", "sft_discarded_share"])]
    columns = ["method", "ct_tokens", "task", "mean", "sd", "95%", "chance"]
    print_frame(_compact(shown if len(shown) else table)[columns], f"{len(studies)} seeds, percent")
    if len(apart):
        head = _compact(apart[apart["task"] == apart["task"].iloc[0]])
        columns = ["method", "ct_tokens", "task", "difference", "95%", "p", "p_holm"]
        print_frame(head[columns], f"{len(studies)} seeds: merge minus CT-then-SFT, points")
    print(f"all tasks: {out}")


def _compact(table: pd.DataFrame) -> pd.DataFrame:
    """The ends of an interval in one column, p-values with three decimals."""
    ends = table[["ci_low", "ci_high"]].itertuples(index=False)
    table = table.assign(**{"95%": [f"{low:.1f} to {high:.1f}" if low == low else "" for low, high in ends]})
    return table.assign(
        **{name: table[name].map("{:.3f}".format) for name in ("p", "p_holm") if name in table}
    )
