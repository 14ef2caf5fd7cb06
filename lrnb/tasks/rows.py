"""The study's items: rows of local files made into prompts and options; English SFT rows.

A row is one of: `label` among the task's labels; `options` with `answer` (index); `answer` alone, a
whole number, beside which stand the answers of three other rows, alike in size and roundness. Rows may
hold any other field that the task's template uses. Options are shuffled for each item by seed, so that
ties do not favour the right one.
"""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from lrnb.data.character_kinds import script_share
from lrnb.data.contamination import Items
from lrnb.data.placeholders import holds_examples
from lrnb.data.unicode_form import is_blank, nfc
from lrnb.errors import UserError, shortened
from lrnb.study.languages import cldr_name
from lrnb.study.parameters import ENGLISH, LANGUAGES, ROOT, read_yaml
from lrnb.tasks import cloze
from lrnb.tasks.hub import covers, from_published, hub_rows
from lrnb.tasks.prompt_values import guarded
from lrnb.tasks.row_files import item_texts, texts_in
from lrnb.tasks.row_forms import LETTERS, SUFFIXES, file_rows, known_form, place_of, worked
from lrnb.tasks.task_file import TaskPrompt, TaskSpec, spec
from lrnb.tasks.time_limit import time_limit
from lrnb.tasks.written_answers import right

IN_ENGLISH = (
    "English rows are expected here, since SFT is on English tasks. Give English ones; rows to ask in X go "
    "to eval/<task>/<lang>/, rows in X to train on into a folder of their own: --set 'sft_x={NAME: FOLDER}'"
)
Shape: TypeAlias = "tuple[bool, int, int]"  # of a number: below zero, digits, zeros at the end


def local_rows(task: TaskSpec, path: Path) -> list[dict[str, Any]]:
    """Rows of a file, ours or as the task's data set is published."""
    return [from_published(task, row, place_of(str(path), row)) for row in file_rows(path)]


def documents(
    task: TaskSpec,
    path: Path,
    *,
    lang: str,
    limit: int | None = None,
    seed: int = 0,
    prompts: str = "english",
) -> list[dict[str, Any]]:
    """Prepared items of one file: item, prompt, answer, and where options are scored options and names.

    The options are shuffled and `answer` is an index; `names` are the options' names for result tables: the
    label or number itself, else the option's index in the file. Where letters are scored, the options keep
    the order of the file. Of a task whose answers are written `answer` is the right one as
    `written_answers.right` gives it, and `shown` what stands there in an example. `limit` takes a sample by a
    seeded permutation (never the first rows: published files are sorted by label); a smaller limit is a
    subset of a larger one, and parallel files of several languages give the same rows. prompts: "english" or
    "native".
    """
    found = local_rows(task, path)
    return documents_of(task, found, str(path), lang=lang, limit=limit, seed=seed, prompts=prompts)


