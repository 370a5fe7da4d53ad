"""Forecasts and risk as tables, one row per asset and month."""

from typing import Final

import pandas as pd
import xarray as xr

from rvrae_pyro.names import ASSET, CHAIN, DRAW, RETURNS, TIME
from rvrae_pyro.risk.summary import summarize

_TAILS: Final = (0.05, 0.01)
# quantiles by the central interval whose ends they are
_INTERVALS: Final = {0.9: ("q05", "q95"), 0.5: ("q25", "q75")}


def forecast_table(tree: xr.DataTree, panel: xr.Dataset) -> pd.DataFrame:
    """Summarise a forecast, best expected return first.

    Parameters
    ----------
    tree : DataTree
        Of ``Fit.forecast``.
    panel : Dataset
        For the text coordinates of the assets, such as a name or an industry.

    Returns
    -------
    DataFrame
        ``date``, ``asset``, its text coordinates, ``mean``, ``sd``, ``q05`` ... ``q95``,
        ``var_05``, ``es_05``, ``var_01``, ``es_01`` (losses, positive), ``prob_loss``, and
        ``rank``: 1 for the highest mean of the month. Excess returns, decimal; listed assets
        only. Information set: that of the draws, months before ``date``.
    """
    returns = tree["predictions"].to_dataset()[RETURNS]
    risk = summarize(tree, tail=_TAILS)
    columns = {"mean": risk["mean"], "sd": risk["sd"], **_quantiles(returns)}
    columns |= _tail_columns(risk) | {"prob_loss": risk["prob_loss"]}
    table = _long(columns)
    table["rank"] = table.groupby("date")["mean"].rank(ascending=False, method="min").astype(int)
    table = table.sort_values(["date", "rank"], kind="stable", ignore_index=True)
    return _with_labels(table, panel)


def risk_table(tree: xr.DataTree) -> pd.DataFrame:
    """Lay out ``rv.risk.summarize`` as a table, in the order of dates and assets.

    Returns
    -------
    DataFrame
        ``date``, ``asset``, ``mean``, ``sd``, value at risk and expected shortfall at 5 % and
        1 %, ``prob_loss``, and the variance by source: ``factor_var``, ``idio_var``.
    """
    risk = summarize(tree, tail=_TAILS)
    columns = {"mean": risk["mean"], "sd": risk["sd"], **_tail_columns(risk)}
    columns |= {name: risk[name] for name in ("prob_loss", "factor_var", "idio_var")}
    return _long(columns)


def _quantiles(returns: xr.DataArray) -> dict[str, xr.DataArray]:
    import arviz_stats as azs  # slow to import, and --help has no use for it

    ends = {}
    for prob, names in _INTERVALS.items():
        interval = azs.eti(returns, prob=prob)  # type: ignore[attr-defined,no-untyped-call]
        for name, bound in zip(names, ("lower", "upper"), strict=True):
            ends[name] = interval.sel(ci_bound=bound, drop=True)
    ends["q50"] = returns.median((CHAIN, DRAW))
    return {name: ends[name] for name in sorted(ends)}


def _tail_columns(risk: xr.Dataset) -> dict[str, xr.DataArray]:
    columns = {}
    for tail in _TAILS:
        for name in ("var", "es"):
            columns[f"{name}_{round(100 * tail):02d}"] = risk[name].sel(tail=tail, drop=True)
    return columns


def _long(columns: dict[str, xr.DataArray]) -> pd.DataFrame:
    """One row a listed cell; every column of dims (time, asset)."""
    dataset = xr.Dataset({name: each.astype("float64") for name, each in columns.items()})
    # ArviZ drops the labels of some dims
    first = columns["mean"]
    dataset = dataset.assign_coords({TIME: first[TIME], ASSET: first[ASSET]})
    table = dataset.transpose(TIME, ASSET).to_dataframe().reset_index()
    table = table.rename(columns={TIME: "date"}).dropna(subset=["mean"])
    return table[["date", ASSET, *columns]].reset_index(drop=True)


def _with_labels(table: pd.DataFrame, panel: xr.Dataset) -> pd.DataFrame:
    """Put the assets' text coordinates behind their ids."""
    place = 2
    for name, coord in panel.coords.items():
        if name == ASSET or coord.dims != (ASSET,) or str(name) in table.columns:
            continue
        labels = pd.Series(coord.values, index=panel[ASSET].values.astype(str))
        table.insert(place, str(name), labels.reindex(table[ASSET]).to_numpy())
        place += 1
    return table
