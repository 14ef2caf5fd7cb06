"""The head of a merged model's card, which the Hub reads: what it was made from, licence, languages, tags.

Only what is known stands there: from Hub ids that were given, from the cards, configurations and licence
files of the models, and from the manifests of the runs that trained them. No path of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lrnb.checkpoints.opening import HUB_ID
from lrnb.checkpoints.reading import Checkpoint
from lrnb.merging.jobs import Job
from lrnb.study.files import MANIFEST, TERMS, json_object
from lrnb.training.gguf import PACKAGES

GEMMA = ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text")  # under the Gemma terms
GEMMA_LINK = "https://ai.google.dev/gemma/terms"
PHRASES = {
    "Gemma Terms of Use": "gemma", "LLAMA 2 COMMUNITY LICENSE": "llama2", "Apache License": "apache-2.0",
    "MIT License": "mit",
}  # fmt: skip
PRIVATE = re.compile("q[a-t][a-z]")  # codes of ISO 639 for private use, as those of the micro-world
MIXED = "those of the merged models"


def card_header(job: Job) -> str:
    """The YAML between the --- lines of README.md, by huggingface_hub."""
    from huggingface_hub import ModelCardData

    sources = _card_sources(job)
    tags = ["merge", "lrnb", job.method.name.replace("_", "-")]
    known: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    if origins := _unique(name for given, folder in sources for name in _origins(given, folder)):
        known |= {"base_model": origins, "base_model_relation": "merge"}
    if languages := _unique(code for _, folder in sources for code in _languages(folder)):
        known["language"] = languages
    return str(ModelCardData(**known, **_licence(folder for _, folder in sources)).to_yaml())


def _card_sources(job: Job) -> list[tuple[str, Path]]:
    """(as given, opened folder) of every model, the base first."""
    opened, given = dict(job.vectors.models), dict(job.recipe["models"])
    if job.method.base:
        opened, given = {"base": job.vectors.base, **opened}, {"base": job.recipe["base"], **given}
    return [(str(where), model.folder) for name, where in given.items()
            if isinstance(model := opened.get(name), Checkpoint)]  # fmt: skip


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _origins(given: str, folder: Path) -> list[str]:
    """The Hub ids that a model is, or was made from; [] where none is known."""
    match = HUB_ID.fullmatch(given)
    if match and not Path(given).exists():
        return [match["repo"]]
    source = str(_facts_of(folder).get("source", ""))
    if source.startswith("gguf:") and source.removeprefix("gguf:") in PACKAGES:
        return [PACKAGES[source.removeprefix("gguf:")].origin]
    if source and HUB_ID.fullmatch(source) and not Path(source).exists():
        return [source]
    return _texts_of(_card_of(folder).get("base_model"))


def _languages(folder: Path) -> list[str]:
    """The languages that a model was trained on, as far as its run or its card says; no private code."""
    params = _manifest_of(folder).get("params") or {}
    trained = str(_manifest_of(folder).get("stage")).startswith("ct") and params.get("lang")
    codes = [params["lang"], "en"] if trained else _texts_of(_card_of(folder).get("language"))
    return [code for code in codes if not PRIVATE.fullmatch(code)]


def _licence(folders: Iterable[Path]) -> dict[str, Any]:
    """Gemma's terms travel with every model made from Gemma; else the one licence that all have."""
    found = [_licence_of(folder) for folder in folders]
    if "gemma" in found:
        return {"license": "gemma", "license_link": GEMMA_LINK}
    known = set(filter(None, found))
    if len(known) == 1:
        return {"license": known.pop()}
    return {"license": "other", "license_name": MIXED} if known else {}


def _licence_of(folder: Path) -> str:
    """The Hub's name of a model's licence: by its kind, its licence files, its card; "" if not known."""
    if json_object(folder / "config.json").get("model_type") in GEMMA:
        return "gemma"
    texts = [path for pattern in TERMS for path in sorted(folder.glob(pattern)) if path.is_file()]
    for path in texts:
        text = path.read_text(encoding="utf-8", errors="replace")
        for phrase, name in PHRASES.items():
            if phrase.casefold() in text.casefold():
                return name
    return next(iter(_texts_of(_card_of(folder).get("license"))), "")


def _texts_of(found: Any) -> list[str]:
    """The texts among a card's values: what else stands there may be of any size once it is written out."""
    return [text for text in (found if isinstance(found, list) else [found]) if isinstance(text, str)]


def _card_of(folder: Path) -> Mapping[str, Any]:
    """The YAML of a model's README.md; {} where there is none that can be read."""
    from huggingface_hub.repocard import metadata_load

    try:
        found = metadata_load(folder / "README.md") if (folder / "README.md").is_file() else {}
    except Exception:  # of any kind: somebody else's file, without which a merge goes on
        return {}
    return found if isinstance(found, dict) else {}


def _facts_of(folder: Path) -> Mapping[str, Any]:
    return _manifest_of(folder).get("facts") or {}


def _manifest_of(folder: Path) -> Mapping[str, Any]:
    """The manifest of the run's stage that made a model, in its folder or in the one around it."""
    return json_object(folder / MANIFEST) or json_object(folder.parent / MANIFEST)
