"""A bench on which a merge is made again in memory, beside the study's own models, for one prompt at a time.

One model is open and its weights are exchanged; of the others the answers are kept, not the models.
The merge reads the study's own files, or on a GPU copies of them that stay there, and is written straight
into the open model. torch is imported when a Playground is made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrnb.checkpoints.alignment import align
from lrnb.checkpoints.opening import open_source
from lrnb.data.microworld_language import Language, invent_language
from lrnb.errors import UserError
from lrnb.merging.gpu import DeviceVectors, on_gpu
from lrnb.merging.methods import find
from lrnb.merging.registry import Option
from lrnb.merging.task_vectors import TaskVectors, as_float32, to_numpy
from lrnb.merging.whole_models import merge_into
from lrnb.study.environment import resolved_device
from lrnb.study.files import MANIFEST
from lrnb.study.parameters import SYNTHETIC, Study
from lrnb.study.stages import RunPaths, current
from lrnb.tasks import loading
from lrnb.tasks.task_file import NORMALISATIONS
from lrnb.tuning.on_dev import parent_folders
from lrnb.tuning.search import settings

PARENTS, RIVAL = ("base", "ct", "sft"), "ct_then_sft"
NEW_TOKENS = 24  # length of a generated answer


def sliders(method: str) -> dict[str, Option]:
    """The options of a method that a slider moves: those that it, or the method before it, searches."""
    how = find(method)
    known = set(how.searched()) | (set(how.after.searched()) if how.after else set())
    return {name: spec for name, spec in how.fields().items() if name in known}


@dataclass(frozen=True)
class Prompt:
    """What a model reads, the texts that may follow it, and which of them is right (-1: nobody knows).

    metric: the study's rule for picking an option, see `harness.choice`.
    """

    text: str
    options: tuple[str, ...] = ()
    gold: int = -1
    name: str = "own prompt"
    metric: str = "acc"
    delimiter: str = " "

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What is scored: (context, continuation) of each option."""
        return [(self.text, self.delimiter + option) for option in self.options]


class Answer(NamedTuple):
    """A model's greedy continuation and the log-likelihood (nats) of each option."""

    text: str
    loglikelihoods: tuple[float, ...]


class Request(NamedTuple):
    """What the scorer asks of a harness request."""

    args: tuple[str, Any]


