"""The parts of a model, held once, and what its Pyro pair computes from them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyro
import torch
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.distributions import constraints

from rvrae_pyro.data.batch import Batch, check_batch
from rvrae_pyro.errors import ShapeError
from rvrae_pyro.models import decoders, guides, likelihoods, priors
from rvrae_pyro.models import loadings as _loadings
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.random_weights import MeanField, Weights, call_with, map_weights
from rvrae_pyro.models.scan import scan
from rvrae_pyro.models.untrained import TracksTraining
from rvrae_pyro.nn.cross_section import along_factors
from rvrae_pyro.nn.gaussian import Potential
from rvrae_pyro.nn.month_summary import MonthStatistics

__all__ = ["CrossSection", "Parts", "Shared", "Walked"]

_serial = itertools.count()

NO_WEIGHTS: Weights = MappingProxyType({})


@dataclass(frozen=True)
class CrossSection:
    """All that model and guide both need to know of the months' cross-sections.

    Attributes
    ----------
    beta : Tensor of shape (n_times, n_assets, n_factors)
        Loadings, return per unit of factor; like all below with particles in front where weights
        are latents and particles are vectorised.
    alpha : Tensor of shape (n_times, n_assets) or None
        Mispricing, in return units.
    scale : Tensor of shape (n_times, n_assets)
        Idiosyncratic scales at level 0, in return units.
    potential : Potential
        Quadratic log-likelihood of every month at level 0.
    """

    beta: Tensor
    alpha: Tensor | None
    scale: Tensor
    potential: Potential

    @classmethod
    def joined(cls, months: Sequence[CrossSection]) -> CrossSection:
        """Put months that were computed one by one together again."""
        alphas = [month.alpha for month in months if month.alpha is not None]
        return cls(
            torch.cat([month.beta for month in months]),
            torch.cat(alphas) if alphas else None,
            torch.cat([month.scale for month in months]),
            Potential(
                torch.cat([month.potential.precision for month in months]),
                torch.cat([month.potential.shift for month in months]),
            ),
        )

    def release(self) -> None:
        """Let go of memory that can be filled again from a file; there is none here."""

    def location(self, factors: Tensor) -> Tensor:
        """Compute expected returns (*particles, n_times, n_assets) from factors of each month."""
        loc = along_factors(self.beta, factors)
        return loc if self.alpha is None else loc + self.alpha

    def scale_at(self, level: Tensor | None) -> Tensor:
        """Idiosyncratic scales given log multipliers (*particles, n_times)."""
        return self.scale if level is None else self.scale * level.exp().unsqueeze(-1)

    def given(
        self, t: int, assets: Tensor, factors: Tensor, level: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Location and scale of a month's returns under each draw of its factors.

        Parameters
        ----------
        t : int
            Position of the month.
        assets : int Tensor of shape (n_chosen,)
            Positions of the assets asked for.
        factors : Tensor of shape (num_draws, n_factors)
        level : Tensor of shape (num_draws,) or (), or None
            Log multiplier of the idiosyncratic scales.

        Returns
        -------
        loc, scale : Tensor of shape (num_draws, n_chosen)
            In return units, for ``Likelihood.distribution``.
        """
        loc = factors @ self.beta[t].index_select(0, assets).mT
        if self.alpha is not None:
            loc = loc + self.alpha[t, assets]
        scale = self.scale[t, assets]
        if level is not None:
            scale = scale * level.exp().unsqueeze(-1)
        return loc, scale.expand_as(loc)

    def log_likelihood(
        self,
        likelihood: likelihoods.Likelihood,
        batch: Batch,
        t: int,
        factors: Tensor,
        level: Tensor | None,
    ) -> Tensor:
        """Log density (num_draws,) of a month's observed returns, in nats; 0 where none is.

        Parameters as for :meth:`given`, and what else it takes to score returns.
        """
        seen = batch.observed[t].nonzero().squeeze(-1)
        returns, found = batch.returns[t, seen], []
        # some draws at a time: what is made of all of them would outgrow cache and memory
        rows = max(1, _CELLS // max(1, len(seen)))
        for first in range(0, len(factors), rows):
            some = slice(first, first + rows)
            own = level[some] if level is not None and level.ndim else level
            law = likelihood.distribution(*self.given(t, seen, factors[some], own))
            found.append(law.log_prob(returns).sum(-1))
        return torch.cat(found)


_CELLS = 65_536
"""Returns of draws that are scored at once."""


Walked = tuple[Tensor, priors.Transition, Tensor | None]
"""A path that was drawn, and the prior and level that it met on its way."""


@dataclass(frozen=True)
class Shared:
    """What one call of the guide hands to the next call of the model."""

    cross: CrossSection
    view: PriorView
    walked: Walked | None = None
    own_walked: Walked | None = None


class Parts(TracksTraining):
    """The parts of a model, held once and shared by its model and guide.

    A plain module under a name of its own in Pyro's parameter store: it trains under
    ``SVI.step`` with ``module_local_params`` on and off, and no two models share anything.
    """

    def __init__(
        self,
        loadings: _loadings.Loadings,
        factor_prior: priors.FactorPrior,
        decoder: decoders.Decoder,
        likelihood: likelihoods.Likelihood,
        guide: guides.Guide,
    ) -> None:
        super().__init__()
        self.loadings = loadings
        self.factor_prior = factor_prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.guide = guide
        self.weight_guide = MeanField(self)
        self.return_scale: Tensor
        self.register_buffer("return_scale", torch.tensor(0.1))
        self._slot: tuple[Batch, Weights, tuple[Any, ...], Shared] | None = None
        self._silent = False
        self._known: tuple[Tensor, ...] = ()
        self._enrol()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._slot = None
        self._silent, self._known = False, ()  # a copy is not in the loop that its origin is in
        self._enrol()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Spare a training loop that holds the weights itself from telling Pyro of them.

        Meanwhile no part may be exchanged for another.
        """
        self._silent, self._known = True, tuple(self._tensors())
        try:
            yield
        finally:
            self._silent, self._known = False, ()

    def _enrol(self) -> None:
        """Take a name that no other model in this process has had, and give it back at the end."""
        self.serial = f"rvrae_{next(_serial)}"
        weakref.finalize(self, _forget, self.serial).atexit = False

    def declare(self) -> None:
        """Tell Pyro of the weights: in its store, or as local ones where the user set it so."""
        if self._silent:
            return
        self.mark_used()
        if not pyro.settings.get("module_local_params"):
            # Pyro warns of every frozen weight of a module in training mode; this one only
            # holds the parts, whose own modes stay as they are
            training, self.training = self.training, False
            pyro.module(self.serial, self)
            self.training = training
            return
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                value = weight.detach()
                value.unconstrained = weakref.ref(weight)  # type: ignore[attr-defined]
                full = param_with_module_name(self.serial, name)
                _declare(value, full, constraint=constraints.real, event_dim=None, name=full)

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
            Drawn weights; the parts' own where there are none.
        """
        unit = self.return_scale
        beta = call_with(self, "loadings", weights, batch) if beta is None else beta
        log_scale = call_with(self, "likelihood.scale", weights, batch)
        scale = log_scale.exp().expand(*log_scale.shape[:-2], batch.n_times, batch.n_assets)
        alpha = None
        if self.likelihood.alpha is not None:
            alpha = call_with(self, "likelihood.alpha", weights, batch)
        returns = batch.returns / unit
        with torch.no_grad():
            start = self.factor_prior.start(batch.context)
        potential = self.likelihood.potential(
            returns if alpha is None else returns - alpha, beta, scale, batch.observed, start
        )
        return CrossSection(
            unit * beta, None if alpha is None else unit * alpha, unit * scale, potential
        )

    @torch.no_grad()
    def online_cross_section(self, batch: Batch) -> CrossSection:
        """As :meth:`cross_section`, with every month's arithmetic on that month's rows alone.

        Bit-equal up to any month whatever happens after it, also in a longer or shorter panel.
        """
        beta, _ = self.loadings.online(batch)
        months = [
            self.cross_section(batch.window(t, t + 1, every_asset=True), beta[t : t + 1])
            for t in range(batch.n_times)
        ]
        return CrossSection.joined(months)

    def prepare(
        self,
        batch: Batch,
        cross: CrossSection | None = None,
        weights: Weights = NO_WEIGHTS,
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
        return Shared(cross, self.view(batch, cross.potential, by_month, summary))

    def view(
        self,
        batch: Batch,
        potential: Potential,
        by_month: bool = False,
        summary: Tensor | None = None,
    ) -> PriorView:
        """Show the guide what it may know of the prior, given the potentials of the months.

        Parameters
        ----------
        batch : Batch
        potential : Potential
        by_month : bool
            Do every month's arithmetic on its own.
        summary : Tensor of shape (*particles, n_times, size), optional
            Of the months' returns, for a prior whose state is driven by it.
        """
        prior = self.factor_prior
        context = _encoded(prior, batch.context, by_month)
        if summary is not None:
            context = prior.drive(context, summary)
        state = batch.state("factor_prior") or prior.initial()
        if prior.own is not None:
            own_context = _encoded(prior.own, batch.context, by_month)
            own_state = batch.state("own") or prior.own.initial()
            return PriorView(prior, context, state, None, own_context, own_state)
        walk = scan(prior, potential, context, state, None) if prior.observed else None
        return PriorView(prior, context, state, walk)

    def hand_over(self, batch: Batch, weights: Weights, shared: Shared) -> None:
        """Leave what the guide computed for the next call of the model."""
        self._slot = (batch, weights, self._token(), shared)

    def take(self, batch: Batch, weights: Weights) -> Shared:
        """Consume what the guide left if it is for this batch and these weights; else compute."""
        slot, self._slot = self._slot, None
        if slot is None or slot[0] is not batch or slot[2] != self._token():
            return self.prepare(batch, weights=weights)
        # values that the guide drew reach the model as they are, not as copies
        same = all(slot[1].get(name) is value for name, value in weights.items())
        return slot[3] if same else self.prepare(batch, weights=weights)

    def version(self) -> tuple[Any, ...]:
        """Tell whether any weight or buffer was replaced or changed in place since."""
        return tuple((id(w), w._version) for w in self._known or self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        return itertools.chain(self.parameters(), self.buffers())

    def _token(self) -> tuple[Any, ...]:
        return (torch.is_grad_enabled(), *self.version())

    def log_weights(self) -> Tensor:
        """Log prior density of all weights at their MAP, up to a constant; a scalar."""
        total = self.return_scale.new_zeros(())
        for prior, matrices in map_weights(self, self.weight_guide.sites):
            total = total + prior.log_density(matrices)
        return total


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


def _forget(serial: str) -> None:
    """Drop a model's names from Pyro's parameter store once the model is gone."""
    store = pyro.get_param_store()
    for name in [n for n in store.keys() if n.startswith(f"{serial}$$$")]:  # noqa: SIM118
        del store[name]


@effectful(type="param")
def _declare(value: Tensor, name: str, **_: Any) -> Tensor:
    """State a parameter that lives outside Pyro's store."""
    return value
