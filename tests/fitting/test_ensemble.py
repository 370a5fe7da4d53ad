"""Members as chains: aligned factors, mixtures, and a variance that splits."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.predictive.weight_draws import chain_seed
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

CONFIG = rv.FitConfig(max_steps=15, window=4, learning_rate=0.02)
SEEDS = (3, 1, 7)


def each_alone(ensemble: rv.Ensemble, seed: int = 0) -> list[tuple[rv.Fit, int]]:
    """Members, and the seeds that give each of them the draws it has in the ensemble."""
    return [(member, chain_seed(seed, c)) for c, member in enumerate(ensemble.members)]


def make_model() -> rv.RVRAE:
    return rv.RVRAE(P, K, loadings=rv.loadings.MLP(P, K))


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(16, 14, seed=5)


@pytest.fixture(scope="module")
def train(panel: xr.Dataset) -> xr.Dataset:
    return panel.isel(time=slice(0, 12))


@pytest.fixture(scope="module")
def ensemble(train: xr.Dataset) -> rv.Ensemble:
    return rv.fit_ensemble(make_model, train, seeds=SEEDS, config=CONFIG, progress=False)


def test_members_are_ordinary_fits(ensemble: rv.Ensemble, train: xr.Dataset) -> None:
    assert [member.seed for member in ensemble.members] == list(SEEDS)
    alone = rv.fit(make_model(), train, config=CONFIG, seed=1, progress=False)
    theirs = ensemble.members[1].model.state_dict()
    assert all(bool((w == theirs[k]).all()) for k, w in alone.model.state_dict().items())


def test_alignment_leaves_what_returns_can_tell(ensemble: rv.Ensemble, panel: xr.Dataset) -> None:
    factors = ensemble.factors(panel, num_samples=60)
    loadings = ensemble.loadings(panel)
    assert factors["factors"].dims == ("chain", "draw", "time", "factor")
    assert loadings.dims == ("chain", "time", "asset", "factor")
    for c, (member, seed) in enumerate(each_alone(ensemble)):
        raw = member.factors(panel, num_samples=60, seed=seed)["factors"].isel(chain=0)
        expected = xr.dot(member.loadings(panel), raw, dim="factor")
        ours = xr.dot(loadings[c], factors["factors"][c], dim="factor")
        xr.testing.assert_allclose(ours.drop_vars("chain"), expected.drop_vars("chain"))
    np.testing.assert_allclose(ensemble.rotation[0], np.eye(K), atol=1e-10)


def test_rotation_knows_the_training_months_alone(
    ensemble: rv.Ensemble, panel: xr.Dataset, train: xr.Dataset
) -> None:
    means = [m.factors(train, num_samples=200)["mean"] for m in ensemble.members]
    found = rv.diagnostics.align(
        xr.concat(means, "chain").assign_coords(chain=range(3)), freedom="linear"
    )
    np.testing.assert_allclose(ensemble.rotation, found["rotation"])
    changed = panel.copy(deep=True)
    changed["returns"][14:] *= -3.0
    before, after = (ensemble.forecast(p, 30, times=p.time[13]) for p in (panel, changed))
    np.testing.assert_array_equal(before["predictions"]["returns"], after["predictions"]["returns"])


def test_evidence_is_that_of_the_mixture(ensemble: rv.Ensemble, panel: xr.Dataset) -> None:
    each = ensemble.log_evidence(panel, 80, by_member=True)
    own = np.stack([m.log_evidence(panel, 80, seed) for m, seed in each_alone(ensemble)])
    np.testing.assert_allclose(each, own)
    np.testing.assert_allclose(
        ensemble.log_evidence(panel, 80), np.log(np.exp(own).mean(0)), rtol=1e-10
    )


def test_variance_splits_and_adds_up(ensemble: rv.Ensemble, panel: xr.Dataset) -> None:
    tree = ensemble.forecast(panel, 200, times=panel.time[-3:])
    returns = tree["predictions"]["returns"]
    assert returns.dims == ("chain", "draw", "time", "asset")
    assert tree["predictions_constant_data"]["beta"].dims[0] == "chain"
    risk = rv.risk.summarize(tree, tail=0.05)
    parts = risk["factor_var"] + risk["idio_var"] + risk["parameter_var"]
    np.testing.assert_allclose(parts, risk["sd"] ** 2, rtol=1e-6)
    means = tree["predictions_constant_data"]["mean"]
    np.testing.assert_allclose(risk["parameter_var"], means.var("chain"), rtol=1e-6, atol=1e-15)
    each = [m.predict(panel, panel.time[-3:], 200, seed) for m, seed in each_alone(ensemble)]
    np.testing.assert_allclose(means, each, rtol=1e-9)
    assert "note" not in risk["parameter_var"].attrs
    # what each member calls factor risk does not depend on the coordinates of its factors
    alone = np.mean(
        [
            rv.risk.summarize(m.forecast(panel, 200, seed, panel.time[-3:]), 0.05)["factor_var"]
            for m, seed in each_alone(ensemble)
        ],
        axis=0,
    )
    np.testing.assert_allclose(risk["factor_var"], alone, rtol=1e-4)


def test_replicates_reconstruction_and_scales(ensemble: rv.Ensemble, panel: xr.Dataset) -> None:
    tree = ensemble.posterior_predictive(panel, 20)
    assert tree["posterior_predictive"]["returns"].sizes["chain"] == 3
    assert tree["observed_data"]["returns"].dims == ("obs",)
    assert tree["log_likelihood"]["returns"].dims == ("chain", "draw", "obs")
    fitted = ensemble.reconstruct(panel, 50)
    own = [m.reconstruct(panel, 50, seed) for m, seed in each_alone(ensemble)]
    np.testing.assert_allclose(fitted, np.mean(own, axis=0))
    assert ensemble.idio_scale(panel, 50).sizes["chain"] == 3


def test_loadings_of_every_draw_of_the_weights_are_aligned(train: xr.Dataset) -> None:
    def make() -> rv.RVRAE:
        weights = rv.weights.GroupLog(inference="posterior")
        return rv.RVRAE(P, K, loadings=rv.loadings.MLP(P, K, hidden=(3,), weights=weights))

    both = rv.fit_ensemble(
        make, train, seeds=(0, 1), config=rv.FitConfig(max_steps=2), progress=False
    )
    known = both.forecast(train, 20, times=train.time[-2:])["predictions_constant_data"]
    each = known["beta_by_weights"]
    assert set(each.dims) == {"chain", "weight_draw", "time", "asset", "factor"}
    mean = each.mean("weight_draw").transpose(*known["beta"].dims)
    np.testing.assert_allclose(mean, known["beta"], atol=1e-6)
    note = str(both.members[0].check())
    assert "some have a posterior" in note
    assert "fixed at one estimate" not in note


def test_an_ensemble_is_read_as_a_fit_is() -> None:
    shared = {
        name for name in dir(rv.Fit) if getattr(rv.Fit, name) is getattr(rv.Ensemble, name, 0)
    }
    assert {"filter", "factors", "forecast", "moments", "relevance", "factor_profile"} <= shared
    own = {n for n, v in vars(rv.Fit).items() if inspect.isfunction(v) and not n.startswith("_")}
    assert own == {"check", "save", "uninterrupted"}  # files, and what concerns one training


@pytest.mark.parametrize("name", ["psis", "psis_weights", "sbc"])
def test_what_judges_one_guide_asks_for_one_member(
    ensemble: rv.Ensemble, train: xr.Dataset, name: str
) -> None:
    judge = getattr(rv.diagnostics, name)
    with pytest.raises(
        rv.ConfigError, match=r"`fit` must be one fit; got Ensemble with 3 members.*members\[0\]"
    ):
        judge(ensemble, train)
    with pytest.raises(rv.ConfigError, match=r"`fit` must be a fit or an rv.RVRAE; got Dataset"):
        judge(train, train)


def test_attribution_is_of_aligned_factors(ensemble: rv.Ensemble, panel: xr.Dataset) -> None:
    last = panel.time[-2:]
    parts = ensemble.attribution(panel, 60, by_member=True, times=last)
    assert parts.dims == ("chain", "time", "asset", "factor")
    own = [m.attribution(panel, 60, seed, last).sum("factor") for m, seed in each_alone(ensemble)]
    np.testing.assert_allclose(parts.sum("factor"), own, rtol=1e-6, atol=1e-12)
    pooled = ensemble.attribution(panel, 60, times=last)
    assert pooled.dims == ("time", "asset", "factor")
    np.testing.assert_allclose(pooled, parts.mean("chain"))


def test_an_intercept_is_not_turned(train: xr.Dataset) -> None:
    def make() -> rv.RVRAE:
        likelihood = rv.likelihoods.Normal(alpha=rv.likelihoods.Alpha(P))
        return rv.RVRAE(P, K, loadings=rv.loadings.MLP(P, K), likelihood=likelihood)

    both = rv.fit_ensemble(
        make, train, seeds=(0, 1), config=rv.FitConfig(max_steps=3), progress=False
    )
    parts = both.attribution(train, 30, by_member=True)
    assert parts["factor"].values.tolist() == [0, 1, 2]
    for c, (member, seed) in enumerate(each_alone(both)):
        own = member.attribution(train, 30, seed)
        np.testing.assert_array_equal(parts[c].sel(factor=0), own.sel(factor=0))
        np.testing.assert_allclose(parts[c].sum("factor"), own.sum("factor"), atol=1e-12)


def test_slopes_relevance_and_names(ensemble: rv.Ensemble, panel: xr.Dataset) -> None:
    last = panel.time[-1:]
    slopes = ensemble.sensitivity(panel, 40, times=last)
    own = [m.sensitivity(panel, 40, seed, last) for m, seed in each_alone(ensemble)]
    np.testing.assert_allclose(slopes, np.mean(own, 0))
    assert ensemble.sensitivity(panel, 40, times=last, by_member=True).sizes["chain"] == 3
    found = ensemble.relevance(panel)["posterior"]
    assert found["relevance"].dims == ("chain", "draw", "characteristic")
    single = [m.relevance(panel)["posterior"]["share"][0] for m in ensemble.members]
    np.testing.assert_allclose(found["share"], single)
    assert "one draw per member" in found.attrs["note"]
    profile = ensemble.factor_profile(panel, num_samples=60)
    aligned = ensemble.factors(panel, num_samples=60)["mean"]
    named = rv.data.managed_portfolios(panel)
    xr.testing.assert_identical(profile, rv.evaluation.factor_profile(aligned, named))


def test_states_of_the_prior_stand_side_by_side(train: xr.Dataset) -> None:
    def make() -> rv.RVRAE:
        loadings = rv.loadings.Linear(P, K)
        return rv.RVRAE(P, K, loadings=loadings, factor_prior=rv.priors.RegimeSwitching(K))

    both = rv.fit_ensemble(
        make, train, seeds=(0, 1), config=rv.FitConfig(max_steps=2), progress=False
    )
    found = both.prior_state(train, 30)["regime_probability"]
    assert found.dims == ("chain", "time", "regime")
    own = [m.prior_state(train, 30, seed)["regime_probability"] for m, seed in each_alone(both)]
    np.testing.assert_array_equal(found, own)


def _variance_of_draws(tree: xr.DataTree) -> np.ndarray:
    """Covariance over all draws of the factors' part of the returns, of the first month."""
    factors = tree["predictions"]["factors"].isel(time=0)
    known = tree["predictions_constant_data"].to_dataset().isel(time=0)
    beta = known.get("beta_by_weights", known["beta"])
    if "weight_draw" in beta.dims:
        beta = beta.sel(weight_draw=tree["predictions"]["weight_draw"])
    drawn = xr.dot(beta, factors, dim="factor").transpose("chain", "draw", "asset").values
    drawn = drawn.reshape(-1, drawn.shape[-1])
    return np.cov(drawn[:, ~np.isnan(drawn).any(0)].T, ddof=0)


