"""Agreement to the item with lm-evaluation-harness run from its own command line, on its own task files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lrnb.errors import UserError
from lrnb.scoring.scorer import Scorer
from lrnb.tasks import loading
from lrnb.tasks.harness import run_harness
from lrnb.tasks.includes import OWN
from lrnb.training import gguf

ROWS = 12
#: the harness's file, its rows made from a local file, the splits it asks for
TASKS = {
    "xcopa_ta": ("xcopa/default_ta.yaml", "causal_choice/ta", ("test", "validation")),
    "copa": ("super_glue/copa/default.yaml", "causal_choice/en", ("train", "validation")),
    "mgsm_direct_bn": ("mgsm/direct/mgsm_direct_bn.yaml", "math/bn", ("train", "test")),
}


def rows_of(path: Path) -> list[dict]:
    """Rows of a local file in the layout that the harness's task file expects."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:ROWS]]
    if "relation" in rows[0]:
        return [
            {"premise": r["context"], "choice1": r["options"][0], "choice2": r["options"][1]}
            | {"question": r["relation"], "label": r["answer"]}
            for r in rows
        ]
    return [{"question": r["question"], "answer": None, "answer_number": r["answer"]} for r in rows]


@pytest.fixture(scope="module")
def files(data_root, tmp_path_factory) -> Path:
    """A folder of task files that include the harness's own and name local data."""
    folder = tmp_path_factory.mktemp("harness")
    for name, (file, data, splits) in TASKS.items():
        lines = [json.dumps(row) + "\n" for row in rows_of(data_root / "eval" / data / "test.jsonl")]
        (folder / f"{name}.jsonl").write_text("".join(lines))
        given = {"data_files": dict.fromkeys(splits, str(folder / f"{name}.jsonl"))}
        task = {"include": str(OWN / file), "task": f"local_{name}", "dataset_path": "json"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, "dataset_kwargs": given}))
    return folder


