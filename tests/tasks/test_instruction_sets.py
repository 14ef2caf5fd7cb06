"""FLAN as a source of SFT rows: the layouts of its releases in folders, opened by the code for the Hub."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import datasets
import pandas as pd
import pytest

from lrnb.data.contamination import Items
from lrnb.errors import UserError
from lrnb.pipeline import checkup, estimate, notebooks, preflight, supplies
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.tasks.instruction_sets import instruction_examples, refuse_missing_set
from lrnb.tasks.sft_rows import study_examples

ORCA = {"sft_dataset": "Open-Orca/FLAN", "sft_files": "flan_zsopt_data/*.parquet"}
ITEM = (
    "The committee decided on Thursday that the old harbour would be rebuilt before the winter storms came."
)


def paper(**values: object) -> Study:
    return load_study(ROOT / "params" / "bn.yaml", "paper", {"sft_rows": 6} | values)


def row(task: str, number: int) -> dict[str, object]:
    return {
        "inputs": f"{task}, cafe\u0301 {number}?\n\nOPTIONS:\n- yes\n- no ",
        "targets": "yes\n",
        "task": task,
    }


def muennighoff(root: Path, rows: dict[str, list[dict]]) -> Path:
    """A file of JSON lines a task, in a folder a split."""
    for split, kept in (("train", rows), ("validation", {"piqa_10templates": [row("other split", 0)]})):
        folder = root / "hub" / "Muennighoff" / "flan" / split
        folder.mkdir(parents=True)
        for task, own in kept.items():
            lines = "".join(json.dumps(one) + "\n" for one in own)
            (folder / f"{task}_{split}.jsonl").write_text(lines)
    return root


def orca(root: Path, rows: list[dict]) -> Path:
    """Parquet files, in a folder a mixture; other mixtures beside it, and the same as JSON."""
    place = root / "hub" / "Open-Orca" / "FLAN"
    more = {"_template_idx": 1, "_task_source": "Flan2021", "_template_type": "zs_opt"}
    for folder, own in (("flan_zsopt_data", rows), ("cot_fsopt_data", [row("other mixture", 0)])):
        (place / folder).mkdir(parents=True)
        for part, one in enumerate(own):
            named = {"_task_name": one["task"], **{k: one[k] for k in ("inputs", "targets")}, **more}
            pd.DataFrame([named]).to_parquet(place / folder / f"part.{part}.parquet")
    return root


def test_the_preset_names_flan_and_stops_where_the_paper_did(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    study = load_study(ROOT / "params" / "bn.yaml", "paper", {"data_root": str(tmp_path)})
    rows = study.sft_rows + sum(study.sft_mix.values())
    assert (study.sft_dataset, rows) == ("Muennighoff/flan", 884 * study.sft_batch)
    assert study.sft_horizon == 2048 and notebooks.needs_hub(study)
    assert estimate._examples(study) == rows * 256
    assert "112,451 rows of Muennighoff/flan" in estimate._sources(study).values()
    assert checkup.sft_table(study)[-1]["from"] == "Muennighoff/flan"


@pytest.mark.parametrize("given", [{}, ORCA])
def test_both_releases_are_read_in_their_layouts(tmp_path: Path, given: dict[str, object]) -> None:
    rows = [row(task, n) for task in ("copa", "piqa") for n in range(3)]
    root = orca(tmp_path, rows) if given else muennighoff(
        tmp_path, {task: [one for one in rows if one["task"] == task] for task in ("copa", "piqa")}
    )  # fmt: skip
    refuse_missing_set(paper(**given), root)
    found = study_examples(paper(sft_mix={}, **given), root)["instructions"]
    assert study_examples(paper(sft_mix={}, sft_x={"own": str(tmp_path)}, sft_x_name="own"), root) == {}
    assert {tuple(one.items()) for one in found} == {
        (("prompt", f"{task}, caf\u00e9 {n}?\n\nOPTIONS:\n- yes\n- no"), ("completion", "\nyes"))
        for task in ("copa", "piqa")
        for n in range(3)
    }


def test_every_row_of_every_file_is_as_likely_and_the_seed_decides(tmp_path: Path) -> None:
    root = muennighoff(
        tmp_path, {task: [row(task, n) for n in range(50)] for task in ("copa", "piqa", "rte")}
    )
    drawn = [instruction_examples(paper(seed=seed, sft_rows=30), root) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({one["prompt"] for one in drawn[0]}) == 30
    tasks = Counter(one["prompt"].split(",")[0] for seed in range(20) for one in _draw(root, seed))
    assert all(150 < n < 250 for n in tasks.values()) and tasks.total() == 600


def _draw(root: Path, seed: int) -> list[dict[str, str]]:
    return instruction_examples(paper(seed=seed, sft_rows=30), root)


def test_rows_with_items_or_without_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    bad = [
        {**row("rte", 9), "targets": None},
        {**row("rte", 9), "inputs": "  "},
        {**row("rte", 9), "inputs": ITEM},
    ]
    root, dropped = muennighoff(tmp_path, {"rte": [*bad, row("rte", 0), row("rte", 1)]}), Counter[str]()
    found = instruction_examples(paper(sft_rows=2), root, Items({"topic": [ITEM]}), dropped)
    assert dropped == {"no text": 2, "topic": 1} and len(found) == 2
    with pytest.raises(
        UserError, match=r"sft_rows asks for 3 rows of 'Muennighoff/flan', 2 of it can be used"
    ):
        instruction_examples(paper(sft_rows=3), root, Items({"topic": [ITEM]}))


def test_what_is_wrong_with_a_set_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"sft_dataset 'x/y' and sft_rows 0 go together"):
        paper(sft_dataset="x/y", sft_rows=0)
    muennighoff(tmp_path, {"rte": [{"prompt": "a", "answer": "b"}]})
    (tmp_path / "eval").mkdir()
    study = paper(data_root=str(tmp_path))
    told = r"'Muennighoff/flan' of sft_dataset: no field 'inputs' among \['answer', 'prompt'\].*sft_fields="
    with pytest.raises(UserError, match=told):
        instruction_examples(study, tmp_path)
    assert any("no field 'inputs'" in one for one in preflight.faults(study, hub=False))
    assert len(instruction_examples(paper(sft_fields=["prompt", "answer"], sft_rows=1), tmp_path)) == 1
    asked = []

    def away(kind: str, name: str = "", data_files: str = "", **_: object) -> object:
        asked.append(data_files)
        raise ConnectionError("cannot reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", away)
    message = (
        r"data set 'Open-Orca/FLAN' of sft_dataset cannot be had \(ConnectionError: cannot reach the Hub; "
    )
    with pytest.raises(
        UserError, match=message + r".*put the data set's files into <data root>/hub/Open-Orca/FLAN"
    ):
        instruction_examples(paper(**ORCA), tmp_path)
    assert asked == ["hf://datasets/Open-Orca/FLAN/flan_zsopt_data/*.parquet"]
    checks = [check.func for check in supplies.row_checks(paper(data_root=str(tmp_path), **ORCA), hub=True)]
    assert refuse_missing_set in checks
