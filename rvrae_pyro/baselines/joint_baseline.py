"""Baselines whose months are joint Student-t distributions in closed form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from rvrae_pyro.baselines.baseline import Baseline, Draws, FilteredBaseline, Request
from rvrae_pyro.baselines.joint_t import Array, JointT, MixtureOfT
from rvrae_pyro.data.batch import Batch, to_light_batch
from rvrae_pyro.errors import ShapeError
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.names import ASSET, CHAIN, DRAW, RETURNS, TIME
from rvrae_pyro.predictive.moments import label_moments
from rvrae_pyro.predictive.months import by_label, chunks, pick_months
from rvrae_pyro.predictive.storage import Block

PURPOSE: Final = "joint Student-t"


@dataclass(frozen=True, eq=False)
class FilteredJointT(FilteredBaseline):
    """A fitted baseline with exact probabilities, and a panel."""

    baseline: JointTBaseline

    def pit(self, times: object | None = None) -> xr.DataArray:
        """Return the exact probability integral transform of each observed return."""
        return self.baseline.pit(self.panel, times)

    def portfolio(self, weights: xr.DataArray) -> xr.Dataset:
        """Return the exact one-month-ahead distribution of a portfolio, and its return in it."""
        return self.baseline.portfolio(self.panel, weights)


class JointTBaseline(Baseline):
    """A baseline with a joint Student-t distribution, or a mixture, for every month.

    A subclass gives ``_learn``, which sets ``_assets`` (labels in alphabetical order) and
    ``_numbers``, and ``_laws``. Of characteristics only listing is used.
    """

    has_distribution = True
    _filtered = FilteredJointT

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[str, NDArray[Any]] = {}

    @abstractmethod
    def _laws(self, batch: Batch) -> MixtureOfT:
        """Distributions of all months of a panel, each from months before."""

    def pit(self, panel: xr.Dataset, times: object | None = None) -> xr.DataArray:
        """Probability integral transform of each observed return, exact.

        Parameters
        ----------
        panel : Dataset
        times : label, slice or list, optional
            Months of the result. Default: all.

        Returns
        -------
        DataArray of dims (time, asset)
            Probability, given data to t-1, that the return is below its realisation; in [0, 1], NaN
            where not observed. Uniform if the forecasts are calibrated.
        """
        batch = self._batch(panel)
        returns, observed = cells_of(batch)
        values = np.where(observed, self._laws(batch).cdf(returns), np.nan)
        labels = {TIME: batch.times, ASSET: batch.assets}
        found = xr.DataArray(values, labels, (TIME, ASSET), name="pit")
        return found.isel({TIME: pick_months(batch, times)})

    def portfolio(self, panel: xr.Dataset, weights: xr.DataArray) -> xr.Dataset:
        """Exact one-month-ahead distribution of a portfolio, and its return in it.

        Parameters
        ----------
        panel : Dataset
        weights : DataArray of dims (time, asset)
            Known at t-1; 0 or NaN where not held. Months of the result.

        Returns
        -------
        Dataset
            By ``time``: ``mean`` and ``sd``, given data to t-1; ``return`` and ``pit``, NaN
            where a return of an asset that is held was not observed.

        Raises
        ------
        ShapeError
            If ``weights`` has other dims, or an asset is held that is not listed.
        ConfigError
            If a month of ``weights`` is not in the panel.
        """
        batch = self._batch(panel)
        if set(weights.dims) != {TIME, ASSET}:
            raise ShapeError(f"`weights` must have dims (time, asset); got {weights.dims}.")
        months = pick_months(batch, weights[TIME].to_numpy())
        held = weights.reindex({ASSET: batch.assets}, fill_value=0.0).fillna(0.0)
        if not np.isin(weights[ASSET].to_numpy(), batch.assets).all() or bool(
            (held.transpose(TIME, ASSET).to_numpy() != 0)[~batch.listed.numpy()[months]].any()
        ):
            raise ShapeError(
                "`weights` must hold assets only in months in which the panel lists them. Set "
                "other weights to 0."
            )
        whole = np.zeros(batch.returns.shape)
        whole[months] = held.transpose(TIME, ASSET).to_numpy()
        laws = self._laws(batch)
        mean, variance, each = laws.portfolio(whole)
        returns, observed = cells_of(batch)
        earned = (whole * returns).sum(1)
        earned[((whole != 0) & ~observed).any(1)] = np.nan
        held_at_all = np.where((whole != 0).any(1), 1.0, np.nan)
        below = np.zeros(len(whole))
        with np.errstate(invalid="ignore", divide="ignore"):
            for weight, law, (loc, var) in zip(laws.weight, laws.laws, each, strict=True):
                below += weight * law.cdf(earned, loc, var)
        columns = {"mean": mean, "sd": np.sqrt(variance), "return": earned, "pit": below}
        table = xr.Dataset(
            {name: (TIME, values * held_at_all) for name, values in columns.items()},
            {TIME: batch.times},
        )
        return table.isel({TIME: months})

    def _forecast_draws(self, request: Request) -> Draws:
        blocks = partial(_draw_blocks, self._laws(request.batch), request)
        return Draws(PURPOSE, request.num_samples, blocks)

    def _log_density(self, panel: xr.Dataset, batch: Batch) -> Array:
        return self._laws(batch).log_density(*cells_of(batch))

    def _moments(self, panel: xr.Dataset, batch: Batch, months: list[int]) -> xr.Dataset:
        laws = self._laws(batch)
        listed = batch.listed.numpy()
        hidden = ~listed[months]
        if len(laws.laws) == 1:
            found = _law_moments(laws.laws[0], months)
        else:
            found = _mixture_moments(laws, listed, months)
        found["mean"] = np.where(hidden, np.nan, laws.mean()[months])
        found["idio_var"] = np.where(hidden, np.nan, found["idio_var"])
        found["beta"] = np.where(hidden[..., None], np.nan, found["beta"])
        data = label_moments([found], batch, months, [1.0])
        sd = np.sqrt(laws.variance()[months])
        data["sd"] = ((TIME, ASSET), np.where(hidden, np.nan, sd))
        return data

    def _predict(self, panel: xr.Dataset, batch: Batch) -> Tensor:
        return torch.from_numpy(self._laws(batch).mean())

    def _batch(self, panel: xr.Dataset) -> Batch:
        self._require_fit()
        return to_light_batch(self._matched(panel), dtype=torch.float64)

    def _to_tensors(self, panel: xr.Dataset, device: str) -> Batch:
        # on any device, arithmetic is numpy's in double precision
        return to_light_batch(panel, device, torch.float64)

    def _positions(self, batch: Batch) -> NDArray[np.intp]:
        """Rows of the panel's assets among those of training; -1 of new ones."""
        rows = {name: row for row, name in enumerate(self._assets)}
        return np.array([rows.get(str(name), -1) for name in batch.assets], dtype=np.intp)

    def _state(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in self._numbers.items()}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        self._numbers = {name: state[name].numpy() for name in self._number_names()}
        wanted = len(self._assets) + 1
        for name, values in self._numbers.items():
            if name.startswith("mean") and len(values) != wanted:
                raise ShapeError(f"`{name}` must have {wanted} numbers; got {len(values)}")

    @abstractmethod
    def _number_names(self) -> Sequence[str]:
        """Names of the arrays in ``_numbers``."""


