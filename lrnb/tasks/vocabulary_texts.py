"""The texts that a pruned vocabulary must keep: corpora, items and the fixed words of prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lrnb.data import corpus
from lrnb.data.unicode_form import has_surrogate, nfc
from lrnb.study.languages import cldr_name
from lrnb.study.parameters import ENGLISH, LANGUAGES, read_yaml
from lrnb.tasks.row_forms import SUFFIXES, any_rows
from lrnb.tasks.task_file import FOLDER

SPLIT = re.compile(r"train(_\d+)?|dev|test")  # files of eval/ that tasks read


def data_texts(data_root: Path, langs: Iterable[str] | None = None) -> Iterator[str]:
    """Every string in a data root's corpus/, eval/ and sft/, in NFC; `langs` limits the first two.

    Strings of eval/ and sft/ come a second time after a space, as they stand in a prompt; the fixed
    words of the prompts come as well. params/ has no say: a file more there changes no other language's base.
    """
    root, wanted = Path(data_root), None if langs is None else set(langs)
    yield from prompt_texts(_languages(root))
    for lang in corpus.languages(root):
        if wanted is None or lang in wanted:
            yield from map(nfc, corpus.local_texts(root, lang))
    for path in row_files(root):
        if wanted is None or path.parent.name in wanted or path.parent.name == "sft":
            for text in (text for row in any_rows(path) for text in _strings(nfc(row))):
                yield text
                yield f" {text}"


def row_files(data_root: Path) -> list[Path]:
    """The files of a data root that hold rows of any task and language, of eval/ and of sft/."""
    splits = [path for path in data_root.glob("eval/[!.]*/[!.]*/*") if SPLIT.fullmatch(path.stem)]
    return sorted(path for path in (*splits, *data_root.glob("sft/[!.]*")) if path.suffix in SUFFIXES)


def _languages(root: Path) -> list[str]:
    """Codes of the languages of which a data root has text or items."""
    tasks = {path.name for path in root.glob("eval/[!.]*/[!.]*") if corpus.LANGUAGE_CODE.fullmatch(path.name)}
    return sorted({*corpus.languages(root), *tasks})


def prompt_texts(langs: Iterable[str] = ()) -> Iterator[str]:
    """The fixed words of prompts: labels and templates of task files, with the names of languages.

    Those are the names of the languages that ship, and of `langs` as CLDR has them.
    """
    others = {*LANGUAGES, *langs} - {ENGLISH}
    names = sorted({LANGUAGES.get(lang) or cldr_name(lang) for lang in others} - {""})
    for path in [*sorted(FOLDER.glob("*.yaml")), *sorted(FOLDER.glob("native/*.yaml"))]:
        for template in _strings(_without_hub(read_yaml(path))):
            for name in names if "language" in template else [""]:
                whole = re.sub(r"{{\s*language\s*}}", name, template)
                for text in filter(None, map(nfc, re.split(r"{[{%#].*?[}%#]}", whole))):
                    yield text
                    yield f" {text}"


def _without_hub(task: dict[str, Any]) -> dict[str, Any]:
    meta = task.get("metadata", {})
    return task | {"metadata": {key: value for key, value in meta.items() if key != "hub"}}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from [] if has_surrogate(value) else [value]
    elif isinstance(value, int | float):
        yield str(value)  # answers of sums are numbers
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
