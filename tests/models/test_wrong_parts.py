"""Slots take their own kind of object: everything else raises at once and names the choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import rvrae_pyro as rv
from tests.helpers import random_panel

CONFIG: Final = rv.FitConfig(max_steps=1)


def _model(**parts: Any) -> rv.RVRAE:
    return rv.RVRAE(4, 2, **parts)


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(8, 8)


PARTS: Final = [
    ("factor_prior", rv.priors.AR1, r"the class AR1. Pass an instance, e.g. rv.priors.AR1\(2\)"),
    ("factor_prior", "ar1", r"got 'ar1'. Pass an instance, e.g. rv.priors.AR1\(...\)"),
    ("factor_prior", rv.likelihoods.Normal(), "an instance of Normal. Choose among rv.priors.AR1"),
    ("factor_prior", dist.Normal(0.0, 1.0), "pyro's Normal. Choose among rv.priors.AR1, .*Flow"),
    ("factor_prior", 0, "got 0. Choose among"),
    ("loadings", "mlp", r"got 'mlp'. Pass an instance, e.g. rv.loadings.MLP\(...\). Choose among"),
    ("loadings", rv.loadings.LSTM, r"the class LSTM. .* e.g. rv.loadings.LSTM\(4, 2\)"),
    ("loadings", torch.nn.Linear(4, 2), "an instance of torch's Linear."),
    ("loadings", rv.loadings, "got the module rvrae_pyro.models.loadings. Choose among"),
    ("likelihood", dist.Normal, r"the class pyro's Normal. .* rv.likelihoods.Normal\(...\)"),
    ("likelihood", rv.likelihoods.StudentT, r"e.g. rv.likelihoods.StudentT\(\)"),
    ("decoder", rv.decoders.MLP, r"e.g. rv.decoders.MLP\(2\)"),
    ("decoder", lambda code: code, "an instance of function. Choose among rv.decoders.MLP"),
    ("guide", AutoNormal, "the class pyro's AutoNormal. Choose among rv.guides.Conjugate"),
    ("guide", rv.guides.Conjugate, r"e.g. rv.guides.Conjugate\(\)"),
]


@pytest.mark.parametrize(("slot", "value", "message"), PARTS)
def test_slots_of_a_model(slot: str, value: object, message: str) -> None:
    with pytest.raises(rv.ConfigError, match=f"`{slot}` must be an instance of .*{message}"):
        _model(**{slot: value})


def test_a_part_of_a_model_is_no_slot_of_another() -> None:
    with pytest.raises(rv.ConfigError, match=r"`guide` must be an instance of Guide"):
        _model(guide=_model().guide)


def test_every_built_in_choice_is_named_and_no_base() -> None:
    with pytest.raises(rv.ConfigError) as error:
        _model(likelihood=1)
    shown = str(error.value).partition("Choose among ")[2].rstrip(".").split(", ")
    assert len(shown) >= 5
    assert "rv.likelihoods.RobustLikelihood" not in shown
    for name in shown:
        kind = getattr(rv.likelihoods, name.removeprefix("rv.likelihoods."))
        assert issubclass(kind, rv.likelihoods.Likelihood)
        _model(likelihood=kind())


WEIGHTED: Final[dict[str, Callable[[Any], object]]] = {
    "MLP": lambda value: rv.loadings.MLP(4, 2, weights=value),
    "Linear": lambda value: rv.loadings.Linear(4, 2, value),
    "LSTM": lambda value: rv.loadings.LSTM(4, 2, weights=value),
    "scale": lambda value: rv.likelihoods.CharacteristicScale(4, weights=value),
    "alpha": lambda value: rv.likelihoods.Alpha(4, weights=value),
    "prior": lambda value: rv.priors.Recurrent(2, weights=value),
    "skip": lambda value: rv.priors.Recurrent(2, skip_weights=value),
}


@pytest.mark.parametrize("part", WEIGHTED)
def test_weight_priors(part: str) -> None:
    build = WEIGHTED[part]
    build(rv.weights.Normal(0.3))
    slot = "skip_weights" if part == "skip" else "weights"
    for value, message in (
        (dist.Normal(0.0, 1.0), "an instance of pyro's Normal. Choose among rv.weights.GroupLog"),
        (rv.weights.GroupLog, r"the class GroupLog. Pass an instance, e.g. rv.weights.GroupLog\("),
        ("grouplog", "got 'grouplog'"),
        (3.0, "got 3.0"),
    ):
        with pytest.raises(rv.ConfigError, match=f"`{slot}` must be a weight prior.*{message}"):
            build(value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: rv.likelihoods.StudentT(rv.likelihoods.GlobalScale),
            r"`scale` .* Pass an instance, e.g. rv.likelihoods.GlobalScale\(\)",
        ),
        (lambda: rv.likelihoods.Normal("global"), "`scale` .* got 'global'"),
        (lambda: rv.likelihoods.Laplace(0.1), "`scale` .* got 0.1. Choose among rv.likelihoods.Gl"),
        (lambda: rv.likelihoods.Normal(rv.priors.AR1(2)), "`scale` .* an instance of AR1"),
        (
            lambda: rv.likelihoods.Normal(alpha=rv.likelihoods.Alpha),
            r"`alpha` .* Pass an instance, e.g. rv.likelihoods.Alpha\(...\)",
        ),
        (lambda: rv.likelihoods.Normal(alpha=True), "`alpha` .* got True"),
        (lambda: rv.loadings.Augmented(rv.loadings.MLP), "`learned` .* the class MLP"),
        (lambda: rv.loadings.Augmented("mlp"), "`learned` .* got 'mlp'"),
        (lambda: rv.priors.Augmented(rv.priors.AR1, 3), "`base` .* the class AR1"),
        (lambda: rv.priors.Augmented(rv.loadings.MLP(4, 2), 3), "`base` .* an instance of MLP"),
    ],
)
def test_parts_of_parts(build: Callable[[], object], message: str) -> None:
    with pytest.raises(rv.ConfigError, match=message):
        build()


MODELS: Final[dict[str, tuple[Callable[[], object], str]]] = {
    "class": (lambda: rv.RVRAE, "the class RVRAE. Build one: rv.RVRAE"),
    "Pyro model": (lambda: _model().model, "its Pyro model. Pass the whole model, not its `"),
    "Pyro guide": (lambda: _model().guide, "its Pyro guide. Pass the whole model"),
    "module": (lambda: torch.nn.Linear(1, 1), "an instance of torch's Linear"),
    "name": (lambda: "rvrae", "'rvrae'. Build one"),
    "baseline": (lambda: rv.baselines.IPCA(1), "an instance of IPCA"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(panel: xr.Dataset, name: str) -> None:
    make, message = MODELS[name]
    batch = rv.data.to_batch(panel)
    for ask in (
        lambda model: rv.fit(model, panel, config=CONFIG, progress=False),
        lambda model: rv.prior_predictive(model, panel),
        lambda model: rv.exact.evidence(model, batch),
        lambda model: rv.exact.smoother(model, batch),
    ):
        with pytest.raises(rv.ConfigError, match=f"`model` must be an rv.RVRAE; got {message}"):
            ask(make())


@pytest.fixture(scope="module")
def fit(panel: xr.Dataset) -> rv.Fit:
    return rv.fit(_model(), panel, config=CONFIG, progress=False)


def test_a_fit_is_no_model(fit: rv.Fit, panel: xr.Dataset) -> None:
    with pytest.raises(rv.ConfigError, match=r"an instance of Fit. Pass its `\.model`"):
        rv.prior_predictive(fit, panel)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"max_steps": 2}}, "`config` must be an rv.FitConfig; got an instance of dict"),
        ({"config": rv.FitConfig}, "`config` .* the class FitConfig. Pass an instance"),
        ({"init": "folder"}, r"`init` must be a Fit; got 'folder'. .* or rv.load\(path\)"),
        ({"init": _model()}, "`init` must be a Fit; got an instance of RVRAE"),
        ({"elbo": Trace_ELBO}, r"`elbo` .* the class pyro's Trace_ELBO. .*Trace_ELBO\(\)"),
        ({"elbo": "trace"}, "`elbo` must be a Pyro ELBO; got 'trace'"),
    ],
)
def test_options_of_a_fit(panel: xr.Dataset, options: dict[str, Any], message: str) -> None:
    model = _model()
    with pytest.raises(rv.ConfigError, match=message):
        rv.fit(model, panel, progress=False, **{"config": CONFIG, **options})
    assert model.untrained


@pytest.mark.parametrize(
    "value", [pd.DataFrame(), np.zeros(3), "panel.nc", _model()], ids=lambda v: type(v).__name__
)
def test_panels(fit: rv.Fit, panel: xr.Dataset, value: Any) -> None:
    for ask in (
        lambda: rv.fit(_model(), value, config=CONFIG, progress=False),
        lambda: rv.fit(_model(), panel, value, config=CONFIG, progress=False),
        lambda: rv.prior_predictive(_model(), value),
        lambda: fit.forecast(value, 10),
        lambda: fit.factors(value, num_samples=10),
        lambda: fit.loadings(value),
        lambda: fit.posterior_predictive(value, 10),
        lambda: fit.check(value, 100),
        lambda: rv.diagnostics.psis(fit, value, 100),
        lambda: rv.baselines.IPCA(1).fit(value),
    ):
        with pytest.raises(rv.PanelError, match=f"xarray.Dataset; got {type(value).__name__}"):
            ask()


@pytest.mark.parametrize("name", ["model", "guide", "set_units", "walk", "elbo", "exact"])
def test_batches(panel: xr.Dataset, name: str) -> None:
    model = _model(factor_prior=rv.priors.AR1(2), likelihood=rv.likelihoods.Normal())
    ask: dict[str, Callable[[Any], object]] = {
        "model": model.model,
        "guide": model.guide,
        "set_units": model.set_units,
        "walk": model.walk,
        "elbo": lambda batch: Trace_ELBO().differentiable_loss(model.model, model.guide, batch),
        "exact": lambda batch: rv.exact.evidence(model, batch),
    }
    for value, got in ((panel, "a Dataset"), (pd.DataFrame(), "DataFrame"), (None, "NoneType")):
        with pytest.raises(rv.ConfigError, match=rf"`batch` .*got {got}. Pass rv.data.to_batch\("):
            ask[name](value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_model(), "`make_model` must be a function .* an instance of RVRAE"),
        (rv.RVRAE, "`make_model` must be a function .* the class RVRAE"),
        (lambda: _model().model, "`make_model` must return an rv.RVRAE; got Model"),
    ],
)
def test_makers_of_an_ensemble(panel: xr.Dataset, make: Any, message: str) -> None:
    with pytest.raises(rv.ConfigError, match=message):
        rv.fit_ensemble(make, panel, seeds=2, config=CONFIG, progress=False)


@pytest.mark.parametrize(
    ("slot", "make", "message"),
    [
        ("factor_prior", rv.priors.AR1(2), "must be a function; got an instance of AR1"),
        ("factor_prior", rv.priors.AR1, "without arguments: missing a required argument: 'n_f"),
        ("factor_prior", "AR1", "must be a function; got 'AR1'"),
        ("factor_prior", lambda: rv.priors.AR1, r"the class AR1. .* rv.priors.AR1\(2\)"),
        ("factor_prior", lambda: rv.likelihoods.Normal(), "an instance of Normal. Choose among"),
        ("prior", lambda: rv.priors.AR1(2), "`slot` must be 'loadings', 'factor_prior'"),
    ],
)
def test_what_check_part_is_given(slot: Any, make: Any, message: str) -> None:
    with pytest.raises(rv.ConfigError, match=message):
        rv.testing.check_part(slot, make)


def test_what_else_checks_are_given() -> None:
    def prior() -> rv.priors.AR1:
        return rv.priors.AR1(2)

    with pytest.raises(rv.ConfigError, match="what makes the loadings must be a function"):
        rv.testing.check_part("factor_prior", prior, loadings=rv.loadings.MLP(4, 2))
    with pytest.raises(rv.ConfigError, match="no slot 'lodings'; there are loadings"):
        rv.testing.check_part("factor_prior", prior, lodings=lambda: rv.loadings.MLP(4, 2))
    with pytest.raises(rv.ConfigError, match="must be a function; got an instance of RVRAE"):
        rv.testing.check_model(_model())
    with pytest.raises(rv.ConfigError, match=r"`make\(\)` must be an rv.RVRAE; got its Pyro model"):
        rv.testing.check_model(lambda: _model().model)


class Mine(rv.priors.FactorPrior):
    """A prior whose transition returns what it is given."""

    def __init__(self, n_factors: int, law: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.n_factors, self.law = n_factors, law
        self.slope_of_mean = torch.nn.Parameter(torch.zeros(n_factors))

    def initial(self) -> tuple[Tensor, ...]:
        return (torch.zeros_like(self.slope_of_mean),)

    def transition(self, state: tuple[Tensor, ...], context: Tensor | None) -> Any:
        return self.law(self.slope_of_mean * state[0])

    def advance(
        self, state: tuple[Tensor, ...], factors: Tensor, context: Tensor | None
    ) -> tuple[Tensor, ...]:
        return (factors,)


LAWS: Final[dict[str, tuple[Callable[[Tensor], Any], str]]] = {
    "uniform": (lambda z: dist.Uniform(z - 1.0, z + 1.0), "must return a Normal.*got Uniform"),
    "correlated": (
        lambda z: dist.MultivariateNormal(z, torch.tensor([[1.0, 0.5], [0.5, 1.0]]).to(z)),
        "returned a distribution with correlated factors",
    ),
    "one number": (
        lambda z: dist.Normal(0.0, 1.0),
        r"must return .* n_factors = 2; got shape \(\)",
    ),
    "pair": (lambda z: (z, torch.ones_like(z)), "must return .*got an instance of tuple"),
    "tensor": (lambda z: z, "must return rv.priors.Gaussian.*got an instance of torch's Tensor"),
    "nothing": (lambda z: None, "must return rv.priors.Gaussian.*got None"),
}


@pytest.mark.parametrize("name", LAWS)
def test_what_a_transition_returns(panel: xr.Dataset, name: str) -> None:
    law, message = LAWS[name]
    with pytest.raises(rv.ConfigError, match=f"`Mine.transition` {message}"):
        rv.fit(_model(factor_prior=Mine(2, law)), panel, config=CONFIG, progress=False)
    with pytest.raises(rv.ContractError, match=f"`Mine.transition` {message}"):
        rv.testing.check_part("factor_prior", lambda: Mine(2, law))


def test_a_normal_of_pyro_is_taken(panel: xr.Dataset) -> None:
    prior = Mine(2, lambda z: dist.Normal(z, torch.ones_like(z)))
    rv.fit(_model(factor_prior=prior), panel, config=CONFIG, progress=False)
