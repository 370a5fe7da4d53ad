"""Factor paths by NUTS as ground truth for the smoother and for a fitted guide."""

import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS

import rvrae_pyro as rv
from tests.diagnostics.helpers import freeze, known_model, known_panel
from tests.helpers import double


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore")
def test_nuts_the_exact_smoother_and_a_fitted_guide_agree() -> None:
    """Means within 0.15 posterior deviations, deviations within 12 %.

    1500 draws of NUTS have errors near 0.03 deviations and 2 %; the rest is room for what
    training left: a seed in a hundred may fail.
    """
    panel = known_panel(8, 6, 1, seed=1)
    batch = double(panel)
    model = freeze(known_model(1, guide=rv.guides.Smoothing(1, 4)), but="guide")
    config = rv.FitConfig(
        max_steps=400, window=None, kl_schedule=rv.schedules.Constant(), dtype=torch.float64
    )
    fit = rv.fit(model, panel, config=config, progress=False)
    svi = fit.posterior_predictive(panel, 4000)["posterior"]["factors"].to_numpy()[0, ..., 0]
    exact = rv.exact.smoother(freeze(model), batch)
    mean, sd = exact.mean[:, 0].numpy(), exact.covariance[:, 0, 0].sqrt().numpy()
    pyro.set_rng_seed(2)
    kernel = NUTS(model.model, jit_compile=True, ignore_jit_warnings=True, max_tree_depth=5)
    mcmc = MCMC(kernel, num_samples=1500, warmup_steps=300, disable_progbar=True)
    mcmc.run(batch)
    nuts = mcmc.get_samples()["factors"].numpy().reshape(1500, -1)
    for draws in (nuts, svi):
        assert abs((draws.mean(0) - mean) / sd).max() < 0.15
        assert abs(draws.std(0) / sd - 1).max() < 0.12
    assert abs((svi.mean(0) - nuts.mean(0)) / nuts.std(0)).max() < 0.2
