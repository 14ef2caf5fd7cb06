"""Words and grammar of the micro-world: English, and languages that are invented.

A sentence starts as a fact, a tuple `(kind, slot, slot, ...)` of English words. English says it
with articles, prepositions and subject-verb-object order. An invented language says the same fact
in subject-object-verb order, with a particle after the subject (`as-for`), postpositions as separate
words and no articles, and each English word replaced by a pseudo-word. Names, numbers, punctuation and
the mark before an answer are shared by all languages.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from functools import cached_property

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
NUMBERS = tuple(map(str, range(100)))  # one token each
PUNCTUATION = (".", "?", ":")
QUALITIES = tuple(word for parts in TOPICS.values() for word in parts["qualities"])
PLACES = tuple(place for parts in TOPICS.values() for place in parts["places"])
THINGS = tuple(thing for parts in TOPICS.values() for thing in parts["things"])
GOODS = tuple(good for parts in TOPICS.values() for good in parts["goods"])
ANSWER = "answer"  # stands before a colon and the answer, in every language
PROMPT_WORDS = ("story", "topic", "question", ANSWER, "reply")

# kind: (English, gloss in the word order of the invented languages); {0}, {1} ... are the slots.
PATTERNS: dict[str, tuple[str, str]] = {
    "act": ("{0} {1} the {2} .", "{0} as-for {2} {1} ."),
    "act_at": ("{0} {1} the {2} {3} the {4} .", "{0} as-for {4} {3} {2} {1} ."),
    "person_at": ("{0} is in the {1} .", "{0} as-for {1} in is ."),
    "thing_at": ("the {0} is {1} the {2} .", "{0} as-for {2} {1} is ."),
    "thing_is": ("the {0} is {1} .", "{0} as-for {1} is ."),
    "person_not_at": ("{0} is not in the {1} .", "{0} as-for not {1} in is ."),
    "thing_is_not": ("the {0} is not {1} .", "{0} as-for not {1} is ."),
    "has_some": ("{0} has {1} .", "{0} as-for {1} has ."),
    "has_no": ("{0} has no {1} .", "{0} as-for no {1} has ."),
    "about": ("the story is about the {0} .", "story as-for {0} about is ."),
    "has": ("{0} has {1} {2} .", "{0} as-for {1} {2} has ."),
    "change": ("{0} {1} {2} {3} .", "{0} as-for {2} {3} {1} ."),
    "answer": (f"{ANSWER} : {{0}} .", f"{ANSWER} : {{0}} ."),
    "ask_person": ("where is {0} ?", "{0} as-for where is ?"),
    "ask_where": ("where is the {0} ?", "{0} as-for where is ?"),
    "ask_how": ("how is the {0} ?", "{0} as-for how is ?"),
    "ask_who": ("who {0} the {1} ?", "who {1} {0} ?"),
    "ask_what": ("what has {0} ?", "{0} as-for what has ?"),
    "ask_count": ("how many {1} has {0} ?", "{0} as-for how-many {1} has ?"),
    "ask_larger": ("what is the larger number of {0} ?", "{0} larger number as-for what is ?"),
    "ask_smaller": ("what is the smaller number of {0} ?", "{0} smaller number as-for what is ?"),
    "turn": ("{0} :", "{0} :"),
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
        """The word of this language for one English word; names and numbers stay."""
        return self.words.get(gloss, gloss)

    def gloss(self, text: str) -> str:
        """The text word for word in English; names, numbers and what is no word of this language stay."""
        return " ".join(self._meanings.get(word, word) for word in text.split())

    @cached_property
    def _meanings(self) -> dict[str, str]:
        return {word: gloss for gloss, word in self.words.items()}


ENGLISH = Language("en", {})

# Consonants and vowels that fonts carry widely, of scripts that are written from left to right.
SCRIPTS: dict[str, tuple[str, str, str]] = {
    "qaa": ("Georgian", "ბგდვზთკლმნპრსტფქშჩხ", "აეიო"),
    "qab": ("Armenian", "բգդզթլխկհմնպսվտրքֆշ", "աեիո"),
    "qac": ("Greek", "βγδζθκλμνξπρστφχψ", "αειο"),
    "qad": ("Cyrillic", "бвгджзклмнпрстфхцчш", "аеио"),
    "qae": ("Devanagari", "कखगघचजटडतदनपबमयरलवस", "ािुे"),
    "qaf": ("Ethiopic", "በገደዘጠከለመነሰተረፈቀቸሸ", "አኤኢኦ"),
    "qag": ("Tifinagh", "ⴱⴳⴷⵣⵜⴽⵍⵎⵏⵔⵙⵛⴼⵇⵖⵅ", "ⴰⴻⵉⵓ"),
    "qah": ("Lao", "ກຂຄງຈຊຍດຕທນບປຜພຟມຣລວ", "ະາິຸ"),
}


def content_words() -> list[str]:
    """Every English word that belongs to a topic, with the topic's own name, in a fixed order."""
    groups = [[topic, *(w for group in parts.values() for w in group)]
              for topic, parts in TOPICS.items()]  # fmt: skip
    return [word for group in groups for word in group]


def function_words(column: int) -> list[str]:
    """The words that the patterns of one column (0 English, 1 gloss) use, sorted; without what is shared."""
    said = {w for patterns in PATTERNS.values() for w in patterns[column].split()}
    said |= {PLUS_VERB, MINUS_VERB, *PREPOSITIONS}
    return sorted(w for w in said if w[0] != "{" and w not in (*PUNCTUATION, ANSWER))


def invent_language(code: str, seed: int, *, roots: float = 0.0, one_script: bool = False) -> Language:
    """A language of pseudo-words of two or three syllables, the same for the same arguments.

    `roots`: the share of words that it has from the first language of `SCRIPTS`, letter for letter;
    `one_script`: it is written in the script of that language. So with both, these words are the same
    words, and the same tokens. KeyError for a code without a script.
    """
    first = next(iter(SCRIPTS))
    _, consonants, vowels = SCRIPTS[first if one_script else code]
    rng = random.Random(f"words/{code}/{seed}")
    old = invent_language(first, seed).words if roots and code != first else {}
    words: dict[str, str] = {}
    for gloss in dict.fromkeys([*function_words(1), *content_words()]):
        short = gloss in function_words(1)
        word = (
            _transliterated(old[gloss], first, consonants + vowels)
            if _inherited(gloss, seed, old, roots)
            else ""
        )
        while not word or word in words.values():
            word = _pseudo_word(rng, consonants, vowels, short)
        words[gloss] = word
    return Language(code, words)


def _inherited(gloss: str, seed: int, old: dict[str, str], roots: float) -> bool:
    return gloss in old and zlib.crc32(f"root/{gloss}/{seed}".encode()) % 1000 < 1000 * roots


def _transliterated(word: str, code: str, letters: str) -> str:
    own = "".join(SCRIPTS[code][1:])
    vowels = len(SCRIPTS[code][2])
    return "".join(
        letters[i - len(own)]
        if (i := own.index(c)) >= len(own) - vowels
        else letters[i % (len(letters) - vowels)]
        for c in word
    )


def _pseudo_word(rng: random.Random, consonants: str, vowels: str, short: bool) -> str:
    syllables = rng.choice((1, 2)) if short else rng.choice((2, 3))
    word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables))
    return word + (rng.choice(consonants) if syllables < 3 else "")
