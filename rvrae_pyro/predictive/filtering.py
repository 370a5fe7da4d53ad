"""Filter a panel: cross-sections and states of every month, under every draw of the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch, State, to_light_batch
from rvrae_pyro.data.chunks import is_lazy, row_blocks
from rvrae_pyro.errors import check_choice, check_count
from rvrae_pyro.inference.particle_filter import month_random, smc_filter
from rvrae_pyro.inference.sharded.shards import Scratch
from rvrae_pyro.models import exact
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHARACTERISTIC, CHARACTERISTICS, TIME
from rvrae_pyro.nn.asset_sums import along_factors
from rvrae_pyro.predictive.weight_draws import block_sizes, drawn_weights, fixed_models, in_double

Kind = Literal["filtered", "smoothed", "predicted"]


@dataclass(frozen=True)
class FilteredStates:
    """Equally weighted draws of every month's factors; draws are marginals of their month.

    Attributes
    ----------
    predicted, filtered, smoothed : Tensor of shape (n_times, num_samples, n_factors)
        Given returns up to the month before; up to the month; of all months where the model is
        exact, else up to six months later.
    expected : Tensor of shape (n_times, n_factors)
        Mean of the factors given returns up to the month before: exact, or the mean of the
        particles' conditional means, which has less Monte-Carlo error than that of ``predicted``.
    expected_covariance : Tensor of shape (n_times, n_factors, n_factors)
        Covariance of the same, also from all particles.
    predicted_codes : Tensor of shape (n_times, num_samples, n_factors)
        Latent codes of ``predicted``; the factors themselves for an identity decoder.
    level : Tensor of shape (n_times, num_samples) or None
        Log multiplier of the idiosyncratic scales, one for every ``predicted`` draw.
    predicted_log_prior : Tensor of shape (n_times, num_samples)
        Log density of ``predicted_codes`` under the factor prior given the months before: each
        draw's own past with particles, all pasts together where the model is exact.
    cross : CrossSection
    log_evidence : Tensor of shape (n_times,)
        log p(r_t | r_1..t-1) in nats, exact or estimated.
    ess : Tensor of shape (n_times,)
        Effective sample size of the particle filter before resampling; ``num_samples`` where
        the model is exact.
    state_summary : dict of str to Tensor of shape (n_times, num_samples, size)
        Named quantities of the prior's state, given returns up to the month; see
        ``FactorPrior.reading``.
    """

    predicted: Tensor
    filtered: Tensor
    smoothed: Tensor
    expected: Tensor
    expected_covariance: Tensor
    predicted_codes: Tensor
    level: Tensor | None
    predicted_log_prior: Tensor
    cross: CrossSection
    log_evidence: Tensor
    ess: Tensor
    state_summary: dict[str, Tensor] = field(default_factory=dict)

    def of(self, kind: Kind) -> Tensor:
        """Draws by name."""
        check_choice("kind", kind, ("filtered", "smoothed", "predicted"))
        draws: Tensor = getattr(self, kind)
        return draws

    def expected_returns(self, rows: Sequence[int] | slice = slice(None)) -> Tensor:
        """Mean of the returns (n_rows, n_assets) of some months given the months before."""
        mean = along_factors(self.cross.beta[rows], self.expected[rows])
        return mean if self.cross.alpha is None else mean + self.cross.alpha[rows]

    def first(self, size: int) -> FilteredStates:
        """Keep ``size`` draws of every month; draws are in random order and equally weighted."""
        if size == self.predicted.shape[1]:
            return self
        by_draw = ("predicted", "predicted_log_prior", "filtered", "smoothed", "predicted_codes")
        kept: dict[str, Any] = {name: getattr(self, name)[:, :size].clone() for name in by_draw}
        kept["level"] = None if self.level is None else self.level[:, :size].clone()
        summary = {k: v[:, :size].clone() for k, v in self.state_summary.items()}
        return dataclasses.replace(self, state_summary=summary, **kept)


@dataclass(frozen=True)
class FilteredDraw:
    """One draw of the weights and the filtered states under it."""

    model: RVRAE  # in double precision, with the weights drawn
    states: FilteredStates  # with this draw's part of all samples
    seed: int  # of everything drawn given these weights
    n_particles: int


def light_batch(model: RVRAE, panel: xr.Dataset) -> Batch:
    """Panel in double precision on the model's device, without its characteristics."""
    batch = to_light_batch(panel, model.return_scale.device, torch.float64)
    model.loadings.check(batch)
    return batch


