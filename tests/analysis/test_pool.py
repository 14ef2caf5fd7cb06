"""A pool of seeds: what its file keeps, which runs it takes, what it says, where one run lies in it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.made_pool import made_line, write_made_pool
from support.made_run import BUDGETS, made_study, write_made_run

from lrnb import statistics
from lrnb.analysis import comparisons, findings, instruction_sets, pool, pool_answers, pool_lines, results
from lrnb.cli.main import main
from lrnb.data import microworld, microworld_stories
from lrnb.errors import UserError
from lrnb.study.parameters import ROOT, Study, load_study
from lrnb.study.recipe import RECIPE, UNCOUNTED, pool_file, stored_pool
from lrnb.study.stages import RunPaths


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    runs = tmp_path_factory.mktemp("runs")
    write_made_run(runs, n=60)
    return made_study(runs)


@pytest.fixture(scope="module")
def line(study: Study) -> pool_lines.Line:
    return pool.run_line(study)


@pytest.fixture
def path(study: Study, tmp_path: Path) -> Path:
    return pool_file(tmp_path, study)


def differences(study: Study) -> pd.DataFrame:
    return pd.read_csv(RunPaths(study).scores / "differences.csv")


# The file


def test_a_line_keeps_every_answer_of_a_run(study: Study, line: pool_lines.Line, path: Path) -> None:
    pool.write_pool(path, [line])
    (read,) = pool.read_pool(path)
    right, items = pool_lines.right_of(read), results.gather(RunPaths(study))[1]
    assert {pool_lines.arm_name(*model) for model in right} == set(pool_lines.arms(study))
    for (method, tokens, task), part in items.groupby(["method", "ct_tokens", "task"]):
        assert right[method, tokens][task].tolist() == part.sort_values("item")["correct"].tolist()
    assert (read["isa"], read["processor"], read["recipe"]) == ("avx512", "a made one", RECIPE)
    assert read["versions"] == {"lrnb": "0.1.0"}


def test_a_line_keeps_bits_per_byte_and_what_the_election_did(study: Study, line: pool_lines.Line) -> None:
    assert set(line["bits"]) == set(pool_lines.arms(study))
    assert line["bits"]["ct@16384"] == {"qaa": 1.7952, "en": 1.041}
    shares = pd.read_csv(RunPaths(study).conflicts / "shares.csv")
    for tokens, kept in line["shares"].items():
        rows = shares[(shares["ct_tokens"] == int(tokens)) & (shares["setting"] == "fixed")]
        (whole,) = rows[rows["tensor"] == "(model)"].to_dict("records")
        assert kept == {name: pytest.approx(whole[name], abs=1e-5) for name in pool.SHARES}


def test_the_stored_pool_goes_with_preset_nano() -> None:
    """Fails where parameters, world or recipe moved: make docs/results/nano anew, or undo what moved it."""
    study = load_study(ROOT / "params" / "qaa.yaml", "nano")
    path = stored_pool(study)
    assert pool.misfits(study, pool.read_pool(path)) == []
    assert not path.is_file() or path.stat().st_size < 3_000_000


def test_lines_stand_by_seed_and_set_after_what_they_say(line: pool_lines.Line, path: Path) -> None:
    lines = [made_line(line, seed, isa) for seed, isa in ((1, "avx512"), (0, "avx512"), (0, "avx2"))]
    pool.write_pool(path, lines)
    first, *rest = map(json.loads, path.read_text().splitlines())
    assert first["seeds"] == {"avx2": 1, "avx512": 2} and first["headline_set"] == "avx512"
    assert [pool_lines.key(one) for one in rest] == [(0, "avx2"), (0, "avx512"), (1, "avx512")]
    assert [pool_lines.key(one) for one in pool_lines.headline_lines(rest)] == [(0, "avx512"), (1, "avx512")]
    every = [*rest, made_line(line, 3), made_line(line, 2, "avx2")]  # another machine's seed counts as well
    head = pool_lines.headline_lines(every)
    assert [pool_lines.key(one) for one in head][2:] == [(2, "avx2"), (3, "avx512")]
    assert pool_lines.told_sets(head) == "avx512 (3) and avx2 (1)"


@pytest.mark.parametrize(("broken", "why"), [('{"seed": 1', "not JSON"), ('{"seed": 1}', "no run of a pool")])
def test_a_broken_line_is_named(line: pool_lines.Line, path: Path, broken: str, why: str) -> None:
    pool.write_pool(path, [line])
    path.write_text(path.read_text() + f"{broken}\n")
    with pytest.raises(UserError, match=rf"nano-qaa\.jsonl:3: {why}"):
        pool.read_pool(path)


def test_methods_are_added_to_a_seed_and_leave_the_others(line: pool_lines.Line) -> None:
    old = line | {"items": {k: v for k, v in line["items"].items() if not k.startswith("ties")}}
    new = line | {"items": {k: v for k, v in line["items"].items() if not k.startswith("average")}}
    assert pool.with_run([made_line(line, 1), old], new)[-1]["items"].keys() == line["items"].keys()
    assert pool.with_run([old], line) == [line]
    other = made_line(new, 0)
    with pytest.raises(UserError, match="give other answers here"):
        pool.with_run([old], other)


def test_a_seed_is_there_with_all_models_or_not(study: Study, line: pool_lines.Line) -> None:
    assert pool_lines.has([line], study, "avx512") and not pool_lines.has([line], study, "avx2")
    assert not pool_lines.has([line], study.model_copy(update={"seed": 1}), "avx512")
    assert not pool_lines.has([line], study.model_copy(update={"ct_budgets": [1000]}), "avx512")


def test_a_run_of_mixed_instruction_sets_is_no_line(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path, n=20)
    manifest = folder / "scored" / "merged" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"isa": "avx2"}))
    with pytest.raises(UserError, match=r"different instruction sets.*avx2: qaa/scored/merged"):
        pool.run_line(made_study(tmp_path))
    with pytest.raises(
        UserError, match=r"qaa/scored/merged was made on avx2, and this is avx512.*runs=OTHER"
    ):
        pool.refuse_other_set(made_study(tmp_path), "avx512")


# What fits


def test_shares_of_training_sets_are_no_bits_and_are_refused():
    assert pool_lines.packed(pd.Series([1.0, 0.0])) != pool_lines.packed(pd.Series([0.0, 1.0]))
    with pytest.raises(UserError, match="several training sets has shares of them: leave it out of tasks"):
        pool_lines.packed(pd.Series([1.0, 1 / 3]))


def test_only_what_results_depend_on_must_be_equal(study: Study, line: pool_lines.Line, path: Path) -> None:
    pool.write_pool(path, [line])
    assert set(UNCOUNTED) <= set(Study.model_fields)
    free = {"threads": 2, "seed": 7, "runs": "x", "eval_batch": 3, "methods": ["ties"], "margin": 1.0}
    assert pool.misfits(study.model_copy(update=free), [line]) == []
    other = study.model_copy(update={"ct_lr": 0.5})
    assert pool.misfits(other, [line]) == [f"ct_lr (0.5 here, {study.ct_lr} in the pool)"]
    newer = {key: value for key, value in line["parameters"].items() if key != "zero_sign"}
    assert pool.misfits(study, [line | {"parameters": newer}]) == []
    (told,) = pool.misfits(study.model_copy(update={"zero_sign": "positive"}), [line | {"parameters": newer}])
    assert told == "zero_sign (positive here, majority in the pool)"
    gone = line["parameters"] | {"of_old": 1}
    assert "of_old" in pool.misfits(study, [line | {"parameters": gone}])[0]
    search = study.model_copy(update={"search": {"ties": {"lam": [0.1]}}})
    assert pool.misfits(search, [line]) == ["search of ties"]
    with pytest.raises(UserError, match=r"1 runs do not go with this study.*ct_lr.*--pool OTHER"):
        pool.refuse_misfit(other, path)


def test_another_recipe_or_world_does_not_fit(study: Study, line: pool_lines.Line) -> None:
    assert "recipe" in pool.misfits(study, [line | {"recipe": RECIPE - 1}])[0]
    assert "not recorded here" in pool.misfits(study, [line], None)[0]
    assert pool.misfits(study, [line | {"world": "other"}]) == ["text and items"]


def test_the_worlds_hash_sees_a_word_and_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pool.world_hash()
    pool.world_hash.cache_clear()
    assert pool.world_hash() == before
    for module, name in ((microworld, "part_of"), (microworld_stories, "draw_document")):
        pool.world_hash.cache_clear()
        with monkeypatch.context() as patch:
            old = getattr(module, name)
            turned = {"part_of": lambda *facts, old=old: old(*facts, facts[0]),
                      "draw_document": lambda rng, old=old: old(rng)[1:]}  # fmt: skip
            patch.setattr(microworld, name, turned[name])
            assert pool.world_hash() != before
    pool.world_hash.cache_clear()


# Several people's pools as one


def test_pools_of_several_people_are_one_with_each_run_once(line: pool_lines.Line, tmp_path: Path) -> None:
    lines = [made_line(line, seed) for seed in range(3)]
    own = [tmp_path / name / "nano-qaa.jsonl" for name in ("anna", "ben", "class")]
    for path, some in zip(own, (lines[:2], lines[1:], [made_line(line, 9)]), strict=True):
        pool.write_pool(path, some)
    pool.add_pools(own[2], own[:2])
    assert pool.read_pool(own[2]) == [*lines, made_line(line, 9)]
    assert [pool_lines.key(one)[0] for one in pool.read_pool(own[0])] == [0, 1]  # a student's file stays


def test_the_command_joins_pools_and_says_which_runs_it_does_not_count(
    line: pool_lines.Line, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = [tmp_path / f"{name}.jsonl" for name in ("anna", "ben", "cem")]
    for seed, file, isa in zip((0, 1, 1), files, ("avx2", "avx2", "arm64"), strict=True):
        pool.write_pool(file, [made_line(line, seed, isa)])
    out = tmp_path / "class" / "nano-qaa.jsonl"
    assert main(["pool", *map(str, files), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "nano-qaa.jsonl:2seedsonavx2" in "".join(said.split())  # however a terminal wraps it
    assert "not counted: 1 runs of the same seeds on another instruction set" in said
    assert main(["pool", str(files[0]), str(tmp_path / "none"), "--out", str(out)]) == 2


def test_runs_that_do_not_go_together_are_named_by_file_and_seed(
    line: pool_lines.Line, tmp_path: Path
) -> None:
    first, second, out = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    other = {"parameters": line["parameters"] | {"ct_lr": 0.5}}
    wrong = {
        "b.jsonl: seed 4 on avx512 was made with other ct_lr": made_line(line, 4) | other,
        "other text and items": made_line(line, 4) | {"world": "another"},
        r"b.jsonl: seed 3 on avx512 has other answers of .*ties@16384": made_line(line, 3, noise=0.3),
    }
    pool.write_pool(first, [made_line(line, 3)])
    for words, broken in wrong.items():
        pool.write_pool(second, [broken])
        with pytest.raises(UserError, match=words):
            pool.add_pools(out, [first, second])
    with pytest.raises(UserError, match="d.jsonl: no runs are in it"):
        pool.add_pools(out, [tmp_path / "d.jsonl"])
    assert not out.exists()


# What it says


def test_the_pooled_answer_is_the_paired_table_over_the_seeds(
    study: Study, line: pool_lines.Line, path: Path
) -> None:
    lines = write_made_pool(study, path, seeds=4)
    one = pool_answers.pool_for(study, path)
    assert one is not None and (one.seeds, one.isa, one.why) == (4, "avx512", [])
    rows = pool_answers.answer(one, differences(study), study.seed).set_index(pool_answers.KEYS)
    values = pool_answers.seed_leads(lines[:4]).set_index([*pool_answers.KEYS, "seed"])["value"].sort_index()
    where = ("ct_then_sft", "ties", BUDGETS[0], "mean")
    own = values.loc[where]
    assert rows.loc[where, "difference"] == pytest.approx(own.mean())
    assert rows.loc[where, "sd"] == pytest.approx(own.drop(0).std())  # the run is seed 0: not held against it
    assert rows.loc[where, "low"] < own.drop(0).mean() < rows.loc[where, "high"]
    assert set(rows["seeds"]) == {4} and set(rows["others"]) == {3}
    table = differences(study).set_index(pool_answers.KEYS)
    assert rows.loc[where, "own"] == pytest.approx(table.loc[where, "difference"])
    single = pool_answers.with_training(differences(study), one, study.seed)
    assert set(single["noise"]) == {comparisons.WITH_TRAINING}
    wide = single.set_index(pool_answers.KEYS).loc[where]
    assert wide["ci_high"] - wide["ci_low"] > table.loc[where, "ci_high"] - table.loc[where, "ci_low"]
    assert wide["p"] >= table.loc[where, "p"]


def test_a_lead_fades_over_the_seeds_by_what_it_shrinks_in_each(line: pool_lines.Line) -> None:
    lines = [made_line(line, seed) for seed in range(5)]
    leads = pool_answers.seed_leads(lines).query(
        "task == 'mean' and baseline == 'ct_then_sft' and method == 'ties'"
    )
    first, last = (leads[leads["ct_tokens"] == b].set_index("seed")["value"] for b in BUDGETS)
    rows = pool_answers.pooled_fades(lines)
    ties = rows.set_index("method").loc["ties"]
    assert ties["difference"] == pytest.approx((first - last).mean())
    assert [ties["lead_first"], ties["lead_last"]] == pytest.approx([first.mean(), last.mean()])
    said = findings.findings_of_fades(rows)
    assert all("over 5 seeds" in finding["text"] for finding in said)
    assert findings.HOLDS in {finding["verdict"] for finding in said}  # CT-then-SFT gains much in made runs


def test_what_never_led_falls_behind() -> None:
    row = {"method": "ties", "first": 1000, "last": 2000, "seeds": 9, "p": 0.01, "p_holm": 0.01}
    row |= {"difference": 3.0, "ci_low": 1.0, "ci_high": 5.0}
    leads = {"fades": (1.0, -2.0), "falls behind": (-1.0, -4.0)}
    for word, (first, last) in leads.items():
        said = findings.findings_of_fades(pd.DataFrame([row | {"lead_first": first, "lead_last": last}]))[0]
        assert said["word"] == word
    assert "from −1.0 to −4.0 points over CT-then-SFT, first minus last +3.0 over 9 seeds" in said["text"]


def test_methods_that_few_seeds_have_are_pooled_over_those(line: pool_lines.Line) -> None:
    lines = [made_line(line, seed) for seed in range(4)]
    for one in lines[2:]:
        one["items"] = {name: tasks for name, tasks in one["items"].items() if "average" not in name}
    seeds = pool_answers.pooled_leads(lines).set_index(["baseline", "method"])["seeds"]
    assert set(seeds.loc[("ct_then_sft", "ties")]) == {4} and set(seeds.loc[("ct_then_sft", "average")]) == {
        2
    }


def test_a_run_far_from_the_others_is_said_to_be_outside(study: Study, line: pool_lines.Line) -> None:
    lines = [made_line(line, seed, noise=0.0) for seed in range(1, 9)]
    table = differences(study)
    far = table.assign(difference=table["difference"] + 60)
    one = pool_answers.Pool(lines, [])
    assert pool_answers.answer(one, far, 0)["outside"].all()
    assert not pool_answers.answer(one, table, 0)["outside"].all()
    said = findings.findings_of_pool(pool_answers.answer(one, far, 0))
    assert all("is outside of where 95% of single runs lie" in finding["text"] for finding in said)


def test_the_answer_is_a_sentence(study: Study, line: pool_lines.Line) -> None:
    one = pool_answers.Pool([made_line(line, seed, noise=0.0) for seed in range(1, 9)], [])
    rows = pool_answers.answer(one, differences(study), 0)
    rows = rows[rows["baseline"] == "ct_then_sft"].assign(p_holm=0.001)
    better = rows.assign(difference=3.0, ci_low=2.5, ci_high=3.5)
    assert (said := findings.answer_in_a_sentence(better, 2)).startswith(
        "Over 8 seeds better than CT-then-SFT: "
    )
    assert said.endswith(" at every budget.") and "TIES" in said
    worse = better.assign(difference=-3.0, ci_low=-3.5, ci_high=-2.5)
    assert "no merge is better than CT-then-SFT at any of the" in findings.answer_in_a_sentence(worse, 2)
    assert "; worse: average and task arithmetic" in findings.answer_in_a_sentence(worse, 2)
    same = better.assign(difference=0.0, ci_low=-1.0, ci_high=1.0, p_holm=1.0)
    assert "; the same within 2 points: average and" in findings.answer_in_a_sentence(same, 2)
    open_ = same.assign(ci_low=-9.0, seeds=1, noise=comparisons.ITEMS_ONLY)
    said = findings.answer_in_a_sentence(open_, 2)
    assert said.startswith("In this one run no merge") and said.endswith(
        "their differences cannot be told from zero."
    )


def test_shares_are_means_over_the_seeds(line: pool_lines.Line) -> None:
    lines = [made_line(line, seed) for seed in range(2)]
    lines[1]["shares"] = {b: {k: 3 * v for k, v in own.items()} for b, own in lines[0]["shares"].items()}
    found = pool_answers.mean_shares(lines).set_index("ct_tokens")["sft_discarded_share"]
    for tokens, own in lines[0]["shares"].items():
        assert found[int(tokens)] == pytest.approx(2 * own["sft_discarded_share"])


def test_a_pool_that_does_not_fit_widens_nothing(study: Study, line: pool_lines.Line) -> None:
    one = pool_answers.Pool([made_line(line, seed) for seed in range(3)], ["ct_lr (1 here, 2 in the pool)"])
    table = differences(study)
    found = pool_answers.with_training(table, one, 0)
    assert set(found["noise"]) == {comparisons.ITEMS_ONLY} and found["ci_low"].equals(table["ci_low"])
    assert "other ct_lr (1 here, 2 in the pool)" in pool_answers.about(study, one)
    assert "No pool of seeds is stored" in pool_answers.about(study, None)


def test_two_instruction_sets_are_compared_seed_by_seed(line: pool_lines.Line) -> None:
    pairs = [(seed, isa) for seed in range(5) for isa in ("avx512", "avx2")]
    said = instruction_sets.agreement([made_line(line, *pair) for pair in pairs])["sets_agree"]
    numbers = len(line["items"]) + len(
        pool_answers.seed_leads([line]).query("task == 'mean' and baseline == 'ct_then_sft'")
    )
    assert (said["seeds"], said["numbers"]) == (5, numbers)
    assert said["agree"] > 0.8 * numbers
    assert abs(said["largest"]["difference"]) == max(abs(row["difference"]) for row in said["each"])
    better = {task: pool_lines.packed(pd.Series(np.ones(line["n"][task]))) for task in line["n"]}
    moved = [made_line(line, *pair) for pair in pairs]
    for one in moved:
        if one["isa"] == "avx2":
            one["items"]["ct@16384"] = better
    rows = instruction_sets.agreement(moved)["sets_agree"]["each"]
    assert not next(row for row in rows if row["model"] == "ct@16384")["agree"]
    assert instruction_sets.agreement([line])["sets_agree"] == {}
    assert "Two instruction sets (avx2, avx512) on the same 5 seeds agree in" in pool_answers._on_sets(
        pool_answers.Pool([], [], said)
    )


# Words


@pytest.mark.parametrize(
    ("low", "high", "p", "noise", "words"),
    [
        (0.5, 3.0, 0.01, comparisons.WITH_TRAINING, findings.HOLDS),
        (0.5, 3.0, 0.01, comparisons.ITEMS_ONLY, findings.ABOVE),
        (-3.0, -0.5, 0.01, comparisons.ITEMS_ONLY, findings.BELOW),
        (-1.9, 1.5, 0.6, comparisons.WITH_TRAINING, "the same within 2 points"),
        (-1.9, 1.5, 0.6, comparisons.ITEMS_ONLY, "the same within 2 points, items only"),
        (-2.0, 1.5, 0.6, comparisons.WITH_TRAINING, findings.OPEN),
    ],
)
def test_verdicts_say_what_the_interval_holds(low, high, p, noise, words) -> None:
    assert findings.verdict((low + high) / 2, low, high, p, noise, 2.0) == words


def test_nothing_holds_from_the_items_of_one_run(study: Study) -> None:
    scores, items = results.gather(RunPaths(study))
    said = findings.findings_of_scores(scores, items, comparisons.compare_methods(items, study), 2.0)
    assert not {f["verdict"] for f in said} & {findings.HOLDS, findings.FAILS}
    assert not any("significant" in f["text"] for f in said)


# Real languages


@pytest.fixture
def real(tmp_path: Path) -> Study:
    """A made run of a real language whose second task has drawn some rows of its file."""
    runs, study = tmp_path / "runs", made_study(tmp_path / "runs")
    write_made_run(runs, n=20)
    items = pd.read_parquet(RunPaths(study).scores / "items.parquet")
    drawn = items["task"] == "reading"
    items.loc[drawn, "item"] = 3 * items.loc[drawn, "item"] + 1
    items.to_parquet(RunPaths(study).scores / "items.parquet", index=False)
    RunPaths(study).lang.rename(RunPaths(study).root / "bn")
    (runs / "nano").rename(runs / "smol")
    root = tmp_path / "data"
    for name in ("corpus/bn.jsonl", "corpus/bo.jsonl", "eval/topic/bn/test.jsonl", "sft/topic.jsonl"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f'{{"text": "{name}"}}\n')
    return study.model_copy(update={"lang": "bn", "preset": "smol", "data_root": str(root)})


def test_the_rows_that_a_seed_has_drawn_are_kept_and_paired_by(real: Study) -> None:
    line = pool.run_line(real)
    assert [*line["rows"]] == ["reading"]
    right = pool_lines.right_of(json.loads(json.dumps(line)))["base", 0]
    assert [*right["reading"].index] == [3 * i + 1 for i in range(20)]
    assert [*right["topic"].index] == [*range(20)]
    assert pool_lines.seeds_share_items([line])
    other = line | {"seed": 1, "rows": {"reading": pool_lines.packed(pd.Series([0.0, 1.0] * 20))}}
    leads = pool_answers.pooled_leads([line, other])
    samples = [pool_lines.contrast(pool_lines.right_of(x), ("ties", 16_384), ("ct_then_sft", 16_384))
               for x in (line, other)]  # fmt: skip
    expected = statistics.over_seeds(samples, shared=True)
    row = leads[(leads["method"] == "ties") & (leads["ct_tokens"] == 16_384)].iloc[0]
    assert row["ci_high"] == pytest.approx(100 * expected.ci_high)


def test_text_and_items_of_a_real_language_count_by_content(real: Study, path: Path) -> None:
    def hashed() -> str:
        pool._files_hash.cache_clear()
        return pool.source_hash(real)

    root, before = Path(real.data_root), hashed()
    (root / "corpus" / "bo.jsonl").write_text("another language\n")
    text = root / "corpus" / "bn.jsonl"
    with gzip.open(f"{text}.gz", "wb") as file:
        file.write(text.read_bytes())
    text.unlink()
    assert hashed() == before
    pool.add_run(real, path)
    assert pool.refuse_misfit(real.model_copy(update={"seed": 3}), path)
    (root / "eval" / "topic" / "bn" / "test.jsonl").write_text('{"text": "changed"}\n')
    assert hashed() != before
    with pytest.raises(UserError, match="other text and items"):
        pool.refuse_misfit(real, path)
    pool._files_hash.cache_clear()
