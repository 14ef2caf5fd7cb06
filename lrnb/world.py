"""The micro-world of the nano preset: text, tasks and training data without network or downloads.

It writes a data root of the same layout as real data: corpus/, eval/ and sft/. Its languages `qaa`
and `qab` (ISO 639 private-use codes) are invented; they are no real languages.

Held-out items: each pair of neighbouring facts, and each opening of a dialogue, falls by a hash of
its meaning into the part `train`, `dev` or `test`. Corpora and SFT examples use `train` facts only;
each dev or test item ends with a pair of its own part. So neither an item nor its translation can
be in a corpus, in the SFT data or in the other split.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb.params import UserError
from lrnb.world_text import (
    DIGITS,
    ENGLISH,
    NAMES,
    PROMPT_WORDS,
    PUNCTUATION,
    SCRIPTS,
    TOPICS,
    Fact,
    Language,
    content_words,
    counting,
    dialogue,
    draw_document,
    function_words,
    invent_language,
    narrative,
    state,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
TASKS = ("topic", "reading", "response", "sums")


@dataclass(frozen=True)
class World:
    """English and the invented languages, all made from one seed."""

    languages: dict[str, Language]
    seed: int


def make_world(langs: tuple[str, ...] = ("qaa", "qab"), *, seed: int = 0) -> World:
    """The world with English and `langs`. Raises UserError for a code that it does not have."""
    for code in langs:
        if code not in SCRIPTS:
            known = ", ".join(SCRIPTS)
            raise UserError(f"world: no invented language {code!r}; use one of: {known}")
    invented = {code: invent_language(code, seed) for code in langs}
    return World({"en": ENGLISH, **invented}, seed)


def vocabulary(world: World) -> list[str]:
    """All tokens in a fixed order: special, shared, English, then each invented language."""
    shared = [*SPECIAL_TOKENS, *PUNCTUATION, *NAMES, *DIGITS]
    english = [*function_words(0), *PROMPT_WORDS, *content_words()]
    invented = [w for lang in world.languages.values() for w in lang.words.values()]
    return list(dict.fromkeys([*shared, *english, *invented]))


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: splits at spaces, puts <s> in front, decodes to readable text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary(world))}
    raw = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", padding_side="right", clean_up_tokenization_spaces=False,
    )  # fmt: skip


# Held-out parts --------------------------------------------------------------------------------


def part_of(*facts: Fact) -> str:
    """`train`, `dev` or `test`: the part that these facts, in any language, belong to."""
    return {0: "dev", 1: "test"}.get(zlib.crc32(repr(facts).encode()) % 16, "train")


def units(facts: list[Fact]) -> list[tuple[Fact, ...]]:
    """What decides the part: neighbouring pairs, and openings of dialogues by themselves."""
    pairs: list[tuple[Fact, ...]] = list(pairwise(facts))
    return pairs + [(fact,) for fact in facts if fact[0].startswith("talk_")]


def train_documents(rng: random.Random) -> Iterator[list[Fact]]:
    """Endless documents of which every unit belongs to the part `train`."""
    while True:
        facts = draw_document(rng)
        if all(part_of(*unit) == "train" for unit in units(facts)):
            yield facts


# Tasks -----------------------------------------------------------------------------------------


def topic_item(rng: random.Random, lang: Language) -> tuple[list[Fact], dict[str, Any]]:
    """Topic classification: which of the four topics is the story about?"""
    topic, facts = narrative(rng, 3, about=0.0)
    labels, label = [lang.word(t) for t in TOPICS], lang.word(topic)
    row = {"text": lang.say(*facts), "label": label}
    return facts, {**row, **_options(rng, labels, label)}


def reading_item(rng: random.Random, lang: Language) -> tuple[list[Fact], dict[str, Any]]:
    """Reading comprehension: where is a person, what has one, or how is a thing?"""
    asked = state(rng)
    facts = [fact for fact, *_ in asked]
    _, ask, words, right = rng.choice(asked)
    options = [right, *rng.sample([word for word in words if word != right], 3)]
    row = {"passage": lang.say(*facts), "question": lang.say(ask)}
    return facts, {**row, **_options(rng, [lang.word(w) for w in options], lang.word(right))}


def response_item(rng: random.Random, lang: Language) -> tuple[list[Fact], dict[str, Any]]:
    """Response selection: wrong replies are about another thing or answer another question."""
    opening, right, wrong = dialogue(rng)
    said = [lang.say(fact) for fact in (right, *wrong)]
    return [opening, right], {"context": lang.say(opening), **_options(rng, said, said[0])}


def sums_item(rng: random.Random, lang: Language) -> tuple[list[Fact], dict[str, Any]]:
    """Small sums with the result of the opposite change among the options."""
    facts, end = counting(rng)
    start, step = int(facts[0][2]), int(facts[1][3])
    opposite = start - step if end > start else start + step
    near = [n for n in (opposite, start, step) if 0 <= n <= 9 and n != end]
    rest = [n for n in range(10) if n not in (*near, end)]
    options = list(dict.fromkeys([end, *near, *rng.sample(rest, 3)]))[:4]
    ask = ("ask_count", facts[0][1], facts[0][3])
    row = {"question": lang.say(*facts, ask), "number": end}
    return facts, {**row, **_options(rng, [str(n) for n in options], str(end))}


def _options(rng: random.Random, options: list[str], right: str) -> dict[str, Any]:
    rng.shuffle(options)
    return {"options": options, "answer": options.index(right)}


ITEMS: dict[str, Callable[[random.Random, Language], tuple[list[Fact], dict[str, Any]]]] = {
    "topic": topic_item, "reading": reading_item, "response": response_item, "sums": sums_item,
}  # fmt: skip


def items(world: World, task: str, code: str, part: str, n: int) -> list[dict[str, Any]]:
    """`n` different items of a task; the same seed asks the same in every language."""
    rng = random.Random(f"{task}/{part}/{world.seed}")
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < n:
        facts, row = ITEMS[task](rng, world.languages[code])
        parts = [part_of(*unit) for unit in units(facts)]
        if part == "train" and set(parts) != {"train"}:
            continue
        key = repr(facts) + str(row.get("question"))
        if parts[-1] == part:
            rows.setdefault(key, {"id": len(rows), **row})
    return list(rows.values())


# Files -----------------------------------------------------------------------------------------


def write_world(
    out: Path, *, langs: tuple[str, ...] = ("qaa", "qab"), seed: int = 0,
    base_tokens: int = 1_250_000, ct_tokens: int = 400_000, bilingual: float = 0.06,
    alone: float = 0.02, dev: int = 100, test: int = 200, sft: int = 1600,
) -> dict[str, int]:  # fmt: skip
    """Write a complete data root under `out`; returns the number of words in each corpus.

    `bilingual` and `alone` are the shares of the base's documents that say the same content in
    English and in one invented language, or in that language only; each holds per language.
    """
    world = make_world(langs, seed=seed)
    out = Path(out)
    counts = {"base": _write_base(out, world, base_tokens, bilingual, alone)}
    for code, lang in world.languages.items():
        texts = ((lang.say(*facts), "world") for facts in _stream(world, f"ct/{code}"))
        counts[code] = _write_corpus(out / "corpus" / f"{code}.jsonl.gz", texts, ct_tokens)
        for task in TASKS:
            folder = out / "eval" / f"world_{task}" / code
            _write_rows(folder / "dev.jsonl", items(world, task, code, "dev", dev))
            _write_rows(folder / "test.jsonl", items(world, task, code, "test", test))
    for task in TASKS:
        rows = items(world, task, "en", "train", sft)
        _write_rows(out / "sft" / f"world_{task}.jsonl", rows)
    return counts


def _stream(world: World, name: str) -> Iterator[list[Fact]]:
    return train_documents(random.Random(f"{name}/{world.seed}"))


def _write_base(out: Path, world: World, tokens: int, bilingual: float, alone: float) -> int:
    rng = random.Random(f"mix/{world.seed}")
    invented = [lang for code, lang in world.languages.items() if code != "en"]
    plans: list[tuple[float, tuple[Language, ...]]] = []
    for lang in invented:
        plans += [(bilingual / 2, (ENGLISH, lang)), (bilingual / 2, (lang, ENGLISH))]
        plans.append((alone, (lang,)))
    plans.append((1 - sum(share for share, _ in plans), (ENGLISH,)))
    weights = [share for share, _ in plans]

    def texts() -> Iterator[tuple[str, str]]:
        for facts in _stream(world, "base"):
            _, spoken = rng.choices(plans, weights)[0]
            text = " ".join(lang.say(*facts) for lang in spoken)
            yield text, "world/" + "+".join(lang.code for lang in spoken)

    return _write_corpus(out / "corpus" / "base.jsonl.gz", texts(), tokens)


def _write_corpus(path: Path, texts: Iterator[tuple[str, str]], tokens: int) -> int:
    rows: dict[str, dict[str, str]] = {}
    written = 0
    while written < tokens:
        text, source = next(texts)
        if text not in rows:
            rows[text] = {"text": text, "source": source}
            written += len(text.split()) + 2  # <s> and </s>
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values())
    path.write_bytes(gzip.compress(body.encode(), compresslevel=6, mtime=0))
    return written


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(body, encoding="utf-8", newline="\n")
