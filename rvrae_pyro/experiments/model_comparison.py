"""The comparison: who, on which months, with which seeds; its tables."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from rvrae_pyro.data.calendar import periods_per_year
from rvrae_pyro.data.panel_match import fingerprint
from rvrae_pyro.data.splits import Split
from rvrae_pyro.errors import ConfigError, check_count, check_seeds
from rvrae_pyro.experiments.comparison_report import TITLE, Comparison, refuse_foreign
from rvrae_pyro.experiments.competitor_registry import (
    ABLATIONS,
    RVRAE_NAME,
    check_distinct,
    enter_all,
    names_all,
)
from rvrae_pyro.experiments.competitors import Entrant
from rvrae_pyro.experiments.grid import (
    Failure,
    check_study,
    cut,
    draw_omitted,
    hold,
    omit_counts,
    plan,
    run_grid,
    study_months,
)
from rvrae_pyro.experiments.jobs import Cell, Result
from rvrae_pyro.experiments.metrics import Rules
from rvrae_pyro.experiments.published import PAPER_NAME
from rvrae_pyro.experiments.result_tables import (
    TABLES,
    compare_densities,
    compare_evidence,
    long_table,
    pooled,
    select,
)
from rvrae_pyro.fitting.parallel import Submits
from rvrae_pyro.names import ASSET, TIME

_LEAST_DRAWS = 200


def compare(
    panel: xr.Dataset,
    models: object = "all",
    *,
    split: Split | tuple[object, object, object] | Mapping[str, object],
    seeds: int | Sequence[int] = 1,
    omit: Sequence[int] = (),
    out: str | os.PathLike[str] | None = None,
    n_factors: int = 5,
    ablation: bool | None = None,
    num_samples: int = 1000,
    rules: Rules | None = None,
    n_jobs: int = 1,
    executor: Submits | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare models on the same panel, months, labels and seeds.

    Parameters
    ----------
    panel : Dataset
        Prepared as for a fit: ranked, with ``context`` if RVRAE shall read it.
    models : str, model, iterable of these, or mapping from name to model
        ``"all"`` (IPCA, CA, FactorVAE, ALSTM, Transformer, RVRAE, RVRAE (paper), EWMA,
        MultivariateT, EWMAMixture), names, and untrained RVRAEs, baselines, callables that make
        them from the training panel, or objects with ``name``, ``describe`` and ``fit``.
    split : Split, or (train, valid, test) as ``rv.data.split`` takes them
    seeds : int or sequence of int
        How many, from 0 on, or which.
    omit : sequence of int
        For Table 3: how many assets to leave out of training, once each seed.
    out : path, optional
        A folder for tables, figures and one file per fit. A second run with the same folder
        takes over the fits that are there.
    n_factors : int
        Of models given by name.
    ablation : bool, optional
        Also fit the variants of Table 5. Default: if ``models`` names ``"all"``.
    num_samples : int
        Predictive draws; also the particles of RVRAE's filter.
    rules : Rules, optional
        Legs and costs of the portfolios.
    n_jobs : int
        Processes. More than 1 needs a script whose top level is safe to import.
    executor : object with ``submit``, optional
        As in :mod:`concurrent.futures`, or what :func:`~rvrae_pyro.experiments.connect` gives:
        takes the fits instead.
    progress : bool
        Show a bar on a terminal.

    Returns
    -------
    Comparison

    Raises
    ------
    ConfigError
        For an unknown model, a bad seed or count, or more omitted assets than can be left out.
    PanelError
        If the split does not fit the panel, characteristics are missing in listed cells, or
        fewer than two test months have a return.
    FitError
        If every single fit failed.
    CheckpointError
        If another run writes to ``out``, or an I/O error occurs; fits that are there are kept.

    Notes
    -----
    Fits are on the training months, stopped by the validation months, scored once on the test
    months; month t's forecast knows returns before t only. Anything that raises is recorded in
    ``failures``, and the others continue. Seeds of a model that has no randomness (IPCA) give the
    same numbers.
    """
    began = time.perf_counter()
    entrants = enter_all(models, check_count("n_factors", n_factors))
    wanted = names_all(models) if ablation is None else ablation
    extra = _ablations(entrants, n_factors) if wanted else []
    check_distinct([*entrants, *extra])
    numbers = check_seeds(seeds)
    check_count("n_jobs", n_jobs)
    if check_count("num_samples", num_samples) < _LEAST_DRAWS:
        raise ConfigError(
            f"`num_samples` must be at least {_LEAST_DRAWS}, or the 5 % tail holds too few draws; "
            f"got {num_samples}."
        )
    parts = cut(panel, split)
    study = study_months(panel, parts)
    check_study(study, parts)
    drawn = {(m, s): draw_omitted(parts, m, s) for m in omit_counts(omit, parts) for s in numbers}
    rules = (rules or Rules()).over(periods_per_year(panel))
    folder = None if out is None else _check_out(Path(out))
    jobs, unplanned = plan(
        [*entrants, *extra], entrants, study, parts, numbers, drawn, num_samples, rules
    )
    with hold(folder):
        results, failures = run_grid(
            jobs,
            unplanned,
            name="comparing",
            folder=None if folder is None else folder / "cells",
            n_jobs=n_jobs,
            executor=executor,
            progress=progress,
        )
        names, variants = ([e.name for e in each] for each in (entrants, extra))
        comparison = summarise(results, failures, names, variants)
        comparison.info.update(
            spans(parts),
            seeds=numbers,
            omit=sorted({m for m, _ in drawn}),
            n_factors=n_factors,
            num_samples=num_samples,
            n_assets=int(study.sizes[ASSET]),
            cost=rules.cost,
            quantile=rules.quantile,
            data_fingerprint=fingerprint(study),
            seconds=round(time.perf_counter() - began, 1),
            seconds_of_fits=round(sum(r.seconds for r in results.values()), 1),
        )
        if folder is not None:
            comparison.write(folder)
        return comparison


