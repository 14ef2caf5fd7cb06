"""Words, grammar and documents of the micro-world: English, and languages that are invented.

A sentence starts as a fact, a tuple `(kind, slot, slot, ...)` of English words. English says it
with articles, prepositions and subject-verb-object order. An invented language says the same fact
in subject-object-verb order, with postpositions as separate words and no articles, and each English
word replaced by a pseudo-word. Names, digits and punctuation are shared by all languages.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

Fact = tuple[str, ...]

TOPICS: dict[str, dict[str, tuple[str, ...]]] = {
    "farm": {
        "things": ("cow", "goat", "horse", "tractor", "plough", "hen"),
        "goods": ("eggs", "apples"),
        "verbs": ("feeds", "plants", "milks", "harvests"),
        "places": ("barn", "field", "stable", "orchard"),
        "qualities": ("muddy", "fertile", "woolly", "ripe"),
    },
    "kitchen": {
        "things": ("soup", "bread", "pan", "oven", "kettle", "cake"),
        "goods": ("cups", "spoons"),
        "verbs": ("cooks", "bakes", "fries", "stirs"),
        "places": ("pantry", "cellar", "cupboard", "sink"),
        "qualities": ("salty", "sweet", "hot", "spicy"),
    },
    "school": {
        "things": ("lesson", "poem", "map", "letter", "essay", "song"),
        "goods": ("books", "pencils"),
        "verbs": ("reads", "writes", "studies", "explains"),
        "places": ("library", "classroom", "hall", "office"),
        "qualities": ("difficult", "clever", "boring", "famous"),
    },
    "sea": {
        "things": ("boat", "net", "anchor", "whale", "crab", "sail"),
        "goods": ("shells", "fishes"),
        "verbs": ("rows", "catches", "pulls", "floats"),
        "places": ("harbour", "beach", "island", "lighthouse"),
        "qualities": ("wet", "deep", "stormy", "blue"),
    },
}
PLUS_VERB, MINUS_VERB = "gets", "loses"
PREPOSITIONS = ("in", "near", "behind")
NAMES = ("anna", "ben", "cora", "david", "emma", "finn", "greta", "hugo",
         "ida", "jonas", "kira", "leo", "mia", "nils", "olga", "paul")  # fmt: skip
DIGITS = tuple("0123456789")
PUNCTUATION = (".", "?", ":")
QUALITIES = tuple(word for parts in TOPICS.values() for word in parts["qualities"])
PLACES = tuple(place for parts in TOPICS.values() for place in parts["places"])
THINGS = tuple(thing for parts in TOPICS.values() for thing in parts["things"])
GOODS = tuple(good for parts in TOPICS.values() for good in parts["goods"])
PROMPT_WORDS = ("story", "topic", "question", "answer", "reply")

# kind: (English, gloss in the word order of the invented languages); {0}, {1} ... are the slots.
PATTERNS: dict[str, tuple[str, str]] = {
    "act": ("{0} {1} the {2} .", "{0} {2} {1} ."),
    "act_at": ("{0} {1} the {2} {3} the {4} .", "{0} {4} {3} {2} {1} ."),
    "person_at": ("{0} is in the {1} .", "{0} {1} in is ."),
    "thing_at": ("the {0} is {1} the {2} .", "{0} {2} {1} is ."),
    "thing_is": ("the {0} is {1} .", "{0} {1} is ."),
    "about": ("the story is about the {0} .", "story {0} about is ."),
    "has": ("{0} has {1} {2} .", "{0} {1} {2} has ."),
    "change": ("{0} {1} {2} {3} .", "{0} {2} {3} {1} ."),
    "now": ("now {0} has {1} {2} .", "now {0} {1} {2} has ."),
    "ask_where": ("where is {0} ?", "{0} where is ?"),
    "ask_how": ("how is the {0} ?", "{0} how is ?"),
    "ask_what": ("what has {0} ?", "{0} what has ?"),
    "ask_count": ("how many {1} has {0} ?", "{0} how-many {1} has ?"),
    "talk_where": ("{0} : where is the {2} ? {1} :", "{0} : {2} where is ? {1} :"),
    "talk_who": ("{0} : who {3} the {2} ? {1} :", "{0} : who {2} {3} ? {1} :"),
    "talk_how": ("{0} : how is the {2} ? {1} :", "{0} : {2} how is ? {1} :"),
}


@dataclass(frozen=True)
class Language:
    """One language of the world: a code, and for invented ones a word for each English gloss."""

    code: str
    words: dict[str, str]

    def say(self, *facts: Fact) -> str:
        """The facts as text: sentences in this language, words separated by single spaces."""
        column = 1 if self.words else 0
        glosses = " ".join(PATTERNS[kind][column].format(*slots) for kind, *slots in facts)
        return " ".join(self.words.get(word, word) for word in glosses.split())

    def word(self, gloss: str) -> str:
        """The word of this language for one English word; names and digits stay."""
        return self.words.get(gloss, gloss)


ENGLISH = Language("en", {})

# Consonants and vowels that fonts carry widely: Georgian for qaa, Armenian for qab.
SCRIPTS: dict[str, tuple[str, str, str]] = {
    "qaa": ("Georgian", "ბგდვზთკლმნპრსტფქშჩხ", "აეიოუ"),
    "qab": ("Armenian", "բգդզթլխկհմնպսվտրքֆ", "աեիոու"[:4]),
}


def content_words() -> list[str]:
    """Every English word that belongs to a topic, with the topic's own name, in a fixed order."""
    groups = [[topic, *(w for group in parts.values() for w in group)]
              for topic, parts in TOPICS.items()]  # fmt: skip
    return [word for group in groups for word in group]


