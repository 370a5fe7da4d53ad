"""Decoders f_t = g(z_t, past): from latent code to factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import check_count
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.weights import WeightPrior
from rvrae_pyro.nn.sequences import rnn_weights

__all__ = ["MLP", "Decoder", "Identity", "LastCode", "Recurrent"]


class Decoder(Part):
    """Base of decoders: a state moved by the code, and a read-out.

    Attributes
    ----------
    affine : bool
        True where factors are the code itself, or affine in it given the past: only then is the
        conjugate guide defined.
    """

    affine: bool = False
    weights: WeightPrior | None = None

    def initial(self) -> State:
        """State before the first month; empty for none."""
        return ()

    def advance(self, state: State, code: Tensor) -> State:
        """State at the end of a month whose code is (*batch, n_factors)."""
        return state

    def read(self, state: State, code: Tensor) -> Tensor:
        """Factors (*batch, n_factors) of a month, given the state at its end and its code."""
        raise NotImplementedError

    def unroll(self, codes: Tensor, state: State) -> State:
        """States before each month of a path (*batch, n_times, n_factors), and after its last."""
        if not state:
            return ()
        batch = codes.shape[:-2]
        states = [tuple(s.expand(*batch, s.shape[-1]) for s in state)]
        for month in codes.unbind(-2):
            states.append(self.advance(states[-1], month))
        return tuple(torch.stack(s, dim=-2) for s in zip(*states, strict=True))

    def forward(self, codes: Tensor, state: State | None = None) -> Tensor:
        """Factors of a path of codes (*batch, n_times, n_factors)."""
        states = self.unroll(codes, self.initial() if state is None else state)
        return self.read(tuple(s[..., 1:, :] for s in states), codes)


class Identity(Decoder):
    """Factors are the latent code: the dynamic factor model proper."""

    affine = True

    def read(self, state: State, code: Tensor) -> Tensor:
        """Return the code."""
        return code


class MLP(Decoder):
    """Factors as a smooth function of the month's code: the code plus a learned bend.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Width of the tanh layer.
    """

    def __init__(self, n_factors: int, hidden: int = 16) -> None:
        super().__init__()
        self.n_factors, self.hidden = n_factors, hidden
        self.bend = nn.Sequential(
            nn.Linear(n_factors, hidden), nn.Tanh(), nn.Linear(hidden, n_factors)
        )

    def read(self, state: State, code: Tensor) -> Tensor:
        """Bend the code."""
        factors: Tensor = code + self.bend(code)
        return factors


class Recurrent(Decoder):
    r"""The paper's decoder: :math:`h_t = \tanh(W h_{t-1} + V z_t + b)`, :math:`f_t = U h_t + c`.

    Month t's own code enters, or its return would say nothing of it.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Width of the state.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (5), (17)-(21).
    """

    def __init__(self, n_factors: int, hidden: int = 16) -> None:
        super().__init__()
        self.n_factors, self.hidden = n_factors, hidden
        self.rnn = nn.RNN(n_factors, hidden)
        self.out = nn.Linear(hidden, n_factors)

    def initial(self) -> State:
        """Zeros."""
        return (self.out.weight.new_zeros(self.hidden),)

    def advance(self, state: State, code: Tensor) -> State:
        """Eq. (20)."""
        w_in, w_state, b_in, b_state = rnn_weights(self.rnn)
        linear = nn.functional.linear
        moved = torch.tanh(linear(code, w_in, b_in) + linear(state[0], w_state, b_state))
        return (moved,)

    def read(self, state: State, code: Tensor) -> Tensor:
        """Eq. (21)."""
        factors: Tensor = self.out(state[0])
        return factors


class LastCode(Decoder):
    r"""The paper's prose, taken at its word: a window's factors all come from its last code.

    .. math::
        h_0 = \tanh(W_z z_T + b_z), \quad o_0 = z_T, \quad
        h_t = \tanh(W h_{t-1} + V o_{t-1} + b), \quad f_t = o_t = U h_t + c,

    for the months t = 1, ..., T of a window. The codes before the last get their KL and decode
    nothing, as in TWR-VAE.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Width of the state.
    window : int
        Months T of a window. A longer path is cut into windows from its end; a path that is
        shorter, or what is left over at its start, takes the last places of a window.

    Notes
    -----
    **Information set.** Within a window of training, month t's factors know returns up to T. A
    filter or forecast takes each month as the last of its own window, so that it knows no more
    than it may; the two agree in the last month of a window only, and the history of
    ``rv.fit`` shows the filter's. Its ELBO is a bound for windows as they were cut, and none
    with ``kl_reduction="mean"``.

    **When not to use it.** For anything but the ablation: a single code has to hold the factors
    of every month, and what it says fades with every step of the recurrence.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (18)-(21), (31).
    Fabius and van Amersfoort (2015), arXiv 1412.6581; Li et al. (2020), TWR-VAE.
    """

    def __init__(self, n_factors: int, hidden: int = 16, window: int = 60) -> None:
        super().__init__()
        check_count("window", window)
        self.n_factors, self.hidden, self.window = n_factors, hidden, window
        self.start = nn.Linear(n_factors, hidden)
        self.rnn = nn.RNN(n_factors, hidden)
        self.out = nn.Linear(hidden, n_factors)

    def read(self, state: State, code: Tensor) -> Tensor:
        """Factors of a month that is the last of its window."""
        return self._unrolled(code)[-1]

    def forward(self, codes: Tensor, state: State | None = None) -> Tensor:
        """Factors of a path, window by window from its end."""
        n_times = codes.shape[-2]
        first = n_times % self.window
        ends = [*range(first or self.window, n_times, self.window), n_times]
        windows = torch.stack(self._unrolled(codes[..., [end - 1 for end in ends], :]), -2)
        if first == 0:
            return windows.flatten(-3, -2)
        # what is left over at the start takes the last places of its window
        left = windows[..., 0, self.window - first :, :]
        return torch.cat([left, windows[..., 1:, :, :].flatten(-3, -2)], -2)

    def _unrolled(self, code: Tensor) -> list[Tensor]:
        """Return outputs of every place of a window, from its last code (*batch, n_factors)."""
        w_in, w_state, b_in, b_state = rnn_weights(self.rnn)
        linear = nn.functional.linear
        hidden, output, outputs = torch.tanh(self.start(code)), code, []
        for _ in range(self.window):
            hidden = torch.tanh(linear(output, w_in, b_in) + linear(hidden, w_state, b_state))
            output = self.out(hidden)
            outputs.append(output)
        return outputs