def documents_of(
    task: TaskSpec, rows: list[dict[str, Any]], where: str, *, lang: str, prompts: str, seed: int,
    limit: int | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """`documents` of rows that are already read; `where` names them in messages."""
    rows = [known_form(row, place_of(where, row)) for row in rows]
    labels = task.labels or _labels(rows, where)
    prompt = task.prompt_in(lang, prompts)
    keep, others = _sample(rows, limit, [seed, zlib.crc32(task.metadata.data.encode())]), _answers(rows)
    texts = {field for row in rows for field, value in row.items() if isinstance(value, str)}
    return [_document(task, rows[i], labels, prompt, lang, seed, where, others, texts) for i in keep]


def _labels(rows: list[dict[str, Any]], where: str) -> tuple[str, ...]:
    named = [row for row in rows if "label" in row]
    return tuple(sorted({_label(row, place_of(where, row)) for row in named}))


def _label(row: dict[str, Any], where: str) -> str:
    label = row["label"]
    if not isinstance(label, str | int | float) or not str(label).strip():
        raise UserError(f"{where}: 'label' is {label!r}; give it a name, or remove the row")
    return str(label)


def _answers(rows: list[dict[str, Any]]) -> dict[Shape, list[int]]:
    """The whole answers of a file by shape, each as often as it stands there."""
    found: dict[Shape, list[int]] = {}
    for row in rows:
        if _whole(answer := row.get("answer")) and not {"options", "label"} & row.keys():
            found.setdefault(_shape(answer), []).append(answer)
    return found


def _sample(rows: list[dict[str, Any]], limit: int | None, seed: Sequence[int]) -> list[int]:
    if limit is None or limit >= len(rows):
        return list(range(len(rows)))
    of = rows[0].get(cloze.OF)  # then by line, since files that are parallel may lack different ones
    places = {row["item"] if of else i: i for i, row in enumerate(rows)}
    order = np.random.default_rng(seed).permutation(of or len(rows)).tolist()
    return sorted([places[n] for n in order if n in places][:limit])


def _document(
    task: TaskSpec, row: dict[str, Any], labels: Sequence[str], prompt: TaskPrompt, lang: str, seed: int,
    where: str, others: dict[Shape, list[int]], texts: set[str],
) -> dict[str, Any]:  # fmt: skip
    where = place_of(where, row)
    _refuse_other_values(task, row, where)
    doc = {"item": row["item"], "prompt": _prompt(task, prompt, guarded(row, texts), lang, where)}
    if task.kind == "generate_until":
        said = right(row, task.metadata.number, where)
        return doc | {"answer": said, "shown": worked(row, said, task.metadata.number)}
    if task.lettered:
        return doc | _lettered(row, where)
    rng = np.random.default_rng([seed, zlib.crc32(task.metadata.data.encode()), row["item"]])
    options, answer, names = _options(row, labels, others, rng, where)
    if prompt.labels and "label" in row and "options" not in row:
        options = list(prompt.labels)
    order = rng.permutation(len(options)).tolist()
    return doc | {
        "options": [options[i] for i in order],
        "answer": order.index(answer),
        "names": [names[i] for i in order],
    }


def _refuse_other_values(task: TaskSpec, row: dict[str, Any], where: str) -> None:
    for field, known in task.metadata.values.items():
        if row.get(field) not in known:
            given = shortened(repr(row.get(field)), letters=60)
            raise UserError(
                f"{where}: {field!r} is {given}, and must be one of {', '.join(known)}; correct the row"
            )


def _lettered(row: dict[str, Any], where: str) -> dict[str, Any]:
    """What is scored where the prompt shows the options in the order of the file, each after its letter."""
    answer = _checked_answer(row.get("options"), row.get("answer"), where)
    letters = list(LETTERS[: len(row["options"])])
    return {"options": letters, "answer": answer, "names": letters}


@functools.cache
def language_name(lang: str) -> str:
    """The English name of a language, from `params/<lang>.yaml`, LANGUAGES or CLDR; else its code."""
    path = ROOT / "params" / f"{lang}.yaml"
    given = read_yaml(path).get("lang_name") if path.is_file() else None
    return str(given or LANGUAGES.get(lang) or cldr_name(lang) or lang)


def _prompt(task: TaskSpec, prompt: TaskPrompt, row: dict[str, Any], lang: str, where: str) -> str:
    try:
        given = {"language": language_name(lang), "letters": LETTERS, **row}
        with time_limit("the template"):
            return nfc(prompt.template.render(given))
    except Exception as error:  # a template can raise anything that Python can
        raise UserError(
            f"{where}: {error}, needed by doc_to_text of {task.path}; {_fields(row, where)}"
        ) from None


def _fields(row: dict[str, Any], where: str) -> str:
    """What a row has, for a message about what it lacks."""
    names = ", ".join(shortened(str(name), letters=60) for name in row if name != "item") or "nothing"
    if ".tsv:" in where:
        return f"the first line of the table must name the columns, and holds: {names}"
    return f"the row has {names}"


def _options(
    row: dict[str, Any], labels: Sequence[str], others: dict[Shape, list[int]], rng: np.random.Generator,
    where: str,
) -> tuple[list[str], int, list[str]]:  # fmt: skip
    """Options, index of the right one and names, before shuffling."""
    if "options" in row:
        options, answer = row["options"], row.get("answer")
        if "answer" not in row and isinstance(options, list) and row.get("label") in options:
            answer = options.index(row["label"])
        answer = _checked_answer(options, answer, where)
        short = "label" in row or all(option.isdecimal() for option in options)
        return list(options), answer, list(options if short else map(str, range(len(options))))
    if "label" in row:
        if (label := _label(row, where)) not in labels:
            raise UserError(
                f"{where}: label {row['label']!r} is not among {list(labels)}; mend it, or ask with a "
                "task file of your own that has your labels (docs/new_language.md)"
            )
        return list(labels), labels.index(label), list(labels)
    answer = row.get("answer")
    if not _whole(answer):
        raise UserError(
            f"{where}: needs 'label', or 'options' and 'answer', or a whole 'answer'; {_fields(row, where)}"
        )
    numbers = [str(n) for n in (answer, *distractors(answer, others.get(_shape(answer), []), rng))]
    return numbers, 0, numbers


def _checked_answer(options: Any, answer: Any, where: str) -> int:
    good = isinstance(options, list) and all(isinstance(o, str) and not is_blank(o) for o in options)
    if not good or len(options) < 2:
        raise UserError(f"{where}: 'options' must be two or more texts that are not empty")
    if not _whole(answer) or not 0 <= answer < len(options):
        raise UserError(f"{where}: 'answer' must be an index into the {len(options)} options")
    if options.count(options[answer]) > 1:
        raise UserError(f"{where}: the right option stands there twice")
    return answer


def distractors(answer: int, others: Sequence[int], rng: np.random.Generator, n: int = 3) -> list[int]:
    """`n` distinct wrong numbers, so chosen that roundness, size and rank do not give the answer away.

    others: answers of the file with the shape of `answer` (sign, digits, zeros at the end), drawn as often
    as they stand there; where they are too few, near numbers of that shape, in a stretch of ten in which
    `answer` is at a random place.
    """
    found = list(dict.fromkeys(o for o in rng.permutation(others).tolist() if o != answer))
    if len(found) < n:  # not both kinds: near numbers beside far ones would point at the answer
        found = [o for o in rng.permutation(_near(answer, rng)).tolist() if o != answer]
    return [int(o) for o in found[:n]]


def _shape(number: int) -> Shape:
    digits = str(abs(number))
    return number < 0, len(digits), len(digits) - len(digits.rstrip("0")) if number else 0


def _near(answer: int, rng: np.random.Generator) -> list[int]:
    negative, digits, zeros = _shape(answer)
    unit, low, high = 10**zeros, 10 ** (digits - zeros - 1), 10 ** (digits - zeros)
    first = min(max(abs(answer) // unit - int(rng.integers(10)), low), max(high - 10, low))
    numbers = [(-1) ** negative * unit * k for k in range(first, min(first + 10, high))]
    return [number for number in numbers if _shape(number) == _shape(answer)]


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


# What the study asks for


def existing(data_root: str | Path) -> Path:
    """The data root. UserError where it is no folder."""
    if not str(data_root) or not Path(data_root).is_dir():
        raise UserError(f"data root {str(data_root)!r} is no folder; set data_root=PATH or LRNB_DATA")
    return Path(data_root)


def data_file(task: TaskSpec, lang: str, split: str, data_root: str | Path) -> Path:
    """Path of a split; UserError says which splits and languages there are."""
    path = local_file(task, lang, split, existing(data_root))
    if len(several := [path.with_suffix(s).name for s in SUFFIXES if path.with_suffix(s).is_file()]) > 1:
        made = ", ".join(name for name in several if holds_examples(path.parent / name))
        raise UserError(
            f"{path.parent}: {' and '.join(several)} are the same split; keep one of them"
            + f" ({made} holds the examples of lrnb new)" * bool(made)
        )
    if not path.is_file():
        files = {p for folder in _folders(task, data_root) for p in folder.glob("[!.]*/[!.]*")}
        there = sorted(f"{p.parent.name}/{p.stem}" for p in files if p.suffix in SUFFIXES)
        raise UserError(
            f"task {task.name!r} has no file {path}; there is: {', '.join(there) or 'nothing'}"
            f"{_hub_lacks(task)}. "
            "Leave the task out for this language or split, or set data_root to where the file is"
        )
    return path


def _hub_lacks(task: TaskSpec) -> str:
    hub = task.metadata.hub
    return f", and {hub.path} on the Hub has none in this language and script" if hub else ""


def split_rows(
    task: TaskSpec, lang: str, split: str, data_root: str | Path, seed: int, script: str = ""
) -> tuple[list[dict[str, Any]], str]:
    """Rows of a split and their source: a local file, cloze items made of one, else the Hub; or UserError.

    script: of the language, where the Hub has it in several.
    """
    if not from_hub(task, lang, split, existing(data_root), script):
        rows = local_rows(task, path := data_file(task, lang, split, data_root))
        made = task.metadata.cloze_from and path.parents[1] == _folders(task, data_root)[1]
        return cloze.cloze_items(rows, str(path), seed) if made else rows, str(path)
    where = f"{task.metadata.hub.path} ({lang}, {split})"  # type: ignore[union-attr]
    return hub_rows(task, lang, split, data_root, seed, script), where


def has_split(task: TaskSpec, lang: str, split: str, data_root: str | Path, script: str = "") -> bool:
    """Whether `split_rows` would find rows: a local file, or a data set on the Hub that lists the split."""
    return local_file(task, lang, split, data_root).is_file() or covers(task, lang, split, script)


def from_hub(task: TaskSpec, lang: str, split: str, data_root: str | Path, script: str = "") -> bool:
    """Whether the rows of a split come from the Hub: it has them, and there is no local file."""
    return covers(task, lang, split, script) and not local_file(task, lang, split, data_root).is_file()


def local_file(task: TaskSpec, lang: str, split: str, data_root: str | Path) -> Path:
    """The task's own file, or where there is none that of which its items are made."""
    names = [f"{split}{suffix}" for suffix in SUFFIXES]
    paths = [folder / lang / name for folder in _folders(task, data_root) for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


def _folders(task: TaskSpec, data_root: str | Path) -> list[Path]:
    return [
        Path(data_root) / "eval" / name for name in (task.metadata.data, task.metadata.cloze_from) if name
    ]


def solved(
    task: TaskSpec, lang: str, data_root: str | Path, seed: int, prompts: str = "english", script: str = ""
) -> list[dict[str, Any]]:
    """Prepared training items to show before an item: in the language where there are any, else English.

    `set` numbers the training set of each: where there are several, seed picks one, or all are there if the
    task file says `training_sets: mean`. Without any in the language: the English `sft` file of the task.
    """
    sets = _training_sets(task, lang, Path(data_root), seed, script)
    found = [
        documents_of(task, rows, where, lang=lang, seed=seed, prompts=prompts) for rows, where in sets
    ] or [english(task, data_root, seed)]
    return [{**doc, "set": number} for number, docs in enumerate(found) for doc in docs]


def _training_sets(
    task: TaskSpec, lang: str, root: Path, seed: int, script: str
) -> list[tuple[list[dict[str, Any]], str]]:
    """Rows and source of each training set that is asked for: train_1, ... or train, or the Hub's."""
    folder, every = root / "eval" / task.metadata.data / lang, task.metadata.training_sets == "mean"
    several = sorted(
        path for path in folder.glob("train_*")
        if path.suffix in SUFFIXES and path.stem.removeprefix("train_").isdecimal()
    )  # fmt: skip
    if several:
        chosen = several if every else [several[seed % len(several)]]
        return [(local_rows(task, path), str(path)) for path in chosen]
    if not has_split(task, lang, "train", root, script):
        return []
    on_hub = not local_file(task, lang, "train", root).is_file()
    sets = len(task.metadata.hub.splits["train"]) if every and on_hub else 1  # type: ignore[union-attr]
    return [split_rows(task, lang, "train", root, n if sets > 1 else seed, script) for n in range(sets)]


def english(task: TaskSpec, data_root: str | Path, seed: int) -> list[dict[str, Any]]:
    """Prepared items of the task's English training rows. UserError where it has none."""
    rows, where = english_rows(task, data_root, seed)
    return documents_of(task, rows, where, lang=ENGLISH, prompts="english", seed=seed)


def english_rows(task: TaskSpec, data_root: str | Path, seed: int) -> tuple[list[dict[str, Any]], str]:
    """English training rows and their source: `sft_file`, else the Hub's training split where that is it.

    UserError where there are none, or where one is mostly in another script than English is.
    """
    path = sft_file(task, data_root)
    if not path.is_file() and sft_from_hub(task, data_root):
        return split_rows(task, ENGLISH, "train", data_root, seed)
    if not path.is_file():
        raise UserError(
            f"task {task.name!r} has no English training rows: no file {path}. Put English rows there, "
            "take the task out of sft_mix (shots=0 where they are to be shown), or set data_root to theirs"
        )
    rows = local_rows(task, path)
    for row in rows:
        refuse_other_script(row, place_of(str(path), row), "Latin", IN_ENGLISH)
    return rows, str(path)


def refuse_other_script(row: dict[str, Any], where: str, script: str, hint: str, least: float = 0.5) -> None:
    """UserError, which ends in `hint`, for a row of whose letters less than `least` are of `script`.

    Its label does not count.
    """
    told = {key: value for key, value in known_form(row, where).items() if key not in ("id", "label")}
    text = " ".join(texts_in([*told.values()]))
    if any(map(str.isalpha, text)) and script_share(text, script) < least:
        raise UserError(f"{where}: the row is mostly in another script than {script}; {hint}")


def sft_file(task: TaskSpec, data_root: str | Path) -> Path:
    """`sft/<task>.jsonl`, or with another of SUFFIXES, where it is there; else what the task file names."""
    names = [
        f"sft/{Path(task.name).name}",
        *([task.metadata.sft.rpartition(".")[0]] if task.metadata.sft else []),
    ]
    own = [Path(data_root) / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
    return next(
        (path for path in own if path.is_file()), Path(data_root) / (task.metadata.sft or f"{names[0]}.jsonl")
    )


def sft_from_hub(task: TaskSpec, data_root: str | Path) -> bool:
    """Whether the English training rows are the Hub's: there is no file, and the one named is that split."""
    split = f"eval/{task.metadata.data}/{ENGLISH}/train.jsonl"
    there = sft_file(task, data_root).is_file()
    return task.metadata.sft == split and not there and has_split(task, ENGLISH, "train", data_root)


def _holding(found: list[dict[str, Any]], where: str, items: Items) -> dict[int, str]:
    """{place: task} of the rows that have a text that holds an evaluation item. UserError where all do."""
    held, own = {}, set(item_texts(found))
    for row in found:
        texts = (text for text in texts_in(row) if text in own)
        if task := next((name for text in texts if (name := items.held_by(text))), ""):
            held[row["item"]] = task
    if len(held) == len(found):
        raise UserError(f"{where}: every row holds an item of an evaluation; give other rows")
    return held


def sft_examples(
    name: str, n: int, data_root: str | Path, seed: int = 0, items: Items | None = None,
    dropped: Counter[str] | None = None,
) -> list[dict[str, str]]:  # fmt: skip
    """`n` English training examples {"prompt", "completion"}, rendered as the task is scored.

    Sampled by a seeded permutation, in permuted order. Rows that hold one of `items` are left out, and those
    that would have been among the `n` are counted by its task in `dropped`; where all rows are asked for,
    there are as many less. Raises UserError
    where the task has no training file, the file is missing, or it has fewer rows than asked for.
    """
    task = spec(name)
    found, where = english_rows(task, data_root, seed)
    given: dict[str, Any] = {"lang": ENGLISH, "prompts": "english", "seed": seed}
    return examples_of(task, found, where, n, **given, items=items, dropped=dropped)


def examples_of(
    task: TaskSpec, found: list[dict[str, Any]], where: str, n: int, *, lang: str, prompts: str, seed: int,
    items: Items | None = None, dropped: Counter[str] | None = None,
) -> list[dict[str, str]]:  # fmt: skip
    """`sft_examples` of rows in any language that are already read; `where` names them in messages."""
    drawn = drawn_places(task, found, where, n, seed, items, dropped)
    docs = documents_of(task, found, where, lang=lang, prompts=prompts, seed=seed)
    return [_example(docs[place], task.delimiter) for place in drawn]


def drawn_places(
    task: TaskSpec, found: list[dict[str, Any]], where: str, n: int, seed: int, items: Items | None = None,
    dropped: Counter[str] | None = None,
) -> list[int]:  # fmt: skip
    """Places of the `n` rows that SFT takes, in their order; see `sft_examples`."""
    if n > len(found):
        raise UserError(f"sft_mix asks for {n} rows of {task.name!r}, {where} has {len(found)}; ask for less")
    order = np.random.default_rng([seed, zlib.crc32(task.name.encode())]).permutation(len(found)).tolist()
    held = _holding(found, where, items) if items else {}
    if dropped is not None:
        dropped.update(held[found[i]["item"]] for i in order[:n] if found[i]["item"] in held)
    return [place for place in order if found[place]["item"] not in held][:n]


def _example(doc: dict[str, Any], delimiter: str) -> dict[str, str]:
    answer = doc["options"][doc["answer"]] if "options" in doc else doc["answer"]
    return {"prompt": doc["prompt"], "completion": delimiter + answer}
