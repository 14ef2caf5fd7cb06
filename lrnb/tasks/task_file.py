"""Task files: the harness's YAML format, restricted to what needs no code.

`doc_to_text` is a Jinja template (rendered in a sandbox) over a row's fields plus `language`; options and
the right index are made by `rows`. The keys are the fields of the classes below; `chance`, `version`,
`metric_list` and `doc_to_target` are for readers of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from lrnb.data.unicode_form import nfc
from lrnb.errors import UserError, did_you_mean
from lrnb.study.languages import configuration
from lrnb.study.odd_files import refuse_odd_file
from lrnb.study.parameters import ENGLISH
from lrnb.tasks.prompt_values import Null, is_flag, printable

FOLDER = Path(__file__).parent / "files"
#: how an option's log-likelihood is normalised -> the name of the metric
NORMALISATIONS = {"none": "acc", "token": "acc_tokens", "byte": "acc_bytes", "character": "acc_norm"}
OPTIONS, LETTERED = "options", "letters"  # what is scored: the options, or their letters, shown in the prompt
METRICS = {"multiple_choice": tuple(NORMALISATIONS.values()), "generate_until": ("exact_match",)}
EXPECTED = {  # kinds of pydantic's errors -> what a value must do
    **{"string_type": "be a text", "string_too_short": "be a text that is not empty"},
    **{"list_type": "be a list", "dict_type": "be a mapping", "model_type": "be a mapping"},
    **{"int_type": "be a whole number", "too_short": "have one entry or more"},
}
JINJA = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=printable
)
JINJA.tests["none"] = lambda value: value is None or isinstance(value, Null)
JINJA.tests["boolean"] = is_flag
JINJA.tests["true"] = lambda value: is_flag(value) and bool(value)
JINJA.tests["false"] = lambda value: is_flag(value) and not value


def inside(value: str) -> str:
    """A relative path that stays inside its folder. ValueError otherwise."""
    path = Path(value)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} must be a path inside the data root, without ..")
    return str(path)


def _template(text: str) -> str:
    try:
        JINJA.from_string(text)
    except jinja2.TemplateError as error:
        raise ValueError(f"no valid template ({error})") from None
    return text


def _choices(given: Any) -> Any:
    if not isinstance(given, list) and given not in (OPTIONS, LETTERED):
        raise ValueError(f"must be {OPTIONS}, {LETTERED} or a list of labels, not {given!r}")
    return given


def _listed(given: Any) -> Any:
    if not isinstance(given, str | list):
        raise ValueError(f"must be a text or a list of texts, not {given!r}")
    return [given] if isinstance(given, str) else given


def _codes(given: Any) -> Any:
    if not isinstance(given, dict | list) or not given or not all(given):
        raise ValueError(
            f"must map languages to codes, or list configurations such as kaz_Cyrl, not {given!r}"
        )
    return given


def _nfc_both(labels: dict[str, Any]) -> dict[str, Any]:
    return {nfc(label): nfc(word) for label, word in labels.items()}


Text = Annotated[str, Field(min_length=1)]
Inside = Annotated[Text, AfterValidator(inside)]
Entries = Annotated[dict[str, Any], Field(min_length=1)]
Codes = Annotated[Any, BeforeValidator(_codes)]
Names = Annotated[list[Text], Field(min_length=1), BeforeValidator(_listed)]
Words = Annotated[list[Any], AfterValidator(nfc)]  # seen in prompts; templates are NFC once they are filled


class Strict(BaseModel):
    """Keys of a YAML mapping: unknown ones are refused with the nearest, null counts as absent."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        known = [field.alias or name for name, field in cls.model_fields.items()]
        if unknown := [str(key) for key in given if key not in known]:
            hint = did_you_mean(unknown[0], known) or f"; allowed: {', '.join(known)}"
            raise ValueError(f"{unknown[0]!r} is not allowed here{hint}")
        return {key: value for key, value in given.items() if value is not None}


class Native(Strict):
    """A prompt in a language: its template, and the words for the labels where they are translated."""

    doc_to_text: str
    labels: Annotated[dict[str, Any], AfterValidator(_nfc_both)] = {}

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        if not isinstance(given, str | dict):
            raise ValueError("must be a template, or doc_to_text (a template) with labels")
        return {"doc_to_text": given} if isinstance(given, str) else given


