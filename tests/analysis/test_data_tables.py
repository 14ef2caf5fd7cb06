"""What a run was trained on, read from its manifests."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from support.made_run import BUDGETS, made_models, write_made_run

from lrnb.analysis import data_tables
from lrnb.data.corpus import tallied
from lrnb.report import page
from lrnb.study.stages import RunPaths


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return RunPaths(page.study_of(write_made_run(tmp_path_factory.mktemp("runs"), n=20)))


def edit(folder: Path, **facts: object) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"facts": {**content["facts"], **facts}}))


def test_text_has_a_row_a_language_with_reasons(paths: RunPaths) -> None:
    table = data_tables.text_for_ct(paths).set_index("lang")
    assert list(table.index) == ["qaa", "en"]
    x = table.loc["qaa"]
    assert (x["documents"], x["megabytes"], x["tokens"], x["passes"]) == (70, 0.09, 60_000, 3)
    assert x["left_out"].startswith("duplicate 1,500, too short 2") and table.loc["en", "left_out"] == "none"
    assert (x["tokens_per_word"], x["byte_pieces"]) == (2.5, 25)


def test_trainings_have_examples_hours_and_device(paths: RunPaths) -> None:
    table = data_tables.trainings_of(paths).set_index("stage")
    assert list(table.index) == ["base", "CT", "SFT-en", "CT-then-SFT 16k", "CT-then-SFT 65k"]
    assert table.loc["CT", "tokens"] == BUDGETS[-1]
    sft = table.loc["SFT-en"]
    assert (sft["examples"], sft["tokens"], sft["hours"], sft["device"]) == (640, 51_200, 0.5, "a test")
    assert sft["left_out"] == "too long 5, held items of topic 2"


def test_bits_have_a_row_a_model(paths: RunPaths) -> None:
    table = data_tables.bits_by_model(paths).set_index("model")
    assert table.loc["base", ["qaa", "en"]].tolist() == [2, 1]
    assert len(table) == len(made_models()) and set(table.columns) == {"method", "ct_tokens", "qaa", "en"}


def test_a_merge_worse_than_its_parents_is_marked(tmp_path: Path) -> None:
    paths = RunPaths(page.study_of(write_made_run(tmp_path / "runs", n=20)))
    file = paths.scored("merged") / "bits_per_byte.csv"
    table = pd.read_csv(file)
    broken = (table.method == "ties") & (table.ct_tokens == table.ct_tokens.max()) & (table.lang == "en")
    table.loc[broken, "bits_per_byte"] = 9.0
    table.to_csv(file, index=False)
    found = data_tables.bits_by_model(paths).set_index("model")["check"]
    assert found[found != ""].to_dict() == {table[broken].model.item(): "✕ worse than its parents in en"}


def test_what_an_earlier_version_did_not_record_is_left_open(tmp_path: Path) -> None:
    paths = RunPaths(page.study_of(write_made_run(tmp_path / "runs", n=20)))
    edit(paths.corpus, read={}, unique={}, audit={})
    row = data_tables.text_for_ct(paths).iloc[0]
    assert row[["documents", "megabytes", "passes"]].isna().all() and row["tokens"] == 60_000
    (paths.corpus / "manifest.json").unlink()
    assert data_tables.text_for_ct(paths).empty


def test_documents_and_bytes_are_counted_as_they_are_read() -> None:
    read: dict[str, dict[str, int]] = {}
    documents = tallied(["ab", "\u0995", "never read"], read, "x")
    assert [next(documents), next(documents)] == ["ab", "\u0995"]
    assert read == {"x": {"documents": 2, "bytes": 5}}
    assert list(tallied([], read, "en")) == [] and read["en"] == {"documents": 0, "bytes": 0}
