"""Posterior of interpretable parameters by importance sampling with the factors integrated out.

The bound of a filtering guide prefers parameters at which that guide is good: with three assets it
puts an autoregression at 0.78 where the posterior is about 0.87. Here the evidence itself weights
draws of the parameters. The Normal of their guide takes the correlations of the weighted draws in
unconstrained space, and is placed and scaled so that each parameter has their mean and standard
deviation on its own scale: near the end of an interval the posterior is skewed in unconstrained
space, and a Normal with its moments there has others here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.inference.particle_filter import smc_filter
from rvrae_pyro.models import exact
from rvrae_pyro.models.rvrae import RVRAE, require_model
from rvrae_pyro.nn.seeding import seeded

_CELLS = 20_000_000
"""Returns of draws whose evidence is computed at once."""

_DF = 7.0
"""Degrees of freedom of the proposal, whose tails must cover the posterior's."""

_NEWTON = 50
_ROUNDS = 12
_ENOUGH, _GAIN = 0.5, 1.2
"""Rounds at the most, and the effective share of the draws, or its growth, that ends them."""


@dataclass(frozen=True)
class Refinement:
    """Result of importance sampling.

    Attributes
    ----------
    rounds : int
    share : float
        Effective share of the draws of the last round; 1 is a proposal that is the posterior.
    log_evidence : float
        Of the model with the parameters integrated out, in nats.
    """

    rounds: int
    share: float
    log_evidence: float


