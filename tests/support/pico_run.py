"""A pico study on disk: real models, tokenizer and items, untrained; made in a second."""

from __future__ import annotations

import json
from pathlib import Path

from support.bpe import byte_level_spec, save_bpe

from lrnb.data import microworld
from lrnb.study.files import MANIFEST, hashes
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths
from lrnb.training import base

BUDGET = 2048


def pico_study(runs: Path) -> Study:
    """Micro-world data, and base, CT and SFT with random task vectors, as the stages leave them."""
    tasks = ["world_topic", "world_sums"]
    study = Study(runs=str(runs), ct_budgets=[BUDGET], tasks=tasks, script="Georgian")
    paths = RunPaths(study)
    world = microworld.make_world(("qaa",))
    microworld.write_world(paths.world, world, base_tokens=200, ct_tokens=200, dev=5, test=12, sft=20)
    tokenizer = microworld.build_tokenizer(world)
    models = _models(len(tokenizer), tokenizer)
    for folder, model in zip((paths.base, paths.ct(BUDGET), paths.sft), models, strict=True):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _finish(paths)
    return study


def byte_study(runs: Path, data_root: Path, lang: str, script: str) -> Study:
    """A real language with a byte-level tokenizer that has hardly seen it: what it writes is garbage."""
    place = {"runs": str(runs), "data_root": str(data_root), "ct_budgets": [BUDGET]}
    study = Study(preset="smol", lang=lang, script=script, tasks=["topic"], **place)
    paths, spec = RunPaths(study), byte_level_spec()
    models = _models(len(spec["model"]["vocab"]), None, noise=0.5)
    for folder, model in zip((paths.base, paths.ct(BUDGET), paths.sft), models, strict=True):
        save_bpe(folder, spec, model, eos_token="<|end|>")
    _finish(paths)
    return study


def _models(vocab_size: int, tokenizer: object, noise: float = 0.02) -> list:
    import torch

    made = [base.scratch_model(vocab_size=vocab_size, width=32, layers=2, tokenizer=tokenizer) for _ in "123"]
    for seed, model in enumerate(made[1:]):
        random = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight.data += noise * torch.randn(weight.shape, generator=random)
    return made


def _finish(paths: RunPaths) -> None:
    for folder in (paths.base, paths.sft, paths.ct(), paths.ct(BUDGET)):
        (folder / MANIFEST).write_text(json.dumps({"outputs": hashes(folder)}))
