"""The `evaluate` command: scores of any models on tasks, and the paired differences between them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb.cli.output import json_text, output_options, print_json, refuse_other
from lrnb.cli.versus_table import print_versus
from lrnb.errors import UserError
from lrnb.report.tables import print_table
from lrnb.study.environment import versions
from lrnb.study.files import atomic_folder, from_home, full_disk_message

if TYPE_CHECKING:
    import pandas as pd

FACTS = "evaluation.json"  # beside the tables: what was asked
HOW = ("limit", "shots", "prompts", "normalisation", "split", "script")
SHOWN = ["task", "metric", "value", "95%", "chance", "majority", "n"]
EXAMPLES = """\
Several models are compared with the first, on the same items; one training of each says nothing of the noise
of training. With --out a folder is written that `lrnb compare` reads: scores.csv, items.parquet (every item
with its text and answer), differences.csv (of several models) and evaluation.json.

examples:
  lrnb evaluate MODEL --tasks topic,topic_en --lang bn --data-root DATA
  lrnb evaluate sft=SFT merged=OUT lora=ADAPTER --base BASE --tasks topic --lang bn --data-root DATA --out x
"""


def evaluate_options(command: argparse.ArgumentParser) -> None:
    """All options of the command."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    add: Any = command.add_argument
    add("models", nargs="+", metavar="[NAME=]MODEL", help="a folder, a LoRA adapter's folder, or a Hub id")
    add("--base", metavar="MODEL", help="the model that LoRA adapters were trained from")
    tasks = (
        "names, separated by commas: files in lrnb/tasks/files/ (with _en for English), paths of task files, "
    )
    add("--tasks", required=True, help=tasks + "tasks of lm-evaluation-harness")
    add("--lang", required=True)
    add(
        "--script",
        default="",
        help="Unicode name, where the Hub has the language in several (default: the usual)",
    )
    add("--data-root", type=Path, required=True, help="folder that holds eval/")
    _asking_options(command)
    output_options(command, "scores, items and differences")


def _asking_options(command: argparse.ArgumentParser) -> None:
    add: Any = command.add_argument
    add("--limit", type=int, help="items a task (default all)")
    add("--shots", type=int, default=0, help="solved examples before each item (0: as the task says)")
    add("--prompts", choices=("english", "native"), default="english")
    add("--normalisation", choices=("task", "none", "token", "byte", "character"),
        default="task", help="of options' log-likelihoods (default: what the task file says)")  # fmt: skip
    add("--split", choices=("test", "dev"), default="test")
    add("--seed", type=int, default=0, help="picks items, examples and the order of options")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto",
        help="of the arithmetic (default: bf16 on a GPU, fp32 on the CPU)")  # fmt: skip


def run_evaluate(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status 0."""
    models = named_sources(given.models)
    refuse_other(given.out, FACTS, "evaluation", given.force)
    from lrnb.scoring.evaluate import evaluate_models

    names = [name.strip() for name in given.tasks.split(",")]
    how = {key: getattr(given, key) for key in HOW}
    options = {key: getattr(given, key) for key in ("base", "seed", "device", "precision")}
    scores, items = evaluate_models(models, names, given.lang, given.data_root, given=how, **options)
    tables = _tables(scores, items)
    facts = {"models": models, "tasks": names, "lang": given.lang, **how, **options}
    if given.out:
        _write(given.out, tables | {"items": items}, facts)
    if given.json:
        print_json(facts | {name: table.to_dict("records") for name, table in tables.items()})
    else:
        _print(tables, models, given.out)
    return 0


def named_sources(texts: list[str]) -> dict[str, str]:
    """{NAME: what is given}, in order; without a name the last part of the path. UserError for one twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, source = split_name(text)
        if name in found:
            raise UserError(
                f"two models are called {name!r}: {found[name]} and {source}. Name them: NAME=MODEL"
            )
        found[name] = source
    return found


def split_name(text: str) -> tuple[str, str]:
    """(NAME, source) of [NAME=]source; a path that is there is taken whole."""
    name, equals, source = text.partition("=")
    if not equals or Path(text).exists():
        name, source = Path(text).absolute().name, text
    if not (name and source and name.isprintable()):
        raise UserError(f"{text!r}: expected MODEL or NAME=MODEL, such as merged=out/merged")
    return name, from_home(source)


def _tables(scores: pd.DataFrame, items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """scores with means and marks, and of several models the differences to the first."""
    from lrnb.analysis import answered, results, trust, versus
    from lrnb.scoring import predictions

    chosen = items[~predictions.generated(items)]  # written answers have no class to collapse to
    marked = trust.marks(results.with_means(scores, items), chosen)
    found = {"scores": marked.drop(columns=["preset", "method", "ct_tokens", "label"])}
    if scores["model"].nunique() > 1:
        sides = {name: [x] for name, x in answered.answered_items(items, "these models", scores).items()}
        found["differences"] = versus.versus(sides)
    return found


def _write(out: Path, tables: dict[str, pd.DataFrame], facts: dict[str, Any]) -> None:
    with full_disk_message(out), atomic_folder(out) as folder:
        for name, table in tables.items():
            if name == "items":
                table.to_parquet(folder / "items.parquet", index=False)
            else:
                table.to_csv(folder / f"{name}.csv", index=False)
        text = json_text(facts | {"versions": versions()})
        (folder / FACTS).write_text(text, encoding="utf-8")


def _print(tables: dict[str, pd.DataFrame], models: dict[str, str], out: Path | None) -> None:
    from lrnb.analysis.trust import MARKS, marked_values

    scores = tables["scores"]
    more, several = ["cut"] if scores["cut"].any() else [], ["model"] if len(models) > 1 else []
    ends = [f"{low:.1f} to {high:.1f}" for low, high in scores[["ci_low", "ci_high"]].to_numpy()]
    shown = scores.assign(value=marked_values(scores), **{"95%": ends})
    print_table(shown[[*several, *SHOWN, *more]].to_dict("records"), ", ".join(models.values()))
    print(MARKS)
    if "differences" in tables:
        print_versus(tables["differences"])
    if out:
        print(out)
