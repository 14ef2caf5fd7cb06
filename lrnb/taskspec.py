"""Task files: the harness's YAML format, restricted to what needs no code.

`doc_to_text` is a Jinja template (rendered in a sandbox) over a row's fields plus `language`; options and
the right index are made by `taskdata`. `output_type` is multiple_choice or generate_until; a file of the
second kind has `generation_kwargs` (until, max_gen_toks).

`metadata` holds: family; metric, the number that is reported (METRICS: acc without normalisation,
acc_tokens, acc_bytes, acc_norm per token, byte and character of the option, exact_match for generated
answers); data, the folder under <data root>/eval/; sft (English training rows under the data root, or
null); labels (class names; without it those of the rows); native (prompts by language, see
`tasks/native/`); hub (where the rows are on the Hub, see `hubrows`); cloze_from (another folder under
<data root>/eval/, of whose rows cloze items are made where `data` has none, see `cloze`); number (the
answer in a generated text: its `last` or `first` number, or `text`: all of it).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lrnb.params import UserError
from lrnb.writing import RULES

FOLDER = Path(__file__).parent / "tasks"
FAMILIES = (
    "text_classification",
    "reading_comprehension",
    "response_selection",
    "math",
    "translation_selection",
)
#: how an option's log-likelihood is normalised -> the name of the metric
NORMALISATIONS = {"none": "acc", "token": "acc_tokens", "byte": "acc_bytes", "character": "acc_norm"}
METRICS = {"multiple_choice": tuple(NORMALISATIONS.values()), "generate_until": ("exact_match",)}
KEYS = {
    *("task", "output_type", "doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter"),
    *("fewshot_delimiter", "metric_list", "generation_kwargs", "metadata"),
}
TYPES = {  # of values that are not checked otherwise
    **dict.fromkeys(("task", "target_delimiter", "fewshot_delimiter", "data", "sft", "cloze_from"), str),
    "labels": list,
    "generation_kwargs": dict,
    "native": dict,
}
META = {
    *("version", "family", "metric", "chance", "data", "sft", "labels", "native", "hub", "number"),
    "cloze_from",
}
JINJA = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
)


@dataclass(frozen=True)
class Prompt:
    """How a row is shown: a template, and the words for the labels where they are translated."""

    template: jinja2.Template
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """One task file, checked. `delimiter` stands between prompt and answer."""

    name: str
    family: str
    metric: str
    data: str
    sft: str | None
    labels: tuple[str, ...]
    prompt: Prompt
    delimiter: str
    fewshot_delimiter: str
    path: Path
    kind: str = "multiple_choice"
    native: dict[str, Any] = field(default_factory=dict)  # language -> as in tasks/native/<lang>.yaml
    hub: dict[str, Any] | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    number: str = "last"
    cloze_from: str | None = None

    def prompt_in(self, lang: str, prompts: str) -> Prompt:
        """The prompt in English or, for `native`, in the language. UserError where there is none."""
        if prompts == "english" or lang == "en":
            return self.prompt
        given = self.native.get(lang) or native_prompts(lang).get(self.name)
        if given is None:
            raise UserError(
                f"task {self.name!r} has no prompt in {lang!r}; add one to {FOLDER / 'native' / lang}.yaml "
                "or to metadata.native of the task file, or use prompts=english"
            )
        return _native(given, self)


def available() -> list[str]:
    """Names of the packaged tasks."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def spec(name: str) -> Spec:
    """The task `name` of the package ("topic", "topic_en"), or the task file at the path `name`.

    Raises UserError for an unknown name (with the nearest) and for a file that breaks the rules.
    """
    if path := file_of(name):
        return read_spec(path)
    for candidate in (name, name.removesuffix("_en")):
        if (FOLDER / f"{candidate}.yaml").is_file() and Path(candidate).name == candidate:
            return read_spec(FOLDER / f"{candidate}.yaml")
    near = difflib.get_close_matches(name, available(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"unknown task {name!r}; {hint}known: {', '.join(available())} (with _en for English), "
        "or give the path of a task file (.yaml), or harness:NAME for a task of lm-evaluation-harness"
    )


def file_of(name: str) -> Path | None:
    """The task file that `name` is the path of (with _en for its English version), or None."""
    path = name.removesuffix("_en")
    return Path(path) if path.endswith((".yaml", ".yml")) else None


def native_prompts(lang: str) -> dict[str, Any]:
    """The packaged prompts in a language by task; {} where there are none."""
    path = FOLDER / "native" / f"{lang}.yaml"
    return read_file(path) if path.is_file() else {}


def read_spec(path: Path) -> Spec:
    """Reads and checks one task file. Tags as `!function` and keys that run code are refused."""
    return _checked(read_file(path), path)


def read_file(path: Path) -> Any:
    """YAML without code. UserError for a missing, unreadable or broken file and for tags as `!function`."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"task file {path} does not exist; give the path of a .yaml file") from None
    except IsADirectoryError:
        raise UserError(f"task file {path} is a folder; give the path of a .yaml file in it") from None
    except OSError as error:
        raise UserError(
            f"task file {path} cannot be read ({error.strerror or error}); "
            "check the path and the file's permissions and run again"
        ) from None
    except yaml.constructor.ConstructorError as error:
        raise UserError(
            f"{path}: {error.problem}; task files may not run code (!function): "
            "use a Jinja template over the row's fields instead"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid YAML ({error}); mend it and run again") from None


def _checked(raw: Any, path: Path) -> Spec:
    meta = raw.get("metadata") if isinstance(raw, dict) else None
    if not isinstance(meta, dict) or not {"family", "metric", "data"} <= meta.keys():
        raise UserError(f"{path}: metadata needs family, metric and data; see {FOLDER / 'topic.yaml'}")
    _refuse_unknown(raw, path)
    kind, number = raw["output_type"], meta.get("number", "last")
    if meta["family"] not in FAMILIES or meta["metric"] not in METRICS[kind] or number not in RULES:
        raise UserError(
            f"{path}: family is one of {FAMILIES}, metric of {kind} one of {METRICS[kind]}, number {RULES}"
        )
    _refuse_wrong_types(raw, path)
    labels = raw.get("doc_to_choice", "options")
    labels = meta.get("labels") or (labels if isinstance(labels, list) else ())
    return Spec(
        name=str(raw["task"]),
        family=meta["family"],
        metric=meta["metric"],
        data=inside(meta["data"], path),
        sft=inside(meta["sft"], path) if meta.get("sft") else None,
        labels=tuple(str(label) for label in labels),
        prompt=Prompt(template(raw["doc_to_text"], path)),
        delimiter=raw.get("target_delimiter", " "),
        fewshot_delimiter=raw.get("fewshot_delimiter", "\n\n"),
        path=path,
        kind=kind,
        native=meta.get("native") or {},
        hub=meta.get("hub"),
        generation=_generation(raw, path),
        number=number,
        cloze_from=inside(meta["cloze_from"], path) if meta.get("cloze_from") else None,
    )


def _refuse_unknown(raw: dict[str, Any], path: Path) -> None:
    for keys, known in ((raw.keys(), KEYS), (raw["metadata"].keys(), META)):
        if unknown := sorted(map(str, keys - known)):
            raise UserError(f"{path}: {unknown[0]!r} is not allowed here; allowed: {sorted(known)}")
    if raw.get("output_type") not in tuple(METRICS):
        raise UserError(f"{path}: output_type must be multiple_choice or generate_until")
    if not raw.get("task") or not isinstance(raw.get("doc_to_text"), str):
        raise UserError(f"{path}: 'task' (a name) and 'doc_to_text' (a template) are needed")


def _refuse_wrong_types(raw: dict[str, Any], path: Path) -> None:
    """UserError for a value that is not of its key's type; keys that are absent or null pass."""
    for key, kind in TYPES.items():
        value = raw.get(key, raw["metadata"].get(key))
        if value is not None and not isinstance(value, kind):
            wanted = {str: "a text", list: "a list", dict: "a mapping"}[kind]
            raise UserError(f"{path}: {key} must be {wanted}, not {value!r}")
    for lang, given in (raw["metadata"].get("native") or {}).items():
        _check_native(given, f"{path}: native prompt in {lang!r}")


def _check_native(given: Any, where: str) -> None:
    given = {"doc_to_text": given} if isinstance(given, str) else given
    if not isinstance(given, dict) or not isinstance(given.get("doc_to_text"), str):
        raise UserError(f"{where} must be a template, or doc_to_text (a template) with labels")
    if not isinstance(given.get("labels", {}), dict):
        raise UserError(f"{where}: labels must be a mapping from each label to its word")


def _generation(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    if raw["output_type"] == "multiple_choice":
        return {}
    given = raw.get("generation_kwargs") or {}
    stops, most = given.get("until"), given.get("max_gen_toks")
    texts = isinstance(stops, list) and stops and all(isinstance(s, str) and s for s in stops)
    if not texts or not isinstance(most, int) or most < 1 or given.keys() - {"until", "max_gen_toks"}:
        raise UserError(f"{path}: generation_kwargs needs until (a list of texts) and max_gen_toks, no more")
    return {"until": stops, "max_gen_toks": most, "do_sample": False}


def inside(value: Any, path: Path) -> str:
    """A relative path that stays inside its folder. UserError otherwise."""
    relative = Path(str(value))
    if relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{path}: {value!r} must be a path inside the data root, without ..")
    return str(relative)


def template(text: str, path: Path) -> jinja2.Template:
    """A sandboxed template. UserError naming the file where it is none."""
    try:
        return JINJA.from_string(text)
    except jinja2.TemplateError as error:
        raise UserError(f"{path}: doc_to_text is no valid template ({error})") from None


def _native(given: Any, task: Spec) -> Prompt:
    given = {"doc_to_text": given} if isinstance(given, str) else given
    labels = given.get("labels", {})
    if missing := [label for label in task.labels if labels and label not in labels]:
        raise UserError(f"native labels of {task.name!r} lack {missing[0]!r}; translate every label, or none")
    words = tuple(str(labels[label]) for label in task.labels) if labels else ()
    return Prompt(template(given["doc_to_text"], task.path), words)
