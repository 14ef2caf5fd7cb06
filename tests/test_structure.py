"""The shape of the project: imports, lengths, what notebooks declare, what an import costs."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest
from support.processes import in_fresh_python
from support.source import FOLDERS, defined, imports, libraries
from support.source import MODULES as BY_NAME

from lrnb.study.parameters import ROOT, load_study, validate
from lrnb.study.parameters_cell import notebook_params

# Folders whose modules may load torch when they are imported; everything else starts without it.
HEAVY = {"training", "scoring"}
# Libraries that take long to load, or that few callers of a module need: these may wait inside a function.
LATE = {"torch", "transformers", "tokenizers", "peft", "lm_eval", "datasets", "pyarrow", "gguf"}
LATE |= {"huggingface_hub", "numba", "papermill", "jupyter_client", "ipykernel", "IPython", "rich", "tqdm"}
LATE |= {"ipywidgets", "anywidget", "traitlets", "filelock", "psutil", "importlib", "optuna"}
LATE_IN_CLI = {"numpy", "pandas", "pydantic"}  # so that --help is instant
MODULES = sorted((ROOT / "lrnb").rglob("*.py"))
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def outside(tree: ast.AST) -> set[str]:
    """Packages that a file imports, at the top or inside functions."""
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def dotted(path: Path) -> str:
    """lrnb.merging.engine of lrnb/merging/engine.py; a folder's own name of its __init__."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_only_the_widgets_use_widget_libraries() -> None:
    for path in MODULES:
        if path.parent.name != "widgets":
            assert not {"ipywidgets", "anywidget"} & outside(ast.parse(path.read_text(encoding="utf-8"))), (
                path
            )


def test_import_and_help_load_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'pandas', 'papermill', 'snakemake', 'rich', 'pydantic'}"
    code = "import sys, contextlib\nfrom lrnb.cli.main import main\n"
    code += "with contextlib.suppress(SystemExit): main(['--help'])\n"
    assert in_fresh_python(code + f"print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("module", BY_NAME)
def test_imports_stand_at_the_top_unless_they_load_a_heavy_library(module: str) -> None:
    late = LATE | LATE_IN_CLI if module.startswith("lrnb.cli.") else LATE
    inside = [name for name, in_function in imports(module) if in_function]
    assert [name for name in inside if not libraries(name) & late] == []


def test_only_training_and_scoring_import_torch() -> None:
    light = [dotted(p) for p in MODULES if not HEAVY & set(p.parts) and p.stem != "__main__"]
    code = f"import importlib, sys\nfor m in {light}: importlib.import_module(m)\n"
    assert in_fresh_python(code + "print(sorted({'torch', 'transformers'} & set(sys.modules)))") == "[]"


def code_cells(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_has_short_cells_and_no_outputs(path: Path) -> None:
    for cell in code_cells(path):
        assert not cell["outputs"]
        assert cell["execution_count"] is None
        if "parameters" not in cell["metadata"].get("tags", []):
            assert len("".join(cell["source"]).splitlines()) <= 15
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_parameters_are_the_studys_and_papermill_sees_them_all(path: Path) -> None:
    from papermill.inspection import inspect_notebook

    declared = notebook_params(path)
    assert set(inspect_notebook(str(path))) == set(declared)
    if "open_notebook()" in path.read_text(encoding="utf-8"):
        validate(declared, str(path), strict=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_opened_by_hand_has_the_values_of_preset_nano(path: Path) -> None:
    declared = notebook_params(path)
    if "open_notebook()" not in path.read_text(encoding="utf-8"):
        return
    study = load_study(ROOT / "params" / "qaa.yaml", "nano").model_dump(mode="json")
    own = {"00_base": {"lang": "en"}, "any_method": {"method": "slerp"}}.get(path.stem, {})
    assert {name: value for name, value in declared.items() if study[name] != value} == own


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_import_faces(path: Path) -> None:
    for node in ast.walk(ast.parse("\n".join("".join(cell["source"]) for cell in code_cells(path)))):
        for name in [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []:
            if node.module == "lrnb":
                assert f"lrnb.{name}" in FOLDERS
            elif str(node.module).startswith("lrnb.") and node.module != "lrnb.errors":
                assert name in import_module(node.module).__all__, node.module


def test_no_function_or_class_stands_in_two_modules() -> None:
    places = {name: [m for m in BY_NAME if name in defined(m)] for m in BY_NAME for name in defined(m)}
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_source_holds_no_path_of_a_machine() -> None:
    files = [
        *MODULES,
        *NOTEBOOKS,
        *(ROOT / "params").rglob("*.yaml"),
        *(ROOT / "lrnb").rglob("*.yaml"),
        *ROOT.glob("*.md"),
        *(path for folder in ("docs", "benchmarks") for path in (ROOT / folder).rglob("*.[mj][ds]*")),
    ]
    files += [
        ROOT / name for name in ("Makefile", "Snakefile", "pyproject.toml", "environment.yml", ".ci/run")
    ]
    homes = ("/home/", "/Users/", "/ro" + "ot/", "/wo" + "rk/", "C:\\\\")
    found = {p.name: h for p in files for h in homes if h in p.read_text(encoding="utf-8")}
    assert found == {}
