"""What all return likelihoods share: a density of each return, a quadratic form of each month."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.kinds import require_instance
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.models.scales import Alpha, GlobalScale, Scale
from rvrae_pyro.nn.asset_sums import along_assets, along_factors, information, spread_of
from rvrae_pyro.nn.gaussian import Dispersion, Gaussian, Potential
from rvrae_pyro.nn.sequences import under_vmap

_SCALES = ("rv.likelihoods.GlobalScale", "rv.likelihoods.CharacteristicScale")


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
        if scale is not None:
            require_instance("scale", scale, Scale, _SCALES)
        if alpha is not None:
            require_instance("alpha", alpha, Alpha, ("rv.likelihoods.Alpha",))
        self.scale = GlobalScale() if scale is None else scale
        self.alpha = alpha

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """Distribution of returns given location and scale (*particles, n_times, n_assets)."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method `distribution(loc, scale)`."
        )

    def deviation(self, scale: Tensor) -> Tensor:
        """Idiosyncratic standard deviation that belongs to a scale."""
        return self.distribution(torch.zeros_like(scale), scale).variance.sqrt()

    def potential(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, start: Transition
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
        start : Transition
            Factor prior at its initial state, where an iterative form starts from.

        Returns
        -------
        Potential
            Batch shape (*batch, n_times). Costs O(n_times n_assets n_factors^2).
        """
        weight = observed / self.deviation(scale).square()
        return weighted_potential(residual, beta, weight)

    def dispersed_potential(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, start: Transition
    ) -> tuple[Potential, Dispersion]:
        """Potential of each month's factors, and what its returns tell of the common scale.

        For a factor prior with a common volatility. Parameters as for :meth:`potential`; exact
        for Normal returns.
        """
        potential = self.potential(residual, beta, scale, observed, start)
        return potential, self.energy(residual, scale, observed)

    def energy(self, residual: Tensor, scale: Tensor, observed: Tensor) -> Dispersion:
        """Dispersion at level 0 of Normal returns with this variance; adds up over assets."""
        squares = (residual / self.deviation(scale)).square()
        energy = (observed * squares).sum(-1)
        count = observed.sum(-1).to(energy.dtype).expand_as(energy)
        return Dispersion(energy, count, torch.zeros_like(energy))


class RobustLikelihood(Likelihood):
    """Base of likelihoods that are not Normal: a quadratic form from score and information.

    A subclass gives ``distribution``, ``deviation``, and the two functions of its standard
    density (scale 1) below.

    Parameters
    ----------
    scale, alpha
        See :class:`Likelihood`.
    sweeps : int
        Fisher-scoring sweeps, without gradient, that find the point about which the guide's
        quadratic form is taken.

    Notes
    -----
    The quadratic form has the score and the curvature of the log density, each averaged over
    the posterior about the mode: a step towards the best Gaussian in the sense of the bound.
    Posterior deviations of a month of 60 Student-t returns come out within 1 % (root mean
    square), where the Fisher precision, right on average only, misses by 7 %.

    The sweeps have no gradient, so that the gradient of a guide that is built on the form is
    not exactly that of the bound: on small markets its error is 0.2 to 3 % of the norm for
    Student-t, skewed and mixture returns, and 5 to 50 % for Laplace returns, whose curvature
    is an average over kinks. For Normal returns the form is the likelihood itself and the
    gradient exact. Bound and densities are exact for all.

    References
    ----------
    Opper and Archambeau (2009), Neural Computation 21: the variational Gaussian approximation.
    """

    def __init__(
        self, scale: Scale | None = None, alpha: Alpha | None = None, sweeps: int = 2
    ) -> None:
        super().__init__(scale, alpha)
        if sweeps < 1:
            raise ConfigError(f"`sweeps` must be at least 1; got {sweeps}.")
        self.sweeps = sweeps

    def score(self, error: Tensor) -> Tensor:
        """Return the derivative of the standard log density with respect to its location."""
        raise NotImplementedError(f"{type(self).__name__} needs a method `score(error)`.")

    def information(self) -> Tensor:
        """Fisher information of the standard density about its location; a scalar."""
        raise NotImplementedError(f"{type(self).__name__} needs a method `information()`.")

    def potential(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, start: Transition
    ) -> Potential:
        """Score and curvature about the mode, averaged over what the month leaves open."""
        with torch.no_grad():
            plain = weighted_potential(residual, beta, observed / scale.square())
            posterior, fisher = start.update(plain), self.information() * plain.precision
            for _ in range(self.sweeps):
                mode = posterior.mean
                shift = self.pull(residual, beta, scale, observed, mode)
                shift = shift + (fisher @ mode.unsqueeze(-1)).squeeze(-1)
                posterior = start.update(Potential(fisher, shift))
            mode, covariance = posterior.mean, posterior.covariance()
        return self.about(residual, beta, scale, observed, mode, covariance)

    def dispersed_potential(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, start: Transition
    ) -> tuple[Potential, Dispersion]:
        """Potential about the mode of factors and common scale together, and its dispersion.

        With heavy tails the curvature in the factors depends on the scale of the month: a
        potential taken at level 0 has half of the precision in a month of twice the scale. So
        factors and level are found in turn, and the potential is taken at that level.
        """
        with torch.no_grad():
            plain = weighted_potential(residual, beta, observed / scale.square())
            search = LevelSearch(self, start, plain, observed.sum(-1).to(scale.dtype))
            while search.unfinished:
                at = scale_at(scale, search.level)
                search.step(
                    self.pull(residual, beta, at, observed, search.mode),
                    self.scale_score(residual, beta, at, observed, search.mode),
                )
        at = scale_at(scale, search.level)
        potential = self.about(residual, beta, at, observed, search.mode, search.covariance)
        with torch.no_grad():
            score = self.scale_score(residual, beta, at, observed, search.mode)
            return potential, search.dispersion(score, potential)

    def scale_score(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, mode: Tensor
    ) -> Tensor:
        """Gradient (*batch, n_times) of each month's log-likelihood in the log of all scales.

        At given factors; adds up over groups of assets.
        """
        error = (residual - along_factors(beta, mode)) / scale
        return (observed * (error * self.score(error) - 1.0)).sum(-1)

    def scale_information(self) -> Tensor:
        """Fisher information of the standard density about the log of its scale; a scalar."""
        like = self.information()
        with torch.no_grad():
            # equal steps of arsinh reach far into heavy tails
            grid = torch.linspace(-9.0, 9.0, 1801, dtype=like.dtype, device=like.device)
            error = torch.sinh(grid)
            zero, one = torch.zeros_like(error), torch.ones_like(error)
            mass = self.distribution(zero, one).log_prob(error).exp() * torch.cosh(grid)
            score = error * self.score(error) - 1.0
            return torch.trapezoid(score.square() * mass, grid)

    def pull(
        self, residual: Tensor, beta: Tensor, scale: Tensor, observed: Tensor, mode: Tensor
    ) -> Tensor:
        """Gradient of each month's log-likelihood at given factors (*batch, n_times, n_factors).

        Adds up over groups of assets.
        """
        per_scale = scale.reciprocal()
        push = self.score((residual - along_factors(beta, mode)) * per_scale)
        return along_assets(beta, observed * push * per_scale)

    def about(
        self,
        residual: Tensor,
        beta: Tensor,
        scale: Tensor,
        observed: Tensor,
        mode: Tensor,
        covariance: Tensor,
    ) -> Potential:
        """Quadratic form about a mode, averaged over a covariance; adds up over groups of assets.

        Parameters
        ----------
        residual, beta, scale, observed
            As in :meth:`potential`.
        mode : Tensor of shape (*batch, n_times, n_factors)
        covariance : Tensor of shape (*batch, n_times, n_factors, n_factors)
        """
        per_scale = scale.reciprocal()
        with torch.no_grad():
            reach = ((3.0 * spread_of(beta, covariance)).sqrt() * per_scale).clamp_min(1e-3)
        centre = (residual - along_factors(beta, mode)) * per_scale
        low, middle, high = (self.score(centre + d) for d in (-reach, 0.0, reach))
        # Gauss-Hermite means over Normal(mode, variance), the curvature by Stein's lemma; an
        # asset far out would subtract precision, and counts as none instead
        curvature = ((high - low) / (2.0 * reach)).clamp_min(0.0)
        precision = information(beta, observed * curvature * per_scale.square())
        push = (low + 4.0 * middle + high) / 6.0
        shift = along_assets(beta, observed * push * per_scale)
        return Potential(precision, shift + (precision @ mode.unsqueeze(-1)).squeeze(-1))


def scale_at(scale: Tensor, level: Tensor) -> Tensor:
    """Scales (*batch, n_assets) of months with a log multiplier (*batch,)."""
    return scale * level.exp().unsqueeze(-1)


class LevelSearch:
    """Search for a month's mode in factors and common log scale, from sums over assets.

    Each step takes the gradients of the log-likelihood at :attr:`mode` and :attr:`level`, summed
    over all assets (and shards of them), and moves the factors by Fisher scoring under their
    prior, then the level by Fisher scoring under a Normal(0, 1) prior, which only matters in
    months with few returns.

    The factors' prior is widened in months of large factors, as a common volatility would. With a
    fixed one, such a month looks like one of large residuals: the prior pulls the factors back,
    what they leave raises the level, and a higher level lets the prior pull harder. A month that
    has converged stays as it is, so that it does not depend on the others.

    Parameters
    ----------
    likelihood : RobustLikelihood
    start : Transition
        Factor prior at its initial state.
    plain : Potential
        Weighted least squares at level 0.
    count : Tensor of shape (*batch, n_times)
        Observed returns.
    """

    def __init__(
        self, likelihood: RobustLikelihood, start: Transition, plain: Potential, count: Tensor
    ) -> None:
        self.start, self.count = start, count
        self.fisher = likelihood.information() * plain.precision
        self.scale_information = likelihood.scale_information()
        posterior = start.update(plain)
        self.mode, self.covariance = posterior.mean, posterior.covariance()
        self.level = torch.zeros_like(plain.shift[..., 0])
        self.moving = torch.ones_like(self.level, dtype=torch.bool)
        self.steps = 0

    @property
    def unfinished(self) -> bool:
        """Whether there is a step to take."""
        if self.steps >= _LEVEL_SWEEPS:
            return False
        # a month that has converged stays, so that further steps for all change nothing
        return under_vmap(self.moving) or bool(self.moving.any())

    def step(self, pull: Tensor, scale_score: Tensor) -> None:
        """Move mode and level, given the gradients there."""
        precision = self.fisher * torch.exp(-2.0 * self.level)[..., None, None]
        shift = pull + (precision @ self.mode.unsqueeze(-1)).squeeze(-1)
        posterior = self._prior().update(Potential(precision, shift))
        slope = scale_score - self.level
        move = (slope / (self.count * self.scale_information + 1.0)).clamp(-1.0, 1.0)
        moved = posterior.mean - self.mode
        length = (moved * (precision @ moved.unsqueeze(-1)).squeeze(-1)).sum(-1)
        here = self.moving.unsqueeze(-1)
        self.mode = torch.where(here, posterior.mean, self.mode)
        self.covariance = torch.where(here.unsqueeze(-1), posterior.covariance(), self.covariance)
        level = (self.level + move).clamp(-_FARTHEST, _FARTHEST)
        self.level = torch.where(self.moving, level, self.level)
        self.moving = self.moving & ((length > _SETTLED**2) | (move.abs() > _SETTLED))
        self.steps += 1

    def _prior(self) -> Transition:
        """Factor prior as wide as the month's own factors are, or wider."""
        if not isinstance(self.start, Gaussian):
            return self.start
        loc, scale = self.start
        size = ((self.mode - loc) / scale).square().mean(-1, keepdim=True).sqrt()
        return Gaussian(loc, scale * size.clamp_min(1.0))

    def dispersion(self, scale_score: Tensor, potential: Potential) -> Dispersion:
        """Dispersion whose gradient and expected curvature at the mode are the likelihood's."""
        at_mode = 0.5 * self.count * self.scale_information
        precision, shift = potential
        inner = 2.0 * (shift * self.mode).sum(-1)
        inner = inner - (self.mode * (precision @ self.mode.unsqueeze(-1)).squeeze(-1)).sum(-1)
        return Dispersion(at_mode + inner, at_mode - scale_score, self.level)


_LEVEL_SWEEPS = 30
"""Sweeps of a mode that includes the level, at the most; an ordinary month takes 4 to 6."""

_FARTHEST = 8.0
"""Largest size of a level: returns that are all 0 have a likelihood without an end at -infinity."""

_SETTLED = 0.05
"""Last move of the level, and of the factors in posterior standard deviations."""


def require_additive(likelihood: Likelihood) -> None:
    """Refuse a likelihood whose potential need not be a sum over assets.

    Raises
    ------
    ConfigError
        If a subclass has a ``potential`` of its own.
    """
    built_in = (Likelihood.potential, RobustLikelihood.potential)
    if type(likelihood).potential not in built_in:
        raise ConfigError(
            f"`likelihood` {type(likelihood).__name__} has a `potential` of its own, which shards "
            "of assets cannot be asked to add up to. Train it in one process on a panel in memory."
        )


def weighted_potential(residual: Tensor, beta: Tensor, weight: Tensor) -> Potential:
    """Weighted least squares of residuals on loadings; adds up over groups of assets."""
    return Potential(information(beta, weight), along_assets(beta, weight * residual))
