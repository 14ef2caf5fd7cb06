"""The study's side of lm-evaluation-harness: tasks whose requests are built once, and quiet runs.

The harness rebuilds every prompt for every model; a study scores the same items with twenty
models and hundreds of merge candidates, so these tasks keep their requests between runs. `StudyTask` is a
task file of ours, `HarnessTask` one of the harness: by its name, or a user's file that includes its file
and says where the data is and how many examples are shown. Code comes from the harness only.
"""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import datasets
import lm_eval.api.task as harness_task
import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as harness_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from lrnb.data.hub_sets import open_splits
from lrnb.errors import UserError, did_you_mean
from lrnb.tasks.examples import Examples
from lrnb.tasks.hub import cannot_be_had
from lrnb.tasks.includes import users_files
from lrnb.tasks.task_file import NORMALISATIONS, available
from lrnb.tasks.time_limit import time_limit
from lrnb.tasks.written_answers import said, same

PREFIX = "harness:"
SHAPES = ("limit", "samples", "system_instruction", "apply_chat_template", "fewshot_as_multiturn")
NOT_ENGLISH = (
    "the harness's tasks have no English version by _en; include the harness's English task in a file "
    "with a `task:` that ends with _en, and name that file"
)


class Encoder(Protocol):
    """What knows how requests are cut into tokens: `Scorer`."""

    def option_tokens(self, context: str, option: str) -> int: ...

    def read(self, requests: Sequence[Any]) -> None: ...

    def loses(self, requests: Sequence[Any]) -> bool: ...


class KeptTask(ConfigurableTask):
    """A task that keeps its requests, and says of each sample which row of `items.parquet` it is."""

    family: str  # of the task
    metric: str  # the one that is reported, a value of NORMALISATIONS or exact_match
    chance: float  # level of guessing in [0, 1]: mean of 1/options over the items; 0 for written answers
    _request_key: dict[str, Any] | None = None

    def __len__(self) -> int:
        """How many items are asked; those that are asked with several training sets count for each."""
        return len(self.eval_docs)

    @property
    def distinct(self) -> int:
        """How many different items there are: rows of `items.parquet` a model."""
        return len(self)

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

    # the user's templates and expressions

    def doc_to_text(self, *given: Any) -> Any:
        with self._limit("prompt"):
            return super().doc_to_text(*given)

    def doc_to_choice(self, *given: Any) -> Any:
        with self._limit("list of options"):
            return super().doc_to_choice(*given)

    def doc_to_target(self, *given: Any) -> Any:
        with self._limit("right answer"):
            return super().doc_to_target(*given)

    def process_results(self, *given: Any) -> dict[str, Any]:
        with self._limit("metric"):
            return super().process_results(*given)

    def apply_filters(self) -> Any:
        with self._limit("filter"):
            return super().apply_filters()

    def _limit(self, part: str) -> AbstractContextManager[None]:
        return time_limit(f"task {self.config.task!r}: its {part}")

    def keep_apart(self) -> None:
        """From here on no item stands among its own examples (see `Examples`)."""
        example = self.fewshot_cfg.doc_to_text  # the task's own, unless examples are shown in another way
        self.sampler: Any = Examples(self.sampler, self._text, lambda doc: self._text(doc, example))

    def _text(self, doc: dict[str, Any], template: Any = None) -> str:
        """What is equal for two rows that are one item: the prompt, or options that are prompts."""
        prompt = self.doc_to_text(doc, template)
        return prompt if isinstance(prompt, str) else "\n".join(map(str, self.doc_to_choice(doc)))

    def fewshot_context(self, doc: dict[str, Any], *given: Any, **options: Any) -> Any:
        """The harness's, whose sampler is told which item is asked."""
        if isinstance(getattr(self, "sampler", None), Examples):
            self.sampler.asked = doc
        return super().fewshot_context(doc, *given, **options)

    def cut_by(self, scorer: Encoder) -> set[int]:
        """The `doc_id`s of the items whose context is longer than the model's window.

        UserError names task and item where an option has no token or does not fit.
        """
        with quiet():
            self.build_all_requests()
        scorer.read(self.instances)
        found = set()
        for number, own in groupby(self.instances, key=lambda request: request.doc_id):
            try:
                found |= {number} if scorer.loses(list(own)) else set()
            except UserError as error:
                item = self.item_number(number)
                raise UserError(f"task {self.task_name!r}, item {item} (row {item + 1}): {error}") from None
        return found

    @abstractmethod
    def item_number(self, doc_id: int) -> int:
        """The item's place in its file, from 0."""

    def items(
        self, samples: list[dict[str, Any]], scorer: Encoder, cut: Collection[int]
    ) -> list[dict[str, Any]]:
        """The rows for `items.parquet`, without the names of model and task; cut: see `cut_by`."""
        return [self.item(sample, scorer) | {"cut": sample["doc_id"] in cut} for sample in samples]

    def shown(self) -> str:
        """The first item as the model sees it, and its options."""
        doc = self.eval_docs[0]
        return f"{self.doc_to_text(doc)} → {'(written)' if self.writes else self.doc_to_choice(doc)}"

    @abstractmethod
    def item(self, sample: dict[str, Any], scorer: Encoder) -> dict[str, Any]:
        """One row for `items.parquet`, without the names of model and task."""


