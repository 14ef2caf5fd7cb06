"""Intervals and tests for scores over items and seeds; scipy does the statistics.

Two models answer the same items, so differences are paired: what counts are the items on which
they disagree. All random draws take a seed. docs/statistics.md says why each was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy import optimize, special
from scipy import stats as scipy_stats

Values: TypeAlias = "Sequence[float] | np.ndarray | pd.Series"
Seed = int | np.random.Generator
RESAMPLES = 2000
TINY = 1e-15  # the smallest p that is told
LEVEL = 0.95
SAME = 1e-12  # numbers of runs that differ by less do so by rounding


class Difference(NamedTuple):
    """Mean of a - b with its interval, the two-sided p, and the number of items."""

    value: float
    ci_low: float
    ci_high: float
    p: float
    n: int


def interval(
    samples: Sequence[Sequence[Values]],
    *,
    shared: bool = False,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: Seed = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """Interval of the mean over seeds of the mean over tasks.

    samples: per seed one list of values per task. One seed: percentile bootstrap over the items of each task,
    which knows nothing of other seeds. Several: `over_seeds`. Where all items of a task are alike, no spread
    is seen and certainty would be claimed: the exact bounds widen the interval (`_widened`).
    bounds: the lowest and highest possible value, -1 and 1 for differences. ValueError without items.
    """
    if not samples or not all(samples):
        raise ValueError("at least one seed with at least one task is needed")
    if len(samples) > 1:
        return over_seeds(samples, shared=shared, level=level, bounds=bounds)[1:3]
    parts = [_items(values) for values in samples[0]]
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled(values, rng, resamples) for values in parts], axis=0)
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return _widened(_mean([parts]), ends, parts, level, bounds)


def over_seeds(
    samples: Sequence[Sequence[Values]],
    *,
    shared: bool,
    level: float = LEVEL,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Difference:
    """Mean over two or more seeds of the mean over tasks: interval, and p that it is zero.

    Seeds are drawn from all seeds, items from all items: crossed random effects where all seeds answer the
    same items (`shared`), nested ones where each has its own. Few seeds are known far less well than many
    items, so that each part of the variance has its own critical value:

        half² = t(S - 1)² · between + z² · common, at least z² · items

    between: the variance of the S seeds' means, over S; the noise of training and of each seed's own items.
    common: the covariance of the means of two seeds, from the items' covariances: what stays however many
    seeds there are; 0 unless items are shared. items: the variance for these very seeds. All are variance
    components by mean squares; bounding each apart is the modified large sample method (Graybill and Wang
    1980, Burdick and Graybill 1992). The interval is taken on the logit scale of `bounds`: near a bound the
    seeds' rates are skewed. `benchmarks/intervals.py` shows what error rates it keeps.

    samples: per seed one list of values per task; shared items are matched by their index where they are
    Series, else by place. ValueError for fewer than two seeds or no items.
    """
    if len(samples) < 2:
        raise ValueError(f"at least two seeds are needed, got {len(samples)}")
    parts = [[_items(values) for values in tasks] for tasks in samples]
    value, n = _mean(parts), sum(len(x) for tasks in parts for x in tasks)
    spread, scale = _spread(samples, parts, shared), Scale(value, *bounds)
    ends = scale.ends(spread.half(1 - level))
    alone = parts[0] if shared else [values for tasks in parts for values in tasks]
    low, high = _widened(value, ends, alone, level, bounds)
    return Difference(value, low, high, spread.p(scale.to_zero), n)


def over_runs(values: Values, *, level: float = LEVEL) -> Difference:
    """Mean over two or more runs of one number each: interval, and p that it is zero, by Student's t.

    Runs that all have the same number leave no spread to judge by: the interval is that number. ValueError
    for fewer than two.
    """
    seen = _items(values)
    if len(seen) < 2:
        raise ValueError(f"at least two runs are needed, got {len(seen)}")
    value = float(seen.mean())
    if np.ptp(seen) < SAME:
        return Difference(value, value, value, float(abs(value) < SAME) or TINY, len(seen))
    found = scipy_stats.ttest_1samp(seen, 0.0)
    low, high = found.confidence_interval(level)
    return Difference(value, float(low), float(high), float(found.pvalue), len(seen))


class Scale(NamedTuple):
    """A value on the logit scale of its bounds, in units of the value itself (delta method)."""

    value: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Where the value lies between its bounds."""
        return (self.value - self.low) / (self.high - self.low)

    @property
    def slope(self) -> float:
        """Steps of the value in one of the scale; 0 where there is none: at a bound, or without bounds."""
        if not np.isfinite(self.high - self.low):
            return 0.0
        return self.share * (1 - self.share) * (self.high - self.low)

    def ends(self, half: float) -> np.ndarray:
        """`half` below and above the value."""
        if not self.slope:
            return np.array([self.value - half, self.value + half])
        ends = special.expit(special.logit(self.share) + np.array([-1, 1]) * half / self.slope)
        return self.low + (self.high - self.low) * ends

    @property
    def to_zero(self) -> float:
        """How far zero is away."""
        zero = self._replace(value=0.0)
        if not (self.slope and zero.slope and self.low < 0 < self.high):
            return abs(self.value)
        return float(abs(special.logit(self.share) - special.logit(zero.share)) * self.slope)


