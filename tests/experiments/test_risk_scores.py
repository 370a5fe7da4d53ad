"""Scores of one-month-ahead distributions against what they are by hand."""

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.baselines import ALSTM, EWMA, IPCA
from rvrae_pyro.data.simulators import simulate_dynamic
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.experiments import (
    RISK_MEASURES,
    compare_risk,
    portfolio_var_tests,
    risk_record,
    risk_scores,
    risk_table,
)
from rvrae_pyro.risk.coverage_tests import kupiec


@pytest.fixture(scope="module")
def panel():
    return simulate_dynamic(12, 90, 3, 2, turnover=0.4, missing=0.1, seed=1)[
        ["returns", "characteristics"]
    ]


@pytest.fixture(scope="module")
def model(panel):
    return EWMA(burn_in=24).fit(panel.isel(time=slice(60)))


@pytest.fixture(scope="module")
def record(panel, model):
    return risk_record(model, panel, slice(panel.time[60].values, None))


def made(n=400, seed=0, **given):
    """Record of a calibrated model of one portfolio."""
    rng = np.random.default_rng(seed)
    times = np.datetime64("1980-01-31", "ns") + np.arange(n).astype("timedelta64[D]")
    sd, z = np.exp(rng.normal(-3, 0.3, n)), rng.normal(size=n)
    columns = {
        "log_evidence": rng.normal(20, 5, n),
        "n_observed": rng.integers(5, 15, n),
        "rank_ic": rng.normal(0.05, 0.2, n),
        "portfolio_return": 0.01 + sd * z,
        "portfolio_mean": np.full(n, 0.01),
        "portfolio_sd": sd,
        "portfolio_pit": rng.uniform(size=n),
        "least_variance_return": rng.normal(0.005, 0.03, n),
        "least_variance_yearly_return": rng.normal(0.005, 0.03, n),
        **given,
    }
    data = xr.Dataset({k: ("time", v) for k, v in columns.items()}, {"time": times})
    data["pit"] = (("time", "asset"), rng.uniform(size=(n, 8)))
    return data


class DrawsOnly:
    """A model whose probabilities are known by its draws alone."""

    def __init__(self, filtered):
        self.forecast, self.log_evidence = filtered.forecast, filtered.log_evidence
        self.moments, self.predict = filtered.moments, filtered.predict


def test_estimates_are_those_of_the_definitions(panel, model, record):
    months = record.time
    table = risk_scores(record)
    value = table["estimate"].sel(period="all")
    returns = panel.returns.sel(time=months)
    known = record.pit.notnull()
    xr.testing.assert_equal(known.drop_vars("asset"), returns.notnull().drop_vars("asset"))
    assert int(record.n_observed.sum()) == int(known.sum())
    evidence = model.log_evidence(panel).sel(time=months)
    assert float(value.sel(measure="log_score")) == pytest.approx(
        float(evidence.sum() / known.sum())
    )
    inside = (abs(record.pit - 0.5) <= 0.45).where(known)
    assert float(value.sel(measure="coverage")) == pytest.approx(float(inside.mean()))
    assert float(value.sel(measure="below_5")) == pytest.approx(
        float((record.pit < 0.05).where(known).mean())
    )
    weights = returns.notnull() / returns.notnull().sum("asset")
    np.testing.assert_allclose(record.portfolio_return, (returns * weights).sum("asset"))
    dense = rv.risk.covariance(model, panel, months).to_dense()
    for t in (0, 17):
        matrix, on = dense[t].to_numpy(), np.isfinite(np.diag(dense[t]))
        w = weights[t].to_numpy()[on]
        s = matrix[np.ix_(on, on)]
        assert float(record.portfolio_sd[t]) == pytest.approx((w @ s @ w) ** 0.5)
        least = np.linalg.solve(s, np.ones(len(s)))
        least /= least.sum()
        earned = least @ returns[t].fillna(0.0).to_numpy()[on]
        assert float(record.least_variance_return[t]) == pytest.approx(earned)
    weights = rv.risk.covariance(model, panel, months).minimum_variance()
    years = months.dt.year.to_numpy()
    for t in range(len(months)):
        january = int(np.flatnonzero(years == years[t])[0])
        earned = float((weights[january] * returns[t].fillna(0.0)).sum())
        assert float(record.least_variance_yearly_return[t]) == pytest.approx(earned)
    error = (record.portfolio_return - record.portfolio_mean) / record.portfolio_sd
    qlike = (2 * np.log(record.portfolio_sd.to_numpy()) + error**2).mean()
    assert float(value.sel(measure="qlike")) == pytest.approx(float(qlike))
    size = np.corrcoef(abs(record.portfolio_return), record.portfolio_sd)[0, 1]
    assert float(value.sel(measure="portfolio_correlation")) == pytest.approx(size)
    spread = record.least_variance_return.std()
    assert float(value.sel(measure="least_variance_sd")) == pytest.approx(float(spread))
    assert list(table.measure.values) == list(RISK_MEASURES)
    assert (table["standard_error"] >= 0).all()


