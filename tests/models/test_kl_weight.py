"""KL annealing: what a weight on the months' divergence does to the loss and to its optimum."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.kl import month_kl
from rvrae_pyro.nn.gaussian import Potential
from tests.helpers import (
    CHARACTERISTICS,
    FACTORS,
    double,
    linear_gaussian,
    random_panel,
    simulate_linear_gaussian,
    stir,
)

PRIORS = {
    "standard": lambda: rv.priors.StandardNormal(FACTORS),
    "ar1": lambda: rv.priors.AR1(FACTORS),
    "latent": lambda: rv.priors.Recurrent(FACTORS, hidden=3),
    "observed": lambda: rv.priors.Recurrent(FACTORS, hidden=3, recurrence="observed"),
}


def recurrent_guide_model(prior: str) -> rv.RVRAE:
    """Build a model whose guide does not know the weight."""
    model = rv.RVRAE(
        CHARACTERISTICS,
        FACTORS,
        factor_prior=PRIORS[prior](),
        guide=rv.guides.Recurrent(FACTORS, hidden=3),
    )
    return stir(model.double(), size=0.2)


def loss_at(model: object, guide: object, batch: Batch, kl_weight: float | Tensor) -> Tensor:
    """Loss at one fixed draw."""
    pyro.set_rng_seed(5)
    return Trace_ELBO().differentiable_loss(model, guide, batch, kl_weight)


def month_terms(model: rv.RVRAE, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log likelihood and log q - log p of every month at the same draw, unweighted."""
    pyro.set_rng_seed(5)
    guide = poutine.trace(model.guide).get_trace(batch)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch)
    guide.compute_log_prob()
    trace.compute_log_prob()
    ratio = guide.nodes["factors"]["log_prob"] - trace.nodes["factors"]["log_prob"]
    return trace.nodes["returns"]["log_prob"].sum(-1), ratio.squeeze(-1)


@pytest.mark.parametrize("prior", list(PRIORS))
def test_weight_multiplies_the_divergence_and_nothing_else(prior: str) -> None:
    batch = double(random_panel(9, 8, empty_months=[4]))
    model = recurrent_guide_model(prior)
    likelihood, divergence = month_terms(model, batch)
    profile = torch.linspace(0.05, 1.0, batch.n_times).double()
    # a scalar, a tensor of one number, and a weight a month; a tiny weight for the limit of none
    for weight in (1e-12, 0.2, 1.0, 2.5, torch.tensor(0.7).double(), profile):
        expected = (
            -likelihood.sum() + (torch.as_tensor(weight, dtype=torch.float64) * divergence).sum()
        )
        loss = loss_at(model.model, model.guide, batch, weight)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    none = loss_at(model.model, model.guide, batch, 1e-300)
    full = loss_at(model.model, model.guide, batch, profile)
    torch.testing.assert_close(full - none, (profile * divergence).sum(), rtol=1e-10, atol=1e-9)
    assert float(divergence.detach().abs().max()) > 0.1


@pytest.mark.parametrize("sided", ["model", "guide"])
def test_weight_on_one_side_only_would_be_seen(sided: str) -> None:
    """The check above has teeth: a model or guide that drops the weight fails it."""
    batch = double(random_panel(9, 8))
    model = recurrent_guide_model("latent")
    likelihood, divergence = month_terms(model, batch)
    expected = float((-likelihood.sum() + 0.3 * divergence.sum()).detach())

    def forgets(half: object) -> object:
        return lambda batch, kl_weight: half(batch)

    pair = {"model": model.model, "guide": model.guide}
    assert loss_at(*pair.values(), batch, 0.3).item() == pytest.approx(expected, rel=1e-10)
    pair[sided] = forgets(pair[sided])
    assert abs(loss_at(*pair.values(), batch, 0.3).item() - expected) > 0.1


