"""A fitted model: ``Fit``, the result of ``rv.fit``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from rvrae_pyro import displays
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.fitting.checking import judge_fit
from rvrae_pyro.fitting.record import TrainingRecord
from rvrae_pyro.fitting.results import Results
from rvrae_pyro.fitting.saved import save_parts
from rvrae_pyro.names import TIME
from rvrae_pyro.predictive.filtered import Filtered

__all__ = ["Fit"]


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
