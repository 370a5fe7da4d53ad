"""False alarms and detections of ``fit.check``: simulated healthy fits, and fits with a fault.

Run as ``python -m tests.benchmarks.check_calibration [fits] [faulty fits]``; prints two tables.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.errors import RvraeWarning

N_ASSETS, N_CHARACTERISTICS, N_FACTORS = 30, 3, 2
TRAIN, VALID, TEST = 60, 12, 24
STEPS, PARTICLES = 160, 200
UNIT = 0.06  # residual scale, decimal per month

QUESTIONS = {
    "converged": "Did training converge?",
    "rank": "Are all factors in use?",
    "moved": "Do characteristics move the loadings?",
    "holds": "Does it hold outside the training months?",
    "filter": "Does the particle filter hold?",
    "bound": "Is the guide good enough?",
    "draws": "Can the guide's draws be used as they are?",
    "width": "Is the guide as sure as it should be?",
    "coverage": "Are forecasts calibrated, one month ahead?",
    "tails": "Does the likelihood have the right tails?",
    "skill": "Is the skill believable?",
}


def simulate(seed: int, *, df: float = 8.0) -> xr.Dataset:
    """Simulate a market that the model below can describe: linear loadings, heavy-tailed noise."""
    rng = np.random.default_rng(seed)
    n_times = TRAIN + VALID + TEST
    x = rng.normal(size=(n_times, N_ASSETS, N_CHARACTERISTICS))
    for t in range(1, n_times):  # characteristics last
        x[t] = 0.95 * x[t - 1] + (1 - 0.95**2) ** 0.5 * x[t]
    ranks = 2.0 * x.argsort(1).argsort(1) / (N_ASSETS - 1) - 1.0
    slopes = rng.normal(size=(N_CHARACTERISTICS, N_FACTORS))
    beta = ranks @ slopes + np.array([1.0, 0.0])
    factors = rng.normal(size=(n_times, N_FACTORS)) * np.array([0.04, 0.03])
    noise = UNIT * rng.standard_t(df, (n_times, N_ASSETS)) * ((df - 2.0) / df) ** 0.5
    returns = (beta * factors[:, None]).sum(-1) + noise
    returns[rng.random(returns.shape) < 0.05] = np.nan
    return xr.Dataset(
        {
            "returns": (("time", "asset"), returns),
            "characteristics": (("time", "asset", "characteristic"), ranks),
        },
        {
            "time": pd.date_range("2000-01-31", periods=n_times, freq="ME", unit="ns"),
            "asset": [f"a{i:02d}" for i in range(N_ASSETS)],
            "characteristic": [f"c{i}" for i in range(N_CHARACTERISTICS)],
        },
        {"frequency": "monthly", "transform": "rank"},
    )


def fit(
    panel: xr.Dataset,
    seed: int,
    *,
    loadings: rv.loadings.Loadings | None = None,
    likelihood: rv.likelihoods.Likelihood | None = None,
    stopped: bool = True,
    train: int = TRAIN,
    **config: object,
) -> rv.Fit:
    """Fit the market's own model, unless a fault says otherwise."""
    model = rv.RVRAE(
        N_CHARACTERISTICS,
        N_FACTORS,
        loadings=loadings or rv.loadings.Linear(N_CHARACTERISTICS, N_FACTORS),
        factor_prior=rv.priors.AR1(N_FACTORS),
        likelihood=likelihood or rv.likelihoods.StudentT(),
    )
    months, valid, _ = rv.data.split(panel, train, VALID, panel.sizes["time"] - train - VALID)
    settings = {
        "max_steps": STEPS,
        "learning_rate": 0.05,
        "window": 20,
        "passes": 3,
        "kl_schedule": rv.schedules.Constant(),
        **config,
    }
    chosen = rv.FitConfig(**settings)  # type: ignore[arg-type]
    judged = valid if stopped else None
    return rv.fit(model, months, judged, config=chosen, seed=seed, progress=False)


def verdicts(fitted: rv.Fit, panel: xr.Dataset) -> dict[str, str]:
    """Verdict of every question of the page, by its short name."""
    page = fitted.check(panel, num_particles=PARTICLES)
    found = {finding.question: finding.verdict for finding in page.findings}
    return {name: found[question] for name, question in QUESTIONS.items() if question in found}


def healthy(seed: int) -> tuple[rv.Fit, xr.Dataset]:
    """Fit without a fault."""
    panel = simulate(seed)
    return fit(panel, seed), panel


def collapse(seed: int) -> tuple[rv.Fit, xr.Dataset]:
    """A weight prior so strong that every asset gets the same loadings."""
    panel = simulate(seed)
    strong = rv.weights.GroupLog(strength=1e5)
    loadings = rv.loadings.Linear(N_CHARACTERISTICS, N_FACTORS, weights=strong)
    return fit(panel, seed, loadings=loadings), panel


