"""One log-volatility per month, shared by the factors and all idiosyncratic scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.hyperpriors import POSITIVE, UNIT, moved
from rvrae_pyro.models.priors.around import Around
from rvrae_pyro.models.priors.base import FactorPrior, Transition, Updated
from rvrae_pyro.names import LOG_VOLATILITY
from rvrae_pyro.nn.gaussian import Dispersion, Gaussian, Posterior, Potential
from rvrae_pyro.nn.log_volatility import VolatilityEvidence, propose_volatility

_LIMIT = 8.0
"""Log-volatilities beyond this are held there: numbers stay finite wherever training goes."""

_TAIL_DF = 8.0
"""Degrees of freedom of the filter's proposal, whose tails must cover the posterior's."""


_PENALTIES = {
    "persistence": dist.Beta(20.0, 2.0),
    "volatility": dist.LogNormal(math.log(0.25), 0.5),
    "elasticity": dist.LogNormal(math.log(0.8), 0.3),
    "gain": dist.Beta(2.0, 4.0),
}
"""Priors at the MAP of parameters that are given as numbers."""


class _LogVolatilityPath(FactorPrior):
    """x_t = m_t + s e_t, m_{t+1} = phi (m_t + gain (x_t - m_t)); phi and s have informative priors.

    With a gain of 1, m_t = phi x_{t-1}: an AR(1).
    """

    site = LOG_VOLATILITY
    _stands_for = "CommonVolatility"

    def __init__(self, persistence: Any, volatility: Any, gain: Any) -> None:
        super().__init__()
        self.n_factors = 1
        given = {
            "persistence": (persistence, "logit", UNIT),
            "volatility": (volatility, "log_scale", POSITIVE),
        }
        self.smooths = not (isinstance(gain, Real) and gain == 1)
        if self.smooths:
            given["gain"] = (gain, "logit_gain", UNIT)
        for name, (value, path, support) in given.items():
            self.add_hyperparameter(
                name, value, path, support, penalty=_PENALTIES[name], keep=False
            )
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(1), persistent=False)

    def initial(self) -> State:
        return (self.zero,)

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        loc = self.value("persistence") * state[0]
        return Gaussian(loc.clamp(-_LIMIT, _LIMIT), self.value("volatility").expand_as(loc))

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        if not self.smooths:
            return (factors,)
        expected = self.value("persistence") * state[0]
        return (expected + self.value("gain") * (factors - expected),)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        first = state[0].expand(*factors.shape[:-2], 1)
        if not self.smooths:
            return (torch.cat([first.unsqueeze(-2), factors], dim=-2),)
        states = [first]
        for x in factors.unbind(-2):
            states += self.advance((states[-1],), x, None)
        return (torch.stack(states, dim=-2),)

    def reading(self, state: State) -> dict[str, Tensor]:
        return {LOG_VOLATILITY: state[0]}


class CommonVolatility(Around):
    r"""A common volatility shock around a Gaussian factor prior.

    .. math::
        x_t = \phi x_{t-1} + s\,\epsilon_t, \quad x_0 = 0, \qquad
        z_t \mid x_t, h_{t-1} \sim N\big(m_t,\ S_t^2 e^{2 x_t}\big), \qquad
        \sigma_{it} \to \sigma_{it}\, e^{g x_t},

    with mean :math:`m_t` and scale :math:`S_t` of the base prior and idiosyncratic scales
    :math:`\sigma_{it}` of the likelihood. In a high-volatility month all factors and all
    residuals are large together, and next month's returns are jointly heavy-tailed. The state of
    volatility sees the whole cross-section: the month's residuals measure :math:`x_t`, and the
    filter carries it to the next month.

    Parameters
    ----------
    base : FactorPrior
        Any with Gaussian transitions, no auxiliary latent and no observed recurrence:
        ``Recurrent`` (VRNN), ``AR1``, ``StandardNormal``, ``Augmented`` around one of them. Its
        state is driven by ``z_t exp(-x_t)``, the factors in units of the month's volatility. A
        level of its own (``Recurrent(idio_level=True)``), a function of the months before and of
        the context, is added to :math:`g x_t`.
    persistence : float or distribution
        :math:`\phi` in (0, 1): a number to start training from, or a prior. Default: 0.9.
    volatility : float or distribution
        :math:`s`, above 0. Default: 0.2.
    elasticity : float or distribution
        g, above 0. Default: 0.8. That of the factors is 1, or x, s and g would not be
        identified; small factors of an ``Augmented`` base follow g.
    gain : float or distribution
        Share :math:`\kappa` of a month's surprise that lasts, in (0, 1]. Default: 1, an AR(1); then
        it is not learned.

    Notes
    -----
    **Gain.** Below 1, the volatility expected is an exponentially weighted mean of past
    log-volatilities, and the rest of a month's surprise passes with the month:

    .. math::
        x_t = \mu_t + s\,\epsilon_t, \qquad
        \mu_{t+1} = \phi\,(\mu_t + \kappa\,(x_t - \mu_t)), \quad \mu_1 = 0,

    an ARMA(1, 1) in innovations form. An AR(1) has to choose between a volatility that lasts and
    joint heavy tails of single months; of returns that have both, it learns a :math:`\phi` that is
    too small.

    **Site.** ``log_volatility`` under the time plate, event size 1, before ``factors``; the KL
    weight applies to both.

    **Priors.** A few hundred months tell little of persistence and volatility:
    :math:`\phi \sim \mathrm{Beta}(20, 2)`, :math:`s \sim \mathrm{LogNormal}(\log 0.25, 0.5)`,
    :math:`g \sim \mathrm{LogNormal}(\log 0.8, 0.3)`, :math:`\kappa \sim \mathrm{Beta}(2, 4)`.
    Where a number is given, its density on the natural scale is added to the objective at the MAP
    (:meth:`log_density`); a distribution takes its place and gives the parameter a posterior: a
    Pyro site such as ``factor_prior.persistence``.

    **Proposal.** Guides and filters draw :math:`x_t` and :math:`z_t` of a month together: x from
    its posterior given the past, factors integrated out, by quadrature (for Normal returns exact
    but for the Gaussian shape; for heavy tails to second order about the month's mode), then the
    factors given x. See ``rvrae_pyro.nn.log_volatility.VolatilityEvidence``.

    Costs one eigenvalue decomposition of K x K per month and particle in addition to the base.

    References
    ----------
    Taylor (1986); Kim, Shephard and Chib (1998), Review of Economic Studies 65: stochastic
    volatility. Hyndman, Koehler, Ord and Snyder (2008), Forecasting with Exponential Smoothing,
    ch. 2: the innovations form. Carriero, Clark and Marcellino (2016), JBES 34: one common
    volatility of many series.

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> prior = rv.priors.CommonVolatility(rv.priors.Recurrent(5), persistence=0.9)
    >>> model = rv.RVRAE(10, 5, factor_prior=prior)
    """

    gaussian = False
    reads_dispersion = True
    log_elasticity: Tensor

    def __init__(
        self,
        base: FactorPrior,
        persistence: Any = 0.9,
        volatility: Any = 0.2,
        elasticity: Any = 0.8,
        gain: Any = 1.0,
    ) -> None:
        super().__init__()
        _check_base(base)
        self.base, self.n_factors, self.n_context = base, base.n_factors, base.n_context
        self.persistence, self.volatility, self.elasticity = persistence, volatility, elasticity
        self.gain = gain
        self.auxiliary: _LogVolatilityPath = _LogVolatilityPath(persistence, volatility, gain)
        self.add_hyperparameter(
            "elasticity", elasticity, "log_elasticity", POSITIVE, penalty=_PENALTIES["elasticity"]
        )

    @property
    def coefficient(self) -> Tensor:
        r"""Persistence :math:`\phi` of the log-volatility, in (0, 1); a scalar."""
        return self.auxiliary.value("persistence")

    @property
    def innovation_scale(self) -> Tensor:
        """Standard deviation s of its innovations; a scalar."""
        return self.auxiliary.value("volatility")

    @property
    def idio_elasticity(self) -> Tensor:
        """Elasticity g of the idiosyncratic scales; a scalar."""
        return self.value("elasticity")

    def log_density(self) -> Tensor:
        """Log prior density of persistence, volatility and elasticity at the MAP; a scalar.

        Those with a prior of their own are left out: it is in the pair.
        """
        total = self.log_elasticity.new_zeros(())
        for part in (self.auxiliary, self):
            for name, known in part.hyperparameters.items():
                if known.prior is None:
                    value = part.value(name)
                    if known.support is UNIT:  # in the interior for float32 too
                        value = value.clamp(1e-6, 1.0 - 1e-6)
                    total = total + moved(known.penalty, value).log_prob(value)
        of_base = self.base.log_density()
        return total if of_base is None else total + of_base

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """Transition of the base, its scale multiplied by ``exp(x)``."""
        return self.ahead(state, context)[0]

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """``g x``, and the base's level where it has one."""
        return self.ahead(state, context)[1]

    def ahead(self, state: State, context: Tensor | None) -> tuple[Gaussian, Tensor | None]:
        """Transition and level given the month's log-volatility, the context's last entry."""
        x, rest = self._split(context)
        factors, level = self.base_ahead(state, rest)
        scale = factors.scale * self._multipliers(x)
        own = self.idio_elasticity * x.squeeze(-1)
        return Gaussian(factors.loc.expand_as(scale), scale), own if level is None else own + level

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Move the base by the factors in units of the month's volatility."""
        x, rest = self._split(context)
        return self.base.advance(state, factors / self._multipliers(x), rest)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """States of the base."""
        x, rest = self._split(context)
        return self.base.unroll(factors / self._multipliers(x), rest, state)

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Noise of the base."""
        return self.base.noise(shape, like)

    def propose_auxiliary(
        self,
        ahead: Transition,
        state: State,
        context: Tensor | None,
        potential: Potential,
        dispersion: Dispersion | None,
    ) -> Updated:
        """Gaussian with the moments of x given the past and the month, factors integrated out."""
        assert isinstance(ahead, Gaussian)
        factors, level = self.base_ahead(state, context)
        return self._proposal(ahead, factors, level, potential, dispersion)

    @torch.no_grad()
    def _proposal(
        self,
        ahead: Gaussian,
        factors: Gaussian,
        level: Tensor | None,
        potential: Potential,
        dispersion: Dispersion | None,
    ) -> Posterior:
        if dispersion is None:  # a guide's own potential, of the code
            nothing = torch.zeros_like(potential.shift[..., 0])
            dispersion = Dispersion(nothing, nothing + 1.0, nothing)
        if level is not None:  # that of the base is known: x is measured beyond it
            dispersion = dispersion._replace(level=dispersion.level - level)
        evidence = VolatilityEvidence.of(factors, potential, dispersion)
        return propose_volatility(ahead, evidence, self.idio_elasticity)

    def draw_auxiliary(
        self,
        ahead: Transition,
        state: State,
        context: Tensor | None,
        potential: Potential,
        dispersion: Dispersion | None,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Draw each particle's x from a Student-t, whose tails cover the posterior's.

        Particles differ little in the scales of the factors, and the proposal need not be exact,
        so that the month is decomposed once, for their average. A particle's posterior mean moves
        with its prior mean by the ratio of posterior to prior variance, to first order.
        """
        assert isinstance(ahead, Gaussian)
        factors, level = self.base_ahead(state, context)
        centre = Gaussian(ahead.loc.mean(0, keepdim=True), ahead.scale[:1])
        found = self._proposal(
            centre,
            Gaussian(factors.loc.mean(0, keepdim=True), factors.scale.log().mean(0).exp()[None]),
            None if level is None else level.mean(0, keepdim=True),
            potential,
            dispersion,
        )
        scale = found.deviate(torch.ones_like(noise))
        mean = found.mean + (scale / ahead.scale).square() * (ahead.loc - centre.loc)
        shape = (*noise.shape[:-1], 1)
        chi2 = dist.Chi2(noise.new_full(shape, _TAIL_DF)).sample() / _TAIL_DF
        value = mean + scale * noise / chi2.sqrt()
        law = dist.StudentT(_TAIL_DF, mean, scale, validate_args=False)
        return value, law.log_prob(value).squeeze(-1)

    def _multipliers(self, x: Tensor) -> Tensor:
        """Multipliers (*batch, n_factors) of the factors' scales at log-volatility (*batch, 1)."""
        powers = self.base.volatility_powers(self.idio_elasticity)
        return (powers * x).exp()

    def _split(self, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Log-volatility (*batch, 1), and the context before it."""
        assert context is not None  # `drive` has put the log-volatility there
        x = context[..., -1:].clamp(-_LIMIT, _LIMIT)
        return x, context[..., :-1] if context.shape[-1] > 1 else None


def _check_base(base: object) -> None:
    if not isinstance(base, FactorPrior):
        raise ConfigError(
            f"`base` must be a factor prior, got {base!r:.60}. Pass an instance, such as "
            "rv.priors.Recurrent(5)."
        )
    if not base.gaussian or base.conditions_on_history or base.auxiliary is not None:
        raise ConfigError(
            "`base` must have Gaussian transitions, no auxiliary latent and no recurrence driven "
            f"by returns; got {type(base).__name__}. Use StandardNormal, AR1, Recurrent with "
            "innovation='normal' and recurrence='latent', or Augmented around one of them."
        )
