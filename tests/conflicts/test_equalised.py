"""Elections with equalised weights: counted exactly, and told from an atlas made without them."""

from __future__ import annotations

import numpy as np
import pytest

from lrnb.conflicts import atlas, counts
from lrnb.conflicts.what_ifs import what_if
from lrnb.errors import UserError
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state

F = np.float32


@pytest.fixture(scope="module")
def loud() -> TaskVectors:
    """CT twice as loud as SFT."""
    rng, shapes = np.random.default_rng(0), {f"model.layers.{i}.w": (300, 200) for i in range(3)}
    base = {name: rng.normal(size=shape).astype(F) for name, shape in shapes.items()}
    sizes = {"ct": 0.02, "sft": 0.01}
    parents = {
        label: {name: x + F(size) * rng.standard_t(3, size=x.shape).astype(F) for name, x in base.items()}
        for label, size in sizes.items()
    }
    return TaskVectors(base, parents)


@pytest.mark.parametrize("how", ["norm", "share", "square"])
def test_what_ifs_are_near_the_exact_counts(loud, how):
    made = atlas.build(loud, density=0.5)
    setting = {"density": 0.3, "slack": 0.2, "equalise": how}
    exact = counts.shares(loud, **setting).iloc[-1]
    told = what_if(made, **setting).table.iloc[-1]
    plain = counts.shares(loud, density=0.3, slack=0.2).iloc[-1]
    for column in ("ct_discarded_share", "sft_discarded_share"):
        assert told[column] == pytest.approx(exact[column], rel=0.05, abs=0.002)
        assert abs(exact[column] - plain[column]) > 0.005
    assert told["conflicts"] == pytest.approx(exact["conflicts"], rel=0.05)


def test_exact_counts_are_those_of_the_merge(loud):
    """Weights that are given by hand and those that equalise makes elect alike."""
    base, squares = loud.base, dict.fromkeys(loud.parents, 0.0)
    for parent, model in loud.models.items():
        squares[parent] = sum(float(((model[n] - base[n]).astype(float) ** 2).sum()) for n in base)
    weights = {parent: x**-0.5 for parent, x in squares.items()}
    by_hand = counts.shares(loud, density=0.3, slack=0.2, weights=weights)
    evened = counts.shares(loud, density=0.3, slack=0.2, equalise="norm")
    near = ["ct_discarded", "sft_discarded", "reserved"]
    assert np.allclose(by_hand[near], evened[near], atol=2)  # weights of another length, rounded
    name = loud.names[0]
    made = [merge_state("ties_sv", loud, density=0.3, slack=0.2, equalise=how) for how in ("norm", "none")]
    assert not np.array_equal(made[0][name], made[1][name])


def test_a_scope_that_an_atlas_cannot_tell_of_is_refused(loud):
    made = atlas.build(loud, density=0.5)
    with pytest.raises(UserError, match="equalise goes with trim_scope model"):
        what_if(made, density=0.5, equalise="norm", trim_scope="tensor")
