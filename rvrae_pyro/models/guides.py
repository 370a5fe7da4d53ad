"""Guides q(z_1:T | r): how the posterior of the factors is proposed.

All are *filtering* guides unless their name says otherwise: month t's factors are proposed from
returns up to month t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.paths import FilteredPath, Scan, at_level
from rvrae_pyro.models.priors import FactorPrior
from rvrae_pyro.models.weights import WeightPrior
from rvrae_pyro.nn.gaussian import Posterior, Potential

__all__ = ["Conjugate", "Guide", "PriorView", "Recurrent"]


@dataclass(frozen=True)
class PriorView:
    """What a guide may know of the factor prior.

    Attributes
    ----------
    prior : FactorPrior
    context : Tensor of shape (n_times, n_features) or None
        The month's context as the prior's ``encode`` left it.
    state : tuple of Tensor
        State before the first month.
    walk : Scan or None
        For an observed recurrence: prior and posterior of every month, already known.
    """

    prior: FactorPrior
    context: Tensor | None
    state: State
    walk: Scan | None


class Guide(Part):
    """Base of guides: ``forward`` returns the distribution of the ``factors`` site.

    Attributes
    ----------
    needs_affine_decoder : bool
        True where the proposal is only defined if factors are affine in the code.
    """

    needs_affine_decoder: bool = False
    weights: WeightPrior | None = None

    def forward(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Propose the whole path.

        Parameters
        ----------
        batch : Batch
            Returns of month t may enter month t's proposal and later ones.
        potential : Potential
            Quadratic log-likelihood of every month, batch shape (n_times,): all that the
            cross-section says of the factors, whatever the number and order of assets.
        view : PriorView
        kl_weight : Tensor of shape (n_times,)
            Weight of each month's KL in the objective.

        Returns
        -------
        TorchDistribution
            Batch shape (n_times, 1), event shape (n_factors,).
        """
        raise NotImplementedError

    def carry(self, batch: Batch, potential: Potential, starts: Sequence[int]) -> dict[int, State]:
        """State before each of some months; empty for a guide without one."""
        return dict.fromkeys(starts, ())


class Conjugate(Guide):
    """Prior times the month's quadratic log-likelihood: exact given the past for Normal returns.

    It has no parameter of its own, so a swapped prior needs no new guide. Under a KL weight w
    the optimum has data precision ``Lambda / w``, and so has this guide.

    References
    ----------
    Johnson et al. (2016), NIPS: structured recognition by conjugate potentials.
    """

    needs_affine_decoder = True

    def forward(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Independent Gaussians for an observed recurrence, a filtered path for a latent one."""
        tempered = potential.tempered(kl_weight)
        if view.walk is None:
            return FilteredPath(view.prior, tempered, view.context, view.state)
        posterior = view.walk.prior.update(at_level(tempered, view.walk.level))
        return independent(posterior)


class Recurrent(Guide):
    r"""The paper's encoder: a tanh recurrence over the months' returns, eqs. (11)-(16).

    Its input is the month's least-squares factor estimate under a unit prior and the log of its
    precision: they replace the vector of all returns, whose length changes from month to month.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Width of the state.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (11)-(16); Fabius and van Amersfoort (2015),
    arXiv 1412.6581.
    """

    def __init__(self, n_factors: int, hidden: int = 32) -> None:
        super().__init__()
        self.n_factors, self.hidden = n_factors, hidden
        self.rnn = nn.RNN(2 * n_factors, hidden)
        self.loc = nn.Linear(hidden, n_factors)
        self.log_scale = nn.Linear(hidden, n_factors)

    def forward(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Diagonal Gaussians from the recurrent state at each month."""
        hidden = self._run(batch, potential)
        scale = self.log_scale(hidden).clamp(-8.0, 4.0).exp()
        loc = self.loc(hidden)
        months = dist.Normal(loc.unsqueeze(-2), scale.unsqueeze(-2), validate_args=False)
        path: dist.TorchDistribution = months.to_event(1)
        return path

    def carry(self, batch: Batch, potential: Potential, starts: Sequence[int]) -> dict[int, State]:
        """Recurrent state before each of some months."""
        hidden = self._run(batch, potential)
        path = torch.cat([self._initial(batch, hidden), hidden], dim=0)
        return {start: (path[start],) for start in starts}

    def _run(self, batch: Batch, potential: Potential) -> Tensor:
        features = self._features(potential)
        output, _ = self.rnn(features, self._initial(batch, features))
        hidden: Tensor = output
        return hidden

    def _initial(self, batch: Batch, like: Tensor) -> Tensor:
        state = batch.state("guide")
        return state[0].unsqueeze(0) if state else like.new_zeros(1, self.hidden)

    @staticmethod
    def _features(potential: Potential) -> Tensor:
        precision, shift = potential
        eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
        chol = torch.linalg.cholesky_ex(precision + eye)[0]
        estimate = torch.cholesky_solve(shift.unsqueeze(-1), chol).squeeze(-1)
        return torch.cat([estimate, torch.log1p(precision.diagonal(dim1=-2, dim2=-1))], dim=-1)


def independent(posterior: Posterior) -> dist.MultivariateNormal:
    """Months that are independent given the data, of batch shape (n_times, 1)."""
    tril = torch.linalg.cholesky_ex(posterior.covariance())[0]
    return dist.MultivariateNormal(
        posterior.mean.unsqueeze(-2), scale_tril=tril.unsqueeze(-3), validate_args=False
    )
