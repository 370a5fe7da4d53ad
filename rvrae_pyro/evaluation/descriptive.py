"""Descriptions of returns and factors: market statistics, and factor profiles."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.calendar import read_days
from rvrae_pyro.data.rounding import constant, rounding, scaled
from rvrae_pyro.data.timeline import common_labels, in_time_order
from rvrae_pyro.data.transforms import CONSTANT
from rvrae_pyro.errors import ConfigError, ShapeError, warn_user
from rvrae_pyro.evaluation.scoring import Array, check_array, sample_dims, to_wide
from rvrae_pyro.names import ASSET, CHARACTERISTIC, FACTOR, TIME

_NAMES = {
    "cross_sectional_sd": "mean over months of the standard deviation across assets",
    "market_volatility": "standard deviation over months of the equally weighted return",
    "kurtosis": "excess kurtosis of all returns pooled",
    "top_eigenvalue_share": "share of the largest eigenvalue of the assets' second moments",
    "market_autocorrelation": "first autocorrelation of squared market returns",
}

KNOWN_FACTOR: Final = "known_factor"
"""Dimension of the factors that have a name already."""
_STRONG: Final = 0.5
"""Weakest correlation that gives a factor a name."""


def market_statistics(returns: xr.DataArray) -> xr.Dataset:
    """Describe a market in five numbers, for prior and posterior predictive checks.

    Parameters
    ----------
    returns : DataArray of dims (time, asset), or (obs,) with coordinates ``time`` and ``asset``
        Decimal returns, NaN where not observed. Dims ``chain`` and ``draw`` are kept: one
        answer for every draw. Hold draws and data against each other over the same cells.

    Returns
    -------
    Dataset
        Of the dims ``chain`` and ``draw`` of ``returns``, or scalars:

        - ``cross_sectional_sd``: mean over months of the standard deviation across assets, in
          return units (months with two returns or more);
        - ``market_volatility``: standard deviation over months of the equally weighted return;
        - ``kurtosis``: excess kurtosis of all returns pooled, 0 for Normal ones;
        - ``top_eigenvalue_share``: largest eigenvalue of the assets' second moments over their
          sum, each asset in units of its standard deviation, missing cells at its mean;
        - ``market_autocorrelation``: first autocorrelation of the squared deviations of the
          equally weighted return from its mean: volatility clusters make it positive.

        A statistic is NaN where it is not defined: fewer than two assets in a month, three months.

    Notes
    -----
    Knows all months. Costs O(n_times n_assets min(n_times, n_assets)) per draw.
    """
    check_array(returns, "returns")
    wide = in_time_order(to_wide(returns), "returns")
    check_array(wide, "returns", TIME, ASSET)
    samples = sample_dims(wide)
    further = [dim for dim in wide.dims if dim not in (*samples, TIME, ASSET)]
    if further:
        raise ShapeError(
            f"`returns` must have dims (time, asset) and at most chain and draw; got {further} "
            "too. Select one entry of each."
        )
    wide = wide.transpose(*samples, TIME, ASSET)
    relative = rounding(wide)
    shape = tuple(wide.sizes[dim] for dim in samples)
    found = np.empty((len(_NAMES), *shape))
    for place in np.ndindex(*shape):
        found[(slice(None), *place)] = _describe(
            np.asarray(wide[place].values, dtype=np.float64), relative
        )
    coords = {dim: wide[dim] for dim in samples if dim in wide.coords}
    return xr.Dataset(
        {
            name: (samples, values, {"long_name": text})
            for (name, text), values in zip(_NAMES.items(), found, strict=True)
        },
        coords=coords,
    )


def _describe(returns: Array, relative: float) -> tuple[float, float, float, float, float]:
    """All statistics of one (n_times, n_assets) table, in the order of their names."""
    seen = ~np.isnan(returns)
    counts = seen.sum(1)
    filled = np.where(seen, returns, 0.0)
    market = filled.sum(1)[counts > 0] / counts[counts > 0]
    return (
        _spread(filled, seen),
        float(market.std(ddof=1)) if market.size > 1 else np.nan,
        _kurtosis(returns[seen], relative),
        _top_share(filled, seen, ~constant(returns, axis=0, relative=relative)),
        _clustering(market, relative),
    )


def _spread(filled: Array, seen: Array) -> float:
    several = seen.sum(1) > 1
    if not several.any():
        return np.nan
    filled, seen = filled[several], seen[several]
    counts = seen.sum(1)
    centre = filled.sum(1) / counts
    squares = (seen * (filled - centre[:, None]) ** 2).sum(1)
    return float(np.sqrt(squares / (counts - 1)).mean())


def _kurtosis(values: Array, relative: float) -> float:
    if constant(values, relative=relative):
        return np.nan
    deviation = values - values.mean()
    deviation /= np.abs(deviation).max()
    return float((deviation**4).mean() / (deviation**2).mean() ** 2 - 3.0)


def _top_share(filled: Array, seen: Array, moves: NDArray[np.bool_]) -> float:
    filled, seen = filled[:, moves], seen[:, moves]
    counts = np.maximum(seen.sum(0), 1)
    deviation = seen * (filled - filled.sum(0) / counts)
    if deviation.shape[1] < 2:
        return np.nan
    deviation = deviation / np.abs(deviation).max(0)
    deviation = deviation / np.sqrt((deviation**2).sum(0) / counts)
    # the eigenvalues of the smaller of the two cross-products; the larger only adds zeros
    wide = deviation.shape[1] > deviation.shape[0]
    gram = deviation @ deviation.T if wide else deviation.T @ deviation
    return float(np.linalg.eigvalsh(gram)[-1] / np.trace(gram))


def _clustering(market: Array, relative: float) -> float:
    if market.size < 3 or constant(market, relative=relative):
        return np.nan
    apart = market - market.mean()
    size = np.abs(apart).max()
    squares = (apart / size) ** 2
    # rounding of the market, as a share of its spread
    if constant(squares, relative=2.0 * relative * np.abs(market).max() / size):
        return np.nan
    deviation = squares - squares.mean()
    return float((deviation[1:] * deviation[:-1]).sum() / (deviation**2).sum())


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
        Returns of factors with names; a DataFrame has dates as rows, of any kind and any day of
        the month. Other months than those of ``factors`` are dropped.
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
        If dims are others, rows have no dates or repeat months, or ``factors`` share no month
        with ``managed`` or ``known``.
    ConfigError
        If ``least_months`` is below 3.

    Warns
    -----
    RvraeWarning
        If months of ``factors`` are missing in ``managed`` or ``known``.

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
    relative = rounding(factors, managed)
    given = _table(factors, "factors")
    paths, table = _shared(given, _table(managed, "managed"), "managed")
    observed = table.index[table.notna().any(axis=1)]
    profile = xr.Dataset(coords={FACTOR: factors[FACTOR]})
    near, months = _correlate(paths, table, least_months, relative)
    profile["managed"] = ((FACTOR, CHARACTERISTIC), near)
    profile = profile.assign_coords({CHARACTERISTIC: managed[CHARACTERISTIC]})
    profile["months"] = months
    portfolios = [
        "the average asset" if name == CONSTANT else f"the {name} portfolio"
        for name in table.columns
    ]
    candidates = [(near, portfolios, months)]
    if known is not None:
        seen = given.index[paths.index.isin(observed)]
        paths, reference = _shared(given, _known_table(known), "known", seen)
        relative = rounding(factors, reference.to_numpy())
        reference = reference.astype(np.float64)
        close, shared = _correlate(paths, reference, least_months, relative)
        profile["known_months"] = shared
        if shared >= least_months:
            profile["known"] = ((FACTOR, KNOWN_FACTOR), close)
            profile = profile.assign_coords({KNOWN_FACTOR: reference.columns.to_numpy()})
            profile["r2"] = (FACTOR, _explained(paths, reference))
            candidates.insert(0, (close, [str(name) for name in reference.columns], shared))
    names = [_name(k, candidates) for k in range(len(paths.columns))]
    return profile.assign_coords(name=(FACTOR, names))


def _table(values: xr.DataArray, name: str) -> pd.DataFrame:
    """Months as rows, in order; the other dim as columns."""
    values = in_time_order(values, name)
    (other,) = (dim for dim in values.dims if dim != TIME)
    return pd.DataFrame(
        values.transpose(TIME, other).values.astype(np.float64),
        index=values.indexes[TIME],
        columns=values[other].values,
    )


def _known_table(known: xr.DataArray | pd.DataFrame) -> pd.DataFrame:
    """Known factors by month, in their own dtype."""
    if isinstance(known, xr.DataArray):
        if known.ndim != 2 or TIME not in known.dims:
            raise ShapeError(f"`known` must have dims ('time', 'known_factor'); got {known.dims}.")
        return _table(known, "known").astype(known.dtype)
    reason = ""
    if isinstance(known, pd.DataFrame):
        try:
            days = read_days(known.index)[1]
        except (ValueError, TypeError, OverflowError) as error:
            reason = f", whose rows are no dates: {error}"
        else:
            coords = {TIME: days, KNOWN_FACTOR: known.columns}
            rows = xr.DataArray(known.to_numpy(), coords, (TIME, KNOWN_FACTOR))
            return _table(rows, "known").astype(rows.dtype)
    raise ShapeError(
        "`known` must be a DataArray with dim 'time' or a DataFrame with dates as rows; got "
        f"{type(known).__name__}{reason}."
    )


def _shared(
    paths: pd.DataFrame, table: pd.DataFrame, name: str, seen: pd.Index | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give the months of both the same labels, and warn of those that the table lacks.

    ``seen`` are the months with a return, by the labels of ``paths``: only these are missed.
    """
    missed = np.ones(len(paths), bool) if seen is None else paths.index.isin(seen)
    labels = common_labels({"factors": paths.index, name: table.index})
    paths, table = paths.set_axis(labels["factors"]), table.set_axis(labels[name])
    lacking = ~paths.index.isin(table.index)
    lost = int((lacking & missed).sum())
    if lacking.all():
        raise ShapeError(
            f"`{name}` must share months with `factors`; it has none of them: `factors` are of "
            f"{_span(paths.index)}, `{name}` of {_span(table.index)}."
        )
    if lost:
        warn_user(
            f"{lost} of {len(paths)} months of `factors` are left out of the correlations with "
            f"`{name}`, which lacks them."
        )
    return paths, table


