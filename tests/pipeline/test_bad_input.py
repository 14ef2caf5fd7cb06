"""Mistakes in the data, and notebooks run alone: a message with the remedy, and nothing half-made is left."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.made_run import write_made_run
from support.pico import save_pico
from support.pico_run import BUDGET, pico_study

from lrnb.data import cleaning, corpus, packing
from lrnb.errors import UserError
from lrnb.pipeline import notebooks
from lrnb.study import files, stages
from lrnb.study.parameters import ROOT
from lrnb.study.stages import RunPaths

CYRILLIC = "Монгол хэл бол монголчуудын хэл юм"


def run_alone(name: str, runs: Path | str, **values: object) -> str:
    """Run one notebook that must fail, as JupyterLab's user would; returns the message."""
    notebook, out = ROOT / "notebooks" / f"{name}.ipynb", Path(runs).parent / "executed" / "n.ipynb"
    with pytest.raises(notebooks.NotebookFailed) as caught:
        notebooks.exec_notebook(notebook, {"runs": str(runs), **values}, out)
    assert not out.exists()
    return str(caught.value)


BENGALI = {"preset": "smol", "lang": "bn", "script": "Bengali", "script_min_share": 0.5}


def corpus_root(tmp_path: Path, documents: list[object], preset: str = "smol") -> Path:
    """A data root with a Bengali corpus, beside a finished base in `runs`."""
    shared, data = tmp_path / "runs" / preset / "shared", tmp_path / "data"
    with stages.Stage(shared / "base", "base", {}) as stage:
        save_pico(stage.draft)
    (data / "eval").mkdir(parents=True)
    for lang, texts in (("bn", documents), ("en", ["the cat sees the dog"])):
        lines = [json.dumps({"text": text}, ensure_ascii="\ud83d" in str(text)) + "\n" for text in texts]
        files.write_text(data / "corpus" / f"{lang}.jsonl", "".join(lines))
    return data


def corpus_of(tmp_path: Path, documents: list[object], **values: object) -> tuple[str, Path]:
    """The message of 01_corpus on a Bengali corpus of `documents`, and the folder it writes to."""
    data = corpus_root(tmp_path, documents)
    message = run_alone("01_ct/01_corpus", tmp_path / "runs", data_root=str(data), **BENGALI, **values)
    return message, tmp_path / "runs" / "smol" / "bn" / "corpus"


def test_rows_that_are_no_text_and_items_are_dropped_and_told_in_the_table(tmp_path: Path) -> None:
    song = "আমি বাংলায় গান গাই, আমি বাংলার গান গাই, আমি আমার আমিকে চিরদিন এই বাংলায় খুঁজে পাই"
    right = [f"নদীর ধারে একটি ছোট গ্রাম {n}\u2028সেখানে {n}\x85অনেক মানুষ" for n in range(30)]
    check = "lid.176" if find_spec("fasttext") else ""  # the extra `languages`
    assamese = "অসমীয়া ভাষা উত্তৰ-পূৱ ভাৰতৰ এটা ভাষা আৰু ইয়াক বহুতো মানুহে কয়, লিখে আৰু পঢ়ে"
    right += [assamese] if check else []
    bad = [None, 7, ["a"], {"bn": "a"}, float("nan"), "\ud83d", f"{song} {song}", "in Latin"]
    data = corpus_root(tmp_path, [*right[:15], *bad, *right[15:]])
    files.write_text(data / "eval/topic/bn/test.jsonl", json.dumps({"text": song, "label": "travel"}))
    given = {"ct_budgets": [64], "seq_len": 16, "heldout_bytes": 2000, "english_ratio": 0, **BENGALI}
    given |= {"tasks": ["topic"], "tasks_en": [], "tasks_written": [], "language_check": check}
    out, runs = tmp_path / "executed" / "n.ipynb", tmp_path / "runs"
    notebooks.exec_notebook(
        ROOT / "notebooks/01_ct/01_corpus.ipynb",
        {"runs": str(runs), "data_root": str(data), **given}, out,
    )  # fmt: skip
    kinds = dict.fromkeys(("null", "number", "list", "object", "NaN", "lone surrogate", "other script"), 1)
    facts = stages.read_manifest(runs / "smol/bn/corpus")["facts"]
    kinds |= {cleaning.OTHER_LANGUAGE: 1} if check else {}
    assert (counted := facts["dropped"]["bn"]) == kinds | {"holds items of topic": 1}
    assert facts["taken_for"].get("bn", {}) == ({"bn": 31, "as": 1} if check else {})
    assert all(f"<th>{reason}</th>" in out.read_text(encoding="utf-8") for reason in counted)
    assert set(corpus.read_lines(runs / "smol/bn/corpus/heldout_x.jsonl")) <= set(right)


