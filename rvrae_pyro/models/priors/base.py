"""What every factor prior p(z_t | h_{t-1}) is: a state, a transition, and how a month moves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.weights import WeightPrior
from rvrae_pyro.names import FACTORS
from rvrae_pyro.nn.flows import Warped, WarpedPosterior
from rvrae_pyro.nn.gaussian import Dispersion, Gaussian, Posterior, Potential
from rvrae_pyro.nn.log_variance import LogVariance
from rvrae_pyro.nn.transitions import Mixture, StudentT, StudentTPosterior, from_pyro

Transition = Gaussian | StudentT | Mixture | LogVariance | Warped
"""Distribution of a month's factors given the state before it."""

Updated = Posterior | StudentTPosterior | WarpedPosterior
"""Distribution of a month's factors given the state before it and the month's returns."""


def for_each(ahead: Transition, num_draws: int) -> Transition:
    """Give every draw or particle a transition of its own, where it does not depend on it."""
    fields = [
        field.expand(num_draws, *field.shape[field.ndim - dims :])
        for field, dims in zip(ahead, ahead.event_dims, strict=True)
    ]
    return type(ahead)(*fields)


class FactorPrior(Part):
    """Base of all factor priors: a state, a transition from it, and how a month moves it.

    A subclass gives ``initial``, ``transition`` and ``advance``; all three work on any leading
    dimensions, so that one call serves a month, a path or many particles. Everything else
    (sampling a path, its density month by month, the conjugate guide, the particle filter) is
    derived from them.

    A prior may have a latent of its own in every month, such as a log variance: ``own`` is then
    a prior over that latent's path, which evolves by itself, and ``site`` its Pyro name. Model
    and guide sample it under the time plate before the factors; :meth:`drive` puts the month's
    value into the context that ``transition`` and ``level`` read.

    Attributes
    ----------
    n_factors : int
    n_context : int
        Features of the month's context that the prior reads; 0 for none.
    gaussian : bool
        True if every transition is Gaussian: closed forms may then exist.
    observed : bool
        True if the state is driven by the filtered mean of the factors instead of the factors
        themselves: then the evidence is exact, and the prior conditions on history.
    summarises : bool
        True if the state is driven by summaries of the month's returns beside the factors:
        ``advance`` then finds them behind the month's encoded context, where ``transition`` and
        ``level`` must not look. The prior then conditions on history.
    auxiliary : FactorPrior or None
        Prior over the path of an auxiliary latent; it has none itself.
    reads_dispersion : bool
        True if :meth:`propose_auxiliary` reads the month's dispersion, which the likelihood then
        adds up over assets.
    site : str
        Pyro name of the site, for a prior that is another's ``auxiliary``.
    """

    n_factors: int
    n_context: int = 0
    gaussian: bool = True
    observed: bool = False
    summarises: bool = False
    reads_dispersion: bool = False
    weights: WeightPrior | None = None
    site: str = FACTORS

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary: FactorPrior | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let ``transition`` of a subclass return distributions of Pyro."""
        super().__init_subclass__(**kwargs)
        if "transition" in cls.__dict__:
            cls.transition = _converted(cls.__dict__["transition"])  # type: ignore[method-assign]

    def value(self, name: str) -> Tensor:
        """Value of an interpretable parameter, of the auxiliary latent's too."""
        if name not in self.hyperparameters and self.auxiliary is not None:
            return self.auxiliary.value(name)
        return super().value(name)

    def initial(self) -> State:
        """State before the first month: a tuple of vectors."""
        raise NotImplementedError(f"{type(self).__name__} needs a method `initial()`.")

    def transition(self, state: State, context: Tensor | None) -> Transition:
        """Distribution of the month's factors given the state at the end of the month before.

        Parameters
        ----------
        state : tuple of Tensor of shape (*batch, size)
        context : Tensor of shape (*batch or fewer, n_features) or None
            The month's context, known at the end of the month before, as ``encode`` left it.

        Returns
        -------
        Gaussian, StudentT or Mixture
            Location and scale of shape (*batch, n_factors). A subclass may return Pyro's
            ``Normal``, ``MultivariateNormal`` (diagonal), ``MultivariateStudentT`` (diagonal) or
            ``StudentT``, which callers receive converted by
            ``rvrae_pyro.nn.transitions.from_pyro``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs a method `transition(state, context)`."
        )

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """State at the end of the month, given the month's factors (*batch, n_factors)."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method `advance(state, factors, context)`."
        )

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """Log of a factor on the month's idiosyncratic scales, of shape (*batch,); None for 0."""
        return None

    def ahead(self, state: State, context: Tensor | None) -> tuple[Transition, Tensor | None]:
        """Transition and level of a month; for priors that read both out of the same numbers."""
        return self.transition(state, context), self.level(state, context)

    def slope(self) -> Tensor | None:
        """Slopes of the next month's mean in each factor (n_factors,), for a linear prior.

        Linear means: Gaussian, the mean affine in the last month's factors one by one, the scale
        constant. The evidence of Normal returns then has a closed form. None for all others.
        """
        return None

    @property
    def degrees_of_freedom(self) -> Tensor | None:
        """Degrees of freedom of Student-t transitions, the same in all months; None for others."""
        if self.gaussian:
            return None
        like = self.initial()[0]
        context = like.new_zeros(1, self.n_context) if self.n_context else None
        first = self.start(context)
        return first.df.reshape(-1)[0] if isinstance(first, StudentT) else None

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw standard noise (*batch, n_factors) that the transition's ``sample`` maps.

        Normal, or for Student-t transitions Student-t: one shock per month for all factors.
        """
        noise = torch.randn(tuple(shape), dtype=like.dtype, device=like.device)
        df = self.degrees_of_freedom
        if df is None:
            return noise
        # not through the distribution, whose clamp in place torch.vmap lacks
        gamma = torch._standard_gamma((0.5 * df).expand(noise.shape[:-1]))
        chi_square = 2.0 * gamma.clamp_min(torch.finfo(gamma.dtype).tiny)
        return noise * (df / chi_square).sqrt().unsqueeze(-1)

    def encode(self, context: Tensor | None) -> Tensor | None:
        """Work on the whole path's context (n_times, n_features) once, before the loop."""
        return context

    def drive(self, context: Tensor | None, latent: Tensor) -> Tensor:
        """Context of months whose auxiliary latent is known: the context, then the latent's value.

        Parameters
        ----------
        context : Tensor of shape (*batch or fewer, n_features) or None
            As ``encode`` left it.
        latent : Tensor of shape (*batch, size of the auxiliary latent)
        """
        if context is None:
            return latent
        batch = torch.broadcast_shapes(context.shape[:-1], latent.shape[:-1])
        both = (part.expand(*batch, part.shape[-1]) for part in (context, latent))
        return torch.cat(list(both), -1)

    @property
    def conditions_on_history(self) -> bool:
        """Whether the prior of a month depends on returns of the months before it."""
        return self.observed or self.summarises

    def volatility_powers(self, elasticity: Tensor) -> Tensor:
        """Elasticity of each factor's scale to a common log-volatility; 1 for all by default.

        Parameters
        ----------
        elasticity : Tensor
            That of the idiosyncratic scales; a scalar.

        Returns
        -------
        Tensor of shape (n_factors,) or ()
        """
        return torch.ones_like(elasticity)

    def log_density(self) -> Tensor | None:
        """Log prior density of the prior's interpretable parameters, at the MAP; None for none."""
        return None

    def propose_auxiliary(
        self,
        ahead: Transition,
        state: State,
        context: Tensor | None,
        potential: Potential,
        dispersion: Dispersion | None,
    ) -> Updated:
        """Distribution of a month's auxiliary latent given the past and the month's returns.

        Guides draw from it and filters base their proposals on it; the model keeps the exact
        densities. By default the latent's prior is updated by the potential of the factors.

        Parameters
        ----------
        ahead : Transition
            The latent's prior given its own past.
        state : tuple of Tensor of shape (*batch, size)
            State of this prior at the end of the month before.
        context : Tensor of shape (*batch or fewer, n_features) or None
            The month's context, without the latent.
        potential : Potential
            Quadratic log-likelihood of the month's factors.
        dispersion : Dispersion or None
            What the month's returns tell of the common idiosyncratic scale.
        """
        return ahead.update(potential)

    def draw_auxiliary(
        self,
        ahead: Transition,
        state: State,
        context: Tensor | None,
        potential: Potential,
        dispersion: Dispersion | None,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Draw the auxiliary latent for a particle filter; also the log density of the draw.

        Arguments as for :meth:`propose_auxiliary`; standard normal noise (*batch, size). Tails
        must be no lighter than the posterior's, which bounds the weights.
        """
        return ahead.propose(potential, noise)

    def start(self, context: Tensor | None) -> Transition:
        """Transition at the initial state, an auxiliary latent at its mean.

        Parameters
        ----------
        context : Tensor of shape (n_times, n_features) or None
            As the panel has it, before ``encode``.
        """
        state, encoded = self.initial(), self.encode(context)
        if self.auxiliary is not None:
            encoded = self.drive(encoded, self.auxiliary.start(context).mean)
        return self.transition(state, encoded)

    def reading(self, state: State) -> dict[str, Tensor]:
        """Return what a reader may want to know of a state, by name; nothing unless told.

        Values have shape (*batch, size); filters average them over what they do not know.
        """
        return {}

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """States before each month of a given path, and after its last.

        Parameters
        ----------
        factors : Tensor of shape (*batch, n_times, n_factors)
        context : Tensor of shape (*batch or fewer, n_times, n_features) or None
        state : tuple of Tensor
            State before the first month.

        Returns
        -------
        tuple of Tensor of shape (*batch, n_times + 1, size)
        """
        batch = factors.shape[:-2]
        states = [tuple(s.expand(*batch, s.shape[-1]) for s in state)]
        for t, month in enumerate(factors.unbind(-2)):
            moment = None if context is None else context[..., t, :]
            states.append(self.advance(states[-1], month, moment))
        return tuple(torch.stack(s, dim=-2) for s in zip(*states, strict=True))


def _shape(found: object) -> tuple[int, ...] | None:
    """Shape of one draw of a distribution of Pyro or torch; None of anything else."""
    if not isinstance(found, torch.distributions.Distribution):
        return None
    return (*found.batch_shape, *found.event_shape)


def _converted(transition: Callable[..., Any]) -> Callable[..., Any]:
    """Convert what a ``transition`` returns, where it is a distribution of Pyro."""

    @wraps(transition)
    def convert(self: FactorPrior, state: State, context: Tensor | None) -> Any:
        found = transition(self, state, context)
        # the package's own are named tuples; asking for them first keeps the usual case fast
        if isinstance(found, tuple) and type(found) is not tuple:
            return found
        where, sizes = f"`{type(self).__name__}.transition`", _shape(found)
        if sizes is not None and sizes[-1:] != (self.n_factors,):
            raise ConfigError(
                f"{where} must return a distribution whose last size is n_factors = "
                f"{self.n_factors}; got shape {sizes}. Use `.expand`."
            )
        try:
            found = from_pyro(found)
        except ConfigError as error:
            raise ConfigError(str(error).replace("`transition`", where)) from error
        if not hasattr(found, "update"):
            raise ConfigError(
                f"{where} must return rv.priors.Gaussian(loc, scale), StudentT or Mixture, or "
                f"Pyro's Normal, StudentT or diagonal MultivariateNormal; got "
                f"{describe_kind(found)}."
            )
        return found

    return convert
