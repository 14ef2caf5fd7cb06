"""The micro-world of the nano preset: text, tasks and training data without network or downloads.

It writes a data root of the same layout as real data: corpus/, eval/ and sft/. Its languages `qaa`
to `qah` (ISO 639 private-use codes) are invented; they are no real languages.

Held-out items: each pair of neighbouring facts, and each dialogue, falls by a hash of its meaning into
the part `train`, `dev` or `test`, whatever the order. Corpora and SFT examples use `train` facts only;
each dev or test item ends with a pair of its own part. So neither an item nor its translation, nor the
same with these two sentences swapped, can be in a corpus, in the SFT data or in the other split.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb.data.microworld_language import (
    ENGLISH,
    NAMES,
    NUMBERS,
    PROMPT_WORDS,
    PUNCTUATION,
    SCRIPTS,
    TOPICS,
    Fact,
    Language,
    content_words,
    function_words,
    invent_language,
)
from lrnb.data.microworld_stories import counting, denials, dialogue, draw_document, narrative
from lrnb.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
TASKS = ("topic", "reading", "response", "sums")
MOST = {"train": 20_000, "dev": 2_000, "test": 2_000}  # items of a task: every one has more different ones
SFT_ROWS = 1600  # English training rows of a task


@dataclass(frozen=True)
class World:
    """English and the invented languages, all made from one seed."""

    languages: dict[str, Language]
    seed: int


def world_codes(count: int) -> tuple[str, ...]:
    """The first `count` invented languages. UserError where there are not so many."""
    if not 1 <= count <= len(SCRIPTS):
        raise UserError(
            f"world_languages {count}: the micro-world has 1 to {len(SCRIPTS)} invented languages"
        )
    return tuple(SCRIPTS)[:count]


def make_world(
    langs: tuple[str, ...] = ("qaa", "qab"), *, seed: int = 0, roots: float = 0.0, one_script: bool = False
) -> World:
    """The world with English and `langs`; `roots` and `one_script` as `invent_language` has them.

    UserError for a code that it does not have.
    """
    for code in langs:
        if code not in SCRIPTS:
            known = ", ".join(SCRIPTS)
            raise UserError(f"world: no invented language {code!r}; use one of: {known}")
    invented = {code: invent_language(code, seed, roots=roots, one_script=one_script) for code in langs}
    return World({"en": ENGLISH, **invented}, seed)


def vocabulary(world: World) -> list[str]:
    """All tokens in a fixed order: special, shared, English, then each invented language."""
    shared = [*SPECIAL_TOKENS, *PUNCTUATION, *NAMES, *NUMBERS]
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
    """`train`, `dev` or `test`: the part that these facts, in any language and order, belong to."""
    # no CRC: it is linear, so that facts that differ in one word do not fall independently
    drawn = hashlib.sha256(repr(sorted(facts)).encode()).digest()[0] % 16
    return {0: "dev", 1: "test"}.get(drawn, "train")


def units(facts: list[Fact]) -> list[tuple[Fact, ...]]:
    """What decides the part: neighbouring pairs of what is told; of a dialogue all that is said, together."""
    if any(kind == "turn" for kind, *_ in facts):
        return [tuple(fact for fact in facts if fact[0] != "turn")]
    return list(pairwise(fact for fact in facts if fact[0] != "answer" and not fact[0].startswith("ask_")))


def train_documents(rng: random.Random) -> Iterator[list[Fact]]:
    """Endless documents of which every unit belongs to the part `train`."""
    while True:
        facts = draw_document(rng)
        if all(part_of(*unit) == "train" for unit in units(facts)):
            yield facts


# Tasks -----------------------------------------------------------------------------------------


def topic_item(rng: random.Random, lang: Language) -> tuple[list[Fact], dict[str, Any]]:
    """Topic classification: which of the four topics is most of the story about?"""
    topic, facts = narrative(rng, 4)
    labels, label = [lang.word(t) for t in TOPICS], lang.word(topic)
    row = {"text": lang.say(*facts), "label": label}
    return facts, {**row, **_options(rng, labels, label)}


def reading_item(rng: random.Random, lang: Language) -> tuple[list[Fact], dict[str, Any]]:
    """Reading comprehension: the passage names all four options, and denies three of them."""
    story = denials(rng, 4)
    row = {"passage": lang.say(*story.facts), "question": lang.say(story.question)}
    return story.facts, {**row, **_options(rng, [*map(lang.word, story.options)], lang.word(story.answer))}


def response_item(rng: random.Random, lang: Language) -> tuple[list[Fact], dict[str, Any]]:
    """Response selection: wrong replies are about the other thing, or answer another question, or both."""
    found = dialogue(rng)
    said = [lang.say(fact) for fact in (found.right, *found.wrong)]
    return [*found.opening, found.right], {
        "context": lang.say(*found.opening),
        **_options(rng, said, said[0]),
    }


def sums_item(rng: random.Random, lang: Language) -> tuple[list[Fact], dict[str, Any]]:
    """Numbers to 99: a sum, a difference, the larger, the smaller, or two steps."""
    story = counting(rng)
    row = {"question": lang.say(*story.facts, story.question), "number": int(story.answer)}
    return story.facts, {**row, **_options(rng, story.options, story.answer)}


def _options(rng: random.Random, options: list[str], right: str) -> dict[str, Any]:
    rng.shuffle(options)
    return {"options": options, "answer": options.index(right)}


ITEMS: dict[str, Callable[[random.Random, Language], tuple[list[Fact], dict[str, Any]]]] = {
    "topic": topic_item, "reading": reading_item, "response": response_item, "sums": sums_item,
}  # fmt: skip


def refuse_too_many(part: str, n: int) -> None:
    """UserError where more than `MOST` items of a part are asked for."""
    if n > MOST[part]:
        raise UserError(
            f"micro-world: {n:,} items of a task are asked for in part {part!r}; "
            f"ask for {MOST[part]:,} or fewer"
        )


def world_items(world: World, task: str, code: str, part: str, n: int) -> list[dict[str, Any]]:
    """`n` different items of a task; the same seed asks the same in every language.

    UserError for more than `MOST`.
    """
    refuse_too_many(part, n)
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
    out: Path, world: World | None = None, *,
    base_tokens: int = 1_250_000, ct_tokens: int = 400_000, bilingual: float = 0.08,
    alone: float = 0.02, dev: int = 100, test: int = 400, sft: int = SFT_ROWS,
) -> dict[str, int]:  # fmt: skip
    """Write a complete data root under `out`; returns the number of words in each corpus.

    `world`: `make_world()` where not given. `bilingual` and `alone` are the shares of the base's documents
    that say the same content in English and in one invented language, or in that language only; each
    holds per language. UserError, before anything is written, for more items than `MOST` or shares above 1.
    """
    world, out = world or make_world(), Path(out)
    for part, n in (("dev", dev), ("test", test), ("train", sft)):
        refuse_too_many(part, n)
    counts = {"base": _write_base(out, world, base_tokens, bilingual, alone)}
    for code, lang in world.languages.items():
        texts = ((lang.say(*facts), "world") for facts in _stream(world, f"ct/{code}"))
        counts[code] = _write_corpus(out / "corpus" / f"{code}.jsonl.gz", texts, ct_tokens)
        for task in TASKS:
            folder = out / "eval" / f"world_{task}" / code
            _write_rows(folder / "dev.jsonl", world_items(world, task, code, "dev", dev))
            _write_rows(folder / "test.jsonl", world_items(world, task, code, "test", test))
    for task in TASKS:
        rows = world_items(world, task, "en", "train", sft)
        _write_rows(out / "sft" / f"world_{task}.jsonl", rows)
    return counts


def _stream(world: World, name: str) -> Iterator[list[Fact]]:
    return train_documents(random.Random(f"{name}/{world.seed}"))


def _write_base(out: Path, world: World, tokens: int, bilingual: float, alone: float) -> int:
    rng = random.Random(f"mix/{world.seed}")
    plans = _plans(world, bilingual, alone)

    def texts() -> Iterator[tuple[str, str]]:
        for facts in _stream(world, "base"):
            (plan,) = rng.choices([*plans], [*plans.values()])
            yield _said(rng, facts, plan, world), "world/" + "".join(plan)

    return _write_corpus(out / "corpus" / "base.jsonl.gz", texts(), tokens)


def _plans(world: World, bilingual: float, alone: float) -> dict[tuple[str, ...], float]:
    """How a document is said, with its share: in one language; in two, one after the other (`+`); or a
    sentence in this and a sentence in that (`~`).
    """
    plans: dict[tuple[str, ...], float] = {}
    for code in (invented := [code for code in world.languages if code != "en"]):
        both = [("en", "+", code), (code, "+", "en"), ("en", "~", code)]
        plans |= dict.fromkeys(both, bilingual / len(both))
        plans[code,] = alone
    if (rest := 1 - sum(plans.values())) < 0:
        raise UserError(
            f"base_bilingual {bilingual} and base_alone {alone} for each of {len(invented)} languages are "
            "more than the whole text of the base; lower one of them, or world_languages"
        )
    return {**plans, ("en",): rest}


def _said(rng: random.Random, facts: list[Fact], plan: tuple[str, ...], world: World) -> str:
    spoken = [world.languages[code] for code in plan if code in world.languages]
    if "~" in plan:
        return " ".join(rng.choice(spoken).say(fact) for fact in facts)
    return " ".join(lang.say(*facts) for lang in spoken)


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
