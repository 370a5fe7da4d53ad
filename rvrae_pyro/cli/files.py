"""Output files of commands, moved into place at their end, and runs on disk."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd
import xarray as xr

from rvrae_pyro.atomic import draft, put, remove, replacing
from rvrae_pyro.cli.panels import Layout, Preparation, read_panel
from rvrae_pyro.data.panel_match import match_panel
from rvrae_pyro.errors import CheckpointError, ConfigError, RvraeError

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit


TABLE_SUFFIXES: Final = (".csv", ".parquet")

MODEL = "model"
"""Sub-folder of a run that ``Fit.save`` writes."""

CHECKPOINT = "checkpoint"
"""Sub-folder of a run that keeps the state of training until the fit is done."""

_PREPARATION: Final = "preparation.json"


def check_folder(
    path: Path, marks: Sequence[str] = (f"{MODEL}/fit.json", CHECKPOINT), what: str = "a run"
) -> Path:
    """Raise ``ConfigError`` for an output folder that cannot be written or holds something else.

    Parameters
    ----------
    path : path
    marks : sequence of str
        Entries by which an earlier result is recognised, which may be replaced.
    what : str
        Expected content of the folder, for the message.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"`--out` {path} is a file; name a folder.")
    known = any((path / mark).exists() for mark in marks)
    # hidden names are what a killed run may leave behind
    if path.is_dir() and not known and not all(p.name.startswith(".") for p in path.iterdir()):
        raise ConfigError(
            f"`--out` {path} holds something that is not {what}; choose another folder."
        )
    _check_permission(path)
    return path


def check_file(path: Path, suffixes: tuple[str, ...], source: Path | None = None) -> Path:
    """Raise ``ConfigError`` for a file that cannot be written, of unknown suffix, or to be read.

    A ``.zarr`` is a folder, whose content its writer checks.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(
            f"`--out` {path}: unknown suffix {path.suffix!r}; use one of {', '.join(suffixes)}."
        )
    if path.is_dir() and path.suffix.lower() != ".zarr":
        raise ConfigError(f"`--out` {path} is a folder; name a file.")
    if not path.parent.is_dir():
        raise ConfigError(f"`--out` {path}: the folder {path.parent} does not exist; make it.")
    if source is not None and path.resolve() == source.resolve():
        raise ConfigError(f"`--out` {path} is the panel itself; choose another file.")
    _check_permission(path)
    return path


def _check_permission(path: Path) -> None:
    above = path.absolute() if path.is_dir() else path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise ConfigError(f"`--out` {path} cannot be written: {above} is a file.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"`--out` {path} cannot be written: no permission in {above}.")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary name that takes the place of a file on success; I/O errors are reported."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def assembled(target: Path) -> Iterator[Path]:
    """Give an empty folder next to ``target`` whose content moves there on success.

    Entries of an earlier run are replaced one by one; other content stays. I/O errors raise
    ``ConfigError``.
    """
    temporary = draft(target.absolute())
    try:
        temporary.mkdir(parents=True)
        yield temporary
        target.mkdir(parents=True, exist_ok=True)
        for entry in sorted(temporary.iterdir()):
            put(entry, target / entry.name)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error}.") from error
    finally:
        remove(temporary)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as .csv (six significant digits) or .parquet, atomically."""
    check_file(path, TABLE_SUFFIXES)
    with replaced(path) as temporary:
        if path.suffix.lower() == ".csv":
            table.to_csv(
                temporary,
                index=False,
                date_format="%Y-%m-%d",
                float_format="%.6g",
                lineterminator="\n",
            )
        else:
            table.to_parquet(temporary, index=False)


@dataclass(frozen=True)
class Run:
    """A fit and the preparation of its panel."""

    fit: "Fit"
    preparation: Preparation

    def read(self, path: Path, layout: Layout) -> tuple[xr.Dataset, xr.Dataset]:
        """Read a panel as that of the fit was read, and prepare it as that was prepared.

        Returns the panel of the file, and the input of the fit. Raises ``ConfigError`` if an option
        contradicts the run, ``PanelError`` if the file holds no panel of the fit's kind.
        """
        raw = read_panel(path, layout, self.preparation.layout)
        ready = match_panel(self.preparation.repeat(raw), self.fit.attrs)
        return raw, ready


def save_run(run: Run, folder: Path) -> None:
    """Write the sub-folder ``model`` of a run."""
    target = run.fit.save(folder / MODEL)
    write_text(target / _PREPARATION, run.preparation.to_json())


def load_run(folder: Path) -> Run:
    """Read a run, from its folder or from the sub-folder ``model``."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"RUN {folder} {what}; name the folder that `rvrae fit` wrote.")
    if (folder / CHECKPOINT).is_dir() and not (folder / MODEL).is_dir():
        raise CheckpointError(
            f"RUN {folder} is not finished: give the `rvrae fit` command again that began it."
        )
    model = folder / MODEL if (folder / MODEL).is_dir() else folder
    from rvrae_pyro.fitting.fit import Fit  # torch takes seconds
    from rvrae_pyro.loading import load

    try:
        fit = load(model)
    except RvraeError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{model} is damaged: {error!r}. Fit again.") from error
    if not isinstance(fit, Fit):
        raise CheckpointError(f"RUN {folder} is an ensemble; name the folder of a single fit.")
    return Run(fit, Preparation.from_json(model / _PREPARATION))
