"""Draws of interpretable parameters, from fits to forecasts and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv

SITES = {
    "factor_prior.persistence": (),
    "factor_prior.base.coefficient": ("factor",),
    "likelihood.excess_df": (),
    "likelihood.alpha.coefficient": ("characteristic",),
}


def build() -> rv.RVRAE:
    return rv.RVRAE(
        2,
        2,
        loadings=rv.loadings.Linear(2, 2),
        factor_prior=rv.priors.CommonVolatility(
            rv.priors.AR1(2, coefficient=dist.Uniform(-1.0, 1.0)), persistence=dist.Beta(20.0, 2.0)
        ),
        likelihood=rv.likelihoods.StudentT(
            alpha=rv.likelihoods.Alpha(2, coefficient=dist.Normal(0.0, 0.1)),
            excess_df=dist.Gamma(2.0, 0.1),
        ),
    )


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return rv.data.simulate_linear_gaussian(6, 20, 2, seed=4)


@pytest.fixture(scope="module")
def fit(panel: xr.Dataset) -> rv.Fit:
    return rv.fit(build(), panel, config=rv.FitConfig(max_steps=10), progress=False)


def test_tree_has_prior_and_posterior_of_all_sites(fit: rv.Fit) -> None:
    tree = fit.posterior(50, seed=1)
    assert {"posterior", "prior", "log_prior", "log_likelihood"} == set(tree.children)
    for group in ("posterior", "prior"):
        assert set(tree[group].data_vars) == set(SITES)
        for name, dims in SITES.items():
            assert tree[group][name].dims == ("chain", "draw", *dims)
            assert tree[group].sizes["draw"] == 50
    assert list(tree["posterior"]["characteristic"].values) == ["c0", "c1"]
    again = fit.posterior(50, seed=1)
    xr.testing.assert_identical(tree["posterior"].ds, again["posterior"].ds)
    assert not fit.posterior(50, seed=2)["posterior"].ds.equals(tree["posterior"].ds)


def test_the_stored_tree_has_this_form(fit: rv.Fit) -> None:
    """That of tests/plots, which ArviZ reads without torch."""
    with xr.open_datatree(Path(__file__).parents[1] / "plots" / "posterior.nc") as stored:
        now = fit.posterior(60, seed=1)
        assert set(stored.children) == set(now.children)
        for group in stored.children:
            assert set(stored[group].variables) == set(now[group].variables)
            assert stored[group].sizes == now[group].sizes


def test_draws_have_the_mean_of_hyperparameters(fit: rv.Fit) -> None:
    drawn = fit.posterior(4000)["posterior"]
    for name, mean in fit.model.hyperparameters().items():
        if name in SITES:
            error = drawn[name].std(("chain", "draw")) / np.sqrt(4000)
            off = abs(drawn[name].mean(("chain", "draw")) - mean.numpy())
            assert bool((off < 5 * error + 1e-4).all()), name


def test_arviz_takes_the_tree(fit: rv.Fit) -> None:
    stats = pytest.importorskip("arviz_stats")
    plots = pytest.importorskip("arviz_plots")
    import matplotlib.pyplot as plt

    tree = fit.posterior(200)
    summary = stats.summary(tree, round_to="none")
    assert "factor_prior.base.coefficient[1]" in summary.index
    with np.errstate(all="ignore"):
        sensitivity = stats.psense_summary(tree)
    assert len(sensitivity) == len(summary) == 6
    for draw in (plots.plot_prior_posterior, plots.plot_forest, plots.plot_rank):
        assert draw(tree, backend="matplotlib") is not None
        plt.close("all")


def test_saved_fit_draws_the_same(fit: rv.Fit, tmp_path: Path) -> None:
    loaded = rv.load(fit.save(tmp_path / "run"))
    xr.testing.assert_identical(
        loaded.posterior(20)["posterior"].ds, fit.posterior(20)["posterior"].ds
    )
    assert str(loaded.model) == str(fit.model)


def test_run_saved_before_there_were_priors_loads(panel: xr.Dataset, tmp_path: Path) -> None:
    """Its parts are described without the arguments that take priors."""
    model = rv.RVRAE(2, 2, factor_prior=rv.priors.AR1(2), likelihood=rv.likelihoods.StudentT())
    fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=2), progress=False)
    folder = fit.save(tmp_path / "run")
    meta = json.loads((folder / "fit.json").read_text())
    for part, names in (
        ("factor_prior", ("coefficient", "scale", "mean")),
        ("likelihood", ("excess_df",)),
    ):
        for name in names:
            del meta["model"][part][name]
    del meta["model"]["likelihood"]["scale"]["scale"]
    (folder / "fit.json").write_text(json.dumps(meta))
    loaded = rv.load(folder)
    for name, value in fit.model.hyperparameters().items():
        torch.testing.assert_close(loaded.model.hyperparameters()[name], value)


def test_distribution_of_ones_own_is_fitted_and_loads_with_the_model(
    panel: xr.Dataset, tmp_path: Path
) -> None:
    def make() -> rv.RVRAE:
        own = dist.TransformedDistribution(
            dist.Normal(0.0, 0.5), [torch.distributions.transforms.ExpTransform()]
        )
        return rv.RVRAE(2, 2, factor_prior=rv.priors.AR1(2, scale=own))

    fit = rv.fit(make(), panel, config=rv.FitConfig(max_steps=2), progress=False)
    folder = fit.save(tmp_path / "run")
    with pytest.raises(rv.CheckpointError, match="Build that model and pass it as `model=`"):
        rv.load(folder)
    loaded = rv.load(folder, make())
    xr.testing.assert_identical(
        loaded.posterior(5)["posterior"].ds, fit.posterior(5)["posterior"].ds
    )


def test_ensemble_has_a_chain_per_member(panel: xr.Dataset) -> None:
    config = rv.FitConfig(max_steps=4)
    ensemble = rv.fit_ensemble(build, panel, seeds=2, config=config, progress=False)
    tree = ensemble.posterior(30)
    assert tree["posterior"].sizes["chain"] == tree["log_prior"].sizes["chain"] == 2


def test_forecasts_evidence_and_risk_carry_the_draws(fit: rv.Fit, panel: xr.Dataset) -> None:
    filtered = fit.filter(panel, 40, seed=1)
    assert len(filtered.chains[0]) == 20  # one filter per draw of the parameters
    values = [
        float(d.model.parts.factor_prior.value("persistence").detach()) for d in filtered.chains[0]
    ]
    assert len(set(values)) == 20
    tree = filtered.forecast(panel.time[-1])
    assert "weight_draw" in tree["predictions"].coords
    summary = rv.risk.summarize(tree, tail=0.25)
    assert float(summary["parameter_var"].min()) >= 0.0
    assert float(summary["parameter_var"].max()) > 0.0
    rows = fit.log_evidence(panel, 30, by_weights=3)
    assert rows.sizes == {"weight_draw": 3, "time": 20}
    assert not np.allclose(rows[0], rows[1])
    paths = fit.forecast(panel, 40, times=panel.time[-1], horizon=2)
    assert paths["predictions"]["returns"].sizes["step"] == 2


def test_prior_predictive_draws_them(panel: xr.Dataset) -> None:
    model = build()
    tree = rv.prior_predictive(model, panel, 200, seed=3)
    for name, dims in SITES.items():
        drawn = tree["prior"][name]
        assert drawn.dims == ("chain", "draw", *dims)
        assert drawn.sizes["draw"] == 200
    persistence = tree["prior"]["factor_prior.persistence"]
    # 5 standard errors of 200 draws of Beta(20, 2)
    assert float(persistence.mean()) == pytest.approx(20 / 22, abs=5 * 0.06 / 200**0.5)


@pytest.mark.parametrize("recurrence", ["observed", "both"])
def test_priors_that_condition_on_history_draw_them(panel: xr.Dataset, recurrence: str) -> None:
    model = rv.RVRAE(
        2,
        2,
        loadings=rv.loadings.Linear(2, 2),
        factor_prior=rv.priors.Recurrent(
            2, recurrence=recurrence, price_of_risk=dist.Normal(0.0, 5.0)
        ),
        likelihood=rv.likelihoods.StudentT(excess_df=dist.Gamma(2.0, 0.1)),
    )
    tree = rv.prior_predictive(model, panel, 300, seed=3)
    price = tree["prior"]["factor_prior.price_of_risk"]
    factors = tree["prior"]["factors"].isel(time=0)
    # the first month's factor is its price of risk plus unit noise
    slope = float(xr.cov(price, factors, ("chain", "draw")).mean() / price.var().mean())
    assert slope == pytest.approx(1.0, abs=0.1)


def test_leave_future_out_carries_the_draws(fit: rv.Fit, panel: xr.Dataset) -> None:
    found = rv.evaluation.leave_future_out(
        lambda past: fit,
        panel,
        start=18,
        score=lambda fitted, months: fitted.log_evidence(months, 20, by_weights=25),
    )
    assert np.isfinite(found["log_score"]).all()


def test_numbers_have_no_posterior(panel: xr.Dataset) -> None:
    model = rv.RVRAE(2, 2, factor_prior=rv.priors.AR1(2))
    fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=2), progress=False)
    with pytest.raises(rv.ConfigError, match="needs an interpretable parameter with a prior"):
        fit.posterior()


def test_streamed_panels_say_what_they_cannot_draw(panel: xr.Dataset) -> None:
    config = rv.FitConfig(max_steps=2, shard_size=3)
    with pytest.raises(rv.ConfigError, match=r"`model` draws 'factor_prior\.base"):
        rv.fit(build(), panel, config=config, progress=False)


def test_precision_follows_the_model() -> None:
    model = build().double()
    batch = rv.data.to_batch(rv.data.simulate_linear_gaussian(4, 6, 2), dtype=torch.float64)
    trace = pyro.poutine.trace(model.model).get_trace(batch)
    assert trace.nodes["factor_prior.persistence"]["value"].dtype == torch.float64
