"""Statistics against known values and simulated nulls."""

from __future__ import annotations

from itertools import chain, combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, ttest_1samp

from benchmarks import intervals
from lrnb import statistics


def _alone(values, **how):
    """The interval of one list of items."""
    return statistics.interval([[values]], **how)


def test_interval_is_the_binomial_one():
    right = np.repeat([1.0, 0.0], [60, 140])
    low, high = _alone(right, resamples=20_000)
    expected = binom.ppf([0.025, 0.975], 200, 0.3) / 200
    assert (low, high) == pytest.approx(expected, abs=0.0051)
    assert _alone(right) == _alone(right)
    assert _alone(right, seed=1) != _alone(right, seed=2)


def test_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    draws = [(rng.random(100) < 0.4) * 1.0 for _ in range(300)]
    inside = [low <= 0.4 <= high for low, high in map(_quick, draws)]
    assert 0.90 <= np.mean(inside) <= 0.98


def _quick(values):
    return _alone(values, resamples=400)


def allowed(rate, n):
    """Numbers of hits in n trials between which all but one in 100,000 samples of `rate` fall."""
    return binom.ppf([5e-6, 1 - 5e-6], n, rate) / n


def _seeds(rng, seeds, spread, items=100):
    """Items of two tasks for every seed; the true rate of a seed is 0.5 with `spread`."""
    rates = np.clip(0.5 + spread * rng.standard_normal(seeds), 0.02, 0.98)
    return [[(rng.random(items) < rate) * 1.0 for _ in range(2)] for rate in rates]


def _covers(samples):
    low, high = statistics.interval(samples, resamples=300)
    return low <= 0.5 <= high


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 0.93, 1.0), (0.05, 0.88, 0.99)])
def test_interval_over_seeds_covers_the_truth_where_that_over_items_does_not(spread, low, high):
    rng = np.random.default_rng(0)
    drawn = [_seeds(rng, 8, spread) for _ in range(300)]
    assert low <= np.mean(list(map(_covers, drawn))) <= high
    pooled = [[[np.concatenate([values for tasks in seeds for values in tasks])]] for seeds in drawn]
    over_items = np.mean(list(map(_covers, pooled)))
    assert over_items > 0.9 if spread == 0 else over_items < 0.82


def test_interval_over_one_seed_is_the_one_over_items():
    rng = np.random.default_rng(1)
    values = (rng.random(150) < 0.3) * 1.0
    one = statistics.interval([[values]], resamples=20_000)
    assert one == pytest.approx(binom.ppf([0.025, 0.975], 150, values.mean()) / 150, abs=0.0068)
    uneven = [[np.ones(10), np.zeros(1000)]]  # tasks count alike, however many items they have
    tasks = [_alone(values) for values in uneven[0]]
    margins = (1 - tasks[0][0]) / 2, tasks[1][1] / 2
    assert statistics.interval(uneven) == pytest.approx((0.5 - margins[0], 0.5 + margins[1]))
    far = statistics.interval([[np.ones(50)], [np.zeros(50)]])
    assert far == (0.0, 1.0)  # two seeds that disagree wholly say nothing
    with pytest.raises(ValueError, match="at least one seed"):
        statistics.interval([])


def test_over_seeds_with_own_items_is_students():
    sleep = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]  # Student 1908, table I, first drug
    found = statistics.over_seeds([[[x]] for x in sleep], shared=False, bounds=(-1e6, 1e6))
    assert found.p == pytest.approx(0.2176, abs=1e-4)
    with pytest.raises(ValueError, match="at least two seeds"):
        statistics.over_seeds([[[1.0]]], shared=True)


def test_over_runs_is_students_too():
    """Student 1908, table I: the difference of the two drugs, whose t is 4.06."""
    drugs = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = statistics.over_runs(drugs)
    assert (found.value, found.p, found.n) == (pytest.approx(1.58), pytest.approx(0.002833, abs=1e-6), 10)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert statistics.over_runs([2.0, 2.0])[:3] == (2.0, 2.0, 2.0)
    assert statistics.over_runs([0.0, 0.0]).p == 1
    with pytest.raises(ValueError, match="at least two runs"):
        statistics.over_runs([1.0])


