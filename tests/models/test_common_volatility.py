"""The common volatility against grids, quadrature and simulation, and as a part of a pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO
from pyro.optim import ClippedAdam
from scipy import stats

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.particle_filter import smc_filter
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.nn.gaussian import Dispersion, Gaussian, Potential
from rvrae_pyro.nn.log_volatility import VolatilityEvidence, propose_volatility
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir

PHI, S, G = 0.85, 0.4, 0.7
POINTS = 2001


def make(likelihood: rv.likelihoods.Likelihood | None = None) -> rv.RVRAE:
    """A small model in double precision, away from where its parts start."""
    prior = rv.priors.CommonVolatility(rv.priors.StandardNormal(K), PHI, S, G)
    likelihood = likelihood or rv.likelihoods.Normal()
    model = rv.RVRAE(
        P, K, loadings=rv.loadings.Linear(P, K), factor_prior=prior, likelihood=likelihood
    ).double()
    with torch.no_grad():
        model.loadings.layer.weight.copy_(torch.linspace(-0.9, 1.1, P * K).reshape(K, P))
        model.likelihood.scale.log_scale.fill_(math.log(0.7))
        model.parts.return_scale.fill_(0.05)
    return model


def two_assets() -> Batch:
    panel = random_panel(6, 2, seed=4)
    panel["returns"].values[2] = [0.21, -0.17]  # a month of high volatility
    panel["returns"].values[4, 1] = np.nan
    return double(panel)


def month_density(
    batch: Batch, cross: CrossSection, t: int, x: torch.Tensor, g: torch.Tensor
) -> torch.Tensor:
    """Log density of a month's Normal returns at log-volatilities x, factors integrated out."""
    seen = batch.observed[t]
    if not bool(seen.any()):
        return torch.zeros_like(x)
    beta, sigma = cross.beta[t, seen], cross.scale[t, seen]
    cov = torch.exp(2 * x)[:, None, None] * (beta @ beta.T)
    cov = cov + torch.diag_embed((sigma * torch.exp(g * x)[:, None]).square())
    law = torch.distributions.MultivariateNormal(torch.zeros(len(beta)).double(), cov)
    return law.log_prob(batch.returns[t, seen])