def leak(seed: int) -> tuple[rv.Fit, xr.Dataset]:
    """A characteristic that is the month's own return with noise, ranked."""
    panel = simulate(seed)
    rng = np.random.default_rng(10_000 + seed)
    noise = rng.normal(0.0, UNIT / 2, panel["returns"].shape)
    peek = panel["returns"].fillna(0.0).to_numpy() + noise
    panel["characteristics"][..., 0] = 2.0 * peek.argsort(1).argsort(1) / (N_ASSETS - 1) - 1.0
    return fit(panel, seed), panel


def overfit(seed: int) -> tuple[rv.Fit, xr.Dataset]:
    """Twelve months of training, two hidden layers without a weight prior, nothing to stop by."""
    panel = simulate(seed)
    loadings = rv.loadings.MLP(N_CHARACTERISTICS, N_FACTORS, hidden=(64, 64), weights=None)
    fitted = fit(
        panel, seed, loadings=loadings, stopped=False, train=12, max_steps=300, learning_rate=0.02
    )
    return fitted, panel


def thin_tails(seed: int) -> tuple[rv.Fit, xr.Dataset]:
    """Normal returns assumed, Student-t with three degrees of freedom seen."""
    panel = simulate(seed, df=3.0)
    return fit(panel, seed, likelihood=rv.likelihoods.Normal()), panel


def wrong_scale(seed: int) -> tuple[rv.Fit, xr.Dataset]:
    """Residual scales doubled or halved after training, in turn."""
    fitted, panel = healthy(seed)
    with torch.no_grad():
        fitted.model.likelihood.scale.log_scale.add_((-1) ** seed * float(np.log(2.0)))
    return fitted, panel


def stale_level(seed: int) -> tuple[rv.Fit, xr.Dataset]:
    """A market whose volatility doubles or halves after the training, in turn."""
    fitted, panel = healthy(seed)
    later = panel["time"] > panel["time"][TRAIN - 1]
    factor = 2.0 ** ((-1) ** seed)
    return fitted, panel.assign(returns=panel["returns"] * xr.where(later, factor, 1.0))


FAULTS: dict[str, tuple[Callable[[int], tuple[rv.Fit, xr.Dataset]], tuple[str, ...]]] = {
    "collapse": (collapse, ("rank", "moved")),
    "leak": (leak, ("skill",)),
    "overfit": (overfit, ("coverage", "skill")),
    "thin tails": (thin_tails, ("tails",)),
    "wrong scale": (wrong_scale, ("coverage",)),
    "stale level": (stale_level, ("coverage",)),
}
"""By name: what plants it, and the questions one of which must notice it."""


@dataclass(frozen=True)
class Rates:
    """Shares of fits with an alarm, which is any verdict but good.

    Attributes
    ----------
    false_alarms : dict from question to share of healthy fits
    detected : dict from fault to share of faulty fits that the named questions notice
    alarms : dict from fault to the number of alarms by question
    n_healthy, n_faulty : int
    seconds : float
        CPU time.
    """

    false_alarms: dict[str, float]
    detected: dict[str, float]
    alarms: dict[str, Counter[str]]
    n_healthy: int
    n_faulty: int
    seconds: float


def calibrate(n_healthy: int = 200, n_faulty: int = 20, first_seed: int = 0) -> Rates:
    """Count false alarms and detections; seeds of healthy and faulty fits are apart."""
    began = time.process_time()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RvraeWarning)
        pages = [verdicts(*healthy(first_seed + seed)) for seed in range(n_healthy)]
        rates = {
            name: float(np.mean([page[name] != "good" for page in pages])) if pages else np.nan
            for name in QUESTIONS
        }
        detected, alarms = {}, {}
        for fault, (plant, noticing) in FAULTS.items():
            found = [verdicts(*plant(first_seed + 1000 + seed)) for seed in range(n_faulty)]
            noticed = [any(page[name] != "good" for name in noticing) for page in found]
            detected[fault] = float(np.mean(noticed)) if found else np.nan
            alarms[fault] = Counter(n for page in found for n in page if page[n] != "good")
    torch.set_num_threads(threads)
    spent = time.process_time() - began
    return Rates(rates, detected, alarms, n_healthy, n_faulty, spent)


def tables(rates: Rates) -> str:
    """Lay the rates out in Markdown."""
    lines = [
        f"| question | false alarms, {rates.n_healthy} healthy fits |",
        "| --- | --- |",
        *(f"| {QUESTIONS[name]} | {100 * r:.1f} % |" for name, r in rates.false_alarms.items()),
        "",
        f"| planted fault | noticed, {rates.n_faulty} fits | by |",
        "| --- | --- | --- |",
    ]
    for fault, share in rates.detected.items():
        asked = " or ".join(QUESTIONS[name] for name in FAULTS[fault][1])
        lines.append(f"| {fault} | {100 * share:.0f} % | {asked} |")
    return "\n".join(lines)


if __name__ == "__main__":
    counts = [int(each) for each in sys.argv[1:3]]
    result = calibrate(*counts)
    print(tables(result))
    print(f"\n{result.seconds:.0f} s of CPU time. All alarms by fault: {result.alarms}")
