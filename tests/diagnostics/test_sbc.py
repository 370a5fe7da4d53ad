"""Calibration by simulation: exact guides pass, guides of a weighted KL fail and show how.

All seeds are fixed. The chance that a uniform rank fails ``p > 0.001`` at one fresh seed is one in
a thousand for each figure tested.
"""

import arviz_plots as azp
import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from tests.diagnostics.helpers import Holder, freeze, known_model, known_panel
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel, stir

PANEL = known_panel(10, 12, 1)


def figures(tree: xr.DataTree, name: str) -> np.ndarray:
    return tree["uniformity"][name].to_numpy()


@pytest.mark.statistical
@pytest.mark.parametrize("prior", [rv.priors.StandardNormal(1), None])
def test_the_exact_guide_passes(prior) -> None:
    """Three months of one factor and the log likelihood: fails at one seed in 250.

    With an AR(1) prior the conjugate guide is exact in the last month alone.
    """
    months = None if prior is not None else PANEL.time[-1]
    model = known_model(1, factor_prior=prior)
    tree = rv.diagnostics.sbc(model, PANEL, num_datasets=120, times=months)
    assert (figures(tree, "p_value_factors") > 0.001).all()
    assert (np.abs(figures(tree, "spread_factors") - 1) < 0.3).all()
    if prior is not None:
        assert figures(tree, "p_value_log_likelihood") > 0.001


@pytest.mark.statistical
def test_the_guide_that_is_optimal_under_a_weighted_kl_fails_visibly() -> None:
    """Weight 1/T: the posterior is too narrow. The chance that this would pass is below 1e-8."""
    model = known_model(1, factor_prior=rv.priors.StandardNormal(1))
    tree = rv.diagnostics.sbc(model, PANEL, num_datasets=80, kl_weight=1 / 12)
    assert (figures(tree, "p_value_factors") < 1e-8).all()
    assert (figures(tree, "spread_factors") > 1.7).all()
    assert figures(tree, "p_value_log_likelihood") < 1e-12


@pytest.mark.statistical
def test_a_recurrent_guide_trained_under_a_weighted_kl_fails_visibly() -> None:
    """The model is the truth and stays fixed: what fails is the guide."""
    model = freeze(known_model(1, guide=rv.guides.Recurrent(1, 8)), but="guide")
    config = rv.FitConfig(
        max_steps=150,
        window=12,
        learning_rate=0.01,
        rate_schedule=rv.schedules.Flat(),
        kl_schedule=rv.schedules.Constant(),
        kl_reduction="mean",
        dtype=model.return_scale.dtype,
    )
    fit = rv.fit(model, known_panel(10, 180, 1, seed=5), config=config, progress=False)
    tree = rv.diagnostics.sbc(fit, PANEL, num_datasets=60)
    assert (figures(tree, "p_value_factors") < 1e-5).all()
    assert (figures(tree, "spread_factors") > 1.5).all()


@pytest.mark.slow
@pytest.mark.statistical
def test_the_same_guide_trained_on_the_bound_itself_is_far_better() -> None:
    """Ranks spread much less than under the weight 1/T, and months settle near uniform."""
    spread = {}
    for reduction in ("sum", "mean"):
        model = freeze(known_model(1, guide=rv.guides.Recurrent(1, 8)), but="guide")
        config = rv.FitConfig(
            max_steps=600,
            window=12,
            learning_rate=0.005,
            kl_schedule=rv.schedules.Constant(),
            kl_reduction=reduction,
            dtype=model.return_scale.dtype,
        )
        fit = rv.fit(model, known_panel(10, 600, 1, seed=5), config=config, progress=False)
        tree = rv.diagnostics.sbc(fit, PANEL, num_datasets=200, times=PANEL.time[6:])
        spread[reduction] = float(figures(tree, "spread_factors").mean())
    assert spread["mean"] > 2.0
    assert spread["sum"] < 1.4


