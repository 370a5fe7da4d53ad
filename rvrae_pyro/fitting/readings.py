"""What anything that was fitted says of factors, loadings, scales, and of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pandas as pd
import xarray as xr

from rvrae_pyro.data.portfolios import managed_portfolios
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.evaluation.profile import factor_profile
from rvrae_pyro.fitting.forecasts import Asked
from rvrae_pyro.predictive.beliefs import Kind

__all__ = ["Readings"]


class Readings(ABC):
    """The model's quantities as one fit, or an ensemble of several, knows them.

    Signature and documentation of each method stand here once. What a fit and an ensemble do
    differently is the method of the same name with a leading underscore.
    """

    def factors(
        self,
        panel: xr.Dataset,
        kind: Kind = "filtered",
        num_samples: int = 1000,
        seed: int = 0,
    ) -> xr.Dataset:
        """Draws, means and standard deviations of the factors.

        Parameters
        ----------
        panel : xarray.Dataset
            May be longer than the training panel, and hold other assets: it is filtered from
            its first month on, without a refit.
        kind : {"filtered", "smoothed", "predicted"}
            What month t's factors may know: returns up to t; of all months (exact models) or up
            to t + 6; up to t - 1.
        num_samples, seed : int

        Returns
        -------
        xarray.Dataset
            ``factors`` (chain, draw, time, factor), ``mean`` and ``sd`` (time, factor). Draws
            are marginals of their month, not paths. Factors are identified up to rotation; those
            of an ensemble are aligned, ``mean`` and ``sd`` being those of all draws.
        """
        return self._factors(Asked(panel, num_samples, seed), kind)

    def prior_state(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.Dataset:
        """Read the factor prior's hidden state, month by month, given returns up to it.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int

        Returns
        -------
        xarray.Dataset
            For ``RegimeSwitching``: ``regime_probability`` (time, regime), regimes in the order
            of their factors' mean scale, calm first. For ``StochasticVolatility``:
            ``log_variance`` (time, factor). Each with its standard deviation over particles
            under ``<name>_sd``: how sure the filter is. Of an ensemble with ``chain``, and what
            belongs to single factors belongs to the member's own: variances cannot be turned
            as factors are.

        Raises
        ------
        ConfigError
            If the factor prior's state has no such reading.
        """
        return self._prior_state(Asked(panel, num_samples, seed))

    def loadings(self, panel: xr.Dataset) -> xr.DataArray:
        """Return loadings B_t (time, asset, factor), known at the end of t-1; NaN if unlisted.

        Where weights have a posterior, the mean over 20 draws of them (always the same ones).
        Those of an ensemble belong to the aligned factors, (chain, time, asset, factor).
        """
        return self._loadings(panel)

    def idio_scale(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.DataArray:
        """Return idiosyncratic standard deviations (time, asset), known at the end of t-1.

        Of an ensemble with ``chain``.
        """
        return self._idio_scale(Asked(panel, num_samples, seed))

    def reconstruct(
        self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0
    ) -> xr.DataArray:
        """Fitted returns (time, asset): loadings times the filtered mean of the month's factors.

        Knows month t's own returns: a measure of fit (total R2), never a forecast. Of
        an ensemble the mean over members.
        """
        return self._reconstruct(Asked(panel, num_samples, seed))

    def log_evidence(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        *,
        by_weights: int | None = None,
    ) -> xr.DataArray:
        """Log density of each month's observed returns given all months before (time,), in nats.

        The joint one-month-ahead log score: exact where a closed form exists, else the particle
        filter's estimate with ``num_samples`` particles. Divide by the number of observed
        returns for nats a cell; 0 in a month without a return. Where weights have a posterior,
        the density of the mixture over their draws that :meth:`forecast` draws from; of an
        ensemble, that of its members with equal weights in every month.

        ``by_weights`` asks for as many draws of the weights and gives the density under each,
        (weight_draw, time): what ``rv.evaluation.leave_future_out`` brings up to date. One row
        where weights are at their MAP. Of an ensemble with a leading ``chain``.
        """
        return self._log_evidence(Asked(panel, num_samples, seed), by_weights)

    def relevance(
        self, panel: xr.Dataset | None = None, num_draws: int = 100, seed: int = 0
    ) -> xr.DataTree:
        r"""Posterior relevance of each characteristic: how far it moves the loadings.

        .. math:: \rho_p = \Big(\operatorname{mean}_{t,i} \sum_k
            (\partial \beta_{itk} / \partial x_{ip})^2\Big)^{1/2}

        with the characteristic of all months moved at once, so that what recurrent loadings
        remember counts too. It does not change when factors are rotated.

        Parameters
        ----------
        panel : xarray.Dataset, optional
            Where the slopes are taken. Without it, 200 assets with ranks uniform on [-1, 1] that
            stay for 12 months: right for ranked characteristics.
        num_draws : int
            Draws of the weights, where these have a posterior.
        seed : int

        Returns
        -------
        DataTree
            Group ``posterior`` with ``relevance``, ``share`` (in the sum of squares),
            ``idio_relevance`` and ``alpha_relevance`` where scale and alpha read the
            characteristics, each (chain, draw, characteristic): ready for ArviZ's forest plot.
            With weights at their MAP it is one draw, a point estimate, and a ``note`` says so;
            the spread over an ensemble's chains is then that between seeds.

        Notes
        -----
        Loadings are per unit of a factor of order one and of ``return_scale``. A mean-field
        posterior understates the spread of weights that can stand in for each other. Members of
        an ensemble count in their own factors: ``share`` compares across them.

        References
        ----------
        Sobol and Kucherenko (2009), derivative based global sensitivity measures.
        """
        return self._relevance(panel, num_draws, seed)

    def factor_profile(
        self,
        panel: xr.Dataset,
        known: xr.DataArray | pd.DataFrame | None = None,
        num_samples: int = 1000,
        seed: int = 0,
    ) -> xr.Dataset:
        """Say what each filtered factor is like, by correlations with portfolios that have names.

        Parameters
        ----------
        panel : xarray.Dataset
        known : DataArray (time, known_factor) or DataFrame, optional
            Factors with names, such as :func:`rvrae_pyro.data.load_french_factors`.
        num_samples, seed : int
            As for :meth:`factors`.

        Returns
        -------
        Dataset
            See :func:`rvrae_pyro.evaluation.factor_profile`: ``managed`` (factor,
            characteristic), ``known`` (factor, known_factor), and a coordinate ``name``.
        """
        mean = self.factors(panel, num_samples=num_samples, seed=seed)["mean"]
        return factor_profile(mean, managed_portfolios(panel), known)

    def check(self, panel: xr.Dataset | None = None, num_particles: int = 1000) -> Check:
        """Say in plain words, with figures, what this can be trusted with.

        Parameters
        ----------
        panel : xarray.Dataset, optional
            Months on which guide, calibration, tails and skill are judged: the validation
            months with those before them, say. Without it, only the training run is judged.
        num_particles : int
            Particles of the filter that the guide is held against, and draws of the forecasts.

        Returns
        -------
        Check
            Prints as a page of text; ``trusted`` is False where something is bad. Of an ensemble
            the worst member's page, and how far the members agree.
        """
        return self._check(panel, num_particles)

    @abstractmethod
    def _factors(self, asked: Asked, kind: Kind) -> xr.Dataset: ...

    @abstractmethod
    def _prior_state(self, asked: Asked) -> xr.Dataset: ...

    @abstractmethod
    def _loadings(self, panel: xr.Dataset) -> xr.DataArray: ...

    @abstractmethod
    def _idio_scale(self, asked: Asked) -> xr.DataArray: ...

    @abstractmethod
    def _reconstruct(self, asked: Asked) -> xr.DataArray: ...

    @abstractmethod
    def _log_evidence(self, asked: Asked, by_weights: int | None) -> xr.DataArray: ...

    @abstractmethod
    def _relevance(self, panel: xr.Dataset | None, num_draws: int, seed: int) -> xr.DataTree: ...

    @abstractmethod
    def _check(self, panel: xr.Dataset | None, num_particles: int) -> Check: ...
