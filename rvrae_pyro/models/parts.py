"""The parts of a model, held once, and what its Pyro pair computes from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch, State, check_batch
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models import decoders, guides, likelihoods, priors
from rvrae_pyro.models import loadings as _loadings
from rvrae_pyro.models.cross_section import CrossSection, join_dispersions
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.hand_over import HandOver, Shared
from rvrae_pyro.models.hyperguides import HyperGuide, MultivariateNormal
from rvrae_pyro.models.parameter_store import InParameterStore
from rvrae_pyro.models.placed import place
from rvrae_pyro.models.random_weights import (
    SiteGuide,
    Weights,
    call_with,
    map_weights,
    prior_weights,
    raw_values,
)
from rvrae_pyro.models.scan import scan
from rvrae_pyro.models.weights import WeightPrior, check_weights
from rvrae_pyro.nn.gaussian import Dispersion, Potential
from rvrae_pyro.nn.month_summary import MonthStatistics

NO_WEIGHTS: Weights = MappingProxyType({})
_NONE: Mapping[str, WeightPrior | None] = MappingProxyType({})

_BLOCK, _BLOCK_CELLS = 64, 8192
"""Months, and returns of months, whose potentials are computed at once when filtering."""


@dataclass(frozen=True)
class Placed:
    """Factor prior and likelihood with drawn values in place of their own.

    Attributes
    ----------
    factor_prior : FactorPrior
    likelihood : Likelihood
    particles : tuple of int
        Those of the values; states of the prior then have them in front.
    decoder : Decoder
    return_scale : Tensor
    """

    factor_prior: priors.FactorPrior
    likelihood: likelihoods.Likelihood
    particles: torch.Size
    decoder: decoders.Decoder
    return_scale: Tensor

    def spread(self, state: State) -> State:
        """State of the prior with the particles in front."""
        return tuple(s.expand(*self.particles, *s.shape[-1:]) for s in state)


class Parts(InParameterStore):
    """The parts of a model, held once and shared by its model and guide.

    A plain module under a unique name in Pyro's parameter store: it trains under ``SVI.step``
    with ``module_local_params`` on and off, and no two models share anything.
    """

    def __init__(
        self,
        loadings: _loadings.Loadings,
        factor_prior: priors.FactorPrior,
        decoder: decoders.Decoder,
        likelihood: likelihoods.Likelihood,
        guide: guides.Guide,
        hyper_guide: HyperGuide = MultivariateNormal(),  # noqa: B008
        weight_priors: Mapping[str, WeightPrior | None] = _NONE,
    ) -> None:
        super().__init__()
        self.loadings = loadings
        self.factor_prior = factor_prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.guide = guide
        self.weight_priors = dict(weight_priors)
        _check_paths(self, self.weight_priors)
        self.weight_guide = SiteGuide(self, hyper_guide, self.weight_priors)
        self.return_scale: Tensor
        self.register_buffer("return_scale", torch.tensor(0.1))
        self.hand_over = HandOver()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.hand_over = HandOver()

    @torch.no_grad()
    def take_state(self, other: Parts) -> None:
        """Take unit, dtype, device and scales of the guide from parts with other priors."""
        self.to(device=other.return_scale.device, dtype=other.return_scale.dtype)
        self.return_scale.copy_(other.return_scale)
        mine, theirs = self.weight_guide.log_scales, other.weight_guide.log_scales
        for name, scale in theirs.items():
            if name in mine and mine[name].shape == scale.shape:
                mine[name].copy_(scale)
        if not other.untrained:
            self.mark_trained()
        else:
            self.mark_built()
            if not other.unset_units:
                self.mark_used()

    def placed(self, weights: Weights = NO_WEIGHTS) -> Placed:
        """Put drawn values in place of the parameters of factor prior and likelihood."""
        sites = self.weight_guide.sites
        if not weights or not sites:
            own = (self.factor_prior, self.likelihood, torch.Size())
            return Placed(*own, self.decoder, self.return_scale)
        values, of_prior = raw_values(self, sites, weights, "factor_prior")
        prior = place(self.factor_prior, values, of_prior)
        values, particles = raw_values(self, sites, weights, "likelihood")
        # scale and alpha are called with their draws by themselves
        values = {name: value for name, value in values.items() if "." not in name}
        likelihood = place(self.likelihood, values, particles)
        return Placed(prior, likelihood, of_prior, self.decoder, self.return_scale)

    def cross_section(
        self, batch: Batch, beta: Tensor | None = None, weights: Weights = NO_WEIGHTS
    ) -> CrossSection:
        """Compute loadings, scales and potentials of every month of a batch.

        Parameters
        ----------
        batch : Batch
        beta : Tensor, optional
            Loadings per unit of ``return_scale`` if they are known already.
        weights : mapping from site to Tensor
            Drawn values; the parts' own where there are none.
        """
        unit = self.return_scale
        beta, alpha, scale = self._per_unit(batch, beta, weights)
        residual = batch.returns / unit
        if alpha is not None:
            residual = residual - alpha
        potential, dispersion = self._potentials(
            self.placed(weights), batch.context, residual, beta, scale, batch.observed
        )
        alpha = None if alpha is None else unit * alpha
        return CrossSection(unit * beta, alpha, unit * scale, potential, dispersion)

    def cross_section_before_returns(
        self, batch: Batch, weights: Weights = NO_WEIGHTS
    ) -> CrossSection:
        """Compute loadings and scales of every month; potentials are those of no return.

        All that the model needs where the guide was not called, unless returns drive the state of
        the prior. A draw of the weights from their prior may be so far from the data that a
        potential of their returns is singular.
        """
        unit = self.return_scale
        beta, alpha, scale = self._per_unit(batch, None, weights)
        alpha = None if alpha is None else unit * alpha
        return CrossSection(unit * beta, alpha, unit * scale, Potential.none(beta))

    def _per_unit(
        self, batch: Batch, beta: Tensor | None, weights: Weights
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Compute loadings, mispricing and scales per unit of ``return_scale``."""
        sites = self.weight_guide.sites
        beta = call_with(self, sites, "loadings", weights, batch) if beta is None else beta
        log_scale = call_with(self, sites, "likelihood.scale", weights, batch)
        scale = log_scale.exp().expand(*log_scale.shape[:-2], batch.n_times, batch.n_assets)
        if self.likelihood.alpha is None:
            return beta, None, scale
        return beta, call_with(self, sites, "likelihood.alpha", weights, batch), scale

    def _potentials(
        self,
        placed: Placed,
        context: Tensor | None,
        residual: Tensor,
        beta: Tensor,
        scale: Tensor,
        observed: Tensor,
    ) -> tuple[Potential, Dispersion | None]:
        """Quadratic form and dispersion of every month, in units of ``return_scale``."""
        # where a potential starts from: the guide's business, for which the middle of the
        # posterior will do, once for all draws; an observed recurrence is driven by it
        prior = placed.factor_prior if self.factor_prior.observed else self.factor_prior
        with torch.no_grad():
            start = prior.start(context)
        cells = (residual, beta, scale, observed, start)
        if self.factor_prior.reads_dispersion:
            return placed.likelihood.dispersed_potential(*cells)
        return placed.likelihood.potential(*cells), None

    @torch.no_grad()
    def online_cross_section(self, batch: Batch) -> CrossSection:
        """As :meth:`cross_section`, with no month's arithmetic depending on later rows.

        Bit-equal up to any month whatever happens after it, also in a longer or shorter panel.
        """
        beta, _ = self.loadings.online(batch)
        months = [
            self.loadings_and_scales(batch.window(t, t + 1, every_asset=True), beta[t : t + 1])
            for t in range(batch.n_times)
        ]
        betas, alphas, scales = zip(*months, strict=True)
        alpha = None if self.likelihood.alpha is None else torch.cat(alphas)
        return self.online_potentials(batch, torch.cat(betas), alpha, torch.cat(scales))

    def loadings_and_scales(
        self, month: Batch, beta: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Put a month's loadings, mispricing and scales in return units."""
        unit = self.return_scale
        scale = self.likelihood.scale(month).exp().expand(month.n_times, month.n_assets)
        alpha = None if self.likelihood.alpha is None else unit * self.likelihood.alpha(month)
        return unit * beta, alpha, unit * scale

    @torch.no_grad()
    def online_potentials(
        self, batch: Batch, beta: Tensor, alpha: Tensor | None, scale: Tensor
    ) -> CrossSection:
        """Complete what :meth:`loadings_and_scales` found of every month.

        Small months are taken some at a time, the last ones repeated up to that number: a tensor's
        shape decides how its numbers are rounded, and later months may not change a bit.
        """
        unit, placed, found = self.return_scale, self.placed(NO_WEIGHTS), []
        step = max(1, min(_BLOCK, _BLOCK_CELLS // max(1, batch.n_assets)))
        for first in range(0, batch.n_times, step):
            months = torch.arange(first, first + step, device=beta.device)
            months = months.clamp_max(batch.n_times - 1)
            residual = batch.returns[months]
            if alpha is not None:
                residual = residual - alpha[months]
            context = None if batch.context is None else batch.context[months]
            cells = (residual / unit, beta[months] / unit, scale[months] / unit)
            known = slice(min(step, batch.n_times - first))
            seen = batch.observed[months]
            potential, dispersion = self._potentials(placed, context, *cells, seen)
            if dispersion is not None:
                dispersion = Dispersion(*(field[known] for field in dispersion))
            found.append((Potential(*(field[known] for field in potential)), dispersion))
        potentials, dispersions = zip(*found, strict=True)
        joined = Potential(*(torch.cat(field) for field in zip(*potentials, strict=True)))
        return CrossSection(beta, alpha, scale, joined, join_dispersions(dispersions))

    def prepare(
        self, batch: Batch, cross: CrossSection | None = None, weights: Weights = NO_WEIGHTS
    ) -> Shared:
        """Compute what model and guide share, from the batch and drawn weights alone.

        Given a cross-section that was computed month by month, so is all the rest: no month's
        rounding then depends on how many follow.
        """
        _check_dtype(batch, self.return_scale)
        by_month = cross is not None
        cross = self.cross_section(batch, weights=weights) if cross is None else cross
        summary = None
        if self.factor_prior.summarises:
            summary = _summary_by_month(batch, cross) if by_month else _summary(batch, cross)
        placed = self.placed(weights)
        view = self.view(batch, cross.potential, cross.dispersion, by_month, summary, placed)
        return Shared(cross, view, likelihood=placed.likelihood)

    def view(
        self,
        batch: Batch,
        potential: Potential,
        dispersion: Dispersion | None = None,
        by_month: bool = False,
        summary: Tensor | None = None,
        placed: Placed | None = None,
    ) -> PriorView:
        """Show the guide what it may know of the prior, given the potentials of the months.

        Parameters
        ----------
        batch : Batch
        potential : Potential
        dispersion : Dispersion, optional
            For a prior that reads it.
        by_month : bool
            Do every month's arithmetic on its own.
        summary : Tensor of shape (*particles, n_times, size), optional
            Of the months' returns, for a prior whose state is driven by it.
        placed : Placed, optional
            Drawn values in place.
        """
        placed = self.placed() if placed is None else placed
        prior = placed.factor_prior
        context = _encoded(prior, batch.context, by_month)
        if summary is not None:
            context = prior.drive(context, summary)
        state = placed.spread(batch.state("factor_prior") or prior.initial())
        latent = prior.auxiliary
        if latent is not None:
            latent_context = _encoded(latent, batch.context, by_month)
            latent_state = placed.spread(batch.state("auxiliary") or latent.initial())
            return PriorView(prior, context, state, None, latent_context, latent_state, dispersion)
        walk = scan(prior, potential, context, state, None) if prior.observed else None
        return PriorView(prior, context, state, walk)

    def leave(self, batch: Batch, weights: Weights, shared: Shared) -> None:
        """Leave what the guide computed for the next call of the model."""
        self.hand_over.put(batch, weights, self.token(), shared)

    def take(self, batch: Batch, weights: Weights) -> Shared:
        """Take what the guide left for this batch and these weights; else compute it."""
        shared = self.hand_over.take(batch, weights, self.token())
        if shared is not None:
            return shared
        if self.factor_prior.conditions_on_history:
            return self.prepare(batch, weights=weights)
        _check_dtype(batch, self.return_scale)
        placed, cross = self.placed(weights), self.cross_section_before_returns(batch, weights)
        view = self.view(batch, cross.potential, placed=placed)
        return Shared(cross, view, likelihood=placed.likelihood)

    def log_weights(self) -> Tensor:
        """Log prior density of all weights at their MAP, up to a constant; a scalar."""
        total = self.return_scale.new_zeros(())
        for prior, matrices in map_weights(self, self.weight_guide.sites, self.weight_priors):
            total = total + prior.log_density(matrices)
        of_prior = self.factor_prior.log_density()
        return total if of_prior is None else total + of_prior


def _check_paths(parts: Parts, priors: Mapping[str, WeightPrior | None]) -> None:
    """Raise where a weight prior is for no weights, or is none."""
    names = [each.name for each in prior_weights(parts)] if priors else []
    for path, prior in priors.items():
        check_weights(path, prior)
        if not any(name == path or name.startswith(f"{path}.") for name in names):
            raise ConfigError(
                f"`weight_priors` must name weights of the model; got {path!r}. There are "
                f"{', '.join(names)}."
            )


def _encoded(prior: priors.FactorPrior, context: Tensor | None, by_month: bool) -> Tensor | None:
    """Context as a prior encodes it, if need be with every month's arithmetic on its own."""
    if context is None or not by_month:
        return prior.encode(context)
    months = [month for month in map(prior.encode, context.split(1)) if month is not None]
    return torch.cat(months) if months else None


def _summary(batch: Batch, cross: CrossSection) -> Tensor:
    """Summaries of the months' returns, of shape (*particles, n_times, size)."""
    returns = batch.returns if cross.alpha is None else batch.returns - cross.alpha
    return MonthStatistics.of(returns, cross.beta, cross.scale, batch.observed).summary()


def _summary_by_month(batch: Batch, cross: CrossSection) -> Tensor:
    """Summaries of the months' returns, each from that month's rows alone."""
    months = []
    for t in range(batch.n_times):
        one = slice(t, t + 1)
        month = CrossSection(
            cross.beta[one],
            None if cross.alpha is None else cross.alpha[one],
            cross.scale[one],
            Potential(cross.potential.precision[one], cross.potential.shift[one]),
        )
        months.append(_summary(batch.window(t, t + 1, every_asset=True), month))
        cross.release()
    return torch.cat(months)


def _check_dtype(batch: Batch, weight: Tensor) -> None:
    """Raise where the batch is none, or has another floating type than the weights."""
    check_batch(batch)
    if batch.returns.dtype != weight.dtype:
        raise ShapeError(
            f"`batch` must have the model's dtype {weight.dtype}; got {batch.returns.dtype}. Use "
            f"to_batch(panel, dtype={weight.dtype}), or model.to(dtype={batch.returns.dtype})."
        )
