"""The k-th largest value against a sort, whatever the samples say; trimming against its definition."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import reference
from support.strategies import densities, values

from lrnb.merging import cpu
from lrnb.merging.cpu import Scan
from lrnb.merging.election import stop_after
from lrnb.merging.methods import ties
from lrnb.merging.task_vectors import Span
from lrnb.merging.thresholds import ALL, SAMPLE, WHOLE, bracket, kth_largest, locate, sample_size

F = np.float32
DENORMAL = [1e-45, 3e-45, 1e-40]
sizes = st.one_of(values.map(abs), st.sampled_from([0.0, 1.0, 1.0, 2.0, *DENORMAL]))


def magnitudes(*x: float) -> np.ndarray:
    return np.array(x, F)


def scan_of(x: np.ndarray, low: F, high: F) -> Scan:
    return Scan(*(int(c.sum()) for c in (x > high, x == high, x == low)), x[(low < x) & (x < high)])


class Spans:
    """Streams of magnitudes in spans of `step` entries, counted with numpy."""

    def __init__(self, streams: list[np.ndarray], step: int) -> None:
        self.streams, self.step, self.passes = streams, step, 0

    def cut(self, x: np.ndarray) -> list[np.ndarray]:
        return [x[i : i + self.step] for i in range(0, len(x), self.step)]

    def scan(self, bounds: list) -> list[list[Scan]]:
        self.passes += 1
        pairs = zip(self.streams, bounds, strict=True)
        return [[scan_of(piece, *bound) for piece in self.cut(x)] for x, bound in pairs]

    def check(self, samples: list[np.ndarray], ks: list[int]) -> None:
        found = kth_largest(self.scan, samples, ks, len(self.streams[0]))
        for x, k, kth in zip(self.streams, ks, found, strict=True):
            wanted = np.sort(x)[::-1][k - 1]
            assert F(kth.value).tobytes() == wanted.tobytes()
            assert kth.above == np.count_nonzero(x > wanted)
            assert list(kth.equal) == [np.count_nonzero(piece == wanted) for piece in self.cut(x)]


@st.composite
def cases(draw):
    """Streams of one length, a k each, and samples that may be empty, representative or plain wrong."""
    n = draw(st.integers(1, 40))
    streams = [
        np.array(draw(st.lists(sizes, min_size=n, max_size=n)), F) for _ in range(draw(st.integers(1, 3)))
    ]
    ks = [draw(st.sampled_from([1, n, draw(st.integers(1, n))])) for _ in streams]
    samples = []
    for x in streams:
        own, other = st.lists(st.sampled_from(list(x)), max_size=60), st.lists(sizes, max_size=60)
        repeated = st.sampled_from(list(x)).map(lambda value: [value] * 200)
        samples.append(np.sort(np.array(draw(st.one_of(own, other, repeated)), F)))
    return streams, samples, ks


@given(cases(), st.integers(1, 45))
def test_equals_a_sort_whatever_the_samples(case, step):
    streams, samples, ks = case
    Spans(streams, step).check(samples, ks)


MAKERS = {
    "normal": lambda rng, x: x,
    "bfloat16": lambda rng, x: x.astype(reference.BF16).astype(F),
    "one value": lambda rng, x: np.full_like(x, 0.25),
    "mostly zero": lambda rng, x: np.where(rng.random(x.size) < 0.97, F(0), x),
    "sorted": lambda rng, x: np.sort(x),
    "denormal": lambda rng, x: (x * F(1e-38)).astype(F) * F(0.01),
}


@pytest.mark.parametrize("make", MAKERS)
def test_equals_a_sort_where_a_sample_guides(make):
    rng, n = np.random.default_rng(1), 4 * ALL
    x = MAKERS[make](rng, np.abs(rng.standard_normal(n).astype(F)))
    ks = [1, 2, 3_000, n // 2, n - 1, n]
    sample = np.sort(rng.choice(x, sample_size(n)))
    spans = Spans([x] * len(ks), 70_001)
    spans.check([sample] * len(ks), ks)
    assert spans.passes == 1
    whole = Spans([x], n)
    inside = sum(len(scan.inside) for scan in whole.scan([bracket(sample, 0.5)])[0])
    assert inside < n / 10


def test_samples_that_mislead_are_caught():
    """Samples of only the smallest or largest values: the first brackets miss, the answer stays exact."""
    x = np.random.default_rng(2).permutation(np.arange(1, 100_001, dtype=F))
    ascending = np.sort(x)
    spans = Spans([x, x], 30_000)
    spans.check([ascending[:1000], ascending[-1000:]], [50_000, 50_000])
    assert spans.passes > 1


def test_a_sample_of_one_repeated_value_is_no_proof():
    x = np.repeat(magnitudes(3, 2, 1), 100)
    for k in (1, 100, 101, 200, 201, 250, 300):
        for value in (0, 1, 2, 3, 4):
            Spans([x], 70).check([np.full(1000, value, F)], [k])


def test_a_stream_that_is_found_waits_for_the_others():
    x, wide = magnitudes(5, 4, 3, 2, 1), np.full(4000, 9, F)  # no value near 9: several passes
    spans = Spans([x, x], 2)
    spans.check([np.empty(0, F), wide], [2, 3])
    assert spans.passes > 2


@pytest.mark.parametrize("k", [0, 4, -1])
def test_rank_outside_is_an_error(k):
    with pytest.raises(ValueError, match=rf"k = {k} is not in 1\.\.3"):
        kth_largest(Spans([np.ones(3, F)], 2).scan, [np.empty(0, F)], [k], 3)


def test_locate_by_hand():
    first, second = magnitudes(9, 5, 4, 2), magnitudes(5, 3, 2, 2, 0)  # sorted: 9 5 5 4 3 2 2 2 0
    bounds = (F(2), F(5))
    scans = [scan_of(x, *bounds) for x in (first, second)]
    found = [locate(k, bounds, scans) for k in range(1, 10)]
    assert [kth and float(kth.value) for kth in found] == [None, 5, 5, 4, 3, 2, 2, 2, None]
    assert [kth.above for kth in found[1:8]] == [1, 1, 3, 4, 5, 5, 5]
    assert [list(kth.equal) for kth in found[1:8]] == [[1, 1]] * 2 + [[1, 0], [0, 1]] + [[1, 2]] * 3
    one = F(2), F(2)  # a bracket of one value: it is not counted twice
    scans = [scan_of(x, *one) for x in (first, second)]
    assert [locate(k, one, scans) is None for k in (5, 6, 8, 9)] == [True, False, False, True]


@given(st.lists(sizes, max_size=50), st.floats(0, 1), st.sampled_from([0.1, 1, 3, 10]))
def test_brackets_grow_until_they_hold_everything(sample, share, widen):
    sample = np.sort(np.array(sample, F))
    low, high = bracket(sample, share, widen)
    wider = bracket(sample, share, 4 * widen)
    assert wider[0] <= low <= high <= wider[1]
    assert bracket(sample, share, 1e6) == WHOLE
    assert bracket(np.empty(0, F), share) == WHOLE


def test_brackets_are_open_where_the_rank_is_at_an_end():
    sample = np.arange(1, 1001, dtype=F)
    assert bracket(sample, 1.0)[0] == WHOLE[0] and bracket(sample, 1.0)[1] < 20
    assert bracket(sample, 0.0)[1] == WHOLE[1] and bracket(sample, 0.0)[0] > 980
    low, high = bracket(sample, 0.5)
    assert 400 < low < 500 < high < 600


def test_sample_sizes_are_bounded():
    found = [sample_size(n) for n in (1, ALL + 1, 1 << 24, 1 << 27, 1 << 33, 1 << 40)]
    assert found == [SAMPLE[0], SAMPLE[0], SAMPLE[0], 1 << 17, SAMPLE[1], SAMPLE[1]]


# the quota of marked entries


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 40))
def test_stop_after_counts_marked_entries(marks, step, quota):
    marks = np.array(marks)
    quota = min(quota, int(marks.sum()))
    edges = [*range(0, len(marks), step), len(marks)]
    spans = [Span("x", start, stop, 100 + start) for start, stop in pairwise(edges)]
    counts = np.array([marks[span.start : span.stop].sum() for span in spans])
    found = stop_after(spans, counts, quota, lambda span: marks[span.start : span.stop])
    assert found == (101 + np.flatnonzero(marks)[quota - 1] if quota else 0)


# trimming, through TIES of one parent: agreeing with itself, it is its trimmed task vector


def trimmed(x: np.ndarray, density: float, at_threshold: str = "keep-all", span: int = 1 << 19) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", span)
        return ties.ties(np.zeros_like(x), [x], density=density, at_threshold=at_threshold)


@given(st.lists(values, min_size=1, max_size=60), densities, st.sampled_from(["keep-all", "exact"]),
       st.integers(1, 9))  # fmt: skip
def test_trimming_equals_its_definition(x, density, at_threshold, span):
    x = np.array(x, F)
    wanted = np.array(reference.trim(list(x), density, at_threshold), F)
    assert np.array_equal(trimmed(x, density, at_threshold, span), wanted)


def test_ties_at_the_threshold_by_hand():
    x = magnitudes(1, -2, 2, 3, 2, 0)  # k = 3; three entries share the magnitude 2
    for span in (1, 2, 5, 100):
        assert trimmed(x, 0.5, "keep-all", span).tolist() == [0, -2, 2, 3, 2, 0]
        assert trimmed(x, 0.5, "exact", span).tolist() == [0, -2, 2, 3, 0, 0]


def test_zeros_are_never_kept():
    base, ct, sft = np.full(4, 7, F), magnitudes(7, 7, 12, 7), magnitudes(7, 7, 7, 5)
    for at_threshold in ("keep-all", "exact"):
        assert trimmed(ct - base, 1.0, at_threshold).tolist() == [0, 0, 5, 0]
        merged = ties.ties(base, [ct, sft], density=1.0, at_threshold=at_threshold)
        assert merged.tolist() == [7, 7, 12, 5]  # a zero that was kept would be averaged in
