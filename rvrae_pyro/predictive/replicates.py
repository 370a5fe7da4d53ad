"""Replicates of seen months: posterior predictive draws given the months' own returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.path_draw import draw_path
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, OBS, RETURNS, TIME
from rvrae_pyro.predictive.months import chunks, drawn_from, factor_coord, load, pick_months
from rvrae_pyro.predictive.storage import Block, Drawing
from rvrae_pyro.predictive.tree import label_months
from rvrae_pyro.predictive.weight_draws import block_sizes, fixed_models, sample_labels


def posterior_predictive(
    model: RVRAE,
    panel: xr.Dataset,
    *,
    num_samples: int,
    seed: int,
    times: object | None,
    attrs: Mapping[str, str | int],
) -> Drawing:
    """Replicate seen months: factors from the guide, new returns for every observed cell.

    See :meth:`rvrae_pyro.fitting.fit.Fit.posterior_predictive`.
    """
    batch = load(model, panel)
    months = pick_months(batch, times)
    # the whole path is drawn, so that months are those of a full run
    if not bool(batch.observed[months].any()):
        raise ConfigError(
            "`times` must hold at least one observed return to replicate; got none. Use "
            "forecast(...) for months that have not been seen."
        )
    sizes = block_sizes(model, num_samples)
    models = fixed_models(model, len(sizes), seed)
    paths = [
        _draw_path(fixed, batch, size, key)
        for (fixed, key), size in zip(models, sizes, strict=True)
    ]
    weights = [model.parts.state_dict()]
    identity = drawn_from("replicates", weights, batch, months, num_samples)
    return Drawing(partial(_replicate_blocks, paths, batch, months), attrs, identity)


@dataclass(frozen=True)
class _Path:
    """Draws of the whole path given one draw of the weights, and their densities."""

    parts: Parts
    seed: int
    cross: CrossSection
    codes: Tensor  # (n_draws, n_times, n_factors), as factors
    factors: Tensor
    log_prior: dict[str, Tensor]  # by site (n_draws, n_times), as log_q
    log_q: Tensor
    level: Tensor | None
    auxiliary: dict[str, Tensor]  # the prior's auxiliary latent by site


@torch.no_grad()
def _draw_path(model: RVRAE, batch: Batch, size: int, seed: int) -> _Path:
    parts = model.parts
    shared = parts.prepare(batch, parts.online_cross_section(batch))
    weight = batch.returns.new_ones(batch.n_times)
    with month_random(seed, batch.times[0], "path"):
        draw = draw_path(
            parts.guide, batch, shared.view, shared.cross.potential, weight, particles=(size,)
        )
    latent, codes = draw.auxiliary, draw.codes
    log_prior = {FACTORS: draw.prior.log_prob(codes)}
    if latent is not None:
        log_prior[latent.site] = latent.prior.log_prob(latent.path)
    return _Path(
        parts,
        seed,
        shared.cross,
        codes,
        parts.decoder(codes, batch.state("decoder") or None),
        log_prior,
        draw.log_q(),
        draw.level,
        {} if latent is None else {latent.site: latent.path},
    )


@torch.no_grad()
def _replicate_blocks(
    paths: Sequence[_Path], batch: Batch, months: Sequence[int], done: int
) -> Iterator[Block]:
    num_samples = sum(path.codes.shape[0] for path in paths)
    for chosen in chunks(months, num_samples * batch.n_assets, done):
        cells = [batch.observed[t].nonzero().squeeze(-1) for t in chosen]
        drawn = [
            [_replicate(path, batch, t, seen) for path in paths]
            for t, seen in zip(chosen, cells, strict=True)
        ]
        rows = [
            (t, seen, torch.cat([r for r, _ in month]), torch.cat([d for _, d in month]))
            for t, seen, month in zip(chosen, cells, drawn, strict=True)
        ]
        yield _replicate_block(batch, rows, paths, chosen)


def _replicate(path: _Path, batch: Batch, t: int, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Draw new returns of a month; also the density of those observed."""
    level = None if path.level is None else path.level[..., t]
    likelihood = path.parts.likelihood.distribution(
        *path.cross.given(t, seen, path.factors[:, t], level)
    )
    with month_random(path.seed, batch.times[t], "replicates"):
        replicate = likelihood.sample()
    return replicate, likelihood.log_prob(batch.returns[t, seen])


