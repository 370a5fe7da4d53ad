"""What latent factors are like: their correlations with portfolios that have names."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.portfolios import CONSTANT
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.evaluation._cells import check_array
from rvrae_pyro.names import CHARACTERISTIC, FACTOR, TIME

__all__ = ["KNOWN_FACTOR", "factor_profile"]

KNOWN_FACTOR: Final = "known_factor"
"""Dimension of the factors that have a name already."""

_STRONG: Final = 0.5
"""Weakest correlation that gives a factor a name."""


def factor_profile(
    factors: xr.DataArray,
    managed: xr.DataArray,
    known: xr.DataArray | pd.DataFrame | None = None,
    *,
    least_months: int = 24,
) -> xr.Dataset:
    """Correlate factors with managed portfolios and with known factors, and name them by it.

    Parameters
    ----------
    factors : DataArray (time, factor)
        Posterior means, filtered.
    managed : DataArray (time, characteristic)
        Returns of characteristic-managed portfolios, NaN in months without; see
        :func:`rvrae_pyro.data.managed_portfolios`.
    known : DataArray (time, known_factor) or DataFrame, optional
        Returns of factors with names; a DataFrame has dates as rows. Other months than those of
        ``factors`` are dropped.
    least_months : int
        Fewest common months for a correlation; with fewer, ``known`` is left out and a managed
        portfolio's correlation is NaN.

    Returns
    -------
    Dataset
        ``managed`` (factor, characteristic) and, where months suffice, ``known`` (factor,
        known_factor): correlations over common months. ``r2`` (factor): share of each factor's
        variance that a regression on all known ones explains. ``months`` and ``known_months``:
        how many were used. Coordinate ``name`` (factor): "like MktRF (0.96)", or "like minus HML
        (-0.71)"; known factors come before managed portfolios; "no name" where no correlation
        exceeds 0.5 and three standard errors of a correlation of nothing.

    Raises
    ------
    ShapeError
        If dims are others, or ``factors`` and ``managed`` share no month.
    ConfigError
        If ``least_months`` is below 3.

    Notes
    -----
    Factors are identified up to rotation, so the profile is that of the axes given; turn them to
    principal ones first if a few axes should carry most. The months used were seen by the fit
    where they are training months: the profile describes, it does not test.
    """
    if least_months < 3:
        raise ConfigError(f"`least_months` must be at least 3; got {least_months!r}.")
    check_array(factors, "factors", TIME, FACTOR)
    check_array(managed, "managed", TIME, CHARACTERISTIC)
    paths, table = _table(factors), _table(managed)
    if not paths.index.intersection(table.index).size:
        raise ShapeError("`managed` must share months with `factors`; it has none of them.")
    profile = xr.Dataset(coords={FACTOR: factors[FACTOR]})
    near, months = _correlate(paths, table, least_months)
    profile["managed"] = ((FACTOR, CHARACTERISTIC), near)
    profile = profile.assign_coords({CHARACTERISTIC: managed[CHARACTERISTIC]})
    profile["months"] = months
    candidates = [(near, [_portfolio(str(name)) for name in table.columns], months)]
    reference = _known_table(known)
    if reference is not None:
        close, shared = _correlate(paths, reference, least_months)
        profile["known_months"] = shared
        if shared >= least_months:
            profile["known"] = ((FACTOR, KNOWN_FACTOR), close)
            profile = profile.assign_coords({KNOWN_FACTOR: reference.columns.to_numpy()})
            profile["r2"] = (FACTOR, _explained(paths, reference))
            candidates.insert(0, (close, [str(name) for name in reference.columns], shared))
    names = [_name(k, candidates) for k in range(len(paths.columns))]
    return profile.assign_coords(name=(FACTOR, names))


def _table(values: xr.DataArray) -> pd.DataFrame:
    """Months as rows; the other dim as columns."""
    (other,) = (dim for dim in values.dims if dim != TIME)
    return pd.DataFrame(
        values.transpose(TIME, other).values.astype(np.float64),
        index=pd.DatetimeIndex(values[TIME].values),
        columns=values[other].values,
    )


def _known_table(known: xr.DataArray | pd.DataFrame | None) -> pd.DataFrame | None:
    if known is None:
        return None
    if isinstance(known, xr.DataArray):
        if known.ndim != 2 or TIME not in known.dims:
            raise ShapeError(f"`known` must have dims ('time', 'known_factor'); got {known.dims}.")
        known = _table(known)
    if not isinstance(known, pd.DataFrame) or not isinstance(known.index, pd.DatetimeIndex):
        raise ShapeError(
            "`known` must be a DataArray with dim 'time' or a DataFrame with dates as rows; got "
            f"{type(known).__name__}."
        )
    return known.astype(np.float64)


def _correlate(paths: pd.DataFrame, table: pd.DataFrame, least: int) -> tuple[np.ndarray, int]:
    """Correlations (path, column) over common months, and the most months any pair has."""
    common = paths.index.intersection(table.index)
    left, right = paths.loc[common], table.loc[common]
    usable = right.notna().any(axis=1)
    left, right = left[usable], right[usable]
    values = np.full((left.shape[1], right.shape[1]), np.nan)
    for j in range(right.shape[1]):
        column = right.iloc[:, j]
        seen = column.notna().to_numpy()
        if seen.sum() < least or not column[seen].std() > 0:
            continue
        y = column[seen].to_numpy() - column[seen].mean()
        x = left[seen].to_numpy() - left[seen].to_numpy().mean(axis=0)
        size = np.sqrt((x**2).sum(axis=0) * (y**2).sum())
        values[:, j] = np.divide(x.T @ y, size, out=np.full(len(size), np.nan), where=size > 0)
    return values, int(usable.sum())


def _explained(paths: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Share of variance (path,) that a regression on a constant and all columns explains."""
    common = paths.index.intersection(table.dropna().index)
    x = np.column_stack([np.ones(len(common)), table.loc[common].to_numpy()])
    y = paths.loc[common].to_numpy()
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    centred = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    share: np.ndarray = 1.0 - (residual**2).sum(axis=0) / np.where(centred > 0, centred, np.nan)
    return share


def _portfolio(name: str) -> str:
    return "the average asset" if name == CONSTANT else f"the {name} portfolio"


def _name(k: int, candidates: list[tuple[np.ndarray, list[str], int]]) -> str:
    for values, labels, months in candidates:
        row = np.nan_to_num(values[k])
        best = int(np.abs(row).argmax()) if row.size else 0
        if row.size and abs(row[best]) > max(_STRONG, 3.0 / np.sqrt(max(months, 1))):
            sign = "minus " if row[best] < 0 else ""
            return f"like {sign}{labels[best]} ({row[best]:.2f})"
    return "no name"
