"""A language that the study has not had: its file in params/, and a data folder with example rows.

The rows say what each file holds; whatever reads them refuses them as long as they are the examples
(`lrnb.data.placeholders`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lrnb.data import corpus, fineweb
from lrnb.data.placeholders import example
from lrnb.errors import UserError, did_you_mean
from lrnb.study.files import atomic_folder, make_folder, write_text
from lrnb.study.languages import canonical, cldr_name, known_languages
from lrnb.study.parameters import ENGLISH, ROOT, validate
from lrnb.tasks.hub import covers
from lrnb.tasks.task_file import spec

HUB_TASKS = ("topic", "belebele")  # sets of the Hub in many languages: SIB-200, Belebele
PAGE = "docs/new_language.md"


@dataclass(frozen=True)
class NewLanguage:
    """Language X as `lrnb new` was told of it. data_root: as it will stand in its file in params/."""

    lang: str
    name: str
    script: str
    data_root: Path
    from_hub: bool = False
    tasks: tuple[str, ...] = ()  # that have example rows; (): one a family, of which topic is asked

    @property
    def params(self) -> Path:
        return ROOT / "params" / f"{self.lang}.yaml"


def new_language(
    lang: str, name: str, script: str, data_root: Path, from_hub: bool = False, tasks: tuple[str, ...] = ()
) -> NewLanguage:
    """What was asked for, checked by CLDR and Unicode. UserError for what is unknown or there already."""
    if lang == ENGLISH:
        raise UserError("English is in every study; give the code of another language")
    validate({"preset": "smol", "lang": lang, "script": script}, "lrnb new")
    name = name or cldr_name(lang)
    _refuse_other_language(lang, name)
    if not script:
        raise UserError("--script is missing: the Unicode name of the script, as Cyrillic or Thai")
    if (there := ROOT / "params" / f"{lang}.yaml").exists():
        raise UserError(f"{there}: is there already; change it, or remove it to start anew")
    if data_root.exists() and not data_root.is_dir():
        raise UserError(f"--data-root {data_root}: is a file; give a folder, new or there already")
    _refuse_tasks(tasks, from_hub)
    made = NewLanguage(lang, name, script, data_root, from_hub, tasks)
    if from_hub:
        _refuse_unknown_there(made)
    return made


def _refuse_other_language(lang: str, name: str) -> None:
    if not name.isprintable():
        raise UserError(
            f"--name {name!a}: holds a line's end or another sign that cannot be seen; leave it out"
        )
    names = known_languages()
    other = names.get(name, "")
    if other and canonical(other) != canonical(lang):
        raise UserError(f"{lang!r} is not the code of {name}; did you mean {other!r}?")
    if not cldr_name(lang) and (len(lang) == 2 or not name):
        raise UserError(
            f"{lang!r} is no language that CLDR has a name for{did_you_mean(name, names)}. Give its code of "
            "ISO 639-3 (three letters) and --name NAME"
        )


def _refuse_tasks(tasks: tuple[str, ...], from_hub: bool) -> None:
    if tasks and from_hub:
        raise UserError("--tasks goes without --from-hub: the Hub's sets need no example rows")
    for task in tasks:
        if task not in EXAMPLES:
            known = f"example rows are of {', '.join(EXAMPLES)}{did_you_mean(task, EXAMPLES)}"
            raise UserError(
                f"--tasks: {task!r}: {known}. docs/tasks.md has the rows of others, {PAGE} a task of your own"
            )


def _refuse_unknown_there(made: NewLanguage) -> None:
    if not fineweb.config_of(made.lang, made.script):
        raise UserError(
            f"--from-hub: {fineweb.SET} has no {made.lang!r} in the script {made.script} that is known here. "
            "Give a code of three letters, or leave --from-hub out and bring text of your own"
        )
    if not covers(spec("topic"), made.lang, "test", made.script):
        raise UserError(
            f"--from-hub: SIB-200 has no {made.lang!r} in the script {made.script}, so no task is there. "
            "Leave --from-hub out and bring items of your own"
        )


def remarks(made: NewLanguage) -> list[str]:
    """What is unusual and may be meant."""
    known = cldr_name(made.lang)
    if not known:
        return [f"CLDR has no name for {made.lang!r}; it is taken as given"]
    return [] if known == made.name else [f"CLDR calls {made.lang} {known}; the study says {made.name}"]


def write_language(made: NewLanguage) -> list[Path]:
    """Write data folder and file in params/, that last, and return what was written. Nothing is overwritten.

    A data folder that is there gets rows in X alone, and only of kinds that X has no file of.
    """
    make_folder(made.params.parent)
    shared = made.data_root.is_dir()
    if shared:
        files = {path: text for path, text in _rows_in_x(made).items() if not _is_there(made, path)}
        _write_all({make_folder(made.data_root) / path: text for path, text in files.items()})
    else:
        files = {Path("README.md"): readme(made), **_rows_in_x(made), **_english_rows(made)}
        with atomic_folder(made.data_root) as folder:
            for kind in ("corpus", "eval", "sft"):
                (folder / kind).mkdir()
            _write_all({folder / path: text for path, text in files.items()})
    write_text(made.params, params_text(made, shared))
    return [*(made.data_root / path for path in files), made.params]


def _write_all(files: Mapping[Path, str]) -> None:
    """All files, or none where one cannot be written."""
    written: list[Path] = []
    try:
        for path, text in files.items():
            write_text(path, text)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _is_there(made: NewLanguage, path: Path) -> bool:
    """Whether X has a file of this kind in a data folder: text in any form, a task's rows in any split."""
    if path.parts[0] == "corpus":
        return made.lang in corpus.languages(made.data_root)
    return (made.data_root / path.parent).is_dir()


