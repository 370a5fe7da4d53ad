"""Return likelihoods p(r_it | f_t), their idiosyncratic scales and optional alpha.

Scales and alphas are per unit of ``model.return_scale``, like loadings.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.utils import broadcast_all

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models.loadings import feed_forward
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.weights import GroupLog, WeightMatrices, WeightPrior
from rvrae_pyro.nn.gaussian import Gaussian, Potential

__all__ = [
    "Alpha",
    "CharacteristicScale",
    "GlobalScale",
    "Likelihood",
    "Normal",
    "Scale",
    "StudentT",
]


class Scale(Part):
    """Base of idiosyncratic scales: ``forward(batch)`` gives log scales (n_times, n_assets)."""

    weights: WeightPrior | None = None


class GlobalScale(Scale):
    """One scale for all assets and months."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-0.3))

    def forward(self, batch: Batch) -> Tensor:
        """Log scale, of shape (1, 1)."""
        return self.log_scale.reshape(1, 1)


class CharacteristicScale(Scale):
    """Log scale from the characteristics and context known at the end of the month before.

    Parameters
    ----------
    n_characteristics : int
    n_context : int
        Features of the panel's context to read; 0 for none.
    hidden : int
        Width of the ReLU layer.
    weights : WeightPrior, optional
        Prior over the weights.
    """

    def __init__(
        self,
        n_characteristics: int,
        n_context: int = 0,
        hidden: int = 16,
        weights: WeightPrior | None = GroupLog(),
    ) -> None:
        super().__init__()
        self.n_characteristics, self.n_context = n_characteristics, n_context
        self.hidden, self.weights = hidden, weights
        self.network = feed_forward([n_characteristics, hidden, 1])
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, -0.3)
        self.context = nn.Linear(n_context, 1, bias=False) if n_context else None
        if self.context is not None:
            nn.init.zeros_(self.context.weight)

    def forward(self, batch: Batch) -> Tensor:
        """Log scales, of shape (n_times, n_assets)."""
        if batch.n_characteristics != self.n_characteristics:
            raise ShapeError(
                f"`characteristics` must have {self.n_characteristics} columns, as the scale was "
                f"built for; got {batch.n_characteristics}."
            )
        log_scale = batch.spread(self.network(batch.row_characteristics)).squeeze(-1)
        if self.context is None:
            return log_scale
        if batch.context is None or batch.context.shape[-1] != self.n_context:
            raise ShapeError(
                f"`context` must have {self.n_context} features, as the scale was built for. Add "
                "it with rv.data.market_context(panel) or build with n_context=0."
            )
        shift: Tensor = self.context(batch.context)
        return log_scale + shift

    def weight_matrices(self) -> WeightMatrices:
        """First layer as inputs, output and context weights as others."""
        tables = [p for p in self.parameters() if p.ndim == 2]
        return WeightMatrices(tables[:1], tables[1:])


