"""docs/ties-by-hand.html: made from the package's numbers, and its own formulas in a browser against them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from itertools import product
from typing import Any

import numpy as np
import pytest
from support.browser import Page

from lrnb.merging import by_hand
from lrnb.report.by_hand_page import by_hand_page
from lrnb.study.parameters import ROOT
from lrnb.widgets.by_hand import CONTROLS, GUESSES, KEPT, LAM, SLACK, WEIGHT
from lrnb.widgets.explorer import Slider

PAGE = ROOT / "docs" / "ties-by-hand.html"
TIE = 1.2  # SFT's weight with which the sum at p5 is exactly 0


def places(slider: Slider) -> list[float]:
    """All places of a slider, as the browser has them: decimals, not sums of steps."""
    count = round((slider.high - slider.low) / slider.step) + 1
    return [round(slider.low + i * slider.step, 6) for i in range(count)]


@pytest.fixture
def lesson(chrome: Any) -> Iterator[Page]:
    """The page, opened from its file without a network; an error in it fails the test."""
    opened = Page(chrome, offline=True)
    opened.page.goto(PAGE.as_uri())
    yield opened
    opened.check()
    opened.close()


def test_the_page_is_what_its_command_writes() -> None:
    """Fails where the numbers, the questions or the page were changed: run `make by-hand`."""
    assert PAGE.read_text(encoding="utf-8") == by_hand_page()


def flat(result: dict[str, Any]) -> np.ndarray:
    """All fields of `Steps` in a row; null is NaN."""
    return np.concatenate([np.array(result[field.name], float) for field in fields(by_hand.Steps)])


def test_the_pages_formulas_are_the_packages_over_the_places_of_the_sliders(lesson: Page) -> None:
    kept, weights = [int(x) for x in places(KEPT)], [*places(WEIGHT), TIE]
    grid = [*product(kept, weights, [1.0], [0.0, 0.25, 0.5, 0.75, 1.0])]
    grid += [*product([5, 6], [1.0], [1.0], places(SLACK)), *product([5], [TIE], places(LAM), [0.5])]
    states = [dict(zip(("kept", "weight", "lam", "slack"), state, strict=True)) for state in grid]
    found = np.array([flat(told) for told in lesson.page.evaluate("all => all.map(x => steps(x))", states)])
    wanted = np.array([flat(asdict(by_hand.steps(**state))) for state in states])
    differ = ~np.isclose(found, wanted, rtol=0, atol=1e-12, equal_nan=True).all(axis=1)
    assert [state for state, wrong in zip(states, differ, strict=True) if wrong] == []


def test_the_grid_holds_a_tie_and_halves_that_are_rounded_to_the_even_neighbour() -> None:
    assert by_hand.steps(weight=TIE).sign[4] == 1  # a sum of 0: three of five other signs are +
    assert by_hand.steps(2, TIE, slack=1.0).delta[4] == 0  # as many + as -: CT has it, and slack wins it back
    won = {rho: int(by_hand.steps(slack=rho).reserved.sum()) for rho in (0.25, 0.75)}
    assert won == {0.25: 0, 0.75: 2}
    assert {0.25, 0.75} < set(places(SLACK))


def test_a_keyboard_goes_through_the_lesson_and_every_answer_waits_for_its_guess(lesson: Page) -> None:
    page = lesson.page
    for step, guess in GUESSES.items():
        section = page.locator(f"#{step}")
        assert [x.is_enabled() for x in section.get_by_role("slider").all()] == [False] * len(CONTROLS[step])
        assert not re.search("Trimmed|loses:|Merged|back:", section.inner_text())
        section.get_by_role("button", name=guess.answer, exact=True).focus()
        page.keyboard.press("Enter")
        assert section.locator(".said").inner_text() == f"Right. Now {guess.hint}"
        for slider in CONTROLS[step].values():
            assert section.get_by_role("slider", name=slider.label).is_enabled()
    page.locator("#together").get_by_role("slider", name="slack ρ").focus()
    page.keyboard.press("End")
    wanted = by_hand.steps(slack=1.0)
    told = page.locator("#together .told").inner_text()
    assert f"SFT loses: none. CT loses: {by_hand.names(wanted.ct_lost)}." in told
    assert page.locator("#together .plot svg").get_attribute("aria-label").endswith(told)


def test_the_page_fits_a_phone_in_light_and_dark(lesson: Page) -> None:
    page = lesson.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="Show all steps").click()
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        lesson.screenshot(f"ties-by-hand-{scheme}-390")
    assert len(grounds) == 2
    assert page.locator("section:visible").count() == len(GUESSES) + 1
    assert page.locator("section:visible svg rect").count() >= 12 * (len(GUESSES) + 1)
