"""Whether a step of the study is up to date: what it was made from, recorded after success.

Decided by content: parameters, the notebook's code cells, lrnb's own files, the results of the steps
before, and (of the data root, which can be large) names, sizes and times. Another spelling of the run
folder, or touching a notebook or a result, costs nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrnb import __version__
from lrnb.params import ENGLISH, ROOT, Study
from lrnb.plan import Step, as_yaml, step_params
from lrnb.store import MANIFEST, RunPaths, fingerprint, sha256, write_text

PACKAGE = (".py", ".yaml", ".jinja", ".svg")
FOLDERS = ("data_root", "base_source", "released_ct", "released_sft")  # parameters that may name one


@functools.cache
def package_hash() -> str:
    """sha256 over the names and contents of lrnb's own files, once a process."""
    files = sorted(path for path in (ROOT / "lrnb").rglob("*") if path.suffix in PACKAGE)
    return _digest([(path.relative_to(ROOT).as_posix(), sha256(path)) for path in files])


def code_hash(notebook: Path) -> str:
    """sha256 of a notebook's code cells but its parameters: those, outputs and prose do not count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return _digest(["".join(c["source"]) for c in code if "parameters" not in c["metadata"].get("tags", [])])


def data_hash(step: Step, study: Study) -> str:
    """Of the data root: name, size and time of every file that a step may read; nothing is opened.

    That is text and tasks in its language and in English, and sft/; all languages where the base is pruned
    to them. The micro-world counts by content. "" for a base that reads no data.
    """
    is_base = step.name == "base"
    if is_base and (study.base_source == "scratch" or not study.base_prune):
        return ""
    if study.preset == "nano":
        return fingerprint(RunPaths(study).world)
    root = RunPaths(study).data_root
    langs = {step.values.get("lang", study.lang), ENGLISH}
    found = []
    for path in sorted(p for kind in ("corpus", "eval", "sft") for p in (root / kind).rglob("*")):
        parts = path.relative_to(root).parts
        mine = is_base or parts[0] == "sft" or langs & {part.partition(".")[0] for part in parts}
        if mine and path.is_file() and not path.name.startswith("."):
            found.append(("/".join(parts), *_stat(path)))
    return _digest(found)


def input_key(step: Step, steps: dict[str, Step], study: Study) -> dict[str, str]:
    """Everything that a step's result depends on, hashed by name; the parameters in plain words."""
    key = {"lrnb": __version__, "package": package_hash()}
    if step.notebook:
        declared = step_params(step, study)
        key |= {"code": code_hash(step.source), "parameters": as_yaml(_placeless(declared))}
        if "data_root" in declared:
            key["data"] = data_hash(step, study)
    for need in step.needs:
        for result in steps[need].results:
            key[f"{need}/{result.parent.name}"] = fingerprint(result.parent)
    return key


def _placeless(declared: dict[str, Any]) -> dict[str, Any]:
    """Parameters without where results go, and with one spelling for every folder."""
    folders = {key: declared[key] for key in FOLDERS if declared.get(key) and Path(declared[key]).is_dir()}
    resolved = {key: str(Path(value).resolve()) for key, value in folders.items()}
    return {key: value for key, value in (declared | resolved).items() if key != "runs"}


def differences(key: dict[str, str], other: dict[str, str], keep_code: bool = False) -> list[str]:
    """Names of the inputs that differ; lrnb's own code is none of them with `keep_code`."""
    ignored = {"lrnb", "package"} if keep_code else set()
    return [name for name in sorted({*key, *other} - ignored) if key.get(name) != other.get(name)]


def is_fresh(step: Step, steps: dict[str, Step], study: Study, keep_code: bool = False) -> bool:
    """The results are there, whole, nobody else wrote them since, and they were made from today's inputs.

    With `keep_code` a change of lrnb's own code does not count; the notebook's cells still do.
    """
    made = [result for need in (step.name, *step.needs) for result in steps[need].results]
    if not step.record.is_file() or not all(path.is_file() for path in made):
        return False
    record = json.loads(step.record.read_text(encoding="utf-8"))
    if record["results"] != _result_hashes(step) or not _whole(step, record.get("files", {})):
        return False
    return not differences(record["key"], input_key(step, steps, study), keep_code)


def remember(step: Step, key: dict[str, str]) -> None:
    """Record what a finished step was made from (`input_key` before it ran) and what it made."""
    files = {name: _stat(path) for name, path, _ in _outputs(step) if path.is_file()}
    record = {"key": key, "results": _result_hashes(step), "files": files}
    write_text(step.record, json.dumps(record, indent=1))


def _result_hashes(step: Step) -> dict[str, str]:
    return {f"{path.parent.name}/{path.name}": sha256(path) for path in step.results}


def _outputs(step: Step) -> Iterator[tuple[str, Path, str]]:
    """Name, path and sha256 of every file that a step's manifests name."""
    for result in step.results:
        if result.name == MANIFEST:
            outputs = json.loads(result.read_text(encoding="utf-8"))["outputs"]
            for name, digest in outputs.items():
                yield f"{result.parent.name}/{name}", result.parent / name, digest


def _whole(step: Step, recorded: dict[str, list[int]]) -> bool:
    """Every output is there as it was; one is only read where its time changed and its size did not."""
    for name, path, digest in _outputs(step):
        if not path.is_file():
            return False
        now, then = _stat(path), recorded.get(name)
        if now != then and ((then and now[0] != then[0]) or sha256(path) != digest):
            return False
    return True


def _stat(path: Path) -> list[int]:
    """Size in bytes, time of the last change in nanoseconds."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def stamp(step: Step, study: Study) -> Path:
    """Snakemake's output file of a step; Snakemake deletes it before a run, the results stay."""
    return RunPaths(study).lang / ".stamps" / step.name


def outdated(study: Study, steps: dict[str, Step], keep_code: bool = False) -> list[str]:
    """Steps that are not up to date, and all that need them, in order."""
    found: list[str] = []
    for step in steps.values():
        if any(need in found for need in step.needs) or not is_fresh(step, steps, study, keep_code):
            found.append(step.name)
    return found


def sync_stamps(study: Study, steps: dict[str, Step], keep_code: bool = False) -> list[str]:
    """Make Snakemake's stamps say what `outdated` says; returns the steps to run."""
    todo = outdated(study, steps, keep_code)
    for step in steps.values():
        path = stamp(step, study)
        path.parent.mkdir(parents=True, exist_ok=True)
        if step.name in todo:
            path.unlink(missing_ok=True)
        else:
            path.touch()
    return todo
