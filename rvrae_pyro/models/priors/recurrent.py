"""The VRNN prior: a gated recurrent state remembers past factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models.priors.base import FactorPrior, Transition
from rvrae_pyro.models.weights import Normal, WeightMatrices, WeightPrior
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.sequences import by_month, rnn_weights
from rvrae_pyro.nn.transitions import StudentT

__all__ = ["Recurrent"]


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
    Chung et al. (2015), arXiv 1506.02216, eqs. (5) and (7).
    Wang and Guo (2024), arXiv 2403.02500, eqs. (4), (6), (12).
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
