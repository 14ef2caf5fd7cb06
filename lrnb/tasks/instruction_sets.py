"""English instructions with their answers from a data set of the Hub, such as FLAN: rows for SFT.

FLAN (Wei et al. 2022, arXiv 2109.01652; Longpre et al. 2023, arXiv 2301.13688) as Muennighoff/flan has it is
a file of JSON lines a task, Open-Orca/FLAN has parquet files in a folder a mixture; both call their texts
`inputs` and `targets`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lrnb.data.contamination import Items
from lrnb.data.hub_sets import open_set
from lrnb.data.unicode_form import nfc, why_no_text
from lrnb.errors import UserError
from lrnb.study.parameters import Study
from lrnb.study.progress import Progress
from lrnb.tasks.hub import cannot_be_had

BETWEEN = "\n"  # instruction and answer: instructions end in a question, or in a list of options
INSTRUCTIONS = "instructions"  # what they are called among the tasks of SFT
NO_TEXT = "no text"  # why a row is left out: it has not both

Example = dict[str, str]


def instruction_examples(
    study: Study, data_root: str | Path, items: Items | None = None, dropped: Counter[str] | None = None
) -> list[Example]:
    """`sft_rows` examples {"prompt", "completion"} of the set that `sft_dataset` names; [] where none is.

    A sample of all rows by the seed, each as likely, in random order; the set is streamed. Rows without both
    texts, and those that hold one of `items`, are left out and counted in `dropped`. UserError where the set
    cannot be had, has not `sft_fields`, or has fewer rows.
    """
    if not study.sft_dataset:
        return []
    left_out = Counter[str]() if dropped is None else dropped
    with Progress("instructions", 0, "rows") as progress:
        rows = progress.through(_rows(study, data_root))
        found = _sample(_usable(rows, study.sft_fields, items, left_out), study.sft_rows, study.seed)
    if len(found) < study.sft_rows:
        raise UserError(
            f"sft_rows asks for {study.sft_rows:,} rows of {study.sft_dataset!r}, {len(found):,} of it can "
            "be used; ask for less"
        )
    return found


def refuse_missing_set(study: Study, data_root: str | Path) -> None:
    """UserError where the set that `sft_dataset` names cannot be opened, or has not `sft_fields`."""
    if study.sft_dataset:
        next(_rows(study, data_root), None)


def mirror_of(study: Study, data_root: str | Path) -> Path:
    """The folder for the set's own files, which is read in place of the Hub."""
    return Path(data_root) / "hub" / study.sft_dataset


def _rows(study: Study, data_root: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of the set as they are. UserError for whatever goes wrong on the way, and for other fields."""
    mirror, name = mirror_of(study, data_root), study.sft_dataset
    files = [study.sft_files] if study.sft_files else []
    try:
        rows = iter(open_set(mirror if mirror.is_dir() else name, "", "train", files=files, streaming=True))
        if (first := next(rows, None)) is None:
            raise UserError(f"data set {name!r} of sft_dataset has no rows; name another, or its sft_files")
        if missing := [field for field in study.sft_fields if field not in first]:
            raise UserError(
                f"data set {name!r} of sft_dataset: no field {missing[0]!r} among {sorted(first)}; give "
                "those of instruction and answer: --set 'sft_fields=[inputs, targets]'"
            )
        yield from chain([first], rows)
    except UserError:
        raise
    except Exception as error:  # data sets, the Hub and the network raise anything
        there = f"<data root>/hub/{name}"
        raise cannot_be_had(f"data set {name!r} of sft_dataset", error, there) from None


def _usable(
    rows: Iterable[dict[str, Any]], fields: list[str], items: Items | None, dropped: Counter[str]
) -> Iterator[Example]:
    for row in rows:
        texts = [row.get(field) for field in fields]
        if any(why_no_text(text) or not text.strip() for text in texts):  # type: ignore[union-attr]
            dropped[NO_TEXT] += 1
            continue
        prompt, answer = (nfc(str(text)).strip() for text in texts)
        if items and (task := items.held_by(prompt + BETWEEN + answer)):
            dropped[task] += 1
        else:
            yield {"prompt": prompt, "completion": BETWEEN + answer}


def _sample(examples: Iterable[Example], size: int, seed: int) -> list[Example]:
    """So many of a stream of any length, each as likely (Vitter 1985, algorithm R), in random order."""
    rng, kept = np.random.default_rng([seed, size]), list[Example]()
    for number, example in enumerate(examples):
        if number < size:
            kept.append(example)
        elif (place := int(rng.integers(number + 1))) < size:
            kept[place] = example
    return [kept[i] for i in rng.permutation(len(kept))]