def test_every_part_takes_part_and_ranks_are_whole_numbers() -> None:
    panel = random_panel(6, 8, empty_months=[2])
    for recurrence in ("latent", "both", "observed"):
        prior = rv.priors.Recurrent(K, 4, recurrence=recurrence)
        model = stir(rv.RVRAE(P, K, factor_prior=prior), size=0.1)
        tree = rv.diagnostics.sbc(model, panel, num_datasets=5, num_samples=9)
        ranks = tree["ranks"]["factors"]
        assert ranks.dims == ("chain", "draw", "time", "factor")
        assert ranks.shape == (1, 5, 3, K)
        assert set(np.unique(ranks)) <= set(range(10))
        np.testing.assert_allclose(tree["prior_sbc"]["factors"], (ranks + 0.5) / 10)


def test_arviz_plots_the_ranks() -> None:
    tree = rv.diagnostics.sbc(known_model(1), PANEL, num_datasets=20, num_samples=19)
    plotted = azp.plot_ecdf_pit(tree, var_names=["factors"], backend="none")
    assert "ecdf_lines" in plotted.viz.children
    assert plotted.viz["ecdf_lines"]["factors"].shape == (3, 1)


def test_uniformity_of_known_ranks() -> None:
    rng = np.random.default_rng(0)
    dims = {"dims": ("chain", "draw")}
    uniform = xr.DataArray(rng.integers(0, 100, (1, 4000)), **dims)
    found = rv.diagnostics.uniformity(uniform, 99)
    assert found["p_value"] > 0.001
    assert found["spread"].item() == pytest.approx(1.0, abs=0.06)
    assert abs(found["bias"].item()) < 4
    ends = xr.DataArray(np.repeat([0, 99], 50)[None], **dims)
    assert rv.diagnostics.uniformity(ends, 99)["spread"].item() == pytest.approx(
        49.5**2 / ((100**2 - 1) / 12)
    )
    low = rv.diagnostics.uniformity(xr.DataArray(np.zeros((1, 100), int), **dims), 99)
    assert low["bias"] < -15
    assert low["p_value"] < 1e-12
    # classes of unequal size: 7 values of rank in 7 classes
    even = rv.diagnostics.uniformity(xr.DataArray(np.tile(np.arange(7), 20)[None], **dims), 6)
    assert even["p_value"].item() == pytest.approx(1.0)


def test_seed_and_misuse() -> None:
    model = known_model(1)
    first = rv.diagnostics.sbc(model, PANEL, 3, 9, seed=1)
    assert first.identical(rv.diagnostics.sbc(Holder(model), PANEL, 3, 9, seed=1))
    assert not first.identical(rv.diagnostics.sbc(model, PANEL, 3, 9, seed=2))
    for bad in ({"num_datasets": 0}, {"num_samples": 0}):
        with pytest.raises(rv.ConfigError, match="at least 1"):
            rv.diagnostics.sbc(model, PANEL, **bad)
    with pytest.raises(rv.ConfigError, match="kl_weight"):
        rv.diagnostics.sbc(model, PANEL, kl_weight=0.0)


@pytest.mark.parametrize("recurrence", ["latent", "both", "observed"])
def test_weights_with_a_posterior_stay_at_its_mean(recurrence: str) -> None:
    """A model whose weights have a posterior is judged as the same model with fixed weights."""
    panel = random_panel(4, 6, seed=2)

    def build(inference: str) -> rv.RVRAE:
        weights = rv.weights.Normal(inference=inference)  # type: ignore[arg-type]
        prior = rv.priors.Recurrent(K, hidden=3, recurrence=recurrence)  # type: ignore[arg-type]
        loadings = rv.loadings.Linear(P, K, weights=weights)
        return rv.RVRAE(P, K, loadings=loadings, factor_prior=prior)

    fixed, random = stir(build("map"), size=0.2), build("posterior")
    state = random.parts.state_dict() | fixed.parts.state_dict()
    random.parts.load_state_dict(state)
    assert random.weight_sites
    ours, theirs = (rv.diagnostics.sbc(m, panel, 6, 9)["ranks"] for m in (fixed, random))
    xr.testing.assert_equal(ours.to_dataset(), theirs.to_dataset())
