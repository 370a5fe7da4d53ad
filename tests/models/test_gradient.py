"""The gradient of training against differences of the bound itself, with the noise held fixed."""

import pyro
import pytest
import torch
from pyro.infer import SVI, JitTrace_ELBO, JitTraceMeanField_ELBO, Trace_ELBO

import rvrae_pyro as rv


def relative_error(likelihood, seed):
    """Distance of the gradient from central differences, relative to the norm of the latter."""
    panel = rv.data.simulate_dynamic(30, 10, 3, 2, seed=seed)
    panel = rv.data.rank_characteristics(panel)
    model = rv.RVRAE(
        3, 2, factor_prior=rv.priors.AR1(2), loadings=rv.loadings.Linear(3, 2),
        likelihood=likelihood,
    ).double()  # fmt: skip
    batch = rv.data.to_batch(panel, dtype=torch.float64)
    model.set_units(batch)
    generator = torch.Generator().manual_seed(seed)
    weights = [p for p in model.parts.parameters() if p.requires_grad]
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=2)

    def loss():
        pyro.set_rng_seed(1)
        return elbo.differentiable_loss(model.model, model.guide, batch)

    given = torch.autograd.grad(loss(), weights)
    found, expected = [], []
    for weight, gradient in zip(weights, given, strict=True):
        flat = weight.data.view(-1)
        for i in range(flat.numel()):
            sides = []
            for step in (1e-5, -1e-5):
                flat[i] += step
                sides.append(float(loss().detach()))
                flat[i] -= step
            expected.append((sides[0] - sides[1]) / 2e-5)
            found.append(float(gradient.reshape(-1)[i]))
    gap = torch.tensor(found) - torch.tensor(expected)
    return float(gap.norm() / torch.tensor(expected).norm())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_is_exact_for_normal_returns(seed):
    assert relative_error(rv.likelihoods.Normal(), seed) < 1e-5


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("likelihood", "most"),
    [
        (rv.likelihoods.StudentT, 0.03),
        (rv.likelihoods.SkewStudentT, 0.03),
        (rv.likelihoods.NormalMixture, 0.03),
        (rv.likelihoods.Laplace, 0.5),
    ],
)
def test_the_gradient_is_close_for_other_returns_as_documented(likelihood, most, seed):
    """The mode is found without gradient, so it is not exact either."""
    assert 1e-4 < relative_error(likelihood(), seed) < most


@pytest.mark.parametrize("kind", [JitTrace_ELBO, JitTraceMeanField_ELBO])
@pytest.mark.parametrize("by_name", [False, True])
def test_compiled_objectives_are_refused_in_plain_words(kind, by_name):
    panel = rv.data.simulate_dynamic(8, 6, 3, 2, seed=0)
    model = rv.RVRAE(3, 2, factor_prior=rv.priors.AR1(2))
    batch = rv.data.to_batch(rv.data.rank_characteristics(panel))
    pyro.clear_param_store()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), kind())
    with pytest.raises(rv.ConfigError, match="Use Trace_ELBO"):
        svi.step(batch=batch) if by_name else svi.step(batch)
