"""Weights as latents: an ordinary pair under every estimator, with every prior."""

import dataclasses
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import ClippedAdam
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir

PRIORS: dict[str, Callable[[str], object]] = {
    "normal": lambda i: rv.weights.Normal(0.5, inference=i),
    "laplace": lambda i: rv.weights.Laplace(0.2, inference=i),
    "group_log": lambda i: rv.weights.GroupLog(inference=i),
    "horseshoe": lambda i: rv.weights.Horseshoe(inference=i),
}
LOADINGS: dict[str, Callable[[object], rv.loadings.Loadings]] = {
    "lstm": lambda w: rv.loadings.LSTM(P, K, hidden=4, weights=w),
    "plain": lambda w: rv.loadings.LSTM(P, K, hidden=4, skip=False, weights=w),
    "mlp": lambda w: rv.loadings.MLP(P, K, hidden=(4, 3), weights=w),
    "linear": lambda w: rv.loadings.Linear(P, K, weights=w),
}
SITES = {
    "lstm": ["head.weight", "path.0.weight", "path.2.weight"],
    "plain": ["head.weight"],
    "mlp": ["network.0.weight", "network.2.weight", "network.4.weight"],
    "linear": ["layer.weight"],
}


def build(
    loadings: str = "lstm",
    weights: str = "group_log",
    inference: str = "posterior",
    *,
    seed: int = 0,
    **parts: object,
) -> rv.RVRAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = PRIORS[weights](inference)
        scale = rv.likelihoods.CharacteristicScale(P, hidden=3, weights=prior)
        parts.setdefault("likelihood", rv.likelihoods.StudentT(scale, rv.likelihoods.Alpha(P)))
        parts.setdefault("factor_prior", rv.priors.Recurrent(K, hidden=3))
        model = rv.RVRAE(P, K, loadings=LOADINGS[loadings](prior), **parts)
        return stir(model.double(), seed, size=0.1)


def state(model: rv.RVRAE) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.parts.state_dict().items()}


def changed(before: dict[str, Tensor], model: rv.RVRAE) -> set[str]:
    after = model.parts.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def batch() -> Batch:
    return double(random_panel(8, 9, empty_months=[3]))


@pytest.mark.parametrize("loadings", list(LOADINGS))
def test_sites_are_the_feed_forward_matrices(loadings: str, batch: Batch) -> None:
    model = build(loadings)
    scale = [f"likelihood.scale.network.{i}.weight" for i in (0, 2)]
    expected = {*(f"loadings.{name}" for name in SITES[loadings]), *scale}
    assert set(model.weight_sites) == expected
    for half in (model.model, model.guide):
        trace = poutine.trace(half).get_trace(batch)
        trace.compute_log_prob()
        for name in expected:
            site, weight = trace.nodes[name], model.parts.get_parameter(name)
            assert site["value"].shape == weight.shape
            assert site["fn"].batch_shape == ()
            assert site["log_prob"].shape == ()
            assert site["cond_indep_stack"] == ()
    assert build(loadings, inference="map").weight_sites == ()


@pytest.mark.parametrize(
    ("loadings", "weights"),
    [("lstm", "group_log"), ("plain", "horseshoe"), ("mlp", "laplace"), ("linear", "normal")],
)
@pytest.mark.parametrize("local", [False, True])
def test_svi_trains_every_weight(loadings: str, weights: str, local: bool, batch: Batch) -> None:
    model = build(loadings, weights)
    before = state(model)
    with pyro.settings.context(module_local_params=local):
        svi = SVI(model.model, model.guide, ClippedAdam({"lr": 1e-2}), Trace_ELBO())
        losses = [svi.step(batch) for _ in range(3)]
    assert all(torch.isfinite(torch.tensor(losses)))
    assert changed(before, model) == {n for n, _ in model.parts.named_parameters()}


