"""Transforms of panels: ranks, market context, and characteristic-managed portfolios."""

import numbers
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.chunks import each_row, row_blocks
from rvrae_pyro.data.rounding import rounding
from rvrae_pyro.data.validation import first_three, validate_panel
from rvrae_pyro.errors import ConfigError, PanelError
from rvrae_pyro.names import CHARACTERISTIC, CHARACTERISTICS, CONTEXT, FEATURE, RETURNS, TIME

Floats = NDArray[np.floating[Any]]

_LEAST_SPREAD: Final = 1e-9
"""Relative spread below which a feature counts as constant."""
_VOLATILITY: Final = {"vol", "retvol", "idiovol", "ivol", "illiq", "ill", "spread", "baspread"}
_RISK: Final = _VOLATILITY | {"maxret", "minret", "beta"}
_CLIP: Final = 4.0

CONSTANT: Final = "constant"
"""Label of the portfolio of the constant: close to equal weights."""


def rank_characteristics(panel: xr.Dataset) -> xr.Dataset:
    """Replace every characteristic by its rank within the row's cross-section.

    The rank k of n values becomes 2 k / (n + 1) - 1, ties share their mean rank. Missing
    values of listed cells become 0, the middle; cells that are not listed stay NaN.

    Parameters
    ----------
    panel : Dataset
        With raw characteristics. One whose attribute ``transform`` is ``"rank"`` is
        returned as it is.

    Returns
    -------
    Dataset
        The same panel with ``characteristics`` in (-1, 1), their dtype kept, and the
        attribute ``transform`` set to ``"rank"``. A row with one asset has 0.

    Raises
    ------
    PanelError
        If the panel fails ``check_panel``.

    Notes
    -----
    Row t uses nothing but row t, all of it known at the end of t-1. Rank before cutting
    assets out, since ranks refer to the whole cross-section. Cost O(T P N log N). A panel on
    disk stays there: its ranks are made when they are read.

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, Journal of Econometrics
    222, section 4.1: the scaling 2 rank / (N + 1) - 1.
    """
    validate_panel(panel, returns_required=False)
    if panel.attrs.get("transform") == "rank":
        return panel
    raw = panel[CHARACTERISTICS]
    if raw.chunks is None:
        ranks: Any = _rank_rows(raw.values)
    else:  # on disk: a plan to make them row by row
        ranks = raw.data.rechunk({1: -1, 2: -1}).map_blocks(_rank_rows, dtype=raw.dtype)
    ranked = xr.Variable(raw.dims, ranks, attrs=raw.attrs)
    out = panel.assign({CHARACTERISTICS: ranked})
    out.attrs["transform"] = "rank"
    return out


def _rank_rows(values: Floats) -> Floats:
    out = np.empty_like(values)
    for row, ranked in zip(values, out, strict=True):
        missing = np.isnan(row)
        count = (~missing).sum(axis=0)
        ranks = 2.0 * pd.DataFrame(row).rank().to_numpy() / (count + 1.0) - 1.0
        ranks[missing] = 0.0
        ranked[:] = np.where(missing.all(axis=1, keepdims=True), np.nan, ranks)
    return out


