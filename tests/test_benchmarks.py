"""The benchmark's scripts at pico size: what they generate, measure, count and print. No times are judged."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lrnb.checkpoints.reading import INDEX, open_checkpoint, same_bits
from lrnb.errors import UserError
from lrnb.study.parameters import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import (
    before,
    checkpoints,
    corpus,
    exact,
    gpu,
    intervals,
    measure,
    merge,
    peer,
    scoring,
    table,
    train,
)


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> merge.Place:
    root = tmp_path_factory.mktemp("bench")
    return merge.Place(checkpoints.generate("pico", root), root / "pico")


def contents(folders: dict[str, Path]) -> list[bytes]:
    return [path.read_bytes() for folder in folders.values() for path in measure.weights(folder)]


def test_same_seed_gives_the_same_bytes_and_another_seed_others(pico: merge.Place, tmp_path: Path) -> None:
    again = checkpoints.generate("pico", tmp_path / "a")
    assert contents(again) == contents(dict(pico.folders))
    other = contents(checkpoints.generate("pico", tmp_path / "b", seed=1))
    assert all(a != b for a, b in zip(other, contents(again), strict=True))


def test_what_is_there_is_kept_and_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    folders = checkpoints.generate("pico", tmp_path)
    whole, file = contents(folders), folders["ct"] / "model.safetensors"
    written = file.stat().st_mtime_ns
    checkpoints.generate("pico", tmp_path)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:-1])
    assert contents(checkpoints.generate("pico", tmp_path)) == whole
    assert sorted(path.name for path in (tmp_path / "pico").iterdir()) == [
        "base", "ct", "manifest.json", "sft",
    ]  # fmt: skip


def test_sharded_checkpoint_holds_the_same_tensors(pico: merge.Place, tmp_path: Path) -> None:
    folders = checkpoints.generate("pico", tmp_path, shard_bytes=20_000)
    assert (folders["sft"] / INDEX).is_file()
    for role, folder in folders.items():
        one, many = open_checkpoint(pico.folders[role]), open_checkpoint(folder)
        assert len(many.files) > 1
        assert list(one) == list(many)
        assert all(same_bits(one[name], many[name]) for name in one)


def test_transformers_opens_the_checkpoint_with_nothing_missing(pico: merge.Place) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model, said = AutoModelForCausalLM.from_pretrained(pico.folders["ct"], output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"] and not said["mismatched_keys"]
    assert model.dtype == torch.bfloat16
    stored = open_checkpoint(pico.folders["ct"])["lm_head.weight"].astype(np.float32)
    assert np.array_equal(model.lm_head.weight.detach().float().numpy(), stored)


@pytest.mark.parametrize(("shape", "parameters"), [("tinyllama", 1_100_048_384), ("7b", 6_738_415_616)])
def test_shapes_have_the_parameters_of_their_models(shape: str, parameters: int) -> None:
    tensors = checkpoints.tensor_shapes(checkpoints.SHAPES[shape])
    assert sum(map(math.prod, tensors.values())) == parameters


def test_task_vectors_have_heavy_tails_and_unchanged_entries(pico: merge.Place) -> None:
    from scipy.stats import t

    random = np.random.Generator(np.random.SFC64(0))
    drawn = checkpoints.student_t(random, 400_000, 3e-4) / 3e-4
    for share in (0.01, 0.25, 0.5, 0.9, 0.999):
        found = float(np.mean(drawn < t(3).ppf(share)))
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / drawn.size)
    manifest = json.loads((pico.root / checkpoints.MANIFEST).read_text())
    assert all(0.03 < share < 0.3 for share in manifest["unchanged"].values())


def test_disk_too_small_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = checkpoints.Shape(1 << 20, 1 << 20, 100, 32, 32, 32000)
    monkeypatch.setitem(checkpoints.SHAPES, "huge", huge)
    with pytest.raises(UserError, match="Free space, or choose another folder with --dir"):
        checkpoints.generate("huge", tmp_path)
    assert not list((tmp_path / "huge").iterdir())


def test_memory_of_a_process_and_of_its_child_is_counted(tmp_path: Path) -> None:
    hold = "import time; x = bytearray(60_000_000); time.sleep(0.5)"
    code = (
        f"import subprocess, sys; x = bytearray(50_000_000); subprocess.run([sys.executable, '-c', {hold!r}])"
    )
    done = measure.run_whole([sys.executable, "-c", code], dict(os.environ), tmp_path)
    assert done.peak_anon_bytes >= 110_000_000
    assert done.peak_rss_bytes >= done.peak_anon_bytes
    assert done.samples > 5 and done.seconds > 0.5


def test_a_command_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with pytest.raises(RuntimeError, match="no such thing"):
        measure.run_whole(command, dict(os.environ), tmp_path)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_plain_copy_reads_everything_and_writes_one_checkpoint(
    pico: merge.Place, tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "BLOCK", 1000)  # many blocks, the last one short
    out = tmp_path / "copy.bin"
    assert measure.read_three_write_one(list(pico.folders.values()), out, threads) > 0
    assert out.read_bytes() == (pico.folders["sft"] / "model.safetensors").read_bytes()


def test_every_command_is_one_that_the_cli_knows(pico: merge.Place) -> None:
    from lrnb.cli.main import parser

    for arguments in merge.OURS.values():
        command = merge.our_command(arguments, pico)
        given = parser().parse_args(command[command.index("lrnb") + 1 :])
        assert given.json and given.dtype == "bfloat16"


def test_a_run_writes_every_time_and_the_table(
    pico: merge.Place, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = pico.root.parent
    options = ["--shape", "pico", "--rounds", "2", "--methods", "ties-model,copy"]
    options += ["--no-mergekit", "--settle", "0"]
    assert merge.main([*options, "--dir", str(root), "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-pico.json")
    text = path.read_text()
    result = json.loads(text)
    assert str(root) not in text and str(ROOT) not in text
    assert [run["job"] for run in result["runs"]] == ["lrnb ties-model", "copy 1", "copy 2"] * 2
    assert all(run["seconds"] > 0 and run["started"] for run in result["runs"])
    ours = result["runs"][0]
    assert 0 < ours["merge_seconds"] <= ours["seconds"] and ours["peak_anon_bytes"] > 1_000_000
    wanted = "schema shape seed parameters density slack started finished rounds machine versions commit"
    assert set(wanted.split()) <= set(result)
    assert {"processor", "cores", "memory_bytes", "kernel"} <= set(result["machine"])
    assert {"python", "numpy", "torch"} <= set(result["versions"])
    assert path.with_suffix(".md").read_text() == table.markdown(result)
    assert table.markdown(result) in capsys.readouterr().out
    assert not list(pico.root.glob("out*")) and not list(pico.root.glob("copy*"))


def test_unknown_method_is_refused_with_those_there_are(pico: merge.Place) -> None:
    with pytest.raises(UserError, match=r"'tiles'.*ties-model"):
        merge.choose(merge.jobs(pico, None), "tiles", None)


MEDIANS = {
    "lrnb ties-tensor": {"seconds": 5.0, "merge_seconds": 4.0, "peak_anon_bytes": 120e6},
    "lrnb ties-model": {"seconds": 4.0, "merge_seconds": 3.0, "peak_anon_bytes": 110e6},
    "lrnb ties-sv": {"seconds": 6.0, "merge_seconds": 4.5, "peak_anon_bytes": 250e6},
    "lrnb average": {"seconds": 2.0, "merge_seconds": 1.5, "peak_anon_bytes": 90e6},
    "lrnb task-arithmetic": {"seconds": 2.0, "merge_seconds": 1.5, "peak_anon_bytes": 90e6},
    "mergekit ties": {"seconds": 200.0, "merge_seconds": 190.0, "peak_anon_bytes": 4e9},
    "copy 1": {"seconds": 1.5},
    "copy 2": {"seconds": 1.0},
}


def test_goals_are_judged_from_medians() -> None:
    rows = {row["what"]: row for row in table.rows(MEDIANS, "7b")}
    ties = rows["TIES, tensor scope: mergekit / lrnb, whole command"]
    assert (ties["measured"], ties["met"], ties["stretch_met"]) == (40.0, True, False)
    model = rows["TIES, model scope / read 3, write 1: merging"]  # the faster copy counts
    assert (model["measured"], model["met"], model["stretch_met"]) == (3.0, True, False)
    slack = rows["TIES-SV / TIES, model scope, merging"]
    assert (slack["measured"], slack["met"], slack["stretch_met"]) == (1.5, False, None)
    memory = next(row for what, row in rows.items() if what.startswith("peak anonymous"))
    assert (memory["measured"], memory["met"], memory["stretch_met"]) == (250.0, True, False)
    assert rows["average: mergekit / lrnb, whole command"]["measured"] is None  # no peer was run
    elsewhere = [row for row in table.rows(MEDIANS, "tinyllama") if row["goal"] == 300]
    assert elsewhere[0]["measured"] == 250.0 and elsewhere[0]["met"] is None


def test_medians_are_over_rounds_and_peaks_are_the_largest() -> None:
    runs = [{"job": "a", "seconds": s, "merge_seconds": None, "peak_anon_bytes": s * 10} for s in (3, 1, 2)]
    assert table.medians(runs) == {"a": {"seconds": 2, "peak_anon_bytes": 30}}


def test_table_is_markdown_with_words_for_goals() -> None:
    result = {
        "shape": "7b", "finished": "2026-01-02T03:04:05+00:00", "parameters": 6_738_415_616, "density": 0.2,
        "rounds": 3, "machine": {"processor": "P", "cores": 2, "memory_bytes": 2**34, "kernel": "6"},
        "versions": {"python": "3.11", "numpy": "2"}, "peer_versions": {"mergekit": "0.1.5"},
        "inputs": {"cached": False}, "medians": MEDIANS, "table": table.rows(MEDIANS, "7b"),
        "runs": [{"job": "copy 2", "seconds": 1.0}, {"job": "copy 2", "seconds": 0.9}],
    }  # fmt: skip
    lines = table.markdown(result).splitlines()
    first = "| TIES, tensor scope: mergekit / lrnb, whole command | 40.0× "
    assert first + "| at least 40×: met | at least 80×: not met |" in lines
    assert "| `lrnb merge --help` | not run | at most 0.3 s |  |" in lines
    assert "| copy 2 | 1.00 |  |  | 1.00, 0.90 |" in lines
    assert "P, 2 cores, 16 GiB, kernel 6; python 3.11, numpy 2, mergekit 0.1.5." in lines


def test_differences_are_sorted_into_threshold_ties_and_others() -> None:
    base = {"w": np.zeros(5, np.float32)}
    parent = {"w": np.float32([1, 2, -2, 3, 0.5])}  # k = 2 of 5: rank 2 is a tie of entries 1 and 2
    ours, theirs = {"w": np.float32([0, 2, 0, 3, 0])}, {"w": np.float32([0, 0, -2, 3, -0.0])}
    counts = exact.compare(ours, theirs, base, {"ct": parent}, 0.4)
    assert counts == {"entries": 5, "tie_entries": 2, "differing": 2, "at_ties": 2, "elsewhere": 0}
    theirs["w"][0] = 7
    assert exact.compare(ours, theirs, base, {"ct": parent}, 0.4)["elsewhere"] == 1
    rounded = exact.at_threshold(base["w"], parent["w"], 0.75)  # ours keeps round(3.75) = 4, theirs 3
    assert rounded.tolist() == [True, True, True, False, False]
    with pytest.raises(ValueError, match="only one output has 'w'"):
        exact.compare(ours, {}, base, {"ct": parent}, 0.4)


@pytest.mark.slow
def test_resident_merges_run_through_the_same_interface_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def too_big(states: dict) -> dict:
        raise torch.OutOfMemoryError("out of memory: 7 GB\nlong story")

    real = gpu.methods()
    monkeypatch.setattr(gpu, "methods", lambda: real | {"huge": too_big})
    rows = gpu.resident("pico", "cpu", rounds=1)
    assert [row["method"] for row in rows] == ["copy", *merge.OURS, "huge"]
    assert all(row["gb_per_s"] > 0 and len(row["seconds"]) > 0 for row in rows[:-1])
    assert [row["differing"] for row in rows[1:-1]] == [0, 0, 0, 0, 0]
    result = {"device": "P", "shape": "pico", "started": "2026", "rounds": 1, "versions": {}}
    lines = gpu.markdown(result | {"resident": rows, "files": []}).splitlines()
    assert "| huge | out of memory: 7 GB |  |  |  |  |" in lines
    assert len([line for line in lines if line.startswith("| ties-")]) == 3


def test_mergekits_recipes_and_its_own_merging_time(pico: merge.Place) -> None:
    recipe = peer.config("ties", pico.folders, density=0.2, dtype="float32", out_dtype="bfloat16")
    assert recipe["base_model"] == str(pico.folders["base"])
    assert [model["parameters"] for model in recipe["models"]] == [{"weight": 1.0, "density": 0.2}] * 2
    assert "base_model" not in peer.config("linear", pico.folders, density=0.2, dtype="bfloat16")
    lines = [
        (9.0, "INFO:mergekit.merge:Planning operations"),
        (11.5, "INFO:mergekit.merge:Saving config"),
    ]
    assert peer.merge_seconds(lines) == 2.5
    assert peer.merge_seconds(lines[:1]) is None


@pytest.mark.parametrize(("name", "version"), [("mergekit", "0.1.5"), ("datatrove", "0.10.1")])
def test_requirements_of_a_peer_are_pinned_and_name_no_place(name: str, version: str) -> None:
    text = Path(peer.__file__).with_name(f"{name}-requirements.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert f"{name}=={version}" in lines
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)


def test_documents_of_the_corpus_benchmark_have_known_twins() -> None:
    known = [f"w{i} begins a made sentence." for i in range(500)]
    rows = list(corpus.documents(known, 0.3))
    assert rows == list(corpus.documents(known, 0.3)) and sum(len(text) for _, text in rows) >= 3e5
    texts: set[str] = set()
    for kind, text in rows:
        assert (text in texts) == (kind == "exact")
        texts.add(text)
    shares = {kind: sum(own == kind for own, _ in rows) / len(rows) for kind in ("exact", "near", "alike")}
    assert shares == pytest.approx({"exact": 0.05, "near": 0.1, "alike": 0.05}, abs=0.03)


def test_cleaning_is_judged_by_what_is_known_of_the_text(tmp_path: Path) -> None:
    known = [f"নদী{i} ধারে একটি{i} ছোট গ্রাম {i} আছে।" for i in range(500)]
    made = corpus.write_text(tmp_path / "t.jsonl", known, 0.3)
    corpus.write_items(tmp_path / "items.json", known)
    sides, kinds = corpus.cleaners(None, tmp_path / "t.jsonl", None), made["documents"]
    for name in ("after: and near duplicates", "after: and evaluation items, 2 threads"):
        row = {"side": name} | sides[name].run()
        assert row["dropped"] == {kind: kinds[kind] for kind in ("exact", "near")}
        assert corpus.judged(row, kinds) == {"recall": 1.0, "precision": 1.0}
    worse = row | {"dropped": {"exact": kinds["exact"], "alike": kinds["exact"]}}
    found = corpus.judged(worse, kinds)
    assert found == {"recall": kinds["exact"] / (kinds["exact"] + kinds["near"]), "precision": 0.5}


def test_scoring_is_measured_against_the_harness_s_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import json

    from support.pico import save_pico

    rows = [{"text": "the cat", "label": label} for label in ("travel", "sports", "health")]
    data = tmp_path / "eval" / "topic" / "bn" / "test.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"pico={save_pico(tmp_path / 'm')}", "--tasks", "topic", "--data-root", str(tmp_path)]
    more = ["--rounds", "2", "--device", "cpu", "--results", str(tmp_path / "results")]
    assert scoring.main([*given, *more]) == 0
    (path,) = (tmp_path / "results").glob("*-scoring.json")
    (run,) = json.loads(path.read_text())["runs"]
    assert (run["items"], run["options"]) == (3, 7)
    assert len(run["seconds"]["hf"]) == len(run["cpu_seconds"]["lrnb"]) == 2
    assert run["largest_difference"] < 1e-4
    assert "| pico | topic | 3 | 7 |" in capsys.readouterr().out


def test_scoring_needs_no_data_where_a_model_is_made(tmp_path: Path) -> None:
    given = ["--made", "pico", "--limit", "7", "--rounds", "1", "--device", "cpu", "--name", "s"]
    assert scoring.main([*given, "--results", str(tmp_path)]) == 0
    runs = json.loads(next(tmp_path.glob("*-s.json")).read_text())["runs"]
    assert [(run["task"], run["items"], run["options"]) for run in runs] == [
        ("topic", 7, 7), ("reading_comprehension", 7, 4),
    ]  # fmt: skip
    assert all(run["largest_difference"] < 1e-3 for run in runs)
    with pytest.raises(SystemExit):
        scoring.options([])


@pytest.mark.slow
def test_one_command_measures_all_that_a_gpu_is_lent_for(tmp_path: Path, capfd) -> None:
    """In small and on the CPU: merges, training and scoring, each with its result file."""
    given = ["--all", "--shape", "pico", "--device", "cpu", "--rounds", "1", "--results", str(tmp_path)]
    assert gpu.main(given) == 0
    assert "not measured" not in capfd.readouterr().out
    names = sorted(path.name.partition("-")[2].partition("-")[2][3:] for path in tmp_path.glob("*.json"))
    assert names == ["pico-cpu.json", "scoring-pico-cpu.json", "train-pico-cpu.json"]


def test_all_trains_and_scores_at_three_sizes() -> None:
    found = gpu.parts(argparse.Namespace(shape="7b", device="cuda:1", results=Path("r")))
    assert [name for name in found if name.startswith("scoring")] == [f"scoring {s}" for s in gpu.SCORED]
    assert len([name for name in found if name.startswith("training")]) == len(gpu.TRAINED) == 4
    for module, *given in found.values():
        known = {"benchmarks.train": train.options, "benchmarks.scoring": scoring.options}[module]
        assert known(given).device == ("cuda:1" if module == "benchmarks.train" else "cuda")


def test_pairs_of_two_trees_are_shown_as_ratios_with_their_range():
    side = {"seconds": 2.0, "cpu_seconds": 4.0, "peak_anon_bytes": 1}
    runs = [
        {"round": n, "job": "average", "before": side, "after": side | {"seconds": 2.0 * ratio}}
        for n, ratio in enumerate((1.1, 0.5, 0.9), 1)
    ]
    assert before.ratios(runs, "seconds") == {"average": pytest.approx([0.5, 0.9, 1.1])}
    machine = {"processor": "P", "cores": 2}
    told = {"started": "2026-01-02T", "shape": "pico", "before": "a", "commit": "b", "rounds": 3}
    page = before.markdown(told | {"machine": machine, "runs": runs})
    assert "| average | 2.00 | 1.80 | 0.90 (0.50 to 1.10) | 4.00 | 4.00 | 1.00 (1.00 to 1.00) |" in page


def test_arms_of_the_simulation_have_the_rate_and_the_spread_that_was_asked_for():
    given = intervals.Setting(2000, False, 0.3, 8.0, 1, 0.9)
    means = np.array([tasks[0].mean() for tasks in intervals.drawn(given, 0.9, np.random.default_rng(0))])
    assert means.mean() == pytest.approx(0.9, abs=0.01)
    assert means.std() == pytest.approx((0.08**2 + 0.9 * 0.1 / 400) ** 0.5, rel=0.1)


def test_training_is_measured_through_the_studys_trainer(tmp_path: Path, capsys) -> None:
    options = ["--shape", "pico", "--device", "cpu", "--length", "16", "--steps", "2", "--precision", "fp32"]
    assert train.main([*options, "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-train-pico-cpu.json")
    result = json.loads(path.read_text())
    assert len(result["seconds"]) == 2 and result["peak_bytes"] is None
    assert result["tokens_per_s"] == pytest.approx(32 / np.median(result["seconds"]), rel=1e-3)
    assert result["estimated_bytes"] > 16 * result["parameters"]
    assert "tokens/s" in capsys.readouterr().out


def test_training_without_a_gpu_says_so(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.main(["--results", str(tmp_path)]) == 2
    assert "no GPU: torch sees no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
