"""A fitted model: ``Fit``, the result of ``rv.fit``, made of what training leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from rvrae_pyro import displays
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.errors import CheckpointError, ConfigError
from rvrae_pyro.fitting.checking import judge_fit
from rvrae_pyro.fitting.checkpoint import STATE, read_state
from rvrae_pyro.fitting.results import Results
from rvrae_pyro.fitting.saved import TrainingRecord, resolve_config, save_parts
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.epochs import Trained
from rvrae_pyro.models.registry import build_model, is_built_in
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import FACTOR, TIME
from rvrae_pyro.predictive.filtered import Filtered
from rvrae_pyro.predictive.months import factor_coord


@dataclass(frozen=True, eq=False, repr=False)
class Fit(TrainingRecord, Results):
    """A trained model with its forecasts, factors, diagnostics and training history.

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
        Why training ended: "converged", "max_steps", "callback" (``on_check`` asked for it) or
        "interrupted".
    best_step : int
        Step of the state that was kept.
    attrs : dict
        Seed, config, model, library versions and the hash of the training data;
        ``last_seen_month``, the last month used in training or validation; ``characteristics``
        and ``panel``, which later panels must share with the training panel.
    """

    def __repr__(self) -> str:
        """Summarise in a line what was fitted and how training ended."""
        size = sum(weight.numel() for weight in self.model.parts.parameters())
        last = int(self.history["step"].iloc[-1])
        start = f"seed {self.seed}"
        if self.attrs.get("start") in ("model", "init"):
            start += f", warm start with return_scale {float(self.model.return_scale):.3g}"
        return (
            f"Fit({self.model.n_factors} factors, {size:,} weights, {start}; "
            f"{self.stopped} at step {last}, kept step {self.best_step}; saw data to "
            f"{self.attrs.get('last_seen_month', 'an unknown month')})"
        )

    def _repr_html_(self) -> str:
        """Show how training went, with the model folded."""
        history = self.history.iloc[-1]
        rows: dict[str, object] = {
            "training": f"{self.stopped} at step {int(history['step']):,}, kept step "
            f"{self.best_step:,}, {history['seconds']:.0f} s",
            "months": f"{_day(self.kl_total[TIME][0])} to {_day(self.kl_total[TIME][-1])}, "
            f"{self.kl_total.sizes[TIME]} in training; data seen to "
            f"{self.attrs.get('last_seen_month', 'an unknown month')}",
            "seed": self.seed,
        }
        for name, label in (("train", "training"), ("valid", "validation")):
            count = int(self.attrs.get(f"n_{name}_returns", 0))
            column = "elbo" if name == "train" else "valid_elbo"
            kept = self.history.loc[self.history["step"] == self.best_step, column]
            if count and kept.notna().any():
                rows[f"bound, {label}"] = f"{float(kept.iloc[-1]) / count:.3f} nats per return"
        model = displays.fold(repr(self.model).partition("\n")[0], self.model._repr_html_())
        return displays.card("Fit", displays.pairs(rows), model)

    @property
    def _records(self) -> tuple[Fit, ...]:
        return (self,)

    @property
    def rotation(self) -> None:
        """None: factors are the model's own."""
        return

    @property
    def provenance(self) -> dict[str, str | int]:
        """Attributes of all results: ``attrs``."""
        return self.attrs

    def check(self, panel: xr.Dataset | Filtered | None = None, num_particles: int = 1000) -> Check:
        """Report in plain words, with figures, what the fit can be trusted with.

        Parameters
        ----------
        panel : xarray.Dataset or Filtered, optional
            Months on which guide, calibration, tails and skill are judged: for example the
            validation months with those before them. Without it, only training is judged. A
            panel that is filtered already (:meth:`filter`) is not filtered again.
        num_particles : int
            Particles of the filter that the guide is compared with, and draws of the forecasts.

        Returns
        -------
        Check
            Prints as a page of text; ``trusted`` is False where something is bad.

        Raises
        ------
        ConfigError
            If another fit filtered the panel.
        """
        return judge_fit(self, panel, num_particles)

    def uninterrupted(self) -> Fit:
        """Return the fit itself, unless its training was interrupted.

        Raises
        ------
        KeyboardInterrupt
            If training caught one (Ctrl-C, SIGTERM) and kept the best state so far.
        """
        if self.stopped == "interrupted":
            raise KeyboardInterrupt
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fit to a folder: weights as safetensors, the rest as JSON and netCDF.

        An existing fit in that folder is replaced once the new one is complete.
        """
        return save_parts(self, path)


def _day(time: xr.DataArray) -> str:
    return str(time.values)[:10]


_HISTORY = (
    "step", "elbo", "log_likelihood", "kl", "kl_weight", "log_weights", "valid_elbo", "seconds",
)  # fmt: skip


def outcome(
    model: RVRAE,
    config: FitConfig,
    seed: int,
    times: np.ndarray,
    attrs: Mapping[str, str | int],
    trained: Trained,
) -> Fit:
    """Make a fit of a model at its best state and the ``trained`` epochs, one at least."""
    epochs, units = trained.epochs, {"units": "nats"}
    coords = {"step": np.array([e.step for e in epochs]), TIME: times}
    total = np.stack([e.kl_months.double().numpy() for e in epochs])
    kl_total = xr.DataArray(total, coords, tuple(coords), "kl_total", units)
    coords[FACTOR] = factor_coord(model.n_factors)
    by_factor = np.stack([e.kl_factors.double().numpy() for e in epochs])
    kl = xr.DataArray(by_factor, coords, tuple(coords), "kl", units)
    history = pd.DataFrame({name: [getattr(e, name) for e in epochs] for name in _HISTORY})
    known: dict[str, str | int] = {**attrs, "n_backoffs": len(trained.backoffs)}
    if trained.backoffs:
        known["backoffs"] = json.dumps([dataclasses.asdict(each) for each in trained.backoffs])
    return Fit(
        model, config, seed, history, kl_total, kl, trained.stopped, trained.best_step, known
    )


def describe_outcome(
    model: RVRAE, times: np.ndarray, attrs: Mapping[str, str | int]
) -> dict[str, Any]:
    """Describe with JSON types what :func:`from_checkpoint` needs in addition to the state."""
    return {
        "built_in": is_built_in(model),
        "times": [str(day) for day in times.astype("datetime64[ns]")],
        "attrs": dict(attrs),
    }


def from_checkpoint(
    folder: Path, model: RVRAE | None = None, config: FitConfig | None = None
) -> Fit:
    """Read the best state so far of a run in a folder; "interrupted" where training has not ended.

    ``model`` and ``config``, built as the run's, are needed for user-defined parts and schedules.

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
            f"{str(folder)!r} holds a model with user-defined parts. Build that model and pass it "
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
