"""The common volatility against numbers found without it: grids, simulation-based calibration.

On a grid of 2,001 log-volatilities the evidence, the filter and the smoother are exact. Samplers
(particle filter, NUTS, Pyro's own prior predictive) are held to it.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.particle_filter import smc_filter
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir
from tests.models.test_common_volatility import PHI, POINTS, G, S, make, month_density, two_assets

Array = NDArray[np.float64]
GRID = np.linspace(-4.0, 4.0, POINTS)
DF = 4.0


@dataclass
class OnGrid:
    """Exact answers on the grid: densities of x by month, given returns up to it or all returns."""

    log_evidence: Array
    filtered: Array
    smoothed: Array

    @classmethod
    def of(cls, log_likelihood: Array, phi: float = PHI, s: float = S) -> "OnGrid":
        """Forward and backward passes, from log p(r_t | x) of every month and point."""
        width, unit = GRID[1] - GRID[0], 1.0 / (s * math.sqrt(2.0 * math.pi))
        # to the row's x from the column's
        move = width * unit * np.exp(-0.5 * ((GRID[:, None] - phi * GRID[None]) / s) ** 2)
        start = unit * np.exp(-0.5 * (GRID / s) ** 2)
        log_evidence, filtered, ahead = [], [], start
        for month in np.exp(log_likelihood):
            joint = ahead * month
            log_evidence.append(math.log(joint.sum() * width))
            filtered.append(joint / (joint.sum() * width))
            ahead = move @ filtered[-1]
        after, smoothed = np.ones_like(GRID), []
        for density, month in zip(filtered[::-1], np.exp(log_likelihood)[::-1], strict=True):
            both = density * after
            smoothed.append(both / (both.sum() * width))
            after = move.T @ (month * after)
            after /= after.max()
        return cls(np.array(log_evidence), np.array(filtered), np.array(smoothed[::-1]))


def moments(density: Array) -> tuple[Array, Array]:
    """Mean and standard deviation by month."""
    weight = density / density.sum(-1, keepdims=True)
    mean = weight @ GRID
    return mean, np.sqrt(weight @ GRID**2 - mean**2)


def normal_months(model: rv.RVRAE, batch: Batch) -> Array:
    """Log p(r_t | x) of Normal returns on the grid, factors integrated out in closed form."""
    x = torch.as_tensor(GRID)
    with torch.no_grad():
        g = model.factor_prior.idio_elasticity
        cross = model.parts.cross_section(batch)
        months = [month_density(batch, cross, t, x, g) for t in range(batch.n_times)]
    return torch.stack(months).numpy()


def student_months(model: rv.RVRAE, batch: Batch) -> Array:
    """Log p(r_t | x) of Student-t returns on the grid: the one factor by quadrature.

    The trapezoidal rule on 401 points out to 10 standard deviations is exact to 1e-12 here.
    """
    unit = torch.linspace(-10.0, 10.0, 401, dtype=torch.float64)
    weight = torch.distributions.Normal(0.0, 1.0).log_prob(unit).double() + math.log(20.0 / 400)
    x, months = torch.as_tensor(GRID), []
    with torch.no_grad():
        cross = model.parts.cross_section(batch)
        for t in range(batch.n_times):
            log = weight.expand(POINTS, -1)
            for i in batch.observed[t].nonzero().squeeze(-1):
                loc = cross.beta[t, i, 0] * x.exp()[:, None] * unit
                scale = cross.scale[t, i] * (G * x).exp()[:, None]
                law = torch.distributions.StudentT(DF, loc, scale)
                log = log + law.log_prob(batch.returns[t, i])
            months.append(torch.logsumexp(log, -1))
    return torch.stack(months).numpy()


def one_factor(likelihood: rv.likelihoods.Likelihood) -> rv.RVRAE:
    """As :func:`make`, with one factor."""
    prior = rv.priors.CommonVolatility(rv.priors.StandardNormal(1), PHI, S, G)
    model = rv.RVRAE(
        P, 1, loadings=rv.loadings.Linear(P, 1), factor_prior=prior, likelihood=likelihood
    ).double()
    with torch.no_grad():
        model.loadings.layer.weight.copy_(torch.linspace(-0.9, 1.1, P)[None])
        model.likelihood.scale.log_scale.fill_(math.log(0.7))
        model.parts.return_scale.fill_(0.05)
    return model


def test_student_t_evidence_and_filter_are_those_of_quadrature() -> None:
    """20,000 particles: evidence within 0.03 nats, x within 0.02: 4 standard errors or more."""
    model = one_factor(rv.likelihoods.StudentT(df=DF, learn_df=False))
    batch = two_assets()
    exact = OnGrid.of(student_months(model, batch))
    cloud = smc_filter(model, batch, 20_000, seed=1)
    np.testing.assert_allclose(cloud.log_evidence, exact.log_evidence, atol=0.03, rtol=0)
    x = cloud.readings["log_volatility"].squeeze(-1)
    mean, sd = moments(exact.filtered)
    np.testing.assert_allclose(x.mean(1), mean, atol=0.02, rtol=0)
    np.testing.assert_allclose(x.std(1), sd, atol=0.02, rtol=0)
    assert mean.max() > 2.0 * S  # months far from what their prior expects


def drawn_from_the_model(
    model: rv.RVRAE, batch: Batch, num: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-volatilities (num, n_times) and returns (num, n_times, n_assets), by Pyro alone."""
    pyro.set_rng_seed(seed)
    with torch.no_grad():
        drawn = Predictive(
            model.model, num_samples=num, parallel=True, return_sites=("log_volatility", "returns")
        )(batch.without_returns())
    x = drawn["log_volatility"].reshape(num, batch.n_times)
    return x, drawn["returns"].reshape(num, batch.n_times, batch.n_assets)


