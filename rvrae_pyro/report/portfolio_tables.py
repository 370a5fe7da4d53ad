"""Portfolios of the page: standard and given ones, their changes, groups and scenarios."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.names import ASSET, CHAIN, DRAW, RETURNS, STEP, TIME, WEIGHT
from rvrae_pyro.risk import FactorCovariance, portfolio, portfolio_draws, scenario

EQUAL: Final = "Equal weights"
BEST: Final = "Best fifth by mean"
SPREAD: Final = "Best fifth less worst fifth"
LEAST: Final = "Least variance, long and short"
PORTFOLIO: Final = "portfolio"
_SHARE: Final = 0.2
_STEPS: Final = (1, 3, 6, 12)
SHOCK: Final = 2.0  # standard deviations of a scenario


def fifths(mean: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Give equal weights to the fifth with the highest means, and to that with the lowest.

    At least one asset is in each fifth; ties go by position. Each sums to one by month, 0 in months
    without a forecast.
    """
    values = mean.transpose(TIME, ASSET).values
    count = np.isfinite(values).sum(axis=1, keepdims=True)
    size = np.maximum(1, np.floor(_SHARE * count))
    up = np.where(np.isfinite(values), values, np.inf).argsort(axis=1, kind="stable")
    place = up.argsort(axis=1, kind="stable")
    known = np.isfinite(values)
    like = mean.transpose(TIME, ASSET)
    low = like.copy(data=np.where(known & (place < size), 1.0 / size, 0.0))
    high = like.copy(data=np.where(known & (place >= count - size), 1.0 / size, 0.0))
    return high, low


def standard_portfolios(tree: xr.DataTree) -> dict[str, xr.DataArray]:
    """Weights (time, asset) by name: equal, the best fifth, and the best less the worst."""
    mean = tree["predictions"].to_dataset()[RETURNS].mean((CHAIN, DRAW))
    known = mean.notnull()
    equal = (known / known.sum(ASSET)).fillna(0.0)
    high, low = fifths(mean)
    return {EQUAL: equal, BEST: high, SPREAD: high - low}


def live_portfolios(
    tree: xr.DataTree, panel: xr.Dataset, live: np.datetime64, given: Mapping[str, pd.Series[float]]
) -> xr.DataArray:
    """Stack portfolios (time, asset, portfolio) of the live month, given ones first."""
    standard = standard_portfolios(tree)
    like = standard[EQUAL]
    portfolios = {
        name: xr.zeros_like(like) + by_asset(weights, like) for name, weights in given.items()
    } | standard
    if WEIGHT in panel:
        value = panel[WEIGHT].sel({TIME: [live]}).where(portfolios[EQUAL] > 0).fillna(0.0).clip(0.0)
        if float(value.sum()) > 0:
            portfolios["Value weights"] = value / value.sum(ASSET)
    least = FactorCovariance.from_forecast(tree).minimum_variance()
    portfolios[LEAST] = least.fillna(0.0)
    stacked = np.stack([one.transpose(TIME, ASSET).values for one in portfolios.values()], axis=-1)
    like = portfolios[EQUAL].transpose(TIME, ASSET)
    coords = {dim: like[dim].values for dim in (TIME, ASSET)}
    coords[PORTFOLIO] = np.array(list(portfolios), dtype=str)
    return xr.DataArray(stacked, coords, (TIME, ASSET, PORTFOLIO))


def past_portfolios(
    tree: xr.DataTree, given: Mapping[str, pd.Series[float]]
) -> dict[str, xr.DataArray]:
    """Weights (time, asset) of the months to judge: given ones where all of it was listed.

    A given portfolio is tested with today's weights; it is left out with fewer than 12 months.
    """
    standard = standard_portfolios(tree)
    listed = standard[EQUAL] > 0
    portfolios = {}
    for name, weights in given.items():
        held = by_asset(weights, standard[EQUAL])
        whole = (listed | (held == 0)).all(ASSET)
        months = standard[EQUAL][TIME].values[whole.values]
        if len(months) >= 12 and float(abs(held).sum()) > 0:
            portfolios[name] = (xr.zeros_like(standard[EQUAL]) + held).sel({TIME: months})
    return portfolios | standard


def parts_of(portfolios: xr.DataTree, name: str) -> pd.DataFrame:
    """Parts of the 5 % expected shortfall of a portfolio, largest first."""
    one = portfolios.to_dataset().isel({TIME: 0}).sel({PORTFOLIO: name}).sel(tail=0.05)
    table = pd.DataFrame(
        {
            "weight": one["weights"].to_series(),
            "part": (one["component_es"] / one["es"]).to_series(),
            "sd_part": (one["component_sd"] / one["sd"]).to_series(),
        }
    )
    return table[table["weight"] != 0].sort_values("part", ascending=False)


