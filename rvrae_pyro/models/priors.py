"""Factor priors p(z_t | h_{t-1}): what is known of a month's factors before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.weights import Normal, WeightMatrices, WeightPrior
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.sequences import rnn_weights

__all__ = ["AR1", "FactorPrior", "Gaussian", "Recurrent", "StandardNormal"]


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
    observed : bool
        True if the state is driven by the filtered mean of the factors instead of the factors
        themselves: then the evidence is exact, and the prior conditions on history.
    """

    n_factors: int
    n_context: int = 0
    observed: bool = False
    weights: WeightPrior | None = None

    def initial(self) -> State:
        """State before the first month: a tuple of vectors."""
        raise NotImplementedError

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """Distribution of the month's factors given the state at the end of the month before.

        Parameters
        ----------
        state : tuple of Tensor of shape (*batch, size)
        context : Tensor of shape (*batch or fewer, n_features) or None
            The month's context, known at the end of the month before, as ``encode`` left it.

        Returns
        -------
        Gaussian
            Location and scale of shape (*batch, n_factors).
        """
        raise NotImplementedError

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """State at the end of the month, given the month's factors (*batch, n_factors)."""
        raise NotImplementedError

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """Log of a factor on the month's idiosyncratic scales, of shape (*batch,); None for 0."""
        return None

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
        weights: WeightPrior | None = Normal(0.1),
    ) -> None:
        super().__init__()
        if recurrence not in ("latent", "observed"):
            raise ConfigError(f"`recurrence` must be 'latent' or 'observed'; got {recurrence!r}.")
        self.n_factors, self.hidden, self.recurrence = n_factors, hidden, recurrence
        self.n_context, self.idio_level, self.weights = n_context, idio_level, weights
        self.observed = recurrence == "observed"
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
        shift: Tensor = self.context_head(context)
        return shift

    def initial(self) -> State:
        """Zeros."""
        return (self.head.weight.new_zeros(self.hidden),)

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """Mean and scale read out of the state and the month's context."""
        out = self._read_out(state[0], context)
        loc, log_scale = out[..., : self.n_factors], out[..., self.n_factors : -1]
        return Gaussian(loc, log_scale.clamp(-8.0, 4.0).exp())

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
