"""Pieces of a language that a tokenizer lacks, learnt on its text, and the tokenizer that has them too.

Old pieces keep their ids. BPE goes on where it stopped: its own pieces are the letters that further merges
are learnt over, and the merges are appended, so that every new piece is reached ("continued BPE training",
Purason et al. 2025, arXiv 2512.03989). Characters that only bytes spell become pieces first. Unigram takes
the pieces that a unigram model of the text has, with their scores; a vocabulary of words the most frequent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lrnb.errors import UserError
from lrnb.study.progress import Progress

LETTERS = 0x10000  # from here on a character stands for a piece while merges are learnt
SLACK = 1.25  # merges that are learnt for each piece that is wanted: some end in a piece that is there
SEEN = 2  # times that a piece has to be seen
NEVER = -1e4  # score of a special token among unigram pieces: no text is cut into it


@dataclass(frozen=True)
class Extension:
    """tokenizer.json with new pieces: {piece: the old ids it was cut into}, their ids from `first` on."""

    text: str
    pieces: dict[str, tuple[int, ...]]
    first: int


def extend_tokenizer(text: str, texts: Sequence[str], size: int) -> Extension:
    """`size` new pieces, or fewer where the texts do not have them twice; text: tokenizer.json.

    UserError for other kinds of tokenizers. Equal texts give equal pieces.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    spec = json.loads(tokenizer.to_str())
    kind = spec["model"]["type"]
    if kind not in LEARNERS or spec["model"].get("continuing_subword_prefix"):
        raise UserError(f"vocabulary: the tokenizer is {kind}; only {', '.join(LEARNERS)} can be extended")
    ids = tokenizer.get_vocab(with_added_tokens=True)
    first = max(ids.values()) + 1
    _hold_ids(spec["model"], tokenizer)
    pieces = LEARNERS[kind](tokenizer, spec, texts, size, first)
    made = json.dumps(spec, ensure_ascii=False)
    found = Tokenizer.from_str(made).get_vocab(with_added_tokens=True)
    wanted = ids | {piece: first + i for i, piece in enumerate(pieces)}
    if found != wanted:
        odd = min(set(found.items()) ^ set(wanted.items()), key=lambda item: item[1])
        raise UserError(
            f"vocabulary: the tokenizer gives tokens other ids when it is extended ( {odd[0]!r}, {odd[1]}); "
            "save it once with AutoTokenizer.from_pretrained(...).save_pretrained(...), or use another base"
        )
    return Extension(made, pieces, first)


def _hold_ids(model: dict[str, Any], tokenizer: Any) -> None:
    """Write added tokens among the pieces, where new pieces would otherwise take their ids."""
    added = {number: token.content for number, token in sorted(tokenizer.get_added_tokens_decoder().items())}
    for number, content in added.items():
        if isinstance(model["vocab"], dict):
            model["vocab"].setdefault(content, number)
        elif number == len(model["vocab"]):
            model["vocab"].append([content, NEVER])