class Playground:
    """Base, CT and CT-then-SFT of one CT budget, SFT and a live merge of a finished study.

    budget: CT tokens (default: the last); CT-then-SFT is left out where the study has none. device: auto,
    cpu, cuda or mps (default: the study's); precision of the open model: auto, fp32 or bf16 (default: that of
    scoring). Memory: one model, and on a GPU four checkpoints besides. UserError where
    a stage is missing, or the parents are not of the base's architecture. `seconds` holds the time of
    the last merge, of its answer, and of the other models' answers (0 where they were known).
    """

    def __init__(
        self,
        study: Study,
        budget: int | None = None,
        *,
        device: str = "",
        precision: str = "",
        new_tokens: int = NEW_TOKENS,
        threads: int = 0,
    ) -> None:
        from lrnb.scoring.scorer import Scorer

        resolved_device(device or study.device)  # refuses one that is not there
        self.study, self.new_tokens, self._threads = study, new_tokens, threads
        how = {"device": device or study.device, "precision": precision or study.eval_precision}
        self.scorer = Scorer.from_folder(current(RunPaths(study).base), **how)
        self.method = "ties"
        self.options: dict[str, Any] = {"density": 0.5}
        self.seconds = dict.fromkeys(("merge", "answer", "others"), 0.0)
        self._known: dict[tuple[str, Prompt], Answer] = {}
        self._open(budget or study.ct_budgets[-1])

    def at(self, budget: int) -> None:
        """Go on with CT, and CT-then-SFT, of another budget. UserError where its stage is missing."""
        if budget != self.budget:
            self._open(budget)

    def _open(self, budget: int) -> None:
        from lrnb.scoring.open_model import live_state

        folders, device = playground_folders(RunPaths(self.study), budget), str(self.scorer.device)
        rival = {name: folders.pop(name) for name in (RIVAL,) if name in folders}
        if rival:
            _refuse_vocabularies({"base": folders["base"], **rival})
        vectors = playground_vectors(folders, device, self._threads)
        beside = {name: _weights_of(folder, device) for name, folder in rival.items()}
        self.budget, self.vectors, self.beside = budget, vectors, beside
        live = live_state(self.scorer.model, [*vectors.names, *vectors.others, *vectors.aliases])
        own = {name: x for name, x in live.items() if name not in vectors.others}
        resident = isinstance(vectors, DeviceVectors)
        self.own = own if resident else {name: to_numpy(x) for name, x in own.items()}
        self._known = {key: told for key, told in self._known.items() if key[0] in ("base", "sft")}
        self._shown: Any = None

    def merge(self, method: str = "ties", **options: Any) -> float:
        """Make the merge in the open model, unless it is there already; returns the seconds.

        options: those of the method. Trim scope and zero sign are the study's.
        """
        self.method, self.options = method, options
        started = time.perf_counter()
        if self._shown != (method, options):
            self._shown = None
            merge_into(self.own, method, self.vectors, **settings(self.study, method) | options)
            self._shown = (method, options)
        self.seconds["merge"] = self._since(started)
        return self.seconds["merge"]

    def answers(self, prompt: Prompt) -> pd.DataFrame:
        """One row a model, the last one the merge: model, text, loglikelihoods (nats), shares, picks.

        shares: softmax of the log-likelihoods over the options; picks: index of the option that the
        study's rule takes, -1 without options. Only the merge is asked again for a known prompt.
        """
        if self._shown != (self.method, self.options):
            self.merge(self.method, **self.options)
        started = time.perf_counter()
        merged = self._answer(prompt)
        self.seconds["answer"] = self._since(started)
        started = time.perf_counter()
        found = {name: self._other(name, prompt) for name in (*PARENTS, *self.beside)}
        self.seconds["others"] = self._since(started)
        found |= {self.method: merged}
        return pd.DataFrame([self._row(model, answer, prompt) for model, answer in found.items()])

    def bits(self, texts: Sequence[str], parent: str = "") -> float:
        """Bits per byte of texts: of the last merge, or of base, ct or sft."""
        from lrnb.training.bits_per_byte import bits_per_byte

        if parent:
            self._show(parent)
        elif self._shown != (self.method, self.options):
            self.merge(self.method, **self.options)
        return bits_per_byte(self.scorer.model, self.scorer.tokenizer, texts)

    def numbers(self) -> dict[str, str]:
        """How long the last merge and its answer took, in words for a reader."""
        others = f"{self.seconds['others']:.2f} s" if self.seconds["others"] > 0.01 else "known already"
        return {
            "merged in": f"{self.seconds['merge']:.3f} s",
            "answered in": f"{self.seconds['answer']:.3f} s",
            "the other models": others,
            "weights": f"{self.vectors.size(self.vectors.names):,}",
            "device": str(self.scorer.device),
        }

    def prompts(self, each: int = 3, split: str = "test") -> list[Prompt]:
        """The first `each` items that the study scores of every task in X, as the models see them."""
        from lrnb.tasks.harness import quiet

        study = self.study
        root = RunPaths(study).data_root
        given: dict[str, Any] = {"split": split, "limit": each, "seed": study.seed, "shots": study.shots}
        given |= {"prompts": study.prompts, "normalisation": study.normalisation, "script": study.script}
        found = []
        with quiet():
            for name, task in loading.load_tasks(study.tasks, study.lang, root, **given).items():
                task.build_all_requests()
                found += [_prompt(name, task, number) for number in range(len(task))]
        return found

    def by_movement(self, prompts: Sequence[Prompt], density: float = 0.5) -> list[Prompt]:
        """The prompts, first those in which slack from 0 to 1 moves the share of an option the furthest."""
        shares = []
        for slack in (0.0, 1.0):
            self.merge("ties_sv", density=density, lam=1.0, slack=slack)
            shares.append([softmax(np.array(self._loglikelihoods(prompt))) for prompt in prompts])
        moved = [float(np.abs(a - b).max(initial=0)) for a, b in zip(*shares, strict=True)]
        return [prompts[place] for place in np.argsort(moved, kind="stable")[::-1]]

    def gloss(self, text: str) -> str:
        """A text in an invented language word for word in English; "" where no word of it is invented."""
        meaning = self._invented.gloss(text) if self._invented else ""
        return meaning if meaning != " ".join(text.split()) else ""

    @cached_property
    def _invented(self) -> Language | None:
        study = self.study
        if study.lang not in SYNTHETIC or study.data_root:
            return None
        roots, one_script = study.world_shared_roots, study.world_shared_script
        return invent_language(study.lang, study.seed, roots=roots, one_script=one_script)

    def _other(self, name: str, prompt: Prompt) -> Answer:
        if (name, prompt) not in self._known:
            self._show(name)
            self._known[name, prompt] = self._answer(prompt)
        return self._known[name, prompt]

    def _show(self, model: str) -> None:
        """Copy the weights of a model of the study into the open one."""
        if self._shown == model:
            return
        self._shown = None
        for name, own in self.own.items():
            own[...] = self._weights(model, self.vectors.stored(name))
        self._shown = model

    def _weights(self, model: str, name: str) -> Any:
        if isinstance(self.vectors, DeviceVectors):
            resident = self.beside.get(model) or self.vectors.tensors[None if model == "base" else model]
            return resident[name]
        stored = {"base": self.vectors.base, **self.vectors.models, **self.beside}
        return as_float32(stored[model][name])

    def _answer(self, prompt: Prompt) -> Answer:
        values = self._loglikelihoods(prompt)
        text = self.scorer.generate_until([Request((prompt.text, {"max_gen_toks": self.new_tokens}))])[0]
        return Answer(text, tuple(values))

    def _loglikelihoods(self, prompt: Prompt) -> list[float]:
        follow = [Request(pair) for pair in prompt.pairs]
        return [value for value, _ in self.scorer.loglikelihood(follow)] if follow else []

    def _row(self, model: str, answer: Answer, prompt: Prompt) -> dict[str, Any]:
        from lrnb.tasks.harness import choice

        values, options = list(answer.loglikelihoods), list(prompt.options)
        picks = choice(values, options, prompt.metric, prompt.pairs, self.scorer) if values else -1
        return {
            "model": model,
            "text": answer.text,
            "loglikelihoods": answer.loglikelihoods,
            "shares": tuple(softmax(np.array(values)).tolist()),
            "picks": picks,
        }

    def _since(self, started: float) -> float:
        import torch

        if self.scorer.device.type == "cuda":
            torch.cuda.synchronize(self.scorer.device)
        return time.perf_counter() - started


