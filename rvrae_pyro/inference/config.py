"""How a model is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from rvrae_pyro.errors import ConfigError
from rvrae_pyro.inference.schedules import Constant, Linear, Schedule

__all__ = ["FitConfig"]


@dataclass(frozen=True)
class FitConfig:
    """Settings of :func:`rvrae_pyro.fit`; the defaults are the best known.

    Parameters
    ----------
    optimizer : type
        A torch optimizer class, called with the parameters and ``lr``.
    learning_rate : float
        Rate at the start; halved when validation stalls for half the patience.
    max_steps : int
        Gradient steps at the most.
    window : int or None
        Months a step; None takes all training months at once. Many small steps learn better
        than few large ones.
    asset_batch : int or None
        Assets a step, drawn at random and treated as a smaller panel (a composite likelihood);
        None takes all.
    kl_schedule : Schedule
        KL weight over steps and months, ending at 1.
    kl_reduction : {"sum", "mean"}
        ``"mean"`` divides the KL by the number of months as the paper's eq. (31) does: **not a
        bound**, an ablation.
    num_particles : int
        Monte-Carlo draws of the ELBO a step.
    clip_norm : float
        Largest norm of the gradient of the mean log density a cell.
    patience : int
        Epochs without a better validation ELBO before training stops.
    dtype : torch.dtype
    device : str
    """

    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    learning_rate: float = 3e-3
    max_steps: int = 3000
    window: int | None = 3
    asset_batch: int | None = None
    kl_schedule: Schedule = field(default_factory=Linear)
    kl_reduction: Literal["sum", "mean"] = "sum"
    num_particles: int = 1
    clip_norm: float = 5.0
    patience: int = 25
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be above 0; got {getattr(self, name)}.")
        for name in ("max_steps", "num_particles", "patience"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(
                    f"`{name}` must be a whole number of at least 1; got {getattr(self, name)!r}."
                )
        for name in ("window", "asset_batch"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(
                    f"`{name}` must be a whole number of at least 1, or None; got {value!r}."
                )
        if self.kl_reduction not in ("sum", "mean"):
            raise ConfigError(f"`kl_reduction` must be 'sum' or 'mean'; got {self.kl_reduction!r}.")

    @classmethod
    def paper(cls) -> FitConfig:
        """Train as the paper does: all months a step, KL averaged over timesteps (not a bound)."""
        return cls(
            learning_rate=1e-3,
            max_steps=1000,
            window=None,
            kl_schedule=Constant(),
            kl_reduction="mean",
            patience=100,
        )
