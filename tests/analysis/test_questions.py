"""What a pool of the open questions says: contrasts, verdicts, figures, the page and the notebook."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.made_questions import BUDGETS, options_of, write_made_questions

from lrnb import figures, statistics
from lrnb.analysis import pool, question_findings, questions
from lrnb.analysis.pool_lines import Line, right_of
from lrnb.analysis.question_merges import (
    DENSITIES,
    SELECTORS,
    SHARES,
    Asked,
    evened_merge,
    no_slack,
    plateau_merges,
    selected,
)
from lrnb.errors import UserError
from lrnb.pipeline import notebooks
from lrnb.report.results_page import results_page
from lrnb.study.parameters import ROOT


def skill(one: Asked, budget: int) -> float:
    """Magnitude is 20 points better than no slack, evened by norm gains 20 points more; layer is worse."""
    given, place = options_of(one), BUDGETS.index(budget)
    extra = {"magnitude": 0.2, "layer": -0.2}.get(given.get("reserve_by", ""), 0.0)
    return 0.4 + extra + (0.2 * place / 2 if given.get("equalise") == "norm" else 0.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "questions" / "nano-qaa.jsonl"
    write_made_questions(path, skill)
    return path


@pytest.fixture(scope="module")
def lines(path: Path) -> list[Line]:
    return questions.read_questions(path)


def test_a_contrast_is_the_difference_of_two_merges(lines: list[Line]) -> None:
    a, b = selected(0.5, 0.3, "magnitude"), no_slack(0.5)
    found = questions.Answers(lines).contrast({(a, BUDGETS[0]): 1.0, (b, BUDGETS[0]): -1.0}, questions.X)
    tasks, rights = ("world_topic", "world_sums"), [right_of(line) for line in lines]
    pairs = [[(one[a.name, BUDGETS[0]][t], one[b.name, BUDGETS[0]][t]) for t in tasks] for one in rights]
    wanted = statistics.paired_difference(pairs)
    assert found.value == pytest.approx(100 * wanted.value) and found.p == wanted.p
    assert (found.ci_low, found.ci_high) == pytest.approx((100 * wanted.ci_low, 100 * wanted.ci_high))
    assert 10 < found.value < 30


def test_selectors_are_judged_after_holm(lines: list[Line]) -> None:
    table = questions.selector_contrasts(lines)
    assert len(table) == 4 * (2 * len(SELECTORS) - 1)
    assert set(table["cells"]) == {len(DENSITIES) * len(SHARES) * len(BUDGETS)}
    row = table[(table["measure"] == questions.X) & (table["against"] == "margin")].set_index("selector")
    assert row.loc["magnitude", "ci_low"] > 0 > row.loc["layer", "ci_high"]
    own = table[table["measure"] == questions.X]
    assert own["p_holm"].tolist() == statistics.holm(own["p"].to_numpy()).tolist()
    said = question_findings.findings_of_selectors(table, 2.0)
    text = said[1]["text"]
    assert said[1]["verdict"] == "confirmed" and "than margin" in text
    assert "better: magnitude" in text and "worse: layer" in text
    assert "same within 2 points: random, fisher, gradient" in text


def test_lines_of_selectors_meet_at_their_ends_and_take_as_many(lines: list[Line]) -> None:
    points = questions.selector_points(lines)
    ends = points[points["share"] == 0]
    assert (ends[["difference", "ci_low", "ci_high"]] == 0).all(axis=None)
    keys = ["density", "ct_tokens", "share"]
    assert (points.groupby(keys)["reserved"].nunique() == 1).all()
    last = points[points["share"] == 1]
    assert (last.groupby(["density", "ct_tokens"])["difference"].nunique() == 1).all()
    price = questions.price_of_selectors(lines).set_index(["selector", "share"])["ceded_share"]
    assert price["magnitude", 0.3] == pytest.approx(3 * price["margin", 0.3]) == pytest.approx(0.9)


def test_only_cells_and_merges_that_all_runs_have_count(lines: list[Line], tmp_path: Path) -> None:
    cell = questions.cells_of(lines)[0]
    gone = [selected(cell.density, cell.share, "fisher").name, plateau_merges()[-1].name]
    kept = {k: v for k, v in lines[0]["items"].items() if k.partition("@")[0] not in gone}
    some = [lines[0] | {"items": kept}, *lines[1:]]
    assert len(questions.cells_of(some)) == len(questions.cells_of(lines)) - len(BUDGETS)
    assert questions.merges_of(some) == plateau_merges()[:-1]
    assert plateau_merges()[-1] not in set(questions.plateau_contrasts(some)["merge"])
    path = tmp_path / "nano-qaa.jsonl"
    none = {k: v for k, v in kept.items() if "slack=1.0" not in k}
    pool.write_pool(path, [lines[0] | {"items": none}])
    with pytest.raises(UserError, match=r"0 of its 1 runs have.*`make questions`"):
        questions.read_questions(path)


def test_evening_stops_the_growth_that_was_put_in(lines: list[Line]) -> None:
    points = questions.discarded_points(lines).set_index(["how", "ct_tokens"])["difference"]
    assert points["none", BUDGETS[-1]] - points["none", BUDGETS[0]] == pytest.approx(10)
    growth = questions.discarded_growth(lines).set_index(["how", "against"])["difference"]
    assert growth["none", ""] == pytest.approx(10) and growth["share", ""] == pytest.approx(0, abs=1e-9)
    assert growth["norm", "none"] == pytest.approx(-10)
    said = question_findings.findings_of_discarded(questions.discarded_growth(lines), BUDGETS)
    assert [finding["verdict"] for finding in said] == [
        "confirmed",
        *["cannot be told"] * 2,
        *["confirmed"] * 2,
    ]


def test_a_gain_that_was_put_in_is_confirmed(lines: list[Line]) -> None:
    table = questions.plateau_contrasts(lines)
    said = question_findings.findings_of_plateau(table, 2.0)
    verdicts = {finding["text"].partition(":")[0]: finding["verdict"] for finding in said}
    assert verdicts["TIES, evened by norm gains more in X along CT tokens than TIES"] == "confirmed"
    assert verdicts["WIDEN gains more in X along CT tokens than TIES"] == "refuted, the same within 2 points"
    row = table[(table["merge"] == evened_merge("ties", "norm")) & (table["what"] == "gain")].iloc[0]
    assert 10 < row["difference"] < 30
    flat = questions.flattening(lines)
    assert flat["difference"] == flat["first"] == flat["last"] == 0


def test_merges_at_chance_answer_no_question(lines: list[Line]) -> None:
    for chance, verdicts in ((99.0, {"no result"}), (1.0, set())):
        known = [line | {"chance": dict.fromkeys(line["n"], chance)} for line in lines]
        said = question_findings.findings_of_questions(known, 2.0)
        found = {one["verdict"] for own in said.values() for one in own}
        assert found & {"no result"} == verdicts and (not verdicts or found == verdicts)
    assert question_findings.why_no_merge_counts(lines) == ""  # pools of earlier versions do not say it


def test_the_figures_have_every_line(lines: list[Line]) -> None:
    fig = figures.selectors_by_share(questions.selector_points(lines))
    assert len(fig.data) == len(SELECTORS) * len(DENSITIES) * len(BUDGETS)
    assert {len(trace.x) for trace in fig.data} == {2 + len(SHARES)}
    assert len(figures.discarded_by_evening(questions.discarded_points(lines)).data) == 3
    assert len(figures.gains_by_budget(questions.plateau_points(lines)).data) == len(plateau_merges())


def test_the_notebook_and_the_page_say_it(path: Path, tmp_path: Path) -> None:
    notebook, out = ROOT / "notebooks" / "03_analysis" / "07_questions.ipynb", tmp_path / "questions.ipynb"
    text = notebooks.exec_notebook(notebook, {"pool": str(path)}, out).read_text(encoding="utf-8")
    assert "QUESTION 4" in text and "better: magnitude" in text
    page = results_page(path.parent.parent)
    assert "## Two open questions, nano, qaa, 4 seeds" in page
    assert "| magnitude | margin | +" in page and "| as they are | 10" in page
    assert "Preset nano" not in page  # it is no pool of runs
