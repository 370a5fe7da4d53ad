"""The paper's setting on any panel: its months, its six models, its tables 1 to 3."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd
import xarray as xr

from rvrae_pyro.data.calendar import periods_per_year
from rvrae_pyro.data.splits import Split
from rvrae_pyro.experiments.comparison_report import Comparison
from rvrae_pyro.experiments.competitors import PAPER_NAME
from rvrae_pyro.experiments.model_comparison import candidates, compare, cut
from rvrae_pyro.fitting.parallel import Submits
from rvrae_pyro.names import ASSET, RETURNS, TIME

PAPER_MODELS: Final = ("IPCA", "CA", "FactorVAE", "ALSTM", "Transformer", PAPER_NAME)
"""The six models of the paper's tables, by their names in ``COMPETITORS``."""

_YEARS: Final = (15, 3, 3)
_FIRST: Final = pd.Period("2000-01", "M")
_LAST: Final = pd.Period("2020-12", "M")
_OMITTED: Final = (50, 100, 150)
_LEAST: Final = 3  # assets of a rank correlation


def paper_split(panel: xr.Dataset) -> tuple[Any, Any, Any]:
    """Training, validation and test spans of 15, 3 and 3 years, as ``rv.data.split`` takes them.

    Parameters
    ----------
    panel : Dataset

    Returns
    -------
    tuple
        The paper's own months, 2000-01 to 2020-12, where a monthly panel has returns from the
        first to the last of them; else the last 21 years; else, in a shorter panel, shares of
        5 : 1 : 1.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, section on data: 180, 36 and 36 months.
    """
    seen = panel[RETURNS].notnull().any(ASSET).values
    times = pd.DatetimeIndex(panel[TIME].values[seen])
    if not len(times):
        return _shares()
    months = times.to_period("M")
    periods = int(periods_per_year(panel))
    if periods == 12 and _FIRST in months and _LAST in months:
        # whole months, so that any day of the month that dates a row is within
        ends = [_FIRST - 1, _FIRST + 179, _FIRST + 215, _LAST]
        spans = [((low + 1).start_time, high.end_time) for low, high in itertools.pairwise(ends)]
        return spans[0], spans[1], spans[2]
    train, valid, test = (years * periods for years in _YEARS)
    last = int(seen.nonzero()[0][-1])
    if last + 1 >= train + valid + test:
        return train, valid, test
    return _shares()


def _shares() -> tuple[float, float, float]:
    total = sum(_YEARS)
    return _YEARS[0] / total, _YEARS[1] / total, _YEARS[2] / total


def paper_omit(parts: Split) -> tuple[int, ...]:
    """Numbers of assets left out of training for Table 3.

    Parameters
    ----------
    parts : Split

    Returns
    -------
    tuple of int
        50, 100 and 150 where that is at most half of the assets with returns in training and
        test months; else a sixth, a third and a half of these, as far as that is 3 or more.
    """
    n_assets = len(candidates(parts))
    if n_assets >= 2 * _OMITTED[-1]:
        return _OMITTED
    counts = sorted({n_assets // 6, n_assets // 3, n_assets // 2})
    return tuple(count for count in counts if _LEAST <= count <= n_assets - 2)


def paper(
    panel: xr.Dataset,
    *,
    out: str | os.PathLike[str] | None = None,
    split: object = None,
    seeds: int | Sequence[int] = 10,
    omit: Sequence[int] | None = None,
    n_factors: int = 5,
    num_samples: int = 1000,
    n_jobs: int = 1,
    executor: Submits | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare the paper's six models in its setting: tables 1 to 3, with printed figures.

    Parameters
    ----------
    panel : Dataset
        With ranked characteristics.
    out : path, optional
        Folder for tables, figures and one file per fit; see :func:`compare`.
    split : Split, or (train, valid, test) as ``rv.data.split`` takes them, optional
        Default: :func:`paper_split`.
    seeds : int or sequence of int
        How many, from 0 on, or which. Default: the paper's 10.
    omit : sequence of int, optional
        Assets left out of training for Table 3. Default: :func:`paper_omit`.
    n_factors : int
    num_samples, n_jobs, executor, progress
        See :func:`compare`.

    Returns
    -------
    Comparison
        Its tables "1", "2" and "3" are the paper's; "4" has the scores of the predictive
        distributions, which the paper does not report.

    Raises
    ------
    ConfigError, PanelError, FitError, CheckpointError
        See :func:`compare`.

    Notes
    -----
    The paper's data are not public, and its figures have no standard errors: they are shown for
    context, under ``NOT_COMPARABLE``.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, tables 1 to 3.
    """
    parts = cut(panel, paper_split(panel) if split is None else split)
    return compare(
        panel,
        PAPER_MODELS,
        split=parts,
        seeds=seeds,
        omit=paper_omit(parts) if omit is None else omit,
        out=out,
        n_factors=n_factors,
        ablation=False,
        num_samples=num_samples,
        n_jobs=n_jobs,
        executor=executor,
        progress=progress,
    )