def test_fineweb_holds_out_its_own_split(tmp_path: Path) -> None:
    """The notebook on a folder that is laid out as FineWeb-2 on the Hub is."""
    data, web = corpus_root(tmp_path, []), tmp_path / "HuggingFaceFW" / "fineweb-2"
    for split, word in (("train", "মাছ"), ("test", "পাখি")):
        path = web / "data" / "ben_Beng" / split / "000_00000.parquet"
        path.parent.mkdir(parents=True)
        pd.DataFrame({"text": [f"নদীর ধারে একটি {word} {n}" for n in range(60)]}).to_parquet(path)
    declared = {"config_name": "ben_Beng", "data_files": [
        {"split": split, "path": f"data/ben_Beng/{split}/*"} for split in ("train", "test")]}  # fmt: skip
    files.write_text(web / "README.md", f"---\n{yaml.safe_dump({'configs': [declared]})}---\n")
    given = {"ct_budgets": [64], "seq_len": 16, "heldout_bytes": 500, "english_ratio": 0, **BENGALI}
    given |= {"corpus_source": "hub", "hub_dataset": str(web), "dedup_threshold": 1.0}
    notebooks.exec_notebook(
        ROOT / "notebooks/01_ct/01_corpus.ipynb",
        {"runs": str(tmp_path / "runs"), "data_root": str(data), "tasks": [], "tasks_en": [],
         "tasks_written": [], **given}, tmp_path / "n.ipynb",
    )  # fmt: skip
    folder = tmp_path / "runs" / "smol" / "bn" / "corpus"
    held = corpus.read_lines(folder / "heldout_x.jsonl")
    assert held
    assert all("পাখি" in text for text in held)
    assert stages.read_manifest(folder)["facts"]["counts"]["x"] >= 64


def test_the_corpora_of_preset_paper_go_through_the_same_stage(tmp_path: Path) -> None:
    """The notebook on folders laid out as IndicCorp and RedPajama are, cleaned, cut and packed together."""
    data, sets = corpus_root(tmp_path, [], "paper"), tmp_path / "sets"
    splits = {"config_name": "indiccorp_v2", "data_files": [{"split": "ben_Beng", "path": "data/bn.txt"}]}
    files.write_text(sets / "indic" / "README.md", f"---\n{yaml.safe_dump({'configs': [splits]})}---\n")
    text = "\n\n".join(f"নদীর ধারে একটি গ্রাম {n}\nসেখানে অনেক মানুষ" for n in [*range(60), 7, 8])
    files.write_text(sets / "indic" / "data" / "bn.txt", text)
    english = "".join(json.dumps({"text": f"the cat sees {n}", "meta": n}) + "\n" for n in range(60))
    files.write_text(sets / "red" / "arxiv_sample.jsonl", english)
    given = BENGALI | {"preset": "paper", "corpus_source": "hub", "dedup_threshold": 1.0, "tasks": []}
    given |= {"hub_dataset": str(sets / "indic"), "hub_config": "indiccorp_v2", "hub_split": "ben_Beng"}
    given |= {"hub_dataset_en": str(sets / "red"), "hub_files_en": "*_sample.jsonl", "data_root": str(data)}
    given |= {"ct_budgets": [256], "seq_len": 16, "heldout_bytes": 200, "tasks_en": [], "tasks_written": []}
    notebook = ROOT / "notebooks/01_ct/01_corpus.ipynb"
    notebooks.exec_notebook(notebook, {"runs": str(tmp_path / "runs"), **given}, tmp_path / "n.ipynb")
    facts = stages.read_manifest(tmp_path / "runs/paper/bn/corpus")["facts"]
    assert facts["dropped"]["bn"] == {"duplicate": 2}
    assert facts["tokens"] == 256 and 3 < facts["counts"]["x"] / facts["counts"]["en"] < 5


def test_empty_corpus_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    message, folder = corpus_of(tmp_path, [])
    assert "bn.jsonl: holds no document. Add text" in message
    assert not folder.exists()


def test_text_in_another_script_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    message, folder = corpus_of(tmp_path, [CYRILLIC, f"{CYRILLIC} 2"])
    assert "cleaning left no text (other script: 2)" in message
    assert "in the script Bengali" in message
    assert "script_min_share" in message
    assert not folder.exists()