def ranks_of_the_filter(
    drawing: rv.RVRAE,
    filtering: rv.RVRAE,
    num_datasets: int,
    num_particles: int,
    n_times: int,
    n_assets: int = 3,
) -> xr.DataArray:
    """Rank what the first model drew among 99 particles of the second, in two months.

    By simulated panel, given returns up to the month: x_t; of a prior with a gain, the
    log-volatility expected from x_1..x_t.
    """
    batch = double(random_panel(n_times, n_assets, seed=2))
    batch = dataclasses.replace(batch, observed=batch.listed)
    x, returns = drawn_from_the_model(drawing, batch, num_datasets, seed=0)
    path, months = drawing.factor_prior.auxiliary, [n_times // 2, n_times - 1]
    with torch.no_grad():
        state, truth = path.initial(), []
        for t in range(n_times):
            state = path.advance(state, x[:, t : t + 1], None)
            truth.append(state[0].squeeze(-1))
    rng = np.random.default_rng(0)
    ranks = np.empty((num_datasets, len(months)), int)
    for i in range(num_datasets):
        data = dataclasses.replace(batch, returns=returns[i])
        cloud = smc_filter(filtering, data, num_particles, seed=i)
        found = cloud.readings["log_volatility"].squeeze(-1).numpy()
        some = rng.choice(num_particles, 99, replace=False)
        for j, t in enumerate(months):
            ranks[i, j] = (found[t, some] < float(truth[t][i])).sum()
    return xr.DataArray(ranks[None], dims=("chain", "draw", "time"))


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["normal", "student_t"])
def test_filtered_volatility_is_calibrated(name: str) -> None:
    """Simulation-based calibration of x_t: p > 0.001 in two months; fails at one seed in 500."""
    likelihood = {
        "normal": rv.likelihoods.Normal(),
        "student_t": rv.likelihoods.StudentT(df=DF, learn_df=False),
    }[name]
    model = one_factor(likelihood)
    found = rv.diagnostics.uniformity(ranks_of_the_filter(model, model, 100, 300, 4), 99)
    assert bool((found["p_value"] > 0.001).all())
    assert bool((np.abs(found["bias"]) < 4.0).all())


