"""The panel as tensors: filled, masked and labelled, ready for a model and its guide."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.validation import CellScan, validate_panel
from rvrae_pyro.errors import ConfigError, PanelError, ShapeError
from rvrae_pyro.names import ASSET, CHARACTERISTIC, CHARACTERISTICS, CONTEXT, FEATURE, RETURNS, TIME


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


State = tuple[Tensor, ...]
"""Recurrent state of one part; each part defines its layout."""

Carry = Mapping[str, State]
"""States of the stateful parts at the end of the month before a window starts."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors of a panel, or of a window of its months.

    Attributes
    ----------
    returns : Tensor of shape (n_times, n_assets)
        Simple excess returns, decimal; 0 where not observed.
    observed : bool Tensor of shape (n_times, n_assets)
        True where a return may enter the likelihood: seen, and of a listed asset.
    listed : bool Tensor of shape (n_times, n_assets)
        True where the asset has characteristics; known at the end of the month before.
    characteristics : Tensor of shape (n_times, n_assets, n_characteristics)
        Known at the end of the month before; 0 where not listed.
    context : Tensor of shape (n_times, n_features) or None
        Month-level state known at the end of the month before.
    times, assets, names : ndarray
        Labels of the months, assets and characteristics.
    features : tuple of str
        Labels of the context's features.
    carry : mapping or None
        States of the parts just before the first month; None starts them afresh.
    replicate : bool
        True leaves the ``returns`` site unobserved, while guide and observed recurrence still
        know the returns (posterior predictive replicates).
    first : int
        Position of the first month in the batch that this one is a window of.
    """

    returns: Tensor
    observed: Tensor
    listed: Tensor
    characteristics: Tensor
    context: Tensor | None
    times: np.ndarray
    assets: np.ndarray
    names: np.ndarray
    features: tuple[str, ...] = ()
    carry: Carry | None = None
    replicate: bool = False
    first: int = 0

    @cached_property
    def packing(self) -> Packing:
        """Order in which listed cells become rows."""
        return pack(self.listed)

    @cached_property
    def row_characteristics(self) -> Tensor:
        """Characteristics of the listed cells in packed order (n_rows, n_characteristics)."""
        # a copy also where all are listed: products round by where in memory a row begins
        return self.characteristics.reshape(-1, self.n_characteristics).index_select(
            0, self.packing.cells
        )

    def spread(self, values: Tensor) -> Tensor:
        """Put values of rows (n_rows, size) back to their cells (n_times, n_assets, size), else 0.

        The assets of a month lie side by side in memory, so that sums over them are fast.
        """
        cells = values.new_zeros(values.shape[-1], self.listed.numel())
        spread = cells.index_copy(1, self.packing.cells, values.mT)
        return spread.reshape(-1, *self.listed.shape).permute(1, 2, 0)

    @property
    def n_times(self) -> int:
        """Number of months."""
        return int(self.returns.shape[0])

    @property
    def n_assets(self) -> int:
        """Number of assets, listed or not."""
        return int(self.returns.shape[1])

    @property
    def n_characteristics(self) -> int:
        """Number of characteristics."""
        return int(self.characteristics.shape[2])

    @property
    def lengths(self) -> Tensor:
        """Number of listed months of each asset, of shape (n_assets,)."""
        return self.listed.sum(0)

    def state(self, part: str) -> State | None:
        """State that a part carries into the first month; None where it starts afresh."""
        return None if self.carry is None else self.carry.get(part)

    def without_returns(self) -> Batch:
        """Leave the ``returns`` site unobserved and keep what guide and recurrence know."""
        return dataclasses.replace(self, replicate=True)

    def window(
        self, start: int, stop: int, carry: Carry | None = None, *, every_asset: bool = False
    ) -> Batch:
        """Months ``start`` to ``stop`` (exclusive), with the assets listed in one of them.

        Parameters
        ----------
        start, stop : int
            Positions of the first month and of the one after the last.
        carry : mapping, optional
            States at the end of month ``start - 1``, with loadings states for every asset of
            this batch; those of the assets kept are picked out.
        every_asset : bool
            True keeps assets that are not listed in the window too.

        Returns
        -------
        Batch
            The window; views where no asset had to be dropped.
        """
        if not 0 <= start < stop <= self.n_times:
            raise ShapeError(
                f"`start`, `stop` must satisfy 0 <= start < stop <= {self.n_times}; "
                f"got {start}, {stop}."
            )
        months = slice(start, stop)
        keep = self.listed[months].any(0)
        context = None if self.context is None else self.context[months]
        window = dataclasses.replace(
            self,
            returns=self.returns[months],
            observed=self.observed[months],
            listed=self.listed[months],
            characteristics=self.characteristics[months],
            context=context,
            times=self.times[months],
            carry=carry,
            first=self.first + start,
        )
        return window if every_asset or bool(keep.all()) else window.select(keep)

    def select(self, keep: Tensor) -> Batch:
        """Keep some assets: a bool mask or positions along the asset axis."""
        index = keep.nonzero().squeeze(-1) if keep.dtype == torch.bool else keep
        carry = self.carry
        if carry is not None and "loadings" in carry:
            picked = tuple(state.index_select(0, index) for state in carry["loadings"])
            carry = {**carry, "loadings": picked}
        return dataclasses.replace(
            self,
            returns=self.returns.index_select(1, index),
            observed=self.observed.index_select(1, index),
            listed=self.listed.index_select(1, index),
            characteristics=self.characteristics.index_select(1, index),
            assets=self.assets[index.cpu().numpy()],
            carry=carry,
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Batch:
        """Move the tensors to a device and floating type."""

        def move(value: Tensor) -> Tensor:
            floating = value.is_floating_point()
            return value.to(device=device, dtype=dtype if floating else None)

        carry = self.carry
        if carry is not None:
            carry = {part: tuple(move(s) for s in states) for part, states in carry.items()}
        return dataclasses.replace(
            self,
            returns=move(self.returns),
            observed=move(self.observed),
            listed=move(self.listed),
            characteristics=move(self.characteristics),
            context=None if self.context is None else move(self.context),
            carry=carry,
        )


def check_batch(batch: object) -> None:
    """Raise where something else came than a batch.

    Raises
    ------
    ConfigError
        Naming what came; a Dataset gets the call that makes a batch of it.
    """
    if not isinstance(batch, Batch):
        got = "a Dataset" if isinstance(batch, xr.Dataset) else f"{type(batch).__name__}"
        raise ConfigError(f"`batch` must be a Batch; got {got}. Pass rv.data.to_batch(panel).")


def to_batch(
    panel: xr.Dataset, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Batch:
    """Turn a panel into filled and masked tensors.

    Parameters
    ----------
    panel : xarray.Dataset
        A panel as :func:`rvrae_pyro.data.check_panel` accepts it, with no NaN inside a listed
        cell.
    device : torch.device or str, optional
        Where the tensors go. Default: the CPU.
    dtype : torch.dtype
        Floating type of the tensors.

    Returns
    -------
    Batch
        Tensors and labels. Costs one copy of the characteristics.

    Raises
    ------
    PanelError
        If the panel is not valid, or a listed cell still has NaN characteristics.
    ConfigError
        If there is no such device.
    """
    _check_device(device)
    is_listed = _whole_cells(panel, validate_panel(panel, returns_required=False))
    filled = _fill(panel.variables[CHARACTERISTICS].to_numpy(), is_listed, _numpy_type(dtype))
    return _assembled(panel, is_listed, torch.as_tensor(filled, device=device), device, dtype)


def to_light_batch(
    panel: xr.Dataset, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Batch:
    """Do as :func:`to_batch` and leave the characteristics where they are.

    Parameters and errors as there. Zeros that take no memory stand in for the characteristics;
    the panel's are scanned once, block by block, for listed cells and for gaps in them.
    """
    _check_device(device)
    is_listed = _whole_cells(panel, validate_panel(panel, returns_required=False))
    nothing = torch.zeros((), dtype=dtype, device=device).expand(
        panel.variables[CHARACTERISTICS].shape
    )
    return _assembled(panel, is_listed, nothing, device, dtype)


def _check_device(device: torch.device | str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"`device` must be one that torch can use here; got {str(device)!r} ({reason}). Use "
            "'cpu', or install a build of torch for that device."
        ) from error


def _assembled(
    panel: xr.Dataset,
    is_listed: np.ndarray,
    characteristics: Tensor,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> Batch:
    """Put the characteristics of listed cells together with the rest of a panel."""
    context: Tensor | None = None
    features: tuple[str, ...] = ()
    if CONTEXT in panel:
        context = torch.as_tensor(panel.variables[CONTEXT].to_numpy(), dtype=dtype, device=device)
        features = tuple(str(name) for name in panel.variables[FEATURE].to_numpy())
        if not bool(torch.isfinite(context).all()):
            raise PanelError(
                "`context` must be finite in every month; got NaN or infinite values. "
                "Drop the months that lack it, or fill them from earlier months."
            )
    returns = panel.variables[RETURNS].to_numpy()
    observed = is_listed & ~np.isnan(returns)
    filled = np.where(observed, returns, 0.0).astype(_numpy_type(dtype), copy=False)
    return Batch(
        returns=torch.as_tensor(filled, device=device),
        observed=torch.as_tensor(observed, device=device),
        listed=torch.as_tensor(is_listed, device=device),
        characteristics=characteristics,
        context=context,
        times=panel.variables[TIME].to_numpy(),
        assets=panel.variables[ASSET].to_numpy().astype(str),
        names=panel.variables[CHARACTERISTIC].to_numpy().astype(str),
        features=features,
    )


def _fill(values: np.ndarray, is_listed: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Copy the listed cells, month by month, onto zeros."""
    filled = np.zeros(values.shape, dtype)
    for month, target, rows in zip(values, filled, is_listed, strict=True):
        cells = rows.nonzero()[0]
        target[cells] = month[cells]
    return filled


def _numpy_type(dtype: torch.dtype) -> np.dtype:
    return np.dtype(torch.empty(0, dtype=dtype).numpy().dtype)


def _whole_cells(panel: xr.Dataset, scan: CellScan) -> np.ndarray:
    """Mark listed cells; raise where one lacks a characteristic: fitting never fills."""
    if scan.n_missing:
        cells = ", ".join(
            f"({np.datetime_as_string(panel.variables[TIME].to_numpy()[t], 'D')}, "
            f"{panel.variables[ASSET].to_numpy()[i]})"
            for t, i in scan.holes
        )
        raise PanelError(
            f"`characteristics` must be complete inside listed cells; got {scan.n_missing} NaN, "
            f"first at {cells}. Use rv.data.rank_characteristics(panel), which ranks each month "
            "and puts 0, the median, in the gaps."
        )
    return scan.listed
