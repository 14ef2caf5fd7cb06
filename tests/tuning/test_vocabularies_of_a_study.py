"""Where merges of differing vocabularies are scored, and what says that it cannot hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.vocabularies import SHARED, save_with_tokens, with_rows

from lrnb.errors import UserError
from lrnb.study.files import MANIFEST, hashes
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths
from lrnb.tuning.live_merge import playground_vectors
from lrnb.tuning.on_dev import merged_like

BUDGET = 1024
NEW = ["bn0", "bn1"]


def run_with(runs: Path, ct: list[str], sft: list[str], vocabulary: str = "owner") -> RunPaths:
    """Base, CT and SFT of a study with these tokens beside those of the base."""
    study = Study(runs=str(runs), ct_budgets=[BUDGET], vocabulary=vocabulary)
    paths = RunPaths(study)
    for i, (folder, more) in enumerate(((paths.base, []), (paths.ct(BUDGET), ct), (paths.sft, sft))):
        save_with_tokens(folder, with_rows(len(SHARED) + len(more), i), [*SHARED, *more])
    for folder in (paths.base, paths.sft, paths.ct(), paths.ct(BUDGET)):
        (folder / MANIFEST).write_text(json.dumps({"outputs": hashes(folder)}))
    return paths


@pytest.mark.parametrize(
    ("ct", "sft", "vocabulary", "home"),
    [
        ([], [], "owner", "base"),
        (NEW, [], "owner", "ct"),
        (NEW, [], "base", "base"),
        ([], NEW, "body=sft", "sft"),
    ],
)
def test_merges_are_scored_in_the_model_whose_vocabulary_they_have(
    tmp_path: Path, ct: list[str], sft: list[str], vocabulary: str, home: str
) -> None:
    paths = run_with(tmp_path, ct, sft, vocabulary)
    assert merged_like(paths.study) == {"base": paths.base, "ct": paths.ct(BUDGET), "sft": paths.sft}[home]


def test_what_no_model_of_the_study_can_hold_is_refused(tmp_path: Path) -> None:
    paths = run_with(tmp_path, NEW, ["chat"])
    with pytest.raises(UserError, match="merges have more than any model of the study.*Give vocabulary=base"):
        merged_like(paths.study)
    folders = {"base": paths.base, "ct": paths.ct(BUDGET), "sft": paths.sft}
    with pytest.raises(
        UserError, match="playground: .* different vocabularies.*lrnb merge --vocabulary owner"
    ):
        playground_vectors(folders, "cpu", 1)
