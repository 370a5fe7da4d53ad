"""One filter pass serves everything that is read from the same panel, draws and seed."""

from collections import Counter

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.predictive import filtering
from rvrae_pyro.report.facts import gather
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

CONFIG = rv.FitConfig(max_steps=6, window=4)


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(16, 14, seed=5)


@pytest.fixture(scope="module")
def fit(panel: xr.Dataset) -> rv.Fit:
    train = panel.isel(time=slice(0, 12))
    return rv.fit(rv.RVRAE(P, K), train, config=CONFIG, progress=False)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Number of filter passes by months, draws and seed."""
    counts: Counter = Counter()
    inner = filtering.filter_states

    def counted(model, batch, num_samples, seed, cross=None):
        counts[(len(batch.times), num_samples, seed)] += 1
        return inner(model, batch, num_samples, seed, cross)

    monkeypatch.setattr(filtering, "filter_states", counted)
    return counts


def test_a_filtered_panel_answers_as_the_fit_does(fit: rv.Fit, panel: xr.Dataset) -> None:
    filtered = fit.filter(panel, 30, seed=3)
    last = panel.time[-2:]
    asked = {"num_samples": 30, "seed": 3}
    for kind in ("filtered", "smoothed", "predicted"):
        xr.testing.assert_identical(filtered.factors(kind), fit.factors(panel, kind, **asked))
    tree, alone = filtered.forecast(last), fit.forecast(panel, times=last, **asked)
    for group in ("predictions", "predictions_constant_data"):
        xr.testing.assert_identical(tree[group].to_dataset(), alone[group].to_dataset())
    assert dict(tree.attrs) == dict(alone.attrs)
    for name in ("moments", "attribution", "sensitivity"):
        got = getattr(filtered, name)(last)
        xr.testing.assert_identical(got, getattr(fit, name)(panel, times=last, **asked))
    for name in ("log_evidence", "reconstruct", "idio_scale"):
        xr.testing.assert_identical(getattr(filtered, name)(), getattr(fit, name)(panel, **asked))
    xr.testing.assert_identical(filtered.predict(last), fit.predict(panel, last, **asked))
    np.testing.assert_allclose(filtered.loadings(), fit.loadings(panel))


def test_a_check_wants_the_filter_of_its_own_fit(fit: rv.Fit, panel: xr.Dataset) -> None:
    train = panel.isel(time=slice(0, 12))
    other = rv.fit(rv.RVRAE(P, K + 1), train, config=CONFIG, progress=False)
    twin = rv.fit(rv.RVRAE(P, K), train, config=CONFIG, seed=1, progress=False)
    both = rv.Ensemble.of([fit, twin], train)
    mine = fit.filter(panel, 30)
    fit.check(mine)
    both.check(both.filter(panel, 30))
    for judged, foreign in (
        (fit, other.filter(panel, 30)),
        (fit, twin.filter(panel, 30)),
        (fit, both.filter(panel, 30)),
        (both, mine),
    ):
        with pytest.raises(rv.ConfigError, match="was filtered by another fit"):
            judged.check(foreign)


def test_a_filtered_panel_is_frozen_and_holds_no_characteristics(
    fit: rv.Fit, panel: xr.Dataset
) -> None:
    filtered = fit.filter(panel, 20)
    assert filtered.panel is panel
    assert filtered.batch.characteristics.untyped_storage().nbytes() <= 8
    with pytest.raises(AttributeError):
        filtered.seed = 1  # type: ignore[misc]


def test_ess_is_by_month_and_within_bounds(fit: rv.Fit, panel: xr.Dataset) -> None:
    ess = fit.filter(panel, 50).ess
    assert ess.dims == ("time",)
    assert bool(((ess > 0.99) & (ess < 50.01)).all())
    exact = rv.RVRAE(P, K, factor_prior=rv.priors.AR1(K), likelihood=rv.likelihoods.Normal())
    trained = rv.fit(exact, panel, config=CONFIG, progress=False)
    assert bool((trained.filter(panel, 50).ess == 50).all())


def test_many_methods_share_one_pass(fit: rv.Fit, panel: xr.Dataset, passes: Counter) -> None:
    filtered = fit.filter(panel, 25)
    filtered.forecast()
    filtered.factors("predicted")
    filtered.moments()
    filtered.attribution()
    filtered.log_evidence()
    filtered.reconstruct()
    assert sum(passes.values()) == 1


def test_check_filters_once(fit: rv.Fit, panel: xr.Dataset, passes: Counter) -> None:
    fit.check(panel, 60)
    assert sum(passes.values()) == 1


def test_the_report_filters_once_per_panel_and_draws(
    fit: rv.Fit, panel: xr.Dataset, passes: Counter
) -> None:
    gather(fit, panel, panel, num_samples=1000)
    assert max(passes.values()) == 1


def test_a_tree_of_forecasts_takes_one_pass(
    fit: rv.Fit, panel: xr.Dataset, passes: Counter
) -> None:
    rv.experiments.forecast_tree(fit, panel, panel.time.values[-3:], 25)
    assert sum(passes.values()) == 1


def test_walk_forward_filters_once_per_refit(panel: xr.Dataset, passes: Counter) -> None:
    rv.experiments.walk_forward(
        panel,
        rv.RVRAE(P, K),
        train=8,
        valid=2,
        test=3,
        config=rv.FitConfig(max_steps=2),
        num_samples=40,
    )
    assert sum(passes.values()) == 2
