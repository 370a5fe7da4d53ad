"""Whether the guide is good enough, by the tails of its importance weights."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import xarray as xr

from rvrae_pyro.errors import ShapeError
from rvrae_pyro.inference.importance import GuidePaths, guide_paths
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import TIME
from rvrae_pyro.predictive.beliefs import in_double
from rvrae_pyro.predictive.months import load
from rvrae_pyro.predictive.pareto import FEWEST, good_khat, smooth_weights

__all__ = ["HasModel", "psis"]


class HasModel(Protocol):
    """Anything that holds a model: a fit, say."""

    @property
    def model(self) -> RVRAE:
        """The model, trained or not."""
        ...


def psis(fit: HasModel, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.Dataset:
    r"""Judge the guide by the tail of its importance weights, by month and for the whole path.

    .. math:: w_t = \frac{p(z_t \mid h_{t-1}) \, p(r_t \mid z_{1:t})}{q(z_t \mid \cdot)}, \qquad
        w = \prod_t w_t, \qquad z_{1:T} \sim q

    Parameters
    ----------
    fit : Fit
        Anything with a ``model``.
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
        Attribute ``good_khat``: below it the guide's answers can be relied on as they are;
        above 1 not even its means can be mended by weighting. k-hat is 0 where all weights are
        equal, the guide then being exact.

    Raises
    ------
    ShapeError
        With fewer than 25 draws.

    Notes
    -----
    Information set: a smoothing guide's. The path's k-hat grows with the number of months
    even if every month is proposed well; a filtering guide ignores the months to come, which
    shows in the path's weight and not in the months'. So judge the guide by the months, and
    use the particle filter's evidence for the whole. Weights of the model are taken as they
    are, those with a posterior at its mean: it is the factors' guide that is judged. Costs
    O(num_samples n_assets n_factors) a month.

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
    batch, device = load(fit.model, panel)
    paths = guide_paths(in_double(fit.model).to(device), batch, num_samples, seed)
    return _judge(paths, batch.times, seed)


def _judge(paths: GuidePaths, times: np.ndarray, seed: int) -> xr.Dataset:
    ratios = paths.log_ratios.cpu().numpy()
    weights, khat = smooth_weights(ratios.T)
    path_weights, khat_path = smooth_weights(ratios.sum(1))
    total = ratios.sum(1)
    raw = np.log(np.mean(np.exp(total - total.max()))) + total.max()
    return xr.Dataset(
        {
            "khat": (TIME, khat, {"long_name": "tail shape of the month's importance weights"}),
            "ess": (TIME, _effective(weights), {"long_name": "effective share of the draws"}),
            "khat_path": ((), float(khat_path)),
            "ess_path": ((), float(_effective(path_weights))),
            "log_evidence": ((), float(raw), {"units": "nats"}),
        },
        coords={TIME: times},
        attrs={
            "good_khat": good_khat(len(ratios)),
            "num_samples": len(ratios),
            "seed": seed,
        },
    )


def _effective(log_weights: np.ndarray) -> np.ndarray:
    share: np.ndarray = 1.0 / np.exp(2.0 * log_weights).sum(-1) / log_weights.shape[-1]
    return share
