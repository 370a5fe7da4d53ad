"""The demo's walk-forward over decades: refits at a small budget, next to simple models."""

import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from math import inf
from operator import methodcaller
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.baselines import EWMA, MultivariateT
from rvrae_pyro.cli.demo_sizes import WalkSizes
from rvrae_pyro.data.splits import walk_forward
from rvrae_pyro.errors import RvraeWarning
from rvrae_pyro.evaluation import predictive_r2
from rvrae_pyro.experiments.risk_scores import risk_record, risk_table
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.parallel import InMemory, Source, outcomes
from rvrae_pyro.fitting.training import fit
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.schedules import Constant
from rvrae_pyro.models.likelihoods import AssetScale, CharacteristicScale, StudentT
from rvrae_pyro.models.loadings import LSTM, AssetEffects
from rvrae_pyro.models.priors import StandardNormal
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.models.weights import Normal
from rvrae_pyro.names import ASSET, CHARACTERISTIC, RETURNS, TIME
from rvrae_pyro.predictive.storage import tree_of

DEFAULT: Final = "RVRAE"
SWAPPED: Final = "swapped"
SIMPLE: Final = ("EWMA", "naive")
_REFERENCE: Final = "EWMA"

MEASURES: Final[Mapping[str, tuple[str, float, int]]] = {
    "log_score": ("Log density", 1.0, 3),
    f"less {_REFERENCE}": ("  less EWMA's", 1.0, 3),
    "coverage": ("90 % coverage, %", 100.0, 1),
    "below_5": ("Below 5 % VaR, %", 100.0, 1),
    "qlike": ("QLIKE", 1.0, 2),
    "predictive_r2": ("Predictive R2, %", 100.0, 2),
    "rank_ic": ("Rank IC", 1.0, 3),
}
"""Measures of the table: label, factor for display, decimals."""


@dataclass(frozen=True)
class Walk:
    """Result of the walk-forward.

    Attributes
    ----------
    table : DataFrame
        By model; columns (measure, "estimate" or "s.e."), keys of :data:`MEASURES`.
    predictions : dict from name to DataTree
        One-month-ahead draws of :data:`DEFAULT` and the EWMA.
    returns : DataArray (time, asset)
        Realised.
    n_refits : int
    smallest_ess : float
        Smallest effective sample size of the filters of :data:`DEFAULT`.
    swap : dict from str to float
        Log score of :data:`DEFAULT` less that of :data:`SWAPPED`, paired: ``estimate`` and
        ``standard_error``.
    """

    table: pd.DataFrame
    predictions: dict[str, xr.DataTree]
    returns: xr.DataArray
    n_refits: int
    smallest_ess: float
    swap: dict[str, float]

    @property
    def span(self) -> tuple[str, str]:
        """First and last month."""
        first, last = (str(t)[:7] for t in self.returns[TIME].values[[0, -1]])
        return first, last

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the table."""
        return [str(name) for name in self.table.index]

    def score(self, model: str, measure: str) -> tuple[float, float]:
        """Return an estimate and its standard error."""
        estimate, error = self.table.loc[[model], measure].to_numpy()[0]
        return float(estimate), float(error)

    def as_dict(self) -> dict[str, Any]:
        """Return what the demo's ``metrics.json`` keeps."""
        names = ("estimate", "standard_error")
        rows = {
            model: {
                measure: dict(zip(names, self.score(model, measure), strict=True))
                for measure in MEASURES
            }
            for model in self.models
        }
        return {
            "span": list(self.span),
            "months": self.returns.sizes[TIME],
            "refits": self.n_refits,
            "smallest_ess": self.smallest_ess,
            "models": rows,
            "swap": self.swap,
        }


def run_walk(
    panel: xr.Dataset, sizes: WalkSizes, n_factors: int, seed: int, live: "LiveFit"
) -> tuple[Walk, Fit]:
    """Refit and forecast over decades; fit the model of the live month in the same processes.

    Parameters
    ----------
    panel : Dataset
        Prepared; the last months of it are forecast.
    sizes : WalkSizes
    n_factors : int
        As for ``RVRAE.for_panel``.
    seed : int
    live : LiveFit
        The fit that is kept.

    Returns
    -------
    Walk, Fit
    """
    seen = panel.sel({TIME: panel[RETURNS].notnull().any(ASSET)})
    past = seen.isel({TIME: slice(-sizes.months - sizes.train, None)})
    source = InMemory(past)
    jobs: dict[tuple[str, int], LiveFit | _Refit] = {("live", 0): live}
    for number, cut in enumerate(walk_forward(past, sizes.train, 0, sizes.between, partial=True)):
        first = int(np.flatnonzero(past[TIME].values == cut.test[TIME].values[0])[0])
        for model in (DEFAULT, SWAPPED, *SIMPLE):
            span = (first, first + cut.test.sizes[TIME])
            jobs[model, number] = _Refit(model, source, span, sizes, n_factors, seed)
    found: dict[tuple[str, int], Any] = {}
    with closing(outcomes(methodcaller("run"), jobs, n_jobs=sizes.n_jobs)) as running:
        for key, outcome in running:
            if isinstance(outcome, Exception):
                raise outcome
            found[key] = outcome
    kept = found.pop(("live", 0))
    return _join(found), kept


