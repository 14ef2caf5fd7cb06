"""Opening what a user gives as a model: a folder of safetensors or .bin, a PEFT adapter, a Hub id.

Each ends as a `Checkpoint`: names to read-only views of memory-mapped files.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from lrnb.checkpoints.lora import ADAPTER, LORA, open_adapter
from lrnb.checkpoints.reading import SAFETENSORS, Checkpoint, open_checkpoint, readable
from lrnb.checkpoints.small_files import TEMPLATES, refuse_odd_small_files
from lrnb.checkpoints.torch_bin import BIN
from lrnb.errors import UserError

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
HUB_FILES = (".json", ".txt", ".model", ".jinja", ".jinja2")
KINDS = "Give a Hugging Face model folder, a PEFT adapter folder, or a Hub id such as org/name"


def open_source(given: str | Path, *, base: str | Path | None = None, finite: bool = True) -> Checkpoint:
    """The tensors of whatever a user gives as a model, validated.

    given: a folder with safetensors (which win) or pytorch_model*.bin, a PEFT LoRA adapter folder
    (with its `base`, any of these), or a Hub id, org/name or org/name@revision. `files` of the result
    are the weight files as given; `folder` has config.json. UserError names file, tensor and remedy;
    `finite=False` leaves the search for NaN and Inf, which reads all weights, to the caller.
    """
    with readable(given):
        return _open(given, base, finite)


def _open(given: str | Path, base: str | Path | None, finite: bool) -> Checkpoint:
    folder = _find_folder(given)
    there = [x for x in (SAFETENSORS, BIN) if (folder / x.index).exists() or any(folder.glob(x.pattern))]
    _refuse_both(str(folder), names := [path.name for path in folder.iterdir()])
    refuse_odd_small_files(folder)
    if ADAPTER in names:
        return open_adapter(folder, None if base is None else open_source(base))
    return open_checkpoint(folder, layout=(there or [SAFETENSORS])[0], finite=finite)


def _refuse_both(given: str, names: Collection[str]) -> None:
    """UserError for an adapter beside whole weights: transformers takes one, a reader may mean the other."""
    whole = sorted(name for x in (SAFETENSORS, BIN) for name in fnmatch.filter(names, x.pattern))
    own = [ADAPTER] if ADAPTER in names else [n for x in LORA for n in fnmatch.filter(names, x.pattern)]
    if whole and own:
        raise UserError(
            f"{given}: holds a LoRA adapter ({own[0]}) and a whole model ({whole[0]}), so it is not clear "
            "which is meant. Put the one that is to be merged into a folder of its own"
        )


def _find_folder(given: str | Path) -> Path:
    path = Path(given)
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        raise UserError(
            f"{path}: GGUF files are quantised and not merged. Put it in a folder of its own and convert "
            "it: python -c \"from lrnb.training.gguf import convert_gguf as c; c('DIR/MODEL.gguf', 'OUT')\", "
            "then give OUT; `make smol-base` does so for Gemma 3 270M."
        )
    if path.exists():
        raise UserError(f"{path}: a file, not a folder. Give the folder that it lies in: {path.parent}")
    if match := HUB_ID.fullmatch(str(given)):
        return _download(match["repo"], match["revision"])
    raise UserError(f"{given}: no such folder. {KINDS}")


# the Hub


def _download(repo: str, revision: str | None) -> Path:
    """The snapshot folder of a Hub repository: from the Hub, or what the cache has of it."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    from lrnb.study.library_bars import told_for_libraries

    given, failed, files = f"{repo}@{revision}" if revision else repo, None, None
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=10)  # seconds; does not retry
        files = [file.rfilename for file in info.siblings or ()]
    except Exception as error:  # offline, proxy, no such repository, no rights: the cache may have it
        failed, files = error, _cached_list(repo, revision)
    wanted = None if files is None else [glob.escape(name) for name in hub_files(given, files)]
    try:
        with told_for_libraries():
            return Path(
                snapshot_download(
                    repo, revision=revision, allow_patterns=wanted, local_files_only=failed is not None
                )
            )
    except Exception as error:
        cause = error if failed is None or isinstance(error, IncompleteSnapshotError) else failed
        raise _unreachable(given, cause) from None


def _cached_list(repo: str, revision: str | None) -> list[str] | None:
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    with contextlib.suppress(CachedRepoTreeNotFoundError, OSError, ValueError):
        return [file.path for file in get_cached_repo_tree(repo, revision=revision)]
    return None


def hub_files(repo: str, files: Iterable[str]) -> list[str]:
    """What to fetch of a repository: its own config, tokenizer and licence files, and one kind of weights.

    UserError where it has no weights that can be opened, or an adapter beside whole ones.
    """
    files = list(files)
    top = [name for name in files if "/" not in name]
    templates = fnmatch.filter(files, f"{TEMPLATES}/*.jinja")
    _refuse_both(repo, top)
    for layout in LORA if ADAPTER in top else (SAFETENSORS, BIN):
        if weights := fnmatch.filter(top, layout.pattern):
            texts = [n for n in top if n.endswith(HUB_FILES) or re.match("LICENSE|NOTICE|.*TERMS", n)]
            return sorted({*weights, *texts, *templates})
    quantised = " It has GGUF files, which are not merged." if any(n.endswith(".gguf") for n in top) else ""
    raise UserError(
        f"{repo}: no safetensors and no pytorch_model*.bin in this repository.{quantised} {KINDS}"
    )


def _unreachable(given: str, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    return UserError(
        f"{given}: neither a folder, nor a model that can be had from the Hub or its cache ({reason}). "
        "Check the spelling, the network, HF_HUB_OFFLINE and, for private or gated models, `hf auth login`; "
        "or download it elsewhere with `hf download` and give the folder"
    )
