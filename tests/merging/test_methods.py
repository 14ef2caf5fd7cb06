"""Average, task arithmetic and TIES: by hand, against the slow reference, and on folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import reference
from support.checkpoints import children, pico
from support.reference import BF16, assert_same_bits, save_folder
from support.strategies import densities, models, weights

from lrnb.checkpoints import reading
from lrnb.errors import UserError
from lrnb.merging import cpu, engine, whole_models
from lrnb.merging.methods import average, task_arithmetic, ties, ties_sv
from lrnb.merging.task_vectors import TaskVectors

zero_signs = st.sampled_from(["majority", "positive"])
policies = st.sampled_from(["keep-all", "exact"])
lams = st.sampled_from([0.0, 0.5, 1.0, -1.5])
piece_sizes = st.sampled_from([1, 4, 1 << 17])


def f32(*x: float) -> np.ndarray:
    return np.array(x, np.float32)


# by hand


def test_ties_by_hand():
    base = f32(10, 10, 10, 10, 10, 10)
    ct = base + f32(4, -3, 1, 0, 2, -5)
    sft = base + f32(2, 4, -6, 3, 0.5, 5)
    # density 0.67 keeps 4: CT's 4, -3, 2, -5; SFT's 4, -6, 3, 5.  Sums: 4, 1, -6, 3, 2, 0 (majority +)
    assert ties.ties(base, [ct, sft], density=0.67).tolist() == [14, 14, 4, 13, 12, 15]


def test_agreeing_entries_are_averaged_with_weights_and_scaled_by_lam():
    base, ct, sft = f32(0), f32(1), f32(4)
    assert ties.ties(base, [ct, sft], density=1).tolist() == [2.5]
    assert ties.ties(base, [ct, sft], density=1, weights=[3, 1]).tolist() == [1.75]
    assert ties.ties(base, [ct, sft], density=1, lam=2).tolist() == [5]


def test_an_exact_zero_sum_follows_the_majority_of_elected_signs():
    base, ct, sft = f32(0, 0, 0, 0), f32(2, -1, -1, 3), f32(-2, -1, -1, 1)
    assert ties.ties(base, [ct, sft], density=1).tolist() == [-2, -1, -1, 2]
    assert ties.ties(base, [ct, sft], density=1, zero_sign="positive").tolist() == [2, -1, -1, 2]


def test_a_zero_sum_without_any_majority_takes_minus_as_the_authors_code_does():
    assert ties.ties(f32(0), [f32(2), f32(-2)], density=1).tolist() == [-2]


def test_a_dict_is_one_scope():
    base = {"a": f32(0, 0), "b": f32(0, 0)}
    ct = {"a": f32(9, 8), "b": f32(1, 2)}
    assert ties.ties(base, [ct], density=0.5)["b"].tolist() == [0, 0]
    assert ties.ties(base["b"], [ct["b"]], density=0.5).tolist() == [0, 2]


def test_density_per_parent():
    base, ct, sft = f32(0, 0), f32(1, 2), f32(3, 4)
    merged = ties.ties(base, {"ct": ct, "sft": sft}, density={"ct": 0.5, "sft": 1})
    assert merged.tolist() == [3, 3]


def test_average_by_hand():
    base, ct, sft = f32(7, 7), f32(1, 2), f32(5, 2)
    assert average.average(base, {"ct": ct, "sft": sft}, alpha=0.25).tolist() == [4, 2]
    assert average.average(base, {"sft": sft, "ct": ct}, alpha=0.25).tolist() == [4, 2]
    assert average.average(base, [ct, sft, sft], weights=[2, 1, 1]).tolist() == [3, 2]


def test_task_arithmetic_by_hand():
    base, ct, sft = f32(1, 1), f32(2, 0), f32(4, 2)
    assert task_arithmetic.task_arithmetic(base, [ct, sft]).tolist() == [5, 1]
    assert task_arithmetic.task_arithmetic(base, [ct, sft], lam=[1, 0.5]).tolist() == [3.5, 0.5]


def test_without_normalizing_the_weights_are_factors():
    base, ct, sft = f32(1, 1), f32(2, 3), f32(4, -1)
    assert ties.ties(base, [ct, sft], density=1, normalize=False).tolist() == [5, 3]
    assert ties.ties(base, [ct, sft], density=1, weights=[2, 1], normalize=False).tolist() == [6, 5]
    assert average.average(base, [ct, ct], weights=[2, 1], normalize=False).tolist() == [6, 9]
    assert task_arithmetic.task_arithmetic(base, [ct, sft], lam=[3, 1], normalize=True).tolist() == [2.5, 2]
    with pytest.raises(UserError, match="cannot divide by the sum of lam, which is 0"):
        task_arithmetic.task_arithmetic(base, [ct, sft], lam=[1, -1], normalize=True)


def test_task_vector_is_float32_of_bfloat16():
    base, parent = f32(1, 3).astype(BF16), f32(1.5, 2).astype(BF16)
    delta = engine.task_vector(base, parent)
    assert delta.dtype == np.float32
    assert delta.tolist() == [0.5, -1]


def test_the_result_is_rounded_once():
    base, step = f32(1).astype(BF16), f32(2**-8 + 2**-16)  # 1 + step lies just above the middle
    merged = ties.ties(base, [f32(1) + step], density=1)
    assert float(merged[0]) == 1 + 2**-7


def test_float64_is_rounded_once_too():
    """Just above the middle of two bfloat16, by less than float32 can hold."""
    wide, base = np.array([1 + 2**-8 + 2**-40]), f32(1).astype(BF16)
    assert average.average(base, [wide, wide]).astype(float).tolist() == [1 + 2**-7]
    state = whole_models.merge_state(
        "ties", {"w": np.array([1 + 2**-8])}, {"p": {"w": wide}}, density=1, dtype="bfloat16"
    )
    assert state["w"].tolist() == [1 + 2**-7]


# against the reference


@given(models(), densities, weights, lams, zero_signs, policies, piece_sizes, st.booleans())
def test_ties_equals_the_reference(model, density, weight, lam, zero_sign, at_threshold, piece, normalize):
    base, parents = model
    options = {"density": density, "weights": {"sft": weight}, "lam": lam,
               "zero_sign": zero_sign, "at_threshold": at_threshold, "normalize": normalize}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        wanted, _ = reference.ties(base, parents, **options)
        assert_same_bits(ties.ties(base, parents, **options), wanted)


@given(models(parents=3), densities, weights, zero_signs, policies, piece_sizes, st.booleans())
def test_three_parents_equal_the_reference(model, density, weight, zero_sign, at_threshold, piece, normalize):
    base, parents = model
    options = {"density": density, "weights": {"sft": weight, "third": 0.7}, "zero_sign": zero_sign,
               "at_threshold": at_threshold, "normalize": normalize}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        assert_same_bits(ties.ties(base, parents, **options), reference.ties(base, parents, **options)[0])


@given(models(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), piece_sizes)
def test_average_equals_the_reference(model, alpha, piece):
    base, parents = model
    wanted = reference.average(base, parents, [alpha, 1 - alpha])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        assert_same_bits(average.average(base, parents, alpha=alpha), wanted)


@given(models(parents=3), st.lists(weights, min_size=3, max_size=3), st.booleans())
def test_weighted_averages_equal_the_reference(model, numbers, normalize):
    base, parents = model
    numbers[0] = numbers[0] or 0.6
    shares = [x / sum(numbers) for x in numbers] if normalize else numbers
    wanted = reference.average(base, parents, shares, keep=normalize)
    assert_same_bits(average.average(base, parents, weights=numbers, normalize=normalize), wanted)


@given(models(parents=3), lams, lams, piece_sizes, st.booleans())
def test_task_arithmetic_equals_the_reference(model, one, two, piece, normalize):
    base, parents = model
    factors = [one, two, 2.5]
    if normalize and (whole := sum(factors)):
        factors = [x / whole for x in factors]
    wanted = reference.task_arithmetic(base, parents, factors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        options = {"lam": [one, two, 2.5], "normalize": normalize and one + two + 2.5 != 0}
        assert_same_bits(task_arithmetic.task_arithmetic(base, parents, **options), wanted)


def as_state(merged: dict) -> dict:
    """What merge_state returns for these tensors."""
    return {name: x.astype(np.float32) for name, x in merged.items()}


@given(models(), st.sampled_from(["average", "task_arithmetic", "ties", "ties_sv", "ties_sv xi"]),
       densities, policies, zero_signs, st.booleans(), piece_sizes)  # fmt: skip
def test_tensor_scope_is_the_reference_on_each_tensor(
    model, method, density, at_threshold, zero_sign, normalize, piece
):
    base, parents = model
    rules = {"density": density, "at_threshold": at_threshold, "zero_sign": zero_sign, "lam": 0.7}
    options = {
        "average": {"alpha": 0.3},
        "task_arithmetic": {"lam": 0.6},
        "ties": {**rules, "normalize": normalize},
        "ties_sv": {**rules, "normalize": normalize, "slack": 0.4},
        "ties_sv xi": {**rules, "normalize": normalize, "slack_threshold": 0.5},
    }[method]
    wanted = {
        "average": lambda: reference.each_tensor(reference.average, base, parents, [0.3, 1 - 0.3]),
        "task_arithmetic": lambda: reference.each_tensor(reference.task_arithmetic, base, parents, [0.6] * 2),
    }.get(method, lambda: reference.each_tensor(reference.ties, base, parents, **options))()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.Cpu, "span", piece)
        scope = {} if method in ("average", "task_arithmetic") else {"trim_scope": "tensor"}
        state = whole_models.merge_state(method.split()[0], base, parents, **scope, **options)
    assert_same_bits({name: state[name] for name in base}, as_state(wanted))


@given(models(), densities)
def test_a_tensor_that_nobody_changed_keeps_its_bits(model, density):
    base, parents = model
    base["still"] = f32(-0.0, 1e-45, 0.1, 3e38)
    for parent in parents.values():
        parent["still"] = base["still"].copy()
    for merged in (ties.ties(base, parents, density=density),
                   average.average(base, parents, alpha=0.3),
                   task_arithmetic.task_arithmetic(base, parents)):  # fmt: skip
        assert merged["still"].tobytes() == base["still"].tobytes()


def test_float64_stays_float64():
    base, parent = np.array([0.1, 0.2]), np.array([0.1, 0.3])
    merged = ties.ties(base, [parent], density=1)
    assert merged.dtype == np.float64
    assert merged[0] == base[0]
    assert_same_bits({"x": merged}, reference.ties({"x": base}, {"p": {"x": parent}}, density=1)[0])


def test_tied_weights_count_once():
    table, ct_table = f32(0, 0), f32(5, 4)
    base = {"model.embed_tokens.weight": table, "lm_head.weight": table, "b": f32(0, 0)}
    ct = {"model.embed_tokens.weight": ct_table, "lm_head.weight": ct_table, "b": f32(3, 2)}
    merged = ties.ties(base, [ct], density=0.75)  # 3 of 4 entries, not 4.5 of 6
    assert merged["b"].tolist() == [3, 0]
    assert merged["lm_head.weight"] is merged["model.embed_tokens.weight"]
    assert list(merged) == list(base)


def test_torch_tensors_come_back_as_torch():
    import torch

    base = torch.tensor([1.0, 2.0, 3.0]).to(torch.bfloat16)
    ct, sft = base + 1, base - 0.5
    merged = ties.ties(base, {"ct": ct, "sft": sft}, density=1)
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [2, 3, 4]
    assert (
        average.average({"a": base.float()}, [{"a": ct}, {"a": sft}], alpha=0.5)["a"].dtype == torch.float32
    )
    turned = torch.arange(6.0).reshape(2, 3).to(torch.bfloat16).T  # not contiguous
    assert ties.ties(turned, [turned + 1], density=1).tolist() == (turned + 1).tolist()
    shared = torch.zeros(2)
    tied = ties.ties({"a": shared, "b": shared}, [{"a": shared + 1, "b": shared + 1}], density=1)
    assert tied["a"].data_ptr() == tied["b"].data_ptr()


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0}, r"density must lie in \(0, 1\], got 0"),
        ({"density": 20}, r"density must lie in \(0, 1\], got 20"),
        ({"density": float("nan")}, "density must lie in"),
        ({"density": 1, "weights": {"xx": 1}}, "weights: no parent 'xx'; parents are"),
        ({"density": 1, "weights": [1, 2, 3]}, "3 values for 2 parents"),
        ({"density": 1, "weights": [0, 0]}, "ties needs weights other than 0 for one parent at least"),
        ({"density": 1, "weights": [-1, 1]}, "weights must be"),
        ({"density": 1, "lam": float("inf")}, "lam must be"),
        ({"density": 1, "zero_sign": "minority"}, "zero_sign must be one of"),
        ({"density": 1, "at_threshold": "some"}, "at_threshold must be one of"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ties.ties(f32(1), {"ct": f32(2), "sft": f32(3)}, **options)


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ({"a": f32(1, 2, 3)}, r"ties: 'a' is \(2,\) in base but \(3,\) in ct"),
        ({"b": f32(1, 2)}, "ties: 'a' is in base but not in ct"),
        ({"a": f32(1, 2), "b": f32(1)}, "ties: 'b' is in ct but not in base"),
        ({"a": np.array([1, 2])}, "ties: 'a' is float32 in base but int64 in ct"),
        ({"a": f32(np.nan, np.inf)}, "ct: 'a' holds NaN or Inf in 2 of 2 entries"),
    ],
)
def test_tensors_that_do_not_match_are_refused(parent, message):
    with pytest.raises(UserError, match=message):
        ties.ties({"a": f32(1, 2)}, {"ct": parent}, density=1)


def test_tying_that_differs_is_refused():
    table = f32(1, 2)
    with pytest.raises(UserError, match=r"'lm_head.weight' is tied to 'embed' in base but differs"):
        ties.ties(
            {"embed": table, "lm_head.weight": table},
            {"ct": {"embed": f32(1, 2), "lm_head.weight": f32(3, 4)}},
            density=1,
        )


def test_non_float_tensors_must_be_equal_and_are_kept():
    base = {"ids": np.arange(3), "w": f32(1)}
    merged = ties.ties(base, {"ct": {"ids": np.arange(3), "w": f32(2)}}, density=1)
    assert merged["ids"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"'ids' is not a float tensor \(int64\) and differs"):
        ties.ties(base, {"ct": {"ids": np.zeros(3, int), "w": f32(2)}}, density=1)


def test_results_outside_the_range_are_refused():
    base = f32(1).astype(np.float16)
    with pytest.raises(UserError, match=r"1 merged entries are beyond float16's range"):
        ties.ties(base, [f32(60000)], density=1, lam=2)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties"])
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800000])
def test_no_kind_of_nan_passes(method, bits, dtype):
    """0xFFFFFFFF is what an erased page of a disk reads as; bfloat16 inputs are tried too."""
    value = np.array([0x3F800000, bits, 0], np.uint32)
    options = {"density": 1.0} if method == "ties" else {}
    for bad in (value.view(np.float32), (value >> 16).astype(np.uint16).view(BF16)):
        for where in ("base", "ct", "sft"):
            models = {label: {"w": f32(1, 2, 3).astype(bad.dtype)} for label in ("base", "ct", "sft")}
            models[where]["w"] = bad
            with pytest.raises(UserError, match=rf"{where}: 'w' holds NaN or Inf in 1 of 3 entries"):
                whole_models.merge_state(method, models.pop("base"), models, dtype=dtype, **options)


# folders


@pytest.fixture(params=[np.dtype(np.float32), BF16, np.dtype(np.float16)], ids=str)
def folders(request, tmp_path):
    base = pico(dtype=request.param)
    parents = children(base)
    for tensors in (base, *parents.values()):
        tensors["inv_freq_steps"] = np.arange(4)
    paths = {"base": save_folder(tmp_path / "base", base, shards=2)}
    for label, tensors in parents.items():
        paths[label] = save_folder(tmp_path / label, tensors, shards=1 if label == "ct" else 3)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "notes.txt").write_text("not part of a model")
    return paths, base, parents


METHODS = {
    "average": {"alpha": 0.3},
    "task_arithmetic": {"lam": 0.5},
    "ties": {"density": 0.4, "lam": 0.8},
    "ties_sv": {"density": 0.4, "slack": 0.3},
}


def on_tensors(method, base, parents, options):
    if method == "ties_sv":
        return ties_sv.ties_sv(base, parents["ct"], parents["sft"], **options)
    module = {"average": average, "task_arithmetic": task_arithmetic, "ties": ties}[method]
    return getattr(module, method)(base, parents, **options)


@pytest.mark.parametrize("method", METHODS)
def test_folders_give_the_bits_of_the_tensor_functions(folders, tmp_path, method):
    paths, base, parents = folders
    models = {"ct": paths["ct"], "sft": paths["sft"]}
    report = whole_models.merge_checkpoints(
        method, paths["base"], models, tmp_path / "out", **METHODS[method]
    )
    opened = reading.open_checkpoint(tmp_path / "out")
    wanted = on_tensors(method, base, parents, METHODS[method])
    assert_same_bits(dict(opened), {name: wanted[name] for name in sorted(wanted)})
    assert report["entries"] == sum(x.size for x in pico().values())
    state = whole_models.merge_state(method, TaskVectors(paths["base"], models), **METHODS[method])
    floats = {n: wanted[n].astype(np.float32) for n in sorted(wanted) if n != "inv_freq_steps"}
    assert_same_bits({name: state[name] for name in floats}, floats)


def test_tensor_scope_is_one_call_a_tensor(folders, tmp_path):
    paths, base, parents = folders
    options = {"density": 0.3, "at_threshold": "exact"}
    models = {"ct": paths["ct"], "sft": paths["sft"]}
    state = whole_models.merge_state("ties", paths["base"], models, trim_scope="tensor", **options)
    for name in pico():
        alone = ties.ties(base[name], [parents["ct"][name], parents["sft"][name]], **options)
        assert np.array_equal(state[name], alone.astype(np.float32))


def test_report_equals_the_reference_and_is_in_manifest_and_card(folders, tmp_path):
    paths, base, parents = folders
    models, out = {"ct": paths["ct"], "sft": paths["sft"]}, tmp_path / "out"
    report = whole_models.merge_checkpoints("ties_sv", paths["base"], models, out, density=0.4, slack=0.3)
    floats = [{n: x for n, x in m.items() if n in pico()} for m in (base, *parents.values())]
    _, counts = reference.ties(floats[0], dict(zip(parents, floats[1:], strict=True)), density=0.4, slack=0.3)
    assert [report["parents"][p]["kept"] for p in ("ct", "sft")] == counts["kept"]
    assert [report["parents"][p]["discarded"] for p in ("ct", "sft")] == counts["discarded"]
    assert (report["conflicts"], report["reserved"]) == (counts["conflicts"], counts["reserved"])
    assert report["reserved_share"] == counts["reserved"] / counts["lost"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert report.pop("seconds") > 0  # not in the manifest: the same merge gives the same bytes
    assert manifest["report"] == json.loads(json.dumps(report))
    assert set(manifest["outputs"]) == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert manifest["inputs"]["base"]["folder"] == "../base"
    assert f"{report['conflict_share']:.4f}" in (out / "README.md").read_text()


def test_a_second_merge_replaces_the_first_with_the_same_bytes(folders, tmp_path):
    paths, _, _ = folders
    models, out = {"ct": paths["ct"], "sft": paths["sft"]}, tmp_path / "out"
    contents = []
    for _ in range(2):
        whole_models.merge_checkpoints("ties", paths["base"], models, out, density=0.4)
        contents.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert contents[0] == contents[1]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_dtype_of_the_output(folders, tmp_path):
    paths, _, _ = folders
    models, out = {"ct": paths["ct"], "sft": paths["sft"]}, tmp_path / "out"
    whole_models.merge_checkpoints("average", paths["base"], models, out, alpha=0.5, dtype="bfloat16")
    opened = reading.open_checkpoint(out)
    assert opened["model.norm.weight"].dtype == BF16
    assert opened.config["dtype"] == "bfloat16"


def test_tied_folders_are_merged_once_and_both_names_written(tmp_path):
    base = pico()
    models = {"base": base, **children(base)}
    for label, tensors in models.items():
        if label != "sft":  # sft leaves the copy out, as transformers does
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        save_folder(tmp_path / label, tensors, config={"tie_word_embeddings": True})
    given = {"ct": tmp_path / "ct", "sft": tmp_path / "sft"}
    report = whole_models.merge_checkpoints("ties", tmp_path / "base", given, tmp_path / "out", density=0.5)
    assert report["entries"] == sum(x.size for x in pico().values())
    opened = reading.open_checkpoint(tmp_path / "out")
    assert np.array_equal(opened["lm_head.weight"], opened["model.embed_tokens.weight"])
    assert opened.aliases == {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize("method", ["average", "ties"])
def test_tied_integers_are_written_under_both_names(tmp_path, method):
    table = np.arange(12, dtype=np.int8).reshape(3, 4)
    whole = {"model.embed_tokens.weight": table, "lm_head.weight": table, "a": np.ones(5, np.float32)}
    for label in ("base", "ct"):
        save_folder(tmp_path / label, whole, config={"tie_word_embeddings": True})
    given = (method, tmp_path / "base", {"ct": tmp_path / "ct"})
    options = {"density": 0.5} if method == "ties" else {}
    report = whole_models.merge_checkpoints(*given, tmp_path / "out", **options)
    assert report["entries"] == 5
    opened, kept = reading.open_checkpoint(tmp_path / "out"), whole_models.merge_state(*given, **options)
    assert opened.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    for merged in (opened, kept):
        assert {name: x.tolist() for name, x in merged.items()} == {n: x.tolist() for n, x in whole.items()}


def test_tied_and_untied_parents_are_refused(tmp_path):
    base = pico()
    save_folder(tmp_path / "base", base, config={"tie_word_embeddings": True})
    save_folder(tmp_path / "ct", base | {"lm_head.weight": base["model.embed_tokens.weight"] + 1})
    with pytest.raises(UserError, match="embeddings are tied in base but separate in ct"):
        whole_models.merge_state("average", tmp_path / "base", {"ct": tmp_path / "ct"})


def test_a_larger_vocabulary_is_refused(tmp_path):
    base = pico()
    grown = base | {"model.embed_tokens.weight": np.zeros((18, 8), np.float32)}
    save_folder(tmp_path / "base", base)
    save_folder(tmp_path / "ct", grown)
    message = r"is \(16, 8\) in base but \(18, 8\) in ct: their vocabularies differ. .*no tokenizer.json"
    with pytest.raises(UserError, match=message):
        whole_models.merge_checkpoints(
            "average", tmp_path / "base", {"ct": tmp_path / "ct"}, tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_outputs_that_would_do_harm_are_refused(folders, tmp_path):
    paths, _, _ = folders
    models = {"ct": paths["ct"], "sft": paths["sft"]}
    for out in (paths["ct"], paths["ct"] / "merged", tmp_path):
        with pytest.raises(UserError, match="lies in or around the input"):
            whole_models.merge_checkpoints("average", paths["base"], models, out)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not a merge made here"):
        whole_models.merge_checkpoints("average", paths["base"], models, foreign)
    assert (foreign / "thesis.tex").read_text() == "years of work"
    whole_models.merge_checkpoints("average", paths["base"], models, foreign, force=True)
    assert (foreign / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dare", {}, "unknown merge method 'dare'; methods are average,"),
        (
            "average",
            {"density": 0.5},
            "average has no density; its options are alpha, normalize, weights",
        ),
        ("ties", {}, "ties needs density, the share of entries kept"),
        (
            "ties",
            {"density": 0.5, "trim_scope": "layer"},
            "trim_scope must be one of model, tensor",
        ),
        ("ties", {"density": 0.5, "lam": 1e40}, "lam must be"),
        ("ties", {"density": 0.5, "dtype": "int8"}, "dtype must be auto or one of"),
        ("average", {"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        (
            "average",
            {"alpha": 0.5, "weights": [1, 2]},
            "average takes alpha for two parents, without",
        ),
    ],
)
def test_wrong_requests_are_refused_before_writing(folders, tmp_path, method, options, message):
    paths, _, _ = folders
    models = {"ct": paths["ct"], "sft": paths["sft"]}
    with pytest.raises(UserError, match=message):
        whole_models.merge_checkpoints(method, paths["base"], models, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_parent_of_another_base_is_doubted(tmp_path):
    save_folder(tmp_path / "base", pico())
    save_folder(tmp_path / "ct", pico(7))
    with pytest.warns(UserWarning, match="ct: its task vector is 1.* times as long as the base"):
        report = whole_models.merge_checkpoints(
            "average", tmp_path / "base", {"ct": tmp_path / "ct"}, tmp_path / "out"
        )
    assert len(report["warnings"]) == 1
    assert "Warning: ct" in (tmp_path / "out" / "README.md").read_text()


def test_transformers_opens_the_merge(pico_llama, tmp_path):
    from support.pico import save_pico
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = {name: save_pico(tmp_path / name, seed=i) for i, name in enumerate(("ct", "sft"), 1)}
    whole_models.merge_checkpoints("ties", pico_llama, models, tmp_path / "out", density=0.5)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    wanted = reading.open_checkpoint(tmp_path / "out")
    state = model.state_dict()
    assert all(np.array_equal(state[name].numpy(), wanted[name]) for name in wanted)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) > 20


# what a review found


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f8"])
def test_any_byte_order_keeps_an_unchanged_tensor(kind):
    base = np.array([0.1, -2.5, 1e-3], kind)
    for merged in (ties.ties(base, [base.copy()], density=1), average.average(base, [base.copy()] * 2)):
        assert np.array_equal(merged, base)


def test_floats_that_are_not_merged_are_named():
    x = np.zeros(2, np.longdouble)
    with pytest.raises(UserError, match="'a' is .*; merged are float64, float32, float16, bfloat16"):
        average.average({"a": x}, [{"a": x}])


def test_a_parent_called_base_is_refused(folders, tmp_path):
    paths, _, _ = folders
    with pytest.raises(UserError, match="none called base"):
        whole_models.merge_checkpoints("average", paths["base"], {"base": paths["ct"]}, tmp_path / "out")
    with pytest.raises(UserError, match="a parent is called base"):
        average.average(f32(1), {"base": f32(2)})


@pytest.mark.parametrize("given", ["0.5", "half", [0.5, None]])
def test_a_density_that_is_no_number(given):
    x = f32(1, 2)
    if given == "0.5":
        assert ties.ties(x, [x + 1, x + 2], density=given) is not None
        return
    with pytest.raises(UserError, match="density: expected a number, got ('half'|None)"):
        ties.ties(x, [x + 1, x + 2], density=given)


def test_more_in_the_folder_than_a_merge_is_not_replaced(folders, tmp_path):
    paths, _, _ = folders
    models, out = {"ct": paths["ct"], "sft": paths["sft"]}, tmp_path / "out"
    whole_models.merge_checkpoints("average", paths["base"], models, out)
    (out / "notes.md").write_text("thoughts")
    with pytest.raises(UserError, match="or holds more than that"):
        whole_models.merge_checkpoints("average", paths["base"], models, out)
    assert (out / "notes.md").read_text() == "thoughts"


def test_the_recipe_is_complete_and_shown_as_text(folders, tmp_path):
    paths, _, _ = folders
    models, out = {"a|b<script>": paths["ct"], "sft": paths["sft"]}, tmp_path / "out"
    report = whole_models.merge_checkpoints("ties_sv", paths["base"], models, out, density=0.4, slack=0.2)
    recipe = json.loads((out / "manifest.json").read_text())["report"]["recipe"]
    assert recipe["models"]["sft"] == str(paths["sft"]) and recipe["base"] == str(paths["base"])
    assert recipe["weights"] == {"a|b<script>": 1.0, "sft": 1.0} and recipe["at_threshold"] == "keep-all"
    assert (recipe["lam"], recipe["zero_sign"], recipe["protect"]) == (1.0, "majority", "sft")
    card = (out / "README.md").read_text()
    assert "<script>" not in card and r"a\|b&lt;script&gt;" in card and "- base: base" in card
    again = whole_models.merge_checkpoints(
        "ties_sv", paths["base"], models, tmp_path / "again", density=0.4, slack=0.2
    )
    assert again["recipe"] == report["recipe"] == recipe


def test_a_density_that_keeps_nothing_is_doubted(folders, tmp_path):
    paths, _, _ = folders
    report = whole_models.merge_checkpoints(
        "ties", paths["base"], {"ct": paths["ct"]}, tmp_path / "out", density=1e-9
    )
    assert report["warnings"] == ["ct: this density keeps none of 264 entries"]
