"""Stochastic volatility: the log variance of every factor is a latent path of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.hyperpriors import POSITIVE, REAL, SIGNED_UNIT
from rvrae_pyro.models.priors.simple import LastFactors, Memoryless
from rvrae_pyro.names import LOG_VARIANCE
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.log_variance import LogVariance

_LIMIT = 20.0
"""Log variances beyond this are held there: numbers stay finite wherever training goes."""


class _LogVariancePath(LastFactors):
    """AR(1) log variances, and the mean of the factors that tells of them."""

    site = LOG_VARIANCE
    _stands_for = "StochasticVolatility"

    def __init__(
        self, n_factors: int, persistence: Any, volatility: Any, log_variance: Any, mean: Any
    ) -> None:
        super().__init__()
        self.n_factors, shape = n_factors, (n_factors,)
        given = {
            "log_variance": (log_variance, "mean", REAL),
            "persistence": (persistence, "unbounded_coefficient", SIGNED_UNIT),
            "volatility": (volatility, "log_scale", POSITIVE),
            "mean": (mean, "factor_mean", REAL),
        }
        for name, (value, path, support) in given.items():
            self.add_hyperparameter(name, value, path, support, shape, keep=False)

    def initial(self) -> State:
        return (self.value("log_variance"),)

    def transition(self, state: State, context: Tensor | None) -> LogVariance:
        mean = self.value("log_variance")
        loc = mean + self.value("persistence") * (state[0] - mean)
        return LogVariance(
            loc.clamp(-_LIMIT, _LIMIT),
            self.value("volatility").expand_as(loc),
            self.value("mean").expand_as(loc),
        )

    def reading(self, state: State) -> dict[str, Tensor]:
        return {LOG_VARIANCE: state[0]}


class StochasticVolatility(Memoryless):
    r"""Factors whose log variances are first-order autoregressions of their own.

    .. math::
        x_t = \mu + \phi (x_{t-1} - \mu) + s\,\epsilon_t, \qquad
        z_t = m + e^{x_t / 2}\, e_t,

    with independent standard normal shocks, factor by factor, and :math:`x_0 = \mu`.

    Parameters
    ----------
    n_factors : int
    persistence : float or distribution
        :math:`\phi` in (-1, 1): a number to start training from, or a prior. Default: 0.9.
    volatility : float or distribution
        :math:`s`, above 0. Default: 0.3.
    log_variance : float or distribution
        Long-run mean :math:`\mu` of the log variances. Default: 0.
    mean : float or distribution
        Mean m of the factors. Default: 0.

    Notes
    -----
    **Sites.** ``log_variance`` under the time plate, event n_factors, before ``factors``; the
    KL weight applies to both. The conjugate guide proposes it causally from the month's own
    factor estimate, then the factors given it.

    **When not to use it.** Variances move on their own, whatever last month's factors did, and
    leave the idiosyncratic scales alone; :class:`Recurrent` ties all three together. Wants more
    draws a step than a prior with one latent (``FitConfig(num_particles=4)``).

    References
    ----------
    Taylor (1986); Harvey, Ruiz and Shephard (1994), Review of Economic Studies 61.
    """

    gaussian = False
    degrees_of_freedom = None  # of Normal noise

    def __init__(
        self,
        n_factors: int,
        persistence: Any = 0.9,
        volatility: Any = 0.3,
        log_variance: Any = 0.0,
        mean: Any = 0.0,
    ) -> None:
        super().__init__(n_factors)
        self.persistence, self.volatility = persistence, volatility
        self.log_variance, self.mean = log_variance, mean
        self.auxiliary: _LogVariancePath = _LogVariancePath(
            n_factors, persistence, volatility, log_variance, mean
        )

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """``Normal(m, exp(x / 2))``; ``context`` ends with the month's log variances."""
        assert context is not None  # `drive` has put the log variances there
        x = context[..., -self.n_factors :].clamp(-_LIMIT, _LIMIT)
        return Gaussian(self.auxiliary.value("mean").expand_as(x), (0.5 * x).exp())
