"""Densities over weight matrices: constants, draws and scale mixtures against other routes."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import rvrae_pyro as rv
from rvrae_pyro.models.weight_densities import (
    GroupLogMatrix,
    HorseshoeMatrix,
    group_log_table,
    horseshoe_table,
)

ZERO = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize(("rows", "strength"), [(3, 10.0), (32, 36.0), (1, 2.5)])
def test_group_log_constant_has_a_closed_form_without_the_elementwise_term(
    rows: int, strength: float
) -> None:
    """Surface of the sphere times a beta integral over the norm."""
    scale = 0.1
    expected = (
        math.log(2.0)
        + 0.5 * rows * math.log(math.pi)
        - math.lgamma(0.5 * rows)
        + rows * math.log(scale)
        + math.lgamma(rows)
        + math.lgamma(strength - rows)
        - math.lgamma(strength)
    )
    got = group_log_table(rows, strength, scale, 0.0).log_z
    assert got == pytest.approx(expected, rel=1e-6)


def test_group_log_is_a_density_with_the_elementwise_term() -> None:
    """Integral over one weight, and over a column of two, by the trapezoidal rule."""
    line = torch.linspace(-3.0, 3.0, 400_001, dtype=torch.float64)
    one = GroupLogMatrix(ZERO.new_zeros(1, 1), 36.0, 0.1, 0.3)
    assert torch.trapezoid(one.log_prob(line.reshape(-1, 1, 1)).exp(), line) == pytest.approx(
        1.0, abs=1e-5
    )
    axis = torch.linspace(-1.2, 1.2, 1201, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2, 1)
    two = GroupLogMatrix(ZERO.new_zeros(2, 1), 6.0, 0.1, 0.3)
    mass = two.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    # the peak at zero and the tails beyond the grid cost a few tenths of a per cent
    assert float(mass) == pytest.approx(1.0, abs=0.01)


def test_group_log_draws_follow_their_density() -> None:
    """One weight: Kolmogorov-Smirnov against the integrated density; p < 2e-5 would fail."""
    law = GroupLogMatrix(ZERO.new_zeros(1, 1), 6.0, 0.1, 0.3)
    draws = law.sample((20_000,)).flatten().numpy()
    line = torch.linspace(-4.0, 4.0, 800_001, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(law.log_prob(line.reshape(-1, 1, 1)).exp(), line).numpy()
    test = stats.kstest(draws, lambda w: np.interp(w, line[1:].numpy(), cdf))
    assert test.pvalue > 2e-5


def test_group_log_norms_without_the_elementwise_term_are_beta_prime() -> None:
    law = GroupLogMatrix(ZERO.new_zeros(4, 3), 10.0, 0.1, 0.0)
    norms = law.sample((5_000,)).square().sum(-2).sqrt().flatten().numpy()
    test = stats.kstest(norms / 0.1, stats.betaprime(4, 6).cdf)
    assert test.pvalue > 2e-5


def test_horseshoe_is_a_density_and_draws_follow_it() -> None:
    law = HorseshoeMatrix(ZERO.new_zeros(1, 1), 0.1, 1.0, 0.1)
    # even in the log on both sides of the narrow peak
    line = 1e-4 * torch.sinh(torch.linspace(-11.7, 11.7, 6001, dtype=torch.float64))
    density = law.log_prob(line.reshape(-1, 1, 1)).exp()
    assert float(torch.trapezoid(density, line)) == pytest.approx(1.0, abs=1e-3)
    cdf = torch.cumulative_trapezoid(density, line).numpy()
    draws = law.sample((20_000,)).flatten().numpy()
    test = stats.kstest(draws, lambda w: np.interp(w, line[1:].numpy(), cdf))
    assert test.pvalue > 2e-5


def test_horseshoe_grid_is_the_continuous_mixture() -> None:
    """Half-Cauchy scales drawn and cut to the grid's range: the same mean log density."""
    rng = np.random.default_rng(0)
    scale, slab, floor, rows = 0.1, 1.0, 0.1, 8
    tau = np.abs(rng.standard_cauchy(400_000))
    local = np.abs(rng.standard_cauchy(400_000))
    # nodes stand for half a step on either side: 0.25 for log tau, 0.0625 for log lambda
    keep = (np.abs(np.log(tau)) < 3.25) & (local > floor * np.exp(-0.0625)) & (local < 200)
    spread = scale * tau[keep] * local[keep]
    variance = 1.0 / (spread**-2.0 + slab**-2)
    law = HorseshoeMatrix(ZERO.new_zeros(rows, 1), scale, slab, floor)
    for size in (0.02, 0.3, 2.0):
        column = np.full(rows, size)
        logs = stats.norm.logpdf(column[:, None], scale=np.sqrt(variance)).sum(0)
        expected = np.log(np.mean(np.exp(logs)))
        got = law.log_prob(torch.as_tensor(column).reshape(rows, 1))
        # Monte-Carlo error below 1 %; the grid's ends count half a step more
        assert float(got) == pytest.approx(expected, abs=0.06)


