"""The public contract tests: built-in parts pass them, broken parts are found out."""

from collections.abc import Callable

import pyro.distributions as dist
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
    with pytest.raises(rv.ConfigError, match="`slot` must be 'loadings', "):
        rv.testing.check_part("prior", lambda: rv.priors.AR1(K))


class Walk(rv.priors.FactorPrior):
    """A shrinking random walk, right in all; each test below spoils one thing of it."""

    def __init__(self, n_factors: int, rho: float = 0.0) -> None:
        super().__init__()
        self.n_factors, self.rho = n_factors, rho
        self.raw = nn.Parameter(torch.tensor(rho))
        self.log_scale = nn.Parameter(torch.zeros(n_factors))

    def initial(self) -> tuple[Tensor, ...]:
        return (torch.zeros_like(self.log_scale),)

    def transition(self, state: tuple[Tensor, ...], context: Tensor | None) -> object:
        return rv.priors.Gaussian(torch.tanh(self.raw) * state[0], self.log_scale.exp())

    def advance(
        self, state: tuple[Tensor, ...], factors: Tensor, context: Tensor | None
    ) -> tuple[Tensor, ...]:
        return (factors,)


def _mixture(logits: tuple[float, float]) -> Callable[..., rv.priors.Mixture]:
    def transition(part: Walk, state: tuple[Tensor, ...], context: Tensor | None) -> object:
        loc = torch.stack([state[0], state[0]], -2)
        scale = part.log_scale.exp().expand(2, -1)
        return rv.priors.Mixture(torch.tensor(logits).to(loc), loc, scale)

    return transition


def _lose_rho(part: Walk, n_factors: int, rho: float = 0.0) -> None:
    rv.priors.FactorPrior.__init__(part)
    part.n_factors = n_factors
    part.raw = nn.Parameter(torch.tensor(rho))
    part.log_scale = nn.Parameter(torch.zeros(n_factors))


EVEN = (-0.6931472, -0.6931472)

SLIPS: dict[str, tuple[dict[str, object], str]] = {
    "tensor for state": ({"initial": lambda p: torch.zeros(K)}, r"initial` must return a tuple"),
    "single precision": ({"initial": lambda p: (torch.zeros(K),)}, r"initial` gave torch.float32"),
    "scalar state": ({"advance": lambda p, s, f, c: (f.mean(),)}, "whose last dimension is a size"),
    "two for one": ({"advance": lambda p, s, f, c: (f, f)}, r"sizes \[2\]; got \[2, 2\]"),
    "a tensor": (
        {"transition": lambda p, s, c: s[0]},
        r"must return rv.priors.Gaussian.*got an instance of torch's Tensor",
    ),
    "another distribution of Pyro": (
        {"transition": lambda p, s, c: dist.Laplace(s[0], 1.0)},
        "must return a Normal, a MultivariateNormal with a diagonal scale.*got Laplace",
    ),
    "number for scale": (
        {"transition": lambda p, s, c: rv.priors.Gaussian(s[0], 1.0)},
        "`scale` of Gaussian must be a tensor; got float",
    ),
    "three factors": (
        {"transition": lambda p, s, c: rv.priors.Gaussian(s[0], torch.ones(3).to(s[0]))},
        r"`scale` of Gaussian must end in n_factors = 2; got shape \(3,\)",
    ),
    "false flag": ({"transition": _mixture(EVEN)}, "returns Mixture while `gaussian` is True"),
    "not normalised": (
        {"gaussian": False, "transition": _mixture((0.0, 0.0))},
        "sum to one; they sum to 2",
    ),
    "forgotten argument": ({"__init__": _lose_rho}, r"`self.rho = rho`"),
    "raises": ({"advance": lambda p, s: s}, r"check `parts_are_well_formed` ended in TypeError"),
}


def test_an_own_prior_without_slips_passes() -> None:
    rv.testing.parts_are_well_formed(
        lambda: rv.RVRAE(P, K, factor_prior=Walk(K), likelihood=rv.likelihoods.Normal())
    )


@pytest.mark.parametrize("slip", list(SLIPS))
def test_slips_in_a_prior_are_named(slip: str) -> None:
    spoiled, message = SLIPS[slip]
    kind = type("Spoiled", (Walk,), spoiled)
    with pytest.raises(rv.ContractError, match=message):
        rv.testing.check_part("factor_prior", lambda: kind(K))


@pytest.mark.parametrize("missing", ["initial", "transition", "advance"])
def test_a_missing_method_is_named(missing: str) -> None:
    kind = type("Partial", (Walk,), {missing: getattr(rv.priors.FactorPrior, missing)})
    with pytest.raises(rv.ContractError, match=f"Partial needs a method `{missing}"):
        rv.testing.check_part("factor_prior", lambda: kind(K))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"distribution": lambda p, loc, scale: dist.Cauchy(loc, scale)}, "has no variance"),
        (
            {"distribution": lambda p, loc, scale: dist.Normal(loc, scale).to_event(1)},
            "Leave out `.to_event`",
        ),
        ({}, r"needs a method `distribution"),
    ],
    ids=["Cauchy", "event", "nothing"],
)
def test_slips_in_a_likelihood_are_named(methods: dict[str, object], message: str) -> None:
    kind = type("Spoiled", (rv.likelihoods.Likelihood,), methods)
    with pytest.raises(rv.ContractError, match=message):
        rv.testing.check_part("likelihood", kind)


def test_a_seed_does_not_undo_an_argument_that_a_part_forgot() -> None:
    kind = type("Lossy", (Walk,), {"__init__": _lose_rho})
    model = rv.RVRAE(P, K, factor_prior=kind(K, rho=0.75))
    assert not model.redraw(0)  # the default in its place would be another prior
    assert model.factor_prior.raw.item() == 0.75
    kept = rv.RVRAE(P, K, factor_prior=Walk(K, rho=0.75))
    assert kept.redraw(0)
    assert kept.factor_prior.raw.item() == 0.75