def filter_panel(
    model: RVRAE, panel: xr.Dataset, batch: Batch, num_samples: int, seed: int
) -> tuple[FilteredDraw, ...]:
    """Filter a panel, and the same as :func:`light_batch` makes it, under every draw of weights.

    ``num_samples`` are the draws under all weights together. Each filter has four times as many
    particles as the draws that it keeps, 250 or more, and no more than if it were alone. Costs a
    filter, a copy of the weights and the loadings of all months per draw of the weights.
    """
    sizes = block_sizes(model, num_samples)
    n_particles = min(num_samples, max(_LEAST_PARTICLES, 4 * max(sizes)))
    draws = []
    for (fixed, key), size in zip(fixed_models(model, len(sizes), seed), sizes, strict=True):
        cross = stream_cross_section(fixed, panel, batch)
        states = filter_states(fixed, batch, n_particles, key, cross)
        draws.append(FilteredDraw(fixed, states.first(size), key, n_particles))
    return tuple(draws)


_LEAST_PARTICLES = 250
"""Particles per draw of the weights: evidence averages over the draws, and so does its error."""


@torch.no_grad()
def filter_states(
    model: RVRAE, batch: Batch, num_samples: int, seed: int, cross: CrossSection | None = None
) -> FilteredStates:
    """Filter a batch at given weights: exactly where a closed form exists, else with particles.

    The model has the batch's floating type; ``num_samples`` is also the number of particles;
    ``cross`` defaults to that of ``batch``. States of month t depend on returns up to t
    (``smoothed`` aside), bit-equal for any continuation of the panel.
    """
    check_count("num_samples", num_samples)
    if cross is None:
        cross = model.parts.online_cross_section(batch)
    if exact.is_exact(model):
        return _filter_exactly(model, batch, num_samples, seed, cross)
    cloud = smc_filter(model, batch, num_samples, seed, cross=cross)
    return FilteredStates(
        cloud.predicted,
        cloud.filtered,
        cloud.smoothed,
        cloud.expected,
        cloud.expected_covariance,
        cloud.predicted_codes,
        cloud.predicted_level,
        cloud.predicted_log_prior,
        cross,
        cloud.log_evidence,
        cloud.ess,
        cloud.readings,
    )


@torch.no_grad()
def evidence_by_weights(
    model: RVRAE, panel: xr.Dataset, num_draws: int, num_samples: int, seed: int
) -> Tensor:
    """Log evidence (n_draws, n_times) of every month under each of ``num_draws`` weights.

    Parameters as for :func:`filter_panel`; ``num_samples`` are the particles of each filter,
    which an exact model does without. One row where weights have no posterior.
    """
    check_count("by_weights", num_draws)
    batch, rows = light_batch(model, panel), []
    precise = in_double(model)
    fixed = in_double(model)
    for weights, key in drawn_weights(precise, num_draws, seed):
        fixed.set_values(weights)
        cross = stream_cross_section(fixed, panel, batch)
        if exact.is_exact(fixed):
            rows.append(exact.filtered(fixed, batch, cross).log_evidence)
        else:
            rows.append(smc_filter(fixed, batch, num_samples, key, cross=cross).log_evidence)
    return torch.stack(rows)


def _filter_exactly(
    model: RVRAE, batch: Batch, num_samples: int, seed: int, cross: CrossSection
) -> FilteredStates:
    moments = exact.filtered(model, batch, cross)
    smoothed = exact.smoother(model, batch, cross)
    walk = model.parts.prepare(batch, cross).view.walk
    level = None if walk is None else walk.level
    predicted = _draw(
        moments.predicted_mean, moments.predicted_covariance, batch, num_samples, seed
    )
    return FilteredStates(
        predicted,
        _draw(moments.mean, moments.covariance, batch, num_samples, seed),
        _draw(smoothed.mean, smoothed.covariance, batch, num_samples, seed),
        moments.predicted_mean,
        moments.predicted_covariance,
        predicted,
        None if level is None else level.unsqueeze(-1).expand(-1, num_samples),
        torch.distributions.MultivariateNormal(
            moments.predicted_mean.unsqueeze(1),
            moments.predicted_covariance.unsqueeze(1),
            validate_args=False,
        ).log_prob(predicted),
        cross,
        moments.log_evidence,
        moments.log_evidence.new_full((batch.n_times,), float(num_samples)),
    )


