"""Real output of lm-evaluation-harness with --log_samples: tiny models, local tasks, no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from support.pico_tasks import words

DOCUMENTS = 24


def write_harness_tasks(folder: Path) -> Path:
    """Two tasks of pico words: a choice (acc, acc_norm) and a written answer read by two filters."""
    rng = np.random.default_rng(0)
    rows = [{"text": words(rng, 8), "options": ["red", "blue river", "the house"],
             "answer": int(rng.integers(3)), "said": str(rng.choice(["red", "blue", "1"]))}
            for _ in range(DOCUMENTS)]  # fmt: skip
    rows[-1] = rows[0]  # the same document twice
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}}}
    common = data | {"test_split": "test", "doc_to_text": "{{text}}"}
    choice = common | {"task": "pico_choice", "output_type": "multiple_choice", "doc_to_choice": "options"}
    choice |= {"doc_to_target": "answer", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    written = common | {"task": "pico_written", "output_type": "generate_until", "doc_to_target": "said"}
    written |= {"generation_kwargs": {"until": ["</s>"], "max_gen_toks": 3, "do_sample": False},
                "metric_list": [{"metric": "exact_match"}],
                "filter_list": [_first("word", "(\\S+)"), _first("digit", "(\\d)")]}  # fmt: skip
    for task in (choice, written):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return folder


def _first(name: str, pattern: str) -> dict:
    steps = [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]
    return {"name": name, "filter": steps}


def run_the_harness(model: Path, tasks: Path, out: Path, shots: int = 0) -> dict:
    """What `lm_eval --model hf --log_samples` does; returns its results by task."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(out))
    found = simple_evaluate(
        model="hf", model_args=f"pretrained={model}", tasks=["pico_choice", "pico_written"], log_samples=True,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False), evaluation_tracker=tracker,
        device="cpu", batch_size=8, bootstrap_iters=0,
    )  # fmt: skip
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task in found["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return found["results"]
