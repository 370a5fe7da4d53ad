"""Competitors after their fit: each answers with the same tree of forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xarray as xr

from rvrae_pyro.baselines.base import Baseline
from rvrae_pyro.baselines.factors import FactorBaseline
from rvrae_pyro.baselines.joint_baseline import JointTBaseline
from rvrae_pyro.experiments.outlook import (
    FORECASTS,
    LOG_EVIDENCE,
    MEAN,
    build_outlook,
    label,
    observed_returns,
)
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.names import FACTOR, TIME
from rvrae_pyro.predictive.attribution import INTERCEPT

__all__ = ["Fitted", "FittedFactors", "FittedModel", "FittedRisk", "Forecaster", "tree_of"]


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


@dataclass(frozen=True, eq=False)
class Forecaster:
    """A baseline without factors: it has a point forecast and nothing else."""

    baseline: Baseline

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast some months; see :class:`Fitted`."""
        forecasts = label({MEAN: self.baseline.predict(panel, times)})
        return tree_of({FORECASTS: forecasts}, self.baseline.attrs)


@dataclass(frozen=True, eq=False)
class FittedRisk:
    """A baseline without factors and with a joint predictive distribution."""

    baseline: JointTBaseline

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast some months; see :class:`Fitted`."""
        model = self.baseline
        drawn = model.forecast(panel, num_samples, seed, times=times)
        evidence = model.log_evidence(panel).sel({TIME: times})
        forecasts = label({MEAN: model.predict(panel, times), LOG_EVIDENCE: evidence})
        return tree_of({FORECASTS: forecasts, **_groups(drawn)}, model.attrs)


@dataclass(frozen=True, eq=False)
class FittedFactors:
    """A baseline with factors and a Gaussian predictive distribution."""

    baseline: FactorBaseline

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months; see :class:`Fitted`."""
        model = self.baseline
        drawn = model.forecast(panel, num_samples, seed, times=times)
        every = model.constant_data(panel)
        factors = model.factors(panel)
        forecasts = build_outlook(
            observed_returns(panel),
            model.predict(panel),
            times,
            alpha=every["alpha"],
            beta=every["beta"],
            idio_scale=every["idio_scale"],
            factors=factors,
            fitted=model.reconstruct(panel),
            log_evidence=model.log_evidence(panel),
        )
        return tree_of({FORECASTS: forecasts, **_groups(drawn)}, model.attrs)


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A trained RVRAE."""

    result: Fit

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months; see :class:`Fitted`."""
        filtered = self.result.filter(panel, num_samples, seed)
        beta, mean = filtered.loadings(), filtered.predict()
        # what the model expects beyond its factors, from months before t alone
        parts = filtered.attribution().drop_sel({FACTOR: INTERCEPT}, errors="ignore")
        alpha = mean - parts.sum(FACTOR, skipna=False)
        forecasts = build_outlook(
            observed_returns(panel),
            mean,
            times,
            alpha=alpha,
            beta=beta,
            idio_scale=filtered.idio_scale(),
            factors=filtered.factors("filtered")["mean"],
            fitted=filtered.reconstruct(),
            log_evidence=filtered.log_evidence(),
        )
        drawn = filtered.forecast(times)
        return tree_of({FORECASTS: forecasts, **_groups(drawn)}, self.result.attrs)


def _groups(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    return {name: node.to_dataset() for name, node in tree.children.items()}


def tree_of(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, str | int]) -> xr.DataTree:
    """Make a tree of groups, with attributes."""
    tree = xr.DataTree.from_dict(dict(groups))
    tree.attrs.update(attrs)
    return tree
