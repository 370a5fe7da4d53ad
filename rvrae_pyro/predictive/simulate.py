"""Simulation of a model month by month, from any state: factors, returns, and what they move."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.parts import Parts, Placed
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.models.scan import at_level
from rvrae_pyro.nn.gaussian import Potential
from rvrae_pyro.nn.month_summary import MonthStatistics

__all__ = ["Cells", "Draw", "Moment", "PathState", "advance", "draw_month", "for_each"]


class PathState(NamedTuple):
    """States of all parts that factors and returns move, before a month.

    Attributes
    ----------
    prior, auxiliary, decoder : tuple of Tensor of shape (num_samples, size)
        Of the factor prior, its auxiliary latent and the decoder; empty for none.
    """

    prior: State
    auxiliary: State
    decoder: State

    @classmethod
    def initial(cls, parts: Parts | Placed, num_samples: int) -> PathState:
        """States before the first month of a panel."""
        latent = parts.factor_prior.auxiliary
        states = (
            parts.factor_prior.initial(),
            () if latent is None else latent.initial(),
            parts.decoder.initial(),
        )
        return cls(*(spread(state, num_samples) for state in states))

    def first(self, num_samples: int) -> PathState:
        """Keep the first draws."""
        return PathState(*(tuple(s[:num_samples] for s in state) for state in self))


class Moment(NamedTuple):
    """Context of a month, as the factor prior and its auxiliary latent encode it."""

    context: Tensor | None
    latent_context: Tensor | None

    @classmethod
    def of(cls, parts: Parts | Placed, context: Tensor | None) -> Moment:
        """Encode the context (n_features,) of a single month."""
        month = None if context is None else context[None]
        prior, latent = parts.factor_prior, parts.factor_prior.auxiliary
        both = (prior.encode(month), None if latent is None else latent.encode(month))
        return cls(*(None if each is None else each[..., 0, :] for each in both))


class Draw(NamedTuple):
    """Draws of a month, before its returns.

    Attributes
    ----------
    ahead : Transition
        Prior of the codes, one per draw.
    codes : Tensor of shape (num_samples, n_factors)
    level : Tensor of shape (num_samples,) or None
        Log multiplier of the idiosyncratic scales.
    latent : Tensor of shape (num_samples, size) or None
        Auxiliary latent of the prior.
    """

    ahead: Transition
    codes: Tensor
    level: Tensor | None
    latent: Tensor | None


class Cells(NamedTuple):
    """Cross-section of the assets that have a return in a month.

    Attributes
    ----------
    beta : Tensor of shape (n_assets, n_factors)
        With draws in front where weights are drawn; like all below in return units.
    alpha : Tensor of shape (n_assets,) or None
    scale : Tensor of shape (n_assets,)
        Idiosyncratic scales at level 0.
    listed : bool Tensor of shape (n_assets,)
        Assets whose returns may move the state.
    """

    beta: Tensor
    alpha: Tensor | None
    scale: Tensor
    listed: Tensor


def spread(state: State, num_samples: int) -> State:
    """Give every draw the same state."""
    return tuple(s.expand(num_samples, s.shape[-1]) for s in state)


def for_each(ahead: Transition, num_samples: int) -> Transition:
    """Give every draw a transition of its own, where it does not depend on the draw."""
    fields = [
        field.expand(num_samples, *field.shape[field.ndim - dims :])
        for field, dims in zip(ahead, ahead.event_dims, strict=True)
    ]
    return type(ahead)(*fields)


def draw_month(parts: Parts | Placed, state: PathState, moment: Moment, num_samples: int) -> Draw:
    """Draw a month's auxiliary latent and codes from the prior, with torch's global stream.

    Parameters
    ----------
    parts : Parts or Placed
    state : PathState
        Before the month.
    moment : Moment
        Known before the month.
    num_samples : int
    """
    prior, latent = parts.factor_prior, parts.factor_prior.auxiliary
    context, value = moment.context, None
    if latent is not None:
        coming = for_each(latent.transition(state.auxiliary, moment.latent_context), num_samples)
        value = coming.sample(latent.noise(coming.loc.shape, coming.loc))
        context = prior.drive(context, value)
    ahead, level = prior.ahead(state.prior, context)
    ahead = for_each(ahead, num_samples)
    codes = ahead.sample(prior.noise(ahead.loc.shape, ahead.loc))
    return Draw(ahead, codes, None if level is None else level.expand(num_samples), value)


def advance(
    parts: Parts | Placed,
    state: PathState,
    moment: Moment,
    draw: Draw,
    cells: Cells,
    returns: Tensor,
) -> PathState:
    """States after a month, given its draws and simulated returns (num_samples, n_assets).

    A prior that conditions on history is moved by the returns: an observed recurrence by the
    filtered mean of the factors given them, one with both by their summary.
    """
    prior, latent = parts.factor_prior, parts.factor_prior.auxiliary
    decoder_state = parts.decoder.advance(state.decoder, draw.codes)
    context, driver, auxiliary = moment.context, draw.codes, state.auxiliary
    if latent is not None and draw.latent is not None:
        context = prior.drive(context, draw.latent)
        auxiliary = latent.advance(state.auxiliary, draw.latent, moment.latent_context)
    if prior.conditions_on_history:
        residual = returns if cells.alpha is None else returns - cells.alpha
        scale = cells.scale.expand_as(residual)
        if prior.summarises:
            sums = MonthStatistics.of(residual, cells.beta, scale, cells.listed)
            context = prior.drive(context, sums.summary())
        else:
            unit = parts.return_scale
            beta = cells.beta.expand(*residual.shape, cells.beta.shape[-1])
            start = prior.transition(prior.initial(), moment.context)
            # with a month, so that draws of parameters are particles
            month = parts.likelihood.potential(
                residual.unsqueeze(-2) / unit,
                beta.unsqueeze(-3) / unit,
                scale.unsqueeze(-2) / unit,
                cells.listed.unsqueeze(-2),
                _with_month(start),
            )
            potential = Potential(month.precision.squeeze(-3), month.shift.squeeze(-2))
            driver = draw.ahead.update(at_level(potential, draw.level)).mean
    return PathState(prior.advance(state.prior, driver, context), auxiliary, decoder_state)


def _with_month(ahead: Transition) -> Transition:
    """Add a dimension for the month to fields that have draws."""
    fields = [
        field.unsqueeze(field.ndim - dims) if field.ndim > dims else field
        for field, dims in zip(ahead, ahead.event_dims, strict=True)
    ]
    return type(ahead)(*fields)
