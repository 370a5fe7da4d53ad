"""Finished refits of a walk-forward evaluation in a folder, so that a stopped run resumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from rvrae_pyro.errors import CheckpointError, ConfigError
from rvrae_pyro.experiments.competitors import ModelEntrant
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.predictive.storage import read_tree, write_tree

_REMEDY = "The refits that are in it are kept; make room and rerun to resume."


@dataclass(frozen=True)
class RefitFiles:
    """Folder with one file of forecasts per refit, and the fit that others start from.

    File names hold the refit's key, a hash of everything that its numbers depend on: files of
    other runs are not taken over.

    Parameters
    ----------
    folder : Path
        Must exist.
    """

    folder: Path

    def read(self, key: str) -> xr.DataTree | None:
        """Read the forecasts of a refit; None where there are none or the file is damaged."""
        path = self._tree(key)
        try:
            tree = read_tree(path) if path.exists() else None
        except CheckpointError:  # the remains of a crashed disk: the refit is run again
            return None
        if tree is not None:  # netCDF reads a number as one of numpy, which JSON does not know
            tree.attrs = {
                name: value.item() if isinstance(value, np.generic) else value
                for name, value in tree.attrs.items()
            }
        return tree

    def read_fit(self, key: str, model: ModelEntrant) -> Fit | None:
        """Read the fit that others start from; None where there is none or it is damaged."""
        path = self._fit(key)
        try:
            return model.load(path) if path.exists() else None
        except CheckpointError:
            return None

    def keep(self, key: str, tree: xr.DataTree, fit: Fit | None) -> None:
        """Write a refit, atomically; its fit first.

        Raises
        ------
        CheckpointError
            On an I/O error.
        """
        try:
            if fit is not None:
                fit.save(self._fit(key))
            write_tree(tree, self._tree(key))
        except (CheckpointError, ConfigError) as error:
            raise CheckpointError(f"{error} {_REMEDY}") from error

    def _tree(self, key: str) -> Path:
        return self.folder / f"refit-{key[:16]}.nc"

    def _fit(self, key: str) -> Path:
        return self.folder / f"fit-{key[:16]}"
