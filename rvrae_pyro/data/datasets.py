"""Data that come with other packages: 30 portfolios and 20 US stocks."""

import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.build import build_panel
from rvrae_pyro.data.calendar import month_end, next_row
from rvrae_pyro.data.past_returns import momenta, windows
from rvrae_pyro.data.prices import characteristics_from_prices
from rvrae_pyro.errors import PanelError

Floats = NDArray[np.float64]

_FACTORS: Final = ("MktRF", "SMB", "HML", "Mom")
_BETA_WINDOW: Final = 60
_BETA_LEAST: Final = 24

_INDUSTRIES: Final = {
    "NoDur": "Non-durables",
    "Durbl": "Durables",
    "Manuf": "Manufacturing",
    "Enrgy": "Energy",
    "Chems": "Chemicals",
    "BusEq": "Business equipment",
    "Telcm": "Telecoms",
    "Utils": "Utilities",
    "Shops": "Retail",
    "Hlth": "Health care",
    "Money": "Finance",
    "Other": "Other industries",
}
_SIZES: Final = {"1": "small", "3": "mid-size", "5": "large"}
_STYLES: Final = {
    "V": ("size-value", {"1": "growth", "3": "core", "5": "value"}),
    "M": ("size-momentum", {"1": "losers", "3": "neutral", "5": "winners"}),
}


def load_french() -> xr.Dataset:
    """Load 30 real monthly portfolios of US stocks, 1949-01 to 2017-03, as a panel.

    Twelve industries, nine size x value and nine size x momentum portfolios from Kenneth
    French's data library, as the ``linearmodels`` package ships them. Their characteristics
    are made here from their own past returns and from the past of four factors (market,
    SMB, HML, Mom), so that none of them needs accounting data.

    Returns
    -------
    Dataset
        820 rows: 819 months with returns, in excess of the risk-free rate, and the live
        month 2017-04 without. Characteristics are raw: see ``rank_characteristics``.
        Coordinates on ``asset``: ``name`` and ``group``. ``risk_free`` is NaN in
        the live month.

    Raises
    ------
    PanelError
        If ``linearmodels`` or its data file is missing.

    Notes
    -----
    Row t uses returns of months t-1 and before. With r the excess return and windows of
    months before t: ``mom_1m`` r of t-1; ``mom_6m``, ``mom_12m`` compounded over t-6 (t-12)
    .. t-2; ``mom_36m`` over t-36 .. t-13; ``intmom`` over t-12 .. t-7; ``seas`` mean of the
    same calendar month over the last 5 years; ``vol_12m``, ``vol_60m`` standard deviation;
    ``maxret_12m`` the largest of 12; ``skew_60m`` skewness; ``beta_mkt``, ``beta_smb``,
    ``beta_hml``, ``beta_mom`` slopes of a regression on the four factors and a constant
    over 60 months, 24 at least; ``idiovol_60m`` its residual standard deviation. Nothing
    is known in the first month, so nothing is listed in it.

    References
    ----------
    K. R. French, data library; Sheppard et al., linearmodels, ``datasets.french``.

    Examples
    --------
    >>> panel = load_french()
    >>> dict(panel.sizes)
    {'time': 820, 'asset': 30, 'characteristic': 15}
    """
    return _french().copy(deep=True)


def load_french_factors() -> xr.DataArray:
    """Load the monthly returns of four known factors, 1949-01 to 2017-03.

    Returns
    -------
    DataArray of dims (time, known_factor)
        ``MktRF`` (the market in excess of the risk-free rate), ``SMB`` (small minus big), ``HML``
        (value minus growth) and ``Mom`` (winners minus losers), decimal. Known at the month's
        end: to describe with, not to forecast from.

    Raises
    ------
    PanelError
        If ``linearmodels`` or its data file is missing.

    References
    ----------
    K. R. French, data library; Sheppard et al., linearmodels, ``datasets.french``.
    """
    table = _read_table()
    return xr.DataArray(
        table[list(_FACTORS)].to_numpy(),
        coords={
            "time": month_end(pd.DatetimeIndex(table.index)).to_numpy(),
            "known_factor": list(_FACTORS),
        },
        dims=("time", "known_factor"),
        name="known_factors",
        attrs={"long_name": "return of the factor", "units": "1"},
    )


@lru_cache(maxsize=1)
def _french() -> xr.Dataset:
    table = _read_table()
    names = [c for c in table.columns if c not in (*_FACTORS, "RF")]
    rate = table["RF"].to_numpy()
    returns = table[names].to_numpy() - rate[:, None]
    features = _characteristics(returns, table[list(_FACTORS)].to_numpy())
    times = month_end(pd.DatetimeIndex(table.index)).to_numpy()
    titles, groups = zip(*(_describe(name) for name in names), strict=True)
    panel = build_panel(
        np.vstack([returns, np.full((1, len(names)), np.nan)]),
        np.stack(list(features.values()), axis=-1),
        time=np.append(times, next_row(times[-1], "monthly")),
        asset=names,
        characteristic=list(features),
        risk_free=np.append(rate, np.nan),
        asset_coords={"name": titles, "group": groups},
        source="Kenneth R. French data library, as shipped by linearmodels",
    )
    panel.attrs["factors"] = json.dumps(_FACTORS)
    return panel


