"""Scores of months that were left out: the future with refits, or one month at a time."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import logsumexp

from rvrae_pyro.data.timeline import in_time_order, pick_rows
from rvrae_pyro.errors import ConfigError, ShapeError, check_count
from rvrae_pyro.evaluation.comparison import LogEvidence
from rvrae_pyro.names import RETURNS, SAMPLE_DIMS, TIME, WEIGHT_DRAW
from rvrae_pyro.predictive.pareto import FEWEST, good_khat, smooth_weights

Array = NDArray[np.float64]


class Score(Protocol):
    """Log score of every month given those before: (time,), or with dims of draws."""

    def __call__(self, fitted: LogEvidence, panel: xr.Dataset) -> xr.DataArray:
        """Score every month of the panel."""
        ...


def leave_future_out(
    make_fit: Callable[[xr.Dataset], LogEvidence],
    panel: xr.Dataset,
    *,
    start: int | float,
    step: int = 12,
    score: Score | None = None,
    threshold: float | None = None,
) -> xr.Dataset:
    r"""Score each month by a fit that saw none of it, refitting as months go by.

    .. math:: \mathrm{elpd} = \sum_{t \ge L} \log p(r_t \mid r_{1:t-1}), \qquad
        p(r_t \mid r_{1:t-1}) \approx \sum_s w_t^s \, p(r_t \mid r_{1:t-1}, \theta^s), \quad
        w_t^s \propto \prod_{u=\tau}^{t-1} p(r_u \mid r_{1:u-1}, \theta^s)

    with :math:`\theta^s` the weights' draws of the last fit, made on months before
    :math:`\tau`.

    Parameters
    ----------
    make_fit : callable
        Gets the panel of the months before a date and returns a fitted model, such as
        ``lambda past: rv.fit(make_model(), past, config=config, progress=False)``.
    panel : xarray.Dataset
    start : int or float
        Months before the first one scored, or their share of all.
    step : int
        Months after which the model is refitted in any case.
    score : callable, optional
        Called as ``score(fitted, panel)``: log scores (time,), with a dim ``chain``, ``draw`` or
        ``weight_draw`` where the weights have draws. Default: ``fitted.log_evidence(panel)``.
        Where weights have a posterior, ``lambda fitted, panel: fitted.log_evidence(panel,
        by_weights=200)`` gives each draw's own, which is what can be brought up to date.
    threshold : float, optional
        k-hat of the Pareto-smoothed weights above which the model is refitted at once. Default:
        ``min(1 - 1 / log10(S), 0.7)``.

    Returns
    -------
    Dataset
        By ``time`` from the first month scored: ``log_score`` in nats (0 without a return),
        ``khat`` of the weights that bring the last fit's draws up to this month (NaN where none
        were needed), ``refit`` (True where a fit was made on the months before this one, be it
        for ``step`` or because this ``khat`` was too large), ``age`` (months since that fit).
        Attributes ``elpd``, ``n_refits``.

    Raises
    ------
    ConfigError
        If ``start`` or ``step`` is outside its range.

    Notes
    -----
    The weights' draws are brought up to date by importance: no refit is needed while the
    months since the last one change their posterior little. That takes 25 draws or more; with
    fewer (an ensemble's members, a single estimate) draws keep equal weights and the fit is
    refitted every ``step`` months alone. Factors are filtered month by month either way.

    Only parameters with draws are updated. With ``inference="posterior"`` that is the
    feed-forward weights of loadings, scale and alpha; the factor prior, recurrent weights, biases
    and scales that are parameters keep the values of the last fit, and so does anything that the
    mean-field posterior got wrong about the months it saw.
    The months that are scored are removed from what ``make_fit`` sees, not hidden in it.

    References
    ----------
    Bürkner, Gabry and Vehtari (2020), Approximate leave-future-out cross-validation for
    Bayesian time series models, Journal of Statistical Computation and Simulation 90.
    """
    panel = in_time_order(panel, "panel")
    n_times = panel.sizes[TIME]
    first = round(start * n_times) if isinstance(start, float) else start
    if not 1 <= first < n_times:
        raise ConfigError(
            f"`start` must leave at least one month before and one after, of {n_times}; got "
            f"{start!r}."
        )
    check_count("step", step)
    score = score or (lambda fitted, panel: fitted.log_evidence(panel))
    walk = _Walk(make_fit, panel, score, threshold)
    rows = [walk.month(t, step) for t in range(first, n_times)]
    columns = {name: (TIME, np.array([row[name] for row in rows])) for name in rows[0]}
    result = xr.Dataset(columns, coords={TIME: panel[TIME][first:]})
    result.attrs.update(
        elpd=float(result["log_score"].sum()), n_refits=int(result["refit"].sum()), units="nats"
    )
    return result


class _Walk:
    """The last fit, its scores of all later months, and the weights of its draws."""

    def __init__(
        self,
        make_fit: Callable[[xr.Dataset], LogEvidence],
        panel: xr.Dataset,
        score: Score,
        threshold: float | None,
    ) -> None:
        self.make_fit, self.panel, self.score = make_fit, panel, score
        self.threshold = threshold
        self.fitted_at = -1
        self.scores: Array = np.empty((0, 0))

    def month(self, t: int, step: int) -> dict[str, float | bool | int]:
        refit = self.fitted_at < 0 or t - self.fitted_at >= step
        if refit:
            self._refit(t)
        log_weight, khat = self._weights(t)
        limit = good_khat(len(self.scores)) if self.threshold is None else self.threshold
        if not refit and khat > limit:
            refit = True
            self._refit(t)
            log_weight, _ = self._weights(t)  # report the k-hat that led to the refit
        value = float(logsumexp(log_weight + self.scores[:, t]))
        return {"log_score": value, "khat": khat, "refit": refit, "age": t - self.fitted_at}

    def _refit(self, t: int) -> None:
        fitted = self.make_fit(self.panel.isel({TIME: slice(0, t)}))
        scores = self.score(fitted, self.panel)
        if TIME not in scores.dims or set(scores.dims) - {TIME, WEIGHT_DRAW, *SAMPLE_DIMS}:
            raise ShapeError(
                "`score` must give dims (time,), with 'chain', 'draw' or 'weight_draw' at most; "
                f"got {scores.dims}."
            )
        values = scores.transpose(..., TIME).to_numpy().astype(np.float64)
        self.scores, self.fitted_at = values.reshape(-1, values.shape[-1]), t

    def _weights(self, t: int) -> tuple[Array, float]:
        size = len(self.scores)
        equal = np.full(size, -np.log(size))
        if size < FEWEST or t == self.fitted_at:
            return equal, np.nan
        log_weight, khat = smooth_weights(self.scores[:, self.fitted_at : t].sum(1))
        return log_weight, float(khat)


def leave_month_out(
    fit: LogEvidence,
    panel: xr.Dataset,
    *,
    times: object | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    r"""Score each month given all others, its factors integrated out.

    .. math:: \log p(r_t \mid r_{-t}) = \log p(r_{1:T}) - \log p(r_{-t})

    Parameters
    ----------
    fit : Fit or Ensemble
        Anything with ``log_evidence``.
    panel : xarray.Dataset
    times : label, slice or list, optional
        Months to leave out, one at a time. Default: all with a return.
    num_samples, seed : int
        Particles where a model has no closed form.

    Returns
    -------
    Dataset
        ``log_score`` (time,) in nats; ``ahead`` (time,): the score given the months before
        alone. Their difference is the information of later months on a month.

    Raises
    ------
    ConfigError
        If ``times`` names no month with a return.

    Notes
    -----
    Exact for models with a closed form, up to the weights, which have seen the training
    months. It measures how well a month's returns follow from its neighbours, and is no measure
    of forecasts. With particles the same random numbers serve both terms, and the error is
    that of a difference of evidences. Costs one filter per month left out.
    """
    panel = in_time_order(panel, "panel")
    seen = panel[RETURNS].notnull().any([d for d in panel[RETURNS].dims if d != TIME])
    months = panel[TIME].where(seen, drop=True).to_numpy()
    if times is not None:
        asked = panel[TIME].to_numpy()[pick_rows(panel.indexes[TIME], times)]
        months = months[np.isin(months, asked)]
    if not len(months):
        raise ConfigError("`times` must name at least one month with a return; got none.")
    whole = fit.log_evidence(panel, num_samples, seed)
    scores = []
    for month in months:
        without = panel.copy()
        without[RETURNS] = panel[RETURNS].where(panel[TIME] != month)
        later = whole[TIME] >= month
        rest = fit.log_evidence(without, num_samples, seed)
        scores.append(float((whole - rest).where(later).sum()))
    return xr.Dataset(
        {"log_score": (TIME, np.array(scores)), "ahead": whole.sel({TIME: months})},
        coords={TIME: months},
        attrs={"units": "nats"},
    )
