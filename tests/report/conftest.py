"""A small run whose panel has names that would break a careless page, and weights."""

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.report.facts import Facts, gather

NASTY = '<img src=x onerror="alert(1)"> & "Söhne"'


@pytest.fixture(scope="session")
def panel() -> xr.Dataset:
    """A ranked panel with context, value weights, names and a live month."""
    simulated = rv.data.simulate_dynamic(24, 40, 4, 2, seed=3)
    simulated = simulated[["returns", "characteristics", "context"]]
    simulated["returns"][-1] = np.nan
    rng = np.random.default_rng(0)
    simulated["weight"] = (("time", "asset"), rng.lognormal(size=(40, 24)))
    names = [f"Firm {k}" for k in range(24)]
    names[1] = NASTY
    return simulated.assign_coords(name=("asset", names), industry=("asset", ["a", "b"] * 12))


@pytest.fixture(scope="session")
def fit(panel: xr.Dataset) -> rv.Fit:
    model = rv.RVRAE(
        4, 2, loadings=rv.loadings.MLP(4, 2, hidden=(4,)), factor_prior=rv.priors.AR1(2)
    )
    cut = rv.data.split(panel, 20, 6, 13)
    config = rv.FitConfig(max_steps=8)
    return rv.fit(model, cut.train, cut.valid, config=config, progress=False)


@pytest.fixture(scope="session")
def facts(fit: rv.Fit, panel: xr.Dataset) -> Facts:
    return gather(fit, panel, panel, seed=4)
