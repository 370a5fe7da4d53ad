"""The training loop: windows that add up, gradients that are the ELBO's, guards that hold."""

import copy
import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference import svi
from rvrae_pyro.inference.gradients import OnePanel, Task, window_loss
from rvrae_pyro.inference.kl import marginal_kl, month_kl
from rvrae_pyro.inference.svi import train
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir

MODELS = {
    "default": lambda: rv.RVRAE(
        P, K, factor_prior=rv.priors.Recurrent(K, n_context=2), n_context=2
    ),
    "both": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="both", n_context=2),
        loadings=rv.loadings.LSTM(P, K, hidden=4),
    ),
    "observed": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="observed", n_context=2),
        likelihood=rv.likelihoods.Normal(rv.likelihoods.CharacteristicScale(P)),
    ),
    "paper": lambda: rv.RVRAE.paper(P, K, hidden=4),
    "ar1": lambda: rv.RVRAE(P, K, factor_prior=rv.priors.AR1(K)),
}
EXACT = rv.schedules.Constant()


def build(kind: str) -> rv.RVRAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stir(MODELS[kind]().double(), size=0.2)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return double(random_panel(12, 14, seed=4, empty_months=[5]))


def densities(model: rv.RVRAE, batch: Batch, path: Tensor) -> dict[str, Tensor]:
    """Log densities of every month at a fixed path."""
    fixed = {"factors": path.unsqueeze(-2)}
    guide = poutine.trace(poutine.condition(model.guide, fixed)).get_trace(batch)
    trace = poutine.trace(poutine.condition(model.model, fixed)).get_trace(batch)
    guide.compute_log_prob()
    trace.compute_log_prob()
    return {
        "guide": guide.nodes["factors"]["log_prob"].squeeze(-1),
        "prior": trace.nodes["factors"]["log_prob"].squeeze(-1),
        "returns": trace.nodes["returns"]["log_prob"].sum(-1),
    }


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("cuts", [[0, 12], [0, 1, 5, 9, 12], list(range(13))])
def test_windows_with_carried_state_add_up_to_the_full_pass(
    kind: str, cuts: list[int], batch: Batch
) -> None:
    """Month by month, given the same draw of the path, in double precision."""
    model = build(kind)
    walk = model.walk(batch, cuts[:-1])
    whole = densities(model, batch, walk.codes)
    for start, stop in itertools.pairwise(cuts):
        window = batch.window(start, stop, walk.carries[start])
        part = densities(model, window, walk.codes[start:stop])
        for site, terms in part.items():
            torch.testing.assert_close(
                terms, whole[site][start:stop], rtol=1e-9, atol=1e-9, msg=f"{site} {start}"
            )


