"""Forecasts, returns and factors of fits, filtered panels, and trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.calendar import UNITS, infer_frequency
from rvrae_pyro.data.timeline import pick_rows
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTORS, OBS, RETURNS, STEP, TIME


def described(value: object) -> str:
    """Name a value's type and, where it has them, its dims or groups."""
    text = type(value).__name__
    if isinstance(value, xr.DataTree):
        return f"{text} with groups {sorted(map(str, value.children)) or 'none'}"
    if isinstance(value, xr.Dataset):
        return f"{text} with variables {sorted(map(str, value.data_vars))[:8]}"
    if isinstance(value, xr.DataArray):
        return f"{text} with dims {tuple(map(str, value.dims))}"
    if isinstance(value, pd.DataFrame):
        return f"{text} with columns {[str(name) for name in value.columns[:8]]}"
    return text


def wrong(name: str, expected: str, got: object, remedy: str) -> ConfigError:
    """Return the error of an argument of the wrong kind."""
    return ConfigError(f"`{name}` must be {expected}, got {described(got)}. {remedy}")


def group_of(tree: object, name: str) -> xr.Dataset | None:
    """Return a group of a tree as a dataset; None where there is no such tree or group."""
    if isinstance(tree, xr.DataTree) and name in tree.children:
        return tree[name].to_dataset()
    return None


def forecast_tree(
    source: object, panel: object, times: object | None = None, *, name: str = "source"
) -> xr.DataTree:
    """Return a tree with group ``predictions``, of a tree or of what forecasts a panel.

    ``panel`` is needed for a fit, which forecasts ``times`` (default: all); ``name`` is the
    argument named in errors.
    """
    predictions = group_of(source, "predictions")
    if predictions is not None and RETURNS in predictions:
        assert isinstance(source, xr.DataTree)  # as it has groups
        return source
    replicates = group_of(source, "posterior_predictive")
    if replicates is not None and RETURNS in replicates:
        wide = xr.Dataset({RETURNS: _wide(replicates[RETURNS])})
        return xr.DataTree.from_dict({"predictions": wide})
    expected = "a forecast (DataTree with `predictions/returns`) or a fitted model"
    remedy = "Pass fit.forecast(panel), fit.filter(panel), or the fit and its panel."
    if isinstance(source, xr.DataTree | xr.Dataset | xr.DataArray | pd.DataFrame):
        raise wrong(name, expected, source, remedy)
    if not callable(getattr(source, "forecast", None)):
        raise wrong(name, expected, source, remedy)
    if isinstance(getattr(source, "panel", None), xr.Dataset):
        found = source.forecast(times)  # type: ignore[attr-defined]
    elif isinstance(panel, xr.Dataset):
        found = source.forecast(panel, times=times)  # type: ignore[attr-defined]
    else:
        raise ConfigError(
            f"`panel` must be the panel to forecast where `{name}` is a fit, got "
            f"{described(panel)}. Pass it, or pass fit.forecast(panel)."
        )
    tree: xr.DataTree = found
    return tree


def predicted_returns(tree: xr.DataTree) -> xr.DataArray:
    """Return the draws (chain, draw, time, asset) of a forecast, one step ahead."""
    draws = tree["predictions"].to_dataset()[RETURNS]
    if STEP in draws.dims:
        draws = draws.isel({STEP: 0}, drop=True)
    lacking = {CHAIN, DRAW, ASSET} - set(draws.dims)
    if lacking:
        raise ConfigError(
            f"`predictions/returns` must have dims chain, draw, time and asset, got {draws.dims}. "
            "Make the tree by fit.forecast or rv.to_datatree."
        )
    if TIME not in draws.dims:
        draws = draws.expand_dims(TIME)
    return draws.transpose(CHAIN, DRAW, TIME, ASSET)


def realised_returns(source: object, panel: object) -> xr.DataArray:
    """Return realised returns (time, asset) of a panel, an array, or a filtered panel."""
    given = panel
    own = getattr(source, "panel", None)
    if given is None and isinstance(own, xr.Dataset):
        given = own
    if given is None:
        observed = group_of(source, "observed_data")
        given = None if observed is None else observed.get(RETURNS)
    if isinstance(given, xr.DataArray) and OBS in given.dims:
        given = _wide(given)
    if isinstance(given, xr.Dataset) and RETURNS in given:
        given = given[RETURNS]
    if not isinstance(given, xr.DataArray) or set(given.dims) != {TIME, ASSET}:
        raise wrong(
            "panel",
            "a panel or its returns (time, asset)",
            given,
            "Pass the panel whose months were forecast.",
        )
    return given.transpose(TIME, ASSET)


def has_returns(source: object, panel: object) -> bool:
    """Whether realised returns are at hand: a panel, a filtered panel's, or a tree's own."""
    observed = group_of(source, "observed_data")
    return (
        panel is not None
        or isinstance(getattr(source, "panel", None), xr.Dataset)
        or (observed is not None and RETURNS in observed)
    )


def _wide(values: xr.DataArray) -> xr.DataArray:
    """Turn observations along ``obs`` into (time, asset), NaN where there is none."""
    if OBS not in values.dims:
        return values
    index = pd.MultiIndex.from_arrays(
        [values[TIME].values, values[ASSET].values], names=[TIME, ASSET]
    )
    coords = xr.Coordinates.from_pandas_multiindex(index, OBS)
    plain = values.reset_coords(drop=True).drop_vars(OBS, errors="ignore")
    return plain.assign_coords(coords).unstack(OBS)


