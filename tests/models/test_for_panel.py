"""The rule that builds a model for a panel."""

from __future__ import annotations

import numpy as np
import pytest

import rvrae_pyro as rv
from rvrae_pyro.models.panel_choice import PanelKind


def market(n_assets: int, n_times: int, **settings: object):
    return rv.data.simulate_dynamic(
        n_assets=n_assets, n_times=n_times, n_characteristics=3, n_factors=2, seed=0, **settings
    )


def fixed(n_assets: int = 30, n_times: int = 72):
    """A universe that stays: every asset is listed in every month."""
    panel = market(n_assets, n_times)
    return panel.assign(characteristics=panel.characteristics.fillna(0.0))


def test_a_fixed_universe_gets_effects_by_asset() -> None:
    panel = fixed()
    model = rv.RVRAE.for_panel(panel)
    assert model.n_factors == 5 + 8
    assert list(model.loadings.assets) == panel.asset.values.tolist()
    assert list(model.likelihood.scale.assets) == panel.asset.values.tolist()
    assert isinstance(model.factor_prior, rv.priors.CommonVolatility)
    assert "by asset" in str(model)
    assert "30 assets per month, listed in 100% of 72 months on average" in model.choice


@pytest.mark.parametrize(
    "panel",
    [fixed(n_times=40), fixed(n_assets=101), market(30, 72)],
    ids=["short", "wide", "entry"],
)
def test_others_get_none(panel) -> None:
    model = rv.RVRAE.for_panel(panel, 2)
    assert model.n_factors == 2
    assert isinstance(model.loadings, rv.loadings.LSTM)
    assert "no effects by asset" in model.choice


def test_many_stocks_get_a_small_factor_per_characteristic() -> None:
    panel = fixed(n_assets=200, n_times=12)
    model = rv.RVRAE.for_panel(panel, 4)
    assert model.n_factors == 4 + 3
    assert isinstance(model.likelihood, rv.likelihoods.SkewStudentT)


def test_no_return_moves_the_choice() -> None:
    panel = fixed()
    other = panel.assign(returns=panel.returns * np.nan)
    assert PanelKind.of(panel) == PanelKind.of(other)
    assert str(rv.RVRAE.for_panel(panel)) == str(rv.RVRAE.for_panel(other))


@pytest.mark.parametrize("panel", [fixed(), market(30, 72)], ids=["fixed", "entry"])
def test_context_is_read_on_request(panel) -> None:
    assert rv.RVRAE.for_panel(panel).n_context == 0
    model = rv.RVRAE.for_panel(panel, n_context=2)
    assert model.n_context == model.factor_prior.n_context == 2
    assert "2 features of context" in model.choice


@pytest.mark.parametrize("panel", [fixed(), fixed(n_assets=200, n_times=12)])
def test_a_given_part_decides_the_number_of_factors(panel) -> None:
    model = rv.RVRAE.for_panel(panel, factor_prior=rv.priors.AR1(3))
    assert model.n_factors == 3
    assert "given: factor_prior" in model.choice


def test_misuse_is_named() -> None:
    with pytest.raises(rv.PanelError):
        rv.RVRAE.for_panel(fixed().drop_vars("characteristics"))
    with pytest.raises(rv.ConfigError, match="n_factors"):
        rv.RVRAE.for_panel(fixed(), 0)
    with pytest.raises(TypeError, match="prior"):
        rv.RVRAE.for_panel(fixed(), prior=rv.priors.AR1(3))
