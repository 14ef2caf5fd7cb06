"""A mergekit configuration as the arguments of `merge_checkpoints`.

Source: mergekit 0.1.5, https://github.com/arcee-ai/mergekit: config.py, parameter_resolver.py, plan.py,
sparsify.py, merge_methods/. Which methods and parameters are known, their ranges and what mergekit does
otherwise than we do is declared by the methods (`registry.Mergekit`). As there: a model's own parameters
before the top-level ones; the base listed among the models is left out, but linear counts it as a parent,
listed or not, and slerp as the first of two. Differences: arithmetic in float32, rounded once (there in
`dtype`); k is round(density * n), there the whole part of it, at least 1; a missing weight is 1, a missing t
0.5, there an error. Ours are `merge_method: ties_sv` with slack, slack_threshold and protect, and a model's
`name`. What cannot keep its meaning is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml

from lrnb.errors import UserError, did_you_mean
from lrnb.merging.by_tensor import ByTensor
from lrnb.merging.layers import Place
from lrnb.merging.mergekit_settings import Setting, Slice, Sliced, read_setting
from lrnb.merging.mergekit_stand_ins import stand_in_for
from lrnb.merging.methods import METHODS
from lrnb.merging.registry import Method, Option
from lrnb.study.files import from_home
from lrnb.study.odd_files import refuse_odd_file

TOP = """
    merge_method base_model models slices parameters dtype out_dtype tokenizer_source tokenizer chat_template
    name
""".split()
WANTED = ("weight", "t")  # without a default in mergekit
SHARES = ("weight", "scale")  # 0 for a model that is not in a slice
ELSEWHERE = """
    density epsilon eps filter_wise gamma int8_mask lambda max_iter normalize normalize_weights
    nuslerp_flatten nuslerp_row_wise rescale scale select_topk t tol weight
