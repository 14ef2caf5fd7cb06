"""The merge engine at sizes where samples, brackets, spans and threads are used; and when it is stopped.

The formulas on whole numpy arrays take the place of tests/support/reference.py. The compiled loops'
own block size is a constant of the compiled code and cannot be changed here; spans that end anywhere
inside a block are.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.reference import BF16, assert_same_bits, save_folder
from support.strategies import densities, models, weights

from lrnb.checkpoints import reading, writing
from lrnb.errors import UserError
from lrnb.merging import cpu as workers
from lrnb.merging import election, formulas, methods, task_vectors, thresholds, whole_models
from lrnb.merging import engine as engines
from lrnb.merging.cpu import run_all
from lrnb.merging.engine import merge
from lrnb.merging.gpu import Torch
from lrnb.merging.methods import average, ties_sv
from lrnb.merging.task_vectors import TaskVectors
from lrnb.study.parameters import ROOT

F = np.float32
LAYOUT = {"b.weight": (800, 500), "a.weight": (700, 300), "c.weight": (1000,), "d.weight": (1,)}
KINDS = ["float32", "bfloat16", "grid", "mixed"]


@cache
def large(kind: str, seed: int = 0) -> tuple[dict, dict]:
    """(base, parents) of 611,008 entries; "grid": few magnitudes, many exact cancellations and zeros."""
    rng = np.random.default_rng(seed)
    base, parents = {}, {"ct": {}, "sft": {}}
    for name, shape in LAYOUT.items():
        own = rng.normal(size=shape)
        steps = {label: rng.standard_t(3, size=shape) * 0.05 for label in parents}
        if kind == "grid":
            own = np.round(own * 8) / 8
            steps = {label: np.round(x * 40) / 64 for label, x in steps.items()}
        base[name] = own.astype(BF16 if kind in ("bfloat16", "mixed") else F)
        for label, step in steps.items():
            wide = kind in ("float32", "grid") or (kind == "mixed" and label == "ct")
            parents[label][name] = (base[name].astype(F) + step.astype(F)).astype(F if wide else BF16)
    for x in (base, *parents.values()):
        x["same.weight"] = np.full(7, 0.1, base["a.weight"].dtype)
    return base, parents


# TIES and TIES-SV on whole arrays, float32


def deltas_of(kind: str, names: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    base, parents = large(kind)
    flat = [np.concatenate([x[n].astype(F).reshape(-1) for n in names]) for x in (base, *parents.values())]
    return flat[0], [x - flat[0] for x in flat[1:]]


@cache
def trimmed(kind: str, names: tuple[str, ...], density: float, at_threshold: str) -> list[np.ndarray]:
    found = []
    for x in deltas_of(kind, list(names))[1]:
        ranked = np.argsort(-np.abs(x), kind="stable")[: round(density * len(x))]
        keep = np.zeros(len(x), bool)
        keep[ranked] = True
        if at_threshold == "keep-all" and len(ranked):
            keep = np.abs(x) >= np.abs(x[ranked[-1]])
        found.append(np.where(keep, x, F(0)))
    return found


def plain(kind, names, density, at_threshold, zero_sign="majority", weight=1.0, slack=None, xi=None):
    """The merged scope as float32, rounded to the base's dtype; counts."""
    taus, w = trimmed(kind, tuple(names), density, at_threshold), (F(1), F(weight))
    votes = np.sign(formulas.weighted_sum(taus, w)).sum()
    gamma = formulas.elect(taus, w, 1 if zero_sign == "positive" or votes > 0 else -1)
    conflict = formulas.conflict(taus)
    lost = np.flatnonzero(conflict & formulas.discarded(taus[1], gamma))
    won = np.zeros(len(gamma), bool)
    if slack is not None:
        margin = formulas.margin(taus, w)[lost]
        won[lost[np.argsort(margin, kind="stable")[: round(slack * len(lost))]]] = True
    if xi is not None:
        won = formulas.won_back(taus, w, gamma, 1, F(xi), by_sum=False)
    gamma = np.where(won, -gamma, gamma)
    step = formulas.mean(taus, w, gamma)
    base = deltas_of(kind, list(names))[0]
    merged = np.where(step != 0, base + step, base).astype(large(kind)[0][names[0]].dtype)
    counts = {
        "conflicts": int(conflict.sum()),
        "overlap": int(formulas.overlap(taus).sum()),
        "reserved": int(won.sum()),
        "kept": [int((tau != 0).sum()) for tau in taus],
        "lost": [int(formulas.discarded(tau, gamma).sum()) for tau in taus],
    }
    return merged, counts