@dataclass(frozen=True, eq=False)
class LiveFit:
    """The fit that the demo keeps.

    Attributes
    ----------
    train : InMemory
    n_factors, max_steps, seed : int
    """

    train: InMemory
    n_factors: int
    max_steps: int
    seed: int

    def run(self) -> Fit:
        """Train the default model."""
        train = self.train.load()
        model = RVRAE.for_panel(train, self.n_factors)
        config = FitConfig(max_steps=self.max_steps)
        return fit(model, train, config=config, seed=self.seed).uninterrupted()


@dataclass(frozen=True, eq=False)
class _Refit:
    """One model, the months before, and the months it forecasts."""

    model: str
    source: Source
    span: tuple[int, int]
    sizes: WalkSizes
    n_factors: int
    seed: int

    def run(self) -> xr.Dataset:
        """Fit on the months before the span; record the span, one month ahead."""
        panel, (start, stop), sizes = self.source.load(), self.span, self.sizes
        train = panel.isel({TIME: slice(start - sizes.train, start)})
        months = panel[TIME].values[start:stop]
        if self.model in SIMPLE:
            seen = panel.isel({TIME: slice(start, stop)})
            simple = EWMA() if self.model == "EWMA" else MultivariateT(df=inf)
            fitted: Any = simple.fit(train)
        else:
            seen = panel.isel({TIME: slice(start - sizes.burn_in, stop)})
            model = _quick_model(train, self.n_factors, swapped=self.model == SWAPPED)
            # so few steps have no time for a KL weight that rises
            config = FitConfig(max_steps=sizes.max_steps, kl_schedule=Constant())
            fitted = fit(model, train, config=config, seed=self.seed).uninterrupted()
        with warnings.catch_warnings():
            # few particles are the point here; the smallest sample size is reported
            warnings.simplefilter("ignore", RvraeWarning)
            filtered = fitted.filter(seen, sizes.num_samples, self.seed)
            record = risk_record(filtered, seen, months)
        record["mean"] = filtered.predict(months)
        record[RETURNS] = panel[RETURNS].sel({TIME: months}).reset_coords(drop=True)
        if self.model in (DEFAULT, "EWMA"):
            record["draws"] = filtered.forecast(months)["predictions"].to_dataset()[RETURNS]
        record.attrs = {}
        if self.model == DEFAULT:
            record["ess"] = filtered.ess.sel({TIME: months})
        return record


def _quick_model(train: xr.Dataset, n_factors: int, *, swapped: bool) -> RVRAE:
    """Build the default model with effects by asset at their best value instead of a posterior.

    A posterior of the effects takes twenty filters, one per draw, instead of one.
    """
    default = RVRAE.for_panel(train, n_factors)
    parts: dict[str, Any] = {}
    if isinstance(default.loadings, AssetEffects):
        labels, best = train[ASSET].values.tolist(), Normal(0.3)
        n_characteristics = train.sizes[CHARACTERISTIC]
        base = LSTM(n_characteristics, default.n_factors)
        scale = AssetScale(CharacteristicScale(n_characteristics), labels, weights=best)
        parts = {
            "loadings": AssetEffects(base, labels, weights=best),
            "likelihood": StudentT(scale),
        }
    if swapped:
        parts["factor_prior"] = StandardNormal(default.n_factors)
    return RVRAE.for_panel(train, n_factors, **parts)


def _join(found: Mapping[tuple[str, int], xr.Dataset]) -> Walk:
    numbers = sorted({number for _, number in found})
    records = {
        model: xr.concat(
            [found[model, number] for number in numbers], TIME, combine_attrs="override"
        )
        for model in (DEFAULT, SWAPPED, *SIMPLE)
    }
    plain = {name: record.drop_vars("draws", errors="ignore") for name, record in records.items()}
    measures = [name for name in MEASURES if name not in ("predictive_r2", f"less {_REFERENCE}")]
    table = risk_table(plain, reference=_REFERENCE, measures=measures)
    for name, record in records.items():
        found_r2 = predictive_r2(record[RETURNS], record["mean"], standard_error=True)
        table.loc[name, ("predictive_r2", "estimate")] = float(found_r2["estimate"])
        table.loc[name, ("predictive_r2", "s.e.")] = float(found_r2["standard_error"])
    paired = risk_table(plain, reference=SWAPPED, measures=[])
    estimate, error = paired.loc[[DEFAULT], f"less {SWAPPED}"].to_numpy()[0]
    return Walk(
        table=table,
        predictions={name: _tree(record) for name, record in records.items() if "draws" in record},
        returns=records[DEFAULT][RETURNS],
        n_refits=len(numbers),
        smallest_ess=float(records[DEFAULT]["ess"].min()),
        swap={"estimate": float(estimate), "standard_error": float(error)},
    )


def _tree(record: xr.Dataset) -> xr.DataTree:
    draws = record["draws"].rename(RETURNS).to_dataset()
    return tree_of({"predictions": draws}, {"frequency": "monthly"})


def as_text(value: float, error: float, scale: float, decimals: int) -> str:
    """Return an estimate with its standard error, as the tables show it."""
    if not np.isfinite(value):
        return ""
    return f"{scale * value:.{decimals}f} ({scale * error:.{decimals}f})"


def table_rows(walk: Walk) -> list[list[str]]:
    """Return the rows of the printed table: a measure, then every model."""
    return [
        [label, *(as_text(*walk.score(model, key), scale, decimals) for model in walk.models)]
        for key, (label, scale, decimals) in MEASURES.items()
    ]
