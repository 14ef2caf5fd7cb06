"""Intervals and tests for scores over items and seeds; scipy does the statistics.

Two models answer the same items, so differences are paired: what counts are the items on which
they disagree. All random draws take a seed. docs/statistics.md says why each was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from scipy import optimize
from scipy import stats as scipy_stats

if TYPE_CHECKING:
    import pandas as pd

Values: TypeAlias = "Sequence[float] | np.ndarray | pd.Series"
RESAMPLES = 2000
LEVEL = 0.95


class Difference(NamedTuple):
    """Mean of a - b with its interval, the two-sided p, and the number of items."""

    value: float
    ci_low: float
    ci_high: float
    p: float
    n: int


def bootstrap_interval(
    values: Values,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over items, in the units of `values`.

    Where all items are right or all wrong, resampling sees no spread and would claim certainty:
    then the exact binomial interval is given. Raises ValueError without items.
    """
    values = _items(values)
    if values.min() == values.max():
        return _without_spread(values, level)
    return _percentile(values, level, resamples, seed)


def _percentile(values: np.ndarray, level: float, resamples: int, seed: int) -> tuple[float, float]:
    result = scipy_stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        batch=max(1, 2**22 // len(values)),
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _items(values: Any) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a list of at least one item is needed, not shape {values.shape}")
    return values


def _without_spread(values: np.ndarray, level: float) -> tuple[float, float]:
    value = float(values[0])
    bound = _rule_of_three(len(values), level) if value in (0.0, 1.0) else 0.0
    return (value - bound, value) if value == 1 else (value, value + bound)


def _rule_of_three(n: int, level: float) -> float:
    """Upper end of the exact binomial interval of 0 in n (about 3.7/n at 95%)."""
    return float(scipy_stats.binomtest(0, n).proportion_ci(level).high)


def hierarchical_interval(
    samples: Sequence[Sequence[Values]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0,
    least: float = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """Percentile bootstrap interval over seeds and, within each drawn seed, over the items of each task.

    samples: per seed one array per task. The statistic is the mean over seeds of the mean over tasks
    (Davison and Hinkley 1997, section 3.8). One seed: over items alone. With two or three seeds the
    interval tends to be too narrow, since so few cannot show how far seeds lie apart. Where all items of
    a seed's task are alike, the exact bounds widen it (`_widened`). least: the lowest possible value, -1
    for differences. ValueError without items.
    """
    checked = [[_items(values) for values in tasks] for tasks in samples]
    if not checked or not all(checked):
        raise ValueError("at least one seed with at least one task is needed")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(checked), (resamples, len(checked)))
    means = np.zeros(resamples)
    for place, tasks in enumerate(checked):
        for draws in range(1, len(checked) + 1):  # a seed drawn twice has its items drawn twice
            rows = np.flatnonzero((drawn == place).sum(axis=1) >= draws)
            means[rows] += np.mean([_resampled(values, rng, len(rows)) for values in tasks], axis=0)
    ends = np.quantile(means / len(checked), [(1 - level) / 2, (1 + level) / 2])
    value = float(np.mean([[values.mean() for values in tasks] for tasks in checked]))
    low, high = _widened(value, ends, [values for tasks in checked for values in tasks], level, least)
    return max(least, low), min(1.0, high)


def _widened(
    value: float, ends: np.ndarray, parts: list[np.ndarray], level: float, least: float
) -> tuple[float, float]:
    """The interval `ends` of a mean of parts, widened for those parts whose items are all alike.

    Resampling sees no spread in them; the distance to their exact bounds is added by squares, as in the
    method of variance estimates recovery (Zou and Donner 2008).
    """
    down, up = float(value - ends[0]) ** 2, float(ends[1] - value) ** 2
    for part in parts:
        if part.min() == part.max() and abs(part[0]) in (0.0, 1.0):
            bound = _rule_of_three(len(part), level)
            down += (min(bound, part[0] - least) / len(parts)) ** 2
            up += (min(bound, 1 - part[0]) / len(parts)) ** 2
    return value - down**0.5, value + up**0.5


def seeds_p(values: Values) -> float:
    """Two-sided p that the mean over seeds is zero: t test on one value per seed; NaN for one seed.

    Each value is a mean over that seed's own items, so the spread of the values holds both the
    noise of seeds and that of items.
    """
    values = _items(values)
    if len(values) < 2:
        return float("nan")
    if values.min() == values.max():
        return 1.0 if values[0] == 0 else 0.0
    return float(scipy_stats.ttest_1samp(values, 0.0).pvalue)


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


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = _items(a), _items(b)
    if len(a) != len(b):
        raise ValueError(f"paired answers differ in number: {len(a)} and {len(b)}")
    return a, b


def paired_difference(a: Values, b: Values, *, level: float = LEVEL, seed: int = 0) -> Difference:
    """a - b over the same items: share, paired bootstrap interval, McNemar's exact p.

    Where every item differs alike (or none does), the exact binomial bound gives the interval.
    """
    delta = np.subtract(*_pair(a, b))
    if len(set(delta)) == 1:
        bound = _rule_of_three(len(delta), level)
        low, high = max(-1.0, delta[0] - bound), min(1.0, delta[0] + bound)
    else:
        low, high = _percentile(delta, level, RESAMPLES, seed)
    return Difference(float(delta.mean()), low, high, mcnemar(a, b), len(delta))


def macro_difference(
    pairs: Sequence[tuple[Values, Values]], *, level: float = LEVEL, seed: int = 0
) -> Difference:
    """Mean over tasks of a - b: items are resampled within each task; p flips the signs of items.

    pairs: one (a, b) per task. The p is of a permutation test with RESAMPLES draws. Tasks whose items all
    differ alike widen the interval by their exact bounds (`_widened`).
    """
    deltas = [np.subtract(*_pair(a, b)) for a, b in pairs]
    value = float(np.mean([delta.mean() for delta in deltas]))
    rng = np.random.default_rng(seed)
    boot = np.mean([_resampled(delta, rng, RESAMPLES) for delta in deltas], axis=0)  # (RESAMPLES,)
    null = np.mean([_flipped(delta, rng) for delta in deltas], axis=0)
    p = (1 + (np.abs(null) >= abs(value) - 1e-12).sum()) / (1 + RESAMPLES)
    ends = np.quantile(boot, [(1 - level) / 2, (1 + level) / 2])
    low, high = _widened(value, ends, deltas, level, -1.0)
    return Difference(value, low, high, float(p), sum(map(len, deltas)))


def _resampled(values: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Means of `draws` resamples; values that are only 0, 1 or -1 are drawn as counts."""
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) <= 3:
        return rng.multinomial(len(values), counts / len(values), draws) @ kinds / len(values)
    return values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)


def _flipped(delta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.choice((-1.0, 1.0), (RESAMPLES, len(delta))) * delta).mean(axis=1)


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


def compare(
    items: pd.DataFrame, *, baseline: str = "ct_then_sft", seed: int = 0, lang: str = ""
) -> pd.DataFrame:
    """Every method against `baseline` at the same CT budget, per task and as the mean of tasks.

    items: as `evaluate.score_models` returns. Rows: lang, ct_tokens, method, baseline, task (or
    "(mean)", "(mean, en)"), difference, ci_low, ci_high (points of percent), p (not corrected), n.
    Raises ValueError where the two have different items.
    """
    import pandas as pd

    rows = []
    for budget, group in items.groupby("ct_tokens", sort=True):
        right = {m: _by_task(part) for m, part in group.groupby("method", sort=False)}
        for method in [m for m in right if m != baseline and baseline in right]:
            for row in _method_rows(right[method], right[baseline], seed):
                head = {"lang": lang, "ct_tokens": budget, "method": method, "baseline": baseline}
                rows.append(head | row)
    return pd.DataFrame(rows)


def _by_task(items: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        str(task): part.set_index("item")["correct"].sort_index()
        for task, part in items.groupby("task", sort=False)
    }


def _method_rows(a: dict[str, pd.Series], b: dict[str, pd.Series], seed: int) -> list[dict[str, Any]]:
    pairs = {task: (a[task], b[task]) for task in a if task in b}
    if bad := [task for task, (x, y) in pairs.items() if not x.index.equals(y.index)]:
        raise ValueError(f"{bad[0]}: the two models have not answered the same items")
    rows = [_row(task, paired_difference(*pair, seed=seed)) for task, pair in pairs.items()]
    for name, english in (("(mean)", False), ("(mean, en)", True)):
        chosen = [pair for task, pair in pairs.items() if task.endswith("_en") == english]
        if len(chosen) > 1:
            rows.append(_row(name, macro_difference(chosen, seed=seed)))
    return rows


def _row(task: str, found: Difference) -> dict[str, Any]:
    return {
        "task": task,
        "difference": 100 * found.value,
        "ci_low": 100 * found.ci_low,
        "ci_high": 100 * found.ci_high,
        "p": found.p,
        "n": found.n,
    }