def scoped(method: str, trim_scope: str) -> dict[str, str]:
    """The scope, for a method that knows any."""
    return {"trim_scope": trim_scope} if "trim_scope" in methods.find(method).fields() else {}


def engine(vectors: TaskVectors, method: str, trim_scope: str, **options) -> tuple[dict, dict]:
    """Merged tensors in the base's dtypes and the summed counts, by way of the plans that merging uses."""
    found = {name: np.empty(vectors.base[name].shape, vectors.base[name].dtype) for name in vectors.names}

    def put(name, start, values):
        found[name].reshape(-1)[start : start + len(values)] = values

    how = methods.find(method)
    settled = how.settle(vectors.parents, options | scoped(method, trim_scope))
    tallies = merge(how, settled, vectors, {name: x.dtype for name, x in found.items()}, put)
    tally = election.total(tallies, len(vectors.parents))
    counts = {"conflicts": tally.conflicts, "overlap": tally.overlap, "reserved": tally.reserved,
              "kept": tally.kept.tolist(), "lost": tally.lost.tolist()}  # fmt: skip
    return found, counts


def plain_model(kind: str, trim_scope: str, **options) -> tuple[dict, dict]:
    base = large(kind)[0]
    names, merged, tallies = sorted(base), {}, []
    for scope in [names] if trim_scope == "model" else [[name] for name in names]:
        flat, counts = plain(kind, scope, **options)
        tallies.append(counts)
        for name in scope:
            merged[name], flat = flat[: base[name].size].reshape(base[name].shape), flat[base[name].size :]
    return merged, {key: np.sum([x[key] for x in tallies], 0).tolist() for key in tallies[0]}


SLACKS = [("slack", 0.0), ("slack", 0.3), ("slack", 1.0), ("slack_threshold", 1 / 64), None]


def compare_all(kind, vectors, trim_scope, at_threshold, wanted_densities, zero_sign="majority", weight=1.0):
    """`vectors` is used again and again, so its remembered cuts are tested too."""
    rules = {"at_threshold": at_threshold, "zero_sign": zero_sign}
    seen = dict.fromkeys(SLACKS, 0)
    for density in wanted_densities:
        for slack in SLACKS:
            given_slack = dict([slack]) if slack else {}
            method = "ties_sv" if slack else "ties"
            got, counts = engine(
                vectors, method, trim_scope, density=density, weights={"sft": weight}, **rules, **given_slack
            )
            own = {("xi" if key == "slack_threshold" else key): x for key, x in given_slack.items()}
            wanted, wanted_counts = plain_model(
                kind, trim_scope, density=density, weight=weight, **rules, **own
            )
            assert_same_bits(dict(sorted(got.items())), wanted)
            assert counts == wanted_counts
            seen[slack] += wanted_counts["reserved"]
    none, some, every, near, ties = seen.values()
    assert none == ties == 0 < some < every
    assert 0 < near < every


