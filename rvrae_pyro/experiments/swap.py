"""Variants of one model, fitted and scored in one call."""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr

from rvrae_pyro.data.batch import to_batch
from rvrae_pyro.data.splits import Split
from rvrae_pyro.diagnostics.predictive import predictive_check
from rvrae_pyro.errors import (
    ConfigError,
    FitError,
    RvraeWarning,
    check_choice,
    check_count,
    warn_user,
)
from rvrae_pyro.evaluation import psense
from rvrae_pyro.experiments.comparison_report import Comparison
from rvrae_pyro.experiments.competitors import Entrant, ModelEntrant, as_entrant
from rvrae_pyro.experiments.forecast_tree import Fitted
from rvrae_pyro.experiments.grid import Cell, Job, Result, failed, fit_job
from rvrae_pyro.experiments.metrics import Rules
from rvrae_pyro.experiments.model_comparison import (
    check_study,
    cut,
    describe_run,
    plan,
    study_months,
    summarise,
)
from rvrae_pyro.fitting.parallel import Submits, outcomes
from rvrae_pyro.inference.config import FitConfig, with_fields
from rvrae_pyro.inference.epochs import Epoch
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHAIN, CHARACTERISTIC, CONTEXT, DRAW, FEATURE, TIME
from rvrae_pyro.progress import progress_bar

_SLOTS: Final = ("loadings", "factor_prior", "decoder", "likelihood", "guide")
_OF_FIT: Final = ("config", "elbo", "init", "on_check")
_LEAST: Final = 2
_MODEL: Final = "model"
_STATISTIC: Final = "statistic"


def swap(
    variants: Mapping[str, Any],
    panel: xr.Dataset,
    *,
    split: Split | tuple[object, object, object] | Mapping[str, object],
    slot: str = "factor_prior",
    n_factors: int = 5,
    seed: int = 0,
    num_samples: int = 1000,
    statistics: Any = None,
    power_scaling: bool = False,
    n_jobs: int = 1,
    executor: Submits | None = None,
    progress: bool = True,
    **options: Any,
) -> Comparison:
    """Fit variants of a model and compare their one-step-ahead forecasts of the same months.

    Parameters
    ----------
    variants : mapping from name to part, model or competitor
        A part (``rv.priors.AR1(5)``) goes into ``slot`` of a default model for the panel; an
        untrained ``rv.RVRAE`` or baseline is used as it is. All are copied. A callable makes one
        from the training panel.
    panel : Dataset
        Prepared as for a fit: ranked, with ``context`` if the model shall read it.
    split : Split, or (train, valid, test) as ``rv.data.split`` takes them
    slot : {"factor_prior", "loadings", "decoder", "likelihood", "guide"}
        Argument of ``rv.RVRAE`` that parts are passed as.
    n_factors : int
        Of default models whose part has no number of factors.
    seed : int
        Of fits and forecasts.
    num_samples : int
        Predictive draws; also the particles of the filter.
    statistics : optional
        As of ``rv.diagnostics.predictive_check``; arrays are averaged. Default: all built-in
        statistics.
    power_scaling : bool
        Also compute the sensitivity of every forecast to the factor prior
        (``rv.evaluation.psense``).
    n_jobs, executor, progress
        As for ``rv.experiments.compare``; the bar names the variant and its training step.
    **options
        ``config``, ``elbo``, ``init`` and ``on_check`` of ``rv.fit``, and fields of
        ``rv.FitConfig``, such as ``max_steps=300``, which replace those of ``config``.

    Returns
    -------
    Comparison
        ``table``: joint log scores by model, paired differences to the best with standard errors
        that contain the filter's Monte-Carlo error, stacking weights. ``statistics``: prior and
        one-step-ahead predictive statistics side by side. ``sensitivity``, ``fits``; ``plot()``.

    Raises
    ------
    ConfigError
        For fewer than two variants, a part that does not go into ``slot``, or an unknown option.
    PanelError
        If the split does not fit the panel, or fewer than two test months have a return.
    FitError
        If fewer than two variants could be fitted; of others ``failures`` has the message.

    Warns
    -----
    RvraeWarning
        What fit, filter and checks of a variant warn of, with its name.

    Notes
    -----
    Fits are on the training months, stopped by the validation months and scored once on the test
    months; month t's forecast knows returns before t only. Prior statistics are those of the
    untrained model, with weights drawn with ``seed``, in the units of the training returns. The
    best of several variants is best partly by luck: see ``difference_error``.

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> panel = rv.data.simulate_linear_gaussian(8, 40, 2)
    >>> found = rv.swap(
    ...     {"AR(1)": rv.priors.AR1(2), "no memory": rv.priors.StandardNormal(2)},
    ...     panel,
    ...     split=(24, 8, 8),
    ...     max_steps=4,
    ...     num_samples=200,
    ...     progress=False,
    ... )
    >>> sorted(found.table.index)
    ['AR(1)', 'no memory']
    """
    began = time.perf_counter()
    config, rest = _options(options)
    if not isinstance(variants, Mapping) or len(variants) < _LEAST:
        raise ConfigError(
            "`variants` must map two names or more to parts or models; got "
            f"{type(variants).__name__ if not isinstance(variants, Mapping) else len(variants)}."
        )
    check_count("n_jobs", n_jobs)
    check_count("num_samples", num_samples, 200)
    seed = check_count("seed", seed, 0)
    parts = cut(panel, split)
    study = study_months(panel, parts)
    check_study(study, parts)
    entrants = [
        _enter(str(name), each, slot, study, check_count("n_factors", n_factors), config, rest)
        for name, each in variants.items()
    ]
    planned, unplanned = plan(entrants, [], study, parts, [seed], {}, num_samples, Rules())
    jobs = {
        cell: _Variant(job, job.source, statistics, power_scaling) for cell, job in planned.items()
    }
    found: dict[Cell, _Outcome] = {}
    failures = {failure.cell: failure for failure in unplanned}
    with (
        progress_bar("fitting variants", len(jobs), progress) as show,
        closing(
            outcomes(
                _shown(show) if n_jobs == 1 and executor is None else _run,
                jobs,
                n_jobs=n_jobs,
                executor=executor,
            )
        ) as running,
    ):
        for cell, outcome in running:
            if isinstance(outcome, Exception):
                failures[cell] = failed(cell, outcome)
            else:
                found[cell] = outcome
                for text in outcome.warned:
                    warn_user(f"variant {cell.model!r}: {text}")
            show(advance=1, note=cell.model)
    if len(found) < _LEAST:
        first = next(iter(failures.values()))
        raise FitError(
            f"fewer than two variants could be fitted; {first.cell.model!r} failed: {first.message}"
        )
    ordered = {cell: found[cell] for cell in jobs if cell in found}
    names = [cell.model for cell in ordered]
    results = {cell: each.result for cell, each in ordered.items()}
    comparison = summarise(results, list(failures.values()), names, [])
    comparison.info.update(
        describe_run(parts, study, Rules(), results, began),
        seeds=[seed],
        omit=[],
        n_factors=n_factors,
        num_samples=num_samples,
        slot=slot,
    )
    outcomes_of = {cell.model: each for cell, each in ordered.items()}
    return dataclasses.replace(
        comparison,
        statistics=_joined({name: each.statistics for name, each in outcomes_of.items()}),
        sensitivity=_joined({name: each.sensitivity for name, each in outcomes_of.items()}),
        fits={name: each.fit for name, each in outcomes_of.items()},
    )


