"""The look: figures carry it themselves, and nothing else in the process changes."""

from __future__ import annotations

from support.processes import in_fresh_python

from lrnb.figures import style


def test_importing_a_part_changes_nothing_in_plotly() -> None:
    code = """
import importlib, pkgutil
import plotly.graph_objects as go, plotly.io as pio
def state():
    renderers = {name: id(pio.renderers[name]) for name in pio.renderers}
    return pio.templates.default, list(pio.templates), pio.renderers.default, renderers
before, figure = state(), go.Figure().to_json()
for folder in ("analysis", "figures", "widgets", "report"):
    package = importlib.import_module(f"lrnb.{folder}")
    for found in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"lrnb.{folder}.{found.name}")
importlib.import_module("lrnb.figures.style").blank(rows=1, cols=2)
print(state() == before and go.Figure().to_json() == figure)
"""
    assert in_fresh_python(code) == "True"


def test_figures_of_one_and_of_several_plots_carry_the_look() -> None:
    for fig in (style.blank(), style.blank(rows=1, cols=2)):
        look = fig.layout.template.layout
        assert list(look.colorway) == list(style.CLASS_COLOURS)
        assert look.font.color == style.INK
