"""When two runs may be pooled: the recipe's number, and the parameters that results depend on.

Raise RECIPE by one in every change of training, merging or judging that moves results of preset nano, be it
by one answer: runs of another recipe are not pooled with it, and the stored pool has to be made anew.
What moves no answer (speed, names, figures, tables) leaves it as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lrnb.study.parameters import ROOT, Study

RECIPE = 2

#: parameters that reach no world, no training, no merge and no item: folders, names, what runs how
UNCOUNTED = (
    "seed", "runs", "data_root", "threads", "device", "devices", "nodes", "sharding",
    "activation_checkpointing", "log_to", "lang_name", "eval_batch", "micro_batch", "group",
    "method", "methods", "search", "tasks_written", "tasks_language", "margin", "extra_models",
    "merge_languages", "keep", "dev_folds", "retention", "set_languages", "sets_each",
    "sft_x", "sft_x_name",
)  # fmt: skip  # methods and search: see `searches`


def counted_parameters(study: Study) -> dict[str, Any]:
    """The parameters that must be equal where runs are pooled, as they stand in JSON."""
    return study.model_dump(mode="json", exclude=set(UNCOUNTED))


def with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a stored run; one that the study got later stands at its default.

    A default that moved results would raise RECIPE.
    """
    fields = Study.model_fields.items()
    known = {name: f.get_default(call_default_factory=True) for name, f in fields if not f.is_required()}
    return TypeAdapter(dict[str, Any]).dump_python(known, mode="json") | stored


def searches(study: Study) -> dict[str, dict[str, list[float | str]]]:
    """What is tried on dev for each method of the study, apart from the lists that all share."""
    return {name: study.search.get(name, {}) for name in study.methods}


def pool_file(folder: Path, study: Study) -> Path:
    """The pool of a study's preset and language in `folder`: lrnb/analysis/pool.py reads and writes it."""
    return Path(folder) / f"{study.preset}-{study.lang}.jsonl"


def stored_pool(study: Study) -> Path:
    """The pool that ships with the checkout; it may not be there."""
    return pool_file(ROOT / "docs" / "results" / study.preset, study)


def stored_questions(study: Study) -> Path:
    """The pool of the open questions that ships with the checkout; it may not be there."""
    return pool_file(ROOT / "docs" / "results" / "questions", study)
