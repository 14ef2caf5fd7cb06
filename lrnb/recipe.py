"""A mergekit configuration as the arguments of `merge_checkpoints`.

Source: mergekit 0.1.5, https://github.com/arcee-ai/mergekit: config.py, parameter_resolver.py, plan.py,
sparsify.py, merge_methods/{linear,generalized_task_arithmetic}.py. As there: a threshold per tensor,
exactly k entries kept, an exact zero sum counts as +; a model's own weight and density before the top-level
ones; lambda and normalize at the top only; the base listed among the models is left out, but linear counts
it as a parent, listed or not. Differences: arithmetic in float32, rounded once (there in `dtype`); k is
round(density * n), there the whole part of it, at least 1; a missing weight is 1, there an error. Ours are
`merge_method: ties_sv` with slack, slack_threshold and protect, and a model's `name`. What cannot keep its
meaning is refused by name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml

from lrnb.params import UserError

METHODS = {"linear": "average", "task_arithmetic": "task_arithmetic", "ties": "ties", "ties_sv": "ties_sv"}
TOP = "merge_method base_model models parameters dtype out_dtype tokenizer_source tokenizer".split()
OWN = {method: {"weight", "density"} for method in METHODS} | {"linear": {"weight"}}
SHARED = {method: {"normalize", "lambda", "int8_mask", "rescale"} for method in METHODS}  # of the whole merge
SHARED["linear"] = {"normalize", "int8_mask"}
SHARED["ties_sv"] |= {"slack", "slack_threshold", "protect"}
LIKE_MERGEKIT = {"trim_scope": "tensor", "at_threshold": "exact", "zero_sign": "positive"}
DTYPES = ("float32", "bfloat16", "float16")
ANY, LEAST = 1e30, 1e-12  # bound of numbers without a range; density 0 would keep nothing
RANGES = {"weight": (0.0, ANY), "density": (LEAST, 1.0), "lambda": (-ANY, ANY), "slack": (0.0, 1.0)}
SWITCHES = ("normalize", "int8_mask", "rescale")
UNSUPPORTED = {
    "slices": "layers are not cut or stacked; list whole models under models",
    "modules": "parts of a model are not merged alone; list whole models under models",
    "chat_template": "the tokenizer keeps its own template; remove the key, edit the merged folder after",
}


@dataclass(frozen=True)
class Recipe:
    """What a configuration asks for; `notes` say what is read otherwise than it is written."""

    method: str
    base: str
    models: dict[str, str]  # {name: folder or Hub id}
    options: dict[str, Any] = field(default_factory=dict)  # of the method
    dtype: str = "auto"
    tokenizer: str = "base"
    notes: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """The arguments of `merge_checkpoints` but `out`; dtype and tokenizer where not the default."""
        changed = {"dtype": self.dtype} if self.dtype != "auto" else {}
        changed |= {"tokenizer": self.tokenizer} if self.tokenizer != "base" else {}
        models = dict(self.models)
        return {"method": self.method, "base": self.base, "models": models, **self.options, **changed}


def read_recipe(path: str | Path) -> Recipe:
    """Read a mergekit configuration. Paths in it count from the current folder, as in mergekit.

    UserError naming file and key for what is unknown, wrong or not supported. No model is opened.
    """
    config = _Config(Path(path))
    models = {name: config.source(model) for name, model in config.parents.items()}
    options, dtype, tokenizer = config.options(), config.dtype(), config.tokenizer()
    return Recipe(METHODS[config.method], config.base, models, options, dtype, tokenizer, tuple(config.notes))


@dataclass
class _Model:
    where: str  # its place in the file, for messages
    reference: str  # as written: a folder or Hub id, perhaps with +adapter
    name: str = ""
    own: dict[str, Any] = field(default_factory=dict)  # its parameters


class _Config:
    """A checked file: its method, base, parents {name: model} and top-level parameters."""

    def __init__(self, path: Path) -> None:
        given, self.where, self.at = _load(path), str(path), f"{path}: parameters"
        self.method = str(given.get("merge_method", "(not given)"))
        if self.method not in METHODS:
            raise UserError(f"{path}: merge_method {_not_one_of(self.method, METHODS)}. Or use mergekit")
        self.notes: list[str] = []
        self.top = _mapping(self.where, given, TOP, SHARED[self.method] | OWN[self.method])
        self.shared = self._parameters(self.at, self.top, own=False)
        listed = self._listed(self.top.get("models"))
        self.base = self._base(listed)
        self.parents = self._named(self._parents(listed))

    def _parameters(self, where: str, block: dict[str, Any], *, own: bool) -> dict[str, Any]:
        """The `parameters:` of the file or, with `own`, of a model, checked."""
        known = sorted(SHARED[self.method] | OWN[self.method])
        given = _mapping(f"{where} of {self.method}", block.get("parameters", {}), known)
        for key, value in given.items():
            if own and key in SHARED[self.method]:
                raise UserError(f"{where}: {key} is for all models; move it to the top-level parameters")
            given[key] = self._value(f"{where}.{key}", key, value)
        return given

    def _value(self, where: str, key: str, value: Any) -> Any:
        if isinstance(value, list | dict):
            what = "values by layer (gradients) or by tensor (filters) are not supported"
            raise UserError(f"{where}: {what}; give one value for the whole model")
        if key in SWITCHES:
            if value not in (0, 1):
                raise UserError(f"{where}: expected true or false, got {short(value)}")
            return bool(value)
        if key == "protect":
            return _text(where, value)
        low, high = RANGES.get(key, (0.0, ANY))
        return _number(where, value, -ANY if self.method == "task_arithmetic" else low, high)

    def _listed(self, given: Any) -> list[_Model]:
        if not isinstance(given, list) or not given:
            raise UserError(f"{self.where}: models must list at least one `- model: FOLDER`")
        models: list[_Model] = []
        for i, item in enumerate(given):
            at = f"{self.where}: models[{i}]"
            block = _mapping(at, item, ("model", "parameters", "name"), OWN[self.method])
            reference = _text(f"{at}.model", block.get("model"))
            name = _text(f"{at}.name", block["name"]) if "name" in block else ""
            if reference in [model.reference for model in models]:
                raise UserError(f"{at}: {reference} is listed twice; keep one, with the sum of the weights")
            own = self._parameters(f"{at}.parameters", block, own=True)
            models.append(_Model(at, reference, name, own))
        return models

    def _base(self, listed: list[_Model]) -> str:
        """base_model; linear may have none: its first model then stands in for shapes and dtypes."""
        if "base_model" not in self.top and self.method == "linear":
            return listed[0].reference.partition("+")[0]
        base = _text(f"{self.where}: base_model, needed by {self.method}", self.top.get("base_model"))
        if "+" in base:
            raise UserError(f"{self.where}: base_model {base}: merge the adapter into its model first")
        return base

    def _parents(self, listed: list[_Model]) -> list[_Model]:
        """The models that are merged, in mergekit's order."""
        others = [model for model in listed if model.reference != self.base]
        if self.method == "linear":
            if "base_model" not in self.top or others != listed:
                return listed
            if "weight" in self.shared:
                return [*listed, _Model(f"{self.where}: base_model", self.base)]
            raise UserError(f"{self.where}: linear merges base_model too: give it a weight, or remove it")
        if not others:
            raise UserError(f"{self.where}: models lists only the base; add the models to merge into it")
        if any(model.own for model in listed if model not in others):
            self.notes.append(f"parameters of the base change nothing in {self.method}")
        return others

    def _named(self, parents: list[_Model]) -> dict[str, _Model]:
        """Each under its own name, or the last part of its path, told apart by -2, -3 and so on."""
        given = [model.name for model in parents if model.name]
        named: dict[str, _Model] = {}
        for model in parents:
            if given.count(model.name) > 1 or model.name == "base":
                raise UserError(f"{model.where}.name: {model.name!r} is taken; give another name")
            path = Path(model.reference.rpartition("+")[2])
            stem = path.name if path.name not in ("", "..") else path.resolve().name
            taken = {"base", *given, *named}
            choices = [stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3))]
            named[model.name or next(name for name in choices if name not in taken)] = model
        return named

    def source(self, model: _Model) -> str:
        """Folder or Hub id of a parent; of `base+adapter` the adapter, which is opened on the base."""
        root, plus, adapter = model.reference.partition("+")
        if plus and (root != self.base or not adapter or "+" in adapter):
            wanted = f"only {self.base}+ADAPTER is supported; merge the adapter into its model first"
            raise UserError(f"{model.where}: {model.reference}: {wanted}")
        return adapter if plus else root

    def options(self) -> dict[str, Any]:
        """The options of our method; those that equal its defaults are left out."""
        arithmetic = self.method == "task_arithmetic"
        if self.shared.get("int8_mask"):
            self.notes.append("int8_mask is ignored: it changes no result")
        if self.shared.get("rescale") and not arithmetic:
            raise UserError(f"{self.at}.rescale: rescaling is not supported. Remove it, or use mergekit")
        weights, lam = self._each("weight"), self.shared.get("lambda", 1.0)
        normalize = self.shared.get("normalize", not arithmetic)
        if arithmetic:
            total = sum(weights.values()) if normalize else 1.0
            lam /= total if abs(total) >= 1e-8 else 1.0  # mergekit's guard
            if any("density" in given for given in (self.shared, *(m.own for m in self.parents.values()))):
                self.notes.append("density is ignored: task_arithmetic does not trim, in mergekit neither")
            return {"lam": {name: lam * weight for name, weight in weights.items()}}
        options: dict[str, Any] = {"weights": weights} | ({} if normalize else {"normalize": False})
        if self.method == "linear":
            return options
        options |= {"density": self._each("density"), **LIKE_MERGEKIT} | ({"lam": lam} if lam != 1 else {})
        return options | (self._slack() if self.method == "ties_sv" else {})

    def _each(self, key: str) -> dict[str, float]:
        """{name: number}: the model's own, else the top-level one, else 1."""
        for name, model in self.parents.items():
            if key == "weight" and key not in model.own and key not in self.shared:
                self.notes.append(f"{name} has no weight: 1 is taken (mergekit wants it written)")
        common = self.shared.get(key, 1.0)
        return {name: model.own.get(key, common) for name, model in self.parents.items()}

    def _slack(self) -> dict[str, Any]:
        """slack or slack_threshold, and the protected parent: the one called like sft if not given."""
        given = [key for key in ("slack", "slack_threshold") if key in self.shared]
        if len(given) != 1:
            raise UserError(f"{self.at}: give one of slack (0 to 1) and slack_threshold (a magnitude)")
        likely = [name for name in self.parents if "sft" in name.lower()]
        protect = self.shared.get("protect", likely[0] if len(likely) == 1 else "(not given)")
        if protect not in self.parents:
            raise UserError(f"{self.at}.protect is {short(protect)}; give one of {[*self.parents]}")
        return {given[0]: self.shared[given[0]], "protect": protect}

    def dtype(self) -> str:
        """The dtype written: out_dtype before dtype, as in mergekit; auto keeps the base's."""
        given = [self.top[key] for key in ("out_dtype", "dtype") if key in self.top]
        names = [str(name).removeprefix("torch.") for name in given]
        if wrong := [name for name in names if name not in DTYPES]:
            raise UserError(f"{self.where}: dtype {_not_one_of(wrong[0], DTYPES)}")
        if len(set(names)) > 1:
            self.notes.append(f"dtype {names[1]} is ignored: arithmetic is float32, out_dtype is written")
        return names[0] if names else "auto"

    def tokenizer(self) -> str:
        """Whose tokenizer files are copied: `base`, or a parent's name."""
        if {"tokenizer", "tokenizer_source"} <= set(self.top):
            raise UserError(f"{self.where}: tokenizer and tokenizer_source are both given; keep one")
        source = self.top.get("tokenizer_source", "base")
        if "tokenizer" in self.top:
            block = _mapping(f"{self.where}: tokenizer", self.top["tokenizer"], ("source",))
            source = block.get("source", "union")  # mergekit's default
        known = {model.reference: name for name, model in self.parents.items()}
        known |= {"base": "base", self.base: "base"}
        if str(source) not in known:
            raise UserError(f"{self.where}: tokenizer source {_not_one_of(source, known)}")
        return known[str(source)]


