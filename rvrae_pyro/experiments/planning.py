"""What a comparison is going to run: months, seeds, omitted assets, one job a fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from rvrae_pyro.data.batch import to_light_batch
from rvrae_pyro.data.fingerprint import fingerprint
from rvrae_pyro.data.sources import InMemory
from rvrae_pyro.data.splits import Split
from rvrae_pyro.data.splits import split as cut_panel
from rvrae_pyro.errors import ConfigError, PanelError
from rvrae_pyro.experiments.cells import Cell, Job
from rvrae_pyro.experiments.entrants import Entrant
from rvrae_pyro.experiments.running import Failure, failed
from rvrae_pyro.experiments.scoring import Rules
from rvrae_pyro.names import ASSET, RETURNS, TIME

_RANK_METRICS = ("rank_ic", "rank_icir", "rank_ic_running", "rank_icir_running")
_LEAST = 3  # pairs of a rank correlation


def plan(
    everyone: list[Entrant],
    entrants: list[Entrant],
    study: xr.Dataset,
    parts: Split,
    seeds: list[int],
    drawn: Mapping[tuple[int, int], tuple[str, ...]],
    num_samples: int,
    rules: Rules,
) -> tuple[dict[Cell, Job], list[Failure]]:
    """One job a fit, those with all assets first, and those that cannot even be described."""
    source, mark = InMemory(study), fingerprint(study)
    n_train, n_valid = parts.train.sizes[TIME], parts.valid.sizes[TIME]

    def job(entrant: Entrant, seed: int, names: tuple[str, ...]) -> Job:
        metrics = _RANK_METRICS if names else None
        return Job(entrant, source, n_train, n_valid, seed, names, num_samples, rules, metrics)

    jobs = [job(entrant, seed, ()) for seed in seeds for entrant in everyone]
    jobs += [job(e, seed, names) for (_, seed), names in drawn.items() for e in entrants]
    named: dict[Cell, Job] = {}
    failures = []
    for each in jobs:
        try:
            named[each.cell(study, mark)] = each
        except Exception as error:  # a user's own function may raise anything
            failures.append(
                failed(Cell(each.entrant.name, each.seed, len(each.omitted), ""), error)
            )
    return named, failures


def cut(panel: xr.Dataset, split: object) -> Split:
    """Cut a panel as ``split`` says, in any of the forms that ``compare`` takes.

    Raises
    ------
    ConfigError
        If ``split`` has none of them.
    PanelError
        If it does not fit the panel.
    """
    if isinstance(split, Split):
        return split
    if isinstance(split, Mapping):
        split = tuple(split.get(name) for name in ("train", "valid", "test"))
    if not isinstance(split, tuple | list) or len(split) != 3:
        raise ConfigError(
            "`split` must be (train, valid, test): counts of rows, fractions or dates, or what "
            f"rv.data.split returns; got {split!r}."
        )
    return cut_panel(panel, *split)


def study_months(panel: xr.Dataset, parts: Split) -> xr.Dataset:
    """Months from the first training month to the last test month, with no gap between parts."""
    times = [part[TIME].values for part in parts]
    study = panel.sel({TIME: slice(times[0][0], times[-1][-1])})
    if not np.array_equal(study[TIME].values, np.concatenate(times)):
        raise ConfigError(
            "`split` must leave no months between its parts here: filters run through them all. "
            "Let each part begin where the one before it ends."
        )
    return study


def check_study(study: xr.Dataset, parts: Split) -> None:
    """Refuse, before anything is fitted, what no model could be fitted to or scored on.

    Raises
    ------
    PanelError
        If listed cells lack characteristics, or fewer than two test months have a return: no
        standard error could be given.
    """
    to_light_batch(study)
    seen = parts.test[RETURNS].notnull().any(ASSET)
    if int(seen.sum()) < 2:
        raise PanelError(
            "`split` must leave at least two test months with a return, or there is no standard "
            f"error; got {int(seen.sum())} of {parts.test.sizes[TIME]}. Choose a longer test span."
        )


def omit_counts(omit: object, parts: Split) -> list[int]:
    """Return how many assets to leave out of training, checked, each once and in order.

    Raises
    ------
    ConfigError
        If one is no whole number, or leaves too few assets to score or to train on.
    """
    several = isinstance(omit, Iterable) and not isinstance(omit, str)
    counts: list[Any] = list(omit) if several else [omit]  # type: ignore[call-overload]
    most = len(candidates(parts)) - 2
    if counts and most < _LEAST:
        raise ConfigError(
            f"`omit` needs at least {_LEAST + 2} assets with returns in training and test months: "
            f"{_LEAST} for a rank correlation and two to train on; got {most + 2}."
        )
    for count in counts:
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not whole or not _LEAST <= count <= most:
            raise ConfigError(
                f"`omit` must hold whole numbers from {_LEAST} (for a rank correlation) to {most} "
                "(assets with returns in training and test months, less two to train on); got "
                f"{count!r}."
            )
    return sorted({int(count) for count in counts})


def candidates(parts: Split) -> list[str]:
    """Return the assets with returns in both training and test months, ordered by label."""
    train, test = (
        set(part[ASSET].values[part[RETURNS].transpose(TIME, ASSET).notnull().any(TIME).values])
        for part in (parts.train, parts.test)
    )
    return sorted(map(str, train & test))


def draw_omitted(parts: Split, count: int, seed: int) -> tuple[str, ...]:
    """Draw the assets of a seed that are left out, from those that can be scored."""
    rng = np.random.default_rng([seed, count])
    return tuple(sorted(rng.choice(candidates(parts), count, replace=False).tolist()))