@dataclass(frozen=True, eq=False)
class _Variant:
    """Inputs of one variant's fit and checks, for another process."""

    job: Job
    source: Any  # that of the job, which is then sent to a process once
    statistics: Any
    power_scaling: bool


@dataclass(frozen=True, eq=False)
class _Outcome:
    """One variant after its fit."""

    fit: Fitted
    result: Result
    statistics: xr.Dataset | None
    sensitivity: xr.Dataset | None
    warned: tuple[str, ...] = ()


def _shown(show: Callable[..., None]) -> Callable[[_Variant], _Outcome]:
    """Run variants in this process, with the name and step of each next to the progress bar."""

    def run(variant: _Variant) -> _Outcome:
        entrant = variant.job.entrant
        show(note=entrant.name)
        if isinstance(entrant, ModelEntrant):
            asked = entrant.options.get("on_check")

            def on_check(epoch: Epoch) -> object:
                show(note=f"{entrant.name}: step {epoch.step}")
                return None if asked is None else asked(epoch)

            watched = dataclasses.replace(
                entrant, options={**entrant.options, "on_check": on_check}
            )
            variant = dataclasses.replace(
                variant, job=dataclasses.replace(variant.job, entrant=watched)
            )
        return _run(variant)

    return run


def _run(variant: _Variant) -> _Outcome:
    """Fit and score a variant; warnings of the package come back, to be issued with its name."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RvraeWarning)
        outcome = _fit_and_check(variant)
    for each in caught:
        if not issubclass(each.category, RvraeWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    texts = [str(each.message) for each in caught if issubclass(each.category, RvraeWarning)]
    return dataclasses.replace(outcome, warned=tuple(dict.fromkeys(texts)))


def _fit_and_check(variant: _Variant) -> _Outcome:
    job = dataclasses.replace(variant.job, source=variant.source)
    fitted, tree, result = fit_job(job)
    if "predictions" not in tree.children:
        return _Outcome(fitted, result, None, None)
    panel = job.source.load()
    test = panel.isel({TIME: slice(job.n_train + job.n_valid, None)})
    checks = {"": predictive_check(tree, test, statistics=variant.statistics)}
    model = _untrained(job.entrant, panel.isel({TIME: slice(job.n_train)}), job.seed)
    if model is not None:
        checks["prior_"] = predictive_check(
            model,
            test,
            when="prior",
            statistics=variant.statistics,
            num_samples=min(200, job.num_samples),
            seed=job.seed,
        )
    sensitivity = None
    if variant.power_scaling and "log_prior" in tree["predictions"].data_vars:
        sensitivity = psense(tree)
    return _Outcome(fitted, result, _statistics(checks), sensitivity)


def _untrained(entrant: Entrant, train: xr.Dataset, seed: int) -> RVRAE | None:
    """Copy of a variant's model before its fit, in the units of the training returns."""
    template = getattr(entrant, "template", None)
    if not isinstance(template, RVRAE):
        return None
    model = copy.deepcopy(template)
    model.redraw(seed)
    model.set_units(to_batch(train, dtype=model.return_scale.dtype))
    return model