@pytest.mark.statistical
def test_ranks_tell_a_wrong_volatility() -> None:
    """A filter that takes volatility for a quarter of what it is: a chance below 1e-6 to pass."""
    drawing, filtering = (one_factor(rv.likelihoods.Normal()) for _ in range(2))
    with torch.no_grad():
        filtering.factor_prior.auxiliary.log_scale.sub_(math.log(4.0))
    found = rv.diagnostics.uniformity(ranks_of_the_filter(drawing, filtering, 100, 300, 4), 99)
    assert bool((found["p_value"] < 1e-6).all())
    assert bool((found["spread"] > 1.5).all())


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_filtered_volatility_of_a_recurrent_base_is_calibrated(gain: float) -> None:
    """400 panels of 8 months and 8 assets, Student-t returns: fails at one seed in 500."""
    base = rv.priors.Recurrent(K, hidden=3, idio_level=False)
    model = rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.CommonVolatility(base, 0.95, S, G, gain=gain),
        likelihood=rv.likelihoods.StudentT(df=DF, learn_df=False),
    )
    model = stir(model.double(), size=0.2)
    found = rv.diagnostics.uniformity(ranks_of_the_filter(model, model, 400, 300, 8, 8), 99)
    assert bool((found["p_value"] > 0.001).all())
    assert bool((np.abs(found["bias"]) < 4.0).all())


def test_pyro_draws_volatility_from_its_prior() -> None:
    """Means and variances of 4,000 paths, in closed form, to 5 standard errors."""
    model, batch = make(), two_assets()
    x, _ = drawn_from_the_model(model, batch, 4_000, seed=3)
    t = np.arange(1, batch.n_times + 1)
    variance = S**2 * (1.0 - PHI ** (2 * t)) / (1.0 - PHI**2)
    assert (np.abs(x.mean(0).numpy()) < 5 * np.sqrt(variance / 4_000)).all()
    np.testing.assert_allclose(x.var(0), variance, rtol=5 * math.sqrt(2 / 4_000))
    slope = (x[:, 1:] * x[:, :-1]).sum() / x[:, :-1].square().sum()
    assert float(slope) == pytest.approx(PHI, abs=0.02)


@pytest.mark.parametrize("local", [False, True])
def test_predictive_and_nuts_see_an_ordinary_model(local: bool) -> None:
    model, batch = make(), two_assets()
    with pyro.settings.context(module_local_params=local):
        for parallel in (False, True):
            drawn = Predictive(model.model, guide=model.guide, num_samples=5, parallel=parallel)(
                batch.without_returns()
            )
            x = drawn["log_volatility"].reshape(5, batch.n_times)
            assert bool(x.isfinite().all())
            assert float(x.std(0).min()) > 0
        pyro.set_rng_seed(0)
        kernel = NUTS(
            lambda: model.model(batch), step_size=0.02, adapt_step_size=False, max_tree_depth=3
        )
        chain = MCMC(kernel, num_samples=4, warmup_steps=0, disable_progbar=True)
        chain.run()
    assert chain.get_samples()["log_volatility"].shape == (4, batch.n_times, 1, 1)
    assert float(chain.get_samples()["log_volatility"].std(0).min()) > 0


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore")
def test_nuts_is_the_smoother_of_a_grid() -> None:
    """1,000 draws: means within 0.2 posterior deviations, deviations within 15 %.

    With 300 effective draws or more, standard errors are below 0.06 deviations and 4 %.
    """
    model, batch = make(), two_assets()
    for weight in model.parts.parameters():
        weight.requires_grad_(False)
    exact = OnGrid.of(normal_months(model, batch))
    pyro.set_rng_seed(1)
    kernel = NUTS(model.model, jit_compile=True, ignore_jit_warnings=True, max_tree_depth=6)
    chain = MCMC(kernel, num_samples=1_000, warmup_steps=300, disable_progbar=True)
    chain.run(batch)
    x = chain.get_samples()["log_volatility"].reshape(1_000, -1).numpy()
    mean, sd = moments(exact.smoothed)
    assert np.abs((x.mean(0) - mean) / sd).max() < 0.2
    assert np.abs(x.std(0) / sd - 1.0).max() < 0.15


