"""What a study would need before it is started: models, texts, tokens, disk, memory, hours. Plain arithmetic.

Training one token costs 6 N operations (forward 2 N, backward 4 N), scoring one 2 N, for N parameters
(Kaplan et al. 2020, arXiv 2001.08361, table 1). Speeds are the assumptions below, printed with the result.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lrnb.params import SYNTHETIC, Study

GIB = 1024**3
PARAMETERS = {"gguf:gemma3-270m": 268_098_176, "gguf:smollm2": 134_515_008}
CORE_FLOPS = 7e10  # float32 operations a second of one CPU core, measured with presets nano and smol
GPU_FLOPS = 4e14  # 40% of an H100's bf16 peak
PAPER_GPUS = 8
SFT_TOKENS = 256  # of a usual example, prompt and answer
ITEM_TOKENS = 300  # of a usual test item with its options


def parameters(study: Study) -> int:
    """Number of the base's parameters; 0 where neither a table, the folder nor the name tells it."""
    source = study.base_source
    if source == "scratch":
        return 12 * study.base_layers * study.base_width**2 + 270 * study.base_width
    if source in PARAMETERS:
        return PARAMETERS[source]
    if files := list(Path(source).glob("*.safetensors")):
        return sum(file.stat().st_size for file in files) // 4
    size = re.search(r"(\d+(?:\.\d+)?)([bm])\b", source.lower())
    return round(float(size[1]) * (1e9 if size[2] == "b" else 1e6)) if size else 0


def trains(study: Study) -> bool:
    return study.trains


def candidates(study: Study) -> int:
    """Merges that are tried on dev, for one budget."""
    return len(study.alphas) + len(study.lams) * (1 + len(study.densities)) + len(study.slacks)


def tokens(study: Study) -> dict[str, int]:
    """Tokens that each kind of work goes through."""
    budgets = len(study.ct_budgets)
    sft = sum(study.sft_mix.values()) * study.sft_epochs * min(SFT_TOKENS, study.sft_max_len)
    models = 2 + 6 * budgets  # base, SFT; CT, CT-then-SFT and four merges a budget
    tests = models * sum(
        study.test_limits.get(t, study.test_limit) for t in [*study.compared, *study.written]
    )
    dev = candidates(study) * budgets * study.dev_limit * len(study.dev_tasks or study.tasks)
    return {
        "base": study.base_tokens if study.base_source == "scratch" else 0,
        "ct": study.ct_budgets[-1] if trains(study) else 0,
        "sft": sft * (1 + budgets) if trains(study) else 0,
        "scoring": (tests + dev) * min(ITEM_TOKENS, study.seq_len),
    }


def disk_bytes(study: Study) -> int:
    """Float32 checkpoints of every model, and CT's resume point with Adam's two moments, old and new."""
    models = 2 + 6 * len(study.ct_budgets) if trains(study) else 3 + 4
    resume = 2 * 12 if trains(study) else 0
    return parameters(study) * (4 * models + resume) + 50_000_000


def memory_bytes(study: Study) -> int:
    """Training: float32 weights, gradients and Adam's two moments; without training two float32 models."""
    return parameters(study) * (16 if trains(study) else 8) + 2 * GIB


def hours(study: Study, flops: float) -> float:
    """Hours of computing at `flops` operations a second."""
    n, counts = parameters(study), tokens(study)
    trained = counts["base"] + counts["ct"] + counts["sft"]
    return n * (6 * trained + 2 * counts["scoring"]) / flops / 3600


def _duration(value: float) -> str:
    return f"{value:,.1f} hours" if value >= 1 else f"{60 * value:.1f} minutes"


def devices(study: Study) -> tuple[str, float]:
    """The device that the estimate is for, in words, and its operations a second."""
    from lrnb.batch import visible_gpus

    if study.preset == "paper":
        paper = (
            f"{PAPER_GPUS} GPUs at {GPU_FLOPS:.0e} operations/s each, as in the paper (a step here uses one)"
        )
        return paper, PAPER_GPUS * GPU_FLOPS
    if study.preset == "released" or (study.device != "cpu" and visible_gpus()):
        return f"one GPU at {GPU_FLOPS:.0e} operations/s", GPU_FLOPS
    cores = os.cpu_count() or 1
    return f"{cores} CPU cores at {CORE_FLOPS:.0e} operations/s each", cores * CORE_FLOPS


def sources(study: Study) -> dict[str, str]:
    """Every model and data set of the study, by what it is for."""
    found = {"base": study.base_source}
    if not trains(study):
        known = {"CT weights": study.released_ct or "none released", "SFT weights": study.released_sft}
        return found | known
    x = f"{study.hub_dataset} {study.hub_config} {study.hub_files} {study.hub_split}".split()
    if study.corpus_source == "hub":
        found |= {f"text, {study.lang}": " ".join(x), "text, en": study.hub_dataset_en}
    elif study.lang in SYNTHETIC:
        found[f"text, {study.lang}"] = "the micro-world, generated"
    else:
        found[f"text, {study.lang}"] = f"corpus/{study.lang}.jsonl.gz of the data root"
    mix = ", ".join(f"{n:,} {task}" for task, n in study.sft_mix.items())
    return found | {"SFT, en": f"{mix} (files of the data root)"}


def describe(study: Study) -> list[tuple[str, str]]:
    """Rows for `lrnb run --dry-run`: label and value."""
    counts, (device, flops) = tokens(study), devices(study)
    budgets = ", ".join(f"{budget:,}" for budget in study.ct_budgets)
    known = parameters(study) > 0
    sizes = [
        ("parameters", f"{parameters(study) / 1e6:,.1f} million"),
        ("disk", f"{disk_bytes(study) / GIB:,.1f} GiB (float32 checkpoints)"),
        ("memory", f"{memory_bytes(study) / GIB:,.1f} GiB over all devices, and activations"),
        (
            "time",
            f"{_duration(hours(study, flops))} on {device}; training 6 N, scoring 2 N operations a token",
        ),
    ]
    return [
        *sources(study).items(),
        (
            "test tasks",
            ", ".join([f"{t} ({study.lang})" for t in study.tasks] + [f"{t} (en)" for t in study.tasks_en]),
        ),
        *([("written answers", ", ".join(study.written))] if study.written else []),
        ("CT budgets", f"{budgets} tokens"),
        *((f"tokens, {name}", f"{count:,}") for name, count in counts.items() if count),
        *(
            sizes
            if known
            else [("size", "unknown: the base is neither a local folder nor named with its size")]
        ),
    ]