def _replicate_block(
    batch: Batch,
    rows: Sequence[tuple[int, Tensor, Tensor, Tensor]],
    paths: Sequence[_Path],
    chosen: Sequence[int],
) -> Block:
    """Make the groups of a few replicated months, over observed cells only."""
    when = np.concatenate([np.full(len(seen), t) for t, seen, _, _ in rows])
    who = np.concatenate([seen.cpu().numpy() for _, seen, _, _ in rows])
    cells = {TIME: (OBS, batch.times[when]), ASSET: (OBS, batch.assets[who])}
    sizes = [path.codes.shape[0] for path in paths]
    sample = sample_labels(sizes)
    over_cells = (CHAIN, DRAW, OBS)

    def stacked(tensors: Sequence[Tensor]) -> np.ndarray:
        return torch.cat(list(tensors), -1).unsqueeze(0).float().cpu().numpy()

    factors, codes = (torch.cat([getattr(p, n) for p in paths]) for n in ("factors", "codes"))
    log_q = torch.cat([path.log_q for path in paths])
    log_prior = {
        site: torch.cat([path.log_prior[site] for path in paths])[..., list(chosen)]
        for site in paths[0].log_prior
    }
    months = {TIME: batch.times[list(chosen)]}
    factor = {FACTOR: factor_coord(factors.shape[-1])}
    posterior: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        FACTORS: ((CHAIN, DRAW, TIME, FACTOR), _months_last(factors, chosen))
    }
    if not all(path.factors is path.codes for path in paths):
        posterior["latents"] = ((CHAIN, DRAW, TIME, FACTOR), _months_last(codes, chosen))
    for site in paths[0].auxiliary:
        values = torch.cat([path.auxiliary[site] for path in paths])
        dims, labelled = label_months(site, _months_last(values, chosen))
        posterior[site] = ((CHAIN, DRAW, *dims), labelled)
    likelihoods = torch.stack([density.sum(-1) for *_, density in rows], -1)
    lp = (sum(log_prior.values()) + likelihoods).unsqueeze(0).cpu().numpy()
    observed = batch.returns[torch.as_tensor(when), torch.as_tensor(who)].cpu().numpy()
    return {
        "constant_data": _known(paths, batch, chosen),
        "posterior": xr.Dataset(posterior, coords={**sample, **months, **factor}),
        "posterior_predictive": xr.Dataset(
            {RETURNS: (over_cells, stacked([r for _, _, r, _ in rows]))}, coords={**sample, **cells}
        ),
        "log_likelihood": xr.Dataset(
            {RETURNS: (over_cells, stacked([d for *_, d in rows]))}, coords={**sample, **cells}
        ),
        # of each latent site, by month: what ArviZ's prior sensitivity scales
        "log_prior": xr.Dataset(
            {
                site: ((CHAIN, DRAW, TIME), density.unsqueeze(0).cpu().numpy())
                for site, density in log_prior.items()
            },
            coords={**sample, **months},
        ),
        "observed_data": xr.Dataset({RETURNS: (OBS, observed)}, coords=cells),
        "sample_stats": xr.Dataset(
            {
                "lp": ((CHAIN, DRAW, TIME), lp),
                "log_q": ((CHAIN, DRAW, TIME), log_q[..., list(chosen)].unsqueeze(0).cpu().numpy()),
            },
            coords={**sample, **months},
        ),
    }


def _known(paths: Sequence[_Path], batch: Batch, chosen: Sequence[int]) -> xr.Dataset:
    """Give loadings and idiosyncratic scales of all listed assets, means over the weights."""
    rows, listed = list(chosen), batch.listed[list(chosen)]
    beta = torch.stack([path.cross.beta[rows] for path in paths]).mean(0)
    variance = torch.stack([_idio_variance(path, rows) for path in paths]).mean(0)
    beta = beta.masked_fill(~listed.unsqueeze(-1), torch.nan)
    scale = variance.sqrt().masked_fill(~listed, torch.nan)
    return xr.Dataset(
        {
            "beta": ((TIME, ASSET, FACTOR), beta.cpu().numpy()),
            "idio_scale": ((TIME, ASSET), scale.cpu().numpy()),
        },
        coords={TIME: batch.times[rows], ASSET: batch.assets, FACTOR: factor_coord(beta.shape[-1])},
    )


def _idio_variance(path: _Path, rows: list[int]) -> Tensor:
    """Idiosyncratic variances of a few months, averaged over the draws of their level."""
    variance = path.parts.likelihood.deviation(path.cross.scale[rows]).square()
    if path.level is None:
        return variance
    # one level per month for all draws where the state is driven by filtered means
    level = path.level.reshape(-1, path.level.shape[-1])[:, rows]
    return variance * (2.0 * level).exp().mean(0).unsqueeze(-1)


def _months_last(values: Tensor, chosen: Sequence[int]) -> np.ndarray:
    return values[..., list(chosen), :].unsqueeze(0).cpu().numpy()
