"""A filtered panel: forecasts, factors, moments and evidence from one filter pass."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro import displays
from rvrae_pyro.data.batch import Batch, to_batch
from rvrae_pyro.data.panel_match import fingerprint
from rvrae_pyro.errors import ConfigError, check_count, warn_user
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, TIME
from rvrae_pyro.predictive.attribution import INTERCEPT, attribute, differentiate
from rvrae_pyro.predictive.chains import join_drawings, rotate, stack_arrays, stack_datasets
from rvrae_pyro.predictive.filtering import FilteredDraw, Kind, filter_panel, light_batch
from rvrae_pyro.predictive.forecast import draw_forecasts
from rvrae_pyro.predictive.horizon import draw_paths, later_rows
from rvrae_pyro.predictive.moments import idio_variance, moments, summarise_state
from rvrae_pyro.predictive.months import factor_coord, label_cells, pick_months
from rvrae_pyro.predictive.storage import assemble
from rvrae_pyro.predictive.weight_draws import chain_seed

LEAST_ESS: Final = 20.0
"""Effective particles below which a month's evidence and filtered factors carry a warning."""

_MANY: Final = 200

Chain = tuple[FilteredDraw, ...]
"""The draws of one member's weights; a single one where weights are at their MAP."""


@dataclass(frozen=True, eq=False)
class Filtered:
    """Result of ``fit.filter(panel, num_samples, seed)``, read without another filter pass.

    Attributes
    ----------
    panel : xarray.Dataset
        The panel itself, not a copy.
    num_samples : int
        Draws per month and chain; also the number of particles.
    seed : int
    batch : Batch
        The panel's returns and masks as tensors, without characteristics.
    chains : tuple of tuple of FilteredDraw
        By ensemble member, then by draw of the weights.
    rotation : DataArray (chain, factor, reference) or None
        Map of each member's factors to the first member's; None for a single fit, whose results
        have no dim ``chain`` save where draws have one.
    attrs : mapping
        Seed, config, versions and data hash of the fit.

    Notes
    -----
    Information set: ``predicted`` quantities, forecasts and moments of month t know returns up to
    t-1; ``filtered`` ones, :meth:`reconstruct` and :meth:`prior_state` up to t.
    """

    panel: xr.Dataset
    num_samples: int
    seed: int
    batch: Batch = field(repr=False)
    chains: tuple[Chain, ...] = field(repr=False)
    rotation: xr.DataArray | None = field(repr=False)
    attrs: Mapping[str, str | int] = field(repr=False)

    def __repr__(self) -> str:
        """Summarise the months, the draws and the worst month of the particle filter."""
        first, last = (str(self.batch.times[k])[:7] for k in (0, -1))
        return (
            f"Filtered({first} to {last}: {self.batch.n_times} months, {self.batch.n_assets} "
            f"assets; {len(self.chains)} chain(s) of {self.num_samples} draws, seed {self.seed}; "
            f"smallest effective sample size {float(self.ess.min()):.0f})"
        )

    def _repr_html_(self) -> str:
        """Show months, draws and the worst month of the particle filter."""
        ess = self.ess.values
        worst = int(ess.argmin())
        rows = {
            "months": f"{str(self.batch.times[0])[:10]} to {str(self.batch.times[-1])[:10]}, "
            f"{self.batch.n_times}",
            "assets": f"{self.batch.n_assets:,}",
            "factors": self.n_factors,
            "draws": f"{len(self.chains)} chain(s) of {self.num_samples:,}, seed {self.seed}",
            "smallest effective sample size": f"{float(ess[worst]):.0f} in "
            f"{str(self.batch.times[worst])[:10]}",
        }
        return displays.card("Filtered panel", displays.pairs(rows))

    @cached_property
    def draw_attrs(self) -> dict[str, str | int]:
        """Attributes of everything drawn: the fit's, the seed and the hash of the panel."""
        return {**self.attrs, "draw_seed": self.seed, "panel_fingerprint": fingerprint(self.panel)}

    @property
    def n_particles(self) -> int:
        """Particles of each filter: ``num_samples``, or fewer for each of many draws of weights."""
        return self.chains[0][0].n_particles

    @property
    def n_factors(self) -> int:
        """Number of factors."""
        return self.chains[0][0].model.n_factors

    @property
    def ess(self) -> xr.DataArray:
        """Effective sample size of the particle filter (time,), the smallest over all chains.

        :attr:`n_particles` in every month where the model is exact and no filter is needed.
        """
        each = [draw.states.ess for chain in self.chains for draw in chain]
        values = torch.stack(each).amin(0).cpu().numpy()
        attrs = {"long_name": "effective sample size of the particle filter", "units": "draws"}
        return xr.DataArray(values, {TIME: self.batch.times}, TIME, "ess", attrs)

    @property
    def evidence_error(self) -> xr.DataArray:
        r"""Monte-Carlo standard error of :meth:`log_evidence` (time,), in nats; 0 if exact.

        Of first order: a month's mean of S weights with effective sample size E has the relative
        variance 1 / E - 1 / S. Errors that earlier months left in the particles come on top, so
        that it is a lower bound where the sample size is small.
        """
        evidence = torch.stack(
            [torch.stack([d.states.log_evidence for d in c]) for c in self.chains]
        )
        ess = torch.stack([torch.stack([d.states.ess for d in c]) for c in self.chains])
        variance = (1.0 / ess - 1.0 / self.n_particles).clamp_min(0.0)
        # of the mixture with equal weights over chains and their draws of the weights
        share = torch.softmax(evidence.flatten(0, 1), 0)
        error = (share.square() * variance.flatten(0, 1)).sum(0).sqrt().cpu().numpy()
        attrs = {"long_name": "Monte-Carlo error of the log evidence", "units": "nats"}
        return xr.DataArray(error, {TIME: self.batch.times}, TIME, "evidence_error", attrs)

    def warning(self, *, warn: bool = False) -> dict[str, str]:
        """Attribute ``warning`` for results that rest on months with few effective particles.

        Parameters
        ----------
        warn : bool
            Also issue a ``RvraeWarning``, where particles were meant to be many (200). Default:
            False.

        Returns
        -------
        dict
            Empty if every month has :data:`LEAST_ESS` or more.
        """
        ess = self.ess
        low = ess[((ess < LEAST_ESS) & (ess < self.n_particles)).values]  # exact: never
        if not low.size:
            return {}
        first = ", ".join(str(t)[:10] for t in low[TIME].values[:3])
        more = ", ..." if low.size > 3 else ""
        n_draws = len(self.chains[0])
        remedy = "More particles need a larger `num_samples`."
        if n_draws > 1:
            remedy = (
                f"Each of {n_draws} draws of the weights has a filter of its own, which has more "
                f"particles where `num_samples` is above {n_draws * self.n_particles // 4}."
            )
        text = (
            f"{low.size} of {ess.size} months have fewer than {LEAST_ESS:.0f} effective particles "
            f"of {self.n_particles} ({first}{more}; smallest {float(low.min()):.1f}): evidence and "
            "filtered factors of these months, and what follows from them, are rough. "
            f"{remedy}"
        )
        if warn and self.num_samples >= _MANY:
            warn_user(text)
        return {"warning": text}

    def require_models(self, models: Sequence[RVRAE]) -> None:
        """Raise ``ConfigError`` if other models than these, one per chain, filtered the panel."""
        same = len(models) == len(self.chains) and all(
            _same_weights(model, chain[0].model)
            for model, chain in zip(models, self.chains, strict=True)
        )
        if not same:
            raise ConfigError(
                f"`panel` was filtered by another fit ({len(self.chains)} chain(s)) than this one "
                f"({len(models)}). Pass the result of this fit's own `filter`."
            )

    def by_member(self) -> list[Filtered]:
        """Return one filtered panel per ensemble member, in the member's own factors."""
        return [
            replace(self, chains=(chain,), rotation=None, seed=chain_seed(self.seed, number))
            for number, chain in enumerate(self.chains)
        ]

    def predict(self, times: object | None = None, *, by_member: bool = False) -> xr.DataArray:
        """Predict the mean of month t's returns from data to t-1 only.

        Parameters and result: see :meth:`rvrae_pyro.fitting.fit.Fit.predict`; ``by_member`` gives a
        leading dim ``chain`` instead of the mean over members.
        """
        months = pick_months(self.batch, times)
        means = [_mean_of(chain, lambda d: d.states.expected_returns()) for chain in self.chains]
        found = [label_cells(each, self.batch, "forecast", "expected return") for each in means]
        return self._pooled(found, by_member).isel({TIME: months})

    def forecast(
        self,
        times: object | None = None,
        out: str | os.PathLike[str] | None = None,
        horizon: int = 1,
        future: xr.Dataset | None = None,
    ) -> xr.DataTree:
        """Draw every listed asset's returns of months t to t + horizon - 1 from data to t-1 only.

        Parameters, result and errors: see :meth:`rvrae_pyro.fitting.fit.Fit.forecast`.
        """
        months = pick_months(self.batch, times)
        horizon = check_count("horizon", horizon)
        rows = later_rows(self.panel, self.batch, months, horizon, future)
        batch, attrs = self.batch, self.draw_attrs
        if horizon == 1:
            each = [draw_forecasts(chain, batch, months, attrs) for chain in self.chains]
        else:
            each = [
                draw_paths(chain, self.panel, batch, months, rows, self.n_particles, attrs)
                for chain in self.chains
            ]
        return assemble(join_drawings(each, self.rotation), out)

    def factors(self, kind: Kind = "filtered") -> xr.Dataset:
        """Draws, means and standard deviations of the factors.

        Parameters and result: see :meth:`rvrae_pyro.fitting.fit.Fit.factors`.
        """
        draws = stack_arrays([self._factor_draws(chain, kind) for chain in self.chains])
        if self.rotation is not None:
            draws = rotate(draws, self.rotation)
        sample = (CHAIN, DRAW)
        mean = self._expected_factors() if kind == "predicted" else draws.mean(sample)
        attrs = {**self.attrs, "kind": kind, "draw_seed": self.seed, **self.warning()}
        return xr.Dataset({FACTORS: draws, "mean": mean, "sd": draws.std(sample)}, attrs=attrs)

    def moments(self, times: object | None = None) -> xr.Dataset:
        """Mean and low-rank covariance of month t's returns from data to t-1, by chain.

        Parameters and result: see :meth:`rvrae_pyro.fitting.fit.Fit.moments`.
        """
        months = pick_months(self.batch, times)
        each = [moments(chain, self.batch, months) for chain in self.chains]
        joined = each[0]
        if len(each) > 1:
            joined = xr.concat(each, CHAIN, join="exact", combine_attrs="override")
            joined["share"] = joined["share"] / len(each)
            joined = joined.assign_coords({CHAIN: np.arange(joined.sizes[CHAIN])})
        return joined.assign_attrs(self.draw_attrs)

    def attribution(self, times: object | None = None, *, by_member: bool = False) -> xr.DataArray:
        r"""Split every mean forecast by factor: :math:`\beta_{itk} \, E[f_{tk}]`.

        Parameters and result: see :meth:`rvrae_pyro.fitting.fit.Fit.attribution`.
        """
        months = pick_months(self.batch, times)
        turns: Sequence[np.ndarray | None] = [None] * len(self.chains)
        if self.rotation is not None:
            turns = list(self.rotation.to_numpy())
        found = [
            _mean([attribute(self.batch, draw.states, months, turn) for draw in chain])
            for chain, turn in zip(self.chains, turns, strict=True)
        ]
        return self._pooled(found, by_member)

    def sensitivity(self, times: object | None = None, *, by_member: bool = False) -> xr.DataArray:
        r"""Slope of each mean forecast in each characteristic of its own row.

        Parameters and result: see :meth:`rvrae_pyro.fitting.fit.Fit.sensitivity`. Makes tensors of
        the panel's characteristics.
        """
        months = pick_months(self.batch, times)
        like = self.batch.returns
        whole = to_batch(self.panel, device=like.device, dtype=like.dtype)
        found = [
            _mean([differentiate(draw.model, whole, draw.states, months) for draw in chain])
            for chain in self.chains
        ]
        return self._pooled(found, by_member)

    def prior_state(self) -> xr.Dataset:
        """Hidden state of the factor prior, month by month, given returns up to the month.

        Result and errors: see :meth:`rvrae_pyro.fitting.fit.Fit.prior_state`.
        """
        each = [summarise_state(chain, self.batch, self.draw_attrs) for chain in self.chains]
        if self.rotation is None:
            return each[0]
        return stack_datasets(each).assign_attrs(each[0].attrs)

    def loadings(self) -> xr.DataArray:
        """Return loadings (time, asset, factor), known at the end of t-1; NaN if unlisted.

        The mean over the filter's draws of the weights; of an ensemble (chain, time, asset,
        factor), of the aligned factors.
        """
        means = [_mean_of(chain, lambda draw: draw.states.cross.beta) for chain in self.chains]
        return label_loadings(means, self.batch, self.rotation)

    def idio_scale(self) -> xr.DataArray:
        """Idiosyncratic standard deviations (time, asset), known at the end of t-1.

        Of an ensemble with a leading ``chain``.
        """
        text = "idiosyncratic standard deviation"
        found = [
            label_cells(_mean_of(chain, idio_variance).sqrt(), self.batch, "idio_scale", text)
            for chain in self.chains
        ]
        return found[0] if self.rotation is None else stack_arrays(found)

    def reconstruct(self) -> xr.DataArray:
        """Fitted returns (time, asset): loadings times the filtered mean of the month's factors.

        Knows month t's own returns: a measure of fit (total R2), never a forecast. Of an ensemble
        the mean over members.
        """
        text = "fitted return given the month's own returns"
        fitted = [
            _mean_of(chain, lambda d: d.states.cross.location(d.states.filtered.mean(1)))
            for chain in self.chains
        ]
        found = [label_cells(each, self.batch, "fitted", text) for each in fitted]
        return self._pooled(found, by_member=False)

    def factor_parts(self) -> xr.Dataset:
        """Parts of ``returns = alpha + beta f + noise``, one row per month.

        Result: see :meth:`rvrae_pyro.fitting.fit.Fit.factor_parts`.
        """
        if self.rotation is not None:
            return stack_datasets([member.factor_parts() for member in self.by_member()])
        # the share of the expected return that no factor explains, from months before t alone
        by_factor = self.attribution().drop_sel({FACTOR: INTERCEPT}, errors="ignore")
        return xr.Dataset(
            {
                "alpha": self.predict() - by_factor.sum(FACTOR, skipna=False),
                "beta": self.loadings(),
                "idio_scale": self.idio_scale(),
                "factors": self.factors("filtered")["mean"],
            }
        )

    def log_evidence(self, *, by_member: bool = False) -> xr.DataArray:
        """Log density of each month's observed returns given all months before (time,), in nats.

        See :meth:`rvrae_pyro.fitting.fit.Fit.log_evidence`. Months with fewer than
        :data:`LEAST_ESS` effective particles are named in the attribute ``warning``, here and of
        :meth:`factors`.

        Warns
        -----
        RvraeWarning
            In that case, with 200 particles or more.
        """
        # of the equal mixture over draws of the weights
        each = torch.stack(
            [
                torch.stack([d.states.log_evidence for d in chain]).logsumexp(0)
                - math.log(len(chain))
                for chain in self.chains
            ]
        )
        text = "log density given the months before"
        attrs = {"long_name": text, "units": "nats", **self.warning(warn=True)}
        times = {TIME: self.batch.times}
        if by_member:
            coords = {CHAIN: np.arange(len(self.chains)), **times}
            return xr.DataArray(each.cpu().numpy(), coords, (CHAIN, TIME), "log_evidence", attrs)
        mixed = torch.logsumexp(each, 0) - math.log(len(self.chains))
        return xr.DataArray(mixed.cpu().numpy(), times, TIME, "log_evidence", attrs)

    def _pooled(self, found: Sequence[xr.DataArray], by_member: bool) -> xr.DataArray:
        """Mean over members, or all of them along ``chain``."""
        if by_member:
            return stack_arrays(found)
        return found[0] if len(found) == 1 else stack_arrays(found).mean(CHAIN, keep_attrs=True)

    def _factor_draws(self, chain: Chain, kind: Kind) -> xr.DataArray:
        draws = torch.cat([draw.states.of(kind) for draw in chain], 1).transpose(0, 1)
        coords = {
            CHAIN: [0],
            DRAW: np.arange(draws.shape[0]),
            TIME: self.batch.times,
            FACTOR: factor_coord(draws.shape[-1]),
        }
        return xr.DataArray(draws.unsqueeze(0).cpu().numpy(), coords, tuple(coords))

    def _expected_factors(self) -> xr.DataArray:
        """Means (time, factor) given returns up to the month before, over all chains."""
        each = [_mean_of(chain, lambda draw: draw.states.expected) for chain in self.chains]
        labels = {TIME: self.batch.times, FACTOR: factor_coord(each[0].shape[-1])}
        means = [xr.DataArray(mean.cpu().numpy(), labels, (TIME, FACTOR)) for mean in each]
        if self.rotation is None:
            return means[0]
        return rotate(stack_arrays(means), self.rotation).mean(CHAIN)


