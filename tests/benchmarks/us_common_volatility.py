"""Walk-forward risk on the real panel of US stocks, with and without the common volatility.

    python -m tests.benchmarks.us_common_volatility --model common --years 2010 2011 --against none
    python -m tests.benchmarks.us_common_volatility --model memoryless --fit-once

Each year is forecast month by month by a model trained from 2005 on and stopped on the year
before; with ``--fit-once`` by the one that was stopped on the year before the first. Models:

- ``common``: ``RVRAE.for_panel`` with 8 factors and a small one per characteristic;
- ``memoryless``: the same around ``StandardNormal``, so that only the volatility has a memory;
- ``none``: ``RVRAE.for_stocks`` with context, whose scales are a function of the past;
- ``constant``: the same around ``StandardNormal``: scales and factors of all months are alike.

Prints the measures of ``rv.experiments.risk_scores`` by year, and paired differences. Fits and
records are kept in ``runs/us_common_volatility``; after a change of the code that moves numbers,
clear the folder. Needs the panel that RVRAE_US_PANEL names, of which it reads no month
after the last year.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

import rvrae_pyro as rv
from tests.benchmarks.test_us_panel import load

FOLDER = Path("runs/us_common_volatility")
FIRST, LAST = 2010, 2015
N_FACTORS = 8


def common(panel: xr.Dataset) -> rv.RVRAE:
    """The default for many stocks."""
    return rv.RVRAE.for_panel(panel, N_FACTORS)


def memoryless(panel: xr.Dataset) -> rv.RVRAE:
    """The default around a prior without memory: factors of all months are alike but for x."""
    size = panel.sizes["characteristic"]
    base = rv.priors.Augmented(rv.priors.StandardNormal(N_FACTORS), size)
    return rv.RVRAE(
        size,
        N_FACTORS + size,
        loadings=rv.loadings.Augmented(rv.loadings.LSTM(size, N_FACTORS)),
        factor_prior=rv.priors.CommonVolatility(base, persistence=0.97, gain=0.3),
        likelihood=rv.likelihoods.SkewStudentT(rv.likelihoods.CharacteristicScale(size)),
    )


def constant(panel: xr.Dataset) -> rv.RVRAE:
    """``for_stocks`` around ``StandardNormal``: no memory and no common volatility."""
    size = panel.sizes["characteristic"]
    return rv.RVRAE(
        size,
        N_FACTORS + size,
        loadings=rv.loadings.Augmented(rv.loadings.LSTM(size, N_FACTORS)),
        factor_prior=rv.priors.Augmented(rv.priors.StandardNormal(N_FACTORS), size),
        likelihood=rv.likelihoods.SkewStudentT(rv.likelihoods.CharacteristicScale(size)),
    )


def none(panel: xr.Dataset) -> rv.RVRAE:
    """The model for single stocks with the panel's context, without the common volatility."""
    size, context = panel.sizes["characteristic"], panel.sizes["feature"]
    return rv.RVRAE.for_stocks(size, N_FACTORS, n_context=context)


MODELS: Mapping[str, Callable[[xr.Dataset], rv.RVRAE]] = {
    "common": common,
    "memoryless": memoryless,
    "none": none,
    "constant": constant,
}


@dataclass(frozen=True)
class Spec:
    """A model, how it is trained, and the years that it forecasts."""

    model: str
    years: tuple[int, ...]
    fit_once: bool = False
    steps: int = 400
    num_samples: int = 1000
    seed: int = 0

    def forecasts(self) -> list[tuple[int, tuple[int, ...]]]:
        """The first year that a fit has not seen, and the years that it forecasts."""
        if self.fit_once:
            return [(FIRST, self.years)]
        return [(year, (year,)) for year in self.years]

    def path(self, until: int, years: tuple[int, ...]) -> Path:
        """Where a record is kept."""
        of = f"{self.model}-{until}-{self.steps}-{self.seed}"
        return FOLDER / f"{of}-{self.num_samples}-{'-'.join(map(str, years))}.nc"


@functools.cache
def panel_until(year: int) -> xr.Dataset:
    """The panel to the end of a year."""
    return load().sel(time=slice(None, str(year)))


def train(model: str, year: int, steps: int, seed: int) -> rv.Fit:
    """Fit on the months before a year, the last twelve for validation."""
    path = FOLDER / f"{model}-{year}-{steps}-{seed}"
    if not path.exists():
        panel = panel_until(year - 1)
        fit = rv.fit(
            MODELS[model](panel),
            panel.sel(time=slice(None, str(year - 2))),
            panel.sel(time=str(year - 1)),
            config=rv.FitConfig(max_steps=steps),
            seed=seed,
            progress=False,
        )
        fit.save(path)
    fit = rv.load(path)
    assert isinstance(fit, rv.Fit)
    return fit


def record_of(spec: Spec, until: int, years: tuple[int, ...]) -> xr.Dataset:
    """Record of the years that one fit forecasts, read where it is kept."""
    path = spec.path(until, years)
    if not path.exists():
        fit = train(spec.model, until, spec.steps, spec.seed)
        panel = panel_until(years[-1])
        months = panel["time"].to_numpy()[panel["time"].dt.year.isin(years).to_numpy()]
        began = time.process_time()
        found = rv.experiments.risk_record(
            fit, panel, months, num_samples=spec.num_samples, seed=spec.seed
        )
        seconds = (time.process_time() - began) / len(months)
        found = found.assign(
            pit=found["pit"].astype("float32"), cpu_seconds=("time", [seconds] * len(months))
        )
        partial = path.with_suffix(f".{os.getpid()}.partial")
        found.to_netcdf(partial)
        partial.replace(path)
    with xr.open_dataset(path) as kept:
        return kept.load()


def record(spec: Spec) -> xr.Dataset:
    """Records of all fits, joined."""
    each = [record_of(spec, *one) for one in spec.forecasts()]
    return xr.concat(each, "time", data_vars="all", join="outer")


def periods(years: Sequence[int]) -> dict[str, slice]:
    """All years together and one by one."""
    return {"all": slice(None)} | {str(year): slice(str(year), str(year)) for year in years}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from a command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--years", type=int, nargs="*", default=range(FIRST, LAST + 1))
    parser.add_argument("--fit-once", action="store_true", help="one fit, to the first year")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--against", nargs="*", choices=MODELS, default=())
    given = parser.parse_args(arguments)
    rest = (given.fit_once, given.steps, given.num_samples, given.seed)
    years = tuple(sorted(given.years))
    found = record(Spec(given.model, years, *rest))
    spans = periods(years)
    table = rv.experiments.risk_scores(found, spans)["estimate"]
    print(f"{given.model}{', fitted once' if given.fit_once else ''}")
    print(f"{'':<22}" + "".join(f"{name:>10}" for name in spans))
    for measure in table["measure"].to_numpy():
        cells = table.sel(measure=measure).to_numpy()
        print(f"{measure:<22}" + "".join(f"{cell:>10.4f}" for cell in cells))
    for other in given.against:
        rival = record(Spec(other, years, *rest))
        test = rv.experiments.compare_risk(found, rival, spans)
        print(f"{given.model} less {other}: difference, standard error, p-value")
        for score in test["score"].to_numpy():
            row = test.sel(score=score)
            for name in ("difference", "standard_error", "p_value"):
                cells = row[name].to_numpy()
                label = f"{score} {name}"
                print(f"{label:<22}" + "".join(f"{cell:>10.4f}" for cell in cells))


if __name__ == "__main__":
    main()
