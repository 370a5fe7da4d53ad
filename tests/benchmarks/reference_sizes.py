"""Panels and references of the speed suite."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch

SIZES = {"a": (180, 500, 20), "b": (240, 1000, 46), "c": (252, 5682, 46)}
"""Months, assets and characteristics of the reference sizes; c is the paper's."""


def make_batch(size: str, alive: float = 0.45) -> Batch:
    """Random panel in which assets enter and leave; ``alive`` is the share of listed cells."""
    return random_batch(*SIZES[size], alive)


def random_batch(n_times: int, n_assets: int, n_characteristics: int, alive: float = 0.45) -> Batch:
    """Noise of any size, as :func:`make_batch` makes it."""
    rng = torch.Generator().manual_seed(0)
    ends = torch.rand(2, n_assets, generator=rng).sort(0).values
    stretch = (alive - 1 / 3) / (2 / 3)
    first = (ends[0] * (1 - stretch) * n_times).long()
    last = ((ends[1] + (1 - ends[1]) * stretch) * n_times).long()
    time_index = torch.arange(n_times)[:, None]
    listed = (time_index >= first) & (time_index <= last)
    x = torch.rand(n_times, n_assets, n_characteristics, generator=rng) * 2 - 1
    returns = 0.1 * torch.randn(n_times, n_assets, generator=rng)
    return Batch(
        returns=returns * listed,
        observed=listed,
        listed=listed,
        characteristics=x * listed[..., None],
        context=None,
        times=np.datetime64("2000-01") + np.arange(n_times).astype("timedelta64[M]"),
        assets=np.array([f"A{i:05d}" for i in range(n_assets)]),
        names=np.array([f"c{i:02d}" for i in range(n_characteristics)]),
    )


def make_panel(size: str) -> xr.Dataset:
    """The reference batch as a panel, with five factors in it."""
    batch = make_batch(size)
    rng = np.random.default_rng(0)
    x, seen = batch.characteristics.numpy(), batch.observed.numpy()
    path = 0.05 * rng.standard_normal((batch.n_times, 1, 5))
    common = ((x @ rng.standard_normal((batch.n_characteristics, 5))) * path).sum(-1)
    returns = np.where(seen, common + 0.5 * batch.returns.numpy(), np.nan)
    ends = (batch.times + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")
    return xr.Dataset(
        {
            "returns": (("time", "asset"), returns),
            "characteristics": (
                ("time", "asset", "characteristic"),
                np.where(seen[..., None], x, np.nan),
            ),
        },
        {
            "time": ends.astype("datetime64[ns]"),
            "asset": batch.assets,
            "characteristic": batch.names,
        },
    )


def cpu_median(work: Callable[[], object], rounds: int = 5) -> float:
    """Median CPU seconds of some work, after one round to warm up."""
    work()
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return float(np.median(seconds))


def dense_reference(batch: Batch) -> Callable[[], None]:
    """Forward and backward of a dense LSTM over every cell: the unit of all step times."""
    lstm = torch.nn.LSTM(batch.n_characteristics, 32)

    def step() -> None:
        lstm.zero_grad()
        output, _ = lstm(batch.characteristics)
        output.sum().backward()

    return step
