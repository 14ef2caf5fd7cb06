"""Whether a step of the study is up to date: what it was made from, recorded after success.

Decided by content: parameters, the notebook's code cells, lrnb's own files, task files of the user's own,
the results of the steps before, and (of the data root and of the user's folders, which can be large)
names, sizes and times. Another spelling of the run folder, or touching a notebook or a result, costs
nothing. Nobody else decides: Snakemake is given the steps that are due, and no others.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lrnb import __version__
from lrnb.errors import UserError
from lrnb.pipeline.steps import Step, as_yaml, step_params
from lrnb.study.environment import versions
from lrnb.study.files import MANIFEST, digest, sha256, write_text
from lrnb.study.languages import cldr_name
from lrnb.study.parameters import ENGLISH, LANGUAGES, MODEL_FOLDERS, ROOT, TASK_COUNTS, TASK_LISTS, Study
from lrnb.study.recipe import stored_pool, stored_questions
from lrnb.study.stages import RunPaths, fingerprint
from lrnb.tasks.includes import users_files
from lrnb.tasks.rows import language_name
from lrnb.tasks.task_file import file_of

PACKAGE = (".py", ".yaml", ".jinja", ".svg")
NAMED = ("extra_models", "sft_x")  # parameters with a folder for each name
MODELS = (*MODEL_FOLDERS, *NAMED)


@functools.cache
def package_hash() -> str:
    """sha256 over the names and contents of lrnb's own files, once a process."""
    files = sorted(path for path in (ROOT / "lrnb").rglob("*") if path.suffix in PACKAGE)
    return digest([(path.relative_to(ROOT).as_posix(), sha256(path)) for path in files])


def notebook_hash(notebook: Path) -> str:
    """sha256 of a notebook's code cells but its parameters: those, outputs and prose do not count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return digest(["".join(c["source"]) for c in code if "parameters" not in c["metadata"].get("tags", [])])


def data_hash(step: Step, study: Study) -> str:
    """Of the data root: name, size and time of every file that a step may read; nothing is opened.

    That is text and tasks in its language and in English, and sft/; all languages where the base is pruned
    to them; data sets in hub/ where it names tasks. The micro-world counts by content. "" for a base that
    reads no data.
    """
    is_base = step.name == "base"
    if is_base and (study.base_source == "scratch" or not study.base_prune):
        return ""
    if study.preset == "nano":
        return fingerprint(RunPaths(study).world)
    root = RunPaths(study).data_root
    langs = {step.values.get("lang", study.lang), ENGLISH, *(lang for lang, _, _ in step.beside)}
    kinds = {"corpus": is_base, "eval": is_base, "sft": True}  # whether all of it counts
    kinds |= {"hub": True} if set(TASK_LISTS) & set(step_params(step, study)) else {}
    found = {
        f"{kind}/{name}": stat
        for kind, whole in kinds.items()
        for name, stat in _listing(root / kind)
        if whole or langs & {part.partition(".")[0] for part in name.split("/")}
    }
    return digest(found)


def _listing(folder: Path) -> list[tuple[str, list[int]]]:
    """Every file below `folder`, behind links too, but hidden ones: relative name, size and time."""
    files = [path for path in sorted(_walk(folder)) if path.is_file() and not path.name.startswith(".")]
    return [(path.relative_to(folder).as_posix(), _stat(path)) for path in files]


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All that is not a folder; a link to a folder around it (`above`, resolved) is not followed again."""
    if not folder.is_dir() or (real := folder.resolve()) in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walk(path, (*above, real))
        else:
            yield path


def _own_files(declared: dict[str, Any]) -> dict[str, str]:
    """The user's own files that parameters name: task files by content, folders by names, sizes, times."""
    found = {key: digest(_listing(folder)) for key, folder in _folders(declared, MODELS).items()}
    names = [name for key in (*TASK_LISTS, *TASK_COUNTS) for name in declared.get(key, ())]
    files = [path for name in names if (path := file_of(name)) and path.is_file()]
    hashed = [sha256(part) for path in files for part in _with_included(path)]
    return found | ({"task files": digest(hashed)} if hashed else {})


def _with_included(path: Path) -> list[Path]:
    """A task file and the user's files that it includes; itself where it includes none, or cannot be used."""
    try:
        return users_files(path)
    except UserError:  # told when the tasks are loaded
        return [path]


def _folders(declared: dict[str, Any], keys: Iterable[str]) -> dict[str, Path]:
    """The folders that parameters among `keys` name, by parameter, or parameter and name."""
    named: dict[str, str] = {}
    for key in keys:
        value: Any = declared.get(key) or ""
        several = isinstance(value, dict)
        named |= {f"{key}/{name}": own for name, own in value.items()} if several else {key: value}
    return {key: Path(value) for key, value in named.items() if value and Path(value).is_dir()}


def input_key(step: Step, steps: dict[str, Step], study: Study) -> dict[str, str]:
    """Everything that a step's result depends on, hashed by name; the parameters in plain words."""
    key = {"lrnb": __version__, "package": package_hash()}
    if step.notebook:
        declared = step_params(step, study)
        key |= {"code": notebook_hash(step.source), "parameters": as_yaml(_placeless(declared))}
        key |= _own_files(declared)
        if "data_root" in declared:
            key["data"] = data_hash(step, study)
        key |= _names(step, study) if set(TASK_LISTS) & set(declared) else {}
    if step.values.get("script", study.script) == "Mongolian":
        key["text"] = versions(["mongol-norm"]).get("mongol-norm", "as spelt")  # see lrnb/data/mongolian.py
    pools = (
        {"pool": stored_pool(study), "questions": stored_questions(study)} if step.name == "report" else {}
    )
    key |= {name: sha256(pool) for name, pool in pools.items() if pool.is_file()}
    for need in step.needs:
        for result in steps[need].results:
            key[f"{need}/{result.parent.name}"] = fingerprint(result.parent)
    for lang, need, result in step.beside:
        key[f"{lang}/{need}"] = fingerprint(result.parent)
    return key


