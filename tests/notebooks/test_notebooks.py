"""The notebooks run from top to bottom in a fresh kernel, and their two forms say the same."""

import os
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))
# These run with every change; the others by -m notebook.
QUICK = {"01_quickstart", "02_swapping_priors"}
# Seconds for one cell. The whole notebook takes far less; this only keeps a hang from lasting.
TIMEOUT = 120


def _read(name: str, suffix: str) -> nbformat.NotebookNode:
    path = FOLDER / f"{name}{suffix}"
    return jupytext.read(path) if suffix == ".py" else nbformat.read(path, as_version=4)


def test_there_are_notebooks() -> None:
    """An empty list would make every test below pass."""
    assert set(NAMES) >= QUICK


@pytest.mark.parametrize("name", NAMES)
def test_pair_is_in_step(name: str) -> None:
    """The text form and the notebook hold the same cells; the notebook holds no output."""
    text, notebook = _read(name, ".py"), _read(name, ".ipynb")
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in text.cells
    ], f"run: jupytext --sync notebooks/{name}.py"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], "clear the outputs before committing"
            assert cell.execution_count is None


@pytest.mark.parametrize("name", NAMES)
def test_notebook_keeps_the_form(name: str) -> None:
    """First code cell: seed and sizes with a small variant; last: an assertion."""
    code = [cell.source for cell in _read(name, ".py").cells if cell.cell_type == "code"]
    assert "SEED = " in code[0]
    assert "SIZES = " in code[0]
    assert "RVRAE_SMOKE" in code[0]
    assert any(line.startswith("assert ") for line in code[-1].splitlines())
    private = [line for cell in code for line in cell.splitlines() if "rvrae_pyro._" in line]
    assert not private


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.notebook) for name in NAMES],
)
def test_notebook_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At small size, in a kernel of its own, from the notebooks' folder; no error is tolerated."""
    monkeypatch.setenv("RVRAE_SMOKE", "1")
    # the kernel draws inline, whatever backend the tests use
    monkeypatch.delenv("MPLBACKEND", raising=False)
    # the kernel finds the package where the tests found it, installed or not
    here = str(FOLDER.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *_python_path()]))
    notebook = _read(name, ".ipynb")
    NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3


def _python_path() -> list[str]:
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