def _draw(mean: Tensor, covariance: Tensor, batch: Batch, num_samples: int, seed: int) -> Tensor:
    draws = []
    for t in range(batch.n_times):
        with month_random(seed, batch.times[t], "filter"):
            noise = torch.randn(num_samples, mean.shape[-1], dtype=mean.dtype, device=mean.device)
        draws.append(mean[t] + noise @ torch.linalg.cholesky(covariance[t]).mT)
    return torch.stack(draws)


_LOADINGS_DRAWS = 20


@torch.no_grad()
def mean_loadings(model: RVRAE, batch: Batch) -> torch.Tensor:
    """Return loadings (n_times, n_assets, n_factors), the mean over any draws of the weights."""
    sizes = block_sizes(model, _LOADINGS_DRAWS)
    models = [fixed for fixed, _ in fixed_models(model, len(sizes), 0)]
    each = [fixed.loadings.online(batch)[0] for fixed in models]
    return torch.stack(each).mean(0) * model.return_scale.double()


@dataclass(frozen=True)
class _StoredCrossSection(CrossSection):
    """Cross-section in temporary files, whose pages can be released from memory."""

    scratch: Scratch = field(kw_only=True)

    def release(self) -> None:
        self.scratch.release()


@torch.no_grad()
def stream_cross_section(model: RVRAE, panel: xr.Dataset, light: Batch) -> CrossSection:
    """Compute what ``Parts.online_cross_section`` does, to the bit, one month after another.

    Memory holds neither a copy of the panel (``light`` is without its characteristics) nor the
    networks' states of every month. Of a panel on disk, loadings and scales go to temporary files,
    with ``FitError`` on an I/O error.
    """
    months = _months_of(model, panel, light)
    has_alpha = model.likelihood.alpha is not None
    if not is_lazy(panel) or light.returns.device.type != "cpu":
        betas, alphas, scales = zip(*months, strict=True)
        alpha = torch.cat(alphas) if has_alpha else None
        return model.parts.online_potentials(light, torch.cat(betas), alpha, torch.cat(scales))
    return _stored(model, months, light, has_alpha)


def _stored(model: RVRAE, months: Iterator[_Month], light: Batch, has_alpha: bool) -> CrossSection:
    """Join months in temporary files."""
    scratch = Scratch(Path(gettempdir()))
    with ExitStack() as stack:
        betas, alphas, scales = (stack.enter_context(scratch.pile()) for _ in range(3))
        for beta, alpha, scale in months:
            betas.add(beta)
            scales.add(scale)
            if alpha is not None:
                alphas.add(alpha)
        alpha = alphas.joined() if has_alpha else None
        found = model.parts.online_potentials(light, betas.joined(), alpha, scales.joined())
        scratch.release()
        return _StoredCrossSection(**vars(found), scratch=scratch)


_Month: TypeAlias = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]
"""Loadings, mispricing and scales of a month."""


def _months_of(model: RVRAE, panel: xr.Dataset, light: Batch) -> Iterator[_Month]:
    """Read a panel a few months at a time and compute each month's loadings on their own."""
    parts, like = model.parts, light.returns
    values = panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)
    state: State = ()
    step = max(1, _CELLS // max(1, values[0].size))
    for before, block in row_blocks(values):
        for first in range(0, len(block), step):
            cells = torch.as_tensor(np.nan_to_num(block[first : first + step], nan=0.0)).to(like)
            start, stop = before + first, before + first + len(cells)
            months = dataclasses.replace(
                light.window(start, stop, every_asset=True),
                characteristics=cells * light.listed[start:stop, :, None],
                carry={"loadings": state},
            )
            beta, states = parts.loadings.online(months, (months.n_times,))
            state = states[months.n_times]
            for t in range(months.n_times):
                month = months.window(t, t + 1, every_asset=True)
                yield parts.loadings_and_scales(month, beta[t : t + 1])
        del block  # or it would stay while the next is read


_CELLS = 2**20
"""Characteristics that are made into tensors at once."""