def market_context(panel: xr.Dataset, characteristics: Sequence[str] | None = None) -> xr.Dataset:
    """Add ``context``: the level and spread of characteristics over the cross-section.

    Two features per characteristic: the median over assets, and the interquartile range.
    Both are taken in logs where the characteristic measures volatility or trading costs,
    so positive and skewed. Each feature is then standardised by the mean and standard
    deviation of its rows up to and including t and clipped to [-4, 4].

    Parameters
    ----------
    panel : Dataset
        With raw characteristics: ranks have the same median and spread in every row.
    characteristics : sequence of str, optional
        By default those whose names speak of volatility, beta, extreme returns or
        illiquidity (``vol_12m``, ``idiovol``, ``beta_60m``, ``maxret``, ``illiq``,
        ``spread_hl``, ...); if there are none, all.

    Returns
    -------
    Dataset
        The same panel with ``context`` (time, feature), float64, finite. The features are
        ``<name>_median`` and ``<name>_iqr``. An existing ``context`` is replaced.

    Raises
    ------
    PanelError
        If the panel is ranked, fails ``check_panel``, or lacks a requested characteristic.

    Notes
    -----
    Row t uses the characteristics of rows up to t, all known at the end of t-1, so a
    longer panel leaves earlier rows unchanged. Rows with fewer than a year (12 rows) of
    history are 0. Where no asset has a value the last known one holds. Add the context
    before cutting the panel in time: a cut restarts the standardisation.
    """
    validate_panel(panel, returns_required=False)
    if panel.attrs.get("transform", "none") != "none":
        raise PanelError(
            f"`panel`: market_context needs raw characteristics; the attribute `transform` is "
            f"{panel.attrs['transform']!r}. Call it before rank_characteristics."
        )
    names = _chosen(panel, characteristics)
    values = panel[CHARACTERISTICS].sel({CHARACTERISTIC: names})
    levels = (0.25, 0.5, 0.75)
    quarter, median, three = np.empty((len(levels), len(values), len(names)))
    for first, block in row_blocks(values):
        for t, month in enumerate(block, first):
            table = pd.DataFrame(month, dtype=np.float64)
            quarter[t], median[t], three[t] = table.quantile(list(levels)).to_numpy()
        del block
    features: dict[str, Floats] = {}
    noise: list[Floats] = []
    relative = max(_LEAST_SPREAD, rounding(values))
    for k, name in enumerate(names):
        positive = bool(_tokens(name) & _VOLATILITY)
        size = relative * np.fmax(np.abs(quarter[:, k]), np.abs(three[:, k]))
        for suffix, raw in (("median", median[:, k]), ("iqr", (three - quarter)[:, k])):
            known = np.where(raw > 0.0, raw, np.nan)
            features[f"{name}_{suffix}"] = np.log(known) if positive else raw
            noise.append(size / known if positive else size)
    scaled = _standardise(np.stack(list(features.values()), axis=-1), np.stack(noise, axis=-1))
    out = panel.drop_dims(FEATURE) if FEATURE in panel.dims else panel
    source = {"source": "market_context", "standardised_from": str(panel[TIME].values[0])[:10]}
    out = out.assign({CONTEXT: ((TIME, FEATURE), scaled, source)})
    return out.assign_coords({FEATURE: np.array(list(features), dtype=str)})


def context_changes(panel: xr.Dataset) -> xr.Dataset:
    """Add the change since the month before of every feature of the context.

    Smoothed measures of volatility lag behind it: where one has risen, the last month was
    more volatile than the measure shows, and the next one will be. A model can use both.

    Parameters
    ----------
    panel : Dataset
        With ``context``.

    Returns
    -------
    Dataset
        The same panel, its ``context`` followed by features ``<name>_change``. The first
        row, which has no month before it, changes by 0; add changes before cutting the
        panel in time, so that later parts know the month before their first.

    Raises
    ------
    PanelError
        If the panel has no context, or has changes already.

    Notes
    -----
    Row t uses the context of rows t and t-1, known at the end of t-1.
    """
    if CONTEXT not in panel:
        raise PanelError(
            "`panel` has no `context` whose changes could be added. Call "
            "rv.data.market_context(panel) first."
        )
    context = panel[CONTEXT].transpose(TIME, FEATURE)
    names = [str(name) for name in context[FEATURE].values]
    added = [f"{name}_change" for name in names]
    twice = sorted(set(names) & set(added))
    if twice:
        raise PanelError(
            f"`panel` has changes of its context already ({first_three(twice)}); add them once."
        )
    values = context.to_numpy()
    changes = np.diff(values, axis=0, prepend=values[:1])
    out = panel.drop_dims(FEATURE).assign(
        {CONTEXT: ((TIME, FEATURE), np.concatenate([values, changes], axis=1), context.attrs)}
    )
    return out.assign_coords({FEATURE: np.array([*names, *added], dtype=str)})


