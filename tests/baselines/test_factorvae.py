"""FactorVAE piece by piece: each fault seen in public ports would fail one of these."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

from rvrae_pyro.baselines import FactorVAE
from rvrae_pyro.baselines.factorvae import Decoder, Encoder, Gaussian, Network, Predictor
from rvrae_pyro.data import to_batch
from tests.baselines.helpers import SHORT, market, parts

H, M, K = 5, 4, 2


@pytest.fixture
def features():
    return torch.randn(3, 6, H, dtype=torch.float64)


@pytest.fixture
def observed():
    seen = torch.ones(3, 6, dtype=torch.bool)
    seen[0, 2:] = False
    seen[2] = False
    return seen


def test_attention_is_the_positive_part_of_the_cosine(features, observed):
    """Not a softmax of scaled products, which some ports put in its place."""
    predictor = Predictor(H, K).double().requires_grad_(False)
    weights = predictor.weights(features, observed)
    for t in range(2):
        for k in range(K):
            rows = slice(k * H, (k + 1) * H)
            raw = []
            for i in range(6):
                key = predictor.key.weight[rows] @ features[t, i] + predictor.key.bias[rows]
                query = predictor.query[k]
                raw.append(float(query @ key / (query.norm() * key.norm())))
            positive = np.maximum(raw, 0.0) * observed[t].numpy()
            expected = positive / positive.sum() if positive.sum() else positive
            np.testing.assert_allclose(weights[t, :, k], expected, atol=1e-10)
    scaled = predictor.weights(3.0 * features, observed)
    assert bool((weights == 0).any())
    assert not torch.allclose(scaled, torch.full_like(scaled, 1 / 6))


def test_attention_survives_a_month_where_no_cosine_is_positive(features):
    predictor = Predictor(H, K).double()
    with torch.no_grad():
        predictor.key.weight.zero_()
        predictor.key.bias.copy_(-predictor.query.reshape(-1))
    listed = torch.ones(3, 6, dtype=torch.bool)
    assert not predictor.weights(features, listed).any()
    prior = predictor(features, listed)
    (prior.loc.sum() + prior.scale.sum()).backward()
    assert torch.isfinite(prior.loc).all()
    assert all(torch.isfinite(p.grad).all() for p in predictor.parameters() if p.grad is not None)


def test_averaging_before_the_value_map_is_the_value_map_averaged(features, observed):
    predictor = Predictor(H, K).double()
    with torch.no_grad():
        predictor.value_bias.normal_()
    weights = predictor.weights(features, observed)
    values = torch.einsum("tnh,khg->tnkg", features, predictor.value) + predictor.value_bias
    attended = (weights.unsqueeze(-1) * values).sum(1)
    expected = predictor.prior(predictor.inner(attended))
    np.testing.assert_allclose(
        predictor(features, observed).loc.detach(), expected.loc.squeeze(-1).detach(), atol=1e-12
    )


def test_portfolio_weights_add_up_over_observed_assets_of_the_month(features, observed):
    """The softmax runs over assets, not over portfolios or months."""
    weights = Encoder(H, M, K).double().weights(features, observed)
    np.testing.assert_allclose(weights[:2].sum(1).detach(), 1.0)
    assert not weights[~observed].any()
    assert not weights[2].any()  # a month without returns


def test_posterior_ignores_what_stands_in_missing_cells(features, observed):
    encoder = Encoder(H, M, K).double()
    returns = torch.randn(3, 6, dtype=torch.float64)
    other = torch.where(observed, returns, 1e3)
    for mine, theirs in zip(
        encoder(features, returns, observed), encoder(features, other, observed), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_decoder_adds_up_means_and_variances(features):
    decoder = Decoder(H, K).double()
    factors = Gaussian(torch.randn(3, K).double(), torch.rand(3, K).double() + 0.1)
    alpha, beta = decoder.parts(features)
    found = decoder(features, factors)
    loc = alpha.loc + torch.einsum("tnk,tk->tn", beta, factors.loc)
    variance = alpha.scale**2 + torch.einsum("tnk,tk->tn", beta**2, factors.scale**2)
    torch.testing.assert_close(found.loc, loc)
    torch.testing.assert_close(found.scale, variance.sqrt())
    assert bool((alpha.scale > 0).all())


def test_gaussian_matches_the_library():
    a, b = (Gaussian(torch.randn(4, 3), torch.rand(4, 3) + 0.2) for _ in range(2))
    expected = kl_divergence(Normal(*a), Normal(*b)).sum(-1)
    torch.testing.assert_close(a.kl_from(b), expected)
    x = torch.randn(4, 3)
    torch.testing.assert_close(a.log_density(x), Normal(*a).log_prob(x))


def test_loss_is_in_nats_and_sums_over_assets():
    """Not a squared error, and no 1 / N that would multiply the weight of the KL."""
    batch = to_batch(market(), dtype=torch.float64)
    network = Network(4, K, H, M).double().requires_grad_(False)
    loss = network.loss(batch, 2, 0.1, 1.0)
    features = network.features(batch)
    returns, seen = batch.returns / 0.1, batch.observed
    posterior = network.encoder(features, returns, seen)
    prior = network.predictor(features, batch.listed)
    decoded = network.decoder(features, posterior)
    total = 0.0
    for t in range(2, batch.n_times):
        for i in range(batch.n_assets):
            if seen[t, i]:
                y, loc, sd = (float(v[t, i]) for v in (returns, *decoded))
                total -= stats.norm.logpdf(y, loc, sd)
        if seen[t].any():
            q, p = ([float(v) for v in part[t].reshape(-1)] for part in (posterior.loc, prior.loc))
            qs, ps = ([float(v) for v in part[t]] for part in (posterior.scale, prior.scale))
            for m, s, m0, s0 in zip(q, qs, p, ps, strict=True):
                total += np.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5
    assert float(loss) == pytest.approx(total)
    heavier = network.loss(batch, 2, 0.1, 3.0) - loss
    lighter = loss - network.loss(batch, 2, 0.1, 0.5)
    assert float(heavier) == pytest.approx(4 * float(lighter))


def test_prior_does_not_know_which_returns_were_observed():
    panel = market()
    train, valid, _ = parts(panel)
    model = FactorVAE(K, hidden=H, n_portfolios=M, window=3, config=SHORT).fit(train, valid)
    blind = panel.copy(deep=True)
    blind["returns"][-1, ::2] = np.nan
    for name in ("mean", "sd"):
        np.testing.assert_array_equal(model.moments(panel)[name], model.moments(blind)[name])
    assert not np.array_equal(
        model.factors(panel)[-1], model.factors(blind)[-1]
    )  # the posterior does


def test_learned_scale_follows_the_noise():
    """The scale is learned: noisier returns give a wider forecast, in return units."""
    panel = market(n_times=24, n_assets=30)
    wide = panel.assign(returns=3.0 * panel.returns)
    spreads = []
    for p in (panel, wide):
        model = FactorVAE(K, hidden=H, n_portfolios=M, window=3, config=SHORT)
        spreads.append(float(model.fit(p).moments(p)["sd"].mean()))
    assert spreads[1] == pytest.approx(3.0 * spreads[0], rel=1e-3)
    assert spreads[0] == pytest.approx(float(panel.returns.std()), rel=0.6)
