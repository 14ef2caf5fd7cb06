"""A mergekit configuration as the arguments of `merge_checkpoints`.

Source: mergekit 0.1.5, https://github.com/arcee-ai/mergekit: config.py, parameter_resolver.py, plan.py,
sparsify.py, merge_methods/. Which methods and parameters are known, their ranges and what mergekit does
otherwise than we do is declared by the methods (`registry.Mergekit`). As there: a model's own parameters
before the top-level ones; the base listed among the models is left out, but linear counts it as a parent,
listed or not, and slerp as the first of two. Differences: arithmetic in float32, rounded once (there in
`dtype`); k is round(density * n), there the whole part of it, at least 1; a missing weight is 1, there an
error. Ours are `merge_method: ties_sv` with slack, slack_threshold and protect, and a model's `name`. What
cannot keep its meaning is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml

from lrnb.errors import UserError, did_you_mean
from lrnb.merging.methods import METHODS
from lrnb.merging.registry import Method, Option

TOP = "merge_method base_model models parameters dtype out_dtype tokenizer_source tokenizer".split()
DTYPES = ("float32", "bfloat16", "float16")
UNSUPPORTED = {
    "slices": "layers are not cut or stacked; list whole models under models",
    "modules": "parts of a model are not merged alone; list whole models under models",
    "chat_template": "the tokenizer keeps its own template; remove the key, edit the merged folder after",
}


def known_methods() -> dict[str, Method]:
    """Our methods by mergekit's names."""
    return {method.mergekit.name: method for method in METHODS.values() if method.mergekit}


@dataclass(frozen=True)
class Recipe:
    """What a configuration asks for; `notes` say what is read otherwise than it is written."""

    method: str
    base: str | None
    models: dict[str, str]  # {name: folder or Hub id}
    options: dict[str, Any] = field(default_factory=dict)  # of the method
    dtype: str = "auto"
    tokenizer: str = "base"  # "": a model that has all tokens
    vocabulary: str = "refuse"
    notes: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """The arguments of `merge_checkpoints` but `out`; dtype, tokenizer and vocabulary if not default."""
        changed = {"dtype": self.dtype} if self.dtype != "auto" else {}
        changed |= {"tokenizer": self.tokenizer} if self.tokenizer not in ("base", "") else {}
        changed |= {"vocabulary": self.vocabulary} if self.vocabulary != "refuse" else {}
        models = dict(self.models)
        return {"method": self.method, "base": self.base, "models": models, **self.options, **changed}


