"""Everything that the page says, worked out once: no HTML here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data import load_french_factors, managed_portfolios
from rvrae_pyro.data.calendar import frequency_of
from rvrae_pyro.data.validation import listed
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.errors import PanelError
from rvrae_pyro.evaluation import factor_profile
from rvrae_pyro.names import ASSET, CHAIN, CHARACTERISTICS, DRAW, FACTOR, RETURNS, TIME, WEIGHT
from rvrae_pyro.plots._summaries import principal_factors
from rvrae_pyro.report.books import EQUAL, standard_books
from rvrae_pyro.report.judged import Judged, Spans, judge, spans_of
from rvrae_pyro.risk import (
    FactorCovariance,
    portfolio,
    portfolio_draws,
    scenario,
    summarize,
)
from rvrae_pyro.risk.tables import forecast_table

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit
    from rvrae_pyro.predictive.filtered import Filtered

__all__ = ["Facts", "gather"]

PORTFOLIO: Final = "portfolio"
_FALL: Final = -2.0  # the scenario: equal weights fall by so many standard deviations


@dataclass(frozen=True)
class Facts:
    """What the page says.

    Attributes
    ----------
    fit : Fit
    panel : Dataset
        Prepared as for the fit.
    spans : Spans
    live : datetime64
        The month that is forecast.
    waiting : bool
        Whether the live month has no return yet.
    check : Check
    ranking : DataFrame
        Of ``forecast_table``, with ``factor_share`` of the variance and ``fall``, the mean if
        equal weights fall.
    fall : float
        By how much they fall, decimal.
    books : Dataset
        Risk of the portfolios (portfolio), tails along ``tail``.
    held : str
        Portfolio whose parts are shown: the first given one, else equal weights.
    parts : DataFrame
        Weight and part of the 5 % expected shortfall of each asset in it.
    factors : Dataset
        Principal factors; see ``principal_factors``; ``name`` along ``factor``.
    profile : Dataset
        Of ``factor_profile``.
    attribution : DataFrame
        Mean forecast of each asset by principal factor, and ``intercept`` where there is one.
    sensitivity : DataFrame
        By characteristic: ``slope`` (mean over assets), ``effect`` (mean size of the slope times
        the characteristic's spread).
    judged : Judged or None
    num_samples, seed : int
    """

    fit: Fit
    panel: xr.Dataset
    spans: Spans
    live: np.datetime64
    waiting: bool
    check: Check
    ranking: pd.DataFrame
    fall: float
    books: xr.Dataset
    held: str
    parts: pd.DataFrame
    factors: xr.Dataset
    profile: xr.Dataset
    attribution: pd.DataFrame
    sensitivity: pd.DataFrame
    judged: Judged | None
    num_samples: int
    seed: int

    @property
    def period(self) -> str:
        """What one row of the panel is called."""
        return {"monthly": "month", "weekly": "week", "daily": "day"}[frequency_of(self.panel)]


def gather(
    fit: Fit,
    panel: xr.Dataset,
    raw: xr.Dataset,
    num_samples: int = 1000,
    seed: int = 0,
    given: Mapping[str, pd.Series[float]] | None = None,
) -> Facts:
    """Work out what the page says.

    Parameters
    ----------
    fit : Fit
    panel : Dataset
        Prepared as for the fit; its last listed row is the month that is forecast.
    raw : Dataset
        The panel before that, for names of assets.
    num_samples, seed : int
    given : mapping from name to Series by asset, optional
        Weights of further portfolios, 0 where an asset has no forecast.

    Returns
    -------
    Facts

    Raises
    ------
    PanelError
        If no asset is listed.
    ConfigError
        If ``num_samples`` is below 1000, too few for a tail of 1 %.
    """
    known = listed(panel)
    rows = np.flatnonzero(known.any(ASSET).values)
    if not rows.size:
        raise PanelError("no asset is listed in any row: there is nothing to report.")
    live = panel[TIME].values[rows[-1]]
    spans = spans_of(fit, panel)
    filtered = fit.filter(panel, num_samples, seed)
    tree = filtered.forecast([live])
    equal = standard_books(tree)[EQUAL]
    sd = float(portfolio_draws(tree, equal).std())
    fall = round(_FALL * sd, 3)
    paths = filtered.factors()
    turned = principal_factors(filtered.loadings(), paths["factors"])
    parts = _attribution(filtered, live, paths["mean"], turned["mean"])
    means = parts.sum(axis=1)
    weights = _portfolios(tree, panel, live, given or {})
    books = portfolio(tree, weights)
    at_live = books.to_dataset().isel({TIME: 0})
    # as in the ranking: means without the noise of the draws
    at_live["mean"] = xr.dot(weights.isel({TIME: 0}), _by_asset(means, weights), dim=ASSET)
    profile = factor_profile(turned["mean"], managed_portfolios(panel), _known(panel))
    judged = judge(fit, filtered, spans)
    return Facts(
        fit,
        panel,
        spans,
        live,
        bool(panel[RETURNS].sel({TIME: live}).isnull().all()),
        _check(fit, filtered, spans, judged),
        _ranking(tree, raw, equal, fall, means),
        fall,
        at_live,
        next(iter(given or {}), EQUAL),
        _parts(books, next(iter(given or {}), EQUAL)),
        turned.assign_coords(name=profile["name"]),
        profile,
        parts,
        _sensitivity(filtered, live),
        judged,
        num_samples,
        seed,
    )


def _check(fit: Fit, filtered: Filtered, spans: Spans, judged: Judged | None) -> Check:
    """Judge the fit on its own months and those after them, and against IPCA."""
    if len(spans.train) < 2:
        page = fit.check()
    else:
        last = spans.judged[-1] if len(spans.judged) else spans.train[-1]
        panel = filtered.panel
        own = panel.sel({TIME: slice(spans.train[0], last)})
        page = fit.check(filtered if own.sizes == panel.sizes else own)
    if judged is None:
        return page
    return Check([*page.findings, *judged.findings], page.limits)


def _known(panel: xr.Dataset) -> xr.DataArray | None:
    """Return factors with names by the panel's months, NaN where unknown; None unless monthly."""
    if frequency_of(panel) != "monthly":
        return None
    return load_french_factors().reindex({TIME: panel[TIME]})


def _portfolios(
    tree: xr.DataTree,
    panel: xr.Dataset,
    live: np.datetime64,
    given: Mapping[str, pd.Series[float]],
) -> xr.DataArray:
    """Stack portfolios (time, asset, portfolio) of the live month, given ones first."""
    standard = standard_books(tree)
    like = standard[EQUAL]
    books = {
        name: xr.zeros_like(like) + _by_asset(weights, like) for name, weights in given.items()
    } | standard
    if WEIGHT in panel:
        value = panel[WEIGHT].sel({TIME: [live]}).where(books[EQUAL] > 0).fillna(0.0).clip(0.0)
        if float(value.sum()) > 0:
            books["Value weights"] = value / value.sum(ASSET)
    least = FactorCovariance.from_forecast(tree).minimum_variance()
    books["Least variance, long and short"] = least.fillna(0.0)
    stacked = np.stack([book.transpose(TIME, ASSET).values for book in books.values()], axis=-1)
    like = books[EQUAL].transpose(TIME, ASSET)
    coords = {dim: like[dim].values for dim in (TIME, ASSET)}
    coords[PORTFOLIO] = np.array(list(books), dtype=str)
    return xr.DataArray(stacked, coords, (TIME, ASSET, PORTFOLIO))


def _ranking(
    tree: xr.DataTree, raw: xr.Dataset, equal: xr.DataArray, fall: float, means: pd.Series
) -> pd.DataFrame:
    """Rank by means without the noise of the draws, which would blur small differences."""
    table = forecast_table(tree, raw)
    risk = summarize(tree).isel({TIME: 0})
    fallen = scenario(tree, weights=equal, value=fall)
    moved = (
        fallen["predictions"].to_dataset()[RETURNS].isel({TIME: 0}).mean((CHAIN, DRAW))
        - risk["mean"]
    )
    share = risk["factor_var"] / risk["sd"] ** 2
    names = table[ASSET].to_numpy()
    table["mean"] = means.loc[names].to_numpy()
    table["factor_share"] = share.sel({ASSET: names}).to_numpy()
    table["fall"] = table["mean"] + moved.sel({ASSET: names}).to_numpy()
    table["rank"] = table["mean"].rank(ascending=False, method="min").astype(int)
    return table.sort_values("rank", kind="stable", ignore_index=True)


def _by_asset(means: pd.Series, like: xr.DataArray) -> xr.DataArray:
    full = means.reindex(like[ASSET].values).fillna(0.0)
    return xr.DataArray(full.to_numpy(), {ASSET: like[ASSET].values}, ASSET)


def _parts(books: xr.DataTree, name: str) -> pd.DataFrame:
    """Parts of the 5 % expected shortfall of a portfolio, largest first."""
    one = books.to_dataset().isel({TIME: 0}).sel({PORTFOLIO: name}).sel(tail=0.05)
    table = pd.DataFrame(
        {
            "weight": one["weights"].to_series(),
            "part": (one["component_es"] / one["es"]).to_series(),
            "sd_part": (one["component_sd"] / one["sd"]).to_series(),
        }
    )
    return table[table["weight"] != 0].sort_values("part", ascending=False)


def _attribution(
    filtered: Filtered, live: np.datetime64, raw: xr.DataArray, turned: xr.DataArray
) -> pd.DataFrame:
    """Mean forecasts of the live month by principal factor; rows sum to the mean forecast."""
    parts = filtered.attribution([live])
    beta = filtered.loadings().sel({TIME: live})
    expected = filtered.factors("predicted")["mean"]
    turn = np.linalg.lstsq(raw.values, turned.values, rcond=None)[0]
    exposure = beta.values @ np.linalg.pinv(turn).T
    table = pd.DataFrame(
        exposure * (expected.sel({TIME: live}).values @ turn),
        index=pd.Index(beta[ASSET].values.astype(str), name=ASSET),
        columns=[int(label) for label in turned[FACTOR].values],
    )
    if 0 in parts[FACTOR].values:
        table["intercept"] = parts.sel({FACTOR: 0}).isel({TIME: 0}).values
    return table.dropna()


def _sensitivity(filtered: Filtered, live: np.datetime64) -> pd.DataFrame:
    slopes = filtered.sensitivity([live]).isel({TIME: 0})
    spread = filtered.panel[CHARACTERISTICS].sel({TIME: live}).where(slopes.notnull()).std(ASSET)
    table = pd.DataFrame(
        {
            "slope": slopes.mean(ASSET).to_series(),
            "effect": (abs(slopes).mean(ASSET) * spread).to_series(),
        }
    )
    return table.sort_values("effect", ascending=False)