def test_gradient_is_weighted_too() -> None:
    batch = double(random_panel(9, 8))
    model = recurrent_guide_model("latent")
    weights = list(model.parts.parameters())
    gradients = [
        torch.autograd.grad(
            loss_at(model.model, model.guide, batch, w), weights, materialize_grads=True
        )
        for w in (0.25, 0.5, 1.0)
    ]
    for low, middle, high in zip(*gradients, strict=True):
        # linear in the weight: 0.5 is a third of the way from 0.25 to 1
        torch.testing.assert_close(middle, low + (high - low) / 3, rtol=1e-8, atol=1e-8)


def test_closed_form_divergence_is_weighted_too() -> None:
    """TraceMeanField with an analytic KL a month, for months that are independent."""
    batch = double(random_panel(9, 8))
    model = recurrent_guide_model("observed")
    model.parts.guide = rv.guides.Conjugate()
    losses = {}
    for weight in (0.5, 1.0):
        fixed = _at_weight_one(model)
        pyro.set_rng_seed(0)
        losses[weight] = TraceMeanField_ELBO().loss(model.model, fixed, batch, weight)
    walk = model.walk(batch)
    kl = month_kl(walk).sum().item()
    assert losses[1.0] - losses[0.5] == pytest.approx(0.5 * kl, rel=1e-8)


def _at_weight_one(model: rv.RVRAE) -> object:
    """Propose as at weight 1, whatever the objective's weight is."""

    def guide(batch: Batch, kl_weight: float) -> None:
        with poutine.block(), torch.random.fork_rng(devices=[]):
            trace = poutine.trace(model.guide).get_trace(batch)
        with pyro.plate("time", batch.n_times, dim=-2), poutine.scale(scale=kl_weight):
            pyro.sample("factors", trace.nodes["factors"]["fn"])

    return guide


