"""The study's parameters: one flat, typed, documented list; YAML files; what each notebook declares.

Values come from four places, later ones win: the defaults below, `params/preset/<preset>.yaml`,
`params/<lang>.yaml` (whose sections named like a preset count for that preset only), `--set key=value`.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

ROOT = Path(__file__).resolve().parent.parent
SYNTHETIC = ("qaa", "qab")
ENGLISH = "en"  # the `lang` of stages that all languages share
PRESETS = ("nano", "smol", "released", "paper")
Share = Field(ge=0, le=1)


class UserError(Exception):
    """Something the user can mend; the message says what, where, and what to do next."""


class Study(BaseModel):
    """Every parameter of a study. Units and ranges stand beside the name; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, validate_default=True, protected_namespaces=()
    )

    # which study
    preset: Literal["nano", "smol", "released", "paper"] = "nano"
    lang: str = Field("qaa", pattern=r"^[a-z]{2,3}$")  # language X, ISO 639 code
    lang_name: str = ""
    script: str = ""  # Unicode script name of X, as in regex's \p{Script=...}
    seed: int = Field(0, ge=0)
    runs: str = "runs"  # folder of all results
    data_root: str = ""  # folder with corpus/, eval/, sft/; "" uses $LRNB_DATA (nano: the micro-world)
    threads: int = Field(1, ge=1)  # CPU threads of one job
    precision: Literal["fp32", "bf16"] = "fp32"  # of the arithmetic in training; weights stay float32
    device: Literal["auto", "cpu", "cuda"] = "auto"

    # base
    base_source: str = "scratch"  # scratch | gguf:gemma3-270m | gguf:smollm2 | folder or Hub id
    base_prune: bool = False  # keep only the vocabulary that the data root uses
    base_width: int = Field(128, ge=8)  # scratch only, with the five below
    base_layers: int = Field(4, ge=1)
    base_heads: int = Field(4, ge=1)
    base_tokens: int = Field(1_024_000, ge=1)
    base_lr: float = Field(3e-3, gt=0)
    base_batch: int = Field(16, ge=1)  # sequences a step

    # corpus
    corpus_source: Literal["local", "hub"] = "local"
    hub_dataset: str = ""
    hub_config: str = ""
    hub_files: str = ""  # pattern of the files in it, where it has no configurations
    hub_split: str = "train"
    hub_text_field: str = "text"
    hub_dataset_en: str = ""
    english_ratio: float = Field(4.0, ge=0)  # X tokens for each English token; 0: no English
    script_min_share: float = Field(0.5, ge=0, le=1)  # letters of a document in X's script
    dedup_threshold: float = Field(0.8, ge=0, le=1)  # Jaccard similarity of near duplicates; 1: exact only
    heldout_bytes: int = Field(32_768, ge=1)  # text of each language kept out of training, for bits per byte
    seq_len: int = Field(256, ge=8)  # tokens

    # continual pre-training
    ct_budgets: list[int] = [16_384, 65_536, 262_144]  # tokens seen, ascending, on one trajectory
    ct_lr: float = Field(4e-4, gt=0)
    ct_schedule: Literal["constant", "cosine"] = "constant"
    ct_min_lr: float = Field(0.0, ge=0)  # where the cosine ends; 0: a tenth of ct_lr
    ct_batch: int = Field(16, ge=1)  # sequences a step
    micro_batch: int = Field(
        0, ge=0
    )  # sequences at once on a device, the rest accumulates; 0: the whole batch
    ct_save_tokens: int = Field(65_536, ge=1)  # tokens between resume points

    # supervised fine-tuning on English tasks
    sft_parent: str = "base"  # base | ct/<budget>
    sft_mix: dict[str, int] = {}  # task: number of English examples
    sft_epochs: int = Field(1, ge=1)
    sft_lr: float = Field(5e-4, gt=0)
    sft_min_lr: float = Field(0.0, ge=0)  # where the cosine ends; 0: a tenth of sft_lr
    sft_batch: int = Field(64, ge=1)  # examples a step
    sft_prompt_weight: float = Field(0.0, ge=0, le=1)  # weight of prompt tokens in the loss
    sft_max_len: int = Field(512, ge=8)  # tokens

    # merging: candidates; one is chosen on dev
    alphas: list[float] = [0.3, 0.5, 0.7]  # CT's share in the weighted average
    lams: list[float] = [0.5, 0.75, 1.0]  # factor on the merged task vector
    densities: list[float] = [0.2, 0.5, 0.8]  # share of entries kept by trimming, (0, 1]
    slacks: list[float] = [0.1, 0.3, 0.5]  # share of discarded SFT entries won back, [0, 1]
    trim_scope: Literal["model", "tensor"] = "model"
    zero_sign: Literal["majority", "positive"] = "majority"
    released_ct: str = ""  # Hub id of the authors' CT weights
    released_sft: str = ""

    # scoring
    tasks: list[str] = []  # scored in X
    tasks_en: list[str] = []  # scored in English
    tasks_written: list[str] = []  # answers written out, to see why they fail; in no mean; NAME_en: English
    dev_tasks: list[str] = []  # used to choose merges; [] uses every task that has a dev split
    dev_limit: int = Field(100, ge=1)  # items a task
    test_limit: int = Field(200, ge=1)  # items a task
    test_limits: dict[str, PositiveInt] = {}  # items of single tasks, over test_limit: {next_passage_en: 100}
    shots: int = Field(0, ge=0)  # solved examples before each item, in X where the task has some there
    prompts: Literal["english", "native"] = "english"  # language of the words around a task in X
    normalisation: Literal["task", "none", "token", "byte", "character"] = "task"  # of the options
    eval_batch: int = Field(16, ge=1)  # items scored at once
    group: Literal["parents", "merged"] = "parents"

    @model_validator(mode="after")
    def _check(self) -> Study:
        names = [budget_name(budget) for budget in self.ct_budgets]
        if len(set(names)) < len(names):
            raise ValueError(
                f"ct_budgets {self.ct_budgets} are named {names}: two share a folder; change one"
            )
        if self.base_prune and self.corpus_source == "hub":
            raise ValueError(
                "base_prune needs all text at hand: use corpus_source=local, or base_prune=false"
            )
        if self.ct_budgets != sorted(set(self.ct_budgets)) or not self.ct_budgets or self.ct_budgets[0] <= 0:
            raise ValueError(f"ct_budgets must be positive and ascending, got {self.ct_budgets}")
        for name in ("alphas", "densities", "slacks"):
            if any(not 0 <= value <= 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if 0 in self.densities:
            raise ValueError("densities must be above 0: density 0 keeps nothing")
        if self.lang in SYNTHETIC and self.preset != "nano":
            raise ValueError(
                f"lang {self.lang!r} is the synthetic micro-world: it goes with preset nano only"
            )
        if self.lang not in (*SYNTHETIC, ENGLISH) and self.preset == "nano":
            raise ValueError(
                f"preset nano has only the synthetic languages {SYNTHETIC}; for {self.lang!r} use smol"
            )
        return self

    @property
    def compared(self) -> list[str]:
        """The tasks that models are compared by, in X and in English."""
        return [*self.tasks, *(f"{task}_en" for task in self.tasks_en)]

    @property
    def written(self) -> list[str]:
        """`tasks_written` without those that are compared anyway."""
        return [task for task in self.tasks_written if task not in self.compared]

    @property
    def trains(self) -> bool:
        """Whether parents are trained here; preset released takes given weights, and has no CT-then-SFT."""
        return self.preset != "released"

    def declared(self) -> dict[str, Any]:
        """The values that were given, not defaulted: what a stage's manifest records."""
        return self.model_dump(include=self.model_fields_set)


def budget_name(tokens: int) -> str:
    """16384 -> '16k', 3_000_000 -> '3M', 10_000_000_000 -> '10B'; below a thousand the number itself."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if tokens >= size:
            return f"{tokens // size}{letter}"
    return str(tokens)


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"])) or "parameters"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, Study.model_fields, n=1)
            lines.append(f"unknown parameter {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif not item["loc"]:
            lines.append(item["msg"].removeprefix("Value error, "))
        else:
            lines.append(f"{key}: {item['msg']} (got {item['input']!r})")
    known = "The parameters, with units and ranges, are listed in lrnb/params.py."
    return f"{where}: " + "; ".join(lines) + f". {known}"


def validate(values: Mapping[str, Any], where: str) -> Study:
    """A Study from plain values; UserError naming `where`, the key and the nearest known name."""
    try:
        return Study.model_validate(dict(values), strict=False)
    except ValidationError as error:
        raise UserError(_explain(error, where)) from None


def here(namespace: Mapping[str, Any]) -> Study:
    """The Study that a notebook's parameters cell declares: call as `here(globals())` in the next cell."""
    return validate({k: namespace[k] for k in Study.model_fields if k in namespace}, "parameters cell")


def read_yaml(path: Path) -> dict[str, Any]:
    """A flat YAML mapping, safely loaded, no key twice. UserError with file and line otherwise."""
    import yaml

    if not path.is_file():
        choices = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"{path}: no such file. Found beside it: {choices}")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    keys = [key.value for key, _ in node.value]  # type: ignore[union-attr]
    if doubled := {key for key in keys if keys.count(key) > 1}:
        raise UserError(f"{path}: {sorted(doubled)} given twice; keep one")
    return values


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` of the command line; the value is read as YAML."""
    import yaml

    key, sep, value = text.partition("=")
    if not sep or not key.isidentifier():
        raise UserError(f"--set {text!r}: expected key=value, for example --set ct_lr=1e-4")
    parsed = yaml.safe_load(value)
    if isinstance(parsed, str) and re.fullmatch(r"[+-]?\d+(\.\d+)?[eE][+-]?\d+", parsed):
        parsed = float(parsed)  # YAML 1.1 reads 1e-4 as text
    return key, "" if parsed is None else parsed


def load_study(
    lang_yaml: Path,
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Study:
    """Resolve preset, language and overrides (later ones win). UserError on anything unknown."""
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown preset {preset!r}; presets are {', '.join(PRESETS)}.{hint}")
    language = read_yaml(Path(lang_yaml))
    sections = {name: language.pop(name, None) or {} for name in PRESETS}
    values = read_yaml(ROOT / "params" / "preset" / f"{preset}.yaml") | language | sections[preset]
    values |= dict(overrides or {}) | {"preset": preset}
    if seed is not None:
        values["seed"] = seed
    return validate(values, f"{lang_yaml} with preset {preset}")


def notebook_params(path: Path) -> dict[str, Any]:
    """The names and default values in a notebook's cell tagged `parameters`.

    The cell holds one `name = literal` a line and nothing else. UserError otherwise, because papermill
    would accept derived values and then keep the old ones.
    """
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise UserError(f"{path}: {len(tagged)} cells are tagged `parameters`; exactly one must be")
    source = "".join(tagged[0]["source"])
    try:
        return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}  # type: ignore[attr-defined]
    except (AttributeError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: parameters cell: one `name = literal` a line, please ({error})") from None
