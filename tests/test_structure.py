"""The shape of the project: imports, lengths, what notebooks declare, what an import costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrnb.params import ROOT, Study, notebook_params, validate

# A module imports only from those above it (design, section 4).
ORDER = """
params sweep memory environment store progress style
world_text world packing corpus
vocabulary pretrained base bpb train finetune
checkpoints checkpoint_writer pickles adapters sources compare bits kernels merge_kernels conflict_kernels
whatif_kernels slack_kernels workers vectors
device select election rounding merge ties_sv card jobs driver
numerals writing taskspec hubrows harness cloze taskdata harnesstask taskload
tree weights generate scorer scorecache stats answers evaluate
histograms conflicts atlas whatif choose playground saturation summary trust findings failures hand
recipe plots_merge plots_atlas plots_budgets plots_hand plots plots_playground plots_failures seeds report
widgets_base widgets_copy widgets_hand widgets_atlas widgets_playground widgets_scores widgets
plan fresh batch estimate live runner tables cli_merge cli_conflicts cli __main__
""".split()
# Training and scoring; everything else starts without torch and transformers.
HEAVY = {"bpb", "evaluate", "finetune", "generate", "scorer", "train", "tree", "weights", "__main__"}
MODULES = sorted(path for path in (ROOT / "lrnb").glob("*.py") if path.name != "__init__.py")
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def imported(tree: ast.AST) -> set[str]:
    """Modules of the package that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "lrnb":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lrnb."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("lrnb.")}
    return found


def outside(tree: ast.AST) -> set[str]:
    """Packages that a file imports, at the top or inside functions."""
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_every_module_has_its_place_in_the_order() -> None:
    assert {path.stem for path in MODULES} - set(ORDER) == set()
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_module_imports_from_above_and_fits_in_300_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    above = set(ORDER[: ORDER.index(path.stem)])
    assert imported(ast.parse(text)) - above == set()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)) or path.stem == "__main__"


def test_only_the_widgets_use_widget_libraries() -> None:
    for path in MODULES:
        if not path.stem.startswith("widgets"):
            assert not {"ipywidgets", "anywidget"} & outside(ast.parse(path.read_text(encoding="utf-8"))), (
                path
            )


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.splitlines()[-1]


def test_import_and_help_load_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'pandas', 'papermill', 'snakemake', 'rich', 'pydantic'}"
    code = (
        "import sys, contextlib, lrnb.cli\nwith contextlib.suppress(SystemExit): lrnb.cli.main(['--help'])\n"
    )
    assert in_fresh_python(code + f"print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_only_training_and_scoring_import_torch() -> None:
    light = [path.stem for path in MODULES if path.stem not in HEAVY]
    code = f"import importlib, sys\nfor m in {light}: importlib.import_module('lrnb.' + m)\n"
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
    known = {key: value for key, value in declared.items() if key in Study.model_fields}
    if "here(globals())" in path.read_text(encoding="utf-8"):
        assert known == declared
    validate(known, str(path))


def test_source_holds_no_path_of_a_machine() -> None:
    files = [
        *MODULES,
        *NOTEBOOKS,
        *(ROOT / "params").rglob("*.yaml"),
        *(ROOT / "lrnb" / "tasks").glob("*.yaml"),
    ]
    files += [
        ROOT / name for name in ("Makefile", "Snakefile", "pyproject.toml", "environment.yml", ".ci/run")
    ]
    homes = ("/home/", "/Users/", "/ro" + "ot/", "/wo" + "rk/", "C:\\\\")
    found = {p.name: h for p in files for h in homes if h in p.read_text(encoding="utf-8")}
    assert found == {}
