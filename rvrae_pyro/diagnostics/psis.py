"""Whether the guides of factors and weights are good enough, by the tails of their ratios."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.panel_match import match_panel
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.inference.importance import GuidePaths, guide_paths
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import TIME, WEIGHT_DRAW
from rvrae_pyro.predictive.filtering import evidence_by_weights
from rvrae_pyro.predictive.months import load
from rvrae_pyro.predictive.pareto import FEWEST, good_khat, smooth_weights
from rvrae_pyro.predictive.weight_draws import drawn_weights, in_double


class HasModel(Protocol):
    """An object with a model, such as a fit."""

    @property
    def model(self) -> RVRAE:
        """The model, trained or not."""
        ...


def model_of(fit: HasModel | RVRAE) -> RVRAE:
    """Return the model of a fit, or the model itself; raise for an ensemble and anything else."""
    if isinstance(fit, RVRAE):
        return fit
    model = getattr(fit, "model", None)
    if isinstance(model, RVRAE):
        return model
    members, got = getattr(fit, "members", None), type(fit).__name__
    if isinstance(members, tuple):
        raise ConfigError(
            f"`fit` must be one fit; got {got} with {len(members)} members. Pass one member at a "
            "time, as in fit.members[0]."
        )
    raise ConfigError(
        f"`fit` must be a fit or an rv.RVRAE; got {got}. Pass what rv.fit returned, or the model."
    )


def matched(fit: HasModel | RVRAE, panel: xr.Dataset) -> xr.Dataset:
    """Compare a panel with that of a fit, characteristics by name; a bare model has none."""
    return match_panel(panel, getattr(fit, "attrs", {}))


def psis(
    fit: HasModel | RVRAE, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0
) -> xr.Dataset:
    r"""Judge the guide by the tail of its importance weights, by month and for the whole path.

    .. math:: w_t = \frac{p(z_t \mid h_{t-1}) \, p(r_t \mid z_{1:t})}{q(z_t \mid \cdot)}, \qquad
        w = \prod_t w_t, \qquad z_{1:T} \sim q

    Parameters
    ----------
    fit : Fit or RVRAE
        Anything with a ``model``, or the model itself; one member of an ensemble at a time.
    panel : xarray.Dataset
    num_samples : int
        Paths drawn from the guide, at least 25; 1000 or more give a steady estimate.
    seed : int

    Returns
    -------
    Dataset
        ``khat`` (time,): tail shape of :math:`w_t`, the past being drawn from the guide.
        ``khat_path``: of the whole path's weight. ``ess``, ``ess_path``: effective share of the
        draws, in (0, 1]. ``log_evidence``: importance estimate of log p(r_1..T), in nats.
        Attribute ``good_khat``: below it the guide is reliable; above 1 not even its means can be
        corrected by weighting. k-hat is 0 where all weights are equal: the guide is exact.

    Raises
    ------
    ConfigError
        If ``fit`` is an ensemble, or has no model.
    ShapeError
        With fewer than 25 draws.

    Notes
    -----
    Information set: a smoothing guide's. The path's k-hat grows with the number of months even if
    every month is proposed well: judge the guide by the months, and use the particle filter's
    evidence for the whole. Costs O(num_samples n_assets n_factors) per month. Conditional on one
    value of the weights, the mean where they have a posterior (attribute ``weights``);
    :func:`psis_weights` judges the posterior of the weights, with the factors integrated out.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work?, ICML; Vehtari et al. (2024),
    Pareto smoothed importance sampling, JMLR 25(72).

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> panel = rv.data.simulate_linear_gaussian(8, 12, 2)
    >>> model = rv.RVRAE(2, 2, likelihood=rv.likelihoods.Normal())
    >>> fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=4), progress=False)
    >>> rv.diagnostics.psis(fit, panel, 100).khat.sizes["time"]
    12
    """
    if num_samples < FEWEST:
        raise ShapeError(f"`num_samples` must be at least {FEWEST}; got {num_samples}.")
    model = model_of(fit)
    batch = load(model, matched(fit, panel))
    paths = guide_paths(in_double(model), batch, num_samples, seed)
    found = _judge(paths, batch.times, seed)
    found.attrs["weights"] = "posterior mean" if model.drawn_sites else "as they are"
    return found


@torch.no_grad()
def psis_weights(
    fit: HasModel | RVRAE,
    panel: xr.Dataset,
    num_draws: int = 200,
    num_samples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    r"""Judge the posterior of the weights by the tail of its importance ratios.

    .. math:: w_s = \frac{p(\theta_s) \, p(r_{1:T} \mid \theta_s)}{q(\theta_s)}, \qquad
        \theta_s \sim q

    with the factors integrated out of :math:`p(r_{1:T} \mid \theta)`: exactly where a closed
    form exists, else by particle filter.

    Parameters
    ----------
    fit : Fit or RVRAE
        As for :func:`psis`, with weights that have a posterior.
    panel : xarray.Dataset
        The *training* months, whose posterior it is.
    num_draws : int
        Draws of the weights, at least 25.
    num_samples, seed : int
        Particles per filter, unless the model is exact.

    Returns
    -------
    Dataset
        ``khat``, ``ess``: tail shape and effective share of the draws, as in :func:`psis`.
        ``log_evidence``: importance estimate of log p(r_1..T) in nats, weights integrated out.
        ``log_ratio`` (weight_draw,). Attribute ``good_khat``.

    Raises
    ------
    ConfigError
        If no weight has a posterior, or ``fit`` is an ensemble or has no model.
    ShapeError
        With fewer than 25 draws.

    Notes
    -----
    Mean field over hundreds of weights is expected to fail: k-hat above 1 means that
    ``parameter_var`` is only a lower bound. The draws are those of
    ``fit.log_evidence(panel, by_weights=num_draws)``; error of the particle filter raises k-hat.
    Costs one filter per draw.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work?, ICML.
    """
    if num_draws < FEWEST:
        raise ShapeError(f"`num_draws` must be at least {FEWEST}; got {num_draws}.")
    whole = model_of(fit)
    if not whole.drawn_sites:
        raise ConfigError(
            "`fit` must have weights with a posterior; all of this model's are at their MAP. "
            "Build its parts with weights=rv.weights...(inference='posterior'), or with a prior "
            "for an interpretable parameter."
        )
    panel, model = matched(fit, panel), in_double(whole)
    guide = model.parts.weight_guide
    evidence = evidence_by_weights(model, panel, num_draws, num_samples, seed).sum(-1)
    drawn = drawn_weights(model, num_draws, seed)
    prior = torch.stack([guide.log_ratio(model.parts, weights) for weights, _ in drawn])
    ratios = (evidence + prior).cpu().numpy()
    weights, khat = smooth_weights(ratios)
    return xr.Dataset(
        {
            "khat": ((), float(khat), {"long_name": "tail shape of the weights' ratios"}),
            "ess": ((), float(_effective(weights)), {"long_name": "effective share of draws"}),
            "log_evidence": ((), _log_mean(ratios), {"units": "nats"}),
            "log_ratio": (WEIGHT_DRAW, ratios),
        },
        coords={WEIGHT_DRAW: np.arange(num_draws)},
        attrs={"good_khat": good_khat(num_draws), "num_draws": num_draws, "seed": seed},
    )


def _judge(paths: GuidePaths, times: np.ndarray, seed: int) -> xr.Dataset:
    ratios = paths.log_ratios.cpu().numpy()
    weights, khat = smooth_weights(ratios.T)
    path_weights, khat_path = smooth_weights(ratios.sum(1))
    return xr.Dataset(
        {
            "khat": (TIME, khat, {"long_name": "tail shape of the month's importance weights"}),
            "ess": (TIME, _effective(weights), {"long_name": "effective share of the draws"}),
            "khat_path": ((), float(khat_path)),
            "ess_path": ((), float(_effective(path_weights))),
            "log_evidence": ((), _log_mean(ratios.sum(1)), {"units": "nats"}),
        },
        coords={TIME: times},
        attrs={"good_khat": good_khat(len(ratios)), "num_samples": len(ratios), "seed": seed},
    )


def _log_mean(log_values: np.ndarray) -> float:
    top = log_values.max()
    return float(np.log(np.mean(np.exp(log_values - top))) + top)


def _effective(log_weights: np.ndarray) -> np.ndarray:
    share: np.ndarray = 1.0 / np.exp(2.0 * log_weights).sum(-1) / log_weights.shape[-1]
    return share
