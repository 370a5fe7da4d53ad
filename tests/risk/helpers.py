"""Forecasts whose moments are known."""

import numpy as np
import pandas as pd
import xarray as xr


def make_forecast(
    *,
    draws=2000,
    n_times=3,
    n_assets=5,
    n_factors=2,
    chains=1,
    seed=0,
    df=None,
    unlisted=(),
    dtype=np.float64,
):
    """Build a forecast tree with factors, loadings and noise, and the truth behind it."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n_times, n_factors, n_factors)) * 0.03
    centre = rng.normal(size=(n_times, n_factors)) * 0.01
    noise = rng.standard_normal((chains, draws, n_times, n_factors))
    factors = centre + np.einsum("tkl,cdtl->cdtk", root, noise)
    beta = rng.normal(size=(n_times, n_assets, n_factors))
    scale = rng.uniform(0.03, 0.08, size=(n_times, n_assets))
    size = (chains, draws, n_times, n_assets)
    unit = (
        rng.standard_normal(size)
        if df is None
        else rng.standard_t(df, size) * np.sqrt((df - 2) / df)
    )
    returns = np.einsum("tnk,cdtk->cdtn", beta, factors) + scale * unit
    for t, i in unlisted:
        returns[:, :, t, i], beta[t, i], scale[t, i] = np.nan, np.nan, np.nan
    times = pd.date_range("2020-01-31", periods=n_times, freq="ME", unit="ns")
    assets = [f"a{i}" for i in range(n_assets)]
    coords = {
        "chain": np.arange(chains),
        "draw": np.arange(draws),
        "time": times,
        "asset": assets,
        "factor": np.arange(1, n_factors + 1),
    }
    predictions = xr.Dataset(
        {
            "returns": (("chain", "draw", "time", "asset"), returns.astype(dtype)),
            "factors": (("chain", "draw", "time", "factor"), factors),
        },
        coords,
    )
    constant = xr.Dataset(
        {"beta": (("time", "asset", "factor"), beta), "idio_scale": (("time", "asset"), scale)},
        {name: coords[name] for name in ("time", "asset", "factor")},
    )
    tree = xr.DataTree.from_dict(
        {"predictions": predictions, "predictions_constant_data": constant}
    )
    tree.attrs["seed"] = seed
    truth = {"root": root, "centre": centre, "beta": beta, "scale": scale}
    return tree, truth


def equal_weights(tree):
    """Weights by month, equal over the assets with a forecast."""
    listed = tree["predictions"]["returns"].isel(chain=0, draw=0, drop=True).notnull()
    return listed / listed.sum("asset")
