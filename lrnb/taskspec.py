"""Task files: the harness's YAML format, restricted to what needs no code.

`doc_to_text` is a Jinja template (rendered in a sandbox) over a row's fields plus `language`;
options and the right index are made by `taskdata`, so `doc_to_choice` is `options` and
`doc_to_target` is `answer`; acc, acc_norm (per character) and acc_bytes (per byte of the option) are
always counted. `metadata` holds: family, metric (acc, acc_norm or acc_bytes), data
(folder under <data root>/eval/), sft (English training rows under the data root, or null), labels
(the class names in the file; without it the labels of the rows themselves).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lrnb.params import UserError

FOLDER = Path(__file__).parent / "tasks"
FAMILIES = (
    "text_classification",
    "reading_comprehension",
    "response_selection",
    "math",
    "translation_selection",
)
METRICS = ("acc", "acc_norm", "acc_bytes")
KEYS = {
    "task",
    "output_type",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "metric_list",
    "metadata",
}
_JINJA = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
)


@dataclass(frozen=True)
class Spec:
    """One task file, checked. `delimiter` stands between prompt and option."""

    name: str
    family: str
    metric: str
    data: str
    sft: str | None
    labels: tuple[str, ...]
    template: jinja2.Template
    delimiter: str
    fewshot_delimiter: str
    path: Path


def available() -> list[str]:
    """Names of the packaged tasks."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def spec(name: str) -> Spec:
    """The task `name` of the package ("topic", "topic_en"), or the task file at the path `name`.

    Raises UserError for an unknown name (with the nearest) and for a file that breaks the rules.
    """
    if name.endswith((".yaml", ".yml")):
        return read_spec(Path(name))
    for candidate in (name, name.removesuffix("_en")):
        if (FOLDER / f"{candidate}.yaml").is_file() and Path(candidate).name == candidate:
            return read_spec(FOLDER / f"{candidate}.yaml")
    near = difflib.get_close_matches(name, available(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"unknown task {name!r}; {hint}known: {', '.join(available())} (with _en for English), "
        "or give the path of a task file (.yaml)"
    )


def read_spec(path: Path) -> Spec:
    """Reads and checks one task file. Tags as `!function` and keys that run code are refused."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"task file {path} does not exist; give the path of a .yaml file") from None
    except yaml.constructor.ConstructorError as error:
        raise UserError(
            f"{path}: {error.problem}; task files may not run code (!function): "
            "use a Jinja template over the row's fields instead"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid YAML ({error}); mend it and run again") from None
    return _checked(raw, path)


def _checked(raw: Any, path: Path) -> Spec:
    meta = raw.get("metadata") if isinstance(raw, dict) else None
    if not isinstance(meta, dict) or not {"family", "metric", "data"} <= meta.keys():
        raise UserError(f"{path}: metadata needs family, metric and data; see {FOLDER / 'topic.yaml'}")
    _refuse_unknown(raw, path)
    if meta["family"] not in FAMILIES or meta["metric"] not in METRICS:
        raise UserError(f"{path}: family is one of {FAMILIES}, metric one of {METRICS}")
    labels = raw.get("doc_to_choice", "options")
    labels = meta.get("labels") or (labels if isinstance(labels, list) else ())
    return Spec(
        name=str(raw["task"]),
        family=meta["family"],
        metric=meta["metric"],
        data=_inside(meta["data"], path),
        sft=_inside(meta["sft"], path) if meta.get("sft") else None,
        labels=tuple(str(label) for label in labels),
        template=_template(raw["doc_to_text"], path),
        delimiter=raw.get("target_delimiter", " "),
        fewshot_delimiter=raw.get("fewshot_delimiter", "\n\n"),
        path=path,
    )


def _refuse_unknown(raw: dict[str, Any], path: Path) -> None:
    if unknown := sorted(raw.keys() - KEYS):
        raise UserError(f"{path}: {unknown[0]!r} is not allowed here; allowed: {sorted(KEYS)}")
    if raw.get("output_type") != "multiple_choice":
        raise UserError(f"{path}: output_type must be multiple_choice")
    if not raw.get("task") or not isinstance(raw.get("doc_to_text"), str):
        raise UserError(f"{path}: 'task' (a name) and 'doc_to_text' (a template) are needed")


def _inside(value: Any, path: Path) -> str:
    relative = Path(str(value))
    if relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{path}: {value!r} must be a path inside the data root")
    return str(relative)


def _template(text: str, path: Path) -> jinja2.Template:
    try:
        return _JINJA.from_string(text)
    except jinja2.TemplateError as error:
        raise UserError(f"{path}: doc_to_text is no valid template ({error})") from None
