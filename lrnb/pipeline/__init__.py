"""The study as a graph of notebooks, run headless and in order: what is up to date, what a run needs.

`exec_notebook` runs one notebook safely; `run_step` one step of a study, `run_study` all that is not up to
date, through Snakemake.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
