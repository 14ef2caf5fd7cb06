"""What is not there is refused by a dry run as by a run, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrnb.errors import UserError
from lrnb.pipeline import estimate, runner
from lrnb.study.files import write_text
from lrnb.study.parameters import ROOT, load_study


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        (
            "smol",
            {"base_source": "gguf:gemm3"},
            "base_source gguf:gemm3: no base 'gemm3'; known are .*did you",
        ),
        (
            "smol",
            {"base_source": "/nowhere/model"},
            "base_source '/nowhere/model': no such folder. Give a folder",
        ),
        ("smol", {"base_source": ""}, "base_source is empty: give scratch"),
        (
            "nano",
            {"sft_mix": {"world_sums": 100_000}},
            "sft_mix asks for 100,000 rows of 'world_sums', .* 1,600",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_anything(
    tmp_path: Path, preset: str, given: dict, message: str
) -> None:
    lang = "qaa" if preset == "nano" else "bn"
    for start in (lambda study: estimate.describe(study, {}, []), runner.run_study):
        with pytest.raises(UserError, match=message):
            start(load_study(ROOT / "params" / f"{lang}.yaml", preset, given | {"runs": str(tmp_path)}))
    assert not list(tmp_path.iterdir())


def test_no_dev_items_to_choose_sft_on_are_refused_before_anything(tmp_path: Path) -> None:
    for name in ("eval/topic/bn/dev.jsonl", "eval/topic/en/train.jsonl"):
        write_text(tmp_path / "data" / name, "")
    given = {"data_root": str(tmp_path / "data"), "runs": str(tmp_path / "runs"), "sft_mix": {"math": 3}}
    study = load_study(ROOT / "params" / "bn.yaml", "smol", given)
    with pytest.raises(UserError, match=r"none of \['math'\].*English.*or --set tuning_trials=1"):
        estimate.describe(study, {}, [])
    assert estimate.describe(study.model_copy(update={"tuning_trials": 1}), {}, [])
    write_text(tmp_path / "data" / "eval/math/en/dev.jsonl", "")
    assert estimate.describe(study, {}, [])
