"""Competitors behind one protocol: a name, a description, and a fit that gives an outlook."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr

from rvrae_pyro.baselines.base import Baseline
from rvrae_pyro.baselines.factors import FactorBaseline
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.experiments.outlook import (
    FORECASTS,
    MEAN,
    build_outlook,
    label,
    observed_returns,
    refit,
)
from rvrae_pyro.fitting.describe import describe_config
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.training import fit as fit_rvrae
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.registry import describe_model
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import FACTOR, TIME

__all__ = [
    "BaselineEntrant",
    "Entrant",
    "FactoryEntrant",
    "Fitted",
    "ModelEntrant",
    "Oracle",
    "as_entrant",
]


class Fitted(Protocol):
    """A competitor after its fit."""

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months of a panel.

        Parameters
        ----------
        panel : Dataset
            From the first training month on.
        times : array of datetime64
            Months wanted. What is said of month t's return before the month knows months
            before t only.
        num_samples : int
            Predictive draws, where the competitor has any.
        seed : int

        Returns
        -------
        DataTree
            Group ``forecasts`` with ``mean`` (time, asset) and, as far as the competitor has
            them, the other variables of
            :func:`~rvrae_pyro.experiments.outlook.build_outlook`; with a predictive
            distribution, groups ``predictions`` and ``predictions_constant_data`` as
            ``Fit.forecast`` gives them. Attributes say how it was fitted.
        """
        ...


@runtime_checkable
class Entrant(Protocol):
    """A competitor before its fit; whatever has these three takes part.

    Attributes
    ----------
    name : str
        As the tables show it.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return all that its results depend on beside data and seed, in JSON types."""
        ...

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Fit a fresh copy."""
        ...


@dataclass(frozen=True, eq=False)
class BaselineEntrant:
    """A baseline; every fit is one of a fresh copy.

    Parameters
    ----------
    name : str
    template : Baseline
    """

    name: str
    template: Baseline

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the class and its settings."""
        return {"kind": type(self.template).__name__, **self.template.settings()}

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Fit a copy of the template."""
        fitted = copy.deepcopy(self.template).fit(train, valid, seed)
        return FittedFactors(fitted) if isinstance(fitted, FactorBaseline) else Forecaster(fitted)


@dataclass(frozen=True, eq=False)
class Forecaster:
    """A baseline without factors: it has a point forecast and nothing else."""

    baseline: Baseline

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast some months; see :class:`Fitted`."""
        forecasts = label({MEAN: self.baseline.forecast(panel).sel({TIME: times})})
        return _tree({FORECASTS: forecasts}, self.baseline.attrs)


