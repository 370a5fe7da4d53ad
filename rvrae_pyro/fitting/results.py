"""Predictive interface of fitted models, for one fit and for an ensemble of several."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.panel_match import fingerprint, match_panel
from rvrae_pyro.data.transforms import managed_portfolios
from rvrae_pyro.diagnostics.check import Check
from rvrae_pyro.errors import check_count
from rvrae_pyro.evaluation.descriptive import factor_profile
from rvrae_pyro.fitting.checking import common_of
from rvrae_pyro.fitting.saved import TrainingRecord
from rvrae_pyro.names import CHAIN, TIME, WEIGHT_DRAW
from rvrae_pyro.predictive import replicates as _replicates
from rvrae_pyro.predictive.attribution import relevance_of
from rvrae_pyro.predictive.chains import join_drawings, stack_arrays, stack_datasets
from rvrae_pyro.predictive.filtered import Filtered, filter_models, label_loadings
from rvrae_pyro.predictive.filtering import Kind, evidence_by_weights, mean_loadings
from rvrae_pyro.predictive.months import load
from rvrae_pyro.predictive.storage import assemble
from rvrae_pyro.predictive.weight_draws import chain_seed, parameter_tree


class Results(ABC):
    """Forecasts, factors and diagnostics of one or several fitted models.

    A fit has one member, itself; an ensemble has several, whose results get a dim ``chain``.
    Methods that need a filter pass are one line over :meth:`filter`: hold its result in a variable
    to use it more than once.
    """

    has_distribution: ClassVar[bool] = True
    """Whether ``forecast``, ``log_evidence`` and ``moments`` are defined, as for baselines."""

    has_factors: ClassVar[bool] = True
    """Whether ``reconstruct`` and ``factor_parts`` are defined, as for baselines."""

    @property
    @abstractmethod
    def _records(self) -> Sequence[TrainingRecord]:
        """Fitted models, one per chain."""

    @property
    @abstractmethod
    def rotation(self) -> xr.DataArray | None:
        """Map of each member's factors to the first member's; None for a single fit."""

    @property
    @abstractmethod
    def provenance(self) -> dict[str, str | int]:
        """Attributes of all results."""

    def filter(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> Filtered:
        """Filter a panel once, for everything that depends on its factors.

        Parameters
        ----------
        panel : xarray.Dataset
            May be longer than the training panel, and hold other assets: it is filtered from
            its first month on, without a refit.
        num_samples : int
            Draws per month and chain; also the number of particles.
        seed : int
            Members of an ensemble have independent streams; the first has that of ``seed``.

        Returns
        -------
        Filtered
            The methods of this class that need a filter, without ``panel``.

        Raises
        ------
        PanelError
            If the panel is not valid, or not of the kind that the model was trained on.
        ShapeError
            If its characteristics are not those of training.

        Notes
        -----
        Costs one filter pass, O(num_samples n_assets n_factors) per month, for each member and
        each draw of the weights (at least 20 where weights have a posterior).

        Examples
        --------
        >>> import rvrae_pyro as rv
        >>> panel = rv.data.simulate_linear_gaussian(8, 12, 2)
        >>> fit = rv.fit(rv.RVRAE(2, 2), panel, config=rv.FitConfig(max_steps=4), progress=False)
        >>> filtered = fit.filter(panel, num_samples=50, seed=1)
        >>> filtered.factors("predicted")["mean"].dims
        ('time', 'factor')
        >>> filtered.forecast(times=panel.time[-1])["predictions"]["returns"].sizes["draw"]
        50
        """
        return filter_models(
            [member.model for member in self._records],
            self._matched(panel),
            num_samples,
            seed,
            rotation=self.rotation,
            attrs=self.provenance,
        )

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
        """Draw every listed asset's returns of months t to t + horizon - 1 from data to t-1 only.

        Parameters
        ----------
        panel : xarray.Dataset
            Its last row may be the live month: characteristics known, no return yet.
        num_samples, seed : int
        times : label, slice or list, optional
            Months t to forecast, the origins of paths. Default: all.
        out : path, optional
            A ``.zarr`` folder to stream draws to, which are then opened lazily. The same call
            resumes what a killed run left there.
        horizon : int
            Periods to forecast from each origin.
        future : xarray.Dataset, optional
            Panel with characteristics, listing and context of the months after t; its returns are
            not read. Draws are conditional on these rows: pass only what is known or assumed at
            the end of t-1. Default: the row of month t is held.

        Returns
        -------
        xarray.DataTree
            ``predictions``: ``returns`` (chain, draw, time, asset), NaN where not listed, and
            ``factors``, ``log_prior`` (their density, by month). ``predictions_constant_data``:
            ``mean`` (expected return), ``beta``, ``idio_scale``.

            With ``horizon`` above 1 all of these but ``log_prior`` have a dim ``step`` (1 to
            ``horizon``) after ``time``, and ``predictions`` holds ``compounded_returns``, the
            product of ``1 + returns`` up to the step less 1 (excess returns, decimal; a draw below
            -1 counts as a total loss; NaN from the step on in which the asset is not listed),
            ``idio_log_scale``, the log multiplier of all idiosyncratic scales, where the prior
            moves them, and the prior's auxiliary latent, such as ``log_volatility``.

        Raises
        ------
        ConfigError
            If ``horizon`` is no positive whole number, or ``future`` lacks a month, holds assets
            that the panel does not have, or has no use.
        PanelError
            If a panel is not valid, or ``future`` is of another kind than ``panel``.

        Notes
        -----
        With ``horizon=1`` draws are marginals of their month; with more, each draw is one joint
        path of factors, volatility and returns, simulated from the filtered state at the end of
        t-1, whose first step has the bits of ``horizon=1``. A prior driven by returns
        (``recurrence="observed"`` or ``"both"``) is moved by the simulated ones; context is held
        or given. Draws follow assets by label, in any order of the panel. Costs
        O(num_samples n_assets n_factors) per origin and step and one more filter pass; memory of
        one origin and of the draws.

        Weights at their MAP are fixed: draws leave out their uncertainty. A posterior of the
        weights is integrated over in blocks: one draw of the weights for every 50 draws, at least
        20, numbered by the coordinate ``weight_draw`` along ``draw``. ``beta`` and ``mean`` are
        means over them; ``beta_by_weights`` (weight_draw, time, asset, factor) and
        ``mean_by_weights`` have each, from which ``rv.risk.summarize`` finds ``parameter_var``.
        The constants of an ensemble have a dim ``chain``, with the same effect.

        Examples
        --------
        >>> import rvrae_pyro as rv
        >>> panel = rv.data.simulate_linear_gaussian(8, 12, 2)
        >>> fit = rv.fit(rv.RVRAE(2, 2), panel, config=rv.FitConfig(max_steps=4), progress=False)
        >>> paths = fit.forecast(panel, num_samples=50, times=panel.time[-1], horizon=3)
        >>> paths["predictions"]["compounded_returns"].dims
        ('chain', 'draw', 'time', 'step', 'asset')
        """
        filtered = self.filter(panel, num_samples, seed)
        return filtered.forecast(times, out, horizon, future)

    def posterior(self, num_samples: int = 1000, seed: int = 0) -> xr.DataTree:
        """Draw interpretable parameters that have a prior from posterior and prior.

        Parameters
        ----------
        num_samples, seed : int
            Draws per chain. Members of an ensemble have independent streams.

        Returns
        -------
        DataTree
            ``posterior`` and ``prior``: one variable per site, such as
            ``factor_prior.coefficient`` (chain, draw, factor). ``log_prior``: density of the
            posterior draws by site. ``log_likelihood``: ``returns`` (chain, draw), the log
            likelihood of all training returns that the guide implies, up to a constant; with both
            groups ``arviz_stats.psense_summary`` scales prior and likelihood.

        Raises
        ------
        ConfigError
            If no parameter has a prior.

        Notes
        -----
        Draws are of the guide, a Normal in unconstrained space, with the moments of the posterior
        where the evidence has a closed form (:func:`rvrae_pyro.inference.refine`), elsewhere those
        of the bound. ``rv.diagnostics.psis_weights`` judges it.

        Examples
        --------
        >>> import pyro.distributions as dist
        >>> import rvrae_pyro as rv
        >>> panel = rv.data.simulate_linear_gaussian(8, 12, 2)
        >>> prior = rv.priors.AR1(2, coefficient=dist.Uniform(-1.0, 1.0))
        >>> model = rv.RVRAE(2, 2, factor_prior=prior)
        >>> fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=4), progress=False)
        >>> fit.posterior(100)["posterior"]["factor_prior.coefficient"].dims
        ('chain', 'draw', 'factor')
        """
        models = [member.model for member in self._records]
        return parameter_tree(models, num_samples, seed, self.provenance)

    def predict(
        self, panel: xr.Dataset, times: object | None = None, num_samples: int = 1000, seed: int = 0
    ) -> xr.DataArray:
        """Predict the mean of month t's returns from data to t-1 only.

        Parameters
        ----------
        panel : xarray.Dataset
        times : label, slice or list, optional
            As for :meth:`forecast`.
        num_samples, seed : int
            Particles of the filter, and its seed.

        Returns
        -------
        DataArray (time, asset)
            Expected excess return, decimal; NaN where not listed. Of an ensemble the mean over
            members. That of the draws of :meth:`forecast`, without their Monte-Carlo error.
        """
        return self.filter(panel, num_samples, seed).predict(times)

    def posterior_predictive(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> xr.DataTree:
        """Replicate seen months: factors drawn from the guide, returns given the factors.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
        times, out : optional
            As for :meth:`forecast`.

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
        of models with a decoder, are left unchanged.
        """
        panel = self._matched(panel)
        num_samples, seed = check_count("num_samples", num_samples), check_count("seed", seed, 0)
        attrs = {**self.provenance, "draw_seed": seed, "panel_fingerprint": fingerprint(panel)}
        each = [
            _replicates.posterior_predictive(
                member.model,
                panel,
                num_samples=num_samples,
                seed=chain_seed(seed, chain),
                times=times,
                attrs=attrs,
            )
            for chain, member in enumerate(self._records)
        ]
        return assemble(join_drawings(each, self.rotation), out)

    def factors(
        self, panel: xr.Dataset, kind: Kind = "filtered", num_samples: int = 1000, seed: int = 0
    ) -> xr.Dataset:
        """Draws, means and standard deviations of the factors.

        Parameters
        ----------
        panel : xarray.Dataset
            As for :meth:`filter`.
        kind : {"filtered", "smoothed", "predicted"}
            Information set of month t's factors: returns up to t; of all months (exact models) or
            up to t + 6; up to t - 1.
        num_samples, seed : int

        Returns
        -------
        xarray.Dataset
            ``factors`` (chain, draw, time, factor), ``mean`` and ``sd`` (time, factor). Draws
            are marginals of their month, not paths. Factors are identified up to rotation; those
            of an ensemble are aligned, ``mean`` and ``sd`` being those of all draws.
        """
        return self.filter(panel, num_samples, seed).factors(kind)

    def log_evidence(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        *,
        by_weights: int | None = None,
        by_member: bool = False,
    ) -> xr.DataArray:
        """Log density of each month's observed returns given all months before (time,), in nats.

        The joint one-month-ahead log score: exact where a closed form exists, else the particle
        filter's estimate; 0 in a month without a return. Divide by the number of observed returns
        for nats per return. A mixture over draws of the weights and, with equal weights in every
        month, over members.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            Particles of the filter, and its seed.
        by_weights : int, optional
            Draws of the weights, for the density under each of them, (weight_draw, time), which
            ``rv.evaluation.leave_future_out`` updates; with a leading ``chain`` of an ensemble.
            One row where weights are at their MAP.
        by_member : bool
            Each ensemble member's own density (chain, time).
        """
        if by_weights is None:
            return self.filter(panel, num_samples, seed).log_evidence(by_member=by_member)
        panel = self._matched(panel)
        attrs = {"long_name": "log density given the months before", "units": "nats"}
        each = []
        for chain, member in enumerate(self._records):
            key = chain_seed(check_count("seed", seed, 0), chain)
            rows = evidence_by_weights(member.model, panel, by_weights, num_samples, key)
            coords = {WEIGHT_DRAW: np.arange(len(rows)), TIME: panel[TIME].to_numpy()}
            each.append(
                xr.DataArray(rows.cpu().numpy(), coords, tuple(coords), "log_evidence", attrs)
            )
        return each[0] if self.rotation is None else stack_arrays(each)

    def moments(
        self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0, times: object | None = None
    ) -> xr.Dataset:
        """Mean and low-rank covariance of month t's returns from data to t-1, by chain.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            Particles behind the factors' moments; those of :meth:`forecast` with the same two.
        times : label, slice or list, optional
            Months. Default: all.

        Returns
        -------
        Dataset
            ``mean`` and ``idio_var`` (chain, time, asset), ``beta`` (chain, time, asset,
            factor), ``factor_cov`` (chain, time, factor, other_factor), NaN where not listed,
            and ``share`` (chain,), which adds up to 1. One row where weights are at their MAP,
            else one per draw of the weights, in the order of ``weight_draw``; of all members of
            an ensemble, each in its own factors. ``idio_var`` is the mean over draws of the level.
            ``rv.risk.covariance`` joins the rows.
        """
        return self.filter(panel, num_samples, seed).moments(times)

    def reconstruct(
        self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0
    ) -> xr.DataArray:
        """Fitted returns (time, asset): loadings times the filtered mean of the month's factors.

        Knows month t's own returns: a measure of fit (total R2), never a forecast. Of
        an ensemble the mean over members.
        """
        return self.filter(panel, num_samples, seed).reconstruct()

    def factor_parts(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.Dataset:
        """Parts of ``returns = alpha + beta f + noise``, one row per month.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int

        Returns
        -------
        Dataset
            ``alpha`` and ``idio_scale`` (time, asset) and ``beta`` (time, asset, factor), known
            at t-1; ``factors`` (time, factor), the filtered means given the month's returns. Of
            an ensemble with a leading ``chain``, each member in its own factors.
        """
        return self.filter(panel, num_samples, seed).factor_parts()

    def attribution(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        *,
        by_member: bool = False,
    ) -> xr.DataArray:
        r"""Split every mean forecast by factor: :math:`\beta_{itk} \, E[f_{tk}]`.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            Draws behind the expectation; those of :meth:`forecast` with the same two.
        times : label, slice or list, optional
            Months. Default: all.
        by_member : bool
            With a leading dim ``chain``, each ensemble member's own, instead of their mean.

        Returns
        -------
        DataArray (time, asset, factor)
            In return units, known at t-1, NaN if unlisted. Sums over ``factor`` to the mean
            forecast; label 0 holds the likelihood's alpha, if any. Of an ensemble by aligned
            factor, the mean over members.

        Notes
        -----
        Factors are identified up to rotation: read a single part together with
        :meth:`factor_profile`.
        """
        return self.filter(panel, num_samples, seed).attribution(times, by_member=by_member)

    def sensitivity(
        self,
        panel: xr.Dataset,
        num_samples: int = 1000,
        seed: int = 0,
        times: object | None = None,
        *,
        by_member: bool = False,
    ) -> xr.DataArray:
        r"""Change of each mean forecast per unit of each characteristic of its own row.

        .. math:: \partial E[r_{it}] / \partial x_{itp}

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int
            As for :meth:`attribution`.
        times, by_member
            As for :meth:`attribution`. Recurrent loadings keep a state for every asset and month.

        Returns
        -------
        DataArray (time, asset, characteristic)
            Return per unit of characteristic (from the median to the top where they are ranked
            to -1 ... 1), known at t-1, NaN if unlisted. Of an ensemble the mean over members.

        Notes
        -----
        The slope at the given characteristics, which need not hold far away. The loadings' memory
        of earlier months and the expected factors are held fixed.
        """
        return self.filter(panel, num_samples, seed).sensitivity(times, by_member=by_member)

    def prior_state(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.Dataset:
        """Read the factor prior's hidden state, month by month, given returns up to it.

        Parameters
        ----------
        panel : xarray.Dataset
        num_samples, seed : int

        Returns
        -------
        xarray.Dataset
            For ``RegimeSwitching``: ``regime_probability`` (time, regime), regimes by rising mean
            scale of their factors. For ``StochasticVolatility``: ``log_variance`` (time, factor);
            for ``CommonVolatility``: ``log_volatility`` (time,), in addition to that of its base.
            Each with its standard deviation over particles, ``<name>_sd``. Of an ensemble with
            ``chain``, in each member's own factors.

        Raises
        ------
        ConfigError
            If the factor prior's state has no such reading.
        """
        return self.filter(panel, num_samples, seed).prior_state()

    def idio_scale(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> xr.DataArray:
        """Idiosyncratic standard deviations (time, asset), known at the end of t-1.

        Of an ensemble with ``chain``.
        """
        return self.filter(panel, num_samples, seed).idio_scale()

    def loadings(self, panel: xr.Dataset) -> xr.DataArray:
        """Return loadings B_t (time, asset, factor), known at the end of t-1; NaN if unlisted.

        The mean over 20 fixed draws of weights that have a posterior. Of an ensemble (chain, time,
        asset, factor), of the aligned factors.
        """
        batch = load(self._records[0].model, self._matched(panel))
        means = [mean_loadings(member.model, batch) for member in self._records]
        return label_loadings(means, batch, self.rotation)

    def relevance(
        self, panel: xr.Dataset | None = None, num_draws: int = 100, seed: int = 0
    ) -> xr.DataTree:
        r"""Posterior relevance of each characteristic: how far it moves the loadings.

        .. math:: \rho_p = \Big(\operatorname{mean}_{t,i} \sum_k
            (\partial \beta_{itk} / \partial x_{ip})^2\Big)^{1/2}

        with the characteristic of all months moved at once, so that the memory of recurrent
        loadings counts. Invariant to rotations of the factors.

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
            characteristics, each (chain, draw, characteristic), as ArviZ's forest plot takes them.
            One draw, a point estimate, with weights at their MAP (attribute ``note``).
            ``common_share`` (chain): share of the common variance that goes with all
            characteristics together; absent without a panel if characteristics were no ranks.

        Notes
        -----
        Loadings are per unit of a factor of order one and of ``return_scale``. A mean-field
        posterior understates the spread of weights that replace each other. Members of an
        ensemble are in their own factors: compare ``share`` across them.

        References
        ----------
        Sobol and Kucherenko (2009), derivative based global sensitivity measures.
        """
        panel = None if panel is None else self._matched(panel)
        each = []
        for member in self._records:
            tree = relevance_of(member.model, panel, _known_names(member), num_draws, seed)
            common = common_of(member, panel)
            if common is not None:
                total = (
                    common["moved"]
                    .expand_dims(CHAIN)
                    .assign_attrs(
                        long_name="share of the common variance that goes with the characteristics"
                    )
                )
                tree["posterior"] = tree["posterior"].to_dataset().assign(common_share=total)
            each.append(tree)
        if self.rotation is None:
            return each[0]
        joined = stack_datasets([tree["posterior"].to_dataset() for tree in each])
        note = each[0]["posterior"].attrs.get("note")
        if note is not None:
            joined.attrs["note"] = "weights are at their MAP: one draw per member, one per seed"
        return xr.DataTree.from_dict({"posterior": joined})

    def factor_profile(
        self,
        panel: xr.Dataset,
        known: xr.DataArray | pd.DataFrame | None = None,
        num_samples: int = 1000,
        seed: int = 0,
    ) -> xr.Dataset:
        """Correlations of each filtered factor with portfolios that have names.

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

    def _matched(self, panel: xr.Dataset) -> xr.Dataset:
        """Compare a panel with the training panel; characteristics are taken by name."""
        return match_panel(panel, self._records[0].attrs)

    @abstractmethod
    def check(self, panel: xr.Dataset | Filtered | None = None, num_particles: int = 1000) -> Check:
        """Report in plain words, with figures, what the fit can be trusted with."""


def _known_names(member: TrainingRecord) -> list[str]:
    """Names of the training panel's characteristics, or numbers where they are not recorded."""
    known = json.loads(str(member.attrs.get("characteristics", "null")))
    return known or [f"x{p + 1}" for p in range(member.model.n_characteristics)]
