"""Evidence, filter and smoother in closed form, against other people's code and dense algebra."""

from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from tests.helpers import (
    CHARACTERISTICS,
    FACTORS,
    double,
    linear_gaussian,
    random_panel,
    simulate_linear_gaussian,
    stir,
)

# assets, persistence, innovation variance, observed cells, log evidence: made once by an
# independent Kalman filter, a dense Gaussian and statsmodels, which agreed
TABLE = [
    (12, 0.9, 0.5, 373, -606.9307),
    (4, 0.95, 0.2, 127, -212.5922),
    (60, 0.9, 0.5, 1932, -2890.7359),
]


def kalman_of_statsmodels(batch: Batch, phi: float, q: float) -> KalmanFilter:
    """Bind data with gaps to statsmodels' filter with time-varying loadings."""
    n_assets, k = batch.n_assets, batch.n_characteristics
    data = np.where(batch.observed, batch.returns, np.nan)
    kalman = KalmanFilter(k_endog=n_assets, k_states=k)
    kalman.bind(np.asfortranarray(data.T))
    kalman["design"] = np.moveaxis(batch.characteristics.numpy(), 0, -1).copy()
    kalman["obs_cov"] = np.eye(n_assets)
    kalman["transition"] = phi * np.eye(k)
    kalman["selection"] = np.eye(k)
    kalman["state_cov"] = q * np.eye(k)
    kalman.initialize_known(np.zeros(k), q * np.eye(k))
    return kalman


@pytest.mark.parametrize(("n_assets", "phi", "q", "n_observed", "log_evidence"), TABLE)
def test_evidence_equals_the_reference_table(
    n_assets: int, phi: float, q: float, n_observed: int, log_evidence: float
) -> None:
    batch = simulate_linear_gaussian(n_assets, phi, q)
    model = linear_gaussian(batch, phi=phi, q=q)
    assert int(batch.observed.sum()) == n_observed
    assert rv.exact.evidence(model, batch).item() == pytest.approx(log_evidence, abs=1e-4)


@pytest.mark.parametrize(("n_assets", "phi", "q"), [row[:3] for row in TABLE])
def test_filter_equals_statsmodels(n_assets: int, phi: float, q: float) -> None:
    batch = simulate_linear_gaussian(n_assets, phi, q)
    model = linear_gaussian(batch, phi=phi, q=q)
    with torch.no_grad():
        ours = rv.exact.filtered(model, batch)
        months = rv.exact.month_evidence(model, batch)
    theirs = kalman_of_statsmodels(batch, phi, q).filter()
    np.testing.assert_allclose(months, theirs.llf_obs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.mean, theirs.filtered_state.T, rtol=1e-6, atol=1e-8)
    covariance = np.moveaxis(theirs.filtered_state_cov, -1, 0)
    np.testing.assert_allclose(ours.covariance, covariance, rtol=1e-6, atol=1e-8)
    predicted = theirs.predicted_state.T[:-1]
    np.testing.assert_allclose(ours.predicted_mean, predicted, rtol=1e-6, atol=1e-8)


def test_evidence_equals_pyro_where_nothing_is_missing() -> None:
    phi, q = 0.9, 0.5
    batch = simulate_linear_gaussian(12, phi, q, missing=0.0)
    model = linear_gaussian(batch, phi=phi, q=q)
    k, zero, eye = 2, torch.zeros(2).double(), torch.eye(2).double()
    # Pyro's chain starts one month before the first return
    before = dist.MultivariateNormal(zero, 1e-12 * eye)
    step = dist.MultivariateNormal(zero, q * eye)
    noise = dist.Normal(torch.zeros(40, 12).double(), 1.0).to_event(1)
    hmm = dist.GaussianHMM(
        before, (phi * eye).expand(40, k, k), step, batch.characteristics.mT, noise, duration=40
    )
    expected = hmm.log_prob(batch.returns)
    torch.testing.assert_close(rv.exact.evidence(model, batch), expected, rtol=1e-6, atol=1e-6)


