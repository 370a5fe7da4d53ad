"""Eq. (6) in full: a prior whose state sees the factors and summaries of the returns."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.importance import guide_paths
from rvrae_pyro.inference.particle_filter import smc_filter
from rvrae_pyro.models.pair import prior_distribution
from rvrae_pyro.nn.month_summary import MonthStatistics
from rvrae_pyro.predictive.simulate import simulate
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir


def build(n_context: int = 2, state: int = 3, **parts: object) -> rv.RVRAE:
    torch.manual_seed(0)
    prior = rv.priors.Recurrent(K, state, "both", n_context=n_context)
    return stir(rv.RVRAE(P, K, factor_prior=prior, **parts).double(), size=0.25)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return double(random_panel(9, 12, seed=4, empty_months=[5]))


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def by_hand(model: rv.RVRAE, batch: Batch, path: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Mean, scale and level of every month along a path, with loops and textbook formulas."""
    w, cross = dict(model.parts.named_parameters()), model.parts.cross_section(batch)
    h, a = path.new_zeros(model.factor_prior.hidden), path.new_zeros(2 * K)
    found = []
    for t in range(batch.n_times):
        seen = batch.observed[t]
        B, s, r = cross.beta[t, seen], cross.scale[t, seen], batch.returns[t, seen]
        shift = w["factor_prior.context.layer.weight"] @ batch.context[t] / math.sqrt(2)
        out = linear(w, "factor_prior.head", h)
        out = out + torch.cat([shift[:K] / 6, shift[K : 2 * K] / 3, shift[2 * K :]])
        lag, own, common = w["factor_prior.memory.effects"]
        market = a[K:].mean()
        volatility = (own * a[K:] + common * market) / (2 * (own.abs() + common.abs())).clamp(min=1)
        loc = w["factor_prior.head.bias"][K : 2 * K].exp() * out[:K] + lag / 3 * a[:K]
        level = out[-1] + w["factor_prior.memory.level"][0, 0] * market
        found.append((loc, (out[K : 2 * K] + volatility).exp(), 3 * (level / 3).tanh()))
        # what the month's returns say: least squares under a unit prior, and what is left
        lam, eta = B.T @ (B / s[:, None] ** 2), B.T @ (r / s**2)
        estimate = torch.linalg.inv(lam + torch.eye(K)) @ eta
        energy = ((r - B @ estimate) / s).square().sum()
        residual = 0.5 * ((1 + energy) / (1 + len(r))).log()
        z = path[t]
        features = torch.cat([z, (1 + z**2).log() - 0.53])
        summary = torch.cat([estimate, (1 + lam.diagonal()).log() / 10, residual[None]])
        x = torch.cat([features, summary])
        name = "factor_prior.gru"
        x = w[f"{name}.weight_ih_l0"] @ x + w[f"{name}.bias_ih_l0"]
        y = w[f"{name}.weight_hh_l0"] @ h + w[f"{name}.bias_hh_l0"]
        (xr, xu, xn), (yr, yu, yn) = x.chunk(3), y.chunk(3)
        update = (xu + yu).sigmoid()
        h = (1 - update) * (xn + (xr + yr).sigmoid() * yn).tanh() + update * h
        keep = w["factor_prior.memory.unbounded_decay"].sigmoid()
        a = keep * a + (1 - keep) * features
    return found


@pytest.mark.parametrize("state", [2, 20], ids=["months at once", "in a loop"])
def test_pair_is_the_model_written_out(state: int, batch: Batch) -> None:
    """Densities of prior, guide and returns at the guide's draw, month by month."""
    model = build(state=state)
    guide = poutine.trace(model.guide).get_trace(batch)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch)
    guide.compute_log_prob()
    trace.compute_log_prob()
    path = guide.nodes["factors"]["value"].squeeze(-2).detach()
    cross = model.parts.cross_section(batch)
    for t, (loc, scale, level) in enumerate(by_hand(model, batch, path)):
        prior = torch.distributions.Normal(loc, scale).log_prob(path[t]).sum()
        torch.testing.assert_close(trace.nodes["factors"]["log_prob"][t, 0], prior)
        shrink = (-2 * level).exp()
        precision = (scale**-2).diag() + shrink * cross.potential.precision[t]
        mean = torch.linalg.solve(precision, loc / scale**2 + shrink * cross.potential.shift[t])
        law = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
        torch.testing.assert_close(guide.nodes["factors"]["log_prob"][t, 0], law.log_prob(path[t]))
        seen = batch.observed[t]
        returns = model.likelihood.distribution(
            cross.beta[t, seen] @ path[t], cross.scale[t, seen] * level.exp()
        )
        expected = returns.log_prob(batch.returns[t, seen]).sum()
        torch.testing.assert_close(trace.nodes["returns"]["log_prob"][t].sum(), expected)