def cells_of(batch: Batch) -> tuple[Array, NDArray[np.bool_]]:
    """Take returns (n_times, n_assets), 0 where not observed, and the mask of observed ones."""
    return batch.returns.cpu().double().numpy(), batch.observed.cpu().numpy()


def sorted_cells(batch: Batch) -> tuple[NDArray[np.str_], Array, NDArray[np.bool_]]:
    """Labels of the assets in alphabetical order, and the cells of :func:`cells_of` in it."""
    order = np.argsort(batch.assets, kind="stable")
    returns, observed = cells_of(batch)
    return batch.assets[order].astype(str), returns[:, order], observed[:, order]


def stamps_of(batch: Batch) -> NDArray[np.int64]:
    """Months as nanoseconds, which safetensors can hold."""
    return batch.times.astype("datetime64[ns]").astype(np.int64)


def _law_moments(law: JointT, months: Sequence[int]) -> dict[str, Array]:
    rows = np.asarray(months)
    factor_var = law.scale[rows, None] * law.factor_var[rows % len(law.factor_var)]
    return {
        "beta": np.broadcast_to(law.beta, (len(rows), *law.beta.shape)),
        "factor_cov": factor_var[:, :, None] * np.eye(factor_var.shape[1]),
        "idio_var": law.scale[rows, None] * law.idio_var[rows % len(law.idio_var)],
    }


