"""Densities over weights, and which weights they see."""

import math

import pytest
import torch
from torch import Tensor, nn

import rvrae_pyro as rv
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.weights import WeightMatrices, weight_matrices
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K

W_IN = torch.tensor([[3.0, 0.0, -1.0], [4.0, 0.0, 0.0]])
W_OUT = torch.tensor([[2.0, -2.0]])
MATRICES = WeightMatrices([W_IN], [W_OUT])


def test_group_log_by_hand() -> None:
    """Columns have norms 5, 0 and 1; the absolute weights sum to 8 + 4."""
    penalty = math.log1p(5 / 0.1) + 0.0 + math.log1p(1 / 0.1) + 0.3 * 12.0
    prior = rv.weights.GroupLog(strength=36.0, scale=0.1, elementwise=0.3)
    assert prior.log_density(MATRICES).item() == pytest.approx(-36.0 * penalty, rel=1e-5)


def test_normal_and_laplace_are_densities_up_to_a_constant() -> None:
    weights = torch.cat([W_IN.flatten(), W_OUT.flatten()])
    at_zero = WeightMatrices([torch.zeros_like(W_IN)], [torch.zeros_like(W_OUT)])
    for prior, law in (
        (rv.weights.Normal(0.7), torch.distributions.Normal(0.0, 0.7)),
        (rv.weights.Laplace(0.2), torch.distributions.Laplace(0.0, 0.2)),
    ):
        gap = (law.log_prob(weights) - law.log_prob(torch.zeros_like(weights))).sum()
        ours = prior.log_density(MATRICES) - prior.log_density(at_zero)
        torch.testing.assert_close(ours, gap)


def test_group_log_has_a_finite_gradient_at_zero_and_switches_characteristics_off() -> None:
    w = W_IN.clone().requires_grad_()
    prior = rv.weights.GroupLog(elementwise=0.0)
    (slope,) = torch.autograd.grad(prior.log_density(WeightMatrices([w], [])), w)
    assert bool(torch.isfinite(slope).all())
    assert bool((slope[:, 1] == 0).all())
    # a heavy tail: the pull on a large column is weaker than on a small one
    small = torch.tensor([[0.1], [0.0]], requires_grad=True)
    (pull,) = torch.autograd.grad(prior.log_density(WeightMatrices([small], [])), small)
    assert pull.norm() > slope[:, 0].norm() * 10


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.weights.GroupLog(strength=0.0), "`strength` must be above 0"),
        (lambda: rv.weights.GroupLog(scale=-1.0), "`scale` must be above 0"),
        (lambda: rv.weights.GroupLog(elementwise=-0.1), "`elementwise` must be at least 0"),
        (lambda: rv.weights.Normal(0.0), "`scale` must be above 0"),
        (lambda: rv.weights.Laplace(float("nan")), "`scale` must be above 0"),
    ],
)
def test_impossible_priors_are_refused(make: object, match: str) -> None:
    with pytest.raises(rv.ConfigError, match=match):
        make()


PARTS = {
    "lstm": lambda w: rv.loadings.LSTM(P, K, hidden=5, weights=w),
    "plain lstm": lambda w: rv.loadings.LSTM(P, K, hidden=5, skip=False, weights=w),
    "mlp": lambda w: rv.loadings.MLP(P, K, hidden=(5, 3), weights=w),
    "linear": lambda w: rv.loadings.Linear(P, K, weights=w),
    "scale": lambda w: rv.likelihoods.CharacteristicScale(P, n_context=2, weights=w),
    "alpha": lambda w: rv.likelihoods.Alpha(P, weights=w),
    "recurrent": lambda w: rv.priors.Recurrent(K, hidden=5, skip=False, weights=w),
}


@pytest.mark.parametrize("kind", list(PARTS))
def test_every_matrix_is_seen_once_and_no_bias(kind: str) -> None:
    part = PARTS[kind](rv.weights.Normal())
    matrices = weight_matrices(part)
    seen = [id(w) for w in (*matrices.inputs, *matrices.others)]
    assert len(seen) == len(set(seen))
    tables = {id(p) for p in part.parameters() if p.ndim == 2}
    assert set(seen) == tables
    columns = {w.shape[1] for w in matrices.inputs}
    assert columns == (set() if kind == "recurrent" else {P})


def test_matrices_of_an_own_part_are_found_by_their_columns() -> None:
    class Own(Part):
        def __init__(self) -> None:
            super().__init__()
            self.n_characteristics = P
            self.first, self.last = nn.Linear(P, 7), nn.Linear(7, K)

    own = Own()
    matrices = weight_matrices(own)
    assert [id(w) for w in matrices.inputs] == [id(own.first.weight)]
    assert [id(w) for w in matrices.others] == [id(own.last.weight)]


def test_model_adds_the_priors_of_all_its_parts_and_of_nothing_else() -> None:
    scale = rv.likelihoods.CharacteristicScale(P, weights=rv.weights.Laplace(0.3))
    model = rv.RVRAE(
        P,
        K,
        loadings=rv.loadings.MLP(P, K, weights=rv.weights.Normal(0.5)),
        likelihood=rv.likelihoods.Normal(scale, rv.likelihoods.Alpha(P)),
        factor_prior=rv.priors.Recurrent(K, weights=None, skip_weights=None),
    )
    parts: list[tuple[object, nn.Module]] = [
        (rv.weights.Normal(0.5), model.loadings),
        (rv.weights.Laplace(0.3), scale),
        (rv.weights.GroupLog(), model.likelihood.alpha),
    ]
    expected: Tensor = sum(prior.log_density(weight_matrices(part)) for prior, part in parts)
    torch.testing.assert_close(model.log_weights(), expected)
    assert rv.RVRAE.paper(P, K).log_weights().item() == 0.0
