"""Monte-Carlo error of the particle filter on wide cross-sections, by factor prior.

Prints, for a default fit and for one with ``CommonVolatility``, the effective sample size of 1,000
particles and the standard deviation over seeds of each month's log evidence. The common volatility
is held to 0.05 nats; a level that is a function of past factors is not (it exceeds 100).

Of the panel of US stocks that RVRAE_US_PANEL names, every month of 2005 to 2015 by 1,000 particles
and 20 seeds is held against 50,000 particles; RVRAE_FILTER_YEARS="2008 2014" takes some years, the
filter starting afresh with each.
"""

import os
import time

import numpy as np
import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.particle_filter import Cloud, smc_filter
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.predictive.weight_draws import in_double
from tests.benchmarks.us_common_volatility import FIRST, LAST, panel_until, train
from tests.data.test_real_panels import needs_us_panel

P, K, SEEDS = 15, 6, 8


def common() -> rv.RVRAE:
    base = rv.priors.Recurrent(K, idio_level=False)
    return rv.RVRAE(P, K, factor_prior=rv.priors.CommonVolatility(base))


@pytest.mark.benchmark
@pytest.mark.parametrize("n_assets", [2500, 5000])
def test_evidence_of_a_month_repeats_over_seeds(n_assets: int) -> None:
    panel = rv.data.simulate_dynamic(
        n_assets=n_assets, n_times=40, n_characteristics=P, n_factors=3, seed=2
    )
    panel = rv.data.rank_characteristics(panel)
    train = panel.isel(time=slice(0, 28))
    batch = rv.data.to_batch(panel, dtype=torch.float64)
    found = {}
    for name, make in (("default", lambda: rv.RVRAE(P, K)), ("common volatility", common)):
        fit = rv.fit(make(), train, config=rv.FitConfig(max_steps=250), progress=False)
        model = in_double(fit.model)
        cross = model.parts.online_cross_section(batch)
        started = time.process_time()
        clouds = [smc_filter(model, batch, 1000, seed=seed, cross=cross) for seed in range(SEEDS)]
        seconds = (time.process_time() - started) / SEEDS
        ess = np.array([cloud.ess.numpy() for cloud in clouds])
        spread = np.array([cloud.log_evidence.numpy() for cloud in clouds]).std(0, ddof=1)
        found[name] = spread.max()
        print(
            f"\n{n_assets} assets, {name}: {seconds:.2f} s per pass; effective sample size "
            f"{np.median(ess):.0f} (least {ess.min():.0f}); sd of log evidence "
            f"{np.median(spread):.3f} (largest {spread.max():.3f}) nats"
        )
    assert found["common volatility"] <= 0.05


def log_evidence(
    model: rv.RVRAE, batch: Batch, cross: CrossSection, num_particles: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log evidence and effective sample size by month, without a record of the particles."""
    shared = model.parts.prepare(batch, cross)
    cloud = Cloud(model.parts, batch, num_particles, seed, 0, shared)
    found = []
    with torch.no_grad():
        for t in range(batch.n_times):
            cloud.step(t)
            found.append((float(cloud.log_evidence[-1]), float(cloud.ess[-1])))
            cloud.forget()
    evidence, ess = np.array(found).T
    return evidence, ess


@pytest.mark.benchmark
@pytest.mark.realdata
@needs_us_panel
def test_months_of_us_stocks_are_those_of_50_000_particles() -> None:
    """Trained 2005-08, stopped on 2009: sd over seeds and distance of the mean <= 0.05 nats."""
    chosen = os.environ.get("RVRAE_FILTER_YEARS", "").split()
    spans = [(year, year) for year in chosen] or [("2005", str(LAST))]
    fit = train("common", FIRST, 400, 0)
    print(f"\n{fit!r}")
    model = in_double(fit.model)
    spread, gap, least = [], [], []
    for first, last in spans:
        part = panel_until(LAST).sel(time=slice(first, last))
        batch = rv.data.to_batch(part, dtype=torch.float64)
        with torch.no_grad():
            cross = model.parts.online_cross_section(batch)
        began = time.process_time()
        runs = [log_evidence(model, batch, cross, 1_000, seed) for seed in range(20)]
        middle = time.process_time()
        reference, _ = log_evidence(model, batch, cross, 50_000, 100)
        print(
            f"{first}-{last}: {middle - began:.0f} s for 20 passes, "
            f"{time.process_time() - middle:.0f} s for one of 50,000 particles"
        )
        evidence = np.array([run[0] for run in runs])
        spread.append(evidence.std(0, ddof=1))
        gap.append(np.abs(evidence.mean(0) - reference))
        least.append(np.array([run[1] for run in runs]).min(0))
    spreads, gaps, ess = (np.concatenate(each) for each in (spread, gap, least))
    print(
        f"{len(spreads)} months: sd {np.median(spreads):.4f} (largest {spreads.max():.4f}); "
        f"distance of the mean {np.median(gaps):.4f} (largest {gaps.max():.4f}); effective "
        f"sample size {np.median(ess):.0f} (least {ess.min():.0f})"
    )
    assert spreads.max() <= 0.05
    assert gaps.max() <= 0.05
