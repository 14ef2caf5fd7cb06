"""What is told in the micro-world, as facts: documents for its corpora, and what its tasks ask.

A document tells something; half of them ask about it and answer in one word, as real text does: so that
copying and looking up can be learned from running text. What a task's wrong options are is made so that no
rule on the surface finds the right one (tests/data/test_shortcuts.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from lrnb.data.microworld_language import (
    GOODS,
    MINUS_VERB,
    NAMES,
    PLACES,
    PLUS_VERB,
    PREPOSITIONS,
    QUALITIES,
    THINGS,
    TOPICS,
    Fact,
)

LARGEST = 99  # number that the world knows


class Story(NamedTuple):
    """Facts, a question about them, the word that answers it, and the options that it is chosen from."""

    facts: list[Fact]
    question: Fact
    answer: str
    options: list[str]


def narrative(rng: random.Random, length: int) -> tuple[str, list[Fact]]:
    """A topic and `length` facts, all but one of it: so one has to read more than one sentence."""
    topic, other = rng.sample(tuple(TOPICS), 2)
    told, strange = _told(rng, TOPICS[topic], length - 1), _told(rng, TOPICS[other], 1)
    at = rng.randrange(length)
    return topic, [*told[:at], *strange, *told[at:]]


def _told(rng: random.Random, words: dict[str, tuple[str, ...]], length: int) -> list[Fact]:
    """Different facts of one topic, about few persons, things and places, as stories have them."""
    cast = (rng.sample(NAMES, 2), rng.sample(words["things"], 2), rng.sample(words["places"], 2))
    facts: dict[Fact, None] = {}
    while len(facts) < length:
        facts[_topic_fact(rng, words, *cast)] = None
    return [*facts]


def _topic_fact(
    rng: random.Random, words: dict[str, tuple[str, ...]],
    names: list[str], things: list[str], places: list[str],
) -> Fact:  # fmt: skip
    name, thing, place = rng.choice(names), rng.choice(things), rng.choice(places)
    verb, quality = rng.choice(words["verbs"]), rng.choice(words["qualities"])
    at = rng.choice(PREPOSITIONS)
    choices: tuple[Fact, ...] = (
        ("act", name, verb, f"{quality} {thing}"),
        ("act_at", name, verb, thing, at, place),
        ("act_at", name, verb, rng.choice(words["goods"]), at, place),
        ("thing_at", thing, at, place),
        ("thing_is", thing, quality),
    )
    return rng.choice(choices)


class Told(NamedTuple):
    """A kind of statement about a subject: how it is said and denied, how one asks, and of what."""

    said: str
    denied: str
    asks: str
    subjects: tuple[str, ...]
    answers: tuple[str, ...]


TOLD = (
    Told("person_at", "person_not_at", "ask_person", NAMES, PLACES),
    Told("has_some", "has_no", "ask_what", NAMES, GOODS),
    Told("thing_is", "thing_is_not", "ask_how", THINGS, QUALITIES),
)


def denials(rng: random.Random, length: int) -> Story:
    """`length` statements about one subject, all but one of them denied; that one answers the question."""
    told = rng.choice(TOLD)
    subject, options = rng.choice(told.subjects), rng.sample(told.answers, length)
    answer = rng.choice(options)
    facts: list[Fact] = [(told.said if word == answer else told.denied, subject, word) for word in options]
    return Story(facts, (told.asks, subject), answer, options)


def counting(rng: random.Random) -> Story:
    """Numbers of goods: one change, two changes, or two owners to compare; each asks for one number.

    The options are the results of all that could be asked, each right equally often.
    """
    return rng.choice((_one_change, _two_owners, _two_changes))(rng)


def _one_change(rng: random.Random) -> Story:
    name, good, sign = rng.choice(NAMES), rng.choice(GOODS), rng.choice((1, -1))
    start, step = _two_numbers(rng)
    facts: list[Fact] = [("has", name, str(start), good), _change(name, sign, step, good)]
    return _counted(facts, name, good, start + sign * step, [start + step, start - step, start, step])


def _two_owners(rng: random.Random) -> Story:
    (first, second), good = rng.sample(NAMES, 2), rng.choice(GOODS)
    large, small = _two_numbers(rng)
    numbers = rng.sample((large, small), 2)
    facts: list[Fact] = [("has", first, str(numbers[0]), good), ("has", second, str(numbers[1]), good)]
    kind, answer = rng.choice((("ask_larger", large), ("ask_smaller", small)))
    options = [str(n) for n in (large + small, large - small, large, small)]
    return Story(facts, (kind, good), str(answer), options)


def _two_changes(rng: random.Random) -> Story:
    name, good = rng.choice(NAMES), rng.choice(GOODS)
    while True:
        start, one, two = rng.randint(3, 90), rng.randint(1, 40), rng.randint(1, 40)
        ends = [start + a * one + b * two for a in (1, -1) for b in (1, -1)]
        if min(ends) >= 0 and max(ends) <= LARGEST and len(set(ends)) == 4:
            break
    which = rng.randrange(4)
    signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))[which]
    changes = [_change(name, sign, step, good) for sign, step in zip(signs, (one, two), strict=True)]
    return _counted([("has", name, str(start), good), *changes], name, good, ends[which], ends)


def _two_numbers(rng: random.Random) -> tuple[int, int]:
    """A larger and a smaller number, with sum and difference other than both, all up to `LARGEST`."""
    while True:
        small, large = sorted((rng.randint(1, LARGEST), rng.randint(1, LARGEST)))
        if small < large and large + small <= LARGEST and large != 2 * small:
            return large, small


def _change(name: str, sign: int, step: int, good: str) -> Fact:
    return ("change", name, PLUS_VERB if sign > 0 else MINUS_VERB, str(step), good)


def _counted(facts: list[Fact], name: str, good: str, end: int, options: list[int]) -> Story:
    return Story(facts, ("ask_count", name, good), str(end), [str(n) for n in options])


class Dialogue(NamedTuple):
    """The opening of a dialogue, the reply that fits, and three that do not."""

    opening: list[Fact]
    right: Fact
    wrong: list[Fact]


def dialogue(rng: random.Random) -> Dialogue:
    """One says something about a thing and asks something about another; which comes first is chance.

    Of the replies two are about either thing and two answer either kind of question, so each shares as
    many words with the opening.
    """
    asking, replying, *others = rng.sample(NAMES, 4)
    topic = TOPICS[rng.choice(tuple(TOPICS))]
    (thing, other), kinds = rng.sample(topic["things"], 2), rng.sample(("where", "how", "who"), 2)
    verb = rng.choice(topic["verbs"])
    said, replied = _statements(rng, topic, verb, others)
    told = rng.sample([said(kinds[1], other), _question(kinds[0], thing, verb)], 2)
    right, *wrong = (replied(kind, about) for kind in kinds for about in (thing, other))
    return Dialogue([("turn", asking), *told, ("turn", replying)], right, wrong)


def _question(kind: str, thing: str, verb: str) -> Fact:
    return ("ask_who", verb, thing) if kind == "who" else (f"ask_{kind}", thing)


def _statements(
    rng: random.Random, topic: dict[str, tuple[str, ...]], verb: str, names: list[str]
) -> list[Callable[[str, str], Fact]]:
    """Two speakers' answers to a kind of question about a thing: they share no word but the verb."""
    ways, places = rng.sample(PREPOSITIONS, 2), rng.sample(topic["places"], 2)
    qualities = rng.sample(topic["qualities"], 2)

    def speaker(way: str, place: str, quality: str, name: str) -> Callable[[str, str], Fact]:
        def answer(kind: str, thing: str) -> Fact:
            answers: dict[str, Fact] = {
                "where": ("thing_at", thing, way, place),
                "how": ("thing_is", thing, quality),
                "who": ("act", name, verb, thing),
            }
            return answers[kind]

        return answer

    return [speaker(*own) for own in zip(ways, places, qualities, names, strict=True)]


def draw_document(rng: random.Random) -> list[Fact]:
    """The facts of one running-text document of a random kind."""
    kinds = (_narrative_document, _counting_document, _denials_document, _dialogue_document)
    return rng.choices(kinds, (2, 3, 4, 3))[0](rng)


def _narrative_document(rng: random.Random) -> list[Fact]:
    topic, facts = narrative(rng, rng.choice((3, 4, 4)))
    return [*facts, ("about", topic)] if rng.random() < 0.3 else facts


def _counting_document(rng: random.Random) -> list[Fact]:
    return _answered(counting(rng))


def _denials_document(rng: random.Random) -> list[Fact]:
    return _answered(denials(rng, rng.choice((2, 3, 4, 4))))


def _answered(story: Story) -> list[Fact]:
    return [*story.facts, story.question, ("answer", story.answer)]


def _dialogue_document(rng: random.Random) -> list[Fact]:
    found = dialogue(rng)
    return [*found.opening, found.right]
