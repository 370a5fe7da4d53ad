"""Pictures of a real, small fit: what the functions read is what fits give."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pytest
import xarray as xr
from matplotlib.figure import Figure

import rvrae_pyro as rv


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return rv.data.simulate_linear_gaussian(8, 30, 2, seed=1)


@pytest.fixture(scope="module")
def fit(panel: xr.Dataset) -> rv.Fit:
    cut = rv.data.split(panel, 20, 5, 5)
    config = rv.FitConfig(max_steps=4)
    return rv.fit(rv.RVRAE(2, 2), cut.train, cut.valid, config=config, progress=False)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def test_a_fit_and_its_panel_are_enough(fit: rv.Fit, panel: xr.Dataset) -> None:
    assert rv.plots.training(fit).get_ylabel() == "nats per return"
    elbo = rv.plots.elbo(fit)
    assert isinstance(elbo, Figure)
    assert elbo.axes[1].get_ylabel() == "training month"
    found = rv.plots.relevance(fit, panel)
    assert found.get_ylabel() == "characteristic"
    moved = float(fit.relevance(panel)["posterior/common_share"].mean())
    assert f"Together they move {100 * moved:.2g} %" in found.get_title("left")
    assert rv.plots.relevance(fit).get_ylabel() == "characteristic"
    factors = rv.plots.factors(fit, panel)
    assert isinstance(factors, Figure)
    assert factors.axes[0].get_ylabel() == "% per month"
    assert rv.plots.forecast(fit, panel).get_xlabel() == "excess return, % per month"


def test_hyperparameters_of_a_fit(panel: xr.Dataset) -> None:
    import pyro.distributions as dist

    prior = rv.priors.AR1(2, coefficient=dist.Uniform(-1.0, 1.0))
    model = rv.RVRAE(2, 2, factor_prior=prior)
    fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=3), progress=False)
    figure = rv.plots.prior_posterior(fit)
    assert isinstance(figure, Figure)
    assert figure.axes[1].get_xlabel() == "coefficient 2 (factor prior)"


def test_a_filtered_panel_is_enough(fit: rv.Fit, panel: xr.Dataset) -> None:
    filtered = fit.filter(panel, num_samples=200)
    axes = rv.plots.volatility(filtered, marks={"test": panel.time[25]})
    assert axes.get_ylabel() == "standard deviation,\n% per month"
    assert isinstance(rv.plots.calibration(filtered), Figure)
    assert rv.plots.risk_split(filtered).get_ylabel() == "asset"
    assert "expected" in rv.plots.var_backtest(filtered).get_title("left")


def test_baselines_are_drawn_too(panel: xr.Dataset) -> None:
    ewma = rv.baselines.EWMA().fit(panel)
    assert rv.plots.forecast(ewma, panel).get_ylabel() == "asset"
    assert rv.plots.volatility({"EWMA": ewma}, panel).get_xlabel() == "month"


def test_training_of_an_ensemble(panel: xr.Dataset) -> None:
    config = rv.FitConfig(max_steps=3)
    ensemble = rv.fit_ensemble(
        lambda: rv.RVRAE(2, 2), panel, seeds=2, config=config, progress=False
    )
    axes = rv.plots.training(ensemble)
    assert [line.get_label() for line in axes.lines] == ["seed 0", "seed 1"]


def test_replicates_of_a_fit(fit: rv.Fit, panel: xr.Dataset) -> None:
    assert isinstance(rv.plots.calibration(fit.posterior_predictive(panel, 50)), Figure)
