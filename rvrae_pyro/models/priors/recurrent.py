"""The VRNN prior: a gated recurrent state remembers past factors."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.errors import ConfigError, ShapeError, check_choice
from rvrae_pyro.models.hyperpriors import POSITIVE, REAL
from rvrae_pyro.models.part import Part, spell
from rvrae_pyro.models.priors.base import FactorPrior, Transition
from rvrae_pyro.models.weights import Normal, WeightMatrices, WeightPrior
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.month_summary import summary_size
from rvrae_pyro.nn.sequences import by_month, gru_step, rnn_weights
from rvrae_pyro.nn.standardise import Standardise
from rvrae_pyro.nn.transitions import StudentT


class Recurrent(FactorPrior):
    """VRNN prior: a gated recurrent state remembers past factors and sets mean, scale and level.

    The state before month t also moves the level of that month's idiosyncratic scales, for what
    a recurrent prior has to learn of markets is volatility more than means.

    Beside the gated unit, leaky averages of past factors and of the log of their squares reach
    the read-out directly: an autoregression of every factor, and persistent volatility, its own
    and the market's. That little is what a few hundred months can teach; the gated unit corrects
    it. All weights have priors that know how small monthly predictability is.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Width of the recurrent state.
    recurrence : {"latent", "both", "observed"}
        ``"latent"``: driven by the factors themselves, a true prior (VRNN, eqs. 4 and 6).
        ``"both"``: by the factors and by summaries of the month's returns, eq. (6) in full:
        their least-squares factors under a unit prior, the log precisions of these, and the log
        scale of what they leave. The prior conditions on history.
        ``"observed"``: driven by the filtered mean of the factors (the paper's eq. 12, made free
        of the number of assets): the evidence is exact, and the prior conditions on history.
    n_context : int
        Features of the panel's context to read; 0 for none. Each counts in standard deviations
        of the training months, so its own unit does not matter.
    idio_level : bool
        False keeps the idiosyncratic scales out of the state's reach.
    innovation : {"normal", "student_t"}
        Distribution of a month's factors around their mean; ``"student_t"`` gives all factors
        of a month one common heavy-tailed shock.
    weights : WeightPrior, optional
        Prior over the gated unit and its read-out. Long-run means count in the factor's own
        long-run scale, as prices of risk, and in units that make ``Normal(0.03)`` expect a tenth
        of it a month.
    skip : bool
        False leaves the leaky averages out and the long-run means without a prior: the paper's
        plain recurrence.
    skip_weights : WeightPrior, optional
        Prior over the direct effects: autoregression, elasticities of volatility, and what a
        standard deviation of all context together does. Autoregressive coefficients count in
        units that make ``Normal(0.3)`` expect a tenth; effects of context on a factor's mean in
        units that make it expect a twentieth of a standard deviation, and on the log of its
        scale a tenth. Elasticities are scaled down where volatility would feed on itself.
    excess_df : float or distribution, optional
        Degrees of freedom less 2 of Student-t innovations: a number above 0 to start training
        from, or a prior. Default: 6.
    price_of_risk : float or distribution, optional
        Long-run mean of each factor in units of its long-run scale: a number to start training
        from, or a prior, in place of that of ``weights``. Default: learned under ``weights``.

    References
    ----------
    Chung et al. (2015), arXiv 1506.02216, eqs. (5) and (7).
    Wang and Guo (2024), arXiv 2403.02500, eqs. (4), (6), (12).
    """

    optional = ("price_of_risk",)

    def __init__(
        self,
        n_factors: int,
        hidden: int = 16,
        recurrence: Literal["latent", "both", "observed"] = "latent",
        n_context: int = 0,
        idio_level: bool = True,
        innovation: Literal["normal", "student_t"] = "normal",
        weights: WeightPrior | None = Normal(0.03),
        skip: bool = True,
        skip_weights: WeightPrior | None = Normal(0.3),
        excess_df: Any = None,
        price_of_risk: Any = None,
    ) -> None:
        super().__init__()
        check_choice("innovation", innovation, ("normal", "student_t"))
        check_choice("recurrence", recurrence, ("latent", "both", "observed"))
        self.n_factors, self.hidden, self.recurrence = n_factors, hidden, recurrence
        self.n_context, self.idio_level, self.weights = n_context, idio_level, weights
        self.observed, self.summarises = recurrence == "observed", recurrence == "both"
        self.innovation = innovation
        heavy = innovation == "student_t"
        self.gaussian = not heavy
        self.excess_df, self.price_of_risk = excess_df, price_of_risk
        if heavy:
            given = 6.0 if excess_df is None else excess_df
            self.add_hyperparameter("excess_df", given, "log_excess_df", POSITIVE, keep=False)
        elif excess_df is not None:
            raise ConfigError(
                f"`excess_df` is of Student-t innovations; got {spell(excess_df)} with "
                "innovation='normal'. Use innovation='student_t', or leave it out."
            )
        if price_of_risk is not None:
            if not skip:
                raise ConfigError(
                    f"`price_of_risk` is in units of the factors' long-run scale, which skip=False "
                    f"does not have; got {spell(price_of_risk)}. Use skip=True, or leave it out."
                )
            self.add_hyperparameter(
                "price_of_risk", price_of_risk, "price", REAL, (n_factors,), keep=False
            )
        seen = summary_size(n_factors) if self.summarises else 0
        self.gru = nn.GRU(2 * n_factors + seen, hidden)
        self.head = nn.Linear(hidden, 2 * n_factors + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.skip, self.skip_weights = skip, skip_weights
        self.memory = _Memory(n_factors, skip_weights) if skip else None
        self.context = _Context(n_context, n_factors, skip_weights) if n_context else None

    def encode(self, context: Tensor | None) -> Tensor | None:
        """Map the context of all months to shifts of the read-out at once."""
        if self.context is None:
            return None
        if context is None or context.shape[-1] != self.n_context:
            got = "none" if context is None else str(context.shape[-1])
            raise ShapeError(
                f"`context` must have {self.n_context} features, as the prior was built for; got "
                f"{got}. Add it with rv.data.market_context(panel) or build with n_context=0."
            )
        return by_month(self.context, context)

    def initial(self) -> State:
        """Zeros: of the gated unit, and of the leaky averages."""
        zeros = self.head.weight.new_zeros
        if self.memory is None:
            return (zeros(self.hidden),)
        return zeros(self.hidden), zeros(2 * self.n_factors)

    @property
    def degrees_of_freedom(self) -> Tensor | None:
        """Degrees of freedom of Student-t innovations, above 2; None for Normal ones."""
        return 2.0 + self.value("excess_df") if self.innovation == "student_t" else None

    def transition(self, state: State, context: Tensor | None) -> Transition:
        """Eq. (4): mean and scale read out of the state and the month's context.

        Built by ``_transition``, which ``ahead`` calls too.
        """
        return self._transition(self._read_out(state, context))

    def _transition(self, out: Tensor) -> Transition:
        loc, log_scale = out[..., : self.n_factors], out[..., self.n_factors : -1]
        scale, df = log_scale.clamp(-8.0, 4.0).exp(), self.degrees_of_freedom
        return (
            Gaussian(loc, scale) if df is None else StudentT(loc, scale, df.expand(loc.shape[:-1]))
        )

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """Log multiplier of the month's idiosyncratic scales, within (-3, 3)."""
        return self._level(self._read_out(state, context)) if self.idio_level else None

    @staticmethod
    def _level(out: Tensor) -> Tensor:
        return 3.0 * torch.tanh(out[..., -1] / 3.0)

    def ahead(self, state: State, context: Tensor | None) -> tuple[Transition, Tensor | None]:
        """Transition and level from one read-out."""
        kind = type(self)
        if kind.transition is not Recurrent.transition or kind.level is not Recurrent.level:
            return super().ahead(state, context)  # a subclass has its own
        out = self._read_out(state, context)
        return self._transition(out), self._level(out) if self.idio_level else None

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Eq. (6): one step of the gated recurrent unit, and of the leaky averages."""
        batch, features = factors.shape[:-1], self._features(factors)
        hidden = state[0].expand(*batch, self.hidden).reshape(-1, self.hidden)
        inputs = self._inputs(features, context)
        flat = inputs.reshape(-1, inputs.shape[-1])
        moved = gru_step(self.gru, flat, hidden).reshape(*batch, self.hidden)
        if self.memory is None:
            return (moved,)
        return moved, torch.lerp(features, state[1], self.memory.decay)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Run the whole path through the gated recurrent unit in one call."""
        batch, n_times = factors.shape[:-2], factors.shape[-2]
        features = self._features(factors)
        first = state[0].expand(*batch, self.hidden).unsqueeze(-2)
        start = first.reshape(-1, 1, self.hidden).transpose(0, 1).contiguous()
        inputs = self._inputs(features, context)
        flat = inputs.reshape(-1, n_times, inputs.shape[-1]).transpose(0, 1)
        output, _ = self.gru(flat, start)
        path = output.transpose(0, 1).reshape(*batch, n_times, self.hidden)
        hidden = torch.cat([first, path], dim=-2)
        if self.memory is None:
            return (hidden,)
        averages, decay = [state[1].expand(*batch, 2 * self.n_factors)], self.memory.decay
        for month in features.unbind(-2):
            averages.append(torch.lerp(month, averages[-1], decay))
        return hidden, torch.stack(averages, dim=-2)

    def weight_matrices(self) -> WeightMatrices:
        """Read-out and recurrent weights; none sees the characteristics."""
        w_in, w_state, _, _ = rnn_weights(self.gru)
        others = [self.head.weight, w_in, w_state]
        if self.skip and self.price_of_risk is None:
            others.append(self.head.bias[None, : self.n_factors] / _MEAN_UNIT)
        return WeightMatrices([], others)

    def _inputs(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Join what moves the gated unit: features of the factors, and the month's summary."""
        if not self.summarises:
            return features
        size = summary_size(self.n_factors)
        if context is None:  # as a month without returns
            summary = features.new_zeros(size)
        else:
            summary = context[..., self._n_shift : self._n_shift + size]
        return torch.cat([features, summary.expand(*features.shape[:-1], size)], -1)

    @property
    def _n_shift(self) -> int:
        """Entries of the encoded context, which come before the summary of the returns."""
        return 0 if self.context is None else 2 * self.n_factors + 1

    def _read_out(self, state: State, context: Tensor | None) -> Tensor:
        out: Tensor = self.head(state[0])
        if self.price_of_risk is not None:  # in place of the read-out's bias
            price = self.value("price_of_risk") - self.head.bias[: self.n_factors]
            out = out + torch.cat([price, torch.zeros_like(self.head.bias[self.n_factors :])])
        if context is not None and self._n_shift:
            # what follows is the summary of the month's own returns, not known before it
            out = out + context[..., : self._n_shift]
        if self.memory is None:
            return out
        # means count in the factor's own long-run scale: a price of risk, so that no factor of
        # small scale can carry a large mean
        scale = self.head.bias[self.n_factors : 2 * self.n_factors].clamp(-8.0, 4.0).exp()
        units = torch.cat([scale, torch.ones_like(self.head.bias[self.n_factors :])])
        out = units * out + self.memory(state[1])
        return out

    @staticmethod
    def _features(factors: Tensor) -> Tensor:
        """Factors and the log of their squares, so that volatility is within easy reach."""
        return torch.cat([factors, torch.log1p(factors.square()) - _TYPICAL], dim=-1)


# mean of log(1 + z^2) for standard normal z: a calm start is a state of zero
_TYPICAL = 0.53


# what one unit of a weight on context does to a month's mean, in sds of the factor, and to the
# log of its scale; a month says much of the level of all noise, so that needs no help
_LOC_UNIT, _SCALE_UNIT = 1 / 6, 1 / 3
# what one unit of an autoregressive weight is: monthly factors remember a tenth, not a third
_LAG_UNIT = 1 / 3
# units of a long-run mean in a factor's standard deviation
_MEAN_UNIT = 10 / 3


class _Memory(Part):
    """Leaky averages of past factors and of their log squares, and what they say of a month."""

    def __init__(self, n_factors: int, weights: WeightPrior | None) -> None:
        super().__init__()
        self.n_factors, self.weights = n_factors, weights
        # almost the last month's factors, and a memory of half a year of their squares
        start = torch.tensor([-2.0, 1.6]).repeat_interleave(n_factors)
        self.unbounded_decay = nn.Parameter(start)
        # rows: autoregression, and elasticities to volatility of the factor's own and of all
        self.effects = nn.Parameter(torch.zeros(3, n_factors))
        self.level = nn.Parameter(torch.zeros(1, 1))

    @property
    def decay(self) -> Tensor:
        """Share of each leaky average that a month leaves, in (0, 1), of shape (2 n_factors,)."""
        return torch.sigmoid(self.unbounded_decay)

    def forward(self, averages: Tensor) -> Tensor:
        """Compute read-outs (*batch, 2 n_factors + 1) from averages (*batch, 2 n_factors)."""
        factors, squares = averages.split(self.n_factors, -1)
        lag, own, common = self.effects.unbind(0)
        # a log square moves twice as far as the log of the scale that it comes from: effects of
        # more than a half in all would let a wild month make the next one wilder, without end
        excess = (2.0 * (own.abs() + common.abs())).clamp_min(1.0)
        market = squares.mean(-1, keepdim=True)
        log_scale = (own * squares + common * market) / excess
        return torch.cat([_LAG_UNIT * lag * factors, log_scale, self.level[0] * market], -1)

    def weight_matrices(self) -> WeightMatrices:
        """Return the effects; the speed of forgetting has no prior."""
        return WeightMatrices([], [self.effects, self.level])


class _Context(Part):
    """What the month-level state known before the month adds to the read-out."""

    def __init__(self, n_context: int, n_factors: int, weights: WeightPrior | None) -> None:
        super().__init__()
        self.n_context, self.n_factors, self.weights = n_context, n_factors, weights
        self.unit = Standardise(n_context)
        self.layer = nn.Linear(n_context, 2 * n_factors + 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def set_units(self, batch: Batch) -> None:
        """Count each feature in standard deviations of the training months."""
        if batch.context is not None:
            self.unit.take(batch.context)

    def forward(self, context: Tensor) -> Tensor:
        """Compute shifts (*batch, 2 n_factors + 1), each feature a share of all."""
        shift: Tensor = self.layer(self.unit(context) / math.sqrt(self.n_context))
        loc, log_scale, level = shift.split([self.n_factors, self.n_factors, 1], -1)
        return torch.cat([_LOC_UNIT * loc, _SCALE_UNIT * log_scale, level], -1)

    def weight_matrices(self) -> WeightMatrices:
        """Return the one matrix."""
        return WeightMatrices([], [self.layer.weight])
