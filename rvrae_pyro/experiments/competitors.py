"""Competitors behind one protocol: a name, a description, and a fit that forecasts."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any, Protocol, runtime_checkable

import xarray as xr

from rvrae_pyro.baselines.baseline import Baseline
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.experiments.forecast_tree import Fitted
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.saved import describe_config
from rvrae_pyro.fitting.training import fit as fit_rvrae
from rvrae_pyro.fitting.training import load as load_rvrae
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.identity import own_identity
from rvrae_pyro.models.registry import chosen_parts, describe_model
from rvrae_pyro.models.rvrae import RVRAE


@runtime_checkable
class Entrant(Protocol):
    """Competitor before its fit: any object with these three attributes.

    Attributes
    ----------
    name : str
        As the tables show it.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the settings that determine its results, in JSON types."""
        ...

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Fit a fresh copy.

        Returns
        -------
        Fit, Ensemble, baseline, or object with ``outlook``
            See :func:`~rvrae_pyro.experiments.forecast_tree`.
        """
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
        kind, settings = type(self.template), self.template.settings()
        return {"kind": kind.__name__, **settings, **_own(kind, settings)}

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Baseline:
        """Fit a copy of the template."""
        return copy.deepcopy(self.template).fit(train, valid, seed)


@dataclass(frozen=True, eq=False)
class ModelEntrant:
    """An RVRAE; every fit is one of a fresh copy.

    Parameters
    ----------
    name : str
    template : RVRAE
        Untrained: each fit starts from weights drawn with its seed.
    config : FitConfig, optional
    options : mapping, optional
        Further arguments of ``rv.fit``: ``elbo``, ``init``.
    """

    name: str
    template: RVRAE
    config: FitConfig | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.template.untrained:
            raise ConfigError(
                f"model {self.name!r} must be untrained; got one whose weights have changed, which "
                "may have seen the test months. Build a new one: rv.RVRAE(...)."
            )

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the parts and the training configuration."""
        config = FitConfig() if self.config is None else self.config
        return {
            "kind": "RVRAE",
            "model": describe_model(self.template),
            "config": describe_config(config),
            **({"options": {k: repr(v) for k, v in self.options.items()}} if self.options else {}),
            **_own(chosen_parts(self.template), config),
        }

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fit:
        """Fit a copy of the template."""
        model = copy.deepcopy(self.template)
        fit = fit_rvrae(
            model, train, valid, config=self.config, seed=seed, progress=False, **self.options
        )
        return fit.uninterrupted()

    def warm(self, first: Fit, config: FitConfig | None = None) -> ModelEntrant:
        """Return the same model, each fit of which starts from an earlier fit.

        Parameters
        ----------
        first : Fit
        config : FitConfig, optional
            Of the warm fits. Default: :meth:`FitConfig.warm` of this model's configuration.
        """
        config = (self.config or FitConfig()).warm() if config is None else config
        return replace(self, config=config, options={**self.options, "init": first})

    def load(self, path: str | os.PathLike[str]) -> Fit:
        """Read a saved fit of this model, user-defined parts and schedules included."""
        config = FitConfig() if self.config is None else self.config
        return load_rvrae(path, copy.deepcopy(self.template), config=config)


@dataclass(frozen=True, eq=False)
class FactoryEntrant:
    """Anything that a function makes of the training panel: sizes may depend on it.

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
        return self.made(panel).describe(panel)

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Fitted:
        """Make it for the training panel and fit it."""
        return self.made(train).fit(train, valid, seed)

    def made(self, panel: xr.Dataset) -> Entrant:
        """Make the competitor for a training panel."""
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


def model_entrant(entrant: Entrant, panel: xr.Dataset) -> ModelEntrant:
    """Return the RVRAE that a competitor fits to a training panel.

    Raises
    ------
    ConfigError
        If it is no RVRAE.
    """
    found = entrant
    while not isinstance(found, ModelEntrant):
        if isinstance(found, _Renamed):
            found = found.entrant
        elif isinstance(found, FactoryEntrant):
            found = found.made(panel)
        else:
            raise ConfigError(
                "`warm_start` needs an RVRAE: an untrained model, its name, or a function that "
                f"makes one from the training panel; got {entrant.name!r}. Leave `warm_start` for "
                "other models."
            )
    return found


def _own(*values: object) -> dict[str, str]:
    """Hash user-defined code for a description; empty for built-in parts."""
    found = own_identity(*values)
    return {} if found is None else {"own": found}


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
        How an RVRAE is trained; others have their settings.

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
