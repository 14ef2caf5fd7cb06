"""A finished run, opened by its folder: wherever it was moved to, and whoever made it."""

from __future__ import annotations

import os
from pathlib import Path

from lrnb.errors import UserError
from lrnb.study.notebook_errors import fold_tracebacks
from lrnb.study.parameters import ROOT, Study, read_yaml, validate
from lrnb.study.stages import RunPaths


def study_of(folder: Path) -> Study:
    """The parameters of a run folder, with `runs` as it lies now. UserError for a folder that is no run."""
    path = folder / "params.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder}: no params.yaml, so this is no run. Give runs/<preset>/<lang>, or "
            "run the study first: lrnb run params/<lang>.yaml"
        )
    study = validate(read_yaml(path), str(path))
    for home in (folder.absolute(), folder.resolve()):  # the given name, then behind links and ".."
        here = study.model_copy(update={"runs": str(home.parent.parent)})
        if RunPaths(here).lang == home:
            return here
    raise UserError(
        f"{path} belongs to a folder {RunPaths(study).root.name}/{study.lang}, and is in "
        f"{home.parent.name}/{home.name}. Give the folder that name again, with `shared` beside it"
    )


def open_run(folder: str | Path) -> tuple[Study, RunPaths]:
    """The Study and the folders of a finished run: the set-up of a notebook that only reads one.

    folder: runs/<preset>/<lang>, from the checkout's root, where work goes on. UserError if it is no run.
    """
    os.chdir(ROOT)
    fold_tracebacks()
    study = study_of(Path(folder))
    if Path(study.runs).is_relative_to(ROOT):  # so that what a notebook shows names no machine's folders
        study = study.model_copy(update={"runs": Path(study.runs).relative_to(ROOT).as_posix()})
    return study, RunPaths(study)
