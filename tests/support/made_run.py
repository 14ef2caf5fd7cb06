"""A made-up run folder: test input for the tables, figures and the report. None of it was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from lrnb import statistics
from lrnb.analysis import comparisons, failures, results, trust
from lrnb.merging.methods import find
from lrnb.study.parameters import Study, budget_name
from lrnb.study.recipe import RECIPE
from lrnb.study.stages import RunPaths

BUDGETS = [16_384, 65_536]
METHODS = ("average", "task_arithmetic", "ties", "ties_sv", "slerp", "nuslerp")  # some of those there are
WRITTEN = "written_words"  # of tasks_written: in no mean
EVIL = "</script><script>alert('x')</script>"  # what a hostile corpus might call a class
CLASSES = ["sea", "farm", "city", EVIL]
MODULES = ("q", "k", "v", "o", "gate", "up", "down")


def made_study(runs: Path, tasks: tuple[str, ...] = ("topic", "reading")) -> Study:
    return Study(
        runs=str(runs),
        lang_name=f"Made {EVIL}",
        ct_budgets=BUDGETS,
        tasks=list(tasks),
        tasks_en=["topic"],
        methods=[*METHODS],
    )


def made_items(model: str, method: str, tokens: int, task: str, skill: float, n: int) -> list[dict]:
    """Items of one model; skill is the chance to know the answer, and 2 answers always alike."""
    rng = np.random.default_rng([len(model), tokens, len(task), *method.encode()])
    shared = np.random.default_rng(len(task))
    if task.startswith("written"):
        return written_items(model, method, tokens, task, n, rng)
    names = CLASSES if task.startswith("topic") else ["0", "1", "2", "3"]
    rows = []
    for item in range(n):
        options = [names[i] for i in shared.permutation(4)]
        gold = str(names[shared.integers(4)])
        said = names[0] if skill > 1 else gold if rng.random() < skill else str(rng.choice(options))
        rows.append(
            {
                "model": model,
                "method": method,
                "ct_tokens": tokens,
                "task": task,
                "item": item,
                "gold": gold,
                "prediction": said,
                "correct": said == gold,
                "options": options,
                "loglikelihoods": [0.0] * 4,
                "context": f"item {item} {EVIL}",
                "generation": "",
                "texts": [f"text {name} of {item}" for name in options],
            }
        )
    return rows


def written_items(model: str, method: str, tokens: int, task: str, n: int, rng) -> list[dict]:
    """Generated answers: a third right, some that cannot be parsed, in the wrong script, or no text."""
    says = ["{} \u10d0\u10d0", "", "\ufffd\ufffd", "{} apples", EVIL]
    rows = []
    for item in range(n):
        gold, kind = str(item % 7), int(rng.integers(len(says)))
        number = gold if rng.random() < 0.5 else str(item % 5)
        prediction = number if "{}" in says[kind] else ""
        head = {"model": model, "method": method, "ct_tokens": tokens, "task": task, "item": item}
        head |= {"gold": gold, "prediction": prediction, "correct": prediction == gold, "options": []}
        text = {"context": f"sum {item} {EVIL}", "generation": says[kind].format(number), "texts": []}
        rows.append(head | {"loglikelihoods": []} | text)
    return rows


def made_models() -> list[tuple[str, int, float]]:
    """(method, ct_tokens, skill)"""
    models = [("base", 0, 2.0), ("sft", 0, 0.1)]
    for step, budget in enumerate(BUDGETS):
        models += [("ct", budget, 0.02), ("ct_then_sft", budget, 0.15 + 0.4 * step)]
        models += [(m, budget, 0.45 - 0.05 * i) for i, m in enumerate(METHODS)]
    return models


def score_rows(items: pd.DataFrame) -> pd.DataFrame:
    rows = []
    keys = ["model", "method", "ct_tokens", "task"]
    for key, part in items.groupby(keys, sort=False):
        low, high = statistics.interval([[part["correct"]]], resamples=200)
        rows.append(
            dict(zip(keys, key, strict=True))
            | {
                "preset": "nano",
                "lang": "qaa",
                "family": "made",
                "metric": "acc",
                "n": len(part),
                "value": 100 * part["correct"].mean(),
                "ci_low": 100 * low,
                "ci_high": 100 * high,
                "chance": 0.0 if key[-1].startswith("written") else 25.0,
                "shots": 0,
                "seed": 0,
            }
        )
    return pd.DataFrame(rows)


def made_bits(items: pd.DataFrame) -> pd.DataFrame:
    """Bits per byte of every model: CT lowers them in X, SFT raises them a little."""
    rows = items[["model", "method", "ct_tokens"]].drop_duplicates()
    tuned = 0.1 * rows["method"].isin(["sft", "ct_then_sft"])
    x = rows.assign(lang="qaa", bits_per_byte=2 - rows["ct_tokens"] / 8e4 + tuned)
    return pd.concat([x, rows.assign(lang="en", bits_per_byte=1 + rows["ct_tokens"] / 4e5)])


def made_shares() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for step, budget in enumerate(BUDGETS):
        for setting in ("chosen", "fixed"):
            parts = [(f"layers.{layer}.{module}", layer, module) for layer in range(4) for module in MODULES]
            part = [share_row(*p, 1000, 0.05 + 0.1 * step, rng) for p in parts]
            whole = share_row("(model)", -1, "other", 28_000, 0.05 + 0.1 * step, rng)
            rows += [
                r
                | {
                    "setting": setting,
                    "ct_tokens": budget,
                    "density": 0.5,
                    "slack": 0.3 if setting == "chosen" else 0.0,
                    "reserved": r["reserved"] if setting == "chosen" else 0,
                    "ct_l2": r["ct_l2"] * (1 + 2 * step),
                }
                for r in [whole, *part]
            ]
    return pd.DataFrame(rows)


def share_row(tensor: str, layer: int, module: str, n: int, lost: float, rng) -> dict:
    kept = n // 2
    gone = int(kept * lost * rng.uniform(0.8, 1.2))
    return {
        "tensor": tensor,
        "layer": layer,
        "module": module,
        "n": n,
        "ct_l2": 2.0,
        "sft_l2": 5.0,
        "cosine": 0.1,
        "ct_kept": kept,
        "sft_kept": kept,
        "overlap": kept // 2,
        "conflicts": 2 * gone,
        "ct_discarded": gone,
        "sft_discarded": gone,
        "sft_discarded_share": gone / kept,
        "conflict_share": 2 * gone / kept,
        "reserved": gone // 3,
    }


def manifest(folder: Path, seconds: float = 3.0, **facts: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "stage": folder.name,
        "params": {},
        "facts": facts,
        "inputs": {},
        "outputs": {},
        "versions": {"lrnb": "0.1.0"},
        "device": "a test",
        "processor": "a made one",
        "isa": "avx512",
        "recipe": RECIPE,
        "seconds": seconds,
        "finished": "2026-01-01T00:00:00+0000",
    }
    (folder / "manifest.json").write_text(json.dumps(content))


def made_choices(method: str, options: dict[str, list[float]]) -> pd.DataFrame:
    rows = []
    for budget in BUDGETS:
        for i, value in enumerate(next(iter(options.values()))):
            rest = {name: values[0] for name, values in list(options.items())[1:]}
            rows.append(
                {
                    "method": method,
                    "ct_tokens": budget,
                    next(iter(options)): value,
                    **rest,
                    "dev_score": 40.0 + i,
                    "n": 100,
                    "chance": 25.0,
                    "dev_tasks": "topic",
                    "tied": 1,
                    "grid": 3,
                    "default": i == 1,
                    "chosen": i == 2,
                }
            )
    return pd.DataFrame(rows)


def made_sft_choices(task: str) -> pd.DataFrame:
    """Three learning rates; the second was chosen."""
    rows = pd.DataFrame({"lr": [4e-4, 2e-4, 1e-4], "epochs": 1, "dev_score": [40.0, 44.0, 41.0], "n": 100})
    known = {"dev_error": 4.9, "chance": 25.0, "dev_tasks": task, "tied": 1}
    return rows.assign(default=rows.index == 0, chosen=rows.index == 1, **known)


def made_corpus() -> dict[str, object]:
    """Facts of 01_corpus: 3 passes over the text in X, one over English."""
    audit = {"tokens_per_character": 0.5, "tokens_per_word": 2.5, "byte_share": 0.25, "unknown_share": 0.0}
    return {
        "counts": {"x": 60_000, "en": 15_000},
        "unique": {"x": 20_000, "en": 15_000},
        "read": {"x": {"documents": 70, "bytes": 90_000}, "en": {"documents": 90, "bytes": 45_000}},
        "dropped": {"qaa": {"too short": 2, "duplicate": 1_500, EVIL: 1}, "en": {}},
        "audit": {"qaa": audit, "en": audit | {"byte_share": 0.0}},
    }


def write_made_run(runs: Path, n: int = 80, tasks: tuple[str, ...] = ("topic", "reading")) -> Path:
    """A whole run folder; returns runs/nano/qaa."""
    study = made_study(runs, tasks)
    paths = RunPaths(study)
    manifest(paths.base)
    manifest(paths.sft)
    groups = {"parents": [], "merged": []}
    for method, budget, skill in made_models():
        name = f"{method}@{budget_name(budget)}" if budget else method
        for task in (*tasks, "topic_en", WRITTEN):
            groups["merged" if method in METHODS else "parents"] += made_items(
                name, method, budget, task, skill, n
            )
    for group, rows in groups.items():
        manifest(paths.scored(group))
        items = pd.DataFrame(rows)
        results.write_group(paths.scored(group), score_rows(items), items, [WRITTEN])
        made_bits(items).to_csv(paths.scored(group) / "bits_per_byte.csv", index=False)
    write_tables(study, paths)
    return paths.lang


def write_failures(paths: RunPaths, scores: pd.DataFrame, items: pd.DataFrame) -> None:
    """What the notebook 03_analysis/05_failures writes."""
    items = pd.concat([items, results.gather_written(paths)[1]], ignore_index=True)
    points = failures.kept_and_scores(scores, made_shares())
    made = {
        "unparsable": failures.unparsable(items),
        "scripts": failures.scripts(items, "Georgian"),
        "overlap": failures.overlap_errors(items),
        "kept": points,
        "fragility": failures.fragility(items, made_shares()),
        "written": results.gather_written(paths)[0],
        "failures": failures.failed_items(items),
    }
    manifest(paths.lang / "failures")
    for name, table in made.items():
        table.to_csv(paths.lang / "failures" / f"{name}.csv", index=False)


def write_tables(study: Study, paths: RunPaths) -> None:
    scores, items = results.gather(paths)
    scores = trust.marks(scores, items)
    manifest(paths.scores)
    manifest(paths.corpus, **made_corpus())
    scores.to_csv(paths.scores / "scores.csv", index=False)
    items.to_parquet(paths.scores / "items.parquet", index=False)
    comparisons.compare_methods(items, study).to_csv(paths.scores / "differences.csv", index=False)
    manifest(paths.conflicts)
    made_shares().to_csv(paths.conflicts / "shares.csv", index=False)
    write_failures(paths, scores, items)
    manifest(paths.ct())
    tokens = np.arange(0, BUDGETS[-1] + 1, 4096)
    pd.DataFrame(
        {
            "tokens": tokens,
            "loss": 4 - tokens / 4e4,
            "learning_rate": 1e-4,
            "bits_per_byte_x": 2 - tokens / 8e4,
            "bits_per_byte_en": 1 + tokens / 4e5,
        }
    ).to_csv(paths.ct() / "history.csv", index=False)
    for folder, task in {paths.sft: "topic_en", **{paths.ct_then_sft(b): "topic" for b in BUDGETS}}.items():
        manifest(folder, seconds=1800.0, examples=640, tokens=51_200, epochs=2, tried=3, too_long=5,
                 left_out={"topic": 2})  # fmt: skip
        made_sft_choices(task).to_csv(folder / "choices.csv", index=False)
    for method, how in ((name, find(name)) for name in METHODS):
        grid = {name: [0.3, 0.5, 0.7] for name in how.searched()}
        if how.after:
            grid |= {name: [0.5] for name in how.after.searched()}
        manifest(paths.merge(method))
        made_choices(method, grid).to_csv(paths.merge(method) / "choices.csv", index=False)
    (paths.lang / "params.yaml").write_text(yaml.safe_dump(study.model_dump()))
