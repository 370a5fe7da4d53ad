"""Baselines with factors: fitted returns, forecasts and their uncertainty."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.baselines.baseline import Baseline, Draws, Request
from rvrae_pyro.baselines.linear_gaussian import (
    FactorView,
    constant_data,
    draw_blocks,
    log_density,
    moments,
    refit_factors,
    replicate_blocks,
)
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import check_choice
from rvrae_pyro.names import ASSET, CHAIN, FACTOR, TIME
from rvrae_pyro.predictive.months import factor_coord, label_cells, pick_months
from rvrae_pyro.predictive.storage import Block

Refit = Literal["model", "ols"]
"""Source of factors: the model's estimate, or the month's cross-sectional least squares."""


class FactorBaseline(Baseline):
    """A baseline whose returns are alpha + B f + noise. A subclass gives ``_views``."""

    has_distribution = True
    has_factors = True
    n_factors: int

    @abstractmethod
    def _views(self, panel: xr.Dataset, batch: Batch) -> Iterator[FactorView]:
        """Yield each member's account of a panel; a month's arithmetic knows no later month."""

    def _predict(self, panel: xr.Dataset, batch: Batch) -> Tensor:
        total, count = batch.returns.new_zeros(batch.returns.shape), 0
        for view in self._views(panel, batch):
            total, count = total + view.fitted(view.loc), count + 1
        return total / count

    def reconstruct(self, panel: xr.Dataset, kind: Refit = "model") -> xr.DataArray:
        """Fitted returns (time, asset): loadings times the month's own factors.

        Parameters
        ----------
        panel : Dataset
        kind : {"model", "ols"}
            Whose factors; see :meth:`factors`. Members are averaged.

        Notes
        -----
        Knows month t's own returns: a measure of fit (total R2), never a forecast. NaN where
        not listed and in months without returns.
        """
        batch = self._batch(panel)
        with torch.no_grad():
            fits = [v.fitted(_month_factors(v, batch, kind)) for v in self._views(panel, batch)]
        fitted = torch.stack(fits).mean(0)
        return label_cells(fitted, batch, "fitted", "fitted return given the month's own returns")

    def factors(self, panel: xr.Dataset, kind: Refit = "model") -> xr.DataArray:
        """Factors of every month, given that month's returns.

        Parameters
        ----------
        panel : Dataset
        kind : {"model", "ols"}
            The model's own estimate, or least squares across assets on its loadings.

        Returns
        -------
        DataArray of dims (time, factor), or (chain, time, factor) for an ensemble
            In return units; NaN in months without returns. Identified up to rotation.
        """
        batch = self._batch(panel)
        with torch.no_grad():
            each = [_month_factors(view, batch, kind) for view in self._views(panel, batch)]
        return self._label("factors", torch.stack(each), batch, (TIME, FACTOR))

    def loadings(self, panel: xr.Dataset) -> xr.DataArray:
        """Return loadings, known at t-1; NaN where not listed.

        Returns
        -------
        DataArray of dims (time, asset, factor), or (chain, time, asset, factor)
            Return per unit of factor.
        """
        batch = self._batch(panel)
        with torch.no_grad():
            beta = torch.stack([view.beta for view in self._views(panel, batch)])
        beta = beta.masked_fill(~batch.listed.unsqueeze(-1), torch.nan)
        return self._label("beta", beta, batch, (TIME, ASSET, FACTOR))

    def factor_parts(
        self, panel: xr.Dataset, num_samples: int | None = None, seed: int | None = None
    ) -> xr.Dataset:
        """Parts of ``returns = alpha + beta f + noise``, one row per month.

        ``alpha`` and ``idio_scale`` (chain, time, asset) and ``beta`` (chain, time, asset, factor),
        known at t-1; ``factors`` (time, factor), or (chain, time, factor) of an ensemble, given the
        month's returns. Nothing is drawn.
        """
        parts = self.constant_data(panel)[["alpha", "beta", "idio_scale"]]
        parts["factors"] = self.factors(panel)
        return parts

    def posterior_predictive(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> xr.DataTree:
        """Replicates of seen months: factors given the month's returns, returns drawn again.

        Parameters
        ----------
        panel : Dataset
        num_samples : int
            Draws in all; members share them evenly, rounded up.
        seed : int
        times, out : optional
            As for ``Fit.posterior_predictive``. Months before which no factor is known are left
            out.

        Returns
        -------
        DataTree
            As :meth:`rvrae_pyro.fitting.fit.Fit.posterior_predictive` returns it, without
            ``sample_stats``. Members are chains.

        Notes
        -----
        Knows month t's returns through the factors, whose posterior is exact for the
        linear-Gaussian model that forecasts are drawn from. For forecasts of the
        month use :meth:`forecast`.
        """
        make = partial(self._draws_of, replicate_blocks)
        return self._draw(make, panel, num_samples, seed, times, out)

    def _forecast_draws(self, request: Request) -> Draws:
        return self._draws_of(draw_blocks, request)

    def _draws_of(self, blocks: Callable[..., Iterator[Block]], request: Request) -> Draws:
        views = list(self._views(request.panel, request.batch))
        size = -(-request.num_samples // len(views))
        return Draws(
            blocks.__name__,
            size,
            partial(blocks, views, request.batch, request.months, size, request.seed),
        )

    def _log_density(self, panel: xr.Dataset, batch: Batch) -> Tensor:
        return log_density(list(self._views(panel, batch)), batch)

    def _moments(self, panel: xr.Dataset, batch: Batch, months: list[int]) -> xr.Dataset:
        return moments(list(self._views(panel, batch)), batch, months)

    def constant_data(self, panel: xr.Dataset, times: object | None = None) -> xr.Dataset:
        """Return the inputs of forecasts: intercepts, loadings and residual scales.

        The group ``predictions_constant_data`` of :meth:`forecast`, without draws: ``alpha``,
        ``mean``, ``beta`` and ``idio_scale`` of month t, known at t-1.
        """
        batch = self._batch(panel)
        months = pick_months(batch, times)
        with torch.no_grad():
            return constant_data(list(self._views(panel, batch)), batch, months)

    def _label(
        self, name: str, values: Tensor, batch: Batch, dims: tuple[str, ...]
    ) -> xr.DataArray:
        coords = {TIME: batch.times, ASSET: batch.assets, FACTOR: factor_coord(self.n_factors)}
        labelled = xr.DataArray(
            values.cpu().numpy(),
            coords={CHAIN: np.arange(values.shape[0]), **{dim: coords[dim] for dim in dims}},
            dims=(CHAIN, *dims),
            name=name,
        )
        return labelled.isel({CHAIN: 0}, drop=True) if values.shape[0] == 1 else labelled


def _month_factors(view: FactorView, batch: Batch, kind: Refit) -> Tensor:
    check_choice("kind", kind, ("model", "ols"))
    if kind == "model":
        return view.factors
    return refit_factors(view.beta, batch.returns - view.alpha, batch.observed)
