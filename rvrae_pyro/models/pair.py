"""The Pyro model and guide, and the parts that they share."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import constraints

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models import decoders, guides, likelihoods, priors
from rvrae_pyro.models import loadings as _loadings
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.paths import IndependentPath, PriorPath
from rvrae_pyro.models.random_weights import MeanField, Weights, call_with, map_weights
from rvrae_pyro.models.scan import scan
from rvrae_pyro.names import ASSET, DECODED_FACTORS, FACTORS, RETURNS, TIME
from rvrae_pyro.nn.gaussian import Gaussian, Potential

__all__ = [
    "CrossSection",
    "Guide",
    "Model",
    "Parts",
    "Shared",
    "month_weights",
    "prior_distribution",
    "shared_parts",
]

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

    def location(self, factors: Tensor) -> Tensor:
        """Compute expected returns (*particles, n_times, n_assets) from factors of each month."""
        loc = (factors.unsqueeze(-2) @ self.beta.mT).squeeze(-2)
        return loc if self.alpha is None else loc + self.alpha

    def scale_at(self, level: Tensor | None) -> Tensor:
        """Idiosyncratic scales given log multipliers (*particles, n_times)."""
        return self.scale if level is None else self.scale * level.exp().unsqueeze(-1)


Walked = tuple[Tensor, priors.Transition, Tensor | None]
"""A path that was drawn, and the prior and level that it met on its way."""


@dataclass(frozen=True)
class Shared:
    """What one call of the guide hands to the next call of the model."""

    cross: CrossSection
    view: PriorView
    walked: Walked | None = None
    own_walked: Walked | None = None


class Parts(nn.Module):
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
        self._enrol()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._slot = None
        self._enrol()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Spare a training loop that holds the weights itself from telling Pyro of them."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def _enrol(self) -> None:
        """Take a name that no other model in this process has had, and give it back at the end."""
        self.serial = f"rvrae_{next(_serial)}"
        weakref.finalize(self, _forget, self.serial).atexit = False

    def declare(self) -> None:
        """Tell Pyro of the weights: in its store, or as local ones where the user set it so."""
        if self._silent:
            return
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
        alphas = [month.alpha for month in months if month.alpha is not None]
        return CrossSection(
            torch.cat([month.beta for month in months]),
            torch.cat(alphas) if alphas else None,
            torch.cat([month.scale for month in months]),
            Potential(
                torch.cat([month.potential.precision for month in months]),
                torch.cat([month.potential.shift for month in months]),
            ),
        )

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
        prior = self.factor_prior
        by_month = cross is not None
        cross = self.cross_section(batch, weights=weights) if cross is None else cross
        context = _encoded(prior, batch.context, by_month)
        state = batch.state("factor_prior") or prior.initial()
        if prior.own is not None:
            own_context = _encoded(prior.own, batch.context, by_month)
            own_state = batch.state("own") or prior.own.initial()
            return Shared(cross, PriorView(prior, context, state, None, own_context, own_state))
        walk = scan(prior, cross.potential, context, state, None) if prior.observed else None
        return Shared(cross, PriorView(prior, context, state, walk))

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
        tensors = itertools.chain(self.parameters(), self.buffers())
        return tuple((id(w), w._version) for w in tensors)

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


def _check_dtype(batch: Batch, weight: Tensor) -> None:
    """Raise where the batch has another floating type than the weights."""
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


class _Half(PyroModule):
    """Base of model and guide: holds the shared parts without Pyro renaming them."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._modules["parts"] = parts

    def _enter(self) -> Parts:
        parts = self._modules["parts"]
        assert isinstance(parts, Parts)
        parts.declare()
        return parts


def shared_parts(model: object, guide: object) -> Parts:
    """Return the parts that a model and its guide share.

    Raises
    ------
    ConfigError
        If the two are not the ``model`` and ``guide`` of one RVRAE.
    """
    found = [half._modules["parts"] for half in (model, guide) if isinstance(half, _Half)]
    if len(found) == 2 and found[0] is found[1] and isinstance(found[0], Parts):
        return found[0]
    raise ConfigError(
        "`model` and `guide` must be those of one rv.RVRAE; got "
        f"{type(model).__name__} and {type(guide).__name__}. Pass model.model and model.guide."
    )