PARTS: dict[str, dict[str, Callable[[], object]]] = {
    "observed": {"factor_prior": lambda: rv.priors.Recurrent(K, hidden=3, recurrence="observed")},
    "heavy": {"factor_prior": lambda: rv.priors.Recurrent(K, hidden=3, innovation="student_t")},
    "heavy observed": {
        "factor_prior": lambda: rv.priors.Recurrent(
            K, hidden=3, innovation="student_t", recurrence="observed"
        )
    },
    "regimes": {"factor_prior": lambda: rv.priors.RegimeSwitching(K)},
    "standard": {"factor_prior": lambda: rv.priors.StandardNormal(K)},
    "ar1": {"factor_prior": lambda: rv.priors.AR1(K)},
    "smoothing": {"guide": lambda: rv.guides.Smoothing(K, hidden=3)},
    "encoder": {"guide": lambda: rv.guides.Recurrent(K, hidden=3)},
    "decoder": {
        "guide": lambda: rv.guides.Recurrent(K, hidden=3),
        "decoder": lambda: rv.decoders.Recurrent(K, hidden=3),
    },
    "normal": {"likelihood": lambda: rv.likelihoods.Normal()},
    "alpha": {
        "likelihood": lambda: rv.likelihoods.Laplace(
            alpha=rv.likelihoods.Alpha(P, rv.weights.Normal(inference="posterior"))
        )
    },
    "mixture": {"likelihood": rv.likelihoods.NormalMixture},
}


@pytest.mark.parametrize("parts", list(PARTS))
@pytest.mark.parametrize("weights", ["horseshoe", "group_log"])
def test_particles_in_a_plate_or_a_loop_agree(parts: str, weights: str, batch: Batch) -> None:
    """Vectorised particles are so many draws: replaying them one by one gives the same terms."""
    model = build("lstm", weights, **{slot: make() for slot, make in PARTS[parts].items()})
    plate = pyro.plate("particles", 3, dim=-3)
    guide = poutine.trace(plate(model.guide)).get_trace(batch)
    trace = poutine.trace(poutine.replay(plate(model.model), guide)).get_trace(batch)
    trace.compute_log_prob()
    guide.compute_log_prob()
    latents = [*model.weight_sites, "factors"]
    assert guide.nodes["factors"]["value"].shape == (3, batch.n_times, 1, K)
    for i in range(3):
        fixed = {}
        for name in latents:
            value = guide.nodes[name]["value"][i].detach()
            fixed[name] = value if name == "factors" else value[0, 0]
        one = poutine.trace(poutine.condition(model.model, fixed)).get_trace(batch)
        one_guide = poutine.trace(poutine.condition(model.guide, fixed)).get_trace(batch)
        one.compute_log_prob()
        one_guide.compute_log_prob()
        for name in (*latents, "returns"):
            pairs = [(trace, one)] + ([(guide, one_guide)] if name != "returns" else [])
            for many, single in pairs:
                torch.testing.assert_close(
                    many.nodes[name]["log_prob"][i].squeeze(),
                    single.nodes[name]["log_prob"].squeeze(),
                )


@pytest.mark.parametrize(
    "elbo",
    [
        lambda: Trace_ELBO(num_particles=2),
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True),
        lambda: TraceMeanField_ELBO(),
        lambda: TraceMeanField_ELBO(num_particles=2, vectorize_particles=True),
        lambda: TraceGraph_ELBO(),
        lambda: RenyiELBO(alpha=0, num_particles=3),
        lambda: RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True),
    ],
    ids=["2", "3v", "meanfield", "meanfield-2v", "graph", "renyi", "renyi-3v"],
)
@pytest.mark.parametrize("weights", list(PRIORS))
def test_other_estimators_train(
    elbo: Callable[[], pyro.infer.ELBO], weights: str, batch: Batch
) -> None:
    model = build("lstm", weights)
    before = state(model)
    svi = SVI(model.model, model.guide, ClippedAdam({"lr": 1e-2}), elbo())
    for _ in range(2):
        assert torch.isfinite(torch.tensor(svi.step(batch, 0.5)))
    assert changed(before, model) == {n for n, _ in model.parts.named_parameters()}