class Spread(NamedTuple):
    """The parts of the variance of a mean, each with its degrees of freedom: see `over_seeds`.

    `least`: variances that hold by themselves; the interval never falls below what one of them asks for.
    """

    parts: tuple[tuple[float, float], ...]  # (degrees of freedom, variance)
    least: tuple[tuple[float, float], ...]

    def half(self, p: float) -> float:
        """Half the width of the interval outside of which the share `p` may lie."""
        return self._half(lambda df: _critical(df, p / 2))

    def _half(self, critical: Callable[[float], float]) -> float:
        whole = sum(critical(df) ** 2 * variance for df, variance in self.parts)
        return float(max(whole, *(critical(df) ** 2 * variance for df, variance in self.least)) ** 0.5)

    def p(self, distance: float) -> float:
        """The share outside of the interval whose end is so far from its middle."""
        if distance == 0 or self.half(TINY) <= distance:
            return float(distance == 0) or TINY
        return float(np.exp(optimize.brentq(lambda x: self.half(np.exp(x)) - distance, np.log(TINY), 0)))

    def detectable(self, alpha: float, power: float) -> float:
        """The smallest true mean that is found with `power`; each part by its noncentral t."""
        return self._half(lambda df: _noncentral(df, alpha, power))


def _critical(df: float, p: float) -> float:
    """The quantile of Student's t, of the normal where the degrees of freedom have no end."""
    return float(special.stdtrit(df, p) if np.isfinite(df) else special.ndtri(p))