def _learn_bpe(
    tokenizer: Any, spec: dict[str, Any], texts: Sequence[str], size: int, first: int
) -> dict[str, tuple[int, ...]]:
    """Missing characters, then merges over the pieces that there are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model = spec["model"]
    found = {} if _byte_level(spec) else _missing_characters(tokenizer, model, texts, size)
    model["vocab"] |= {piece: first + i for i, piece in enumerate(found)}
    known = Tokenizer.from_str(json.dumps(spec))
    left_out = {number for piece, number in model["vocab"].items() if _is_byte(piece)}
    left_out |= set(known.get_added_tokens_decoder()) | {model["vocab"].get(model.get("unk_token") or "", -1)}
    with Progress("learning pieces", len(texts), "texts") as progress:
        lines = list(progress.through(_letter_lines(known, texts, left_out)))
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = {letter for line in lines for letter in line} - {" "}
    wanted = len(alphabet) + round((size - len(found)) * SLACK)
    how: dict[str, Any] = {"vocab_size": wanted, "min_frequency": SEEN, "show_progress": False}
    learner.train_from_iterator(lines, trainers.BpeTrainer(**how))
    names = {number: piece for piece, number in model["vocab"].items()}
    there = {tuple(pair) for pair in model["merges"]}
    for left, right in json.loads(learner.to_str())["model"]["merges"]:
        if len(found) == size:
            break
        numbers = [ord(letter) - LETTERS for letter in left + right]
        parts = ["".join(names[ord(letter) - LETTERS] for letter in side) for side in (left, right)]
        piece = "".join(parts)
        if piece not in model["vocab"]:
            model["vocab"][piece] = first + len(found)
            found[piece] = tuple(old for n in numbers for old in found.get(names[n], (n,)))
        if tuple(parts) not in there:  # a second time it would change the rank of the first
            model["merges"].append(parts)
    return found


def _byte_level(spec: dict[str, Any]) -> bool:
    return "ByteLevel" in json.dumps([spec.get("pre_tokenizer"), spec.get("normalizer")])


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x")


def _missing_characters(
    tokenizer: Any, model: dict[str, Any], texts: Sequence[str], size: int
) -> dict[str, tuple[int, ...]]:
    """The characters that the vocabulary lacks, the most frequent first, with the ids that they fall into."""
    normal = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    seen = Counter(x for text in texts for x in normal(text) if x not in model["vocab"] and not x.isspace())
    common = sorted((x for x, n in seen.items() if n >= SEEN), key=lambda x: (-seen[x], x))
    return {x: tuple(token.id for token in tokenizer.model.tokenize(x)) for x in common[:size]}


def _letter_lines(tokenizer: Any, texts: Sequence[str], left_out: set[int]) -> Iterator[str]:
    """Each text as words of letters that stand for its pieces; words end where no merge may go on."""
    starts = {n for piece, n in tokenizer.get_vocab(with_added_tokens=False).items() if piece.startswith("▁")}
    for batch in _portions(texts):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            ids, words, marks = encoding.ids, encoding.word_ids, []
            for i, number in enumerate(ids):
                new = number in starts or number in left_out or (i and words[i] != words[i - 1])
                marks += [" "] if new else []
                marks += [" "] if number in left_out else [chr(LETTERS + number)]
            yield "".join(marks)


def _learn_unigram(
    tokenizer: Any, spec: dict[str, Any], texts: Sequence[str], size: int, first: int
) -> dict[str, tuple[int, ...]]:
    """Pieces of a unigram model of the texts, by how many old pieces each of them saves."""
    from tokenizers import Tokenizer, models, trainers

    model = spec["model"]
    learner = Tokenizer(models.Unigram())
    learner.normalizer, learner.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    with Progress("learning pieces", len(texts), "texts") as progress:
        read = progress.through(texts)
        learner.train_from_iterator(read, trainers.UnigramTrainer(vocab_size=2 * size, show_progress=False))
    known, cut = {piece for piece, _ in model["vocab"]}, dict[str, tuple[int, ...]]()
    trained = json.loads(learner.to_str())["model"]["vocab"]
    scores = {piece: round(score, 3) for piece, score in trained}  # threads add up in any order
    for piece in (piece for piece in scores if piece not in known):
        cut[piece] = tuple(token.id for token in tokenizer.model.tokenize(piece))
    gains = {piece: 2.0 ** scores[piece] * (len(old) - 1) for piece, old in cut.items()}
    unknown = model.get("unk_id")
    best = sorted((p for p in cut if len(cut[p]) > 1 or cut[p] == (unknown,)), key=lambda p: (-gains[p], p))
    if len(model["vocab"]) != first:
        raise UserError("vocabulary: added tokens lie apart from the pieces, so that none can be put between")
    model["vocab"] += [[piece, scores[piece]] for piece in best[:size]]
    return {piece: cut[piece] for piece in best[:size]}


def _learn_words(
    tokenizer: Any, spec: dict[str, Any], texts: Sequence[str], size: int, first: int
) -> dict[str, tuple[int, ...]]:
    """The most frequent words that are unknown."""
    model = spec["model"]
    normal = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    split = tokenizer.pre_tokenizer.pre_tokenize_str if tokenizer.pre_tokenizer else lambda x: [(x, None)]
    seen = Counter(word for text in texts for word, _ in split(normal(text)))
    new = sorted(
        (w for w in seen if w not in model["vocab"] and seen[w] >= SEEN), key=lambda w: (-seen[w], w)
    )
    model["vocab"] |= {word: first + i for i, word in enumerate(new[:size])}
    return dict.fromkeys(new[:size], (model["vocab"][model["unk_token"]],))


LEARNERS = {"BPE": _learn_bpe, "Unigram": _learn_unigram, "WordLevel": _learn_words}


def encoded(text: str, texts: Sequence[str]) -> Iterator[list[int]]:
    """The ids of each text by the tokenizer in tokenizer.json's `text`, special tokens not added."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    for batch in _portions(texts):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids


def _portions(texts: Iterable[str], size: int = 256) -> Iterator[list[str]]:
    for _, batch in groupby(enumerate(texts), key=lambda item: item[0] // size):
        yield [text for _, text in batch]
