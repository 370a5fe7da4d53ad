"""Means and distributions of cells whose months are the independent units, or nearly so."""

from typing import Final

import numpy as np

from rvrae_pyro.risk._draws import Array
from rvrae_pyro.risk.coverage_tests import stationary_bootstrap

BINS: Final = 10
_GRID: Final = np.linspace(0.05, 0.95, 19)


def bootstrap_counts(
    realised: Array, block: float | None, num_samples: int, rng: np.random.Generator
) -> Array:
    """How often each bootstrap sample holds each month: (sample, time), 0 where unobserved."""
    months = np.flatnonzero(~np.isnan(realised).all(axis=1))
    size = len(months)
    length = max(1.0, size ** (1 / 3)) if block is None else block
    drawn = stationary_bootstrap(size, num_samples, length, rng)
    counts = np.zeros((num_samples, len(realised)))
    np.add.at(counts, (np.arange(num_samples)[:, None], months[drawn]), 1.0)
    return counts


def _pit_parts(pit: Array) -> tuple[Array, Array, Array]:
    """By month: cells, cells below each grid point, cells in each bin."""
    known = ~np.isnan(pit)
    filled = np.where(known, pit, 2.0)
    below = (filled[..., None] <= _GRID).sum(axis=1)
    bins = np.clip(
        (filled * BINS).astype(int), 0, BINS
    )  # unknown cells fall in a bin past the last
    shares = (bins[..., None] == np.arange(BINS)).sum(axis=1)
    return known.sum(axis=1).astype(float), below.astype(float), shares.astype(float)


def pit_test(pit: Array, counts: Array) -> tuple[float, float]:
    """Greatest distance of the PIT's distribution from uniform, and its bootstrap p-value."""
    size, below, _ = _pit_parts(pit)
    if (size > 0).sum() < 10:
        return float("nan"), float("nan")
    own = below.sum(axis=0) / size.sum()
    distance = float(np.abs(own - _GRID).max())
    totals = counts @ size
    samples = (counts @ below)[totals > 0] / totals[totals > 0, None]
    apart = np.abs(samples - own).max(axis=1)
    return distance, float((1 + (apart >= distance).sum()) / (1 + len(apart)))


def pit_band(pit: Array, counts: Array) -> Array:
    """Rows share, lower, upper of every bin; the band holds the share in 95 % of resamples."""
    size, _, bins = _pit_parts(pit)
    if not size.sum():
        return np.full((3, BINS), np.nan)
    totals = counts @ size
    samples = (counts @ bins)[totals > 0] / totals[totals > 0, None]
    lower, upper = np.quantile(samples, [0.025, 0.975], axis=0)
    return np.stack([bins.sum(axis=0) / size.sum(), lower, upper])


def clustered(values: Array) -> tuple[float, float]:
    """Mean of all cells (time, asset), and its standard error with months as clusters."""
    known = ~np.isnan(values)
    size, months = known.sum(), known.any(axis=1).sum()
    if not size:
        return float("nan"), float("nan")
    mean = np.nansum(values) / size
    if months < 2:
        return float(mean), float("nan")
    sums = np.where(known, values - mean, 0.0).sum(axis=1)
    return float(mean), float(np.sqrt((sums**2).sum() * months / (months - 1)) / size)
