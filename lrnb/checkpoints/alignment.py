"""Models of different vocabularies laid over each other: rows of embeddings and head matched by token text.

A row that all models have is merged as any other entry. A row that some lack has no task vector there: it is
the mean of the parents' that have it, the base's where no parent has it, and takes no part in the merge.
Rows that no token has (padding) are those of the model whose tokenizer is written. The policies are those of
design section 10.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from lrnb.checkpoints.owner import default_owner
from lrnb.checkpoints.reading import EMBEDDINGS, HEAD, Checkpoint
from lrnb.checkpoints.rows import Rows, picked
from lrnb.checkpoints.tokens import (
    SHOWN,
    Tokens,
    extended_tokenizer,
    has_tokens,
    read_tokens,
    same_tokenizer_files,
    some_of,
    token_differences,
    uncompared,
)
from lrnb.errors import UserError

TABLES = (*EMBEDDINGS, HEAD, "embed_in.weight", "embed_out.weight", "word_embeddings.weight", "lm_head.bias")
POLICIES = "refuse, owner, base or body=NAME"
BODY = "body="
PADDING = "the same but for padding"  # what facts call the policy where none is asked for
REMEDY = (
    "Give --vocabulary owner (vocabulary='owner': every token keeps a row, rows are matched by token text), "
    "base (the base's tokens alone) or body=NAME (embeddings and head of one model)"
)
Given = Mapping[str, Mapping[str, np.ndarray]]  # {model: its tensors}, the base first


@dataclass(frozen=True)
class Alignment:
    """How the tables of several models become one.

    owner: whose tokenizer is written. tables: {name: shape written}. merged: the rows that all have; kept:
    those that only some have, by who has them. models: as they were opened. tokenizer: tokenizer.json with
    the tokens of the others, "" where the owner's is written as it is. facts: for card and manifest.
    """

    owner: str
    tables: dict[str, tuple[int, ...]]
    merged: Rows
    kept: tuple[Rows, ...]
    models: Given
    ids: Mapping[str, int]
    facts: dict[str, Any]
    tokenizer: str = ""
    doubts: list[str] = field(default_factory=list)

    def laid(self, label: str) -> Checkpoint:
        """A model with the rows that all have in the place of its tables."""
        model = self.models[label]
        assert isinstance(model, Checkpoint)
        rows = {name: picked(model[name], self.merged.ids[label]) for name in vocabulary_tables(model)}
        return model.with_tensors(rows)


@dataclass(frozen=True)
class _Model:
    label: str
    tensors: Checkpoint
    rows: int
    tokens: Tokens | None = None

    def row(self, token: str) -> int | None:
        """The row of a token; None where the model has none."""
        number = self.tokens.ids.get(token) if self.tokens else None
        return number if number is not None and number < self.rows else None

    def known(self) -> list[str]:
        """Its tokens that have a row, by id."""
        return [x for x, number in self.tokens.ids.items() if number < self.rows] if self.tokens else []


def vocabulary_tables(model: Mapping[str, np.ndarray]) -> list[str]:
    """The tensors with a row a token: input embeddings and head, as far as the model has them."""
    names = [name for name in model if name.endswith(TABLES) and model[name].ndim]
    first = next((name for name in names if name.endswith(EMBEDDINGS)), names[0] if names else "")
    return [name for name in names if len(model[name]) == len(model[first])]


def table_rows(model: Mapping[str, np.ndarray]) -> int | None:
    """The rows of the input embeddings; None where there are none."""
    return next((len(model[name]) for name in vocabulary_tables(model)), None)


def check_policy(method: str, vocabulary: str, labels: Sequence[str], tokenizer: str = "") -> None:
    """UserError for a policy that does not exist, or not with these models or this tokenizer."""
    name = vocabulary.removeprefix(BODY) if vocabulary.startswith(BODY) else ""
    if not name and vocabulary not in ("refuse", "owner", "base"):
        raise UserError(f"{method}: vocabulary must be {POLICIES}, got {vocabulary!r}")
    if (owner := name or ("base" if vocabulary == "base" else "")) and owner not in labels:
        raise UserError(
            f"{method}: vocabulary {vocabulary}: no model that is merged is called {owner!r}; they are "
            f"{', '.join(labels)}"
        )
    if owner and tokenizer not in ("", owner):
        raise UserError(
            f"{method}: vocabulary {vocabulary} goes with the tokenizer of {owner}, not of {tokenizer}; "
            "leave the tokenizer out"
        )


def align(method: str, given: Given, vocabulary: str = "refuse", tokenizer: str = "") -> Alignment | None:
    """How the vocabularies of `given` ({model: tensors}, the base or its stand-in first) become one.

    vocabulary: `POLICIES`; tokenizer: whose is to be written under `owner`. None where all have the same
    tokens at the same ids and as many rows. Only checkpoints have tokens. Where rows without a token alone
    differ they are those of the tokenizer's model, under every policy. UserError, naming the first
    token_differences, where tokens differ and the policy is refuse; and where rows cannot be matched.
    """
    check_policy(method, vocabulary, list(given), tokenizer)
    if vocabulary.startswith(BODY):
        return _body(given, vocabulary)
    if not all(isinstance(model, Checkpoint) and vocabulary_tables(model) for model in given.values()):
        return None  # tensors without a tokenizer: their shapes are compared
    models = [_opened(label, model) for label, model in given.items()]
    same_rows = len({model.rows for model in models}) == 1
    folders = [model.tensors.folder for model in models]
    if same_rows and (same_tokenizer_files(folders) or sum(map(has_tokens, folders)) < 2):
        return None
    models = [replace(model, tokens=read_tokens(model.tensors.folder)) for model in models]
    if same_rows and not any(_differing(models[0], model) for model in models[1:]):
        return None
    same = all(model.tokens and not _differing(models[0], model) for model in models)
    if vocabulary == "refuse" and not same:
        raise UserError(_refusal(method, models))
    for model in models:
        if model.tokens is None:
            raise UserError(f"{method}: {_without_tokens(model)}")
    if same:  # nothing but padding differs, so that nothing is to be chosen
        tokenizer = tokenizer or default_owner(models[0].label, {m.label: m.tensors for m in models})
    return _matched(models, vocabulary if vocabulary != "refuse" else PADDING, tokenizer)


def not_compared(given: Given) -> list[str]:
    """A warning for every model whose tokens cannot be compared, where others' can."""
    folders = {label: model.folder for label, model in given.items() if isinstance(model, Checkpoint)}
    blind = [label for label, folder in folders.items() if uncompared(folder)]
    if len(blind) == len(folders):
        return []
    return [f"{label} has no tokenizer.json: its tokens are taken for those of the others" for label in blind]