def _statistics(checks: Mapping[str, xr.DataTree]) -> xr.Dataset:
    """Lay out statistics (statistic,): observed, and mean, deviation and p-value of each check."""
    found: dict[str, xr.DataArray] = {}
    for kind, check in checks.items():
        group = "prior_predictive" if kind else "posterior_predictive"
        draws = _scalars(check[group].to_dataset())
        found[f"{kind}mean"] = draws.mean((CHAIN, DRAW))
        found[f"{kind}sd"] = draws.std((CHAIN, DRAW))
        found[f"{kind}p_value"] = _scalars(check["p_value"].to_dataset())
        found[f"{kind}p_value_error"] = _scalars(check["p_value_error"].to_dataset())
        if not kind:
            found["observed"] = _scalars(check["observed_data"].to_dataset())
    table = xr.Dataset(found)
    for name in ("prior_mean", "prior_sd", "prior_p_value", "prior_p_value_error"):
        if name not in table:
            table[name] = xr.full_like(table["mean"], np.nan)
    return table


def _scalars(data: xr.Dataset) -> xr.DataArray:
    """Average every variable over all but the sample dims, stacked along ``statistic``."""
    each = {
        name: values.mean([dim for dim in values.dims if dim not in (CHAIN, DRAW)])
        for name, values in data.data_vars.items()
    }
    return xr.Dataset(each).to_dataarray(_STATISTIC)


def _joined(each: Mapping[str, xr.Dataset | None]) -> xr.Dataset | None:
    """Concatenate what there is along ``model``."""
    there = {name: data for name, data in each.items() if data is not None}
    if not there:
        return None
    labels = xr.DataArray(list(there), dims=_MODEL, name=_MODEL)
    return xr.concat(list(there.values()), labels, join="outer", combine_attrs="override")


def _options(options: Mapping[str, Any]) -> tuple[FitConfig | None, dict[str, Any]]:
    """Split what goes to ``rv.fit`` from fields of its configuration."""
    known = {field.name for field in dataclasses.fields(FitConfig)}
    unknown = [name for name in options if name not in known and name not in _OF_FIT]
    if unknown:
        raise ConfigError(
            f"`rv.swap` got an unknown option {unknown[0]!r}. Options are {', '.join(_OF_FIT)} of "
            "rv.fit and the fields of rv.FitConfig."
        )
    config = options.get("config")
    changed = {name: value for name, value in options.items() if name in known}
    if config is not None or changed:
        config = with_fields(config, changed)
    rest = {name: value for name, value in options.items() if name in _OF_FIT[1:]}
    return config, rest


def _enter(
    name: str,
    variant: Any,
    slot: str,
    panel: xr.Dataset,
    n_factors: int,
    config: FitConfig | None,
    rest: Mapping[str, Any],
) -> Entrant:
    """Let a part, a model or another competitor take part under a name."""
    check_choice("slot", slot, _SLOTS)
    if isinstance(variant, Part):
        build: Callable[..., RVRAE] = RVRAE
        part = copy.deepcopy(variant)
        n_context = panel.sizes[FEATURE] if CONTEXT in panel else 0
        variant = build(
            panel.sizes[CHARACTERISTIC],
            getattr(part, "n_factors", n_factors),
            n_context=n_context,
            **{slot: part},
        )
    if isinstance(variant, RVRAE):
        return ModelEntrant(name, variant, config, rest)
    return as_entrant(variant, name=name, config=config)
