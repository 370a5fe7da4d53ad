"""The yardstick of predictive risk: simple models on the embedded 30 portfolios.

``pytest -n 0 -s -m benchmark tests/benchmarks/test_french_risk.py`` prints the table of
docs/development/risk_log.md, about ten minutes on one core; RVRAE_RISK_MODELS names other models,
with commas, and RVRAE_RISK_REFIT the months between refits. What runs in every test run holds the
models against their definition, written out below in plain numpy.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import rvrae_pyro as rv
from tests.benchmarks.french_risk import (
    SIMPLE,
    Spec,
    load,
    main,
    print_difference,
    print_scores,
    run,
)


def reference_moments(past: np.ndarray, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and covariance, shrunk by 5 % to a constant correlation."""
    age = np.arange(len(past))[::-1]
    weight = decay**age if decay < 1 else (age < 216) * 1.0
    weight = weight / weight.sum()
    mean = weight @ past
    error = past - mean
    sample = (error * weight[:, None]).T @ error
    sd, n = np.sqrt(np.diag(sample)), len(sample)
    rho = ((sample / np.outer(sd, sd)).sum() - n) / (n * (n - 1))
    target = np.outer(sd, sd) * (rho + (1 - rho) * np.eye(n))
    return mean, 0.95 * sample + 0.05 * target


def reference(
    returns: np.ndarray, first: int, stop: int, every: int, decay: float, scale: float, df: float
) -> dict[str, np.ndarray]:
    """Monthly figures of a simple model, from month ``first`` to ``stop``."""
    n = returns.shape[1]
    tails = stats.norm.ppf([0.01, 0.05])
    if math.isfinite(df):
        tails = stats.t.ppf([0.01, 0.05], df) * math.sqrt((df - 2) / df)
    equal, h, rows = np.ones(n) / n, 1.0, []
    for t in range(60, stop):
        if t == 60 or (t - first) % every == 0:
            mean, shrunk = reference_moments(returns[:t], decay)
            least = np.linalg.solve(shrunk, np.ones(n))
            least /= least.sum()
        covariance = h * shrunk
        error = returns[t] - mean
        if t >= first:
            density = (
                stats.multivariate_t(mean, covariance * (df - 2) / df, df).logpdf(returns[t])
                if math.isfinite(df)
                else stats.multivariate_normal(mean, covariance).logpdf(returns[t])
            )
            z = error / np.sqrt(np.diag(covariance))
            sd = math.sqrt(equal @ covariance @ equal)
            y = equal @ error / sd
            rows.append(
                (
                    density / n,
                    (abs(z) <= -tails[1]).mean(),
                    (z < tails[1]).mean(),
                    (z < tails[0]).mean(),
                    abs(y) <= -tails[1],
                    abs(equal @ returns[t]),
                    sd,
                    least @ returns[t],
                    math.log(sd**2) + y**2,
                )
            )
        if scale < 1:
            squared = error @ np.linalg.solve(covariance, error)
            h = scale * h + (1 - scale) * min(h * squared / n, 6.0)
    names = ("log_score", "coverage", "below_5", "below_1", "portfolio_coverage")
    more = ("size", "portfolio_sd", "least_variance_return", "qlike")
    return dict(zip((*names, *more), np.array(rows, float).T, strict=True))


SETTINGS = {
    "Normal": (1.0, 1.0, math.inf),
    "MultivariateT": (1.0, 1.0, 8.0),
    "EWMA": (0.985, 0.85, 10.0),
}


def hold_against_reference(name: str, every: int, years: tuple[int, int], folder) -> xr.Dataset:
    """Every column of the table, of a model and of its definition, to 1e-6."""
    panel = load()
    spec = Spec(name, every, years)
    record = run(spec, folder)
    first, stop = spec.refits(panel)[0][0], spec.refits(panel)[-1][1]
    returns = panel["returns"].transpose("time", "asset").to_numpy()
    expected = reference(returns, first, stop, every, *SETTINGS[name])
    table = rv.experiments.risk_scores(record)["estimate"].sel(period="all")
    for measure in ("log_score", "coverage", "below_5", "below_1", "portfolio_coverage", "qlike"):
        assert abs(float(table.sel(measure=measure)) - expected[measure].mean()) < 1e-6, measure
    spread = expected["least_variance_return"].std()
    assert abs(float(table.sel(measure="least_variance_sd")) - spread) < 1e-6
    correlation = np.corrcoef(expected["size"], expected["portfolio_sd"])[0, 1]
    assert abs(float(table.sel(measure="portfolio_correlation")) - correlation) < 1e-6
    evidence = record["log_evidence"] / record["n_observed"]
    np.testing.assert_allclose(evidence, expected["log_score"], atol=1e-9)
    np.testing.assert_allclose(record["portfolio_sd"], expected["portfolio_sd"], rtol=1e-9)
    return record


