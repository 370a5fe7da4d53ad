"""The annealed objective: an ordinary Pyro ELBO, and the one that ``rv.fit`` trains by."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import Tensor, nn

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.gradients import OnePanel, Task
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir

SCHEDULE = rv.schedules.Linear(0.2, 10, profile=[1.0, 3.0])


@pytest.fixture(scope="module")
def batch() -> Batch:
    return double(random_panel(12, 14, seed=4, empty_months=[5]))


def build(kind: str) -> rv.RVRAE:
    models = {
        "paper": lambda: rv.RVRAE.paper(P, K, hidden=3),
        "default": lambda: rv.RVRAE(P, K),
        "posterior": lambda: rv.RVRAE(
            P, K, loadings=rv.loadings.MLP(P, K, (3,), rv.weights.Normal(inference="posterior"))
        ),
    }
    torch.manual_seed(0)
    return stir(models[kind]().double(), size=0.2)


def gradient(model: rv.RVRAE) -> Tensor:
    weights = model.parts.parameters()
    return torch.cat(
        [(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights]
    )


@pytest.mark.parametrize("kind", ["paper", "default", "posterior"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_step_of_svi_is_a_step_of_fit(kind: str, reduction: str, batch: Batch) -> None:
    """Loss and gradient, to rounding, at the third step of a schedule with a profile."""
    model, step = build(kind), 2
    elbo = rv.elbo.AnnealedELBO(SCHEDULE, reduction)
    elbo.step = step

    def penalised(batch: Batch, kl_weight: Tensor) -> Tensor:
        pyro.factor("log_weights", model.log_weights())
        return model.model(batch, kl_weight)

    grads: list[Tensor] = []

    class Read(pyro.optim.PyroOptim):
        def __call__(self, params: object, *_: object, **__: object) -> None:
            grads.append(gradient(model).clone())

    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    loss = SVI(penalised, model.guide, Read(torch.optim.SGD, {"lr": 1.0}), elbo).step(batch)
    assert elbo.step == step + 1

    config = rv.FitConfig(
        window=None, kl_schedule=SCHEDULE, kl_reduction=reduction, weights_warmup=0.0
    )
    trained = rv.elbo.AnnealedELBO.of(config, batch.n_times)
    losses: list[float] = []
    method = trained.differentiable_loss

    def record(*args: object) -> Tensor:
        losses.append(float(method(*args).detach()))
        pyro.set_rng_seed(1)
        trained.step -= 1
        return method(*args)

    trained.differentiable_loss = record  # type: ignore[method-assign]
    slopes = OnePanel(model, batch, trained)
    model.zero_grad()
    pyro.set_rng_seed(1)
    task = Task(0, batch.n_times, None, trained.weight(batch.n_times), 1.0, step)
    with pyro.settings.context(module_local_params=True), slopes.quiet():
        assert slopes.descend(task, 1.0)
    expected = losses[0] - float(model.log_weights().detach())
    assert loss == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(gradient(model), grads[0], rtol=1e-9, atol=1e-9)
    pyro.clear_param_store()


def test_fit_through_the_objective_is_fit_by_its_settings(batch: Batch) -> None:
    panel = random_panel(14, 12)
    train, valid = panel.isel(time=slice(0, 10)), panel.isel(time=slice(10, 14))
    settings = {"max_steps": 5, "window": 4}
    named = rv.FitConfig(kl_schedule=SCHEDULE, kl_reduction="mean", num_particles=2, **settings)
    elbo = rv.elbo.AnnealedELBO(SCHEDULE, "mean", num_particles=2)
    fits = [
        rv.fit(rv.RVRAE(P, K), train, valid, config=config, elbo=each, progress=False)
        for config, each in ((named, None), (rv.FitConfig(**settings), elbo))
    ]
    columns = [name for name in fits[0].history if name != "seconds"]
    assert fits[0].history[columns].equals(fits[1].history[columns])
    assert fits[1].config == named
    assert elbo.step == 0  # the caller's object is left alone


def test_shards_train_by_the_objective() -> None:
    panel = random_panel(10, 12)
    elbo = rv.elbo.AnnealedELBO(SCHEDULE)
    histories = [
        rv.fit(
            rv.RVRAE(P, K),
            panel,
            config=rv.FitConfig(max_steps=3, shard_size=size, dtype=torch.float64),
            elbo=elbo,
            progress=False,
        ).history
        for size in (None, 5)
    ]
    torch.testing.assert_close(*(torch.tensor(h["elbo"].to_numpy()) for h in histories))
    assert histories[0]["kl_weight"].iloc[0] == pytest.approx(0.4)


def test_weights_follow_steps_and_months(batch: Batch) -> None:
    elbo = rv.elbo.AnnealedELBO(SCHEDULE, n_times=12)
    torch.testing.assert_close(elbo.weight(12), torch.linspace(0.2, 0.6, 12, dtype=torch.float64))
    torch.testing.assert_close(elbo.weight(3, 4), elbo.weight(12)[4:7])
    assert elbo.annealed
    elbo.step = 10
    assert elbo.weight(12).eq(1.0).all()
    assert not elbo.annealed
    mean = rv.elbo.AnnealedELBO(rv.schedules.Constant(), "mean", n_times=12)
    assert mean.weight(3, 2).tolist() == pytest.approx([1 / 12] * 3)
    assert mean.share(3, 2) == 0.25


def test_module_form_counts_steps_and_loss_is_the_bound(batch: Batch) -> None:
    model = build("default")
    elbo = rv.elbo.AnnealedELBO(rv.schedules.Linear(0.2, 10))
    module = elbo(model.model, model.guide)
    for step in range(3):
        pyro.set_rng_seed(step)
        loss = module(batch)
        pyro.set_rng_seed(step)
        weight = 0.2 + 0.8 * step / 10
        plain = Trace_ELBO().differentiable_loss(model.model, model.guide, batch, weight)
        torch.testing.assert_close(loss, plain, rtol=1e-10, atol=1e-10)
    assert elbo.step == 3
    with torch.no_grad():
        module(batch)
    pyro.set_rng_seed(0)
    bound = elbo.loss(model.model, model.guide, batch)
    pyro.set_rng_seed(0)
    assert bound == pytest.approx(Trace_ELBO().loss(model.model, model.guide, batch))
    assert elbo.step == 3


@pytest.mark.parametrize("nesting", [{}, {"max_plate_nesting": 2}])
def test_particles_are_vectorised(nesting: dict, batch: Batch) -> None:
    """Guessed or given nesting: the loss is the one of Pyro's own estimator."""
    model = build("default")
    options = {"num_particles": 3, "vectorize_particles": True, **nesting}
    found = []
    for elbo in (rv.elbo.AnnealedELBO(SCHEDULE, **options), Trace_ELBO(**options)):
        ours = isinstance(elbo, rv.elbo.AnnealedELBO)
        pyro.set_rng_seed(0)
        weight = () if ours else (torch.linspace(0.2, 0.6, 12, dtype=torch.float64),)
        found.append(elbo.differentiable_loss(model.model, model.guide, batch, *weight))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_the_literal_program_trains_without_annealing() -> None:
    batch = rv.data.to_batch(random_panel(6, 8))
    torch.manual_seed(0)
    program = rv.literal.RVRAE(P, K, hidden=3)
    pyro.set_rng_seed(3)
    bound = Trace_ELBO().loss(program.model, program.guide, batch)
    pyro.set_rng_seed(3)
    first = rv.literal.train(program, batch, steps=1, warmup=0)
    assert first == pytest.approx([bound], rel=1e-6)


