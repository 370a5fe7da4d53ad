"""Results of training: epochs, recoveries and the reason for its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

State = Mapping[str, Any]
"""State to resume a run: nested mappings and lists of tensors and JSON values."""

Keep = Callable[[Callable[[], State]], None]
"""Told at the start of every epoch how to get the state; takes it when it is time to."""


@dataclass(frozen=True)
class Epoch:
    """Results of an epoch, all at KL weight 1 but ``kl_weight``.

    Attributes
    ----------
    step : int
        Gradient steps so far.
    elbo, log_likelihood, kl : float
        Bound on the training months and its two terms, in nats, at one draw of the guide and
        of the weights that have a posterior.
    kl_weight : float
        Mean weight in the step that follows.
    log_weights : float
        Log prior density of the weights, up to a constant; of those with a posterior, log prior
        less log guide at a draw, so that ``elbo + log_weights`` is a bound.
    valid_elbo : float
        Bound on the validation months given all before; NaN without any.
    seconds : float
        Wall time so far.
    kl_months : Tensor of shape (n_times,)
    kl_factors : Tensor of shape (n_times, n_factors)
    """

    step: int
    elbo: float
    log_likelihood: float
    kl: float
    kl_weight: float
    log_weights: float
    valid_elbo: float
    seconds: float
    kl_months: Tensor
    kl_factors: Tensor


@dataclass(frozen=True)
class BackOff:
    """A return to the last good epoch.

    Attributes
    ----------
    step : int
        Gradient steps when the bound broke.
    back_to : int
        Step of the state that was restored.
    learning_rate : float
        Rate from there on.
    reason : str
    """

    step: int
    back_to: int
    learning_rate: float
    reason: str


@dataclass
class Trained:
    """Outcome of training, so far or in the end.

    Attributes
    ----------
    epochs : list of Epoch
    stopped : str
        Why training ended: "converged", "max_steps", "callback" or "interrupted".
    best_step : int
        Step of the state that was kept.
    backoffs : list of BackOff
    """

    epochs: list[Epoch] = field(default_factory=list)
    stopped: str = "max_steps"
    best_step: int = 0
    backoffs: list[BackOff] = field(default_factory=list)

    def state(self) -> State:
        """Describe the outcome with mappings, lists, tensors and JSON values."""
        return {
            "epochs": [_fields(epoch) for epoch in self.epochs],
            "stopped": self.stopped,
            "best_step": self.best_step,
            "backoffs": [_fields(backoff) for backoff in self.backoffs],
        }

    @classmethod
    def from_state(cls, state: State) -> Trained:
        """Read back what :meth:`state` described."""
        return cls(
            [Epoch(**epoch) for epoch in state["epochs"]],
            str(state["stopped"]),
            int(state["best_step"]),
            [BackOff(**backoff) for backoff in state["backoffs"]],
        )


def _fields(record: Epoch | BackOff) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