def _opened(label: str, tensors: Mapping[str, np.ndarray]) -> _Model:
    assert isinstance(tensors, Checkpoint)
    return _Model(label, tensors, len(tensors[vocabulary_tables(tensors)[0]]))


def _differing(first: _Model, other: _Model) -> list[str]:
    """The ids at which two models have other tokens, a line each; none where one cannot be read."""
    if first.tokens is None or other.tokens is None:
        return []
    return token_differences(first.tokens, first.rows, other.tokens, other.rows)


def _refusal(method: str, models: Sequence[_Model]) -> str:
    first = models[0]
    for other in models[1:]:
        found = _differing(first, other)
        if not found and first.rows == other.rows:
            continue
        name = vocabulary_tables(first.tensors)[0]
        shapes = (
            f"{first.tensors[name].shape} in {first.label} but {other.tensors[name].shape} in {other.label}"
        )
        head = f"{method}: {name!r} is {shapes}: " if first.rows != other.rows else f"{method}: "
        if None in (first.tokens, other.tokens):
            blind = other if first.tokens else first
            return f"{head}their vocabularies differ. {_without_tokens(blind)}"
        more = f", and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        return (
            f"{head}the vocabularies differ at {len(found):,} ids ({first.label} | {other.label}): "
            f"{'; '.join(found[:SHOWN])}{more}. {REMEDY}"
        )
    raise AssertionError("nothing differs")


def _without_tokens(model: _Model) -> str:
    return (
        f"{model.tensors.folder} has no tokenizer.json, which rows are matched by. Copy its own "
        "there (AutoTokenizer.from_pretrained(...).save_pretrained(...) makes one), or give "
        "--vocabulary body=NAME"
    )


def _body(given: Given, vocabulary: str) -> Alignment:
    """Embeddings and head whole from one model."""
    name = vocabulary.removeprefix(BODY)
    body = given[name]
    names = vocabulary_tables(body)
    if not names or not isinstance(body, Checkpoint):
        raise UserError(f"vocabulary {vocabulary}: {name} has no folder with embeddings to be taken whole")
    rows, none = len(body[names[0]]), np.empty(0, np.int64)
    kept = (Rows(np.arange(rows), {name: np.arange(rows)}),)
    merged = Rows(none, dict.fromkeys(given, none))
    facts = {"policy": vocabulary, "tokenizer": name, "rows": rows, "merged": 0, "kept": {name: rows}}
    tables = {table: body[table].shape for table in names}
    return Alignment(name, tables, merged, kept, given, {}, facts)