def test_draws_and_closed_forms_agree(panel, model, record):
    """20,000 draws: probabilities within 0.02, more than five standard errors."""
    filtered = model.filter(panel, num_samples=20_000, seed=3)
    xr.testing.assert_identical(risk_record(filtered, panel, record.time), record)
    drawn = risk_record(DrawsOnly(filtered), panel, record.time)
    assert float(abs(drawn.pit - record.pit).max()) < 0.02
    assert float(abs(drawn.portfolio_pit - record.portfolio_pit).max()) < 0.02
    same = (
        "log_evidence",
        "n_observed",
        "portfolio_return",
        "portfolio_mean",
        "portfolio_sd",
        "least_variance_return",
        "least_variance_yearly_return",
    )
    xr.testing.assert_allclose(drawn[list(same)], record[list(same)])


def test_any_model_with_a_distribution_is_scored(panel):
    train = panel.isel(time=slice(60))
    factors = IPCA(2).fit(train)
    assert np.isfinite(risk_scores(risk_record(factors, panel, panel.time[70:]))["estimate"]).all()
    config = rv.FitConfig(max_steps=2)
    fit = rv.fit(rv.RVRAE(3, 2), train, config=config, progress=False)
    months = panel.time[80:]
    record = risk_record(fit, panel, months, num_samples=100, seed=2)
    filtered = fit.filter(panel, 100, 2)
    xr.testing.assert_identical(record, risk_record(filtered, panel, months))
    np.testing.assert_allclose(record.log_evidence, filtered.log_evidence().sel(time=months))
    draws = filtered.forecast(months)["predictions"]["returns"]
    expected = rv.evaluation.pit(panel.returns.sel(time=months), draws)
    np.testing.assert_array_equal(record.pit.transpose(*expected.dims), expected)
    network = ALSTM(4, 1, 2, config=rv.baselines.TrainConfig(max_epochs=1)).fit(train)
    with pytest.raises(ConfigError, match=r"ALSTM has no moments.*predict\(panel\)"):
        risk_record(network, panel)


def test_errors_of_correlation_and_spread_are_those_of_independent_months():
    """2,000 independent months: within 20 % of a closed form and of 400 bootstrap samples."""
    n = 2000
    rng = np.random.default_rng(4)
    sd = np.exp(rng.normal(-3, 0.4, n))
    record = made(n, portfolio_sd=sd, portfolio_return=sd * rng.normal(size=n))
    found = risk_scores(record).sel(period="all")
    spread = found.sel(measure="least_variance_sd")
    known = float(spread["estimate"]) / (2 * n) ** 0.5
    assert float(spread["standard_error"]) == pytest.approx(known, rel=0.2)
    size, resampled = abs(record.portfolio_return.to_numpy()), rng.integers(0, n, (400, n))
    again = [np.corrcoef(size[rows], sd[rows])[0, 1] for rows in resampled]
    error = float(found["standard_error"].sel(measure="portfolio_correlation"))
    assert error == pytest.approx(np.std(again), rel=0.2)


