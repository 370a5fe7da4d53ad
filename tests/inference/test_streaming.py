"""Shards of assets: the loss, the gradient and the filter of the whole panel."""

import itertools
import math

import pyro
import pytest
import torch
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.gradients import Task, window_loss
from rvrae_pyro.inference.kl import month_kl
from rvrae_pyro.inference.sharded.shard_observations import Samples, cells_of, light
from rvrae_pyro.inference.sharded.shards import CutPanel
from rvrae_pyro.inference.sharded.streaming import Streamed
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir

CHARACTERISTIC_SCALE = rv.likelihoods.CharacteristicScale
MODELS = {
    "default": lambda: rv.RVRAE(P, K, n_context=2),
    "observed normal": lambda: rv.RVRAE(
        P,
        K,
        loadings=rv.loadings.MLP(P, K, hidden=(4,)),
        factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="observed", n_context=2),
        likelihood=rv.likelihoods.Normal(CHARACTERISTIC_SCALE(P), rv.likelihoods.Alpha(P)),
    ),
    "observed t": lambda: rv.RVRAE(
        P, K, factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="observed", n_context=2)
    ),
    "both": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="both", n_context=2),
        likelihood=rv.likelihoods.StudentT(CHARACTERISTIC_SCALE(P), rv.likelihoods.Alpha(P)),
    ),
    "paper": lambda: rv.RVRAE.paper(P, K, hidden=4),
    "ar1 mixture": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.AR1(K),
        likelihood=rv.likelihoods.NormalMixture(CHARACTERISTIC_SCALE(P)),
    ),
    "common volatility": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.CommonVolatility(rv.priors.Recurrent(K, hidden=3, n_context=2)),
        likelihood=rv.likelihoods.StudentT(CHARACTERISTIC_SCALE(P), rv.likelihoods.Alpha(P)),
    ),
    "common volatility normal": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.CommonVolatility(rv.priors.AR1(K)),
        likelihood=rv.likelihoods.Normal(),
    ),
    "smoothing": lambda: rv.RVRAE(
        P, K, factor_prior=rv.priors.AR1(K), guide=rv.guides.Smoothing(K)
    ),
}


def build(kind: str) -> rv.RVRAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stir(MODELS[kind]().double(), size=0.2)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return double(random_panel(12, 14, seed=4, empty_months=[5]))


def gradient(model: rv.RVRAE) -> Tensor:
    return torch.cat(
        [
            (torch.zeros_like(w) if w.grad is None else w.grad).flatten()
            for w in model.parts.parameters()
            if w.requires_grad
        ]
    )


@pytest.mark.parametrize("size", [1, 5, 100])
@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("particles", [1, 3])
def test_gradient_of_the_whole_panel(kind: str, size: int, particles: int, batch: Batch) -> None:
    """To 1e-9 of its norm, on a window with carried states, at a KL weight for every month."""
    model = build(kind)
    config = rv.FitConfig(num_particles=particles, dtype=torch.float64)
    start, stop = 4, 9
    with torch.no_grad(), pyro.settings.context(module_local_params=True):
        carry = model.walk(batch, [start]).carries[start]
    elbo = rv.elbo.AnnealedELBO(
        rv.schedules.Linear(0.3, profile=[1.0, 3.0]),
        n_times=batch.n_times,
        num_particles=particles,
        vectorize_particles=particles > 1,
        max_plate_nesting=2,
    )
    weight, share = elbo.weight(stop - start, start), elbo.share(stop - start, start)
    torch.manual_seed(1)
    loss = window_loss(model, batch.window(start, stop, carry), elbo)
    (0.01 * loss).backward()
    whole = gradient(model)
    model.zero_grad()
    torch.manual_seed(1)
    slopes = Streamed(model, CutPanel(batch, size), config)
    assert slopes.descend(Task(start, stop, carry, weight, share, 0), 0.01)
    assert slopes.loss == pytest.approx(loss.item(), rel=1e-12, abs=1e-9)
    error = (gradient(model) - whole).norm() / whole.norm()
    assert error.item() < 1e-9


@pytest.mark.parametrize("kind", list(MODELS))
def test_walk_of_the_whole_panel(kind: str, batch: Batch) -> None:
    model = build(kind)
    starts = [0, 3, 7, 12]
    torch.manual_seed(2)
    whole = model.walk(batch, starts)
    torch.manual_seed(2)
    walk = Streamed(model, CutPanel(batch, 4), rv.FitConfig(dtype=torch.float64)).walk(
        model, starts
    )
    tight = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(walk.codes, whole.codes, **tight)
    torch.testing.assert_close(walk.log_likelihood, whole.log_likelihood, **tight)
    torch.testing.assert_close(month_kl(walk), month_kl(whole), **tight)
    for t in starts:
        for part, states in whole.carries[t].items():
            for mine, theirs in zip(walk.carries[t][part], states, strict=True):
                torch.testing.assert_close(mine, theirs, **tight)


def test_a_window_without_a_return_is_no_step(batch: Batch) -> None:
    model = build("default")
    slopes = Streamed(model, CutPanel(batch, 4), rv.FitConfig(dtype=torch.float64))
    assert not slopes.descend(Task(5, 6, None, 1.0, 0.0, 0), 1.0)
    assert slopes.n_observed(5, 6) == 0
    assert slopes.n_observed(0) == int(batch.observed.sum())


