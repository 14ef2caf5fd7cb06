"""Which token each row of a model's embeddings stands for: its tokenizer.json, read by `tokenizers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lrnb.checkpoints.reading import own_file, readable
from lrnb.errors import UserError
from lrnb.study.odd_files import AGAIN

TOKENIZER_FILE = "tokenizer.json"
OTHERS = ("tokenizer.model", "spiece.model", "sentencepiece*.model", "vocab.json", "vocab.txt")
SHOWN = 10  # differences or tokens in a message
LONGEST = 24  # characters shown of a token


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's tokens. ids: {token: id}; added: {token: the library's AddedToken}; words: whether it
    knows whole words only, and not pieces of them.
    """

    file: Path
    ids: Mapping[str, int]
    added: Mapping[str, Any]
    words: bool

    def by_id(self) -> dict[int, str]:
        """{id: token}."""
        return {number: token for token, number in self.ids.items()}


def read_tokens(folder: Path) -> Tokens | None:
    """The tokens of a model folder; None without tokenizer.json. UserError for a file that is damaged."""
    file = folder / TOKENIZER_FILE
    return _tokens_of(file, _tokenizer(file)) if has_tokens(folder) else None


def has_tokens(folder: Path) -> bool:
    """Whether a folder has a tokenizer.json."""
    return (folder / TOKENIZER_FILE).is_file()


def same_tokenizer_files(folders: Sequence[Path]) -> bool:
    """Whether all folders have the same tokenizer.json, byte for byte; or all have none."""
    files = [folder / TOKENIZER_FILE for folder in folders]
    there = [file for file in files if file.is_file()]
    if len(there) < len(files) or len({file.stat().st_size for file in there}) > 1:
        return not there
    with readable(files[0]):
        first = files[0].read_bytes()
        return all(file.read_bytes() == first for file in files[1:] if not file.samefile(files[0]))


def uncompared(folder: Path) -> bool:
    """Whether a folder has a tokenizer, but none that can be compared by its tokens."""
    return not has_tokens(folder) and any(any(folder.glob(name)) for name in OTHERS)


def extended_tokenizer(owner: Tokens, others: Mapping[str, Tokens]) -> tuple[str, dict[str, int]]:
    """tokenizer.json of `owner` with tokens added at its end, and {token: id} of it.

    others: {token: the tokenizer that has it}, in their order: what is an added token there is one of the
    same kind, a piece is added as it is spelled. UserError where the tokenizer does not take them.
    """
    from tokenizers import AddedToken

    tokenizer = _tokenizer(owner.file)
    for token, home in others.items():
        plain = AddedToken(token, normalized=False, special=False, single_word=owner.words)
        added = home.added.get(token, plain)
        (tokenizer.add_special_tokens if added.special else tokenizer.add_tokens)([added])
    text = tokenizer.to_str(pretty=True)
    found = _tokens_of(owner.file, _from_text(text)).ids
    new = {token: number for token, number in found.items() if token not in owner.ids}
    moved = [token for token, number in owner.ids.items() if found.get(token) != number]
    if moved or set(new) != set(others) or set(new.values()) & set(owner.ids.values()):
        odd = (moved or sorted(set(others) - set(new)) or sorted(new))[0]
        raise UserError(
            f"{owner.file}: this tokenizer cannot take the {len(others)} tokens that only the others have "
            f"(first trouble with {short_token(odd)}). Name another model's tokenizer, or keep one model's "
            "vocabulary"
        )
    return text, dict(found)


def token_differences(ours: Tokens, rows: int, theirs: Tokens, their_rows: int) -> list[str]:
    """The ids below the numbers of rows at which the two have other tokens, in order, with both tokens."""
    a, b = ours.by_id(), theirs.by_id()
    found = []
    for number in range(max(rows, their_rows)):
        x = a.get(number) if number < rows else None
        y = b.get(number) if number < their_rows else None
        if x != y:
            found.append(f"{number} {_shown(x)} | {_shown(y)}")
    return found


def _shown(token: str | None) -> str:
    return "nothing" if token is None else short_token(token)


def short_token(token: str) -> str:
    """A token in quotes, its end left out where it is long."""
    return repr(token if len(token) <= LONGEST else token[: LONGEST - 1] + "…")


def some_of(tokens: Sequence[str]) -> str:
    """The first of some tokens, and how many there are."""
    shown = ", ".join(short_token(token) for token in islice(tokens, SHOWN))
    return f"{shown}{', ...' if len(tokens) > SHOWN else ''}"


def _tokenizer(file: Path) -> Any:
    with readable(file):
        content = own_file(file).read_bytes()
    try:
        return _from_text(content.decode())
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{file}: cannot be read as a tokenizer ({str(error)[:200]}). {AGAIN}") from None


def _from_text(text: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)


def _tokens_of(file: Path, tokenizer: Any) -> Tokens:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    added = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    plain = {token: number for token, number in ids.items() if token not in added}
    taken = {number for token, number in ids.items() if token in added}
    known = {token: number for token, number in plain.items() if number not in taken}  # an added one wins
    known |= {token: ids[token] for token in added}
    ordered = dict(sorted(known.items(), key=lambda item: item[1]))
    return Tokens(file, ordered, added, type(tokenizer.model).__name__ in ("WordLevel", "WordPiece"))
