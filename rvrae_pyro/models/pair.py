"""The Pyro model and guide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.models import decoders
from rvrae_pyro.models.compiled import reject_jit
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.hand_over import Shared
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.path_distributions import IndependentPath, PriorPath
from rvrae_pyro.models.path_draw import PathDraw, draw_path
from rvrae_pyro.names import ASSET, DECODED_FACTORS, FACTORS, RETURNS, TIME
from rvrae_pyro.nn.gaussian import Gaussian


class Half(PyroModule):
    """Base of model and guide: holds the shared parts without Pyro renaming them."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._modules["parts"] = parts

    def _enter(self) -> Parts:
        reject_jit()
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
    found = [half._modules["parts"] for half in (model, guide) if isinstance(half, Half)]
    if len(found) == 2 and found[0] is found[1] and isinstance(found[0], Parts):
        return found[0]
    raise ConfigError(
        "`model` and `guide` must be those of one rv.RVRAE; got "
        f"{type(model).__name__} and {type(guide).__name__}. Pass model.model and model.guide."
    )


class Model(Half):
    r"""The joint density of factors and returns given characteristics, an ordinary Pyro model.

    .. math::
        p(z_{1:T}, r_{1:T}) = \prod_t p(z_t \mid h_{t-1})\; p(r_t \mid f_t, B_t), \quad
        \text{eqs. (1)-(8)}

    Each month's prior is the ``Transition`` that ``FactorPrior.ahead`` returns (by default
    ``CommonVolatility`` around the VRNN, ``Recurrent``); its ``log_prob`` is p(z_t | h_{t-1}), and
    ``PriorPath`` joins the months. In training the guide's draw brings it along. The default
    prior has x_t, site ``log_volatility``, before z_t. The return likelihood is
    ``Likelihood.distribution``.
    """

    def forward(self, batch: Batch, kl_weight: float | Tensor = 1.0) -> Tensor:
        """Sample weights with a posterior, ``factors`` and ``returns``; return the returns."""
        parts = self._enter()
        weights = parts.weight_guide.sample_prior(parts)
        shared = parts.take(batch, weights)  # what the guide computed, or computed here
        months = pyro.plate(TIME, batch.n_times, dim=-2)
        assets = pyro.plate(ASSET, batch.n_assets, dim=-1)
        with _plate_of_path(months, shared.view), _weighted(kl_weight, batch):
            prior = _sample_prior(shared, batch)  # (4), (6)
            drawn = pyro.sample(FACTORS, prior)
        factors = parts.decoder(drawn.squeeze(-2), batch.state("decoder") or None)  # (17)-(21)
        if not isinstance(parts.decoder, decoders.Identity):
            with months:
                pyro.deterministic(DECODED_FACTORS, factors.unsqueeze(-2), event_dim=1)
        level = _level(shared.view, prior, drawn)
        loc, scale = shared.cross.location(factors), shared.cross.scale_at(level)  # (7)
        likelihood = (shared.likelihood or parts.likelihood).distribution(loc, scale)  # (5)
        with months, assets, poutine.mask(mask=batch.observed):  # type: ignore[call-overload]
            returns: Tensor = pyro.sample(
                RETURNS, likelihood, obs=None if batch.replicate else batch.returns
            )
        return returns


class Guide(Half):
    r"""The factor posterior guide of a batch, eqs. (9)-(16).

    .. math:: q(z_{1:T} \mid r_{1:T}) = \prod_t q(z_t \mid z_{<t}, r_t)

    Its density is the distribution that ``parts.guide`` returns: a ``FilteredPath``, prior times
    quadratic likelihood month by month (``rv.guides.Conjugate``, the default), or the encoder's
    independent Normals (``rv.guides.Recurrent``, the paper's). Where the prior has a
    log-volatility, it is drawn together with the factors.
    """

    def forward(self, batch: Batch, kl_weight: float | Tensor = 1.0) -> Tensor:
        """Sample weights and ``factors``; hand what was computed to the next call of the model."""
        parts = self._enter()
        weights = parts.weight_guide.sample_proposal(parts)
        shared = parts.prepare(batch, weights=weights)
        with pyro.plate(TIME, batch.n_times, dim=-2), _weighted(kl_weight, batch):
            draw = draw_path(  # samples the site `factors` from `parts.guide(...)`
                parts.guide,
                batch,
                shared.view,
                shared.cross.potential,
                month_weights(kl_weight, batch),
                sample=pyro.sample,
            )
        parts.leave(batch, weights, replace(shared, draw=draw))
        return draw.value


@contextmanager
def _plate_of_path(months: pyro.plate, view: PriorView) -> Iterator[None]:
    """Plate of the months around the sites of a path.

    RenyiELBO weighs particles apart along a plate that all sites share, which is wrong for a path:
    its months depend on each other, so its frame must not equal the returns'.
    """
    months.counter = 0 if view.walk is not None else 1
    with months:
        yield
    months.counter = 0


def _sample_prior(shared: Shared, batch: Batch) -> dist.TorchDistribution:
    """Distribution of the path of factors; a prior's auxiliary latent is sampled before it."""
    view, known = _sample_auxiliary(shared, batch)
    path = prior_distribution(view, batch.n_times)
    if isinstance(path, PriorPath) and known is not None:  # evaluated by the guide already
        path.walked = (known.value, known.prior, known.level)
    return path


def _sample_auxiliary(shared: Shared, batch: Batch) -> tuple[PriorView, PathDraw | None]:
    """Sample the prior's auxiliary latent, if any, and let the factors' prior know it.

    Also the guide's draw, as far as it still holds for the values sampled.
    """
    view, latent, draw = shared.view, shared.view.prior.auxiliary, shared.draw
    if latent is None:
        return view, draw
    path = PriorPath(latent, batch.n_times, view.latent_context, view.latent_state)
    known = None if draw is None else draw.auxiliary
    if known is not None:
        path.walked = (known.value, known.prior, None)
    value: Tensor = pyro.sample(latent.site, path)
    # the prior that the guide's factors met holds for the latent that it drew, no other
    kept = draw if known is not None and known.value is value else None
    return view.given(value), kept


def _level(view: PriorView, path: dist.TorchDistribution, drawn: Tensor) -> Tensor | None:
    """Log multiplier of each month's idiosyncratic scales, where the prior has one."""
    if view.walk is not None:
        return view.walk.level
    assert isinstance(path, PriorPath)
    return path.along(drawn)[1]


def prior_distribution(view: PriorView, n_times: int) -> dist.TorchDistribution:
    """Distribution of the path under the factor prior, of batch shape (n_times, 1).

    A prior with an auxiliary latent needs a view that knows it (``view.given(latent)``).
    """
    if view.walk is not None:
        transition = view.walk.prior
        if not isinstance(transition, Gaussian):
            return IndependentPath(view.prior, transition, view.state)
        return dist.MultivariateNormal(
            transition.loc.unsqueeze(-2),
            scale_tril=torch.diag_embed(transition.scale).unsqueeze(-3),
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
