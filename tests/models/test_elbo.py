"""The bound against exact evidences: gaps, importance weights, and the guides that close them."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models.path_distributions import FilteredPath
from rvrae_pyro.nn.gaussian import Potential
from tests.helpers import (
    CHARACTERISTICS,
    FACTORS,
    double,
    linear_gaussian,
    log_weights,
    random_panel,
    simulate_linear_gaussian,
    stir,
)

# assets, persistence, innovation variance, log evidence, ELBO of the filtering guide and its
# standard error, importance-weighted bounds with 10 and 100 draws: made once from 4000 draws
TABLE = [
    (12, 0.9, 0.5, -606.9307, -612.76, 0.06, -609.13, -607.76),
    (4, 0.95, 0.2, -212.5922, -229.94, 0.13, -220.53, -216.85),
    (60, 0.9, 0.5, -2890.7359, -2891.69, 0.02, -2890.92, -2890.77),
]


class Smoother(rv.guides.Guide):
    """The exact smoother of the linear-Gaussian model: backward messages join the months' own."""

    needs_affine_decoder = True

    def forward(
        self, batch: Batch, potential: Potential, view: rv.guides.PriorView, kl_weight: Tensor
    ) -> FilteredPath:
        phi, q = view.prior.value("coefficient").diag(), (2 * view.prior.log_scale).exp()
        inverse = (1 / q).diag()
        precisions, shifts = [torch.zeros_like(phi)], [torch.zeros_like(q)]
        for t in range(batch.n_times - 1, 0, -1):
            joint = potential.precision[t] + precisions[-1]
            spread = torch.linalg.inv(inverse + joint)
            precisions.append(phi @ (inverse - inverse @ spread @ inverse) @ phi)
            shifts.append(phi @ inverse @ spread @ (potential.shift[t] + shifts[-1]))
        messages = Potential(torch.stack(precisions[::-1]), torch.stack(shifts[::-1]))
        both = Potential(*(a + b for a, b in zip(potential, messages, strict=True)))
        return FilteredPath(view.prior, both, view.context, view.state)


def means(log_weight: Tensor, size: int) -> tuple[float, float]:
    """Importance-weighted bound from groups of draws, and its standard error."""
    groups = torch.logsumexp(log_weight.reshape(-1, size), 1) - math.log(size)
    spread = groups.std().item() if len(groups) > 1 else math.nan
    return groups.mean().item(), spread / math.sqrt(len(groups))


@pytest.mark.statistical
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]} assets")
def test_bounds_equal_the_reference_table(row: tuple[float, ...]) -> None:
    """Within four standard errors of both sides: fails once in 10,000 seeds; the seed is fixed."""
    n_assets, phi, q, evidence, elbo, elbo_error, *tighter = row
    batch = simulate_linear_gaussian(int(n_assets), phi, q)
    model = linear_gaussian(batch, phi=phi, q=q)
    draws = torch.cat([log_weights(model, batch, 1000, seed) for seed in range(3)])
    bound, error = means(draws, 1)
    assert abs(bound - elbo) < 4 * math.hypot(error, elbo_error)
    bounds = [bound]
    for size, expected in zip((10, 100), tighter, strict=True):
        bound, error = means(draws, size)
        # the table's own bounds come from 4000 draws: an error much like ours
        assert abs(bound - expected) < 4 * math.sqrt(2) * error + 0.01
        bounds.append(bound)
    assert bounds[0] < bounds[1] < bounds[2] <= evidence + 1e-9