def test_periods_are_scored_apart():
    record = made()
    halves = {"first": slice(None, record.time[199].values), "second": record.time[200:].values}
    table = risk_scores(record, halves)
    np.testing.assert_array_equal(table["n_times"], [200, 200])
    for name, months in halves.items():
        alone = risk_scores(record.sel(time=months))
        xr.testing.assert_equal(
            table.sel(period=name, drop=True), alone.sel(period="all", drop=True)
        )
    with pytest.raises(ConfigError, match="`periods` must give 'none' months of the record"):
        risk_scores(record, {"none": slice("1900", "1901")})


def test_differences_are_diebold_mariano_on_shared_months():
    first, second = made(seed=1), made(seed=2).isel(time=slice(50, None))
    table = compare_risk(first, second)
    shared = first.isel(time=slice(50, None))
    series = [each.log_evidence / each.n_observed for each in (shared, second)]
    expected = rv.evaluation.diebold_mariano(*series)
    got = table.sel(score="log_score", period="all")
    for name in ("difference", "standard_error", "p_value", "n_times"):
        assert float(got[name]) == pytest.approx(float(expected[name]))
    back = compare_risk(second, first)
    np.testing.assert_allclose(back["difference"], -table["difference"])
    moved = made(seed=2).assign_coords(time=first.time + np.timedelta64(9999, "D"))
    with pytest.raises(ShapeError, match="share no month"):
        compare_risk(first, moved)
    with pytest.raises(ShapeError, match=r"`other` must be a Dataset from risk_record; it lacks"):
        compare_risk(first, second.drop_vars("pit"))


def test_var_of_the_portfolio_is_backtested():
    good, bad = made(seed=3), made(seed=3)
    bad["portfolio_pit"] = bad.portfolio_pit**3  # far too many losses
    assert float(portfolio_var_tests(good)["holm"].min()) > 0.05
    tests = portfolio_var_tests(bad)
    assert float(tests["holm"].max()) < 1e-6
    hits = int((bad.portfolio_pit < 0.05).sum())
    assert float(tests["kupiec"][0]) == pytest.approx(kupiec(hits, 400, 0.05).p_exact)
    assert float(tests["rate"][0]) == hits / 400


def test_table_holds_scores_and_paired_differences():
    first, second = made(seed=1), made(seed=2)
    table = risk_table({"a": first, "b": second}, reference="b", measures=["log_score", "qlike"])
    assert list(table.index) == ["a", "b"]
    assert [str(name) for name, _ in table.columns[::2]] == ["log_score", "qlike", "less b"]
    scores = risk_scores(first).isel(period=0).sel(measure="qlike")
    assert table.loc["a", ("qlike", "estimate")] == float(scores["estimate"])
    assert table.loc["a", ("qlike", "s.e.")] == float(scores["standard_error"])
    pair = compare_risk(first, second).isel(period=0).sel(score="log_score")
    assert table.loc["a", ("less b", "estimate")] == float(pair["difference"])
    assert table.loc["a", ("less b", "s.e.")] == float(pair["standard_error"])
    assert table.loc["b", "less b"].isna().all()


def test_table_of_some_months_is_that_of_their_records():
    whole = made(seed=3)
    half = slice(whole.time.values[0], whole.time.values[199])
    table = risk_table({"a": whole}, months=half)
    np.testing.assert_array_equal(table, risk_table({"a": whole.isel(time=slice(200))}))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"measures": ["sharpness"]}, "`measures` .* got 'sharpness'"),
        ({"reference": "c"}, "`reference` must be 'a'; got 'c'"),
        ({"months": slice("2050", None)}, "none"),
    ],
)
def test_what_the_table_rejects(options, match):
    with pytest.raises(ConfigError, match=match):
        risk_table({"a": made()}, **options)
    with pytest.raises(ConfigError, match="`records` must map"):
        risk_table({})
