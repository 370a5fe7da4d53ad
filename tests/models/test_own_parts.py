"""Parts of a user's own, each a short class: they train, forecast, save and load."""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import rvrae_pyro as rv
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel


class Momentum(rv.priors.FactorPrior):
    """Mean from an exponentially weighted average of past factors."""

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.decay = nn.Parameter(torch.zeros(n_factors))
        self.log_scale = nn.Parameter(torch.zeros(n_factors))

    def initial(self) -> tuple[Tensor, ...]:
        return (torch.zeros_like(self.decay),)

    def transition(self, state: tuple[Tensor, ...], context: Tensor | None) -> rv.priors.Gaussian:
        return rv.priors.Gaussian(0.5 * state[0], self.log_scale.exp().expand_as(state[0]))

    def advance(
        self, state: tuple[Tensor, ...], factors: Tensor, context: Tensor | None
    ) -> tuple[Tensor, ...]:
        memory = torch.sigmoid(self.decay)
        return (memory * state[0] + (1 - memory) * factors,)


class Laplace(rv.likelihoods.Likelihood):
    """Laplace returns: only the distribution is given."""

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale, validate_args=False)


class Amortised(rv.guides.Guide):
    """Independent months from a linear map of the month's score."""

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.layer = nn.Linear(n_factors, 2 * n_factors)

    def forward(
        self, batch: rv.data.Batch, potential: object, view: object, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        loc, log_scale = self.layer(torch.tanh(potential.shift)).chunk(2, dim=-1)
        months = dist.Normal(loc.unsqueeze(-2), log_scale.exp().unsqueeze(-2), validate_args=False)
        return months.to_event(1)


class Cubic(rv.loadings.Loadings):
    """Loadings linear in the characteristics and their cubes."""

    def __init__(self, n_characteristics: int, n_factors: int) -> None:
        super().__init__()
        self.n_characteristics, self.n_factors = n_characteristics, n_factors
        self.layer = nn.Linear(2 * n_characteristics, n_factors)

    def forward(self, batch: rv.data.Batch) -> Tensor:
        x = batch.characteristics
        return self.layer(torch.cat([x, x**3], dim=-1))


OWN: dict[str, Callable[[], object]] = {
    "factor_prior": lambda: Momentum(K),
    "likelihood": Laplace,
    "guide": lambda: Amortised(K),
    "loadings": lambda: Cubic(P, K),
}


@pytest.mark.parametrize("slot", list(OWN))
def test_own_part_is_short(slot: str) -> None:
    lines = inspect.getsource(type(OWN[slot]())).splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 25


@pytest.mark.parametrize("slots", [["factor_prior"], ["likelihood"], ["guide"], ["loadings"], OWN])
def test_own_parts_train_forecast_and_come_back(slots: list[str], tmp_path: Path) -> None:
    def build() -> rv.RVRAE:
        return rv.RVRAE(P, K, **{slot: OWN[slot]() for slot in slots})

    panel = random_panel(14, 12, seed=3)
    model = build()
    config = rv.FitConfig(max_steps=12, window=4)
    train, valid = panel.isel(time=slice(0, 10)), panel.isel(time=slice(10, 13))
    fit = rv.fit(model, train, valid, config=config, seed=1, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()
    for slot in slots:
        fresh = dict(rv_redrawn(build, 1).parts.get_submodule(slot).named_parameters())
        own = dict(model.parts.get_submodule(slot).named_parameters())
        assert any(not torch.equal(own[name], fresh[name]) for name in own)
    forecast = fit.forecast(panel, num_samples=20)
    drawn = forecast["predictions"]["returns"]
    listed = panel["characteristics"].notnull().any("characteristic").transpose("time", "asset")
    assert bool((drawn.notnull().all(("chain", "draw")) == listed).all())
    replicates = fit.posterior_predictive(panel, num_samples=10)
    assert bool(np.isfinite(replicates["log_likelihood"]["returns"]).all())

    path = fit.save(tmp_path / "fit")
    with pytest.raises(rv.CheckpointError, match="pass it as `model=`"):
        rv.load(path)
    again = rv.load(path, model=build())
    np.testing.assert_array_equal(
        again.forecast(panel, num_samples=20)["predictions"]["returns"], drawn
    )
    with pytest.raises(rv.CheckpointError, match="do not fit the model"):
        rv.load(path, model=rv.RVRAE(P, K + 1))


def rv_redrawn(build: Callable[[], rv.RVRAE], seed: int) -> rv.RVRAE:
    """Build a model with the weights that a fit with this seed starts from."""
    model = build()
    model.redraw(seed)
    return model
