"""Long trainings watched from elsewhere, and the packages that some recipes need."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from lrnb.errors import UserError

NEEDS = {"adamw_8bit": "torchao", "tensorboard": "tensorboard", "wandb": "wandb"}  # value: package


def refuse_missing_extras(*values: str) -> None:
    """UserError where one of these values of `optimizer` and `log_to` needs a package that is not there."""
    for value in values:
        package = NEEDS.get(value)
        if package and find_spec(package) is None:
            raise UserError(f"{value} needs a package: {sys.executable} -m pip install {package}")


def log_places(folder: str) -> dict[str, str]:
    """The variables by which transformers' callbacks take folder and project; a project that is set stays."""
    if not folder:
        return {}
    project = os.environ.get("WANDB_PROJECT", "lrnb")
    return {"TENSORBOARD_LOGGING_DIR": folder, "WANDB_DIR": folder, "WANDB_PROJECT": project}
