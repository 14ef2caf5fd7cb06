"""Near duplicates: the estimate against the true similarity, growth, every script, every machine."""

from __future__ import annotations

import numpy as np
import pytest

from lrnb.data.character_kinds import code_points_of
from lrnb.data.near_duplicates import FIRST, PERMUTATIONS, SHINGLE, NearDuplicates, rows_a_band
from lrnb.data.text_loops import NEAR

WORDS = np.array([f"{a}{b}{c}" for a in "অকচটতপ" for b in ["ি", "ু", "ে", ""] for c in "নরলমস"])


def text_of(draw: np.random.Generator, words: int = 120) -> list[str]:
    return list(draw.choice(WORDS, words))


def sketches(known: NearDuplicates, *texts: str) -> np.ndarray:
    return known.sketches(*code_points_of(texts), np.ones(len(texts), bool))


def twin(known: NearDuplicates, text: str) -> bool:
    """Whether the text is like one remembered; it is remembered where it is not."""
    known.mark(fates := np.zeros(1, np.uint8), sketches(known, text))
    assert fates[0] in (0, NEAR)
    return bool(fates[0])


def similarity(one: str, other: str) -> float:
    """Jaccard's, of the sets of shingles."""
    a, b = ({text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)} for text in (one, other))
    return len(a & b) / len(a | b)


def changed(words: list[str], share: float, draw: np.random.Generator) -> str:
    """The text with a share of its words replaced, those at the end."""
    count = round(share * len(words))
    return " ".join([*words[: len(words) - count], *text_of(draw, count)])


def test_what_is_far_above_or_below_the_threshold_is_told() -> None:
    draw, known = np.random.default_rng(0), NearDuplicates(0.8)
    for _ in range(200):
        words = text_of(draw)
        near, far = changed(words, 0.03, draw), changed(words, 0.4, draw)
        assert similarity(" ".join(words), near) > 0.9 and similarity(" ".join(words), far) < 0.6
        assert not twin(known, " ".join(words))
        assert twin(known, near) and not twin(known, far)


def test_the_estimate_has_the_error_of_independent_hash_functions() -> None:
    """Its standard deviation is sqrt(J (1 - J) / PERMUTATIONS); the mean of many is J."""
    draw, known, errors, expected = np.random.default_rng(1), NearDuplicates(0.5), [], []
    for _ in range(300):
        words = text_of(draw)
        one, other = " ".join(words), changed(words, draw.uniform(0.05, 0.6), draw)
        true = similarity(one, other)
        errors.append(np.mean(np.equal(*sketches(known, one, other))) - true)
        expected.append(true * (1 - true) / PERMUTATIONS)
    assert abs(np.mean(errors)) < 4 * np.sqrt(np.mean(expected) / len(errors))
    assert 0.8 < np.mean(np.square(errors)) / np.mean(expected) < 1.25


def test_texts_are_still_known_after_the_room_has_grown() -> None:
    draw, known = np.random.default_rng(2), NearDuplicates(0.8)
    texts = [" ".join(text_of(draw, 30)) for _ in range(3 * FIRST)]
    assert not any(twin(known, text) for text in texts)
    assert all(twin(known, text) for text in texts)


@pytest.mark.parametrize("text", ["", "a", "abcd", "བོད་སྐད།", "𐐷𐐷𐐷𐐷𐐷𐐷", "ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ"])
def test_short_texts_and_every_plane(text: str) -> None:
    known = NearDuplicates(0.8)
    assert not twin(known, text) and twin(known, text)
    assert not twin(known, text + "another text altogether")


def test_the_sketch_is_the_same_everywhere() -> None:
    assert sketches(NearDuplicates(0.8), "নদীর ধারে একটি ছোট গ্রাম")[0, :4].tolist() == [
        44027,
        45071,
        51576,
        30018,
    ]


def test_bands_find_what_is_as_like_as_the_threshold() -> None:
    """By the formula: 10 bands of 6 rows meet with a chance of 0.95 at 0.8, and of 0.04 at 0.4."""
    assert rows_a_band(0.8) == 6
    assert 1 - (1 - 0.8**6) ** 10 > 0.95 and 1 - (1 - 0.4**6) ** 10 < 0.05
    assert rows_a_band(0.001) == 1 and rows_a_band(1) == PERMUTATIONS
