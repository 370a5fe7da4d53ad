"""Factor priors p(z_t | h_{t-1}): what is known of a month's factors before it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.weights import Normal, WeightMatrices, WeightPrior
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.sequences import by_month, rnn_weights
from rvrae_pyro.nn.transitions import Mixture, StudentT

__all__ = [
    "AR1",
    "FactorPrior",
    "Gaussian",
    "Mixture",
    "Recurrent",
    "RegimeSwitching",
    "StandardNormal",
    "StudentT",
    "Transition",
]

Transition = Gaussian | StudentT | Mixture
"""Distribution of a month's factors given the state before it."""


class FactorPrior(Part):
    """Base of all factor priors: a state, a transition from it, and how a month moves it.

    A subclass gives ``initial``, ``transition`` and ``advance``; all three work on any leading
    dimensions, so that one call serves a month, a path or many particles. Everything else
    (sampling a path, its density month by month, the conjugate guide, the particle filter) is
    derived from them.

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
    """

    n_factors: int
    n_context: int = 0
    gaussian: bool = True
    observed: bool = False
    weights: WeightPrior | None = None

    def initial(self) -> State:
        """State before the first month: a tuple of vectors."""
        raise NotImplementedError

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
            Location and scale of shape (*batch, n_factors).
        """
        raise NotImplementedError

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """State at the end of the month, given the month's factors (*batch, n_factors)."""
        raise NotImplementedError

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """Log of a factor on the month's idiosyncratic scales, of shape (*batch,); None for 0."""
        return None

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw standard noise (*batch, n_factors) that the transition's ``sample`` maps."""
        return torch.randn(tuple(shape), dtype=like.dtype, device=like.device)

    def encode(self, context: Tensor | None) -> Tensor | None:
        """Work on the whole path's context (n_times, n_features) once, before the loop."""
        return context

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """States before each month of a given path, and after its last.

        Parameters
        ----------
        factors : Tensor of shape (*batch, n_times, n_factors)
        context : Tensor of shape (n_times, n_features) or None
        state : tuple of Tensor
            State before the first month.

        Returns
        -------
        tuple of Tensor of shape (*batch, n_times + 1, size)
        """
        batch = factors.shape[:-2]
        states = [tuple(s.expand(*batch, s.shape[-1]) for s in state)]
        for t, month in enumerate(factors.unbind(-2)):
            moment = None if context is None else context[t]
            states.append(self.advance(states[-1], month, moment))
        return tuple(torch.stack(s, dim=-2) for s in zip(*states, strict=True))


class StandardNormal(FactorPrior):
    """Independent standard normal factors: no memory, the ablation of the learned prior.

    Parameters
    ----------
    n_factors : int
    """

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros(n_factors), persistent=False)

    def initial(self) -> State:
        """Zeros; the state never moves."""
        return (self.zeros,)

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """``Normal(0, I)`` whatever the state."""
        return Gaussian(state[0], torch.ones_like(state[0]))

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Keep the state."""
        return (torch.zeros_like(factors),)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Zeros for every month, without a loop."""
        return (factors.new_zeros(*factors.shape[:-2], factors.shape[-2] + 1, self.n_factors),)