def log_evidence_of(
    model: RVRAE, batch: Batch, num_particles: int = 200, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """Log evidence as a function of the interpretable parameters.

    Parameters
    ----------
    model : RVRAE
        In the batch's floating type. All other parameters are as they are.
    batch : Batch
    num_particles : int
        Of the particle filter, where there is no closed form.
    seed : int
        The same for all values, so that noise is common to them.

    Returns
    -------
    callable
        From unconstrained vectors (n, d) to log evidence (n,) in nats.
    """
    parts, guide = model.parts, model.parts.weight_guide
    with torch.no_grad():
        beta, _ = parts.loadings.online(batch)
    if not exact.is_exact(model):

        def estimate(free: Tensor) -> Tensor:
            found, values = [], guide.split(free)
            for i in range(len(free)):
                fixed = model.at({name: value[i] for name, value in values.items()})
                cross = fixed.parts.cross_section(batch, beta)
                cloud = smc_filter(fixed, batch, num_particles, seed, cross=cross)
                found.append(cloud.log_evidence.sum())
            return torch.stack(found)

        return estimate

    def one(values: dict[str, Tensor]) -> Tensor:
        cross = parts.cross_section(batch, beta, values)
        return exact.filtered(model, batch, cross, values).log_evidence.sum()

    rows = max(1, _CELLS // max(1, batch.returns.numel()))

    def evaluate(free: Tensor) -> Tensor:
        blocks = [torch.vmap(one)(guide.split(block)) for block in free.split(rows)]
        return torch.cat(blocks)

    return evaluate


@torch.no_grad()
def refine(
    model: RVRAE,
    batch: Batch,
    num_draws: int | None = None,
    num_particles: int = 200,
    seed: int = 0,
) -> Refinement:
    """Set the guide of the interpretable parameters to the moments of their posterior, in place.

    Adaptive importance sampling: a Student-t proposal about the present moments, weights of prior
    times evidence, their moments the next proposal's. While too few draws carry the weight it is
    tempered. Weights and all other parameters are as they are.

    Parameters
    ----------
    model : RVRAE
        With an interpretable parameter that has a prior.
    batch : Batch
        Training months.
    num_draws : int, optional
        Draws per round. Default: 2000 where the evidence has a closed form, else 200.
    num_particles : int
        Of the particle filter, where it has none; its evidence is unbiased, so that the weights
        are those of the posterior, with more noise.
    seed : int

    Returns
    -------
    Refinement

    Raises
    ------
    ConfigError
        If no interpretable parameter has a prior.

    Notes
    -----
    ``rv.fit`` does this at the end of training where the evidence has a closed form, and with
    ``FitConfig(refine_draws=200)`` elsewhere. Without it the guide keeps what the bound gave, which
    is biased towards what makes the factors' guide good. Costs ``num_draws`` particle filters per
    round; two to six rounds.

    References
    ----------
    Cappe, Guillin, Marin and Robert (2004), Population Monte Carlo, JCGS 13; Tran, Scharth, Pitt
    and Kohn (2013), arXiv 1309.3339: importance sampling squared.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> import rvrae_pyro as rv
    >>> panel = rv.data.simulate_linear_gaussian(4, 12, 1)
    >>> prior = rv.priors.AR1(1, coefficient=dist.Uniform(-1.0, 1.0))
    >>> parts = {"loadings": rv.loadings.Linear(1, 1), "likelihood": rv.likelihoods.Normal()}
    >>> model = rv.RVRAE(1, 1, factor_prior=prior, **parts)
    >>> found = rv.inference.refine(model, rv.data.to_batch(panel), num_draws=200)
    >>> found.share > 0.3
    True
    """
    require_model(model)
    if not model.hyper_sites:
        raise ConfigError(
            "`model` must have an interpretable parameter with a prior; all are numbers. Give one "
            'a distribution, as with model.with_priors({"factor_prior.scale": dist.Gamma(2., 2.)}).'
        )
    closed = exact.is_exact(model)
    if num_draws is None:
        num_draws = 2000 if closed else 200
    check_count("num_draws", num_draws, 20)
    check_count("num_particles", num_particles)
    precise = model.at({}).double().eval()
    batch = batch.to(dtype=torch.float64)
    guide, parts = precise.parts.weight_guide, precise.parts
    evidence = log_evidence_of(precise, batch, num_particles, seed)
    mean, root = guide.moments(parts)
    root = 2.0 * root  # wide at first: what is missed cannot be weighted
    share, log_evidence, rounds = 0.0, math.nan, 0
    kept: list[tuple[Tensor, Tensor]] = []
    with seeded(seed):
        for _ in range(_ROUNDS):
            rounds += 1
            free, log_q = _propose(mean, root, num_draws)
            ratio = evidence(free) + guide.log_joint_prior(parts, free) - log_q
            ratio = torch.where(ratio.isfinite(), ratio, -math.inf)
            power = _temper(ratio)
            weight = torch.softmax(power * ratio, 0)
            mean, root = _moments(weight, free)
            before, share = share, float(1.0 / torch.softmax(ratio, 0).square().sum()) / num_draws
            log_evidence = float(torch.logsumexp(ratio, 0)) - math.log(num_draws)
            if power == 1.0:
                kept.append((share * torch.softmax(ratio, 0), free))
            # noise of a particle filter bounds the share: then no round betters it by much
            if power == 1.0 and (share > _ENOUGH or share < _GAIN * before):
                break
    if kept:  # every round that was not tempered tells of the posterior, by its effective draws
        weight, free = (torch.cat(list(each)) for each in zip(*kept, strict=True))
        weight = weight / weight.sum()
        mean, root = _moments(weight, free)
    values = torch.cat([x.reshape(len(free), -1) for x in guide.split(free).values()], -1)
    mean, root = _match(guide.transform, mean, root, weight, values)
    model.parts.weight_guide.set_moments(
        model.parts, mean.to(model.return_scale), root.to(model.return_scale)
    )
    return Refinement(rounds, share, log_evidence)


def _moments(weight: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and root (d, d) of the covariance of weighted draws (n, d)."""
    mean = (weight.unsqueeze(-1) * free).sum(0)
    off = free - mean
    covariance = (weight[:, None, None] * off[:, :, None] * off[:, None, :]).sum(0)
    ridge = 1e-9 * covariance.diagonal().mean() * torch.eye(len(mean)).to(covariance)
    return mean, torch.linalg.cholesky(covariance + ridge)


def _propose(mean: Tensor, root: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Draw from a Student-t about a mean; also the log density."""
    law = torch.distributions.Chi2(mean.new_tensor(_DF))
    size, half = len(mean), (n + 1) // 2
    noise = torch.randn(half, size, dtype=mean.dtype, device=mean.device)
    noise = noise / (law.sample(torch.Size((half, 1))) / _DF).sqrt()
    noise = torch.cat([noise, -noise])[:n]  # antithetic: the mean is then exact for a Normal
    log_det = root.diagonal().log().sum()
    constant = (
        math.lgamma(0.5 * (_DF + size))
        - math.lgamma(0.5 * _DF)
        - 0.5 * size * math.log(_DF * math.pi)
    )
    kernel = 0.5 * (_DF + size) * torch.log1p(noise.square().sum(-1) / _DF)
    return mean + noise @ root.mT, constant - log_det - kernel


@torch.enable_grad()
def _match(
    transform: Callable[[Tensor], Tensor],
    mean: Tensor,
    root: Tensor,
    weight: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor]:
    """Move a Normal so that its image has given means and deviations, entry by entry.

    Parameters
    ----------
    transform : callable
        From unconstrained vectors (*batch, d) to values (*batch, d), elementwise.
    mean, root : Tensor of shape (d,) and (d, d)
        Of the Normal to start from, whose correlations are kept.
    weight, values : Tensor of shape (n,) and (n, d)
        Draws that have the moments.
    """
    wanted = (weight.unsqueeze(-1) * values).sum(0)
    spread = (weight.unsqueeze(-1) * (values - wanted).square()).sum(0).sqrt()
    deviation = root.square().sum(-1).sqrt()
    nodes, shares = np.polynomial.hermite_e.hermegauss(81)
    node = torch.as_tensor(nodes).to(mean).unsqueeze(-1)
    share = torch.as_tensor(shares / shares.sum()).to(mean).unsqueeze(-1)

    def miss(at: Tensor) -> Tensor:
        """Errors (2, d) in units of the deviation, and of its log."""
        image = transform(at[0] + at[1].exp() * node)
        middle = (share * image).sum(0)
        found = (share * (image - middle).square()).sum(0).sqrt()
        return torch.stack([(middle - wanted) / spread, (found / spread).log()])

    at = torch.stack([mean, deviation.log()])
    for _ in range(_NEWTON):
        at = at.detach().requires_grad_()
        error = miss(at)
        if float(error.detach().abs().max()) < 1e-6:
            break
        # each parameter has two equations of its own: sums over the others give its derivatives
        rows = [torch.autograd.grad(row.sum(), at, retain_graph=True)[0] for row in error]
        jacobian = torch.stack(rows).permute(2, 0, 1)  # (d, equation, unknown)
        ridge = 1e-9 * torch.eye(2).to(jacobian)
        step = torch.linalg.solve(jacobian + ridge, error.detach().mT.unsqueeze(-1)).squeeze(-1)
        at = at.detach() - step.mT.clamp(-0.5, 0.5)
    at = at.detach()
    return at[0], root * (at[1].exp() / deviation).unsqueeze(-1)


def _temper(ratio: Tensor) -> float:
    """Largest power at which a tenth of the draws count."""
    for power in np.linspace(1.0, 0.02, 50):
        weight = torch.softmax(float(power) * ratio, 0)
        if float(1.0 / weight.square().sum()) >= 0.1 * len(ratio):
            return float(power)
    return 0.02
