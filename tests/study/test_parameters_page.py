"""docs/parameters.md says what Study says."""

from __future__ import annotations

from lrnb.study.parameters import ROOT, Study
from lrnb.study.parameters_page import page


def test_the_page_is_made_from_the_fields() -> None:
    """Where it is not: make parameters."""
    assert (ROOT / "docs/parameters.md").read_text(encoding="utf-8") == page()


def test_every_parameter_has_its_range_and_its_words() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == [*Study.model_fields]
    by_name = {row[0].strip("| `"): row for row in rows}
    assert by_name["english_ratio"][1:4] == ["`4.0`", "number from 0", "nano 4, smol 4, paper 4"]
    assert by_name["devices"][2] == "whole number above 0 or `auto`"
    assert by_name["base_alone"][2] == "number from 0 to 1"
    own = {"base_layers", "base_heads"}  # their names say it
    assert [name for name, row in by_name.items() if len(row) < 5 or row[4].strip(" |") == ""] == sorted(
        own, reverse=True
    )