@pytest.mark.parametrize("vectorised", [False, True])
def test_renyi_weighs_whole_draws(vectorised: bool, batch: Batch) -> None:
    """The importance-weighted bound of draws of weights and path together, by hand."""
    model = build("linear", "normal")
    elbo = RenyiELBO(alpha=0, num_particles=4, vectorize_particles=vectorised, max_plate_nesting=2)
    ratios = []

    pyro.set_rng_seed(3)
    if vectorised:
        plate = pyro.plate("num_particles_vectorized", 4, dim=-3)
        guide = poutine.trace(plate(model.guide)).get_trace(batch)
        trace = poutine.trace(poutine.replay(plate(model.model), guide)).get_trace(batch)
        guide.compute_log_prob()
        trace.compute_log_prob()
        total = torch.zeros(4, dtype=torch.float64)
        for name in (*model.weight_sites, "factors", "returns"):
            total += trace.nodes[name]["log_prob"].sum((-1, -2))
            if name != "returns":
                total -= guide.nodes[name]["log_prob"].sum((-1, -2))
        ratios = list(total)
    else:
        for _ in range(4):
            guide = poutine.trace(model.guide).get_trace(batch)
            trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch)
            ratios.append(trace.log_prob_sum() - guide.log_prob_sum())
    expected = torch.logsumexp(torch.stack(ratios), 0) - torch.tensor(4.0).log()
    pyro.set_rng_seed(3)
    assert elbo.loss(model.model, model.guide, batch) == pytest.approx(-expected.item(), rel=1e-9)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("local", [False, True])
def test_predictive_draws_weights(parallel: bool, local: bool, batch: Batch) -> None:
    model = build("lstm", "horseshoe")
    with pyro.settings.context(module_local_params=local):
        posterior = Predictive(model.guide, num_samples=5, parallel=parallel)(batch)
        replicates = Predictive(model.model, posterior_samples=posterior, parallel=parallel)(
            batch.without_returns()
        )
        prior = Predictive(model.model, num_samples=5, parallel=parallel)(batch.without_returns())
    for name in model.weight_sites:
        weight = model.parts.get_parameter(name)
        assert posterior[name].reshape(5, -1, *weight.shape).shape[1] == 1
        assert prior[name].shape == posterior[name].shape
        assert not torch.equal(prior[name][0], prior[name][1])
    cells = replicates["returns"].shape
    assert cells[0] == 5
    assert cells[-2:] == batch.returns.shape


def test_the_slot_is_for_the_weights_that_were_drawn(batch: Batch) -> None:
    """Other weights than the guide's are never met with the guide's loadings."""
    model = build("mlp", "normal")
    guide = poutine.trace(model.guide).get_trace(batch)
    latents = [*model.weight_sites, "factors"]
    fixed = {name: guide.nodes[name]["value"].detach() for name in latents}
    conditioned = poutine.condition(model.model, fixed)
    alone = poutine.trace(conditioned).get_trace(batch).log_prob_sum()
    model.guide(batch)  # leaves other weights in the slot
    after = poutine.trace(conditioned).get_trace(batch).log_prob_sum()
    torch.testing.assert_close(after, alone, rtol=1e-12, atol=0)


def test_kl_weight_leaves_weights_alone(batch: Batch) -> None:
    model = build("mlp", "laplace")
    for half in (model.model, model.guide):
        trace = poutine.trace(half).get_trace(batch, 0.3)
        assert trace.nodes["factors"]["scale"] == pytest.approx(0.3)
        assert all(trace.nodes[name]["scale"] == 1.0 for name in model.weight_sites)


