"""Statistics against known values and simulated nulls."""

from __future__ import annotations

from itertools import chain, combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from lrnb import stats


def test_interval_is_the_binomial_one():
    right = np.repeat([1.0, 0.0], [60, 140])
    low, high = stats.bootstrap_interval(right, resamples=20_000)
    expected = binom.ppf([0.025, 0.975], 200, 0.3) / 200
    assert (low, high) == pytest.approx(expected, abs=0.0051)
    assert stats.bootstrap_interval(right) == stats.bootstrap_interval(right)
    assert stats.bootstrap_interval(right, seed=1) != stats.bootstrap_interval(right, seed=2)


def test_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    draws = [(rng.random(100) < 0.4) * 1.0 for _ in range(300)]
    inside = [low <= 0.4 <= high for low, high in map(_quick, draws)]
    assert 0.90 <= np.mean(inside) <= 0.98


def _quick(values):
    return stats.bootstrap_interval(values, resamples=400)


def allowed(rate, n):
    """Numbers of hits in n trials between which all but one in 100,000 samples of `rate` fall."""
    return binom.ppf([5e-6, 1 - 5e-6], n, rate) / n


def _seeds(rng, seeds, spread, items=100):
    """Items of two tasks for every seed; the true rate of a seed is 0.5 with `spread`."""
    rates = np.clip(0.5 + spread * rng.standard_normal(seeds), 0.02, 0.98)
    return [[(rng.random(items) < rate) * 1.0 for _ in range(2)] for rate in rates]


def _covers(samples):
    low, high = stats.hierarchical_interval(samples, resamples=300)
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
    one = stats.hierarchical_interval([[values]], resamples=20_000)
    assert one == pytest.approx(binom.ppf([0.025, 0.975], 150, values.mean()) / 150, abs=0.0068)
    uneven = [[np.ones(10), np.zeros(1000)]]  # tasks count alike, however many items they have
    tasks = [stats.bootstrap_interval(values) for values in uneven[0]]
    margins = (1 - tasks[0][0]) / 2, tasks[1][1] / 2
    assert stats.hierarchical_interval(uneven) == pytest.approx((0.5 - margins[0], 0.5 + margins[1]))
    far = stats.hierarchical_interval([[np.ones(50)], [np.zeros(50)]])
    assert far == (0.0, 1.0)  # two seeds that disagree wholly say nothing
    with pytest.raises(ValueError, match="at least one seed"):
        stats.hierarchical_interval([])


def test_variance_over_seeds_is_the_formula_of_two_stage_resampling():
    """Var = (between with divisor S) / S + mean of the items' variances / (S n)."""
    rng = np.random.default_rng(2)
    samples = [[(rng.random(80) < rate) * 1.0] for rate in (0.2, 0.4, 0.5, 0.8)]
    means = np.array([tasks[0].mean() for tasks in samples])
    variance = means.var() / 4 + (means * (1 - means)).mean() / (4 * 80)
    low, high = stats.hierarchical_interval(samples, level=0.6827, resamples=40_000)
    assert (high - low) / 2 == pytest.approx(np.sqrt(variance), rel=0.05)


def test_p_over_seeds_is_students():
    sleep = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]  # Student 1908, table I, first drug
    assert stats.seeds_p(sleep) == pytest.approx(0.2176, abs=1e-4)
    assert np.isnan(stats.seeds_p([0.3]))
    assert (stats.seeds_p([0.0, 0.0]), stats.seeds_p([0.1, 0.1])) == (1.0, 0.0)
    rng = np.random.default_rng(3)
    p = np.array([stats.seeds_p(rng.standard_normal(4)) for _ in range(2000)])
    low, high = allowed(0.05, 2000)
    assert low <= np.mean(p < 0.05) <= high