def _shipped(package: str, *parts: str, missing: str) -> Path:
    """Path of a data file of another package, found without importing it, which takes seconds."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    path = Path(folders[0] if folders else ".", "datasets", *parts)
    if not folders or not path.is_file():
        raise PanelError(missing)
    return path


def _read_table() -> pd.DataFrame:
    missing = (
        "load_french reads the portfolios that the package `linearmodels` ships, and found none. "
        "Reinstall it: pip install linearmodels."
    )
    path = _shipped("linearmodels", "french", "french.csv.bz2", missing=missing)
    return pd.read_csv(path, parse_dates=["dates"], index_col="dates").astype(np.float64)


def _describe(name: str) -> tuple[str, str]:
    """Spell out a portfolio: 'S1V5' is 'Small value', of the group 'size-value'."""
    if name in _INDUSTRIES:
        return _INDUSTRIES[name], "industry"
    group, levels = _STYLES[name[2]]
    return f"{_SIZES[name[1]]} {levels[name[3]]}".capitalize(), group


def _characteristics(returns: Floats, factors: Floats) -> dict[str, Floats]:
    """Each characteristic of shape (n_times + 1, n_assets), from months before the row."""
    past = windows(np.log1p(returns), 12)
    year, five = windows(returns, 12), windows(returns, _BETA_WINDOW)
    betas, idiovol = _factor_betas(five, windows(factors, _BETA_WINDOW))
    enough = (~np.isnan(five)).sum(axis=-1) >= _BETA_LEAST
    centred = five - _mean(five)[..., None]
    variance = np.where(enough, _mean(centred**2), np.nan)
    features = {
        **momenta(returns),
        "intmom": np.expm1(past[..., :6].sum(axis=-1)),
        "seas": _mean(five[..., ::12]),
        "vol_12m": year.std(axis=-1),
        "vol_60m": np.sqrt(variance),
        "maxret_12m": year.max(axis=-1),
        "skew_60m": _mean(centred**3) / variance**1.5,
        "idiovol_60m": idiovol,
    }
    for k, name in enumerate(("mkt", "smb", "hml", "mom")):
        features[f"beta_{name}"] = betas[..., k]
    return features


def _mean(windows: Floats) -> Floats:
    """Mean over the months of each window that exist; NaN where none does."""
    count = (~np.isnan(windows)).sum(axis=-1)
    return np.where(count, np.nansum(windows, axis=-1) / np.maximum(count, 1), np.nan)


def _factor_betas(returns: Floats, factors: Floats) -> tuple[Floats, Floats]:
    """Regress each asset's window on a constant and the factors' window.

    Returns (n_times, n_assets, n_months) and factors (n_times, n_factors, n_months), missing in the
    same leading months, give betas (n_times, n_assets, n_factors) and residual sd (n_times,
    n_assets).
    """
    seen = ~np.isnan(factors[:, :1])
    design = np.concatenate([seen.astype(np.float64), np.where(seen, factors, 0.0)], axis=1)
    target = np.where(seen, returns, 0.0)
    gram = design @ design.transpose(0, 2, 1)
    moment = design @ target.transpose(0, 2, 1)
    months = seen.sum(axis=-1)[:, 0]
    enough = months >= _BETA_LEAST
    slopes = np.full(moment.shape, np.nan)
    slopes[enough] = np.linalg.solve(gram[enough], moment[enough])
    residual = target - slopes.transpose(0, 2, 1) @ design
    freedom = np.where(enough, months - design.shape[1], 1)
    spread = np.sqrt((residual**2).sum(axis=-1) / freedom[:, None])
    return slopes[:, 1:].transpose(0, 2, 1), spread


def load_sp500() -> xr.Dataset:
    """Load 20 large US stocks, 1990-02 to 2022-12, as a panel.

    Daily adjusted closing prices of 20 members of the S&P 500, as the package ``skfolio`` ships
    them (extra ``stocks``), turned into months and price characteristics by
    :func:`~rvrae_pyro.data.prices.characteristics_from_prices`.

    Returns
    -------
    Dataset
        395 months with returns and the live month 2023-01. Characteristics are raw: see
        ``rank_characteristics``.

    Raises
    ------
    PanelError
        If ``skfolio`` or its data file is missing.

    Notes
    -----
    Returns are total returns, taken as excess: the file has no risk-free rate, and the attribute
    ``return_kind`` states that nothing was subtracted. The stocks were chosen after the fact from
    survivors, so that returns and every backtest on them are flattered: an example, not evidence.

    Examples
    --------
    >>> panel = load_sp500()  # doctest: +SKIP
    >>> panel.sizes["asset"]  # doctest: +SKIP
    20
    """
    return _sp500().copy(deep=True)


@lru_cache(maxsize=1)
def _sp500() -> xr.Dataset:
    missing = (
        "load_sp500 reads the prices that the package `skfolio` ships, and found none. Install it: "
        "pip install 'rvrae-pyro[stocks]'."
    )
    path = _shipped("skfolio", "data", "sp500_dataset.csv.gz", missing=missing)
    close = pd.read_csv(path, parse_dates=["Date"], index_col="Date").astype("float64")
    # the rate is not known: an attribute states it, instead of a warning at every call
    panel = characteristics_from_prices(close, excess=True)
    panel.attrs["return_kind"] = "simple, taken as excess"
    panel.attrs["source"] = "20 members of the S&P 500, as shipped by skfolio"
    return panel