@pytest.mark.parametrize("state", [2, 20], ids=["months at once", "in a loop"])
def test_gradient_is_the_slope_of_the_bound(state: int, batch: Batch) -> None:
    """Central differences along a random direction, at the noise of one seed."""
    # the proposal for Student-t returns holds its mode constant: no derivative of its draws
    model = build(state=state, likelihood=rv.likelihoods.Normal())
    weights = list(model.parts.parameters())
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(w.shape, generator=generator).to(w) for w in weights]

    def loss() -> Tensor:
        pyro.set_rng_seed(0)
        return Trace_ELBO().differentiable_loss(model.model, model.guide, batch)

    grads = torch.autograd.grad(loss(), weights, materialize_grads=True, allow_unused=True)
    slope = float(sum((g * d).sum() for g, d in zip(grads, direction, strict=True)))
    values, step = [], 1e-6
    for sign in (1, -2):  # one step up, then one below the start
        with torch.no_grad():
            for weight, d in zip(weights, direction, strict=True):
                weight.add_(sign * step * d)
        values.append(float(loss().detach()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-4)


def changed(batch: Batch, t: int, factor: float) -> Batch:
    """Copy a batch with the returns of a month multiplied."""
    returns = batch.returns.clone()
    returns[t] *= factor
    return replace(batch, returns=returns)


def test_the_state_sees_returns_of_the_past_and_none_of_the_month(batch: Batch) -> None:
    """At one path: months up to t keep every bit when month t's returns change; later ones move."""
    model, t = build(), 3
    with torch.no_grad():
        path = model.walk(batch).codes

        def ahead(panel: Batch) -> tuple[Tensor, Tensor]:
            cross = model.parts.online_cross_section(panel)
            view = model.parts.prepare(panel, cross).view
            law, level = prior_distribution(view, panel.n_times).along(path.unsqueeze(-2))
            return torch.cat([law.loc, law.scale], -1), level

        (before, level), (after, moved) = ahead(batch), ahead(changed(batch, t, 3.0))
    assert torch.equal(before[: t + 1], after[: t + 1])
    assert torch.equal(level[: t + 1], moved[: t + 1])
    assert bool(((before - after)[t + 1 :].abs() > 1e-9).any(-1).all())


def test_the_summary_tells_dispersion_from_factors(batch: Batch) -> None:
    """Residuals alone move its last entry; a month without returns is all zeros."""
    model = build()
    cross = model.parts.cross_section(batch)

    def summarise(returns: Tensor) -> Tensor:
        return MonthStatistics.of(returns, cross.beta, cross.scale, batch.observed).summary()

    summary = summarise(batch.returns)
    assert summary.shape == (batch.n_times, 2 * K + 1)
    assert bool((summary[5] == 0).all())
    sums = MonthStatistics.of(batch.returns, cross.beta, cross.scale, batch.observed)
    # of months with more returns than factors; their residuals are orthogonal to the loadings
    full = sums.n_observed > K
    solved = torch.linalg.solve(sums.precision[full], sums.shift[full])
    fitted = torch.zeros_like(batch.returns)
    fitted[full] = (cross.beta[full] @ solved.unsqueeze(-1)).squeeze(-1)
    other = summarise(fitted + 2.0 * (batch.returns - fitted))
    assert int(full.sum()) >= 5
    torch.testing.assert_close(other[full, : 2 * K], summary[full, : 2 * K])
    rise = other[full, -1] - summary[full, -1]
    assert bool(((rise > 0.1) & (rise < math.log(2))).all())


def test_neither_order_nor_number_of_assets_matters(batch: Batch) -> None:
    model, order = build(), torch.randperm(batch.n_assets)
    extra = torch.zeros(batch.n_assets, dtype=torch.bool)
    extra[:4] = True
    blind = replace(batch, observed=batch.observed & ~extra)
    kept = batch.select(~extra)
    found = []
    for each in (batch, batch.select(order), blind, kept):
        pyro.set_rng_seed(0)
        found.append(Trace_ELBO().differentiable_loss(model.model, model.guide, each))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[2], found[3], rtol=1e-9, atol=1e-9)
    assert abs(float((found[0] - found[2]).detach())) > 1.0


