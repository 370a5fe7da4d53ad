"""Small panels and tables for the tests of the data layer."""

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.build import build_panel
from rvrae_pyro.data.calendar import period_ends


def dates(n_times: int, frequency: str = "monthly") -> np.ndarray:
    step = {"monthly": "31D", "weekly": "7D", "daily": "1D"}[frequency]
    if frequency == "monthly":
        days = pd.DatetimeIndex(
            pd.period_range("2001-11", periods=n_times, freq="M").to_timestamp()
        )
    else:
        days = pd.date_range("2001-11-05", periods=n_times, freq=step)
    return period_ends(days, frequency).to_numpy()


def small_panel(
    n_times: int = 18,
    n_assets: int = 7,
    n_characteristics: int = 3,
    *,
    seed: int = 0,
    missing: float = 0.2,
    frequency: str = "monthly",
) -> xr.Dataset:
    """An unbalanced panel: unlisted cells, missing characteristics and returns."""
    rng = np.random.default_rng(seed)
    shape = n_times, n_assets
    returns = 0.05 * rng.standard_normal(shape)
    values = rng.standard_normal((*shape, n_characteristics))
    values[rng.random(values.shape) < missing] = np.nan
    gone = rng.random(shape) < missing
    values[gone] = np.nan
    returns[gone | (rng.random(shape) < missing)] = np.nan
    # a value of each characteristic, and a return, whatever the draw
    values[0, 0], returns[0, 0] = 1.0, 0.01
    return build_panel(
        returns,
        values,
        time=dates(n_times, frequency),
        asset=[f"a{i}" for i in range(n_assets)],
        characteristic=[f"c{k}" for k in range(n_characteristics)],
        frequency=frequency,
    )


def long_table(n_times: int = 6, n_assets: int = 4, seed: int = 0) -> pd.DataFrame:
    """A complete long table with two characteristics, dates on the 15th."""
    rng = np.random.default_rng(seed)
    months = pd.period_range("2010-01", periods=n_times, freq="M").to_timestamp()
    rows = pd.MultiIndex.from_product(
        [months + pd.Timedelta(days=14), [f"s{i}" for i in range(n_assets)]],
        names=["date", "asset"],
    )
    return pd.DataFrame(
        {
            "ret": 0.05 * rng.standard_normal(len(rows)),
            "size": rng.standard_normal(len(rows)),
            "mom": rng.standard_normal(len(rows)),
        },
        index=rows,
    ).reset_index()