def _span(index: pd.Index) -> str:
    return " to ".join(str(label)[:10] for label in (index[0], index[-1])) if len(index) else "none"


def _correlate(
    paths: pd.DataFrame, table: pd.DataFrame, least: int, relative: float
) -> tuple[np.ndarray, int]:
    """Correlations (path, column) over common months, and the most months any pair has."""
    common = paths.index.intersection(table.index)
    left, right = paths.loc[common], table.loc[common]
    usable = right.notna().any(axis=1)
    left, right = left[usable], right[usable]
    values = np.full((left.shape[1], right.shape[1]), np.nan)
    for j in range(right.shape[1]):
        column = right.iloc[:, j]
        seen = column.notna().to_numpy()
        if seen.sum() < least or constant(column[seen].to_numpy(), relative=relative):
            continue
        y = column[seen].to_numpy() - column[seen].mean()
        x = left[seen].to_numpy() - left[seen].to_numpy().mean(axis=0)
        size = np.sqrt((x**2).sum(axis=0)) * np.sqrt((y**2).sum())
        moves = ~constant(left[seen].to_numpy(), axis=0, relative=relative)
        values[:, j] = np.divide(x.T @ y, size, out=np.full(len(size), np.nan), where=moves)
    return values, int(usable.sum())


def _explained(paths: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Share of variance (path,) that a regression on a constant and all columns explains."""
    common = paths.index.intersection(table.dropna().index)
    x = np.column_stack([np.ones(len(common)), scaled(table.loc[common].to_numpy())[0]])
    y = paths.loc[common].to_numpy()
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    centred = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    moves = ~constant(y, axis=0)
    share: np.ndarray = 1.0 - (residual**2).sum(axis=0) / np.where(moves, centred, np.nan)
    return share


def _name(k: int, candidates: list[tuple[np.ndarray, list[str], int]]) -> str:
    for values, labels, months in candidates:
        row = np.nan_to_num(values[k])
        best = int(np.abs(row).argmax()) if row.size else 0
        if row.size and abs(row[best]) > max(_STRONG, 3.0 / np.sqrt(max(months, 1))):
            sign = "minus " if row[best] < 0 else ""
            return f"like {sign}{labels[best]} ({row[best]:.2f})"
    return "no name"
