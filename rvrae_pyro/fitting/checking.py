"""Check of a fit: its training, and its forecasts of the months of a panel."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.data.panel_match import match_panel
from rvrae_pyro.diagnostics.check import FULL_WEIGHT, LAGGED, Check, Finding, in_use
from rvrae_pyro.diagnostics.check_panel import (
    check_calibration,
    check_filter,
    check_skill,
    check_spread,
    check_tails,
    check_weights,
)
from rvrae_pyro.diagnostics.check_training import check_evidence, check_training, common_variation
from rvrae_pyro.diagnostics.predictive import predictive_check
from rvrae_pyro.diagnostics.psis import psis
from rvrae_pyro.fitting.saved import TrainingRecord
from rvrae_pyro.inference.importance import guide_paths
from rvrae_pyro.inference.kl import month_kl
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.models.asset_labels import labels_of
from rvrae_pyro.models.exact import is_exact
from rvrae_pyro.models.guides import Smoothing
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, RETURNS, TIME
from rvrae_pyro.predictive.attribution import typical_batch
from rvrae_pyro.predictive.filtered import Filtered, filter_models
from rvrae_pyro.predictive.filtering import FilteredStates, Kind, filter_states
from rvrae_pyro.predictive.months import load
from rvrae_pyro.predictive.replicates import posterior_predictive
from rvrae_pyro.predictive.storage import assemble
from rvrae_pyro.predictive.weight_draws import in_double

_MOST_CELLS = 5_000_000  # draws of returns that a check holds at a time
_REPLICATES = 200
_ENOUGH: Final = 12  # months after the training from which those in it are left out
_TYPICAL_DRAWS: Final = 200

_FIXED = "what is unknown about the weights: they are fixed at one estimate (see seeds, ensembles)"
_MEAN_FIELD = (
    "what is unknown about the weights as a whole: some have a posterior, one weight apart from "
    "the other, which understates it; the rest are fixed (see seeds, ensembles, and "
    "rv.diagnostics.psis_weights for how far that posterior is off)"
)
_LIMITS = (
    "factors one by one: they are identified up to rotation, sign and scale",
    "survivorship and errors in your data; the model takes them as they are",
)


def judge_fit(
    fit: TrainingRecord, panel: xr.Dataset | Filtered | None, num_particles: int
) -> Check:
    """Judge the training run and, where there is a panel, the fit's forecasts of its months."""
    subject = None if panel is None else _Subject.of(fit, panel, num_particles)
    used = _in_use(fit, None if subject is None else subject.filtered.panel)
    findings = check_training(
        fit.history,
        fit.kl,
        fit.stopped,
        fit.best_step,
        fit.config.kl_reduction,
        int(fit.attrs["n_train_returns"]),
        int(fit.attrs["n_valid_returns"]),
        common=_common(fit, subject),
        used=used,
    )
    if subject is not None:
        findings.extend(judge_panel(fit, subject, used))
    weights = _MEAN_FIELD if fit.model.weight_sites else _FIXED
    return Check(findings, (weights, *_LIMITS))


@dataclass(frozen=True, eq=False)
class _Subject:
    """A panel under check, filtered once."""

    filtered: Filtered
    batch: Batch  # with characteristics
    model: RVRAE  # in double precision, with weights at their MAP or posterior mean
    states: FilteredStates  # at these weights

    @classmethod
    def of(cls, fit: TrainingRecord, panel: xr.Dataset | Filtered, num_particles: int) -> _Subject:
        if isinstance(panel, Filtered):
            filtered = panel
            filtered.require_models([fit.model])
        else:
            panel = match_panel(panel, fit.attrs)
            filtered = filter_models(
                [fit.model], panel, num_particles, fit.seed, rotation=None, attrs=fit.attrs
            )
        batch, model = load(fit.model, filtered.panel), in_double(fit.model)
        if model.drawn_sites:
            states = filter_states(model, batch, filtered.num_samples, filtered.seed)
        else:
            states = filtered.chains[0][0].states
        return cls(filtered, batch, model, states)


