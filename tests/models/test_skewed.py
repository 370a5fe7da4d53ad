"""Two-piece Student-t returns against quadrature, and against the Student-t that they start as."""

import math

import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.models.student import TwoPieceT
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

GRID = torch.linspace(-2000.0, 2000.0, 4_000_001, dtype=torch.float64)


def skewed(log_skew: float, df: float = 6.0) -> rv.likelihoods.SkewStudentT:
    part = rv.likelihoods.SkewStudentT(df=df).double()
    with torch.no_grad():
        part.log_skew.fill_(log_skew)
    return part


@pytest.mark.parametrize("log_skew", [-0.3, 0.0, 0.4])
def test_density_mean_variance_and_information_by_quadrature(log_skew: float) -> None:
    part = skewed(log_skew)
    one = torch.ones((), dtype=torch.float64)
    found = part.distribution(0.0 * one, one)
    with torch.no_grad():
        density = found.log_prob(GRID).exp()
        integral = lambda values: torch.trapezoid(values * density, GRID).item()  # noqa: E731
        assert integral(one) == pytest.approx(1.0, abs=1e-6)
        assert integral(GRID) == pytest.approx(0.0, abs=1e-5)
        assert integral(GRID.square()) == pytest.approx(found.variance.item(), rel=1e-3)
        assert part.deviation(one).item() == pytest.approx(math.sqrt(found.variance), rel=1e-9)
        square = part.score(GRID).square()
        assert integral(square) == pytest.approx(part.information().item(), rel=1e-5)


def test_score_is_the_derivative_of_the_log_density() -> None:
    part = skewed(0.3)
    error = torch.linspace(-4, 4, 41, dtype=torch.float64)
    loc = torch.zeros_like(error).requires_grad_()
    part.distribution(loc, torch.ones_like(error)).log_prob(error).sum().backward()
    torch.testing.assert_close(part.score(error).detach(), loc.grad)


def test_without_skewness_it_is_the_student_t() -> None:
    value = torch.linspace(-3, 3, 25, dtype=torch.float64)
    loc, scale = torch.full_like(value, 0.2), torch.full_like(value, 0.7)
    plain = rv.likelihoods.StudentT(df=6.0).double().distribution(loc, scale)
    torch.testing.assert_close(
        skewed(0.0).distribution(loc, scale).log_prob(value), plain.log_prob(value)
    )


def test_draws_follow_the_density() -> None:
    """200,000 draws: shares below four edges within 0.005, five standard errors."""
    one = torch.ones((), dtype=torch.float64)
    found = skewed(0.4).distribution(0.1 * one, 2.0 * one)
    assert isinstance(found, TwoPieceT)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        draws = found.sample((200_000,))
        density = found.log_prob(GRID).exp()
        for edge in (-4.0, -1.0, 0.5, 6.0):
            below = torch.trapezoid(density[edge >= GRID], GRID[edge >= GRID]).item()
            assert (draws < edge).double().mean().item() == pytest.approx(below, abs=0.005)
        assert draws.mean().item() == pytest.approx(0.1, abs=0.03)


def test_training_finds_the_long_tail() -> None:
    """Right-skewed residuals give a skew above 1; their mirror image one below."""
    panel = random_panel(60, 60)
    gamma = torch.distributions.Gamma(2.0, 1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noise = 0.05 * (gamma.sample((60, 60)) - 2.0).numpy()
    learned = {}
    for sign in (1.0, -1.0):
        seen = panel["returns"].notnull()
        one = panel.assign(returns=(sign * panel["returns"].copy(data=noise)).where(seen))
        model = rv.RVRAE(
            P,
            K,
            loadings=rv.loadings.Linear(P, K),
            factor_prior=rv.priors.StandardNormal(K),
            likelihood=rv.likelihoods.SkewStudentT(),
        )
        fit = rv.fit(model, one, config=rv.FitConfig(max_steps=150, window=12), progress=False)
        learned[sign] = fit.model.likelihood.value("skew").item()
    assert learned[1.0] > 1.15
    assert learned[-1.0] < 0.87


def test_bad_arguments_and_the_contract() -> None:
    with pytest.raises(rv.errors.ConfigError, match="`df` must be above 2"):
        rv.likelihoods.SkewStudentT(df=2.0)
    rv.testing.check_part("likelihood", rv.likelihoods.SkewStudentT)
