"""Forecasters that read an asset's recent months: windows are cut when they are needed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

import torch
import xarray as xr
from torch import Tensor, nn

from rvrae_pyro.baselines.baseline import Baseline, Fitting, network_of, network_state
from rvrae_pyro.baselines.network_training import (
    TrainConfig,
    return_scale,
    train_network,
)
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import check_count
from rvrae_pyro.nn.sequences import pack_buckets

_BUCKETS = 4
_FEW_ASSETS = 256  # below, a step of a recurrent network costs the same with any padding


class Reader(Protocol):
    """Reads packed sequences."""

    def __call__(self, inputs: Tensor, months: Tensor) -> Tensor:
        """Return (length, n, n_outputs) for inputs (length, n, P) of months (length, n)."""
        ...


def over_buckets(batch: Batch, read: Reader, n_outputs: int) -> Tensor:
    """Apply ``read`` to the listed months of every asset, those of similar length together.

    Parameters
    ----------
    batch : Batch
    read : callable
        Gets sequences that start at each asset's first listed month, with padding after the
        last, and the months' positions. It must not look ahead in the sequence.
    n_outputs : int

    Returns
    -------
    Tensor of shape (n_times, n_assets, n_outputs)
        0 where not listed.
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
