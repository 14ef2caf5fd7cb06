"""The study's items: rows of local files made into prompts and options; English SFT rows.

A row is one of: `label` among the task's labels; `options` with `answer` (index); `answer` alone, a
whole number, for which three near numbers are made. Rows may hold any other field that the task's
template uses. Options are shuffled for each item by seed, so that ties do not favour the right one.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from lrnb.params import ENGLISH, ROOT, UserError, read_yaml
from lrnb.taskspec import METRICS, Spec, available, spec

if TYPE_CHECKING:
    from lrnb.harness import StudyTask

__all__ = ["available", "data_file", "distractors", "documents", "load", "sft_examples", "spec"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl file with `item`, the zero-based line number. UserError names file:line."""
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if line.strip():
                rows.append({**_row(line, f"{path}:{number + 1}"), "item": number})
    if not rows:
        raise UserError(f"{path} is empty; give it at least one row, or leave the task out")
    return rows


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg}); one JSON object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is expected, not {type(row).__name__}")
    return row


def documents(
    task: Spec, path: Path, *, lang: str, limit: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Prepared items of one file: item, prompt, options (shuffled), answer, names.

    `names` are the options' names for result tables: the label or number itself, else the option's
    index in the file. `limit` takes a sample by a seeded permutation (never the first rows:
    published files are sorted by label); a smaller limit is a subset of a larger one, and parallel
    files of several languages give the same rows.
    """
    rows = read_rows(path)
    labels = task.labels or tuple(sorted({str(row["label"]) for row in rows if "label" in row}))
    keep = _sample(len(rows), limit, [seed, zlib.crc32(task.data.encode())])
    return [_document(task, rows[i], labels, lang, seed, path) for i in keep]


def _sample(n: int, limit: int | None, seed: Sequence[int]) -> list[int]:
    if limit is None or limit >= n:
        return list(range(n))
    return sorted(np.random.default_rng(seed).permutation(n)[:limit].tolist())


def _document(
    task: Spec, row: dict[str, Any], labels: Sequence[str], lang: str, seed: int, path: Path
) -> dict[str, Any]:
    where = f"{path}:{row['item'] + 1}"
    rng = np.random.default_rng([seed, zlib.crc32(task.data.encode()), row["item"]])
    options, answer, names = _options(row, labels, rng, where)
    order = rng.permutation(len(options)).tolist()
    return {
        "item": row["item"],
        "prompt": _prompt(task, row, lang, where),
        "options": [options[i] for i in order],
        "answer": order.index(answer),
        "names": [names[i] for i in order],
    }


@functools.cache
def language_name(lang: str) -> str:
    """The English name of a language, from `params/<lang>.yaml`; its code where there is none."""
    path = ROOT / "params" / f"{lang}.yaml"
    if lang == ENGLISH or not path.is_file():
        return "English" if lang == ENGLISH else lang
    return str(read_yaml(path).get("lang_name") or lang)


def _prompt(task: Spec, row: dict[str, Any], lang: str, where: str) -> str:
    try:
        return task.template.render({"language": language_name(lang), **row})
    except jinja2.TemplateError as error:
        raise UserError(f"{where}: {error}, needed by doc_to_text of {task.path}") from None


def _options(
    row: dict[str, Any], labels: Sequence[str], rng: np.random.Generator, where: str
) -> tuple[list[str], int, list[str]]:
    """Options, index of the right one and names, before shuffling."""
    if "options" in row:
        options, answer = row["options"], row.get("answer")
        if "answer" not in row and row.get("label") in options:
            answer = options.index(row["label"])
        answer = _checked_answer(options, answer, where)
        short = "label" in row or all(option.isdecimal() for option in options)
        return list(options), answer, list(options if short else map(str, range(len(options))))
    if "label" in row:
        if str(row["label"]) not in labels:
            raise UserError(f"{where}: label {row['label']!r} is not among {list(labels)}")
        return list(labels), labels.index(str(row["label"])), list(labels)
    answer = row.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise UserError(f"{where}: needs 'label', or 'options' and 'answer', or a whole 'answer'")
    numbers = [str(n) for n in (answer, *distractors(answer, rng))]
    return numbers, 0, numbers


def _checked_answer(options: Any, answer: Any, where: str) -> int:
    good = isinstance(options, list) and all(isinstance(o, str) and o.strip() for o in options)
    if not good or len(options) < 2:
        raise UserError(f"{where}: 'options' must be two or more texts that are not empty")
    index = isinstance(answer, int) and not isinstance(answer, bool)
    if not index or not 0 <= answer < len(options):
        raise UserError(f"{where}: 'answer' must be an index into the {len(options)} options")
    if options.count(options[answer]) > 1:
        raise UserError(f"{where}: the right option stands there twice")
    return answer


def distractors(answer: int, rng: np.random.Generator, n: int = 3) -> list[int]:
    """`n` distinct numbers near `answer`, none equal to it, none of the other sign.

    Slips that a reader makes: one or two off, ten off, doubled, halved, a tenth more or less.
    """
    shifts = (1, -1, 2, -2, 10, -10)
    pool = [answer + s for s in shifts] + [answer * 2, answer // 2]
    pool += [answer + answer // 10, answer - answer // 10]
    pool = sorted({p for p in pool if p != answer and (p < 0) == (answer < 0)})
    return [int(p) for p in rng.choice(pool, size=n, replace=False)]


# What the study asks for


def data_file(task: Spec, lang: str, split: str, data_root: str | Path) -> Path:
    """Path of a split; UserError says which splits and languages there are."""
    root = Path(data_root)
    if not str(data_root) or not root.is_dir():
        raise UserError(f"data root {str(data_root)!r} is no folder; set data_root=PATH or LRNB_DATA")
    path = root / "eval" / task.data / lang / f"{split}.jsonl"
    if not path.is_file():
        there = sorted(p.parent.name + "/" + p.stem for p in path.parent.parent.glob("*/*.jsonl"))
        raise UserError(
            f"task {task.name!r} has no file {path}; there is: {', '.join(there) or 'nothing'}. "
            "Leave the task out for this language or split, or set data_root to where the file is"
        )
    return path


def load(
    names: Iterable[str],
    lang: str,
    data_root: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int = 0,
    shots: int = 0,
) -> dict[str, StudyTask]:
    """The harness's task objects by name; "<task>_en" is the task's English version.

    split: "test" or "dev"; limit: items per task, sampled by seed, and `limits` of single tasks over it;
    shots: solved English examples before each item, from the task's `sft` file.
    Raises UserError (see `spec`, `data_file`).
    """
    limits = limits or {}
    for name in limits:
        spec(name)  # a misspelt one would be ignored
    loaded = [_load_one(n, lang, data_root, split, limits.get(n, limit), seed, shots) for n in names]
    return {task.task_name: task for task in loaded}


def _load_one(
    name: str, lang: str, root: str | Path, split: str, limit: int | None, seed: int, shots: int
) -> StudyTask:
    from lrnb.harness import StudyTask

    task = spec(name)
    name = task.name if name.endswith((".yaml", ".yml")) else name
    lang = "en" if name == f"{task.name}_en" else lang
    path = data_file(task, lang, split, root)
    splits = {"test": documents(task, path, lang=lang, limit=limit, seed=seed)}
    if shots:
        splits["train"] = _solved(task, name, root, seed)
    return StudyTask(_harness_config(task, name, shots, seed), splits)


def _solved(task: Spec, name: str, root: str | Path, seed: int) -> list[dict[str, Any]]:
    if task.sft is None:
        raise UserError(f"task {name!r} has no English training rows; take it out of sft_mix, or set shots=0")
    path = Path(root) / task.sft
    if not path.is_file():
        raise UserError(f"no training file {path} for {name!r}; set data_root to where it is")
    return documents(task, path, lang="en", seed=seed)


def _harness_config(task: Spec, name: str, shots: int, seed: int) -> dict[str, Any]:
    return {
        "task": name,
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "train" if shots else None,
        "num_fewshot": shots,
        "doc_to_text": "prompt",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        "target_delimiter": task.delimiter,
        "fewshot_delimiter": task.fewshot_delimiter,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS
        ],
        "metadata": {"family": task.family, "metric": task.metric, "seed": seed},
    }


def sft_examples(name: str, n: int, data_root: str | Path, seed: int = 0) -> list[dict[str, str]]:
    """`n` English training examples {"prompt", "completion"}, rendered as the task is scored.

    Sampled by a seeded permutation, in permuted order. Raises UserError where the task has no
    training file, the file is missing, or it has fewer rows than asked for.
    """
    task = spec(name)
    docs = _solved(task, name, data_root, seed)
    if n > len(docs):
        raise UserError(f"sft_mix asks for {n} rows of {name!r}, {task.sft} has {len(docs)}; ask for less")
    order = np.random.default_rng([seed, zlib.crc32(task.name.encode())]).permutation(len(docs))[:n]
    return [_example(docs[i], task.delimiter) for i in order]


def _example(doc: dict[str, Any], delimiter: str) -> dict[str, str]:
    return {"prompt": doc["prompt"], "completion": delimiter + doc["options"][doc["answer"]]}
