from .freshness import outdated as outdated
from .notebooks import NotebookFailed as NotebookFailed
from .notebooks import exec_notebook as exec_notebook
from .notebooks import run_step as run_step
from .runner import run_study as run_study
from .steps import Step as Step
from .steps import read_study as read_study