@pytest.mark.parametrize("trim_scope", ["model", "tensor"])
@pytest.mark.parametrize("at_threshold", ["keep-all", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_large_scopes_equal_the_plain_implementation(kind, at_threshold, trim_scope):
    base, parents = large(kind)
    compare_all(kind, TaskVectors(base, parents), trim_scope, at_threshold, [0.01, 0.2, 0.5, 1.0])


def test_weights_and_the_positive_sign_on_large_scopes():
    for kind in ("bfloat16", "grid"):
        compare_all(kind, TaskVectors(*large(kind)), "model", "exact", [0.5], "positive", 0.6)
        compare_all(kind, TaskVectors(*large(kind)), "model", "keep-all", [0.5], "majority", 0.6)


def entries_read(vectors: TaskVectors, method: str, **options) -> int:
    """How many entries a merge goes through, all passes together."""
    read = []
    vectors.tick = read.append
    engine(vectors, method, "model", **options)
    return sum(read)


def misleading(value: float):
    def sample(self, names, size):
        return np.full((len(self.parents), size), value, F), np.ones(size, F)

    return sample


MISSES = {
    "narrow": lambda patch: patch.setattr(thresholds, "SIGMAS", 0.0),
    "zeros": lambda patch: patch.setattr(TaskVectors, "sample", misleading(0)),
    "too large": lambda patch: patch.setattr(TaskVectors, "sample", misleading(1e30)),
    "a value of the grid": lambda patch: patch.setattr(TaskVectors, "sample", misleading(1 / 32)),
}


@pytest.mark.parametrize("how", MISSES)
def test_brackets_that_miss_cost_passes_and_change_nothing(monkeypatch, how):
    MISSES[how](monkeypatch)
    for kind, at_threshold in (("float32", "exact"), ("bfloat16", "keep-all"), ("grid", "exact")):
        vectors = TaskVectors(*large(kind))
        compare_all(kind, vectors, "model", at_threshold, [0.2])
        options = {"density": 0.31, "at_threshold": at_threshold, "slack": 0.3}  # cuts not remembered
        read = entries_read(vectors, "ties_sv", **options)
        if kind == "float32":
            assert read > 3 * vectors.size(vectors.names)
    compare_all("mixed", TaskVectors(*large("mixed")), "tensor", "exact", [0.3])


@pytest.mark.parametrize(("method", "options", "passes"), [
    ("ties", {}, 3), ("ties", {"zero_sign": "positive"}, 2), ("ties_sv", {"slack": 0.3}, 3),
    ("ties_sv", {"slack_threshold": 0.1}, 3), ("average", {}, 1), ("task_arithmetic", {}, 1),
])  # fmt: skip
def test_passes_over_the_inputs_are_those_of_the_plan(tmp_path, method, options, passes):
    folders = save_all(tmp_path, *large("bfloat16"))
    options = options | ({"density": 0.2} if method.startswith("ties") else {})
    plan = whole_models.plan_merge(method, *folders, tmp_path / "out", **options)
    assert plan["passes"] == passes
    vectors = TaskVectors(*folders)
    read: list[int] = []
    vectors.tick = read.append
    whole_models.merge_state(method, vectors, **options)
    assert sum(read) == passes * plan["entries"] == passes * vectors.size(vectors.names)


@given(models(), densities, weights, st.sampled_from(["model", "tensor"]))
def test_merges_on_one_opened_model_equal_fresh_ones(model, density, weight, trim_scope):
    base, parents = model
    opened = TaskVectors(base, parents, threads=2)
    for options in (
        {"density": density},
        {"density": 0.5, "at_threshold": "exact"},
        {"density": density, "at_threshold": "exact", "weights": {"ct": weight, "sft": 1.0}},
        {"density": {"ct": density, "sft": 0.5}},
        {"density": {"ct": 0.5, "sft": density}, "zero_sign": "positive", "lam": 0.5},
    ):
        for method, slack in (("ties", {}), ("ties_sv", {"slack": 0.5})):
            fresh = TaskVectors(base, parents, threads=1)
            wanted = whole_models.merge_state(method, fresh, trim_scope=trim_scope, **options, **slack)
            got = whole_models.merge_state(method, opened, trim_scope=trim_scope, **options, **slack)
            assert_same_bits(got, wanted)


# whole folders: threads, spans, shards


def save_all(where: Path, base: dict, parents: dict, shards: int = 1) -> tuple[Path, dict[str, Path]]:
    given_models = {label: save_folder(where / label, x, shards=shards) for label, x in parents.items()}
    return save_folder(where / "base", base, shards=shards), given_models


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


METHODS = {
    "average": {"alpha": 0.3},
    "task_arithmetic": {"lam": 0.7},
    "ties": {"density": 0.2, "at_threshold": "exact"},
    "ties_sv": {"density": 0.3, "slack": 0.4},
}


@pytest.mark.parametrize("method", METHODS)
def test_same_bytes_for_any_threads_and_spans(tmp_path, method):
    found = {}
    folders = save_all(tmp_path, *large("mixed"))
    for threads, span in [(1, 1 << 19), (2, 1 << 19), (5, 1 << 19), (1, 4096), (2, 1013), (5, 70_001)]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers.Cpu, "span", span)
            for trim_scope in ["model", "tensor"] if method.startswith("ties") else ["model"]:
                options = METHODS[method] | scoped(method, trim_scope)
                whole_models.merge_checkpoints(method, *folders, tmp_path / "out", threads=threads, **options)
                found.setdefault(trim_scope, []).append(contents(tmp_path / "out"))
    for same in found.values():
        assert set(same[0]) == {"README.md", "config.json", "manifest.json", "model.safetensors"}
        assert all(x == same[0] for x in same)
    if len(found) == 2:
        assert found["model"][0]["model.safetensors"] != found["tensor"][0]["model.safetensors"]


@pytest.mark.parametrize("method", METHODS)
def test_same_bytes_for_any_sharding_of_the_inputs(tmp_path, method):
    """But for the hashes of the input files, which are in the manifest."""
    found = []
    for shards in (1, 2, 5):
        folders = save_all(tmp_path / str(shards), *large("bfloat16"), shards=shards)
        assert len(list(folders[0].glob("*.safetensors"))) == shards
        out = tmp_path / str(shards) / "out"
        whole_models.merge_checkpoints(method, *folders, out, **METHODS[method])
        found.append({name: data for name, data in contents(out).items() if name != "manifest.json"})
    assert all(x == found[0] for x in found)


def test_the_outputs_shards_hold_the_same_values(tmp_path):
    folders = save_all(tmp_path, *large("mixed"))
    whole = whole_models.merge_checkpoints("ties", *folders, tmp_path / "one", density=0.2)
    parts = whole_models.merge_checkpoints(
        "ties", *folders, tmp_path / "many", density=0.2, shard_bytes=300_000
    )
    opened = [reading.open_checkpoint(tmp_path / name) for name in ("one", "many")]
    assert [len(x.files) for x in opened] == [1, 3]
    assert_same_bits(dict(opened[1]), dict(opened[0]))
    assert {k: v for k, v in whole.items() if k != "seconds"} == {
        k: v for k, v in parts.items() if k != "seconds"
    }


def test_a_dry_run_says_what_the_merge_needs_and_writes_nothing(tmp_path):
    folders = save_all(tmp_path, *large("bfloat16"))
    before = contents(tmp_path)
    for dtype, size in (("auto", 2), ("float32", 4)):
        plan = whole_models.plan_merge("ties", *folders, tmp_path / "new" / "out", density=0.2, dtype=dtype)
        assert contents(tmp_path) == before
        report = whole_models.merge_checkpoints("ties", *folders, tmp_path / "out", density=0.2, dtype=dtype)
        written = sum(map(len, contents(tmp_path / "out").values()))
        assert plan["entries"] == report["entries"] == sum(x.size for x in large("bfloat16")[0].values())
        assert plan["entries"] * size <= written <= plan["output_bytes"]
        assert plan["output_bytes"] - writing.MARGIN == plan["entries"] * size
        assert plan["tensors"] == len(reading.open_checkpoint(tmp_path / "out"))
        assert not (tmp_path / "new").exists()
        assert before.items() <= contents(tmp_path).items()
        shutil.rmtree(tmp_path / "out")


# the worker on torch


def by_torch(parents: int) -> Torch:
    return Torch(parents, "cpu")


OPTIONS = st.sampled_from([
    ("average", {"alpha": 0.3}), ("average", {"weights": {"ct": 0.5, "sft": 2.0}, "normalize": False}),
    ("task_arithmetic", {"lam": 0.7}), ("task_arithmetic", {"lam": {"ct": 2, "sft": 1}, "normalize": True}),
    ("ties", {}), ("ties", {"normalize": False, "lam": 0.5}), ("ties", {"zero_sign": "positive"}),
    ("ties_sv", {"slack": 0.0}), ("ties_sv", {"slack": 0.4}), ("ties_sv", {"slack": 1.0, "protect": "ct"}),
    ("ties_sv", {"slack_threshold": 0.5}), ("ties_sv", {"slack_threshold": 0.0, "normalize": False}),
])  # fmt: skip


@given(models(), OPTIONS, densities, weights, st.sampled_from(["keep-all", "exact"]),
       st.sampled_from(["model", "tensor"]), st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
       st.sampled_from([1 << 26, 4]))  # fmt: skip
def test_the_torch_worker_gives_the_same_bits_and_counts(
    model, method, density, weight, at_threshold, trim_scope, dtype, span
):
    base, parents = model
    method, options = method
    if method.startswith("ties"):
        more = {"density": density, "weights": {"sft": weight}, "at_threshold": at_threshold}
        options = options | more
    cpu = TaskVectors(base, parents, threads=1)
    other = TaskVectors(base, parents, threads=1, worker=by_torch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Torch, "span", span)
        wanted = whole_models.merge_state(method, cpu, dtype=dtype, **options, **scoped(method, trim_scope))
        got = whole_models.merge_state(method, other, dtype=dtype, **options, **scoped(method, trim_scope))
        assert_same_bits(got, wanted)
        if method.startswith("ties"):
            assert (
                engine(other, method, trim_scope, **options)[1]
                == (engine(cpu, method, trim_scope, **options)[1])
            )


@given(models(parents=3), OPTIONS, densities, weights)
def test_the_torch_worker_agrees_on_three_parents(model, method, density, weight):
    base, parents = model
    method, options = method
    if method == "average":
        options = {"weights": [0.2, 1.0, weight]}
    elif method == "task_arithmetic":
        options = {"lam": [0.2, -1.0, weight]}
    else:
        options = options | {"density": density, "weights": {"third": weight}}
    wanted = whole_models.merge_state(method, TaskVectors(base, parents, threads=1), **options)
    got = whole_models.merge_state(method, TaskVectors(base, parents, threads=1, worker=by_torch), **options)
    assert_same_bits(got, wanted)


@pytest.mark.parametrize("kind", ["bfloat16", "grid"])
def test_the_torch_worker_on_large_scopes(kind, monkeypatch):
    vectors = TaskVectors(*large(kind), threads=1, worker=by_torch)
    compare_all(kind, vectors, "model", "exact", [0.2])
    monkeypatch.setattr(Torch, "span", 70_001)
    compare_all(kind, TaskVectors(*large(kind), threads=1, worker=by_torch), "tensor", "keep-all", [0.2])


# tensors that stay on a device; here torch's CPU, which the engine would otherwise read as numpy


@pytest.mark.parametrize("of", ["parents", "deltas"])
@pytest.mark.parametrize("kind", KINDS)
def test_dot_products_on_every_worker(kind, of):
    """Of spans that end anywhere in the lanes that are added beside each other; the same in every call."""
    base, parents = large(kind)
    for make in (workers.Cpu, by_torch):
        vectors = TaskVectors(base, parents | {"third": parents["ct"]}, threads=1, worker=make)
        for start, stop in ((0, 400_000), (255, 257), (3, 4), (5, 5)):
            span = task_vectors.Span("b.weight", start, stop, start)
            own, *rows = [
                x["b.weight"].reshape(-1)[start:stop].astype(F) for x in (base, *vectors.models.values())
            ]
            wide = np.stack([(x - own if of == "deltas" else x) for x in rows]).astype(np.float64)
            found, again = (vectors.workers[0].gram(vectors.operands(span), of) for _ in range(2))
            assert found.dtype == np.float64
            assert np.array_equal(found, again)
            assert np.allclose(found, wide @ wide.T, rtol=1e-12, atol=0)


def as_torch(tensors: dict) -> dict:
    made = {id(x): x for x in tensors.values()}
    for key, x in made.items():
        if x.dtype == BF16:
            made[key] = torch.from_numpy(x.astype(F)).to(torch.bfloat16)
        else:
            made[key] = torch.from_numpy(x.copy())
    return {name: made[id(x)] for name, x in tensors.items()}


def as_numpy(tensors: dict) -> dict:
    return {
        name: x.float().numpy().astype(BF16) if x.dtype == torch.bfloat16 else x.numpy()
        for name, x in tensors.items()
    }


def method_on(method: str, base: dict, parents: dict, **options) -> dict:
    if method == "ties_sv":
        return ties_sv.ties_sv(base, parents["ct"], parents["sft"], **options)
    function = getattr(import_module(f"lrnb.merging.methods.{method}"), method)
    return function(base, parents, **options)


@given(models(), OPTIONS, densities, weights, st.sampled_from(["keep-all", "exact"]),
       st.sampled_from([1 << 26, 4]))  # fmt: skip
def test_tensors_that_stay_on_a_device_give_the_same_bits(model, method, density, weight, at_threshold, span):
    base, parents = model
    assume(not any(x.dtype == np.float64 for tensors in (base, *parents.values()) for x in tensors.values()))
    method, options = method
    assume("protect" not in options)
    if method.startswith("ties"):
        more = {"density": density, "weights": {"sft": weight}, "at_threshold": at_threshold}
        options = options | more
    wanted = method_on(method, base, parents, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "on_gpu", lambda models: True)
        patch.setattr(Torch, "span", span)
        given_parents = {label: as_torch(parent) for label, parent in parents.items()}
        got = method_on(method, as_torch(base), given_parents, **options)
    assert all(isinstance(x, torch.Tensor) for x in got.values())
    assert_same_bits(as_numpy(got), wanted)


@pytest.mark.parametrize("kind", ["bfloat16", "grid"])
def test_large_tensors_that_stay_on_a_device(kind, monkeypatch):
    base, parents = large(kind)
    options = {"density": 0.2, "at_threshold": "exact", "slack": 0.3}
    wanted = method_on("ties_sv", base, parents, **options)
    monkeypatch.setattr(engines, "on_gpu", lambda models: True)
    given_parents = {label: as_torch(parent) for label, parent in parents.items()}
    for span in (1 << 26, 100_003):
        monkeypatch.setattr(Torch, "span", span)
        assert_same_bits(as_numpy(method_on("ties_sv", as_torch(base), given_parents, **options)), wanted)


@pytest.mark.parametrize(("change", "message"), [
    (lambda base, ct: ct.update(w=torch.tensor([1.0, float("nan")])), "ct: 'w' holds NaN or Inf in 1"),
    (lambda base, ct: base.update(w=torch.tensor([1.0, float("inf")])), "base: 'w' holds NaN or Inf in 1"),
    (lambda base, ct: ct.update(w=torch.ones(3)), r"'w' is \(2,\) in base but \(3,\) in ct"),
    (lambda base, ct: ct.pop("w"), "'w' is in base but not in ct"),
    (lambda base, ct: ct.update(n=torch.arange(1, 3)), "'n' is not a float tensor"),
    (lambda base, ct: base.update({"lm_head.weight": base["embed.weight"]}), "'lm_head.weight' is tied to"),
    (lambda base, ct: (base.update({"lm_head.weight": torch.ones(2)}),
                       ct.update({"lm_head.weight": ct["embed.weight"]})), r"\(2,\) in base but \(4,\)"),
])  # fmt: skip
def test_tensors_on_a_device_that_do_not_match_are_refused(change, message, monkeypatch):
    monkeypatch.setattr(engines, "on_gpu", lambda models: True)
    names = ("embed.weight", "lm_head.weight")
    base = {name: torch.zeros(4) for name in names} | {"w": torch.ones(2), "n": torch.arange(2)}
    ct = {name: torch.full((4,), float(i)) for i, name in enumerate(names)}
    ct |= {"w": torch.ones(2), "n": torch.arange(2)}
    change(base, ct)
    with pytest.raises(UserError, match=message):
        average.average(base, {"ct": ct})


@pytest.mark.parametrize("worker", [workers.Cpu, by_torch], ids=["cpu", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("method", "options"), [
    ("average", {"weights": [2], "normalize": False}), ("task_arithmetic", {"lam": 2}),
    ("ties", {"density": 1, "lam": 2}), ("ties_sv", {"density": 1, "lam": 2, "slack": 0.5, "protect": "p"}),
])  # fmt: skip
def test_results_beyond_the_range_are_refused_on_every_worker(worker, dtype, method, options):
    largest = {"float32": 3.4e38, "float16": 65504, "bfloat16": 3.38e38}[dtype]
    kind = {"bfloat16": BF16}.get(dtype, np.dtype(dtype))
    base, parent = np.zeros(3, kind), np.array([1, largest, 0], kind)
    vectors = TaskVectors({"w": base}, {"p": {"w": parent}}, threads=1, worker=worker)
    with pytest.raises(UserError, match=f"'w': 1 merged entries are beyond {dtype}'s range"):
        whole_models.merge_state(method, vectors, **options)


@pytest.mark.parametrize("worker", [workers.Cpu, by_torch], ids=["cpu", "torch"])
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800000])
def test_nan_among_many_entries_is_refused_on_every_worker(worker, bits):
    base, parents = (dict(x) for x in large("float32"))
    bad = parents["sft"]["b.weight"].copy()
    bad[700, 123] = np.array(bits, np.uint32).view(F)
    parents["sft"] = parents["sft"] | {"b.weight": bad}
    for method, options in METHODS.items():
        for dtype in ("auto", "bfloat16"):
            vectors = TaskVectors(base, parents, threads=1, worker=worker)
            with pytest.raises(UserError, match="sft: 'b.weight' holds NaN or Inf in 1 of 400,000"):
                whole_models.merge_state(method, vectors, dtype=dtype, **options)


