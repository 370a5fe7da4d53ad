"""Summaries of a month's returns whose size does not depend on the number of assets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rvrae_pyro.nn.asset_sums import along_assets, information
from rvrae_pyro.nn.gaussian import Potential

_PRECISION_UNIT = 10.0
"""Brings log precisions, 5 to 15 for ten to a million assets, to order one."""


def month_features(potential: Potential) -> Tensor:
    """Least-squares factors of every month under a unit prior, and the log of their precisions.

    Parameters
    ----------
    potential : Potential
        Of batch shape (*batch,).

    Returns
    -------
    Tensor of shape (*batch, 2 n_factors)
        Zeros for a month without returns.
    """
    precision, shift = potential
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    chol = torch.linalg.cholesky_ex(precision + eye)[0]
    estimate = torch.cholesky_solve(shift.unsqueeze(-1), chol).squeeze(-1)
    return torch.cat([estimate, torch.log1p(precision.diagonal(dim1=-2, dim2=-1))], dim=-1)


class MonthStatistics(NamedTuple):
    """Sums over the observed assets of a month, of which its summary is a function.

    Sums of parts of a cross-section add up to those of the whole.

    Attributes
    ----------
    precision : Tensor of shape (*batch, n_factors, n_factors)
        ``B' S^-2 B``, S the idiosyncratic scales.
    shift : Tensor of shape (*batch, n_factors)
        ``B' S^-2 r``.
    energy, n_observed : Tensor of shape (*batch,)
        ``r' S^-2 r``, and the number of observed returns.
    """

    precision: Tensor
    shift: Tensor
    energy: Tensor
    n_observed: Tensor

    @classmethod
    def of(cls, returns: Tensor, beta: Tensor, scale: Tensor, observed: Tensor) -> MonthStatistics:
        """Add up a cross-section.

        Parameters
        ----------
        returns : Tensor of shape (*batch or fewer, n_assets)
            Less any alpha.
        beta : Tensor of shape (*batch or fewer, n_assets, n_factors)
        scale : Tensor of shape (*batch or fewer, n_assets)
            Idiosyncratic scales, in the unit of returns and loadings.
        observed : bool Tensor of shape (*batch or fewer, n_assets)
        """
        weight = observed / scale.square()
        weighted = weight * returns
        return cls(
            information(beta, weight),
            along_assets(beta, weighted),
            (weighted * returns).sum(-1),
            observed.sum(-1).to(scale.dtype),
        )

    def summary(self) -> Tensor:
        """Summarise the months: factors, their precisions, the residual scale.

        Returns
        -------
        Tensor of shape (*batch, 2 n_factors + 1)
            :func:`month_features` of the least-squares problem, log precisions by the tenth, and
            the log of the root mean square of residuals in their scales, shrunk to 0 as by one
            return; zeros for a month without returns.
        """
        features = month_features(Potential(self.precision, self.shift))
        estimate, log_precision = features.chunk(2, -1)
        explained = (self.precision @ estimate.unsqueeze(-1)).squeeze(-1)
        energy = self.energy + (estimate * (explained - 2.0 * self.shift)).sum(-1)
        # a sum of squares, but for rounding
        residual = 0.5 * (torch.log1p(energy.clamp_min(0.0)) - torch.log1p(self.n_observed))
        residual = residual.expand(estimate.shape[:-1]).unsqueeze(-1)
        return torch.cat([estimate, log_precision / _PRECISION_UNIT, residual], -1)


def summary_size(n_factors: int) -> int:
    """Entries of :meth:`MonthStatistics.summary`."""
    return 2 * n_factors + 1
