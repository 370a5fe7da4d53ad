"""One filtering pass: a draw of the guide, and the states on its way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro.distributions as dist
from torch import Tensor

from rvrae_pyro.data.batch import Batch, Carry, State
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.pair import month_weights
from rvrae_pyro.models.parts import CrossSection, Parts
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.nn.gaussian import Potential

__all__ = ["Course", "OwnWalk", "Walk", "follow"]


@dataclass(frozen=True)
class OwnWalk:
    """The part of a filtering pass that is the prior's own latent.

    Attributes
    ----------
    values : Tensor of shape (n_times, size)
        The guide's draw.
    prior : Transition
        The latent's prior along the draw.
    proposal : TorchDistribution
        The guide's distribution of the path.
    states : tuple of Tensor of shape (n_times + 1, size)
    """

    values: Tensor
    prior: Transition
    proposal: dist.TorchDistribution
    states: State


@dataclass(frozen=True)
class Walk:
    """One filtering pass through a batch; see ``RVRAE.walk``.

    Attributes
    ----------
    carries : dict
        States of all parts before each month asked for.
    codes : Tensor of shape (n_times, n_factors)
        The guide's draw.
    prior : Transition
        p(z_t | h_{t-1}) along the draw.
    level : Tensor of shape (n_times,) or None
        Log multiplier of the idiosyncratic scales along the draw.
    proposal : TorchDistribution
        The guide's distribution of the path.
    cross : CrossSection
    log_likelihood : Tensor of shape (n_times,)
        log p(r_t | f_t) of the observed returns at the draw, in nats.
    own : OwnWalk or None
        The same for the prior's own latent, if it has one.
    """

    carries: dict[int, Carry]
    codes: Tensor
    prior: Transition
    level: Tensor | None
    proposal: dist.TorchDistribution
    cross: CrossSection
    log_likelihood: Tensor
    own: OwnWalk | None = None


@dataclass(frozen=True)
class Course:
    """A filtering pass before the returns are scored, which is where the assets come in.

    Attributes
    ----------
    carries, codes, prior, level, proposal, own
        As in :class:`Walk`.
    factors : Tensor of shape (n_times, n_factors)
        What the codes decode to.
    """

    carries: dict[int, Carry]
    codes: Tensor
    factors: Tensor
    prior: Transition
    level: Tensor | None
    proposal: dist.TorchDistribution
    own: OwnWalk | None

    def walk(self, cross: CrossSection, log_likelihood: Tensor) -> Walk:
        """Complete the pass by what the months' returns say at its draw."""
        return Walk(
            self.carries,
            self.codes,
            self.prior,
            self.level,
            self.proposal,
            cross,
            log_likelihood,
            self.own,
        )


def follow(
    parts: Parts,
    months: Batch,
    view: PriorView,
    potential: Potential,
    starts: Sequence[int],
    loadings_state: Callable[[int], State],
) -> Course:
    """Draw the guide's path given the potentials, and unroll prior and decoder along it.

    Parameters
    ----------
    parts : Parts
    months : Batch
        Of which no asset is looked at.
    view : PriorView
    potential : Potential
    starts : sequence of int
        Months whose incoming states are wanted; ``n_times`` stands for the end.
    loadings_state : callable
        State of the loadings before such a month; asked for once each.
    """
    weights, own = month_weights(1.0, months), None
    if view.prior.own is not None:
        own = _walk_own(view, parts.guide.own(months, potential, view, weights))
        view = view.given(own.values)
    proposal = parts.guide(months, potential, view, weights)
    codes = proposal.rsample().squeeze(-2)
    driver = codes if view.walk is None else view.walk.factors
    prior_states = parts.factor_prior.unroll(driver, view.context, view.state)
    decoder_states = parts.decoder.unroll(codes, months.state("decoder") or parts.decoder.initial())
    guide_states = parts.guide.carry(months, potential, starts)
    carries: dict[int, Carry] = {
        t: {
            "loadings": loadings_state(t),
            "factor_prior": tuple(s[..., t, :] for s in prior_states),
            "decoder": tuple(s[..., t, :] for s in decoder_states),
            "guide": guide_states[t],
            "own": () if own is None else tuple(s[..., t, :] for s in own.states),
        }
        for t in starts
    }
    before = tuple(s[..., :-1, :] for s in prior_states)
    factors = parts.decoder.read(tuple(s[..., 1:, :] for s in decoder_states), codes)
    prior, level = parts.factor_prior.ahead(before, view.context)
    return Course(carries, codes, factors, prior, level, proposal, own)


def _walk_own(view: PriorView, proposal: dist.TorchDistribution) -> OwnWalk:
    """Draw the path of a prior's own latent, and note what it met."""
    own = view.prior.own
    assert own is not None
    values = proposal.rsample().squeeze(-2)
    states = own.unroll(values, view.own_context, view.own_state)
    before = tuple(s[..., :-1, :] for s in states)
    return OwnWalk(values, own.transition(before, view.own_context), proposal, states)