def test_columns_of_a_horseshoe_share_what_they_say_of_sparsity() -> None:
    """A column is less likely to be large where the others are all but zero."""
    law = HorseshoeMatrix(ZERO.new_zeros(4, 20), 0.1, 1.0, 0.1)
    large = torch.full((4, 1), 0.5, dtype=torch.float64)

    def gain(rest: float) -> float:
        others = torch.full((4, 19), rest, dtype=torch.float64)
        small = torch.full((4, 1), 0.01, dtype=torch.float64)
        on, off = (law.log_prob(torch.cat([c, others], 1)) for c in (large, small))
        return float(on - off)

    assert gain(0.5) > gain(0.005) + 1.0


@pytest.mark.parametrize(
    "prior",
    [
        rv.weights.Normal(0.3),
        rv.weights.Laplace(0.3),
        rv.weights.GroupLog(),
        rv.weights.Horseshoe(),
    ],
    ids=["normal", "laplace", "group_log", "horseshoe"],
)
@pytest.mark.parametrize("is_input", [True, False])
def test_sites_have_shapes_and_agree_with_the_map_density(prior: object, is_input: bool) -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    law = prior.distribution(weight, is_input)
    assert (law.batch_shape, law.event_shape) == ((), (5, 7))
    many = law.expand(torch.Size((3, 1, 1)))
    draws = many.sample()
    assert draws.shape == (3, 1, 1, 5, 7)
    assert many.log_prob(draws).shape == (3, 1, 1)
    for i in range(3):
        torch.testing.assert_close(
            many.log_prob(draws)[i, 0, 0], law.log_prob(draws[i, 0, 0]), check_dtype=True
        )
    from rvrae_pyro.models.weights import WeightMatrices

    def at(w: torch.Tensor) -> torch.Tensor:
        matrices = WeightMatrices([w], []) if is_input else WeightMatrices([], [w])
        return prior.log_density(matrices)

    gap = at(weight) - at(0.5 * weight)
    torch.testing.assert_close(law.log_prob(weight) - law.log_prob(0.5 * weight), gap)


def test_improper_densities_have_no_posterior() -> None:
    prior = rv.weights.GroupLog(strength=8.0, elementwise=0.0, inference="posterior")
    with pytest.raises(rv.ConfigError, match="no proper density of groups of 16"):
        rv.RVRAE(3, 2, loadings=rv.loadings.MLP(3, 2, hidden=(16,), weights=prior))
    with pytest.raises(rv.ConfigError, match="no proper density of hidden"):
        rv.RVRAE(3, 2, loadings=rv.loadings.MLP(3, 2, hidden=(4,), weights=prior))
    with pytest.raises(rv.ConfigError, match="`inference` must be 'map' or 'posterior'"):
        rv.weights.Laplace(inference="vi")
    with pytest.raises(rv.ConfigError, match="`floor` must be in"):
        rv.weights.Horseshoe(floor=1.5)


def test_a_prior_without_a_distribution_is_named() -> None:
    class Bare:
        inference = "posterior"

        def log_density(self, matrices: object) -> torch.Tensor:
            return torch.zeros(())

    with pytest.raises(rv.ConfigError, match="Bare of `loadings` asks for a posterior"):
        rv.RVRAE(3, 2, loadings=rv.loadings.Linear(3, 2, weights=Bare()))


def test_tables_are_probabilities() -> None:
    table = horseshoe_table(0.02, 1.0, 0.1)
    assert float(table.log_local.exp().sum()) == pytest.approx(1.0)
    assert float(table.log_global.exp().sum()) == pytest.approx(1.0)
    assert float(table.variance.max()) <= 1.0
    assert float(group_log_table(32, 36.0, 0.1, 0.3).probability.sum()) == pytest.approx(1.0)