class Model(_Half):
    """p(weights, factors, returns | characteristics), an ordinary Pyro model."""

    def forward(self, batch: Batch, kl_weight: float | Tensor = 1.0) -> Tensor:
        """Sample weights with a posterior, ``factors`` and ``returns``; return the returns."""
        parts = self._enter()
        shared = parts.take(batch, parts.weight_guide.sample_prior(parts))
        months = pyro.plate(TIME, batch.n_times, dim=-2)
        # RenyiELBO weighs particles apart along a plate that all sites share, which is wrong for
        # a path: its months depend on each other, so its frame must not equal the returns'
        months.counter = 0 if shared.view.walk is not None else 1
        with months, _weighted(kl_weight, batch):
            shared = _sample_own(shared, batch)
            path = prior_distribution(shared.view, batch.n_times)
            if isinstance(path, PriorPath):
                path.walked = shared.walked
            drawn = pyro.sample(FACTORS, path)
        months.counter = 0
        if shared.view.walk is not None:
            level = shared.view.walk.level
        else:
            assert isinstance(path, PriorPath)
            level = path.along(drawn)[1]
        code = drawn.squeeze(-2)
        factors = parts.decoder(code, batch.state("decoder") or None)
        if not isinstance(parts.decoder, decoders.Identity):
            with months:
                pyro.deterministic(DECODED_FACTORS, factors.unsqueeze(-2), event_dim=1)
        likelihood = parts.likelihood.distribution(
            shared.cross.location(factors), shared.cross.scale_at(level)
        )
        with (
            months,
            pyro.plate(ASSET, batch.n_assets, dim=-1),
            poutine.mask(mask=batch.observed),  # type: ignore[call-overload]
        ):
            returns: Tensor = pyro.sample(
                RETURNS, likelihood, obs=None if batch.replicate else batch.returns
            )
        return returns


class Guide(_Half):
    """q(weights) q(factors | returns, weights), the guide of the same batch."""

    def forward(self, batch: Batch, kl_weight: float | Tensor = 1.0) -> Tensor:
        """Sample weights and ``factors``; hand what was computed to the next call of the model."""
        parts = self._enter()
        drawn_weights = parts.weight_guide.sample_proposal(parts)
        shared = parts.prepare(batch, weights=drawn_weights)
        potential, view, own_walked = shared.cross.potential, shared.view, None
        weights = month_weights(kl_weight, batch)
        with pyro.plate(TIME, batch.n_times, dim=-2), _weighted(kl_weight, batch):
            if view.prior.own is not None:
                own = parts.guide.own(batch, potential, view, weights)
                latent: Tensor = pyro.sample(view.prior.own.site, own)
                own_walked, view = _walked(own, latent), view.given(latent.squeeze(-2))
            proposal = parts.guide(batch, potential, view, weights)
            code: Tensor = pyro.sample(FACTORS, proposal)
        walked = _walked(proposal, code)
        parts.hand_over(batch, drawn_weights, Shared(shared.cross, shared.view, walked, own_walked))
        return code


def _walked(proposal: dist.TorchDistribution, value: Tensor) -> Walked | None:
    """Prior that a path met on its way, if it was drawn by walking with the prior."""
    drawn = getattr(proposal, "drawn", None)
    if drawn is None or drawn[0] is not value:
        return None
    return (value, drawn[1].prior, drawn[1].level)


def _sample_own(shared: Shared, batch: Batch) -> Shared:
    """Sample the prior's own latent, if it has one, and let the factors' prior know it."""
    view, own = shared.view, shared.view.prior.own
    if own is None:
        return shared
    path = PriorPath(own, batch.n_times, view.own_context, view.own_state)
    path.walked = shared.own_walked
    latent: Tensor = pyro.sample(own.site, path)
    # what the guide's factors met on their way holds for the latent that it drew, no other
    known = shared.own_walked is not None and shared.own_walked[0] is latent
    return replace(
        shared,
        view=view.given(latent.squeeze(-2)),
        walked=shared.walked if known else None,
    )


def prior_distribution(view: PriorView, n_times: int) -> dist.TorchDistribution:
    """Distribution of the path under the factor prior, of batch shape (n_times, 1).

    A prior with a latent of its own needs a view that knows it (``view.given(latent)``).
    """
    if view.walk is not None:
        gaussian = view.walk.prior
        if not isinstance(gaussian, Gaussian):
            return IndependentPath(view.prior, gaussian, view.state)
        return dist.MultivariateNormal(
            gaussian.loc.unsqueeze(-2),
            scale_tril=torch.diag_embed(gaussian.scale).unsqueeze(-3),
            validate_args=False,
        )
    return PriorPath(view.prior, n_times, view.context, view.state)


def _checked(kl_weight: float | Tensor, batch: Batch) -> Tensor:
    weight = torch.as_tensor(kl_weight, dtype=batch.returns.dtype, device=batch.returns.device)
    if weight.ndim > 1 or (weight.ndim == 1 and weight.shape[0] != batch.n_times):
        raise ShapeError(
            f"`kl_weight` must be a number or of shape ({batch.n_times},); got "
            f"{tuple(weight.shape)}."
        )
    if not bool((weight > 0).all()):
        raise ConfigError(
            "`kl_weight` must be above 0 in every month; start an annealing schedule at a small "
            "positive weight instead of 0."
        )
    return weight


def month_weights(kl_weight: float | Tensor, batch: Batch) -> Tensor:
    """Spread a KL weight over the months, of shape (n_times,)."""
    return _checked(kl_weight, batch).expand(batch.n_times)


@contextmanager
def _weighted(kl_weight: float | Tensor, batch: Batch) -> Iterator[None]:
    """Weight the KL of every month; 1 weights nothing."""
    if isinstance(kl_weight, (int, float)) and kl_weight == 1:
        yield
        return
    weight = _checked(kl_weight, batch)
    with poutine.scale(scale=weight.unsqueeze(-1) if weight.ndim else weight):
        yield
