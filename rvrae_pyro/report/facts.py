"""Results that the page shows; no HTML here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data import load_french_factors, managed_portfolios
from rvrae_pyro.data.calendar import UNITS, frequency_of
from rvrae_pyro.data.validation import listed
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.errors import ConfigError, PanelError
from rvrae_pyro.evaluation import factor_profile
from rvrae_pyro.names import ASSET, CHAIN, CHARACTERISTICS, DRAW, FACTOR, RETURNS, TIME
from rvrae_pyro.plots.model import principal_factors
from rvrae_pyro.report.held_out import Judged, Spans, judge, spans_of
from rvrae_pyro.report.portfolio_tables import (
    EQUAL,
    PORTFOLIO,
    SHOCK,
    changes,
    group_table,
    horizon_table,
    live_portfolios,
    parts_of,
    scenario_table,
    standard_portfolios,
)
from rvrae_pyro.report.tables import day
from rvrae_pyro.risk import portfolio, portfolio_draws, scenario, summarize
from rvrae_pyro.risk.draws import centred
from rvrae_pyro.risk.summary import forecast_table

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit
    from rvrae_pyro.predictive.filtered import Filtered

_HORIZON: Final = 12
_GROUPS: Final = ("sector", "industry", "group")
_MOST_GROUPS: Final = 40
_DEAD: Final = 0.005
"""Share of the common variation below which a factor is not drawn."""


@dataclass(frozen=True)
class Facts:
    """Results that the page shows.

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
        Their return then, two standard deviations below its mean, decimal.
    portfolios : Dataset
        Risk of the portfolios (portfolio), tails along ``tail``.
    held : str
        Portfolio whose parts are shown: the first given one, else equal weights.
    parts : DataFrame
        Of ``parts_of`` for the portfolio that is held.
    factors : Dataset
        Of ``principal_factors``; ``name`` along ``factor``.
    profile : Dataset
        Of ``factor_profile``.
    attribution : DataFrame
        Mean forecast of each asset by principal factor, and ``intercept`` where there is one.
    sensitivity : DataFrame
        By characteristic: ``slope`` (mean over assets), ``effect`` (mean size of the slope times
        the characteristic's spread).
    judged : Judged or None
    num_samples, seed : int
    weights : DataArray (asset)
        Of the portfolio that is held.
    before : datetime64 or None
        The row before the live one, if it was forecast too.
    changed, moved : DataFrame
        Changes since then of the portfolio and of the assets; see ``portfolio_tables.changes``.
    groups : DataFrame or None
        Of ``group_table``, named after the coordinate; None without labels.
    scenarios : DataFrame
        Of ``scenario_table``.
    paths : DataTree or None
        Forecast over the next periods; None where the model cannot make one.
    horizons : DataFrame
        Of ``horizon_table``; empty without paths.
    """

    fit: Fit
    panel: xr.Dataset
    spans: Spans
    live: np.datetime64
    waiting: bool
    check: Check
    ranking: pd.DataFrame
    fall: float
    portfolios: xr.Dataset
    held: str
    parts: pd.DataFrame
    factors: xr.Dataset
    profile: xr.Dataset
    attribution: pd.DataFrame
    sensitivity: pd.DataFrame
    judged: Judged | None
    num_samples: int
    seed: int
    weights: xr.DataArray
    before: np.datetime64 | None
    changed: pd.DataFrame
    moved: pd.DataFrame
    groups: pd.DataFrame | None
    scenarios: pd.DataFrame
    paths: xr.DataTree | None
    horizons: pd.DataFrame

    @property
    def ranked(self) -> bool:
        """Whether the rank correlation of past means exceeds two standard errors."""
        if self.judged is None:
            return False
        found = self.judged.rank_ic
        return bool(found["estimate"] > 2 * found["standard_error"])

    @property
    def alive(self) -> list[int]:
        """Positions of the factors that carry more than half a percent."""
        return [int(k) for k in np.flatnonzero(self.factors["share"].values >= _DEAD)]

    @property
    def ahead(self) -> str:
        """The month that is forecast: the next one only if it has not happened yet."""
        return f"next {self.period}" if self.waiting else day(self.live, self.period)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Names of the assets of the ranking by id: their own, where there is one, and the id."""
        ids = self.ranking[ASSET].astype(str)
        names = self.ranking.get("name")
        if names is None:
            return dict(zip(ids, ids, strict=True))
        return {key: f"{name} ({key})" for key, name in zip(ids, names, strict=True)}

    @property
    def period(self) -> str:
        """Name of the span of one row: month, week or day."""
        return UNITS[frequency_of(self.panel)]


def gather(
    fit: Fit,
    panel: xr.Dataset,
    raw: xr.Dataset,
    num_samples: int = 1000,
    seed: int = 0,
    given: Mapping[str, pd.Series[float]] | None = None,
    filtered: Filtered | None = None,
) -> Facts:
    """Compute everything that the page shows.

    Parameters
    ----------
    fit, panel, raw, num_samples, seed
        As for :func:`~rvrae_pyro.report.page.build_report`.
    given : mapping from name to Series by asset, optional
        Weights of further portfolios, 0 where an asset has no forecast.
    filtered : Filtered, optional
        ``fit.filter(panel, num_samples, seed)`` where that is known already.
    """
    known = listed(panel)
    rows = np.flatnonzero(known.any(ASSET).values)
    if not rows.size:
        raise PanelError("no asset is listed in any row: there is nothing to report.")
    live = panel[TIME].values[rows[-1]]
    spans = spans_of(fit, panel)
    filtered = fit.filter(panel, num_samples, seed) if filtered is None else filtered
    tree = centred(filtered.forecast([live]))
    equal = standard_portfolios(tree)[EQUAL]
    drawn = portfolio_draws(tree, equal)
    fall = round(float(drawn.mean()) - SHOCK * float(drawn.std()), 3)
    paths = filtered.factors()
    turned = principal_factors(filtered.loadings(), paths["factors"])
    parts = _attribution(filtered, live, paths["mean"], turned["mean"])
    means = parts.sum(axis=1)
    given = given or {}
    weights = live_portfolios(tree, panel, live, given)
    held = next(iter(given), EQUAL)
    own = weights.isel({TIME: 0}, drop=True).sel({PORTFOLIO: held}, drop=True)
    measured = portfolio(tree, weights)
    at_live = measured.to_dataset().isel({TIME: 0})
    profile = factor_profile(turned["mean"], managed_portfolios(panel), _known(panel))
    judged = judge(fit, filtered, spans, given)
    before = panel[TIME].values[rows[-2]] if rows.size > 1 else None
    both = pd.DataFrame({"now": means})
    earlier = None
    if before is not None:
        earlier = centred(filtered.forecast([before]))
        both["before"] = filtered.predict([before]).isel({TIME: 0}).to_series().reindex(both.index)
    changed, moved = changes(tree, earlier, own, both)
    paths_ahead = _paths(filtered, live)
    alone = equal.isel({TIME: 0}, drop=True)
    return Facts(
        fit=fit,
        panel=panel,
        spans=spans,
        live=live,
        waiting=bool(panel[RETURNS].sel({TIME: live}).isnull().all()),
        check=_check(fit, filtered, spans, judged),
        ranking=_ranking(tree, raw, equal, fall, means),
        fall=fall,
        portfolios=at_live,
        held=held,
        parts=parts_of(measured, held),
        factors=turned.assign_coords(name=profile["name"]),
        profile=profile,
        attribution=parts,
        sensitivity=_sensitivity(filtered, live),
        judged=judged,
        num_samples=num_samples,
        seed=seed,
        weights=own,
        before=before,
        changed=changed,
        moved=moved,
        groups=_groups(tree, raw, own, means),
        scenarios=scenario_table(tree, alone, own, _names(raw)),
        paths=paths_ahead,
        horizons=pd.DataFrame() if paths_ahead is None else horizon_table(paths_ahead, own),
    )


def _names(raw: xr.Dataset) -> dict[str, str]:
    """Names of the assets by id, where the panel has them."""
    if "name" not in raw.coords or raw["name"].dims != (ASSET,):
        return {}
    return dict(zip(raw[ASSET].values.astype(str), raw["name"].values.astype(str), strict=True))


def _groups(
    tree: xr.DataTree, raw: xr.Dataset, weights: xr.DataArray, means: pd.Series
) -> pd.DataFrame | None:
    """Sum up by the first of the usual labels on ``asset``."""
    for name in _GROUPS:
        if name not in raw.coords or raw[name].dims != (ASSET,):
            continue
        labels = pd.Series(raw[name].values.astype(str), raw[ASSET].values.astype(str))
        if 1 < labels.loc[means.index].nunique() <= _MOST_GROUPS:
            return group_table(tree, labels, weights, means).rename_axis(name)
    return None


def _paths(filtered: Filtered, live: np.datetime64) -> xr.DataTree | None:
    """Forecast over the next periods."""
    try:
        return centred(filtered.forecast([live], horizon=_HORIZON))
    except ConfigError:  # a part of the model's that cannot simulate ahead
        return None


def _check(fit: Fit, filtered: Filtered, spans: Spans, judged: Judged | None) -> Check:
    """Judge the fit on its own months and those after them, and against IPCA."""
    if len(spans.train) < 2:
        page = fit.check()
    else:
        last = spans.judged[-1] if len(spans.judged) else spans.train[-1]
        panel = filtered.panel
        times = panel[TIME].values
        own = (times >= spans.train[0]) & (times <= last)
        # rows without returns, such as the live one, tell nothing and need no filter of their own
        others = panel[RETURNS].isel({TIME: ~own}).notnull()
        page = fit.check(panel.isel({TIME: own}) if others.any() else filtered)
    if judged is None:
        return page
    return Check([*page.findings, *judged.findings], page.limits)


def _known(panel: xr.Dataset) -> xr.DataArray | None:
    """Return factors with names by the panel's months, NaN where unknown; None unless monthly."""
    if frequency_of(panel) != "monthly":
        return None
    return load_french_factors().reindex({TIME: panel[TIME]})


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