def _matched(models: Sequence[_Model], vocabulary: str, tokenizer: str) -> Alignment:
    """Rows by token text."""
    owner = _owner(models, vocabulary, tokenizer)
    assert owner.tokens
    ids, text, extra = dict(owner.tokens.ids), "", dict[str, Tokens]()
    if vocabulary == "owner" and (extra := _missing(owner, models)):
        text, ids = extended_tokenizer(owner.tokens, extra)
    found = {ids[token]: _Slot(token, [m for m in models if m.row(token) is not None]) for token in ids}
    size = max([owner.rows, *(number + 1 for number, slot in found.items() if slot.models)])
    groups = _grouped(owner, models, found, size)
    everyone = tuple(model.label for model in models)
    none = np.empty(0, np.int64)
    merged = groups.pop(everyone, Rows(none, dict.fromkeys(everyone, none)))
    shapes = {x: (size, *owner.tensors[x].shape[1:]) for x in vocabulary_tables(owner.tensors)}
    facts = _facts(vocabulary, owner, models, list(found.values()), size)
    doubts = _doubts(owner, models, extra, set(ids), len(merged.slots))
    given = {model.label: model.tensors for model in models}
    return Alignment(owner.label, shapes, merged, tuple(groups.values()), given, ids, facts, text, doubts)


class _Slot(NamedTuple):
    """A token that is written, and the models that have a row of it."""

    token: str
    models: list[_Model]

    def sources(self, every: Sequence[_Model]) -> list[_Model]:
        """Where its row comes from: all models, the parents that have it, or the base alone."""
        if len(self.models) in (1, len(every)) or every[0].label != "base":
            return self.models
        return [model for model in self.models if model is not every[0]]


def _owner(models: Sequence[_Model], vocabulary: str, tokenizer: str) -> _Model:
    """Whose tokenizer is written: the one named, else the first one that has all tokens of the others, else
    all their pieces (added tokens can be added to it without loss), else the first model's.
    """
    if named := tokenizer or (vocabulary if vocabulary == "base" else ""):
        return next(model for model in models if model.label == named)
    known = [set(model.known()) for model in models]
    pieces = [x - set(m.tokens.added) for x, m in zip(known, models, strict=True) if m.tokens]
    for wanted in (set().union(*known), set().union(*pieces)):
        for model, tokens in zip(models, known, strict=True):
            if wanted <= tokens:
                return model
    return models[0]


def _missing(owner: _Model, models: Sequence[_Model]) -> dict[str, Tokens]:
    """{token: whose it is} of the tokens that the owner's tokenizer does not know, in order."""
    found: dict[str, Tokens] = {}
    for model in models:
        assert model.tokens and owner.tokens
        for token in model.known():
            if token not in owner.tokens.ids:
                found.setdefault(token, model.tokens)
    return found


def _grouped(
    owner: _Model, models: Sequence[_Model], found: Mapping[int, _Slot], size: int
) -> dict[tuple[str, ...], Rows]:
    """The rows to be written, by the models that they come from; of none: rows of zeros."""
    places: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for number in range(size):
        token, have = found.get(number, _Slot("", []))
        if have:
            sources = _Slot(token, have).sources(models)
            home, rows = tuple(m.label for m in sources), [m.row(token) or 0 for m in sources]
        else:  # no token, or one that no model has a row for
            home, rows = ((owner.label,), [number]) if number < owner.rows else ((), [])
        places.setdefault(home, []).append((number, *rows))
    columns = {home: np.array(rows, np.int64).T for home, rows in places.items()}
    return {home: Rows(x[0], dict(zip(home, x[1:], strict=True))) for home, x in columns.items()}


def _facts(
    vocabulary: str, owner: _Model, models: Sequence[_Model], slots: Sequence[_Slot], size: int
) -> dict[str, Any]:
    """What card and manifest say: kept counts those that not all have by the models that they come from."""
    rows = [slot for slot in slots if slot.models]
    homes = Counter(
        " and ".join(m.label for m in x.sources(models)) for x in rows if len(x.models) < len(models)
    )
    written = {slot.token for slot in slots}
    left = {m.label: n for m in models if (n := sum(token not in written for token in m.known()))}
    return {
        "policy": vocabulary, "tokenizer": owner.label, "tokens": len(slots), "rows": size,
        "merged": sum(len(slot.models) == len(models) for slot in rows), "kept": dict(homes),
        "without_token": size - len(rows), "left_behind": left,
    }  # fmt: skip


def _doubts(
    owner: _Model, models: Sequence[_Model], extra: Mapping[str, Tokens], written: set[str], merged: int
) -> list[str]:
    """What a user should know: tokens left behind, pieces in a tokenizer that does not cut into them."""
    found = []
    for model in models:
        if left := [token for token in model.known() if token not in written]:
            found.append(
                f"vocabulary: {len(left):,} tokens of {model.label} are left behind: {some_of(left)}"
            )
    if pieces := [token for token, home in extra.items() if token not in home.added]:
        found.append(
            f"vocabulary: the tokenizer of {owner.label} takes in {len(pieces):,} pieces of others as whole "
            f"tokens ({some_of(pieces)}) and cuts text into them only where it spells them out; name the "
            "tokenizer that they are of, if it should cut as that one does"
        )
    if merged < min(len(model.known()) for model in models) / 2:
        found.append(
            f"vocabulary: only {merged:,} tokens are common to all models; are the tokenizers related?"
        )
    return found
