"""Thin wrappers over the figures of `lrnb.figures`, for a person in JupyterLab.

Only these modules use ipywidgets and anywidget. A widget shows nothing that a figure does not show too:
headless runs (LRNB_HEADLESS is set) get the figure.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
