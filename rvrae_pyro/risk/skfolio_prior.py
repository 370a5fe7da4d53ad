"""Forecasts as a prior estimator of skfolio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.calendar import frequency_of, period_ends
from rvrae_pyro.errors import ConfigError, PanelError, check_count, warn_user
from rvrae_pyro.names import ASSET, RETURNS, TIME
from rvrae_pyro.risk.draws import at_step
from rvrae_pyro.risk.portfolio import to_scenarios

try:
    from skfolio.prior import BasePrior, ReturnDistribution
except ImportError:  # an extra; the class then raises when it is used
    BasePrior, ReturnDistribution = object, None

_LAST_SEEN: Final = "last_seen_month"


class ForecastPrior(BasePrior):  # type: ignore[misc]
    """Prior estimator of skfolio whose scenarios are draws of a forecast.

    ``fit(X)`` forecasts the period after the last row of ``X`` from the panel up to that row, so
    that skfolio's ``WalkForward`` rebalances an optimiser with this prior out of sample.

    Parameters
    ----------
    fitted : Fit, Ensemble, baseline, Filtered, or callable
        A fitted model; ``fit.filter(panel)``, which is not filtered again for every ``X``; or
        a function from the panel up to the last row of ``X`` to a fitted model, which refits every
        time.
    panel : Dataset
        Panel with the assets of ``X`` and the characteristics of the periods forecast.
    num_samples, seed : int
        Draws, that is scenarios. Those of a ``Filtered`` are its own.
    horizon : int
        Periods over which returns are compounded: those between two rebalancings.

    Attributes
    ----------
    return_distribution_ : skfolio.prior.ReturnDistribution
        ``returns`` (draw, asset), their mean and covariance; NaN for assets that are not listed.
    time_ : Timestamp
        First period forecast.

    Raises
    ------
    ImportError
        Without skfolio (extra ``stocks``).
    ConfigError
        From ``fit``, if ``X`` is no DataFrame with dates as index, or has assets that the panel
        lacks.
    PanelError
        If the panel has no row for the period after ``X``.

    Warns
    -----
    RvraeWarning
        If the model has seen months after the last row of ``X``: the result is then in sample.

    Notes
    -----
    Information set: the panel's returns up to the last row of ``X``, and the characteristics of
    the next row, known by then. Parameters are shared between clones, not copied.

    Examples
    --------
    >>> prior = rv.risk.ForecastPrior(fit.filter(panel), panel)  # doctest: +SKIP
    >>> optimiser = MeanRisk(prior_estimator=prior)  # doctest: +SKIP
    >>> returns = panel["returns"].to_pandas()  # doctest: +SKIP
    >>> cross_val_predict(optimiser, returns, cv=WalkForward(1, 60))  # doctest: +SKIP
    """

    def __init__(
        self,
        fitted: Any,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        horizon: int = 1,
    ) -> None:
        if ReturnDistribution is None:
            raise ImportError(
                "rv.risk.ForecastPrior needs skfolio: pip install 'rvrae-pyro[stocks]'."
            )
        self.fitted = fitted
        self.panel = panel
        self.num_samples = num_samples
        self.seed = seed
        self.horizon = horizon

    def __sklearn_clone__(self) -> ForecastPrior:
        """Share the model and the panel, which fitting never changes."""
        return type(self)(**self.get_params(deep=False))

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> ForecastPrior:
        """Forecast the period after the last row of ``X``.

        Parameters
        ----------
        X : DataFrame of shape (n_observations, n_assets)
            Returns; index of dates, columns of asset labels. Its values are not read: the panel
            has them.
        y : ignored
        **fit_params : ignored

        Returns
        -------
        self
        """
        horizon = check_count("horizon", self.horizon)
        last = self._last_row(X)
        labels = [str(name) for name in X.columns]
        unknown = sorted(set(labels) - set(map(str, self.panel[ASSET].values)))
        if unknown:
            raise ConfigError(
                f"`X` has {len(unknown)} columns that are no assets of the panel, first "
                f"{unknown[0]!r}. Drop them, or pass the panel that has them."
            )
        index = pd.DatetimeIndex(self.panel.indexes[TIME])
        ends = period_ends(index, frequency_of(self.panel))
        later = np.flatnonzero(ends > last)
        if not later.size:
            raise PanelError(
                f"`panel` must have a row after the last one of `X`, {last:%Y-%m-%d}; it ends in "
                f"{index[-1]:%Y-%m-%d}. Append the live row: characteristics without returns."
            )
        month = index[later[0]]
        tree = self._forecast(int(later[0]), month, horizon)
        draws = to_scenarios(at_step(tree, horizon) if horizon > 1 else tree, month)
        returns = draws.reindex(columns=labels).to_numpy(np.float64)
        self.n_features_in_ = len(labels)
        self.feature_names_in_ = np.asarray(labels, dtype=object)
        self.time_ = month
        self.return_distribution_ = ReturnDistribution(
            mu=returns.mean(axis=0),
            covariance=np.atleast_2d(np.cov(returns, rowvar=False)),
            returns=returns,
        )
        return self

    def _last_row(self, given: Any) -> pd.Timestamp:
        if not isinstance(given, pd.DataFrame) or not len(given):
            raise ConfigError(
                "`X` must be a DataFrame of returns with dates as index and assets as columns; got "
                f"{type(given).__name__}. Pass panel['returns'].to_pandas()."
            )
        try:
            return period_ends(given.index[-1:], frequency_of(self.panel))[0]
        except (ValueError, TypeError) as error:
            raise ConfigError(f"`X` must have dates as index: {error}.") from error

    def _forecast(self, row: int, month: pd.Timestamp, horizon: int) -> xr.DataTree:
        """Draw the forecast of a row from the rows before it."""
        fitted, seen = self.fitted, self.panel.isel({TIME: slice(row + 1)})
        options = {"times": month, "horizon": horizon}
        if isinstance(getattr(fitted, "panel", None), xr.Dataset):  # a panel that is filtered
            self._warn_of_seen(getattr(fitted, "draw_attrs", {}), row)
            tree: xr.DataTree = fitted.forecast(**options)
            return tree
        if not hasattr(fitted, "forecast"):
            if not callable(fitted):
                raise ConfigError(
                    "`fitted` must be a fitted model, the result of its `filter`, or a function "
                    f"that fits one; got {type(fitted).__name__}."
                )
            make: Callable[[xr.Dataset], Any] = fitted
            fitted = make(self.panel.isel({TIME: slice(row)}))
        else:
            self._warn_of_seen(getattr(fitted, "attrs", {}), row)
        ahead = xr.DataArray(np.arange(row + 1) < row, dims=TIME)
        seen = seen.assign({RETURNS: seen[RETURNS].where(ahead)})  # hides later returns
        found: xr.DataTree = fitted.forecast(
            seen, num_samples=self.num_samples, seed=self.seed, **options
        )
        return found

    def _warn_of_seen(self, attrs: Any, row: int) -> None:
        last = attrs.get(_LAST_SEEN) if hasattr(attrs, "get") else None
        if last is None:
            return
        if pd.Timestamp(str(last)) >= self.panel.indexes[TIME][row]:
            warn_user(
                f"the model has seen returns up to {last}, after the last row of `X`: the weights "
                "that follow are in sample. Fit on earlier months, or pass a function that fits."
            )
