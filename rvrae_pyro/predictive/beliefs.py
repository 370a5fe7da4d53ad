"""Draws of the factors given what is known at a date."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.data.blocks import is_lazy, row_blocks
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.inference.shards import Scratch
from rvrae_pyro.inference.smc import month_random, smc_filter
from rvrae_pyro.models import exact
from rvrae_pyro.models.parts import CrossSection
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHARACTERISTIC, CHARACTERISTICS, TIME
from rvrae_pyro.nn.gaussian import Potential

__all__ = ["Beliefs", "Kind", "believe", "in_double", "stream_cross_section"]

Kind = Literal["filtered", "smoothed", "predicted"]


@dataclass(frozen=True)
class Beliefs:
    """Equally weighted draws of every month's factors; draws are marginals of their month.

    Attributes
    ----------
    predicted : Tensor of shape (n_times, num_samples, n_factors)
        Given returns up to the month before.
    filtered : Tensor of shape (n_times, num_samples, n_factors)
        Given returns up to the month.
    smoothed : Tensor of shape (n_times, num_samples, n_factors)
        Given all months where the model is exact, else those up to six months later.
    predicted_codes : Tensor of shape (n_times, num_samples, n_factors)
        Latent codes of ``predicted``; the factors themselves unless a decoder stands between.
    level : Tensor of shape (n_times, num_samples) or None
        Log multiplier of the idiosyncratic scales, one for every ``predicted`` draw.
    predicted_log_prior : Tensor of shape (n_times, num_samples)
        Log density of ``predicted_codes`` under the factor prior that the months before imply:
        each draw's own past with particles, all pasts together where the model is exact.
    cross : CrossSection
        Loadings and scales of every month.
    log_evidence : Tensor of shape (n_times,)
        log p(r_t | r_1..t-1) in nats, exact or estimated.
    readings : dict of str to Tensor of shape (n_times, num_samples, size)
        What the prior's state says by name, given returns up to the month; see
        ``FactorPrior.reading``.
    """

    predicted: Tensor
    filtered: Tensor
    smoothed: Tensor
    predicted_codes: Tensor
    level: Tensor | None
    predicted_log_prior: Tensor
    cross: CrossSection
    log_evidence: Tensor
    readings: dict[str, Tensor] = field(default_factory=dict)

    def of(self, kind: Kind) -> Tensor:
        """Draws by name."""
        if kind not in ("filtered", "smoothed", "predicted"):
            raise ConfigError(
                f"`kind` must be 'filtered', 'smoothed' or 'predicted'; got {kind!r}."
            )
        draws: Tensor = getattr(self, kind)
        return draws


def in_double(model: RVRAE) -> RVRAE:
    """Copy a model in double precision: prediction is cheap, and rounding must not steer it."""
    return copy.deepcopy(model).double().eval()


@torch.no_grad()
def believe(
    model: RVRAE, batch: Batch, num_samples: int, seed: int, cross: CrossSection | None = None
) -> Beliefs:
    """Filter a batch: exactly where a closed form exists, else with particles.

    Parameters
    ----------
    model : RVRAE
        In the batch's floating type.
    batch : Batch
    num_samples : int
        Draws a month; also the number of particles.
    seed : int
    cross : CrossSection, optional
        Loadings and scales, month by month, if they are known already.

    Returns
    -------
    Beliefs
        Month t's depend on returns up to t (``smoothed`` aside), bit-equal whatever comes later.
    """
    check_count("num_samples", num_samples)
    if cross is None:
        cross = model.parts.online_cross_section(batch)
    if exact.is_exact(model):
        return _exactly(model, batch, num_samples, seed, cross)
    cloud = smc_filter(model, batch, num_samples, seed, cross=cross)
    return Beliefs(
        cloud.predicted,
        cloud.filtered,
        cloud.smoothed,
        cloud.predicted_codes,
        cloud.predicted_level,
        cloud.predicted_log_prior,
        cross,
        cloud.log_evidence,
        cloud.readings,
    )


@dataclass(frozen=True)
class _StoredCrossSection(CrossSection):
    """A cross-section in nameless files, of which what was read can be let go of."""

    scratch: Scratch

    def release(self) -> None:
        """Give the pages that were read back to the system."""
        self.scratch.release()


@torch.no_grad()
def stream_cross_section(model: RVRAE, panel: xr.Dataset, light: Batch) -> CrossSection:
    """Compute what ``Parts.online_cross_section`` does, to the bit, one month after another.

    A month's characteristics are turned into tensors when it is its turn, so that memory holds
    neither a copy of the panel nor the networks' states of every month. Of a panel on disk,
    loadings and scales go to nameless files where the system keeps temporary ones.

    Parameters
    ----------
    model : RVRAE
        In the batch's floating type.
    panel : Dataset
    light : Batch
        The panel without its characteristics, as ``to_light_batch`` makes it.

    Raises
    ------
    FitError
        If the disk refuses.
    """
    months = _months_of(model, panel, light)
    if not is_lazy(panel) or light.returns.device.type != "cpu":
        return CrossSection.joined(list(months))
    return _stored(months, model.likelihood.alpha is not None)


def _stored(months: Iterator[CrossSection], has_alpha: bool) -> CrossSection:
    """Put months together in nameless files."""
    scratch = Scratch(Path(gettempdir()))
    with ExitStack() as stack:
        betas, alphas, scales = (stack.enter_context(scratch.pile()) for _ in range(3))
        potentials = []
        for month in months:
            betas.add(month.beta)
            scales.add(month.scale)
            if month.alpha is not None:
                alphas.add(month.alpha)
            potentials.append(month.potential)
        return _StoredCrossSection(
            betas.joined(),
            alphas.joined() if has_alpha else None,
            scales.joined(),
            Potential(*(torch.cat(field) for field in zip(*potentials, strict=True))),
            scratch,
        )


def _months_of(model: RVRAE, panel: xr.Dataset, light: Batch) -> Iterator[CrossSection]:
    """Read a panel a few months at a time and compute each month's cross-section on its own."""
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
                yield parts.cross_section(month, beta[t : t + 1])
        del block  # or it would stay while the next is read


_CELLS = 2**20
"""Characteristics that are made into tensors at once."""


def _exactly(
    model: RVRAE, batch: Batch, num_samples: int, seed: int, cross: CrossSection
) -> Beliefs:
    moments = exact.filtered(model, batch, cross)
    smoothed = exact.smoother(model, batch, cross)
    walk = model.parts.prepare(batch, cross).view.walk
    level = None if walk is None or walk.level is None else walk.level
    predicted = _draw(
        moments.predicted_mean, moments.predicted_covariance, batch, num_samples, seed
    )
    return Beliefs(
        predicted,
        _draw(moments.mean, moments.covariance, batch, num_samples, seed),
        _draw(smoothed.mean, smoothed.covariance, batch, num_samples, seed),
        predicted,
        None if level is None else level.unsqueeze(-1).expand(-1, num_samples),
        torch.distributions.MultivariateNormal(
            moments.predicted_mean.unsqueeze(1),
            moments.predicted_covariance.unsqueeze(1),
            validate_args=False,
        ).log_prob(predicted),
        cross,
        moments.log_evidence,
    )


def _draw(mean: Tensor, covariance: Tensor, batch: Batch, num_samples: int, seed: int) -> Tensor:
    draws = []
    for t in range(batch.n_times):
        with month_random(seed, batch.times[t], "filter"):
            noise = torch.randn(num_samples, mean.shape[-1], dtype=mean.dtype, device=mean.device)
        draws.append(mean[t] + noise @ torch.linalg.cholesky(covariance[t]).mT)
    return torch.stack(draws)