def factor_draws(
    source: object, panel: object, kind: str
) -> tuple[xr.Dataset, xr.DataArray | None, dict[Any, Any]]:
    """Return factors (with ``factors`` or ``mean`` and ``sd``), loadings if known, attributes."""
    if isinstance(source, xr.DataTree):
        posterior, constants = group_of(source, "posterior"), group_of(source, "constant_data")
        if posterior is not None and FACTORS in posterior:
            beta = None if constants is None else constants.get("beta")
            return posterior, beta, dict(source.attrs)
    elif isinstance(source, xr.Dataset) and ("mean" in source or FACTORS in source):
        return source, None, dict(source.attrs)
    plain = isinstance(source, xr.DataTree | xr.Dataset | xr.DataArray | pd.DataFrame)
    filtered = source
    if not plain and callable(getattr(source, "filter", None)):
        if not isinstance(panel, xr.Dataset):
            raise ConfigError(
                f"`panel` must be the panel to filter where `source` is a fit, got "
                f"{described(panel)}. Pass it, or pass fit.filter(panel)."
            )
        filtered = source.filter(panel)  # type: ignore[attr-defined]
    if plain or not callable(getattr(filtered, "factors", None)):
        raise wrong(
            "source",
            "a fit, a filtered panel, or a Dataset of factors",
            source,
            "Pass fit.filter(panel) or fit.factors(panel).",
        )
    found: xr.Dataset = filtered.factors(kind)  # type: ignore[attr-defined]
    beta = filtered.loadings()  # type: ignore[attr-defined]
    return found, beta, dict(found.attrs)


def period_of(*sources: Any) -> str:
    """Return what a row is called: "month", "week" or "day"."""
    for each in sources:
        unit = UNITS.get(str(getattr(each, "attrs", {}).get("frequency", "")))
        if unit is not None:
            return unit
    for each in sources:
        times = getattr(each, "coords", {}).get(TIME)
        if times is not None and times.ndim and np.issubdtype(times.dtype, np.datetime64):
            found = infer_frequency(pd.DatetimeIndex(times.values)) if times.size > 2 else None
            if found is not None:
                return UNITS[found]
    return "month"


def one_time(array: xr.DataArray, time: object | None) -> Any:
    """Return the label of one month: the given one, else the last that has a forecast."""
    index = array.indexes.get(TIME)
    if index is None:
        return None
    if time is None:
        others = [dim for dim in array.dims if dim != TIME]
        rows = np.flatnonzero(array.notnull().any(others).values)
        if not rows.size:
            raise ConfigError("`source` has no forecast in any month. Forecast a listed asset.")
        return index[rows[-1]]
    rows = pick_rows(index, time, name="`time`", what="source", error=ConfigError)
    if len(rows) != 1:
        raise ConfigError(f"`time` must pick one month, got {len(rows)} with {time!r}.")
    return index[rows[0]]


def month_label(time: Any, period: str = "month") -> str:
    """Write a date as a title has it."""
    stamp = pd.Timestamp(time)
    return f"{stamp:%B %Y}" if period == "month" else f"{stamp:%Y-%m-%d}"


def asset_texts(
    name: str, given: object, assets: np.ndarray, *sources: object
) -> dict[str, str] | None:
    """Return a text for each asset: from a coordinate on ``asset`` of a source, or a mapping."""
    if given is None:
        return None
    if isinstance(given, pd.Series):
        given = given.to_dict()
    if isinstance(given, Mapping):
        return {str(asset): str(given.get(asset, "other")) for asset in assets}
    known: set[str] = set()
    for source in sources:
        if isinstance(source, xr.Dataset | xr.DataArray) and ASSET in source.dims:
            columns = {str(key) for key, c in source.coords.items() if c.dims == (ASSET,)}
            known |= columns - {ASSET}
            if given in columns:
                row = source[str(given)].reset_coords(drop=True).to_series().reindex(assets)
                return {str(a): str(text) for a, text in zip(assets, row, strict=True)}
    raise ConfigError(
        f"`{name}` must be a coordinate on `asset` ({', '.join(sorted(known)) or 'there is none'}) "
        f"or a mapping by asset; got {given!r}. Pass the panel that has it."
    )


def asset_labels(labels: object, assets: np.ndarray, *sources: object) -> dict[str, str]:
    """Return a text for each asset; by default the coordinate ``name`` of a source, else the id."""
    if labels is None and any("name" in getattr(each, "coords", {}) for each in sources):
        labels = "name"
    return asset_texts("labels", labels, assets, *sources) or {str(a): str(a) for a in assets}


def comparable_returns(returns: xr.DataArray, *draws: xr.DataArray) -> xr.DataArray:
    """Select realised returns (time, asset) of the forecast assets, in months that all have."""
    months = returns.indexes[TIME]
    for each in draws:
        months = months.intersection(each.indexes[TIME])
    found = returns.sel({TIME: months}).reindex({ASSET: draws[0][ASSET].values})
    found = found.dropna(TIME, how="all")
    if not found.sizes[TIME]:
        raise ConfigError(
            "`panel` must have returns in months of the forecast, got none. Forecast months "
            "whose returns are known."
        )
    return found
