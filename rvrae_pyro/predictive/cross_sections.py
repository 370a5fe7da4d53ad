"""Loadings and scales of every month, computed from a panel one month after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import TypeAlias

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.data.chunks import is_lazy, row_blocks
from rvrae_pyro.inference.sharded.shards import Scratch
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHARACTERISTIC, CHARACTERISTICS, TIME
from rvrae_pyro.predictive.weight_draws import block_sizes, fixed_models

__all__ = ["mean_loadings", "stream_cross_section"]

_LOADINGS_DRAWS = 20


@torch.no_grad()
def mean_loadings(model: RVRAE, batch: Batch) -> torch.Tensor:
    """Return loadings (n_times, n_assets, n_factors), the mean over draws of the weights, if any.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
        In double precision, with characteristics.
    """
    sizes = block_sizes(model, _LOADINGS_DRAWS)
    models = [fixed for fixed, _ in fixed_models(model, len(sizes), 0)]
    each = [fixed.loadings.online(batch)[0] for fixed in models]
    return torch.stack(each).mean(0) * model.return_scale.double()


@dataclass(frozen=True)
class _StoredCrossSection(CrossSection):
    """Cross-section in temporary files; blocks that were read can be released from memory."""

    scratch: Scratch = field(kw_only=True)

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
        On an I/O error.
    """
    months = _months_of(model, panel, light)
    has_alpha = model.likelihood.alpha is not None
    if not is_lazy(panel) or light.returns.device.type != "cpu":
        betas, alphas, scales = zip(*months, strict=True)
        alpha = torch.cat(alphas) if has_alpha else None
        return model.parts.online_potentials(light, torch.cat(betas), alpha, torch.cat(scales))
    return _stored(model, months, light, has_alpha)


def _stored(model: RVRAE, months: Iterator[_Month], light: Batch, has_alpha: bool) -> CrossSection:
    """Put months together in nameless files."""
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
