"""A market whose loadings have one unknown weight, whose posterior a grid gives.

One weight, one factor, Normal noise: everything can be integrated on a grid. ``r = 0.05 (w x f +
e)`` with ``f`` and ``e`` standard Normal, so that returns tell ``w`` up to its sign.
"""

from functools import cache

import numpy as np
import torch
import xarray as xr
from scipy.special import logsumexp

import rvrae_pyro as rv
from tests.diagnostics.helpers import UNIT, freeze

SITE = "loadings.layer.weight"
GRID = np.linspace(0.005, 6.0, 1200)
PRIOR_SCALE = 1.5
T = 28


def market(seed: int = 0, n_assets: int = 5) -> xr.Dataset:
    """Returns under ``w = 1``."""
    panel = rv.data.simulate_linear_gaussian(n_assets, T, 1, missing=0.1, seed=seed)
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (T, n_assets))
    values = UNIT * (x * rng.normal(size=(T, 1)) + rng.normal(size=(T, n_assets)))
    panel["characteristics"][:] = x[..., None]
    absent = panel["returns"].isnull()
    panel["returns"] = panel["returns"].copy(data=np.where(absent, np.nan, values))
    return panel


def one_weight() -> rv.RVRAE:
    """Build the model that draws the market, its one weight unknown."""
    weights = rv.weights.Normal(PRIOR_SCALE, inference="posterior")
    model = rv.RVRAE(
        1,
        1,
        loadings=rv.loadings.Linear(1, 1, weights=weights),
        factor_prior=rv.priors.StandardNormal(1),
        likelihood=rv.likelihoods.Normal(),
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(UNIT)
        model.parts.loadings.layer.bias.zero_()
        model.likelihood.scale.log_scale.fill_(0.0)
    return model


def on_grid(panel: xr.Dataset) -> np.ndarray:
    """Log evidence (grid, time) of every month under every value of the weight."""
    x = panel["characteristics"].values[..., 0]
    r = panel["returns"].values
    rows = np.zeros((len(GRID), r.shape[0]))
    for t in range(r.shape[0]):
        seen = ~np.isnan(r[t])
        value, slope = r[t, seen] / UNIT, x[t, seen]
        # eigenvalues of I + w^2 x x' are 1, and 1 + w^2 |x|^2 along x
        size, along = slope @ slope, slope @ value
        gain = GRID**2 / (1 + GRID**2 * size)
        quadratic = value @ value - gain * along**2
        rows[:, t] = -0.5 * (quadratic + np.log1p(GRID**2 * size))
        rows[:, t] -= seen.sum() * (np.log(UNIT) + 0.5 * np.log(2 * np.pi))
    return rows


def posterior(rows: np.ndarray) -> np.ndarray:
    """Log posterior of the weight on the grid, normalised."""
    log_density = rows.sum(1) - 0.5 * (GRID / PRIOR_SCALE) ** 2
    normal: np.ndarray = log_density - logsumexp(log_density)
    return normal


@cache
def a_fit() -> rv.Fit:
    """Fit whose weights the tests overwrite."""
    config = rv.FitConfig(max_steps=1, dtype=torch.float64)
    return rv.fit(freeze(one_weight(), but=SITE), market(), config=config, progress=False)


def best_normal(past: xr.Dataset) -> rv.Fit:
    """Give the fit the Normal posterior with the moments of the exact one."""
    fit = a_fit()
    density = np.exp(posterior(on_grid(past)))
    mean = density @ GRID
    sd = np.sqrt(density @ (GRID - mean) ** 2)
    with torch.no_grad():
        fit.model.return_scale.fill_(UNIT)
        fit.model.parts.get_parameter(SITE).fill_(mean)
        for scale in fit.model.parts.weight_guide.log_scales.parameters():
            scale.fill_(np.log(sd))
    return fit