def test_above_chance_is_right_about_a_guesser():
    """A model that guesses among four is above chance in at most about one of 40 scores."""
    rng = np.random.default_rng(4)
    draws = [(rng.random(200) < 0.25) * 1.0 for _ in range(1000)]
    above = [stats.above_chance(_quick(values)[0], 0.25) for values in draws]
    assert 0.005 < np.mean(above) < allowed(0.035, 1000)[1]
    few, many = np.repeat([1.0, 0.0], [1, 199]), np.repeat([1.0, 0.0], [8, 192])
    assert not stats.above_chance(stats.bootstrap_interval(few)[0], 0.0)  # one lucky number in 200
    assert stats.above_chance(stats.bootstrap_interval(many)[0], 0.0)


def test_interval_without_spread_is_not_certain():
    assert stats.bootstrap_interval([1.0] * 20) == pytest.approx((0.8316, 1.0), abs=1e-4)
    assert stats.bootstrap_interval([0.0] * 20) == pytest.approx((0.0, 0.1684), abs=1e-4)
    assert stats.bootstrap_interval([3.5] * 20) == (3.5, 3.5)
    with pytest.raises(ValueError, match="at least one item"):
        stats.bootstrap_interval([])


def test_mcnemar_is_exact():
    a = [1] * 8 + [0] * 2 + [1] * 30 + [0] * 10
    b = [0] * 8 + [1] * 2 + [1] * 30 + [0] * 10
    assert stats.mcnemar(a, b) == pytest.approx(112 / 1024)  # 2 (1 + 10 + 45) / 2**10
    assert stats.mcnemar(b, a) == stats.mcnemar(a, b)
    assert stats.mcnemar(a, a) == 1.0
    with pytest.raises(ValueError, match="50 and 49"):
        stats.mcnemar(a, b[1:])


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
    p = np.array([stats.mcnemar(*_null(rng)) for _ in range(3000)])
    low, high = allowed(exact_rate(200, 0.15), 3000)
    assert low <= np.mean(p < 0.05) <= high <= 0.055
    p = np.array([stats.macro_difference([_null(rng, 60), _null(rng, 120)]).p for _ in range(800)])
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
        difference = stats.paired_difference(a, b)
        found.append(difference.ci_low <= 0.1 <= difference.ci_high)
    assert 0.905 <= np.mean(found) <= 0.985


def test_paired_difference():
    a, b = np.repeat([1, 0, 1, 0], [40, 10, 100, 50]), np.repeat([0, 1, 1, 0], [40, 10, 100, 50])
    found = stats.paired_difference(a, b)
    assert (found.value, found.n) == (pytest.approx(0.15), 200)
    error = np.sqrt(50 / 200 - 0.15**2) / np.sqrt(200)
    assert (found.ci_low, found.ci_high) == pytest.approx(
        (0.15 - 1.96 * error, 0.15 + 1.96 * error), abs=0.012
    )
    assert found.p == pytest.approx(stats.mcnemar(a, b))
    alike = stats.paired_difference([1] * 50, [1] * 50)
    assert (alike.value, alike.p) == (0.0, 1.0)
    assert alike.ci_low == -alike.ci_high < 0


def test_macro_difference_weighs_tasks_equally():
    small = (np.ones(10), np.zeros(10))
    large = (np.tile([1, 0], 500), np.tile([1, 0], 500))
    found = stats.macro_difference([small, large])
    assert found.value == pytest.approx(0.5)
    assert found.p < 0.01
    assert found.n == 1010


def test_means_of_tasks_without_spread_are_not_certain():
    z, o, mixed = np.zeros(200), np.ones(50), np.tile([1.0, 0.0], 100)
    bound = stats.bootstrap_interval(z)[1]
    both = (-bound / 2**0.5, bound / 2**0.5)
    assert stats.hierarchical_interval([[z]]) == pytest.approx((0, bound))
    assert stats.hierarchical_interval([[z, z]]) == pytest.approx((0, bound / 2**0.5))
    assert stats.hierarchical_interval([[z, z]], least=-1.0) == pytest.approx(
        (-bound / 2**0.5, bound / 2**0.5)
    )
    found = stats.macro_difference([(z, z), (z, z)])
    assert (found.ci_low, found.ci_high) == pytest.approx(both)
    found = stats.macro_difference([(o, 0 * o), (o, 0 * o)])
    assert found.ci_high == 1
    assert found.ci_low == pytest.approx(1 - (1 - stats.bootstrap_interval(o)[0]) / 2**0.5)
    alone, beside = (stats.macro_difference([(mixed, z), *more]) for more in ([], [(z, z)]))
    half = np.hypot((alone.ci_high - alone.value) / 2, bound / 2)
    assert beside.ci_high - beside.value == pytest.approx(half, rel=0.05)