def grid_filter(model: rv.RVRAE, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Evidence by month, and filtered mean and sd of x, on a grid of 2,001 points."""
    prior = model.factor_prior
    phi, s, g = prior.coefficient, prior.innovation_scale, prior.idio_elasticity
    x = torch.linspace(-4.0, 4.0, POINTS, dtype=torch.float64)
    width = float(x[1] - x[0])
    cross = model.parts.cross_section(batch)

    def normal(value: torch.Tensor, loc: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(loc, s).log_prob(value)

    filtered, evidence, means, sds = None, [], [], []
    for t in range(batch.n_times):
        if filtered is None:
            ahead = normal(x, torch.zeros_like(x)).exp()
        else:
            ahead = (normal(x[:, None], phi * x[None, :]).exp() * filtered * width).sum(1)
        joint = ahead * month_density(batch, cross, t, x, g).exp()
        total = joint.sum() * width
        evidence.append(total.log())
        filtered = joint / total
        mean = (x * filtered).sum() * width
        means.append(mean)
        sds.append((((x - mean).square() * filtered).sum() * width).sqrt())
    return torch.stack(evidence), torch.stack(means), torch.stack(sds)


def test_evidence_and_filter_are_those_of_a_grid() -> None:
    """20,000 particles: evidence within 0.03 nats, x within 0.02: 5 standard errors or more."""
    model, batch = make(), two_assets()
    with torch.no_grad():
        evidence, mean, sd = grid_filter(model, batch)
    cloud = smc_filter(model, batch, 20_000, seed=1)
    assert (cloud.log_evidence - evidence).abs().max() < 0.03
    x = cloud.readings["log_volatility"].squeeze(-1)
    assert (x.mean(1) - mean).abs().max() < 0.02
    assert (x.std(1) - sd).abs().max() < 0.02
    assert float(cloud.ess.min()) > 4_000


def smoothing() -> rv.RVRAE:
    """As :func:`make`, with a share of each month's surprise that lasts."""
    prior = rv.priors.CommonVolatility(rv.priors.StandardNormal(K), 0.95, S, G, gain=0.3)
    model = rv.RVRAE(
        P, K, loadings=rv.loadings.Linear(P, K), factor_prior=prior, likelihood=make().likelihood
    ).double()
    model.parts.loadings.load_state_dict(make().parts.loadings.state_dict())
    model.parts.return_scale.fill_(0.05)
    return model


def test_evidence_with_a_gain_is_that_of_a_grid() -> None:
    """Three months, so that the third expects a mean of the first two log-volatilities."""
    model, batch = smoothing(), two_assets().window(1, 4, every_asset=True)
    phi, gain = 0.95, 0.3
    with torch.no_grad():
        cross = model.parts.cross_section(batch)
        x = torch.linspace(-3.5, 3.5, 301, dtype=torch.float64)
        step = x[1] - x[0]
        density = [month_density(batch, cross, t, x, torch.tensor(G).double()) for t in range(3)]

    def normal(loc: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(loc[..., None], S).log_prob(x) + step.log()

    first = normal(torch.zeros(())) + density[0]
    lasting = gain * x
    second = first[:, None] + normal(phi * lasting) + density[1]
    lasting = (phi * lasting)[:, None] + gain * (x - (phi * lasting)[:, None])
    third = torch.logsumexp(normal(phi * lasting) + density[2], -1)
    exact = torch.stack(
        [
            torch.logsumexp(first, 0),
            torch.logsumexp(second, (0, 1)),
            torch.logsumexp(second + third, (0, 1)),
        ]
    )
    found = smc_filter(model, batch, 20_000, seed=0).log_evidence
    torch.testing.assert_close(found.cumsum(0), exact, atol=0.02, rtol=0)


def test_a_gain_of_one_is_an_autoregression() -> None:
    base = rv.priors.StandardNormal(K)
    plain, one = (rv.priors.CommonVolatility(base, PHI, S, G, **g) for g in ({}, {"gain": 1}))
    assert dict(plain.named_parameters()).keys() == dict(one.named_parameters()).keys()
    path = torch.randn(3, 5, 1)
    smooth = rv.priors.CommonVolatility(base, PHI, S, G, gain=1 - 1e-6).auxiliary
    for each in (one.auxiliary, smooth):
        states = each.unroll(path, None, each.initial())
        expected = plain.auxiliary.unroll(path, None, plain.auxiliary.initial())
        torch.testing.assert_close(states[0], expected[0], atol=1e-4, rtol=0)
        moved = each.advance((states[0][:, 2],), path[:, 2], None)
        torch.testing.assert_close(moved[0], states[0][:, 3])


def test_proposal_has_the_posterior_moments_of_a_grid() -> None:
    """Mean and sd of x in a month with Normal returns, past known, to 1e-3 of the prior's sd."""
    model, batch = make(), two_assets()
    with torch.no_grad():
        cross = model.parts.cross_section(batch)
        assert cross.dispersion is not None
        months = len(batch.returns)
        ahead = Gaussian(torch.full((months, 1), 0.1).double(), torch.full((months, 1), S).double())
        factors = Gaussian(torch.zeros(months, K).double(), torch.ones(months, K).double())
        evidence = VolatilityEvidence.of(factors, cross.potential, cross.dispersion)
        found = propose_volatility(ahead, evidence, model.factor_prior.idio_elasticity)
    x = torch.linspace(-4.0, 4.0, POINTS, dtype=torch.float64)
    for t in range(months):
        g = torch.tensor(G).double()
        log = month_density(batch, cross, t, x, g) - 0.5 * ((x - 0.1) / S).square()
        weight = torch.softmax(log, 0)
        mean = (weight * x).sum()
        sd = (weight * (x - mean).square()).sum().sqrt()
        assert abs(float(found.mean[t] - mean)) < 1e-3 * S
        assert abs(float(found.deviate(torch.ones(months, 1).double())[t] - sd)) < 1e-3 * S


def test_a_month_without_returns_leaves_the_prior() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    ahead = Gaussian(zero[:1] + 0.3, zero[:1] + 0.5)
    potential = Potential(torch.zeros(K, K).double(), torch.zeros(K).double())
    evidence = VolatilityEvidence.of(
        Gaussian(torch.ones(K).double(), torch.ones(K).double()),
        potential,
        Dispersion(zero[0], zero[0], zero[0]),
    )
    found = propose_volatility(ahead, evidence, torch.tensor(0.8).double())
    torch.testing.assert_close(found.mean, ahead.loc)
    torch.testing.assert_close(found.deviate(torch.ones(1).double()), ahead.scale)


def test_the_bound_is_below_the_evidence_and_near_it() -> None:
    """Mean over 4,000 draws: standard error below 0.02 nats."""
    model, batch = make(), two_assets()
    with torch.no_grad():
        evidence = float(grid_filter(model, batch)[0].sum())
        elbo = Trace_ELBO(num_particles=4_000, vectorize_particles=True, max_plate_nesting=2)
        bound = -float(elbo.loss(model.model, model.guide, batch))
    assert bound < evidence + 0.1
    assert evidence - bound < 1.0  # what a filtering guide loses by ignoring later months


def test_the_gradient_is_that_of_the_evidence() -> None:
    """Importance-weighted bound of 20,000 paths, against the grid's by central differences.

    The weights' effective size is about a fifth of that: standard errors below 0.05.
    """
    model, batch = make(), two_assets()
    prior = model.factor_prior
    names = {
        "level": model.likelihood.scale.log_scale,
        "g": prior.log_elasticity,
        "s": prior.auxiliary.log_scale,
        "phi": prior.auxiliary.logit,
    }
    bound = RenyiELBO(
        alpha=0.0, num_particles=20_000, vectorize_particles=True, max_plate_nesting=2
    )
    torch.manual_seed(0)
    bound.loss_and_grads(model.model, model.guide, batch)
    for name, weight in names.items():
        sides = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                weight.add_(step)
                sides.append(float(grid_filter(model, batch)[0].sum()))
                weight.sub_(step)
        exact = (sides[0] - sides[1]) / 2e-3
        assert weight.grad is not None
        assert -float(weight.grad.sum()) == pytest.approx(exact, abs=0.25), name


LIKELIHOODS = {
    "normal": rv.likelihoods.Normal,
    "student_t": rv.likelihoods.StudentT,
    "skewed": rv.likelihoods.SkewStudentT,
    "laplace": rv.likelihoods.Laplace,
    "mixture": rv.likelihoods.NormalMixture,
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_evidence_agrees_with_plain_importance_sampling(name: str) -> None:
    """Sum over 4 months against 400,000 prior draws; both standard errors below 0.03 nats."""
    model = make(LIKELIHOODS[name]())
    batch = double(random_panel(4, 3, seed=2))
    with torch.no_grad():
        found = smc_filter(model, batch, 20_000, seed=0).log_evidence
        prior, cross, n = model.factor_prior, model.parts.cross_section(batch), 400_000
        rng = torch.Generator().manual_seed(5)
        x, weight = torch.zeros(n, 1).double(), torch.zeros(n).double()
        for t in range(4):
            noise = torch.randn(n, 1, generator=rng).double()
            x = prior.coefficient * x + prior.innovation_scale * noise
            f = torch.randn(n, K, generator=rng).double() * x.exp()
            level = (prior.idio_elasticity * x).squeeze(-1)
            weight += cross.log_likelihood(model.likelihood, batch, t, f, level)
        expected = torch.logsumexp(weight, 0) - math.log(n)
    assert float(found.sum()) == pytest.approx(float(expected), abs=0.12)


@pytest.mark.parametrize("name", ["normal", "student_t"])
def test_the_filter_does_not_degenerate_on_wide_cross_sections(name: str) -> None:
    """400 assets and a true level: at least a twentieth of the particles count in every month."""
    model = stir(
        rv.RVRAE(
            P,
            K,
            factor_prior=rv.priors.CommonVolatility(rv.priors.Recurrent(K, hidden=3)),
            likelihood=LIKELIHOODS[name](),
        )
    ).double()
    model.set_units(double(random_panel(12, 400, seed=1)))
    panel = random_panel(12, 400, seed=1)
    panel["returns"].values[5] *= 1.8
    with torch.no_grad():
        cloud = smc_filter(model, double(panel), 1_000, seed=0)
    assert float(cloud.ess.min()) > 50
    x = cloud.readings["log_volatility"].mean((1, 2))
    assert float(x[5]) > float(x[4]) + 0.2


def test_the_filter_survives_a_month_of_extreme_factors() -> None:
    """30 assets; factors of five times their scale in one month, residuals as the model has it."""
    n_factors = 6
    model = rv.RVRAE(
        P,
        n_factors,
        loadings=rv.loadings.AssetEffects(
            rv.loadings.Linear(P, n_factors), [f"A{i:02d}" for i in range(30)]
        ),
        factor_prior=rv.priors.CommonVolatility(rv.priors.StandardNormal(n_factors), 0.9, 0.3, 0.5),
        likelihood=rv.likelihoods.StudentT(df=9.0),
    ).double()
    panel = random_panel(6, 30, seed=1)
    panel = panel.assign_coords(asset=[f"A{i:02d}" for i in range(30)])
    rng = np.random.default_rng(1)
    effects, factors = rng.normal(size=(30, n_factors)), rng.normal(size=(6, n_factors))
    factors[3] *= 5.0
    with torch.no_grad():
        model.loadings.effects[:30] = torch.as_tensor(effects)
        model.likelihood.scale.log_scale.fill_(math.log(0.3))
        model.parts.return_scale.fill_(0.05)
        batch = double(panel)
        beta = model.loadings(batch).numpy()
    noise = 0.3 * rng.standard_t(9.0, size=(6, 30))
    noise[3] *= 5.0**0.5
    returns = 0.05 * (np.einsum("tik,tk->ti", beta, factors) + noise)
    panel["returns"] = ("time", "asset"), returns
    clouds = [smc_filter(model, double(panel), n, seed=0) for n in (1_000, 8_000)]
    assert float(clouds[0].ess.min()) > 50
    # standard errors of about 0.1 and 0.03 nats
    assert clouds[0].log_evidence[3] == pytest.approx(float(clouds[1].log_evidence[3]), abs=0.4)


@pytest.mark.slow
def test_simulated_persistence_and_volatility_are_recovered() -> None:
    """One panel of 60 assets and 240 months, seed fixed; tolerances are 4 posterior sds or more."""
    true = rv.priors.CommonVolatility(rv.priors.StandardNormal(2), 0.9, 0.25, 0.8)
    base = rv.RVRAE(
        3,
        2,
        loadings=rv.loadings.Linear(3, 2),
        factor_prior=true,
        likelihood=rv.likelihoods.Normal(),
    )
    stir(base, size=0.0)
    with torch.no_grad():
        base.loadings.layer.weight.copy_(torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.7, 1.0]]))
    panel = random_panel(240, 60, seed=3, n_characteristics=3)
    drawn = rv.prior_predictive(base, panel, num_samples=1, seed=7)
    returns = drawn["prior_predictive"]["returns"].isel(chain=0, draw=0)
    panel["returns"] = returns.unstack("obs") if "obs" in returns.dims else returns
    fitted = rv.priors.CommonVolatility(rv.priors.StandardNormal(2), 0.7, 0.5, 0.5)
    model = rv.RVRAE(
        3,
        2,
        loadings=rv.loadings.Linear(3, 2),
        factor_prior=fitted,
        likelihood=rv.likelihoods.Normal(),
    )
    rv.fit(
        model,
        panel,
        config=rv.FitConfig(max_steps=400, learning_rate=0.02, window=60),
        progress=False,
    )
    with torch.no_grad():
        assert float(fitted.coefficient) == pytest.approx(0.9, abs=0.1)
        assert float(fitted.innovation_scale) == pytest.approx(0.25, abs=0.07)
        assert float(fitted.idio_elasticity) == pytest.approx(0.8, abs=0.3)


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(18, 12, seed=8, empty_months=[4])


