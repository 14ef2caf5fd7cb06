"""A base that the parents were not trained from is told by their task vectors."""

from __future__ import annotations

import numpy as np
import pytest
from support.checkpoints import one_layer
from support.reference import save_folder

from lrnb.merging.whole_models import plan_merge

ROWS, WIDTH = 300, 64


def trained(start: dict[str, np.ndarray], seed: int, step: float) -> dict[str, np.ndarray]:
    """Another model, this far away in a direction of its own."""
    rng = np.random.default_rng(seed)
    return {name: (x + step * rng.standard_normal(x.shape)).astype(np.float32) for name, x in start.items()}


@pytest.fixture
def models() -> dict[str, dict[str, np.ndarray]]:
    """Parents a hundredth of the base's length away from it; a sibling five times as far; a stranger."""
    shapes, _ = one_layer(ROWS, WIDTH)
    base = trained({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, 0, 1)
    found = {"base": base, "ct": trained(base, 1, 0.01), "sft": trained(base, 2, 0.01)}
    return found | {"sibling": trained(base, 3, 0.05), "further": trained(found["ct"], 4, 0.003)}


def doubts(tmp_path, models, base: str, ct: str = "ct", sft: str = "sft") -> list[str]:
    _, config = one_layer(ROWS, WIDTH)
    for name in {base, ct, sft}:
        save_folder(tmp_path / name, models[name], config=config)
    given = {"ct": tmp_path / ct, "sft": tmp_path / sft}
    return plan_merge("average", tmp_path / base, given, tmp_path / "out")["warnings"]


def test_the_right_base_raises_no_doubt(tmp_path, models):
    assert doubts(tmp_path, models, "base") == []


@pytest.mark.filterwarnings("ignore")
def test_a_sibling_of_the_base_is_told_by_the_cosine(tmp_path, models):
    (doubt,) = doubts(tmp_path, models, "sibling")
    assert "ct and sft: their task vectors point the same way (cosine 0.96): either this base is not" in doubt


@pytest.mark.filterwarnings("ignore")
def test_a_parent_that_was_trained_on_from_the_other_is_named_as_a_reason(tmp_path, models):
    (doubt,) = doubts(tmp_path, models, "base", sft="further")
    assert "(cosine 0.96)" in doubt and "or they are of one training" in doubt


def test_the_same_parent_twice_and_a_parent_that_is_the_base(tmp_path, models):
    assert doubts(tmp_path, models, "base", sft="ct") == []
    assert doubts(tmp_path, models, "base", ct="base", sft="base") == []
