"""What a run was trained on, from its manifests: text, tokenizer, SFT examples, bits per byte, hours.

Nothing is measured here. What an earlier version did not record is NaN, what a run has not got has no rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lrnb.analysis.kinds import arm_model, kind_and_rows, model_label
from lrnb.merging.methods import METHODS
from lrnb.scoring.merge_check import complaint_about
from lrnb.study.files import MANIFEST
from lrnb.study.parameters import ENGLISH
from lrnb.study.stages import RunPaths, read_manifest

AUDITED = ("tokens_per_character", "tokens_per_word", "tokens_per_syllable")
BYTES = ("byte_share", "partial_share")  # of `corpus.audit`; earlier versions recorded the first alone
HOUR = 3600  # seconds


def text_for_ct(paths: RunPaths) -> pd.DataFrame:
    """A row a language: documents and megabytes read for CT, tokens packed, passes, what was left out and
    why; of the tokenizer, on held-out text, tokens a character and a word (or syllable), and in percent the
    tokens that are no whole characters (`byte_pieces`) or unknown.
    """
    facts = _facts(paths.corpus)
    rows = [
        _of_language(facts, lang, key)
        for lang, key in ((paths.study.lang, "x"), (ENGLISH, "en"))
        if facts.get("counts", {}).get(key)
    ]
    return pd.DataFrame(rows)


def _of_language(facts: Mapping[str, Any], lang: str, key: str) -> dict[str, Any]:
    tokens, unique = facts["counts"][key], facts.get("unique", {}).get(key)
    read, audit = facts.get("read", {}).get(key, {}), facts.get("audit", {}).get(lang, {})
    row = {"lang": lang, "documents": read.get("documents"), "tokens": tokens}
    row |= {"megabytes": read["bytes"] / 1e6 if read else None, "passes": tokens / unique if unique else None}
    row |= {"left_out": _reasons(facts.get("dropped", {}).get(lang, {}))}
    row |= {name: audit[name] for name in AUDITED if name in audit}
    return row | _in_percent(audit)


def _in_percent(audit: Mapping[str, float]) -> dict[str, float]:
    pieces = [audit[name] for name in BYTES if name in audit]
    found = {"byte_pieces": 100 * max(pieces)} if pieces else {}
    return found | ({"unknown_share": 100 * audit["unknown_share"]} if "unknown_share" in audit else {})


def _reasons(dropped: Mapping[str, int]) -> str:
    """{"duplicate": 3} -> "duplicate 3", the most frequent first; "none" where nothing was left out."""
    counts = sorted(dropped.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{reason} {n:,}" for reason, n in counts if n) or "none"


def trainings_of(paths: RunPaths) -> pd.DataFrame:
    """A row a training: stage, examples, tokens and epochs of what was chosen, rows left out, hours, device.

    Hours are those of the whole stage: all candidates on dev, and of CT all budgets.
    """
    budgets = paths.study.ct_budgets if paths.study.trains else []
    folders = {"base": paths.base, "CT": paths.ct(), "SFT-en": paths.sft}
    for name in ("", *paths.study.sft_x):
        arm, model = paths.of_rows(name), arm_model("ct_then_sft", name)
        folders |= {arm_model("sft", name): arm.sft} if name else {}
        folders |= {model_label(model, b): arm.ct_then_sft(b) for b in budgets}
    rows = [
        _training(name, read_manifest(folder))
        for name, folder in folders.items()
        if (folder / MANIFEST).is_file()
    ]
    table = pd.DataFrame(rows)
    if budgets and len(table):
        table.loc[table["stage"] == "CT", "tokens"] = max(budgets)
    return table


def _training(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    facts, left = manifest.get("facts") or {}, []
    if facts.get("too_long"):
        left.append(f"too long {facts['too_long']:,}")
    left += [f"held items of {task} {n:,}" for task, n in (facts.get("left_out") or {}).items()]
    row = {"stage": name, **{key: facts.get(key) for key in ("examples", "tokens", "epochs", "tried")}}
    hours = (manifest.get("seconds") or 0) / HOUR
    return row | {"left_out": ", ".join(left), "hours": hours, "device": manifest.get("device", "")}


def bits_by_model(paths: RunPaths) -> pd.DataFrame:
    """Bits per byte of held-out text: a row a model, a column a language.

    And a column `check` where a merge is worse than all its parents by the margin of
    `scoring/merge_check.py`: such a merge is probably broken.
    """
    scored = [*map(paths.scored, ("parents", "merged"))]
    scored += [paths.of_rows(name).scored("sft_x") for name in paths.study.sft_x]
    files = [folder / "bits_per_byte.csv" for folder in scored]
    tables = [pd.read_csv(path) for path in files if path.is_file()]
    if not tables:
        return pd.DataFrame()
    keys = ["model", "method", "ct_tokens"]
    wide = pd.concat(tables).pivot_table(index=keys, columns="lang", values="bits_per_byte", sort=False)
    return _with_check(wide.reset_index().rename_axis(columns=None))


def _with_check(bits: pd.DataFrame) -> pd.DataFrame:
    notes = []
    for row in bits.to_dict("records"):
        kind, rows = kind_and_rows(row["method"])
        sft = bits.method == arm_model("sft", rows)
        mine = sft | ((bits.method == "ct") & (bits.ct_tokens == row["ct_tokens"]))
        parents = bits[mine].set_index("method").drop(columns=["model", "ct_tokens"])
        worse = _worse(row, parents) if kind in METHODS and len(parents) > 1 else []
        notes.append(f"✕ worse than its parents in {', '.join(worse)}" if worse else "")
    return bits.assign(check=notes) if any(notes) else bits


def _worse(merge: Mapping[str, Any], parents: pd.DataFrame) -> list[str]:
    """The languages in which a merge is worse than all of its parents, a row each."""
    both = {lang: {"merge": merge[lang], **parents[lang]} for lang in parents.columns}
    return [lang for lang, bits in both.items() if complaint_about(lang, bits, parents.index)]


def _facts(folder: Path) -> Mapping[str, Any]:
    return (read_manifest(folder).get("facts") or {}) if (folder / MANIFEST).is_file() else {}