def test_forecasts_have_a_joint_tail(panel: xr.Dataset) -> None:
    """All assets beyond two sds in one month: far more often than with independent scales.

    Draws of 4,000 months against the same numbers by hand; a binomial's 5 standard errors.
    """
    model = make()
    fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=1), progress=False)
    filtered = fit.filter(panel, 4_000)
    month = panel.time[-1:]
    draws = filtered.forecast(month)["predictions"]["returns"].isel(chain=0, time=0).values
    states = filtered.chains[0][0].states
    rng = np.random.default_rng(0)
    level = states.level[-1].numpy()
    cross = states.cross
    loc = states.predicted[-1].numpy() @ cross.beta[-1].numpy().T
    noise = rng.standard_normal(loc.shape)
    by_hand = loc + cross.scale[-1].numpy() * np.exp(level)[:, None] * noise
    known = ~np.isnan(draws).any(0)
    sd = draws[:, known].std(0)
    for threshold in (0.7, 1.0):
        ours = (np.abs(draws[:, known]) > threshold * sd).all(1).mean()
        theirs = (np.abs(by_hand[:, known]) > threshold * sd).all(1).mean()
        error = math.sqrt(max(theirs, 1e-3) / 4_000)
        assert abs(ours - theirs) < 5 * error + 1e-3


