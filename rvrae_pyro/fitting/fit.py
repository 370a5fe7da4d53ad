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
from rvrae_pyro.data.blocks import is_lazy
from rvrae_pyro.data.fingerprint import fingerprint
from rvrae_pyro.data.portfolios import managed_portfolios
from rvrae_pyro.diagnostics.check import Check, check_training
from rvrae_pyro.evaluation.profile import factor_profile
from rvrae_pyro.fitting.checking import judge_panel
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
from rvrae_pyro.predictive.months import factor_coord, pick_months
from rvrae_pyro.predictive.relevance import relevance as _relevance
from rvrae_pyro.predictive.relevance import typical_batch

__all__ = ["Fit"]

_LOADINGS_DRAWS = 20

_FIXED = "what is unknown about the weights: they are fixed at one estimate (see seeds, ensembles)"
_MEAN_FIELD = (
    "what is unknown about the weights as a whole: some have a posterior, one weight apart from "
    "the other, which understates it; the rest are fixed (see seeds, ensembles, and "
    "rv.diagnostics.psis_weights for how far that posterior is off)"
)
_LIMITS = (
    "factors one by one: they are identified up to rotation, sign and scale",
    "survivorship and errors in your data; the model takes them as they are",
)


@dataclass(frozen=True, eq=False)
class Fit:
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
        ``last_seen_month``, the last that training or validation has looked at.
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
        return (
            f"Fit({self.model.n_factors} factors, {size:,} weights, seed {self.seed}; "
            f"{self.stopped} at step {last}, kept step {self.best_step}; saw data to "
            f"{self.attrs.get('last_seen_month', 'an unknown month')})"
        )

    def factors(
        self,
        panel: xr.Dataset,
        kind: Kind = "filtered",
        num_samples: int = 1000,
        seed: int = 0,
    ) -> xr.Dataset:
        """Draws, means and standard deviations of the factors.

        Parameters
        ----------
        panel : xarray.Dataset
            May be longer than the training panel, and hold other assets: it is filtered from
            its first month on, without a refit.
        kind : {"filtered", "smoothed", "predicted"}
            What month t's factors may know: returns up to t; of all months (exact models) or up
            to t + 6; up to t - 1.
        num_samples, seed : int

        Returns
        -------
        xarray.Dataset
            ``factors`` (chain, draw, time, factor), ``mean`` and ``sd`` (time, factor). Draws
            are marginals of their month, not paths. Factors are identified up to rotation.
        """
        batch, members = self._believe(panel, num_samples, seed)
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
            attrs={**self.attrs, "kind": kind, "draw_seed": seed},
        )

    def prior_state(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.Dataset:
        """Read the factor prior's hidden state, month by month, given returns up to it.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int

        Returns
        -------
        xarray.Dataset
            For ``RegimeSwitching``: ``regime_probability`` (time, regime), regimes in the order
            of their factors' mean scale, calm first. For ``StochasticVolatility``:
            ``log_variance`` (time, factor). Each with its standard deviation over particles
            under ``<name>_sd``: how sure the filter is.

        Raises
        ------
        ConfigError
            If the factor prior's state has no such reading.
        """
        batch, members = self._believe(panel, num_samples, seed)
        beliefs = [member.beliefs for member in members]
        return _readings.prior_state(self.model, batch, beliefs, self._draw_attrs(panel, seed))

    def loadings(self, panel: xr.Dataset) -> xr.DataArray:
        """Return loadings B_t (time, asset, factor), known at the end of t-1; NaN if unlisted.

        Where weights have a posterior, the mean over 20 draws of them (always the same ones).
        """
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

    def idio_scale(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.DataArray:
        """Return idiosyncratic standard deviations (time, asset), known at the end of t-1."""
        batch, members = self._believe(panel, num_samples, seed)
        with torch.no_grad():
            variance = torch.stack([_moments.idio_variance(m) for m in members]).mean(0)
        return _cells(variance.sqrt(), batch, "idio_scale", "idiosyncratic standard deviation")

    def reconstruct(
        self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0
    ) -> xr.DataArray:
        """Fitted returns (time, asset): loadings times the filtered mean of the month's factors.

        Knows month t's own returns: a measure of fit (total R2), never a forecast.
        """
        batch, members = self._believe(panel, num_samples, seed)
        each = [m.beliefs.cross.location(m.beliefs.filtered.mean(1)) for m in members]
        fitted = torch.stack(each).mean(0)
        return _cells(fitted, batch, "fitted", "fitted return given the month's own returns")

    def log_evidence(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        *,
        by_weights: int | None = None,
    ) -> xr.DataArray:
        """Log density of each month's observed returns given all months before (time,), in nats.

        The joint one-month-ahead log score: exact where a closed form exists, else the particle
        filter's estimate with ``num_samples`` particles. Divide by the number of observed
        returns for nats a cell; 0 in a month without a return. Where weights have a posterior,
        the density of the mixture over their draws that :meth:`forecast` draws from.

        ``by_weights`` asks for as many draws of the weights and gives the density under each,
        (weight_draw, time): what ``rv.evaluation.leave_future_out`` brings up to date. One row
        where weights are at their MAP.
        """
        attrs = {"long_name": "log density given the months before", "units": "nats"}
        if by_weights is not None:
            batch, cross = self._light(panel)
            rows = evidence_by_weights(self.model, batch, by_weights, num_samples, seed, cross)
            coords = {WEIGHT_DRAW: np.arange(len(rows)), TIME: batch.times}
            return xr.DataArray(rows.cpu().numpy(), coords, tuple(coords), "log_evidence", attrs)
        batch, members = self._believe(panel, num_samples, seed)
        each = torch.stack([member.beliefs.log_evidence for member in members])
        mixed = (torch.logsumexp(each, 0) - math.log(len(members))).cpu().numpy()
        return xr.DataArray(mixed, {TIME: batch.times}, TIME, "log_evidence", attrs)

    def posterior_predictive(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> xr.DataTree:
        """Replicates of seen months: factors drawn from the guide, returns drawn anew.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
        times : label, slice or list, optional
            Months to replicate; all unless told.
        out : path, optional
            A ``.zarr`` folder to stream draws to, which are then read lazily.

        Returns
        -------
        xarray.DataTree
            ``posterior`` (``factors``), ``posterior_predictive``, ``log_likelihood`` and
            ``observed_data`` (``returns`` over ``obs``, the observed cells, with coordinates
            ``time`` and ``asset``), ``sample_stats`` (``lp``, ``log_q`` by month),
            ``constant_data`` (``beta``, ``idio_scale`` of every listed asset).

        Notes
        -----
        Month t's replicate knows month t's returns through the factors. For what was knowable
        before the month use :meth:`forecast`.
        """
        return _replicates.posterior_predictive(
            self.model,
            panel,
            num_samples=num_samples,
            seed=seed,
            times=times,
            out=out,
            attrs=self._draw_attrs(panel, seed),
        )

    def forecast(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> xr.DataTree:
        """Predictive draws of every listed asset's return in month t, from data to t-1 only.

        Parameters
        ----------
        panel : xarray.Dataset
            Its last row may be the live month: characteristics known, no return yet.
        num_samples, seed : int
        times : label, slice or list, optional
            Months to forecast; all unless told.
        out : path, optional
            A ``.zarr`` folder to stream draws to, which are then read lazily.

        Returns
        -------
        xarray.DataTree
            ``predictions``: ``returns`` (chain, draw, time, asset), NaN where not listed, and
            ``factors``, ``log_prior`` (their density, by month). ``predictions_constant_data``:
            ``beta``, ``idio_scale``.

        Notes
        -----
        Each month is forecast one step ahead. Draws follow assets by label: their order in the
        panel does not matter.

        Weights at their MAP are fixed, so the draws leave out what is unknown about them. A
        posterior of the weights is integrated over in blocks: one draw of the weights for every
        50 draws, at least 20. The coordinate ``weight_draw`` along ``draw`` says which, ``beta``
        is the mean over them and ``beta_by_weights`` (weight_draw, time, asset, factor) has each;
        ``rv.risk.summarize`` finds ``parameter_var`` from it.
        """
        batch, members = self._believe(panel, num_samples, seed)
        return _forecast.forecast(
            members,
            batch,
            times=times,
            out=out,
            attrs=self._draw_attrs(panel, seed),
        )

    def moments(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
    ) -> xr.Dataset:
        """Mean and low-rank covariance of month t's returns from data to t-1, by member.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            Draws behind the factors' moments; those of :meth:`forecast` with the same two.
        times : label, slice or list, optional
            Months; all unless told.

        Returns
        -------
        Dataset
            ``mean`` and ``idio_var`` (member, time, asset), ``beta`` (member, time, asset,
            factor), ``factor_cov`` (member, time, factor, other_factor), NaN where not listed,
            and ``share`` (member,), which adds up to 1. One member where weights are at their
            MAP, else one a draw of the weights, in the order of ``weight_draw``.

        Notes
        -----
        ``rv.risk.covariance`` puts the members together. Where one draw of the level of all
        idiosyncratic scales belongs to each draw of the factors, ``idio_var`` is its mean.
        """
        batch, members = self._believe(panel, num_samples, seed)
        data = _moments.moments(members, batch, pick_months(batch, times))
        return data.assign_attrs(self._draw_attrs(panel, seed))

    def attribution(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
    ) -> xr.DataArray:
        r"""Split every mean forecast by factor: :math:`\beta_{itk} \, E[f_{tk}]`.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            Draws behind the expectation; those of :meth:`forecast` with the same two.
        times : label, slice or list, optional
            Months; all unless told.

        Returns
        -------
        DataArray (time, asset, factor)
            In return units, known at t-1, NaN if unlisted. Sums over ``factor`` to the mean
            forecast; where the likelihood has an alpha, label 0 holds it beside factors 1 to K.

        Notes
        -----
        Factors are identified up to rotation: the sum has a meaning of its own, a single part
        only together with :meth:`factor_profile`. Noise has mean zero, so the mean over the
        draws of :meth:`forecast` differs from the sum by Monte-Carlo error alone.
        """
        return self._attribute(panel, num_samples, seed, times)

    def sensitivity(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
    ) -> xr.DataArray:
        r"""Change of each mean forecast per unit of each characteristic of its own row.

        .. math:: \partial E[r_{it}] / \partial x_{itp}

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            As for :meth:`attribution`.
        times : label, slice or list, optional
            Months; all unless told. Recurrent loadings keep a state for every asset and month
            asked for.

        Returns
        -------
        DataArray (time, asset, characteristic)
            Return per unit of characteristic (from the median to the top where they are ranked
            to -1 ... 1), known at t-1, NaN if unlisted.

        Notes
        -----
        The slope at the characteristics as they are: networks bend, so it need not hold far
        away. What the loadings remember of earlier months stays as it was, and so do the
        expected factors, which depend on earlier months alone.
        """
        batch, members = self._believe(panel, num_samples, seed)
        months, whole = pick_months(batch, times), self._batch(panel)
        return _mean([_attribution.sensitivity(m.model, whole, m.beliefs, months) for m in members])

    def relevance(
        self, panel: xr.Dataset | None = None, num_draws: int = 100, seed: int = 0
    ) -> xr.DataTree:
        r"""Posterior relevance of each characteristic: how far it moves the loadings.

        .. math:: \rho_p = \Big(\operatorname{mean}_{t,i} \sum_k
            (\partial \beta_{itk} / \partial x_{ip})^2\Big)^{1/2}

        with the characteristic of all months moved at once, so that what recurrent loadings
        remember counts too. It does not change when factors are rotated.

        Parameters
        ----------
        panel : xarray.Dataset, optional
            Where the slopes are taken. Without it, 200 assets with ranks uniform on [-1, 1] that
            stay for 12 months: right for ranked characteristics.
        num_draws : int
            Draws of the weights, where these have a posterior.
        seed : int

        Returns
        -------
        DataTree
            Group ``posterior`` with ``relevance``, ``share`` (in the sum of squares),
            ``idio_relevance`` and ``alpha_relevance`` where scale and alpha read the
            characteristics, each (chain, draw, characteristic): ready for ArviZ's forest plot.
            With weights at their MAP it is one draw, a point estimate, and a ``note`` says so.

        Notes
        -----
        Loadings are per unit of a factor of order one and of ``return_scale``. A mean-field
        posterior understates the spread of weights that can stand in for each other.

        References
        ----------
        Sobol and Kucherenko (2009), derivative based global sensitivity measures.
        """
        batch = typical_batch(self.model, seed) if panel is None else self._batch(panel)
        known = json.loads(str(self.attrs.get("characteristics", "null")))
        names = batch.names.tolist() if panel is not None else known
        if names is None:
            names = [f"x{p + 1}" for p in range(self.model.n_characteristics)]
        return _relevance(self.model, batch, names, num_draws, seed)

    def factor_profile(
        self,
        panel: xr.Dataset,
        known: xr.DataArray | pd.DataFrame | None = None,
        num_samples: int = 1000,
        seed: int = 0,
    ) -> xr.Dataset:
        """Say what each filtered factor is like, by correlations with portfolios that have names.

        Parameters
        ----------
        panel : xarray.Dataset
        known : DataArray (time, known_factor) or DataFrame, optional
            Factors with names, such as :func:`rvrae_pyro.data.load_french_factors`.
        num_samples, seed : int
            As for :meth:`factors`.

        Returns
        -------
        Dataset
            See :func:`rvrae_pyro.evaluation.factor_profile`: ``managed`` (factor,
            characteristic), ``known`` (factor, known_factor), and a coordinate ``name``.
        """
        mean = self.factors(panel, num_samples=num_samples, seed=seed)["mean"]
        return factor_profile(mean, managed_portfolios(panel), known)

    def check(self, panel: xr.Dataset | None = None, num_particles: int = 1000) -> Check:
        """Say in plain words, with figures, what this fit can be trusted with.

        Parameters
        ----------
        panel : xarray.Dataset, optional
            Months on which guide, calibration, tails and skill are judged: the validation
            months with those before them, say. Without it, only the training run is judged.
        num_particles : int
            Particles of the filter that the guide is held against, and draws of the forecasts.

        Returns
        -------
        Check
            Prints as a page of text; ``trusted`` is False where something is bad.
        """
        findings = check_training(
            self.history,
            self.kl,
            self.stopped,
            self.best_step,
            self.config.kl_reduction,
            int(self.attrs["n_train_returns"]),
            int(self.attrs["n_valid_returns"]),
        )
        if panel is not None:
            findings.extend(judge_panel(self, panel, num_particles))
        weights = _MEAN_FIELD if self.model.weight_sites else _FIXED
        return Check(findings, (weights, *_LIMITS))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fit to a folder: weights as safetensors, the rest as JSON and netCDF.

        An existing fit in that folder is replaced once the new one is complete.
        """
        return save_parts(self, path)

    def _batch(self, panel: xr.Dataset) -> Batch:
        batch = to_batch(panel, device=self.model.return_scale.device, dtype=torch.float64)
        self.model.loadings.check(batch)
        return batch

    def _light(self, panel: xr.Dataset) -> tuple[Batch, Callable[[RVRAE], CrossSection] | None]:
        """Make the batch of a panel; of one on disk without its characteristics, and a reader."""
        if not is_lazy(panel):
            return self._batch(panel), None
        batch = to_light_batch(panel, self.model.return_scale.device, torch.float64)
        self.model.loadings.check(batch)
        return batch, partial(stream_cross_section, panel=panel, light=batch)

    def _believe(
        self, panel: xr.Dataset, num_samples: int, seed: int
    ) -> tuple[Batch, list[Member]]:
        """Filter a panel, once for all that is asked of the same panel, draws and weights."""
        key = (fingerprint(panel), num_samples, seed, self.model.parts.version())
        if self._memory.get("key") != key:
            batch, cross = self._light(panel)
            members = believe_each(self.model, batch, num_samples, seed, cross)
            # the filter has read the characteristics; what follows needs only their labels
            light = dataclasses.replace(batch, characteristics=batch.characteristics[..., :0])
            self._memory.update(key=key, value=(light, members))
        batch, members = self._memory["value"]
        return batch, members

    def _attribute(
        self,
        panel: xr.Dataset,
        num_samples: int,
        seed: int,
        times: object | None,
        rotation: np.ndarray | None = None,
    ) -> xr.DataArray:
        """Split mean forecasts by factor, turned by ``rotation`` (factor, reference) if given."""
        batch, members = self._believe(panel, num_samples, seed)
        months = pick_months(batch, times)
        return _mean([_attribution.attribute(batch, m.beliefs, months, rotation) for m in members])

    def _draw_attrs(self, panel: xr.Dataset, seed: int) -> dict[str, str | int]:
        return {**self.attrs, "draw_seed": seed, "panel_fingerprint": fingerprint(panel)}


def _mean(each: list[xr.DataArray]) -> xr.DataArray:
    """Mean over draws of the weights, labelled as the first."""
    return each[0] if len(each) == 1 else each[0].copy(data=np.mean([a.values for a in each], 0))


def _cells(values: torch.Tensor, batch: Batch, name: str, long_name: str) -> xr.DataArray:
    values = values.masked_fill(~batch.listed, torch.nan)
    return xr.DataArray(
        values.detach().cpu().numpy(),
        coords={TIME: batch.times, ASSET: batch.assets},
        dims=(TIME, ASSET),
        name=name,
        attrs={"long_name": long_name, "units": "1"},
    )
