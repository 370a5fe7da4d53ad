"""The notebooks run from top to bottom in a fresh kernel; the stored outputs are of this code."""

import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from notebooks import execute
from notebooks.execute import FOLDER, code_hash, names, run

NAMES = names()
# These run with every change; the others by -m notebook.
QUICK = {"01_quickstart", "02_swapping_priors"}
# Seconds for one cell. The whole notebook takes far less; this only keeps a hang from lasting.
TIMEOUT = 120
# Warnings of the package and of ArviZ's check of sensitivity may stay, for they are part of the
# answer; others are noise.
ANSWER = re.compile(
    r"RvraeWarning: |We detected potential issues\. |https://arviz-devs\.github\.io/EABM/"
    r"|or read original paper https://"
)
LARGEST, LARGEST_SUM = 800_000, 5_000_000
MACHINE = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|var|mnt|work|srv|Users|private)/|[A-Z]:\\\\|"
    r"site-packages|ipykernel_\d|at 0x[0-9a-f]{6,}"
)


def _read(name: str, suffix: str) -> nbformat.NotebookNode:
    path = FOLDER / f"{name}{suffix}"
    return jupytext.read(path) if suffix == ".py" else nbformat.read(path, as_version=4)


def _code(name: str, suffix: str = ".py") -> list[nbformat.NotebookNode]:
    return [cell for cell in _read(name, suffix).cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    """An empty list would make every test below pass."""
    assert set(NAMES) >= QUICK
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_pair_is_in_step(name: str) -> None:
    """The text form and the notebook hold the same cells; the outputs are those of this code."""
    text, notebook = _read(name, ".py"), _read(name, ".ipynb")
    remedy = f"run: python notebooks/execute.py {name[:2]}"
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in text.cells
    ], remedy
    assert notebook.metadata.executed_code == code_hash(text.cells), remedy


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_was_executed_in_order(name: str) -> None:
    cells = _code(name, ".ipynb")
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error"] == []
    said = [o.text for o in outputs if o.get("name") == "stderr"]
    assert [line for text in said for line in text.splitlines() if not ANSWER.match(line)] == []
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_small_and_of_no_machine(name: str) -> None:
    """No path of the machine that ran it, no address in memory, no time of execution."""
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size <= LARGEST
    for cell in _code(name, ".ipynb"):
        assert dict(cell.metadata) == {}
        texts = [
            {kind: data for kind, data in output.get("data", {}).items() if "image" not in kind}
            | {"text": output.get("text", "")}
            for output in cell.outputs
        ]
        assert MACHINE.search(json.dumps(texts)) is None, texts


def test_outputs_together_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.ipynb")) <= LARGEST_SUM


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/home/me/x.py", True),
        ("in /tmp/ipykernel_1/2.py", True),
        ("<Thing at 0x7f00aa11>", True),
        ("docs/home/page, https://a.org/home/x, 5/usr", False),
    ],
)
def test_what_counts_as_of_a_machine(text: str, found: bool) -> None:
    assert (MACHINE.search(text) is not None) is found


@pytest.mark.parametrize("name", NAMES)
def test_notebook_keeps_the_form(name: str) -> None:
    """Seed and sizes first, a result within two code cells, an assertion last."""
    code = [cell.source for cell in _code(name)]
    assert "SEED = " in code[0]
    assert "SIZES = " in code[0]
    assert "RVRAE_SMOKE" in code[0]
    assert any(line.startswith("assert ") for line in code[-1].splitlines())
    private = [line for cell in code for line in cell.splitlines() if "rvrae_pyro._" in line]
    assert not private
    assert [cell for cell in code if len(cell.splitlines()) > 40] == []
    assert any(cell.outputs for cell in _code(name, ".ipynb")[:2])


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_of_the_library(name: str) -> None:
    """Notebooks draw by ``rv.plots`` and ArviZ; no cell has more than three lines of matplotlib."""
    drawing = re.compile(r"\bplt\.|\bax(?:es|is)?\.|\.plot[.(]|\bfigure\.")
    for cell in _code(name):
        lines = [line for line in cell.source.splitlines() if drawing.search(line)]
        assert len(lines) <= 3, lines


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.notebook) for name in NAMES],
)
def test_notebook_runs(name: str) -> None:
    """At small size, in a kernel of its own, from the notebooks' folder; no error is tolerated."""
    notebook = run(name, small=True, timeout=TIMEOUT)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3


def test_warnings_are_stored_without_the_file_that_raised_them() -> None:
    text = "/tmp/x/y.py:12: RvraeWarning: few draws: use more.\n  tree = f()\n"
    outputs = [nbformat.v4.new_output("stream", name="stderr", text=text) for _ in range(2)]
    notebook = jupytext.read(FOLDER / f"{NAMES[0]}.py")
    notebook.cells = [nbformat.v4.new_code_cell("f()", outputs=outputs)]
    (cell,) = execute.cleaned(notebook, NAMES[0]).cells
    assert [output.text for output in cell.outputs] == ["RvraeWarning: few draws: use more.\n"]


def test_the_text_forms_name_the_notebooks_they_link_to() -> None:
    linked = {
        target
        for name in NAMES
        for target in re.findall(r"\]\((\d\d_\w+)\.ipynb", Path(FOLDER / f"{name}.py").read_text())
    }
    assert linked <= set(NAMES)


def test_prose_is_taken_over_only_where_the_code_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = (FOLDER / f"{NAMES[0]}.py").read_text().split("# %%")[0]
    monkeypatch.setattr(execute, "FOLDER", tmp_path)
    source = tmp_path / "01_small.py"
    source.write_text(f"{header}# %% [markdown]\n# one\n\n# %%\nprint(1)\n")
    stored = execute.cleaned(jupytext.read(source), "01_small")
    stored.cells[1].outputs = [nbformat.v4.new_output("stream", text="1")]
    stored.cells[1].execution_count = 1
    nbformat.write(stored, tmp_path / "01_small.ipynb")
    source.write_text(source.read_text().replace("# one", "# two"))
    execute.main(["--prose", "01"])
    first, second = nbformat.read(tmp_path / "01_small.ipynb", as_version=4).cells
    assert (first.source, second.outputs[0].text) == ("two", "1")
    source.write_text(source.read_text().replace("print(1)", "print(2)"))
    with pytest.raises(SystemExit, match="the code has changed"):
        execute.main(["--prose"])
    with pytest.raises(SystemExit, match="no notebook begins with 09"):
        execute.main(["09"])
