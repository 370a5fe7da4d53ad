"""A fit on a GPU against the CPU's numbers: training, forecast, save and load."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return rv.data.simulate_linear_gaussian(40, 60, 3, seed=2)


def fitted(panel: xr.Dataset, device: str) -> rv.Fit:
    model = rv.RVRAE(
        3,
        2,
        loadings=rv.loadings.Linear(3, 2),
        factor_prior=rv.priors.AR1(2),
        likelihood=rv.likelihoods.Normal(),
    )
    config = rv.FitConfig(max_steps=60, dtype=torch.float64, device=device)
    return rv.fit(model, panel, config=config, seed=0, progress=False)


def test_training_reaches_the_bound_of_the_cpu(panel: xr.Dataset) -> None:
    bounds = [
        float(fitted(panel, device).history["elbo"].iloc[-1]) / int(panel["returns"].count())
        for device in ("cpu", "cuda")
    ]
    assert bounds[1] == pytest.approx(bounds[0], abs=0.02)


def test_a_fit_has_the_same_numbers_on_both(panel: xr.Dataset, tmp_path: Path) -> None:
    fit = fitted(panel, "cuda")
    fit.save(tmp_path / "fit")
    fit.model.to("cuda")
    here = rv.load(tmp_path / "fit")
    here.model.to("cpu")
    np.testing.assert_allclose(fit.loadings(panel), here.loadings(panel), atol=1e-10)
    # exact, without draws
    np.testing.assert_allclose(fit.log_evidence(panel), here.log_evidence(panel), rtol=1e-8)
    np.testing.assert_allclose(fit.predict(panel), here.predict(panel), atol=5e-3)
    draws = [
        each.forecast(panel, num_samples=4000, times=panel.time[-1])["predictions"]["returns"]
        for each in (fit, here)
    ]
    spread = [each.std(("chain", "draw")).values for each in draws]
    np.testing.assert_allclose(spread[0], spread[1], rtol=0.1)
