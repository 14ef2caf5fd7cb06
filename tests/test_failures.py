"""Why answers fail: counts with known answers, and what the examples may do to a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_run import BUDGETS, EVIL, made_shares, made_study, write_made_run
from scipy.stats import binom

from lrnb import failures, findings, plots_failures, summary
from lrnb.params import UserError
from lrnb.store import RunPaths

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
    said = findings.of_failures(failures.unparsable(scored), failures.scripts(scored, "Georgian"),
                                failures.overlap_errors(scored), pd.DataFrame({"slope": [], "merges": []}),
                                ["topic"])  # fmt: skip
    assert "No answer was generated in this study" in said[0]
    assert "too few points (0 merges a task)" in said[-1]


def test_overlap_is_trigram_recall() -> None:
    assert failures.overlap("abcd", "xabcx") == 0.5  # abc of abc, bcd
    assert failures.overlap("ABC  d", "abc d") == 1.0  # case and spacing are levelled
    assert failures.overlap("16", "he has 16 apples") == 1.0  # shorter than a trigram: the whole
    assert failures.overlap("16", "he has 1 or 6") == 0.0
    assert failures.overlap("", "abc") == 0.0
    assert failures.overlap("e\u0301a", "\u00e9a") == 1.0  # NFC


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
    assert table["ties_sv", BUDGETS[1]] == pytest.approx(100 - 100 * row["sft_discarded"] / row["sft_kept"])
    won = 100 * row["reserved"] / row["sft_kept"]
    assert table["ties_sv", BUDGETS[1]] - table["ties", BUDGETS[1]] == pytest.approx(won)


def test_slope_and_its_interval_are_the_textbooks() -> None:
    """Anscombe's first set: slope 0.500, standard error 0.1179, p 0.00217, nine degrees of freedom."""
    x = [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
    y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
    row = failures.fragility(pd.DataFrame({"task": "t", "kept": x, "value": y})).iloc[0]
    assert row["slope"] == pytest.approx(5.001, abs=1e-3)
    assert row["p"] == pytest.approx(0.00217, abs=1e-5)
    assert (row["ci_high"] - row["slope"]) / 10 == pytest.approx(2.2622 * 0.1179, abs=1e-3)
    few = failures.fragility(pd.DataFrame({"task": "t", "kept": [1, 2, 3], "value": [1, 2, 3]})).iloc[0]
    assert np.isnan(few["slope"]) and few["merges"] == 3
    level = failures.fragility(pd.DataFrame({"task": "t", "kept": [1, 2, 3, 4], "value": 5.0})).iloc[0]
    assert (level["slope"], level["p"]) == (0.0, 1.0)


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
    task = near["task"].iloc[0]
    rows = near[near["task"] == task]
    fig = plots_failures.shares(near, "nearest", task, "overlap", "errors (%)")
    points, chance = fig.data
    assert list(points.x) == list(rows["nearest"])
    assert list(chance.x) == list(rows["expected"]) and chance.name == "chance"
    assert np.allclose(points.error_x.array, rows["ci_high"] - rows["nearest"])
    assert re.search(r"n = \d+", fig.layout.title.text)
    assert not plots_failures.shares(near, "nearest", "none there", "overlap", "errors (%)").data


def test_accuracy_against_kept_has_the_chance_line_and_says_when_points_are_few(made: Path) -> None:
    scores = pd.read_csv(made / "scores" / "scores.csv")
    points = failures.against_kept(scores, made_shares())
    assert set(points["method"]) == {"ties", "ties_sv"} and not points["task"].str.startswith("mean").any()
    slopes = failures.fragility(points)
    fig = plots_failures.against_kept(points, slopes, "topic")
    assert {shape.y0 for shape in fig.layout.shapes} == {25.0}
    assert "points per 10% kept" in fig.layout.title.text
    two = points[points["method"] == "ties"]
    fig = plots_failures.against_kept(two, failures.fragility(two), "topic")
    assert "2 merges, too few points" in fig.layout.title.text
    assert "fitted" not in [trace.name for trace in fig.data]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append((tag, dict(attrs)))


def test_examples_are_escaped_and_hold_both_answers(items: pd.DataFrame) -> None:
    models = plots_failures.pair(items)
    assert models == ["ct_then_sft@16k", "ties_sv@16k"]
    picked = plots_failures.examples(items, items["generation"].str.contains("\ufffd"), models)
    assert len(picked) == 3 and all(set(row["answers"]) == set(models) for row in picked)
    page = plots_failures.examples_html(picked, "qaa", "Georgian")
    reader = Tags()
    reader.feed(page)
    assert {tag for tag, _ in reader.seen} <= set(
        "table colgroup col thead tbody tr th td div b i mark".split()
    )
    assert EVIL not in page and "&lt;script&gt;" in page
    assert '<mark title="bytes that are no text">\ufffd</mark>' in page
    assert {attrs["lang"] for tag, attrs in reader.seen if tag == "div"} == {"qaa"}
    assert "No such example" in plots_failures.examples_html([])


def test_examples_show_the_text_of_an_option() -> None:
    row = chosen("context", "1", "0", {"0": "a house", "1": "a river"})
    frame = pd.DataFrame([row]).assign(item=0)
    found = plots_failures.examples(frame, pd.Series([True]), ["m"])[0]
    assert (found["gold"], found["answers"]["m"], found["right"]["m"]) == ("a river", "a house", False)


def test_text_gets_font_direction_and_way_of_its_script() -> None:
    assert "'Noto Sans Bengali'" in plots_failures.text_html("কিন্তু", "bn", "Bengali")
    uyghur = plots_failures.text_html("Text: دۇنيا دۇنيا", "ug", "Arabic")
    assert 'lang="ug" dir="rtl"' in uyghur
    assert 'dir="auto"' in plots_failures.text_html("sports", "ug", "Arabic")
    assert "vertical-lr" in plots_failures.text_html("ᠮᠣᠩᠭᠣᠯ", "mn", "Mongolian")
    assert "vertical-lr" not in plots_failures.text_html("sports", "mn", "Mongolian")
    assert "⟨U+202E⟩" in plots_failures.text_html("\u202eevil", "en")  # it would turn the line around
    assert len(plots_failures.text_html("a" * 10_000)) < 1000


def test_sentences_hold_the_numbers_of_the_tables(items: pd.DataFrame, made: Path) -> None:
    broken, wrong = failures.unparsable(items), failures.scripts(items, "Georgian")
    near = failures.overlap_errors(items)
    scores = pd.read_csv(made / "scores" / "scores.csv")
    slopes = failures.fragility(failures.against_kept(scores, made_shares()))
    said = findings.of_failures(broken, wrong, near, slopes, summary.tasks_in_x(scores))
    assert f"at most {broken['replaced'].max():.1f}%" in said[0]
    assert f"at most {wrong['wrong'].max():.1f}%" in said[1]
    assert "Not told for written_sums" in said[2] and f"of {len(near)} pairs" in said[2]
    assert f"{slopes['slope'].max():+.1f} points for each 10% kept" in said[3]