def test_parts_of_the_variance_are_those_of_the_mean_squares():
    """Of a crossed layout without replication: common is (MS items - MS error) / (S n)."""
    rng = np.random.default_rng(2)
    answers = rng.random((5, 40)) + rng.random((1, 40)) + 0.2 * rng.random((5, 1))
    rows, columns = answers.mean(axis=1), answers.mean(axis=0)
    error = ((answers - rows[:, None] - columns + answers.mean()) ** 2).sum() / (4 * 39)
    items = 5 * columns.var(ddof=1)
    found = statistics._spread([[x] for x in answers], [[x] for x in answers], True)
    (_, between), (_, common) = found.parts
    assert between == pytest.approx(rows.var(ddof=1) / 5)
    assert common == pytest.approx((items - error) / (5 * 40))
    assert found.least == ((np.inf, pytest.approx(items / (5 * 40))),)


def test_over_languages_of_one_seed_is_students():
    sleep = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]  # Student 1908, table I, first drug
    found = statistics.over_languages([[[[x]]] for x in sleep], shared=True, bounds=(-1e6, 1e6))
    assert found.p == pytest.approx(0.2176, abs=1e-4)
    with pytest.raises(ValueError, match=r"as many seeds each are needed, got seeds \[1\]"):
        statistics.over_languages([[[[1.0]]]], shared=True)
    with pytest.raises(ValueError, match=r"got seeds \[1, 2\]"):
        statistics.over_languages([[[[1.0]]], [[[1.0]], [[2.0]]]], shared=True)


def test_over_languages_weighs_a_base_that_languages_share():
    """What a seed's languages have in common counts by the number of seeds, not by that of languages."""
    alike = [[[[x]] for x in (0.3, 0.1)]] * 7  # seven languages, all moved by their seeds
    found = statistics.over_languages(alike, shared=True, bounds=(-np.inf, np.inf))
    by_seeds = statistics.over_seeds(alike[0], shared=False, bounds=(-np.inf, np.inf))
    assert found[:4] == pytest.approx(by_seeds[:4])
    apart = [[[[x]], [[x]]] for x in (0.3, 0.1, 0.2)]  # three languages on which seeds agree
    found = statistics.over_languages(apart, shared=True, bounds=(-np.inf, np.inf))
    assert found.p == pytest.approx(ttest_1samp([0.3, 0.1, 0.2], 0).pvalue)
    assert statistics.detectable_over_languages(apart, shared=True) > found.value - found.ci_low


@pytest.mark.parametrize(
    "given",
    [
        intervals.Crossed(3, 2, True, 3.0, 3.0, 3.0),
        intervals.Crossed(7, 2, False, 0.0, 3.0, 3.0),
        intervals.Crossed(7, 3, True, 3.0, 1.0, 3.0),
        intervals.Crossed(4, 1, True, 3.0, 0.0, 3.0),
    ],
)
def test_over_languages_keeps_its_error_rate(given):
    row = intervals.simulated_crossed(given, 200)
    assert row["type_1"] / 100 <= allowed(0.06, 200)[1]
    assert row["width"] > 0.9


def test_shared_items_are_matched_by_their_index():
    rng = np.random.default_rng(3)
    hard = pd.Series(rng.random(60), index=rng.permutation(60))
    seeds = [(hard.sample(50, random_state=seed) > 0.5) * 1.0 for seed in range(4)]
    found = statistics.over_seeds([[x] for x in seeds], shared=True, bounds=(0, 1))
    apart = statistics.over_seeds([[x.to_numpy()] for x in seeds], shared=True, bounds=(0, 1))
    own = statistics.over_seeds([[x] for x in seeds], shared=False, bounds=(0, 1))
    width = [x.ci_high - x.ci_low for x in (own, apart, found)]
    assert width[2] > 1.3 * max(width[:2])
    with pytest.raises(ValueError, match="index to match by"):
        statistics.over_seeds([[[1.0, 0.0]], [[1.0]]], shared=True)


def test_seeds_that_agree_by_chance_are_not_certain():
    """The interval is never narrower than that of the items alone."""
    half = np.tile([1.0, 0.0], 50)
    for shared, n in ((False, 200), (True, 100)):
        found = statistics.over_seeds([[half], [half]], shared=shared, bounds=(0, 1))
        assert found.ci_high - 0.5 == pytest.approx(1.96 * (0.25 / n) ** 0.5, rel=0.02)


