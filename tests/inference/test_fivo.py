"""FIVO and IWAE against the exact evidence, and as objectives of training."""

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.optim import ClippedAdam

import rvrae_pyro as rv
from tests.helpers import (
    double,
    fixed_loadings,
    linear_gaussian,
    random_panel,
    simulate_linear_gaussian,
    stir,
)


def mean_bound(elbo: object, model: rv.RVRAE, batch: object, times: int) -> tuple[float, float]:
    """Average an estimate over draws, with its standard error."""
    pyro.set_rng_seed(0)
    values = torch.tensor([-elbo.loss(model.model, model.guide, batch) for _ in range(times)])
    return values.mean().item(), values.std().item() / math.sqrt(times)


def test_bounds_are_ordered_below_the_exact_evidence() -> None:
    """Reference case of 12 assets: evidence -606.93, ELBO -612.76, IWAE(10) -609.13."""
    batch = simulate_linear_gaussian(12, 0.9, 0.5)
    model = linear_gaussian(batch)
    exact = rv.exact.evidence(model, batch).item()
    assert exact == pytest.approx(-606.9307, abs=1e-3)

    def vectorised(kind: type, n: int, **options: float) -> object:
        return kind(num_particles=n, vectorize_particles=True, max_plate_nesting=2, **options)

    elbo, elbo_error = mean_bound(vectorised(Trace_ELBO, 500), model, batch, 8)
    iwae, iwae_error = mean_bound(vectorised(RenyiELBO, 10, alpha=0), model, batch, 60)
    fivo, fivo_error = mean_bound(rv.inference.FIVO(10), model, batch, 25)
    assert elbo == pytest.approx(-612.76, abs=4 * elbo_error + 0.06)
    assert iwae == pytest.approx(-609.13, abs=4 * iwae_error + 0.06)
    # each step is many standard errors wide
    assert elbo + 1.0 < iwae
    assert iwae + 4 * math.hypot(iwae_error, fivo_error) < fivo
    assert fivo < exact
    many, error = mean_bound(rv.inference.FIVO(300), model, batch, 4)
    assert many == pytest.approx(exact, abs=0.1 + 4 * error)
    assert fivo < many


def test_months_without_memory_give_evidence_and_its_gradient_exactly() -> None:
    """With a memoryless prior and Normal returns every particle weighs the same."""
    batch = simulate_linear_gaussian(6, 0.0, 1.0, n_times=5)
    model = rv.RVRAE(
        2,
        2,
        loadings=fixed_loadings(2),
        factor_prior=rv.priors.StandardNormal(2),
        likelihood=rv.likelihoods.Normal(),
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(1.0)
    weights = list(model.parts.parameters())
    exact = rv.exact.evidence(model, batch)
    slope = torch.autograd.grad(exact, weights, materialize_grads=True)
    loss = rv.inference.FIVO(3).differentiable_loss(model.model, model.guide, batch)
    found = torch.autograd.grad(-loss, weights, materialize_grads=True)
    torch.testing.assert_close(-loss, exact)
    for a, b in zip(found, slope, strict=True):
        torch.testing.assert_close(a, b)


def test_one_particle_is_the_elbo_of_its_proposal() -> None:
    """With one particle nothing is chosen: the ELBO, with each month integrated out."""
    batch = simulate_linear_gaussian(12, 0.9, 0.5, n_times=10)
    model = linear_gaussian(batch)
    fivo, error = mean_bound(rv.inference.FIVO(1), model, batch, 300)
    many = Trace_ELBO(num_particles=1000, vectorize_particles=True, max_plate_nesting=2)
    elbo, elbo_error = mean_bound(many, model, batch, 4)
    # failure rate below 1e-4
    assert fivo == pytest.approx(elbo, abs=4 * (error + elbo_error) + 0.02)


@pytest.mark.parametrize("kind", ["volatility", "common", "regimes", "decoded", "robust"])
def test_it_trains_every_kind_of_model(kind: str) -> None:
    panel = random_panel(8, 9)
    parts: dict[str, object] = {
        "volatility": {"factor_prior": rv.priors.StochasticVolatility(2)},
        "common": {"factor_prior": rv.priors.CommonVolatility(rv.priors.Recurrent(2), gain=0.5)},
        "regimes": {"factor_prior": rv.priors.RegimeSwitching(2)},
        "decoded": {"decoder": rv.decoders.MLP(2), "guide": rv.guides.Recurrent(2)},
        "robust": {},
    }[kind]
    parts = {"factor_prior": rv.priors.Recurrent(2), **parts}
    model = rv.RVRAE(4, 2, loadings=rv.loadings.Linear(4, 2), **parts)
    config = rv.FitConfig(max_steps=4, window=4, kl_schedule=rv.schedules.Linear(0.3, 2))
    elbo = rv.inference.FIVO(num_particles=3)
    before = {name: p.detach().clone() for name, p in model.parts.named_parameters()}
    fit = rv.fit(model, panel, config=config, elbo=elbo, progress=False)
    assert all(math.isfinite(x) for x in fit.history["elbo"])
    stayed = [n for n, p in model.parts.named_parameters() if torch.equal(p, before[n])]
    assert stayed == []


def test_it_is_an_ordinary_pyro_elbo() -> None:
    batch = double(random_panel(6, 7))
    model = stir(rv.RVRAE(4, 2, loadings=rv.loadings.Linear(4, 2)).double(), size=0.1)
    svi = SVI(model.model, model.guide, ClippedAdam({"lr": 0.01}), rv.inference.FIVO(2))
    before = model.loadings.layer.weight.detach().clone()
    assert math.isfinite(svi.step(batch))
    assert math.isfinite(svi.evaluate_loss(batch))
    assert not torch.equal(before, model.loadings.layer.weight)


def test_misuse_is_refused() -> None:
    batch = double(random_panel(3, 5))
    one, other = (rv.RVRAE(4, 2).double() for _ in range(2))
    with pytest.raises(rv.ConfigError, match=r"of one rv.RVRAE.*Pass model.model"):
        rv.inference.FIVO(2).loss(one.model, other.guide, batch)
    with pytest.raises(rv.ConfigError, match="`num_particles` must be"):
        rv.inference.FIVO(0)
