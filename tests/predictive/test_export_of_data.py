"""Draws that are the data themselves are not filed as replicates."""

import pytest
from pyro.infer import Predictive

import rvrae_pyro as rv


def test_returns_that_the_model_was_given_are_not_passed_off_as_drawn() -> None:
    panel = rv.data.simulate_dynamic(6, 8, 4, 2, seed=0)
    model = rv.RVRAE(panel.sizes["characteristic"], 2)
    batch = rv.data.to_batch(panel)
    model.set_units(batch)
    draw = Predictive(model.model, guide=model.guide, num_samples=3)
    with pytest.warns(rv.RvraeWarning, match="Call Predictive on `batch.without_returns"):
        rv.to_datatree(draw(batch), panel)
    rv.to_datatree(draw(batch.without_returns()), panel)  # warnings are errors here
