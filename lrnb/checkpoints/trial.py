"""A folder is opened once before it is there: its small files, and weights that have shapes only.

transformers takes seconds to import, so it is asked in a process of its own, beside a merge; where it is
imported already, at once. What opened before, with these files and shapes, is remembered in the cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lrnb
from lrnb.checkpoints.contradictions import refuse_contradictions
from lrnb.checkpoints.openable import Shapes, try_opening
from lrnb.checkpoints.reading import Checkpoint
from lrnb.checkpoints.small_files import SmallFiles, small_files
from lrnb.errors import UserError
from lrnb.study.files import default_cache, digest, json_object, remembered

SECONDS = 120.0  # of waiting, for a model of usual size on a slow and busy machine
EACH = 0.02  # seconds more for a tensor
REMEMBERED = "openings.json"
LOOKS = 3  # raise it when more is looked at: what was remembered before is asked again


class Trial:
    """The answer to come: called, it waits for it; `look` raises where it is there and is a refusal."""

    def __init__(self, key: str, notes: list[str] | None, process: subprocess.Popen | None, seconds: float):
        self.key, self.notes, self.process, self.seconds = key, notes, process, seconds
        self.one = threading.Lock()  # threads that merge look all the time

    def look(self) -> None:
        if self.notes is None and self.process and self.process.poll() is not None:
            self()

    def __call__(self) -> list[str]:
        """What is to be said of the folder. UserError where transformers does not open it."""
        with self.one:
            if self.notes is None:
                self.notes = remembered(REMEMBERED, self.key, lambda: _heard(self.process, self.seconds))
            return list(self.notes)


@contextmanager
def trial_opening(
    files: SmallFiles, shapes: Shapes, home: Path, owner: Path, seconds: float = SECONDS,
    homes: Mapping[str, str] = MappingProxyType({}), **compared: Any,
) -> Iterator[Trial]:  # fmt: skip
    """Begins to open a folder of these files and weights; see `try_opening` for the rest.

    compared: `first` of that, and `others`, with homes as in `refuse_contradictions`.

    What transformers is imported for already is opened here and now: UserError before the block begins.
    """
    key = _key(files, shapes, compared)
    known = json_object(default_cache() / REMEMBERED).get(key)
    seconds += EACH * len(shapes)
    if isinstance(known, list):
        yield Trial(key, known, None, seconds)
        return
    with _laid_out(files) as folder:
        ask = {
            "folder": folder,
            "shapes": shapes,
            "home": str(home),
            "owner": str(owner),
            "homes": dict(homes),
            "compared": compared,
        }
        if "transformers" in sys.modules:
            yield Trial(key, remembered(REMEMBERED, key, lambda: reply(ask)), None, seconds)
            return
        process = _begin(ask)
        try:
            yield Trial(key, None, process, seconds)
        finally:
            process.kill()
            process.communicate()


def opening_fault(model: Checkpoint) -> str:
    """Why transformers does not open a model as it lies there; "" where it does."""
    shapes = {name: tensor.shape for name, tensor in model.items()}
    try:
        files = small_files(model.folder, model.folder)
        with trial_opening(files, shapes, model.folder, model.folder) as trial:
            trial()
    except UserError as error:
        return str(error)
    return ""


@contextmanager
def _laid_out(files: SmallFiles) -> Iterator[str]:
    """A temporary folder with these files. UserError where there is no room for it."""
    with ExitStack() as stack:
        try:
            folder = tempfile.TemporaryDirectory(prefix="lrnb-", ignore_cleanup_errors=True)
            files.write(Path(stack.enter_context(folder)))
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: no temporary files can be written ({error.strerror or error}). "
                "Free space there, or set TMPDIR to another folder"
            ) from None
        yield folder.name


def reply(ask: Mapping[str, Any]) -> list[str]:
    """The notes on what is asked for."""
    folder, shapes, others = Path(ask["folder"]), ask["shapes"], ask["compared"].get("others", {})
    notes = try_opening(folder, shapes, ask["home"], ask["owner"], **ask["compared"])
    refuse_contradictions(folder, shapes, others, ask["homes"])
    return notes


def _key(files: SmallFiles, shapes: Shapes, compared: Mapping[str, Any]) -> str:
    texts = {name: sha256(content).hexdigest() for name, content in files.contents.items()}
    tools = [lrnb.__version__, *map(version, ("transformers", "tokenizers"))]
    return digest([LOOKS, texts, {name: list(shape) for name, shape in shapes.items()}, compared, tools])


def _begin(ask: Mapping[str, Any]) -> subprocess.Popen:
    """The process that opens the folder; it imports nothing from the current one."""
    (Path(ask["folder"]) / ".ask").write_text(json.dumps(ask), encoding="utf-8")
    paths = [str(Path(lrnb.__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", "-m", "lrnb.checkpoints.trial", str(Path(ask["folder"]) / ".ask")]
    pipes = partial(
        subprocess.Popen, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return pipes(command, text=True, errors="replace", env=os.environ | quiet)


def _heard(process: subprocess.Popen | None, seconds: float) -> list[str]:
    assert process
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"transformers did not open the merged folder within {seconds:.0f} s, so it was not written. "
            "Look for absurd numbers in config.json and tokenizer files of the model that they come from"
        ) from None
    with suppress(ValueError, IndexError):
        said = json.loads(out.splitlines()[-1])
        if "refused" in said:
            raise UserError(said["refused"])
        return list(said["notes"])
    why = " ".join((err.strip().splitlines() or [f"status {process.returncode}"])[-1].split())[:300]
    raise UserError(
        f"whether transformers opens the merged folder was not found out ({why}), so it was not written. "
        "Open the base with AutoModelForCausalLM.from_pretrained to see the fault"
    )


def print_reply() -> None:
    """The process of its own: prints notes, or the refusal, as JSON."""
    ask = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        said: dict[str, Any] = {"notes": reply(ask)}
    except UserError as error:
        said = {"refused": str(error)}
    finally:
        shutil.rmtree(ask["folder"], ignore_errors=True)  # who asked may have been killed
    print(json.dumps(said))


if __name__ == "__main__":
    print_reply()
