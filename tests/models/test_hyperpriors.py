"""Interpretable parameters with a prior of their own."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.models.hyperpriors import build_distribution, describe_distribution
from rvrae_pyro.models.registry import build_model, describe_model, is_built_in
from rvrae_pyro.nn.seeding import seeded

T, N, P, K = 5, 7, 3, 3
PARTICLES = K  # as many as factors, so that no wrong broadcast is an error of shapes

Make = Callable[[], rv.RVRAE]


def build(**parts: object) -> rv.RVRAE:
    with seeded(1):
        parts.setdefault("loadings", rv.loadings.Linear(P, K))
        parts.setdefault("likelihood", rv.likelihoods.Normal())
        parts.setdefault("factor_prior", rv.priors.AR1(K))
        return rv.RVRAE(P, K, **parts).double()  # type: ignore[arg-type]


def batch_of() -> rv.data.Batch:
    panel = rv.data.simulate_linear_gaussian(N, T, K, seed=3)
    return rv.data.to_batch(panel, dtype=torch.float64)


def priors() -> dict[str, Make]:
    """One model for every interpretable parameter of the package."""
    p, lik = rv.priors, rv.likelihoods
    unit, beta = dist.Uniform(-1.0, 1.0), dist.Beta(20.0, 2.0)
    scale, mean = dist.LogNormal(0.0, 0.5), dist.Normal(0.0, 0.5)
    alone = {
        "AR1.coefficient": lambda: p.AR1(K, coefficient=unit),
        "AR1.coefficient on the line": lambda: p.AR1(K, coefficient=mean),
        "AR1.scale": lambda: p.AR1(K, scale=scale),
        "AR1.mean": lambda: p.AR1(K, mean=mean),
        "AR1": lambda: p.AR1(K, unit, scale, mean),
        "StochasticVolatility.persistence": lambda: p.StochasticVolatility(K, persistence=unit),
        "StochasticVolatility.volatility": lambda: p.StochasticVolatility(K, volatility=scale),
        "StochasticVolatility.log_variance": lambda: p.StochasticVolatility(K, log_variance=mean),
        "StochasticVolatility.mean": lambda: p.StochasticVolatility(K, mean=mean),
        "CommonVolatility.persistence": lambda: p.CommonVolatility(p.AR1(K), persistence=beta),
        "CommonVolatility.volatility": lambda: p.CommonVolatility(p.AR1(K), volatility=scale),
        "CommonVolatility.elasticity": lambda: p.CommonVolatility(p.AR1(K), elasticity=scale),
        "CommonVolatility of AR1": lambda: p.CommonVolatility(p.AR1(K, scale=scale), beta),
        "CommonVolatility of Recurrent": lambda: p.CommonVolatility(p.Recurrent(K), beta, scale),
        "CommonVolatility of Augmented": lambda: p.CommonVolatility(
            p.Augmented(p.AR1(1), 2), elasticity=scale
        ),
        "Augmented.scale": lambda: p.Augmented(p.AR1(1), 2, scale=scale),
        "RegimeSwitching.staying": lambda: p.RegimeSwitching(K, staying=beta),
        "RegimeSwitching.mean": lambda: p.RegimeSwitching(K, mean=mean),
        "RegimeSwitching.scale": lambda: p.RegimeSwitching(K, scale=scale),
        "Recurrent.excess_df": lambda: p.Recurrent(
            K, innovation="student_t", excess_df=dist.Gamma(2.0, 0.1)
        ),
        "Recurrent.price_of_risk": lambda: p.Recurrent(K, price_of_risk=mean),
        "Recurrent.price_of_risk, observed": lambda: p.Recurrent(
            K, recurrence="observed", price_of_risk=mean
        ),
        "Recurrent.price_of_risk, both": lambda: p.Recurrent(
            K, recurrence="both", price_of_risk=mean
        ),
        "Flow of AR1": lambda: p.Flow(K, base=p.AR1(K, coefficient=unit)),
    }
    made: dict[str, Make] = {
        name: lambda part=part: build(factor_prior=part())  # type: ignore[misc]
        for name, part in alone.items()
    }
    laws = {
        "StudentT.excess_df": lambda: lik.StudentT(excess_df=dist.Gamma(2.0, 0.1)),
        "SkewStudentT.skew": lambda: lik.SkewStudentT(skew=dist.LogNormal(0.0, 0.2)),
        "NormalMixture.wild": lambda: lik.NormalMixture(wild=dist.Beta(1.0, 9.0)),
        "NormalMixture.excess_scale": lambda: lik.NormalMixture(excess_scale=scale),
        "GlobalScale.scale": lambda: lik.Normal(lik.GlobalScale(scale)),
        "Alpha.coefficient": lambda: lik.Normal(alpha=lik.Alpha(P, coefficient=mean)),
        "Alpha.intercept": lambda: lik.StudentT(alpha=lik.Alpha(P, intercept=mean)),
    }
    made |= {
        name: lambda part=part: build(likelihood=part())  # type: ignore[misc]
        for name, part in laws.items()
    }
    made["everything"] = lambda: build(
        factor_prior=p.CommonVolatility(p.AR1(K, unit, scale, mean), beta, scale, scale),
        likelihood=lik.StudentT(
            lik.GlobalScale(scale), lik.Alpha(P, coefficient=mean), excess_df=dist.Gamma(2.0, 0.1)
        ),
    )
    made["smoothing guide"] = lambda: build(
        factor_prior=p.AR1(K, unit, scale), guide=rv.guides.Smoothing(K)
    )
    made["recurrent guide"] = lambda: build(
        factor_prior=p.StochasticVolatility(K, unit), guide=rv.guides.Recurrent(K)
    )
    made["recurrent decoder"] = lambda: build(
        factor_prior=p.AR1(K, unit), decoder=rv.decoders.Recurrent(K), guide=rv.guides.Recurrent(K)
    )
    made["mean field"] = lambda: build(
        factor_prior=p.AR1(K, unit, scale), hyper_guide=rv.guides.MeanField()
    )
    return made


EVERY = priors()


def log_probs(
    program: Callable[..., object], values: dict[str, Tensor], batch: object, particles: bool
) -> dict[str, Tensor]:
    """Log densities by site, summed over all but particles, at given values of the latents."""
    given = poutine.condition(program, values)
    plate = pyro.plate("particles", PARTICLES, dim=-3) if particles else None
    if plate is None:
        trace = poutine.trace(given).get_trace(batch)
    else:
        with plate:
            trace = poutine.trace(given).get_trace(batch)
    trace.compute_log_prob()
    found = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or name in ("time", "asset", "particles"):
            continue
        density = site["log_prob"]
        found[name] = density.reshape(PARTICLES, -1).sum(-1) if particles else density.sum()
    return found


@pytest.mark.parametrize("name", EVERY)
def test_vectorised_particles_equal_looped_ones(name: str) -> None:
    model, batch = EVERY[name](), batch_of()
    pyro.set_rng_seed(0)
    with pyro.plate("particles", PARTICLES, dim=-3):
        trace = poutine.trace(model.guide).get_trace(batch)
        replicate = poutine.trace(model.model).get_trace(batch.without_returns())
    latents = [n for n, site in trace.nodes.items() if site["type"] == "sample"]
    latents = [n for n in latents if n not in ("time", "particles")]
    values = {n: trace.nodes[n]["value"].detach() for n in latents}
    prior = {n: replicate.nodes[n]["value"].detach() for n in latents}
    assert model.hyper_sites
    for drawn in (values, prior):
        assert all(value.shape[0] == PARTICLES for value in drawn.values())
        for program in (model.model, model.guide):
            together = log_probs(program, drawn, batch, particles=True)
            for i in range(PARTICLES):
                one = {
                    n: value[i, 0, 0] if n in model.hyper_sites else value[i]
                    for n, value in drawn.items()
                }
                alone = log_probs(program, one, batch, particles=False)
                for site, density in alone.items():
                    torch.testing.assert_close(
                        together[site][i], density, rtol=1e-8, atol=1e-8, msg=f"{site} of {i}"
                    )


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_guide_and_prior(name: str) -> None:
    model, batch = EVERY[name](), batch_of()
    pyro.set_rng_seed(0)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)
    elbo.differentiable_loss(model.model, model.guide, batch).backward()
    guide = model.parts.weight_guide
    for site in guide.parameters_:
        raw = model.parts.get_parameter(site.parameter)
        scale = guide.log_scales[site.name.replace(".", "__")]
        for parameter in (raw, scale):
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("vectorised", [False, True])
@pytest.mark.parametrize("local", [False, True])
def test_svi_steps_train_under_both_settings(vectorised: bool, local: bool) -> None:
    model, batch = EVERY["AR1"](), batch_of()
    before = copy.deepcopy(model.parts.state_dict())
    with pyro.settings.context(module_local_params=local):
        elbo = Trace_ELBO(num_particles=2, vectorize_particles=vectorised, max_plate_nesting=2)
        svi = SVI(model.model, model.guide, ClippedAdam({"lr": 0.01}), elbo)
        for _ in range(2):
            svi.step(batch)
    moved = {k for k, v in model.parts.state_dict().items() if not torch.equal(v, before[k])}
    assert {"factor_prior.unbounded_coefficient", "weight_guide.ties"} <= moved


def test_argument_is_kept_and_number_is_where_training_starts() -> None:
    prior = dist.Uniform(-1.0, 1.0)
    part = rv.priors.AR1(2, coefficient=prior, scale=2.0)
    assert part.coefficient is prior
    assert part.scale == 2.0
    model = rv.RVRAE(P, 2, factor_prior=part)
    assert model.hyper_sites == ("factor_prior.coefficient",)
    found = model.hyperparameters()
    torch.testing.assert_close(found["factor_prior.scale"], torch.tensor([2.0, 2.0]))
    assert found["factor_prior.coefficient"].shape == (2,)
    assert float(found["factor_prior.coefficient"].abs().max()) < 0.1  # the prior's median
    assert found["likelihood.excess_df"].shape == ()


def test_posterior_mean_is_that_of_draws() -> None:
    model = EVERY["everything"]()
    pyro.set_rng_seed(0)
    with torch.no_grad():
        for scale in model.parts.weight_guide.log_scales.values():
            scale.fill_(-0.7)
    draws = [model.draw_weights() for _ in range(500)]
    for name, mean in model.hyperparameters().items():
        if name in model.hyper_sites:
            each = torch.stack([draw[name] for draw in draws])
            error = each.std(0) / len(draws) ** 0.5
            # five standard errors of some ten entries: fails once in 100,000 seeds
            assert ((each.mean(0) - mean).abs() < 5 * error + 1e-6).all(), name


def test_multivariate_guide_is_a_multivariate_normal() -> None:
    """Conditional proposals multiply to one Normal in unconstrained space."""
    model = EVERY["AR1"]()
    guide, parts = model.parts.weight_guide, model.parts
    pyro.set_rng_seed(0)
    with torch.no_grad():
        assert guide.ties is not None
        guide.ties.copy_(0.5 * torch.randn_like(guide.ties))
    mean, root = guide.moments(parts)
    values = model.draw_weights()
    free = guide.join(values)
    law = torch.distributions.MultivariateNormal(mean, scale_tril=root)
    expected = guide.log_joint_prior(parts, free) - law.log_prob(free)
    torch.testing.assert_close(guide.log_ratio(parts, values), expected)
    again = guide.split(free)
    for name, value in values.items():
        torch.testing.assert_close(again[name], value)
    wider = root @ torch.diag(torch.linspace(0.5, 1.5, len(mean), dtype=mean.dtype))
    guide.set_moments(parts, mean + 0.1, wider)
    moved_mean, moved_root = guide.moments(parts)
    torch.testing.assert_close(moved_mean, mean + 0.1)
    torch.testing.assert_close(moved_root, wider)


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "positive prior of a coefficient": (
        lambda: rv.priors.AR1(2, coefficient=dist.Gamma(1.0, 1.0)),
        r"`coefficient` of AR1 must have a prior on \(-1, 1\); got dist.Gamma",
    ),
    "wide prior of a coefficient": (
        lambda: rv.priors.AR1(2, coefficient=dist.Uniform(-2.0, 2.0)),
        r"prior on \(-1, 1\)",
    ),
    "real prior of a scale": (
        lambda: rv.priors.AR1(2, scale=dist.Normal(0.0, 1.0)),
        r"`scale` of AR1 must have a prior on \(0, inf\).*LogNormal",
    ),
    "real prior of a probability": (
        lambda: rv.priors.CommonVolatility(rv.priors.AR1(2), persistence=dist.Normal(0.0, 1.0)),
        r"`persistence` of CommonVolatility must have a prior on \(0, 1\).*Beta",
    ),
    "discrete prior": (
        lambda: rv.priors.AR1(2, scale=dist.Poisson(1.0)),
        "must have a continuous prior",
    ),
    "event of another shape": (
        lambda: rv.priors.AR1(2, scale=dist.LogNormal(0.0, 1.0).expand([3])),
        r"of shape \(\) or \(2,\).*batch shape \(3,\)",
    ),
    "vector prior of a scalar": (
        lambda: rv.likelihoods.StudentT(excess_df=dist.Gamma(2.0, 0.1).expand([2])),
        r"`excess_df` of StudentT must have a prior of shape \(\)",
    ),
    "another device": (
        lambda: rv.priors.AR1(
            2, mean=dist.Normal(torch.zeros(2, device="meta"), 1.0, validate_args=False)
        ),
        "prior on the CPU.*meta",
    ),
    "torch's distribution": (
        lambda: rv.priors.AR1(2, mean=torch.distributions.Normal(0.0, 1.0)),
        "must be a distribution of pyro.distributions",
    ),
    "text": (
        lambda: rv.priors.AR1(2, mean="0"),
        "must be a number or a Pyro distribution; got '0'",
    ),
    "number outside": (
        lambda: rv.priors.AR1(2, coefficient=1.0),
        r"`coefficient` must be in \(-1.0, 1.0\); got 1.0",
    ),
    "frozen": (
        lambda: rv.likelihoods.StudentT(learn_df=False, excess_df=dist.Gamma(2.0, 0.1)),
        "`excess_df` of StudentT is frozen and has a prior",
    ),
    "frozen by hand": (
        lambda: rv.RVRAE(P, 2, factor_prior=frozen()),
        "`factor_prior.scale` is frozen and has a prior",
    ),
    "one parameter by two names": (
        lambda: rv.likelihoods.StudentT(df=7.0, excess_df=dist.Gamma(2.0, 0.1)),
        "`df` and `excess_df` are one parameter given twice",
    ),
    "weights and coefficient": (
        lambda: rv.likelihoods.Alpha(
            P, weights=rv.weights.Normal(), coefficient=dist.Normal(0.0, 1.0)
        ),
        "two priors for one parameter",
    ),
    "shared by two parts": (lambda: rv.RVRAE(P, 2, factor_prior=tied()), "two priors"),
    "innovation": (
        lambda: rv.priors.Recurrent(2, excess_df=dist.Gamma(2.0, 0.1)),
        "innovation='student_t'",
    ),
    "price of risk without units": (
        lambda: rv.priors.Recurrent(2, skip=False, price_of_risk=dist.Normal(0.0, 0.1)),
        "skip=True",
    ),
    "guide": (lambda: rv.RVRAE(P, 2, hyper_guide="mean_field"), "`hyper_guide` must be"),
}


def frozen() -> rv.priors.FactorPrior:
    part = rv.priors.AR1(2, scale=dist.LogNormal(0.0, 0.5))
    part.log_scale.requires_grad_(False)
    return part


def tied() -> rv.priors.FactorPrior:
    part = rv.priors.AR1(2, scale=dist.LogNormal(0.0, 0.5), mean=dist.Normal(0.0, 1.0))
    part.loc = part.log_scale
    return part


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(rv.ConfigError, match=message):
        make()


DISTRIBUTIONS = [
    dist.Normal(0.0, 0.3),
    dist.LogNormal(0.1, 0.5),
    dist.Gamma(2.0, 0.1),
    dist.InverseGamma(3.0, 0.5),
    dist.Beta(20.0, 2.0),
    dist.Uniform(-1.0, 1.0),
    dist.HalfNormal(0.7),
    dist.HalfCauchy(0.7),
    dist.Exponential(2.0),
    dist.StudentT(3.0, 0.0, 1.5),
    dist.Weibull(1.1, 2.0),
    dist.Chi2(4.0),
    dist.Normal(torch.tensor([0.1, 0.2]), 1.0),
    dist.LogNormal(0.1, 0.5).expand([2]).to_event(1),
    dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.3], [0.3, 2.0]])),
]


@pytest.mark.parametrize("prior", DISTRIBUTIONS, ids=lambda d: type(d).__name__)
def test_distributions_round_trip_as_json(prior: dist.TorchDistribution) -> None:
    spec = json.loads(json.dumps(describe_distribution(prior)))
    again = build_distribution(spec)
    value = prior.sample()
    torch.testing.assert_close(again.log_prob(value).sum(), prior.log_prob(value).sum())


def test_files_name_distributions_by_an_allow_list() -> None:
    odd = dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), [torch.distributions.transforms.ExpTransform()]
    )
    model = rv.RVRAE(P, 2, factor_prior=rv.priors.AR1(2, scale=odd))
    assert not is_built_in(model)
    for spec in (
        {"distribution": "os.system"},
        {"distribution": "Normal", "loc": 0.0},
        {"distribution": "Normal", "loc": 0.0, "scale": -1.0},
    ):
        with pytest.raises(rv.ConfigError, match="`distribution`"):
            build_distribution(spec)


@pytest.mark.parametrize("name", EVERY)
def test_models_round_trip_as_json(name: str) -> None:
    model = EVERY[name]()
    assert is_built_in(model)
    again = build_model(json.loads(json.dumps(describe_model(model))))
    assert str(again) == str(model)
    assert again.hyper_sites == model.hyper_sites
    again.double().parts.load_state_dict(model.parts.state_dict())
    for site, value in model.hyperparameters().items():
        torch.testing.assert_close(again.hyperparameters()[site], value)


def test_print_shows_hyperpriors() -> None:
    text = str(EVERY["AR1"]())
    assert "coefficient=dist.Uniform(low=-1.0, high=1.0)" in text
    assert "hyper_guide=MultivariateNormal()" in text


def test_table_of_priors() -> None:
    model = rv.RVRAE(
        P,
        2,
        factor_prior=rv.priors.CommonVolatility(
            rv.priors.AR1(2, coefficient=dist.Uniform(-1.0, 1.0))
        ),
        likelihood=rv.likelihoods.StudentT(alpha=rv.likelihoods.Alpha(P)),
    )
    table = model.priors()
    assert table.index.name == "parameter"
    assert table.index.is_unique
    expected = {
        "factor_prior.base.coefficient": ("dist.Uniform(low=-1.0, high=1.0)", "posterior"),
        "factor_prior.persistence": ("dist.Beta(concentration1=20.0, concentration0=2.0)", "map"),
        "factor_prior.base.scale": (None, "learned"),
        "loadings.path.0.weight": (repr(rv.weights.GroupLog()), "map"),
        "likelihood.alpha.coefficient": (repr(rv.weights.GroupLog()), "map"),
    }
    for name, row in expected.items():
        assert tuple(table.loc[name, ["prior", "inference"]]) == row
    assert table._repr_html_().count("<tr") == len(table) + 2


def test_swapped_priors_leave_the_model_and_all_else_as_they_are() -> None:
    model = rv.RVRAE(P, 2, factor_prior=rv.priors.AR1(2))
    state = copy.deepcopy(model.parts.state_dict())
    other = model.with_priors(
        {
            "factor_prior.coefficient": dist.Normal(0.3, 0.2),
            "loadings.path": rv.weights.Horseshoe(inference="posterior"),
        }
    )
    assert model.hyper_sites == model.weight_sites == ()
    assert other.hyper_sites == ("factor_prior.coefficient",)
    assert other.weight_sites == ("loadings.path.0.weight", "loadings.path.2.weight")
    assert other.untrained
    table = other.priors()
    assert table.loc["loadings.path.0.weight", "prior"].startswith("Horseshoe")
    assert table.loc["loadings.lstm.weight_ih_l0", "prior"].startswith("GroupLog")
    for name, value in state.items():
        assert torch.equal(model.parts.state_dict()[name], value)
        if name != "factor_prior.unbounded_coefficient":
            assert torch.equal(other.parts.state_dict()[name], value)
    assert float(other.hyperparameters()["factor_prior.coefficient"][0]) == pytest.approx(
        0.3, abs=0.05
    )
    again = build_model(json.loads(json.dumps(describe_model(other))))
    assert str(again) == str(other)
    back = other.with_priors({"factor_prior.coefficient": 0.5, "loadings.path": None})
    assert back.drawn_sites == ()
    assert float(back.factor_prior.value("coefficient")[0].detach()) == pytest.approx(0.5)


def test_weight_prior_of_a_layer_has_its_share_of_the_density() -> None:
    normal = rv.weights.Normal(0.5)
    model = rv.RVRAE(
        P,
        2,
        loadings=rv.loadings.LSTM(P, 2, weights=rv.weights.Normal(2.0)),
        factor_prior=rv.priors.AR1(2),
        likelihood=rv.likelihoods.Normal(),
    )
    other = model.with_priors({"loadings.path": normal})
    parts = model.parts
    path = sum(p.square().sum() for p in parts.loadings.path.parameters() if p.ndim == 2)
    change = -0.5 * path * (1 / 0.5**2 - 1 / 2.0**2)
    torch.testing.assert_close(other.log_weights() - model.log_weights(), change)


def test_alternatives_are_swapped_for_each_other() -> None:
    model = rv.RVRAE(
        P,
        2,
        factor_prior=rv.priors.Recurrent(2),
        likelihood=rv.likelihoods.StudentT(alpha=rv.likelihoods.Alpha(P), df=7.0),
    )
    other = model.with_priors(
        {
            "likelihood.excess_df": dist.Gamma(2.0, 0.1),
            "likelihood.alpha.coefficient": dist.Normal(0.0, 0.01),
            "factor_prior.price_of_risk": dist.Normal(0.0, 0.1),
        }
    )
    assert set(other.hyper_sites) == {
        "likelihood.excess_df",
        "likelihood.alpha.coefficient",
        "factor_prior.price_of_risk",
    }
    back = other.with_priors({"likelihood.alpha": rv.weights.Normal(0.1)})
    assert "likelihood.alpha.coefficient" not in back.hyper_sites
    assert back.priors().loc["likelihood.alpha.coefficient", "prior"].startswith("Normal")


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({"factor_prior.coefficent": 0.5}, "did you mean 'factor_prior.coefficient'"),
        ({"loadings.path": dist.Normal(0.0, 1.0)}, "take a weight prior"),
        ({"factor_prior.scale": rv.weights.Normal()}, "a number or a Pyro distribution"),
        ({"factor_prior.scale": dist.Normal(0.0, 1.0)}, "must have a prior on"),
        ({"loadings": object()}, "must be a weight prior"),
        ([("loadings", None)], "must be a mapping"),
        (
            {
                "likelihood.alpha": rv.weights.Normal(),
                "likelihood.alpha.coefficient": dist.Normal(0.0, 1.0),
            },
            "two priors for one parameter",
        ),
    ],
)
def test_priors_that_cannot_be_swapped_are_refused(priors: object, message: str) -> None:
    model = rv.RVRAE(
        P,
        2,
        factor_prior=rv.priors.AR1(2),
        likelihood=rv.likelihoods.Normal(alpha=rv.likelihoods.Alpha(P)),
    )
    with pytest.raises(rv.ConfigError, match=message):
        model.with_priors(priors)  # type: ignore[arg-type]


def test_penalty_gives_way_to_a_prior() -> None:
    plain = rv.priors.CommonVolatility(rv.priors.AR1(2))
    given = rv.priors.CommonVolatility(
        rv.priors.AR1(2), persistence=dist.Beta(2.0, 2.0), volatility=0.2
    )
    with torch.no_grad():
        given.auxiliary.logit.fill_(-3.0)
        assert float(given.log_density()) == pytest.approx(
            float(plain.log_density()) - float(dist.Beta(20.0, 2.0).log_prob(torch.tensor(0.9))),
            abs=1e-4,
        )
