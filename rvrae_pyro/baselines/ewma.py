"""Simple risk models: an exponentially weighted and a rolling covariance with Student-t tails."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr
from scipy.linalg import solve_triangular

from rvrae_pyro.baselines.baseline import Draws, Fitting, Request
from rvrae_pyro.baselines.joint_baseline import (
    PURPOSE,
    JointTBaseline,
    cells_of,
    draw_law,
    sorted_cells,
    stamps_of,
)
from rvrae_pyro.baselines.joint_t import Array, JointT, MixtureOfT, log_density_t
from rvrae_pyro.baselines.shrunk_moments import (
    History,
    MomentOptions,
    continue_scale,
    estimate_moments,
    filter_scale,
    history_distances,
    known_states,
)
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import check_count, check_number
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.names import ASSET, CHAIN, COMPOUNDED_RETURNS, DRAW, RETURNS, STEP, TIME
from rvrae_pyro.predictive.months import by_label, chunks
from rvrae_pyro.predictive.storage import Block


def exponential_weights(n_times: int, decay: float) -> Array:
    """Weights of months, the latest last and largest, 1."""
    ages = np.arange(n_times)[::-1].astype(np.float64)
    return decay**ages


class WeightedMoments(JointTBaseline):
    """Student-t returns with weighted moments of training and one common scale."""

    df: float
    scale_decay: float
    cap: float
    _options: MomentOptions
    _history_of_scale: History

    @abstractmethod
    def _weights(self, n_times: int) -> Array:
        """Weights of ``n_times`` months, the latest last."""

    def _learn(self, fitting: Fitting) -> None:
        batch = fitting.batch
        labels, returns, observed = sorted_cells(batch)
        weights = self._weights(len(returns))
        found = estimate_moments(returns, observed, weights, self._options)
        path = np.ones(len(returns) + 1)
        rows, history = np.ones(len(returns), bool), {"scale": path[:-1].tolist()}
        if self.scale_decay < 1.0:
            distances = history_distances(
                returns, observed, self._weights, self._options, self._history_of_scale
            )
            path = filter_scale(distances, self.scale_decay, self.cap)
            density = log_density_t(distances, path[:-1], self.df)
            rows = ~np.isnan(density)
            history = {"scale": path[:-1][rows].tolist(), "log_evidence": density[rows].tolist()}
        self._assets = tuple(labels[found.known].tolist())
        self._numbers = {
            "mean": found.mean,
            "beta": np.ascontiguousarray(found.beta),
            "idio_var": found.idio_var,
            "times": stamps_of(batch),
            "scale": path,
        }
        months = np.datetime_as_string(batch.times[rows], "D").tolist()
        self.history = pd.DataFrame({**history, "month": months})

    def _number_names(self) -> Sequence[str]:
        return "mean", "beta", "idio_var", "times", "scale"

    def _laws(self, batch: Batch) -> MixtureOfT:
        numbers, rows = self._numbers, self._positions(batch)
        beta = numbers["beta"][rows]
        law = JointT(
            numbers["mean"][rows],
            beta,
            np.ones((1, beta.shape[1])),
            numbers["idio_var"][None, rows],
            np.ones(batch.n_times),
            self.df,
        )
        states, later = known_states(numbers["scale"], numbers["times"], stamps_of(batch), 1.0)
        if self.scale_decay < 1.0 and later:
            found = law.distances(*cells_of(batch), later)
            states = continue_scale(
                found, numbers["scale"], later, states, self.scale_decay, self.cap
            )
        return MixtureOfT.of(replace(law, scale=states))

    def _path_draws(self, horizon: int, request: Request) -> Draws:
        law = self._laws(request.batch).laws[0]
        blocks = partial(self._path_blocks, law, horizon, request)
        return Draws(f"{horizon} steps", request.num_samples, blocks)

    def _path_blocks(
        self, law: JointT, horizon: int, request: Request, done: int
    ) -> Iterator[Block]:
        """Draw paths of a block of months at a time: returns move the scale of the next step."""
        batch, num_samples = request.batch, request.num_samples
        for chosen in chunks(request.months, num_samples * batch.n_assets * horizon, done):
            shape = (1, num_samples, len(chosen), horizon, batch.n_assets)
            returns = np.full(shape, np.nan)
            for row, t in enumerate(chosen):
                order = by_label(batch, batch.listed[t].nonzero().squeeze(-1)).numpy()
                path = self._path(law, t, order, horizon, request)
                returns[0, :, row, :, order] = np.moveaxis(path, -1, 0)
            compounded = np.maximum(1.0 + returns, 0.0).cumprod(3) - 1.0
            cells = (CHAIN, DRAW, TIME, STEP, ASSET)
            coords = {
                CHAIN: np.arange(1),
                DRAW: np.arange(num_samples),
                TIME: batch.times[list(chosen)],
                STEP: np.arange(1, horizon + 1),
                ASSET: batch.assets,
            }
            drawn = {
                RETURNS: (cells, returns.astype(np.float32)),
                COMPOUNDED_RETURNS: (cells, compounded.astype(np.float32)),
            }
            yield {"predictions": xr.Dataset(drawn, coords)}

    def _path(
        self, law: JointT, t: int, order: np.ndarray, horizon: int, request: Request
    ) -> Array:
        """Draw paths (num_samples, horizon, len(order)) from month ``t`` on."""
        num_samples = request.num_samples
        root = np.linalg.cholesky(law.unit_covariance(t, order))
        scale = np.full(num_samples, law.scale[t])
        path = np.empty((num_samples, horizon, len(order)))
        for step in range(horizon):
            # the first step has the stream, and so the draws, of a forecast of one period
            purpose = PURPOSE if step == 0 else f"{PURPOSE}, step {step}"
            with month_random(request.seed, request.batch.times[t], purpose):
                path[:, step] = draw_law(law, t, order, num_samples, scale)
            white = solve_triangular(root, (path[:, step] - law.mean[order]).T, lower=True)
            size = np.minimum((white**2).mean(axis=0), self.cap)
            scale = self.scale_decay * scale + (1.0 - self.scale_decay) * size
        return path


class EWMA(WeightedMoments):
    r"""Exponentially weighted covariance, one common scale, Student-t returns.

    .. math:: r_t \mid r_{1:t-1} \sim t_\nu(\mu, h_t \Sigma), \quad
        h_{t+1} = \lambda h_t + (1 - \lambda) \min(q_t / n_t, c)

    with :math:`\mu` and :math:`\Sigma` of the training months, weighted by ``decay`` to the
    power of their age and shrunk to a constant correlation; :math:`q_t` is the squared
    Mahalanobis distance of month t's :math:`n_t` returns under :math:`\Sigma`.

    Parameters
    ----------
    decay : float
        Weight of a month relative to the month after it, in (0, 1].
    scale_decay : float
        :math:`\lambda`, in (0, 1]; 1 keeps the scale at 1.
    df : float
        Degrees of freedom :math:`\nu`, above 2; ``math.inf`` for Normal returns.
    shrinkage : float
        Weight of the constant correlation, in (0, 1].
    cap : float
        Largest squared distance per return that moves the scale, c.
    n_factors : int
        Principal components of the covariance where assets outnumber effective months.
    min_history : int
        Months with a return below which an asset counts as new.
    burn_in : int
        Training months before the scale starts to move.
    scale_refit : int
        Months between two estimates of the moments behind the scale's history within training.
        Set it to the interval of refits of a walk-forward evaluation.

    Notes
    -----
    Information set: ``fit`` estimates :math:`\mu` and :math:`\Sigma` from all its months,
    validation included (no choice depends on them). :math:`h_t` knows months before t only: within
    training from moments estimated before them, afterwards from the fitted moments, through the
    panel that is forecast, which need not hold the months of training. Months without returns leave
    it unchanged.

    Gaps: missing returns are marginalised in densities. Means and variances are over each asset's
    observed months; in correlations a missing return is replaced by its conditional mean and
    covariance given the month's observed returns, under one constant correlation. Entry: an asset
    with too short a history has the average mean and variance of the others, and nearly their
    average correlation. Exit: an asset is forecast while it is listed. More assets than effective
    months (Kish): ``n_factors`` principal components of the correlation matrix, and the rest of
    each variance idiosyncratic.

    ``history`` has the scale and the joint log density of every training month after ``burn_in``,
    one step ahead, as refits every ``scale_refit`` months would have given them.

    Cost of a fit: T / ``scale_refit`` estimates, O(T N^2) each, or O(T^2 N + T^3) with more
    assets than months.
    """

    def __init__(
        self,
        decay: float = 0.985,
        scale_decay: float = 0.85,
        df: float = 10.0,
        *,
        shrinkage: float = 0.05,
        cap: float = 6.0,
        n_factors: int = 5,
        min_history: int = 24,
        burn_in: int = 60,
        scale_refit: int = 12,
    ) -> None:
        super().__init__()
        self.decay = check_number("decay", decay, "(0, 1]")
        self.scale_decay = check_number("scale_decay", scale_decay, "(0, 1]")
        self.df = check_number("df", df, "(2, inf]", "A variance needs more than 2.")
        self.cap = check_number("cap", cap, "(0, inf]")
        self._options = MomentOptions(shrinkage, n_factors, min_history)
        self._history_of_scale = History(burn_in, scale_refit)
        self.shrinkage, self.n_factors, self.min_history = shrinkage, n_factors, min_history
        self.burn_in, self.scale_refit = burn_in, scale_refit

    def _weights(self, n_times: int) -> Array:
        return exponential_weights(n_times, self.decay)


class MultivariateT(WeightedMoments):
    r"""Student-t returns with the moments of the last months of training.

    .. math:: r_t \sim t_\nu(\mu, \Sigma)

    Parameters
    ----------
    window : int
        Last months of training that are used, with equal weights.
    df, shrinkage, n_factors, min_history
        As in :class:`EWMA`.

    Notes
    -----
    As :class:`EWMA` with equal weights and a constant scale, and with the same rules for gaps,
    entry, exit and more assets than months. Forecasts change with refits alone.
    """

    scale_decay = 1.0
    cap = float("inf")

    def __init__(
        self,
        window: int = 216,
        df: float = 8.0,
        *,
        shrinkage: float = 0.05,
        n_factors: int = 5,
        min_history: int = 24,
    ) -> None:
        super().__init__()
        self.window = check_count("window", window, 2)
        self.df = check_number("df", df, "(2, inf]", "A variance needs more than 2.")
        self._options = MomentOptions(shrinkage, n_factors, min_history)
        self._history_of_scale = History(2, 1)
        self.shrinkage, self.n_factors, self.min_history = shrinkage, n_factors, min_history

    def _weights(self, n_times: int) -> Array:
        return (np.arange(n_times)[::-1] < self.window).astype(np.float64)
