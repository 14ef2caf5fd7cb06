"""Presets released and smol from the command line to the report: pico models, given weights, real text."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from support.bpe import bpe_spec, save_bpe

from lrnb.checkpoints.reading import open_checkpoint
from lrnb.cli import main
from lrnb.data import fineweb
from lrnb.data.character_kinds import script_share
from lrnb.errors import UserError
from lrnb.pipeline import estimate, notebooks
from lrnb.pipeline import steps as plan
from lrnb.pipeline.new_language import NewLanguage, params_text
from lrnb.study import files, stages
from lrnb.study.parameters import GIVEN_WEIGHTS, ROOT, Study, budget_name, load_study

BN = ROOT / "params" / "bn.yaml"
TOPICS = {"sports": "খেলা", "health": "ডাক্তার", "travel": "ভ্রমণ", "politics": "নির্বাচন"}
COLUMNS = "preset lang model method ct_tokens task family metric value ci_low ci_high n chance shots seed"
COLUMNS += " cut label majority above clear collapsed mark"
FEW = {"alphas": [0.5], "lams": [1.0], "densities": [0.5], "slacks": [0.3]}
ITEMS = {"tasks": ["topic"], "tasks_en": ["topic"], "tasks_written": [], "dev_limit": 6, "test_limit": 12}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def lrnb_run(preset: str, values: dict[str, Any]) -> str:
    """What `lrnb run params/bn.yaml` prints, with these values, as a process of its own."""
    command = [sys.executable, "-m", "lrnb", "run", "params/bn.yaml", "--preset", preset]
    command += [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pico_base(folder: Path, texts: list[str], size: int) -> Path:
    """A random two-layer Llama whose tokenizer learnt on `texts` and falls back to bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    spec = bpe_spec(texts, size)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(spec["model"]["vocab"]), tie_word_embeddings=True, **shape)
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return save_bpe(folder, spec, LlamaForCausalLM(config), **roles)


# preset released


