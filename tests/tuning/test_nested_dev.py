"""A nested split of dev: what a search finds on items that did not choose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lrnb.errors import UserError
from lrnb.tuning.on_dev import Dev, fold_scores, restored, with_nested


def made(right: list[float], folds: int) -> Dev:
    return Dev(100 * float(np.mean(right)), len(right), 50.0, ("a",), 1.0, fold_scores({"a": right}, folds))


def test_folds_are_every_nth_item_of_each_task() -> None:
    found = fold_scores({"a": [1, 0, 1, 0], "b": [1, 1]}, 2)
    assert found == ((50.0, 100.0), (100.0, 50.0))  # items 0 and 2 of a, 0 of b; the rest
    assert fold_scores({"a": [1]}, 1) == ()
    with pytest.raises(UserError, match="dev_folds 3: b has 2 dev items; give at most as many folds"):
        fold_scores({"a": [1, 0, 1], "b": [1, 1]}, 3)


def test_the_best_of_many_that_only_guess_is_as_good_as_chance_on_items_that_did_not_choose() -> None:
    rng, nested, best = np.random.default_rng(0), [], []
    for _ in range(60):
        devs = [made(list(rng.integers(0, 2, 40)), 4) for _ in range(8)]
        rows = pd.DataFrame({"lam": np.arange(8.0), "dev_score": [dev.score for dev in devs]})
        found = with_nested(rows, devs, ["lam"])
        nested.append(found["nested"].iloc[0])
        best.append(found.loc[found["chosen"], "dev_score"].iloc[0])
    assert np.mean(best) > 58 and abs(np.mean(nested) - 50) < 3


def test_without_folds_there_is_no_such_column_and_fields_come_back_from_json() -> None:
    rows = pd.DataFrame({"lam": [0.0, 1.0], "dev_score": [50.0, 60.0]})
    plain = with_nested(rows, [Dev(50.0, 8, 25.0, ("a",)), Dev(60.0, 8, 25.0, ("a",))], ["lam"])
    assert "nested" not in plain and plain["chosen"].tolist() == [False, True]
    split = made([1, 0, 1, 1], 2)
    assert restored(*[list(x) if isinstance(x, tuple) else x for x in split]) == split
