"""No look-ahead: what happens later, or in the month itself, changes no bit of a forecast."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import rvrae_pyro as rv
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel, stir

N_TIMES = 9
SAMPLES = 12

MODELS: dict[str, Callable[[], rv.RVRAE]] = {
    "default": lambda: rv.RVRAE(P, K, n_context=2),
    "both": lambda: rv.RVRAE(
        P, K, factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="both", n_context=2)
    ),
    "observed": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="observed", n_context=2),
        likelihood=rv.likelihoods.Normal(
            rv.likelihoods.CharacteristicScale(P), rv.likelihoods.Alpha(P)
        ),
    ),
    "paper": lambda: rv.RVRAE.paper(P, K, hidden=4),
    "kalman": lambda: rv.RVRAE(
        P,
        K,
        loadings=rv.loadings.MLP(P, K, hidden=(5,)),
        factor_prior=rv.priors.AR1(K),
        likelihood=rv.likelihoods.Normal(),
    ),
    "heavy": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.Recurrent(K, hidden=3, innovation="student_t"),
        decoder=rv.decoders.MLP(K, hidden=3),
        guide=rv.guides.Recurrent(K, hidden=3),
    ),
    "regimes": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.RegimeSwitching(K),
        likelihood=rv.likelihoods.NormalMixture(),
        guide=rv.guides.Smoothing(K, hidden=3),
    ),
    "volatility": lambda: rv.RVRAE(
        P,
        K,
        loadings=rv.loadings.MLP(P, K, hidden=(5,)),
        factor_prior=rv.priors.StochasticVolatility(K),
    ),
    "flow": lambda: rv.RVRAE(
        P, K, loadings=rv.loadings.MLP(P, K, hidden=(5,)), factor_prior=rv.priors.Flow(K)
    ),
    "linear": lambda: rv.RVRAE(
        P, K, loadings=rv.loadings.Linear(P, K), factor_prior=rv.priors.StandardNormal(K)
    ),
}


def as_fit(model: rv.RVRAE) -> rv.Fit:
    """Wrap a model as it is: what a fit says depends on its weights alone."""
    nothing = xr.DataArray(np.zeros((0, 0)), dims=("step", "time"))
    config = rv.FitConfig()
    return rv.Fit(model, config, 0, pd.DataFrame(), nothing, nothing, "max_steps", 0, {"seed": 0})


def build(kind: str) -> rv.Fit:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return as_fit(stir(MODELS[kind](), size=0.2))


FITS = {kind: build(kind) for kind in MODELS}


def answers(fit: rv.Fit, panel: xr.Dataset) -> dict[str, xr.DataArray]:
    """All that a fit says of each month, keyed by whether it may know the month's own returns."""
    forecast = fit.forecast(panel, num_samples=SAMPLES)
    filtered = fit.factors(panel, "filtered", num_samples=SAMPLES)
    return {
        "forecast": forecast["predictions"]["returns"],
        "predicted": forecast["predictions"]["factors"],
        "forecast scale": forecast["predictions_constant_data"]["idio_scale"],
        "loadings": fit.loadings(panel),
        "idio_scale": fit.idio_scale(panel, num_samples=SAMPLES),
        "filtered": filtered["factors"],
        "filtered mean": filtered["mean"],
        "reconstruct": fit.reconstruct(panel, num_samples=SAMPLES),
    }


KNOWS_THE_MONTH = ("filtered", "filtered mean", "reconstruct")


def same_bits(ours: xr.DataArray, theirs: xr.DataArray, name: str) -> None:
    if "asset" in ours.dims:
        theirs = theirs.sel(asset=ours["asset"])
    a = ours.transpose(*theirs.dims).to_numpy()
    assert a.shape == theirs.shape
    assert np.array_equal(a, theirs.to_numpy(), equal_nan=True), name


def shake(panel: xr.Dataset, since: int, what: str, seed: int) -> xr.Dataset:
    """Change or delete something of the months from ``since`` on."""
    rng = np.random.default_rng(seed)
    other = panel.copy(deep=True)
    if what == "cut":
        return other.isel(time=slice(0, since))
    late = slice(since, None)
    returns = other["returns"].transpose("time", "asset")
    x = other["characteristics"].transpose("time", "asset", "characteristic")
    if what == "returns":
        returns[late] = returns[late] + 0.1 * rng.normal(size=returns[late].shape)
    elif what == "no returns":
        returns[late] = np.nan
    elif what == "characteristics":
        x[late] = x[late] * rng.uniform(-1, 1, size=x[late].shape)
    elif what == "context":
        shape = other["context"][late].shape
        other["context"][late] = rng.normal(size=shape)
    elif what == "listing":
        gone = rng.uniform(size=x[late].shape[:2]) < 0.4
        gone[:, 0] = False
        x[late] = np.where(gone[..., None], np.nan, x[late])
        returns[late] = np.where(gone, np.nan, returns[late])
    elif what == "entry":
        x[late] = np.where(np.isnan(x[late]), rng.uniform(-1, 1, x[late].shape), x[late])
    other["returns"], other["characteristics"] = returns, x
    return other


CHANGES = ["returns", "no returns", "characteristics", "context", "listing", "entry", "cut"]


@pytest.mark.parametrize("kind", list(MODELS))
@given(
    since=st.integers(1, N_TIMES - 1),
    what=st.sampled_from(CHANGES),
    panel_seed=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=3)
