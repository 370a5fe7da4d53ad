"""Execute notebooks at full size and store their outputs: ``python notebooks/execute.py 01 02``.

Reads the text form (``.py``), runs it in a fresh kernel, and writes the ``.ipynb`` next to it with
its outputs. Without numbers it runs all. What changes from run to run is left out: times, cell ids,
versions of the kernel. A hash of the code tells later which source the outputs belong to.
``--prose`` runs nothing: it takes over the text between the cells where the code is the same.
"""

import hashlib
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER: Final = Path(__file__).resolve().parent
_WARNING: Final = re.compile(r"^\S+:\d+: (\w+Warning: .*)\n(?:  .*\n)?", re.MULTILINE)
TIMEOUT: Final = 1800
"""Seconds for one cell; keeps a hang from lasting."""


def names() -> list[str]:
    """Names of all notebooks, in order."""
    return sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))


def code_hash(cells: Sequence[Any]) -> str:
    """Hash of the code of a notebook, which its outputs follow from."""
    code = "\0".join(cell.source for cell in cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def run(name: str, *, small: bool = False, timeout: int = TIMEOUT) -> nbformat.NotebookNode:
    """Execute a notebook from its text form, in a kernel of its own, from the notebooks' folder.

    Parameters
    ----------
    name : str
        File name without suffix.
    small : bool
        At the small sizes, in seconds.
    timeout : int
        Seconds for one cell.

    Returns
    -------
    NotebookNode
        With outputs; errors are raised.
    """
    notebook = jupytext.read(FOLDER / f"{name}.py")
    environment = dict(os.environ)
    # the kernel draws inline and finds the package where this file is
    environment.pop("MPLBACKEND", None)
    environment["RVRAE_SMOKE"] = "1" if small else "0"
    # of a progress bar that is not used
    environment["PYTHONWARNINGS"] = "ignore:IProgress not found"
    paths = [str(FOLDER.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
    )
    client.execute(env=environment)
    return notebook


def cleaned(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Leave out what changes from run to run; add the hash of the code."""
    kept = notebook.metadata
    notebook.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": kept.jupytext["formats"]},
            "kernelspec": kept.kernelspec,
            "language_info": {"name": "python"},
            "executed_code": code_hash(notebook.cells),
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{name[:2]}-{number:02d}"
        cell.metadata = nbformat.NotebookNode()
        _leave_out_places(cell)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _leave_out_places(cell: nbformat.NotebookNode) -> None:
    """Keep the text of a warning, without the file of the machine and the line that raised it."""
    kept: list[str] = []
    for output in list(cell.get("outputs", ())):
        if output.get("name") != "stderr":
            continue
        text = _WARNING.sub(r"\1\n", output.text).strip() + "\n"
        if text in kept:
            cell.outputs.remove(output)
        kept.append(text)
        output.text = text


def with_prose(name: str) -> nbformat.NotebookNode:
    """Return the stored notebook with the text form's Markdown; the code has to be the same."""
    text = jupytext.read(FOLDER / f"{name}.py")
    stored = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    outputs = [cell for cell in stored.cells if cell.cell_type == "code"]
    if stored.metadata.get("executed_code") != code_hash(text.cells):
        raise SystemExit(f"{name}: the code has changed; run: python notebooks/execute.py {name}")
    text.cells = [outputs.pop(0) if c.cell_type == "code" else c for c in text.cells]
    return text


def main(arguments: Sequence[str]) -> None:
    """Execute the notebooks whose names begin with one of the arguments."""
    prose, arguments = "--prose" in arguments, [a for a in arguments if a != "--prose"]
    chosen = [name for name in names() if not arguments or name.startswith(tuple(arguments))]
    if not chosen:
        raise SystemExit(f"no notebook begins with {', '.join(arguments)}; see {FOLDER}")
    for name in chosen:
        began = time.perf_counter()
        notebook = cleaned(with_prose(name) if prose else run(name), name)
        path = FOLDER / f"{name}.ipynb"
        nbformat.write(notebook, path)
        seconds, size = time.perf_counter() - began, path.stat().st_size / 1000
        sys.stdout.write(f"{name}: {seconds:.0f} s, {size:.0f} kB\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
