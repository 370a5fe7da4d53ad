"""One month: the conjugate update against dense Gaussians, and the likelihoods' quadratic forms."""

import math

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.models.scan import at_level
from rvrae_pyro.nn.gaussian import Gaussian, Potential


def month(n_assets: int, n_factors: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Gaussian]:
    """Draw loadings, scales and returns of one month, and a prior."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    beta, scale = normal(n_assets, n_factors), normal(n_assets).exp()
    prior = Gaussian(normal(n_factors), normal(n_factors).exp())
    return beta, scale, normal(n_assets) * 2.0, prior


def quadratic(beta: Tensor, scale: Tensor, returns: Tensor, seen: Tensor) -> Potential:
    """Sum the month's log-likelihood over observed assets, term by term."""
    k = beta.shape[1]
    precision, shift = beta.new_zeros(k, k), beta.new_zeros(k)
    for i in seen.nonzero().flatten().tolist():
        precision = precision + torch.outer(beta[i], beta[i]) / scale[i] ** 2
        shift = shift + beta[i] * returns[i] / scale[i] ** 2
    return Potential(precision, shift)


@given(
    n_assets=st.integers(1, 12),
    n_factors=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40)
def test_evidence_and_posterior_equal_dense_gaussians(
    n_assets: int, n_factors: int, share: float, seed: int
) -> None:
    """Random masks, empty months (share 0) and fewer assets than factors."""
    beta, scale, returns, prior = month(n_assets, n_factors, seed)
    seen = torch.rand(n_assets, generator=torch.Generator().manual_seed(seed)) < share
    potential = quadratic(beta, scale, returns, seen)
    constant = dist.Normal(0.0, scale[seen]).log_prob(returns[seen]).sum()
    evidence = constant + prior.evidence(potential)
    posterior = prior.update(potential)
    b, r, noise = beta[seen], returns[seen], torch.diag(scale[seen] ** 2)
    spread = torch.diag(prior.scale**2)
    if bool(seen.any()):
        covariance = b @ spread @ b.T + noise
        dense = dist.MultivariateNormal(b @ prior.loc, covariance).log_prob(r)
        low_rank = dist.LowRankMultivariateNormal(b @ prior.loc, b * prior.scale, scale[seen] ** 2)
        torch.testing.assert_close(evidence, dense, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(evidence, low_rank.log_prob(r), rtol=1e-8, atol=1e-8)
        gain = spread @ b.T @ torch.linalg.inv(covariance)
        mean = prior.loc + gain @ (r - b @ prior.loc)
        torch.testing.assert_close(posterior.mean, mean, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(
            posterior.covariance(), spread - gain @ b @ spread, rtol=1e-7, atol=1e-7
        )
    else:
        assert float(evidence) == 0.0
        torch.testing.assert_close(posterior.mean, prior.loc, rtol=0, atol=0)
        torch.testing.assert_close(posterior.covariance(), spread, rtol=1e-12, atol=0)


@given(n_factors=st.integers(1, 4), seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_density_draw_and_divergence_equal_torch(n_factors: int, seed: int) -> None:
    beta, scale, returns, prior = month(8, n_factors, seed)
    posterior = prior.update(quadratic(beta, scale, returns, torch.ones(8, dtype=torch.bool)))
    reference = dist.MultivariateNormal(posterior.mean, posterior.covariance())
    noise = torch.randn(n_factors, generator=torch.Generator().manual_seed(seed)).double()
    draw = posterior.mean + posterior.deviate(noise)
    expected = reference.log_prob(draw)
    torch.testing.assert_close(posterior.log_prob(draw), expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(posterior.log_prob_of_noise(noise), expected, rtol=1e-7, atol=1e-7)
    against = dist.MultivariateNormal(prior.loc, torch.diag(prior.scale**2))
    kl = torch.distributions.kl_divergence(reference, against)
    torch.testing.assert_close(posterior.kl_to(prior), kl, rtol=1e-7, atol=1e-7)
    independent = dist.Normal(prior.loc, prior.scale).to_event(1)
    torch.testing.assert_close(prior.log_prob(draw), independent.log_prob(draw))


def test_deviations_have_the_posterior_covariance() -> None:
    """The map from noise to draws is a root of the covariance, exactly."""
    beta, scale, returns, prior = month(8, 3, 1)
    posterior = prior.update(quadratic(beta, scale, returns, torch.ones(8, dtype=torch.bool)))
    root = torch.stack([posterior.deviate(e) for e in torch.eye(3, dtype=torch.float64)], -1)
    torch.testing.assert_close(root @ root.T, posterior.covariance())


def test_level_multiplies_the_idiosyncratic_scale() -> None:
    beta, scale, returns, _ = month(8, 3, 2)
    seen = torch.ones(8, dtype=torch.bool)
    level = torch.tensor(0.7, dtype=torch.float64)
    moved = at_level(quadratic(beta, scale, returns, seen), level)
    for ours, direct in zip(
        moved, quadratic(beta, scale * level.exp(), returns, seen), strict=True
    ):
        torch.testing.assert_close(ours, direct)


def test_normal_potential_is_the_log_likelihood() -> None:
    """For any factors, up to one constant, with missing assets."""
    beta, scale, returns, prior = month(9, 3, 3)
    seen = torch.arange(9) % 3 > 0
    potential = (
        rv.likelihoods.Normal()
        .double()
        .potential((returns * seen)[None], beta[None], scale[None], seen[None], prior)
    )
    at = torch.randn(6, 3, dtype=torch.float64)
    exact = (dist.Normal(at @ beta.T, scale).log_prob(returns) * seen).sum(-1)
    form = at @ potential.shift[0] - 0.5 * ((at @ potential.precision[0]) * at).sum(-1)
    gap = exact - form
    torch.testing.assert_close(gap, gap[:1].expand(6))


def student_t_month(
    n_assets: int = 60, n_factors: int = 3, seed: int = 4
) -> tuple[rv.likelihoods.StudentT, Tensor, Tensor, Tensor, Gaussian]:
    """Draw a heavy-tailed month of a reasonable size."""
    likelihood = rv.likelihoods.StudentT(df=4.0, sweeps=30).double()
    beta, scale, _, _ = month(n_assets, n_factors, seed)
    scale = 0.5 * scale.sqrt()
    g = torch.Generator().manual_seed(seed)
    factors = torch.randn(n_factors, generator=g, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        returns = dist.StudentT(4.0, beta @ factors, scale).sample()
    zero = torch.zeros(n_factors, dtype=torch.float64)
    return likelihood, beta, scale, returns, Gaussian(zero, zero + 1.0)


def test_student_t_potential_is_a_stationary_gaussian_of_the_bound() -> None:
    """Iterated about its own answer it maximises the bound: zero gradient in mean and root.

    The expectations under the Gaussian are taken asset by asset by a fine quadrature, apart
    from the production code's three points; their gap sets the tolerance.
    """
    likelihood, beta, scale, returns, prior = student_t_month()
    seen = torch.ones(60, dtype=torch.bool)
    potential = likelihood.potential(returns[None], beta[None], scale[None], seen[None], prior)
    posterior = prior.update(Potential(potential.precision[0], potential.shift[0]))
    mean = posterior.mean.detach().requires_grad_()
    root = torch.linalg.cholesky(posterior.covariance().detach()).requires_grad_()
    noise = torch.linspace(-8, 8, 801, dtype=torch.float64)
    weight = torch.softmax(-0.5 * noise**2, 0)

    def bound(mean: Tensor, root: Tensor) -> Tensor:
        spread = (beta @ root).norm(dim=-1)
        error = (returns - beta @ mean).unsqueeze(-1) + spread.unsqueeze(-1) * noise
        likelihood = dist.StudentT(4.0, 0.0, scale.unsqueeze(-1)).log_prob(error) @ weight
        entropy = root.diagonal().abs().log().sum()
        return likelihood.sum() - 0.5 * (mean.square().sum() + root.square().sum()) + entropy

    optimum = [p.detach().clone(memory_format=torch.contiguous_format) for p in (mean, root)]
    optimum = [p.requires_grad_() for p in optimum]
    optimizer = torch.optim.LBFGS(optimum, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -bound(optimum[0], optimum[1].tril())
        loss.backward()
        return loss

    optimizer.step(closure)
    best, tril = optimum[0].detach(), optimum[1].detach().tril()
    sd = (tril @ tril.T).diagonal().sqrt()
    ours = posterior.covariance().detach().diagonal().sqrt()
    assert ((mean.detach() - best) / sd).abs().max() < 0.03
    assert (ours / sd - 1).abs().max() < 0.03
    gap = bound(*optimum) - bound(mean, root)
    assert 0 <= gap.item() < 0.005


def test_student_t_density_equals_torch() -> None:
    likelihood, beta, scale, returns, _ = student_t_month()
    at = torch.randn(5, 3, dtype=torch.float64)
    ours = likelihood.distribution(at @ beta.T, scale)
    theirs = dist.StudentT(4.0, at @ beta.T, scale)
    torch.testing.assert_close(ours.log_prob(returns), theirs.log_prob(returns))
    torch.testing.assert_close(
        ours.expand((2, 5, 60)).log_prob(returns)[1], theirs.log_prob(returns)
    )
    torch.testing.assert_close(likelihood.deviation(scale), theirs.stddev[0])
    assert ours.sample((7,)).shape == (7, 5, 60)


def test_base_likelihood_matches_the_variance() -> None:
    """A likelihood that only gives a distribution still gets a usable quadratic form."""

    class Laplace(rv.likelihoods.Likelihood):
        def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
            return dist.Laplace(loc, scale)

    beta, scale, returns, prior = month(8, 2, 5)
    seen = torch.arange(8) > 1
    part = Laplace().double()
    ours = part.potential(returns[None], beta[None], scale[None], seen[None], prior)
    direct = quadratic(beta, scale * math.sqrt(2.0), returns, seen)
    torch.testing.assert_close(ours.precision[0], direct.precision)
    torch.testing.assert_close(ours.shift[0], direct.shift)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.likelihoods.StudentT(df=2.0), "`df` must be above 2"),
        (lambda: rv.likelihoods.StudentT(sweeps=0), "`sweeps` must be at least 1"),
    ],
)
def test_impossible_student_t_is_refused(make: object, match: str) -> None:
    with pytest.raises(rv.ConfigError, match=match):
        make()


def test_student_t_with_fixed_degrees_of_freedom_keeps_them() -> None:
    part = rv.likelihoods.StudentT(df=7.0, learn_df=False)
    assert float(part.degrees_of_freedom.detach()) == pytest.approx(7.0)
    assert not part.log_excess_df.requires_grad
