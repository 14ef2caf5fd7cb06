"""What a study is: its parameters, the folders and stages of its run, files that are whole or not there.

A notebook starts with `open_notebook()`; a script with `load_study()` and `RunPaths`. A stage's folder is
written within a `Stage`, whose manifest comes last.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