def byte_model(folder: Path) -> Path:
    """A small Llama whose tokens are bytes, so that every script is read; weights large enough to matter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 4096}
    model = LlamaForCausalLM(LlamaConfig(**size, **heads, eos_token_id=2, bos_token_id=1))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6)
    model.save_pretrained(folder)
    return folder


def command_line(model: Path, files: Path, out: Path) -> dict[str, list[dict]]:
    """Samples that `lm_eval` writes, by task."""
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "--model",
        "hf",
        "--tasks",
        ",".join(f"local_{n}" for n in TASKS),
    ]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--include_path", str(files)]
    command += ["--device", "cpu", "--batch_size", "1", "--log_samples", "--output_path", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for name in TASKS:
        (path,) = out.rglob(f"samples_local_{name}_*.jsonl")
        found[f"local_{name}"] = [json.loads(line) for line in path.read_text().splitlines()]
    return found


def key(sample: dict) -> tuple[int, str]:
    return sample["doc_id"], sample["filter"]


def compare(model: Path, files: Path, out: Path, data_root: Path, rel: float = 1e-6) -> dict[str, list[dict]]:
    """Our samples; every metric and answer must equal theirs, log-likelihoods to 1e-4 or `rel`."""
    theirs = command_line(model, files, out)
    tasks = loading.load_tasks([str(files / f"{name}.yaml") for name in TASKS], "bn", data_root)
    ours = run_harness(Scorer.from_folder(model, device="cpu"), dict(tasks))
    for name, samples in theirs.items():
        assert len(samples) == len(ours[name]) > 1
        for a, b in zip(sorted(ours[name], key=key), sorted(samples, key=key), strict=True):
            assert key(a) == key(b)
            metric = tasks[name].metric
            assert a[metric] == b[metric]
            if tasks[name].writes:
                assert a["resps"] == b["resps"]
                assert list(a["filtered_resps"]) == b["filtered_resps"]
            else:
                values = [float(pair[0]) for pair in b["filtered_resps"]]
                assert [pair[0] for pair in a["filtered_resps"]] == pytest.approx(values, rel=rel, abs=1e-4)
    return ours


@pytest.mark.slow
def test_three_of_the_harness_s_tasks_agree_to_the_item(files, tmp_path, data_root):
    ours = compare(byte_model(tmp_path / "model"), files, tmp_path / "out", data_root)
    texts = {sample["resps"][0][0] for sample in ours["local_mgsm_direct_bn"]}
    assert len(texts) > 1


@pytest.mark.slow
def test_they_agree_on_a_real_model(files, tmp_path, data_root):
    """SmolLM2-135M; a download on the first run. Two sums: each answer is up to 256 tokens long.

    Log-likelihoods of a real model in float32 differ by up to 6e-6 of their size with the shapes of batches.
    """
    sums = files / "mgsm_direct_bn.jsonl"
    sums.write_text("".join(sums.read_text().splitlines(True)[:2]))
    ours = compare(gguf.cached_base("smollm2"), files, tmp_path / "out", data_root, rel=1e-5)
    right = {name: {sample["acc"] for sample in ours[name]} for name in ("local_xcopa_ta", "local_copa")}
    assert right["local_copa"] == {0.0, 1.0}


# names and files of the harness


def test_the_harness_s_tasks_go_by_name(data_root, tmp_path):
    with pytest.raises(UserError, match=r"data of harness task 'xcopa_ta'.*cambridgeltl/xcopa"):
        loading.load_tasks(["harness:xcopa_ta"], "ta", tmp_path)
    loading.require_known(["harness:xcopa_ta", "mgsm_direct_te", "harness:xstorycloze_en", "topic_en"])
    with pytest.raises(UserError, match="did you mean 'xcopa_ta'"):
        loading.require_known(["harness:xcopa_tamil"])
    with pytest.raises(UserError, match=r"a group of the harness; name single tasks, .*xcopa_"):
        loading.require_known(["harness:xcopa"])
    assert not loading.has_dev("harness:xcopa_ta", "ta", data_root)


@pytest.mark.parametrize("name", ["harness:xcopa_ta_en", "xcopa_ta_en"])
def test_a_harness_task_is_not_english_because_it_is_asked_for_as_such(tmp_path, name):
    for ask in (loading.require_known, lambda names: loading.load_tasks(names, "ta", tmp_path)):
        with pytest.raises(UserError, match=r"xcopa_ta_en'.*no English version by _en"):
            ask([name])


def test_a_file_of_the_harness_is_english_where_its_task_says_so(files, data_root):
    path = files / "xcopa_ta.yaml"
    with pytest.raises(UserError, match="not known to be English"):
        loading.load_tasks([f"{path}_en"], "ta", data_root)
    own = files / "english.yaml"
    own.write_text(path.read_text().replace("local_xcopa_ta", "local_en"))
    assert set(loading.load_tasks([f"{own}_en"], "ta", data_root)) == {"local_en"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"include": 5}, "include must be a text or a list of texts, not 5"),
        ({"num_fewshot": "three"}, "num_fewshot must be a whole number, not 'three'"),
        ({"num_fewshot": -1}, "shots -1 is out of range"),
        ({"num_fewshot": 10_000}, "shots 10000 is out of range for task 'local_xcopa_ta': it has 0 to"),
        ({"dataset_kwargs": "x"}, "dataset_kwargs must be a mapping"),
        ({"task": ["a"]}, "task must be a text"),
        ({"test_split": "nope"}, "nope"),
    ],
)
def test_values_of_a_wrong_type_in_a_file_of_the_harness(files, data_root, tmp_path, changes, message):
    given = yaml.safe_load((files / "xcopa_ta.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given | changes))
    with pytest.raises(UserError, match=message):
        loading.load_tasks([str(tmp_path / "mine.yaml")], "ta", data_root)


def test_items_of_a_harness_task_are_sampled_by_seed(files, data_root, tmp_path):
    name = str(files / "xcopa_ta.yaml")
    small, large = (loading.load_tasks([name], "ta", data_root, limit=n)["local_xcopa_ta"] for n in (4, 8))
    assert (len(small), len(large)) == (4, 8)
    assert set(small.kept) < set(large.kept)
    assert (small.chance, small.metric, small.writes) == (0.5, "acc", False)
    with pytest.raises(UserError, match="only its test items are scored"):
        loading.load_tasks([name], "ta", data_root, split="dev")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("doc_to_text: !function utils.x\n", "may not run code"),
        ("doc_to_text: '{{premise}}'\n", "'doc_to_text' is not allowed here; allowed: include, task"),
        ("include: none.yaml\n", r"include 'none\.yaml' does not exist"),
    ],
)
def test_files_that_include_bring_no_code(files, tmp_path, lines, message):
    path = tmp_path / "mine.yaml"
    text = (files / "xcopa_ta.yaml").read_text()
    if lines.startswith("include"):
        text = "".join(line for line in text.splitlines(True) if not line.startswith("include"))
    path.write_text(text + lines)
    with pytest.raises(UserError, match=message):
        loading.load_tasks([str(path)], "ta", tmp_path)


def test_code_does_not_come_in_through_a_file_in_between(files, tmp_path):
    (tmp_path / "between.yaml").write_text("task: x\nprocess_docs: !function utils.x\n")
    (tmp_path / "mine.yaml").write_text("task: y\ninclude: between.yaml\n")
    with pytest.raises(UserError, match="may not run code"):
        loading.load_tasks([str(tmp_path / "mine.yaml")], "ta", tmp_path)
