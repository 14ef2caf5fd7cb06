"""The study's parameters: one flat, typed, documented list; YAML files.

Values come from four places, later ones win: the defaults below, `params/preset/<preset>.yaml`,
`params/<lang>.yaml` (whose sections named like a preset count for that preset only), `--set key=value`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import regex
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from lrnb.errors import UserError, did_you_mean
from lrnb.study.files import from_home
from lrnb.study.languages import known_languages

ROOT = Path(__file__).resolve().parents[2]  # of the checkout; see `require_checkout`
LANGUAGES = {
    "en": "English", "bn": "Bengali", "bo": "Tibetan", "kk": "Kazakh", "km": "Khmer", "mn": "Mongolian",
    "or": "Odia", "ta": "Tamil", "te": "Telugu", "ug": "Uyghur", "qaa": "Micro-world A",
    "qab": "Micro-world B", "qac": "Micro-world C", "qad": "Micro-world D", "qae": "Micro-world E",
    "qaf": "Micro-world F", "qag": "Micro-world G", "qah": "Micro-world H",
}  # fmt: skip  # as in params/, for prompts where lrnb is installed without it
SYNTHETIC = ("qaa", "qab", "qac", "qad", "qae", "qaf", "qag", "qah")
ENGLISH = "en"  # the `lang` of stages that all languages share
GIVEN_WEIGHTS = ("released", "released-qwen", "released-qwen-3b")  # presets that train nothing
SftLists = dict[Literal["sft", "ct_then_sft"], dict[Literal["lr", "epochs"], list[PositiveFloat]]]
PRESETS = ("nano", "smol", *GIVEN_WEIGHTS, "paper")
TASK_LISTS = (
    "tasks",
    "tasks_en",
    "tasks_written",
    "tasks_language",
    "dev_tasks",
)  # names, or paths of task files
TASK_COUNTS = ("sft_mix", "test_limits")  # items of tasks by such names
MODEL_FOLDERS = (
    "base_source",
    "released_ct",
    "released_sft",
)  # may be a model's folder, as values of extra_models


class Study(BaseModel):
    """Every parameter of a study. Units and ranges stand beside the name; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    # which study
    preset: Literal["nano", "smol", "released", "released-qwen", "released-qwen-3b", "paper"] = (
        "nano"  # how big the study is
    )
    lang: str = Field("qaa", pattern=r"^[a-z]{2,3}$")  # language X, ISO 639 code
    lang_name: str = ""  # English name of X, as prompts have it
    script: str = ""  # Unicode script name of X, as in regex's \p{Script=...}
    seed: int = Field(0, ge=0)  # of everything that is drawn
    runs: str = Field("runs", min_length=1)  # folder of all results
    data_root: str = ""  # folder with corpus/, eval/, sft/; "" uses $LRNB_DATA (nano: the micro-world)
    threads: int = Field(1, ge=1)  # CPU threads of one job
    precision: Literal["fp32", "bf16"] = "fp32"  # of the arithmetic in training; weights stay float32
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda or cpu; mps, of Apple, is untested
    devices: PositiveInt | Literal["auto"] = 1  # on which CT and SFT train, a process each; auto: all GPUs
    nodes: int = Field(1, ge=1)  # machines with as many devices each; by Slurm
    sharding: Literal["none", "full"] = "none"  # none: each device has all weights; full: a part (FSDP2)
    activation_checkpointing: bool = False  # in training: less memory, a third more computing
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"  # of CT and SFT; 8bit: its moments, by torchao
    log_to: Literal["none", "tensorboard", "wandb"] = "none"  # where CT and SFT can be watched meanwhile

    # base
    base_source: str = "scratch"  # scratch | gguf:gemma3-270m | gguf:smollm2 | folder or Hub id
    base_prune: bool = False  # keep only the vocabulary that the data root uses
    base_width: int = Field(128, ge=8)  # scratch only, with the five below
    base_layers: int = Field(4, ge=1)
    base_heads: int = Field(4, ge=1)
    base_tokens: int = Field(1_024_000, ge=1)  # tokens it is trained on
    base_lr: float = Field(3e-3, gt=0)  # peak learning rate of AdamW
    base_batch: int = Field(16, ge=1)  # sequences a step

    # micro-world, preset nano
    world_languages: int = Field(2, ge=1, le=8)  # invented languages, the first ones of qaa to qah
    world_shared_roots: float = Field(0.0, ge=0, le=1)  # words that the others have from the first one
    world_shared_script: bool = False  # all in the script of the first one
    world_tokens: int = Field(400_000, ge=1)  # words of text for CT in each language
    base_bilingual: float = Field(0.08, ge=0, le=1)  # of the base's documents: the same in English and X
    base_alone: float = Field(0.02, ge=0, le=1)  # in X only; both are the share of each language

    # corpus
    corpus_source: Literal["local", "hub"] = "local"  # local: corpus/ of the data root
    hub_dataset: str = ""  # text in X; "" takes FineWeb-2
    hub_config: str = ""  # its configuration, where it has several
    hub_files: str = ""  # pattern of the files in it, where it has no configurations
    hub_split: str = "train"  # its split to train on
    hub_text_field: str = "text"  # its field that holds the text
    hub_dataset_en: str = ""  # English text; "" takes a sample of FineWeb
    hub_files_en: str = ""  # pattern of its files
    english_ratio: float = Field(4.0, ge=0)  # X tokens for each English token; 0: no English
    script_min_share: float = Field(0.5, ge=0, le=1)  # letters of a document in X's script
    dedup_threshold: float = Field(0.8, ge=0, le=1)  # Jaccard similarity of near duplicates; 1: exact only
    language_check: str = ""  # lid.176 or a fastText model's path: documents surely in another language go
    heldout_bytes: int = Field(32_768, ge=1)  # text of each language kept out of training, for bits per byte
    seq_len: int = Field(256, ge=8)  # tokens
    extend_vocabulary: int = Field(0, ge=0)  # tokens of X that the base gets before CT; 0: none

    # continual pre-training
    ct_budgets: list[int] = [16_384, 65_536, 262_144]  # tokens seen, ascending, on one trajectory
    ct_epochs: int = Field(1, ge=1)  # passes over a corpus at most, each in an order of its own
    ct_lr: float = Field(4e-4, gt=0)  # peak learning rate of AdamW
    ct_schedule: Literal["constant", "cosine"] = "constant"  # of the learning rate
    ct_min_lr: float = Field(0.0, ge=0)  # where the cosine ends; 0: a tenth of ct_lr
    ct_batch: int = Field(16, ge=1)  # sequences a step, over all devices
    micro_batch: int = Field(
        0, ge=0
    )  # sequences at once on a device, the rest accumulates; 0: its whole share of the batch
    ct_save_tokens: int = Field(65_536, ge=1)  # tokens between resume points

    # what CT and SFT train
    adapter: Literal["none", "lora"] = "none"  # all weights, or LoRA, written as dense weights
    lora_rank: int = Field(64, ge=1)  # of the two small matrices beside each layer
    lora_modules: list[str] = []  # names of linear layers: [q_proj, v_proj]; []: all but the head

    # supervised fine-tuning on English tasks
    sft_parent: str = "base"  # base | ct/<budget>
    sft_mix: dict[str, PositiveInt] = {}  # task: number of English examples
    sft_dataset: str = ""  # English instructions beside it, of the Hub or in hub/ of the data root; "": none
    sft_files: str = ""  # pattern of its files
    sft_fields: list[str] = Field(["inputs", "targets"], min_length=2, max_length=2)  # instruction, answer
    sft_rows: int = Field(0, ge=0)  # examples of it, drawn by seed
    sft_epochs: int = Field(1, ge=1)  # passes over the examples
    sft_lr: float = Field(5e-4, gt=0)  # peak learning rate of AdamW
    sft_min_lr: float = Field(0.0, ge=0)  # where the cosine ends; 0: a tenth of sft_lr
    sft_horizon: int = Field(0, ge=0)  # steps of the cosine over sft_epochs, all or more; 0: those taken
    sft_batch: int = Field(64, ge=1)  # examples a step, over all devices
    sft_prompt_weight: float = Field(0.0, ge=0, le=1)  # weight of prompt tokens in the loss
    sft_max_len: int = Field(512, ge=8)  # tokens
    sft_x: dict[str, str] = {}  # NAME: folder with rows in X, arms of their own beside SFT on English ones
    sft_x_name: str = ""  # whose rows a notebook trains on, merges or scores, "" English; set by lrnb run

    # candidates on dev for every arm: merges and CT-then-SFT in X at each budget, SFT-en in English
    tuning_trials: int = Field(6, ge=1)  # how many an arm, the same for all
    sft_search: SftLists = {}  # {ct_then_sft: {lr: [1e-4], epochs: [2]}} in place of the usual ones of an arm
    search_by: Literal["grid", "tpe"] = (
        "grid"  # merges of a grid larger than that: spread over it, or proposed by Optuna's TPE
    )

    # merging: methods of lrnb/merging/methods, and what is tried on dev for each; one candidate is chosen
    methods: list[str] = ["average", "task_arithmetic", "ties", "ties_sv"]  # which merges are made
    search: dict[str, dict[str, list[float | str]]] = {}  # METHOD: {OPTION: [values]}, over the four below
    alphas: list[float] = [0.3, 0.5, 0.7]  # CT's share in the weighted average
    lams: list[float] = [0.5, 0.75, 1.0]  # factor on task vectors: task arithmetic, TIES
    densities: list[float] = [0.2, 0.5, 0.8]  # share of entries kept by trimming, (0, 1]
    slacks: list[float] = [0.1, 0.3, 0.5]  # share of discarded SFT entries won back, [0, 1]
    method: str = ""  # the one of `methods` that notebooks/02_merge/any_method makes
    vocabulary: Literal["owner", "refuse", "base", "body=ct", "body=sft", "body=base"] = (
        "owner"  # if they differ
    )
    importance_rows: int = Field(256, ge=1)  # English rows that scores of entries are made from
    keep: Literal["all", "chosen", "scores"] = (
        "chosen"  # merges that stay on disk: all, the paper's four, or none; all: CT's resume points, too
    )
    trim_scope: Literal["model", "tensor"] = "model"  # one threshold for all entries, or one a tensor
    zero_sign: Literal["majority", "positive"] = "majority"  # of a sum of 0: the more frequent one, or +
    released_ct: str = ""  # Hub id of the authors' CT weights
    released_sft: str = ""  # Hub id of the authors' SFT weights
    merge_languages: list[list[str]] = []  # whose CT goes into one merge, of one command: [[mn, ug]]
    set_languages: list[str] = []  # of one command, whose sets 03_analysis/10_sets merges: [ta, te, bn]
    sets_each: int = Field(6, ge=1)  # how many sets of each size above two, drawn by the seed
    extra_models: dict[str, str] = {}  # NAME: folder or Hub id; made elsewhere, compared like a merge

    # scoring
    tasks: list[str] = []  # scored in X
    tasks_en: list[str] = []  # scored in English
    tasks_written: list[str] = []  # answers written out, to see why they fail; in no mean; NAME_en: English
    tasks_language: list[
        str
    ] = []  # minimal pairs, as harness:multiblimp_tam: the language itself; in no mean
    dev_tasks: list[str] = []  # used to choose merges; [] uses every task that has a dev split
    dev_limit: int = Field(100, ge=1)  # items a task
    dev_folds: int = Field(1, ge=1, le=50)  # parts of dev; a merge chosen without one is scored on it; 1: off
    test_limit: int = Field(200, ge=1)  # items a task
    test_limits: dict[str, PositiveInt] = {}  # items of single tasks, over test_limit: {next_passage_en: 100}
    shots: int = Field(0, ge=0)  # solved examples before each item, in X where the task has some there
    prompts: Literal["english", "native"] = "english"  # language of the words around a task in X
    normalisation: Literal["task", "none", "token", "byte", "character"] = "task"  # of the options
    eval_batch: int = Field(16, ge=1)  # items scored at once
    eval_precision: Literal["auto", "fp32", "bf16"] = "auto"  # in scoring; auto: bf16 on a GPU, else fp32
    group: Literal["parents", "merged", "sft_x"] = "parents"  # models that a notebook scores; set by lrnb run

    # retention per task, notebooks/03_analysis/08_retention
    retention: int = Field(0, ge=0)  # the one of ct_budgets at which it is measured; 0: it is not

    # saying
    margin: float = Field(2.0, ge=0)  # points: an interval within +-margin is called the same; 0: none is

    @model_validator(mode="before")
    @classmethod
    def _from_home(cls, given: Any) -> Any:
        return {name: _at_home(value) for name, value in given.items()} if isinstance(given, dict) else given

    @model_validator(mode="before")
    @classmethod
    def _refuse_flags(cls, given: Any) -> Any:
        """true would be taken for 1, and no, the code of Norwegian, is false in YAML."""
        for name, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(name)
            if field and field.annotation is not bool and _holds_flag(value):
                raise ValueError(
                    f"{name}: holds true or false, where a number or a text is expected (YAML reads no, yes, "
                    "on and off so: quote them)"
                )
        return given

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
        if self.extend_vocabulary and not self.trains:
            raise ValueError(
                "extend_vocabulary goes with CT that is trained; preset released takes it as it is"
            )
        if self.extend_vocabulary and self.vocabulary == "refuse":
            raise ValueError(
                "extend_vocabulary makes vocabularies differ, and vocabulary=refuse refuses to merge"
            )
        if self.ct_budgets != sorted(set(self.ct_budgets)) or not self.ct_budgets or self.ct_budgets[0] <= 0:
            raise ValueError(f"ct_budgets must be positive and ascending, got {self.ct_budgets}")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods: give at least one, each once; got {self.methods}")
        if self.lang in SYNTHETIC and self.preset != "nano":
            raise ValueError(
                f"lang {self.lang!r} is the synthetic micro-world: it goes with preset nano only"
            )
        if self.lang not in (*SYNTHETIC, ENGLISH) and self.preset == "nano":
            raise ValueError(
                f"preset nano has only the synthetic languages {SYNTHETIC}; for {self.lang!r} use smol"
            )
        return self

    @model_validator(mode="after")
    def _check_sft(self) -> Study:
        if bool(self.sft_dataset) != bool(self.sft_rows):
            raise ValueError(
                f"sft_dataset {self.sft_dataset!r} and sft_rows {self.sft_rows} go together: name a set, and "
                "how many of its rows are examples"
            )
        return self

    @model_validator(mode="after")
    def _check_adapter(self) -> Study:
        if self.adapter != "none" and self.sharding == "full":
            raise ValueError("adapter lora goes with sharding=none: its gradients and moments are small")
        return self

    @model_validator(mode="after")
    def _check_mps(self) -> Study:
        fit: dict[str, list[Any]] = {"precision": ["fp32"], "eval_precision": ["auto", "fp32"]}
        fit |= {"devices": [1, "auto"], "nodes": [1]}
        for name, values in fit.items():
            if self.device == "mps" and (value := getattr(self, name)) not in values:
                raise ValueError(
                    f"device mps is one device and computes in float32: {name} {value} does not go with it; "
                    f"give {name}={values[0]}"
                )
        return self

    @model_validator(mode="after")
    def _check_extra_models(self) -> Study:
        for name, folder in self.extra_models.items():
            if not EXTRA_NAME.fullmatch(name) or name in PARENT_KINDS:
                raise ValueError(
                    f"extra_models: {name!r} is no name for a model; give letters, digits, - and _, and none "
                    f"of {', '.join(PARENT_KINDS)}"
                )
            if not folder.strip():
                raise ValueError(f"extra_models: {name} has no folder; give one, or a Hub id")
            if SFT_X in name:
                raise ValueError(
                    f"extra_models: {name!r}: names with {SFT_X!r} are those of sft_x; give another"
                )
        return self

    @model_validator(mode="after")
    def _check_sft_x(self) -> Study:
        for name, folder in self.sft_x.items():
            if not EXTRA_NAME.fullmatch(name) or SFT_X in name:
                raise ValueError(
                    f"sft_x: {name!r} is no name for rows; give letters, digits, - and _, such as human"
                )
            if not folder.strip():
                raise ValueError(f"sft_x: {name} has no folder; give the one that holds <task>.jsonl in X")
        if self.sft_x and not self.trains:
            raise ValueError("sft_x goes with SFT that is trained; preset released takes it as it is")
        return self

    @model_validator(mode="after")
    def _check_sft_search(self) -> Study:
        for arm, lists in self.sft_search.items():
            for name, values in lists.items():
                whole = name == "lr" or all(float(value).is_integer() for value in values)
                if not values or len(set(values)) < len(values) or not whole:
                    kind = "rates" if name == "lr" else "whole numbers"
                    raise ValueError(
                        f"sft_search: {arm}: {name}: {values}; give one or more {kind}, each once"
                    )
        return self

    @model_validator(mode="after")
    def _check_merge_languages(self) -> Study:
        for langs in self.merge_languages:
            if len(langs) < 2 or len(set(langs)) < len(langs) or not all(map(CODE.fullmatch, langs)):
                raise ValueError(f"merge_languages: {langs}; give codes of two languages or more, each once")
        langs = self.set_languages
        if langs and (len(langs) < 3 or len(set(langs)) < len(langs) or not all(map(CODE.fullmatch, langs))):
            raise ValueError(f"set_languages: {langs}; give codes of three languages or more, each once")
        if (langs or self.merge_languages) and self.extend_vocabulary:
            raise ValueError(
                f"{'set' if langs else 'merge'}_languages: with extend_vocabulary every language has tokens "
                "of its own, which no one model has; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _check_base(self) -> Study:
        if "base_source" not in self.model_fields_set:  # a notebook that does not read it
            return self
        if not self.base_source.strip():
            raise ValueError("base_source is empty: give scratch (nano), gguf:NAME, a folder or a Hub id")
        if self.preset == "nano" and self.base_source != "scratch":
            raise ValueError(
                f"base_source {self.base_source!r}: preset nano trains its own base (scratch) on the "
                "micro-world; for another base use smol"
            )
        if self.preset != "nano" and self.base_source == "scratch":
            raise ValueError(
                f"base_source 'scratch' is trained on the micro-world, which preset {self.preset} does not "
                "have; use preset nano, or give gguf:NAME, a folder or a Hub id"
            )
        return self

    @model_validator(mode="after")
    def _check_script(self) -> Study:
        if self.script and not is_script(self.script):
            meant = SCRIPTS_OF.get(self.script.casefold().replace("_", " "))
            hint = f"; did you mean {meant!r}?" if meant else did_you_mean(self.script, known_scripts())
            hint = hint or "; its name begins what Unicode calls its letters, as THAI CHARACTER KO KAI"
            raise ValueError(f"script {self.script!r} is no script of Unicode{hint}")
        return self

    def budgets_seen(self) -> list[int]:
        """`ct_budgets` in whole steps of CT; as they are where given weights are taken.

        UserError where one would be seen with more than ROUNDED beyond what was asked for.
        """
        step = self.ct_batch * self.seq_len if self.trains else 1
        seen = [whole_steps(budget, step) * step for budget in self.ct_budgets]
        for budget, found in zip(self.ct_budgets, seen, strict=True):
            if found > (1 + ROUNDED) * budget:
                raise UserError(
                    f"ct_budgets: {budget:,} tokens take {found // step} steps of {step:,} (ct_batch x "
                    f"seq_len), so {found:,} would be seen. Give a multiple of {step:,}, or a smaller "
                    "ct_batch"
                )
        return seen

    @property
    def compared(self) -> list[str]:
        """The tasks that models are compared by, in X and in English."""
        return [*self.tasks, *(f"{task}_en" for task in self.tasks_en)]

    @property
    def apart(self) -> list[str]:
        """The tasks that are in no mean and in no comparison: `tasks_written` and `tasks_language`."""
        named = dict.fromkeys([*self.tasks_written, *self.tasks_language])
        return [task for task in named if task not in self.compared]

    @property
    def trains(self) -> bool:
        """Whether parents are trained here; presets of given weights have no CT-then-SFT."""
        return self.preset not in GIVEN_WEIGHTS

    def declared(self) -> dict[str, Any]:
        """The values that were given, not defaulted: what a stage's manifest records."""
        return self.model_dump(include=self.model_fields_set)


PAGE = "docs/parameters.md"  # lists them; made from this file (`parameters_page`)
CODE = regex.compile(r"[a-z]{2,3}")
EXTRA_NAME = regex.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
SFT_X = "sft-x-"  # begins the name of what was fine-tuned on rows in X
PARENT_KINDS = ("base", "ct", "sft", "ct_then_sft")  # names of models that every study has
ROUNDED = 0.1  # by which the tokens that are seen may be more than those asked for


def scratch_parameters(width: int, layers: int, languages: int) -> int:
    """Entries of a base that is trained from scratch on a micro-world of so many languages, about."""
    words = 230 + 105 * languages
    return 12 * layers * width**2 + words * width


def whole_steps(tokens: int, step_tokens: int) -> int:
    """The steps in which at least `tokens` are seen."""
    return -(-tokens // step_tokens)


def batch_shares(batch: int, micro: int, devices: int, name: str = "batch") -> tuple[int, int]:
    """(sequences at once on a device, how often that is accumulated) of a batch that `devices` share.

    micro 0: a device's whole share at once. UserError where they cannot share it evenly.
    """
    micro = micro or max(1, batch // devices)
    if batch % (micro * devices):
        many = f" on each of {devices} devices" if devices > 1 else ""
        raise UserError(
            f"{name} {batch} is no multiple of {micro * devices} (micro_batch {micro}{many}); change one of "
            "them"
        )
    return micro, batch // (micro * devices)


UNITS = (  # of budgets' names: letter, size, sizes in powers of two that count as whole too
    ("B", 10**9, (2**30, 1000 * 2**20)),
    ("M", 10**6, (2**20,)),
    ("k", 10**3, (2**10,)),
)


def budget_name(tokens: int) -> str:
    """The largest unit in which it is whole, else the number itself: 3_000_000 -> '3M', 1_900_000 -> '1900k'.

    What is whole in powers of two is named by its whole part: 16_384 -> '16k', 1_572_864 -> '1572k'.
    """
    for letter, size, binary in UNITS:
        finer = size > 1000 and tokens % (size // 1000) == 0  # exact in the next unit
        if tokens >= size and (tokens % size == 0 or (not finer and any(tokens % n == 0 for n in binary))):
            return f"{tokens // size}{letter}"
    return str(tokens)


#: what people give for a script, in small letters: names of languages, other names -> Unicode's name
SCRIPTS_OF = {
    **dict.fromkeys(("bangla", "bengla", "assamese", "beng"), "Bengali"),
    **dict.fromkeys(("odia", "oria"), "Oriya"),
    **dict.fromkeys(("uyghur", "uighur", "persian", "farsi", "urdu", "pashto", "sindhi", "perso-arabic",
                     "kashmiri", "sorani"), "Arabic"),
    **dict.fromkeys(("hindi", "marathi", "nepali", "sanskrit", "maithili", "nagari"), "Devanagari"),
    **dict.fromkeys(("russian", "kazakh", "kyrgyz", "ukrainian", "tajik", "tatar", "khalkha"), "Cyrillic"),
    **dict.fromkeys(("traditional mongolian", "mongol bichig", "hudum"), "Mongolian"),
    **dict.fromkeys(("chinese", "hanzi", "hans", "hant", "cantonese"), "Han"),
    **dict.fromkeys(("english", "roman", "turkish", "swahili", "yoruba", "vietnamese"), "Latin"),
    **dict.fromkeys(("punjabi", "panjabi"), "Gurmukhi"),
    **dict.fromkeys(("amharic", "tigrinya", "geez", "ge'ez"), "Ethiopic"),
    **dict.fromkeys(("burmese",), "Myanmar"), **dict.fromkeys(("korean",), "Hangul"),
    **dict.fromkeys(("sinhalese",), "Sinhala"), **dict.fromkeys(("divehi", "dhivehi"), "Thaana"),
    **dict.fromkeys(("jawa", "hanacaraka", "carakan"), "Javanese"),
    **dict.fromkeys(("cambodian",), "Khmer"), **dict.fromkeys(("laotian",), "Lao"),
    **dict.fromkeys(("dzongkha", "ladakhi"), "Tibetan"), **dict.fromkeys(("santali",), "Ol_Chiki"),
}  # fmt: skip
NO_SCRIPT = ("zzzz", "unknown", "zyyy", "common", "zinh", "inherited", "qaai")  # of signs, or of nothing


def _holds_flag(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or any(map(_holds_flag, parts))


def _at_home(value: Any) -> Any:
    """A value, or what is in it, with every `~/` at the beginning of a path expanded."""
    if isinstance(value, dict):
        return {_at_home(key): _at_home(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_at_home(part) for part in value]
    return from_home(value) if isinstance(value, str) else value


def is_script(name: str) -> bool:
    """Whether regex knows the Unicode script `name`, and it is one that a language is written in."""
    try:
        return (
            name.isidentifier()
            and name.casefold() not in NO_SCRIPT
            and bool(regex.compile(rf"\p{{Script={name}}}"))
        )
    except regex.error:
        return False


def known_scripts() -> list[str]:
    """The Unicode scripts of the letters below U+20000, by name: the first word or two of a letter's."""
    letters = (unicodedata.name(chr(code), "") for code in range(0x20000) if chr(code).isalpha())
    words = (name.title().split() for name in letters)
    names = {"_".join(found[:count]) for found in words for count in (1, 2)}
    return sorted(filter(is_script, names))


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"])) or "parameters"
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown parameter {key!r}{did_you_mean(key, Study.model_fields)}")
        elif not item["loc"]:
            lines.append(item["msg"].removeprefix("Value error, "))
        elif key == "lang" and item["type"] == "string_pattern_mismatch":
            lines.append(_no_code(item["input"]))
        else:
            lines.append(f"{key}: {item['msg']} (got {item['input']!r})")
    told = "; ".join(lines)
    told = told if told.endswith("?") else f"{told}."
    of_one = any(item["loc"] for item in error.errors())  # not of several together
    return f"{where}: {told} {PAGE} lists all parameters." if of_one else f"{where}: {told}"


def _no_code(given: str) -> str:
    names = {name.casefold(): (name, code) for name, code in known_languages().items()}
    name, code = names.get(given.casefold(), ("", ""))
    meant = f"; {name} is {code!r}" if name else ""
    return f"lang: a code of ISO 639, two or three small letters, is expected (got {given!r}){meant}"


def validate(values: Mapping[str, Any], where: str, strict: bool = False) -> Study:
    """A Study from plain values; UserError naming `where`, the key and the nearest known name.

    `strict`: a value of another type is refused, even where it could be read as the right one ("1" for 1).
    """
    try:
        return Study.model_validate(dict(values), strict=strict)
    except ValidationError as error:
        raise UserError(_explain(error, where)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A flat YAML mapping, safely loaded, no key twice. UserError with file and line otherwise."""
    if not path.is_file():
        raise UserError(f"{path}: no such file{_meant(path)}")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    keys = [key.value for key, _ in node.value]  # type: ignore[union-attr]
    if doubled := {key for key in keys if keys.count(key) > 1}:
        raise UserError(f"{path}: {sorted(doubled)} given twice; keep one")
    return values


def _meant(path: Path) -> str:
    """The end of a message about a YAML file that is not there: the one of that name, or those beside it."""
    for near in (path.with_suffix(".yaml"), ROOT / "params" / f"{path.stem}.yaml"):
        if near.is_file():
            here = Path.cwd()
            return f"; did you mean {near.relative_to(here) if near.is_relative_to(here) else near}?"
    beside = sorted(p.stem for p in path.parent.glob("[!.]*.yaml"))
    there = beside or sorted(p.stem for p in (ROOT / "params").glob("*.yaml"))
    return f". Found {'beside it' if beside else 'in params/'}: {', '.join(there)}"


def read_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """What `--set` gives, later ones over earlier: key=value, or @FILE with such lines in YAML."""
    found: dict[str, Any] = {}
    for text in texts:
        found |= read_yaml(Path(text[1:])) if text.startswith("@") else dict([parse_override(text)])
    return found


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` of the command line; the value is read as YAML."""
    key, sep, value = text.partition("=")
    if not sep or not key.isidentifier():
        raise UserError(f"--set {text!r}: expected key=value, for example --set ct_lr=1e-4, or @FILE")
    try:
        parsed = value if value == "~" else yaml.safe_load(value)  # home, not YAML's null
    except yaml.YAMLError as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(
            f"--set {text!r}: the value is no YAML ({reason}). Quote text with signs in it, close brackets, "
            "and put a space after a colon: --set 'sft_mix={topic: 400}'"
        ) from None
    if stuck := _stuck(parsed):
        raise UserError(
            f"--set {text!r}: {stuck!r} has no value; put a space after the colon: "
            f"{key}={{{stuck.replace(':', ': ', 1)}}}"
        )
    return key, "" if parsed is None else _with_numbers(parsed)


def _with_numbers(parsed: Any) -> Any:
    """What YAML 1.1 reads as text, such as 1e-4, as numbers, inside lists and mappings too."""
    if isinstance(parsed, dict):
        return {key: _with_numbers(value) for key, value in parsed.items()}
    if isinstance(parsed, list):
        return [_with_numbers(value) for value in parsed]
    scientific = isinstance(parsed, str) and re.fullmatch(r"[+-]?\d+(\.\d+)?[eE][+-]?\d+", parsed)
    return float(parsed) if scientific else parsed


def _stuck(parsed: Any) -> str | None:
    """The first key of a mapping that swallowed its value, as in {topic:400}; looks into nested ones too."""
    if not isinstance(parsed, dict):
        return None
    if own := next((str(key) for key, value in parsed.items() if value is None and ":" in str(key)), None):
        return own
    return next((found for value in parsed.values() if (found := _stuck(value))), None)


def require_checkout(command: str) -> None:
    """UserError where lrnb was installed without the files of the study."""
    if not (ROOT / "Snakefile").is_file():
        raise UserError(
            f"lrnb {command} needs a checkout: notebooks, params/ and the Snakefile are not in the installed "
            "package. Clone lrnb's repository and run `make setup` there; merge, conflicts and "
            "evaluate work here"
        )


def default_preset(files: Sequence[Path]) -> str:
    """The preset where none is asked for: nano for the micro-world, which has no other, else smol."""
    lang = read_yaml(_files_of(Path(files[0]))[0]).get("lang")
    return "nano" if lang in SYNTHETIC else "smol"


def load_study(
    lang_yaml: Path,
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Study:
    """Resolve preset, language and overrides (later ones win). UserError on anything unknown.

    `ct_budgets` become what is seen in whole steps, so that every table and axis says what was trained on.
    """
    if preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise UserError(f"unknown preset {preset!r}; presets are {known}{did_you_mean(preset, PRESETS)}")
    language = read_yaml(Path(lang_yaml))
    sections = {name: language.pop(name, None) or {} for name in PRESETS}
    first = read_yaml(ROOT / "params" / "preset" / f"{preset}.yaml")
    later = language | sections[preset] | dict(overrides or {}) | {"preset": preset}
    if seed is not None:
        later["seed"] = seed
    if isinstance(methods := later.get("methods"), list):  # the preset's search of others has no use here
        first["search"] = {name: lists for name, lists in first.get("search", {}).items() if name in methods}
    where = f"{lang_yaml} with preset {preset}"
    study = validate(first | later, where)
    return validate(study.declared() | {"ct_budgets": study.budgets_seen()}, where)


def load_languages(
    files: Sequence[Path],
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> list[Study]:
    """`load_study` of every language that `files` name: a file each, or one that holds their names.

    UserError for a language that is named twice, and where a file of names holds anything else.
    """
    named = [path for file in files for path in _files_of(Path(file))]
    studies = [load_study(path, preset, overrides, seed) for path in named]
    langs = [study.lang for study in studies]
    if twice := sorted({lang for lang in langs if langs.count(lang) > 1}):
        raise UserError(f"{', '.join(twice)}: given more than once; name every language once")
    return studies


def _files_of(path: Path) -> list[Path]:
    """The file of a language itself; those that `languages: [...]` names, beside the file that does."""
    if (names := read_yaml(path).get("languages")) is None:
        return [path]
    if others := sorted(read_yaml(path).keys() - {"languages"}):
        raise UserError(f"{path}: languages stands alone in its file; {', '.join(others)} goes with --set")
    if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: languages: {names!r}; give names of files beside it: [bn, mn]")
    return [path.with_name(f"{name}.yaml") for name in names]
