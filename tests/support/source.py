"""The package's own source, read: its modules, what they import and where, the names they define."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from lrnb.study.parameters import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "lrnb").rglob("*.py"))
}
FOLDERS = {name: path.parent for name, path in MODULES.items() if path.name == "__init__.py"}


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            for name in (f"{child.module}.{alias.name}" for alias in child.names):
                yield name if name in MODULES else str(child.module), inside
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from _imports(child, inside or isinstance(child, ast.FunctionDef))


def imports(module: str) -> list[tuple[str, bool]]:
    """Modules that one imports (types alone left out), and whether inside a function."""
    found = list(_imports(tree(module)))
    if ("importlib", False) in found:  # a folder that imports its files by name
        found += [(name, False) for name in MODULES if name.startswith(f"{module}.")]
    return found


def libraries(module: str) -> set[str]:
    """Packages that are loaded when a module is imported, through lrnb's own modules too."""
    if module not in MODULES:
        return {module.split(".")[0]}
    seen, todo, found = {module}, [module], set()
    while todo:
        for name, inside in imports(todo.pop()):
            if not inside and name not in MODULES:
                found.add(name.split(".")[0])
            elif not inside and name not in seen:
                seen.add(name)
                todo.append(name)
    return found


@functools.cache
def defined(module: str) -> frozenset[str]:
    """Public functions and classes that a module defines at its top; imported ones do not count."""
    made = [node for node in tree(module).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return frozenset(node.name for node in made if not node.name.startswith("_"))
