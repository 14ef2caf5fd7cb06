"""Items to be asked: task files, rows of the data root and of the Hub, the harness, written answers.

`load_tasks` opens tasks by name, wherever they come from; `load_study_tasks` those of a study. Code in
task files is refused.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
