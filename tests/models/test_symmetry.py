"""Order, padding and units of the panel, and what an unbalanced one does to each part."""

import dataclasses

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import Trace_ELBO
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir

MODELS = {
    "default": lambda: rv.RVRAE(P, K, n_context=2),
    "observed": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="observed"),
        likelihood=rv.likelihoods.Normal(
            rv.likelihoods.CharacteristicScale(P), rv.likelihoods.Alpha(P)
        ),
    ),
    "paper": lambda: rv.RVRAE.paper(P, K, hidden=4),
    "common volatility": lambda: rv.RVRAE(
        P, K, factor_prior=rv.priors.CommonVolatility(rv.priors.AR1(K))
    ),
}


def build(kind: str) -> rv.RVRAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stir(MODELS[kind]().double(), size=0.2)


def loss_and_gradient(model: rv.RVRAE, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    pyro.set_rng_seed(1)
    loss = Trace_ELBO().differentiable_loss(model.model, model.guide, batch)
    weights = list(model.parts.parameters())
    return loss, list(torch.autograd.grad(loss, weights, materialize_grads=True))


def agree(ours: tuple[Tensor, list[Tensor]], theirs: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-9)
    size = max(float(g.abs().max()) for g in theirs[1])
    for a, b in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9 * size)


@pytest.mark.parametrize("kind", list(MODELS))
@given(seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_order_of_assets_does_not_matter(kind: str, seed: int) -> None:
    panel = random_panel(7, 10, seed=seed % 7)
    order = np.random.default_rng(seed).permutation(panel.sizes["asset"])
    model = build(kind)
    agree(
        loss_and_gradient(model, double(panel.isel(asset=order))),
        loss_and_gradient(model, double(panel)),
    )


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("place", ["before", "after"])
def test_never_listed_assets_change_nothing(kind: str, place: str) -> None:
    panel = random_panel(7, 10)
    ghosts = xr.full_like(panel.isel(asset=slice(0, 4)), np.nan)
    ghosts = ghosts.assign_coords(asset=[f"ghost{i}" for i in range(4)])
    ghosts["context"] = panel["context"]
    both = [ghosts, panel] if place == "before" else [panel, ghosts]
    padded = xr.concat(both, "asset", data_vars="minimal", coords="minimal", compat="override")
    model = build(kind)
    agree(loss_and_gradient(model, double(padded)), loss_and_gradient(model, double(panel)))


@pytest.mark.parametrize("kind", list(MODELS))
def test_listed_assets_without_a_return_change_nothing(kind: str) -> None:
    """They are live: forecast, never trained on."""
    panel = random_panel(7, 10)
    twin = panel.isel(asset=slice(0, 3)).copy(deep=True)
    twin["returns"][:] = np.nan
    twin = twin.assign_coords(asset=["x0", "x1", "x2"])
    both = xr.concat(
        [panel, twin], "asset", data_vars="minimal", coords="minimal", compat="override"
    )
    model = build(kind)
    agree(loss_and_gradient(model, double(both)), loss_and_gradient(model, double(panel)))


@pytest.mark.parametrize("kind", list(MODELS))
def test_values_behind_the_mask_are_ignored(kind: str) -> None:
    batch = double(random_panel(7, 10, empty_months=[2]))
    wild = torch.where(batch.observed, batch.returns, torch.full_like(batch.returns, 1e6))
    outside = torch.where(
        batch.listed.unsqueeze(-1),
        batch.characteristics,
        torch.full_like(batch.characteristics, 9.0),
    )
    altered = dataclasses.replace(batch, returns=wild, characteristics=outside)
    model = build(kind)
    agree(loss_and_gradient(model, altered), loss_and_gradient(model, batch))


@pytest.mark.parametrize("kind", ["default", "observed"])
def test_units_of_returns_move_the_bound_by_their_jacobian_only(kind: str) -> None:
    """Returns ten times as large, with their unit: the bound falls by log 10 a cell."""
    batch = double(random_panel(7, 10))
    model = build(kind)
    bound, gradient = loss_and_gradient(model, batch)
    model.return_scale.mul_(10.0)
    scaled = dataclasses.replace(batch, returns=batch.returns * 10.0)
    other, moved = loss_and_gradient(model, scaled)
    cells = int(batch.observed.sum())
    agree((other - cells * np.log(10.0), moved), (bound, gradient))


def test_return_scale_is_robust_and_set_from_seen_returns() -> None:
    batch = double(random_panel(7, 10))
    model = rv.RVRAE(P, K).double()
    model.set_units(batch)
    seen = batch.returns[batch.observed].abs()
    assert model.return_scale.item() == pytest.approx(seen.median().item() / 0.6745)
    empty = dataclasses.replace(batch, observed=torch.zeros_like(batch.observed))
    before = model.return_scale.item()
    model.set_units(empty)
    assert model.return_scale.item() == before


def test_units_of_the_context_do_not_matter() -> None:
    """A context in other units, set from the same months, gives the same bound."""
    batch = double(random_panel(12, 10))
    assert batch.context is not None
    other = dataclasses.replace(batch, context=batch.context * 20.0 + 5.0)
    likelihood = rv.likelihoods.StudentT(rv.likelihoods.CharacteristicScale(P, n_context=2))
    model = stir(rv.RVRAE(P, K, n_context=2, likelihood=likelihood).double(), size=0.2)
    model.set_units(batch)
    ours = loss_and_gradient(model, batch)
    assert not torch.allclose(loss_and_gradient(model, other)[0], ours[0])
    model.set_units(other)
    agree(loss_and_gradient(model, other), ours)


def test_cutting_a_cross_section_in_two_adds_up() -> None:
    """Potentials of two halves of the assets sum to the whole's: a month's plate may be split."""
    batch = double(random_panel(7, 10))
    model = build("observed")
    model.parts.factor_prior = rv.priors.StandardNormal(K).double()
    whole = model.parts.cross_section(batch).potential
    halves = [
        model.parts.cross_section(batch.select(torch.arange(10) % 2 == side)).potential
        for side in (0, 1)
    ]
    for name in ("precision", "shift"):
        total = sum(getattr(h, name) for h in halves)
        torch.testing.assert_close(total, getattr(whole, name), rtol=1e-10, atol=1e-10)


def naive_lstm(part: rv.loadings.LSTM, batch: Batch) -> Tensor:
    """Run torch's own LSTM over each asset's listed months, one asset at a time."""
    beta = batch.characteristics.new_zeros(batch.n_times, batch.n_assets, part.n_factors)
    for i in range(batch.n_assets):
        months = batch.listed[:, i].nonzero().flatten()
        if months.numel():
            x = batch.characteristics[months, i]
            output, _ = part.lstm(x.unsqueeze(1))
            value = part.head(output.squeeze(1))
            beta[months, i] = value if part.path is None else value + part.path(x)
    return beta


@pytest.mark.parametrize("skip", [True, False])
@given(
    n_times=st.integers(1, 12),
    n_assets=st.integers(1, 15),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_lstm_starts_at_the_first_listed_month_and_waits(
    skip: bool, n_times: int, n_assets: int, share: float, seed: int
) -> None:
    """Any listing pattern: buckets, month by month, and one asset at a time are the same."""
    g = torch.Generator().manual_seed(seed)
    batch = double(random_panel(max(n_times, 2), max(n_assets, 2)))
    batch = batch.window(0, n_times, every_asset=True).select(torch.arange(n_assets))
    listed = torch.rand(n_times, n_assets, generator=g) < share
    x = torch.randn(n_times, n_assets, P, generator=g, dtype=torch.float64)
    batch = dataclasses.replace(batch, listed=listed, characteristics=x * listed.unsqueeze(-1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        part = rv.loadings.LSTM(P, K, hidden=3, skip=skip).double()
        part.head.weight.data.normal_()
    with torch.no_grad():
        expected = naive_lstm(part, batch)
        torch.testing.assert_close(part(batch) * listed.unsqueeze(-1), expected)
        online, _ = part.online(batch)
        torch.testing.assert_close(online * listed.unsqueeze(-1), expected)


@pytest.mark.parametrize("kind", ["lstm", "mlp", "linear"])
def test_loadings_of_a_window_continue_those_of_the_whole(kind: str) -> None:
    """States carried into a window make its loadings those of the full pass."""
    make = {"lstm": rv.loadings.LSTM, "mlp": rv.loadings.MLP, "linear": rv.loadings.Linear}[kind]
    batch = double(random_panel(10, 12, seed=2))
    model = rv.RVRAE(P, K, loadings=make(P, K))
    stir(model.double())
    walk = model.walk(batch, [4])
    window = batch.window(4, 9, walk.carries[4])
    whole = model.loadings(batch)
    kept = np.flatnonzero(np.isin(batch.assets, window.assets))
    expected = whole[4:9, torch.as_tensor(kept)] * window.listed.unsqueeze(-1)
    torch.testing.assert_close(model.loadings(window) * window.listed.unsqueeze(-1), expected)


def test_unseen_assets_have_the_loadings_of_their_characteristics() -> None:
    """A newcomer with the history of another asset has its loadings."""
    panel = random_panel(8, 10, seed=1)
    newcomer = panel.isel(asset=[4]).assign_coords(asset=["new"])
    both = xr.concat(
        [panel, newcomer], "asset", data_vars="minimal", coords="minimal", compat="override"
    )
    batch = double(both)
    for kind in MODELS:
        beta = build(kind).loadings(batch)
        torch.testing.assert_close(beta[:, -1], beta[:, 4])
