"""A pico study on disk: real models, tokenizer and items, untrained; made in a second."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from support.bpe import byte_level_spec, save_bpe

from lrnb.data import microworld
from lrnb.study.files import MANIFEST, hashes, write_text
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths
from lrnb.training import base

BUDGET = 2048


def pico_study(runs: Path) -> Study:
    """Micro-world data, and base, CT and SFT with random task vectors, as the stages leave them."""
    return pico_studies(runs, "qaa")[0]


def pico_studies(runs: Path, *langs: str) -> list[Study]:
    """The same of several languages, each with its own CT and params.yaml."""
    tasks = ["world_topic", "world_sums"]
    study = Study(runs=str(runs), ct_budgets=[BUDGET], tasks=tasks, script="Georgian")
    studies = [study.model_copy(update={"lang": lang}) for lang in langs]
    each, paths = [RunPaths(one) for one in studies], RunPaths(study)
    world = microworld.make_world(langs)
    microworld.write_world(paths.world, world, base_tokens=200, ct_tokens=200, dev=5, test=12, sft=20)
    tokenizer = microworld.build_tokenizer(world)
    folders = (paths.base, *(one.ct(BUDGET) for one in each), paths.sft)
    for folder, model in zip(folders, _models(len(tokenizer), tokenizer, len(folders)), strict=True):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for one in each:
        _finish(one)
        write_text(one.lang / "params.yaml", yaml.safe_dump(one.study.model_dump()))
    return studies


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


def _models(vocab_size: int, tokenizer: object, count: int = 3, noise: float = 0.02) -> list:
    import torch

    shape = {"vocab_size": vocab_size, "width": 32, "layers": 2, "tokenizer": tokenizer}
    made = [base.scratch_model(**shape) for _ in range(count)]
    for seed, model in enumerate(made[1:]):
        random = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight.data += noise * torch.randn(weight.shape, generator=random)
    return made


def _finish(paths: RunPaths) -> None:
    for folder in (paths.base, paths.sft, paths.ct(), paths.ct(BUDGET)):
        (folder / MANIFEST).write_text(json.dumps({"outputs": hashes(folder)}))