def test_guide_paths_weigh_to_the_smoother_of_a_grid() -> None:
    """Importance-weighted paths of the guide: mean of every month within 0.03, sd within 0.03.

    The weights of 20,000 paths have an effective size of 3,000 or more: 3 standard errors.
    """
    model, batch = make(), two_assets()
    exact = OnGrid.of(normal_months(model, batch))
    pyro.set_rng_seed(0)
    plate = pyro.plate("particles", 20_000, dim=-3)
    with torch.no_grad():
        guide = poutine.trace(plate(model.guide)).get_trace(batch)
        trace = poutine.trace(poutine.replay(plate(model.model), guide)).get_trace(batch)
        guide.compute_log_prob()
        trace.compute_log_prob()
        total = trace.nodes["returns"]["log_prob"].sum((-1, -2))
        for site in ("log_volatility", "factors"):
            ratio = trace.nodes[site]["log_prob"] - guide.nodes[site]["log_prob"]
            total = total + ratio.sum((-1, -2))
        weight = torch.softmax(total, 0)
        x = guide.nodes["log_volatility"]["value"].reshape(20_000, -1)
    assert float(1.0 / weight.square().sum()) > 3_000
    mean, sd = moments(exact.smoothed)
    found = weight @ x
    np.testing.assert_allclose(found, mean, atol=0.03, rtol=0)
    np.testing.assert_allclose((weight @ (x - found).square()).sqrt(), sd, atol=0.03, rtol=0)


def test_joint_tail_of_a_forecast_is_that_of_a_simulation() -> None:
    """Probability that all listed assets move by two standard deviations or more in one month.

    The simulation draws x of the month before from the grid and applies the model's equations in
    numpy. To 5 standard errors; it is ten times the product of the assets' own probabilities.
    """
    panel, num = random_panel(6, 4, seed=4), 40_000
    panel["returns"].values[4] = [0.21, -0.17, 0.15, 0.13]
    fit = rv.fit(
        one_factor(rv.likelihoods.Normal()),
        panel,
        config=rv.FitConfig(max_steps=1, dtype=torch.float64),
        progress=False,
    )
    prior, batch = fit.model.factor_prior, double(panel)
    held = batch.listed[-1].numpy()
    assert held.sum() >= 3
    tree = fit.forecast(panel, num_samples=num, times=panel["time"].values[-1:])
    draws = tree["predictions"]["returns"].isel(chain=0, time=0).transpose("draw", "asset")
    drawn = draws.values[:, held]
    sd = drawn.std(0)
    with torch.no_grad():
        cross = fit.model.parts.cross_section(batch)
        beta, scale = cross.beta[-1, held, 0].numpy(), cross.scale[-1, held].numpy()
        phi, s, g = (
            float(value)
            for value in (prior.coefficient, prior.innovation_scale, prior.idio_elasticity)
        )
    density = OnGrid.of(normal_months(fit.model, batch), phi, s).filtered[-2]
    rng = np.random.default_rng(0)
    n = 10 * num
    x = phi * rng.choice(GRID, n, p=density / density.sum()) + s * rng.standard_normal(n)
    simulated = (np.exp(x) * rng.standard_normal(n))[:, None] * beta
    simulated += scale * np.exp(g * x)[:, None] * rng.standard_normal((n, len(beta)))
    np.testing.assert_allclose(sd, simulated.std(0), rtol=0.05)
    beyond = np.abs(simulated) > 2.0 * sd
    expected = float(beyond.all(1).mean())
    assert expected > 10.0 * beyond.mean(0).prod()
    found = float((np.abs(drawn) > 2.0 * sd).all(1).mean())
    error = math.sqrt(expected * (1.0 / num + 1.0 / n))
    assert found == pytest.approx(expected, abs=5.0 * error)
