"""One ELBO step on a small panel, as a ratio to the same step written by hand in plain torch.

Run with ``make bench``. What a probabilistic program costs over a script for one model is the
plumbing of its sites, which is a fixed part and so counts most on a small panel. The script knows
no sites, parts or masks of its own: it aligns assets at their entry, runs torch's LSTM, and walks
through the months.
"""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from tests.benchmarks.reference_sizes import cpu_median, random_batch

N_TIMES, N_ASSETS, N_CHARACTERISTICS, K = 180, 200, 20, 5
TARGET = 1.5


def aligned(batch: Batch) -> tuple[Tensor, Tensor]:
    """Characteristics from each asset's entry on, and where a cell's output lies there."""
    first = batch.listed.int().argmax(0)
    months = torch.arange(batch.n_times)[:, None]
    source = (months + first).clamp_max(batch.n_times - 1)
    x = batch.characteristics.gather(0, source[..., None].expand_as(batch.characteristics))
    return x, (months - first).clamp_min(0)


def read_out(prior: rv.priors.Recurrent, hidden: Tensor, averages: Tensor) -> tuple[Tensor, ...]:
    """Mean, scale and level of a month."""
    loc, log_scale, level = prior.head(hidden).split([K, K, 1])
    long_run = prior.head.bias[K : 2 * K].clamp(-8.0, 4.0).exp()
    lag, own, common = prior.memory.effects.unbind(0)
    excess = (2.0 * (own.abs() + common.abs())).clamp_min(1.0)
    market = averages[K:].mean()
    loc = long_run * loc + lag * averages[:K] / 3.0
    log_scale = log_scale + (own * averages[K:] + common * market) / excess
    level = level[0] + prior.memory.level[0, 0] * market
    return loc, log_scale.clamp(-8.0, 4.0).exp(), 3.0 * torch.tanh(level / 3.0)


def score(error: Tensor, df: Tensor) -> Tensor:
    """Of a standard Student-t."""
    return error * (df + 1.0) / (df + error.square())