def summarise(
    results: dict[Cell, Result], failures: list[Failure], names: list[str], variants: list[str]
) -> Comparison:
    """Put the results of all fits into tables; ``variants`` are those of Table 5."""
    long = long_table(results)
    pool = pooled(long)
    # a dash for undefined metrics depends on the results of the fits
    reference = RVRAE_NAME if RVRAE_NAME in names else names[0]
    tables = {number: select(pool, number, names) for number in TABLES if number != "5"}
    standards = [name for name in (RVRAE_NAME, PAPER_NAME) if name in names]
    tables["5"] = select(pool, "5", [*standards, *variants] if variants else [])
    versions = next(iter(results.values())).attrs.get("versions", "")
    everyone = [*names, *variants]
    tests = compare_densities(results, reference, everyone)
    info: dict[str, object] = {"versions": versions}
    scores = compare_evidence(results, everyone)
    return Comparison(long, tables, tests, results, failures, reference, info, scores)


def _ablations(entrants: list[Entrant], n_factors: int) -> list[Entrant]:
    if RVRAE_NAME not in [entrant.name for entrant in entrants]:
        raise ConfigError(
            f"`ablation` needs the model {RVRAE_NAME!r}, which its variants are held against; add "
            "it to `models`."
        )
    return [make(n_factors) for make in ABLATIONS.values()]


def spans(parts: Split) -> dict[str, list[str]]:
    """First and last day of each part."""
    named = zip(("train", "valid", "test"), parts, strict=True)
    return {name: [str(part[TIME].values[k])[:10] for k in (0, -1)] for name, part in named}


def _check_out(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"`out` {str(path)!r} cannot be made: {error}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"`out` {str(path)!r} cannot be written: no permission.")
    refuse_foreign(path, TITLE)
    return path
