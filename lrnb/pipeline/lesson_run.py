"""The small finished run that ships with the lesson: of a run, the files that notebooks/lesson read.

`make lesson-run` makes the run and calls this. What the manifests say of files that are left out stays: they
tell how the run was made.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lrnb.errors import UserError
from lrnb.study.files import MANIFEST, atomic_folder
from lrnb.study.parameters import ROOT, Study
from lrnb.study.run_folder import study_of
from lrnb.study.stages import RunPaths, require

SHIPPED = ROOT / "notebooks" / "lesson" / "run"
LARGEST = 5_000_000  # bytes of the whole


def ship(run: Path, out: Path = SHIPPED) -> int:
    """Copy what the lesson reads of the finished run `run` into `out`, atomically; returns the bytes.

    UserError where the run is not finished, or where that is more than LARGEST.
    """
    study = study_of(run)
    root = RunPaths(study).root
    with atomic_folder(out) as made:
        files = [path.relative_to(root) for path in sorted(_read_by_lesson(study))]
        for name in files:
            target = made / root.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target)
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        if size > LARGEST:
            raise UserError(f"{run}: the lesson would have {size:,} bytes, more than {LARGEST:,}")
    return size


def _read_by_lesson(study: Study) -> Iterator[Path]:
    paths, last = RunPaths(study), study.ct_budgets[-1]
    yield paths.lang / "params.yaml"
    for model in (paths.base, paths.sft, paths.ct(last), paths.ct_then_sft(last), paths.merge("ties", last)):
        yield from filter(Path.is_file, require(model).iterdir())
    stages = [paths.corpus, paths.ct(), *map(paths.merge, study.methods), paths.scores, paths.conflicts]
    stages += [*map(paths.scored, ("parents", "merged")), *map(paths.ct_then_sft, study.ct_budgets)]
    for stage in stages:
        yield require(stage) / MANIFEST
        yield from (path for path in stage.glob("*.csv"))
    yield from paths.corpus.glob("heldout_*.jsonl")
    yield from filter(Path.is_file, paths.atlas(last).iterdir())


if __name__ == "__main__":
    print(f"{SHIPPED.relative_to(ROOT)}: {ship(Path(sys.argv[1])) / 1e6:.2f} MB")
