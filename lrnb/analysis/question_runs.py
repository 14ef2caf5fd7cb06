"""Makes and scores the merges of `question_merges` for one run: its parents are read, merges stay in memory.

A pool keeps what each had right on the test items, a line a seed as `lrnb.analysis.pool` writes it, and is
written after every merge, so that what was stopped goes on where it was. Beside the answers it keeps bits per
byte, and what the election threw away and slack won back, counted exactly.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrnb.analysis import comparisons, pool
from lrnb.analysis.pool_lines import Line, arm_name, key, packed
from lrnb.analysis.question_merges import Asked, in_order, published_merges
from lrnb.checkpoints.importance import BY_ENTRY
from lrnb.conflicts import counts
from lrnb.data.corpus import held_out
from lrnb.errors import UserError
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state
from lrnb.study.files import digest
from lrnb.study.parameters import Study
from lrnb.study.progress import Progress
from lrnb.study.stages import RunPaths, current, fingerprint, read_manifest
from lrnb.tasks import loading
from lrnb.tuning import on_dev
from lrnb.tuning.entry_scores import score_folder
from lrnb.tuning.search import settings

Place = tuple[Asked, int]  # a merge and the CT tokens of its parent


def still_to_ask(study: Study, asked: list[Place], lines: list[Line], isa: str) -> list[Place]:
    """Those that the pool lacks for this seed on this instruction set."""
    known: dict[str, Any] = next((line["items"] for line in lines if key(line) == (study.seed, isa)), {})
    return [(one, budget) for one, budget in asked if arm_name(one.name, budget) not in known]


def add_answers(study: Study, path: Path, isa: str, published: bool = False) -> int:
    """Make, score and store what the pool at `path` lacks for this run; returns how many merges these were.

    published: the methods of the study at their published settings, beside the finished run's own models,
    which the pool holds then too; otherwise the merges of the open questions. UserError where the run's
    parents are missing, stale, of another recipe or instruction set, or not those that the stored answers of
    this seed come from.
    """
    lines = pool.refuse_misfit(study, path)
    if not (todo := still_to_ask(study, asked_of(study, published), lines, isa)):
        return 0
    pool.refuse_other_set(study, isa)
    head = _head(study, isa) | (pool.run_line(study) if published else {})
    _refuse_other_parents(lines, head, path)
    with (
        Progress(f"questions, seed {study.seed}", len(todo), "merges") as progress,
        _scores(study) as of,
    ):
        bench = Bench(study, of)
        for one, budget in todo:
            pool.add_line(study, path, _with_answers(head, bench.answers(one, budget)))
            progress.update(1)
    return len(todo)


def asked_of(study: Study, published: bool) -> list[Place]:
    """The merges that are asked for."""
    budgets = study.ct_budgets
    return published_merges(study.methods, budgets) if published else in_order(budgets)


def _head(study: Study, isa: str) -> Line:
    """What the line says of the run, whose parents are whole and up to date."""
    paths = RunPaths(study)
    parents = [paths.base, paths.sft, *(on_dev.parent_folders(paths, b)["ct"] for b in study.ct_budgets)]
    marks = {path.name: fingerprint(current(path)) for path in parents}
    made = read_manifest(current(paths.ct()))
    return pool.run_head(study, made) | {"isa": isa, "search": {}, "parents": digest(marks)[:16]}


def _with_answers(head: Line, made: dict[str, Any]) -> Line:
    """A line with what a merge adds to it."""
    parts = {name: head.get(name, {}) | part for name, part in made.items()}
    return head | parts


def _refuse_other_parents(lines: list[Line], head: Line, path: Path) -> None:
    old = next((line for line in lines if key(line) == key(head)), head)
    if old.get("parents", head["parents"]) != head["parents"]:
        raise UserError(
            f"{path}: what it has of seed {head['seed']} was merged from other parents than those of this "
            "run. Remove that line, or give another folder: --pool OTHER"
        )


@contextmanager
def _scores(study: Study) -> Iterator[Callable[[str], str]]:
    """Kind -> a folder with SFT's scores of that kind, made when it is asked for; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lrnb-questions-") as home:

        def folder_of(kind: str) -> str:
            folder = Path(home, kind)
            if not folder.is_dir():
                score_folder(study, kind, folder)
            return str(folder)

        yield folder_of


class Bench:
    """One open model whose weights are exchanged, the test items and the held-out text of one run."""

    def __init__(self, study: Study, scores_of: Callable[[str], str]) -> None:
        root = RunPaths(study).data_root
        self.study, self.scores_of = study, scores_of
        loaded, apart = loading.load_study_tasks(study, root)
        self.tasks = {name: task for name, task in loaded.items() if name not in apart}
        self.texts = held_out(current(RunPaths(study).corpus), study.lang)
        self.scorer = on_dev.open_scorer(study, on_dev.merged_like(study))

    def answers(self, one: Asked, budget: int) -> dict[str, Any]:
        """The parts of a pool's line that this merge makes: n, chance (percent), items, bits, counts."""
        vectors, given = self._vectors(one, budget), self._given(one)
        self.scorer.load_state(merge_state(one.method, vectors, **given))
        name, right = arm_name(one.name, budget), self._right(one.name, budget)
        return {
            "n": {task: len(values) for task, values in right.items()},
            "chance": {task: 100 * float(self.tasks[task].chance) for task in right},
            "items": {name: {task: packed(values) for task, values in right.items()}},
            "bits": {name: self._bits()},
            "counts": {name: election_counts(vectors, one.method, given)},
        }

    def _vectors(self, one: Asked, budget: int) -> TaskVectors:
        study, paths = self.study, RunPaths(self.study)
        how: dict[str, Any] = {"method": one.method, "threads": study.threads, "vocabulary": study.vocabulary}
        return TaskVectors(paths.base, on_dev.parent_folders(paths, budget), **how)

    def _given(self, one: Asked) -> dict[str, Any]:
        """The study's options, then the merge's own."""
        own = settings(self.study, one.method) | dict(one.options)
        rule = own.get("reserve_by", "")
        return own | ({"importance": self.scores_of(rule)} if rule in BY_ENTRY else {})

    def _right(self, name: str, budget: int) -> dict[str, Any]:
        from lrnb.scoring.evaluate import score_one

        items = score_one(self.scorer, self.tasks).assign(method=name, ct_tokens=budget)
        return comparisons.right_answers(items)[name, budget]

    def _bits(self) -> dict[str, float]:
        from lrnb.training.bits_per_byte import bits_per_byte

        model, tokenizer = self.scorer.model, self.scorer.tokenizer
        return {lang: round(bits_per_byte(model, tokenizer, texts), 4) for lang, texts in self.texts.items()}


def election_counts(vectors: TaskVectors, method: str, given: dict[str, Any]) -> dict[str, float]:
    """Of a TIES or TIES-SV: what is discarded, won back and given up for it, of the whole model; else {}.

    discarded and reserved are entries; ceded and reserved shares are of the mass that trimming leaves of CT
    and of SFT.
    """
    if method not in ("ties", "ties_sv"):
        return {}
    row = counts.shares(vectors, **given).iloc[-1]
    return {
        "sft_discarded": int(row["sft_discarded"]),
        "reserved": int(row["reserved"]),
        "sft_discarded_share": round(float(row["sft_discarded_share"]), 6),
        "ct_discarded_share": round(float(row["ct_discarded_share"]), 6),
        "ceded_share": round(float(row["ceded_mass"] / row["ct_kept_mass"]), 6),
        "reserved_share": round(float(row["reserved_mass"] / row["sft_kept_mass"]), 6),
    }