def dense_posterior(batch: Batch, phi: float, q: float) -> tuple[Tensor, Tensor, float]:
    """Condition the whole path of factors on all returns at once."""
    n_times, k = batch.n_times, batch.n_characteristics
    time = np.arange(n_times)
    common = np.minimum.outer(time, time)
    distance = np.abs(np.subtract.outer(time, time))
    # Cov(z_s, z_t) = q sum_{j <= min(s, t)} phi^(s - j) phi^(t - j)
    cov = q * phi**distance * (1 - phi ** (2 * (common + 1))) / (1 - phi**2)
    prior = np.kron(cov, np.eye(k))
    t, i = batch.observed.nonzero().numpy().T
    design = np.zeros((len(t), n_times * k))
    for row, (month, asset) in enumerate(zip(t, i, strict=True)):
        design[row, month * k : (month + 1) * k] = batch.characteristics[month, asset]
    returns = batch.returns[t, i].numpy()
    total = design @ prior @ design.T + np.eye(len(t))
    gain = np.linalg.solve(total, design @ prior).T
    mean, spread = gain @ returns, prior - gain @ design @ prior
    sign, log_det = np.linalg.slogdet(total)
    assert sign == 1
    evidence = -0.5 * (returns @ np.linalg.solve(total, returns) + log_det)
    evidence -= 0.5 * len(t) * np.log(2 * np.pi)
    blocks = np.stack([spread[m * k : (m + 1) * k, m * k : (m + 1) * k] for m in range(n_times)])
    return torch.as_tensor(mean.reshape(n_times, k)), torch.as_tensor(blocks), float(evidence)


