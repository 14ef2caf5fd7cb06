"""Statistics against known values and simulated nulls."""

from __future__ import annotations

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


def _null(rng, n=200):
    """Two equally good models that agree on about 70% of the items."""
    same, coin = rng.random(n) < 0.7, rng.random(n) < 0.5
    other = np.where(same, coin, rng.random(n) < 0.5)
    return coin, other


def test_tests_keep_their_error_rate_on_a_null():
    rng = np.random.default_rng(0)
    p = [stats.mcnemar(*_null(rng)) for _ in range(2000)]
    assert 0.02 < np.mean(np.array(p) < 0.05) <= 0.055
    p = [stats.macro_difference([_null(rng, 60), _null(rng, 120)]).p for _ in range(200)]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.10


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


def test_holm_known_case():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(stats.holm([])) == 0


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
