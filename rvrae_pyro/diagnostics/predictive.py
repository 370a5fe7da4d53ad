"""Posterior predictive checks: whether the model makes up months like those seen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.panel import listed
from rvrae_pyro.data.rounding import constant, rounding
from rvrae_pyro.data.timeline import in_time_order, labels_like, pick_rows
from rvrae_pyro.errors import ConfigError, ShapeError, warn_user
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, OBS, RETURNS, TIME
from rvrae_pyro.predictive.prior import prior_predictive

__all__ = ["Predicts", "predictive_check", "statistics"]

Array = NDArray[np.float64]
When = Literal["prior", "in_sample", "ahead"]

DESCRIPTIONS = {
    "spread": "standard deviation across the month's assets",
    "skewness": "skewness across the month's assets",
    "kurtosis": "excess kurtosis across the month's assets",
    "tails": "share of the month's assets beyond three robust deviations from its median",
    "comovement": "largest eigenvalue's share of the returns' second moments",
    "clustering": "autocorrelation over one month of the squared mean return, centred",
    "volatility": "standard deviation over months of the mean return",
}
BY_MONTH = ("spread", "skewness", "kurtosis", "tails")


class Predicts(Protocol):
    """What a check asks of a fit or an ensemble."""

    def posterior_predictive(
        self,
        panel: xr.Dataset,
        num_samples: int = ...,
        seed: int = ...,
        times: object | None = ...,
        out: str | os.PathLike[str] | None = ...,
    ) -> xr.DataTree:
        """Replicates of seen months."""
        ...

    def forecast(
        self,
        panel: xr.Dataset,
        num_samples: int = ...,
        seed: int = ...,
        times: object | None = ...,
        out: str | os.PathLike[str] | None = ...,
    ) -> xr.DataTree:
        """Forecasts, one month ahead."""
        ...


def predictive_check(
    fit: Predicts | RVRAE | xr.DataTree,
    panel: xr.Dataset,
    *,
    when: When = "in_sample",
    num_samples: int = 200,
    seed: int = 0,
    times: object | None = None,
) -> xr.DataTree:
    """Compare habits of the months seen with those of months that the model makes up.

    Parameters
    ----------
    fit : Fit, Ensemble, RVRAE or DataTree
        A tree holds draws made already: ``posterior_predictive``, ``predictions`` or
        ``prior_predictive`` with ``returns``. A model serves ``when="prior"`` alone.
    panel : xarray.Dataset
        The months seen.
    when : {"in_sample", "ahead", "prior"}
        What draws know: factors inferred from the month's own returns; the months before; no
        return at all (with weights as they are). Not used with a tree.
    num_samples, seed : int
    times : label, slice or list, optional
        Months to compare; all with a return unless told.

    Returns
    -------
    DataTree
        ``posterior_predictive`` (or ``prior_predictive``) and ``observed_data``: ``spread``,
        ``skewness``, ``kurtosis``, ``tails`` by month, ``comovement``, ``clustering``,
        ``volatility`` of the span; see :func:`statistics`. ``p_value``: share of draws whose
        statistic (its mean over months) is as large as the one seen or larger; near 0 the
        model makes up too little of it, near 1 too much.

    Raises
    ------
    ConfigError
        For an unknown ``when``, or a model where a fit is needed.
    ShapeError
        If the tree holds no returns, or too few months or assets were seen.

    Notes
    -----
    Draws and data are compared on the same observed cells. In-sample draws know the months'
    factors, so that spread and co-movement agree almost by construction, and tails judge the
    likelihood; one month ahead they judge the forecasts. Draws one month ahead start from the
    months that were seen, each on its own: ``clustering`` and ``volatility`` then compare a
    sequence with months drawn one by one, and what memory the draws have is that of the
    forecasts' scale. ``plot_ppc_dist`` and ``plot_ppc_tstat`` read the tree.

    References
    ----------
    Gelman, Meng and Stern (1996), Statistica Sinica 6: posterior predictive assessment.
    """
    tree = _draws(fit, panel, when, num_samples, seed, times)
    group, draws = _returns(tree)
    span = panel
    if times is not None:
        span = panel.isel({TIME: pick_rows(panel.indexes[TIME], times)})
    seen, draws = _same_cells(span, draws)
    mine = statistics(seen)
    made = statistics(draws)
    name = "prior_predictive" if group == "prior_predictive" else "posterior_predictive"
    larger = {key: _as_large(made[key], mine[key]) for key in mine.data_vars}
    result = xr.DataTree.from_dict(
        {name: made, "observed_data": mine, "p_value": xr.Dataset(larger)}
    )
    result.attrs.update(tree.attrs)
    result.attrs["when"] = when if not isinstance(fit, xr.DataTree) else group
    return result


def statistics(returns: xr.DataArray) -> xr.Dataset:
    """Habits of a panel of returns, or of every draw of one.

    Parameters
    ----------
    returns : DataArray (..., time, asset)
        NaN where not observed. Months with fewer than four returns are dropped.

    Returns
    -------
    Dataset
        ``spread``, ``skewness``, ``kurtosis`` (excess), ``tails`` (..., time), across the
        month's assets. ``comovement``: largest eigenvalue's share of the assets' second
        moments, over pairs of cells seen. ``volatility``: standard deviation of the monthly
        mean return. ``clustering``: autocorrelation over one month of the square of that mean
        less its average; NaN with fewer than four months.

    Raises
    ------
    ShapeError
        If dims are missing, or no month has four returns.
    """
    absent = [dim for dim in (TIME, ASSET) if dim not in returns.dims]
    if absent:
        raise ShapeError(f"`returns` must have dims (time, asset); got {returns.dims}.")
    relative = rounding(returns)
    values = in_time_order(returns, "returns").transpose(..., TIME, ASSET)
    lead = values.dims[:-2]
    enough = (
        values.notnull().sum(ASSET).min(lead) >= 4 if lead else values.notnull().sum(ASSET) >= 4
    )
    if not bool(enough.any()):
        raise ShapeError("`returns` must hold a month with at least four returns; got none.")
    values = values.isel({TIME: np.flatnonzero(enough.to_numpy())})
    array = values.to_numpy().astype(np.float64)
    array = array.reshape(-1, *array.shape[-2:])
    rows = [_month_statistics(one, relative) | _span_statistics(one, relative) for one in array]
    shape = values.shape[:-2]
    coords = {dim: values[dim] for dim in (*lead, TIME) if dim in values.coords}
    variables: dict[str, Any] = {}
    for name, description in DESCRIPTIONS.items():
        stacked = np.stack([row[name] for row in rows])
        dims = (*lead, TIME) if name in BY_MONTH else lead
        data = stacked.reshape((*shape, *stacked.shape[1:]))
        variables[name] = (dims, data, {"long_name": description})
    return xr.Dataset(variables, coords=coords)


def _month_statistics(returns: Array, relative: float) -> dict[str, Array]:
    """Of every month, across assets; (n_times, n_assets) to (n_times,)."""
    moves = ~constant(returns, axis=1, relative=relative)
    centred = returns - np.nanmean(returns, axis=1, keepdims=True)
    variance = np.nanmean(centred**2, axis=1)
    scale = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.where(moves, np.nanmean(centred**3, axis=1) / scale**3, np.nan)
        kurtosis = np.where(moves, np.nanmean(centred**4, axis=1) / variance**2 - 3.0, np.nan)
    away = np.abs(returns - np.nanmedian(returns, axis=1, keepdims=True))
    robust = np.nanmedian(away, axis=1, keepdims=True) / 0.6745
    known = np.isfinite(returns)
    tails = ((away > 3.0 * robust) & known).sum(axis=1) / known.sum(axis=1)
    return {"spread": scale, "skewness": skewness, "kurtosis": kurtosis, "tails": tails}


def _span_statistics(returns: Array, relative: float) -> dict[str, Array]:
    """Of the whole span; (n_times, n_assets) to numbers."""
    known = np.isfinite(returns)
    filled = np.where(known, returns, 0.0)
    pairs = np.maximum(known.T.astype(float) @ known, 1.0)
    values = np.linalg.eigvalsh(filled.T @ filled / pairs)
    market = np.nanmean(returns, axis=1)
    size = (market - market.mean()) ** 2
    if len(size) < 4 or constant(market, relative=relative) or size.std() == 0:
        clustering = np.nan
    else:
        clustering = np.corrcoef(size[1:], size[:-1])[0, 1]
    total = np.trace(filled.T @ filled / pairs)
    return {
        "comovement": np.asarray(values[-1] / total if total > 0 else np.nan),
        "clustering": np.asarray(clustering),
        "volatility": np.asarray(market.std()),
    }


def _as_large(made: xr.DataArray, seen: xr.DataArray) -> xr.DataArray:
    """Share of draws at least as large as what was seen, ties half."""
    if TIME in made.dims:
        made, seen = made.mean(TIME), seen.mean(TIME)
    share = ((made > seen) + 0.5 * (made == seen)).mean((CHAIN, DRAW))
    return share.where(seen.notnull() & made.notnull().all())


def _draws(
    fit: Predicts | RVRAE | xr.DataTree,
    panel: xr.Dataset,
    when: str,
    num_samples: int,
    seed: int,
    times: object | None,
) -> xr.DataTree:
    if when not in ("prior", "in_sample", "ahead"):
        raise ConfigError(f"`when` must be 'in_sample', 'ahead' or 'prior'; got {when!r}.")
    if isinstance(fit, xr.DataTree):
        return fit
    if when == "prior":
        model = fit if isinstance(fit, RVRAE) else getattr(fit, "model", None)
        if not isinstance(model, RVRAE):
            raise ConfigError(
                f"`fit` must hold one model for when='prior'; got {type(fit).__name__}. Pass one "
                "member of the ensemble."
            )
        return prior_predictive(model, panel, num_samples, seed)
    if isinstance(fit, RVRAE):
        raise ConfigError(f"`fit` must be a fit for when={when!r}; got a model: use when='prior'.")
    if when == "ahead":
        return fit.forecast(panel, num_samples, seed, times)
    return fit.posterior_predictive(panel, num_samples, seed, times)


def _returns(tree: xr.DataTree) -> tuple[str, xr.DataArray]:
    groups: Mapping[str, Any] = tree.children
    for group in ("posterior_predictive", "predictions", "prior_predictive"):
        if group in groups and RETURNS in groups[group].data_vars:
            return group, groups[group].to_dataset()[RETURNS]
    raise ShapeError(
        "`fit` must be a fit, a model, or a tree with 'returns' in posterior_predictive, "
        f"predictions or prior_predictive; got groups {list(groups)}."
    )


def _same_cells(panel: xr.Dataset, draws: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Keep the cells that both have: (time, asset) and (chain, draw, time, asset)."""
    panel = in_time_order(panel, "panel")
    seen = panel[RETURNS].transpose(TIME, ASSET).where(listed(panel))
    if OBS in draws.dims:
        draws = draws.drop_vars(OBS, errors="ignore").set_index(obs=[TIME, ASSET]).unstack(OBS)
    draws = in_time_order(draws, "fit")
    months = labels_like(draws.indexes[TIME], seen.indexes[TIME], "fit", "panel")
    lost = months[~months.isin(seen.indexes[TIME])]
    if len(lost):
        warn_user(
            f"{len(lost)} of {len(months)} months of the draws are left out: `panel` lacks "
            f"{lost[0]:%Y-%m-%d}{' and others' if len(lost) > 1 else ''}."
        )
    draws = draws.assign_coords({TIME: months.to_numpy()})
    draws = draws.reindex({TIME: seen[TIME], ASSET: seen[ASSET]})
    draws = draws.transpose(CHAIN, DRAW, TIME, ASSET)
    both = seen.notnull() & draws.isel({CHAIN: 0, DRAW: 0}, drop=True).notnull()
    return seen.where(both), draws.where(both)
