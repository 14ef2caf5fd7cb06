"""FineWeb-2: running text in a thousand languages; what the Hub source takes where a study names no set.

Penedo et al. 2025, arXiv 2506.20920; English from FineWeb (arXiv 2406.17557). A configuration is a language
of ISO 639-3 with a script of ISO 15924; each has a split `test` of its own.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

from lrnb.errors import UserError
from lrnb.study.languages import configuration, script_code, three_letters
from lrnb.study.parameters import Study

SET, ENGLISH_SET, ENGLISH_SAMPLE = "HuggingFaceFW/fineweb-2", "HuggingFaceFW/fineweb", "sample-10BT"
#: of the languages of FLORES-200 those that FineWeb-2 calls otherwise (its configs/)
CALLED = {
    "est_Latn": "ekk_Latn", "grn_Latn": "gug_Latn", "pes_Arab": "fas_Arab", "tgl_Latn": "fil_Latn",
    "yue_Hant": "yue_Hani", "zho_Hans": "cmn_Hani", "zho_Hant": "cmn_Hani",
}  # fmt: skip


class HubText(NamedTuple):
    """A set of running text on the Hub, as `corpus.read_hub` takes it."""

    dataset: str
    config: str = ""
    files: str = ""
    split: str = "train"
    field: str = "text"


def hub_text(study: Study) -> HubText:
    """Text in X: the set that the study names, else FineWeb-2. UserError for a language unknown there."""
    name = study.hub_dataset or SET
    if not _is_fineweb(name):
        return HubText(name, study.hub_config, study.hub_files, study.hub_split, study.hub_text_field)
    return HubText(name, study.hub_config or _config(study.lang, study.script))


def hub_text_en(study: Study) -> HubText:
    """English text: the set that the study names, else a sample of FineWeb."""
    if study.hub_dataset_en:
        return HubText(study.hub_dataset_en, files=study.hub_files_en)
    return HubText(ENGLISH_SET, ENGLISH_SAMPLE)


def apart(text: HubText) -> HubText | None:
    """The split that a set keeps out of training itself, for bits per byte; None where none is known."""
    return text._replace(split="test") if _is_fineweb(text.dataset) else None


def _is_fineweb(name: str) -> bool:
    """Whether a set is FineWeb-2, or a folder of that name with its files."""
    return PurePosixPath(name).name == PurePosixPath(SET).name


def config_of(lang: str, script: str) -> str:
    """The configuration of a language, as FLORES-200 calls it or by ISO 639-3; "" where neither has one."""
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    if found := configuration(FAIRSEQ_LANGUAGE_CODES, lang, script) if script else "":
        return CALLED.get(found, found)
    long, code = three_letters(lang), script_code(script) if script else ""
    return f"{long}_{code}" if long and code else ""


def _config(lang: str, script: str) -> str:
    if found := config_of(lang, script):
        return found
    raise UserError(
        f"{SET}: no configuration is known here for {lang!r} in the script {script or '(none given)'}. "
        "Give it, a language of ISO 639-3 with a script of ISO 15924: --set hub_config=tel_Telu; or another "
        "set with --set hub_dataset=NAME, or local text with --set corpus_source=local"
    )
