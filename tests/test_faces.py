"""The faces of the folders: what each lists is there, and nowhere else; nothing is loaded before its use."""

from __future__ import annotations

import ast
from collections import Counter
from importlib import import_module

import pytest
from support.processes import in_fresh_python
from support.source import FOLDERS, MODULES

from lrnb.study.parameters import ROOT

FACES = sorted(name for name, folder in FOLDERS.items() if (folder / "__init__.pyi").is_file())


def listed(face: str) -> list[tuple[str, str]]:
    """(module, name) of every line of a face's stub; a module of the folder has "" for its own."""
    stub = ast.parse((FOLDERS[face] / "__init__.pyi").read_text(encoding="utf-8"))
    assert all(isinstance(node, ast.ImportFrom) and node.level == 1 for node in stub.body)
    pairs = [(node.module or "", alias) for node in stub.body for alias in node.names]
    assert all(alias.asname == alias.name for _, alias in pairs)  # mypy takes no other for public
    return [(module, alias.name) for module, alias in pairs]


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_is_what_its_module_has(face: str) -> None:
    loaded, names = import_module(face), listed(face)
    assert sorted(name for _, name in names) == loaded.__all__ == dir(loaded)
    for module, name in names:
        found = (
            getattr(import_module(f"{face}.{module}"), name) if module else import_module(f"{face}.{name}")
        )
        assert getattr(loaded, name) is found
        assert module == "" or f"{face}.{name}" not in MODULES  # the module would take the name's place


def test_no_two_faces_have_the_same_name() -> None:
    names = Counter(name for face in FACES for _, name in listed(face))
    assert [name for name, times in names.items() if times > 1] == []


def test_a_face_loads_nothing_before_a_name_is_used() -> None:
    code = f"import sys\nfrom importlib import import_module\nfor face in {FACES}: import_module(face)\n"
    code += "print(sorted(name for name in sys.modules if name.startswith('lrnb.')), "
    code += "sorted({'numpy', 'pydantic', 'torch'} & set(sys.modules)))"
    assert in_fresh_python(code) == f"{FACES} []"


@pytest.mark.parametrize("face", FACES)
def test_a_face_says_what_the_folder_is_for(face: str) -> None:
    said = ast.get_docstring(ast.parse(MODULES[face].read_text(encoding="utf-8"))) or ""
    assert len(said.splitlines()) in range(1, 8)


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_modules_and_leave_faces_to_people(module: str) -> None:
    """Through a face the linter of the folders' order would see nothing."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in FACES:
            unknown = {alias.name for alias in node.names if f"{node.module}.{alias.name}" not in MODULES}
            assert not unknown, f"{node.module} has them in a module"


def test_stubs_are_in_the_package() -> None:
    assert '"*.pyi"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
