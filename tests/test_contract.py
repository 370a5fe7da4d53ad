"""The public contract tests: built-in parts pass them, broken parts are found out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rvrae_pyro as rv
from rvrae_pyro.testing import N_CHARACTERISTICS as P
from rvrae_pyro.testing import N_FACTORS as K

PRIORS: dict[str, Callable[[], rv.priors.FactorPrior]] = {
    "volatility": lambda: rv.priors.StochasticVolatility(K),
    "flow": lambda: rv.priors.Flow(K, rv.priors.AR1(K)),
    "regimes": lambda: rv.priors.RegimeSwitching(K),
}


@pytest.mark.parametrize("kind", list(PRIORS))
def test_built_in_priors_pass(kind: str) -> None:
    rv.testing.check_part("factor_prior", PRIORS[kind])


def test_built_in_parts_of_the_other_slots_pass() -> None:
    rv.testing.check_part(
        "guide", lambda: rv.guides.Recurrent(K, hidden=3), decoder=lambda: rv.decoders.MLP(K)
    )
    rv.testing.check_part(
        "likelihood", rv.likelihoods.StudentT, loadings=lambda: rv.loadings.MLP(P, K, hidden=(3,))
    )


class Leaky(rv.priors.AR1):
    """Keeps a number that is neither parameter nor buffer, and one shape too few."""

    def transition(self, state: tuple[Tensor, ...], context: Tensor | None) -> rv.priors.Gaussian:
        return rv.priors.Gaussian(self.loc, self.log_scale.exp() + state[0].mean().square())


class Clairvoyant(rv.guides.Conjugate):
    """Proposes each month from the mean of all months' returns."""

    def forward(self, batch: object, potential: object, view: object, kl_weight: object) -> object:
        shared = potential.shift.mean(-2, keepdim=True).expand_as(potential.shift)
        return super().forward(batch, potential._replace(shift=shared), view, kl_weight)


class Forgetful(rv.loadings.Linear):
    """Learns a number that no state dict holds."""

    def __init__(self, n_characteristics: int, n_factors: int) -> None:
        super().__init__(n_characteristics, n_factors)
        self.stray = [nn.Parameter(torch.randn(()))]

    def forward(self, batch: object) -> Tensor:
        return super().forward(batch) * (1.0 + self.stray[0].detach().to(self.layer.weight))


@pytest.mark.parametrize(
    ("slot", "make", "message"),
    [
        ("factor_prior", lambda: Leaky(K), "particles on a leading dimension"),
        ("guide", Clairvoyant, r"later returns|KL of"),
        ("loadings", lambda: Forgetful(P, K), "forecasts differ after saving"),
    ],
    ids=["leaky", "clairvoyant", "forgetful"],
)
def test_broken_parts_are_found_out(slot: str, make: Callable[[], object], message: str) -> None:
    with pytest.raises(rv.ContractError, match=message):
        rv.testing.check_part(slot, make)


def test_an_unknown_slot_is_refused() -> None:
    with pytest.raises(rv.ConfigError, match="`slot` must be one of"):
        rv.testing.check_part("prior", lambda: rv.priors.AR1(K))
