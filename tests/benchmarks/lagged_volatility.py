"""Features of lagged volatility for the embedded portfolios, and models that read them.

    python -m tests.benchmarks.lagged_volatility features.nc
    python -m tests.benchmarks.french_risk --model lagged --panel features.nc --refit 36 \\
        --factory tests.benchmarks.lagged_volatility:heavy --years 1975 1999 --seed 0

The first command writes the panel from 1955 on whose context has five features, known at the end
of the month before: log dispersion and log size of the equal-weight return, of the last month and
exponentially weighted, and the weighted dispersion less that of three years.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import rvrae_pyro as rv
from tests.benchmarks.french_risk import N_FACTORS, load

FEATURES = ("dispersion", "market", "dispersion_ewma", "market_ewma", "dispersion_trend")
_FAST, _SLOW = 0.75, 0.97


def features(returns: xr.DataArray) -> xr.DataArray:
    """Five lagged measures of volatility (time, feature), each standardised by its own past."""
    values = returns.transpose("time", "asset").to_numpy()
    market = np.nanmean(values, axis=1)
    dispersion = np.log(np.nanmean(np.abs(values - market[:, None]), axis=1))
    size = np.log(np.abs(market) + 0.005)
    slow = _weighted(dispersion, _SLOW)
    fast = _weighted(dispersion, _FAST)
    columns = np.stack([dispersion, size, fast, _weighted(size, _FAST), fast - slow], axis=1)
    lagged = np.vstack([columns[:1] * 0.0, columns[:-1]])
    out = np.zeros_like(lagged)
    for t in range(13, len(lagged)):  # a year of lagged values
        past = lagged[1 : t + 1]
        out[t] = np.clip((lagged[t] - past.mean(0)) / past.std(0), -4.0, 4.0)
    return xr.DataArray(
        out, dims=("time", "feature"), coords={"time": returns["time"], "feature": list(FEATURES)}
    )


def _weighted(values: np.ndarray, decay: float) -> np.ndarray:
    """Exponentially weighted mean up to each month, weights adding up to one."""
    total, weight, found = 0.0, 0.0, np.empty_like(values)
    for t, value in enumerate(values):
        total, weight = decay * total + value, decay * weight + 1.0
        found[t] = total / weight
    return found


def heavy(panel: xr.Dataset) -> rv.RVRAE:
    """Default with Student-t shocks of the factors."""
    return _model(panel, innovation="student_t")


def both(panel: xr.Dataset) -> rv.RVRAE:
    """Default with a recurrence driven by factors and by portfolios of the last month."""
    return _model(panel, recurrence="both")


def heavy_both(panel: xr.Dataset) -> rv.RVRAE:
    """The two together."""
    return _model(panel, innovation="student_t", recurrence="both")


@dataclass(frozen=True)
class Seeds:
    """Mixture of fits from three seeds of :func:`heavy`."""

    name: str = "three seeds"

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Settings of the model and the number of seeds."""
        return {"model": str(heavy(panel)), "seeds": 3}

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> rv.Ensemble:
        """Fit three seeds that no other ``seed`` shares."""
        seeds = range(3 * seed, 3 * seed + 3)
        return rv.fit_ensemble(lambda: heavy(train), train, valid, seeds=seeds, progress=False)


def heavy_three(panel: xr.Dataset) -> Seeds:
    """Three seeds mixed."""
    return Seeds()


def plain(panel: xr.Dataset) -> rv.RVRAE:
    """Default as it was before the common volatility: a VRNN that reads the context."""
    return _model(panel)


def common(panel: xr.Dataset) -> rv.RVRAE:
    """Default: the common volatility around a VRNN, without context."""
    return rv.RVRAE(panel.sizes["characteristic"], N_FACTORS)


def _model(panel: xr.Dataset, **settings: str) -> rv.RVRAE:
    n_context = panel.sizes["feature"]
    prior = rv.priors.Recurrent(N_FACTORS, n_context=n_context, **settings)  # type: ignore[arg-type]
    size = panel.sizes["characteristic"]
    return rv.RVRAE(size, N_FACTORS, n_context=n_context, factor_prior=prior)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the panel with features."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    panel = load().drop_dims("feature")
    context = features(panel["returns"])
    rv.data.write_panel(panel.assign(context=context), given.out)


if __name__ == "__main__":
    main()