class _Loader(yaml.SafeLoader):
    """What safe_load uses, and no key twice in a mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        if doubled := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.YAMLError(f"{doubled} given twice in the block at line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _load(path: Path) -> dict[Any, Any]:
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}. Give a mergekit configuration") from None
    if not isinstance(given, dict):
        raise UserError(f"{path}: expected `merge_method: ...` and more lines. Give a mergekit configuration")
    return given


def _mapping(where: str, given: Any, known: Collection[str], below: Collection[str] = ()) -> dict[str, Any]:
    """A block without its empty values. UserError for an unknown key; `below` go under parameters."""
    if not isinstance(given, dict):
        raise UserError(f"{where}: expected `key: value` lines, got {short(given)}")
    for key in (key for key in given if key not in known):
        if key in UNSUPPORTED:
            raise UserError(f"{where}: {key} is not supported: {UNSUPPORTED[key]}")
        if key in below:
            raise UserError(f"{where}: {key} goes under `parameters:`; move it there")
        raise UserError(f"{where}: unknown key: {_not_one_of(key, known)}. Correct or remove it")
    return {key: value for key, value in given.items() if value is not None}


def _not_one_of(value: object, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{short(value)} is not supported; supported: {', '.join(known)}{hint}"


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: expected text in one line, got {short(value)}")
    return value


def _number(where: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        value = float(value)  # YAML 1.1 reads 1e-4 as text
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{where}: expected a number, got {short(value)}")
    if not low <= value <= high:
        raise UserError(f"{where} must lie between {low:g} and {high:g}, got {value}")
    return float(value)