@pytest.mark.parametrize("kind", list(MODELS))
def test_walk_is_a_draw_of_the_pair(kind: str, batch: Batch) -> None:
    """Its likelihood, prior and proposal are those of the pair at its codes."""
    model = build(kind)
    walk = model.walk(batch)
    whole = densities(model, batch, walk.codes)
    torch.testing.assert_close(walk.log_likelihood, whole["returns"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(walk.prior.log_prob(walk.codes), whole["prior"])
    ratio = walk.draw.proposal.log_prob(walk.codes.unsqueeze(-2)).flatten()
    torch.testing.assert_close(ratio, whole["guide"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", list(MODELS))
def test_divergence_is_the_mean_log_ratio(kind: str, batch: Batch) -> None:
    """In closed form for each month given the walk's past: against draws of that month alone."""
    model = build(kind)
    walk = model.walk(batch)
    closed = month_kl(walk)
    assert closed.shape == (batch.n_times,)
    assert bool((closed >= -1e-12).all())
    t, n = 3, 20_000
    # given the path before t and its prior, the month's own posterior is one Gaussian
    prior = torch.distributions.Normal(walk.prior.loc[t], walk.prior.scale[t])
    if kind == "paper":
        law = torch.distributions.Independent(
            torch.distributions.Normal(
                walk.draw.proposal.mean[t, 0], walk.draw.proposal.stddev[t, 0]
            ),
            1,
        )
    else:
        potential = walk.cross.potential
        shrink = torch.tensor(1.0) if walk.level is None else (-2 * walk.level[t]).exp()
        precision = torch.diag(walk.prior.scale[t] ** -2) + shrink * potential.precision[t]
        shift = walk.prior.loc[t] / walk.prior.scale[t] ** 2 + shrink * potential.shift[t]
        mean = torch.linalg.solve(precision, shift)
        law = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    with torch.no_grad():
        draws = law.sample((n,))
        ratio = law.log_prob(draws) - prior.log_prob(draws).sum(-1)
    error = ratio.std().item() / math.sqrt(n)
    assert closed[t].item() == pytest.approx(ratio.mean().item(), abs=4.5 * error + 1e-9)
    each = marginal_kl(walk)
    assert each.shape == (batch.n_times, K)
    assert bool((each >= -1e-12).all())
    # marginals leave out correlation, so they cannot exceed the whole
    assert bool((each.sum(-1) <= closed + 1e-9).all()) or kind == "paper"
    if kind == "paper":
        torch.testing.assert_close(each.sum(-1), closed)


def full_config(**settings: object) -> rv.FitConfig:
    given = {
        "optimizer": torch.optim.SGD,
        "learning_rate": 1e-3,
        "max_steps": 1,
        "window": None,
        "kl_schedule": EXACT,
        "rate_schedule": rv.schedules.Flat(),
        "weights_warmup": 0.0,
        "clip_norm": 1e9,
        "dtype": torch.float64,
    }
    return rv.FitConfig(**{**given, **settings})


def test_one_full_step_follows_the_gradient_of_evidence_and_weight_prior(batch: Batch) -> None:
    """With an observed recurrence the bound has no noise: the step is known to rounding."""
    model = build("observed")
    reference = copy.deepcopy(model)
    objective = -rv.exact.evidence(reference, batch) - reference.log_weights()
    weights = list(reference.parts.parameters())
    gradient = torch.autograd.grad(objective, weights, materialize_grads=True)
    n_cells = int(batch.observed.sum())
    trained = train(model, batch, batch.n_times, full_config())
    assert trained.epochs[-1].step == 1
    # without validation the last state is kept, after the step
    for new, old, slope in zip(model.parts.parameters(), weights, gradient, strict=True):
        torch.testing.assert_close(new, old - 1e-3 * slope / n_cells, rtol=1e-9, atol=1e-12)


def test_clipping_bounds_the_step(batch: Batch) -> None:
    model = build("observed")
    before = torch.cat([p.detach().flatten().clone() for p in model.parts.parameters()])
    train(model, batch, batch.n_times, full_config(clip_norm=1e-3, learning_rate=1.0))
    after = torch.cat([p.detach().flatten() for p in model.parts.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=1e-4)


class Recorder(Trace_ELBO):
    """Notes what a step was given, and what the plain ELBO says of it at the same draw."""

    def __init__(self, model: rv.RVRAE) -> None:
        super().__init__()
        self.rv, self.seen = model, []

    def differentiable_loss(
        self, model: object, guide: object, batch: Batch, kl_weight: float | Tensor
    ) -> Tensor:
        state = torch.get_rng_state()
        loss = super().differentiable_loss(model, guide, batch, kl_weight)
        torch.set_rng_state(state)
        with pyro.poutine.block():
            again = Trace_ELBO().differentiable_loss(self.rv.model, self.rv.guide, batch, kl_weight)
        weights = [w for w in self.rv.parts.parameters() if w.requires_grad]
        slopes = [
            torch.autograd.grad(x, weights, retain_graph=True, materialize_grads=True)
            for x in (loss, again)
        ]
        for a, b in zip(*slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(loss, again, rtol=1e-12, atol=1e-12)
        self.seen.append((batch, kl_weight))
        return loss


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("kind", ["default", "paper"])
def test_every_step_is_the_elbo_of_the_pair_on_its_window(
    window: int | None, kind: str, batch: Batch
) -> None:
    model = build(kind)
    recorder = Recorder(model)
    config = full_config(window=window, max_steps=6, kl_schedule=rv.schedules.Linear(0.1, 4))
    train(model, batch, 10, config, elbo=recorder)
    assert len(recorder.seen) == 6
    for seen, _ in recorder.seen:
        assert seen.n_times <= (window or 10)
        assert seen.times[-1] <= batch.times[9]
        assert (seen.carry is None) == (seen.times[0] == batch.times[0])
    weights = [float(torch.as_tensor(w).mean()) for _, w in recorder.seen]
    assert weights == pytest.approx([min(1.0, 0.1 + 0.9 * s / 4) for s in range(6)])


def test_profile_reaches_the_window_it_belongs_to(batch: Batch) -> None:
    model = build("default")
    recorder = Recorder(model)
    schedule = rv.schedules.Linear(0.1, 1000, profile=[1.0, 5.0])
    train(model, batch, 10, full_config(window=4, max_steps=3, kl_schedule=schedule), elbo=recorder)
    grid = np.linspace(0.1, 0.5, 10)
    for step, (seen, weight) in enumerate(recorder.seen):
        where = np.searchsorted(batch.times, seen.times)
        expected = grid[where] + (1 - grid[where]) * step / 1000
        np.testing.assert_allclose(weight, expected)


def test_mean_reduction_divides_by_all_training_months(batch: Batch) -> None:
    """Eq. (31)'s mean is over T, whatever the length of the window."""
    model = build("default")
    recorder = Recorder(model)
    config = full_config(window=4, max_steps=4, kl_reduction="mean")
    trained = train(model, batch, 11, config, elbo=recorder)
    assert len({seen.n_times for seen, _ in recorder.seen}) > 1
    for seen, weight in recorder.seen:
        torch.testing.assert_close(weight, torch.full((seen.n_times,), 1 / 11).double())
    assert trained.epochs[0].kl_weight == pytest.approx(1 / 11)


def test_window_loss_takes_its_share_of_the_weight_prior(batch: Batch) -> None:
    model = build("observed")
    elbo = rv.elbo.AnnealedELBO(EXACT, n_times=4 * batch.n_times)
    loss = window_loss(model, batch, elbo)
    expected = -rv.exact.evidence(model, batch) - 0.25 * model.log_weights()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)


def test_windows_without_a_return_are_skipped() -> None:
    batch = double(random_panel(8, 9, empty_months=[2, 3, 4]))
    model = build("default")
    recorder = Recorder(model)
    train(model, batch, 8, full_config(window=1, max_steps=5), elbo=recorder)
    assert all(bool(seen.observed.any()) for seen, _ in recorder.seen)
    assert len(recorder.seen) == 5


def test_random_assets_of_a_step(batch: Batch) -> None:
    model = build("default")
    recorder = Recorder(model)
    train(model, batch, 12, full_config(window=4, max_steps=6, asset_batch=5), elbo=recorder)
    assert all(seen.n_assets <= 5 for seen, _ in recorder.seen)
    assert len({tuple(sorted(seen.assets)) for seen, _ in recorder.seen}) > 1


@pytest.mark.parametrize(
    "elbo",
    [
        TraceMeanField_ELBO,
        TraceGraph_ELBO,
        lambda: RenyiELBO(alpha=0, num_particles=2),
        lambda: Trace_ELBO(num_particles=2),
    ],
    ids=["meanfield", "graph", "renyi", "two"],
)
def test_any_elbo_of_pyro_trains(elbo: object, batch: Batch) -> None:
    model = build("default")
    before = {k: v.clone() for k, v in model.parts.state_dict().items()}
    trained = train(model, batch, 12, full_config(window=6, max_steps=4), elbo=elbo())
    assert trained.epochs[-1].step == 4
    after = model.parts.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == {name for name, _ in model.parts.named_parameters()}


def test_estimators_with_a_gradient_of_their_own_take_the_same_step(batch: Batch) -> None:
    """TraceGraph, whose gradient is its own affair, and Trace agree where there is no noise."""
    steps = []
    for elbo in (Trace_ELBO(), TraceGraph_ELBO()):
        model = build("observed")
        train(model, batch, 12, full_config(), elbo=elbo)
        steps.append(list(model.parts.parameters()))
    for a, b in zip(*steps, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("particles", [1, 3])
def test_randomness_and_settings_of_the_caller_stay(particles: int, batch: Batch) -> None:
    model = build("default")
    state = torch.get_rng_state()
    settings = dict(pyro.settings.get())
    train(model, batch, 10, full_config(window=5, max_steps=2, num_particles=particles))
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(pyro.settings.get()) == settings


without_pyros_own_warning = pytest.mark.filterwarnings("ignore:Encountered NaN")


class Spoiler(Trace_ELBO):
    """Breaks a weight of the model, or interrupts, from a step on, so many times."""

    def __init__(self, at: int, act: object, times: float = math.inf) -> None:
        super().__init__()
        self.at, self.act, self.count, self.stop = at, act, 0, at + times

    def differentiable_loss(self, model: object, guide: object, *args: object) -> Tensor:
        if self.at <= self.count < self.stop:
            self.act()
        self.count += 1
        return super().differentiable_loss(model, guide, *args)


@without_pyros_own_warning
@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("factor_prior.head.bias", r"factors \(guide\)"),
        ("likelihood.log_excess_df", r"returns \(model\)"),
    ],
)
def test_failure_names_step_and_site_and_leaves_the_model_finite(
    name: str, site: str, batch: Batch
) -> None:
    model = build("default")

    def spoil() -> None:
        with torch.no_grad():
            model.parts.get_parameter(name).fill_(math.nan)

    # the epoch of step 3 is the last good one, to which training goes back five times
    expected = rf"not finite at step 3: .*{site}.*5 times in a row.*back at its state"
    with pytest.raises(rv.FitError, match=expected):
        train(model, batch, 10, full_config(window=4, max_steps=20), elbo=Spoiler(5, spoil))
    assert all(bool(torch.isfinite(p).all()) for p in model.parts.parameters())
    assert math.isfinite(Trace_ELBO().loss(model.model, model.guide, batch))


@without_pyros_own_warning
def test_failure_restores_the_last_good_epoch(batch: Batch) -> None:
    model = build("default")
    states = []

    def spoil() -> None:
        with torch.no_grad():
            model.parts.get_parameter("factor_prior.head.bias").fill_(math.nan)

    with pytest.raises(rv.FitError, match="state of step 6"):
        train(
            model,
            batch,
            12,
            full_config(window=4, max_steps=40),
            elbo=Spoiler(8, spoil),
            on_epoch=lambda epoch: states.append(
                (epoch.step, copy.deepcopy(model.parts.state_dict()))
            ),
        )
    kept = dict(states)[6]
    for key, value in model.parts.state_dict().items():
        torch.testing.assert_close(value, kept[key], rtol=0, atol=0)


def test_interrupt_keeps_the_last_good_state(batch: Batch) -> None:
    model = build("default")

    def interrupt() -> None:
        raise KeyboardInterrupt

    states = {}
    trained = train(
        model,
        batch,
        12,
        full_config(window=4, max_steps=40),
        elbo=Spoiler(11, interrupt),
        on_epoch=lambda epoch: states.update({epoch.step: copy.deepcopy(model.parts.state_dict())}),
    )
    assert trained.stopped == "interrupted"
    assert trained.best_step == max(states)
    for key, value in model.parts.state_dict().items():
        torch.testing.assert_close(value, states[trained.best_step][key], rtol=0, atol=0)


@without_pyros_own_warning
@pytest.mark.parametrize("times", [1, 3])
def test_a_bound_that_breaks_in_passing_is_left_behind(times: int, batch: Batch) -> None:
    """Back to the last good epoch with a lower rate; the rest of the run is as long as ever."""
    model = build("default")

    def spoil() -> None:
        with torch.no_grad():
            model.parts.get_parameter("factor_prior.head.bias").fill_(math.nan)

    config = full_config(window=4, max_steps=20, optimizer=torch.optim.Adam)
    trained = train(model, batch, 12, config, elbo=Spoiler(8, spoil, times))
    assert [b.back_to for b in trained.backoffs] == [6] * times
    assert trained.backoffs[0].step == 8
    assert [b.learning_rate for b in trained.backoffs] == pytest.approx(
        [1e-3 * 0.3**k for k in range(1, times + 1)]
    )
    assert "not finite at step 8" in trained.backoffs[0].reason
    steps = [epoch.step for epoch in trained.epochs]
    assert steps == sorted(set(steps))
    assert steps[-1] == 20
    assert all(math.isfinite(epoch.elbo) for epoch in trained.epochs)
    assert all(bool(torch.isfinite(p).all()) for p in model.parts.parameters())


def test_an_exploding_bound_is_left_behind(batch: Batch) -> None:
    """A step far too long leaves a finite, useless state: the epoch after it goes back."""
    model = build("default")

    def jump() -> None:
        with torch.no_grad():
            model.parts.get_parameter("likelihood.scale.network.2.bias").fill_(-20.0)

    trained = train(model, batch, 12, full_config(window=4, max_steps=15), elbo=Spoiler(5, jump, 1))
    (backoff,) = trained.backoffs
    assert backoff.back_to == 3
    assert "exploded at step 6" in backoff.reason
    assert model.parts.get_parameter("likelihood.scale.network.2.bias").item() > -5


@without_pyros_own_warning
def test_a_bad_gradient_is_caught(batch: Batch) -> None:
    """A finite bound whose slope is not must not leave broken weights behind."""
    model = build("default")

    class Cliff(Trace_ELBO):
        def differentiable_loss(self, model_: object, guide: object, *args: object) -> Tensor:
            loss = super().differentiable_loss(model_, guide, *args)
            bias = model.parts.get_parameter("factor_prior.head.bias")
            return loss + 0.0 * (bias - bias.detach()).abs().sum().sqrt()

    with pytest.raises(rv.FitError, match="gradient of the ELBO is not finite at step 0"):
        train(model, batch, 12, full_config(window=4, max_steps=10), elbo=Cliff())
    assert all(bool(torch.isfinite(p).all()) for p in model.parts.parameters())


def test_training_needs_a_return(batch: Batch) -> None:
    empty = double(random_panel(12, 14, empty_months=range(10)))
    with pytest.raises(rv.FitError, match="at least one observed return"):
        train(build("default"), empty, 10, full_config())


def test_rate_and_pull_of_the_weight_priors_follow_their_schedules(batch: Batch) -> None:
    """A plain gradient step moves by rate times gradient: both schedules can be read off it."""
    seen: list[tuple[float, float]] = []
    config = full_config(
        window=4,
        max_steps=6,
        rate_schedule=rv.schedules.Cosine(warmup=0.5, end=0.1),
        weights_warmup=0.5,
    )
    model = build("observed")
    elbo = rv.elbo.AnnealedELBO.of(config, 12)
    run = svi._Run(model, OnePanel(model, batch, elbo), 12, config, elbo)
    run.generator.manual_seed(0)
    descend = run.slopes.descend

    def look(task: Task, factor: float) -> bool:
        pull = task.share * 12 / (task.stop - task.start)
        seen.append((run.optimizer.param_groups[0]["lr"] / 1e-3, pull))
        return descend(task, factor)

    run.slopes.descend = look  # type: ignore[method-assign]
    run.loop(None, None)
    rates, pulls = zip(*seen, strict=True)
    schedule = config.rate_schedule
    np.testing.assert_allclose(rates, [schedule.rate((k + 0.5) / 6) for k in range(6)])
    assert rates[:3] == tuple(sorted(rates[:3]))
    assert rates[3:] == tuple(sorted(rates[3:]))[::-1]
    np.testing.assert_allclose(pulls, [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0])


def test_what_is_no_broken_bound_is_not_backed_off_from(batch: Batch) -> None:
    """A disk that refuses says nothing of the learning rate."""
    model, steps = build("default"), []

    def refuse() -> None:
        raise rv.FitError("scratch files cannot be written")

    with pytest.raises(rv.FitError, match=r"^scratch files cannot be written$"):
        train(
            model,
            batch,
            12,
            full_config(window=4, max_steps=20),
            elbo=Spoiler(5, refuse),
            on_epoch=lambda epoch: steps.append(epoch.step),
        )
    assert steps == sorted(set(steps))  # no epoch was repeated
    assert all(bool(torch.isfinite(p).all()) for p in model.parts.parameters())


@without_pyros_own_warning
@pytest.mark.parametrize("value", [math.nan, 400.0, -400.0])
def test_matrices_that_cannot_be_factored_are_a_broken_bound(value: float, batch: Batch) -> None:
    """Mixtures of regimes factor matrices on the way, which torch refuses by an error."""
    model = stir(rv.RVRAE(P, K, factor_prior=rv.priors.RegimeSwitching(K)).double(), size=0.2)

    def spoil() -> None:
        with torch.no_grad():
            for weight in model.parts.factor_prior.parameters():
                weight.fill_(value)

    trained = train(
        model, batch, 12, full_config(window=4, max_steps=12), elbo=Spoiler(5, spoil, 1)
    )
    assert [b.back_to for b in trained.backoffs] == [3] or not trained.backoffs
    assert trained.backoffs or math.isfinite(value)
    assert all(bool(torch.isfinite(p).all()) for p in model.parts.parameters())


@pytest.mark.parametrize("of_pyro", [True, False])
@pytest.mark.parametrize("of_torch", [True, False])
def test_validation_flags_come_back_each_as_it_was(
    of_pyro: bool, of_torch: bool, batch: Batch
) -> None:
    flags = {"validate_distributions_pyro": of_pyro, "validate_distributions_torch": of_torch}
    with pyro.settings.context(**flags):
        train(build("default"), batch, 12, full_config(window=4, max_steps=3))
        assert {name: pyro.settings.get(name) for name in flags} == flags
