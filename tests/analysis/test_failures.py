"""Why answers fail: counts with known answers, and what the examples may do to a page."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from support.made_run import BUDGETS, EVIL, made_shares, made_study, write_made_run

from lrnb import figures
from lrnb.analysis import failures, findings
from lrnb.errors import UserError
from lrnb.figures.text import text_html
from lrnb.study.stages import RunPaths

TASKS = ("topic", "reading", "written_sums")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_run(tmp_path_factory.mktemp("runs"), n=60, tasks=TASKS)


@pytest.fixture(scope="module")
def items(made: Path) -> pd.DataFrame:
    return failures.read_items(RunPaths(made_study(made.parents[1], TASKS)))


def written(texts: list[str], task: str = "sums") -> pd.DataFrame:
    """Generated answers of one model."""
    return pd.DataFrame(
        {"model": "ties@1k", "method": "ties", "ct_tokens": 1000, "task": task, "item": range(len(texts)),
         "gold": "7", "prediction": ["" if "\ufffd" in t else t for t in texts], "correct": False,
         "options": [[] for _ in texts], "context": "2 + 5", "generation": texts}
    )  # fmt: skip


def chosen(context: str, gold: str, said: str, options: dict[str, str]) -> dict:
    """One scored item; options: name -> text."""
    return {"model": "m", "method": "ties", "ct_tokens": 1, "task": "t", "gold": gold, "prediction": said,
            "correct": said == gold, "options": list(options), "texts": list(options.values()),
            "context": context, "generation": ""}  # fmt: skip


def test_items_of_an_earlier_version_are_refused(made: Path, tmp_path: Path) -> None:
    paths = RunPaths(made_study(tmp_path, TASKS))
    paths.scores.mkdir(parents=True)
    (paths.scores / "manifest.json").write_text("{}")
    old = pd.read_parquet(made / "scores" / "items.parquet").drop(columns=["context", "generation"])
    old.to_parquet(paths.scores / "items.parquet")
    with pytest.raises(UserError, match=r"no context, generation.*Score again.*04_evaluate"):
        failures.read_items(paths)


def test_broken_bytes_are_counted_with_an_exact_interval() -> None:
    table = failures.unparsable(written(["7", "\ufffd\ufffd", "৭", "", "a\ufffd7"] * 4))
    row = table.iloc[0]
    assert (row["n"], row["replaced"], row["unparsed"]) == (20, 40.0, 60.0)
    # Clopper-Pearson: the ends are where 8 of 20 has probability 2.5% on its side
    assert binom.sf(7, 20, row["ci_low"] / 100) == pytest.approx(0.025, abs=1e-6)
    assert binom.cdf(8, 20, row["ci_high"] / 100) == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "script", "expected"),
    [
        ("উত্তর: 7", "Bengali", "x"),
        ("answer: 7", "Bengali", "latin"),
        ("৭ + 5 = !", "Bengali", "none"),
        ("\ufffd\ufffd 7", "Bengali", "none"),
        ("", "Bengali", "none"),
        ("उत्तर", "Bengali", "other"),  # Devanagari
        ("हिन्दी okok", "Bengali", "other"),  # three letters and three signs against four
        ("কি what is this", "Bengali", "latin"),
        ("কিন্তু ok", "Bengali", "x"),  # vowel signs count with their letters
        ("ᠮᠣᠩᠭᠣᠯ", "Mongolian", "x"),
        ("монгол", "Mongolian", "other"),
        ("دۇنيا", "Arabic", "x"),
        ("བོད་སྐད།", "Tibetan", "x"),
        ("hello", "", "latin"),
    ],
)
def test_script_is_that_of_most_letters(text: str, script: str, expected: str) -> None:
    assert failures.script_of(text, script) == expected


def test_unknown_script_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="'Bangla' is no Unicode script"):
        failures.script_of("a", "Bangla")


def test_wrong_language_is_judged_by_the_tasks_own() -> None:
    texts = ["উত্তর 7", "the answer", "7", "उत्तर"]
    both = pd.concat([written(texts), written(texts, "sums_en")], ignore_index=True)
    table = failures.scripts(both, "Bengali").set_index("task")
    assert table.loc["sums", "wrong"] == 50  # Latin and Devanagari
    assert table.loc["sums_en", "wrong"] == 50  # Bengali and Devanagari
    assert table.loc["sums", ["x", "latin", "other", "none"]].tolist() == [25] * 4
    latin = failures.scripts(both, "Latin").set_index("task")
    assert np.isnan(latin.loc["sums", "wrong"])
    assert latin.loc["sums_en", "wrong"] == 50


def test_scored_options_are_no_written_answers(made: Path, items: pd.DataFrame) -> None:
    scored = items[items["task"] != "written_sums"]
    assert len(failures.unparsable(scored)) == len(failures.scripts(scored, "Georgian")) == 0
    found = failures.unparsable(scored), failures.scripts(scored, "Georgian"), failures.overlap_errors(scored)
    said = findings.findings_of_failures(
        *found, pd.DataFrame({"slope": [], "ci_low": [], "budgets": []}), ["topic"]
    )
    assert "No answer was generated in this study" in said[0]
    assert "too few points (0 budgets)" in said[-1]


def test_overlap_is_trigram_recall() -> None:
    assert failures.character_overlap("abcd", "xabcx") == 0.5  # abc of abc, bcd
    assert failures.character_overlap("ABC  d", "abc d") == 1.0  # case and spacing are levelled
    assert failures.character_overlap("16", "he has 16 apples") == 1.0  # shorter than a trigram: the whole
    assert failures.character_overlap("16", "he has 1 or 6") == 0.0
    assert failures.character_overlap("", "abc") == 0.0
    assert failures.character_overlap("e\u0301a", "\u00e9a") == 1.0  # NFC


def test_poisson_binomial_is_the_binomial_for_equal_chances_and_sums_for_others() -> None:
    assert failures.poisson_binomial([0.3] * 12) == pytest.approx(binom.pmf(range(13), 12, 0.3))
    assert failures.poisson_binomial([0.5, 0.25]) == pytest.approx([0.375, 0.5, 0.125])
    assert failures.poisson_binomial([]) == pytest.approx([1.0])


def test_errors_that_follow_overlap_are_found_and_ties_count_with_their_chance() -> None:
    options = {"0": "red apple", "1": "blue house", "2": "green river", "3": "blue house"}
    near = [chosen("a red apple", "1", "0", options) for _ in range(8)]  # wrong: 0 near; 2, 3 not
    tie = [chosen("a blue house", "0", said, options) for said in "132"]  # wrong: 1 and 3 near, 2 not
    right = [chosen("a red apple", "0", "0", options)]
    even = [chosen("nothing here", "0", "1", options)]  # no option overlaps: cannot tell
    frame = pd.DataFrame(near + tie + right + even).assign(item=range(13))
    row = failures.overlap_errors(frame).iloc[0]
    assert (row["errors"], row["n"]) == (12, 11)
    assert row["nearest"] == pytest.approx(100 * 10 / 11)
    assert row["expected"] == pytest.approx(100 * (8 / 3 + 3 * 2 / 3) / 11)
    chances = failures.poisson_binomial([1 / 3] * 8 + [2 / 3] * 3)
    assert row["p"] == pytest.approx(chances[10:].sum())
    assert failures.nearest_wrong(frame).tolist() == [True] * 10 + [False] * 3


def test_errors_at_random_are_not_found_more_often_than_they_should() -> None:
    rng = np.random.default_rng(0)
    names = ["0", "1", "2", "3"]
    options = dict(zip(names, ["red apple", "blue house", "green river", "grey stone"], strict=True))
    p = []
    for _ in range(150):
        rows = [chosen(str(rng.choice(list(options.values()))), "0", str(rng.choice(names[1:])), options)
                for _ in range(30)]  # fmt: skip
        table = failures.overlap_errors(pd.DataFrame(rows).assign(item=range(30)))
        p.append(table["p"].iloc[0])
    assert np.mean(np.array(p) < 0.05) <= binom.ppf(1 - 1e-5, 150, 0.05) / 150
    assert 0.3 < np.mean(p) < 0.8  # exact tails hold their own point: a little above one half


def test_positions_without_texts_cannot_be_told() -> None:
    row = chosen("a red apple", "1", "0", {"0": "red", "1": "b", "2": "c"})
    frame = pd.DataFrame([row]).assign(item=0)
    assert len(failures.overlap_errors(frame)) == 1
    assert len(failures.overlap_errors(frame.drop(columns="texts"))) == 0
    named = {**row, "options": ["red apple", "b", "c"], "prediction": "red apple", "gold": "b"}
    assert len(failures.overlap_errors(pd.DataFrame([named]).assign(item=0).drop(columns="texts"))) == 1


def test_kept_entries_of_both_methods_come_from_the_counts() -> None:
    shares = made_shares()
    table = failures.kept(shares).set_index(["method", "ct_tokens"])["kept"]
    whole = shares[(shares["tensor"] == "(model)") & (shares["setting"] == "chosen")].set_index("ct_tokens")
    row = whole.loc[BUDGETS[1]]
    assert table["ties", BUDGETS[1]] == pytest.approx(100 - 100 * row["sft_discarded"] / row["sft_kept"])
    won = 100 * row["reserved"] / row["sft_kept"]
    assert table["ties_sv", BUDGETS[1]] - table["ties", BUDGETS[1]] == pytest.approx(won)
    apart = failures.kept(shares.assign(ties_density=[0.2, *shares["density"][1:]]))  # at the first budget
    assert ("ties", BUDGETS[0]) not in set(zip(apart["method"], apart["ct_tokens"], strict=True))


def merges(rng: np.random.Generator, rates: dict[tuple[str, int], float], n: int = 120) -> pd.DataFrame:
    """Items of TIES and TIES-SV at some budgets, right at these rates, on items of equal difficulty."""
    hard = rng.random(n)  # the same for all models: they err on the same items
    return pd.concat(
        pd.DataFrame({"method": m, "ct_tokens": t, "task": "t", "item": range(n), "correct": hard < rate})
        for (m, t), rate in rates.items()
    )


def counted(lost: list[float]) -> pd.DataFrame:
    """A shares table of budgets 1, 2, ... that lose these percents of SFT, a tenth of it won back."""
    return pd.DataFrame(
        {"tensor": "(model)", "setting": "chosen", "ct_tokens": range(1, len(lost) + 1), "sft_kept": 1000,
         "sft_discarded": [10 * x for x in lost], "reserved": [float(x) for x in lost]}
    )  # fmt: skip


def test_slope_is_least_squares_and_needs_three_budgets() -> None:
    rates = {(m, t): 0.3 + 0.1 * t for m in ("ties", "ties_sv") for t in (1, 2, 3)}
    items, shares = merges(np.random.default_rng(0), rates), counted([30, 20, 15])
    row = failures.fragility(items, shares).iloc[0]
    score = items.groupby(["method", "ct_tokens"])["correct"].mean()
    x = failures.kept(shares).set_index(["method", "ct_tokens"])["kept"].reindex(score.index)
    assert row["slope"] == pytest.approx(1000 * np.polyfit(x, score, 1)[0])
    assert (row["merges"], row["budgets"]) == (6, 3)
    assert row["ci_low"] < row["slope"] < row["ci_high"] and row["p"] < 0.01
    few = failures.fragility(items[items["ct_tokens"] < 3], shares).iloc[0]
    assert np.isnan(few["slope"]) and few["budgets"] == 2


def test_merges_that_are_the_same_model_make_no_slope_surer() -> None:
    rates = {("ties", t): 0.4 + 0.04 * t for t in (1, 2, 3)}
    one = merges(np.random.default_rng(1), rates)
    both, shares = pd.concat([one, one.assign(method="ties_sv")]), counted([30, 20, 15]).assign(reserved=0)
    alone, twice = (failures.fragility(frame, shares).iloc[0] for frame in (one, both))
    for name in ("slope", "ci_low", "ci_high", "p"):
        assert alone[name] == pytest.approx(twice[name])


def test_slopes_without_cause_are_found_as_often_as_they_may() -> None:
    rng, shares, p = np.random.default_rng(2), counted([30, 20, 15]), []
    for _ in range(150):
        own = [merges(rng, {("ties", t): 0.5}, 80) for t in (1, 2, 3)]  # each with luck of its own
        p.append(failures.fragility(pd.concat(own), shares)["p"].iloc[0])
    low, high = binom.ppf([5e-6, 1 - 5e-6], 150, 0.05) / 150
    assert low <= np.mean(np.array(p) < 0.05) <= high


def test_lost_answers_are_those_the_other_had(items: pd.DataFrame) -> None:
    mask = failures.lost(items, "sft", "ties@65k")
    right = items[(items["model"] == "sft") & items["correct"]]
    assert mask.any()
    assert set(items.loc[mask, "model"]) == {"ties@65k"}
    assert set(map(tuple, items.loc[mask, ["task", "item"]].to_numpy())) <= set(
        map(tuple, right[["task", "item"]].to_numpy())
    )


# figures and examples


def test_figures_show_shares_chance_and_interval(items: pd.DataFrame) -> None:
    near = failures.overlap_errors(items)
    tasks = list(dict.fromkeys(near["task"]))
    fig = figures.shares_by_model(near, "nearest", "overlap", "errors (%)")
    for task, points, random in zip(tasks, fig.data[::2], fig.data[1::2], strict=True):
        rows = near[near["task"] == task]
        assert list(points.x) == list(rows["nearest"])
        assert list(random.x) == list(rows["expected"]) and random.name == "at random"
        assert np.allclose(points.error_x.array, rows["ci_high"] - rows["nearest"])
    names = [note.text for note in fig.layout.annotations]
    assert len(names) == len(tasks) and all(re.search(r"n = \d+", name) for name in names)
    assert not figures.shares_by_model(near.head(0), "nearest", "overlap", "errors (%)").data


def test_a_task_of_zeros_has_no_panel_and_is_named(items: pd.DataFrame) -> None:
    near = failures.overlap_errors(items)
    none, *rest = dict.fromkeys(near["task"])
    zeros = near.assign(nearest=near["nearest"].where(near["task"] != none, 0.0))
    fig = figures.shares_by_model(zeros, "nearest", "overlap", "errors (%)")
    assert len(fig.data) == 2 * len(rest)
    assert f"0% in every model: {none}" in fig.layout.title.text
    assert not any(note.text.startswith(f"{none}<br>") for note in fig.layout.annotations)
    empty = figures.shares_by_model(near.assign(nearest=0.0), "nearest", "overlap", "errors (%)")
    assert not empty.data and empty.layout.height < 200
    assert "0% in every model" in empty.layout.annotations[0].text


def test_accuracy_against_kept_has_the_chance_line_and_says_when_points_are_few(made: Path) -> None:
    scores = pd.read_csv(made / "scores" / "scores.csv")
    points = failures.kept_and_scores(scores, made_shares())
    assert set(points["method"]) == {"ties", "ties_sv"} and not points["task"].str.startswith("mean").any()
    slope = {"task": "topic", "slope": 12.0, "ci_low": -1.0, "ci_high": 25.0}
    fig = figures.scores_against_kept(points, pd.DataFrame([slope]))
    assert {shape.y0 for shape in fig.layout.shapes} == {25.0}
    assert "slope +12.0 (−1.0 to +25.0)" in fig.layout.annotations[0].text
    line = next(trace for trace in fig.data if trace.name == "fitted")
    assert (line.y[1] - line.y[0]) / (line.x[1] - line.x[0]) == pytest.approx(1.2)
    few = pd.DataFrame([slope | {"slope": np.nan}])
    fig = figures.scores_against_kept(points, few)
    assert "2 budgets, too few for a slope" in fig.layout.annotations[0].text
    assert "fitted" not in [trace.name for trace in fig.data]
    one = figures.scores_against_kept(points[points["ct_tokens"] == BUDGETS[0]], few)
    assert not one.data and one.layout.annotations[0].text.startswith("one CT budget")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append((tag, dict(attrs)))


def test_examples_are_escaped_and_hold_both_answers(items: pd.DataFrame) -> None:
    models = failures.side_by_side(items)
    assert models == ["ct_then_sft@16k", "ties_sv@16k"]
    picked = failures.examples(items, items["generation"].str.contains("\ufffd"), models)
    assert len(picked) == 3 and all(set(row["answers"]) == set(models) for row in picked)
    page = figures.examples_html(picked, "qaa", "Georgian")
    reader = Tags()
    reader.feed(page)
    assert {tag for tag, _ in reader.seen} <= set("table tr th td div span b mark".split())
    assert EVIL not in page and "&lt;script&gt;" in page
    assert re.search(
        r'<mark class="lrnb-garbage" title="2: bytes of a character[^>]*>\ufffd\ufffd</mark>', page
    )
    assert {attrs["lang"] for tag, attrs in reader.seen if tag == "div"} == {"qaa", "en"}
    assert "No such example" in figures.examples_html([])


def test_examples_show_the_text_of_an_option() -> None:
    row = chosen("context", "1", "0", {"0": "a house", "1": "a river"})
    frame = pd.DataFrame([row]).assign(item=0)
    found = failures.examples(frame, pd.Series([True]), ["m"])[0]
    assert (found["gold"], found["answers"]["m"], found["right"]["m"]) == ("a river", "a house", False)


def test_text_gets_font_direction_and_way_of_its_script() -> None:
    assert "'Noto Sans Bengali'" in unescape(text_html("কিন্তু", "bn", "Bengali"))
    uyghur = text_html("Text: دۇنيا دۇنيا", "ug", "Arabic")
    assert 'lang="ug"' in uyghur and 'dir="rtl"' in uyghur
    assert 'dir="ltr"' in text_html("sports", "ug", "Arabic")
    assert "vertical-lr" in text_html("ᠮᠣᠩᠭᠣᠯ", "mn", "Mongolian")
    assert "vertical-lr" not in text_html("sports", "mn", "Mongolian")
    assert "⟨U+202E⟩" in text_html("\u202eevil", "en")  # it would turn the line around
    long = {"task": "t", "context": "a" * 10_000, "gold": "", "answers": {"m": "b"}, "right": {"m": True}}
    assert len(figures.examples_html([long])) < 2000


def test_a_task_that_no_merge_answers_differently_has_no_slope_to_name() -> None:
    flat = {"task": "never right", "merges": 6, "budgets": 3, "slope": 0.0, "ci_low": np.nan,
            "ci_high": np.nan, "p_holm": np.nan}  # fmt: skip
    falls = flat | {"task": "topic", "slope": -2.5, "ci_low": -4.0, "ci_high": -1.0, "p_holm": 0.01}
    empty = pd.DataFrame(columns=["task", "p_holm"])
    both, alone = (
        findings.findings_of_failures(empty, empty, empty, pd.DataFrame(rows), [])[-1]
        for rows in ([flat, falls], [flat])
    )
    assert "topic, -2.5 points" in both and "nan" not in both
    assert alone == "Accuracy against the SFT entries kept: no item's answer differs between the merges."


def test_sentences_hold_the_numbers_of_the_tables(items: pd.DataFrame) -> None:
    broken, wrong = failures.unparsable(items), failures.scripts(items, "Georgian")
    near = failures.overlap_errors(items)
    slopes = pd.DataFrame([{"task": "topic", "merges": 6, "budgets": 3, "slope": 2.5, "ci_low": 1.0,
                            "ci_high": 4.0, "p_holm": 0.01}])  # fmt: skip
    said = findings.findings_of_failures(broken, wrong, near, slopes, list(TASKS))
    assert f"at most {broken['replaced'].max():.1f}%" in said[0]
    assert f"at most {wrong['wrong'].max():.1f}%" in said[1]
    assert "Not told for written_sums" in said[2] and f"of {len(near)} pairs" in said[2]
    assert "topic, +2.5 points for each 10% kept" in said[3] and "Clearly rising (Holm): topic." in said[3]


def test_every_wrong_answer_is_kept_with_its_text(items: pd.DataFrame) -> None:
    table = failures.failed_items(items).set_index(["task", "item"])
    wrong = items[~items["correct"].astype(bool)]
    assert set(table.index) == set(wrong[["task", "item"]].itertuples(index=False, name=None))
    assert table["wrong"].sum() == len(wrong)
    row = items[(items["model"] == "ties@16k") & items["options"].map(len).gt(0) & ~items["correct"]].iloc[0]
    kept = table.loc[(row["task"], row["item"])]
    assert kept["context"] == row["context"]
    texts = dict(zip(row["options"], row["texts"], strict=True))
    assert kept["options"].split("\n") == list(row["texts"])
    assert (kept["gold"], kept["ties@16k"]) == (texts[row["gold"]], texts[row["prediction"]])
    wrote = wrong[wrong["generation"] != ""].iloc[0]
    assert table.loc[(wrote["task"], wrote["item"]), wrote["model"]] == wrote["generation"]
