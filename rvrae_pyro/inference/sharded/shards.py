"""Shards of assets, cut from a panel in memory or on disk."""

from __future__ import annotations

import dataclasses
import mmap
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.atomic import room_in
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.data.chunks import row_blocks
from rvrae_pyro.names import ASSET, CHARACTERISTIC, CHARACTERISTICS, TIME


class Shards(Protocol):
    """The assets that one process looks after, in pieces that fit into memory one at a time.

    Attributes
    ----------
    n_shards : int
    sizes : sequence of int
        Assets of each shard.
    months : Batch
        All months without any asset: times, context, names.
    """

    n_shards: int
    sizes: list[int]
    months: Batch

    def window(self, shard: int, start: int, stop: int) -> Batch:
        """Months ``start`` to ``stop`` of one shard, with every asset of it."""
        ...

    def n_observed(self, start: int, stop: int | None) -> int:
        """Observed returns in months ``start`` to ``stop`` of all shards."""
        ...

    def put(self, value: Tensor) -> Tensor:
        """Keep a tensor that grows with the assets where the shards are kept."""
        ...

    def release(self) -> None:
        """Let go of the memory behind such tensors; they can be read again."""
        ...


class Scratch:
    """Tensors in temporary files, paged in as they are read and released on demand.

    Nothing is left behind, however the process ends.

    Parameters
    ----------
    folder : Path
        Of a file system with room for them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    def put(self, value: Tensor) -> Tensor:
        """Write a tensor and return it as one that takes no memory until it is read.

        Raises
        ------
        FitError
            On an I/O error.
        """
        if not value.numel() or not value.is_contiguous() or value.device.type != "cpu":
            return value  # empty, an expanded number, or not in this memory
        with self.pile() as pile:
            pile.add(value.unsqueeze(0))
            return pile.joined().squeeze(0)

    @contextmanager
    def pile(self) -> Iterator[Pile]:
        """Open a file for tensors that come one after another.

        Raises
        ------
        FitError
            On an I/O error, then or later.
        """
        with room_in(self.folder):
            file = TemporaryFile(dir=self.folder)  # noqa: SIM115 closed below, where it may fail
        try:
            yield Pile(file, self.folder, self._maps)
        finally:
            with room_in(self.folder):
                file.close()  # which writes what still waits

    def release(self) -> None:
        """Give the pages that were read back to the system, which may read them again."""
        for pages in self._maps:
            if hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)


class Pile:
    """Tensors written one after another, to be read as one; see :meth:`Scratch.pile`."""

    def __init__(self, file: IO[bytes], folder: Path, maps: weakref.WeakSet[mmap.mmap]) -> None:
        self._file, self._folder, self._maps = file, folder, maps
        self._rows = 0
        self._like: Tensor | None = None

    def add(self, piece: Tensor) -> None:
        """Write a tensor; all but the first dimension agree in all that are added."""
        array = piece.detach().cpu().contiguous().numpy()
        with room_in(self._folder):
            self._file.write(array.data)
        self._rows += len(array)
        self._like = piece[:0]

    def joined(self) -> Tensor:
        """Return all that was added along the first dimension; it takes no memory until read.

        What came from another device goes back there, whole.
        """
        assert self._like is not None, "nothing was added"
        like = self._like.cpu().numpy()
        shape = (self._rows, *like.shape[1:])
        with room_in(self._folder):
            self._file.flush()
            pages = mmap.mmap(self._file.fileno(), 0)
        self._maps.add(pages)
        values = torch.from_numpy(np.frombuffer(pages, like.dtype).reshape(shape))
        return values.to(self._like.device)


class CutPanel:
    """Shards of a panel in memory.

    Parameters
    ----------
    batch : Batch
    size : int, optional
        Assets a shard. Default: all.
    rank, n_processes : int
        This process looks after every ``n_processes``-th asset, from the ``rank``-th on.
    """

    def __init__(
        self, batch: Batch, size: int | None = None, rank: int = 0, n_processes: int = 1
    ) -> None:
        self.months = without_assets(batch)
        if n_processes > 1:
            mine = torch.arange(rank, batch.n_assets, n_processes, device=batch.returns.device)
            batch = batch.select(mine)
        size = max(1, batch.n_assets) if size is None else size
        places = torch.arange(batch.n_assets).split(size) if batch.n_assets else ()
        self.shards = [batch.select(place.to(batch.returns.device)) for place in places]
        self.n_shards, self.sizes = len(self.shards), [s.n_assets for s in self.shards]

    def window(self, shard: int, start: int, stop: int) -> Batch:
        """Months ``start`` to ``stop`` of one shard, with every asset of it."""
        return self.shards[shard].window(start, stop, every_asset=True)

    def n_observed(self, start: int, stop: int | None) -> int:
        """Observed returns in months ``start`` to ``stop`` of all shards."""
        return sum(int(shard.observed[start:stop].sum()) for shard in self.shards)

    def put(self, value: Tensor) -> Tensor:
        """Return the tensor: what belongs to a panel in memory fits there too."""
        return value

    def release(self) -> None:
        """Do nothing."""


class SpilledPanel:
    """Shards of a panel that does not fit into memory.

    Its characteristics are read once and written to a file a shard, month after month, so that
    any months of a shard are one stretch of its file.

    Parameters
    ----------
    panel : Dataset
        Its characteristics may be lazy.
    light : Batch
        The same panel without characteristics, as ``to_light_batch`` makes it.
    folder : path
        Where the files go: n_times x n_assets x n_characteristics numbers.
    size, rank, n_processes
        As for :class:`CutPanel`.

    Raises
    ------
    FitError
        On an I/O error.
    """

    def __init__(
        self,
        panel: xr.Dataset,
        light: Batch,
        folder: Path,
        size: int = 1024,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.months = without_assets(light)
        self._scratch = Scratch(folder)
        places = np.arange(rank, light.n_assets, n_processes)
        self._places = [places[a : a + size] for a in range(0, len(places), size)]
        self._seen = np.zeros(light.n_times, int)
        self._light = [self._put_light(light, torch.as_tensor(place)) for place in self._places]
        self.n_shards, self.sizes = len(self._places), [len(place) for place in self._places]
        self._files = [folder / f"shard_{i}.bin" for i in range(self.n_shards)]
        self._type = np.dtype(torch.empty(0, dtype=light.returns.dtype).numpy().dtype)
        with room_in(folder):
            self._spill(panel)

    def _put_light(self, light: Batch, place: Tensor) -> Batch:
        """Write returns and marks of a shard to files too, and count the observed ones."""
        light = dataclasses.replace(light, characteristics=light.characteristics[..., :0])
        shard = light.select(place.to(light.returns.device))
        self._seen += shard.observed.sum(1).cpu().numpy()
        returns, observed, listed = map(self.put, (shard.returns, shard.observed, shard.listed))
        return dataclasses.replace(shard, returns=returns, observed=observed, listed=listed)

    def _spill(self, panel: xr.Dataset) -> None:
        values = panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in self._files]
            for _, block in row_blocks(values):
                for file, place in zip(files, self._places, strict=True):
                    piece = np.nan_to_num(block[:, place], nan=0.0).astype(self._type, copy=False)
                    file.write(np.ascontiguousarray(piece).data)
                del block

    def window(self, shard: int, start: int, stop: int) -> Batch:
        """Months ``start`` to ``stop`` of one shard, with every asset of it."""
        light = self._light[shard].window(start, stop, every_asset=True)
        shape = (stop - start, self.sizes[shard], self.months.n_characteristics)
        row = shape[1] * shape[2]
        values = np.fromfile(
            self._files[shard], self._type, shape[0] * row, offset=start * row * self._type.itemsize
        )
        cells = torch.from_numpy(values.reshape(shape)).to(light.returns.device)
        return dataclasses.replace(light, characteristics=cells)

    def n_observed(self, start: int, stop: int | None) -> int:
        """Observed returns in months ``start`` to ``stop`` of all shards."""
        return int(self._seen[start:stop].sum())

    def put(self, value: Tensor) -> Tensor:
        """Keep a tensor that grows with the assets in a file next to the shards."""
        return self._scratch.put(value)

    def release(self) -> None:
        """Release the memory behind such tensors."""
        self._scratch.release()


def without_assets(batch: Batch) -> Batch:
    """Months of a batch with none of its assets.

    Not as an empty view, which would keep all of them in memory.
    """

    def none(values: Tensor) -> Tensor:
        return values.new_empty((len(values), 0, *values.shape[2:]))

    return dataclasses.replace(
        batch,
        returns=none(batch.returns),
        observed=none(batch.observed),
        listed=none(batch.listed),
        characteristics=none(batch.characteristics),
        assets=np.array([], dtype=str),
        carry=None,
    )