class Generation(Strict):
    """When a written answer ends."""

    until: Annotated[list[Text], AfterValidator(nfc)] = Field(min_length=1)
    max_gen_toks: PositiveInt


class Hub(Strict):
    """Where the rows are on the Hub (see `hub`)."""

    path: Inside
    code: Codes  # language -> its code there; or a list of configurations such as kaz_Cyrl
    scripts: dict[str, Text] = {}  # language -> the script of its rows, of those that have several
    splits: dict[str, Names] = Field(min_length=1)  # test, dev, train -> the name there, or several
    columns: Entries = Field(alias="fields")  # our field -> a Jinja expression over the row
    config: str = "{code}"  # {code} and {split} are filled in, as in `files`
    files: Names = []  # where the file may be in the data set, tried in this order

    def code_of(self, lang: str, script: str = "") -> str:
        """What the data set calls a language in this script, if one is given; "" where it has none."""
        if isinstance(self.code, dict):
            other = script and self.scripts.get(lang, script) != script
            return "" if other else str(self.code.get(lang, ""))
        return configuration(self.code, lang, "" if lang == ENGLISH else script)


class Metadata(Strict):
    """What the study knows of a task beside the harness's keys."""

    family: Literal[
        "text_classification", "reading_comprehension", "response_selection", "math", "translation_selection"
    ]
    metric: str  # the number that is reported, one of METRICS
    data: Inside  # the folder under <data root>/eval/
    sft: Inside | None = None  # English training rows under the data root
    labels: Words = []  # class names; without it those of the rows
    values: dict[Text, Names] = {}  # field of a row -> all that may stand there, where a prompt asks which
    native: dict[str, Native] = {}  # by language, as files/native/
    hub: Hub | None = None
    number: Literal["last", "first", "text"] = "last"  # the answer in a generated text, or all of it
    cloze_from: Inside | None = None  # another `data`, of whose rows cloze items are made (see `cloze`)
    training_sets: Literal["seed", "mean"] = "seed"  # of several: one by seed, or each item with every one
    version: Any = None
    chance: Any = None


@dataclass(frozen=True)
class TaskPrompt:
    """How a row is shown: a template, and the words for the labels where they are translated."""

    template: jinja2.Template
    labels: tuple[str, ...] = ()


class TaskSpec(Strict):
    """One task file, checked. `delimiter` stands between prompt and answer."""

    name: Text = Field(alias="task")
    kind: Literal["multiple_choice", "generate_until"] = Field(alias="output_type")
    doc_to_text: Annotated[str, AfterValidator(_template)]
    doc_to_choice: Annotated[Any, AfterValidator(_choices), AfterValidator(nfc)] = OPTIONS
    shots: NonNegativeInt = Field(0, alias="num_fewshot")  # where the study asks for none
    delimiter: Annotated[str, AfterValidator(nfc)] = Field(" ", alias="target_delimiter")
    fewshot_delimiter: Annotated[str, AfterValidator(nfc)] = "\n\n"
    generation_kwargs: Generation | None = None
    metadata: Metadata
    metric_list: Any = None
    doc_to_target: Any = None
    _path: Path

    def model_post_init(self, path: Path) -> None:
        self._path = path

    @model_validator(mode="after")
    def _of_its_kind(self) -> TaskSpec:
        if (metric := self.metadata.metric) not in (known := METRICS[self.kind]):
            raise ValueError(f"metric of {self.kind} must be one of {', '.join(known)}, not {metric!r}")
        if self.kind == "generate_until" and self.generation_kwargs is None:
            raise ValueError("generation_kwargs needs until (a list of texts) and max_gen_toks")
        return self

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def lettered(self) -> bool:
        """Whether letters are scored that stand before the options in the prompt."""
        return self.doc_to_choice == LETTERED

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names that the file gives."""
        given = self.doc_to_choice if isinstance(self.doc_to_choice, list) else []
        return tuple(str(label) for label in self.metadata.labels or given)

    def prompt_in(self, lang: str, prompts: str) -> TaskPrompt:
        """The prompt in English or, for `native`, in the language. UserError where there is none."""
        if prompts == "english" or lang == "en":
            return TaskPrompt(JINJA.from_string(self.doc_to_text))
        given = self.metadata.native.get(lang) or native_prompts(lang).get(self.name)
        if given is None:
            raise UserError(
                f"task {self.name!r} has no prompt in {lang!r}; add one to {FOLDER / 'native' / lang}.yaml "
                "or to metadata.native of the task file, or use prompts=english"
            )
        if missing := [label for label in self.labels if given.labels and label not in given.labels]:
            raise UserError(
                f"native labels of {self.name!r} lack {missing[0]!r}; translate every label, or none"
            )
        words = tuple(str(given.labels[label]) for label in self.labels) if given.labels else ()
        return TaskPrompt(JINJA.from_string(given.doc_to_text), words)


def available() -> list[str]:
    """Names of the packaged tasks."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def spec(name: str) -> TaskSpec:
    """The task `name` of the package ("topic", "topic_en"), or the task file at the path `name`.

    Raises UserError for an unknown name (with the nearest) and for a file that breaks the rules.
    """
    if path := file_of(name):
        return read_spec(path)
    if path := packaged(name):
        return read_spec(path)
    raise UserError(
        f"unknown task {name!r}; known: {', '.join(available())} (with _en for English), "
        "or give the path of a task file (.yaml), or harness:NAME for a task of lm-evaluation-harness"
        f"{did_you_mean(name, available())}"
    )


