"""Listed cells of an unbalanced panel as rows, asset by asset aligned at its first month."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Order in which listed cells become rows: position by position, the longest asset first.

    Position p holds the p-th listed month of every asset that has one. Months in which an asset
    is not listed take no row: its state waits until it is back.

    Attributes
    ----------
    cells : int64 Tensor of shape (n_rows,)
        Flat positions ``time * n_assets + asset`` of the rows.
    counts : tuple of int
        Rows of every position, never rising.
    assets : int64 Tensor of shape (counts[0],)
        Positions of the assets that are ever listed, the longest first: row i of every position
        is of asset ``assets[i]``.
    """

    cells: Tensor
    counts: tuple[int, ...]
    assets: Tensor


def pack(listed: Tensor) -> Packing:
    """Order the listed cells of a panel.

    Parameters
    ----------
    listed : bool Tensor of shape (n_times, n_assets)

    Returns
    -------
    Packing
        Of a panel without gaps the plain order of its cells. Costs O(n_times n_assets).
    """
    n_assets = listed.shape[1]
    order = torch.argsort(listed.sum(0), descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n_assets, device=listed.device)
    cells = listed.reshape(-1).nonzero().squeeze(-1)
    position = (listed.cumsum(0) - 1).reshape(-1)[cells]
    counts = torch.bincount(position)
    row = (counts.cumsum(0) - counts)[position] + rank[cells % n_assets]
    n_alive = int(counts[0]) if counts.numel() else 0
    packed = torch.empty_like(cells)
    packed[row] = cells
    return Packing(packed, tuple(counts.tolist()), order[:n_alive])