def _names(step: Step, study: Study) -> dict[str, str]:
    """What prompts call the languages of a step, where params/ has another name than the package or CLDR."""
    langs = sorted({step.values.get("lang", study.lang), *(lang for lang, _, _ in step.beside)})
    usual = {lang: LANGUAGES.get(lang) or cldr_name(lang) or lang for lang in langs}
    return {f"name of {lang}": name for lang in langs if (name := language_name(lang)) != usual[lang]}


def _placeless(declared: dict[str, Any]) -> dict[str, Any]:
    """Parameters without where results go, and with one spelling for every folder."""
    resolved = {key: str(path.resolve()) for key, path in _folders(declared, ("data_root", *MODELS)).items()}
    kept = {key: value for key, value in (declared | resolved).items() if key != "runs"}
    for key in kept.keys() & {*NAMED}:  # folders are in `resolved`
        kept[key] = {n: x for n, x in kept[key].items() if not Path(x).is_dir()}
    return kept


def changed_inputs(key: dict[str, str], other: dict[str, str], keep_code: bool = False) -> list[str]:
    """Names of the inputs that differ; lrnb's own code is none of them with `keep_code`."""
    ignored = {"lrnb", "package"} if keep_code else set()
    return [name for name in sorted({*key, *other} - ignored) if key.get(name) != other.get(name)]


def why_due(step: Step, steps: dict[str, Step], study: Study, keep_code: bool = False) -> str:
    """Why a step is to run, in a few words; "" where it is up to date.

    That is where its results are there, whole, nobody else wrote them since, and they were made from today's
    inputs. With `keep_code` a change of lrnb's own code does not count; the notebook's cells still do.
    """
    if (record := _read_record(step)) is None:
        return "no finished run"
    before = [result for need in step.needs for result in steps[need].results]
    before += [result for _, _, result in step.beside]
    if lost := [path for path in (*step.results, *before) if not path.is_file()]:
        return f"{lost[0].parent.name if lost[0].name == MANIFEST else lost[0].name} is missing"
    if record["results"] != _result_hashes(step) or not _whole(step, record.get("files", {})):
        return "its results changed"
    now = input_key(step, steps, study)
    changed = changed_inputs(record["key"], now, keep_code)
    return _in_words(changed, record["key"], now) if changed else ""


SAID = {"lrnb": "version of lrnb", "package": "lrnb's code", "code": "notebook's code"}


def _in_words(changed: list[str], then: dict[str, str], now: dict[str, str]) -> str:
    """Inputs that differ, the parameters by name: "ct_lr, corpus changed"; of many the first three."""
    read = [yaml.safe_load(key.get("parameters", "{}")) for key in (then, now)]
    keys = [key for key in {**read[0], **read[1]} if repr(read[0].get(key)) != repr(read[1].get(key))]
    others = [SAID.get(name, name.rpartition("/")[2]) for name in changed if name != "parameters"]
    names = list(dict.fromkeys([*keys, *others])) or ["order of parameters"]
    return f"{', '.join(names[:3])}{' and others' if names[3:] else ''} changed"


def remember(step: Step, key: dict[str, str]) -> None:
    """Record what a finished step was made from (`input_key` before it ran) and what it made."""
    files = {name: _stat(path) for name, path, _ in _outputs(step) if path.is_file()}
    record = {"key": key, "results": _result_hashes(step), "files": files}
    write_text(step.record, json.dumps(record, indent=1))


def _result_hashes(step: Step) -> dict[str, str]:
    """sha256 of a step's results, and of the manifests of the models below them, which these do not name."""
    found = {}
    for result in step.results:
        for path in sorted(result.parent.rglob(MANIFEST)) if result.name == MANIFEST else [result]:
            if path.is_file():
                found[path.relative_to(result.parent.parent).as_posix()] = sha256(path)
    return found


def _outputs(step: Step) -> Iterator[tuple[str, Path, str]]:
    """Name, path and sha256 of every file that a step's manifests name."""
    for result in step.results:
        if result.name == MANIFEST:
            outputs = json.loads(result.read_text(encoding="utf-8"))["outputs"]
            for name, hashed in outputs.items():
                yield f"{result.parent.name}/{name}", result.parent / name, hashed


def _read_record(step: Step) -> dict[str, Any] | None:
    """What was recorded of a step; None where the file cannot be read, as if it had not run."""
    try:
        record = json.loads(step.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"key", "results"} <= record.keys() else None


def _whole(step: Step, recorded: dict[str, list[int]]) -> bool:
    """Every output is there as it was; one is only read where its time changed and its size did not."""
    for name, path, hashed in _outputs(step):
        if not path.is_file():
            return False
        now, then = _stat(path), recorded.get(name)
        if now != then and ((then and now[0] != then[0]) or sha256(path) != hashed):
            return False
    return True


def _stat(path: Path) -> list[int]:
    """Size in bytes, time of the last change in nanoseconds."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def outdated(study: Study, steps: dict[str, Step], keep_code: bool = False) -> dict[str, str]:
    """Steps that are not up to date, and all that need them, in order; each with why."""
    found: dict[str, str] = {}
    for step in steps.values():
        after = next((f"after {need}" for need in step.needs if need in found), "")
        if why := after if after and step.record.is_file() else why_due(step, steps, study, keep_code):
            found[step.name] = why
    return found
