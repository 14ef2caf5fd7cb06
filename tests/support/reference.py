"""Merging once more, slowly and obviously: one entry after another, from section 3 of the design.

Shares no code with lrnb. Numbers are numpy float32 scalars where rounding is part of the
definition. Also: helpers that write small checkpoint folders with the safetensors library.
"""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

BF16 = np.dtype(ml_dtypes.bfloat16)
F = np.float32


def save_folder(folder: Path, tensors: dict, *, shards: int = 1, config: dict | None = None) -> Path:
    """A folder with config.json and the tensors in one file or in `shards` files with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "llama", "tie_word_embeddings": False} | (config or {})
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: x.copy(order="C") for name, x in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names, weight_map = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def tied(tensors: dict) -> dict[str, str]:
    """{name: earlier name} of names for one and the same array; lm_head.weight comes last."""
    names = sorted(tensors, key=lambda name: (name == "lm_head.weight", name))
    return {b: a for i, b in enumerate(names) for a in names[:i][::-1] if tensors[a] is tensors[b]}


def entries(tensors: dict) -> list[tuple[str, int]]:
    """Every entry of a model, tied ones once, in the order that "lowest index" refers to."""
    names = sorted(set(tensors) - set(tied(tensors)))
    return [(name, i) for name in names for i in range(tensors[name].size)]


def rounded(x, dtype: np.dtype):
    """`x` in `dtype` by one rounding; numpy's way from float64 to bfloat16 is by float32, which is two."""
    if dtype == BF16 and x.dtype == np.float64:
        near = F(x)
        if near != x and near.view(np.uint32) & 0xFFFF == 0x8000:  # between two bfloat16, as x is not
            near = np.nextafter(near, F(np.inf if x > near else -np.inf))
        x = near
    return x.astype(dtype)


def moved(base: dict, steps: list) -> dict:
    """base + step, entry by entry; a step of 0 keeps the base's bits."""
    merged = {name: x.copy() for name, x in base.items()}
    for step, (name, i) in zip(steps, entries(base), strict=True):
        if step != 0:
            wide = np.float64 if base[name].dtype == np.float64 else np.float32
            merged[name].reshape(-1)[i] = rounded(wide(base[name].flat[i]) + step, base[name].dtype)
    return merged | {copy: merged[name] for copy, name in tied(base).items()}


def each_tensor(method, base: dict, parents: dict, *args, **options) -> dict:
    """One call of `method` for each tensor: tensor scope."""
    merged = {}
    for name in set(base) - set(tied(base)):
        alone = {label: {name: parent[name]} for label, parent in parents.items()}
        found = method({name: base[name]}, alone, *args, **options)
        merged |= found[0] if isinstance(found, tuple) else found
    return {name: merged[tied(base).get(name, name)] for name in base}


def task_vectors(base: dict, parents: dict) -> dict[str, list[np.float32]]:
    def delta(parent, name, i):
        ours, theirs = base[name].flat[i], parent[name].flat[i]
        if np.float64 in (ours.dtype, theirs.dtype):
            return F(float(theirs) - float(ours))
        return F(float(theirs)) - F(float(ours))

    return {label: [delta(parent, *e) for e in entries(base)] for label, parent in parents.items()}


def trim(tau: list, density: float, at_threshold: str) -> list:
    """Zero for what is not kept."""
    n = len(tau)
    k = round(density * n)
    largest = sorted(range(n), key=lambda i: (-abs(tau[i]), i))[:k]
    if k and at_threshold == "keep-all":
        threshold = abs(tau[largest[-1]])
        largest = [i for i in range(n) if abs(tau[i]) >= threshold]
    kept = set(largest)
    return [tau[i] if i in kept else F(0) for i in range(n)]


def sign(x) -> int:
    return int(x > 0) - int(x < 0)


