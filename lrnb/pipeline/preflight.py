"""What a study asks for that is not there: refused before anything is computed, in a dry run too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lrnb.checkpoints.opening import HUB_ID, open_source
from lrnb.data import fineweb, language_check, microworld, mongolian
from lrnb.errors import UserError
from lrnb.pipeline import estimate, memory, supplies
from lrnb.pipeline.misnamed import misnamed
from lrnb.pipeline.notebooks import usable_gpus
from lrnb.pipeline.supplies import Check
from lrnb.study.environment import resolved_device
from lrnb.study.parameters import Study, batch_shares
from lrnb.study.stages import RunPaths
from lrnb.training.gguf import package_of
from lrnb.training.watching import refuse_missing_extras


def refuse_missing(*studies: Study, hub: bool = True) -> None:
    """UserError with all that is missing or wrong of what studies need: base, data root, rows, text for CT.

    hub: rows on the Hub are read too; a dry run does without.
    """
    found = list(dict.fromkeys(fault for study in studies for fault in faults(study, hub=hub)))
    if len(found) > 1:
        listed = "".join(f"\n  {number}. {one}" for number, one in enumerate(found, 1))
        raise UserError(f"{len(found)} things are missing or wrong:{listed}")
    if found:
        raise UserError(found[0])


def faults(study: Study, *, hub: bool) -> list[str]:
    """What every check says, each once."""
    found = []
    for check in _checks(study, hub):
        try:
            check()
        except UserError as error:
            found.append(str(error))
    if study.preset != "nano" and supplies.data_is_known(study):
        found += misnamed(study)
    return list(dict.fromkeys(found))


def _checks(study: Study, hub: bool) -> Iterator[Check]:
    yield partial(_refuse_base, study.base_source)
    yield partial(_refuse_no_task, study)
    yield partial(_refuse_shapes, study)
    yield partial(_refuse_devices, study)
    for name, given in study.extra_models.items():
        if hub or Path(given).is_dir() or not HUB_ID.fullmatch(given):
            yield partial(_refuse_extra, name, given)
    if study.trains:
        yield partial(language_check.refuse_missing_model, study.language_check)
    yield from supplies.checks_of_rows_in_x(study)
    if study.trains and study.corpus_source == "hub":
        yield partial(fineweb.hub_text, study)
    if study.preset == "nano":
        yield partial(_refuse_world, study)
    elif supplies.data_is_known(study):
        yield from supplies.row_checks(study, hub=hub)
        for lang, needed in supplies.needed_text(study).items():
            yield partial(supplies.supply, study, lang, needed)
            yield partial(supplies.read_text, study, lang)
    else:
        yield lambda: RunPaths(study).data_root


def _refuse_no_task(study: Study) -> None:
    if not study.tasks:
        raise UserError("tasks: none is given to score in X; name one or more: --set 'tasks=[topic]'")


def _refuse_shapes(study: Study) -> None:
    """Weights that were trained elsewhere have read words as they are spelt."""
    if not study.trains and study.script == "Mongolian" and mongolian.mongol_norm is not None:
        raise UserError(
            "the extra `mongolian` writes words by their shape, which the released weights have not seen: "
            "pip uninstall mongol-norm for preset released"
        )


def _refuse_devices(study: Study) -> None:
    """What CT and SFT cannot share, and GPUs that are not there."""
    if study.device == "mps":
        resolved_device(study.device)
    if not study.trains:
        return
    refuse_missing_extras(study.optimizer, study.log_to)
    gpus, devices = len(usable_gpus(study)), memory.devices_here(study)
    if gpus and devices > gpus:
        raise UserError(f"devices {devices}: {gpus} GPUs are visible here; use --set devices=auto, or fewer")
    for name in ("ct_batch", "sft_batch"):
        batch_shares(getattr(study, name), study.micro_batch, devices * study.nodes, name)
    if shape := memory.shape_of(study, estimate.parameters(study)):
        memory.refuse_small_gpus(study, shape)


def _refuse_extra(name: str, given: str) -> None:
    try:
        open_source(given, finite=False)  # all weights are read when it is scored
    except UserError as error:
        raise UserError(f"extra_models, {name}: {error}") from None


def _refuse_base(source: str) -> None:
    kind, package, name = source.partition("gguf:")
    if package and not kind:
        package_of(name)
        return
    folder = Path(source)
    if source.startswith(("/", ".", "~")) and not folder.is_dir():  # others may be Hub ids
        raise UserError(f"base_source {source!r}: no such folder. Give a folder, gguf:NAME or a Hub id")
    if source != "scratch" and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"base_source {source!r}: no config.json in it. Give a Hugging Face model folder")
        supplies.tokenizer_of(source)


def _refuse_world(study: Study) -> None:
    if study.lang not in (codes := microworld.world_codes(study.world_languages)):
        known = f"world_languages {study.world_languages} makes {', '.join(codes)}"
        raise UserError(f"lang {study.lang!r}: {known}; give --set world_languages=N with more")
    for task, n in study.sft_mix.items():
        if task.removeprefix("world_") in microworld.TASKS and n > microworld.SFT_ROWS:
            raise UserError(
                f"sft_mix asks for {n:,} rows of {task!r}, the micro-world has {microworld.SFT_ROWS:,}; "
                "ask for less"
            )