def test_training_in_shards_is_training(batch: Batch) -> None:
    """The same steps as on the whole panel, to rounding."""
    panel = random_panel(16, 14, seed=5)
    train, valid = panel.isel(time=slice(0, 11)), panel.isel(time=slice(11, 15))
    fits = [
        rv.fit(
            rv.RVRAE(P, K, n_context=2),
            train,
            valid,
            config=rv.FitConfig(max_steps=9, window=4, dtype=torch.float64, shard_size=size),
            progress=False,
        )
        for size in (None, 3)
    ]
    columns = [c for c in fits[0].history if c != "seconds"]
    for name in columns:
        whole, cut = (fit.history[name].to_numpy() for fit in fits)
        assert cut == pytest.approx(whole, rel=1e-7, nan_ok=True), name


@pytest.mark.parametrize("kind", ["default", "both", "common volatility"])
def test_sampled_assets_are_unbiased_over_every_sample(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean gradient over all pairs of samples of two of four assets is the whole panel's."""
    batch = double(random_panel(6, 14, seed=4))
    full = batch.listed.all(0).nonzero().squeeze(-1)[:4]
    assert full.numel() == 4
    batch = batch.select(full)
    model = build(kind)
    weight = torch.linspace(0.4, 1.0, 6, dtype=torch.float64)
    task = Task(0, 6, None, weight, 0.5, 0)

    def slope(config: rv.FitConfig) -> tuple[float, Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        slopes = Streamed(model, CutPanel(batch), config)
        slopes.descend(task, 0.01)
        return slopes.loss, gradient(model)

    loss, whole = slope(rv.FitConfig(dtype=torch.float64))
    config = rv.FitConfig(dtype=torch.float64, asset_batch=2, asset_sampling="whole")
    pairs = [torch.tensor(pair) for pair in itertools.combinations(range(4), 2)]
    losses, total = [], torch.zeros_like(whole)
    for first, second in itertools.product(pairs, pairs):
        sample = Samples(first, second, 2.0)
        monkeypatch.setattr(Streamed, "_samples", lambda *_, sample=sample: [sample])
        each, slopes = slope(config)
        losses.append(each)
        total += slopes / len(pairs) ** 2
    assert sum(losses) / len(losses) == pytest.approx(loss, rel=1e-12)
    assert max(losses) - min(losses) > 1.0  # nats: the samples do differ
    assert ((total - whole).norm() / whole.norm()).item() < 1e-9


def test_samples_are_of_the_asked_size_and_leave_no_asset_out(batch: Batch) -> None:
    config = rv.FitConfig(dtype=torch.float64, asset_batch=5, asset_sampling="whole")
    slopes = Streamed(build("default"), CutPanel(batch), config)
    torch.manual_seed(0)
    draws = [slopes._samples([14])[0] for _ in range(60)]
    assert {len(d.returns) for d in draws} == {5}
    assert all(d.weight == 14 / 5 and len(set(d.returns.tolist())) == 5 for d in draws)
    assert set(torch.cat([d.returns for d in draws]).tolist()) == set(range(14))
    assert any(set(d.returns.tolist()) != set(d.potentials.tolist()) for d in draws)


def test_training_on_sampled_assets(batch: Batch) -> None:
    config = rv.FitConfig(max_steps=6, window=4, asset_batch=5, asset_sampling="whole")
    fit = rv.fit(rv.RVRAE(P, K), random_panel(12, 14, seed=5), config=config, progress=False)
    assert fit.history["step"].iloc[-1] == 6
    with pytest.raises(rv.ConfigError, match="`asset_sampling` must be 'composite' or 'whole'"):
        rv.FitConfig(asset_sampling="half")


def test_what_does_not_add_up_is_refused(batch: Batch) -> None:
    class Own(rv.likelihoods.Normal):
        def potential(self, *arguments: object) -> object:
            return super().potential(*arguments)

    model = rv.RVRAE(P, K, likelihood=Own()).double()
    with pytest.raises(rv.ConfigError, match="Own has a `potential` of its own"):
        Streamed(model, CutPanel(batch, 3), rv.FitConfig())
    with pytest.raises(rv.ConfigError, match="`asset_batch` 5 draws from a whole cross-section"):
        Streamed(build("default"), CutPanel(batch, 3), rv.FitConfig(asset_batch=5))


def test_a_broken_bound_names_its_term(batch: Batch) -> None:
    model = build("default")
    with torch.no_grad():
        model.parts.get_parameter("likelihood.log_excess_df").fill_(math.nan)
    slopes = Streamed(model, CutPanel(batch, 4), rv.FitConfig(dtype=torch.float64))
    with (
        pytest.raises(rv.FitError, match=r"not finite at step 7: log density of .*returns"),
        pyro.validation_enabled(False),  # as in training
    ):
        slopes.descend(Task(0, 4, None, 1.0, 0.0, 7), 1.0)


def test_cells_let_go_of_the_characteristics(batch: Batch) -> None:
    """An empty view would keep every shard's characteristics in memory until the walk ends."""
    model = build("observed t")
    cells = light(cells_of(model.parts, batch))
    assert cells.batch.characteristics.shape == (batch.n_times, batch.n_assets, 0)
    assert cells.batch.characteristics.untyped_storage().nbytes() == 0
    assert batch.characteristics.untyped_storage().nbytes() > 0