def test_covariance_is_that_of_the_mixture(ensemble: rv.Ensemble, panel: xr.Dataset) -> None:
    month = panel.time[-1:]
    tree = ensemble.forecast(panel, 300, times=month)
    found = rv.risk.covariance(ensemble, panel, times=month, num_samples=300)
    assert found.beta.sizes["factor"] == 3 * (K + 1)
    assert found.beta["factor"].values[K] == "member 1 mean"
    listed = found.listed.values[0]
    noise = np.mean([scale.sel(time=month) ** 2 for scale in ensemble.idio_scale(panel, 300)], 0)
    dense = found.to_dense().values[0][np.ix_(listed, listed)]
    # the same draws of the factors, but for the means, which have no Monte-Carlo error here
    expected = _variance_of_draws(tree) + np.diag(noise[0, listed])
    sd = np.sqrt(np.diag(expected))
    assert np.abs((dense - expected) / np.outer(sd, sd)).max() < 0.01
    parts = rv.risk.summarize(tree, 0.05).isel(time=0)
    # 900 Student-t draws a cell, and 16 cells: the mean ratio of variances is near 1
    ratio = (parts["sd"] ** 2 / found.variance()[0]).mean().item()
    assert ratio == pytest.approx(1.0, abs=0.15)
    # between members: more than the mean of their own covariances
    own = [
        rv.risk.covariance(m, panel, times=month, num_samples=300, seed=seed)
        for m, seed in each_alone(ensemble)
    ]
    assert own[0].beta.sizes["factor"] == K
    between = found.variance() - np.mean([c.variance() for c in own], 0)
    mean = ensemble.moments(panel, 300, times=month)["mean"]
    np.testing.assert_allclose(between, mean.var("chain"), rtol=1e-6, atol=1e-12)