class Alpha(Part):
    """Mispricing linear in the characteristics; off unless asked for (no arbitrage).

    Parameters
    ----------
    n_characteristics : int
    weights : WeightPrior, optional
        Prior over the coefficients.
    """

    def __init__(self, n_characteristics: int, weights: WeightPrior | None = GroupLog()) -> None:
        super().__init__()
        self.n_characteristics, self.weights = n_characteristics, weights
        self.layer = nn.Linear(n_characteristics, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Alphas, of shape (n_times, n_assets)."""
        return batch.spread(self.layer(batch.row_characteristics)).squeeze(-1)

    def weight_matrices(self) -> WeightMatrices:
        """Return the coefficients."""
        return WeightMatrices([self.layer.weight], [])


class Likelihood(Part):
    """Base of return likelihoods. A subclass gives ``distribution(loc, scale)``.

    Parameters
    ----------
    scale : Scale, optional
        Idiosyncratic scale; :class:`GlobalScale` unless told.
    alpha : Alpha, optional
        Mispricing; None for none.

    Attributes
    ----------
    exact_potential : bool
        True where :meth:`potential` is the log-likelihood itself, up to a constant.
    """

    exact_potential: bool = False

    def __init__(self, scale: Scale | None = None, alpha: Alpha | None = None) -> None:
        super().__init__()
        self.scale = GlobalScale() if scale is None else scale
        self.alpha = alpha

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """Distribution of returns given location and scale (*particles, n_times, n_assets)."""
        raise NotImplementedError

    def deviation(self, scale: Tensor) -> Tensor:
        """Idiosyncratic standard deviation that belongs to a scale."""
        return self.distribution(torch.zeros_like(scale), scale).variance.sqrt()

    def potential(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, start: Gaussian
    ) -> Potential:
        """Quadratic log-likelihood of each month's factors; exact for Normal returns.

        Guides and filters propose from it and the model keeps the exact density. The base
        class matches the variance.

        Parameters
        ----------
        residual : Tensor of shape (*batch, n_times, n_assets)
            Returns less alpha.
        beta : Tensor of shape (*batch, n_times, n_assets, n_factors)
        scale : Tensor of shape (*batch, n_times, n_assets)
        observed : bool Tensor of shape (n_times, n_assets)
        start : Gaussian
            Factor prior at its initial state, where an iterative form starts from.

        Returns
        -------
        Potential
            Batch shape (*batch, n_times). Costs O(n_times n_assets n_factors^2).
        """
        weight = observed / self.deviation(scale).square()
        return _weighted_potential(residual, beta, weight)


class Normal(Likelihood):
    """Normal returns: the potential is the exact log-likelihood.

    Parameters
    ----------
    scale, alpha
        See :class:`Likelihood`.
    """

    exact_potential = True

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """``Normal(loc, scale)``."""
        return dist.Normal(loc, scale, validate_args=False)

    def deviation(self, scale: Tensor) -> Tensor:
        """Return the scale itself."""
        return scale


class StudentT(Likelihood):
    """Student-t returns with learned degrees of freedom: a few wild months steer nothing.

    Parameters
    ----------
    scale, alpha
        See :class:`Likelihood`.
    df : float
        Degrees of freedom to start from, above 2.
    learn_df : bool
        False keeps them.
    sweeps : int
        Fisher-scoring sweeps, without gradient, that find the point at which the guide's
        quadratic form is taken.

    Notes
    -----
    The quadratic form has the Fisher precision ``(df + 1) / (df + 3) B' Sigma^-1 B`` and the
    exact score at the mode; the precision of the reweighted regression would be too high.
    """

    def __init__(
        self,
        scale: Scale | None = None,
        alpha: Alpha | None = None,
        df: float = 5.0,
        learn_df: bool = True,
        sweeps: int = 2,
    ) -> None:
        super().__init__(scale, alpha)
        if not df > 2:
            raise ConfigError(f"`df` must be above 2, so that returns have a variance; got {df}.")
        if sweeps < 1:
            raise ConfigError(f"`sweeps` must be at least 1; got {sweeps}.")
        self.df, self.learn_df, self.sweeps = df, learn_df, sweeps
        self.log_excess_df = nn.Parameter(torch.tensor(math.log(df - 2.0)), learn_df)

    @property
    def degrees_of_freedom(self) -> Tensor:
        """Degrees of freedom, above 2; a scalar."""
        return 2.0 + self.log_excess_df.exp()

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """``StudentT(df, loc, scale)``."""
        return _StudentT(self.degrees_of_freedom, loc, scale)

    def deviation(self, scale: Tensor) -> Tensor:
        """``scale * sqrt(df / (df - 2))``."""
        df = self.degrees_of_freedom
        return scale * (df / (df - 2.0)).sqrt()

    def potential(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, start: Gaussian
    ) -> Potential:
        """Score and Fisher information at the mode under the initial prior."""
        df = self.degrees_of_freedom
        weighted = beta * (observed / scale.square()).unsqueeze(-1)
        precision = weighted.mT @ beta
        information = (df + 1.0) / (df + 3.0) * precision
        with torch.no_grad():
            shift = (weighted.mT @ residual.unsqueeze(-1)).squeeze(-1)
            mode = start.update(Potential(precision, shift)).mean
            for _ in range(self.sweeps):
                score = self._score(residual, beta, scale, weighted, mode)
                shift = score + (information @ mode.unsqueeze(-1)).squeeze(-1)
                mode = start.update(Potential(information, shift)).mean
        score = self._score(residual, beta, scale, weighted, mode)
        return Potential(information, score + (information @ mode.unsqueeze(-1)).squeeze(-1))

    def _score(
        self, residual: Tensor, beta: Tensor, scale: Tensor, weighted: Tensor, at: Tensor
    ) -> Tensor:
        df = self.degrees_of_freedom
        error = residual - (beta @ at.unsqueeze(-1)).squeeze(-1)
        robust = error * (df + 1.0) / (df + (error / scale).square())
        return (weighted.mT @ robust.unsqueeze(-1)).squeeze(-1)


class _StudentT(dist.StudentT):  # type: ignore[misc]
    """Student-t whose scalar degrees of freedom are not spread over every cell."""

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        self._df = df
        loc, scale = broadcast_all(loc, scale)
        super().__init__(df, loc, scale, validate_args=False)

    def expand(
        self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None
    ) -> dist.TorchDistribution:
        return _StudentT(self._df, self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        df = self._df
        constant = (
            torch.lgamma(0.5 * (df + 1.0)) - torch.lgamma(0.5 * df) - 0.5 * (df * math.pi).log()
        )
        z = (value - self.loc) / self.scale
        kernel: Tensor = torch.log1p(z.square() / df)
        density: Tensor = constant - self.scale.log() - 0.5 * (df + 1.0) * kernel
        return density


def _weighted_potential(residual: Tensor, beta: Tensor, weight: Tensor) -> Potential:
    weighted = (beta * weight.unsqueeze(-1)).mT
    return Potential(weighted @ beta, (weighted @ residual.unsqueeze(-1)).squeeze(-1))