class StudyTask(KeptTask):
    """A task over documents that are already prepared (see `rows.documents`)."""

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

    @property
    def distinct(self) -> int:
        return len({doc["item"] for doc in self._splits["test"]})

    def item_number(self, doc_id: int) -> int:
        return self._splits["test"][doc_id]["item"]

    def items(
        self, samples: list[dict[str, Any]], scorer: Encoder, cut: Collection[int]
    ) -> list[dict[str, Any]]:
        """A row an item; where it was asked with several training sets, `correct` is the share of them with
        which it is right, and the other columns are of the first."""
        found: dict[int, list[dict[str, Any]]] = {}
        for row in super().items(samples, scorer, cut):
            found.setdefault(row["item"], []).append(row)
        return [own[0] if len(own) == 1 else own[0] | _over_sets(own) for own in found.values()]

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


def _over_sets(rows: list[dict[str, Any]]) -> dict[str, Any]:
    right = float(np.mean([row["correct"] for row in rows]))
    return {"correct": right, "cut": any(row["cut"] for row in rows)}


class HarnessTask(KeptTask):
    """A task of the harness, scored as it says; `kept` are the rows of its test split that are scored.

    Where it reads answers in several ways (filters), the last one is reported, and of its metrics the first.
    """

    def __init__(self, config: dict[str, Any], *, mirrors: Path, limit: int | None, seed: int) -> None:
        self._mirrors = mirrors
        self.kept: list[int] = []
        super().__init__(config=config)
        if self.OUTPUT_TYPE not in ("multiple_choice", "generate_until"):
            raise UserError(
                f"task {config['task']!r} is {self.OUTPUT_TYPE}: only choices and written answers count"
            )
        self.set_fewshot_seed(seed=seed)
        docs = super().eval_docs
        order = np.random.default_rng(seed).permutation(len(docs))[:limit]
        self.kept = sorted(order.tolist())
        self._rows = [docs[i] for i in self.kept]
        self.family = str(config["metadata"].get("family", "harness"))
        self.metric = str(next(iter(self._metric_fn_list)))
        sizes = [] if self.writes else [len(self.doc_to_choice(doc)) for doc in self._rows]
        self.chance = float(np.mean([1 / n for n in sizes])) if sizes else 0.0

    @property
    def eval_docs(self) -> Any:
        """The rows that are scored (all of them while the harness sets itself up)."""
        return self._rows if self.kept else super().eval_docs

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """The task's data set from <data root>/hub/<its path> where that is there, else from the Hub."""
        mirror = self._mirrors / str(self.DATASET_PATH)
        path = str(mirror) if mirror.is_dir() else str(self.DATASET_PATH)
        try:
            self.dataset = open_splits(path, self.DATASET_NAME, **(dataset_kwargs or {}))
        except Exception as error:
            what = f"the data of harness task {self.config.task!r} ({self.DATASET_PATH})"
            raise cannot_be_had(what, error, mirror) from None

    def fewshot_docs(self) -> Any:
        """Those of the split that the task names, and where the data lack it, of the test split."""
        try:
            return super().fewshot_docs()
        except KeyError:
            return self.test_docs()

    def item_number(self, doc_id: int) -> int:
        return self.kept[doc_id]

    def item(self, sample: dict[str, Any], scorer: Any) -> dict[str, Any]:
        doc = sample["doc"]
        head = {"item": self.kept[sample["doc_id"]], "context": str(self.doc_to_text(doc))}
        if self.writes:
            text, said = sample["resps"][0][0], str(sample["filtered_resps"][0])
            return head | written(text, str(self.doc_to_target(doc)), said, sample[self.metric])
        options = [str(option) for option in self.doc_to_choice(doc)]
        values = [float(pair[0]) for pair in sample["filtered_resps"]][: len(options)]
        known = self.metric if self.metric in NORMALISATIONS.values() else "acc"
        best = options[choice(values, options, known, sample["arguments"], scorer)]
        return head | scored(options, values, _gold(options, sample["target"]), best, sample[self.metric])