def filter_models(
    models: Sequence[RVRAE],
    panel: xr.Dataset,
    num_samples: int,
    seed: int,
    *,
    rotation: xr.DataArray | None,
    attrs: Mapping[str, str | int],
) -> Filtered:
    """Filter a panel under one or several models (with ``rotation``), in independent streams."""
    # numbers of other kinds than Python's could not be written to files
    num_samples, seed = check_count("num_samples", num_samples), check_count("seed", seed, 0)
    batch = light_batch(models[0], panel)
    chains = tuple(
        filter_panel(model, panel, batch, num_samples, chain_seed(seed, chain))
        for chain, model in enumerate(models)
    )
    return Filtered(panel, num_samples, seed, batch, chains, rotation, attrs)


def label_loadings(
    means: Sequence[Tensor], batch: Batch, rotation: xr.DataArray | None
) -> xr.DataArray:
    """Label each chain's loadings (n_times, n_assets, n_factors), aligned by ``rotation``."""
    hidden = ~batch.listed.unsqueeze(-1)
    coords = {TIME: batch.times, ASSET: batch.assets, FACTOR: factor_coord(means[0].shape[-1])}
    attrs = {"long_name": "loadings", "units": "return per unit of factor"}
    each = [
        xr.DataArray(
            beta.masked_fill(hidden, torch.nan).cpu().numpy(), coords, tuple(coords), "beta", attrs
        )
        for beta in means
    ]
    return each[0] if rotation is None else rotate(stack_arrays(each), rotation, loadings=True)


def _mean_of(chain: Chain, function: Callable[[FilteredDraw], Tensor]) -> Tensor:
    """Mean of a quantity over draws of the weights."""
    return torch.stack([function(draw) for draw in chain]).mean(0)


def _same_weights(model: RVRAE, fixed: RVRAE) -> bool:
    """Whether all weights without a posterior are those that a copy was made with."""
    drawn = {site.parameter for site in model.parts.weight_guide.sites}
    mine, theirs = (
        {k: v for k, v in m.parts.state_dict().items() if k not in drawn} for m in (model, fixed)
    )
    return mine.keys() == theirs.keys() and all(
        torch.equal(value.to(theirs[name]), theirs[name]) for name, value in mine.items()
    )


def _mean(each: Sequence[xr.DataArray]) -> xr.DataArray:
    """Mean over draws of the weights, labelled as the first."""
    return each[0] if len(each) == 1 else each[0].copy(data=np.mean([a.values for a in each], 0))
