"""Base class of baselines: fit, predict, forecast, save and load."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Self, TypeVar

import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from rvrae_pyro import displays
from rvrae_pyro.baselines.baseline_files import read_folder, write_folder
from rvrae_pyro.data.batch import Batch, to_batch
from rvrae_pyro.data.panel_match import describe_panel, fingerprint, match_panel
from rvrae_pyro.data.splits import join_months
from rvrae_pyro.errors import CheckpointError, ConfigError, FitError, check_count
from rvrae_pyro.names import TIME
from rvrae_pyro.nn.seeding import seeded
from rvrae_pyro.predictive.export import provenance
from rvrae_pyro.predictive.months import drawn_from, label_cells, pick_months
from rvrae_pyro.predictive.storage import Block, Drawing, assemble

Network = TypeVar("Network", bound=nn.Module)

_NETWORK: Final = "network."


class Draws(NamedTuple):
    """Draws of some months: name of the random stream, draws per member, and their blocks."""

    purpose: str
    size: int
    blocks: Callable[[int], Iterator[Block]]


@dataclass(frozen=True, eq=False)
class Request:
    """Draws asked for: of which months (positions) of a panel, how many, with which seed."""

    panel: xr.Dataset
    batch: Batch
    months: list[int]
    num_samples: int
    seed: int


@dataclass(frozen=True, eq=False)
class Fitting:
    """Inputs of a fit: training and validation months, the same as tensors, and settings."""

    panel: xr.Dataset
    batch: Batch
    n_train: int
    seed: int
    progress: bool


@dataclass(frozen=True, eq=False)
class FilteredBaseline:
    """A fitted baseline and a panel: the interface that ``Fit.filter`` returns for a fit.

    Made by ``baseline.filter(panel, num_samples, seed)``. Every method is that of the baseline,
    for this panel.
    """

    baseline: Baseline
    panel: xr.Dataset = field(repr=False)
    num_samples: int
    seed: int

    @property
    def attrs(self) -> dict[str, str | int]:
        """Attributes of the baseline."""
        return self.baseline.attrs

    def predict(self, times: object | None = None) -> xr.DataArray:
        """Predict the mean return (time, asset) of month t from data to t-1 only."""
        return self.baseline.predict(self.panel, times)

    def forecast(
        self,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
        horizon: int = 1,
        future: xr.Dataset | None = None,
    ) -> xr.DataTree:
        """Draw every listed asset's return of month t from data to t-1 only."""
        return self.baseline.forecast(
            self.panel, self.num_samples, self.seed, times, out, horizon, future
        )

    def log_evidence(self) -> xr.DataArray:
        """Log density of each month's observed returns given all months before (time,)."""
        return self.baseline.log_evidence(self.panel)

    def moments(self, times: object | None = None) -> xr.Dataset:
        """Mean and covariance of month t's returns from data to t-1 only."""
        return self.baseline.moments(self.panel, times=times)

    def reconstruct(self) -> xr.DataArray:
        """Fitted returns (time, asset), given the month's own factors."""
        return self.baseline.reconstruct(self.panel)

    def factor_parts(self) -> xr.Dataset:
        """Return intercepts, loadings, noise scales and factors of every month."""
        return self.baseline.factor_parts(self.panel)


