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

    Attributes
    ----------
    model : RVRAE
    config : FitConfig
    seed : int
    history : DataFrame
        One row per epoch: step, elbo, log_likelihood, kl (training months, in nats, at KL weight
        1), kl_weight, log_weights, valid_elbo, seconds.
    kl_total : DataArray (step, time)
        KL of each training month in nats, given the draw of the months before: exact for
        Gaussian guides, and adding up to ``history.kl``.
    kl : DataArray (step, time, factor)
        KL of each factor's marginals; correlation is left out, so it does not add up.
    stopped : str
        Why training ended: "converged", "max_steps" or "interrupted".
    best_step : int
        Step of the state that was kept.
    attrs : dict
        Seed, config, model, library versions and the hash of the training data;
        ``last_seen_month``, the last month used in training or validation; ``characteristics``
        and ``panel``, which later panels must share with the training panel.
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