def function_words(column: int) -> list[str]:
    """The words that the patterns of one column (0 English, 1 gloss) use, sorted."""
    said = {w for patterns in PATTERNS.values() for w in patterns[column].split()}
    said |= {PLUS_VERB, MINUS_VERB, *PREPOSITIONS}
    return sorted(w for w in said if w[0] != "{" and w not in PUNCTUATION)


def invent_language(code: str, seed: int) -> Language:
    """A language of pseudo-words of two or three syllables, the same for the same code and seed.

    Raises KeyError for a code without a script in `SCRIPTS`.
    """
    _, consonants, vowels = SCRIPTS[code]
    rng = random.Random(f"words/{code}/{seed}")
    words: dict[str, str] = {}
    for gloss in dict.fromkeys([*function_words(1), *content_words()]):
        short = gloss in function_words(1)
        while (word := _pseudo_word(rng, consonants, vowels, short)) in words.values():
            continue
        words[gloss] = word
    return Language(code, words)


def _pseudo_word(rng: random.Random, consonants: str, vowels: str, short: bool) -> str:
    syllables = rng.choice((1, 2)) if short else rng.choice((2, 3))
    word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables))
    return word + (rng.choice(consonants) if syllables < 3 else "")


def narrative(rng: random.Random, length: int, about: float = 0.3) -> tuple[str, list[Fact]]:
    """A topic and `length` facts about few persons, things and places, as stories have them."""
    topic = rng.choice(tuple(TOPICS))
    words = TOPICS[topic]
    cast = (rng.sample(NAMES, 2), rng.sample(words["things"], 2), rng.sample(words["places"], 2))
    facts: dict[Fact, None] = {}
    while len(facts) < length:
        facts[_topic_fact(rng, words, *cast)] = None
    extra: list[Fact] = [("about", topic)] if rng.random() < about else []
    return topic, [*facts, *extra]


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


def state(rng: random.Random) -> list[tuple[Fact, Fact, tuple[str, ...], str]]:
    """Three facts in random order, each with a question, the words that could answer, the answer.

    Only one word of each kind (place, quality, good) is there, so a reader has to tell the
    questions apart and to find the word in the passage.
    """
    here, owner = rng.sample(NAMES, 2)
    place, good, quality = rng.choice(PLACES), rng.choice(GOODS), rng.choice(QUALITIES)
    thing = rng.choice(THINGS)
    asked: list[tuple[Fact, Fact, tuple[str, ...], str]] = [
        (("person_at", here, place), ("ask_where", here), PLACES, place),
        (("has", owner, str(rng.randint(2, 9)), good), ("ask_what", owner), GOODS, good),
        (("thing_is", thing, quality), ("ask_how", thing), QUALITIES, quality),
    ]
    rng.shuffle(asked)
    return asked


def counting(rng: random.Random) -> tuple[list[Fact], int]:
    """A number of goods, a change, and the number after it (all from 2 to 9)."""
    name, good = rng.choice(NAMES), rng.choice(GOODS)
    small, step = rng.choice([(a, b) for a in range(2, 8) for b in range(2, 10 - a)])
    plus = rng.random() < 0.5
    start, end = (small, small + step) if plus else (small + step, small)
    verb = PLUS_VERB if plus else MINUS_VERB
    return [("has", name, str(start), good), ("change", name, verb, str(step), good)], end


def dialogue(rng: random.Random) -> tuple[Fact, Fact, list[Fact]]:
    """The opening of a dialogue, the fitting reply, and three replies that do not fit."""
    asking, asked, third = rng.sample(NAMES, 3)
    topic = TOPICS[rng.choice(tuple(TOPICS))]
    thing, other = rng.sample(topic["things"], 2)
    verb = rng.choice(topic["verbs"])

    def replies(about: str) -> list[Fact]:
        where: Fact = ("thing_at", about, rng.choice(PREPOSITIONS), rng.choice(topic["places"]))
        how: Fact = ("thing_is", about, rng.choice(topic["qualities"]))
        return [where, ("act", third, verb, about), how]

    kind = rng.randrange(3)
    openings: tuple[Fact, ...] = (
        ("talk_where", asking, asked, thing), ("talk_who", asking, asked, thing, verb),
        ("talk_how", asking, asked, thing),
    )  # fmt: skip
    right, wrong = replies(thing), replies(other)
    others = [reply for i, reply in enumerate(right) if i != kind]
    return openings[kind], right[kind], [wrong[kind], *others]


def draw_document(rng: random.Random) -> list[Fact]:
    """The facts of one running-text document of a random kind."""
    kind = rng.choices(("narrative", "counting", "state", "dialogue"), (3, 3, 3, 2))[0]
    if kind == "narrative":
        return narrative(rng, rng.choice((2, 3, 3)))[1]
    if kind == "counting":
        facts, end = counting(rng)
        _, name, _, good = facts[0]
        if rng.random() < 0.5:
            return [*facts, ("now", name, str(end), good)]
        return [*facts, ("ask_count", name, good), ("has", name, str(end), good)]
    if kind == "state":
        asked = state(rng)
        replies = [f for fact, ask, _, _ in rng.sample(asked, 2) for f in (ask, fact)]
        return [*(fact for fact, *_ in asked), *replies]
    turns = [dialogue(rng)[:2] for _ in range(rng.choice((1, 2)))]
    return [fact for turn in turns for fact in turn]