def test_covariance_holds_what_is_unknown_about_weights(train: xr.Dataset) -> None:
    weights = rv.weights.Normal(inference="posterior")
    model = rv.RVRAE(P, K, loadings=rv.loadings.Linear(P, K, weights=weights))
    fit = rv.fit(model, train, config=rv.FitConfig(max_steps=5), progress=False)
    month = train.time[-1:]
    tree = fit.forecast(train, 400, times=month)
    found = rv.risk.covariance(fit, train, times=month, num_samples=400)
    listed = found.listed.values[0]
    dense = found.to_dense().values[0][np.ix_(listed, listed)]
    known = tree["predictions_constant_data"].to_dataset().isel(time=0)
    noise = known["idio_scale"].values[listed] ** 2
    # law of total variance: within draws of the weights, and of their means
    between = np.cov(known["mean_by_weights"].values[:, listed].T, ddof=0)
    factors = tree["predictions"]["factors"].isel(time=0, chain=0)
    moments = fit.moments(train, 400, times=month).isel(time=0)
    within = drawn = 0.0
    for beta, exact, (_, draws) in zip(
        known["beta_by_weights"].values[:, listed],
        moments["factor_cov"].values,
        factors.groupby("weight_draw"),
        strict=True,
    ):
        within = within + beta @ exact @ beta.T / 20
        drawn = drawn + beta @ np.cov(draws.values.T) @ beta.T / 20
    # 400 draws: the sum of variances to three standard errors; the seed is fixed
    assert np.trace(drawn) == pytest.approx(np.trace(within), rel=0.25)
    np.testing.assert_allclose(dense, within + between + np.diag(noise), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(fit.moments(train, 400)["share"].sum(), 1.0)


def test_save_and_load(ensemble: rv.Ensemble, panel: xr.Dataset, tmp_path) -> None:
    path = ensemble.save(tmp_path / "members")
    again = rv.Ensemble.load(path)
    first, second = (e.forecast(panel, 20, times=panel.time[-1]) for e in (ensemble, again))
    xr.testing.assert_identical(first, second)
    ensemble.save(path)  # replaces
    rv.Ensemble.load(path, make_model)
    xr.testing.assert_identical(first, rv.load(path).forecast(panel, 20, times=panel.time[-1]))
    mine = rv.load(path, make_model())
    assert isinstance(mine, rv.Ensemble)
    assert len({id(member.model) for member in mine.members}) == 3
    xr.testing.assert_identical(first, mine.forecast(panel, 20, times=panel.time[-1]))
    assert [p.name for p in tmp_path.iterdir()] == ["members"]
    ensemble.members[0].save(tmp_path / "single")
    with pytest.raises(rv.CheckpointError, match="not an ensemble"):
        ensemble.save(tmp_path / "single")
    with pytest.raises(rv.CheckpointError, match=r"rv\.load"):
        rv.Ensemble.load(tmp_path / "single")
    (path / "ensemble.json").write_text('{"package": "rvrae_pyro", "n_members": 3, "format": 9}')
    with pytest.raises(rv.CheckpointError, match="layout 9"):
        rv.Ensemble.load(path)


def test_streaming_to_a_file(ensemble: rv.Ensemble, panel: xr.Dataset, tmp_path) -> None:
    tree = ensemble.forecast(panel, 20, times=panel.time[-1], out=tmp_path / "draws.zarr")
    kept = xr.open_datatree(tmp_path / "draws.zarr", engine="zarr", consolidated=False)
    np.testing.assert_array_equal(kept["predictions"]["returns"], tree["predictions"]["returns"])
    kept.close()


def test_check_names_the_worst_member_and_the_rotation(
    ensemble: rv.Ensemble, train: xr.Dataset
) -> None:
    page = ensemble.check(train, num_particles=60)
    questions = [finding.question for finding in page.findings]
    assert questions[-2:] == [
        "Do members have the same factors?",
        "Do members say the same of returns?",
    ]
    assert len(questions) == len(set(questions))
    assert "lower bound" in str(page)


def test_misuse_is_refused(ensemble: rv.Ensemble, train: xr.Dataset) -> None:
    settings = {"config": CONFIG, "progress": False}
    model = make_model()
    with pytest.raises(rv.ConfigError, match="new model at every call"):
        rv.fit_ensemble(lambda: model, train, seeds=[0, 1], **settings)
    part = rv.loadings.MLP(P, K)
    with pytest.raises(rv.ConfigError, match="weights of one before"):
        rv.fit_ensemble(lambda: rv.RVRAE(P, K, loadings=part), train, seeds=[0, 1], **settings)
    for count in (0, 1.5, True):
        with pytest.raises(rv.ConfigError, match="`n_jobs` must be a whole number"):
            rv.fit_ensemble(make_model, train, seeds=[0], n_jobs=count, **settings)
    with pytest.raises(rv.ConfigError, match=r"rv\.RVRAE; got int"):
        rv.fit_ensemble(lambda: 3, train, seeds=[0], **settings)
    for seeds in ([], [1, 1], 0, [-1], "12"):
        with pytest.raises(rv.ConfigError, match="`seeds` must be"):
            rv.fit_ensemble(make_model, train, seeds=seeds, **settings)
    with pytest.raises(rv.ConfigError, match="at least one fit"):
        rv.Ensemble.of([], train)
    other = rv.fit(rv.RVRAE(P, 3), train, config=rv.FitConfig(max_steps=1), progress=False)
    with pytest.raises(rv.ConfigError, match=r"number of factors; got \[2, 3\]"):
        rv.Ensemble.of([ensemble.members[0], other], train)


def test_a_member_that_fails_is_told_as_it_is(train: xr.Dataset) -> None:
    """Fits of four characteristics by a model of three, elsewhere."""
    with ThreadPoolExecutor(2) as executor, pytest.raises(rv.ShapeError, match="characteristics"):
        rv.fit_ensemble(
            lambda: rv.RVRAE(P + 1, K), train, seeds=SEEDS, progress=False, executor=executor
        )


def test_members_have_streams_of_their_own(ensemble: rv.Ensemble, panel: xr.Dataset) -> None:
    """Correlations of 2,000 draws are below 5 standard errors: 1 seed in 14,000 fails."""
    last = panel.time[-3:]
    returns = ensemble.forecast(panel, 2000, times=last)["predictions"]["returns"]
    values = returns.transpose("chain", "time", "asset", "draw").to_numpy()
    known = values[:, ~np.isnan(values).any((0, 3))]
    ranks = known.argsort(-1).argsort(-1).astype(float)
    centred = ranks - ranks.mean(-1, keepdims=True)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        size = np.sqrt((centred[a] ** 2).sum(-1) * (centred[b] ** 2).sum(-1))
        assert np.abs((centred[a] * centred[b]).sum(-1) / size).max() < 5 / np.sqrt(2000)
    alone = ensemble.members[0].forecast(panel, 2000, times=last)["predictions"]["returns"]
    np.testing.assert_array_equal(returns[0], alone[0])
