"""One filter pass: a draw of the guide, and the states along it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from rvrae_pyro.data.batch import Batch, Carry, State
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.pair import month_weights
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.path_draw import PathDraw, draw_path
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.nn.gaussian import Potential


@dataclass(frozen=True)
class Walk:
    """One filter pass through a batch; see ``RVRAE.walk``.

    Attributes
    ----------
    carries : dict
        States of all parts before each month asked for.
    draw : PathDraw
        The guide's draw, and the prior along it.
    cross : CrossSection
    log_likelihood : Tensor of shape (n_times,)
        log p(r_t | f_t) of the observed returns at the draw, in nats.
    """

    carries: dict[int, Carry]
    draw: PathDraw
    cross: CrossSection
    log_likelihood: Tensor

    @property
    def codes(self) -> Tensor:
        """The guide's draw, of shape (n_times, n_factors)."""
        return self.draw.codes

    @property
    def prior(self) -> Transition:
        """p(z_t | h_{t-1}) along the draw."""
        return self.draw.prior

    @property
    def level(self) -> Tensor | None:
        """Log multiplier (n_times,) of the idiosyncratic scales along the draw."""
        return self.draw.level


@dataclass(frozen=True)
class Course:
    """A filter pass before the returns are scored, which is where the assets come in.

    Attributes
    ----------
    carries : dict
    draw : PathDraw
    factors : Tensor of shape (n_times, n_factors)
        What the codes decode to.
    """

    carries: dict[int, Carry]
    draw: PathDraw
    factors: Tensor

    def walk(self, cross: CrossSection, log_likelihood: Tensor) -> Walk:
        """Complete the pass by the months' log-likelihood at its draw."""
        return Walk(self.carries, self.draw, cross, log_likelihood)


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
        Its characteristics are not read.
    view : PriorView
    potential : Potential
    starts : sequence of int
        Months whose incoming states are wanted; ``n_times`` stands for the end.
    loadings_state : callable
        State of the loadings before such a month; called once for each.
    """
    draw = draw_path(parts.guide, months, view, potential, month_weights(1.0, months))
    view, codes, latent = draw.view, draw.codes, draw.auxiliary
    driver = codes if view.walk is None else view.walk.factors
    prior_states = parts.factor_prior.unroll(driver, view.context, view.state)
    decoder_states = parts.decoder.unroll(codes, months.state("decoder") or parts.decoder.initial())
    guide_states = parts.guide.carry(months, potential, starts)
    latent_states: State = ()
    if latent is not None and view.prior.auxiliary is not None:
        latent_states = view.prior.auxiliary.unroll(
            latent.path, view.latent_context, view.latent_state
        )
    carries: dict[int, Carry] = {
        t: {
            "loadings": loadings_state(t),
            "factor_prior": tuple(s[..., t, :] for s in prior_states),
            "decoder": tuple(s[..., t, :] for s in decoder_states),
            "guide": guide_states[t],
            "auxiliary": tuple(s[..., t, :] for s in latent_states),
        }
        for t in starts
    }
    factors = parts.decoder.read(tuple(s[..., 1:, :] for s in decoder_states), codes)
    return Course(carries, draw, factors)
