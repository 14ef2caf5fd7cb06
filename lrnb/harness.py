"""The study's side of lm-evaluation-harness: a task whose requests are built once, and quiet runs.

The harness rebuilds every prompt for every model; a study scores the same items with twenty
models and hundreds of merge candidates, so `StudyTask` keeps its requests between runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import lm_eval.api.task as harness_task
import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as harness_evaluate


class StudyTask(ConfigurableTask):
    """A multiple-choice task over documents that are already prepared (see `taskdata.documents`).

    family: the task's family; metric: the harness metric that the study reports;
    chance: mean of 1/options over the items, in [0, 1].
    """

    def __init__(self, config: dict[str, Any], splits: dict[str, list[dict[str, Any]]]) -> None:
        self._splits = splits
        self._request_key: dict[str, Any] | None = None
        super().__init__(config=config)
        self.set_fewshot_seed(seed=config["metadata"]["seed"])
        self.family: str = config["metadata"]["family"]
        self.metric: str = config["metadata"]["metric"]
        docs = splits["test"]
        self.chance = sum(1 / len(doc["options"]) for doc in docs) / len(docs)

    def __len__(self) -> int:
        return len(self._splits["test"])

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Wraps the prepared documents; reads no cache, no network."""
        self.dataset = {name: datasets.Dataset.from_list(docs) for name, docs in self._splits.items()}

    def build_all_requests(self, **kwargs: Any) -> None:
        """Builds the requests at the first call and empties their answers at the next ones."""
        if self._request_key != kwargs:
            super().build_all_requests(**kwargs)
            self._request_key = kwargs
        for request in self.instances:
            request.resps, request.filtered_resps = [], {}

    def item(self, sample: dict[str, Any]) -> dict[str, Any]:
        """One row for `items.parquet` from a sample that the harness logged."""
        doc = sample["doc"]
        values = [float(pair[0]) for pair in sample["filtered_resps"]]
        return {
            "item": doc["item"],
            "gold": doc["names"][doc["answer"]],
            "prediction": doc["names"][choice(values, doc["options"], self.metric)],
            "correct": bool(sample[self.metric]),
            "options": doc["names"],
            "loglikelihoods": values,
            "context": doc["prompt"],
            "generation": "",
        }


def choice(values: list[float], options: list[str], metric: str) -> int:
    """The harness's own rule for each metric: sum, per character, per byte."""
    sizes = {
        "acc": [1] * len(options),
        "acc_norm": [len(option) for option in options],
        "acc_bytes": [len(option.encode()) for option in options],
    }[metric]
    return int(np.argmax(np.array(values) / np.array(sizes, dtype=float)))


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the harness's own progress bars and advice; the study has one bar of its own."""
    logger, bar = logging.getLogger("lm_eval"), harness_task.tqdm
    level = logger.level
    harness_task.tqdm = lambda items, **_: items
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        harness_task.tqdm = bar
        logger.setLevel(level)


def run(scorer: Any, tasks: dict[str, StudyTask]) -> dict[str, list[dict[str, Any]]]:
    """Runs the harness; returns its logged samples (doc, filtered_resps, metrics) per task."""
    with quiet():
        results = harness_evaluate(scorer, {"tasks": tasks}, bootstrap_iters=0, log_samples=True)
    return results["samples"]