@pytest.mark.parametrize("seeds", [2, 4])
@pytest.mark.parametrize(("stable", "spread"), [(0.0, 4.0), (0.3, 2.0), (0.8, 2.0)])
def test_over_seeds_keeps_its_error_rate_where_students_does_not(seeds, stable, spread):
    given = intervals.Setting(seeds, True, stable, spread, 4, 0.25)
    rng, p, plain = np.random.default_rng(7), [], []
    for _ in range(300):
        arms = [intervals.drawn(given, 0.25, rng) for _ in range(2)]
        deltas = [[a - b for a, b in zip(*seed, strict=True)] for seed in zip(*arms, strict=True)]
        p.append(statistics.over_seeds(deltas, shared=True).p)
        plain.append(statistics.over_seeds(deltas, shared=False).p)
    assert np.mean(np.array(p) < 0.05) <= allowed(0.06, 300)[1]
    if (seeds, stable) == (4, 0.8):
        assert np.mean(np.array(plain) < 0.05) > 0.09


def test_above_chance_is_right_about_a_guesser():
    """A model that guesses among four is above chance in at most about one of 40 scores."""
    rng = np.random.default_rng(4)
    draws = [(rng.random(200) < 0.25) * 1.0 for _ in range(1000)]
    above = [statistics.above_chance(_quick(values)[0], 0.25) for values in draws]
    assert 0.005 < np.mean(above) < allowed(0.035, 1000)[1]
    few, many = np.repeat([1.0, 0.0], [1, 199]), np.repeat([1.0, 0.0], [8, 192])
    assert not statistics.above_chance(_alone(few)[0], 0.0)  # one lucky number in 200
    assert statistics.above_chance(_alone(many)[0], 0.0)


def test_interval_without_spread_is_not_certain():
    assert _alone([1.0] * 20) == pytest.approx((0.8316, 1.0), abs=1e-4)
    assert _alone([0.0] * 20) == pytest.approx((0.0, 0.1684), abs=1e-4)
    with pytest.raises(ValueError, match="at least one item"):
        _alone([])


def test_mcnemar_is_exact():
    a = [1] * 8 + [0] * 2 + [1] * 30 + [0] * 10
    b = [0] * 8 + [1] * 2 + [1] * 30 + [0] * 10
    assert statistics.mcnemar(a, b) == pytest.approx(112 / 1024)  # 2 (1 + 10 + 45) / 2**10
    assert statistics.mcnemar(b, a) == statistics.mcnemar(a, b)
    assert statistics.mcnemar(a, a) == 1.0
    with pytest.raises(ValueError, match="50 and 49"):
        statistics.mcnemar(a, b[1:])


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (6, 16, 0.0525),  # the table in Wikipedia's article on the test: exact 0.053
        (7, 1, 0.0703),  # airway hyper-responsiveness, Fagerland, Lydersen and Laake 2013: exact 0.070
        (150, 86, 2 * sum(comb(236, k) for k in range(87)) / 2**236),  # approval ratings, Agresti
    ],
)
def test_mcnemar_of_published_tables(only_a, only_b, p):
    assert _mcnemar_of(only_a, only_b) == pytest.approx(p, abs=5e-5, rel=1e-3)


def _null(rng, n=200):
    """Two equally good models that agree on about 70% of the items."""
    same, coin = rng.random(n) < 0.7, rng.random(n) < 0.5
    other = np.where(same, coin, rng.random(n) < 0.5)
    return coin, other


def test_tests_keep_their_error_rate_on_a_null():
    rng = np.random.default_rng(0)
    p = np.array([statistics.mcnemar(*_null(rng)) for _ in range(3000)])
    low, high = allowed(exact_rate(200, 0.15), 3000)
    assert low <= np.mean(p < 0.05) <= high <= 0.055
    p = np.array([statistics.paired_difference([[_null(rng, 60), _null(rng, 120)]]).p for _ in range(800)])
    low, high = allowed(0.05, 800)
    assert low <= np.mean(p < 0.05) <= high


def exact_rate(n, discordant):
    """How often the exact test rejects a true null: summed over every number of discordant items."""
    sizes = np.arange(n + 1)
    tail = binom.cdf(binom.ppf(0.025, sizes, 0.5) - 1, sizes, 0.5)
    return float(binom.pmf(sizes, n, discordant) @ (2 * tail))


