"""Power scaling against closed forms of a Gaussian forecast, and against ArviZ's own."""

import arviz_stats as azs
import numpy as np
import pytest
import xarray as xr
from scipy import stats

import rvrae_pyro as rv
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

S = 40_000


def gaussian(beta=(0.04, 0.0), idio=0.03, loc=0.5, draws=S) -> xr.DataTree:
    """Two assets, one month, one standard normal factor around ``loc``."""
    rng = np.random.default_rng(0)
    factor = loc + rng.normal(size=draws)
    returns = factor[:, None] * np.array(beta) + idio * rng.normal(size=(draws, 2))
    group = xr.Dataset(
        {
            "returns": (("chain", "draw", "time", "asset"), returns[None, :, None]),
            "log_prior": (
                ("chain", "draw", "time"),
                stats.norm.logpdf(factor - loc)[None, :, None],
            ),
        },
        coords={"time": [np.datetime64("2000-01-31", "ns")], "asset": ["a", "b"]},
    )
    return xr.DataTree.from_dict({"predictions": group})


def test_changes_are_those_of_the_closed_form() -> None:
    """The scaled prior is Normal with variance 1 / alpha: within 3 %, the tail 15 %."""
    found = rv.evaluation.psense(gaussian()).isel(time=0)
    sds = [np.hypot(0.04 / np.sqrt(alpha), 0.03) for alpha in (0.8, 1.25)]
    width = np.log2(1.25 / 0.8)
    sd = (sds[1] - sds[0]) / width
    first = found.sel(asset="a")
    assert first["sd"].item() == pytest.approx(sd, rel=0.03)
    assert first["var"].item() == pytest.approx(stats.norm.isf(0.05) * sd, rel=0.15)
    shortfall = stats.norm.pdf(stats.norm.isf(0.05)) / 0.05
    assert first["es"].item() == pytest.approx(shortfall * sd, rel=0.06)
    assert abs(first["mean"].item()) < 0.001
    assert first["sensitivity"] > 0.05
    other = found.sel(asset="b")
    assert other["sensitivity"] < 0.02
    assert abs(other["sd"].item()) < 0.0005
    assert found["khat"] < 0.5


def test_sensitivity_is_that_of_arviz() -> None:
    tree = gaussian(draws=800)
    found = rv.evaluation.psense(tree)
    month = tree["predictions"].to_dataset().isel(time=0, drop=True)
    theirs = azs.psense(
        xr.DataTree.from_dict({"posterior": month[["returns"]], "log_prior": month[["log_prior"]]}),
        alphas=(0.8, 1.25),
    )
    np.testing.assert_allclose(found["sensitivity"][0], theirs["returns"], rtol=5e-3)


def test_a_real_forecast_and_its_densities() -> None:
    """Exact model and particles: the prior's density of the draws, and unlisted assets left out."""
    panel = random_panel(8, 10)
    for likelihood in (rv.likelihoods.Normal(), rv.likelihoods.StudentT()):
        model = rv.RVRAE(P, K, factor_prior=rv.priors.StandardNormal(K), likelihood=likelihood)
        fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=2), progress=False)
        tree = fit.forecast(panel, 200, times=panel.time[-2:])
        factors = tree["predictions"]["factors"]
        expected = stats.norm.logpdf(factors).sum(-1)
        np.testing.assert_allclose(tree["predictions"]["log_prior"], expected, rtol=1e-5)
        found = rv.evaluation.psense(tree)
        listed = tree["predictions"]["returns"].notnull().all(("chain", "draw"))
        assert bool((found["sd"].notnull() == listed).all())


def test_misuse_is_refused() -> None:
    tree = gaussian(draws=100)
    with pytest.raises(rv.ConfigError, match="`alphas`"):
        rv.evaluation.psense(tree, alphas=(1.1, 1.2))
    with pytest.raises(rv.ConfigError, match="`tail`"):
        rv.evaluation.psense(tree, tail=0.0)
    with pytest.raises(rv.ShapeError, match="log_prior"):
        rv.evaluation.psense(xr.DataTree())
