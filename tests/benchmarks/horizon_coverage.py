"""Coverage of forecasts over 1, 3 and 12 months on the embedded 30 portfolios.

    python -m tests.benchmarks.horizon_coverage --years 1975 2017 --refit 60

Refits on the last 216 months before each span, of which the last 36 stop the training, and
forecasts every month of the span over 12 months. Prints the coverage of central intervals of the
compounded returns of single portfolios and of their equal-weight average, and the rate of losses
beyond its VaR, with Newey-West errors of twice the horizon in lags, since the returns of
consecutive origins overlap. ``--figure FILE`` draws the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import rvrae_pyro as rv
from tests.benchmarks.french_risk import load

STEPS = (1, 3, 12)
PROBS = (0.5, 0.9)
TAIL = 0.05
TRAIN, VALID = 180, 36


def make(panel: xr.Dataset) -> rv.RVRAE:
    """Five recurrent factors with a common volatility."""
    n_context = panel.sizes["feature"]
    prior = rv.priors.CommonVolatility(rv.priors.Recurrent(5, n_context=n_context))
    return rv.RVRAE(panel.sizes["characteristic"], 5, factor_prior=prior, n_context=n_context)


def run_span(panel: xr.Dataset, start: int, stop: int, num_samples: int, kind: str) -> xr.Dataset:
    """Hits of intervals and VaR (time, step) of the origins ``start`` to ``stop``."""
    rows = start - TRAIN - VALID
    if kind == "EWMA":
        fit = rv.baselines.EWMA().fit(panel.isel(time=slice(start)))
    else:
        train = panel.isel(time=slice(rows, start - VALID))
        valid = panel.isel(time=slice(start - VALID, start))
        fit = rv.fit(make(train), train, valid, seed=0, progress=False)
    seen = panel.isel(time=slice(rows, stop))
    times = panel["time"].to_numpy()[start:stop]
    paths = fit.forecast(seen, num_samples, times=times, horizon=max(STEPS))
    real = rv.evaluation.compounded_returns(panel["returns"], max(STEPS)).sel(time=times)
    equal = real.mean("asset", skipna=False)
    found = []
    for step in STEPS:
        one = rv.risk.at_step(paths, step)
        draws = one["predictions"]["returns"]
        market = draws.mean("asset")
        mine, average = real.sel(step=step, drop=True), equal.sel(step=step, drop=True)
        hits = {}
        for prob in PROBS:
            tail = (1 - prob) / 2
            for name, values, drawn in (("asset", mine, draws), ("market", average, market)):
                low, high = (
                    drawn.quantile(q, ("chain", "draw"), method="weibull") for q in (tail, 1 - tail)
                )
                inside = (
                    ((values >= low) & (values <= high))
                    .where(values.notnull())
                    .drop_vars("quantile", errors="ignore")
                )
                if "asset" in inside.dims:
                    inside = inside.mean("asset")
                hits[f"{name} {prob:.0%}"] = inside
        limit = market.quantile(TAIL, ("chain", "draw"), method="weibull").drop_vars("quantile")
        hits[f"market loss beyond VaR {TAIL:.0%}"] = (average < limit).where(average.notnull())
        found.append(xr.Dataset(hits))
    return xr.concat(found, "step").assign_coords(step=list(STEPS))


def table(hits: xr.Dataset) -> xr.Dataset:
    """Rates and their errors (rate, step)."""
    rates, errors = [], []
    for name in hits.data_vars:
        each = [hits[name].sel(step=s).dropna("time") for s in STEPS]
        rates.append([float(one.mean()) for one in each])
        errors.append(
            [
                float(rv.evaluation.hac_standard_error(one, lags=2 * s))
                for one, s in zip(each, STEPS, strict=True)
            ]
        )
    coords = {"rate": list(hits.data_vars), "step": list(STEPS)}
    return xr.Dataset(
        {"estimate": (("rate", "step"), rates), "standard_error": (("rate", "step"), errors)},
        coords,
    )


def draw(found: xr.Dataset, path: Path) -> None:
    """Draw estimate and two standard errors against the nominal rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, found.sizes["rate"], sharex=True)
    for axis, name in zip(axes, found["rate"].values, strict=True):
        row, nominal = found.sel(rate=name), float(str(name).split()[-1].rstrip("%")) / 100
        axis.axhline(nominal, color="#595959", linewidth=0.8)
        axis.errorbar(
            range(len(STEPS)), row["estimate"], 2 * row["standard_error"], fmt="o", color="#0072B2"
        )
        axis.set_xticks(range(len(STEPS)), [str(s) for s in STEPS])
        axis.set_title(str(name).replace("beyond", "beyond\n"), fontsize=8.5)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.2)
    figure.supxlabel("months", fontsize=9)
    figure.savefig(path, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from a command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--years", type=int, nargs=2, default=(1975, 2017))
    parser.add_argument("--refit", type=int, default=60, help="months between refits")
    parser.add_argument("--model", choices=("RVRAE", "EWMA"), default="RVRAE")
    parser.add_argument("--num-samples", type=int, default=999)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path, help="file of the monthly hits, .nc")
    given = parser.parse_args(arguments)
    panel = load()
    years = panel["time"].dt.year.to_numpy()
    first, last = np.flatnonzero((years >= given.years[0]) & (years <= given.years[1]))[[0, -1]]
    spans = [
        (start, min(start + given.refit, int(last) + 1))
        for start in range(int(first), int(last) + 1, given.refit)
    ]
    each = []
    for start, stop in spans:
        each.append(run_span(panel, start, stop, given.num_samples, given.model))
        print(f"{str(panel['time'].to_numpy()[start])[:7]}: {stop - start} origins", flush=True)
    hits = xr.concat(each, "time")
    if given.out is not None:
        hits.astype(float).to_netcdf(given.out)
    found = table(hits)
    print(f"\n{'':<28}" + "".join(f"{s:>10} months" for s in STEPS))
    for name in found["rate"].values:
        row = found.sel(rate=name)
        cells = zip(row["estimate"].values, row["standard_error"].values, strict=True)
        print(f"{name:<28}" + "".join(f"{a:>8.3f} ({b:.3f})" for a, b in cells))
    if given.figure is not None:
        draw(found, given.figure)


if __name__ == "__main__":
    main()
