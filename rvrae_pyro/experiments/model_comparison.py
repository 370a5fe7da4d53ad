"""The comparison: models, months and seeds; what is fitted, and the tables of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from rvrae_pyro.data.batch import to_light_batch
from rvrae_pyro.data.calendar import periods_per_year
from rvrae_pyro.data.panel_match import fingerprint
from rvrae_pyro.data.splits import Split
from rvrae_pyro.data.splits import split as cut_panel
from rvrae_pyro.errors import ConfigError, PanelError, check_count, check_seeds
from rvrae_pyro.experiments.comparison_report import TITLE, Comparison, reject_foreign
from rvrae_pyro.experiments.competitors import (
    ABLATIONS,
    PAPER_NAME,
    RVRAE_NAME,
    Entrant,
    check_distinct,
    enter_all,
    names_all,
)
from rvrae_pyro.experiments.grid import Cell, Failure, Job, Result, failed, hold, run_grid
from rvrae_pyro.experiments.metrics import Rules
from rvrae_pyro.experiments.result_tables import (
    TABLES,
    compare_densities,
    compare_evidence,
    long_table,
    pooled,
    select,
)
from rvrae_pyro.fitting.parallel import InMemory, Submits
from rvrae_pyro.names import ASSET, RETURNS, TIME

_LEAST_DRAWS = 200
_RANK_METRICS = ("rank_ic", "rank_icir", "rank_ic_running", "rank_icir_running")
_LEAST = 3  # pairs of a rank correlation


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
            folder=folder,
            n_jobs=n_jobs,
            executor=executor,
            progress=progress,
        )
        names, variants = ([e.name for e in each] for each in (entrants, extra))
        comparison = summarise(results, failures, names, variants)
        comparison.info.update(
            describe_run(parts, study, rules, results, began),
            seeds=numbers,
            omit=sorted({m for m, _ in drawn}),
            n_factors=n_factors,
            num_samples=num_samples,
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


def describe_run(
    parts: Split, study: xr.Dataset, rules: Rules, results: Mapping[Cell, Result], began: float
) -> dict[str, object]:
    """Describe a comparison: first and last day of each part, data, rules and run time.

    A part without months, such as a validation of 0, is left out.
    """
    named = {name: part for name, part in parts._asdict().items() if part.sizes[TIME]}
    return {
        **{name: [str(part[TIME].values[k])[:10] for k in (0, -1)] for name, part in named.items()},
        "n_assets": int(study.sizes[ASSET]),
        "cost": rules.cost,
        "quantile": rules.quantile,
        "data_fingerprint": fingerprint(study),
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_of_fits": round(sum(r.seconds for r in results.values()), 1),
    }


def _check_out(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"`out` {str(path)!r} cannot be made: {error}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"`out` {str(path)!r} cannot be written: no permission.")
    reject_foreign(path, TITLE)
    return path


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
    """One job per fit, those with all assets first, and those that cannot even be described."""
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
    """Cut a panel by ``split``, in any of the forms that ``compare`` takes.

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
    """Reject, before any fit, panels that no model could be fitted to or scored on.

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
