"""Competitors that cost nothing, and a panel for them."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.baselines import TrainConfig
from rvrae_pyro.experiments.forecast_tree import FORECASTS, MEAN, label

SHORT = TrainConfig(max_epochs=1, months=6)


def panel(n_times: int = 40, n_assets: int = 14, seed: int = 0) -> xr.Dataset:
    """Late entry, early exit and missing returns."""
    return rv.data.simulate_dynamic(n_assets, n_times, 4, 2, turnover=0.3, missing=0.05, seed=seed)


def small_model(market: xr.Dataset, **parts: Any) -> rv.RVRAE:
    """An RVRAE whose filter is exact and whose fit takes a second."""
    n = market.sizes["characteristic"]
    return rv.RVRAE(
        n,
        2,
        loadings=rv.loadings.MLP(n, 2, hidden=(4,)),
        factor_prior=rv.priors.AR1(2),
        likelihood=rv.likelihoods.Normal(),
        **parts,
    )


@dataclass(frozen=True)
class PressedKeys:
    """A KL schedule under which somebody presses Ctrl-C at the third step."""

    def weight(self, step: int, n_times: int) -> float:
        if step >= 2:
            raise KeyboardInterrupt
        return 1.0


@dataclass
class Said:
    """A fitted competitor that says a constant times the first characteristic."""

    slope: float
    train: xr.Dataset
    seen: list[xr.Dataset]

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        self.seen.append(panel)
        mean = self.slope * panel["characteristics"].isel(characteristic=0, drop=True)
        forecasts = label({MEAN: mean.sel(time=times).reset_coords(drop=True)})
        tree = xr.DataTree.from_dict({FORECASTS: forecasts})
        tree.attrs.update(seed=seed, train_end=str(self.train.time.values[-1])[:10])
        return tree


class Slope:
    """A competitor that learns nothing and remembers what it was shown."""

    def __init__(self, slope: float = 1.0, name: str = "slope", fails: tuple[int, ...] = ()):
        self.slope, self.name, self.fails = slope, name, fails
        self.trained: list[tuple[xr.Dataset, xr.Dataset | None, int]] = []
        self.shown: list[xr.Dataset] = []

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        return {"kind": "Slope", "slope": self.slope}

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Said:
        if seed in self.fails:
            raise RuntimeError(f"no luck with {seed}\nsecond line")
        self.trained.append((train, valid, seed))
        return Said(self.slope, train, self.shown)


class Slow(Slope):
    """A competitor that takes its time, so that a worker can be killed while it is at it."""

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Said:
        time.sleep(0.4)
        return super().fit(train, valid, seed)
