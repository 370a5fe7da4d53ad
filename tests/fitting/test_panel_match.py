"""Panels given to a fit are compared with the one that it was fitted on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv

NAMES: Final = ("value", "mom", "vol_12m")


def _table(n_months: int = 30, n_assets: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    months = pd.period_range("2000-01", periods=n_months, freq="M")
    table = pd.DataFrame(
        {
            "date": np.repeat(months.strftime("%Y-%m"), n_assets),
            "asset": np.tile([f"s{i}" for i in range(n_assets)], n_months),
            "ret": rng.normal(0.005, 0.05, n_months * n_assets),
        }
    )
    for name, size in zip(NAMES, (1.0, 0.3, 0.1), strict=True):
        table[name] = rng.lognormal(0.0, size, len(table))
    return table


@pytest.fixture(scope="module")
def raw() -> xr.Dataset:
    return rv.data.market_context(rv.data.from_frame(_table(), excess=True))


@pytest.fixture(scope="module")
def ranked(raw: xr.Dataset) -> xr.Dataset:
    return rv.data.rank_characteristics(raw)


def _fit(panel: xr.Dataset, n_context: int = 2, **options: Any) -> rv.Fit:
    model = rv.RVRAE(len(NAMES), 2, n_context=n_context)
    train, valid, _ = rv.data.split(panel, 20, 6, 4)
    config = rv.FitConfig(max_steps=2)
    return rv.fit(model, train, valid, config=config, progress=False, **options)


@pytest.fixture(scope="module")
def fit(ranked: xr.Dataset) -> rv.Fit:
    return _fit(ranked)


ENTRANCES: Final[dict[str, Callable[[rv.Fit, xr.Dataset], Any]]] = {
    "forecast": lambda fit, panel: fit.forecast(panel, 20)["predictions"]["returns"],
    "posterior_predictive": lambda fit, panel: fit.posterior_predictive(panel, 20)[
        "posterior_predictive"
    ]["returns"],
    "moments": lambda fit, panel: fit.moments(panel, 20)["mean"],
    "attribution": lambda fit, panel: fit.attribution(panel, 20),
    "sensitivity": lambda fit, panel: fit.sensitivity(panel, 20),
    "factors": lambda fit, panel: fit.factors(panel, num_samples=20)["mean"],
    "loadings": lambda fit, panel: fit.loadings(panel),
    "idio_scale": lambda fit, panel: fit.idio_scale(panel, 20),
    "reconstruct": lambda fit, panel: fit.reconstruct(panel, 20),
    "log_evidence": lambda fit, panel: fit.log_evidence(panel, 20),
    "relevance": lambda fit, panel: fit.relevance(panel)["posterior"]["relevance"],
    "check": lambda fit, panel: fit.check(panel, 100),
    "risk.covariance": lambda fit, panel: rv.risk.covariance(fit, panel, num_samples=20).idio_var,
    "diagnostics.psis": lambda fit, panel: rv.diagnostics.psis(fit, panel, 100).khat,
}


def _weekly(panel: xr.Dataset) -> xr.Dataset:
    sundays = pd.date_range("2000-01-02", periods=panel.sizes["time"], freq="W")
    return panel.assign_coords(time=sundays).assign_attrs(frequency="weekly")


@pytest.mark.parametrize("name", ENTRANCES)
def test_every_entrance_raises_on_another_transform_frequency_or_lag(
    fit: rv.Fit, raw: xr.Dataset, ranked: xr.Dataset, name: str
) -> None:
    ask = ENTRANCES[name]
    ask(fit, ranked)  # what is known already is compared, too
    with pytest.raises(rv.PanelError, match=r"`transform` must be 'rank', got 'none'. Rank the"):
        ask(fit, raw)
    with pytest.raises(rv.PanelError, match=r"`frequency` must be 'monthly', got 'weekly'"):
        ask(fit, _weekly(ranked))
    with pytest.raises(rv.PanelError, match=r"`lag` must be 0, got 1\. .*lag=0\)"):
        ask(fit, ranked.assign_attrs(lag=1))


def test_every_difference_is_listed(fit: rv.Fit, raw: xr.Dataset) -> None:
    wrong = _weekly(raw).assign_attrs(lag=1).isel(characteristic=[0, 1])
    with pytest.raises(rv.PanelError, match="does not match the panel of the fit in 4 ways"):
        fit.forecast(wrong)


@pytest.mark.parametrize("name", [each for each in ENTRANCES if each != "check"])
def test_characteristics_and_context_are_taken_by_name(
    fit: rv.Fit, ranked: xr.Dataset, name: str
) -> None:
    other = ranked.isel(characteristic=[2, 0, 1], feature=[1, 0])
    expected, got = ENTRANCES[name](fit, ranked), ENTRANCES[name](fit, other)
    if not isinstance(got, xr.DataArray):
        assert str(got) == str(expected)
        return
    xr.testing.assert_equal(got, expected)


def _with_extra(panel: xr.Dataset) -> xr.Dataset:
    extra = panel[["characteristics"]].isel(characteristic=[0])
    options = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}
    return xr.concat(
        [panel, extra.assign_coords(characteristic=["x"])], "characteristic", **options
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.isel(characteristic=[0, 1]), "missing: 'vol_12m'. Add them, or fit again"),
        (
            _with_extra,
            "must be the 3 of the fit; unknown to the model: 'x'. Leave them out: panel.sel(char",
        ),
        (
            lambda p: p.assign_coords(characteristic=["value", "mom", "size"]),
            "missing: 'vol_12m'; unknown to the model: 'size'",
        ),
        (
            lambda p: p.drop_dims("feature"),
            "'vol_12m_median', 'vol_12m_iqr' is missing. Add it with rv.data.market_context",
        ),
        (
            lambda p: p.assign_coords(feature=["a", "vol_12m_iqr"]),
            "features of `context` must be the 2 of the fit; missing: 'vol_12m_median'; unknown",
        ),
    ],
    ids=["missing", "extra", "renamed", "no context", "another context"],
)
def test_missing_and_unknown_names_raise(
    fit: rv.Fit, ranked: xr.Dataset, change: Callable[[xr.Dataset], xr.Dataset], message: str
) -> None:
    with pytest.raises(rv.PanelError, match=re.escape(message)):
        fit.forecast(change(ranked), 20)


def test_panels_without_attributes_are_accepted(fit: rv.Fit, ranked: xr.Dataset) -> None:
    bare = ranked.copy()
    bare.attrs, bare["context"].attrs = {}, {}
    xr.testing.assert_equal(fit.moments(bare, 20), fit.moments(ranked, 20))
    of_bare = _fit(bare)
    xr.testing.assert_equal(of_bare.moments(ranked, 20), of_bare.moments(bare, 20))


def test_a_model_that_reads_no_context_takes_any(ranked: xr.Dataset) -> None:
    fit = _fit(ranked, n_context=0)
    fit.moments(ranked.drop_dims("feature"), 20)
    fit.moments(ranked.assign_coords(feature=["a", "b"]), 20)


def test_other_returns_and_another_start_of_the_context_warn(
    fit: rv.Fit, raw: xr.Dataset, ranked: xr.Dataset
) -> None:
    with pytest.warns(
        rv.RvraeWarning, match=r"returns are 'simple, taken as excess', those of the"
    ):
        fit.moments(ranked.assign_attrs(return_kind="simple, taken as excess"), 20)
    late = raw.drop_dims("feature").isel(time=slice(12, None))
    late = rv.data.rank_characteristics(rv.data.market_context(late))
    with pytest.warns(rv.RvraeWarning, match=r"from 2001-01-31 on, that of"):
        fit.moments(late, 20)
    fit.moments(ranked.isel(time=slice(12, None)), 20)  # context of the whole panel, cut later


def test_the_description_is_saved_and_loaded(
    fit: rv.Fit, raw: xr.Dataset, ranked: xr.Dataset, tmp_path
) -> None:
    read = rv.load(fit.save(tmp_path / "fit"))
    assert read.attrs["panel"] == fit.attrs["panel"]
    with pytest.raises(rv.PanelError, match=r"`transform` must be 'rank'"):
        read.moments(raw, 20)
    other = ranked.isel(characteristic=[2, 0, 1])
    xr.testing.assert_equal(read.moments(other, 20), fit.moments(ranked, 20))


def test_validation_and_warm_starts_are_compared(
    fit: rv.Fit, raw: xr.Dataset, ranked: xr.Dataset
) -> None:
    model, config = rv.RVRAE(3, 2, n_context=2), rv.FitConfig(max_steps=2)
    train, valid = ranked.isel(time=slice(20)), raw.isel(time=slice(20, 26))
    with pytest.raises(rv.PanelError, match=r"`valid` does not match .* got 'none'"):
        rv.fit(model, train, valid, config=config, progress=False)
    with pytest.raises(rv.PanelError, match=r"`train` does not match .* got 'none'"):
        rv.fit(model, raw, init=fit, config=config, progress=False)
    turned = ranked.isel(characteristic=[2, 0, 1])
    again = rv.fit(model, turned, init=fit, config=config, progress=False)
    assert again.attrs["characteristics"] == fit.attrs["characteristics"]
    straight = rv.fit(rv.RVRAE(3, 2, n_context=2), train, config=config, progress=False)
    mixed = rv.fit(
        rv.RVRAE(3, 2, n_context=2),
        train,
        ranked.isel(time=slice(20, 26), characteristic=[1, 2, 0]),
        config=config,
        progress=False,
    )
    assert straight.attrs["characteristics"] == mixed.attrs["characteristics"]


@pytest.mark.parametrize(
    "baseline",
    [rv.baselines.IPCA(1), rv.baselines.ConditionalAutoencoder(1)],
    ids=lambda each: type(each).__name__,
)
def test_baselines_compare_panels(
    baseline: Any, raw: xr.Dataset, ranked: xr.Dataset, tmp_path
) -> None:
    if isinstance(baseline, rv.baselines.ConditionalAutoencoder):
        config = rv.baselines.TrainConfig(max_epochs=2)
        baseline = rv.baselines.ConditionalAutoencoder(1, config=config)
    fitted = baseline.fit(*rv.data.split(ranked, 20, 6, 4)[:2])
    turned = ranked.isel(characteristic=[2, 0, 1])
    for each in (fitted, rv.load(fitted.save(tmp_path / "baseline"))):
        with pytest.raises(rv.PanelError, match=r"`transform` must be 'rank', got 'none'"):
            each.predict(raw)
        with pytest.raises(rv.PanelError, match="missing: 'vol_12m'"):
            each.moments(ranked.isel(characteristic=[0, 1]))
        xr.testing.assert_equal(each.predict(turned), each.predict(ranked))