# threads that fail


def test_results_come_in_the_items_order():
    for threads in (1, 3, 9):
        assert run_all(range(threads), range(7), lambda worker, item: item * 10) == [*range(0, 70, 10)]
    assert run_all([0, 1], [], lambda worker, item: item) == []
    seen = run_all([5, 6], range(50), lambda worker, item: worker)
    assert set(seen) <= {5, 6}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_error_in_one_thread_stops_the_others_and_is_raised(threads):
    done = []

    def one(worker: int, item: int) -> None:
        if item == 3:
            raise UserError("the fourth is bad")
        time.sleep(0.01)
        done.append(item)

    with pytest.raises(UserError, match="the fourth is bad"):
        run_all(range(threads), range(1000), one)
    assert len(done) < 500


# stopped processes

BARE = """
import contextlib
from lrnb.checkpoints.trial import Trial
from lrnb.merging import whole_models
whole_models.trial_of = lambda job: contextlib.nullcontext(Trial("", [], None, 0))  # of bare tensors
"""
SCRIPT = (
    BARE
    + """
import sys
from lrnb.cli.main import main
from lrnb.merging.cpu import Cpu
Cpu.span = 301  # many small steps
sys.exit(main(["merge", "ties-sv", "--base", "base", "--model", "ct=ct", "--model", "sft=sft",
               "--density", "0.2", "--slack", "0.3", "--threads", "2", "--out", "out/merged"]))
"""
)


