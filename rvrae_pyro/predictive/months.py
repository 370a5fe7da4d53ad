"""Months, blocks of months and coordinates of draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch, to_batch
from rvrae_pyro.data.timeline import pick_rows
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, TIME
from rvrae_pyro.nn.digest import digest_of

_CELLS_A_BLOCK = 20_000_000


def pick_months(batch: Batch, times: object | None) -> list[int]:
    """Positions of months given by dates (of any kind; "2010" is a whole year), in time order.

    Raises
    ------
    ConfigError
        If a month is not in the panel.
    """
    return [int(t) for t in pick_rows(batch.times, times)]


def by_label(batch: Batch, assets: torch.Tensor) -> torch.Tensor:
    """Put positions of assets in the order of their labels: draws then follow the asset."""
    order = np.argsort(batch.assets[assets.cpu().numpy()], kind="stable")
    return assets[torch.as_tensor(order, device=assets.device)]


def factor_coord(n_factors: int) -> np.ndarray:
    """Labels of the factors: 1 to n_factors."""
    return np.arange(1, n_factors + 1)


def label_cells(values: torch.Tensor, batch: Batch, name: str, long_name: str) -> xr.DataArray:
    """Label (n_times, n_assets) numbers; NaN where not listed."""
    values = values.masked_fill(~batch.listed, torch.nan)
    return xr.DataArray(
        values.detach().cpu().numpy(),
        coords={TIME: batch.times, ASSET: batch.assets},
        dims=(TIME, ASSET),
        name=name,
        attrs={"long_name": long_name, "units": "1"},
    )


def load(model: RVRAE, panel: xr.Dataset) -> Batch:
    """Panel in double precision on the model's device."""
    batch = to_batch(panel, device=model.return_scale.device, dtype=torch.float64)
    model.loadings.check(batch)
    return batch


def sample_coords(num_samples: int) -> dict[str, np.ndarray]:
    """One chain of independent draws."""
    return {CHAIN: np.arange(1), DRAW: np.arange(num_samples)}


def drawn_from(
    kind: str,
    weights: Sequence[Mapping[str, Tensor]],
    batch: Batch,
    months: Sequence[int],
    num_samples: int,
) -> dict[str, object]:
    """Describe, as JSON types, what determines draws in addition to panel and seed."""
    return {
        "kind": kind,
        "months": np.datetime_as_string(batch.times[list(months)], "D").tolist(),
        "num_samples": int(num_samples),
        "weights": [digest_of(each) for each in weights],
    }


def chunks(months: Sequence[int], cells_a_month: int, done: int) -> Iterator[Sequence[int]]:
    """Months in blocks of bounded size, all but the first ``done`` blocks."""
    size = max(1, _CELLS_A_BLOCK // max(1, cells_a_month))
    for first in range(done * size, len(months), size):
        yield months[first : first + size]
