"""The corpus stage: one for every preset, the same files for every number of threads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.pico import WORDS, save_pico

from lrnb.data.packing import ROWS_A_BATCH
from lrnb.pipeline import notebooks, steps
from lrnb.study import files, stages
from lrnb.study.parameters import PRESETS, ROOT, SYNTHETIC, load_study

STAGE = "01_ct/01_corpus"  # of smol and paper run in test_bad_input.py, of nano in every small study


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_that_trains_has_this_corpus_stage(preset: str, tmp_path: Path) -> None:
    lang = SYNTHETIC[0] if preset == "nano" else "bn"
    study = load_study(ROOT / "params" / f"{lang}.yaml", preset, {"data_root": str(tmp_path)})
    made = {name for name, step in steps.plan(study).items() if step.notebook == STAGE}
    assert made == ({"corpus"} if study.trains else set())
    ct = steps.plan(study)["ct"]
    assert ("corpus" in ct.needs) == study.trains == (not preset.startswith("released"))


def made_data(tmp_path: Path) -> Path:
    """Text in two languages, some of it twice, beside a finished base in `runs`."""
    with stages.Stage(tmp_path / "runs" / "smol" / "shared" / "base", "base", {}) as stage:
        save_pico(stage.draft)
    draw = np.random.default_rng(0)
    for lang in ("bn", "en"):
        own = [" ".join(draw.choice(WORDS, 30)) for _ in range(1500)]
        rows = [json.dumps({"text": text}) + "\n" for text in [*own, *own[::5], "", " \u2028"]]
        files.write_text(tmp_path / "data" / "corpus" / f"{lang}.jsonl", "".join(rows))
    (tmp_path / "data" / "eval").mkdir()
    return tmp_path / "data"


def test_threads_make_the_same_files(tmp_path: Path) -> None:
    data, found = made_data(tmp_path), []
    given = {"preset": "smol", "lang": "bn", "script": "Latin", "script_min_share": 0.5}
    given |= {"seq_len": 16, "ct_batch": 2, "ct_budgets": [16 * 2100], "heldout_bytes": 5000}
    given |= {"runs": str(tmp_path / "runs"), "data_root": str(data)}
    given |= {"tasks": [], "tasks_en": [], "tasks_written": []}
    folder = tmp_path / "runs" / "smol" / "bn" / "corpus"
    for threads in ("1", "3"):
        env = {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        notebooks.exec_notebook(ROOT / "notebooks" / f"{STAGE}.ipynb", given, tmp_path / "n.ipynb", env)
        manifest = stages.read_manifest(folder)
        assert manifest["facts"]["dropped"]["bn"]["duplicate"] > 0
        assert f"CPU, {threads} thread" in manifest["device"]
        found.append(manifest["outputs"])
        with pa.ipc.open_stream(folder / "packed.arrow") as batches:
            assert [batch.num_rows for batch in batches] == [ROWS_A_BATCH] * 2 + [2100 % ROWS_A_BATCH]
    assert found[0] == found[1] and {*found[0]} == {"packed.arrow", "heldout_x.jsonl", "heldout_en.jsonl"}
