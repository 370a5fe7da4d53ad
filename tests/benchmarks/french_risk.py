"""Walk-forward risk of any model on the embedded 30 portfolios, with results kept per refit.

    python -m tests.benchmarks.french_risk --model EWMA --refit 12 --years 1975 2017
    python -m tests.benchmarks.french_risk --model mine --factory my_module:make --refit 36
    python -m tests.benchmarks.french_risk --model RVRAE --against EWMA MultivariateT
    python -m tests.benchmarks.french_risk --model EWMA --panel portfolios.nc --years 2000 2018
    python -m tests.benchmarks.french_risk --model mine --factory my_module:make --warm

Prints every measure of ``rv.experiments.risk_scores`` by period, and the paired differences to the
models that ``--against`` names, with the same refits and years. Months of a refit are kept in
``runs/french_risk``, under a hash of the model's description, so that an interrupted or longer run
continues.

Baselines see all months from 1955 to the refit. An RVRAE sees the last 216, of which the last 36
stop its training, or ``--train`` and ``--valid`` months. A factory takes the training panel and
returns a model, a baseline or an entrant, which carries its own training configuration; ``--steps``
bounds the training of a model. ``--warm`` starts every refit of an RVRAE from its first one, as
``rv.experiments.walk_forward(warm_start=True)`` does; ``--against`` its own name compares it with
cold refits. ``--panel FILE`` scores another panel: any file that ``rv.data.read_panel`` reads,
ranked, with context where a model reads it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.baselines import EWMA, Baseline, EWMAMixture, FactorGARCH, MultivariateT
from rvrae_pyro.experiments.competitors import as_entrant, find_entrant, model_entrant
from rvrae_pyro.fitting.saved import describe_config

FIRST = "1955"
FOLDER = Path("runs/french_risk")
N_FACTORS = 5
PERIODS: Mapping[str, slice] = {
    "all": slice(None),
    "1975-99": slice("1975", "1999"),
    "2000-17": slice("2000", "2017"),
    "1975-79": slice("1975", "1979"),
    "1980-89": slice("1980", "1989"),
    "1990-99": slice("1990", "1999"),
    "2000-09": slice("2000", "2009"),
    "2010-17": slice("2010", "2017"),
}
SIMPLE: Mapping[str, Callable[[int], Baseline]] = {
    "Normal": lambda refit: MultivariateT(df=float("inf")),
    "MultivariateT": lambda refit: MultivariateT(),
    "EWMA": lambda refit: EWMA(scale_refit=refit),
    "EWMAMixture": lambda refit: EWMAMixture(scale_refit=refit),
    "FactorGARCH": lambda refit: FactorGARCH(N_FACTORS),
}
"""Simple risk models by name, given the months between refits."""


@functools.cache
def load() -> xr.Dataset:
    """Ranked embedded panel with context, from 1955 to the last month with returns."""
    panel = rv.data.rank_characteristics(rv.data.market_context(rv.data.load_french()))
    return panel.isel(time=slice(None, -1)).sel(time=slice(FIRST, None))


@functools.cache
def load_file(path: Path) -> xr.Dataset:
    """Panel of a file, to the last month with returns."""
    panel = rv.data.read_panel(path)
    seen = panel["returns"].notnull().any("asset").to_numpy()
    return panel.isel(time=slice(int(np.flatnonzero(seen)[-1]) + 1))


@dataclass(frozen=True)
class Spec:
    """A model, how often it is refitted, and on what."""

    name: str
    refit: int
    years: tuple[int, int]
    train: int = 180
    valid: int = 36
    num_samples: int = 1000
    seed: int = 0
    steps: int | None = None
    factory: str | None = None
    file: Path | None = None
    warm: bool = False

    def panel(self) -> xr.Dataset:
        """Panel that is scored."""
        return load() if self.file is None else load_file(self.file)

    def make(self, panel: xr.Dataset) -> Any:
        """Competitor for a training panel."""
        if self.factory is not None:
            module, name = self.factory.split(":")
            made = getattr(importlib.import_module(module), name)(panel)
        elif self.name in SIMPLE:
            made = SIMPLE[self.name](self.refit)
        else:
            return find_entrant(self.name, N_FACTORS)
        config = rv.FitConfig(max_steps=self.steps) if self.steps else None
        return as_entrant(made, name=self.name, config=config)

    def refits(self, panel: xr.Dataset) -> list[tuple[int, int]]:
        """First month and month after the last of every refit, as positions."""
        years = panel["time"].dt.year.to_numpy()
        first, last = np.flatnonzero((years >= self.years[0]) & (years <= self.years[1]))[[0, -1]]
        starts = range(int(first), int(last) + 1, self.refit)
        return [(start, min(start + self.refit, int(last) + 1)) for start in starts]


def spans(spec: Spec, panel: xr.Dataset, start: int) -> tuple[xr.Dataset, xr.Dataset, int]:
    """Training and validation months of an RVRAE that is fitted before ``start``, and the first."""
    first = max(0, start - spec.train - spec.valid)
    train = panel.isel(time=slice(first, start - spec.valid))
    return train, panel.isel(time=slice(start - spec.valid, start)), first


def first_fit(spec: Spec, panel: xr.Dataset, folder: Path) -> rv.Fit:
    """Fit that warm refits start from: the earliest, kept in ``folder``."""
    start, stop = spec.refits(panel)[0]
    train, valid, _ = spans(spec, panel, start)
    model = model_entrant(spec.make(panel.isel(time=slice(start))), train)
    key = _key(replace(spec, warm=False), panel, start, stop)
    path = folder / _slug(spec.name) / f"fit-{key}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model.fit(train, valid, spec.seed).save(path)
    return model.load(path)


def run_refit(
    spec: Spec, panel: xr.Dataset, start: int, stop: int, first: rv.Fit | None = None
) -> xr.Dataset:
    """Fit on months before ``start`` and record the months to ``stop``."""
    past = panel.isel(time=slice(start))
    entrant = spec.make(past)
    began = time.process_time()
    if _is_baseline(entrant):
        fitted = entrant.fit(past, None, spec.seed)
        seen = panel.isel(time=slice(start, stop))
    else:
        train, valid, row = spans(spec, panel, start)
        if first is not None:
            entrant = model_entrant(entrant, train).warm(first)
        fitted = entrant.fit(train, valid, spec.seed)
        seen = panel.isel(time=slice(row, stop))
    trained = time.process_time()
    record = rv.experiments.risk_record(
        fitted,
        seen,
        panel["time"].to_numpy()[start:stop],
        num_samples=spec.num_samples,
        seed=spec.seed,
    )
    seconds = np.ones(record.sizes["time"]) / record.sizes["time"]
    return record.assign(
        cpu_seconds=("time", (time.process_time() - began) * seconds),
        fit_seconds=("time", (trained - began) * seconds),
    )


def _is_baseline(entrant: Any) -> bool:
    return isinstance(getattr(entrant, "template", None), Baseline)


def run(spec: Spec, folder: Path = FOLDER) -> xr.Dataset:
    """Records of all refits, joined; refits that are kept in ``folder`` are read."""
    panel, records, first = spec.panel(), [], None
    for number, (start, stop) in enumerate(spec.refits(panel)):
        warm = spec.warm and number > 0  # the first refit is a cold one
        key = _key(replace(spec, warm=warm), panel, start, stop)
        path = folder / _slug(spec.name) / f"{key}.nc"
        if not path.exists():
            if warm and first is None:
                first = first_fit(spec, panel, folder)
            record = run_refit(spec, panel, start, stop, first if warm else None)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            record.to_netcdf(partial)
            partial.replace(path)
        with xr.open_dataset(path) as kept:
            records.append(kept.load())
    return xr.concat(records, "time", join="outer")


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def _key(spec: Spec, panel: xr.Dataset, start: int, stop: int) -> str:
    """Month of a refit, and a hash of what its record depends on in addition to the code.

    After a change of the code that moves numbers, clear the folder.
    """
    past = panel.isel(time=slice(start))
    described = spec.make(past).describe(past)
    content = [described, start, stop, spec.num_samples, spec.seed, spec.train, spec.valid]
    if spec.file is not None:
        content.append(rv.data.fingerprint(panel))
    if spec.warm:
        content.append({"warm": describe_config(_config(spec, past).warm()), "from": spec.years[0]})
    text = json.dumps(content, sort_keys=True, default=str)
    month = str(panel["time"].to_numpy()[start])[:7]
    return f"{month}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _config(spec: Spec, past: xr.Dataset) -> rv.FitConfig:
    """Training configuration of an RVRAE."""
    return model_entrant(spec.make(past), past).config or rv.FitConfig()


def _periods(record: xr.Dataset) -> dict[str, slice]:
    """Periods with months in the record."""
    return {name: span for name, span in PERIODS.items() if record.sel(time=span).sizes["time"]}


def print_scores(name: str, record: xr.Dataset) -> None:
    """Print every measure by period, with standard errors."""
    periods = _periods(record)
    table = rv.experiments.risk_scores(record, periods)
    spent = float(record.cpu_seconds.sum())
    fits = float(record.fit_seconds.sum()) if "fit_seconds" in record else float("nan")
    print(f"\n{name}: {record.sizes['time']} months; CPU {spent:.1f} s, of which fits {fits:.1f} s")
    print(f"{'':<22}" + "".join(f"{key:>17}" for key in periods))
    for measure in table["measure"].to_numpy():
        row = table.sel(measure=measure)
        cells = zip(row["estimate"].to_numpy(), row["standard_error"].to_numpy(), strict=True)
        print(f"{measure:<22}" + "".join(f"{a:>8.4f} ({b:.4f})" for a, b in cells))
    tests = rv.experiments.portfolio_var_tests(record)
    print("equal-weight VaR, Holm p:", np.round(tests["holm"].to_numpy(), 3).tolist())


def print_difference(name: str, other: str, record: xr.Dataset, rival: xr.Dataset) -> None:
    """Print the paired Diebold-Mariano differences by period."""
    table = rv.experiments.compare_risk(record, rival, _periods(record))
    print(f"\n{name} less {other}: difference (standard error), p-value")
    for score in table["score"].to_numpy():
        row = table.sel(score=score)
        cells = zip(
            *(row[each].to_numpy() for each in ("difference", "standard_error", "p_value")),
            strict=True,
        )
        print(f"{score:<10}" + "".join(f"{a:>9.4f} ({b:.4f}) {p:.3f}" for a, b, p in cells))


def options(text: str | None, refit: int, last: int) -> argparse.ArgumentParser:
    """Parser of the options that every walk-forward takes; ``last`` is its last year."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--refit", type=int, default=refit, help="months between refits")
    parser.add_argument("--years", type=int, nargs=2, default=(1975, last))
    parser.add_argument("--train", type=int, default=180)
    parser.add_argument("--valid", type=int, default=36)
    parser.add_argument("--steps", type=int, help="most training steps of a model")
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--panel", type=Path, help="file of another panel, ranked")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    return parser


