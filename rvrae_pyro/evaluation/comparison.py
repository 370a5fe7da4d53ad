"""Comparison of fits by one-step-ahead log scores: errors of differences, stacking weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from rvrae_pyro.data.timeline import (
    in_time_order,
    labels_like,
    match_months,
    pick_rows,
    stationary_bootstrap,
)
from rvrae_pyro.errors import ConfigError, ShapeError, check_choice
from rvrae_pyro.evaluation.scoring import hac_standard_error, varying
from rvrae_pyro.names import RETURNS, TIME

ESS: Final = "ess"
FILTER_ERROR: Final = "filter_error"

Array = NDArray[np.float64]
MODEL: Final = "model"
_GAP: Final = 1e-13  # complementarity per month, in nats
_ITERATIONS: Final = 200
_LEAST_ESS: Final = 20.0


@runtime_checkable
class LogEvidence(Protocol):
    """A fit, an ensemble, or anything else that scores months one after the other."""

    def log_evidence(
        self, panel: xr.Dataset, num_samples: int = ..., seed: int = ...
    ) -> xr.DataArray:
        """Log density of each month's returns given the months before (time,), in nats."""
        ...


@runtime_checkable
class ParticleFilter(Protocol):
    """A filtered panel whose evidence may have a Monte-Carlo error."""

    @property
    def ess(self) -> xr.DataArray:
        """Effective sample size of the particle filter (time,)."""
        ...

    @property
    def evidence_error(self) -> xr.DataArray:
        """Monte-Carlo standard error of the log evidence (time,)."""
        ...


class Evidence(Protocol):
    """A filtered panel."""

    def log_evidence(self) -> xr.DataArray:
        """Log density of each month's returns given the months before (time,), in nats."""
        ...


@runtime_checkable
class Filters(Protocol):
    """A fit, an ensemble or a baseline."""

    def filter(self, panel: xr.Dataset, num_samples: int = ..., seed: int = ...) -> Evidence:
        """Filter a panel."""
        ...


def monthly_scores(
    scored: LogEvidence | xr.DataArray, panel: xr.Dataset | None, num_samples: int, seed: int
) -> xr.DataArray:
    """Log score by month, from a fit or as it is.

    Those of a particle filter have its sample size and Monte-Carlo error as coordinates.
    """
    if isinstance(scored, xr.DataArray):
        scores = scored
    elif isinstance(scored, Filters) and panel is not None:
        filtered = scored.filter(panel, num_samples, seed)
        scores = filtered.log_evidence()
        if isinstance(filtered, ParticleFilter):
            scores = scores.assign_coords(
                {ESS: filtered.ess, FILTER_ERROR: filtered.evidence_error}
            )
    elif isinstance(scored, LogEvidence):
        if panel is None:
            raise ConfigError("`panel` must be given where fits are to be scored; got None.")
        scores = scored.log_evidence(panel, num_samples, seed)
    else:
        raise ConfigError(
            "`fits` must hold fits (with log_evidence) or DataArrays of monthly log scores; got "
            f"{type(scored).__name__}."
        )
    if scores.dims != (TIME,):
        raise ShapeError(f"Log scores must have the dim (time,) alone; got {scores.dims}.")
    return scores