""".split()  # what some method of mergekit reads; it passes over what the chosen one does not read
ANYWHERE = Place(0, 1)
DTYPES = ("float32", "bfloat16", "float16")
UNSUPPORTED = {
    "modules": "parts of a model are not merged alone; list whole models under models",
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
    by_tensor: ByTensor | None = None  # the options at a tensor, where they are not the same for all
    layers: int | None = None  # that the models have to have

    def arguments(self) -> dict[str, Any]:
        """The arguments of `merge_checkpoints` but `out`; dtype, tokenizer and vocabulary if not default."""
        changed: dict[str, Any] = {"dtype": self.dtype} if self.dtype != "auto" else {}
        changed |= {"tokenizer": self.tokenizer} if self.tokenizer not in ("base", "") else {}
        changed |= {"vocabulary": self.vocabulary} if self.vocabulary != "refuse" else {}
        changed |= {"by_tensor": self.by_tensor} if self.by_tensor else {}
        changed |= {"layers": self.layers} if self.layers else {}
        models = dict(self.models)
        return {"method": self.method, "base": self.base, "models": models, **self.options, **changed}


def read_recipe(path: str | Path) -> Recipe:
    """Read a mergekit configuration. Paths in it count from the current folder, as in mergekit.

    UserError naming file and key for what is unknown, wrong or not supported. No model is opened.
    """
    config = _Config(Path(path))
    models = {name: config.source(model) for name, model in config.parents.items()}
    options, dtype, (tokenizer, policy) = config.checked_options(), config.dtype(), config.tokenizer()
    config.check_template()
    base = config.base if config.how.base else None
    varied, layers = config.options if config.values.varied() else None, config.values.layers
    options, notes = {} if varied else options, tuple(config.notes)
    return Recipe(config.how.name, base, models, options, dtype, tokenizer, policy, notes, varied, layers)


@dataclass
class _Model:
    where: str  # its place in the file, for messages
    reference: str  # as written: a folder or Hub id, perhaps with +adapter
    name: str = ""


class _Config:
    """A checked file: its method, slices, base, and parents {name: model}."""

    def __init__(self, path: Path) -> None:
        given, self.where = _load(path), str(path)
        self.how = _method(self.where, given)
        assert self.how.mergekit
        self.kit, self.notes = self.how.mergekit, list[str]()
        named = {spec.mergekit: spec for spec in self.how.fields().values() if spec.mergekit}
        self.specs: dict[str, Option] = named | dict(self.kit.extra)
        self.keys = sorted({*self.specs, *self.kit.ignored, *self.kit.fixed})
        self.top = _mapping(self.where, given, TOP, self.keys)
        shared = self._parameters(f"{self.where}: parameters", self.top, own=False)
        listed, slices = self._listed()
        self.values = Sliced(slices, shared)
        self.base = self._base(listed)
        self.parents = self._named(self._parents(listed))
        self._check_slices()

    def _parameters(self, where: str, block: dict[str, Any], *, own: bool) -> dict[str, Setting]:
        """The `parameters:` of the file or a slice or, with `own`, of a model, checked."""
        at = f"{where} of {self.kit.name}"
        given = _mapping(at, block.get("parameters", {}), [*self.keys, *ELSEWHERE])
        for key, value in given.items():
            if own and key in self.specs and not self.specs[key].per_parent:
                raise UserError(f"{where}: {key} is for all models; move it to the top-level parameters")
            given[key] = self._value(f"{where}.{key}", key, value)
        return {key: value for key, value in given.items() if key in self.specs}

    def _value(self, where: str, key: str, value: Any) -> Any:
        if key in self.kit.fixed and value != self.kit.fixed[key]:
            raise UserError(f"{where}: {short(value)} is not supported. Remove it, or use mergekit")
        unread = f"{self.kit.name} does not read it, in mergekit neither"
        why = self.kit.ignored.get(key, "" if key in self.keys else unread)
        if why and value:
            self._note(f"{key} is ignored: {why}")
        if key not in self.specs:
            return value
        if self.specs[key].kind == "parent":
            return _text(where, value)
        return read_setting(where, self.specs[key], value)

    def _note(self, text: str) -> None:
        self.notes += [text] if text not in self.notes else []

    def _listed(self) -> tuple[list[_Model], list[Slice]]:
        """All models in the order of the file, and the slices that they are in: one where none is cut."""
        if {"models", "slices"} <= set(self.top):
            raise UserError(f"{self.where}: models and slices are both given; keep one")
        if "slices" not in self.top:
            models, sources = self._models(f"{self.where}: models", self.top.get("models"))
            return models, [Slice(sources)]
        blocks, found, slices = self.top["slices"], list[_Model](), list[Slice]()
        if not isinstance(blocks, list) or not blocks:
            raise UserError(f"{self.where}: slices must list at least one `- sources: ...`")
        for i, item in enumerate(blocks):
            at, start = (
                f"{self.where}: slices[{i}]",
                slices[-1].layers[1] if slices and slices[-1].layers else 0,
            )
            block = _mapping(at, item, ("sources", "parameters"), self.keys)
            models, sources = self._models(f"{at}.sources", block.get("sources"), start)
            own = self._parameters(f"{at}.parameters", block, own=False)
            slices.append(Slice(sources, own, _layers(f"{at}.sources", block["sources"], start)))
            found += [x for x in models if x.reference not in [y.reference for y in found]]
        return found, slices

    def _models(
        self, where: str, given: Any, start: int | None = None
    ) -> tuple[list[_Model], dict[str, dict[str, Setting]]]:
        """The models of the file or, with `start`, of a slice; the parameters of each."""
        if not isinstance(given, list) or not given:
            raise UserError(f"{where} must list at least one `- model: FOLDER`")
        models, sources = list[_Model](), dict[str, dict[str, Setting]]()
        known = ("model", "parameters", "name", *(() if start is None else ("layer_range",)))
        for i, item in enumerate(given):
            at = f"{where}[{i}]"
            block = _mapping(at, item, known, self.keys)
            reference = from_home(_text(f"{at}.model", block.get("model")))
            name = _text(f"{at}.name", block["name"]) if "name" in block else ""
            if reference in sources:
                raise UserError(f"{at}: {reference} is listed twice; keep one, with the sum of the weights")
            sources[reference] = self._parameters(f"{at}.parameters", block, own=True)
            models.append(_Model(at, reference, name))
        return models, sources

    def _check_slices(self) -> None:
        """A slice has as many models as the method takes, and all of them where they have no weights."""
        least, most = self.how.parents
        for i, one in enumerate(self.values.slices if self.values.layers else ()):
            n = sum(model.reference in one.sources for model in self.parents.values())
            wanted = str(least) if least == most else f"at least {least}"
            if not any(share in self.specs for share in SHARES) and n < len(self.parents):
                least, wanted = len(self.parents), "all of the models"
            if n < least or (most and n > most):
                what = f"{self.kit.name} takes {wanted} in every slice, beside the base"
                raise UserError(f"{self.where}: slices[{i}].sources: {n} models to merge, and {what}")

    def _base(self, listed: list[_Model]) -> str:
        """base_model; where it is a parent, the first model may stand in for it."""
        if "base_model" not in self.top and self.kit.base != "apart":
            return listed[0].reference.partition("+")[0]
        given = _text(f"{self.where}: base_model, needed by {self.kit.name}", self.top.get("base_model"))
        base = from_home(given)
        if "+" in base:
            raise UserError(f"{self.where}: base_model {base}: merge the adapter into its model first")
        return base

    def _parents(self, listed: list[_Model]) -> list[_Model]:
        """The models that are merged, in mergekit's order."""
        others = [model for model in listed if model.reference != self.base]
        own = [model for model in listed if model.reference == self.base]
        if self.kit.base == "aside" or (self.kit.base != "apart" and "base_model" not in self.top):
            return listed
        if self.kit.base == "first":
            if not own and len(others) == self.how.parents[1]:
                what = f"base_model is the first of the {len(others)} models of {self.kit.name}"
                raise UserError(f"{self.where}: {what}, and {self.base} is not among them; name one of them")
            return [*(own or [_Model(f"{self.where}: base_model", self.base)]), *others]
        if self.kit.base == "parent":
            if own or "slices" in self.top:
                return listed
            if "weight" in self.values.top:
                return [*listed, _Model(f"{self.where}: base_model", self.base)]
            what = f"{self.kit.name} merges base_model too: give it a weight, or remove it"
            raise UserError(f"{self.where}: {what}")
        if not others:
            raise UserError(f"{self.where}: models lists only the base; add the models to merge into it")
        if any(one.sources.get(self.base) for one in self.values.slices):
            self._note(f"parameters of the base change nothing in {self.kit.name}")
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

    def options(self, name: str = "", place: Place = ANYWHERE) -> dict[str, Any]:
        """The options of our method at a tensor; those that equal its defaults are left out."""
        ours = [(key, spec) for key, spec in self.how.fields().items() if spec.mergekit]
        values = dict[str, Any]()
        for key, spec in [*ours, *self.kit.extra.items()]:
            at, usual = spec.mergekit or key, spec.default if isinstance(spec.default, float) else 1.0
            value = self._each(at, name, place, usual) if spec.per_parent else self._all(at, name, place)
            if spec.per_parent or value not in (None, spec.default):
                values[key] = value
        found = self.kit.translate(values, [*self.parents]) if self.kit.translate else values
        return {**found, **self.kit.defaults}

    def checked_options(self) -> dict[str, Any]:
        """Those of the whole model, or of its first layer; UserError where they contradict each other."""
        starts = [one.layers[0] if one.layers else 0 for one in self.values.slices]
        found, *_ = [self.options(place=Place(start, self.values.layers or 1)) for start in starts]
        who = f"{self.where}: {self.kit.name}"
        METHODS[self.how.name].settle([*self.parents], found, who=who, spell=self._spelt)
        return found

    def _spelt(self, name: str) -> str:
        specs = self.how.fields()
        return specs[name].mergekit or name if name in specs else name

    def _all(self, key: str, name: str, place: Place) -> Any:
        value = self.values.at(place).value(key, self.values.top, name, place) if key else None
        if value is None and key in WANTED:
            usual = self.specs[key].default
            self._note(f"{key} is not given everywhere: {usual} is taken there (mergekit wants it written)")
        return value

    def _each(self, key: str, name: str, place: Place, usual: float) -> dict[str, float]:
        """{name: number}: the model's own, else the slice's or the top-level one, else the usual one; the
        weight of a model that is not in the slice is 0."""
        here, found = self.values.at(place), dict[str, float]()
        for label, model in self.parents.items():
            value = here.value(key, self.values.top, name, place, model.reference)
            if key in SHARES and self.values.layers and model.reference not in here.sources:
                value = 0.0
            if value is None and key in WANTED:
                self._note(f"{label} has no {key}: 1 is taken (mergekit wants it written)")
            found[label] = usual if value is None else value
        return found

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
            known_keys = ("source", "pad_to_multiple_of")
            block = _mapping(f"{self.where}: tokenizer", self.top["tokenizer"], known_keys)
            if "pad_to_multiple_of" in block:
                self._note("pad_to_multiple_of is ignored: there are as many rows as tokens")
            source = block.get("source", "union")  # mergekit's default
        source = from_home(str(source))
        known = {model.reference: name for name, model in self.parents.items()}
        first = "base" if self.how.base else next(iter(self.parents))
        known |= {"base": first, self.base: first}
        if source == "union":
            return "", "owner"
        if source not in known:
            raise UserError(f"{self.where}: tokenizer source {_not_one_of(source, [*known, 'union'])}")
        name = known[source]
        return name, "base" if name == "base" else "refuse"

    def check_template(self) -> None:
        """auto is what is done without it; another template would be written over the tokenizer's."""
        if (given := self.top.get("chat_template", "auto")) != "auto":
            what = "auto is supported; remove the key and put a chat_template.jinja into the merged folder"
            raise UserError(f"{self.where}: chat_template {short(given)}: only {what}")


