"""From the end of training, or a state on the way, to a fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from rvrae_pyro.errors import CheckpointError, ConfigError
from rvrae_pyro.fitting.checkpoint import STATE, read_state
from rvrae_pyro.fitting.describe import resolve_config
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.epochs import Trained
from rvrae_pyro.models.registry import build_model, is_built_in
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import FACTOR, TIME
from rvrae_pyro.predictive.months import factor_coord

__all__ = ["describe_outcome", "from_checkpoint", "outcome"]

_HISTORY = (
    "step",
    "elbo",
    "log_likelihood",
    "kl",
    "kl_weight",
    "log_weights",
    "valid_elbo",
    "seconds",
)


def outcome(
    model: RVRAE,
    config: FitConfig,
    seed: int,
    times: np.ndarray,
    attrs: Mapping[str, str | int],
    trained: Trained,
) -> Fit:
    """Put together what training left behind.

    Parameters
    ----------
    model : RVRAE
        At the state to keep.
    config : FitConfig
    seed : int
    times : ndarray of datetime64
        Training months.
    attrs : mapping
    trained : Trained
        With at least one epoch.
    """
    epochs = trained.epochs
    steps = np.array([e.step for e in epochs])
    kl_total = xr.DataArray(
        np.stack([e.kl_months.double().numpy() for e in epochs]),
        coords={"step": steps, TIME: times},
        dims=("step", TIME),
        name="kl_total",
        attrs={"units": "nats"},
    )
    kl = xr.DataArray(
        np.stack([e.kl_factors.double().numpy() for e in epochs]),
        coords={"step": steps, TIME: times, FACTOR: factor_coord(model.n_factors)},
        dims=("step", TIME, FACTOR),
        name="kl",
        attrs={"units": "nats"},
    )
    history = pd.DataFrame({name: [getattr(e, name) for e in epochs] for name in _HISTORY})
    told: dict[str, str | int] = {**attrs, "n_backoffs": len(trained.backoffs)}
    if trained.backoffs:
        told["backoffs"] = json.dumps([dataclasses.asdict(each) for each in trained.backoffs])
    return Fit(model, config, seed, history, kl_total, kl, trained.stopped, trained.best_step, told)


def describe_outcome(
    model: RVRAE, times: np.ndarray, attrs: Mapping[str, str | int]
) -> dict[str, Any]:
    """Describe with JSON types what :func:`from_checkpoint` wants to know beside the state."""
    return {
        "built_in": is_built_in(model),
        "times": [str(day) for day in times.astype("datetime64[ns]")],
        "attrs": dict(attrs),
    }


def from_checkpoint(
    folder: Path, model: RVRAE | None = None, config: FitConfig | None = None
) -> Fit:
    """Read the best state so far of a run that keeps its state in a folder.

    Parameters
    ----------
    folder : path
    model : RVRAE, optional
        A model built as the run's was; needed where a part is not one of ours.
    config : FitConfig, optional
        The run's configuration; needed where a schedule is not one of ours.

    Returns
    -------
    Fit
        ``stopped`` is "interrupted" where training has not ended.

    Raises
    ------
    CheckpointError
        If the state is damaged or of another version, no epoch has ended yet, or the model
        cannot be rebuilt.
    """
    saved = read_state(folder / STATE)
    trained = Trained.from_state(saved.state["trained"])
    if not trained.epochs:
        raise CheckpointError(
            f"the run in {str(folder)!r} has not finished its first epoch. Repeat its call."
        )
    if not saved.state["done"]:
        trained.stopped = "interrupted"
    if model is None and not saved.about["built_in"]:
        raise CheckpointError(
            f"{str(folder)!r} holds a model with parts of your own. Build that model and pass it "
            "as `model=`; its weights are then filled in."
        )
    try:
        model = build_model(saved.identity["model"]) if model is None else model
        config = resolve_config(saved.identity["config"], config)
        weights: dict[str, torch.Tensor] = dict(saved.state["best_weights"])
        model.to(dtype=config.dtype)
        model.parts.load_state_dict(weights)
    except (ConfigError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"the model in {str(folder)!r} cannot be rebuilt: {error}. Pass `model=` built with "
            "the parts and sizes it was trained with."
        ) from error
    times = np.array(saved.about["times"], dtype="datetime64[ns]")
    seed = int(saved.identity["seed"])
    return outcome(model, config, seed, times, saved.about["attrs"], trained)