def read_recipe(path: str | Path) -> Recipe:
    """Read a mergekit configuration. Paths in it count from the current folder, as in mergekit.

    UserError naming file and key for what is unknown, wrong or not supported. No model is opened.
    """
    config = _Config(Path(path))
    models = {name: config.source(model) for name, model in config.parents.items()}
    options, dtype, (tokenizer, policy) = config.options(), config.dtype(), config.tokenizer()
    base = config.base if config.how.base else None
    return Recipe(config.how.name, base, models, options, dtype, tokenizer, policy, tuple(config.notes))


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
        self.method, methods = str(given.get("merge_method", "(not given)")), known_methods()
        if self.method not in methods:
            raise UserError(f"{path}: merge_method {_not_one_of(self.method, methods)}. Or use mergekit")
        self.how = methods[self.method]
        assert self.how.mergekit
        self.kit, self.notes = self.how.mergekit, list[str]()
        named = {spec.mergekit: spec for spec in self.how.fields().values() if spec.mergekit}
        self.specs: dict[str, Option] = named | dict(self.kit.extra)
        self.keys = sorted({*self.specs, *self.kit.ignored, *self.kit.fixed})
        self.top = _mapping(self.where, given, TOP, self.keys)
        self.shared = self._parameters(self.at, self.top, own=False)
        listed = self._listed(self.top.get("models"))
        self.base = self._base(listed)
        self.parents = self._named(self._parents(listed))

    def _parameters(self, where: str, block: dict[str, Any], *, own: bool) -> dict[str, Any]:
        """The `parameters:` of the file or, with `own`, of a model, checked."""
        given = _mapping(f"{where} of {self.method}", block.get("parameters", {}), self.keys)
        for key, value in given.items():
            if own and key in self.specs and not self.specs[key].per_parent:
                raise UserError(f"{where}: {key} is for all models; move it to the top-level parameters")
            given[key] = self._value(f"{where}.{key}", key, value)
        return given

    def _value(self, where: str, key: str, value: Any) -> Any:
        if isinstance(value, list | dict):
            what = "values by layer (gradients) or by tensor (filters) are not supported"
            raise UserError(f"{where}: {what}; give one value for the whole model")
        if key in self.kit.fixed and value != self.kit.fixed[key]:
            raise UserError(f"{where}: {short(value)} is not supported. Remove it, or use mergekit")
        if key in self.kit.ignored and value:
            note = f"{key} is ignored: {self.kit.ignored[key]}"
            self.notes += [note] if note not in self.notes else []
        if key in self.specs and self.specs[key].kind == "parent":
            return _text(where, value)
        return self.specs[key].read(where, value) if key in self.specs else value

    def _listed(self, given: Any) -> list[_Model]:
        if not isinstance(given, list) or not given:
            raise UserError(f"{self.where}: models must list at least one `- model: FOLDER`")
        models: list[_Model] = []
        for i, item in enumerate(given):
            at = f"{self.where}: models[{i}]"
            block = _mapping(at, item, ("model", "parameters", "name"), self.keys)
            reference = _text(f"{at}.model", block.get("model"))
            name = _text(f"{at}.name", block["name"]) if "name" in block else ""
            if reference in [model.reference for model in models]:
                raise UserError(f"{at}: {reference} is listed twice; keep one, with the sum of the weights")
            own = self._parameters(f"{at}.parameters", block, own=True)
            models.append(_Model(at, reference, name, own))
        return models

    def _base(self, listed: list[_Model]) -> str:
        """base_model; where it is a parent, the first model may stand in for it."""
        if "base_model" not in self.top and self.kit.base != "apart":
            return listed[0].reference.partition("+")[0]
        base = _text(f"{self.where}: base_model, needed by {self.method}", self.top.get("base_model"))
        if "+" in base:
            raise UserError(f"{self.where}: base_model {base}: merge the adapter into its model first")
        return base

    def _parents(self, listed: list[_Model]) -> list[_Model]:
        """The models that are merged, in mergekit's order."""
        others = [model for model in listed if model.reference != self.base]
        own = [model for model in listed if model.reference == self.base]
        if self.kit.base != "apart" and "base_model" not in self.top:
            return listed
        if self.kit.base == "first":
            if not own and len(others) == self.how.parents[1]:
                what = f"base_model is the first of the {len(others)} models of {self.method}"
                raise UserError(f"{self.where}: {what}, and {self.base} is not among them; name one of them")
            return [*(own or [_Model(f"{self.where}: base_model", self.base)]), *others]
        if self.kit.base == "parent":
            if own or "weight" in self.shared:
                return listed if own else [*listed, _Model(f"{self.where}: base_model", self.base)]
            what = f"{self.method} merges base_model too: give it a weight, or remove it"
            raise UserError(f"{self.where}: {what}")
        if not others:
            raise UserError(f"{self.where}: models lists only the base; add the models to merge into it")
        if any(model.own for model in own):
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
        names, values = list(self.parents), dict[str, Any]()
        for name, spec in self.how.fields().items():
            if spec.per_parent and spec.mergekit:
                values[name] = self._each(spec.mergekit)
            elif spec.mergekit in self.shared and self.shared[spec.mergekit] != spec.default:
                values[name] = self.shared[spec.mergekit]
        values |= {key: self.shared[key] for key in self.kit.extra if key in self.shared}
        found = self.kit.translate(values, names) if self.kit.translate else values
        found |= self.kit.defaults
        self.how.settle(names, found, who=f"{self.where}: {self.method}", spell=self._spelt)
        return found

    def _spelt(self, name: str) -> str:
        specs = self.how.fields()
        return specs[name].mergekit or name if name in specs else name

    def _each(self, key: str) -> dict[str, float]:
        """{name: number}: the model's own, else the top-level one, else 1."""
        for name, model in self.parents.items():
            if key == "weight" and key not in model.own and key not in self.shared:
                self.notes.append(f"{name} has no weight: 1 is taken (mergekit wants it written)")
        common = self.shared.get(key, 1.0)
        return {name: model.own.get(key, common) for name, model in self.parents.items()}

    def dtype(self) -> str:
        """The dtype written: out_dtype before dtype, as in mergekit; auto keeps the base's."""
        given = [self.top[key] for key in ("out_dtype", "dtype") if key in self.top]
        names = [str(name).removeprefix("torch.") for name in given]
        if wrong := [name for name in names if name not in DTYPES]:
            raise UserError(f"{self.where}: dtype {_not_one_of(wrong[0], DTYPES)}")
        if len(set(names)) > 1:
            self.notes.append(f"dtype {names[1]} is ignored: arithmetic is float32, out_dtype is written")
        return names[0] if names else "auto"

    def tokenizer(self) -> tuple[str, str]:
        """Whose tokenizer is written, `base` or a parent's name, and what becomes of other vocabularies."""
        if {"tokenizer", "tokenizer_source"} <= set(self.top):
            raise UserError(f"{self.where}: tokenizer and tokenizer_source are both given; keep one")
        if not {"tokenizer", "tokenizer_source"} & set(self.top):
            return "base", "refuse"
        source = self.top.get("tokenizer_source", "base")
        if "tokenizer" in self.top:
            block = _mapping(f"{self.where}: tokenizer", self.top["tokenizer"], ("source",))
            source = block.get("source", "union")  # mergekit's default
        known = {model.reference: name for name, model in self.parents.items()}
        first = "base" if self.how.base else next(iter(self.parents))
        known |= {"base": first, self.base: first}
        if source == "union":
            return "", "owner"
        if str(source) not in known:
            raise UserError(f"{self.where}: tokenizer source {_not_one_of(source, [*known, 'union'])}")
        name = known[str(source)]
        return name, "base" if name == "base" else "refuse"


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
    hint = did_you_mean(str(value), known)
    return f"{short(value)} is not supported; supported: {', '.join(known)}{hint}"


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: expected text in one line, got {short(value)}")
    return value
