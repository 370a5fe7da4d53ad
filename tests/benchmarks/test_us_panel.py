"""Quality on the real panel of US stocks: one fit, scores by span.

Run with ``pytest -n 0 -m quality -s tests/benchmarks/test_us_panel.py``; about five minutes on
one core. Which months are scored is set by RVRAE_US_SPAN: ``choose`` (the default) trains to
2010, stops on 2011-2012 and scores 2013-2015, where every choice is made; ``final`` trains to
2012, stops on 2013-2015 and opens 2016-2018. Log each look at ``final`` in docs/results.md.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from tests.data.test_real_panels import FOLDER, needs_us_panel

pytestmark = [pytest.mark.quality, pytest.mark.realdata, needs_us_panel]

SPANS = {"choose": ("2010-12", "2012-12", "2015-12"), "final": ("2012-12", "2015-12", "2018-12")}
N_FACTORS = int(os.environ.get("RVRAE_US_FACTORS", "15"))


def load() -> xr.Dataset:
    """Excess returns from 2005 on, ranked characteristics, market context."""
    frame = pd.read_parquet(FOLDER / "us_panel.parquet").drop(columns="dy")
    factors = pd.read_parquet(FOLDER / "ff_factors.parquet").set_index("date")
    panel = rv.data.from_frame(frame, risk_free=factors["rf"])
    panel = rv.data.rank_characteristics(rv.data.market_context(panel))
    return panel.sel(time=slice("2005-01", "2018-12"))


def score(fit: rv.Fit, panel: xr.Dataset, span: slice) -> dict[str, object]:
    """Scores of one-month-ahead forecasts and of fitted returns over a span."""
    test = panel.sel(time=span)
    tree = fit.forecast(panel, num_samples=500, times=span)
    draws = tree["predictions"]["returns"]
    returns = test["returns"]
    mean = draws.mean(("chain", "draw"))
    fitted = fit.reconstruct(panel, num_samples=500).sel(time=span)
    factors = fit.factors(panel, num_samples=500)["mean"]
    running = rv.evaluation.prevailing_mean(factors).sel(time=span)
    by_mean = (fit.loadings(panel).sel(time=span) * running).sum("factor")
    by_mean = by_mean.where(returns.notnull())
    evidence = fit.log_evidence(panel, num_samples=500).sel(time=span)
    cells = returns.notnull().sum("asset")
    levels = draws.fillna(0.0).quantile([0.05, 0.95, 0.01], ("chain", "draw"), skipna=False)
    quantiles = levels.where(returns.notnull())
    inside = (returns >= quantiles[0]) & (returns <= quantiles[1])
    years = returns["time"].dt.year
    seen = returns.notnull()

    def share(hit: xr.DataArray) -> float:
        return round(float(hit.where(seen).mean()), 4)

    ic = rv.evaluation.rank_ic(returns, mean)
    ic_mean = rv.evaluation.rank_ic(returns, by_mean)
    return {
        "log_density_a_cell": round(float(evidence.sum() / cells.sum()), 4),
        "total_r2": round(float(rv.evaluation.total_r2(returns, fitted)), 4),
        "predictive_r2_model": round(float(rv.evaluation.predictive_r2(returns, mean)), 5),
        "predictive_r2_mean": round(float(rv.evaluation.predictive_r2(returns, by_mean)), 5),
        "rank_ic_model": [round(float(ic.mean()), 4), round(float(ic.std() / len(ic) ** 0.5), 4)],
        "rank_ic_mean": [
            round(float(ic_mean.mean()), 4),
            round(float(ic_mean.std() / len(ic) ** 0.5), 4),
        ],
        "coverage_90": share(inside),
        "coverage_90_by_year": {
            int(y): round(float(inside.where(seen).isel(time=np.flatnonzero(years == y)).mean()), 4)
            for y in np.unique(years)
        },
        "below_var_5": share(returns < quantiles[0]),
        "below_var_1": share(returns < quantiles[2]),
    }


def test_us_panel() -> None:
    train_end, valid_end, test_end = SPANS[os.environ.get("RVRAE_US_SPAN", "choose")]
    panel = load().sel(time=slice(None, test_end))
    after = np.datetime64(valid_end, "M") + np.timedelta64(1, "M")
    train = panel.sel(time=slice(None, train_end))
    first = np.datetime64(train_end, "M") + np.timedelta64(1, "M")
    valid = panel.sel(time=slice(str(first), valid_end))
    model = rv.RVRAE(panel.sizes["characteristic"], N_FACTORS, n_context=panel.sizes["feature"])
    fit = rv.fit(model, train, valid, config=rv.FitConfig(max_steps=800), seed=0, progress=False)
    result = score(fit, panel, slice(str(after), test_end))
    result["check"] = fit.check().trusted
    result["seconds_to_fit"] = round(float(fit.history["seconds"].iloc[-1]), 1)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    assert result["log_density_a_cell"] >= 1.01
    assert result["total_r2"] >= 0.11
    assert 0.88 <= result["coverage_90"] <= 0.93