def one_run(
    value: float, sd: float, seeds: int, *, items: float = 0.0, level: float = LEVEL,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> tuple[float, float, float]:  # fmt: skip
    """Interval, and p that it is zero, of what all seeds would show on average, from the value of one run.

    sd: standard deviation of that value over `seeds` other runs, which holds the noise of training and of
    each run's own items; items: the variance that this run's items leave open, which the interval never
    falls below. As in `over_seeds`, with one seed of which the noise is known from others.
    """
    spread, scale = Spread(((seeds - 1, sd**2),), ((np.inf, items),)), Scale(value, *bounds)
    low, high = scale.ends(spread.half(1 - level))
    return float(low), float(high), spread.p(scale.to_zero)


def prediction(values: Values, *, level: float = LEVEL) -> tuple[float, float]:
    """Where one further run lies with probability `level`, from the values of two runs or more.

    Normal: mean +- t(S - 1) * sd * sqrt(1 + 1/S).
    """
    seen = _items(values)
    half = special.stdtrit(len(seen) - 1, (1 + level) / 2) * seen.std(ddof=1) * (1 + 1 / len(seen)) ** 0.5
    return float(seen.mean() - half), float(seen.mean() + half)


def detectable_by_one_run(sd: float, seeds: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that `one_run` finds with `power`, training noise included."""
    return float((special.stdtrit(seeds - 1, 1 - alpha / 2) + special.stdtrit(seeds - 1, power)) * sd)


def over_languages(
    samples: Sequence[Sequence[Sequence[Values]]],
    *,
    shared: bool,
    level: float = LEVEL,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Difference:
    """Mean over two or more languages of the mean over seeds of the mean over tasks: interval, and p of zero.

    Languages and seeds are drawn from all languages and all seeds and crossed, since the languages of a seed
    have its base and its SFT-en in common; items are nested in their language. By mean squares (Henderson
    1953), with V_L and V_S the variances of the means of languages and of seeds, over their numbers L and S,
    and V_LS what neither explains:

        half² = t(L - 1)² · V_L + t(S - 1)² · max(0, V_S - V_LS),
        at least t(S - 1)² · V_S and z² · items

    V_L holds the noise of each language's items and trainings too. One seed: what is of seeds is not known
    and left out, so that nothing is said of another base or SFT-en. Scale, items and bounding each part
    apart: as in `over_seeds`; `benchmarks/intervals.py` shows what error rates it keeps.

    samples: per language what `over_seeds` takes; every language the same number of seeds, in the same order.
    ValueError for fewer than two languages, or another number of seeds.
    """
    value, n, spread = _across(samples, shared)
    scale = Scale(value, *bounds)
    low, high = scale.ends(spread.half(1 - level))
    return Difference(value, float(low), float(high), spread.p(scale.to_zero), n)


def detectable_over_languages(
    samples: Sequence[Sequence[Sequence[Values]]], *, shared: bool, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference that `over_languages` finds with `power`; samples, shared: as there."""
    return _across(samples, shared)[2].detectable(alpha, power)


def _across(samples: Sequence[Sequence[Sequence[Values]]], shared: bool) -> tuple[float, int, Spread]:
    """Mean, number of items and spread of what several languages show."""
    if len(samples) < 2 or len({len(seeds) for seeds in samples}) > 1:
        raise ValueError(
            f"two languages or more with as many seeds each are needed, got seeds {[*map(len, samples)]}"
        )
    parts = [[[_items(values) for values in tasks] for tasks in seeds] for seeds in samples]
    means = np.array([[_mean([tasks]) for tasks in seeds] for seeds in parts])
    items = sum(_within(*both, shared) for both in zip(samples, parts, strict=True)) / len(samples) ** 2
    n = sum(len(x) for seeds in parts for tasks in seeds for x in tasks)
    return float(means.mean()), n, _crossed(means, items)


def _crossed(means: np.ndarray, items: float) -> Spread:
    """What languages (rows), seeds (columns) and items leave open of the mean of all."""
    languages, seeds = means.shape
    by_language = float(means.mean(axis=1).var(ddof=1)) / languages
    if seeds == 1:
        return Spread(((languages - 1, by_language),), ((np.inf, items),))
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    left = float((rest**2).sum()) / ((languages - 1) * (seeds - 1) * languages * seeds)
    by_seed = float(means.mean(axis=0).var(ddof=1)) / seeds
    parts = ((languages - 1, by_language), (seeds - 1, max(0.0, by_seed - left)))
    return Spread(parts, ((np.inf, items), (seeds - 1, by_seed)))


def _within(samples: Sequence[Sequence[Values]], parts: list[list[np.ndarray]], shared: bool) -> float:
    """The variance of a language's mean for these very seeds: of its items."""
    return _spread(samples, parts, shared).least[0][1] if len(parts) > 1 else _of_items(parts[0])


def _of_items(tasks: list[np.ndarray]) -> float:
    return sum(float(x.var(ddof=1)) / len(x) for x in tasks if len(x) > 1) / len(tasks) ** 2


def detectable_over_seeds(
    samples: Sequence[Sequence[Values]], *, shared: bool, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference that `over_seeds` finds with `power`, from the spread of differences.

    samples, shared: as there. The noise of seeds counts by the noncentral t distribution, that of items by
    the normal, as in the interval.
    """
    parts = [[_items(values) for values in tasks] for tasks in samples]
    return _spread(samples, parts, shared).detectable(alpha, power)


def detectable_over_runs(values: Values, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean that `over_runs` finds with `power`, from the spread of two runs or more."""
    seen = _items(values)
    return float(_noncentral(len(seen) - 1, alpha, power) * seen.std(ddof=1) / len(seen) ** 0.5)


def _noncentral(df: float, alpha: float, power: float) -> float:
    """The true mean, in standard errors, that a two-sided t test finds with `power`."""
    if not np.isfinite(df):
        return float(special.ndtri(power) - special.ndtri(alpha / 2))
    return float(special.nctdtrinc(df, 1 - power, special.stdtrit(df, 1 - alpha / 2)))


def _spread(samples: Sequence[Sequence[Values]], parts: list[list[np.ndarray]], shared: bool) -> Spread:
    seeds, tasks = len(parts), len(parts[0])
    between = float(np.var([_mean([own]) for own in parts], ddof=1)) / seeds
    squares = sums = 0.0
    for one in zip(*(samples if shared else parts), strict=True):
        away = [_away(np.asarray(values, dtype=float)) for values in _aligned(one, shared)]
        squares += sum(float(x @ x) for x in away)
        sums += float((np.sum(away, axis=0) ** 2).sum()) if shared else sum(float(x @ x) for x in away)
    common = max(0.0, (sums - squares) / (seeds * (seeds - 1) * tasks**2))
    items = sums / (seeds * tasks) ** 2
    return Spread(((seeds - 1, between), (np.inf, common)), ((np.inf, items),))


def _away(values: np.ndarray) -> np.ndarray:
    """How far the answers of one seed are from their mean, so that the squares sum up to its variance."""
    there = ~np.isnan(values)
    n = int(there.sum())
    return np.where(there, values - values[there].mean(), 0.0) / max(n * (n - 1), 1) ** 0.5


def _aligned(answers: Sequence[Values], shared: bool) -> Sequence[Values]:
    """The answers of every seed to one task; shared items in one order, NaN where a seed lacks an item."""
    if not shared:
        return answers
    if all(hasattr(values, "align") for values in answers):
        return list(pd.concat([*answers], axis=1).to_numpy(float).T)  # type: ignore[list-item]
    if len(set(map(len, answers))) > 1:
        raise ValueError(f"seeds answer {[*map(len, answers)]} items; give them an index to match by")
    return answers


def _items(values: Any) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a list of at least one item is needed, not shape {values.shape}")
    return values


def _mean(samples: Sequence[Sequence[np.ndarray]]) -> float:
    return float(np.mean([[values.mean() for values in tasks] for tasks in samples]))


def _resampled(values: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Means of `draws` resamples; values that are only 0, 1 or -1 are drawn as counts."""
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) <= 3:
        return rng.multinomial(len(values), counts / len(values), draws) @ kinds / len(values)
    return np.array([rng.choice(values, len(values)).mean() for _ in range(draws)])


def resampled_columns(
    tasks: Sequence[np.ndarray], *, resamples: int = RESAMPLES, seed: Seed = 0
) -> np.ndarray:
    """(resamples, k): bootstrap means of k values an item, mean over tasks; the k of an item stay together.

    tasks: (n, k) arrays, n of each task. Whatever is linear in the values has its interval from these draws.
    """
    rng = np.random.default_rng(seed)
    return np.mean([_counts(len(x), resamples, rng) @ x / len(x) for x in tasks], axis=0)


def _counts(n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, n): how often each of n items is in a resample."""
    drawn = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n)


def _widened(
    value: float, ends: np.ndarray, parts: list[np.ndarray], level: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The interval `ends` of a mean of parts, widened for those parts whose items are all alike.

    The distance to their exact binomial bounds (about 3.7/n at 95%) is added by squares, as in the method
    of variance estimates recovery (Zou and Donner 2008).
    """
    down = up = 0.0
    for part in parts:
        if part.min() == part.max() and abs(part[0]) in (0.0, 1.0):
            bound = float(scipy_stats.binomtest(0, len(part)).proportion_ci(level).high)
            down += (min(bound, part[0] - bounds[0]) / len(parts)) ** 2
            up += (min(bound, bounds[1] - part[0]) / len(parts)) ** 2
    low = (
        value - (down + (value - ends[0]) ** 2) ** 0.5 if down else ends[0]
    )  # as it is: chance may lie there
    high = value + (up + (ends[1] - value) ** 2) ** 0.5 if up else ends[1]
    return max(bounds[0], float(low)), min(bounds[1], float(high))


def paired_difference(
    pairs: Sequence[Sequence[tuple[Values, Values]]],
    *,
    shared: bool = False,
    level: float = LEVEL,
    seed: int = 0,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Difference:
    """Mean over seeds and tasks of a - b, both on the same items: interval, two-sided p, number of items.

    pairs: per seed one (a, b) per task. Several seeds: `over_seeds`, with `shared` as there. One: bootstrap
    over the items; p of right and wrong answers to one task by McNemar's exact test, else by a permutation
    test that flips the signs of items, with RESAMPLES draws. ValueError where a and b differ in number.
    """
    both = [[_pair(a, b) for a, b in tasks] for tasks in pairs]
    deltas = [[a - b for a, b in tasks] for tasks in both]
    if len(both) > 1:
        return over_seeds(deltas, shared=shared, level=level, bounds=bounds)
    rng = np.random.default_rng(seed)
    low, high = interval(deltas, level=level, seed=rng, bounds=bounds)
    exact = len(both[0]) == 1 and np.isin(both[0][0], (0, 1)).all()
    p = mcnemar(*both[0][0]) if exact else _permuted([_items(x) for x in deltas[0]], rng)
    return Difference(_mean(deltas), low, high, p, sum(map(len, deltas[0])))


def _pair(a: Any, b: Any) -> tuple[Any, Any]:
    if len(a) != len(b):
        raise ValueError(f"paired answers differ in number: {len(a)} and {len(b)}")
    return (a, b) if hasattr(a, "index") and hasattr(b, "align") else (_items(a), _items(b))


def _permuted(deltas: list[np.ndarray], rng: np.random.Generator) -> float:
    """Two-sided p that the mean over tasks is zero, from random signs of the items."""
    flipped = [(rng.choice((-1.0, 1.0), (RESAMPLES, len(x))) * x).mean(axis=1) for x in deltas]
    extreme = np.abs(np.mean(flipped, axis=0)) >= abs(_mean([deltas])) - 1e-12
    return float((1 + extreme.sum()) / (1 + RESAMPLES))


def above_chance(ci_low: Any, chance: Any) -> Any:
    """Whether a score is above chance: the lower end of its 95% interval is (one number or a column).

    One-sided error 2.5%. Unlike a binomial test this serves means over tasks, and generated answers,
    whose chance level is 0, where any single right answer would be significant.
    """
    return ci_low > chance


def mcnemar(a: Values, b: Values) -> float:
    """Exact two-sided p that a and b are right equally often on the same items (McNemar 1947)."""
    x, y = _pair(a, b)
    only_a, only_b = int(((x > 0) & (y == 0)).sum()), int(((x == 0) & (y > 0)).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(scipy_stats.binomtest(only_a, only_a + only_b).pvalue)


def holm(p: Values) -> np.ndarray:
    """p-values corrected for their number, in the given order (Holm 1979)."""
    raw = np.asarray(p, dtype=float)
    order = np.argsort(raw, kind="stable")
    steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def minimum_detectable_difference(
    n: int, *, discordant: float = 0.3, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true difference of two paired shares that McNemar finds with `power`.

    Miettinen (1968). discordant: share of the n items that one model has right and the other
    wrong. NaN where even the largest possible difference (all of these items) is too small.
    """
    z_alpha, z_power = scipy_stats.norm.ppf([1 - alpha / 2, power])

    def missing(d: float) -> float:
        return z_alpha * discordant**0.5 + z_power * (discordant - d**2) ** 0.5 - d * n**0.5

    if missing(discordant) > 0:
        return float("nan")
    return float(optimize.brentq(missing, 0.0, discordant))