def test_budget_above_the_corpus_leaves_no_finished_stage(tmp_path: Path) -> None:
    documents = [f"আমি বাংলায় গান গাই {n}" for n in range(99)]
    message, folder = corpus_of(tmp_path, documents, heldout_bytes=100, ct_budgets=[10**6], english_ratio=0)
    assert "ct_budgets asks for 1,000,448 tokens, the cleaned corpus has" in message
    assert "ct_budgets=[" in message
    assert not folder.exists()
    with pytest.raises(UserError, match="corpus is missing. Run notebooks/01_ct/01_corpus"):
        stages.require(folder)


def test_corpus_that_is_all_held_out_gets_a_remedy_that_helps() -> None:
    with pytest.raises(UserError, match=r"has 0\. Keep less out of training \(heldout_bytes\), or add text"):
        packing.check_budget(0, 1000, 1)


def test_cleaning_that_leaves_one_text_is_no_mistake() -> None:
    from collections import Counter

    dropped: Counter[str] = Counter()
    assert list(cleaning.clean([CYRILLIC, "", "in Latin"], "Cyrillic", 0.5, 1, dropped)) == [CYRILLIC]
    assert list(cleaning.clean([], "Cyrillic", 0.5, 1, Counter())) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("01_ct/01_corpus", "base is missing. Run notebooks/01_ct/00_base.ipynb first"),
        ("02_merge/04_evaluate", "base is missing. Run notebooks/01_ct/00_base.ipynb first"),
        ("03_analysis/01_scores", "parents is missing. Run notebooks/02_merge/04_evaluate.ipynb first"),
        ("03_analysis/02_discarded", "base is missing. Run notebooks/01_ct/00_base.ipynb first"),
        ("03_analysis/05_failures", "scores is missing. Run notebooks/03_analysis/01_scores.ipynb first"),
    ],
)
def test_notebook_run_alone_names_the_one_to_run_first(tmp_path: Path, name: str, message: str) -> None:
    text = run_alone(name, tmp_path / "runs")
    assert message in text
    assert "lrnb run params/qaa.yaml" in text
    assert "Traceback" not in text
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "stage", "source"),
    [("01_scores", "scored/merged", "ct"), ("05_failures", "scores", "conflicts")],
)
def test_a_notebook_names_an_input_that_changed_since(
    tmp_path: Path, name: str, stage: str, source: str
) -> None:
    home = write_made_run(tmp_path / "runs", n=12)
    manifest = home / stage / files.MANIFEST
    inputs = {"../" * len(Path(stage).parts) + source: "of then"}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"inputs": inputs}))
    message = run_alone(f"03_analysis/{name}", tmp_path / "runs")
    assert f"{home}/{stage} was made from {home}/{source}, which has changed since. Run notebooks/" in message
    assert "Traceback" not in message


@pytest.mark.slow
def test_a_what_if_that_fails_leaves_the_good_run(tmp_path: Path) -> None:
    """TIES at one budget; then also at one that CT never reached."""
    folder = RunPaths(pico_study(tmp_path / "runs")).merge("ties")
    given = {"densities": [0.5], "lams": [1.0], "tasks": ["world_topic"], "runs": str(tmp_path / "runs")}
    notebook = ROOT / "notebooks" / "02_merge" / "02_ties.ipynb"
    notebooks.exec_notebook(notebook, given | {"ct_budgets": [BUDGET]}, tmp_path / "executed" / "ties.ipynb")
    before = stages.read_manifest(folder)
    message = run_alone("02_merge/02_ties", **given | {"ct_budgets": [BUDGET, 9000]})
    assert "9k is missing. Run notebooks/01_ct/02_ct.ipynb with 9000 among its ct_budgets first" in message
    assert stages.read_manifest(folder) == before
    assert before["outputs"] == files.hashes(folder)


@pytest.mark.slow
def test_a_base_that_cannot_be_made_leaves_the_good_run(tmp_path: Path) -> None:
    """A shape that is refused changes no file."""
    given = {"base_width": 16, "base_layers": 1, "base_tokens": 1024, "world_tokens": 1000}
    given["runs"] = str(tmp_path / "runs")
    notebook, shared = ROOT / "notebooks" / "01_ct" / "00_base.ipynb", tmp_path / "runs" / "nano" / "shared"
    notebooks.exec_notebook(notebook, given, tmp_path / "executed" / "base.ipynb")
    before = {name: (shared / name / files.MANIFEST).read_bytes() for name in ("world", "base")}
    assert "base_heads 5" in run_alone("01_ct/00_base", **given, base_heads=5)
    assert before == {name: (shared / name / files.MANIFEST).read_bytes() for name in before}
