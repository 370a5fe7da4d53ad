"""Everything that training leaves behind: the model, its settings and its history."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import xarray as xr

from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.rvrae import RVRAE

__all__ = ["TrainingRecord"]


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """A trained model and the history of its training.

    :class:`~rvrae_pyro.fitting.fit.Fit` documents the fields.
    """

    model: RVRAE
    config: FitConfig
    seed: int
    history: pd.DataFrame
    kl_total: xr.DataArray
    kl: xr.DataArray
    stopped: str
    best_step: int
    attrs: dict[str, str | int]