def ties(
    base,
    parents,
    *,
    density,
    weights=None,
    lam=1.0,
    zero_sign="majority",
    at_threshold="keep-all",
    slack=None,
    slack_threshold=None,
    normalize=True,
):
    """(merged dict, counts) by TIES, or TIES-SV protecting the last parent where a slack is given."""
    labels = list(parents)
    w = [F((weights or {}).get(label, 1.0)) for label in labels]
    tau = task_vectors(base, parents)
    kept = [trim(tau[label], density, at_threshold) for label in labels]
    n = len(entries(base))

    sums = []
    for j in range(n):
        total = kept[0][j] * w[0]
        for x, weight in zip(kept[1:], w[1:], strict=True):
            total = total + x[j] * weight
        sums.append(total)
    vote = sum(sign(x) for x in sums)
    zero = 1 if zero_sign == "positive" or vote > 0 else -1
    gamma = [sign(x) or zero for x in sums]

    def conflict(j):
        signs = {sign(x[j]) for x in kept}
        return {1, -1} <= signs

    conflicts = [j for j in range(n) if conflict(j)]
    lost = [j for j in conflicts if sign(kept[-1][j]) == -gamma[j]]
    won = set()
    if slack is not None:
        if len(labels) == 2:
            delta = {j: abs(kept[0][j] * w[0]) - abs(kept[1][j] * w[1]) for j in lost}
        else:
            delta = {j: abs(sums[j]) for j in lost}
        ranked = sorted(lost, key=lambda j: (delta[j], j))
        won = set(ranked[: round(slack * len(lost))])
    if slack_threshold is not None:
        xi = F(slack_threshold)

        def against(j):
            total = F(0)
            for x, weight in zip(kept[:-1], w[:-1], strict=True):
                total = total + x[j] * weight
            return abs(total)

        won = {j for j in lost if abs(kept[-1][j] * w[-1]) + xi >= against(j)}
    for j in won:
        gamma[j] = sign(kept[-1][j])

    steps = []
    for j in range(n):
        top, bottom = F(0), F(0)
        for x, weight in zip(kept, w, strict=True):
            if sign(x[j]) == gamma[j]:
                top, bottom = top + x[j] * weight, bottom + weight
        steps.append(F(lam) * (top / bottom if normalize else top) if bottom > 0 else F(0))
    merged = moved(base, steps)
    counts = {
        "kept": [sum(v != 0 for v in x) for x in kept],
        "discarded": [sum(sign(x[j]) == -gamma[j] for j in range(n)) for x in kept],
        "conflicts": len(conflicts),
        "overlap": sum(all(x[j] != 0 for x in kept) for j in range(n)),
        "reserved": len(won),
        "lost": len(lost),
    }
    return merged, counts


def average(base, parents, shares, keep=True):
    merged = {name: x.copy() for name, x in base.items()}
    for name, i in entries(base):
        values = [parent[name].flat[i] for parent in parents.values()]
        wide = np.float64 if any(v.dtype == np.float64 for v in values) else np.float32
        total = wide(values[0]) * wide(shares[0])
        for value, share in zip(values[1:], shares[1:], strict=True):
            total = total + wide(value) * wide(share)
        if keep and all(wide(v) == wide(values[0]) for v in values):
            total = wide(values[0])
        merged[name].reshape(-1)[i] = rounded(total, base[name].dtype)
    return merged | {copy: merged[name] for copy, name in tied(base).items()}


def task_arithmetic(base, parents, lams):
    tau = list(task_vectors(base, parents).values())
    steps = []
    for j in range(len(entries(base))):
        step = tau[0][j] * F(lams[0])
        for vector, lam in zip(tau[1:], lams[1:], strict=True):
            step = step + vector[j] * F(lam)
        steps.append(step)
    return moved(base, steps)


def assert_same_bits(got: dict, wanted: dict) -> None:
    assert list(got) == list(wanted)
    for name in wanted:
        assert got[name].dtype == wanted[name].dtype
        assert got[name].shape == wanted[name].shape
        differing = np.flatnonzero(bits(got[name]) != bits(wanted[name]))
        assert not differing.size, (name, differing, got[name], wanted[name])


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(f"u{x.dtype.itemsize}")
