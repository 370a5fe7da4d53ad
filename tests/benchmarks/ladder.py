"""From the paper's model to the default, one change per rung, on walk-forward forecasts.

    python -m tests.benchmarks.ladder --refit 60 --years 1975 1999
    python -m tests.benchmarks.ladder --panel us.nc --years 2013 2015 --train 72 --valid 24

Prints the measures of every rung, and the paired difference of its joint log density to the rung
before. Refits are kept as those of :mod:`tests.benchmarks.french_risk` are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.experiments.competitors import FactoryEntrant
from tests.benchmarks.french_risk import Spec, chosen, options, run


def _paper(panel: xr.Dataset, k: int, **parts: Any) -> rv.RVRAE:
    """Parts of ``RVRAE.paper`` with some replaced."""
    size = panel.sizes["characteristic"]
    given = {
        "loadings": rv.loadings.LSTM(size, k, hidden=32, weights=None, skip=False),
        "factor_prior": rv.priors.Recurrent(k, 32, idio_level=False, weights=None, skip=False),
        "decoder": rv.decoders.Recurrent(k, 32),
        "likelihood": rv.likelihoods.Normal(),
        "guide": rv.guides.Recurrent(k, 32),
    }
    return rv.RVRAE(size, k, **(given | parts))


def _identity(panel: xr.Dataset, k: int) -> rv.RVRAE:
    return _paper(panel, k, decoder=rv.decoders.Identity())


def _conjugate(panel: xr.Dataset, k: int, **parts: Any) -> rv.RVRAE:
    shared = {"decoder": rv.decoders.Identity(), "guide": rv.guides.Conjugate()}
    return _paper(panel, k, **(shared | parts))


def _scales(panel: xr.Dataset, k: int, **parts: Any) -> rv.RVRAE:
    scale = rv.likelihoods.CharacteristicScale(panel.sizes["characteristic"])
    return _conjugate(panel, k, **({"likelihood": rv.likelihoods.StudentT(scale)} | parts))


def _sparse(panel: xr.Dataset, k: int) -> rv.RVRAE:
    return _scales(
        panel,
        k,
        loadings=rv.loadings.LSTM(panel.sizes["characteristic"], k),
        factor_prior=rv.priors.Recurrent(k, idio_level=False),
    )


def _default(panel: xr.Dataset, k: int) -> rv.RVRAE:
    return rv.RVRAE(panel.sizes["characteristic"], k)


def _literal(panel: xr.Dataset, k: int) -> rv.RVRAE:
    return rv.RVRAE.paper(panel.sizes["characteristic"], k)


SUMMED = replace(rv.FitConfig.paper(), kl_reduction="sum")

RUNGS: Mapping[str, tuple[Callable[[xr.Dataset, int], rv.RVRAE], rv.FitConfig]] = {
    "paper": (_literal, rv.FitConfig.paper()),
    "summed KL": (_literal, SUMMED),
    "training": (_literal, rv.FitConfig()),
    "no decoder": (_identity, rv.FitConfig()),
    "conjugate guide": (_conjugate, rv.FitConfig()),
    "Student-t, scale by characteristics": (_scales, rv.FitConfig()),
    "feed-forward paths, weight priors": (_sparse, rv.FitConfig()),
    "common volatility": (_default, rv.FitConfig()),
    "for_panel": (rv.RVRAE.for_panel, rv.FitConfig()),
}
"""Models and their training, from the paper's reading to ``RVRAE.for_panel``."""


@dataclass(frozen=True)
class Rung(Spec):
    """A rung, how often it is refitted, and on what."""

    n_factors: int = 5

    def make(self, panel: xr.Dataset) -> FactoryEntrant:
        """Competitor for a training panel."""
        model, config = RUNGS[self.name]
        if self.steps:
            config = replace(config, max_steps=min(config.max_steps, self.steps))
        return FactoryEntrant(self.name, partial(model_of, model, self.n_factors), config)


def model_of(
    make: Callable[[xr.Dataset, int], rv.RVRAE], n_factors: int, panel: xr.Dataset
) -> rv.RVRAE:
    """Build a rung's model for a training panel."""
    return make(panel, n_factors)


def print_rungs(records: Mapping[str, xr.Dataset]) -> None:
    """Print each rung's measures and its difference to the one before."""
    span = {"all": slice(None)}
    measures = ("log_score", "coverage", "below_5", "below_1", "rank_ic", "portfolio_correlation")
    before = None
    for name, record in records.items():
        table = rv.experiments.risk_scores(record, span).isel(period=0)
        cells = [
            f"{m} {float(table['estimate'].sel(measure=m)):.4f} "
            f"({float(table['standard_error'].sel(measure=m)):.4f})"
            for m in measures
        ]
        line = f"{name:<38}" + "  ".join(cells)
        if before is not None:
            paired = (
                rv.experiments.compare_risk(record, before, span)
                .isel(period=0)
                .sel(score="log_score")
            )
            line += f"  step {float(paired['difference']):+.4f} "
            line += f"({float(paired['standard_error']):.4f})"
        print(f"{line}  CPU {float(record['cpu_seconds'].sum()):.0f} s", flush=True)
        before = record


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from a command line."""
    parser = options(__doc__, refit=60, last=1999)
    parser.add_argument("--rungs", nargs="*", default=list(RUNGS), help="some of them, by name")
    parser.add_argument("--factors", type=int, default=5)
    given = parser.parse_args(arguments)
    records = {}
    for name in given.rungs:
        rung = Rung(name, n_factors=given.factors, **chosen(given))
        records[name] = run(rung, given.folder)
        print(f"{name}: done", flush=True)
    print_rungs(records)


if __name__ == "__main__":
    main()
