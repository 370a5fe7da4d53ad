"""What a trained model can say."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch, to_batch, to_light_batch
from rvrae_pyro.data.fingerprint import fingerprint
from rvrae_pyro.data.panel_match import match_panel
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.fitting.checking import judge_fit
from rvrae_pyro.fitting.forecasts import Asked, Forecasts
from rvrae_pyro.fitting.readings import Readings
from rvrae_pyro.fitting.saved import save_parts
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.parts import CrossSection
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, TIME, WEIGHT_DRAW
from rvrae_pyro.predictive import attribution as _attribution
from rvrae_pyro.predictive import forecast as _forecast
from rvrae_pyro.predictive import moments as _moments
from rvrae_pyro.predictive import readings as _readings
from rvrae_pyro.predictive import replicates as _replicates
from rvrae_pyro.predictive.beliefs import Kind, stream_cross_section
from rvrae_pyro.predictive.members import (
    Member,
    believe_each,
    block_sizes,
    evidence_by_weights,
    fixed_models,
)
from rvrae_pyro.predictive.months import factor_coord, label_cells, pick_months
from rvrae_pyro.predictive.relevance import relevance as _relevance
from rvrae_pyro.predictive.relevance import typical_batch
from rvrae_pyro.predictive.storage import Drawing

__all__ = ["Fit"]

_LOADINGS_DRAWS = 20


@dataclass(frozen=True, eq=False)
class Fit(Forecasts, Readings):
    """A trained model and what it can say.

    Attributes
    ----------
    model : RVRAE
    config : FitConfig
    seed : int
    history : DataFrame
        One row an epoch: step, elbo, log_likelihood, kl (training months, in nats, at KL weight
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
        Seed, config, model, library versions and the fingerprint of the training data;
        ``last_seen_month``, the last that training or validation has looked at;
        ``characteristics`` and ``panel``, what later panels must share with the training panel.
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
    _memory: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """Say in a line what was fitted and how training ended; ``history`` has the rest."""
        size = sum(weight.numel() for weight in self.model.parts.parameters())
        last = int(self.history["step"].iloc[-1])
        start = f"seed {self.seed}"
        if self.attrs.get("start", "seed") != "seed":
            start += f", warm start that kept return_scale {float(self.model.return_scale):.3g}"
        return (
            f"Fit({self.model.n_factors} factors, {size:,} weights, {start}; "
            f"{self.stopped} at step {last}, kept step {self.best_step}; saw data to "
            f"{self.attrs.get('last_seen_month', 'an unknown month')})"
        )

    def _factors(self, asked: Asked, kind: Kind) -> xr.Dataset:
        batch, members = self._believe(asked)
        draws = torch.cat([member.beliefs.of(kind) for member in members], 1).transpose(0, 1)
        coords = {TIME: batch.times, FACTOR: factor_coord(self.model.n_factors)}
        over = (TIME, FACTOR)
        return xr.Dataset(
            {
                FACTORS: ((CHAIN, DRAW, *over), draws.unsqueeze(0).cpu().numpy()),
                "mean": (over, draws.mean(0).cpu().numpy()),
                "sd": (over, draws.std(0, correction=0).cpu().numpy()),
            },
            coords={CHAIN: [0], DRAW: np.arange(draws.shape[0]), **coords},
            attrs={**self.attrs, "kind": kind, "draw_seed": asked.seed},
        )

    def _prior_state(self, asked: Asked) -> xr.Dataset:
        batch, members = self._believe(asked)
        beliefs = [member.beliefs for member in members]
        return _readings.prior_state(self.model, batch, beliefs, self._draw_attrs(asked))

    def _loadings(self, panel: xr.Dataset) -> xr.DataArray:
        batch = self._batch(panel)
        sizes = block_sizes(self.model, _LOADINGS_DRAWS)
        with torch.no_grad():
            each = [m.loadings.online(batch)[0] for m, _ in fixed_models(self.model, len(sizes), 0)]
            beta = torch.stack(each).mean(0).double() * self.model.return_scale.double()
        values = beta.masked_fill(~batch.listed.unsqueeze(-1), torch.nan).cpu().numpy()
        return xr.DataArray(
            values,
            coords={
                TIME: batch.times,
                ASSET: batch.assets,
                FACTOR: factor_coord(self.model.n_factors),
            },
            dims=(TIME, ASSET, FACTOR),
            name="beta",
            attrs={"long_name": "loadings", "units": "return per unit of factor"},
        )

    def _idio_scale(self, asked: Asked) -> xr.DataArray:
        batch, members = self._believe(asked)
        with torch.no_grad():
            variance = torch.stack([_moments.idio_variance(m) for m in members]).mean(0)
        return label_cells(variance.sqrt(), batch, "idio_scale", "idiosyncratic standard deviation")

    def _reconstruct(self, asked: Asked) -> xr.DataArray:
        batch, members = self._believe(asked)
        each = [m.beliefs.cross.location(m.beliefs.filtered.mean(1)) for m in members]
        fitted = torch.stack(each).mean(0)
        return label_cells(fitted, batch, "fitted", "fitted return given the month's own returns")

    def _log_evidence(self, asked: Asked, by_weights: int | None) -> xr.DataArray:
        attrs = {"long_name": "log density given the months before", "units": "nats"}
        if by_weights is not None:
            batch, cross = self._light(asked.panel)
            rows = evidence_by_weights(
                self.model, batch, by_weights, asked.num_samples, asked.seed, cross
            )
            coords = {WEIGHT_DRAW: np.arange(len(rows)), TIME: batch.times}
            return xr.DataArray(rows.cpu().numpy(), coords, tuple(coords), "log_evidence", attrs)
        batch, members = self._believe(asked)
        each = torch.stack([member.beliefs.log_evidence for member in members])
        mixed = (torch.logsumexp(each, 0) - math.log(len(members))).cpu().numpy()
        return xr.DataArray(mixed, {TIME: batch.times}, TIME, "log_evidence", attrs)

    def _posterior_predictive(self, asked: Asked) -> Drawing:
        return _replicates.posterior_predictive(
            self.model,
            match_panel(asked.panel, self.attrs),
            num_samples=asked.num_samples,
            seed=asked.seed,
            times=asked.times,
            attrs=self._draw_attrs(asked),
        )

    def _forecast(self, asked: Asked) -> Drawing:
        batch, members = self._believe(asked)
        attrs = self._draw_attrs(asked)
        return _forecast.forecast(members, batch, times=asked.times, attrs=attrs)

    def _moments(self, asked: Asked) -> xr.Dataset:
        batch, members = self._believe(asked)
        data = _moments.moments(members, batch, pick_months(batch, asked.times))
        return data.assign_attrs(self._draw_attrs(asked))

    def _attribution(self, asked: Asked, rotation: np.ndarray | None = None) -> xr.DataArray:
        """Split mean forecasts by factor, turned by ``rotation`` (factor, reference) if given."""
        batch, members = self._believe(asked)
        months = pick_months(batch, asked.times)
        return _mean([_attribution.attribute(batch, m.beliefs, months, rotation) for m in members])

    def _sensitivity(self, asked: Asked) -> xr.DataArray:
        batch, members = self._believe(asked)
        months, whole = pick_months(batch, asked.times), self._batch(asked.panel)
        return _mean([_attribution.sensitivity(m.model, whole, m.beliefs, months) for m in members])

    def _relevance(self, panel: xr.Dataset | None, num_draws: int, seed: int) -> xr.DataTree:
        batch = typical_batch(self.model, seed) if panel is None else self._batch(panel)
        known = json.loads(str(self.attrs.get("characteristics", "null")))
        names = batch.names.tolist() if panel is not None else known
        if names is None:
            names = [f"x{p + 1}" for p in range(self.model.n_characteristics)]
        return _relevance(self.model, batch, names, num_draws, seed)

    def _check(self, panel: xr.Dataset | None, num_particles: int) -> Check:
        return judge_fit(self, panel, num_particles)

    def uninterrupted(self) -> Fit:
        """Return the fit itself, for whatever must not take half a training for a whole one.

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

    def _batch(self, panel: xr.Dataset) -> Batch:
        panel = match_panel(panel, self.attrs)
        batch = to_batch(panel, device=self.model.return_scale.device, dtype=torch.float64)
        self.model.loadings.check(batch)
        return batch

    def _light(self, panel: xr.Dataset) -> tuple[Batch, Callable[[RVRAE], CrossSection]]:
        """Make the batch of a panel without its characteristics, and their reader."""
        panel = match_panel(panel, self.attrs)
        batch = to_light_batch(panel, self.model.return_scale.device, torch.float64)
        self.model.loadings.check(batch)
        return batch, partial(stream_cross_section, panel=panel, light=batch)

    def _believe(self, asked: Asked) -> tuple[Batch, list[Member]]:
        """Filter a panel, once for all that is asked of the same panel, draws and weights."""
        panel = match_panel(asked.panel, self.attrs)  # also where the answer is known already
        num_samples, seed = asked.num_samples, asked.seed
        key = (fingerprint(panel), num_samples, seed, self.model.parts.version())
        if self._memory.get("key") != key:
            batch, cross = self._light(panel)
            members = believe_each(self.model, batch, num_samples, seed, cross)
            self._memory.update(key=key, value=(batch, members))
        batch, members = self._memory["value"]
        return batch, members

    def _draw_attrs(self, asked: Asked) -> dict[str, str | int]:
        seen = fingerprint(asked.panel)
        return {**self.attrs, "draw_seed": asked.seed, "panel_fingerprint": seen}


def _mean(each: list[xr.DataArray]) -> xr.DataArray:
    """Mean over draws of the weights, labelled as the first."""
    return each[0] if len(each) == 1 else each[0].copy(data=np.mean([a.values for a in each], 0))