def test_interval_of_a_paired_difference_covers_the_truth():
    rng = np.random.default_rng(5)
    shares = [0.2, 0.1, 0.7]  # only a, only b, both alike: a is 0.1 better
    found = []
    for only_a, only_b, alike in rng.multinomial(150, shares, 300):
        a = np.repeat([1, 0, 1], [only_a, only_b, alike])
        b = np.repeat([0, 1, 1], [only_a, only_b, alike])
        difference = statistics.paired_difference([[(a, b)]])
        found.append(difference.ci_low <= 0.1 <= difference.ci_high)
    assert 0.905 <= np.mean(found) <= 0.985


def test_paired_difference():
    a, b = np.repeat([1, 0, 1, 0], [40, 10, 100, 50]), np.repeat([0, 1, 1, 0], [40, 10, 100, 50])
    found = statistics.paired_difference([[(a, b)]])
    assert (found.value, found.n) == (pytest.approx(0.15), 200)
    error = np.sqrt(50 / 200 - 0.15**2) / np.sqrt(200)
    assert (found.ci_low, found.ci_high) == pytest.approx(
        (0.15 - 1.96 * error, 0.15 + 1.96 * error), abs=0.012
    )
    assert found.p == pytest.approx(statistics.mcnemar(a, b))
    alike = statistics.paired_difference([[([1] * 50, [1] * 50)]])
    assert (alike.value, alike.p) == (0.0, 1.0)
    assert alike.ci_low == -alike.ci_high < 0


def test_macro_difference_weighs_tasks_equally():
    small = (np.ones(10), np.zeros(10))
    large = (np.tile([1, 0], 500), np.tile([1, 0], 500))
    found = statistics.paired_difference([[small, large]])
    assert found.value == pytest.approx(0.5)
    assert found.p < 0.01
    assert found.n == 1010


def test_means_of_tasks_without_spread_are_not_certain():
    z, o, mixed = np.zeros(200), np.ones(50), np.tile([1.0, 0.0], 100)
    bound = _alone(z)[1]
    both = (-bound / 2**0.5, bound / 2**0.5)
    assert statistics.interval([[z]]) == pytest.approx((0, bound))
    assert statistics.interval([[z, z]]) == pytest.approx((0, bound / 2**0.5))
    assert statistics.interval([[z, z]], bounds=(-1.0, 1.0)) == pytest.approx(
        (-bound / 2**0.5, bound / 2**0.5)
    )
    found = statistics.paired_difference([[(z, z), (z, z)]])
    assert (found.ci_low, found.ci_high) == pytest.approx(both)
    found = statistics.paired_difference([[(o, 0 * o), (o, 0 * o)]])
    assert found.ci_high == 1
    assert found.ci_low == pytest.approx(1 - (1 - _alone(o)[0]) / 2**0.5)
    alone, beside = (statistics.paired_difference([[(mixed, z), *more]]) for more in ([], [(z, z)]))
    half = np.hypot((alone.ci_high - alone.value) / 2, bound / 2)
    assert beside.ci_high - beside.value == pytest.approx(half, rel=0.05)


def test_p_of_a_permutation_test_is_never_zero():
    found = statistics.paired_difference([[(2 * np.ones(100), np.zeros(100))]], bounds=(-2.0, 2.0))
    assert found.p == 1 / (1 + statistics.RESAMPLES)  # no flip of signs reaches it: only the data itself


def test_holm_known_case():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(statistics.holm([])) == 0


def test_holm_is_the_closed_test_of_bonferroni():
    """Adjusted p of one hypothesis: the largest Bonferroni p among all families that hold it."""
    rng = np.random.default_rng(6)
    for p in rng.random((20, 5)) ** 3:
        families = list(chain.from_iterable(combinations(range(5), k) for k in range(1, 6)))
        worst = [max(min(1, len(f) * p[list(f)].min()) for f in families if i in f) for i in range(5)]
        assert statistics.holm(p) == pytest.approx(worst)


