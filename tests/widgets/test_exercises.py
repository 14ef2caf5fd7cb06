"""Exercises and predictions of the lesson: what is right, what is said; no notebook holds an answer."""

from __future__ import annotations

import json
from html import escape

import pytest

from lrnb import widgets
from lrnb.errors import UserError
from lrnb.merging import by_hand
from lrnb.study.parameters import ROOT
from lrnb.widgets.exercises import ExerciseBox, typed_number
from lrnb.widgets.lesson import LESSON, Exercise, solutions

ALL = {key: one for lesson in LESSON.values() for key, one in lesson.items()}
CHOICES = [key for key, one in ALL.items() if one.options]


@pytest.fixture(autouse=True)
def somebody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRNB_HEADLESS", raising=False)


def asked(key: str) -> ExerciseBox:
    return widgets.exercise(key)


def test_every_exercise_has_a_key_of_its_own() -> None:
    assert len(ALL) == sum(map(len, LESSON.values())) >= 12


def test_numbers_are_those_of_a_calculation_by_hand() -> None:
    told = {key: one.answer() for key, one in ALL.items() if callable(one.answer)}
    by_hand_too = {
        "bytes_of_a_letter": 3, "bits_of_no_knowledge": 8, "bits_of_a_text": 2.08 / 0.6931 / 3,
        "average_p2": 0.87, "added_p3": -0.3, "equal_lam": 0.5, "smallest_kept": 0.6,
        "merged_p1": by_hand.TAU_SFT[0], "won_back": 2, "detectable": 2.21, "standard_error": 0.75,
    }  # fmt: skip
    assert told == pytest.approx(by_hand_too, rel=2e-3)


@pytest.mark.parametrize("key", CHOICES)
def test_one_option_is_right(key: str) -> None:
    one = ALL[key]
    assert [option for option in one.options if one.is_right(option)] == [one.answer]
    assert len(set(one.options)) == len(one.options) >= 3


def test_a_wrong_answer_gets_the_next_hint_and_a_right_one_the_reason() -> None:
    found, one = asked("detectable"), ALL["detectable"]
    for given, said in (
        ("", "Give a number first"), ("nan", "Give a number first"), ("5", one.hints[0]),
        ("0,022", one.hints[1]), ("2.5", one.hints[-1]), ("2,2 %", one.why),
    ):  # fmt: skip
        found.answer.value = given
        found.button.click()
        assert escape(said) in found.verdict.value


def test_enter_checks_a_number_and_the_same_answer_again_uses_up_no_hint() -> None:
    found, one = asked("detectable"), ALL["detectable"]
    found.answer.value = "5"  # as Enter sends it
    for _ in range(3):
        assert escape(one.hints[0]) in found.verdict.value
        found.button.click()
    found.answer.value = "2.2"
    assert "✓ Right" in found.verdict.value


def test_an_option_is_chosen_first_and_then_checked() -> None:
    found, one = asked("task_vector"), ALL["task_vector"]
    found.button.click()
    assert "Choose one first" in found.verdict.value
    for option in one.options:
        found.answer.value = option
        found.button.click()
        assert ("✓ Right" in found.verdict.value) == (option == one.answer)


def test_headless_the_question_is_printed_and_nothing_of_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("LRNB_HEADLESS", "1")
    for key, one in ALL.items():
        assert widgets.exercise(key) is None
        printed = capsys.readouterr().out
        assert one.question in printed
        assert not any(text in printed for text in (one.why, *one.hints))


def test_an_exercise_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'task_vector'"):
        widgets.exercise("task_vektor")


@pytest.mark.parametrize(("text", "found"), [("−0,3", -0.3), (" 50 %", 50), ("a half", None), ("inf", None)])
def test_numbers_are_read_as_people_type_them(text: str, found: float | None) -> None:
    assert typed_number(text) == found


@pytest.mark.parametrize("name", LESSON)
def test_a_notebook_asks_its_exercises_and_holds_no_answer(name: str) -> None:
    path = ROOT / "notebooks" / "lesson" / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells)
    keys = [line.split('"')[1] for line in source.splitlines() if line.startswith("widgets.exercise(")]
    assert keys == [*LESSON[name]]
    assert len(keys) >= 3
    for one in LESSON[name].values():
        assert not any(text in source for text in (one.why, one.answer) if isinstance(text, str))


def test_the_solutions_that_ship_are_those_that_are_checked() -> None:
    path = ROOT / "docs" / "teaching-solutions.md"
    assert path.read_text(encoding="utf-8") == solutions(), f"python -m lrnb.widgets.lesson > {path.name}"


def test_a_number_within_the_tolerance_is_right() -> None:
    one = Exercise("?", lambda: 1.0, "", ("",), tolerance=0.1)
    assert [one.is_right(x) for x in (0.89, 0.9, 1.1, 1.11)] == [False, True, True, False]


def test_predictions_are_kept_and_shown_beside_what_was_found() -> None:
    notes = widgets.Predictions()
    buttons = notes.ask("a", "more <or> less?", ["more", "less"]).children[1]
    notes.ask("b", "never answered?", ["yes", "no"])
    buttons.value = "less"
    again = notes.ask("a", "more <or> less?", ["more", "less"])  # the cell is run again
    assert again.children[1].value == "less"
    page = notes.beside(a="it was 3", b="no").data
    cells = ["more &lt;or&gt; less?", "less", "it was 3", "never answered?", "no prediction", "no"]
    assert [page.index(f">{cell}<") for cell in cells] == sorted(page.index(f">{cell}<") for cell in cells)
    with pytest.raises(UserError, match="nothing was asked as 'c'"):
        notes.beside(c="?")