def test_no_month_knows_a_later_one(panel: xr.Dataset) -> None:
    model = stir(rv.RVRAE(P, K, factor_prior=rv.priors.CommonVolatility(rv.priors.AR1(K))))
    fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=2), progress=False)
    changed = panel.copy(deep=True)
    changed["returns"].values[10:] *= -4.0
    before, after = (fit.filter(p, 40) for p in (panel, changed))
    first, second = (f.forecast()["predictions"].to_dataset() for f in (before, after))
    np.testing.assert_array_equal(first["returns"][:, :, :11], second["returns"][:, :, :11])
    assert not np.array_equal(first["returns"][:, :, 11:], second["returns"][:, :, 11:])
    np.testing.assert_array_equal(before.log_evidence()[:10], after.log_evidence()[:10])


def test_order_of_assets_does_not_matter(panel: xr.Dataset) -> None:
    model = stir(rv.RVRAE(P, K, factor_prior=rv.priors.CommonVolatility(rv.priors.AR1(K))))
    fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=2), progress=False)
    mixed = panel.isel(asset=np.random.default_rng(1).permutation(panel.sizes["asset"]))
    one, other = (fit.filter(p, 40) for p in (panel, mixed))
    np.testing.assert_allclose(one.log_evidence(), other.log_evidence(), rtol=1e-9, atol=1e-9)
    found = other.predict().sel(asset=one.predict().asset)
    np.testing.assert_allclose(found, one.predict(), rtol=1e-7, atol=1e-12)