def test_holm_keeps_the_family_error():
    rng = np.random.default_rng(1)
    wrong = [(statistics.holm(rng.random(20)) < 0.05).any() for _ in range(2000)]
    assert 0.035 < np.mean(wrong) < 0.065


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.3), (1000, 0.2)])
def test_detectable_difference_is_found_with_that_power(n, discordant):
    d = statistics.minimum_detectable_difference(n, discordant=discordant)
    rng = np.random.default_rng(2)
    shares = [(discordant + d) / 2, (discordant - d) / 2, 1 - discordant]
    counts = rng.multinomial(n, shares, 1000)
    p = [_mcnemar_of(only_a, only_b) for only_a, only_b, _ in counts]
    assert 0.72 < np.mean(np.array(p) < 0.05) < 0.86
    assert statistics.minimum_detectable_difference(4 * n, discordant=discordant) < 0.6 * d


def _mcnemar_of(only_a, only_b):
    return statistics.mcnemar(np.repeat([1, 0], [only_a, only_b]), np.repeat([0, 1], [only_a, only_b]))


def test_detectable_difference_is_that_of_a_published_sample_size():
    """Connor 1987 (Biometrics 43, p. 209): shares of 0.45 and 0.05 need 23 pairs at 80% power."""
    enough, short = (statistics.minimum_detectable_difference(n, discordant=0.5) for n in (23, 22))
    assert enough <= 0.4 < short


def test_detectable_difference_can_be_out_of_reach():
    assert np.isnan(statistics.minimum_detectable_difference(10, discordant=0.05))


def test_difference_over_seeds_is_students():
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    found = statistics.paired_difference([[([x], [0.0])] for x in first], bounds=(-1e6, 1e6))
    assert (found.value, found.n) == (pytest.approx(0.75), 10)
    assert found.p == pytest.approx(0.2176, abs=1e-4)
    assert found.ci_low < found.value < found.ci_high


# One run, with the noise that others show


def _ones(sd: float, seeds: int, draws: int, truth: float = 0.0) -> list[tuple[float, float, float]]:
    """(value, sd over other runs, mean of those) of runs drawn around `truth`."""
    rng = np.random.default_rng(0)
    runs = rng.normal(truth, sd, (draws, seeds + 1))
    return [(run[0], run[1:].std(ddof=1), run[1:].mean()) for run in runs]


@pytest.mark.parametrize("seeds", [4, 32])
def test_one_run_with_noise_known_from_others_covers_the_mean_of_all(seeds: int) -> None:
    found = [statistics.one_run(value, sd, seeds) for value, sd, _ in _ones(0.04, seeds, 2000, 0.03)]
    assert np.mean([low <= 0.03 <= high for low, high, _ in found]) == pytest.approx(0.95, abs=0.015)
    null = [statistics.one_run(value, sd, seeds) for value, sd, _ in _ones(0.04, seeds, 2000)]
    assert np.mean([p < 0.05 for *_, p in null]) == pytest.approx(0.05, abs=0.015)
    assert all((p < 0.05) == (low > 0 or high < 0) for low, high, p in null)


def test_one_run_is_never_surer_than_its_items() -> None:
    low, high, _ = statistics.one_run(0.0, 1e-6, 32, items=0.02**2)
    assert (low, high) == pytest.approx((-0.0392, 0.0392), abs=2e-4)


@pytest.mark.parametrize("seeds", [4, 32])
def test_prediction_holds_a_further_run(seeds: int) -> None:
    runs = np.random.default_rng(1).normal(2, 3, (4000, seeds + 1))
    ends = [statistics.prediction(run[1:]) for run in runs]
    inside = [low <= run[0] <= high for run, (low, high) in zip(runs, ends, strict=True)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


def test_what_one_run_can_detect_is_found_four_times_out_of_five() -> None:
    least = statistics.detectable_by_one_run(0.02, 32)
    found = [statistics.one_run(value, 0.02, 32)[2] < 0.05 for value, *_ in _ones(0.02, 32, 4000, least)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_columns_are_resampled_together() -> None:
    rng = np.random.default_rng(3)
    one = rng.random((300, 1))
    drawn = statistics.resampled_columns([np.hstack([one, one, 1 - one]), np.zeros((40, 3))], resamples=4000)
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 1])
    assert drawn[:, 0].std() == pytest.approx(one.std() / 300**0.5 / 2, rel=0.08)
    assert np.corrcoef(drawn[:, 0], drawn[:, 2])[0, 1] == pytest.approx(-1)