@pytest.mark.parametrize(
    ("name", "every"),
    [("Normal", 12), ("MultivariateT", 12), ("EWMA", 12), ("EWMA", 36), ("EWMA", 1)],
)
def test_simple_models_are_their_definition(name, every, tmp_path):
    years = (1986, 1988) if every > 1 else (1975, 1975)
    record = hold_against_reference(name, every, years, tmp_path)
    kept = sorted(tmp_path.rglob("*.nc"))
    assert len(kept) == len(Spec(name, every, years).refits(load()))
    stamps = [path.stat().st_mtime_ns for path in kept]
    xr.testing.assert_identical(run(Spec(name, every, years), tmp_path), record)
    assert [path.stat().st_mtime_ns for path in kept] == stamps  # read, not run again


def test_another_panel_and_ones_own_model_from_the_command_line(tmp_path, capsys):
    """The embedded panel from a file gives the embedded panel's figures."""
    short = load().sel(time=slice("1975", "1987"))
    rv.data.write_panel(short, tmp_path / "short.nc")
    given = ("--panel", str(tmp_path / "short.nc"), "--folder", str(tmp_path / "kept"))
    factory = "tests.benchmarks.test_french_risk:small"
    own = ("--model", "mine", "--factory", factory, "--train", "48", "--valid", "12")
    main([*own, *given, "--years", "1986", "1987", "--against", "MultivariateT"])
    said = capsys.readouterr().out
    assert "mine, refit every 12 months: 24 months" in said
    assert "mine less MultivariateT" in said
    spec = Spec("MultivariateT", 12, (1986, 1987), file=tmp_path / "short.nc")
    record = run(spec, tmp_path / "kept")
    model = rv.baselines.MultivariateT().fit(short.sel(time=slice(None, "1985")))
    evidence = model.log_evidence(short.sel(time="1986"))
    np.testing.assert_allclose(record["log_evidence"].sel(time="1986"), evidence)


def test_warm_refits_start_from_the_first_one(tmp_path, capsys):
    """The first refit is the cold one, the others are not; a second run reads all."""
    factory = "tests.benchmarks.test_french_risk:short"
    own = (
        "--model",
        "mine",
        "--factory",
        factory,
        "--train",
        "48",
        "--valid",
        "12",
        "--steps",
        "6",
    )
    call = [*own, "--years", "1986", "1987", "--num-samples", "20", "--folder", str(tmp_path)]
    main([*call, "--warm", "--against", "mine"])
    said = capsys.readouterr().out
    assert "refit every 12 months from the first fit: 24 months" in said
    assert "mine less mine, cold refits" in said
    spec = Spec("mine", 12, (1986, 1987), 48, 12, 20, 0, 6, factory)
    cold, warm = run(spec, tmp_path), run(replace(spec, warm=True), tmp_path)
    same = (cold["log_evidence"] == warm["log_evidence"]).groupby("time.year").all()
    assert same.values.tolist() == [True, False]
    kept = sorted(tmp_path.rglob("*.nc"))
    assert len([path for path in kept if path.parent.name == "mine"]) == 3


def short(panel: xr.Dataset) -> rv.RVRAE:
    """A model as the command line takes it."""
    n = panel.sizes["characteristic"]
    linear, prior = rv.loadings.Linear(n, 1), rv.priors.AR1(1)
    return rv.RVRAE(n, 1, loadings=linear, factor_prior=prior, likelihood=rv.likelihoods.Normal())


def small(panel: xr.Dataset) -> rv.baselines.IPCA:
    """A factory as the command line takes it."""
    return rv.baselines.IPCA(2)


@pytest.mark.benchmark
@pytest.mark.parametrize("every", [1, 12, 36])
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_whole_period_is_the_definition(name, every, tmp_path):
    print_scores(
        f"{name}, refit every {every} months",
        hold_against_reference(name, every, (1975, 2017), tmp_path),
    )


@pytest.mark.benchmark
def test_table_of_models_and_their_differences():
    """Print the table; the mixture must not lose to its members' default, nor that to a t."""
    every = int(os.environ.get("RVRAE_RISK_REFIT", "12"))
    names = os.environ.get("RVRAE_RISK_MODELS", ",".join(SIMPLE)).split(",")
    records = {name: run(Spec(name, every, (1975, 2017))) for name in names}
    for name, record in records.items():
        print_scores(f"{name}, refit every {every} months", record)
    for name, record in records.items():
        for other in SIMPLE:
            if other != name:
                print_difference(name, other, record, run(Spec(other, every, (1975, 2017))))
    simple = {name: run(Spec(name, every, (1975, 2017))) for name in SIMPLE}
    for better, worse in (("EWMAMixture", "EWMA"), ("EWMA", "MultivariateT")):
        gain = rv.experiments.compare_risk(simple[better], simple[worse]).sel(score="log_score")
        assert float(gain["difference"][0]) > 0.0
