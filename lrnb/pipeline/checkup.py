"""What a study finds of text and tasks, counted: the tables and notes of `lrnb check`.

Nothing is fetched: rows on the Hub are named, not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrnb.data import corpus, fineweb
from lrnb.data.character_kinds import script_share
from lrnb.errors import UserError
from lrnb.pipeline import supplies
from lrnb.study.parameters import ENGLISH, SYNTHETIC, Study
from lrnb.study.stages import RunPaths
from lrnb.tasks import loading, rows
from lrnb.tasks.sft_rows import rows_in_x
from lrnb.tasks.task_file import TaskSpec, available, native_prompts, spec

FAMILIES = ("text_classification", "reading_comprehension", "response_selection", "math")
FEW_ITEMS = 100  # below, an interval of 95% is wider than 10 points either way at 50%
LONGEST = 50  # lines of a usual block; above, a few blank lines stand in a file of a document a line
MUCH_IN_BYTES = 10.0  # percent of tokens that are no whole characters


def text_table(study: Study) -> list[dict[str, Any]]:
    """A row a language: file, documents, characters, tokens by a sample, and how the tokenizer treats it.

    Shares in percent. Numbers are NaN where no tokenizer is at hand, or no file.
    """
    if not study.trains:
        return []
    langs = (study.lang, ENGLISH) if study.english_ratio else (study.lang,)
    if study.corpus_source == "hub":
        return [_hub_text(study, lang) for lang in langs]
    return [_local_text(study, lang) for lang in langs]


def _hub_text(study: Study, lang: str) -> dict[str, Any]:
    try:
        named = fineweb.hub_text_en(study) if lang == ENGLISH else fineweb.hub_text(study)
        return {"text": lang, "file": f"Hub: {' '.join(filter(None, named[:3]))}"}
    except UserError:
        return {"text": lang, "file": "Hub: not named"}


def _local_text(study: Study, lang: str) -> dict[str, Any]:
    dropped = Counter[str]()
    try:
        text = supplies.read_text(study, lang, dropped)
        path = corpus.text_file(RunPaths(study).data_root, lang)
    except UserError:  # told with the rest
        return {"text": lang, "file": "missing or wrong"}
    sizes = {"documents": text.documents, "characters": text.characters}
    found = {"text": lang, "file": f"corpus/{path.name}"} | sizes | _tokens(study, text)
    script = "Latin" if lang == ENGLISH else study.script
    return found | {"other script %": _other_script(text.sample, script, study), "no text": dropped.total()}


def _tokens(study: Study, text: supplies.LocalText) -> dict[str, Any]:
    tokenizer = supplies.tokenizer_of(study.base_source)
    if tokenizer is None:
        return {}
    found = corpus.audit(tokenizer, text.sample)
    rate = found["tokens_per_character"]
    return {
        "tokens": round(rate * text.characters),
        "tokens/character": rate,
        "byte pieces %": 100 * max(found["byte_share"], found["partial_share"]),
        "tokens/word": found.get("tokens_per_word", float("nan")),
        "tokens/syllable": found.get("tokens_per_syllable", float("nan")),
    }


def _other_script(sample: list[str], script: str, study: Study) -> float:
    """Percent of documents that cleaning drops for their script."""
    if not script:
        return 0.0
    return 100 * sum(script_share(text, script) < study.script_min_share for text in sample) / len(sample)


def task_table(study: Study) -> list[dict[str, Any]]:
    """A row a task and language: items a split, and where they are."""
    own = [_task_row(study, name, task, lang) for name, task, lang in supplies.asked_tasks(study)]
    named = dict.fromkeys([*study.compared, *study.apart, *study.dev_tasks])
    empty = {"family": "", **dict.fromkeys(supplies.SPLITS, ""), "from": "lm-evaluation-harness"}
    return [*own, *({"task": name} | empty for name in filter(loading.is_harness, named))]


def _task_row(study: Study, name: str, task: TaskSpec, lang: str) -> dict[str, Any]:
    row: dict[str, Any] = {"task": name}
    counts = {split: _items(study, task, lang, split) for split in supplies.SPLITS}
    return row | {"family": task.metadata.family, **counts, "from": _source(study, task, lang)}


def _items(study: Study, task: TaskSpec, lang: str, split: str) -> str:
    """How many items a local file makes; "Hub" where they would be fetched, "-" where there are none."""
    root, script = RunPaths(study).data_root, study.script
    if not rows.has_split(task, lang, split, root, script):
        return "-"
    if rows.from_hub(task, lang, split, root, script):
        return "Hub"
    try:
        return f"{len(rows.split_rows(task, lang, split, root, study.seed)[0]):,}"
    except UserError:
        return "wrong"


def _source(study: Study, task: TaskSpec, lang: str) -> str:
    path = rows.local_file(task, lang, "test", root := RunPaths(study).data_root)
    if path.is_file():
        return str(path.relative_to(root))
    hub = task.metadata.hub
    return (
        f"{hub.path}, {hub.code_of(lang, study.script)}"
        if hub and hub.code_of(lang, study.script)
        else "nowhere"
    )


def sft_table(study: Study) -> list[dict[str, Any]]:
    """A row a task of `sft_mix`: English rows asked for, there, and where."""
    if not study.trains:
        return []
    instructions = {
        "SFT, en": "instructions",
        "asked": study.sft_rows,
        "there": "Hub",
        "from": study.sft_dataset,
    }
    return [_sft_row(study, n, k) for n, k in study.sft_mix.items()] + [instructions] * bool(
        study.sft_dataset
    )


def _sft_row(study: Study, name: str, n: int) -> dict[str, Any]:
    task, root = spec(name), RunPaths(study).data_root
    path = rows.sft_file(task, root)
    row = {"SFT, en": task.name, "asked": n}
    if rows.sft_from_hub(task, root):
        return row | {"there": "Hub", "from": f"{task.metadata.hub.path}, train"}  # type: ignore[union-attr]
    try:
        return row | {"there": f"{len(rows.local_rows(task, path)):,}", "from": str(path.relative_to(root))}
    except UserError:
        return row | {"there": "wrong" if path.is_file() else "-", "from": str(path.relative_to(root))}


def rows_in_x_table(study: Study) -> list[dict[str, Any]]:
    """A row a folder of `sft_x` and task of `sft_mix`: rows asked for, there, and where."""
    return [_row_in_x(study, name, task, n) for name in study.sft_x for task, n in study.sft_mix.items()]


def _row_in_x(study: Study, name: str, task: str, n: int) -> dict[str, Any]:
    row: dict[str, Any] = {f"SFT, {study.lang}": name, "task": task, "asked": n}
    try:
        own = rows_in_x(study, name)
        return row | {"there": f"{len(own.rows(spec(task))[0]):,}", "from": str(own.file(spec(task)))}
    except UserError:  # told with the rest
        return row | {"there": "missing or wrong", "from": study.sft_x[name]}


def family_table(study: Study) -> list[dict[str, str]]:
    """A row a family of tasks: what X is asked, and what it could be asked or lacks."""
    asked: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for name in study.tasks:
        if not loading.is_harness(name):
            asked.setdefault((task := spec(name)).metadata.family, []).append(task.name)
    return [
        {"family": family, "asked": ", ".join(names) or "nothing", "else": _could_be(study, family, names)}
        for family, names in asked.items()
    ]


def _could_be(study: Study, family: str, asked: list[str]) -> str:
    """Tasks that have rows in X and are not asked; where neither, what file would give some."""
    there = [told for name, told in _tasks(study, family) if name not in asked]
    if there:
        return f"rows are there for {', '.join(there)}"
    names = {"text_classification": "topic"}
    return "" if asked else f"put rows into eval/{names.get(family, family)}/{study.lang}/"


def _tasks(study: Study, family: str) -> Iterator[tuple[str, str]]:
    """Packaged tasks of a family with rows in X, and where; none of cloze items or the micro-world."""
    for task in map(spec, available()):
        if task.metadata.family == family and not (
            task.name.startswith("world_") or task.metadata.cloze_from
        ):
            found = _items(study, task, study.lang, "test")
            if found not in ("-", "wrong"):
                yield task.name, f"{task.name} (Hub)" if found == "Hub" else task.name


def stops_nothing(study: Study, texts: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> list[str]:
    """What is missing or unusual although nothing stops a run."""
    return [*_about_text(study, texts), *_about_tasks(study, tasks), *_about_prompts(study)]


def _about_text(study: Study, texts: list[dict[str, Any]]) -> Iterator[str]:
    for row in texts:
        if row.get("byte pieces %", 0) > MUCH_IN_BYTES:
            yield (
                f"{row['text']}: {row['byte pieces %']:.0f}% of tokens are parts of characters: the base "
                "hardly knows the script, so CT learns slowly; another base may know it"
            )
        if row.get("other script %", 0) > 0:
            share = f"{row['other script %']:.1f}% of the documents"
            yield f"{row['text']}: {share} are in another script; CT leaves them out"
        if row.get("no text", 0):
            yield f"{row['text']}: {row['no text']:,} rows hold no text; they are left out"
        if parted := _parted(RunPaths(study).data_root / row["file"]):
            yield f"{row['text']}: {row['file']}: {parted}"
        if "file" in row and not row["file"].startswith(("Hub", "missing")) and "tokens" not in row:
            get = " (make smol-base fetches it)" if study.base_source.startswith("gguf:") else ""
            yield f"{row['text']}: tokens are not counted, since the base is not on this machine yet{get}"


def _parted(path: Path) -> str:
    """What to do where blank lines part a .txt into blocks, some of more than one line; else ""."""
    if path.suffix != ".txt" or not path.is_file():
        return ""
    lines, blocks = corpus.lines_and_blocks(path)
    if not 1 < blocks < lines <= LONGEST * blocks:
        return ""
    return (
        f"blank lines part {lines:,} lines into {blocks:,} blocks, and every line is a document; where a "
        "block is one document, join its lines (docs/new_language.md)"
    )


def _about_tasks(study: Study, tasks: list[dict[str, Any]]) -> Iterator[str]:
    for row in tasks:
        test = str(row["test"]).replace(",", "")
        if test.isdecimal() and int(test) < FEW_ITEMS:
            wide = f"below {FEW_ITEMS} an interval is wider than 10 points either way"
            yield f"{row['task']}: {test} test items; {wide}"
        hub = [split for split in ("test", "dev") if row[split] == "Hub"]
        if hub and {row["test"], row["dev"]} - {"-", "Hub"}:
            yield f"{row['task']}: {hub[0]} rows are the Hub's, others local; a file of {hub[0]} comes first"
    if any("Hub" in (row["test"], row["dev"]) for row in tasks):
        yield "rows on the Hub were not looked at; lrnb run reads them before anything is computed"
    if lacking := [
        task for task in study.tasks if task not in study.tasks_en and not loading.is_harness(task)
    ]:
        yield f"{', '.join(lacking)}: not in tasks_en, so what is kept of English there is not known"
    if study.trains and not study.sft_dataset and (untrained := _untrained(study)):
        yield f"{', '.join(untrained)}: no English task of the family is in sft_mix, so SFT does not teach it"


def _untrained(study: Study) -> list[str]:
    taught = {spec(name).metadata.family for name in study.sft_mix}
    own = [name for name in study.tasks if not loading.is_harness(name)]
    return [name for name in own if spec(name).metadata.family not in taught]


def _about_prompts(study: Study) -> Iterator[str]:
    if not native_prompts(study.lang) and study.lang not in SYNTHETIC:
        yield f"no prompts in {study.lang!r} (lrnb/tasks/files/native/{study.lang}.yaml): prompts are English"
    if not study.script:
        yield "script is not given: text in another script is not left out"


def files_of(study: Study) -> str:
    """The data root in words."""
    return str(Path(RunPaths(study).data_root))