def stacking_weights(scores: xr.DataArray) -> xr.DataArray:
    r"""Weights of the mixture of forecasts with the highest log score.

    .. math:: \max_w \sum_t \log \sum_m w_m \exp(s_{mt}), \quad w \ge 0, \; \sum_m w_m = 1

    Parameters
    ----------
    scores : DataArray (model, time)
        Log scores. At least one must be finite in every month.

    Returns
    -------
    DataArray (model,)
        Weights on the simplex. Identical forecasts share their weight equally.

    Raises
    ------
    ShapeError
        If the dims are others, or a month has a NaN or no finite score.

    Notes
    -----
    The problem is convex. With :math:`g_m = \frac1T \sum_t \exp(s_{mt}) / \sum_l w_l
    \exp(s_{lt})`, weights are optimal if and only if :math:`g_m \le 1` for all models, with
    equality where :math:`w_m > 0`. A primal-dual interior-point method (Boyd and Vandenberghe,
    Convex Optimization, section 11.7) iterates until both hold to about 1e-13, so that the
    score is within 1e-12 nats per month of the optimum. Cost O(T M^2) per iteration.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Using stacking to average Bayesian predictive
    distributions, Bayesian Analysis 13; Kim, Carbonetto, Stephens and Anitescu (2020), A fast
    algorithm for maximum likelihood estimation of mixture proportions using sequential quadratic
    programming, JCGS 29 (the form without the equality constraint).
    """
    if set(scores.dims) != {MODEL, TIME}:
        raise ShapeError(f"`scores` must have dims (model, time); got {scores.dims}.")
    values = scores.transpose(MODEL, TIME).to_numpy().astype(np.float64)
    if not values.size or np.isnan(values).any() or not np.isfinite(values.max(axis=0)).all():
        raise ShapeError(
            "`scores` must hold at least one month and, in every month, a number for each model "
            "of which one or more are finite. Drop the months that lack one."
        )
    density = np.exp(values - values.max(axis=0)).T
    return scores.isel({TIME: 0}, drop=True).copy(data=_maximise(density)).rename("weight")


def _maximise(density: Array) -> Array:
    r"""Maximise the mean log of ``density @ w`` (months, models) over the simplex.

    In the form :math:`\min_{w \ge 0} \sum_m w_m - \frac1T \sum_t \log (P w)_t`, whose solution
    sums to one by itself.
    """
    n_times, n_models = density.shape
    weight = np.full(n_models, 1.0 / n_models)
    slack = np.full(n_models, 1.0)
    for _ in range(_ITERATIONS):
        share = density / (density @ weight)[:, None]
        excess = 1.0 - share.mean(axis=0)
        # Complementarity implies feasibility here: at the central path, slack = excess.
        if np.abs(weight * excess).max() < _GAP and excess.min() > -10.0 * _GAP:
            break
        target = 0.1 * float(weight @ slack) / n_models
        hessian = share.T @ share / n_times
        system = hessian + np.diag(slack / weight)
        move = np.linalg.lstsq(system, target / weight - excess, rcond=None)[0]
        change = target / weight - slack - slack / weight * move
        step = min(1.0, 0.99 * _room(weight, move), 0.99 * _room(slack, change))
        before = _residual(density, weight, slack, target)
        while step > 1e-12:
            after = _residual(density, weight + step * move, slack + step * change, target)
            if after <= (1.0 - 0.01 * step) * before:
                break
            step /= 2.0
        weight, slack = weight + step * move, slack + step * change
    optimum: Array = weight / weight.sum()
    return optimum


def _residual(density: Array, weight: Array, slack: Array, target: float) -> float:
    """Norm of the optimality conditions, complementarity relaxed to ``target``."""
    mixture = density @ weight
    if not (mixture > 0.0).all():
        return float("inf")
    gradient = 1.0 - (density / mixture[:, None]).mean(axis=0)
    both = np.concatenate([gradient - slack, weight * slack - target])
    return float(np.linalg.norm(both))


def _room(value: Array, move: Array) -> float:
    """Largest step that keeps ``value + step * move`` nonnegative."""
    shrinking = move < 0.0
    return float((-value[shrinking] / move[shrinking]).min()) if shrinking.any() else np.inf


