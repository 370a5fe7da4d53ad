"""One-month-ahead risk on a simulated market whose factors and residuals share a volatility.

    python -m tests.benchmarks.dynamics_risk --seeds 0 1 2

``simulate_dynamic`` with 100 assets and 240 months; 120 train, 30 validate, 90 score; no refits.
Simple models are fitted to the first 150 months and go on updating their scale. Prints measures of
``rv.experiments.risk_scores`` over the months of all seeds, and paired differences.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.baselines import EWMA, Baseline, MultivariateT

TRAIN, VALID, TIMES = 120, 150, 240
N_FACTORS = 3


def context(panel: xr.Dataset) -> rv.RVRAE:
    """The default, whose scales are functions of context and past factors."""
    features = panel.sizes["feature"]
    return rv.RVRAE(panel.sizes["characteristic"], N_FACTORS, n_context=features)


def common(panel: xr.Dataset) -> rv.RVRAE:
    """The same without context, with a common volatility of its own."""
    base = rv.priors.Recurrent(N_FACTORS, idio_level=False)
    prior = rv.priors.CommonVolatility(base, persistence=0.97, gain=0.3)
    return rv.RVRAE(panel.sizes["characteristic"], N_FACTORS, factor_prior=prior)


def common_context(panel: xr.Dataset) -> rv.RVRAE:
    """Common volatility around a prior that reads the context."""
    return rv.RVRAE.for_panel(panel, N_FACTORS, n_context=panel.sizes["feature"])


MODELS: Mapping[str, Callable[[xr.Dataset], rv.RVRAE | Baseline]] = {
    "context": context,
    "common": common,
    "common_context": common_context,
    "EWMA": lambda _: EWMA(),
    "MultivariateT": lambda _: MultivariateT(),
}
SHOWN = (
    "log_score",
    "coverage",
    "below_5",
    "below_1",
    "portfolio_coverage",
    "portfolio_correlation",
    "qlike",
)


def record(name: str, seed: int, steps: int) -> xr.Dataset:
    """Fit on one simulated market and record its last months."""
    panel = rv.data.simulate_dynamic(n_assets=100, n_times=TIMES, seed=seed)
    panel = rv.data.context_changes(panel)
    train, valid = panel.isel(time=slice(TRAIN)), panel.isel(time=slice(TRAIN, VALID))
    made = MODELS[name](train)
    began = time.process_time()
    if isinstance(made, Baseline):
        fitted = made.fit(panel.isel(time=slice(VALID)), None, seed)
    else:
        config = rv.FitConfig(max_steps=steps)
        fitted = rv.fit(made, train, valid, config=config, seed=seed, progress=False)
    months = panel["time"].to_numpy()[VALID:]
    found = rv.experiments.risk_record(fitted, panel, months, seed=seed)
    # months of seeds follow each other
    moved = found["time"].to_index() + np.timedelta64(40 * 365 * seed, "D")
    seconds = (time.process_time() - began) / len(months)
    return found.assign_coords(time=moved).assign(cpu_seconds=("time", [seconds] * len(moved)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from a command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args(arguments)
    records = {}
    for name in given.models:
        each = [record(name, seed, given.steps) for seed in sorted(given.seeds)]
        records[name] = xr.concat(each, "time", data_vars="all", join="outer")
        scores = rv.experiments.risk_scores(records[name]).isel(period=0)
        print(f"\n{name}: CPU {float(records[name].cpu_seconds.sum()):.0f} s")
        for measure in SHOWN:
            row = scores.sel(measure=measure)
            print(f"{measure:<22}{float(row.estimate):>9.4f} ({float(row.standard_error):.4f})")
        for other in list(records)[:-1]:
            test = rv.experiments.compare_risk(records[name], records[other]).isel(period=0)
            row = test.sel(score="log_score")
            print(
                f"log density less {other}: {float(row.difference):.4f} "
                f"({float(row.standard_error):.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
