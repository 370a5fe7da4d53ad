"""A month's common log-volatility given its cross-section, factors integrated out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rvrae_pyro.nn.gaussian import Dispersion, Gaussian, Posterior, Potential


class VolatilityEvidence(NamedTuple):
    r"""Log-likelihood of a month's returns in its log-volatility x, up to a constant.

    Given x the factors are ``Normal(m, S^2 exp(2 x))`` with S diagonal, and the idiosyncratic
    scales are multiplied by ``exp(g x)``. With the month's potential and dispersion at level
    :math:`l_0`, :math:`\delta = g x - l_0`, the factors integrate out:

    .. math::
        \log p(r \mid x) = -\tfrac12 \sum_k \log(1 + v d_k)
        + \tfrac12 \sum_k \frac{e^{2x - 4\delta} h_k^2}{1 + v d_k}
        - e^{-2\delta} E - n \delta, \qquad v = e^{2x - 2\delta},

    where :math:`S \Lambda S = U \operatorname{diag}(d) U'`, :math:`h = U' S (\eta - \Lambda m)` and
    :math:`E` is half of the energy at ``f = m``. One eigenvalue decomposition, then O(K) per point.

    Attributes
    ----------
    values : Tensor of shape (*batch, n_factors)
        Eigenvalues d.
    push : Tensor of shape (*batch, n_factors)
        h.
    energy : Tensor of shape (*batch,)
        E.
    n_returns, level : Tensor of shape (*batch,)
        n and :math:`l_0`.
    """

    values: Tensor
    push: Tensor
    energy: Tensor
    n_returns: Tensor
    level: Tensor

    @classmethod
    def of(
        cls, factors: Gaussian, potential: Potential, dispersion: Dispersion
    ) -> VolatilityEvidence:
        """Decompose a month's statistics in the factors' scale at x = 0."""
        precision, shift = potential
        scale = factors.scale
        values, vectors = torch.linalg.eigh(scale.unsqueeze(-1) * precision * scale.unsqueeze(-2))
        at_mean = (precision @ factors.loc.unsqueeze(-1)).squeeze(-1)
        push = (vectors.mT @ (scale * (shift - at_mean)).unsqueeze(-1)).squeeze(-1)
        inner = (factors.loc * (shift - 0.5 * at_mean)).sum(-1)
        return cls(
            values.clamp_min(0.0),
            push,
            0.5 * dispersion.energy - inner,
            dispersion.n_returns,
            dispersion.level,
        )

    def log_likelihood(self, x: Tensor, elasticity: Tensor) -> Tensor:
        """Log-likelihood (*batch, n_points) at values x (*batch, n_points)."""
        delta = elasticity * x - self.level.unsqueeze(-1)
        stretch = torch.exp(2.0 * x - 2.0 * delta).unsqueeze(-1)
        total = 1.0 + stretch * self.values.unsqueeze(-2)
        shrink = torch.exp(-2.0 * delta)
        explained = self.push.square().unsqueeze(-2) * stretch / total
        found: Tensor = (
            -0.5 * total.log().sum(-1)
            + shrink * (0.5 * explained.sum(-1) - self.energy.unsqueeze(-1))
            - self.n_returns.unsqueeze(-1) * delta
        )
        return found


# Points of the search for the mode in the prior's standard deviations, and of the moments in the
# posterior's; three rounds bring the spacing of the first from 1 to 0.01.
_FAR, _SEARCH, _ROUNDS, _WIDE, _MOMENTS = 10.0, 21, 3, 5.0, 13


@torch.no_grad()
def propose_volatility(
    prior: Gaussian, evidence: VolatilityEvidence, elasticity: Tensor
) -> Posterior:
    """Gaussian with mean and variance of the log-volatility given the past and the month.

    Without gradient: it is a proposal, close to the optimum of the bound, where the bound does
    not change with it. Exact moments but for the grid; equal to the prior without returns.

    Parameters
    ----------
    prior : Gaussian
        Of x, each (*batch, 1).
    evidence : VolatilityEvidence
    elasticity : Tensor
        Elasticity g of the idiosyncratic scales; a scalar.

    Returns
    -------
    Posterior
        Mean, scale (*batch, 1) and Cholesky factor (*batch, 1, 1).
    """
    batch = torch.broadcast_shapes(prior.loc.shape[:-1], evidence.energy.shape)
    loc = prior.loc.expand(*batch, 1)
    sd = prior.scale.expand(*batch, 1)

    def log_posterior(x: Tensor) -> Tensor:
        return evidence.log_likelihood(x, elasticity) - 0.5 * ((x - loc) / sd).square()

    like = loc
    steps = torch.linspace(-1.0, 1.0, _SEARCH, dtype=like.dtype, device=like.device)
    mode, reach = loc, _FAR * sd
    for _ in range(_ROUNDS):
        points = mode + reach * steps
        best = log_posterior(points).argmax(-1, keepdim=True)
        mode = points.gather(-1, best)
        reach = reach * (2.0 / (_SEARCH - 1))
    # curvature across the last spacing sets the range of the moments' points
    around = log_posterior(torch.cat([mode - reach, mode, mode + reach], -1))
    bend = (2.0 * around[..., 1:2] - around[..., :1] - around[..., 2:]) / reach.square()
    spread = torch.maximum(bend, 1.0 / sd.square()).rsqrt()
    points = mode + _WIDE * spread * torch.linspace(
        -1.0, 1.0, _MOMENTS, dtype=like.dtype, device=like.device
    )
    weight = torch.softmax(log_posterior(points), -1)
    mean = (weight * points).sum(-1, keepdim=True)
    variance = (weight * (points - mean).square()).sum(-1, keepdim=True)
    root = torch.minimum(variance.clamp_min((0.05 * spread).square()).sqrt(), sd)
    unseen = (evidence.n_returns <= 0).unsqueeze(-1)
    mean, root = torch.where(unseen, loc, mean), torch.where(unseen, sd, root)
    # a copy: a view of the prior's scale would take part in its gradient
    return Posterior(mean, sd.clone(), (sd / root).unsqueeze(-1))
