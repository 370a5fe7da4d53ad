"""Calibration of walk-forward forecasts on the real panel of US stocks, with yearly refits.

Run with ``pytest -n 0 -m quality -s tests/benchmarks/test_us_calibration.py``; about fifteen
minutes on one core. Each year from 2010 to 2015 is forecast month by month by a model trained
from 2005 on and stopped on the year before; all choices were made on these years. With
RVRAE_US_SPAN=final the years are 2016 to 2018: log each look in docs/results.md. With
RVRAE_US_MODEL=default it is the model of all defaults, which understates the risk of spreads.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from tests.benchmarks.test_us_panel import load
from tests.data.test_real_panels import needs_us_panel

pytestmark = [pytest.mark.quality, pytest.mark.realdata, needs_us_panel]

SPANS = {"choose": range(2010, 2016), "final": range(2016, 2019)}
N_FACTORS = int(os.environ.get("RVRAE_US_FACTORS", "8"))


def default_model(panel: xr.Dataset) -> rv.RVRAE:
    """All defaults, with the panel's context."""
    return rv.RVRAE(panel.sizes["characteristic"], N_FACTORS, n_context=panel.sizes["feature"])


def stock_model(panel: xr.Dataset) -> rv.RVRAE:
    """The parts for single stocks: small factors beside the learned ones, two-piece tails."""
    size, context = panel.sizes["characteristic"], panel.sizes["feature"]
    return rv.RVRAE.for_stocks(size, N_FACTORS, n_context=context)


def panel_model(panel: xr.Dataset) -> rv.RVRAE:
    """What ``for_panel`` chooses: the parts for single stocks and a common volatility."""
    return rv.RVRAE.for_panel(panel, N_FACTORS)


MODELS = {"stocks": stock_model, "default": default_model, "panel": panel_model}


def forecast_year(panel: xr.Dataset, year: int, make=stock_model, config=None, seed=0):
    """Fit on months before the year, the last twelve of them for validation; forecast the year.

    Returns the draws, their means without the noise of the draws, the evidence and the fit.
    """
    until = panel.sel(time=slice(None, str(year)))
    train = until.sel(time=slice(None, str(year - 2)))
    valid = until.sel(time=str(year - 1))
    fit = rv.fit(make(panel), train, valid, config=config, seed=seed, progress=False)
    tree = fit.forecast(until, num_samples=1000, times=str(year))
    evidence = fit.log_evidence(until, num_samples=500).sel(time=str(year))
    means = fit.moments(until, num_samples=1000, times=str(year))["mean"].isel(chain=0)
    return tree, means, evidence, fit


def decile_spread(means: xr.DataArray) -> xr.DataArray:
    """Long the tenth of highest forecast means, short the lowest, equal weights, known at t-1.

    A sort on means of the draws would pick their luck: a thousand draws of a stock are off by
    0.3 % a month, and the spread's own draws would then promise what it never had.
    """
    mean = means.transpose("time", "asset")
    rank = mean.copy(data=mean.to_pandas().rank(axis=1, pct=True).to_numpy())
    long, short = (rank > 0.9).astype(float), (rank <= 0.1).astype(float)
    return long / long.sum("asset") - short / short.sum("asset")


def study(years, make=stock_model, config=None, panel=None) -> dict[str, object]:
    """Forecast every year and hold it against what happened."""
    panel = load() if panel is None else panel
    trees, centres, evidences, seconds = [], [], [], 0.0
    for year in years:
        tree, means, evidence, fit = forecast_year(panel, year, make, config)
        centres.append(means)
        trees.append(tree["predictions"].to_dataset()["returns"].astype(np.float32))
        evidences.append(evidence)
        seconds += float(fit.history["seconds"].iloc[-1])
    draws = xr.concat(trees, "time", join="outer")
    returns = panel["returns"].sel(time=draws["time"], asset=draws["asset"])
    forecast = xr.DataTree.from_dict({"predictions": xr.Dataset({"returns": draws})})
    means = xr.concat(centres, "time", join="outer").reindex_like(draws)
    spread = decile_spread(means)
    listed = draws.isel(chain=0, draw=0).notnull()
    equal = listed / listed.sum("asset")
    report = rv.risk.backtest(
        forecast, returns, {"equal weight": equal, "long-short": spread}, num_simulations=300
    )
    books = (draws.fillna(0.0) * spread).sum("asset")
    return summarise(draws, means, returns, xr.concat(evidences, "time"), report) | {
        "long_short_mean": {
            "forecast": round(float(books.mean()), 4),
            "had": round(float((returns.fillna(0.0) * spread).sum("asset").mean()), 4),
        },
        "seconds_to_fit": round(seconds, 1),
    }


def summarise(draws, means, returns, evidence, report) -> dict[str, object]:
    """Coverage pooled and by year, VaR exceedance, portfolio verdicts."""
    seen = returns.notnull()
    levels = draws.fillna(0.0).quantile([0.05, 0.95], ("chain", "draw"), skipna=False)
    inside = ((returns >= levels[0]) & (returns <= levels[1])).where(seen)
    pooled, books = report["pooled"], report["portfolio"]
    years = inside["time"].dt.year
    cells = seen.sum("asset")
    ic = rv.evaluation.rank_ic(returns, means)
    return {
        "log_density_a_cell": round(float(evidence.sum() / cells.sum()), 4),
        "log_density_by_year": by_year(evidence / cells, years),
        "coverage_90": round(float(inside.mean()), 4),
        "coverage_90_by_year": by_year(inside, years),
        "below_var": {f"{t:g}": round(float(pooled["rate"].sel(tail=t)), 4) for t in (0.05, 0.01)},
        "rank_ic": [round(float(ic.mean()), 4), round(float(ic.std() / len(ic) ** 0.5), 4)],
        "portfolios": {
            f"{name} {tail:g}": [
                round(float(books["rate"].sel(tail=tail, portfolio=name)), 4),
                str(books["verdict"].sel(tail=tail, portfolio=name).item()),
            ]
            for name in books["portfolio"].to_numpy().tolist()
            for tail in (0.05, 0.01)
        },
    }


def by_year(values: xr.DataArray, years: xr.DataArray) -> dict[int, float]:
    """Mean of a year's cells or months."""
    return {
        int(y): round(float(values.isel(time=np.flatnonzero(years == y)).mean()), 4)
        for y in np.unique(years)
    }


def test_us_calibration() -> None:
    span = os.environ.get("RVRAE_US_SPAN", "choose")
    result = study(SPANS[span], MODELS[os.environ.get("RVRAE_US_MODEL", "stocks")])
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if span == "choose":
        assert 0.885 <= result["coverage_90"] <= 0.915
        assert all(0.86 <= share <= 0.94 for share in result["coverage_90_by_year"].values())
        assert 0.042 <= result["below_var"]["0.05"] <= 0.058
        assert 0.006 <= result["below_var"]["0.01"] <= 0.015
        verdicts = [verdict for _, verdict in result["portfolios"].values()]
        assert not any(verdict.startswith("rejected") for verdict in verdicts)