@dataclass(frozen=True, eq=False)
class FittedFactors:
    """A baseline with factors and a Gaussian predictive distribution."""

    baseline: FactorBaseline

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months; see :class:`Fitted`."""
        model = self.baseline
        drawn = model.predictive(panel, num_samples, seed, times=times)
        # loadings and scales of every month, which come with a single draw
        every = model.predictive(panel, 1, seed)["predictions_constant_data"].to_dataset()
        factors = model.factors(panel)
        if "member" in factors.dims:
            factors = factors.rename(member="chain").assign_coords(chain=every["chain"])
        forecasts = build_outlook(
            observed_returns(panel),
            model.forecast(panel),
            times,
            alpha=every["alpha"],
            beta=every["beta"],
            idio_scale=every["idio_scale"],
            factors=factors,
            fitted=model.reconstruct(panel),
            log_evidence=model.log_evidence(panel),
        )
        return _tree({FORECASTS: forecasts, **_groups(drawn)}, model.attrs)


@dataclass(frozen=True, eq=False)
class ModelEntrant:
    """An RVRAE; every fit is one of a fresh copy.

    Parameters
    ----------
    name : str
    template : RVRAE
        Untrained: each fit starts from weights drawn with its seed.
    config : FitConfig, optional
    """

    name: str
    template: RVRAE
    config: FitConfig | None = None

    def __post_init__(self) -> None:
        if not self.template.untouched:
            raise ConfigError(
                f"model {self.name!r} must be untrained; got one whose weights have changed, which "
                "may have seen the test months. Build it anew: rv.RVRAE(...)."
            )

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the parts and the training configuration."""
        config = FitConfig() if self.config is None else self.config
        return {
            "kind": "RVRAE",
            "model": describe_model(self.template),
            "config": describe_config(config),
        }

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Fit a copy of the template."""
        model = copy.deepcopy(self.template)
        return FittedModel(
            fit_rvrae(model, train, valid, config=self.config, seed=seed, progress=False)
        )


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A trained RVRAE."""

    result: Fit

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months; see :class:`Fitted`."""
        fit = self.result
        drawn = fit.forecast(panel, num_samples, seed, times=times)
        beta = fit.loadings(panel)
        factors = fit.factors(panel, "filtered", num_samples, seed)["mean"]
        predicted = fit.factors(panel, "predicted", num_samples, seed)["mean"]
        fitted = fit.reconstruct(panel, num_samples, seed)
        alpha = fitted - xr.dot(beta, factors, dim=FACTOR, optimize=True)
        forecasts = build_outlook(
            observed_returns(panel),
            alpha + xr.dot(beta, predicted, dim=FACTOR, optimize=True),
            times,
            alpha=alpha,
            beta=beta,
            idio_scale=fit.idio_scale(panel, num_samples, seed),
            factors=factors,
            fitted=fitted,
            log_evidence=fit.log_evidence(panel, num_samples, seed),
        )
        return _tree({FORECASTS: forecasts, **_groups(drawn)}, fit.attrs)


@dataclass(frozen=True, eq=False)
class FactoryEntrant:
    """Whatever a function makes of the training panel: sizes may depend on it.

    Parameters
    ----------
    name : str
    make : callable
        From the training panel to an RVRAE, a baseline or an entrant.
    config : FitConfig, optional
        Of an RVRAE.
    """

    name: str
    make: Callable[[xr.Dataset], object]
    config: FitConfig | None = None

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Describe what the function makes."""
        return self._made(panel).describe(panel)

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Make it for the training panel and fit it."""
        return self._made(train).fit(train, valid, seed)

    def _made(self, panel: xr.Dataset) -> Entrant:
        return as_entrant(self.make(panel), name=self.name, config=self.config)


@dataclass(frozen=True, eq=False)
class _Renamed:
    """An entrant under another name."""

    name: str
    entrant: Entrant

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        return self.entrant.describe(panel)

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        return self.entrant.fit(train, valid, seed)


@dataclass(frozen=True, eq=False)
class Oracle:
    """The true loadings of a simulated panel, factors by least squares: the ceiling.

    Needs the variable ``true_beta`` (time, asset, factor); nothing is learnt.
    """

    name: str = "Oracle"

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the kind; there are no settings."""
        return {"kind": "Oracle"}

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Check that the truth is there."""
        if "true_beta" not in train:
            raise ConfigError(
                "the oracle needs the variable 'true_beta' of a simulated panel; got none. Leave "
                "it out on data whose truth is not known."
            )
        return self

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months; see :class:`Fitted`."""
        returns = observed_returns(panel)
        beta = panel["true_beta"].reset_coords(drop=True)
        beta = beta.assign_coords({FACTOR: np.arange(1, beta.sizes[FACTOR] + 1)})
        nothing, one = xr.zeros_like(returns.fillna(0.0)), xr.ones_like(returns.fillna(0.0))
        factors = refit(returns, beta)
        forecasts = build_outlook(
            returns,
            nothing,
            times,
            alpha=nothing,
            beta=beta,
            idio_scale=one,
            factors=factors,
            fitted=xr.dot(beta, factors, dim=FACTOR, optimize=True),
        )
        forecasts[MEAN] = forecasts["mean_ols"]
        return _tree({FORECASTS: forecasts}, {"kind": "Oracle"})


def as_entrant(
    model: object, *, name: str | None = None, config: FitConfig | None = None
) -> Entrant:
    """Let a model take part.

    Parameters
    ----------
    model : RVRAE, Baseline, Entrant, or callable
        A callable gets the training panel and gives one of the others.
    name : str, optional
        For the tables; by default that of its class or function.
    config : FitConfig, optional
        How an RVRAE is trained; others have settings of their own.

    Raises
    ------
    ConfigError
        For anything else, or an RVRAE that was trained already.
    """
    return _enter(model, name, config)


@singledispatch
def _enter(model: object, name: str | None, config: FitConfig | None) -> Entrant:
    if isinstance(model, Entrant) and not isinstance(model, type):
        return model if name in (None, model.name) else _Renamed(str(name), model)
    if callable(model):
        return FactoryEntrant(name or str(getattr(model, "__name__", "model")), model, config)
    raise ConfigError(
        "a competitor must be an RVRAE, a baseline, a callable that makes one from the training "
        f"panel, or an object with `name`, `describe` and `fit`; got {type(model).__name__}."
    )


@_enter.register
def _(model: RVRAE, name: str | None, config: FitConfig | None) -> Entrant:
    return ModelEntrant(name or "RVRAE", model, config)


@_enter.register
def _(model: Baseline, name: str | None, config: FitConfig | None) -> Entrant:
    return BaselineEntrant(name or type(model).__name__, model)


def _groups(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    return {name: node.to_dataset() for name, node in tree.children.items()}


def _tree(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, str | int]) -> xr.DataTree:
    tree = xr.DataTree.from_dict(dict(groups))
    tree.attrs.update(attrs)
    return tree