def test_p_of_a_permutation_test_is_never_zero():
    found = stats.macro_difference([(np.ones(100), np.zeros(100))])
    assert found.p == 1 / (1 + stats.RESAMPLES)  # no flip of signs reaches it: only the data itself


def test_holm_known_case():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(stats.holm([])) == 0


def test_holm_is_the_closed_test_of_bonferroni():
    """Adjusted p of one hypothesis: the largest Bonferroni p among all families that hold it."""
    rng = np.random.default_rng(6)
    for p in rng.random((20, 5)) ** 3:
        families = list(chain.from_iterable(combinations(range(5), k) for k in range(1, 6)))
        worst = [max(min(1, len(f) * p[list(f)].min()) for f in families if i in f) for i in range(5)]
        assert stats.holm(p) == pytest.approx(worst)


def test_holm_keeps_the_family_error():
    rng = np.random.default_rng(1)
    wrong = [(stats.holm(rng.random(20)) < 0.05).any() for _ in range(2000)]
    assert 0.035 < np.mean(wrong) < 0.065


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.3), (1000, 0.2)])
def test_detectable_difference_is_found_with_that_power(n, discordant):
    d = stats.minimum_detectable_difference(n, discordant=discordant)
    rng = np.random.default_rng(2)
    shares = [(discordant + d) / 2, (discordant - d) / 2, 1 - discordant]
    counts = rng.multinomial(n, shares, 1000)
    p = [_mcnemar_of(only_a, only_b) for only_a, only_b, _ in counts]
    assert 0.72 < np.mean(np.array(p) < 0.05) < 0.86
    assert stats.minimum_detectable_difference(4 * n, discordant=discordant) < 0.6 * d


def _mcnemar_of(only_a, only_b):
    return stats.mcnemar(np.repeat([1, 0], [only_a, only_b]), np.repeat([0, 1], [only_a, only_b]))


def test_detectable_difference_is_that_of_a_published_sample_size():
    """Connor 1987 (Biometrics 43, p. 209): shares of 0.45 and 0.05 need 23 pairs at 80% power."""
    enough, short = (stats.minimum_detectable_difference(n, discordant=0.5) for n in (23, 22))
    assert enough <= 0.4 < short


def test_detectable_difference_can_be_out_of_reach():
    assert np.isnan(stats.minimum_detectable_difference(10, discordant=0.05))


def _items(method, right, task="topic", budget=16):
    return pd.DataFrame({"method": method, "ct_tokens": budget, "task": task,
                         "item": range(len(right)), "correct": right})  # fmt: skip


def test_compare_pairs_by_item_within_a_budget():
    good, bad = np.tile([1, 1, 1, 0], 50).astype(bool), np.tile([1, 0, 0, 0], 50).astype(bool)
    shuffled = _items("ties", good).sample(frac=1, random_state=0)
    items = pd.concat([
        shuffled, _items("ct_then_sft", bad), _items("ties", good, "math"),
        _items("ct_then_sft", good, "math"), _items("base", bad, budget=0),
    ])  # fmt: skip
    table = stats.compare(items, lang="bn").set_index("task")
    assert list(table.index) == ["topic", "math", "(mean)"]
    assert table.loc["topic", "difference"] == pytest.approx(50)
    assert table.loc["math", "p"] == 1
    assert table.loc["(mean)", "difference"] == pytest.approx(25)


def test_compare_refuses_other_items():
    items = pd.concat([_items("ties", [True] * 5), _items("ct_then_sft", [True] * 6)])
    with pytest.raises(ValueError, match="same items"):
        stats.compare(items)
