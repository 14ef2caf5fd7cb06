"""mergekit 0.1.5 in an environment of its own: never a dependency of lrnb.

What it does (its `sparsify.py` and `merge_methods/generalized_task_arithmetic.py`): per tensor it
keeps k = max(1, int(density * n)) entries, chosen by an unstable argsort of the magnitudes as float32,
so that at the threshold any of the equal magnitudes may be kept; weights the task vectors; sums them;
takes the sign of the sum, + for zero; divides by the sum of the agreeing weights. All of it in `dtype`:
with bfloat16 every step rounds. `out_dtype` is what is written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# Log lines of mergekit.merge.run_merge; between them it plans, reads, computes and writes.
BEGIN, END = "Planning operations", "Saving config"
OPTIONS = ("--no-copy-tokenizer", "--quiet", "-v")  # the checkpoints have no tokenizer; log, no bars


def environment(root: Path, name: str = "mergekit") -> Path:
    """The `bin` folder of a peer's environment below `root`, made at the first call from its requirements.

    mergekit's takes gigabytes (torch). Needs
    Python 3.11 or newer and a package registry. CalledProcessError where the installation fails.
    """
    place, asked = root / f"{name}-venv", Path(__file__).with_name(f"{name}-requirements.txt")
    stamp, wanted = place / ".installed", asked.read_text(encoding="utf-8")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return place / "bin"
    print(f"installing {name} into {place}", file=sys.stderr, flush=True)
    root.mkdir(parents=True, exist_ok=True)
    python = place / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    uv = Path(sys.executable).with_name("uv")
    if uv.is_file():
        command = [str(uv), "pip", "install", "--quiet", "--python", str(python)]
    else:
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "-r", str(asked)], check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return place / "bin"


def versions(bin_folder: Path) -> dict[str, str]:
    """What is installed there."""
    names = ["mergekit", "torch", "transformers", "numpy", "safetensors"]
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    command = [str(bin_folder / "python"), "-c", code]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def config(
    method: str, folders: Mapping[str, Path], *, density: float, dtype: str, out_dtype: str | None = None
) -> dict[str, Any]:
    """A mergekit configuration for linear, task_arithmetic or ties; weights 1. ValueError otherwise."""
    if method not in ("linear", "task_arithmetic", "ties"):
        raise ValueError(f"no configuration for {method!r}")
    parameters = {"weight": 1.0} | ({"density": density} if method == "ties" else {})
    models = [{"model": str(folders[name]), "parameters": parameters} for name in ("ct", "sft")]
    found = {"merge_method": method, "models": models, "dtype": dtype}
    if out_dtype:
        found["out_dtype"] = out_dtype
    return found if method == "linear" else found | {"base_model": str(folders["base"])}


def command(bin_folder: Path, recipe: Mapping[str, Any], place: Path, out: Path) -> list[str]:
    """The command line that merges by `recipe`, whose file is written to `place` first."""
    place.write_text(yaml.safe_dump(dict(recipe), sort_keys=False), encoding="utf-8")
    return [str(bin_folder / "mergekit-yaml"), str(place), str(out), *OPTIONS]


def merge_seconds(lines: Sequence[tuple[float, str]]) -> float | None:
    """Its merging time, without imports, from the moments at which its log lines came."""
    begin = [when for when, line in lines if line.endswith(BEGIN)]
    end = [when for when, line in lines if line.endswith(END)]
    return end[-1] - begin[0] if begin and end else None
