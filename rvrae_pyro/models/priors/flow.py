"""Factors of a shape that is learned: a normalizing flow on top of any Gaussian prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models.priors.around import Around
from rvrae_pyro.models.priors.base import FactorPrior
from rvrae_pyro.models.priors.recurrent import Recurrent
from rvrae_pyro.nn.flows import Warped


class Flow(Around):
    r"""Skewed, heavy-tailed and tied factors: ``z_t = loc + scale * T(e_t)``, T learned.

    Location, scale and memory are those of a Gaussian prior, the ``base``; T is a normalizing
    flow of sinh-arcsinh bends and triangular mixes that starts as the identity, so that the
    prior starts as its base. The conjugate guide works in base space and is pushed forward.

    Parameters
    ----------
    n_factors : int
    base : FactorPrior, optional
        Any prior with Gaussian transitions, driven by the factors themselves;
        :class:`Recurrent` unless told.
    n_layers : int
        Bends and mixes, one after the other; 1 to 4.

    Notes
    -----
    Inverse and Jacobian have closed forms, at O(n_layers n_factors^2) a month.

    References
    ----------
    Rezende and Mohamed (2015), arXiv 1505.05770; Jones and Pewsey (2009), Biometrika 96.
    """

    gaussian = False
    degrees_of_freedom = None  # of Normal noise

    def __init__(self, n_factors: int, base: FactorPrior | None = None, n_layers: int = 2) -> None:
        super().__init__()
        if not isinstance(n_layers, int) or not 1 <= n_layers <= 4:
            raise ConfigError(f"`n_layers` must be 1 to 4; got {n_layers!r}.")
        base = Recurrent(n_factors) if base is None else base
        if not base.gaussian or base.conditions_on_history or base.auxiliary is not None:
            raise ConfigError(
                "`base` must have Gaussian transitions driven by the factors themselves; got "
                f"{type(base).__name__}. Use StandardNormal, AR1 or Recurrent with "
                "innovation='normal' and recurrence='latent'."
            )
        got = getattr(base, "n_factors", n_factors)
        if got != n_factors:
            raise ShapeError(
                f"`base` was built with n_factors={got}, the flow with n_factors={n_factors}; "
                "build both with the same number."
            )
        self.n_factors, self.base, self.n_layers = n_factors, base, n_layers
        self.n_context = base.n_context
        self.unbounded_skews = nn.Parameter(torch.zeros(n_layers, n_factors))
        self.unbounded_tails = nn.Parameter(torch.zeros(n_layers, n_factors))
        self.ties = nn.Parameter(torch.zeros(n_layers, n_factors, n_factors))

    def transition(self, state: State, context: Tensor | None) -> Warped:
        """Push the base's Gaussian through the flow."""
        return self.ahead(state, context)[0]

    def ahead(self, state: State, context: Tensor | None) -> tuple[Warped, Tensor | None]:
        """Push the base's Gaussian through the flow; the base's level."""
        base, level = self.base_ahead(state, context)
        batch = base.loc.shape[:-1]
        lower = torch.arange(self.n_layers, device=self.ties.device) % 2 == 0
        mixes = torch.where(lower[:, None, None], self.ties.tril(-1), self.ties.triu(1))
        mixes = mixes + torch.eye(self.n_factors, dtype=mixes.dtype, device=mixes.device)
        pushed = Warped(
            base.loc,
            base.scale,
            torch.tanh(self.unbounded_skews).expand(*batch, -1, -1),
            (0.7 * torch.tanh(self.unbounded_tails)).exp().expand(*batch, -1, -1),
            mixes.expand(*batch, -1, -1, -1),
        )
        return pushed, level

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Move the base by the factors."""
        return self.base.advance(state, factors, context)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """States of the base."""
        return self.base.unroll(factors, context, state)