def test_renyi_bound_is_the_importance_weighted_one() -> None:
    """RenyiELBO(alpha=0) on the pair equals the bound computed from the weights of its draws."""
    batch = simulate_linear_gaussian(12, 0.9, 0.5)
    model = linear_gaussian(batch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        elbo = RenyiELBO(alpha=0, num_particles=20, vectorize_particles=True, max_plate_nesting=2)
        loss = elbo.loss(model.model, model.guide, batch)
    expected, _ = means(log_weights(model, batch, 20, seed=0), 20)
    assert -loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n_assets", [4, 12])
def test_smoothing_guide_closes_the_gap_for_any_draw(n_assets: int) -> None:
    batch = simulate_linear_gaussian(n_assets, 0.9, 0.5)
    model = linear_gaussian(batch, guide=Smoother())
    evidence = rv.exact.evidence(model, batch).item()
    for seed in range(3):
        pyro.set_rng_seed(seed)
        assert -Trace_ELBO().loss(model.model, model.guide, batch) == pytest.approx(
            evidence, abs=1e-4
        )
    renyi = RenyiELBO(alpha=0, num_particles=3)
    assert -renyi.loss(model.model, model.guide, batch) == pytest.approx(evidence, abs=1e-4)
    weights = log_weights(model, batch, 200)
    assert weights.std().item() < 1e-8
    filtering = linear_gaussian(batch)
    pyro.set_rng_seed(0)
    bound = -Trace_ELBO(num_particles=20).loss(filtering.model, filtering.guide, batch)
    assert bound < evidence - 1


def test_guide_that_ignores_returns_is_far_off() -> None:
    """The table's last column, and a check that the potentials carry the news."""

    class Prior(rv.guides.Conjugate):
        def forward(self, batch, potential, view, kl_weight):
            nothing = Potential(*(torch.zeros_like(x) for x in potential))
            return super().forward(batch, nothing, view, kl_weight)

    batch = simulate_linear_gaussian(12, 0.9, 0.5)
    draws = log_weights(linear_gaussian(batch, guide=Prior()), batch, 2000)
    bound, error = means(draws, 1)
    assert bound == pytest.approx(-2372, abs=6 * error)


def observed_model() -> rv.RVRAE:
    prior = rv.priors.Recurrent(FACTORS, hidden=4, recurrence="observed", n_context=2)
    scale = rv.likelihoods.CharacteristicScale(CHARACTERISTICS)
    model = rv.RVRAE(
        CHARACTERISTICS, FACTORS, factor_prior=prior, likelihood=rv.likelihoods.Normal(scale)
    )
    return stir(model.double())


@pytest.mark.parametrize("n_times", [10, 40])
def test_observed_recurrence_makes_the_bound_exact(n_times: int) -> None:
    """Value and gradient at any draw; 40 months take the path whose gradient runs at once."""
    batch = double(random_panel(n_times, 9, empty_months=[3]))
    model = observed_model()
    evidence = rv.exact.evidence(model, batch)
    weights = list(model.parts.parameters())
    expected = torch.autograd.grad(evidence, weights, allow_unused=True)
    assert sum(bool(g is not None and g.abs().max() > 0) for g in expected) >= len(weights) - 2
    for seed in range(2):
        pyro.set_rng_seed(seed)
        bound = -Trace_ELBO().differentiable_loss(model.model, model.guide, batch)
        torch.testing.assert_close(bound, evidence, rtol=1e-6, atol=0)
        gradient = torch.autograd.grad(bound, weights, allow_unused=True)
        for name, ours, exact in zip(
            dict(model.parts.named_parameters()), gradient, expected, strict=True
        ):
            if exact is not None:
                size = float(exact.abs().max())
                torch.testing.assert_close(
                    ours, exact, rtol=1e-6, atol=1e-6 * size + 1e-9, msg=name
                )


def test_closed_form_divergence_agrees_for_independent_months() -> None:
    """TraceMeanField with both sides Gaussian: the same bound, KL in closed form, no warning."""
    batch = double(random_panel(8, 9))
    model = observed_model()
    evidence = rv.exact.evidence(model, batch).item()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elbo = TraceMeanField_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=2)
        bound = -elbo.loss(model.model, model.guide, batch)
    pyro.set_rng_seed(1)
    single = [-TraceMeanField_ELBO().loss(model.model, model.guide, batch) for _ in range(30)]
    spread = np.std(single) / math.sqrt(400)
    assert bound == pytest.approx(evidence, abs=5 * spread)


def test_closed_form_divergence_is_unbiased_for_a_path() -> None:
    """For a latent recurrence Pyro falls back on the draw: the bounds are then the same number."""
    batch = double(random_panel(8, 9))
    model = stir(
        rv.RVRAE(CHARACTERISTICS, FACTORS, factor_prior=rv.priors.Recurrent(FACTORS)).double()
    )
    losses = []
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        pyro.set_rng_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            losses.append(elbo.loss(model.model, model.guide, batch))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_more_particles_tighten_the_importance_weighted_bound_of_the_default_model() -> None:
    """Student-t returns and a recurrent prior: no closed form, yet the order must hold."""
    batch = double(random_panel(10, 12))
    model = stir(rv.RVRAE(CHARACTERISTICS, FACTORS).double(), size=0.2)
    draws = log_weights(model, batch, 4000)
    bounds = [means(draws, size)[0] for size in (1, 10, 100)]
    assert bounds[0] < bounds[1] < bounds[2]
    filtered = rv.inference.smc_filter(model, batch, 4000, seed=0)
    error = means(draws, 100)[1]
    assert bounds[2] <= filtered.log_evidence.sum().item() + 4 * error + 0.05
