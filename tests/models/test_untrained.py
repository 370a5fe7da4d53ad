"""Which models count as untrained, and what ``rv.fit`` does with them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Final

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

import rvrae_pyro as rv
from tests.helpers import random_panel

CONFIG: Final = rv.FitConfig(max_steps=2)


def _build() -> rv.RVRAE:
    return rv.RVRAE(3, 2, factor_prior=rv.priors.AR1(2))


def _panel(size: float = 1.0) -> xr.Dataset:
    panel = random_panel(12, 8, n_characteristics=3)
    return panel.assign(returns=size * panel["returns"])


def _typical(panel: xr.Dataset) -> float:
    seen = panel["returns"].where(rv.data.listed(panel)).to_numpy()
    return float(np.nanmedian(np.abs(seen)) / 0.6745)


def _fit(model: rv.RVRAE, panel: xr.Dataset, seed: int = 0) -> rv.Fit:
    return rv.fit(model, panel, seed=seed, config=CONFIG, progress=False)


def _bytes(fit: rv.Fit) -> list[bytes]:
    return [w.detach().numpy().tobytes() for w in fit.model.parts.parameters()]


def _built_in_double() -> rv.RVRAE:
    torch.set_default_dtype(torch.float64)
    try:
        return _build()
    finally:
        torch.set_default_dtype(torch.float32)


CASTS: Final[dict[str, Callable[[], rv.RVRAE]]] = {
    "bfloat16 and back": lambda: _build().bfloat16().float(),
    "half": lambda: _build().half(),
    "double": lambda: _build().to(torch.float64),
    "to the device it is on": lambda: _build().to("cpu"),
    "default dtype float64 at construction": _built_in_double,
    "deepcopy": lambda: copy.deepcopy(_build().double()),
    "pickle": lambda: pickle.loads(pickle.dumps(_build())),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts_leave_a_model_untrained(name: str) -> None:
    model, panel = CASTS[name](), _panel()
    assert model.untrained

    fitted = _fit(model, panel)

    assert _bytes(fitted) == _bytes(_fit(_build(), panel))
    assert float(fitted.model.return_scale) == pytest.approx(_typical(panel), rel=1e-6)
    assert fitted.attrs["start"] == "seed"
    assert not fitted.model.untrained


@pytest.mark.parametrize("through", ["model", "guide", "parts"])
def test_casts_through_the_pair_leave_a_model_untrained(through: str) -> None:
    model = _build()
    getattr(model, through).bfloat16()
    assert model.untrained


def test_a_default_dtype_of_double_precision_gives_the_same_initial_weights() -> None:
    mine, theirs = _build(), _build()
    mine.redraw(3)
    torch.set_default_dtype(torch.float64)
    try:
        theirs.redraw(3)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(mine.parts.parameters(), theirs.parts.parameters(), strict=True):
        assert torch.equal(a, b)


def _by_svi(model: rv.RVRAE) -> None:
    pyro.set_rng_seed(0)
    batch = rv.data.to_batch(_panel())
    SVI(model.model, model.guide, Adam({"lr": 1e-4}), Trace_ELBO()).step(batch)


def _by_other_weights(model: rv.RVRAE) -> None:
    model.load_state_dict(_build().state_dict())


def _by_its_own_weights(model: rv.RVRAE) -> None:
    model.parts.load_state_dict(model.parts.state_dict())


def _by_its_part(model: rv.RVRAE) -> None:
    model.loadings.load_state_dict(_build().loadings.state_dict())


def _in_place(model: rv.RVRAE) -> None:
    with torch.no_grad():
        next(iter(model.factor_prior.parameters())).fill_(0.1)


def _through_data(model: rv.RVRAE) -> None:
    weight = next(iter(model.loadings.parameters()))
    weight.data.view(-1)[0] *= 1 + 1e-6


MODIFICATIONS: Final = [
    _by_svi,
    _by_other_weights,
    _by_its_own_weights,
    _by_its_part,
    _in_place,
    _through_data,
]


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("modify", MODIFICATIONS)
def test_modified_weights_are_a_warm_start(modify: Callable[[rv.RVRAE], None], cast: bool) -> None:
    model = _build()
    modify(model)
    if cast:
        model.double().float()
    assert not model.untrained
    before = [w.detach().clone() for w in model.parts.parameters()]

    assert not model.redraw(0)

    assert all(map(torch.equal, before, model.parts.parameters()))
    with torch.no_grad():
        model.parts.return_scale.fill_(0.9 * _typical(_panel()))
    kept = float(model.return_scale)
    fitted = _fit(model, _panel())
    assert fitted.attrs["start"] == "model"
    assert float(fitted.model.return_scale) == kept
    assert f"warm start with return_scale {kept:.3g}" in repr(fitted)


def test_an_initial_value_set_by_hand_is_kept_and_units_are_set() -> None:
    model, panel = _build(), _panel(0.1)
    _in_place(model)
    rest = [w.detach().clone() for w in model.loadings.parameters()]
    model.bfloat16().float()

    fitted = rv.fit(
        model, panel, config=rv.FitConfig(max_steps=1, learning_rate=1e-12), progress=False
    )

    assert float(fitted.model.return_scale) == pytest.approx(_typical(panel), rel=1e-6)
    value = next(iter(model.factor_prior.parameters())).detach()
    torch.testing.assert_close(value, torch.full_like(value, 0.1), rtol=1e-2, atol=0.0)
    for before, after in zip(rest, model.loadings.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-3)
    assert fitted.attrs["start"] == "model"


def test_units_that_pyro_trained_with_are_kept() -> None:
    model = _build()
    _by_svi(model)
    placeholder = float(model.return_scale)
    with pytest.warns(rv.RvraeWarning, match="keeps its units"):
        fitted = _fit(model, _panel(0.1))
    assert float(fitted.model.return_scale) == placeholder


def test_a_warm_start_in_far_units_warns_and_keeps_them(tmp_path) -> None:
    first = _fit(_build(), _panel())
    unit = float(first.model.return_scale)

    with pytest.warns(rv.RvraeWarning, match=f"`init` .* return_scale {unit:.3g}, while"):
        second = rv.fit(_build(), _panel(0.1), init=first, config=CONFIG, progress=False)
    assert float(second.model.return_scale) == unit
    assert second.attrs["start"] == "init"

    with pytest.warns(rv.RvraeWarning, match="`model`, whose weights were modified"):
        third = _fit(first.model, _panel(0.1))
    assert float(third.model.return_scale) == unit

    read = rv.load(third.save(tmp_path / "fit"))
    assert read.attrs["start"] == "model"
    assert "warm start" in repr(read)
    assert not read.model.untrained


def test_parts_that_cannot_be_drawn_again_start_as_constructed() -> None:
    class Forgetful(rv.loadings.MLP):
        def __init__(self, wide: int) -> None:
            super().__init__(3, 2, hidden=(wide,))

    torch.manual_seed(1)
    model = rv.RVRAE(3, 2, loadings=Forgetful(4), factor_prior=rv.priors.AR1(2))
    before = [w.detach().clone() for w in model.loadings.parameters()]
    fitted = rv.fit(
        model, _panel(), config=rv.FitConfig(max_steps=1, learning_rate=1e-12), progress=False
    )
    assert fitted.attrs["start"] == "construction"
    assert "warm start" not in repr(fitted)
    assert float(model.return_scale) == pytest.approx(_typical(_panel()), rel=1e-6)
    for old, new in zip(before, model.loadings.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0.0, atol=1e-6)