def chosen(given: argparse.Namespace) -> dict[str, Any]:
    """Fields of a ``Spec`` that those options choose."""
    names = ("refit", "train", "valid", "num_samples", "seed", "steps")
    fields = {name: getattr(given, name) for name in names}
    return {**fields, "years": tuple(given.years), "file": given.panel}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from a command line."""
    parser = options(__doc__, refit=12, last=2017)
    parser.add_argument("--model", required=True, help="simple model, competitor or own name")
    parser.add_argument("--factory", help="MODULE:FUNCTION from a training panel to a model")
    parser.add_argument("--against", nargs="*", default=(), help="names to compare with")
    parser.add_argument("--warm", action="store_true", help="refits start from the first one")
    given = parser.parse_args(arguments)
    spec = Spec(given.model, factory=given.factory, warm=given.warm, **chosen(given))
    record = run(spec, given.folder)
    how = " from the first fit" if spec.warm else ""
    print_scores(f"{spec.name}, refit every {spec.refit} months{how}", record)
    for other in given.against:
        if other == spec.name:  # its cold refits
            rival = replace(spec, warm=False)
        else:
            rival = replace(spec, name=other, steps=None, factory=None, train=180, valid=36)
            rival = replace(rival, warm=False)
        if rival != spec:
            label = f"{other}, cold refits" if other == spec.name else other
            print_difference(spec.name, label, record, run(rival, given.folder))


if __name__ == "__main__":
    main()