def test_the_literal_program_trains_by_the_same_objective() -> None:
    batch = rv.data.to_batch(random_panel(6, 8))
    losses = []
    for objective in (False, True):
        torch.manual_seed(0)
        program = rv.literal.RVRAE(P, K, hidden=3)
        pyro.set_rng_seed(3)
        if not objective:
            losses.append(rv.literal.train(program, batch, steps=4, warmup=3))
            continue
        pyro.clear_param_store()
        elbo = rv.elbo.AnnealedELBO(rv.schedules.Linear(0.1, 3))
        optimizer = pyro.optim.ClippedAdam({"lr": 1e-3, "clip_norm": 10.0})
        svi = SVI(program.model, program.guide, optimizer, elbo)
        losses.append([svi.step(batch) for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("length", [1, 2, 5, 12])
def test_mean_gradient_divides_the_divergence_by_all_months(length: int, batch: Batch) -> None:
    """Eq. (31): in every window, whatever its length, the KL's gradient is over T = 12.

    The difference between the two reductions at one draw is (1 - 1/T) times the KL's gradient.
    """
    model, n_times = build("paper"), batch.n_times
    weights = list(model.parts.parameters())
    starts = [*range(0, n_times, length)]
    carries = model.walk(batch, starts).carries

    def of(reduction: str, window: Batch) -> Tensor:
        elbo = rv.elbo.AnnealedELBO(rv.schedules.Constant(), reduction, n_times=n_times)
        pyro.set_rng_seed(0)
        return elbo(model.model, model.guide)(window)

    def divergence(window: Batch) -> Tensor:
        pyro.set_rng_seed(0)
        guide = pyro.poutine.trace(model.guide).get_trace(window)
        trace = pyro.poutine.trace(pyro.poutine.replay(model.model, guide)).get_trace(window)
        guide.compute_log_prob()
        trace.compute_log_prob()
        ratio = guide.nodes["factors"]["log_prob"] - trace.nodes["factors"]["log_prob"]
        return ratio.sum()

    for start, stop in itertools.pairwise([*starts, n_times]):
        window = batch.window(start, stop, carries[start])
        difference = of("sum", window) - of("mean", window)
        expected = (1 - 1 / n_times) * divergence(window)
        torch.testing.assert_close(difference, expected, rtol=1e-9, atol=1e-9)
        found, wanted = (
            torch.autograd.grad(value, weights, materialize_grads=True, allow_unused=True)
            for value in (difference, expected)
        )
        assert sum(float(each.abs().sum()) for each in wanted) > 0.1
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


class Pair(nn.Module):
    """A model or guide with a global latent and one in the time plate."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: dict[str, float] = {}

    def forward(self, batch: Batch, kl_weight: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with (
            pyro.plate("time", batch.n_times, dim=-2),
            pyro.poutine.scale(scale=kl_weight[:, None]),
        ):
            pyro.sample("z", dist.Normal(torch.zeros(batch.n_times, 1), 1.0))


def test_latents_outside_the_time_plate_count_with_the_share_of_the_window(batch: Batch) -> None:
    scales: list[dict[str, object]] = []

    class Look(Trace_ELBO):
        def differentiable_loss(self, model: Pair, guide: Pair, *args: object) -> Tensor:
            trace = pyro.poutine.trace(model).get_trace(*args)
            scales.append({name: trace.nodes[name]["scale"] for name in ("w", "z")})
            return torch.zeros(())

    elbo = rv.elbo.AnnealedELBO(
        rv.schedules.Constant(), estimator=Look(), n_times=12, weights_warmup=4
    )
    elbo.step = 2
    elbo(Pair(), Pair())(batch.window(3, 6))
    assert scales[0]["w"] == pytest.approx(0.5 * 3 / 12)
    assert torch.as_tensor(scales[0]["z"]).eq(1.0).all()


def test_what_cannot_be_is_refused(batch: Batch) -> None:
    model = build("default")
    with pytest.raises(rv.ConfigError, match="`reduction` must be 'sum' or 'mean', got 'max'"):
        rv.elbo.AnnealedELBO(reduction="max")
    with pytest.raises(
        rv.ConfigError, match=r"num_particles in addition\. Pass them to Trace_ELBO"
    ):
        rv.elbo.AnnealedELBO(estimator=Trace_ELBO(), num_particles=2)
    # text, and the class for an instance of it
    for wrong in ("x", rv.schedules.Linear):
        with pytest.raises(rv.ConfigError, match="`schedule` must have a method `weight`; got"):
            rv.elbo.AnnealedELBO(wrong)  # type: ignore[arg-type]
    for wrong in ("x", Trace_ELBO):
        with pytest.raises(rv.ConfigError, match=r"`estimator` must be a pyro\.infer\.ELBO; got"):
            rv.elbo.AnnealedELBO(estimator=wrong)  # type: ignore[arg-type]
    with pytest.raises(rv.ConfigError, match="must not be annealed itself"):
        rv.elbo.AnnealedELBO(estimator=rv.elbo.AnnealedELBO())
    with pytest.raises(rv.ConfigError, match="call it with the batch alone"):
        rv.elbo.AnnealedELBO()(model.model, model.guide)(batch, 0.5)
    renyi = rv.elbo.AnnealedELBO(estimator=RenyiELBO(alpha=0, num_particles=2))
    with pytest.raises(rv.ConfigError, match="RenyiELBO has no differentiable loss"):
        renyi(model.model, model.guide)(batch)
    with pytest.raises(rv.ConfigError, match="within the 5 training months"):
        rv.elbo.AnnealedELBO(n_times=5)(model.model, model.guide)(batch)
