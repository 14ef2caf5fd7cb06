"""How `evaluate` and `compare` print differences: a table for every two models, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrnb.report.tables import print_table

if TYPE_CHECKING:
    import pandas as pd


def print_versus(table: pd.DataFrame) -> None:
    """The rows of `lrnb.analysis.versus.versus`, A the baseline and B what is compared with it."""
    for (of, model, baseline), own in table.groupby(["of", "model", "baseline"], sort=False):
        rows = own.to_dict("records")
        noise, seeds = rows[0]["noise"], rows[0]["seeds"]
        over = f", {seeds} trainings" if seeds > 1 else ""
        print(*([f"\n{of}"] if of else [""]), f"A: {baseline}", f"B: {model}", sep="\n")
        for why in dict.fromkeys(row["why"] for row in rows if row["why"]):
            print(f"{why}: these differences compare nothing.")
        metrics = {row["metric"] for row in rows} - {"", "mean"}
        one = f"{next(iter(metrics))}; " if len(metrics) == 1 else ""
        table_rows = [_row(row, named=len(metrics) > 1) for row in rows]
        print_table(table_rows, f"{one}B - A in points; intervals: {noise}{over}")
        for verdict, tasks in own.groupby("verdict", sort=False)["task"]:
            print(f"{verdict}: {', '.join(tasks)}")
        if left := _left_out(rows):
            print(left)
    print("finds: the true difference found four times out of five, at p < 0.05 without correction")


def _row(row: dict[str, Any], named: bool) -> dict[str, str]:
    """named: the metric stands beside the task."""
    metric = f", {row['metric']}" if named and row["metric"] not in ("", "mean") else ""
    return {
        "task": row["task"] + metric,
        "n": str(row["n"]), "A %": f"{row['score_baseline']:.1f}", "B %": f"{row['score']:.1f}",
        "B - A": f"{row['difference']:+.1f}", "95%": f"{row['ci_low']:+.1f} to {row['ci_high']:+.1f}",
        "p": f"{row['p']:.3f}", "Holm": f"{row['p_holm']:.3f}",
        "finds": "" if row["detectable"] != row["detectable"] else f"{row['detectable']:.1f}",
    }  # fmt: skip


def _left_out(rows: list[dict[str, Any]]) -> str:
    """What only one of the two has answered, "" where nothing."""
    parts = [
        f"{row['task']} {row['only_baseline']} of A and {row['only_model']} of B"
        for row in rows
        if row["metric"] != "mean" and row["only_baseline"] + row["only_model"]
    ]
    return f"left out, no such document on the other side: {'; '.join(parts)}" if parts else ""