def compare(
    fits: Mapping[str, LogEvidence | xr.DataArray],
    panel: xr.Dataset | None = None,
    *,
    times: object | None = None,
    error: Literal["hac", "bootstrap"] = "hac",
    lags: int | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    r"""Rank fits by monthly log score, with standard errors of the differences and weights.

    .. math:: s_{mt} = \log p_m(r_t \mid r_{1:t-1}), \qquad d_{mt} = s_{mt} - s_{\ast t}

    with :math:`\ast` the best on average.

    Parameters
    ----------
    fits : mapping from name to Fit, Ensemble or DataArray
        Anything with ``log_evidence``, or monthly log scores (time,) of a model from elsewhere.
    panel : xarray.Dataset, optional
        Filtered from its first month on: give the months before those that count, too. Not
        needed where all entries are scores.
    times : label, slice or list, optional
        Months that count. Default: all with a return. Training months measure fit.
    error : {"hac", "bootstrap"}
        Newey-West, or a stationary bootstrap of months.
    lags : int, optional
        Lags of Newey-West, or mean block length of the bootstrap. Default: rules of thumb.
    num_samples, seed : int
        Particles where a model has no closed form; resamples of the bootstrap.

    Returns
    -------
    Dataset
        By ``model``, best first: ``log_score`` (nats per month), its ``standard_error``;
        ``difference`` to the best (at most 0), ``difference_error``, and the two-sided
        ``p_value``; stacking ``weight``; ``filter_error``, the particle filter's part of the
        standard error (0 for exact scores and scores from elsewhere), and ``smallest_ess``, its
        smallest effective sample size in a month that counts. ``log_scores`` and ``ess`` (model,
        time), NaN without a filter. Attribute ``n_times``; ``warning`` where a month has fewer
        than 20 effective particles. ``.drop_dims("time").to_dataframe()`` is the table.

    Raises
    ------
    ConfigError
        With fewer than two entries, for something that is neither fit nor scores, or an
        unknown ``error``.
    ShapeError
        If there are fewer than two months that all have.

    Notes
    -----
    The joint score of a month rewards knowing how assets move together. Months are the unit:
    the assets of one month are dependent. The best is chosen on the same months, so that
    differences to it are optimistic by the choice; with many models use
    ``model_confidence_set`` on ``-log_scores``. Standard errors are those over months and of the
    particle filter's Monte-Carlo error, added in squares: a little too wide, as the former see a
    part of the latter. More particles (``num_samples``) reduce it.

    References
    ----------
    Diebold and Mariano (1995), JBES 13; Politis and Romano (1994), JASA 89 (bootstrap); Yao et
    al. (2018), Bayesian Analysis 13 (stacking).
    """
    check_choice("error", error, ("hac", "bootstrap"))
    if not isinstance(fits, Mapping) or len(fits) < 2:
        raise ConfigError("`fits` must map two names or more to fits or scores.")
    scores, noise, ess = _aligned(fits, panel, times, num_samples, seed)
    order = np.argsort(-scores.mean(TIME).to_numpy(), kind="stable")
    scores, noise, ess = (each.isel({MODEL: order}) for each in (scores, noise, ess))
    difference = scores - scores.isel({MODEL: 0}, drop=True)
    size, n_times = max(200, num_samples), scores.sizes[TIME]
    # of a sum of months, whose filter errors are independent
    filtered = (noise**2).sum(TIME) ** 0.5 / n_times
    others = xr.DataArray(np.arange(len(order)) > 0, dims=MODEL)
    both = (filtered**2 + filtered.isel({MODEL: 0}, drop=True) ** 2).where(others, 0.0)
    own = (_errors(scores, error, lags, size, seed) ** 2 + filtered**2) ** 0.5
    apart = (_errors(difference, error, lags, size, seed) ** 2 + both) ** 0.5
    gap = difference.mean(TIME)
    given = [one for one in fits.values() if isinstance(one, xr.DataArray)]
    ratio = abs(gap) / varying(apart, float(np.abs(scores).max()), *given)
    p_value = gap.copy(data=2.0 * stats.t.sf(ratio.to_numpy(), n_times - 1))
    table = xr.Dataset(
        {
            "log_score": scores.mean(TIME),
            "standard_error": own,
            "difference": gap,
            "difference_error": apart,
            "p_value": p_value,
            "weight": stacking_weights(scores),
            FILTER_ERROR: filtered,
            "smallest_ess": ess.min(TIME),
            "log_scores": scores,
            ESS: ess,
        },
        attrs={"n_times": n_times, "error": error, "units": "nats per month"},
    )
    low = {
        str(m): int((one < _LEAST_ESS).sum()) for m, one in zip(ess[MODEL].values, ess, strict=True)
    }
    if any(low.values()):
        named = ", ".join(f"{name} in {count} months" for name, count in low.items() if count)
        table.attrs["warning"] = (
            f"fewer than {_LEAST_ESS:.0f} effective particles of {num_samples}: {named}. "
            "Scores and their errors are rough; use more (`num_samples`)."
        )
    return table.transpose(MODEL, ...)


def _aligned(
    fits: Mapping[str, LogEvidence | xr.DataArray],
    panel: xr.Dataset | None,
    times: object | None,
    num_samples: int,
    seed: int,
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Scores (model, time) of months that count and all have; filter errors and sample sizes."""
    each = {
        str(name): _counted(monthly_scores(one, panel, num_samples, seed), str(name), times)
        for name, one in fits.items()
    }
    try:
        aligned = match_months({f"fits[{name!r}]": scores for name, scores in each.items()})
    except ShapeError as problem:
        raise ShapeError(f"`fits` must share two scored months or more: {problem}") from problem
    aligned = list(xr.align(*aligned, join="inner"))
    noise, ess = (_beside(aligned, name, fits) for name in (FILTER_ERROR, ESS))
    plain = [each.reset_coords(drop=True) for each in aligned]
    table = xr.concat(plain, MODEL, coords="minimal", compat="override")
    table = table.assign_coords({MODEL: [str(name) for name in fits]}).rename("log_score")
    if panel is not None:
        seen = panel[RETURNS].notnull().any([d for d in panel[RETURNS].dims if d != TIME])
        seen = in_time_order(seen, "panel")
        if TIME in seen.indexes and TIME in table.indexes:
            months = labels_like(seen.indexes[TIME], table.indexes[TIME], "panel", "fits")
            seen = seen.assign_coords({TIME: months.to_numpy()})
        table = table.where(seen.reindex({TIME: table[TIME]}, fill_value=False))
    table = table.dropna(TIME)
    if table.sizes[TIME] < 2:
        raise ShapeError(
            f"`fits` must share two scored months or more; got {table.sizes[TIME]}. Compare their "
            "months, and `times`."
        )
    kept = {TIME: table[TIME]}
    return table, noise.sel(kept).fillna(0.0), ess.sel(kept)


def _beside(aligned: Sequence[xr.DataArray], name: str, fits: Mapping[str, object]) -> xr.DataArray:
    """Stack a coordinate of the scores (model, time), NaN where they have none."""
    rows = [
        each[name].to_numpy() if name in each.coords else np.full(each.sizes[TIME], np.nan)
        for each in aligned
    ]
    coords = {MODEL: [str(key) for key in fits], TIME: aligned[0][TIME].to_numpy()}
    return xr.DataArray(np.stack(rows), coords, (MODEL, TIME), name)


def _counted(scores: xr.DataArray, name: str, times: object | None) -> xr.DataArray:
    """Scores of the months that count, in order and in double precision."""
    scores = in_time_order(scores, f"fits[{name!r}]").astype(np.float64)
    if times is None:
        return scores
    return scores.isel({TIME: pick_rows(scores.indexes[TIME], times, what=f"scores of {name!r}")})


def _errors(
    series: xr.DataArray, error: str, lags: int | None, num_samples: int, seed: int
) -> xr.DataArray:
    if error == "hac":
        return hac_standard_error(series, lags=lags)
    n_times = series.sizes[TIME]
    block = max(1.0, n_times ** (1 / 3)) if lags is None else float(lags)
    if block < 1:
        raise ConfigError(f"`lags` must be at least 1 with error='bootstrap'; got {lags!r}.")
    picks = stationary_bootstrap(n_times, num_samples, block, np.random.default_rng(seed))
    values = series.transpose(..., TIME).to_numpy()
    means = values[..., picks].mean(-1)
    return series.isel({TIME: 0}, drop=True).copy(data=means.std(-1, ddof=1))
