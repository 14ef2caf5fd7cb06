"""The study's side of lm-evaluation-harness: tasks whose requests are built once, and quiet runs.

The harness rebuilds every prompt for every model; a study scores the same items with twenty
models and hundreds of merge candidates, so these tasks keep their requests between runs. `StudyTask` is a
task file of ours; a task of the harness is in `harnesstask`.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import datasets
import lm_eval.api.task as harness_task
import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as harness_evaluate

from lrnb.writing import said, same

SHAPES = (
    "limit",
    "samples",
    "system_instruction",
    "apply_chat_template",
    "fewshot_as_multiturn",
)  # of requests


class Encoder(Protocol):
    """What knows how many tokens an option has after its context: `Scorer`."""

    def option_tokens(self, context: str, option: str) -> int: ...


class KeptTask(ConfigurableTask):
    """A task that keeps its requests, and says of each sample which row of `items.parquet` it is."""

    family: str  # of the task
    metric: str  # the one that is reported, a value of taskspec.NORMALISATIONS or exact_match
    chance: float  # level of guessing in [0, 1]: mean of 1/options over the items; 0 for written answers
    _request_key: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.eval_docs)

    @property
    def writes(self) -> bool:
        """Whether models write the answer, rather than have options scored."""
        return self.OUTPUT_TYPE == "generate_until"

    def build_all_requests(self, **kwargs: Any) -> None:
        """Builds the requests at the first call and empties their answers at the next ones."""
        key = {name: value for name, value in kwargs.items() if value and name in SHAPES}
        if self._request_key != key:
            super().build_all_requests(**kwargs)
            self._request_key = key
        for request in self.instances:
            request.resps, request.filtered_resps = [], {}

    def shown(self) -> str:
        """The first item as the model sees it, and its options."""
        doc = self.eval_docs[0]
        return f"{self.doc_to_text(doc)} → {'(written)' if self.writes else self.doc_to_choice(doc)}"

    @abstractmethod
    def item(self, sample: dict[str, Any], scorer: Encoder) -> dict[str, Any]:
        """One row for `items.parquet`, without the names of model and task."""


class StudyTask(KeptTask):
    """A task over documents that are already prepared (see `taskdata.documents`)."""

    def __init__(self, config: dict[str, Any], splits: dict[str, list[dict[str, Any]]]) -> None:
        self._splits = splits
        super().__init__(config=config)
        meta = config["metadata"]
        self.set_fewshot_seed(seed=meta["seed"])
        self.family, self.metric, self.number = meta["family"], meta["metric"], meta["number"]
        docs = splits["test"]
        self.chance = 0.0 if self.writes else sum(1 / len(doc["options"]) for doc in docs) / len(docs)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Wraps the prepared documents; reads no cache, no network."""
        self.dataset = {name: datasets.Dataset.from_list(docs) for name, docs in self._splits.items()}

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
        """The harness's counting; a written answer is judged by the task's own rule."""
        if self.writes:
            return {"exact_match": float(same(results[0], doc["answer"], self.number))}
        return super().process_results(doc, results)

    def item(self, sample: dict[str, Any], scorer: Encoder) -> dict[str, Any]:
        doc = sample["doc"]
        head = {"item": doc["item"], "context": doc["prompt"]}
        if self.writes:
            text = sample["filtered_resps"][0]
            return head | written(text, doc["answer"], said(text, self.number), sample["exact_match"])
        values = [float(pair[0]) for pair in sample["filtered_resps"]]
        best = choice(values, doc["options"], self.metric, sample["arguments"], scorer)
        gold, names = doc["answer"], doc["names"]
        row = scored(names, values, names[gold], names[best], best == gold)
        return head | row | {"texts": doc["options"]}  # the names may be mere positions


def scored(options: list[str], values: list[float], gold: str, said: str, right: bool) -> dict[str, Any]:
    """The columns of an item whose options were scored."""
    return {"gold": gold, "prediction": said, "correct": bool(right),
            "options": options, "loglikelihoods": values, "generation": "", "texts": options}  # fmt: skip


def written(text: str, gold: str, said: str, right: bool) -> dict[str, Any]:
    """The columns of an item whose answer was written; `said` is "" where nothing could be read."""
    return {"gold": gold, "prediction": said, "correct": bool(right),
            "options": [], "loglikelihoods": [], "generation": text, "texts": []}  # fmt: skip


def choice(
    values: list[float], options: list[str], metric: str, arguments: list[tuple[str, str]], scorer: Encoder
) -> int:
    """The likeliest option by sum, per token, byte or character; the harness's own rule where it has one."""
    sizes = {
        "acc": lambda i: 1,
        "acc_norm": lambda i: len(options[i]),
        "acc_bytes": lambda i: len(options[i].encode()),
        "acc_tokens": lambda i: scorer.option_tokens(*arguments[i]),
    }[metric]
    return int(np.argmax([value / sizes(i) for i, value in enumerate(values)]))


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


def run(scorer: Any, tasks: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs the harness; returns its logged samples (doc, filtered_resps, metrics) per task."""
    with quiet():
        results = harness_evaluate(scorer, {"tasks": tasks}, bootstrap_iters=0, log_samples=True)
    return results["samples"]


def items(scorer: Any, tasks: dict[str, KeptTask]) -> dict[str, list[dict[str, Any]]]:
    """Runs the harness; returns the rows of each task's items."""
    samples = run(scorer, tasks)
    return {
        name: [task.item(sample, scorer) for sample in _last_filter(samples[name])]
        for name, task in tasks.items()
    }


def _last_filter(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where a task reads its answers in several ways, the last is the one that is reported."""
    return [sample for sample in samples if sample["filter"] == samples[-1]["filter"]]