def test_later_months_change_no_bit(
    kind: str, since: int, what: str, panel_seed: int, seed: int
) -> None:
    """Months before the change: forecasts, factors, loadings and scales are bit-equal."""
    panel = random_panel(N_TIMES, 10, seed=panel_seed, empty_months=[3])
    before = slice(0, since)
    ours = answers(FITS[kind], panel)
    theirs = answers(FITS[kind], shake(panel, since, what, seed))
    for name, value in ours.items():
        same_bits(value.isel(time=before), theirs[name].isel(time=before), name)


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("what", ["returns", "no returns"])
@pytest.mark.parametrize("t", [1, 4, N_TIMES - 1])
def test_own_returns_change_no_bit_of_the_forecast_and_do_change_the_filter(
    kind: str, what: str, t: int
) -> None:
    panel = random_panel(N_TIMES, 10, seed=1)
    ours = answers(FITS[kind], panel)
    theirs = answers(FITS[kind], shake(panel, t, what, 0))
    upto = slice(0, t + 1)
    for name, value in ours.items():
        if name in KNOWS_THE_MONTH:
            there = [v.isel(time=t).to_numpy() for v in (value, theirs[name])]
            assert not np.array_equal(*there, equal_nan=True), name
        else:
            same_bits(value.isel(time=upto), theirs[name].isel(time=upto), name)


@pytest.mark.parametrize("kind", ["default", "both", "observed", "kalman"])
def test_earlier_returns_do_change_the_forecast(kind: str) -> None:
    """The checks above have teeth: a model with memory answers to the past."""
    panel = random_panel(N_TIMES, 10, seed=1)
    other = panel.copy(deep=True)
    other["returns"][2] = other["returns"][2] + 0.2
    ours, theirs = (answers(FITS[kind], p)["forecast"].isel(time=4) for p in (panel, other))
    assert not np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("kind", list(MODELS))
@given(seed=st.integers(0, 1000))
@settings(max_examples=3)
def test_permuting_assets_permutes_the_answer(kind: str, seed: int) -> None:
    panel = random_panel(N_TIMES, 10, seed=seed % 3, empty_months=[5])
    order = np.random.default_rng(seed).permutation(10)
    ours, theirs = (answers(FITS[kind], p) for p in (panel, panel.isel(asset=order)))
    for name, value in ours.items():
        other = theirs[name]
        if "asset" in other.dims:
            other = other.sel(asset=value["asset"])
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", list(MODELS))
def test_never_listed_assets_change_nothing(kind: str) -> None:
    panel = random_panel(N_TIMES, 10, seed=2)
    ghosts = xr.full_like(panel.isel(asset=slice(0, 3)), np.nan)
    ghosts = ghosts.assign_coords(asset=["0 ghost", "M ghost", "z ghost"])
    ghosts["context"] = panel["context"]
    padded = xr.concat(
        [ghosts, panel], "asset", data_vars="minimal", coords="minimal", compat="override"
    )
    ours, theirs = answers(FITS[kind], panel), answers(FITS[kind], padded)
    for name, value in ours.items():
        other = theirs[name]
        if "asset" in other.dims:
            assert bool(other.sel(asset=ghosts["asset"].to_numpy()).isnull().all())
            other = other.sel(asset=value["asset"])
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", list(MODELS))
def test_unlisted_cells_are_missing_and_listed_ones_are_not(kind: str) -> None:
    """A late entry, an early exit, a suspension: an answer for every listed cell and no other."""
    panel = random_panel(N_TIMES, 10, seed=4, empty_months=[2])
    x = panel["characteristics"].transpose("time", "asset", "characteristic")
    x[:3, 0] = np.nan  # enters late
    x[5:, 1] = np.nan  # leaves
    x[3:6, 2] = np.nan  # leaves and comes back
    panel["characteristics"] = x
    panel["returns"] = panel["returns"].where(x.notnull().any("characteristic"))
    listed = x.notnull().any("characteristic")
    for name, value in answers(FITS[kind], panel).items():
        known = value.notnull()
        extra = [d for d in known.dims if d not in ("time", "asset")]
        if "asset" in known.dims:
            assert bool((known.all(extra) == listed).all()), name
            assert bool((known.any(extra) == listed).all()), name
        else:
            assert bool(known.all()), name


def test_a_month_without_returns_leaves_the_prediction_as_the_belief() -> None:
    """Filtered and predicted factors of such a month have the same moments, here the same bits."""
    panel = random_panel(N_TIMES, 10, seed=1, empty_months=[4])
    fit = FITS["kalman"]
    filtered = fit.factors(panel, "filtered", num_samples=50)
    predicted = fit.factors(panel, "predicted", num_samples=50)
    np.testing.assert_allclose(
        filtered["factors"].isel(time=4), predicted["factors"].isel(time=4), rtol=1e-9, atol=1e-12
    )


def test_own_loadings_without_an_online_form_do_not_look_ahead() -> None:
    """A user's part that only has ``forward`` agrees to rounding whatever comes later."""

    class Cubic(rv.loadings.Loadings):
        def __init__(self, n_characteristics: int, n_factors: int) -> None:
            super().__init__()
            self.n_characteristics, self.n_factors = n_characteristics, n_factors
            self.layer = torch.nn.Linear(2 * n_characteristics, n_factors)

        def forward(self, batch: object) -> torch.Tensor:
            x = batch.characteristics
            return self.layer(torch.cat([x, x**3], dim=-1))

    fit = as_fit(rv.RVRAE(P, K, loadings=Cubic(P, K)))
    panel = random_panel(N_TIMES, 10, seed=1)
    ours = answers(fit, panel)
    theirs = answers(fit, shake(panel, 5, "characteristics", 0))
    for name, value in ours.items():
        a, b = (v.isel(time=slice(0, 5)) for v in (value, theirs[name]))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9, err_msg=name)