def in_checkout() -> dict[str, str]:
    """The environment of a process that is to import the package from here."""
    kept = {name: value for name, value in os.environ.items() if name != "LRNB_PROGRESS"}
    return kept | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def stoppable(tmp_path):
    save_all(tmp_path, *large("bfloat16"))
    return tmp_path


def heed_interrupts() -> None:
    """A shell starts background jobs with SIGINT ignored, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder: Path) -> subprocess.Popen:
    """The merge as a process of its own, in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=folder, env=in_checkout(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )  # fmt: skip


def until_it_writes(process: subprocess.Popen, folder: Path) -> None:
    """Until the folder in the making is there."""
    while process.poll() is None and not list((folder / "out").glob(".merged*")):
        time.sleep(0.005)


def remains(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


def test_killed_at_any_moment_and_run_again(stoppable):
    process = start(stoppable)
    until_it_writes(process, stoppable)
    began = time.monotonic()
    assert process.wait() == 0, process.stderr.read()
    seconds = time.monotonic() - began
    wanted = contents(stoppable / "out" / "merged")
    (stoppable / "out" / "merged").rename(stoppable / "kept")
    rng, left = np.random.default_rng(0), 0
    for share in [0.02, *rng.uniform(0.1, 1.05, 5)]:
        process = start(stoppable)
        until_it_writes(process, stoppable)
        time.sleep(share * seconds)
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
        process.communicate()
        found = remains(stoppable)
        left += any(name.startswith(".merged") for name in found)
        assert len(found) <= 2  # what the last one left; what older ones did is swept away
        if (stoppable / "out" / "merged").exists():
            assert contents(stoppable / "out" / "merged") == wanted
    assert left >= 1  # the first kill comes early enough on any machine
    process = start(stoppable)
    assert process.wait() == 0, process.stderr.read()
    process.communicate()
    assert contents(stoppable / "out" / "merged") == wanted
    assert remains(stoppable) == ["merged"]


def test_control_c_stops_with_130_and_leaves_nothing(stoppable):
    for _ in range(10):  # on a busy machine the merge may be over before the signal comes
        process = start(stoppable)
        until_it_writes(process, stoppable)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
        if process.returncode != 0:
            break
        shutil.rmtree(stoppable / "out")
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "lrnb: stopped." in said
    assert sorted(path.name for path in stoppable.iterdir()) == ["base", "ct", "sft"]


# memory

WATCH = (
    BARE
    + """
import json, os, sys, threading
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

peak, over = 0, threading.Event()
def watch():
    global peak
    while not over.wait(0.002):
        peak = max(peak, anonymous())

def merge(where, method, options):
    given = f"{where}/base", {name: f"{where}/{name}" for name in ("ct", "sft")}
    whole_models.merge_checkpoints(method, *given, f"{where}/out", threads=2, **options)
    return whole_models.plan_merge(method, *given, "planned", threads=2, **options)["memory_bytes"]

jobs = json.loads(sys.argv[1])
for job in jobs:  # what libraries and compiled loops take once
    merge("small", *job)
for job in jobs:
    if os.fork() == 0:  # each from the same start
        before = peak = anonymous()
        thread = threading.Thread(target=watch)
        thread.start()
        planned = merge(".", *job)
        over.set()
        thread.join()
        print(json.dumps([peak - before, planned]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
)
SLACK = 16_000_000  # beside the plan: Python's objects, the allocator's leftovers


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc/self/status is Linux's")
def test_anonymous_memory_stays_below_the_plans(tmp_path):
    rng, entries = np.random.default_rng(0), 10_000_000
    own = rng.standard_normal(entries, F).astype(BF16)
    for label in ("base", "ct", "sft"):
        step = np.roll(own, entries // 3 if label == "ct" else 7) * BF16.type(0.01)
        x = own if label == "base" else own + step
        save_folder(tmp_path / label, {"a.weight": x[: entries // 2], "b.weight": x[entries // 2 :]})
        save_folder(tmp_path / "small" / label, {"a.weight": x[:9000]})
    scopes = [[method, options | {"trim_scope": "tensor"}] for method, options in METHODS.items()]
    jobs = [*METHODS.items(), *scopes[2:]]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps(jobs)], cwd=tmp_path, env=in_checkout(), text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(jobs)
    for job, (used, planned) in zip(jobs, found, strict=True):
        assert 0 < used < planned + SLACK, job
        assert planned + SLACK < 60_000_000  # the three inputs as float32 are 120 MB


def test_a_command_starts_numba_without_scipys_linear_algebra() -> None:
    said = subprocess.run([sys.executable, "-c", """
import sys
import numpy as np
from lrnb.merging import bits, kernels
bits.leave_out_blas()
assert kernels.delta(np.float32(3), np.float32(1)) == 2
print("scipy.linalg" in sys.modules)
from scipy import linalg
print(linalg.norm([3.0, 4.0]))
"""], capture_output=True, text=True, check=True)  # fmt: skip
    assert said.stdout.split() == ["False", "5.0"]
