"""Paired differences on the same items: who is compared with whom, over one seed and several."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lrnb import statistics
from lrnb.analysis import comparisons

GOOD, BAD = np.tile([1, 1, 1, 0], 50).astype(bool), np.tile([1, 0, 0, 0], 50).astype(bool)
PAIRS = {"ct_then_sft": ("ties",)}


def _items(method: str, right: np.ndarray, task: str = "topic", budget: int = 16) -> pd.DataFrame:
    return pd.DataFrame({"method": method, "ct_tokens": budget, "task": task,
                         "item": range(len(right)), "correct": right})  # fmt: skip


def _run() -> pd.DataFrame:
    shuffled = _items("ties", GOOD).sample(frac=1, random_state=0)
    return pd.concat([
        shuffled, _items("ct_then_sft", BAD), _items("ties", GOOD, "math"),
        _items("ct_then_sft", GOOD, "math"), _items("base", BAD, budget=0),
    ])  # fmt: skip


def test_items_are_paired_within_a_budget() -> None:
    table = comparisons.paired_table([_run()], PAIRS).set_index("task")
    assert list(table.index) == ["topic", "math", "mean"]
    assert table.loc["topic", "difference"] == pytest.approx(50)
    assert table.loc["math", "p"] == 1
    assert table.loc["mean", "difference"] == pytest.approx(25)
    assert np.allclose(table["p_holm"][:2], statistics.holm(table["p"][:2]))
    assert table.loc["mean", "p_holm"] == table.loc["mean", "p"]  # a family of its own


def test_a_baseline_without_ct_tokens_stands_at_every_budget() -> None:
    table = comparisons.paired_table([_run()], {"base": ("ties",)})
    assert table[["ct_tokens", "task"]].to_numpy().tolist() == [[16, "topic"]]
    assert table["difference"].tolist() == [50]
    assert comparisons.paired_table([_run()], {"sft": ("ties",)}).empty


def test_a_model_made_elsewhere_is_compared_at_every_budget() -> None:
    from lrnb.study.parameters import Study

    later = [_items("ct_then_sft", GOOD, task, 64) for task in ("topic", "math")]
    mine = [_items("mine", GOOD, task, 0) for task in ("topic", "math")]
    study = Study(extra_models={"mine": "somewhere"}, ct_budgets=[16, 64])
    table = comparisons.compare_methods(pd.concat([_run(), *later, *mine]), study)
    own = table[table["method"] == "mine"].set_index(["ct_tokens", "task"])["difference"]
    alike = {(64, task): 0 for task in ("topic", "math", "mean")}
    assert own.to_dict() == pytest.approx({(16, "topic"): 50, (16, "math"): 0, (16, "mean"): 25} | alike)
    assert set(table["method"]) == {"ties", "mine"}


def test_two_seeds_pair_each_with_its_own_baseline() -> None:
    other = _run().assign(correct=lambda rows: ~rows["correct"])
    table = comparisons.paired_table([_run(), other], PAIRS).set_index("task")
    assert table.loc["topic", "difference"] == pytest.approx(0)  # 50 and -50
    assert (table.loc["topic", "n"], table.loc["topic", "seeds"]) == (400, 2)
    assert comparisons.paired_table([_run(), _items("base", BAD)], PAIRS).empty


def test_other_items_are_refused() -> None:
    items = pd.concat([_items("ties", GOOD[:5]), _items("ct_then_sft", GOOD[:6])])
    with pytest.raises(ValueError, match="same items"):
        comparisons.paired_table([items], PAIRS)


def test_the_lead_that_fades_is_that_on_the_same_items() -> None:
    later = [_items(m, right, task, 64) for m in ("ties", "ct_then_sft")
             for task, right in (("topic", BAD), ("math", GOOD))]  # fmt: skip
    items = pd.concat([_run(), *later])
    found = comparisons.fade(items, "ties", [16, 64])
    assert (found.value, found.n) == (pytest.approx(0.25), 400)
    right = comparisons.right_answers(items)
    found = comparisons.against(right, ("ties", 16), ("ties", 64))
    assert found.value == pytest.approx(0.25)
