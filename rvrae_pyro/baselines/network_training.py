"""The one training loop of the neural baselines: minibatches of months, early stopping."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from rvrae_pyro.baselines.baseline import Fitting
from rvrae_pyro.errors import ConfigError, FitError, check_count, check_number
from rvrae_pyro.inference.windows import draw_windows
from rvrae_pyro.progress import progress_bar


@dataclass(frozen=True)
class TrainConfig:
    """Training settings of a neural baseline.

    Parameters
    ----------
    learning_rate : float
        Of Adam, constant.
    max_epochs : int
        Passes over the training months at the most.
    patience : int
        Epochs without a better validation loss before training stops. Without validation
        months every epoch is run.
    months : int
        Consecutive months a gradient step.
    weight_decay : float
        Decoupled from the gradient.
    clip_norm : float
        Largest norm of the gradient of the mean loss per cell; infinite for none.
    """

    learning_rate: float = 1e-3
    max_epochs: int = 100
    patience: int = 10
    months: int = 6
    weight_decay: float = 0.0
    clip_norm: float = 5.0

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, "(0, inf)")
        check_number("clip_norm", self.clip_norm, "(0, inf]")
        for name in ("max_epochs", "patience", "months"):
            check_count(name, getattr(self, name))
        check_number("weight_decay", self.weight_decay, "[0, inf)")

    def describe(self) -> dict[str, Any]:
        """Return the settings in JSON types."""
        return dataclasses.asdict(self)


def training_of(config: TrainConfig | None, default: TrainConfig) -> TrainConfig:
    """Return the settings given, or the default; raise for anything else."""
    if config is not None and not isinstance(config, TrainConfig):
        raise ConfigError(
            f"`config` must be a TrainConfig; got {config!r}. "
            "Write config=rv.baselines.TrainConfig(max_epochs=50)."
        )
    return default if config is None else config


class Objective(Protocol):
    """Loss of a network over months ``start`` to ``stop``: the sum, and how many cells it has."""

    def __call__(self, start: int, stop: int) -> tuple[Tensor, int]: ...  # noqa: D102


def train_network(
    network: nn.Module,
    objective: Objective,
    fitting: Fitting,
    config: TrainConfig,
    *,
    name: str,
    penalty: Callable[[], Tensor | float] = lambda: 0.0,
) -> pd.DataFrame:
    """Train a network in place and leave it at its best state, set to evaluate.

    Parameters
    ----------
    network : nn.Module
    objective : Objective
        Called in training mode for training months, else in evaluation mode.
    fitting : Fitting
        Its seed orders the windows of months.
    config : TrainConfig
    name : str
        Shown next to the progress bar.
    penalty : callable, optional
        Added to the mean loss per cell at each step.

    Returns
    -------
    DataFrame
        One row per epoch: epoch, train_loss, valid_loss (means per observation), seconds.

    Raises
    ------
    FitError
        If the loss is not finite; the network is left at its best state so far.
    """
    n_train, n_times = fitting.n_train, fitting.batch.n_times
    generator = torch.Generator().manual_seed(fitting.seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best, stale, started = math.inf, 0, time.perf_counter()
    best_state = copy.deepcopy(network.state_dict())
    history: list[tuple[int, float, float, float]] = []
    try:
        with progress_bar(name, config.max_epochs, fitting.progress) as show:
            for epoch in range(1, config.max_epochs + 1):
                fitted = _run_epoch(
                    network, objective, n_train, config, optimizer, generator, penalty
                )
                score = _validate(network, objective, n_train, n_times, config.months)
                history.append((epoch, fitted, score, time.perf_counter() - started))
                show(completed=epoch)
                if score < best or math.isnan(score):  # NaN: nothing to validate on
                    best, stale = score, 0
                    best_state = copy.deepcopy(network.state_dict())
                else:
                    stale += 1
                    if stale >= config.patience:
                        break
    finally:
        network.load_state_dict(best_state)
        network.eval()
    return pd.DataFrame(history, columns=["epoch", "train_loss", "valid_loss", "seconds"])


def _run_epoch(
    network: nn.Module,
    objective: Objective,
    n_train: int,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    penalty: Callable[[], Tensor | float],
) -> float:
    """One pass over the training months; the mean loss per cell on the way."""
    network.train()
    parameters = list(network.parameters())
    total, cells = 0.0, 0
    for start, stop in draw_windows(n_train, config.months, generator):
        loss, count = objective(start, stop)
        if count == 0:
            continue
        mean = loss / count
        if not bool(torch.isfinite(mean)):
            raise FitError(
                f"The loss is not finite in months {start} to {stop - 1} of training. Lower "
                "`learning_rate`, and look for extreme returns in those months."
            )
        optimizer.zero_grad()
        (mean + penalty()).backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        total, cells = total + float(loss.detach()), cells + count
    return total / max(1, cells)


@torch.no_grad()
def _validate(
    network: nn.Module, objective: Objective, n_train: int, n_times: int, months: int
) -> float:
    """Mean loss per cell over the validation months; NaN without any return there."""
    network.eval()
    total, cells = 0.0, 0
    for start in range(n_train, n_times, months):
        loss, count = objective(start, min(start + months, n_times))
        total, cells = total + float(loss), cells + count
    if not math.isfinite(total):
        raise FitError(
            "The loss of the validation months is not finite. Lower `learning_rate`, and look for "
            "extreme returns in those months."
        )
    return total / cells if cells else math.nan


def return_scale(returns: Tensor, observed: Tensor) -> float:
    """Root mean square of the observed returns: networks see returns of order one."""
    scale = float(returns[observed].double().square().mean().sqrt())
    return scale if scale > 0 else 1.0