def test_autoguide_takes_every_latent_but_the_factors(batch: Batch) -> None:
    """AutoNormal for the weights, the model's own guide for factors given those weights."""
    model = build("mlp", "normal")
    auto = AutoNormal(poutine.block(model.model, hide=["factors"]), init_scale=0.02)
    auto(batch)

    def guide(batch: Batch) -> None:
        weights = auto(batch)
        given = poutine.condition(model.guide, data=weights)
        poutine.block(given, hide=list(weights))(batch)

    names = {name for name, _ in auto.named_parameters()}
    assert {n for n in names if n.startswith("locs.")} == {
        f"locs.{name}_unconstrained" if f"locs.{name}_unconstrained" in names else f"locs.{name}"
        for name in model.weight_sites
    }
    before = {name: p.detach().clone() for name, p in auto.named_parameters()}
    svi = SVI(model.model, guide, ClippedAdam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(batch) for _ in range(40)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert all(not torch.equal(p, before[n]) for n, p in auto.named_parameters())
    # on its own, with factors from the prior, it trains too
    blocked = poutine.block(model.model, hide=["factors"])
    alone = SVI(blocked, auto, ClippedAdam({"lr": 1e-2}), Trace_ELBO())
    assert torch.isfinite(torch.tensor(alone.step(batch)))


def regression(batch: Batch) -> rv.RVRAE:
    """Build returns that are linear in the characteristics plus noise of scale 1, no factors."""
    alpha = rv.likelihoods.Alpha(P, rv.weights.Normal(0.7, inference="posterior"))
    loadings = rv.loadings.Linear(P, 1)
    model = rv.RVRAE(
        P,
        1,
        loadings=loadings,
        factor_prior=rv.priors.StandardNormal(1),
        likelihood=rv.likelihoods.Normal(alpha=alpha),
    ).double()
    model.parts.return_scale.fill_(1.0)
    with torch.no_grad():
        for weight in (*loadings.parameters(), alpha.layer.bias, model.likelihood.scale.log_scale):
            weight.zero_()
            weight.requires_grad_(False)
    return model


def test_mean_field_of_a_linear_regression_is_the_known_one() -> None:
    """Exact: mean of the posterior; variances one over the diagonal of its precision.

    Locations are averaged over the last 300 of 900 steps; their Monte-Carlo error is about 0.02
    standard deviations, and a fifth of one is allowed. Scales: 1 % against 6 %.
    """
    panel = random_panel(6, 10)
    generator = torch.Generator().manual_seed(3)
    batch = double(panel)
    true = torch.tensor([0.8, -0.4, 0.0, 0.3], dtype=torch.float64)
    noise = torch.randn(batch.returns.shape, generator=generator, dtype=torch.float64)
    returns = (batch.characteristics @ true + noise) * batch.observed
    batch = dataclasses.replace(batch, returns=returns)
    x = batch.characteristics[batch.observed]
    precision = x.mT @ x + torch.eye(P, dtype=torch.float64) / 0.7**2
    mean = torch.linalg.solve(precision, x.mT @ returns[batch.observed])
    model = regression(batch)
    weight = model.likelihood.alpha.layer.weight
    (log_scale,) = model.parts.weight_guide.log_scales.values()
    optimizer = torch.optim.Adam([weight, log_scale], lr=0.03)
    elbo = TraceMeanField_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=2)
    kept = []
    with pyro.validation_enabled(False):
        for step in range(900):
            optimizer.param_groups[0]["lr"] = 0.03 if step < 500 else 0.01
            optimizer.zero_grad()
            elbo.differentiable_loss(model.model, model.guide, batch).backward()
            optimizer.step()
            if step >= 600:
                kept.append(torch.stack([weight.detach()[0], log_scale.detach()[0]]))
    loc, log = torch.stack(kept).mean(0)
    scale = precision.diagonal().rsqrt()
    assert float(((loc - mean) / scale).abs().max()) < 0.2
    torch.testing.assert_close(log.exp(), scale, rtol=0.06, atol=0)