def _tokens(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def _chosen(panel: xr.Dataset, wanted: Sequence[str] | None) -> list[str]:
    have = [str(v) for v in panel[CHARACTERISTIC].values]
    if wanted is None:
        # "vol_trend" is a trend of trading volume
        risky = [v for v in have if _tokens(v) & _RISK and "trend" not in _tokens(v)]
        return risky or have
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    absent = [v for v in wanted if v not in have]
    if absent or not wanted:
        raise PanelError(
            f"`characteristics` must name some of the panel's; got {first_three(absent)}; "
            f"it has {first_three(have)}."
        )
    return wanted


def _standardise(features: Floats, noise: Floats) -> Floats:
    """Centre and scale each column by its rows so far; see ``market_context``.

    ``noise`` is the rounding error of each number: a constant feature must not become noise.
    """
    frame = pd.DataFrame(features).ffill()
    so_far = frame.expanding(min_periods=12)
    spread = so_far.std(ddof=0)
    floor = pd.DataFrame(noise).ffill().expanding().max()
    scaled = (frame - so_far.mean()) / spread.where(spread > floor)
    filled: Floats = scaled.fillna(0.0).to_numpy()
    return np.clip(filled, -_CLIP, _CLIP)


def managed_portfolios(panel: xr.Dataset, ridge: float = 1.0) -> xr.DataArray:
    """Regress each row's returns on its characteristics and a constant.

    With X the (n_t, P + 1) matrix of a one and the characteristics of the assets with an
    observed return, the portfolios' returns are (X'X + ridge I)^-1 X'r.

    Parameters
    ----------
    panel : Dataset
        Ranked, or at least with no NaN in a cell that is listed and has a return.
    ridge : float
        Not negative; in units of X'X, so 1 weighs as much as one asset with
        characteristics of 1. It matters for rows with few assets and is lost in
        rows with thousands; 0 is least squares, of smallest norm where assets are few.

    Returns
    -------
    DataArray of shape (n_times, P + 1), dims (time, characteristic)
        Excess return per unit of characteristic, float64; the first label is
        ``"constant"``. Row t is known at the end of t. NaN in rows without a usable
        cell, such as the live one.

    Raises
    ------
    PanelError
        If the panel fails ``check_panel``, has a NaN among the characteristics of a cell
        in use, or a characteristic of the name ``constant``.
    ConfigError
        If ``ridge`` is negative or no number.

    Notes
    -----
    Cost O(T N P^2). Permuting the assets changes nothing but rounding.

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, Journal of Econometrics
    222, section 2.3: the input of the factor side of the conditional autoencoder.
    """
    validate_panel(panel, returns_required=False)
    if not isinstance(ridge, numbers.Real) or not 0.0 <= ridge < np.inf:
        raise ConfigError(f"`ridge` must be a number of at least 0; got {ridge!r}.")
    names = [str(v) for v in panel[CHARACTERISTIC].values]
    if CONSTANT in names:
        raise PanelError(f"`panel`: the characteristic {CONSTANT!r} must be renamed or dropped.")
    returns = panel[RETURNS].values
    rows = each_row(panel[CHARACTERISTICS])
    out = np.full((len(returns), len(names) + 1), np.nan)
    unfilled: list[str] = []
    for t, (r, x) in enumerate(zip(returns, rows, strict=True)):
        use = ~np.isnan(r) & ~np.isnan(x).all(axis=-1)
        if not use.any():
            continue
        design = np.column_stack([np.ones(use.sum()), x[use].astype(np.float64)])
        if np.isnan(design).any():
            unfilled.append(str(panel[TIME].values[t])[:10])
            continue
        gram = design.T @ design + ridge * np.eye(design.shape[1])
        moment = design.T @ r[use].astype(np.float64)
        out[t] = np.linalg.solve(gram, moment) if ridge else np.linalg.pinv(design) @ r[use]
    if unfilled:
        raise PanelError(
            f"`panel`: listed cells with missing characteristics on {first_three(unfilled)}. "
            "rank_characteristics fills them."
        )
    return xr.DataArray(
        out,
        coords={TIME: panel[TIME], CHARACTERISTIC: np.array([CONSTANT, *names])},
        dims=(TIME, CHARACTERISTIC),
        name="managed_portfolios",
        attrs={"long_name": "return of the managed portfolio", "units": "1"},
    )