def test_prior_predictive_is_the_model_of_its_own_returns(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise every code is its prior mean given the returns that were simulated before."""
    model = build()
    prior = model.factor_prior
    monkeypatch.setattr(prior, "noise", lambda shape, like: like.new_zeros(tuple(shape)))
    codes, returns, _ = simulate(model, batch, 3, seed=0, fixed=True)
    assert float(codes.std(0).mean()) > 1e-4  # the draws' own returns move their states
    other = replace(batch, returns=torch.randn_like(batch.returns))
    assert torch.equal(
        simulate(model, other, 3, seed=0, fixed=True)[0], codes
    )  # no return of the panel
    for path, drawn in zip(codes, returns, strict=True):
        own = replace(batch, returns=drawn * batch.listed, observed=batch.listed)
        view = model.parts.prepare(own).view
        law, _ = prior_distribution(view, own.n_times).along(path.unsqueeze(-2))
        torch.testing.assert_close(law.loc, path, rtol=1e-9, atol=1e-9)


@pytest.mark.statistical
def test_particles_and_guide_agree_on_the_evidence() -> None:
    """Two unbiased estimates of one number, within 4 standard errors of importance sampling."""
    batch = double(random_panel(4, 12, seed=2))
    model = build(likelihood=rv.likelihoods.Normal())
    paths = guide_paths(model, batch, 20_000, seed=1)
    weight = paths.log_ratios.sum(-1)
    estimate = torch.logsumexp(weight, 0) - math.log(len(weight))
    share = torch.exp(weight - weight.max())
    error = float(share.std() / share.mean() / math.sqrt(len(share)))
    filtered = smc_filter(model, batch, 20_000, seed=3).log_evidence.sum()
    assert error < 0.02
    assert abs(float(filtered - estimate)) < 4 * math.sqrt(2) * error + 0.005


def test_fit_forecast_save_and_load(tmp_path: Path) -> None:
    panel = random_panel(16, 12, seed=3)
    train, valid = panel.isel(time=slice(0, 11)), panel.isel(time=slice(11, 15))
    model = rv.RVRAE(P, K, factor_prior=rv.priors.Recurrent(K, 3, "both", n_context=2))
    config = rv.FitConfig(max_steps=6, window=4, dtype=torch.float64)
    fit = rv.fit(model, train, valid, config=config, progress=False)
    assert fit.history["elbo"].iloc[-1] > fit.history["elbo"].iloc[0]
    live = panel.time[-1:]
    forecast = fit.forecast(panel, num_samples=50, times=live)
    fit.save(tmp_path / "fit")
    again = rv.load(tmp_path / "fit").forecast(panel, num_samples=50, times=live)
    assert forecast["predictions"].equals(again["predictions"])
    assert rv.exact.is_exact(model) is False


def test_a_panel_on_disk_gives_the_same_fit_and_forecast(tmp_path: Path) -> None:
    panel = random_panel(14, 12, seed=3)
    rv.data.write_panel(panel, tmp_path / "panel.zarr")
    config = rv.FitConfig(max_steps=4, window=5, dtype=torch.float64)
    found = []
    for each in (panel, rv.data.read_panel(tmp_path / "panel.zarr")):
        model = rv.RVRAE(P, K, factor_prior=rv.priors.Recurrent(K, 3, "both", n_context=2))
        fit = rv.fit(model, each.isel(time=slice(0, 12)), config=config, progress=False)
        tree = fit.forecast(each, num_samples=20, times=panel.time[-1:])
        found.append((fit.history["elbo"].to_numpy(), tree["predictions"]["returns"].to_numpy()))
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_it_combines_with_the_other_parts() -> None:
    """The paper's encoder and decoder around eq. (6) in full; small factors beside it."""
    batch = double(random_panel(8, 10))
    paper = rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.Recurrent(K, 3, "both", idio_level=False, weights=None, skip=False),
        decoder=rv.decoders.Recurrent(K, 3),
        likelihood=rv.likelihoods.Normal(),
        guide=rv.guides.Recurrent(K, 3),
    ).double()
    augmented = rv.RVRAE(
        P,
        K + P,
        loadings=rv.loadings.Augmented(rv.loadings.LSTM(P, K)),
        factor_prior=rv.priors.Augmented(rv.priors.Recurrent(K, 3, "both"), P),
    ).double()
    for model in (paper, augmented):
        losses = []
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        objective = Trace_ELBO()(model.model, model.guide)
        for step in range(12):
            pyro.set_rng_seed(step % 2)
            optimizer.zero_grad()
            loss = objective(batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] + losses[-2] < losses[0] + losses[1]
        assert all(
            bool(torch.isfinite(x).all()) for x in simulate(model, batch, 4, seed=0, fixed=True)[:2]
        )
        weight = model.parts.get_parameter(
            "factor_prior.gru.weight_ih_l0"
            if model is paper
            else "factor_prior.base.gru.weight_ih_l0"
        )
        assert weight.shape[1] == 4 * K + 1
        assert bool((weight.grad[:, 2 * K :] != 0).any())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(rv.ConfigError, match="must be 'latent', 'both' or 'observed'"):
        rv.priors.Recurrent(K, recurrence="all")
    with pytest.raises(rv.ConfigError, match="driven by the factors themselves"):
        rv.priors.Flow(K, rv.priors.Recurrent(K, recurrence="both"))
