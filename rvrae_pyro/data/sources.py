"""Sources of panels for other processes: sent with the job, or read once from a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import xarray as xr

from rvrae_pyro.data.io import read_panel


class Source(Protocol):
    """Source of a panel."""

    def load(self) -> xr.Dataset:
        """Return the panel."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """A panel that travels with the job.

    Parameters
    ----------
    panel : Dataset
    """

    panel: xr.Dataset

    def load(self) -> xr.Dataset:
        """Return the panel."""
        return self.panel


@dataclass(frozen=True)
class OnDisk:
    """A panel in a file that all processes see; each reads it once.

    Parameters
    ----------
    path : str
        Absolute: processes may work in other folders.
    """

    path: str

    def load(self) -> xr.Dataset:
        """Read the panel."""
        return _read_once(self.path)


@lru_cache(maxsize=2)  # the training and the validation months of a fit
def _read_once(path: str) -> xr.Dataset:
    return read_panel(path)
