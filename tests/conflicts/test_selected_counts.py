"""What slack by another rule than margin wins back, counted: as many entries, and the mass on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from lrnb.conflicts import counts
from lrnb.merging import selectors
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state

F = np.float32
DENSITY, SLACK = 0.6, 0.3


@pytest.fixture(scope="module")
def vectors() -> TaskVectors:
    rng, shapes = np.random.default_rng(1), {f"model.layers.{i}.w": (80, 50) for i in range(3)}
    base = {name: np.zeros(shape, F) for name, shape in shapes.items()}
    drawn = {
        label: {n: rng.normal(size=x.shape).astype(F) for n, x in base.items()} for label in ("ct", "sft")
    }
    return TaskVectors(base, drawn)


def importance(vectors: TaskVectors, kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {name: abs(rng.normal(size=vectors.base[name].shape)).astype(F) for name in vectors.names}


@pytest.mark.parametrize("rule", [*selectors.RULES, "fisher", "gradient"])
def test_counts_are_what_the_merge_wins_back(vectors: TaskVectors, rule: str) -> None:
    """Entries won back are those that differ from TIES': there the value is SFT's, before it was CT's."""
    given = {"reserve_by": rule, "seed": 3}
    if rule in ("fisher", "gradient"):
        given["importance"] = importance(vectors, rule)
    row = counts.shares(vectors, density=DENSITY, slack=SLACK, **given).iloc[-1]
    plain = counts.shares(vectors, density=DENSITY).iloc[-1]
    ties = merge_state("ties", vectors, density=DENSITY)
    made = merge_state("ties_sv", vectors, density=DENSITY, slack=SLACK, **given)
    won = {name: ties[name] != made[name] for name in vectors.names}
    assert (
        row["reserved"] == sum(x.sum() for x in won.values()) == round(SLACK * plain["sft_discarded"]) > 100
    )
    given_up = sum(abs(ties[name][at].astype(float)).sum() for name, at in won.items())
    taken = sum(abs(made[name][at].astype(float)).sum() for name, at in won.items())
    assert row["ceded_mass"] == pytest.approx(given_up, rel=1e-12)
    assert row["reserved_mass"] == pytest.approx(taken, rel=1e-12)
    same = ["ct_kept", "sft_kept", "sft_discarded", "ct_discarded", "conflicts", "sft_discarded_mass"]
    assert row[same].tolist() == plain[same].tolist()
    assert np.isnan(row["xi"]) == (rule != "margin")
