"""What anything that was fitted says of returns: replicates, forecasts, and what these hang on."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass

import xarray as xr

from rvrae_pyro.errors import check_count
from rvrae_pyro.predictive.storage import Drawing, assemble

__all__ = ["Asked", "Forecasts"]


@dataclass(frozen=True, eq=False)
class Asked:
    """Months of a panel, draws of them, and the seed of the draws."""

    panel: xr.Dataset
    num_samples: int = 1000
    seed: int = 0
    times: object | None = None

    def __post_init__(self) -> None:
        # numbers of other kinds than Python's could not be written to files
        for name, least in (("num_samples", 1), ("seed", 0)):
            object.__setattr__(self, name, check_count(name, getattr(self, name), least))


class Forecasts(ABC):
    """Returns as one fit, or an ensemble of several, draws and explains them.

    Signature and documentation of each method stand here once. What a fit and an ensemble do
    differently is the method of the same name with a leading underscore.
    """

    def posterior_predictive(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> xr.DataTree:
        """Replicates of seen months: factors drawn from the guide, returns drawn anew.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
        times : label, slice or list, optional
            Months to replicate; all unless told.
        out : path, optional
            A ``.zarr`` folder to stream draws to, which are then read lazily. The same call goes
            on with what a run that was killed left of it.

        Returns
        -------
        xarray.DataTree
            ``posterior`` (``factors``), ``posterior_predictive``, ``log_likelihood`` and
            ``observed_data`` (``returns`` over ``obs``, the observed cells, with coordinates
            ``time`` and ``asset``), ``sample_stats`` (``lp``, ``log_q`` by month),
            ``constant_data`` (``beta``, ``idio_scale`` of every listed asset).

        Notes
        -----
        Month t's replicate knows month t's returns through the factors. For what was knowable
        before the month use :meth:`forecast`. Factors of an ensemble are aligned; ``latents``,
        where a decoder stands between, are left as they are.
        """
        return assemble(self._posterior_predictive(Asked(panel, num_samples, seed, times)), out)

    def forecast(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> xr.DataTree:
        """Predictive draws of every listed asset's return in month t, from data to t-1 only.

        Parameters
        ----------
        panel : xarray.Dataset
            Its last row may be the live month: characteristics known, no return yet.
        num_samples, seed : int
        times : label, slice or list, optional
            Months to forecast; all unless told.
        out : path, optional
            A ``.zarr`` folder to stream draws to, which are then read lazily. The same call goes
            on with what a run that was killed left of it.

        Returns
        -------
        xarray.DataTree
            ``predictions``: ``returns`` (chain, draw, time, asset), NaN where not listed, and
            ``factors``, ``log_prior`` (their density, by month). ``predictions_constant_data``:
            ``beta``, ``idio_scale``.

        Notes
        -----
        Each month is forecast one step ahead. Draws follow assets by label: their order in the
        panel does not matter.

        Weights at their MAP are fixed, so the draws leave out what is unknown about them. A
        posterior of the weights is integrated over in blocks: one draw of the weights for every
        50 draws, at least 20. The coordinate ``weight_draw`` along ``draw`` says which, ``beta``
        is the mean over them and ``beta_by_weights`` (weight_draw, time, asset, factor) has each;
        ``rv.risk.summarize`` finds ``parameter_var`` from it.

        Of an ensemble ``beta`` and ``idio_scale`` differ by member and get a ``chain`` too, with
        the same effect.
        """
        return assemble(self._forecast(Asked(panel, num_samples, seed, times)), out)

    def moments(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
    ) -> xr.Dataset:
        """Mean and low-rank covariance of month t's returns from data to t-1, by member.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            Draws behind the factors' moments; those of :meth:`forecast` with the same two.
        times : label, slice or list, optional
            Months; all unless told.

        Returns
        -------
        Dataset
            ``mean`` and ``idio_var`` (chain, time, asset), ``beta`` (chain, time, asset,
            factor), ``factor_cov`` (chain, time, factor, other_factor), NaN where not listed,
            and ``share`` (chain,), which adds up to 1. One member where weights are at their
            MAP, else one a draw of the weights, in the order of ``weight_draw``. An
            ensemble has all its members' in one row, each in its own factors' coordinates.

        Notes
        -----
        ``rv.risk.covariance`` puts the members together. Where one draw of the level of all
        idiosyncratic scales belongs to each draw of the factors, ``idio_var`` is its mean.
        """
        return self._moments(Asked(panel, num_samples, seed, times))

    def attribution(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
    ) -> xr.DataArray:
        r"""Split every mean forecast by factor: :math:`\beta_{itk} \, E[f_{tk}]`.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            Draws behind the expectation; those of :meth:`forecast` with the same two.
        times : label, slice or list, optional
            Months; all unless told.

        Returns
        -------
        DataArray (time, asset, factor)
            In return units, known at t-1, NaN if unlisted. Sums over ``factor`` to the mean
            forecast; where the likelihood has an alpha, label 0 holds it beside factors 1 to K.
            Of an ensemble by aligned factor, the mean over members.

        Notes
        -----
        Factors are identified up to rotation: the sum has a meaning of its own, a single part
        only together with :meth:`factor_profile`. Noise has mean zero, so the mean over the
        draws of :meth:`forecast` differs from the sum by Monte-Carlo error alone.
        """
        return self._attribution(Asked(panel, num_samples, seed, times))

    def sensitivity(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
    ) -> xr.DataArray:
        r"""Change of each mean forecast per unit of each characteristic of its own row.

        .. math:: \partial E[r_{it}] / \partial x_{itp}

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            As for :meth:`attribution`.
        times : label, slice or list, optional
            Months; all unless told. Recurrent loadings keep a state for every asset and month
            asked for.

        Returns
        -------
        DataArray (time, asset, characteristic)
            Return per unit of characteristic (from the median to the top where they are ranked
            to -1 ... 1), known at t-1, NaN if unlisted. Of an ensemble the mean over members.

        Notes
        -----
        The slope at the characteristics as they are: networks bend, so it need not hold far
        away. What the loadings remember of earlier months stays as it was, and so do the
        expected factors, which depend on earlier months alone.
        """
        return self._sensitivity(Asked(panel, num_samples, seed, times))

    @abstractmethod
    def _posterior_predictive(self, asked: Asked) -> Drawing: ...

    @abstractmethod
    def _forecast(self, asked: Asked) -> Drawing: ...

    @abstractmethod
    def _moments(self, asked: Asked) -> xr.Dataset: ...

    @abstractmethod
    def _attribution(self, asked: Asked) -> xr.DataArray: ...

    @abstractmethod
    def _sensitivity(self, asked: Asked) -> xr.DataArray: ...
