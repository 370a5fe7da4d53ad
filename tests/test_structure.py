"""File names that a reader can guess from, and imports of what is used."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rvrae_pyro"
MODULES = sorted(PACKAGE.rglob("*.py"))
APART = {"__init__.py", "__main__.py"}


def test_no_file_name_occurs_twice() -> None:
    names = Counter(path.name for path in MODULES if path.name not in APART)
    assert len(names) > 100
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_the_top_of_the_package(path: Path) -> None:
    """``import rvrae_pyro as rv`` is for users, docs and tests; it hides what a module needs."""
    if path == PACKAGE / "__init__.py":
        return
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name == PACKAGE.name]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            names = [alias.name for alias in node.names]
            found += [name for name in names if not _is_module(name)]
    assert found == []


def _is_module(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()
