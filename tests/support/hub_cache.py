"""The Hub's cache, filled without the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path


def to_hub(folder: Path, hub: Path, repo: str, revision: str = "main") -> Path:
    """Lay a folder out as the Hub's cache does: blobs, links to them, a ref."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = hub / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for part in (home / "blobs", snapshot, home / "refs"):
        part.mkdir(parents=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        shutil.move(path, home / "blobs" / f"blob{i}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob{i}")
    (home / "refs" / revision).write_text(commit)
    return snapshot
