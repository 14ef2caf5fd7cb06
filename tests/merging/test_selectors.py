"""What decides an election beside magnitudes: equalised weights, and who comes first when slack wins back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference, slow_methods
from support.reference import BF16, assert_same_bits
from support.strategies import densities, models

from lrnb.checkpoints.importance import BY_ENTRY
from lrnb.errors import UserError
from lrnb.merging import cpu, selectors, thresholds
from lrnb.merging.cpu import Tally
from lrnb.merging.election import total
from lrnb.merging.engine import merge, merge_tensors
from lrnb.merging.equalising import equalising_factors, evened
from lrnb.merging.gpu import Torch
from lrnb.merging.methods import find
from lrnb.merging.task_vectors import TaskVectors
from lrnb.merging.whole_models import merge_state

F = np.float32
PIECES = st.sampled_from([1, 4, 1 << 17])
ANY_RULE = st.sampled_from([*selectors.RULES[1:], *BY_ENTRY])
RULES = [rule for rule in selectors.RULES if rule != "margin"]


def merged(method: str, base: dict, parents: dict, piece: int = 1 << 19, **options) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        return merge_tensors(find(method), base, parents, options)


# equalise


def test_factors_by_hand():
    base = {"w": np.zeros(4, F)}
    parents = {"ct": {"w": F([3, 0, 4, 0])}, "sft": {"w": F([0, 1, 0, 0])}, "same": base}
    vectors = TaskVectors(base, parents)

    def of(how):
        return [round(x, 9) for x in equalising_factors(vectors, ["w"], how)]

    assert of("norm") == [round(x, 9) for x in (0.4 / 1.2, 2 / 1.2, 1.0)]  # lengths 5 and 1
    assert of("share") == [0.25, 1.75, 1.0]  # sums 7 and 1
    assert of("square") == [round(x, 9) for x in (50 / 26, 2 / 26, 1.0)]
    assert of("none") == evened(np.array([np.nan] * 3)) == [1.0, 1.0, 1.0]


@settings(max_examples=20)
@given(models(), densities, st.sampled_from(["norm", "share", "square"]), PIECES)
def test_equalised_elections_are_elections_with_those_weights(model, density, how, piece):
    base, parents = model
    weights = {"ct": 0.7, "sft": 2.0}
    factors = slow_methods.equalised(base, parents, how, density)
    wanted = dict(zip(parents, factors, strict=True))
    plain = {label: F(weights[label] * wanted[label]) for label in parents}
    found = equalising_factors_of(base, parents, how, density, piece)
    assert found == pytest.approx(factors, rel=1e-12)
    plain = {label: weights[label] * x for label, x in zip(parents, found, strict=True)}
    if not any(map(F, plain.values())):
        return
    slack = {"density": density, "slack": 0.4}
    wanted, _ = reference.ties(base, parents, weights=plain, **slack)
    assert_same_bits(merged("ties_sv", base, parents, piece, weights=weights, equalise=how, **slack), wanted)
    lams = [0.7 * x for x in equalising_factors_of(base, parents, how, 1.0, piece)]
    wanted = reference.task_arithmetic(base, parents, lams)
    assert_same_bits(merged("task_arithmetic", base, parents, piece, lam=0.7, equalise=how), wanted)


def equalising_factors_of(base, parents, how, density, piece) -> list[float]:
    from lrnb.merging.election import cuts
    from lrnb.merging.methods.breadcrumbs import Kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        vectors = TaskVectors(base, parents, threads=1)
        kept = Kept((density,) * len(vectors.parents), "keep-all")
        return equalising_factors(vectors, vectors.names, how, cuts(vectors, vectors.names, kept))


def test_with_equal_sums_no_parent_wins_more_of_what_conflicts(wide):
    """What `share` is for: CT is ten times as loud, and wins about as much as SFT once that is evened."""
    base, parents = wide
    lost = {how: counted(TaskVectors(base, parents), density=0.5, slack=0, equalise=how)[1].lost
            for how in ("none", "share", "square")}  # fmt: skip
    assert lost["none"][1] > 5 * lost["none"][0]
    assert lost["square"][1] > 50 * lost["square"][0]
    assert 0.8 < lost["share"][1] / lost["share"][0] < 1.25


# what slack wins back


@settings(max_examples=20)
@given(models(parents=3), densities, st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]), ANY_RULE,
       st.integers(0, 9), PIECES)  # fmt: skip
def test_every_rule_equals_the_reference(model, density, slack, rule, seed, piece):
    names = {"t1.weight": "layers.0.b", "t2.weight": "layers.1.a", "t3.weight": "layers.0.a"}
    base, parents = model
    base, *others = ({names.get(k, k): x for k, x in m.items()} for m in (base, *parents.values()))
    parents = dict(zip(("ct", "more", "sft"), others, strict=True))
    layers = {name: name.split(".")[1] if name.startswith("layers") else name for name in base}
    options = {"density": density, "slack": slack, "seed": seed}
    rng, more = np.random.default_rng(seed), {}
    if rule in BY_ENTRY:
        drawn = {name: rng.integers(-4, 5, x.shape).astype(F) for name, x in base.items()}  # with many ties
        more["importance"] = {name: abs(x) if rule == "fisher" else x for name, x in drawn.items()}
    wanted = slow_methods.ties_sv_by(
        base, parents, rule, layers=layers, scores=more.get("importance"), **options
    )
    more |= {"at_threshold": "exact", "zero_sign": "positive", "reserve_by": rule}
    assert_same_bits(merged("ties_sv", base, parents, piece, **options, **more), wanted)


@pytest.fixture(scope="module")
def wide() -> tuple[dict, dict]:
    """(base, parents) of 300,000 entries in bfloat16, magnitudes of a grid; CT ten times as loud as SFT."""
    rng, shapes = np.random.default_rng(0), {f"layers.{i}.w": (250, 200) for i in range(6)}
    base = {name: rng.normal(size=shape).astype(BF16) for name, shape in shapes.items()}
    parents = {}
    for label, size in (("ct", 0.5), ("sft", 0.05)):
        steps = {name: np.round(rng.standard_t(3, size=x.shape) * 16) / 16 * size for name, x in base.items()}
        parents[label] = {name: x.astype(F) + steps[name].astype(F) for name, x in base.items()}
    return base, parents


def counted(vectors: TaskVectors, **options) -> tuple[dict, Tally]:
    """The merge in float32, and its counts."""
    how, found = find("ties_sv"), {name: np.empty(vectors.base[name].size, F) for name in vectors.names}

    def put(name, start, part):
        found[name][start : start + len(part)] = part

    settled = how.settle(vectors.parents, options)
    tallies = merge(how, settled, vectors, dict.fromkeys(vectors.names, np.dtype(F)), put)
    return found, total(tallies, 2)


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_each_rule_wins_back_the_same_number_at_any_span_thread_and_worker(wide, scope):
    """Where samples guide the search; and what misleads them costs passes and changes nothing."""
    states, won = {}, set()
    options = {"density": 0.6, "slack": 0.3, "trim_scope": scope, "at_threshold": "exact"}
    for rule in ("margin", *RULES):
        found = []
        ways = ((1, 1 << 19, cpu.Cpu), (2, 7001, cpu.Cpu), (1, 1 << 19, lambda n: Torch(n, "cpu")))
        for threads, span, make in ways:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cpu.Cpu, "span", span)
                patch.setattr(thresholds, "SIGMAS", 4.5 if span != 7001 else 0.0)
                vectors = TaskVectors(*wide, threads=threads, worker=make)
                state, tally = counted(vectors, reserve_by=rule, **options)
                found.append(state)
                won.add(tally.reserved)
        for other in found[1:]:
            assert_same_bits(other, found[0])
        states[rule] = np.concatenate([x.reshape(-1) for x in found[0].values()])
    assert len(won) == 1
    if scope == "tensor":  # where a tensor is all there is, it is the layer that is taken in part
        assert states.pop("layer").tobytes() == states["margin"].tobytes()
    assert len({x.tobytes() for x in states.values()}) == len(states)


@pytest.mark.parametrize(
    ("zero_sign", "rule"), [("majority", "magnitude"), ("positive", "random"), ("majority", "layer")]
)
def test_passes_are_those_of_the_plan(wide, zero_sign, rule):
    options = {"density": 0.2, "slack": 0.3, "zero_sign": zero_sign, "reserve_by": rule, "equalise": "norm"}
    vectors, read = TaskVectors(*wide, threads=1), []
    vectors.tick = read.append
    merge_state("ties_sv", vectors, **options)
    passes = find("ties_sv").settle(["ct", "sft"], options).passes()
    assert passes == {"magnitude": 5, "random": 4, "layer": 6}[rule]
    extra = sum(read) / vectors.size(vectors.names) - passes
    assert (-1 < extra < 0) if rule == "layer" else (0 <= extra < 0.05)  # the last layer alone; a sample


def test_margin_is_the_default_and_a_threshold_goes_by_margin_alone(wide):
    base, parents = wide
    given_options = {"density": 0.4, "slack": 0.2}
    by_margin = merged("ties_sv", base, parents, reserve_by="margin", **given_options)
    assert_same_bits(by_margin, merged("ties_sv", base, parents, **given_options))
    with pytest.raises(UserError, match="takes reserve_by with slack, a share; a magnitude goes by margin"):
        merged("ties_sv", base, parents, density=1, slack_threshold=0.1, reserve_by="layer")
    with pytest.raises(UserError, match="reserve_by must be one of margin, magnitude, random, layer"):
        merged("ties_sv", base, parents, density=1, slack=0.1, reserve_by="fishr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"w": x[:2]}, r"'w' is \(4,\) in base but \(2,\) in importance"),
        (lambda x: {}, "'w' is in base but not in importance"),
        (lambda x: {"w": -x}, "'w' holds scores below 0"),
        (lambda x: {"w": x * np.nan}, "importance: 'w' holds NaN or Inf in 4 of 4"),
    ],
)
def test_scores_that_do_not_fit_are_refused(change, message):
    base, ones = {"w": np.zeros(4, F)}, np.ones(4, F)
    parents = {"ct": {"w": ones}, "sft": {"w": -ones / 2}}
    options = {"density": 1, "slack": 0.5, "reserve_by": "fisher", "importance": change(ones)}
    with pytest.raises(UserError, match=message):
        merge_tensors(find("ties_sv"), base, parents, options)
