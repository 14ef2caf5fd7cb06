"""An IPython extension of the runner's kernels: a figure is kept twice, for JupyterLab and for a page.

plotly.js comes once a notebook and a figure with each output, as plotly has it, but without asking a server
for MathJax at every figure: an exported notebook opens without a network.
"""

from __future__ import annotations

from typing import Any

import plotly.io as pio
from plotly.io.base_renderers import NotebookRenderer


class Offline(NotebookRenderer):
    """plotly's renderer "notebook" without MathJax."""

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
        options: dict[str, Any] = {"include_plotlyjs": False, "include_mathjax": False, "full_html": False}
        return {"text/html": pio.to_html(fig_dict, config=self.config, validate=False, **options)}


def load_ipython_extension(_: Any) -> None:
    """Called by the kernel before the first cell."""
    pio.renderers["notebook"] = Offline()
    pio.renderers.default = "plotly_mimetype+notebook"