def solve(loc: Tensor, scale: Tensor, precision: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and Cholesky factor of the scaled precision of prior times potential."""
    chol = torch.linalg.cholesky(scale[:, None] * precision * scale + torch.eye(K))
    residual = scale * (shift - (precision @ loc[:, None])[..., 0])
    return loc + scale * torch.cholesky_solve(residual[..., None], chol)[..., 0], chol


def potentials(
    y: Tensor, beta: Tensor, scale: Tensor, seen: Tensor, df: Tensor, prior: rv.priors.Recurrent
) -> tuple[Tensor, Tensor]:
    """Quadratic log-likelihoods of all months about their modes."""

    def against(mode: Tensor) -> Tensor:
        return (y - (beta @ mode[..., None])[..., 0]) / scale

    with torch.no_grad():
        zeros = torch.zeros(prior.hidden), torch.zeros(2 * K)
        loc, width, _ = read_out(prior, *zeros)
        weight = (seen / scale.square())[..., None]
        plain, fisher = (beta * weight).mT @ beta, (df + 1.0) / (df + 3.0)
        mode, _ = solve(loc, width, plain, ((beta * weight).mT @ y[..., None])[..., 0])
        for _ in range(2):
            pull = (beta.mT @ (seen * score(against(mode), df) / scale)[..., None])[..., 0]
            shift = pull + (fisher * plain @ mode[..., None])[..., 0]
            mode, chol = solve(loc, width, fisher * plain, shift)
        covariance = width[:, None] * torch.cholesky_inverse(chol) * width
        reach = ((3.0 * ((beta @ covariance) * beta).sum(-1)).sqrt() / scale).clamp_min(1e-3)
    centre = against(mode)
    low, middle, high = (score(centre + d, df) for d in (-reach, 0.0, reach))
    curvature = ((high - low) / (2.0 * reach)).clamp_min(0.0)
    precision = (beta * (seen * curvature / scale.square())[..., None]).mT @ beta
    push = (low + 4.0 * middle + high) / 6.0
    shift = (beta.mT @ (seen * push / scale)[..., None])[..., 0]
    return precision, shift + (precision @ mode[..., None])[..., 0]


def by_hand(model: rv.RVRAE, batch: Batch, noise: Tensor) -> Tensor:
    """Negative bound of all months, one draw of the factors."""
    parts, prior = model.parts, model.parts.factor_prior
    unit, x = parts.return_scale, batch.characteristics
    start, place = aligned(batch)
    hidden, _ = parts.loadings.lstm(start)
    hidden = hidden.gather(0, place[..., None].expand_as(hidden))
    seen = batch.observed
    beta = (parts.loadings.head(hidden) + parts.loadings.path(x)) * seen[..., None]
    scale = (parts.likelihood.scale.network(x)[..., 0] * seen).exp()
    df = 2.0 + parts.likelihood.log_excess_df.exp()
    precision, shift = potentials(batch.returns / unit, beta, scale, seen, df, prior)
    state, averages = torch.zeros(prior.hidden), torch.zeros(2 * K)
    decay = torch.sigmoid(prior.memory.unbounded_decay)
    path, levels, divergence = [], [], 0.0
    for t, eps in enumerate(noise):
        loc, width, level = read_out(prior, state, averages)
        shrink = torch.exp(-2.0 * level)
        mean, chol = solve(loc, width, shrink * precision[t : t + 1], shrink * shift[t : t + 1])
        z = (
            mean + width * torch.linalg.solve_triangular(chol.mT, eps[:, None], upper=True)[..., 0]
        )[0]
        log_det = chol[0].diagonal().log().sum()
        # log q - log p: the logs of the widths and of 2 pi cancel
        divergence = divergence + log_det - 0.5 * eps.square().sum()
        divergence = divergence + 0.5 * ((z - loc) / width).square().sum()
        path.append(z)
        levels.append(level)
        features = torch.cat([z, torch.log1p(z.square()) - 0.53])
        weights = (prior.gru.weight_ih_l0, prior.gru.weight_hh_l0)
        biases = (prior.gru.bias_ih_l0, prior.gru.bias_hh_l0)
        state = torch.gru_cell(features[None], state[None], *weights, *biases)[0]
        averages = torch.lerp(features, averages, decay)
    wide = unit * scale * torch.stack(levels).exp()[:, None]
    error = (batch.returns - unit * (beta @ torch.stack(path)[..., None])[..., 0]) / wide
    constant = torch.lgamma(0.5 * (df + 1.0)) - torch.lgamma(0.5 * df) - 0.5 * (df * math.pi).log()
    each = constant - wide.log() - 0.5 * (df + 1.0) * torch.log1p(error.square() / df)
    return divergence - (each * seen).sum()


def make() -> tuple[rv.RVRAE, Batch]:
    """A panel with factors in it, and a model with weights in its way."""
    batch = random_batch(N_TIMES, N_ASSETS, N_CHARACTERISTICS)
    common = batch.characteristics[..., :K] @ (0.1 * torch.randn(N_TIMES, K, 1))
    batch.returns.add_(common[..., 0])
    model = rv.RVRAE(N_CHARACTERISTICS, K, factor_prior=rv.priors.Recurrent(K))
    with torch.no_grad():
        for weight in model.parts.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model, batch


def test_both_say_the_same():
    model, batch = make()
    with torch.random.fork_rng(devices=[]):  # the same draws for both
        ours = Trace_ELBO().differentiable_loss(model.model, model.guide, batch)
    theirs = by_hand(model, batch, torch.randn(N_TIMES, K))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0.0)
    weights = [w for w in model.parts.parameters() if w.requires_grad]
    mine = torch.autograd.grad(ours, weights, allow_unused=True, materialize_grads=True)
    other = torch.autograd.grad(theirs, weights, allow_unused=True, materialize_grads=True)
    size = torch.cat([g.flatten() for g in other]).norm()
    for slope, expected in zip(mine, other, strict=True):
        torch.testing.assert_close(slope, expected, rtol=0.0, atol=1e-4 * float(size))


@pytest.mark.benchmark
def test_small_panel(benchmark):
    model, batch = make()
    elbo = Trace_ELBO()

    def ours():
        model.zero_grad()
        elbo.differentiable_loss(model.model, model.guide, batch).backward()

    def theirs():
        model.parts.zero_grad()
        by_hand(model, batch, torch.randn(N_TIMES, K)).backward()

    with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
        ratio = cpu_median(ours) / cpu_median(theirs)
        benchmark.pedantic(ours, rounds=1)
    benchmark.extra_info.update(ratio=round(ratio, 3), target=TARGET)
    assert ratio < TARGET