def params_text(made: NewLanguage, shared: bool) -> str:
    """The file in params/. A data folder of its own makes a base of its own, so its results lie apart too."""
    own = [] if shared else [("runs", f"runs/{made.lang}")]
    lines = [
        f"# {made.name}, written by lrnb new. What the files of data_root hold: {PAGE}; what is missing:",
        f"# lrnb check params/{made.lang}.yaml",
        *(f"{key}: {_scalar(value)}" for key, value in [("lang", made.lang), ("lang_name", made.name),
          ("script", made.script), ("data_root", str(made.data_root)), *own]),
        *(_hub_lines(made) if made.from_hub else _local_lines(made.tasks)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _scalar(value: str) -> str:
    return yaml.safe_dump(value, allow_unicode=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _local_lines(tasks: tuple[str, ...]) -> list[str]:
    asked = tasks or ("topic",)
    more = ", ".join(sorted({*EXAMPLES} - {*asked}))
    mix = ", ".join(f"{task}: 400" for task in asked)
    dev = [] if "topic" in asked else [f"  dev_tasks: [{', '.join(asked)}]  # whose dev items choose"]
    return [
        f"tasks: [{', '.join(asked)}]" + (f"  # more, once their rows are there: {more}" if more else ""),
        f"tasks_en: [{', '.join(asked)}]  # the same in English",
        "smol:",
        f"  sft_mix: {{{mix}}}  # English examples a task, from sft/<task>.jsonl",
        *dev,
    ]


def _hub_lines(made: NewLanguage) -> list[str]:
    found = [task for task in HUB_TASKS if covers(spec(task), made.lang, "test", made.script)]
    tasks = ", ".join(found)
    return [
        f"corpus_source: hub  # FineWeb-2, {fineweb.config_of(made.lang, made.script)}",
        "base_prune: false  # would need all text at hand",
        f"tasks: [{tasks}]",
        f"tasks_en: [{tasks}]",
        "smol:",
        "  sft_mix: {topic: 400}  # the training rows of SIB-200 in English",
    ]


# example rows: a line for a row, kind by kind


def _choice(first: dict[str, str], count: int = 4) -> dict[str, Any]:
    return {**first, "options": [f"option {n}" for n in range(1, count + 1)], "answer": 0}


#: task -> two rows in a language; the first text of each is marked
EXAMPLES: dict[str, Any] = {
    "topic": lambda name: [
        {"text": example(f"a sentence in {name} about a journey"), "label": "travel"},
        {"text": example(f"a sentence in {name} about a match"), "label": "sports"},
    ],
    "reading_comprehension": lambda name: [
        _choice({"passage": example(f"a passage in {name}"), "question": f"a question {n}"}) for n in (1, 2)
    ],
    "response_selection": lambda name: [
        _choice({"context": example(f"what somebody says in {name}, turn {n}")}) for n in (1, 2)
    ],
    "math": lambda name: [
        {"question": example(f"a problem in {name}, whose answer is 12"), "answer": 12},
        {"question": example(f"a problem in {name}, whose answer is 305"), "answer": 305},
    ],
}


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _text_rows(name: str) -> str:
    return _lines([{"text": example(f"a document of running text in {name}, number {n}")} for n in (1, 2)])


def _examples(made: NewLanguage) -> dict[str, Any]:
    return {task: EXAMPLES[task] for task in made.tasks or EXAMPLES}


def _items(made: NewLanguage, lang: str, name: str) -> dict[Path, str]:
    return {
        Path("eval", task, lang, f"{split}.jsonl"): _lines(rows(name))
        for task, rows in _examples(made).items()
        for split in ("dev", "test")
    }


def _rows_in_x(made: NewLanguage) -> dict[Path, str]:
    if made.from_hub:
        return {}
    return {Path("corpus", f"{made.lang}.jsonl"): _text_rows(made.name), **_items(made, made.lang, made.name)}


def _english_rows(made: NewLanguage) -> dict[Path, str]:
    if made.from_hub:
        return {}
    sft = {Path("sft", f"{task}.jsonl"): _lines(rows("English")) for task, rows in _examples(made).items()}
    return {Path("corpus", "en.jsonl"): _text_rows("English"), **_items(made, ENGLISH, "English"), **sft}


def readme(made: NewLanguage) -> str:
    """What lies where in the data folder."""
    where = "Everything comes from the Hub; files here come first" if made.from_hub else (
        "The rows are examples, which every command refuses: put your own in their place, and remove the "
        "folders of tasks that you have no items for"
    )  # fmt: skip
    return f"""# Data for {made.name} ({made.lang})

{where}. {PAGE} of lrnb says what each file holds, and `lrnb check params/{made.lang}.yaml` what is missing.

- `corpus/{made.lang}.jsonl`, `corpus/en.jsonl`: running text, `{{"text": ...}}` a line;
  or `.jsonl.gz`, `.parquet`, or `.txt` with a document a line
- `eval/<task>/{made.lang}/` and `en/`: items to be asked, `test.jsonl`, `dev.jsonl` (merges are chosen on it)
  and, for examples, `train.jsonl`; or `.tsv` and `.parquet`, as SIB-200 and Belebele are published
- `sft/<task>.jsonl`: tasks in English to be trained on; where there is none of `topic`, the rows of
  `eval/topic/en/train.jsonl` (or `.tsv`) serve
"""