class Moments(dist.MultivariateNormal):
    """Draws that carry the first two moments exactly: the bound of a quadratic has no noise."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        k = shape[-1]
        points = k**0.5 * torch.cat([torch.eye(k), -torch.eye(k)]).to(self.loc)
        assert shape[0] == 2 * k
        noise = points.reshape(2 * k, *[1] * (len(shape) - 2), k).expand(shape)
        return self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> dist.Distribution:
        return super().expand(batch_shape, type(self).__new__(type(self)))


class Free(rv.guides.Guide):
    """A Gaussian of its own for every month, with a full covariance."""

    def __init__(self, n_times: int, n_factors: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(n_times, 1, n_factors))
        self.raw = nn.Parameter(torch.zeros(n_times, 1, n_factors, n_factors))

    def forward(
        self, batch: Batch, potential: Potential, view: object, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        tril = self.raw.tril(-1) + torch.diag_embed(self.raw.diagonal(dim1=-2, dim2=-1).exp())
        return Moments(self.loc, scale_tril=tril, validate_args=False)


@pytest.mark.parametrize("weight", [1.0, 0.2, "profile"])
def test_optimum_under_a_weight_has_tempered_precision(weight: float | str) -> None:
    """Optimising a free Gaussian gives precision S^-1 + Lambda / w; at 1 the exact posterior."""
    batch = simulate_linear_gaussian(6, 0.9, 0.5, n_times=5)
    k, n_times = batch.n_characteristics, batch.n_times
    w = torch.linspace(0.1, 1.0, n_times).double() if weight == "profile" else torch.tensor(weight)
    free = Free(n_times, k)
    model = linear_gaussian(batch, guide=free)
    model.parts.factor_prior = rv.priors.StandardNormal(k).double()
    elbo = Trace_ELBO(num_particles=2 * k, vectorize_particles=True, max_plate_nesting=2)
    optimizer = torch.optim.LBFGS(
        free.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14,
        history_size=50, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = elbo.differentiable_loss(model.model, model.guide, batch, w)
        loss.backward()
        return loss

    optimizer.step(closure)
    precision, shift = model.parts.cross_section(batch).potential
    tempered = precision / w.expand(n_times)[:, None, None]
    expected = torch.eye(k).double() + tempered
    law = free(batch, Potential(precision, shift), None, w)
    torch.testing.assert_close(law.precision_matrix.squeeze(1), expected, rtol=1e-5, atol=1e-5)
    mean = torch.linalg.solve(expected, (shift / w.expand(n_times)[:, None]).unsqueeze(-1))
    torch.testing.assert_close(law.mean.squeeze(1), mean.squeeze(-1), rtol=1e-5, atol=1e-5)
    if weight == 1.0:
        exact = rv.exact.filtered(model, batch)
        torch.testing.assert_close(law.mean.squeeze(1), exact.mean, rtol=1e-5, atol=1e-5)
        bound = -float(elbo.loss(model.model, model.guide, batch))
        assert bound == pytest.approx(float(rv.exact.evidence(model, batch).detach()), abs=1e-6)


@pytest.mark.parametrize("prior", list(PRIORS))
def test_conjugate_guide_is_that_optimum(prior: str) -> None:
    """It takes the weight: months have precision S^-1 + Lambda / w, given the past."""
    batch = double(random_panel(7, 9, empty_months=[2]))
    model = rv.RVRAE(
        CHARACTERISTICS, FACTORS, factor_prior=PRIORS[prior](), likelihood=rv.likelihoods.Normal()
    )
    stir(model.double(), size=0.2)
    w = torch.linspace(0.2, 0.9, batch.n_times).double()
    trace = poutine.trace(model.guide).get_trace(batch, w)
    path, law = trace.nodes["factors"]["value"].squeeze(-2), trace.nodes["factors"]["fn"]
    precision, shift = model.parts.cross_section(batch).potential
    # latent: driven by the path itself; observed: by the filtered mean at weight 1
    driver = model.walk(batch).prior if prior == "observed" else None
    part, state = model.factor_prior, model.factor_prior.initial()
    terms = []
    for t in range(batch.n_times):
        if driver is None:
            ahead, level = part.transition(state, None), part.level(state, None)
            state = part.advance(state, path[t], None)
        else:
            ahead = type(driver)(driver.loc[t], driver.scale[t])
            level = model.walk(batch).level[t]
        shrink = (1.0 if level is None else (-2 * level).exp()) / w[t]
        inverse = torch.diag(ahead.scale**-2)
        total = inverse + shrink * precision[t]
        mean = torch.linalg.solve(total, inverse @ ahead.loc + shrink * shift[t])
        month = dist.MultivariateNormal(mean, precision_matrix=total)
        terms.append(month.log_prob(path[t]))
    base = getattr(law, "base_dist", law)
    torch.testing.assert_close(base.log_prob(trace.nodes["factors"]["value"]).flatten(),
                               torch.stack(terms), rtol=1e-8, atol=1e-8)  # fmt: skip


@pytest.mark.parametrize(
    ("weight", "error", "match"),
    [
        (0.0, rv.ConfigError, "small positive weight"),
        (-1.0, rv.ConfigError, "`kl_weight` must be above 0"),
        (torch.ones(5), rv.ShapeError, r"shape \(7,\); got \(5,\)"),
        (torch.ones(7, 1), rv.ShapeError, "`kl_weight` must be a number or of shape"),
        (torch.tensor([1.0, 1, 1, 0, 1, 1, 1]), rv.ConfigError, "above 0 in every month"),
        (float("nan"), rv.ConfigError, "above 0"),
    ],
)
@pytest.mark.parametrize("half", ["model", "guide"])
def test_impossible_weights_are_refused(
    half: str, weight: float | Tensor, error: type[Exception], match: str
) -> None:
    batch = double(random_panel(7, 6))
    model = rv.RVRAE(CHARACTERISTICS, FACTORS).double()
    with pytest.raises(error, match=match):
        getattr(model, half)(batch, weight)