def packaged(name: str) -> Path | None:
    """The package's own file of the task `name` ("topic", "topic_en"), or None."""
    paths = [FOLDER / f"{n}.yaml" for n in (name, name.removesuffix("_en")) if Path(n).name == n]
    return next((path for path in paths if path.is_file()), None)


def file_of(name: str) -> Path | None:
    """The task file that `name` is the path of (with _en for its English version), or None."""
    path = name.removesuffix("_en")
    return Path(path) if path.endswith((".yaml", ".yml")) else None


def asked_in(name: str, task: TaskSpec, lang: str) -> str:
    """English where `name` asks for the English version of `task` ("topic_en", "my.yaml_en"), else `lang`."""
    return ENGLISH if name.endswith("_en") and (file_of(name) or name == f"{task.name}_en") else lang


def result_name(name: str, task: TaskSpec) -> str:
    """What results call the task that `name` asks for: its own name, not the path of its file, and _en."""
    return task.name + "_en" * name.endswith("_en") if file_of(name) else name


def native_prompts(lang: str) -> dict[str, Native]:
    """The packaged prompts in a language by task; {} where there are none."""
    path = FOLDER / "native" / f"{lang}.yaml"
    given = read_file(path) if path.is_file() else {}
    return {task: checked(Native, prompt, path) for task, prompt in given.items()}


def read_spec(path: Path) -> TaskSpec:
    """Reads and checks one task file. Tags as `!function` and keys that run code are refused."""
    return checked(TaskSpec, read_file(path), path)


def read_file(path: Path) -> Any:
    """YAML without code. UserError for a missing, unreadable or broken file and for tags as `!function`."""
    try:
        if path.exists() and not path.is_dir():
            refuse_odd_file(path)
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{path} cannot be read ({why}); give a .yaml file that you may read") from None
    except yaml.constructor.ConstructorError as error:
        raise UserError(
            f"{path}: {error.problem}; task files may not run code (!function): "
            "use a Jinja template over the row's fields instead"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid YAML ({error}); mend it and run again") from None


Checked = TypeVar("Checked", bound=Strict)


def checked(model: type[Checked], given: Any, path: Path) -> Checked:
    """What the file at `path` holds, as a `model`. UserError names file, key and what is expected."""
    try:
        return model.model_validate(given, context=path)
    except ValidationError as error:
        wrong = "; ".join(dict.fromkeys(_explain(found) for found in error.errors()))
        raise UserError(f"{path}: {wrong}. Task files to compare are in {FOLDER}") from None


def _explain(error: Any) -> str:
    key, given = ".".join(map(str, error["loc"])), error["input"]
    if expected := EXPECTED.get(error["type"]):
        return f"{key or 'a task file'} must {expected}, not {given!r}"
    if error["type"] == "literal_error":
        return f"{key} must be one of {error['ctx']['expected']}, not {given!r}"
    message = "is missing" if error["type"] == "missing" else error["msg"].removeprefix("Value error, ")
    return f"{key} {message}".strip()