def test_smoother_equals_dense_algebra() -> None:
    phi, q = 0.95, 0.2
    batch = simulate_linear_gaussian(4, phi, q)
    model = linear_gaussian(batch, phi=phi, q=q)
    mean, covariance, evidence = dense_posterior(batch, phi, q)
    smoothed = rv.exact.smoother(model, batch)
    torch.testing.assert_close(smoothed.mean, mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(smoothed.covariance, covariance, rtol=1e-7, atol=1e-9)
    assert rv.exact.evidence(model, batch).item() == pytest.approx(evidence, rel=1e-9)
    filtered = rv.exact.filtered(model, batch)
    assert (smoothed.covariance[:-1].det() < filtered.covariance[:-1].det()).all()


def test_long_run_mean_and_alpha_enter_as_they_should() -> None:
    """A model with a mean and alpha on returns equals one without on returns less both."""
    batch = simulate_linear_gaussian(12, 0.9, 0.5)
    model = linear_gaussian(batch)
    alpha = rv.likelihoods.Alpha(2, weights=None)
    shifted = linear_gaussian(batch)
    shifted.likelihood.alpha = alpha.double()
    with torch.no_grad():
        shifted.factor_prior.loc.copy_(torch.tensor([0.3, -0.2]))
        alpha.layer.weight.copy_(torch.tensor([[0.1, 0.4]]))
        alpha.layer.bias.fill_(0.2)
    mean = batch.characteristics @ shifted.factor_prior.loc + alpha(batch)
    moved = replace(batch, returns=(batch.returns + mean.detach()) * batch.observed)
    torch.testing.assert_close(
        rv.exact.evidence(shifted, moved), rv.exact.evidence(model, batch), rtol=1e-10, atol=1e-8
    )
    torch.testing.assert_close(
        rv.exact.smoother(shifted, moved).mean - shifted.factor_prior.loc,
        rv.exact.smoother(model, batch).mean,
        rtol=1e-8,
        atol=1e-8,
    )


def test_rotation_leaves_evidence_and_predictive_moments_unchanged() -> None:
    """(B R^-1, R f) with the prior transformed: here a signed permutation with rescaling."""
    batch = simulate_linear_gaussian(12, 0.9, 0.5)
    model, rotated = linear_gaussian(batch), linear_gaussian(batch)
    rotation = torch.tensor([[0.0, -2.0], [0.5, 0.0]]).double()
    with torch.no_grad():
        rotated.loadings.layer.weight.copy_(torch.linalg.inv(rotation).T)
        rotated.factor_prior.log_scale.add_(rotation.abs().sum(1).log())
    ours, theirs = rv.exact.filtered(model, batch), rv.exact.filtered(rotated, batch)
    torch.testing.assert_close(ours.log_evidence, theirs.log_evidence)
    beta, turned = model.loadings(batch), rotated.loadings(batch)
    for mean, covariance in (("predicted_mean", "predicted_covariance"), ("mean", "covariance")):
        moments = [
            ((b @ getattr(m, mean).unsqueeze(-1)).squeeze(-1), b @ getattr(m, covariance) @ b.mT)
            for b, m in ((beta, ours), (turned, theirs))
        ]
        torch.testing.assert_close(moments[0], moments[1])


@pytest.mark.parametrize("rotation_seed", [0, 1])
def test_any_orthogonal_rotation_leaves_the_evidence_of_standard_factors(
    rotation_seed: int,
) -> None:
    g = torch.Generator().manual_seed(rotation_seed)
    rotation, _ = torch.linalg.qr(torch.randn(2, 2, generator=g, dtype=torch.float64))
    batch = simulate_linear_gaussian(12, 0.9, 0.5)
    evidences = []
    for turn in (torch.eye(2).double(), rotation):
        model = linear_gaussian(batch)
        model.parts.factor_prior = rv.priors.StandardNormal(2).double()
        with torch.no_grad():
            model.loadings.layer.weight.copy_(turn)
        evidences.append(rv.exact.evidence(model, batch))
    torch.testing.assert_close(evidences[0], evidences[1], rtol=1e-12, atol=0)


def test_standard_normal_evidence_is_a_sum_of_dense_months() -> None:
    batch = simulate_linear_gaussian(12, 0.9, 0.5)
    model = linear_gaussian(batch)
    model.parts.factor_prior = rv.priors.StandardNormal(2).double()
    months = rv.exact.month_evidence(model, batch)
    for t in range(batch.n_times):
        seen = batch.observed[t]
        b = batch.characteristics[t, seen]
        law = dist.MultivariateNormal(torch.zeros(len(b)).double(), b @ b.T + torch.eye(len(b)))
        torch.testing.assert_close(months[t], law.log_prob(batch.returns[t, seen]))
    smoothed, filtered = rv.exact.smoother(model, batch), rv.exact.filtered(model, batch)
    torch.testing.assert_close(smoothed.mean, filtered.mean, rtol=0, atol=0)


def observed_model(n_context: int = 2) -> rv.RVRAE:
    prior = rv.priors.Recurrent(FACTORS, hidden=4, recurrence="observed", n_context=n_context)
    scale = rv.likelihoods.CharacteristicScale(CHARACTERISTICS)
    likelihood = rv.likelihoods.Normal(scale, rv.likelihoods.Alpha(CHARACTERISTICS))
    model = rv.RVRAE(CHARACTERISTICS, FACTORS, factor_prior=prior, likelihood=likelihood)
    return stir(model.double())


def test_observed_recurrence_has_the_evidence_of_dense_months() -> None:
    """Given the months before, a month's returns are one dense Gaussian."""
    batch = double(random_panel(empty_months=[4]))
    model = observed_model()
    moments = rv.exact.filtered(model, batch)
    cross = model.parts.cross_section(batch)
    prior, context = model.factor_prior, model.factor_prior.encode(batch.context)
    state = prior.initial()
    for t in range(batch.n_times):
        seen = batch.observed[t]
        ahead, level = prior.transition(state, context[t]), prior.level(state, context[t])
        b, spread = cross.beta[t, seen], torch.diag(ahead.scale**2)
        covariance = b @ spread @ b.T + torch.diag((cross.scale[t, seen] * level.exp()) ** 2)
        residual = batch.returns[t, seen] - cross.alpha[t, seen] - b @ ahead.loc
        mean = ahead.loc
        if bool(seen.any()):
            zero = torch.zeros_like(residual)
            expected = dist.MultivariateNormal(zero, covariance).log_prob(residual)
            torch.testing.assert_close(moments.log_evidence[t], expected)
            mean = mean + spread @ b.T @ torch.linalg.solve(covariance, residual)
        else:
            assert moments.log_evidence[t] == 0.0
        torch.testing.assert_close(moments.mean[t], mean)
        torch.testing.assert_close(moments.predicted_mean[t], ahead.loc)
        state = prior.advance(state, mean, context[t])
    torch.testing.assert_close(rv.exact.smoother(model, batch).mean, moments.mean)


@pytest.mark.parametrize(
    "parts",
    [
        {"likelihood": rv.likelihoods.StudentT},
        {"factor_prior": lambda: rv.priors.Recurrent(FACTORS)},
        {
            "decoder": lambda: rv.decoders.Recurrent(FACTORS),
            "guide": lambda: rv.guides.Recurrent(FACTORS),
        },
    ],
)
def test_models_without_a_closed_form_say_so(parts: dict[str, object]) -> None:
    chosen = {
        "factor_prior": lambda: rv.priors.AR1(FACTORS),
        "likelihood": rv.likelihoods.Normal,
        **parts,
    }
    model = rv.RVRAE(CHARACTERISTICS, FACTORS, **{k: make() for k, make in chosen.items()})
    batch = double(random_panel(4, 5))
    assert not rv.exact.is_exact(model)
    for ask in (rv.exact.evidence, rv.exact.smoother):
        with pytest.raises(rv.ConfigError, match="smc_filter"):
            ask(model.double(), batch)