def perturbed(base: Path, folder: Path, seed: int, size: float) -> Path:
    """A copy of `base` with noise on every weight, as training would leave."""
    import shutil

    from safetensors.numpy import load_file, save_file

    shutil.copytree(base, folder)
    rng, weights = np.random.default_rng(seed), load_file(base / "model.safetensors")
    moved = {k: (w + size * rng.normal(size=w.shape)).astype(w.dtype) for k, w in weights.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tiny_data(root: Path) -> Path:
    """Topic items in Bengali and English; text only for the few words that the base is asked to go on."""
    for lang, words in (("bn", TOPICS), ("en", dict(zip(TOPICS, TOPICS, strict=True)))):
        rows = [{"text": f"{word} {n}", "label": label} for n in range(4) for label, word in words.items()]
        for split in ("train", "dev", "test"):
            write_rows(root / "eval" / "topic" / lang / f"{split}.jsonl", rows)
    for lang, text in (("bn", "আমি বাংলায় গান গাই"), ("mn", "Монгол хэл"), ("en", "the red house")):
        write_rows(root / "corpus" / f"{lang}.jsonl", [{"text": text}])
    return root


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[stages.RunPaths, str]:
    """A finished study of preset released, and what it printed."""
    home = tmp_path_factory.mktemp("released")
    base = pico_base(home / "base", list(TOPICS.values()), 60)
    values = {
        "base_source": str(base),
        "released_ct": str(perturbed(base, home / "their ct", 1, 0.02)),
        "released_sft": str(perturbed(base, home / "their sft", 2, 0.01)),
        "data_root": str(tiny_data(home / "data")),
        "runs": str(home / "runs"),
        "ct_budgets": [10_000_000_000],
        "extra_models": {"mine": str(perturbed(base, home / "a merge of mine", 3, 0.01))},
        **FEW,
        **ITEMS,
    }
    text = lrnb_run("released", values)
    return stages.RunPaths(load_study(BN, "released", values)), text


@pytest.mark.slow  # a whole run, nothing of it trained
def test_released_trains_nothing_and_takes_the_given_weights(released: tuple) -> None:
    paths, text = released
    assert not paths.corpus.exists()
    assert not paths.ct_then_sft().exists()
    given = Path(paths.study.released_ct) / "model.safetensors"
    assert (paths.ct(10**10) / "model.safetensors").read_bytes() == given.read_bytes()
    for folder, source in ((paths.ct(), paths.study.released_ct), (paths.sft, paths.study.released_sft)):
        assert stages.read_manifest(folder)["facts"]["source"] == source
    assert "report.html" in text
    assert "TIES-SV" in text or "ties_sv" in text


@pytest.mark.slow  # a whole run, nothing of it trained
def test_released_scores_have_every_model_but_ct_then_sft(released: tuple) -> None:
    paths, _ = released
    scores = pd.read_csv(paths.scores / "scores.csv")
    assert list(scores.columns) == COLUMNS.split()
    models = {"base", "sft", "ct@10B", "mine", *(f"{method}@10B" for method in Study().methods)}
    assert {(r.model, r.task) for r in scores.itertuples()} == {
        (model, task) for model in models for task in ("topic", "topic_en")
    }
    assert set(scores["n"]) == {12}
    assert scores["value"].between(0, 100).all()


@pytest.mark.slow  # a whole run, nothing of it trained
def test_released_merges_are_compared_with_sft_and_base_on_the_same_items(released: tuple) -> None:
    paths, _ = released
    items = pd.read_parquet(paths.scores / "items.parquet")
    right = items.groupby(["model", "task"])["correct"].mean()
    table = pd.read_csv(paths.scores / "differences.csv")
    assert set(table["baseline"]) == {"sft", "base", "ties"}
    assert set(table["method"]) == {*Study().methods, "mine"}
    assert "mine" in (paths.lang / "report.html").read_text(encoding="utf-8")
    assert stages.read_manifest(paths.scored("merged"))["facts"]["extra_models"].keys() == {"mine"}
    for row in table[table["baseline"] != "ties"].itertuples():
        model = row.method if row.method == "mine" else f"{row.method}@10B"
        own = right[model, row.task] - right[row.baseline, row.task]
        assert row.difference == pytest.approx(100 * own)
        assert row.ct_tokens == 10**10


@pytest.mark.slow  # a whole run, nothing of it trained
def test_released_conflicts_are_counted_and_the_report_says_what_is_missing(released: tuple) -> None:
    paths, _ = released
    shares = pd.read_csv(paths.conflicts / "shares.csv")
    whole = shares[(shares["tensor"] == "(model)") & (shares["setting"] == "fixed")].iloc[0]
    assert whole["ct_l2"] == pytest.approx(2 * whole["sft_l2"], rel=0.05)  # as the weights were made
    assert 0 < whole["sft_discarded"] < whole["sft_kept"]
    page = (paths.lang / "report.html").read_text(encoding="utf-8")
    assert "no\nCT-then-SFT baseline here" in page
    assert "compared with SFT-en and with the base" in page
    assert "Merging beats SFT-en and the base" in page
    assert "No CT was trained in this run" in page


def test_released_weights_are_read_by_preset_released_only() -> None:
    for preset in ("smol", "paper", "released"):
        study = load_study(BN, preset)
        steps = plan.plan(study)
        found = [plan.step_params(steps[name], study) for name in ("ct", "sft")]
        wanted = [study.released_ct, study.released_sft] if preset == "released" else ["", ""]
        assert [found[0]["released_ct"], found[1]["released_sft"]] == wanted
        assert study.released_ct  # bn.yaml names them for every preset


def test_released_weights_are_fetched_where_the_preset_needs_them(tmp_path: Path) -> None:
    study = Study(lang="bn", preset="released", base_source=str(tmp_path), released_ct="them/ct")
    assert notebooks.needs_hub(study)
    assert not notebooks.needs_hub(
        study.model_copy(update={"released_ct": "", "released_sft": str(tmp_path)})
    )
    assert not notebooks.needs_hub(study.model_copy(update={"preset": "smol"}))


def test_released_weights_that_cannot_be_loaded_are_named(tmp_path: Path) -> None:
    from lrnb.training.base import real_base

    with pytest.raises(UserError, match=r"released_ct '.*none' cannot be loaded"):
        real_base(str(tmp_path / "none"), tmp_path / "out", prune=False, key="released_ct")
    assert not list(tmp_path.iterdir())


def test_the_next_check_s_languages_are_what_lrnb_new_makes_and_have_four_budgets() -> None:
    for lang in ("kk", "km"):
        study = load_study(ROOT / "params" / f"{lang}.yaml", "paper")
        made = NewLanguage(lang, study.lang_name, study.script, Path("data"), from_hub=True)
        new = yaml.safe_load(params_text(made, shared=True))
        assert new.pop("data_root") == "data"
        own = yaml.safe_load((ROOT / "params" / f"{lang}.yaml").read_text(encoding="utf-8"))
        later = {preset: {} for preset in ("paper", *GIVEN_WEIGHTS)}
        assert own | later == new | later
        assert [budget_name(b) for b in study.ct_budgets] == ["1B", "5B", "10B", "20B"]
        assert fineweb.hub_text(study).config == {"kk": "kaz_Cyrl", "km": "khm_Khmr"}[lang]


@pytest.mark.parametrize(
    ("preset", "size"), [("released-qwen", 1_543_714_304), ("released-qwen-3b", 3_085_938_688)]
)
def test_the_dry_run_of_qwen_has_its_size(
    preset: str, size: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ["--preset", preset, "--dry-run", "--set", f"runs={tmp_path}", "--set", f"data_root={tmp_path}"]
    (tmp_path / "eval").mkdir()
    main.main(["run", str(ROOT / "params" / "bo.yaml"), *given])
    text = " ".join(capsys.readouterr().out.split())
    assert f"parameters: {size / 1e6:,.1f} million" in text
    assert f"Qwen2.5-{'3B' if '3b' in preset else '1.5B'}-bo-cpt" in text and "Instruct" in text
    study = load_study(ROOT / "params" / "bo.yaml", preset)
    assert not study.trains and not {"corpus", "cts_1B"} & set(plan.plan(study))
    models = 3 + len(study.methods)  # base, CT, SFT and a merge a method, once
    assert estimate.disk_bytes(study, plan.plan(study).values()) == 4 * size * models + 50_000_000


@pytest.mark.parametrize(
    ("lang", "preset"),
    [
        ("or", "paper"),
        *itertools.product(["ta", "te", "bn", "bo", "ug", "mn"], ["released", "paper"]),
        *itertools.product(["bo", "ug", "kk", "mn"], ["released-qwen", "released-qwen-3b"]),
    ],
)
def test_the_paper_s_presets_score_what_the_hub_has_in_the_text_s_script(lang: str, preset: str) -> None:
    from lrnb.tasks import hub, loading, task_file

    study = load_study(ROOT / "params" / f"{lang}.yaml", preset)
    own = [task for task in study.tasks if not loading.is_harness(task)]
    for task in own:
        assert hub.covers(task_file.spec(task), lang, "test")
        traditional = task.startswith("milic")
        assert traditional or study.script != "Mongolian"  # all else in Mongolian is Cyrillic
    assert all(hub.covers(task_file.spec(task), "en", "test") for task in study.tasks_en)
    maths = {"math"} if lang in ("te", "bn", "bo", "ug", "kk", "mn") else set()
    families = {"reading_comprehension", "response_selection", "text_classification"} | maths
    assert {task_file.spec(task).metadata.family for task in own} == families
    assert {task_file.spec(task).metadata.family for task in study.tasks_en} >= families


# preset smol


ASKED, BUDGETS = [2_000, 6_000], [2_048, 6_144]  # in whole steps
SEQ_LEN = 64


def cut(source: Path, target: Path, lines: int) -> list[str]:
    """The first lines of a real file that are not long, at `target`; returns their texts."""
    opener = gzip.open if source.suffix == ".gz" else open
    with opener(source, "rt", encoding="utf-8") as file:
        kept = list(islice((line for line in file if len(line) < 500), lines))
    files.write_text(target, "".join(kept))
    return [json.loads(line)["text"] for line in kept]


def smol_study(home: Path, data_root: Path, **more: Any) -> tuple[stages.RunPaths, str]:
    """A finished study of preset smol on real text and real topic items, and what it printed."""
    data, texts = home / "data", []
    for lang, lines in (("bn", 600), ("en", 300), ("mn", 5)):
        texts += cut(data_root / "corpus" / f"{lang}.jsonl.gz", data / "corpus" / f"{lang}.jsonl", lines)
    for part in ("bn/dev", "bn/test", "en/train", "en/dev", "en/test"):
        name = f"eval/topic/{part}.jsonl"
        cut(data_root / name, data / name, 1000)
    values = {
        "base_source": str(pico_base(home / "base", texts, 800)),
        "data_root": str(data),
        "runs": str(home / "runs"),
        "ct_budgets": ASKED,
        "ct_lr": 0.003,
        "seq_len": SEQ_LEN,
        "heldout_bytes": 2000,
        "sft_mix": {"topic": 16},
        "precision": "fp32",
        **FEW,
        **ITEMS,
        **more,
    }
    text = lrnb_run("smol", values)
    return stages.RunPaths(load_study(BN, "smol", values)), text


@pytest.fixture(scope="module")
def smol(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[stages.RunPaths, str]:
    return smol_study(tmp_path_factory.mktemp("smol"), data_root)


def packed_tokens(paths: stages.RunPaths) -> tuple[int, dict[bool, int]]:
    """All tokens of the packed corpus, counted from the file, and by whether their document is Bengali."""
    import pyarrow as pa
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(paths.base)
    with pa.OSFile(str(paths.corpus / "packed.arrow")) as file:
        rows = pa.ipc.open_stream(file).read_all()["input_ids"].to_pylist()
    ids = np.concatenate(rows)
    documents = np.split(ids, np.flatnonzero(ids == tokenizer.bos_token_id))
    found = {True: 0, False: 0}
    for document in documents:
        text = tokenizer.decode(document, skip_special_tokens=True)
        found[script_share(text, "Bengali") > 0.5] += len(document)
    return len(ids), found


def test_smol_corpus_has_its_tokens_four_to_one(smol: tuple) -> None:
    paths, _ = smol
    facts = stages.read_manifest(paths.corpus)["facts"]
    total, by_script = packed_tokens(paths)
    assert total == facts["tokens"] == facts["rows"] * SEQ_LEN
    assert BUDGETS[-1] <= total < BUDGETS[-1] + SEQ_LEN
    assert facts["counts"]["x"] / facts["counts"]["en"] == pytest.approx(4, rel=0.1)
    assert by_script[True] / by_script[False] == pytest.approx(4, rel=0.25)


def test_smol_ct_reaches_each_budget_on_one_trajectory(smol: tuple) -> None:
    paths, _ = smol
    history = pd.read_csv(paths.ct() / "history.csv")
    assert sorted(p.parent.name for p in paths.ct().glob("*/model.safetensors")) == ["2k", "6k"]
    measured = history.dropna(subset=["bits_per_byte_x"])
    assert measured["tokens"].tolist() == [0, *BUDGETS]
    assert measured["bits_per_byte_x"].iloc[-1] < measured["bits_per_byte_x"].iloc[0]
    sizes = pd.read_csv(paths.conflicts / "shares.csv").query("tensor == '(model)' and setting == 'fixed'")
    assert sizes.set_index("ct_tokens")["ct_l2"].loc[BUDGETS].is_monotonic_increasing


def test_smol_scores_every_model_at_every_budget(smol: tuple) -> None:
    paths, text = smol
    scores = pd.read_csv(paths.scores / "scores.csv")
    assert list(scores.columns) == COLUMNS.split()
    methods = ("ct", "ct_then_sft", *Study().methods)
    models = {"base", "sft", *(f"{m}@{b}" for m in methods for b in ("2k", "6k"))}
    assert {(r.model, r.task) for r in scores.itertuples()} == {
        (model, task) for model in models for task in ("topic", "topic_en")
    }
    assert scores["chance"].to_numpy() == pytest.approx(100 / 7)
    table = pd.read_csv(paths.scores / "differences.csv")
    assert set(table["baseline"]) == {"ct_then_sft", "ties"}
    assert "report.html" in text


def test_smol_report_is_there_and_has_its_baseline(smol: tuple) -> None:
    paths, _ = smol
    page = (paths.lang / "report.html").read_text(encoding="utf-8")
    assert "Merge, or train on top? Bengali" in page
    assert "difference to CT-then-SFT" in page
    assert "Given weights, nothing trained" not in page


def test_smol_base_keeps_what_the_text_needs(smol: tuple) -> None:
    paths, _ = smol
    facts = stages.read_manifest(paths.base)["facts"]["vocabulary"]
    assert facts["new_size"] <= facts["old_size"]
    audit = stages.read_manifest(paths.corpus)["facts"]["audit"]["bn"]
    assert audit["unknown_share"] == 0


@pytest.mark.slow
def test_a_study_with_a_larger_vocabulary_merges_it_with_the_smaller_one(
    data_root: Path, tmp_path: Path
) -> None:
    methods = {"methods": ["average", "ties", "slerp"]}
    paths, text = smol_study(tmp_path, data_root, extend_vocabulary=60, ct_budgets=[2_000], **methods)
    rows = {name: open_checkpoint(folder)["model.embed_tokens.weight"] for name, folder in {
        "base": paths.base, "sft": paths.sft, "ct": paths.ct(2048), "cts": paths.ct_then_sft(2048),
        **{method: paths.merge(method, 2048) for method in methods["methods"]},
    }.items()}  # fmt: skip
    size = len(rows["base"])
    assert {name: len(x) - size for name, x in rows.items()} == {
        "base": 0, "sft": 0, "ct": 60, "cts": 60, "average": 60, "ties": 60, "slerp": 60
    }  # fmt: skip
    assert all(np.array_equal(rows[m][size:], rows["ct"][size:]) for m in methods["methods"])
    audit = stages.read_manifest(paths.corpus)["facts"]["audit"]
    assert audit["bn"]["bytes_per_token"] > audit["bn before"]["bytes_per_token"]
    scores = pd.read_csv(paths.scores / "scores.csv")
    assert {"average@2k", "ties@2k", "slerp@2k", "ct_then_sft@2k"} < set(scores["model"])
    assert (pd.read_csv(paths.conflicts / "shares.csv")["n"] > 0).all()
    assert "report.html" in text
