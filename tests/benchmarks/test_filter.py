"""Monte-Carlo error of the particle filter on wide cross-sections, by factor prior.

Prints, for a default fit and for one with ``CommonVolatility``, the effective sample size of 1,000
particles and the standard deviation over seeds of each month's log evidence. The common volatility
is held to 0.05 nats; a level that is a function of past factors is not (it exceeds 100).
"""

import time

import numpy as np
import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.inference.particle_filter import smc_filter
from rvrae_pyro.predictive.weight_draws import in_double

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
