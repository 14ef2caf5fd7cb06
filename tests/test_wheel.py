"""The package as `pip install .` makes it: complete, and at work outside a checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from support.pico import save_pico

from lrnb import __version__
from lrnb.study.parameters import LANGUAGES, ROOT, read_yaml

BYTECODE = shutil.ignore_patterns("__pycache__")


def copy_of_the_source(source: Path) -> Path:
    """What is needed to build, apart, so that nothing is left in the checkout."""
    shutil.copytree(ROOT / "lrnb", source / "lrnb", ignore=BYTECODE)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


def new_environment(folder: Path) -> Path:
    """An environment whose other packages are those of this one, which are the lock's; its bin/."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not read
    return folder / "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = copy_of_the_source(tmp_path_factory.mktemp("source"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", source / "dist", source)
    (made,) = (source / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel."""
    found = new_environment(tmp_path_factory.mktemp("fresh") / "venv")
    pip("--python", found / "python", "install", "--no-deps", "--no-index", wheel)
    return found


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run(fresh: Path, place: Path, *arguments: object) -> subprocess.CompletedProcess:
    """A command of the fresh environment, typed in the folder `place`."""
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [fresh / arguments[0], *map(str, arguments[1:])]
    return subprocess.run(command, cwd=place, env=outside, capture_output=True, text=True, check=False)


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    for seed, name in enumerate(("base", "ct", "sft")):
        save_pico(tmp_path / name, seed=seed)
    return ["--base", "base", "--model", "ct=ct", "--model", "sft=sft", "--density", "0.5"]


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    files = [
        path for path in (ROOT / "lrnb").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    assert wheel.name.startswith(f"lrnb-{__version__}-")


def test_it_merges_and_counts_conflicts_outside_a_checkout(
    fresh: Path, tmp_path: Path, models: list[str]
) -> None:
    where = run(fresh, tmp_path, "python", "-c", "import lrnb; print(lrnb.__file__)").stdout
    assert Path(where).is_relative_to(fresh.parent)
    merged = run(fresh, tmp_path, "lrnb", "merge", "ties-sv", *models, "--slack", "0.3", "--out", "merged")
    assert merged.returncode == 0, merged.stderr
    assert json.loads((tmp_path / "merged" / "manifest.json").read_text())["versions"]["lrnb"] == __version__
    counted = run(fresh, tmp_path, "lrnb", "conflicts", *models, "--out", "atlas")
    assert counted.returncode == 0, counted.stderr
    assert (tmp_path / "atlas" / "atlas.json").is_file()


def test_a_clone_called_lrnb_does_not_hide_the_package_in_the_folder_around_it(tmp_path: Path) -> None:
    clone = copy_of_the_source(tmp_path / "lrnb")
    own = new_environment(tmp_path / "venv")
    pip("--python", own / "python", "install", "--no-deps", "--no-build-isolation", "--editable", clone)
    done = run(own, tmp_path, "python", "-c", "from lrnb import merging; print(merging.ties.__name__)")
    assert (done.stdout, done.stderr) == ("ties\n", "")


@pytest.mark.slow
def test_it_scores_outside_a_checkout_with_the_same_prompts(fresh: Path, tmp_path: Path) -> None:
    save_pico(tmp_path / "model")
    labels = ("travel", "politics", "sports")
    rows = [{"text": "the cat sees the dog", "label": label} for label in labels]
    items = tmp_path / "data" / "eval" / "topic" / "bn" / "test.jsonl"
    items.parent.mkdir(parents=True)
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--tasks", "topic", "--lang", "bn", "--data-root", "data", "--device", "cpu")
    done = run(fresh, tmp_path, "lrnb", "evaluate", "model", *options)
    assert done.returncode == 0, done.stderr
    assert "topic" in done.stdout
    code = "from lrnb.tasks import rows; print(rows.language_name('bn'))"
    assert run(fresh, tmp_path, "python", "-c", code).stdout == "Bengali\n"


@pytest.mark.parametrize("command", [("run", "params/qaa.yaml"), ("lab",), ("exec", "a.ipynb")])
def test_what_needs_a_checkout_says_so(fresh: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    done = run(fresh, tmp_path, "lrnb", *command)
    assert done.returncode == 2
    assert f"lrnb {command[0]} needs a checkout" in done.stderr and "make setup" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_languages_have_the_names_of_their_parameters() -> None:
    own = {path.stem: read_yaml(path) for path in (ROOT / "params").glob("*.yaml") if path.stem != "all"}
    named = {lang: values["lang_name"] for lang, values in own.items()}
    assert named | {"en": "English"} == LANGUAGES
