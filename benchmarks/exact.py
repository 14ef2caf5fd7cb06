"""Value by value against mergekit's TIES: how many entries differ, and how many of them are threshold ties.

    python -m benchmarks.exact --shape small

Ours runs with --trim-scope tensor --at-threshold exact --zero-sign positive, mergekit with `dtype: float32`
and `out_dtype: bfloat16`, so that both compute in float32 and round once. What remains:

- mergekit picks by an unstable argsort among equal magnitudes at the threshold, we take the lowest index;
- mergekit keeps max(1, int(density * n)) entries of a tensor, we keep round(density * n): where these
  differ, the one entry more is that of rank k.

Both change only entries where a parent's |task vector| equals the magnitude of rank k in its tensor, for
one of the two k: a "threshold tie" here. Any other difference would be a mistake of one of the two, is
counted apart, and makes the exit status 1. Values are compared as numbers, so that -0 equals 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, peer
from benchmarks.checkpoints import SHAPES, bench_dir, generate
from benchmarks.merge import DENSITY, OURS, RESULTS, ROOT, Place, now, our_command
from lrnb.checkpoints.reading import open_checkpoint
from lrnb.errors import UserError

Tensors = Mapping[str, np.ndarray]


def compare(
    ours: Tensors, theirs: Tensors, base: Tensors, parents: Mapping[str, Tensors], density: float
) -> dict[str, Any]:
    """Counts over all tensors: entries, differing, at_ties, elsewhere; and tie_entries: all that may.

    ValueError where the two outputs hold different tensors, shapes or dtypes.
    """
    total = dict.fromkeys(("entries", "tie_entries", "differing", "at_ties", "elsewhere"), 0)
    if set(ours) != set(theirs):
        raise ValueError(f"only one output has {sorted(set(ours) ^ set(theirs))[0]!r}")
    for name in ours:
        a, b = ours[name], theirs[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ValueError(f"{name!r} is {a.dtype} {a.shape} in ours, {b.dtype} {b.shape} in theirs")
        tie = np.zeros(a.size, bool)
        for parent in parents.values():
            tie |= at_threshold(base[name], parent[name], density)
        differs = a.astype(np.float32).reshape(-1) != b.astype(np.float32).reshape(-1)
        counts = (a.size, tie.sum(), differs.sum(), (differs & tie).sum(), (differs & ~tie).sum())
        total = {key: total[key] + int(x) for key, x in zip(total, counts, strict=True)}
    return total


def at_threshold(base: np.ndarray, parent: np.ndarray, density: float) -> np.ndarray:
    """Flat mask of the entries whose |parent - base| is the k-th magnitude, for our k or mergekit's."""
    size = np.abs(parent.astype(np.float32) - base.astype(np.float32)).reshape(-1)
    mask = np.zeros(size.size, bool)
    for k in {round(density * size.size), max(1, int(density * size.size))} - {0}:
        mask |= size == np.partition(size, size.size - k)[size.size - k]
    return mask & (size > 0)


def merge_both(place: Place, bin_folder: Path, density: float, dtype: str) -> dict[str, Path]:
    """{"ours": folder, "theirs": folder}, freshly merged beside the checkpoints."""
    env, outs = measure.variables(ROOT), {}
    for label in ("ours", "theirs"):
        outs[label] = place.root / f"exact-{label}"
        measure.remove(outs[label])
    arguments = [str(density) if part == str(DENSITY) else part for part in OURS["ties-tensor"]]
    measure.run_whole(our_command(arguments, place, out=outs["ours"]), env, ROOT)
    recipe = peer.config("ties", place.folders, density=density, dtype=dtype, out_dtype="bfloat16")
    command = peer.command(bin_folder, recipe, place.root / "mergekit.yaml", outs["theirs"])
    measure.run_whole(command, env, ROOT)
    return outs


def count(shape: str, root: Path, density: float, dtype: str, seed: int = 0) -> dict[str, Any]:
    """Merge both ways and compare; the outputs are deleted."""
    place, bin_folder = Place(generate(shape, root, seed), root / shape), peer.environment(root)
    outs = merge_both(place, bin_folder, density, dtype)
    try:
        opened = {key: open_checkpoint(folder, finite=False) for key, folder in outs.items()}
        inputs = {key: open_checkpoint(folder, finite=False) for key, folder in place.folders.items()}
        base = inputs.pop("base")
        counts = compare(opened["ours"], opened["theirs"], base, inputs, density)
    finally:
        for folder in outs.values():
            measure.remove(folder)
    said = {"shape": shape, "seed": seed, "density": density, "mergekit_dtype": dtype, "date": now()}
    known = {"versions": measure.versions(), "peer_versions": peer.versions(bin_folder)}
    return said | {"commit": measure.commit(ROOT)} | counts | known


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 where every difference is a threshold tie, 1 where one is not."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.exact", description=__doc__.splitlines()[0])
    top.add_argument("--shape", choices=SHAPES, default="small")
    top.add_argument("--density", type=float, default=DENSITY)
    top.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="mergekit's arithmetic"
    )
    top.add_argument("--dir", type=Path, help="default $LRNB_BENCH, else ~/.cache/lrnb/bench")
    top.add_argument("--results", type=Path, default=RESULTS, help="folder for the result file")
    given = top.parse_args(arguments)
    try:
        found = count(given.shape, bench_dir(given.dir).absolute(), given.density, given.dtype)
    except (UserError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    given.results.mkdir(parents=True, exist_ok=True)
    name = f"{found['date'][:10]}-exact-{given.shape}-{given.dtype}.json"
    (given.results / name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(
        f"{found['differing']:,} of {found['entries']:,} entries differ from mergekit's TIES: "
        f"{found['at_ties']:,} at a threshold tie (of {found['tie_entries']:,}), "
        f"{found['elsewhere']:,} elsewhere"
    )
    return 1 if found["elsewhere"] else 0


if __name__ == "__main__":
    sys.exit(main())