class Baseline(ABC):
    """A competitor with the protocol of the comparison: fit, forecast, save, load.

    A subclass keeps every argument of its constructor, of a JSON type or a ``TrainConfig``, under
    the argument's own name and gives ``_learn``, ``_predict``, ``_state`` and ``_restore``.
    """

    _settings: ClassVar[tuple[str, ...]] = ()

    has_distribution: ClassVar[bool] = False
    """True if ``forecast``, ``log_evidence`` and ``moments`` are defined."""

    _filtered: ClassVar[type[FilteredBaseline]] = FilteredBaseline

    has_factors: ClassVar[bool] = False
    """True if ``reconstruct`` and ``factor_parts`` are defined."""

    def __init_subclass__(cls) -> None:
        """Read the names of the constructor's arguments."""
        super().__init_subclass__()
        cls._settings = tuple(signature(cls.__init__).parameters)[1:]

    def __init__(self) -> None:
        self._history = pd.DataFrame()
        self._names: tuple[str, ...] = ()
        self._assets: tuple[str, ...] = ()  # of a baseline that keeps numbers by asset
        self._seed = 0
        self._attrs: dict[str, str | int] = {}
        self._panel_attrs: dict[str, str] = {}
        self._fitted_on: xr.Dataset | None = None

    @property
    def history(self) -> pd.DataFrame:
        """Copy of the training history, one row per epoch or iteration."""
        return self._history.copy()

    @history.setter
    def history(self, table: pd.DataFrame) -> None:
        self._history = table

    @property
    def is_fitted(self) -> bool:
        """True after ``fit`` or ``load``."""
        return bool(self._names)

    @property
    def attrs(self) -> dict[str, str | int]:
        """Seed, settings, library versions and fingerprint of the training panel."""
        if self._fitted_on is not None:
            # hashing a panel takes longer than the fastest fit, so it is computed on demand
            config = {"kind": type(self).__name__, **self.settings()}
            mark = fingerprint(self._fitted_on)
            self._attrs = {**provenance(self._seed, config, mark), **self._panel_attrs}
            self._fitted_on = None
        return dict(self._attrs)

    def __repr__(self) -> str:
        """Summarise settings and training."""
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._settings)
        return f"{type(self).__name__}({settings}){'' if self.is_fitted else ' (not fitted)'}"

    def _repr_html_(self) -> str:
        """Show settings and training as a table."""
        rows: dict[str, object] = {name: getattr(self, name) for name in self._settings}
        rows["fitted"] = f"yes, seed {self._seed}" if self.is_fitted else "no"
        offered = ["predict"]
        offered += ["forecast", "log_evidence", "moments"] if self.has_distribution else []
        offered += ["reconstruct"] if self.has_factors else []
        rows["offers"] = ", ".join(offered)
        return displays.card(type(self).__name__, displays.pairs(rows))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the training panel behind when a copy goes to another process."""
        self._attrs = self.attrs
        return self.__dict__

    def fit(
        self,
        train: xr.Dataset,
        valid: xr.Dataset | None = None,
        seed: int = 0,
        *,
        device: str = "cpu",
        progress: bool = False,
    ) -> Self:
        """Fit to a panel, from scratch each time.

        Parameters
        ----------
        train : Dataset
            Training months. Characteristics are taken as they are: rank them before.
        valid : Dataset, optional
            The months that follow; training stops early on them and keeps the best state.
        seed : int
            Same seed, same numbers (on one thread count). The caller's random stream is left
            as it was.
        device : str
            Device of the fit; the parameters then move to the CPU, where forecasts are made.
        progress : bool
            Show a progress bar on a terminal.

        Returns
        -------
        self

        Raises
        ------
        PanelError
            If a panel is not valid, has NaN characteristics in listed cells, or validation
            does not follow training.
        FitError
            If there is no return to learn from, or the loss is not finite.
        """
        check_count("seed", seed, 0)
        panel, n_train = join_months(train, valid)
        batch = self._to_tensors(panel, device)
        if not bool(batch.observed[:n_train].any()):
            raise FitError(
                "`train` must hold at least one observed return of a listed asset; got none. "
                "Check the training span and the panel's returns."
            )
        with seeded(seed):
            self._learn(Fitting(panel, batch, n_train, seed, progress))
        self._names = tuple(str(name) for name in batch.names)
        self._panel_attrs = describe_panel(train, context=False)
        self._seed, self._fitted_on = seed, train
        return self

    def predict(self, panel: xr.Dataset, times: object | None = None) -> xr.DataArray:
        """Predict the mean return of month t from data to t-1 only.

        Parameters
        ----------
        panel : Dataset
            Any months and assets; earlier months that it holds serve as history. Its last row
            may be the live month: characteristics known, no return yet.
        times : label, slice or list, optional
            Months. Default: all.

        Returns
        -------
        DataArray of dims (time, asset)
            Excess return, decimal; NaN where not listed, and for a factor model in months
            before which no factor is known.

        Raises
        ------
        FitError
            Before ``fit``.
        PanelError
            If the panel differs from that of training in characteristics, ``transform``,
            ``frequency`` or ``lag``.
        """
        batch = self._batch(panel)
        months = pick_months(batch, times)
        with torch.no_grad():
            mean = self._predict(panel, batch)
        return label_cells(mean, batch, "forecast", "expected return").isel({TIME: months})

    def forecast(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
        horizon: int = 1,
        future: xr.Dataset | None = None,
    ) -> xr.DataTree:
        """Draw every listed asset's return of month t jointly, from data to t-1 only.

        Parameters
        ----------
        panel : Dataset
        num_samples : int
            Total number of draws; the members of an ensemble share them evenly, rounded up.
        seed : int
        times, out : optional
            As for ``Fit.forecast``.
        horizon : int
            Periods to forecast: 1, or more where the baseline defines paths (``EWMA``,
            ``MultivariateT``), whose listing is held.
        future : Dataset, optional
            None: only fits read rows of later periods.

        Returns
        -------
        DataTree
            As ``Fit.forecast`` returns it: ``predictions``, of models with factors with
            ``factors`` and the group ``predictions_constant_data``. Members are chains.

        Raises
        ------
        ConfigError
            If the baseline is a point forecast, or defines no paths over several periods.
        """
        make = self._forecast_draws
        if future is not None:
            raise ConfigError(
                f"{type(self).__name__} reads no rows of later periods; leave `future` out."
            )
        if check_count("horizon", horizon) > 1 and self.has_distribution:
            make = partial(self._path_draws, horizon)
        return self._draw(make, panel, num_samples, seed, times, out)

    def _path_draws(self, horizon: int, request: Request) -> Draws:
        """Draw joint paths over several periods; see ``_forecast_draws``."""
        raise ConfigError(
            f"{type(self).__name__} forecasts one period ahead: `horizon` must be 1; got "
            f"{horizon}. Fits, EWMA and MultivariateT draw paths over several periods."
        )

    def log_evidence(
        self, panel: xr.Dataset, num_samples: int | None = None, seed: int | None = None
    ) -> xr.DataArray:
        """Joint log density of each month's observed returns given all months before, in nats.

        Parameters
        ----------
        panel : Dataset
        num_samples, seed : int, optional
            Not used: the density is exact.

        Returns
        -------
        DataArray of dims (time,)
            0 in months without returns. Missing returns are marginalised, and the members of an
            ensemble are an equal mixture. Divide by the number of observed returns for nats per
            return.

        Raises
        ------
        ConfigError
            If the baseline is a point forecast.
        """
        batch = self._batch(panel)
        with torch.no_grad():
            density = self._log_density(panel, batch)
        return xr.DataArray(
            density, {TIME: batch.times}, TIME, name="log_evidence", attrs={"units": "nats"}
        )

    def moments(
        self,
        panel: xr.Dataset,
        num_samples: int | None = None,
        seed: int | None = None,
        times: object | None = None,
    ) -> xr.Dataset:
        """Mean and covariance of month t's returns from data to t-1.

        Parameters
        ----------
        panel : Dataset
        num_samples, seed : int, optional
            Not used: the moments are exact.
        times : label, slice or list, optional
            Months of the result. Default: all.

        Returns
        -------
        Dataset
            As ``Fit.moments`` returns it, and ``sd`` (time, asset), the standard deviation of the
            mixture of all members. A dense covariance has as many columns of ``beta`` as assets.

        Raises
        ------
        ConfigError
            If the baseline is a point forecast.
        """
        batch = self._batch(panel)
        months = pick_months(batch, times)
        with torch.no_grad():
            data = self._moments(panel, batch, months)
        data["mean"].attrs.update(long_name="expected return", units="1")
        data["sd"].attrs.update(long_name="predictive standard deviation", units="1")
        return data.assign_attrs(self.attrs)

    def reconstruct(self, panel: xr.Dataset) -> xr.DataArray:
        """Fitted returns given the month's own factors, where the baseline has factors.

        Raises
        ------
        ConfigError
            If the baseline has no factors.
        """
        raise self._without("fitted returns", "factors")

    def factor_parts(
        self, panel: xr.Dataset, num_samples: int | None = None, seed: int | None = None
    ) -> xr.Dataset:
        """Return intercepts, loadings, noise scales and factors, where the baseline has factors.

        Raises
        ------
        ConfigError
            If the baseline has no factors.
        """
        raise self._without("loadings", "factors")

    def filter(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> FilteredBaseline:
        """Bind a panel, so that code written for ``Fit.filter`` reads a baseline too.

        Parameters
        ----------
        panel : Dataset
        num_samples, seed : int
            Predictive draws of ``forecast``, and their seed.

        Returns
        -------
        FilteredBaseline
            The methods of this class without ``panel``.
        """
        self._require_fit()
        return self._filtered(
            self, panel, check_count("num_samples", num_samples), check_count("seed", seed, 0)
        )

    def _draw(
        self,
        make: Callable[[Request], Draws],
        panel: xr.Dataset,
        num_samples: int,
        seed: int,
        times: object | None,
        out: str | os.PathLike[str] | None,
    ) -> xr.DataTree:
        num_samples, seed = check_count("num_samples", num_samples), check_count("seed", seed, 0)
        batch = self._batch(panel)
        months = pick_months(batch, times)
        attrs = {**self.attrs, "draw_seed": seed, "panel_fingerprint": fingerprint(panel)}
        with torch.no_grad():
            draws = make(Request(panel, batch, months, num_samples, seed))
            identity = drawn_from(draws.purpose, [self._state()], batch, months, draws.size)
            return assemble(Drawing(draws.blocks, attrs, identity), out)

    def _without(self, asked: str, needed: str) -> ConfigError:
        """Error for a quantity that this kind of baseline does not define."""
        return ConfigError(
            f"{type(self).__name__} has no {asked}: that takes {needed}, which it does not have. "
            "Use predict(panel) for its expected returns."
        )

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments, in JSON types."""
        described = {}
        for name in self._settings:
            value = getattr(self, name)
            described[name] = value.describe() if hasattr(value, "describe") else value
        return described

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a folder, atomically: numbers as safetensors, the rest as JSON.

        Raises
        ------
        FitError
            Before ``fit``.
        CheckpointError
            If the folder cannot be written.
        """
        self._require_fit()
        meta = {
            "kind": type(self).__name__,
            "settings": self.settings(),
            "characteristics": list(self._names),
            "attrs": self.attrs,
            "history": self.history.to_dict(orient="list"),
        }
        if self._assets:
            meta["assets"] = list(self._assets)
        return write_folder(path, meta, self._state())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a folder of :meth:`save`.

        Raises
        ------
        CheckpointError
            If the folder is missing, damaged, of a newer layout, or holds another kind.
        """
        meta, state = read_folder(path)
        if meta["kind"] != cls.__name__:
            raise CheckpointError(
                f"{str(path)!r} holds a {meta['kind']}, not a {cls.__name__}. Use "
                "rvrae_pyro.baselines.load, which finds the kind."
            )
        return cls._from_saved(meta, state, path)

    @classmethod
    def _from_saved(
        cls, meta: dict[str, Any], state: dict[str, Tensor], path: str | os.PathLike[str]
    ) -> Self:
        try:
            model = cls(**cls._read_settings(meta["settings"]))
            model._names = tuple(meta["characteristics"])
            model._assets = tuple(meta.get("assets", ()))
            model._attrs = dict(meta["attrs"])
            names = json.dumps(meta["characteristics"])
            rest = str(model._attrs.get("panel", "{}"))
            model._panel_attrs = {"characteristics": names, "panel": rest}
            model.history = pd.DataFrame(meta["history"])
            model._restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).rstrip(".")
            raise CheckpointError(
                f"{str(path)!r} is damaged: {reason}. Restore it from a copy or fit again."
            ) from error
        return model

    @classmethod
    def _read_settings(cls, described: dict[str, Any]) -> dict[str, Any]:
        """Turn saved settings back into constructor arguments."""
        return described

    def _to_tensors(self, panel: xr.Dataset, device: str) -> Batch:
        """Make a batch of a panel to fit."""
        return to_batch(panel, device, torch.float32)

    def _require_fit(self) -> None:
        if not self.is_fitted:
            raise FitError(
                f"This {type(self).__name__} has not been fitted; call .fit(train, valid) first."
            )

    def _batch(self, panel: xr.Dataset) -> Batch:
        """Panel in double precision, compared with the training panel, characteristics by name."""
        self._require_fit()
        return to_batch(self._matched(panel), dtype=torch.float64)

    def _matched(self, panel: xr.Dataset) -> xr.Dataset:
        return match_panel(panel, self._panel_attrs)

    @abstractmethod
    def _learn(self, fitting: Fitting) -> None:
        """Fit; set the numbers of ``_state``, and ``history``."""

    @abstractmethod
    def _predict(self, panel: xr.Dataset, batch: Batch) -> Tensor:
        """Forecasts (n_times, n_assets), the arithmetic of a month free of later months."""

    def _forecast_draws(self, request: Request) -> Draws:
        """Predictive draws of some months, where ``has_distribution``."""
        raise self._without("draws of returns", "a predictive distribution")

    def _log_density(self, panel: xr.Dataset, batch: Batch) -> Any:
        """Log density of each month, an array (n_times,), where ``has_distribution``."""
        raise self._without("log densities", "a predictive distribution")

    def _moments(self, panel: xr.Dataset, batch: Batch, months: list[int]) -> xr.Dataset:
        """Moments of some months, unnamed, where ``has_distribution``."""
        raise self._without("moments", "a predictive distribution")

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Return all fitted numbers."""

    @abstractmethod
    def _restore(self, state: dict[str, Tensor]) -> None:
        """Restore the result of ``_state``."""


def network_state(network: nn.Module) -> dict[str, Tensor]:
    """Weights of a network, prefixed to distinguish them from other state."""
    return {f"{_NETWORK}{name}": value for name, value in network.state_dict().items()}


def network_of(state: dict[str, Tensor], built: Network) -> Network:
    """Load :func:`network_state` into a network of the same structure, in double precision."""
    built = built.double().eval()
    built.load_state_dict(
        {k.removeprefix(_NETWORK): v for k, v in state.items() if k.startswith(_NETWORK)}
    )
    return built
