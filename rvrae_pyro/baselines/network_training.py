"""Neural baselines: settings, the one training loop, and windows of recent months."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from rvrae_pyro.baselines.baseline import Baseline, Fitting, network_of, network_state
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, FitError, check_count, check_number
from rvrae_pyro.inference.windows import draw_windows
from rvrae_pyro.nn.sequences import pack_buckets
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

    ``objective`` is called in training mode for training months, else in evaluation mode;
    ``penalty`` is added to the mean loss per observation at each step; the seed orders the windows
    of months. One row per epoch: epoch, train_loss, valid_loss (means per observation), seconds.

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


_BUCKETS = 4
_FEW_ASSETS = 256  # below, a step of a recurrent network costs the same with any padding


class Reader(Protocol):
    """Reads packed sequences."""

    def __call__(self, inputs: Tensor, months: Tensor) -> Tensor:
        """Return (length, n, n_outputs) for inputs (length, n, P) of months (length, n)."""
        ...


def over_buckets(batch: Batch, read: Reader, n_outputs: int) -> Tensor:
    """Apply ``read`` to the listed months of every asset, those of similar length together.

    It gets sequences that start at each asset's first listed month, with padding after the last,
    and the months' positions, and must not look ahead in them. The result (n_times, n_assets,
    n_outputs) is 0 where not listed.
    """
    flat = batch.characteristics.reshape(-1, batch.n_characteristics)
    # an additional row takes the output of the padding
    result = flat.new_zeros(flat.shape[0] + 1, n_outputs)
    n_buckets = _BUCKETS if batch.n_assets >= _FEW_ASSETS else 1
    for bucket in pack_buckets(batch.listed, n_buckets):
        shape = bucket.cells.shape
        inputs = flat.index_select(0, bucket.cells.reshape(-1)).reshape(*shape, -1)
        read_out = read(inputs, bucket.cells // batch.n_assets)
        result = result.index_copy(0, bucket.targets, read_out.reshape(-1, n_outputs))
    return result[:-1].reshape(batch.n_times, batch.n_assets, n_outputs)


def target_months(batch: Batch, start: int, stop: int, window: int) -> tuple[Batch, int]:
    """Months ``start`` to ``stop`` with the ``window - 1`` before them, and where they begin.

    Holds the assets listed in one of the target months; a view of the months otherwise.
    """
    first = max(0, start - window + 1)
    block = batch.window(first, stop, every_asset=True)
    keep = block.listed[start - first :].any(0)
    return (block if bool(keep.all()) else block.select(keep)), start - first


def last_months(batch: Batch, t: int, window: int) -> tuple[Batch, Tensor]:
    """Cut the last ``window`` months to ``t`` of the assets listed then, and their positions."""
    assets = batch.listed[t].nonzero().squeeze(-1)
    block = batch.window(max(0, t - window + 1), t + 1, every_asset=True)
    return block.select(assets), assets


class WindowedNetwork(Baseline):
    """A baseline that trains one network on windows of consecutive months.

    A subclass gives ``_build`` and ``_loss``. Training takes a few target months per step together
    with the ``window - 1`` months before them, so that neighbouring windows share their
    computation: a target month then knows at least ``window`` months of history, if the panel has
    them, and a forecast knows exactly that many.
    """

    window: int
    config: TrainConfig

    def __init__(self, window: int, config: TrainConfig) -> None:
        super().__init__()
        self.window = check_count("window", window)
        self.config = config
        self._network: nn.Module | None = None
        self._scale = torch.ones((), dtype=torch.float64)

    @classmethod
    def _read_settings(cls, described: dict[str, Any]) -> dict[str, Any]:
        return {**described, "config": TrainConfig(**described["config"])}

    @abstractmethod
    def _build(self, n_characteristics: int) -> nn.Module:
        """Return an untrained network."""

    @abstractmethod
    def _loss(self, network: nn.Module, block: Batch, first: int, scale: float) -> Tensor:
        """Sum of the losses of the months of ``block`` from ``first`` on, per unit of scale."""

    def _penalty(self, network: nn.Module) -> Tensor | float:
        """Penalty that is added to the mean loss per observation."""
        return 0.0

    def _learn(self, fitting: Fitting) -> None:
        batch, n_train = fitting.batch, fitting.n_train
        scale = return_scale(batch.returns[:n_train], batch.observed[:n_train])
        network = self._build(batch.n_characteristics).to(batch.returns)

        def objective(start: int, stop: int) -> tuple[Tensor, int]:
            count = int(batch.observed[start:stop].sum())
            if count == 0:
                return batch.returns.new_zeros(()), 0
            block, first = target_months(batch, start, stop, self.window)
            return self._loss(network, block, first, scale), count

        self.history = train_network(
            network,
            objective,
            fitting,
            self.config,
            name=type(self).__name__,
            penalty=lambda: self._penalty(network),
        )
        self._network = network.cpu().double().eval()
        self._scale = torch.tensor(scale, dtype=torch.float64)

    def _state(self) -> dict[str, Tensor]:
        assert self._network is not None
        return {"scale": self._scale, **network_state(self._network)}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._scale = state["scale"]
        self._network = network_of(state, self._build(len(self._names)))


class SequenceForecaster(WindowedNetwork):
    """A forecaster of returns from the last months' characteristics. It has no factors.

    A subclass gives ``_build``, whose network maps a batch to forecasts (n_times, n_assets) per
    unit of scale.
    """

    def _loss(self, network: nn.Module, block: Batch, first: int, scale: float) -> Tensor:
        seen = block.observed[first:]
        error: Tensor = network(block)[first:][seen] - block.returns[first:][seen] / scale
        return error.square().sum()

    def _predict(self, panel: xr.Dataset, batch: Batch) -> Tensor:
        assert self._network is not None
        forecast = torch.zeros_like(batch.returns)
        for t in range(batch.n_times):
            block, assets = last_months(batch, t, self.window)
            if assets.numel():
                forecast[t, assets] = self._network(block)[-1] * self._scale
        return forecast