def playground_folders(paths: RunPaths, budget: int) -> dict[str, Path]:
    """{"base", "ct", "sft": folder}, and "ct_then_sft" where the study has it at this budget."""
    rival = paths.ct_then_sft(budget)
    there = {RIVAL: current(rival)} if (rival / MANIFEST).is_file() else {}
    return {"base": current(paths.base), **parent_folders(paths, budget), **there}


def _refuse_vocabularies(folders: Mapping[str, Path]) -> None:
    if align("playground", {name: open_source(x, finite=False) for name, x in folders.items()}, "owner"):
        raise UserError(
            "playground: base, CT and SFT have different vocabularies, and weights are exchanged under one "
            "tokenizer here. Make merges with lrnb merge --vocabulary owner, and ask them with lrnb evaluate"
        )


def _weights_of(folder: Path, device: str) -> Mapping[str, Any]:
    return _on_device(folder, device) if device.startswith("cuda") else open_source(folder, finite=False)


def playground_vectors(folders: Mapping[str, Path], device: str, threads: int = 0) -> TaskVectors:
    """The task vectors of {"base", parents: folder}: read from the files, or resident on a GPU.

    Opened once, they remember the thresholds of every density that was asked for.
    """
    parents = {name: folder for name, folder in folders.items() if name != "base"}
    _refuse_vocabularies(folders)
    if not device.startswith("cuda"):
        return TaskVectors(folders["base"], parents, method="playground", threads=threads)
    return resident({name: _on_device(folder, device) for name, folder in folders.items()})


def resident(states: Mapping[str, Mapping[str, Any]]) -> DeviceVectors:
    """Task vectors of {"base", parents: {name: tensor}} that stay on their device."""
    parents = {name: state for name, state in states.items() if name != "base"}
    return DeviceVectors(states["base"], parents, method="playground")


def _on_device(folder: Path, device: str) -> dict[str, Any]:
    from lrnb.scoring.open_model import read_weights

    state = {name: tensor.to(device) for name, tensor in read_weights(folder).items()}
    if not on_gpu([state]):
        raise UserError(f"{folder}: merged on a GPU are float32, bfloat16 and float16. Use device=cpu")
    return state


def _prompt(name: str, task: Any, number: int) -> Prompt:
    own = sorted((i for i in task.instances if i.doc_id == number), key=lambda i: i.idx)
    doc, delimiter = own[0].doc, task.config.target_delimiter
    label = f"{name} {doc.get('item', number)}"
    if task.writes:
        return Prompt(own[0].args[0], name=label)
    options = tuple(i.args[1].removeprefix(delimiter) for i in own)
    metric = task.metric if task.metric in NORMALISATIONS.values() else "acc"
    return Prompt(own[0].args[0], options, _gold(task.doc_to_target(doc), options), label, metric, delimiter)


def _gold(target: Any, options: Sequence[str]) -> int:
    """Index of the right option: the harness's tasks name it by index or by its text."""
    if isinstance(target, int):
        return target
    return options.index(str(target)) if str(target) in options else -1


def softmax(values: np.ndarray) -> np.ndarray:
    """Shares that add up to 1; empty for none."""
    powers = np.exp(values - values.max(initial=-np.inf))
    return powers / powers.sum() if len(values) else powers