def _gold(options: list[str], target: Any) -> str:
    """The right option from what the harness calls the target: its index, also as text, or itself."""
    named = str(target) in options and not isinstance(target, int)
    return str(target) if named or not str(target).isdecimal() else options[int(target)]


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


@functools.cache
def manager() -> TaskManager:
    """The harness's list of its tasks; reading it takes some seconds."""
    return TaskManager()


def knows(name: str) -> bool:
    """Whether the harness has a task of this very name, with `harness:` before it or not."""
    return name.removeprefix(PREFIX) in manager().all_subtasks


def refuse_unknown(name: str) -> None:
    """UserError with the nearest name, or for a group with the names of its tasks."""
    bare = name.removeprefix(PREFIX)
    if bare in manager().task_index:
        inside = [n for n in manager().all_subtasks if n.startswith(bare)][:5]
        raise UserError(
            f"{name!r} is a group of the harness; name single tasks, for example {', '.join(inside)}"
        )
    if bare.removesuffix("_en") in manager().all_subtasks:
        raise UserError(f"unknown task {name!r}; {NOT_ENGLISH}")
    own = [] if name.startswith(PREFIX) else available()
    raise UserError(
        f"unknown task {name!r}; tasks of lrnb: {', '.join(available())} (with _en for English); "
        "or the path of a task file (.yaml), or a task of lm-evaluation-harness"
        f"{did_you_mean(bare, [*own, *manager().all_subtasks])}"
    )


def load_named(name: str, shots: int, **options: Any) -> HarnessTask:
    """The harness's task of this name; options: of `HarnessTask`. UserError for an unknown name."""
    if not knows(name):
        refuse_unknown(name)
    name = name.removeprefix(PREFIX)
    return _build(load_yaml(manager().task_index[name].yaml_path), name, shots, options)


def load_file(path: Path, shots: int, *, english: bool = False, **options: Any) -> HarnessTask:
    """A user's file that includes a file of the harness; english: it was asked for as an English task.

    UserError where it would bring code of its own, or is asked for as English and not named so.
    """
    users_files(path)  # checked
    config = load_yaml(path)
    name = str(config.get("task", path.stem))
    if english and not name.endswith("_en"):
        raise UserError(f"{path}: its rows are not known to be English; {NOT_ENGLISH}")
    return _build(config, name, shots, options)


def _build(config: dict[str, Any], name: str, shots: int, options: dict[str, Any]) -> HarnessTask:
    if "class" in config:
        raise UserError(
            f"harness task {name!r} is a Python class; only tasks written in YAML can be scored here"
        )
    config = {key: value for key, value in config.items() if key not in ("tag", "group", "task_list")}
    meta = config.get("metadata")
    config |= {"task": name, "metadata": meta if isinstance(meta, dict) else {}}
    shots = shots if config.get("doc_to_text") != "" else 0  # minimal pairs: no question to show an answer to
    try:
        with quiet():
            return HarnessTask(config | ({"num_fewshot": shots} if shots else {}), **options)
    except KeyError as error:
        raise UserError(f"the data of harness task {name!r} lack {error}; the task file names it") from None


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


def run_harness(scorer: Any, tasks: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs the harness; returns its logged samples (doc, filtered_resps, metrics) per task."""
    with quiet():
        results = harness_evaluate(scorer, {"tasks": tasks}, bootstrap_iters=0, log_samples=True)
    return results["samples"]


def harness_items(scorer: Any, tasks: dict[str, KeptTask]) -> dict[str, list[dict[str, Any]]]:
    """Runs the harness; returns the rows of each task's items. UserError before where one cannot be asked."""
    cut = {name: task.cut_by(scorer) for name, task in tasks.items()}
    samples = run_harness(scorer, tasks)
    return {name: task.items(_last_filter(samples[name]), scorer, cut[name]) for name, task in tasks.items()}


def _last_filter(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where a task reads its answers in several ways, the last is the one that is reported."""
    return [sample for sample in samples if sample["filter"] == samples[-1]["filter"]]