def _method(where: str, given: dict[Any, Any]) -> Method:
    """Ours that a configuration asks for."""
    name, methods = str(given.get("merge_method", "(not given)")), known_methods()
    if (ours := stand_in_for(name, bool(given.get("base_model"))) or methods.get(name)) is None:
        raise UserError(
            f"{where}: merge_method {_not_one_of(name, [*methods, 'passthrough'])}. Or use mergekit"
        )
    return ours


def _layers(where: str, sources: list[dict[str, Any]], start: int) -> tuple[int, int]:
    """The layers of a slice. UserError unless all its models give the same, which follow those before."""
    found = [block.get("layer_range") for block in sources]
    for i, layers in enumerate(found):
        at = f"{where}[{i}].layer_range"
        if not (isinstance(layers, list) and len(layers) == 2 and all(type(x) is int for x in layers)):
            raise UserError(f"{at}: expected [first, one past the last] such as [0, 16], got {short(layers)}")
        if layers[0] != start or layers != found[0] or layers[1] <= start:
            what = "every layer stays in its place: none is stacked, repeated or left out"
            raise UserError(f"{at}: {layers} where a slice from layer {start} on is expected; {what}")
    return start, (found[0] or [start])[-1]


class _Loader(yaml.SafeLoader):
    """What safe_load uses, and no key twice in a mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        if doubled := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.YAMLError(f"{doubled} given twice in the block at line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _load(path: Path) -> dict[Any, Any]:
    try:
        if path.exists():
            refuse_odd_file(path)
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