def _mixture_moments(
    laws: MixtureOfT, listed: NDArray[np.bool_], months: Sequence[int]
) -> dict[str, Array]:
    """Root of the whole covariance of a mixture, by month."""
    n_times, n_assets = len(months), listed.shape[1]
    beta = np.zeros((n_times, n_assets, n_assets))
    idio = np.ones((n_times, n_assets))
    for row, t in enumerate(months):
        chosen = listed[t]
        common, idio[row, chosen] = laws.covariance(t, chosen)
        values, vectors = np.linalg.eigh(common)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        beta[row][np.ix_(chosen, np.arange(len(root)))] = root
    factor_cov = np.broadcast_to(np.eye(n_assets), (n_times, n_assets, n_assets))
    return {"beta": beta, "factor_cov": factor_cov, "idio_var": idio}


def _draw_blocks(laws: MixtureOfT, request: Request, done: int) -> Iterator[Block]:
    """Draw returns a block of months at a time.

    Each month has a random stream that depends on its date and the seed; draws follow assets by
    label, in any order of the panel.
    """
    batch, num_draws = request.batch, request.num_samples
    for chosen in chunks(request.months, num_draws * batch.n_assets, done):
        returns = np.full((1, num_draws, len(chosen), batch.n_assets), np.nan, np.float32)
        for row, t in enumerate(chosen):
            order = by_label(batch, batch.listed[t].nonzero().squeeze(-1)).numpy()
            with month_random(request.seed, batch.times[t], PURPOSE):
                returns[0, :, row, order] = _draw_month(laws, t, order, num_draws).T
        coords = {
            CHAIN: np.arange(1),
            DRAW: np.arange(num_draws),
            TIME: batch.times[list(chosen)],
            ASSET: batch.assets,
        }
        yield {"predictions": xr.Dataset({RETURNS: ((CHAIN, DRAW, TIME, ASSET), returns)}, coords)}


def _draw_month(laws: MixtureOfT, t: int, order: NDArray[np.intp], num_draws: int) -> Array:
    """Draw (num_draws, len(order)) returns of month ``t``."""
    which = np.zeros(num_draws, np.intp)
    if len(laws.laws) > 1:
        edges = torch.from_numpy(np.cumsum(laws.weight[:, t])[:-1])
        which = torch.searchsorted(edges, torch.rand(num_draws, dtype=torch.float64)).numpy()
    drawn = np.empty((num_draws, len(order)))
    for number in np.unique(which):
        rows = which == number
        law = laws.laws[number]
        drawn[rows] = draw_law(law, t, order, int(rows.sum()), law.scale[t])
    return drawn


def draw_law(
    law: JointT, t: int, order: NDArray[np.intp], num_draws: int, scale: Array | float
) -> Array:
    """Draw (num_draws, len(order)) returns of month ``t`` under scales of its covariance."""

    def normal(size: int) -> Array:
        return torch.empty(num_draws, size, dtype=torch.float64).normal_().numpy()

    factor_sd = np.sqrt(law.factor_var[t % len(law.factor_var)])
    idio_sd = np.sqrt(law.idio_var[t % len(law.idio_var), order])
    error = (normal(len(factor_sd)) * factor_sd) @ law.beta[order].T
    error += normal(len(order)) * idio_sd
    spread = np.sqrt(scale * np.ones(num_draws))[:, None]
    if np.isfinite(law.df):
        # a Normal divided by the root of an independent chi-square is a Student-t
        half = torch.full((num_draws, 1), law.df / 2.0, dtype=torch.float64)
        chi_square = 2.0 * torch.distributions.Gamma(half, torch.ones_like(half)).sample()
        spread = spread * np.sqrt((law.df - 2.0) / chi_square.numpy())
    result: Array = law.mean[order] + spread * error
    return result