def judge_panel(fit: TrainingRecord, subject: _Subject, used: Collection[str]) -> list[Finding]:
    """Judge guide, calibration, tails and skill on the months of a panel.

    Forecasts and replicates are judged on the last months, as many as memory allows, and on months
    after the training alone where there are twelve or more. The factors' guide is judged at one
    value of the weights, their mean where they have a posterior; forecasts and replicates contain
    their uncertainty.
    """
    panel, num_samples = subject.filtered.panel, subject.filtered.num_samples
    ess, exact = subject.filtered.ess, is_exact(fit.model)
    n_particles = subject.filtered.n_particles
    findings = [check_filter(ess, n_particles, exact, used), _bound(subject, fit.seed, used)]
    findings.append(check_weights(psis(fit, panel, max(100, num_samples), fit.seed), used))
    findings.append(_spread(subject, fit.seed, used))
    trained = fit.kl_total[TIME].to_numpy()
    times = _judged_months(panel, num_samples, trained[-1])
    if times.size:
        draws = subject.filtered.forecast(times)["predictions"].to_dataset()[RETURNS]
        seen = panel[RETURNS].transpose(TIME, ASSET).sel({TIME: times})
        n_trained = int(np.isin(times, trained).sum())
        n_valid = int(_decided(fit, times).sum())
        findings.append(check_calibration(seen, draws, n_trained, used, n_valid))
        replicates = posterior_predictive(
            fit.model, panel, num_samples=_REPLICATES, seed=fit.seed, times=times, attrs=fit.attrs
        )
        replicated = predictive_check(assemble(replicates, None), panel)
        findings.append(check_tails(replicated, used))
        mean = draws.mean((CHAIN, DRAW))
        later = times > trained[-1]
        if later.any():  # what the weights have seen is fit, not skill
            mean, seen, n_trained = mean.isel({TIME: later}), seen.isel({TIME: later}), 0
        findings.append(check_skill(seen, mean, n_trained, used, n_valid))
    return findings


def _decided(fit: TrainingRecord, times: np.ndarray) -> np.ndarray:
    """Whether each month was one of validation, which decided when training stopped."""
    if not int(fit.attrs["n_valid_returns"]):
        return np.zeros(len(times), bool)
    last = np.datetime64(str(fit.attrs.get("last_seen_month", "1678")), "ns")
    found: np.ndarray = (times > fit.kl_total[TIME].to_numpy()[-1]) & (times <= last)
    return found


def _in_use(fit: TrainingRecord, panel: xr.Dataset | None) -> frozenset[str]:
    """Name what the fit uses already, so that no advice recommends it."""
    used = set(in_use(fit.model))
    if fit.config.kl_reduction == "sum" and float(fit.history["kl_weight"].iloc[-1]) >= 1.0:
        used.add(FULL_WEIGHT)
    if panel is not None and panel.attrs.get("lag") == 1:
        used.add(LAGGED)
    return frozenset(used)


def _common(fit: TrainingRecord, subject: _Subject | None) -> xr.Dataset | None:
    """Judge loadings and factors together: on a panel, else on simulated ranks."""
    if subject is None:
        return common_of(fit)
    states = subject.states
    return common_variation(subject.model, subject.batch, states.predicted, states.cross)


def common_of(fit: TrainingRecord, panel: xr.Dataset | None = None) -> xr.Dataset | None:
    """Judge loadings and factors together: on a panel prepared as for the fit, or simulated ranks.

    Ranks have the effects of the training panel's assets. None where the characteristics of the
    training panel were no ranks and there is no panel.
    """
    model = in_double(fit.model)
    if panel is not None:
        batch = load(model, panel)
        states = filter_states(model, batch, _TYPICAL_DRAWS, fit.seed)
        return common_variation(model, batch, states.predicted, states.cross)
    known = json.loads(str(fit.attrs.get("panel", "{}")))
    if known.get("transform", "rank") != "rank":
        return None  # nothing is known of the size of the characteristics
    batch = typical_batch(model, fit.seed, labels_of(model.loadings))
    states = filter_states(model, batch, _TYPICAL_DRAWS, fit.seed)
    return common_variation(model, batch, states.predicted, states.cross)


def _judged_months(panel: xr.Dataset, num_draws: int, trained: np.datetime64) -> np.ndarray:
    """Pick the last months in which four assets or more have returns.

    Those after the training alone, if they are enough; no more than memory allows.
    """
    seen = panel[RETURNS].notnull().sum(ASSET) >= 4
    months: np.ndarray = panel[TIME].to_numpy()[seen.to_numpy()]
    later = months[months > trained]
    if later.size >= _ENOUGH:
        months = later
    most = max(12, _MOST_CELLS // max(1, num_draws * panel.sizes[ASSET]))
    return months[-most:]


def _bound(subject: _Subject, seed: int, used: Collection[str]) -> Finding:
    batch = subject.batch
    with month_random(seed, batch.times[0], "check"):
        walks = [subject.model.walk(batch) for _ in range(8)]
    bounds = torch.stack([walk.log_likelihood - month_kl(walk) for walk in walks]).mean(0)
    each = (bounds, subject.states.log_evidence)
    bound, evidence = (xr.DataArray(v.cpu().numpy(), {TIME: batch.times}, TIME) for v in each)
    return check_evidence(bound, evidence, used)


def _spread(subject: _Subject, seed: int, used: Collection[str]) -> Finding:
    batch, model = subject.batch, subject.model
    paths = guide_paths(model, batch, max(100, subject.filtered.num_samples), seed)
    seen = batch.observed.any(-1).cpu().numpy()
    kind: Kind = "smoothed" if isinstance(model.guide_part, Smoothing) else "filtered"
    each = (paths.factors.std(0), subject.states.of(kind).std(1, correction=0))
    guide, exact = (xr.DataArray(sd.cpu().numpy()[seen], dims=(TIME, FACTOR)) for sd in each)
    return check_spread(guide, exact, used)