def test_sites_train_in_svi_and_survive_saving(panel: xr.Dataset, tmp_path: object) -> None:
    model = rv.RVRAE(P, K, factor_prior=rv.priors.CommonVolatility(rv.priors.Recurrent(K)))
    batch = rv.data.to_batch(panel)
    svi = SVI(model.model, model.guide, ClippedAdam({"lr": 0.01}), Trace_ELBO())
    assert all(math.isfinite(svi.step(batch)) for _ in range(3))
    fit = rv.fit(
        rv.RVRAE(P, K, factor_prior=rv.priors.CommonVolatility(rv.priors.Recurrent(K))),
        panel,
        config=rv.FitConfig(max_steps=3),
        progress=False,
    )
    again = rv.load(fit.save(tmp_path / "fit"))  # type: ignore[operator]
    one, other = (f.forecast(panel, 20)["predictions"]["returns"] for f in (fit, again))
    np.testing.assert_array_equal(one, other)
    state = fit.prior_state(panel, 50)
    assert state["log_volatility"].dims == state["log_volatility_sd"].dims == ("time",)
    tree = fit.posterior_predictive(panel, 20)
    assert set(tree["posterior"].data_vars) == {"factors", "log_volatility"}
    # the density of each site is its own: that of an AR(1) for the log-volatility
    prior = fit.model.factor_prior
    x = tree["posterior"]["log_volatility"].values
    before = np.concatenate([np.zeros_like(x[..., :1]), x[..., :-1]], -1)
    expected = stats.norm.logpdf(
        x, prior.coefficient.item() * before, prior.innovation_scale.item()
    )
    np.testing.assert_allclose(tree["log_prior"]["log_volatility"], expected, rtol=1e-4, atol=1e-5)
    months = tree["log_likelihood"].to_dataset().groupby("time").sum("obs")["returns"]
    months = months.reindex(time=tree["posterior"]["time"], fill_value=0.0)
    whole = tree["log_prior"]["factors"] + tree["log_prior"]["log_volatility"] + months
    np.testing.assert_allclose(
        tree["sample_stats"]["lp"], whole.transpose("chain", "draw", "time"), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("n_factors", [1, 2])
@pytest.mark.parametrize("prior", ["CommonVolatility", "StochasticVolatility"])
def test_draws_of_the_latent_are_labelled_by_month(
    prior: str, n_factors: int, panel: xr.Dataset
) -> None:
    """Alike in every tree, whatever drew them."""
    k = n_factors
    site, dims = {
        "CommonVolatility": ("log_volatility", ("chain", "draw", "time")),
        "StochasticVolatility": ("log_variance", ("chain", "draw", "time", "factor")),
    }[prior]
    chosen = (
        rv.priors.CommonVolatility(rv.priors.AR1(k))
        if prior == "CommonVolatility"
        else rv.priors.StochasticVolatility(k)
    )
    model = rv.RVRAE(P, k, factor_prior=chosen)
    batch = rv.data.to_batch(panel).without_returns()
    ours = rv.prior_predictive(model, panel, num_samples=4, seed=0)
    alone = rv.to_datatree(Predictive(model.model, num_samples=4)(batch), panel, kind="prior")
    guided = rv.to_datatree(Predictive(model.model, guide=model.guide, num_samples=4)(batch), panel)
    for draws in (ours["prior"], alone["prior"], guided["posterior"]):
        assert draws[site].dims == dims
        assert draws[site].sizes["time"] == panel.sizes["time"]
    paths = ours["prior"][site]
    assert float(paths.std("draw").min()) > 0.0


def test_the_prior_pulls_towards_persistence() -> None:
    prior = rv.priors.CommonVolatility(rv.priors.StandardNormal(K))
    with torch.no_grad():
        at_start = float(prior.log_density())
        prior.auxiliary.logit.fill_(-3.0)
        assert float(prior.log_density()) < at_start - 10


@pytest.mark.parametrize(
    "base",
    [
        lambda: rv.priors.StochasticVolatility(K),
        lambda: rv.priors.Recurrent(K, innovation="student_t"),
        lambda: rv.priors.Recurrent(K, recurrence="observed"),
        lambda: rv.priors.CommonVolatility(rv.priors.AR1(K)),
        lambda: rv.priors.AR1,
    ],
)
def test_bases_that_do_not_qualify_are_named(base: object) -> None:
    with pytest.raises(rv.ConfigError, match="`base` must"):
        rv.priors.CommonVolatility(base())  # type: ignore[operator]


@pytest.mark.parametrize("bad", [{"persistence": 1.0}, {"volatility": 0.0}, {"elasticity": -1.0}])
def test_settings_outside_their_range_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(rv.ConfigError, match=f"`{next(iter(bad))}`"):
        rv.priors.CommonVolatility(rv.priors.AR1(K), **bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_month_of_returns_that_are_all_zero_has_a_finite_potential(dtype: torch.dtype) -> None:
    """Its likelihood has no maximum in the level, which is held within bounds."""
    torch.manual_seed(0)
    beta = torch.randn(1, 30, 13, dtype=dtype)
    start = Gaussian(torch.zeros(1, 13, dtype=dtype), torch.ones(1, 13, dtype=dtype))
    law = rv.likelihoods.StudentT().to(dtype)
    nothing, seen = torch.zeros(1, 30, dtype=dtype), torch.ones(1, 30, dtype=torch.bool)
    potential, dispersion = law.dispersed_potential(nothing, beta, nothing + 0.3, seen, start)
    assert all(bool(torch.isfinite(field).all()) for field in (*potential, *dispersion))
    assert float(dispersion.level) == -8.0
