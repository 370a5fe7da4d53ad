"""Rows of a weight matrix by asset label: what is particular to an asset."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from rvrae_pyro.errors import ConfigError

N_NEW = 16
"""Rows for assets without a label of their own. Two new assets share a row with probability
1 / 16, which overstates the correlation of their effects by as much."""


class Labels(tuple[str, ...]):
    """Unique asset labels; prints as their number and the first few.

    Raises
    ------
    ConfigError
        If there is none, one is not a string, or one occurs twice.
    """

    _order: np.ndarray
    _sorted: np.ndarray

    def __new__(cls, labels: Iterable[str]) -> Labels:
        """Check the labels and index them."""
        if isinstance(labels, str):
            raise ConfigError(f"`assets` must be a sequence of labels, got the string {labels!r}.")
        found = [str(label) if isinstance(label, np.str_) else label for label in labels]
        wrong = next((label for label in found if not isinstance(label, str)), None)
        if wrong is not None or not found:
            got = "none" if not found else repr(wrong)
            raise ConfigError(
                f"`assets` must be labels (strings) of one asset or more, got {got}. Pass "
                "panel.asset.values.tolist()."
            )
        if len(set(found)) < len(found):
            twice = next(label for label in found if found.count(label) > 1)
            raise ConfigError(f"`assets` must be unique labels, got {twice!r} twice.")
        self = super().__new__(cls, found)
        self._order = np.argsort(np.array(found))
        self._sorted = np.array(found)[self._order]
        return self

    def __repr__(self) -> str:
        """Show the number of labels and the first two."""
        first = ", ".join(map(repr, self[:2]))
        return f"[{first}{', ...' if len(self) > 2 else ''}; {len(self)} labels]"

    def rows(self, assets: np.ndarray) -> np.ndarray:
        """Row (n_assets,) of each asset; those without a label go to one of the rows after."""
        wanted = np.asarray(assets).astype(str)
        place = np.searchsorted(self._sorted, wanted).clip(max=len(self) - 1)
        rows: np.ndarray = self._order[place]
        for i in np.flatnonzero(self._sorted[place] != wanted):
            rows[i] = len(self) + zlib.crc32(wanted[i].encode()) % N_NEW
        return rows


class AssetEffect(nn.Module):
    """Base of parts with effects particular to an asset, ``effects`` of shape (n, size).

    The first rows are those of ``assets``; :data:`N_NEW` more are drawn by assets that have no
    label here.
    """

    assets: Labels
    effects: nn.Parameter

    def _new_effects(self, assets: Iterable[str], size: int) -> None:
        self.assets = Labels(assets)
        self.effects = nn.Parameter(torch.zeros(len(self.assets) + N_NEW, size))

    def of(self, assets: np.ndarray) -> Tensor:
        """Effects (n_assets, size) of some assets."""
        rows = torch.as_tensor(self.assets.rows(assets), device=self.effects.device)
        return self.effects.index_select(0, rows)

    def weight_proposal(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Guide of the effects: that of new assets is the prior at the scale of the known ones."""
        known = len(self.assets)
        pooled = (loc[:known].square() + scale[:known].square()).mean(0).sqrt()
        new = pooled.expand(N_NEW, -1)
        return (torch.cat([loc[:known], torch.zeros_like(new)]), torch.cat([scale[:known], new]))

    def rows_from(self, other: AssetEffect) -> Tensor:
        """Rows of another part's effects that these labels had there, for a warm start."""
        mine = other.assets.rows(np.array(self.assets))
        last = np.arange(len(other.assets), len(other.assets) + N_NEW)
        return torch.as_tensor(np.concatenate([mine, last]), device=other.effects.device)


def labels_of(part: nn.Module) -> Labels | None:
    """Labels of the first effects by asset in a part; None if it has none."""
    found = (each.assets for each in part.modules() if isinstance(each, AssetEffect))
    return next(found, None)
