"""Portfolios from files: weights, or positions in currency."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import xarray as xr

from rvrae_pyro.data.plain_tables import asset_ids, column_names, read_plain
from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import ConfigError, PanelError
from rvrae_pyro.names import ASSET, TIME

_IDS: Final = ("asset", "id", "ticker", "symbol", "permno", "isin", "cusip")
_SIZES: Final = ("weight", "weights", "value", "position", "amount", "market_value")
_CASH: Final = "cash"
_TOLERANCE: Final = 1e-3
"""Distance of a sum from one up to which numbers are weights."""
_NET: Final = 0.01
"""Share of the gross exposure up to which a sum is that of a long-short portfolio."""


@dataclass(frozen=True)
class Positions:
    """A portfolio of one file.

    Attributes
    ----------
    weights : Series by asset
        Without cash, which has no excess return.
    value : float or None
        Divisor of the file's numbers; None for weights, taken as they are.
    rule : str
        How the weights follow from the file.
    cash : float
        Weight of cash.
    """

    weights: "pd.Series[float]"
    value: float | None
    rule: str
    cash: float


def read_positions(
    path: Path, option: str, listed: xr.DataArray, asset: str | None = None
) -> Positions:
    """Read one portfolio.

    Parameters
    ----------
    path : path
        ``.csv`` or ``.parquet``: a column of ids and one of weights, or of positions in currency.
    option : str
        Option that named the file, for messages.
    listed : bool DataArray (asset)
        Assets that have a forecast, of all assets of the panel; ``time`` as a scalar coordinate.
    asset : str, optional
        Column of ids. Default: one of the usual names, or else the first column.

    Returns
    -------
    Positions

    Notes
    -----
    Numbers that sum to one within 0.001 are weights. Others are positions in one currency,
    divided by their sum; where that is below 1 % of the gross exposure, by the gross exposure (the
    sum of absolute positions). A row ``cash`` counts in the sum and has no excess return.

    Raises
    ------
    PanelError
        If the file cannot be read, or has no column of ids or of numbers.
    ConfigError
        If an asset is repeated or has no forecast, a number is missing, or all are zero.
    """
    where = f"`{option}` {path}"
    given = _read(path, where, asset)
    repeated = given.index[given.index.duplicated()].unique()
    if len(repeated):
        raise ConfigError(f"{where} repeats {first_three(repeated)}. Add up positions per asset.")
    lacking = given.index[~np.isfinite(given.to_numpy())]
    if len(lacking):
        raise ConfigError(f"{where} has no finite number for {first_three(lacking)}.")
    divisor, rule = _divisor(given.to_numpy(), where)
    weights = given / divisor
    known = listed[ASSET].values
    is_cash = [name.lower() == _CASH and name not in known for name in weights.index]
    cash, weights = float(weights[is_cash].sum()), weights[np.logical_not(is_cash)]
    weights = weights[weights != 0.0]
    _check_assets(weights, listed, where)
    value = None if divisor == 1.0 else float(divisor)
    return Positions(weights.reindex(known, fill_value=0.0), value, rule, cash)


def _read(path: Path, where: str, asset: str | None) -> "pd.Series[float]":
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise PanelError(f"{where} must be a table, .csv or .parquet; got {suffix!r}.")
    if not path.is_file():
        raise PanelError(f"{where} is missing or no file. Check the path.")
    names = pq.read_schema(path).names if suffix == ".parquet" else column_names(path)
    ids = _named(names, _IDS) or (str(names[0]) if names else "")
    if asset is not None and asset in names:
        ids = asset
    frame = read_plain(path, asset=ids, time="date", returns=None)
    numeric = [
        name
        for name in frame.columns
        if name != ids and pd.api.types.is_numeric_dtype(frame[name].dtype)
    ]
    size = _named(frame.columns, _SIZES)
    if size is None and len(numeric) == 1:
        size = numeric[0]
    if size is None or size not in numeric:
        raise PanelError(
            f"{where} must have one column of numbers, such as `weight`, and the ids in {ids!r};"
            f" got columns {first_three(frame.columns)}, of numbers {first_three(numeric)}."
        )
    index = pd.Index(asset_ids(frame[ids], f"{where}: column {ids!r}"), name=ASSET)
    if index.hasnans:
        raise PanelError(f"{where}: {np.count_nonzero(index.isna())} rows have no id in {ids!r}.")
    return pd.Series(frame[size].to_numpy(np.float64), index=index, name="weight")


def _named(names: "pd.Index | list[str]", usual: tuple[str, ...]) -> str | None:
    small = {str(name).strip().lower(): str(name) for name in names}
    return next((small[name] for name in usual if name in small), None)


def _divisor(values: "np.ndarray", where: str) -> tuple[float, str]:
    total, gross = float(values.sum()), float(np.abs(values).sum())
    if gross == 0.0:
        raise ConfigError(f"{where} has no position: all numbers are zero.")
    if abs(total - 1.0) <= _TOLERANCE:
        return 1.0, "weights as given"
    if total > _NET * gross:
        return total, "positions divided by their sum"
    return gross, "long-short positions divided by the sum of their absolute values"


def _check_assets(weights: "pd.Series[float]", listed: xr.DataArray, where: str) -> None:
    known, able = listed[ASSET].values, listed[ASSET].values[listed.values]
    unknown = weights.index.difference(pd.Index(known))
    if len(unknown):
        raise ConfigError(
            f"{where} holds assets that the panel does not have: {first_three(unknown)}. Its ids "
            f"are such as {str(known[0])!r}; leave out the others."
        )
    without = weights.index.difference(pd.Index(able))
    if len(without):
        month = np.datetime_as_string(listed[TIME].values, "D")
        raise ConfigError(
            f"{where} holds assets without characteristics in {month}, which have no forecast: "
            f"{first_three(without)}. Leave them out, or pick another month with --times."
        )
