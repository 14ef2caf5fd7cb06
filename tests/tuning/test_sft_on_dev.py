"""SFT chosen on dev: which candidates, on which items, the best kept, and the same bytes after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.pico_run import pico_study

from lrnb.errors import UserError
from lrnb.study.files import hashes, write_text
from lrnb.study.parameters import Study
from lrnb.study.stages import RunPaths, Stage, read_manifest
from lrnb.tuning import on_dev, sft_on_dev
from lrnb.tuning.on_dev import Dev
from lrnb.tuning.search import SftCandidate, sft_candidates

SCORES = [30.0, 50.0, 40.0, 50.0]  # of the candidates in turn: 1, 1/2, 1/4 of the rate, then twice the epochs


class Killed(BaseException):
    """As a process that ends in the middle."""


class Trainer:
    """A training that writes its candidate, and dev scores in turn; it dies at the step `dies`."""

    def __init__(self, dies: str = "") -> None:
        self.dies, self.trained, self.most = dies, 0, 0

    def train(self, candidate: SftCandidate, folder: Path) -> dict[str, Any]:
        self._step(f"train {folder.name}")
        write_text(folder / "model.safetensors", json.dumps(candidate))
        write_text(folder / "config.json", "{}")
        self.trained += 1
        self.most = max(self.most, len(list(folder.parent.glob("candidate-*/model.safetensors"))))
        return {"loss": 0.1 + 0.2, "steps": 7}

    def score(self, folder: Path) -> Dev:
        self._step(f"score {folder.name}")
        place = int(folder.name[-1])
        return Dev(SCORES[place], 100, 25.0, ("a", "b"), 1 / 3)

    def _step(self, name: str) -> None:
        if name == self.dies:
            raise Killed


def choose(runs: Path, trainer: Trainer, seen: str = "an item", **given: Any) -> pd.DataFrame:
    study = Study(runs=str(runs), tuning_trials=4, **given)
    write_text(runs / "base", "the base")
    params = {"sft_lr": study.sft_lr, "runs": str(runs)}
    with Stage(runs / "sft", "sft", params, [runs / "base"], resumes=True) as stage:
        return sft_on_dev.choose_sft(study, stage, trainer.train, trainer.score, [seen])


def test_candidates_are_rates_then_epochs_with_the_default_first() -> None:
    found = sft_candidates(Study(sft_lr=0.4, sft_min_lr=0.2, sft_epochs=2))
    assert found == [
        *((0.4, 0.2, 2), (0.2, 0.1, 2), (0.1, 0.05, 2)),
        *((0.4, 0.2, 4), (0.2, 0.1, 4), (0.1, 0.05, 4)),
    ]
    assert sft_candidates(Study(sft_lr=0.4, tuning_trials=2)) == [(0.4, 0, 1), (0.2, 0, 1)]


def test_the_best_on_dev_is_kept_and_all_are_in_the_table(tmp_path: Path) -> None:
    trainer = Trainer()
    table = choose(tmp_path, trainer, sft_lr=0.4)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "sft" / "choices.csv"), table)
    assert table["lr"].tolist() == [0.4, 0.2, 0.1, 0.4]
    assert table["epochs"].tolist() == [1, 1, 1, 2]
    assert table["dev_score"].tolist() == SCORES
    assert table["default"].tolist() == [True, False, False, False]
    assert table["chosen"].tolist() == [False, True, False, False]  # of two equals the one nearer the middle
    assert table["tied"].eq(2).all()
    assert set(table["dev_tasks"]) == {"a b"}
    kept = json.loads((tmp_path / "sft" / "model.safetensors").read_text())
    assert kept == [0.2, 0, 1]
    facts = read_manifest(tmp_path / "sft")["facts"]
    assert facts == {"loss": 0.1 + 0.2, "steps": 7, "lr": 0.2, "min_lr": 0, "epochs": 1, "tried": 4}
    assert trainer.most == 2  # the best so far, and the one in training
    assert sorted(path.name for path in (tmp_path / "sft").iterdir()) == [
        *("choices.csv", "config.json", "manifest.json", "model.safetensors")
    ]


@pytest.mark.parametrize("dies", ["train candidate-0", "score candidate-1", "train candidate-2", "move"])
def test_a_kill_at_any_moment_ends_in_the_same_bytes(
    tmp_path: Path, dies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(tmp_path / "whole", Trainer())
    if dies == "move":  # in the middle of it
        real: Callable = sft_on_dev.os.replace

        def half(source: Path, target: Path) -> None:
            real(source, target)
            if Path(source).parent.name.startswith("candidate") and Path(target).parent.name == ".sft.draft":
                raise Killed

        monkeypatch.setattr(sft_on_dev.os, "replace", half)
    with pytest.raises(Killed):
        choose(tmp_path / "broken", Trainer(dies))
    monkeypatch.undo()
    again = Trainer()
    choose(tmp_path / "broken", again)
    assert hashes(tmp_path / "broken" / "sft") == hashes(tmp_path / "whole" / "sft")
    assert read_manifest(tmp_path / "broken/sft")["facts"] == read_manifest(tmp_path / "whole/sft")["facts"]
    left = {"train candidate-0": 4, "score candidate-1": 3, "train candidate-2": 2, "move": 0}
    assert again.trained == left[dies]


def test_what_was_begun_with_other_parameters_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        choose(tmp_path, Trainer("train candidate-2"), sft_lr=0.1)
    with pytest.raises(Killed):
        choose(tmp_path, again := Trainer("train candidate-2"), sft_lr=0.2)
    assert again.trained == 2
    choose(tmp_path, last := Trainer(), seen="another item", sft_lr=0.2)
    assert last.trained == 4


def test_a_single_candidate_is_not_scored(tmp_path: Path) -> None:
    trainer = Trainer("score candidate-0")
    study = Study(runs=str(tmp_path), tuning_trials=1)
    with Stage(tmp_path / "sft", "sft", {}, resumes=True) as stage:
        table = sft_on_dev.choose_sft(study, stage, trainer.train, sft_on_dev.SftDevScorer(study))
    assert table[["chosen", "default"]].all(axis=None)
    assert table["dev_score"].isna().all()


# on which items


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = pico_study(tmp_path_factory.mktemp("sft") / "runs")
    return found.model_copy(update={"sft_mix": {"world_sums": 4}, "dev_limit": 4})


def test_sft_en_is_chosen_in_english_and_ct_then_sft_where_merges_are(study: Study) -> None:
    paths = RunPaths(study)
    scorer = sft_on_dev.SftDevScorer(study)
    assert len(scorer.items) == 4 and all(item["prompt"] for item in scorer.items)
    english = scorer(paths.sft)
    assert (english.tasks, english.n) == (("world_sums_en",), 4)
    on_ct = study.model_copy(update={"sft_parent": "ct/2k"})
    in_x = sft_on_dev.SftDevScorer(on_ct)(paths.sft)
    assert (in_x.tasks, in_x.n) == (tuple(study.tasks), 8)
    from lrnb.scoring.open_model import read_weights

    assert on_dev.dev_scorer(study)(read_weights(paths.sft)) == in_x  # as if it were a merge


def test_no_dev_items_in_english_are_named_with_what_to_do(study: Study) -> None:
    given = study.model_copy(update={"sft_mix": {"response_selection": 10}})
    message = r"none of \['response_selection'\].* in English.*eval/response_selection/en/dev.jsonl.*trials=1"
    with pytest.raises(UserError, match=message):
        sft_on_dev.SftDevScorer(given)
    assert sft_on_dev.SftDevScorer(given.model_copy(update={"tuning_trials": 1})).items == []


@pytest.mark.slow
def test_a_real_training_goes_on_after_a_kill_to_the_same_bytes(pico_llama: Path, tmp_path: Path) -> None:
    from lrnb.training import finetuning, pretraining

    examples = [{"prompt": f"the cat sees {i}", "completion": " the dog"} for i in range(8)]

    def run(runs: Path, dies: str = "") -> dict[str, str]:
        chosen = Trainer(dies)

        def train(candidate: SftCandidate, folder: Path) -> dict[str, Any]:
            chosen._step(f"train {folder.name}")
            recipe = pretraining.TrainingRecipe(candidate.lr, 4, "cosine", device="cpu")
            how = {"recipe": recipe, "epochs": candidate.epochs, "prompt_weight": 0.1, "max_len": 64}
            return finetuning.fine_tune(pico_llama, examples, folder, **how)

        study = Study(runs=str(runs), tuning_trials=3, sft_lr=0.01)
        with Stage(runs / "sft", "sft", {}, resumes=True) as stage:
            sft_on_dev.choose_sft(study, stage, train, chosen.score, examples)
        return hashes(runs / "sft")

    with pytest.raises(Killed):
        run(tmp_path / "broken", "train candidate-1")
    assert run(tmp_path / "broken") == run(tmp_path / "whole")
    assert {"model.safetensors", "tokenizer.json", "choices.csv"} <= set(hashes(tmp_path / "whole" / "sft"))
