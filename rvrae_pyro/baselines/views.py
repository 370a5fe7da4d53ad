"""What a factor model says of every month."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SINGULAR = 1e-11  # share of the largest eigenvalue below which one counts as none


@dataclass(frozen=True)
class FactorView:
    """One member's account of a panel, in double precision and return units.

    Attributes
    ----------
    alpha : Tensor of shape (n_times, n_assets)
        Intercept of each asset's return, known at t-1.
    beta : Tensor of shape (n_times, n_assets, n_factors)
        Loadings, known at t-1.
    loc : Tensor of shape (n_times, n_factors)
        Expected factors given months to t-1; NaN where nothing is known yet.
    factor_scale : Tensor of shape (n_times, n_factors, n_factors)
        A matrix L with L L' the factors' covariance, given months to t-1.
    idio_scale : Tensor of shape (n_times, n_assets)
        Standard deviation of what the factors leave, known at t-1.
    factors : Tensor of shape (n_times, n_factors)
        Factors given the month's own returns; NaN in months without any.
    """

    alpha: Tensor
    beta: Tensor
    loc: Tensor
    factor_scale: Tensor
    idio_scale: Tensor
    factors: Tensor

    def fitted(self, factors: Tensor) -> Tensor:
        """Return alpha + B f for factors (n_times, n_factors)."""
        return self.alpha + (self.beta * factors.unsqueeze(1)).sum(-1)

    def variance(self) -> Tensor:
        """Predictive variance of every return, of shape (n_times, n_assets)."""
        exposure = (self.beta.unsqueeze(-1) * self.factor_scale.unsqueeze(1)).sum(-2)
        return exposure.square().sum(-1) + self.idio_scale.square()


@dataclass(frozen=True)
class FactorHistory:
    """Factors of the months a model was fitted on.

    Attributes
    ----------
    times : ndarray of datetime64[ns]
    factors : Tensor of shape (n_times, n_factors)
        NaN in months without returns.
    """

    times: np.ndarray
    factors: Tensor

    def running_mean(self, times: np.ndarray, factors: Tensor) -> Tensor:
        """Average over all earlier months, of shape (len(times), n_factors).

        Parameters
        ----------
        times : ndarray of datetime64
            Months of a panel.
        factors : Tensor of shape (n_times, n_factors)
            That panel's factors; where a month is in the history, the history's are taken.

        Notes
        -----
        Row t involves months before t only: from the history and from the panel. NaN where
        there is none.
        """
        fresh = ~np.isin(times, self.times)
        months = np.concatenate([self.times, times[fresh]])
        values = np.concatenate([self.factors.cpu().numpy(), factors.cpu().numpy()[fresh]])
        order = np.argsort(months, kind="stable")
        months, values = months[order], values[order]
        known = ~np.isnan(values)
        count = np.cumsum(known, axis=0)
        total = np.cumsum(np.where(known, values, 0.0), axis=0)
        earlier = np.searchsorted(months, times, side="left") - 1
        missing = np.where((earlier >= 0)[:, None], count[earlier], 0) == 0
        mean = np.where(missing, np.nan, total[earlier] / np.where(missing, 1, count[earlier]))
        return torch.as_tensor(mean, device=factors.device)

    def covariance(self) -> Tensor:
        """Covariance over the months, of shape (n_factors, n_factors); zero for one month."""
        known = self.factors[~self.factors.isnan().any(1)]
        deviation = known - known.mean(0)
        return torch.einsum("tk,tl->kl", deviation, deviation) / max(1, known.shape[0] - 1)


def cholesky_like(covariance: Tensor) -> Tensor:
    """Return a matrix L with L L' = covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp_min(0.0).sqrt()
    return root


def refit_factors(beta: Tensor, returns: Tensor, observed: Tensor) -> Tensor:
    """Solve for each month's factors by least squares across assets.

    Parameters
    ----------
    beta : Tensor of shape (n_times, n_assets, n_factors)
    returns : Tensor of shape (n_times, n_assets)
    observed : bool Tensor of shape (n_times, n_assets)

    Returns
    -------
    Tensor of shape (n_times, n_factors)
        Of smallest norm where assets are fewer than factors; NaN in months without returns.
    """
    factors = beta.new_full((beta.shape[0], beta.shape[2]), torch.nan)
    for t, seen in enumerate(observed):
        if bool(seen.any()):
            b = beta[t, seen]
            # a tolerance above rounding: loadings that nearly coincide are one
            inverse = torch.linalg.pinv(b.mT @ b, rtol=_SINGULAR, hermitian=True)
            factors[t] = inverse @ (b.mT @ returns[t, seen])
    return factors
