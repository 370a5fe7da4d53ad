"""A run on disk: the fit, and how its panel was prepared."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import xarray as xr

from rvrae_pyro.cli.files import CHECKPOINT, MODEL, write_text
from rvrae_pyro.cli.layout import Layout
from rvrae_pyro.cli.panels import Preparation, read_panel
from rvrae_pyro.data.panel_match import match_panel
from rvrae_pyro.errors import CheckpointError, RvraeError

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit

_PREPARATION: Final = "preparation.json"


@dataclass(frozen=True)
class Run:
    """A fit and the preparation of its panel."""

    fit: "Fit"
    preparation: Preparation

    def read(self, path: Path, layout: Layout) -> tuple[xr.Dataset, xr.Dataset]:
        """Read a panel as that of the fit was read, and prepare it as that was prepared.

        Returns
        -------
        raw, ready : Dataset
            The panel of the file, and the input of the fit; nothing in a row uses later rows.

        Raises
        ------
        ConfigError
            If an option contradicts the run.
        PanelError
            If the file holds no valid panel, or another kind of panel than that of the fit.
        """
        raw = read_panel(path, layout, self.preparation.layout)
        ready = match_panel(self.preparation.repeat(raw), self.fit.attrs)
        return raw, ready


def save_run(run: Run, folder: Path) -> None:
    """Write the sub-folder ``model`` of a run."""
    target = run.fit.save(folder / MODEL)
    write_text(target / _PREPARATION, run.preparation.to_json())


def load_run(folder: Path) -> Run:
    """Read a run, from its folder or from the sub-folder ``model``.

    Raises
    ------
    CheckpointError
        If it is missing, damaged or foreign.
    """
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
