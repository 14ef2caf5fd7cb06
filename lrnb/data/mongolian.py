"""Traditional Mongolian: a word looks the same in several encodings, and NFC does not make them one.

With the extra `mongolian` (the package mongol-norm, the shaping rules of Unicode's technical note 57) every
word becomes the one encoding of its shape. That is no longer how words are spelt: letters that look alike
are written alike. So it is for models that are trained here, and not for those trained elsewhere.
"""

from __future__ import annotations

import functools
from typing import Any

import regex

try:
    import mongol_norm
except ImportError:  # the extra is not installed
    mongol_norm = None

HUDUM = regex.compile("[\u1820-\u1842]")
OTHERS = regex.compile("[\u1843-\u18aa]")  # Todo, Sibe, Manchu, Ali Gali: the package would lose them


def by_shape(text: str) -> str:
    """A text with its words by shape; as it is without the extra, or with letters of related scripts."""
    if mongol_norm is None or not HUDUM.search(text) or OTHERS.search(text):
        return text
    return str(_shaper().normalize_text(text, strict=False))


@functools.cache
def _shaper() -> Any:
    return mongol_norm.MongolianShaper(locale="MNG")