class AR1(FactorPrior):
    r"""Independent first-order autoregressions, :math:`z_t = m + \phi (z_{t-1} - m) + s\,e_t`.

    The chain starts at :math:`z_0 = m`, so that the first month is ``Normal(m, s)``. With Normal
    returns the model is linear and Gaussian and :mod:`rvrae_pyro.models.exact` gives its evidence.

    Parameters
    ----------
    n_factors : int
    """

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.loc = nn.Parameter(torch.zeros(n_factors))
        self.unbounded_coefficient = nn.Parameter(torch.zeros(n_factors))
        self.log_scale = nn.Parameter(torch.zeros(n_factors))

    @property
    def coefficient(self) -> Tensor:
        """Autoregressive coefficients in (-1, 1), of shape (n_factors,)."""
        return torch.tanh(self.unbounded_coefficient)

    def initial(self) -> State:
        """Return the long-run mean."""
        return (self.loc,)

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """One step of the autoregression."""
        loc = self.loc + self.coefficient * (state[0] - self.loc)
        return Gaussian(loc, self.log_scale.exp().expand_as(loc))

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Remember the month's factors."""
        return (factors,)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Shift the path by one month, without a loop."""
        first = state[0].expand(*factors.shape[:-2], self.n_factors).unsqueeze(-2)
        return (torch.cat([first, factors], dim=-2),)


class Recurrent(FactorPrior):
    """VRNN prior: a gated recurrent state remembers past factors and sets mean, scale and level.

    The state before month t also moves the level of that month's idiosyncratic scales, for what
    a recurrent prior has to learn of markets is volatility more than means.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Width of the recurrent state.
    recurrence : {"latent", "observed"}
        ``"latent"``: driven by the factors themselves, a true prior (VRNN, eqs. 4 and 6).
        ``"observed"``: driven by the filtered mean of the factors (the paper's eq. 12, made free
        of the number of assets): the evidence is exact, and the prior conditions on history.
    n_context : int
        Features of the panel's context to read; 0 for none.
    idio_level : bool
        False keeps the idiosyncratic scales out of the state's reach.
    innovation : {"normal", "student_t"}
        Distribution of a month's factors around their mean; ``"student_t"`` gives all factors
        of a month one common heavy-tailed shock.
    weights : WeightPrior, optional
        Prior over the read-out and context weights; a few hundred months teach little more than
        a shrunk answer.

    References
    ----------
    Chung et al. (2015), arXiv 1506.02216, eqs. (5) and (7); Wang and Guo (2024), eqs. (4), (6)
    and (12).
    """

    def __init__(
        self,
        n_factors: int,
        hidden: int = 16,
        recurrence: Literal["latent", "observed"] = "latent",
        n_context: int = 0,
        idio_level: bool = True,
        innovation: Literal["normal", "student_t"] = "normal",
        weights: WeightPrior | None = Normal(0.03),
    ) -> None:
        super().__init__()
        if innovation not in ("normal", "student_t"):
            raise ConfigError(f"`innovation` must be 'normal' or 'student_t'; got {innovation!r}.")
        if recurrence not in ("latent", "observed"):
            raise ConfigError(f"`recurrence` must be 'latent' or 'observed'; got {recurrence!r}.")
        self.n_factors, self.hidden, self.recurrence = n_factors, hidden, recurrence
        self.n_context, self.idio_level, self.weights = n_context, idio_level, weights
        self.observed = recurrence == "observed"
        self.innovation = innovation
        heavy = innovation == "student_t"
        self.gaussian = not heavy
        self.log_excess_df = nn.Parameter(torch.tensor(math.log(6.0))) if heavy else None
        self.gru = nn.GRU(2 * n_factors, hidden)
        self.head = nn.Linear(hidden, 2 * n_factors + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.context_head = (
            nn.Linear(n_context, 2 * n_factors + 1, bias=False) if n_context else None
        )
        if self.context_head is not None:
            nn.init.zeros_(self.context_head.weight)

    def encode(self, context: Tensor | None) -> Tensor | None:
        """Map the context of all months to shifts of the read-out at once."""
        if self.context_head is None:
            return None
        if context is None or context.shape[-1] != self.n_context:
            got = "none" if context is None else str(context.shape[-1])
            raise ShapeError(
                f"`context` must have {self.n_context} features, as the prior was built for; got "
                f"{got}. Add it with rv.data.market_context(panel) or build with n_context=0."
            )
        return by_month(self.context_head, context)

    def initial(self) -> State:
        """Zeros."""
        return (self.head.weight.new_zeros(self.hidden),)

    @property
    def degrees_of_freedom(self) -> Tensor | None:
        """Degrees of freedom of Student-t innovations, above 2; None for Normal ones."""
        return None if self.log_excess_df is None else 2.0 + self.log_excess_df.exp()

    def transition(self, state: State, context: Tensor | None) -> Transition:
        """Mean and scale read out of the state and the month's context."""
        out = self._read_out(state[0], context)
        loc, log_scale = out[..., : self.n_factors], out[..., self.n_factors : -1]
        scale, df = log_scale.clamp(-8.0, 4.0).exp(), self.degrees_of_freedom
        return (
            Gaussian(loc, scale) if df is None else StudentT(loc, scale, df.expand(loc.shape[:-1]))
        )

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw standard Normal or Student-t noise; one shock a month for all factors."""
        noise, df = super().noise(shape, like), self.degrees_of_freedom
        if df is None:
            return noise
        gamma = torch.distributions.Gamma(0.5 * df, df.new_ones(()))
        chi_square = 2.0 * gamma.rsample(noise.shape[:-1])
        return noise * (df / chi_square).sqrt().unsqueeze(-1)

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """Log multiplier of the month's idiosyncratic scales, within (-2, 2)."""
        if not self.idio_level:
            return None
        return 2.0 * torch.tanh(0.5 * self._read_out(state[0], context)[..., -1])

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """One step of the gated recurrent unit."""
        batch = factors.shape[:-1]
        features = self._features(factors).reshape(-1, 2 * self.n_factors)
        hidden = state[0].expand(*batch, self.hidden).reshape(-1, self.hidden)
        moved = torch.gru_cell(features, hidden, *rnn_weights(self.gru))
        return (moved.reshape(*batch, self.hidden),)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Run the whole path through the gated recurrent unit in one call."""
        batch, n_times = factors.shape[:-2], factors.shape[-2]
        first = state[0].expand(*batch, self.hidden).unsqueeze(-2)
        features = self._features(factors).reshape(-1, n_times, 2 * self.n_factors)
        start = first.reshape(-1, 1, self.hidden).transpose(0, 1).contiguous()
        output, _ = self.gru(features.transpose(0, 1), start)
        path = output.transpose(0, 1).reshape(*batch, n_times, self.hidden)
        return (torch.cat([first, path], dim=-2),)

    def weight_matrices(self) -> WeightMatrices:
        """Read-out, context and recurrent weights; none sees the characteristics."""
        w_in, w_state, _, _ = rnn_weights(self.gru)
        others: Sequence[Tensor] = [self.head.weight, w_in, w_state]
        if self.context_head is not None:
            others = [*others, self.context_head.weight]
        return WeightMatrices([], others)

    def _read_out(self, hidden: Tensor, shift: Tensor | None) -> Tensor:
        out: Tensor = self.head(hidden)
        return out if shift is None else out + shift

    @staticmethod
    def _features(factors: Tensor) -> Tensor:
        """Factors and the log of their squares, so that volatility is within easy reach."""
        return torch.cat([factors, torch.log1p(factors.square())], dim=-1)


class RegimeSwitching(FactorPrior):
    """Markov-switching factors: calm and wild markets, each with a mean, scale and idio level.

    The regime is integrated out exactly: the state is the filtered log probability of every
    regime given past factors (Hamilton's filter), and a month's prior is the mixture over
    regimes that it implies. The conjugate guide matches its posterior's moments by one
    Gaussian; filters draw from the exact mixture.

    Parameters
    ----------
    n_factors : int
    n_regimes : int
        2 to 4.

    References
    ----------
    Hamilton (1989), Econometrica 57.
    """

    gaussian = False

    def __init__(self, n_factors: int, n_regimes: int = 2) -> None:
        super().__init__()
        if not 2 <= n_regimes <= 4:
            raise ConfigError(f"`n_regimes` must be 2 to 4; got {n_regimes}.")
        self.n_factors, self.n_regimes = n_factors, n_regimes
        stay = 2.0 * torch.eye(n_regimes)
        self.switching = nn.Parameter(stay)
        self.locs = nn.Parameter(torch.zeros(n_regimes, n_factors))
        # regimes start apart in scale, from calm to wild, or none would ever differ
        spread = torch.linspace(-0.5, 0.5, n_regimes)
        self.log_scales = nn.Parameter(spread.unsqueeze(-1).repeat(1, n_factors))
        self.levels = nn.Parameter(0.2 * spread)

    @property
    def transition_matrix(self) -> Tensor:
        """Probability of moving from one regime (row) to another (column) within a month."""
        return torch.softmax(self.switching, -1)

    def initial(self) -> State:
        """Equal probabilities."""
        return (self.switching.new_full((self.n_regimes,), -math.log(self.n_regimes)),)

    def transition(self, state: State, context: Tensor | None) -> Transition:
        """Mixture over the regimes that the month may be in."""
        batch = state[0].shape[:-1]
        shape = (*batch, self.n_regimes, self.n_factors)
        return Mixture(
            self._predict(state[0]), self.locs.expand(shape), self.log_scales.exp().expand(shape)
        )

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """Return the expected log multiplier of the idiosyncratic scales."""
        return (self._predict(state[0]).exp() * self.levels).sum(-1)

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Hamilton's update of the regime probabilities by the month's factors."""
        within = Gaussian(self.locs, self.log_scales.exp()).log_prob(factors.unsqueeze(-2))
        return (torch.log_softmax(self._predict(state[0]) + within, -1),)

    def _predict(self, log_filtered: Tensor) -> Tensor:
        moved = log_filtered.unsqueeze(-1) + torch.log_softmax(self.switching, -1)
        return torch.logsumexp(moved, -2)