def changes(
    now: xr.DataTree, before: xr.DataTree | None, weights: xr.DataArray, means: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the forecast with that of the row before, by the same fit.

    Parameters
    ----------
    now, before : DataTree
        Forecasts of one month each; None where there is no earlier row.
    weights : DataArray (asset)
        The portfolio that is held.
    means : DataFrame
        Mean forecasts by asset, ``now`` and ``before``, without the noise of the draws.

    Returns
    -------
    portfolio : DataFrame
        ``before`` and ``now`` of its mean, sd, VaR and ES at 5 %; empty if an asset that is held
        had no forecast then.
    assets : DataFrame
        ``mean_before``, ``mean_now``, ``sd_before``, ``sd_now``, largest change of sd first.
    """
    if before is None:
        return pd.DataFrame(), pd.DataFrame()
    found = {}
    for name, tree in (("before", before), ("now", now)):
        draws = tree["predictions"].to_dataset()[RETURNS].isel({TIME: 0})
        found[name] = draws.std((CHAIN, DRAW)).to_series()
    both = found["before"].notna() & found["now"].notna()
    table = pd.DataFrame(
        {
            "mean_before": means["before"],
            "mean_now": means["now"],
            "sd_before": found["before"],
            "sd_now": found["now"],
        }
    )[both]
    order = (table["sd_now"] - table["sd_before"]).abs().sort_values(ascending=False).index
    held = weights[ASSET].values[weights.values != 0]
    if not set(held) <= set(table.index):
        return pd.DataFrame(), table.loc[order]
    rows = {}
    for name, tree in (("before", before), ("now", now)):
        one = portfolio(tree, weights, tail=0.05).to_dataset().isel({TIME: 0, "tail": 0})
        kinds = {k: float(one[k]) for k in ("sd", "var", "es")}
        rows[name] = {"mean": float((weights.to_series() * means[name]).sum()), **kinds}
    return pd.DataFrame(rows), table.loc[order]


def group_table(
    tree: xr.DataTree, groups: pd.Series[str], weights: xr.DataArray, means: pd.Series[float]
) -> pd.DataFrame:
    """Sum the forecast of one month up by group of assets.

    Returns by group: ``assets``, ``weight`` in the portfolio that is held, ``part`` of its 5 %
    expected shortfall, and ``mean``, ``sd`` and ``var`` (5 %) of the group with equal weights.
    ``means`` by asset are without the noise of the draws.
    """
    listed = means.dropna().index
    names = sorted(set(groups.loc[listed]))
    assets = weights[ASSET].values
    member = np.array([[groups.get(a) == name and a in means.index for name in names]
                       for a in assets], dtype=float)  # fmt: skip
    coords = {ASSET: assets, PORTFOLIO: names}
    equal = xr.DataArray(member / member.sum(axis=0), coords, (ASSET, PORTFOLIO))
    one = portfolio(tree, equal, tail=0.05).to_dataset().isel({TIME: 0, "tail": 0})
    held = portfolio(tree, weights, tail=0.05).to_dataset().isel({TIME: 0, "tail": 0})
    part = (held["component_es"] / held["es"]).to_series()
    return pd.DataFrame(
        {
            "assets": member.sum(axis=0).astype(int),
            "weight": member.T @ weights.values,
            "part": member.T @ part.reindex(assets).fillna(0.0).to_numpy(),
            "mean": equal.values.T @ means.reindex(assets).fillna(0.0).to_numpy(),
            "sd": one["sd"].values,
            "var": one["var"].values,
        },
        index=pd.Index(names, name="group"),
    )


def scenario_table(
    tree: xr.DataTree, equal: xr.DataArray, weights: xr.DataArray, labels: Mapping[str, str]
) -> pd.DataFrame:
    """Forecast of the held portfolio given that another return is two standard deviations off.

    Returns by scenario: ``given`` (the return that is presumed), ``mean``, ``sd`` and ``var`` (5 %)
    of the portfolio. ``labels`` are names of assets.
    """
    largest = str(weights[ASSET].values[np.abs(weights.values).argmax()])
    alone = xr.zeros_like(weights)
    alone.loc[{ASSET: largest}] = 1.0
    cases = [("Equal weights", equal, -1.0), ("Equal weights", equal, 1.0)]
    if int((weights != 0).sum()) > 1:
        cases.append((labels.get(largest, largest), alone, -1.0))
    rows = {}
    for name, one, side in cases:
        draws = portfolio_draws(tree, one)
        value = round(float(draws.mean()) + side * SHOCK * float(draws.std()), 3)
        given = scenario(tree, weights=one, value=value)
        held = portfolio(given, weights, tail=0.05).to_dataset().isel({TIME: 0, "tail": 0})
        verb = "rise" if side > 0 else "fall"
        rows[f"{name} {verb if name == 'Equal weights' else verb + 's'}"] = {
            "given": value,
            **{kind: float(held[kind]) for kind in ("mean", "sd", "var")},
        }
    return pd.DataFrame(rows).T


def horizon_table(paths: xr.DataTree, weights: xr.DataArray) -> pd.DataFrame:
    """Risk of the held portfolio, bought now, by the number of periods it is kept.

    Returns by period 1, 3, 6, 12, as far as the paths reach: ``mean``, ``sd``, ``var`` and ``es``
    (5 %) of the compounded excess return, and ``prob_loss``.
    """
    found = portfolio(paths, weights, tail=0.05).to_dataset().isel({TIME: 0, "tail": 0})
    steps = [int(step) for step in found[STEP].values if int(step) in _STEPS]
    names = ("mean", "sd", "var", "es", "prob_loss")
    chosen = found.sel({STEP: steps})
    columns = {name: chosen[f"compounded_{name}"].values for name in names}
    return pd.DataFrame(columns, pd.Index(steps, name=STEP))


def by_asset(means: pd.Series[float], like: xr.DataArray) -> xr.DataArray:
    """Values by asset, 0 where there is none."""
    full = means.reindex(like[ASSET].values).fillna(0.0)
    return xr.DataArray(full.to_numpy(), {ASSET: like[ASSET].values}, ASSET)
