"""Simple risk models: exact densities, gaps, entry and exit, no look-ahead, wide panels."""

import math
import sys

import numpy as np
import pytest
import xarray as xr
from arch import arch_model
from scipy import stats

import rvrae_pyro as rv
from rvrae_pyro.baselines import EWMA, EWMAMixture, FactorGARCH, MultivariateT
from rvrae_pyro.baselines.joint_t import JointT, MixtureOfT
from rvrae_pyro.baselines.shrunk_moments import History, MomentOptions, estimate_moments
from rvrae_pyro.data import listed
from rvrae_pyro.data.simulators import simulate_dynamic
from rvrae_pyro.errors import CheckpointError, ConfigError, FitError, ShapeError

MODELS = {
    "EWMA": lambda: EWMA(burn_in=20, scale_refit=4),
    "MultivariateT": lambda: MultivariateT(window=50),
    "EWMAMixture": lambda: EWMAMixture(
        (0.97, 0.99), (0.8, 1.0), (6.0, math.inf), (0.05, 0.2), burn_in=20, scale_refit=4
    ),
    "FactorGARCH": lambda: FactorGARCH(2, min_history=12),
}
T, N, TRAIN = 100, 9, 72


def market(seed=0, n_times=T, n_assets=N):
    """Late entry, early exit, missing returns, and a month without any."""
    panel = simulate_dynamic(n_assets, n_times, 3, 2, turnover=0.4, missing=0.1, seed=seed)
    panel = panel[["returns", "characteristics"]]
    panel["returns"][n_times - 10] = np.nan
    return panel


def complete(n_assets, n_times, seed):
    """Every return of every asset."""
    panel = simulate_dynamic(n_assets, n_times, 2, 1, turnover=0.0, missing=0.0, seed=seed)
    return panel[["returns", "characteristics"]]


def newcomer(panel):
    """An asset that is listed after training, in which it is left out."""
    return str(panel.asset[listed(panel)[TRAIN].to_numpy()][-1].item())


@pytest.fixture(scope="module")
def panel():
    return market()


@pytest.fixture(scope="module")
def fitted(panel):
    train = panel.isel(time=slice(TRAIN)).drop_sel(asset=[newcomer(panel)])
    return {name: make().fit(train) for name, make in MODELS.items()}


def t_density(x, mean, covariance, df):
    """Scipy's density of a Student-t, given its covariance."""
    if math.isinf(df):
        return stats.multivariate_normal(mean, covariance).logpdf(x)
    return stats.multivariate_t(mean, covariance * (df - 2) / df, df).logpdf(x)


@pytest.mark.parametrize("name", ["EWMA", "MultivariateT", "FactorGARCH"])
def test_densities_are_scipys_with_missing_cells_marginalised(name, panel, fitted):
    model = fitted[name]
    dense = rv.risk.covariance(model, panel).to_dense()
    mean, evidence = model.predict(panel), model.log_evidence(panel)
    df = model.df if name != "FactorGARCH" else float(model._numbers["df"][0])
    seen = (panel.returns.notnull() & listed(panel)).to_numpy()
    assert 0 < seen.sum() < seen.size
    for t in range(T):
        x, s = panel.returns[t].to_numpy()[seen[t]], dense[t].to_numpy()[np.ix_(seen[t], seen[t])]
        expected = t_density(x, mean[t].to_numpy()[seen[t]], s, df) if seen[t].any() else 0.0
        np.testing.assert_allclose(evidence[t], expected, rtol=1e-9, atol=1e-9)


def test_a_mixture_is_the_weighted_sum_of_its_densities_and_its_moments_are_total(panel, fitted):
    model = fitted["EWMAMixture"]
    batch = model._batch(panel)
    laws = model._laws(batch)
    assert len(laws.laws) == len(model.members) == 16
    returns, seen = batch.returns.numpy(), batch.observed.numpy()
    evidence = model.log_evidence(panel)
    dense = rv.risk.covariance(model, panel).to_dense()
    on = batch.listed.numpy()
    for t in (0, 15, 60, TRAIN - 1, TRAIN, T - 3, T - 1):
        weight = np.exp(laws.log_weight[:, t])
        np.testing.assert_allclose(weight.sum(), 1.0)
        each = [
            t_density(returns[t, seen[t]], law.mean[seen[t]], law.covariance(t, seen[t]), law.df)
            for law in laws.laws
        ]
        np.testing.assert_allclose(evidence[t], np.log(weight @ np.exp(each)), rtol=1e-9)
        means = np.stack([law.mean[on[t]] for law in laws.laws])
        mean = weight @ means
        second = sum(
            w * (law.covariance(t, on[t]) + np.outer(m - mean, m - mean))
            for w, law, m in zip(weight, laws.laws, means, strict=True)
        )
        np.testing.assert_allclose(dense[t].to_numpy()[np.ix_(on[t], on[t])], second, rtol=1e-9)
        np.testing.assert_allclose(model.predict(panel)[t].to_numpy()[on[t]], mean)
    assert np.ptp(laws.log_weight[:, -1]) > 0.1  # scores move the weights


def test_weights_of_a_mixture_forget_by_the_stated_rule(panel, fitted):
    model = fitted["EWMAMixture"]
    batch = model._batch(panel)
    laws = model._laws(batch)
    returns, seen = batch.returns.numpy(), batch.observed.numpy()
    t = T - 5
    density = np.array([law.log_density(returns, seen)[t] for law in laws.laws])
    updated = 0.9 * (laws.log_weight[:, t] + density)
    expected = updated - np.log(np.exp(updated - updated.max()).sum()) - updated.max()
    np.testing.assert_allclose(laws.log_weight[:, t + 1], expected, atol=1e-9)
    empty = T - 10
    np.testing.assert_array_equal(laws.log_weight[:, empty + 1], laws.log_weight[:, empty])


@pytest.mark.parametrize("name", MODELS)
def test_nothing_depends_on_the_month_or_later(name, panel, fitted):
    model = fitted[name]
    t = TRAIN + 9
    later = panel.copy(deep=True)
    later["returns"][t:] = np.random.default_rng(1).normal(0, 0.3, (T - t, N))
    later["characteristics"][t + 1 :] = np.nan
    for answer in (
        model.predict,
        lambda p: model.moments(p).sd,
        lambda p: model.forecast(p, 3)["predictions"]["returns"].transpose("time", ...),
    ):
        before, after = answer(panel), answer(later)
        np.testing.assert_array_equal(before[: t + 1], after[: t + 1])
        np.testing.assert_array_equal(before[: t + 1], answer(panel.isel(time=slice(t + 1))))
    evidence = model.log_evidence(panel), model.log_evidence(later)
    np.testing.assert_array_equal(evidence[0][:t], evidence[1][:t])
    assert float(evidence[0][t]) != float(evidence[1][t])
    fresh, same = (MODELS[name]().fit(p.isel(time=slice(t))) for p in (panel, later))
    np.testing.assert_array_equal(fresh.moments(panel).sd, same.moments(panel).sd)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"MultivariateT"}))
def test_high_volatility_raises_the_next_forecast(name, panel, fitted):
    shaken = panel.copy(deep=True)
    shaken["returns"][TRAIN + 3] *= 5.0
    calm, after = (fitted[name].moments(p).sd[TRAIN + 4] for p in (panel, shaken))
    assert float((after / calm).min()) > 1.0


@pytest.mark.parametrize("name", MODELS)
def test_months_after_training_need_no_training_months(name, panel, fitted):
    model, test = fitted[name], panel.isel(time=slice(TRAIN, None))
    whole = model.log_evidence(panel)[TRAIN:]
    np.testing.assert_allclose(model.log_evidence(test), whole, rtol=1e-12)
    np.testing.assert_allclose(model.moments(test).sd, model.moments(panel).sd[TRAIN:])
    # without the months between, the state at the end of training is the last one known
    jump = panel.isel(time=slice(TRAIN + 5, None))
    after_training = {
        name: model.moments(p).sd[0].where(listed(jump)[0] & listed(test)[0].to_numpy())
        for name, p in (("jump", jump), ("test", test))
    }
    np.testing.assert_allclose(after_training["jump"], after_training["test"])


@pytest.mark.parametrize("name", MODELS)
def test_order_of_assets_does_not_matter(name, panel, fitted):
    mixed = panel.isel(asset=np.random.default_rng(2).permutation(N))
    again = MODELS[name]().fit(mixed.isel(time=slice(TRAIN)))
    first = MODELS[name]().fit(panel.isel(time=slice(TRAIN)))
    xr.testing.assert_allclose(
        again.moments(mixed).sd.reindex_like(panel), first.moments(panel).sd, rtol=1e-7
    )
    np.testing.assert_allclose(again.log_evidence(mixed), first.log_evidence(panel), rtol=1e-7)
    drawn = [first.forecast(p, 4, times=p.time[-1]) for p in (panel, mixed)]
    one, other = (tree["predictions"]["returns"] for tree in drawn)
    np.testing.assert_allclose(other.sel(asset=one.asset), one, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_new_asset_has_the_average_of_its_peers(name, panel, fitted):
    model, new = fitted[name], newcomer(panel)
    assert new not in model._assets
    sd = model.moments(panel).sd.isel(time=TRAIN)
    dense = rv.risk.covariance(model, panel, panel.time[[TRAIN]]).to_dense()[0]
    peers = [a for a in model._assets if np.isfinite(sd.sel(asset=a))]
    assert sd.sel(asset=peers).min() < sd.sel(asset=new) < sd.sel(asset=peers).max()
    mean = model.predict(panel).isel(time=TRAIN)
    assert mean.sel(asset=peers).min() < mean.sel(asset=new) < mean.sel(asset=peers).max()
    correlation = dense / (sd * sd.rename(asset="other_asset"))
    own = correlation.sel(asset=new, other_asset=peers).mean()
    among = correlation.sel(asset=peers, other_asset=peers).to_numpy()
    average = (among.sum() - len(peers)) / (len(peers) * (len(peers) - 1))
    assert abs(float(own) - average) < 0.15


@pytest.mark.parametrize("name", MODELS)
def test_draws_have_the_stated_moments(name, panel, fitted):
    """Each of 4 models: means within 5 and sds within 12 %, failing once in a million runs."""
    model, month = fitted[name], panel.time[[TRAIN + 6]]
    drawn = model.forecast(panel, 20_000, seed=5, times=month)["predictions"]["returns"][0, :, 0]
    stated = model.moments(panel, times=month).isel(time=0)
    on = stated.sd.notnull()
    np.testing.assert_array_equal(drawn.notnull().all("draw"), on)
    error = (drawn.mean("draw") - model.predict(panel, month)[0]) / (stated.sd / 20_000**0.5)
    assert float(abs(error).max()) < 5.0
    assert float(abs(drawn.std("draw") / stated.sd - 1.0).max()) < 0.12
    dense = rv.risk.covariance(model, panel, month).to_dense()[0]
    seen = drawn.sel(asset=on).to_numpy().astype(float)
    expected = dense.sel(asset=on, other_asset=on.rename(asset="other_asset")).to_numpy()
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (abs(np.cov(seen.T) - expected) / size).max() < 0.15


@pytest.mark.parametrize("name", MODELS)
def test_probability_transforms_are_the_shares_of_draws_below(name, panel, fitted):
    """Each of 4 models: off by 0.02 of 20,000 draws, more than five standard errors."""
    model, month = fitted[name], panel.time[[TRAIN + 6]]
    drawn = model.forecast(panel, 20_000, seed=6, times=month)["predictions"]["returns"]
    exact = model.pit(panel, month)
    np.testing.assert_array_equal(exact.notnull(), panel.returns.sel(time=month).notnull())
    below = (drawn < panel.returns.sel(time=month)).mean(("chain", "draw"))
    assert float(abs(below - exact).max()) < 0.02
    held = panel.returns.sel(time=month).notnull()
    weights = held / held.sum("asset")
    book = model.portfolio(panel, weights)
    earned = (drawn.fillna(0.0) * weights).sum("asset")
    realised = (panel.returns.sel(time=month).fillna(0.0) * weights).sum("asset")
    np.testing.assert_allclose(book["return"], realised)
    assert abs(float((earned < realised).mean()) - book["pit"].item()) < 0.02
    dense = rv.risk.covariance(model, panel, month).to_dense()[0].fillna(0.0).to_numpy()
    w = weights[0].to_numpy()
    np.testing.assert_allclose(book["sd"] ** 2, [w @ dense @ w], rtol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_more_assets_than_months(name):
    """A known factor market: the covariance stays close to the truth where the sample's is not."""
    rng = np.random.default_rng(3)
    n, t = 150, 50
    beta, idio = rng.normal(1.0, 0.3, (n, 1)), 0.05
    values = 0.04 * rng.normal(size=(t + 40, 1)) @ beta.T + idio * rng.normal(size=(t + 40, n))
    panel = complete(n, t + 40, seed=0)
    panel = panel.assign(returns=panel.returns.copy(data=values))
    model = MODELS[name]().fit(panel.isel(time=slice(t)))
    test = panel.isel(time=slice(t, None))
    truth = 0.04**2 * beta @ beta.T + idio**2 * np.eye(n)
    oracle = stats.multivariate_normal(np.zeros(n), truth).logpdf(values[t:]) / n
    gap = float(oracle.mean() - model.log_evidence(test).mean() / n)
    assert 0.0 < gap < 0.12


def test_without_gaps_the_estimate_is_the_weighted_sample_shrunk():
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 6))
    weights = 0.98 ** np.arange(80)[::-1]
    found = estimate_moments(returns, np.ones((80, 6), bool), weights, MomentOptions(0.2))
    w = weights / weights.sum()
    mean = w @ returns
    sample = ((returns - mean) * w[:, None]).T @ (returns - mean)
    sd = np.sqrt(np.diag(sample))
    rho = max(0.0, ((sample / np.outer(sd, sd)).sum() - 6) / 30)
    target = np.outer(sd, sd) * (rho + (1 - rho) * np.eye(6))
    got = found.beta[:-1] @ found.beta[:-1].T + np.diag(found.idio_var[:-1])
    np.testing.assert_allclose(got, 0.8 * sample + 0.2 * target, rtol=1e-10)
    np.testing.assert_allclose(found.mean[:-1], mean, rtol=1e-12)
    ignored = returns.copy()
    ignored[:5] = 9.0
    weights[:5] = 0.0
    seen = np.ones((80, 6), bool)
    np.testing.assert_array_equal(
        estimate_moments(ignored, seen, weights, MomentOptions()).beta,
        estimate_moments(returns, seen, weights, MomentOptions()).beta,
    )


def test_gaps_are_filled_to_the_right_correlation():
    """Constant correlation 0.6 and two returns of five missing: found within 0.06."""
    rng = np.random.default_rng(1)
    n = 20
    returns = math.sqrt(0.6) * rng.normal(size=(3000, 1)) + math.sqrt(0.4) * rng.normal(
        size=(3000, n)
    )
    observed = rng.uniform(size=returns.shape) > 0.4
    found = estimate_moments(
        np.where(observed, returns, 0.0), observed, np.ones(3000), MomentOptions(0.05)
    )
    dense = found.beta @ found.beta.T + np.diag(found.idio_var)
    sd = np.sqrt(np.diag(dense))
    correlation = dense / np.outer(sd, sd)
    off = correlation[~np.eye(n + 1, dtype=bool)]
    assert abs(off - 0.6).max() < 0.06
    np.testing.assert_allclose(sd, 1.0, atol=0.06)
    assert np.linalg.eigvalsh(dense).min() > 0.1


def test_the_scale_follows_the_stated_rule():
    panel = complete(6, 90, seed=4)
    model = EWMA(0.98, 0.7, 8.0, cap=1.5, burn_in=30, scale_refit=10).fit(
        panel.isel(time=slice(60))
    )
    dense = rv.risk.covariance(model, panel).to_dense().to_numpy()
    mean = model.predict(panel).to_numpy()
    scale = np.trace(dense, axis1=1, axis2=2) / np.trace(dense[60])
    unit, error = dense[60], panel.returns.to_numpy() - mean
    h = 1.0
    for t in range(60, 90):
        np.testing.assert_allclose(scale[t], h, rtol=1e-9)
        start = model._numbers["scale"][-1]
        q = error[t] @ np.linalg.solve(unit, error[t]) / 6 * start
        h = (0.7 * h * start + 0.3 * min(q, 1.5)) / start
    np.testing.assert_array_equal(model._numbers["scale"][:31], 1.0)
    assert History(30, 10).refits(60) == [30, 40, 50]
    assert History(25, 12).refits(60) == [25, 36, 48]
    assert History(60, 12).refits(60) == []


@pytest.mark.parametrize("name", ["EWMA", "EWMAMixture"])
def test_draws_go_through_the_tools_of_risk(name, panel, fitted, tmp_path):
    model, months = fitted[name], panel.time[TRAIN + 10 : TRAIN + 22]
    tree = model.forecast(panel, 1000, times=months, out=tmp_path / "draws.zarr")
    here = model.forecast(panel, 1000, times=months)
    xr.testing.assert_identical(
        tree["predictions"]["returns"].load(), here["predictions"]["returns"]
    )
    summary = rv.risk.summarize(here, 0.05)
    np.testing.assert_array_equal(
        summary["sd"].notnull(), model.moments(panel, times=months).sd.notnull()
    )
    assert summary["factor_var"].isnull().all()  # no factors are identified
    equal = listed(panel).sel(time=months)
    equal = equal / equal.sum("asset")
    book = rv.risk.portfolio(here, equal)
    exact = model.portfolio(panel, equal)
    np.testing.assert_allclose(book["sd"], exact["sd"], rtol=0.15)
    tested = rv.risk.backtest(here, panel.returns.sel(time=months), {"equal": equal}, 0.05)
    assert np.isfinite(float(tested["pooled"]["rate"].squeeze()))


def test_garch_variances_follow_the_stated_recursion():
    """Dynamics are those of ``arch`` on the training factors; months after it are filtered."""
    panel = complete(7, 150, seed=11)
    model = FactorGARCH(2).fit(panel.isel(time=slice(120)))
    numbers, values = model._numbers, panel.returns.to_numpy()
    z = (values - numbers["mean"][:-1]) / numbers["sd"][:-1]
    beta = numbers["beta"][:-1]
    np.testing.assert_allclose(z[:120].mean(0), 0.0, atol=1e-12)
    correlation = z[:120].T @ z[:120] / 120
    eigenvalues, vectors = np.linalg.eigh(correlation)
    expected = np.sqrt(eigenvalues[-2:][::-1]) * vectors[:, -2:][:, ::-1]
    np.testing.assert_allclose(abs(beta), abs(expected), rtol=0.15)  # the new asset is in it
    f = np.linalg.lstsq(beta, z.T, rcond=None)[0].T
    series = np.column_stack([f, z - f @ beta.T])
    omega, alpha, persist, start = numbers["dynamics"][:-1].T
    np.testing.assert_allclose(start, (series[:120] ** 2).mean(0), rtol=1e-6)
    variance = start
    dense = rv.risk.covariance(model, panel).to_dense().to_numpy()
    for t in range(150):
        scaled = (beta * variance[:2]) @ beta.T + np.diag(variance[2:])
        scaled *= np.outer(numbers["sd"][:-1], numbers["sd"][:-1])
        np.testing.assert_allclose(dense[t], scaled, rtol=1e-6, atol=1e-9)
        variance = omega + alpha * series[t] ** 2 + persist * variance
    one = arch_model(
        series[:120, 0] / start[0] ** 0.5, mean="Zero", p=1, q=1, dist="t", rescale=False
    )
    fitted = one.fit(disp="off").params.to_numpy()[:3] * [start[0], 1.0, 1.0]
    np.testing.assert_allclose(numbers["dynamics"][0, :3], fitted, rtol=1e-3)


def test_degrees_of_freedom_are_the_likeliest():
    """Simulated t(5) returns: 4 to 6.5 in 600 months, and its neighbours fit worse."""
    rng = np.random.default_rng(8)
    panel = complete(6, 600, seed=0)
    spread = np.sqrt(3.0 / rng.chisquare(5.0, (600, 1)))
    mixed = rng.normal(size=(600, 6)) @ rng.normal(size=(6, 6)) * 0.03
    panel = panel.assign(returns=panel.returns.copy(data=spread * mixed))
    found = FactorGARCH(2).fit(panel)
    df = float(found._numbers["df"][0])
    assert 4.0 < df < 6.5
    best = float(found.log_evidence(panel).sum())
    for other in (df - 0.5, df + 0.5):
        assert float(FactorGARCH(2, other).fit(panel).log_evidence(panel).sum()) < best


def test_garch_needs_its_package(panel, monkeypatch):
    monkeypatch.setitem(sys.modules, "arch", None)
    train = panel.isel(time=slice(TRAIN))
    with pytest.raises(ConfigError, match=r"needs the package 'arch'.*rvrae-pyro\[garch\]"):
        FactorGARCH(2).fit(train)


@pytest.mark.parametrize("name", ["EWMA", "EWMAMixture"])
def test_short_histories_start_at_scale_one(name, panel):
    kind = {"EWMA": EWMA, "EWMAMixture": EWMAMixture}[name]
    model = kind().fit(panel.isel(time=slice(50)))
    assert len(model.history) == 0
    np.testing.assert_array_equal(model._numbers["scale"], 1.0)
    assert np.isfinite(model.log_evidence(panel)).all()


def test_a_prequential_history_is_that_of_refits():
    """What a fit reports of training months is what earlier fits said before them."""
    panel = complete(5, 80, seed=7)
    for make in (
        lambda: EWMA(burn_in=24, scale_refit=8),
        lambda: EWMAMixture((0.98,), (0.8, 0.9), (8.0,), (0.05,), burn_in=24, scale_refit=8),
    ):
        history = make().fit(panel).history
        assert history["month"].iloc[0] == str(panel.time.values[24])[:10]
        whole = history["log_evidence"].to_numpy()
        for start in (48, 56):
            early = make().fit(panel.isel(time=slice(start)))
            ahead = early.log_evidence(panel.isel(time=slice(start, start + 8)))
            np.testing.assert_allclose(ahead, whole[start - 24 : start - 16], rtol=1e-10)


def test_few_factors_and_many_give_one_density():
    """Woodbury's identity and the dense matrix agree."""
    rng = np.random.default_rng(0)
    law = JointT(
        rng.normal(size=20),
        rng.normal(size=(20, 2)),
        rng.uniform(1, 2, (4, 2)),
        rng.uniform(1, 2, (4, 20)),
        rng.uniform(1, 2, 4),
        5.0,
    )
    returns, seen = rng.normal(size=(4, 20)), rng.uniform(size=(4, 20)) > 0.3
    seen[0] = False
    seen[1, 3:] = False  # too few for the identity to pay
    density = law.log_density(returns, seen)
    assert density[0] == 0.0
    for t in range(1, 4):
        expected = t_density(
            returns[t, seen[t]], law.mean[seen[t]], law.covariance(t, seen[t]), 5.0
        )
        np.testing.assert_allclose(density[t], expected, rtol=1e-11)
    mixture = MixtureOfT.of(law)
    np.testing.assert_array_equal(mixture.log_density(returns, seen), density)
    np.testing.assert_allclose(mixture.variance(), law.variance())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EWMA(0.0), r"`decay` must be in \(0, 1\]"),
        (lambda: EWMA(scale_decay=1.1), r"`scale_decay` must be in"),
        (lambda: EWMA(df=2.0), "`df` must be above 2"),
        (lambda: EWMA(shrinkage=0.0), r"`shrinkage` must be in \(0, 1\]; got 0.0. Some shrinkage"),
        (lambda: EWMA(cap=-1.0), "`cap` must be above 0"),
        (lambda: EWMA(n_factors=0), "`n_factors` must be a whole number"),
        (lambda: EWMA(min_history=0), "`min_history` must be a whole number"),
        (lambda: EWMA(burn_in=1), "`burn_in` must be a whole number of at least 2"),
        (lambda: EWMA(scale_refit=0), "`scale_refit` must be a whole number"),
        (lambda: MultivariateT(window=1), "`window` must be a whole number of at least 2"),
        (lambda: MultivariateT(df="fat"), "`df` must be above 2; got 'fat'"),
        (lambda: EWMAMixture(decay=0.98), "`decay` must be a sequence of distinct numbers"),
        (lambda: EWMAMixture(df=()), "`df` must be a sequence of distinct numbers"),
        (lambda: EWMAMixture(df=(5.0, 5.0)), "`df` must be a sequence of distinct numbers"),
        (lambda: EWMAMixture(df=(1.0, 5.0)), "`df` must be above 2; got 1.0"),
        (lambda: EWMAMixture(forgetting=0.0), "`forgetting` must be in"),
        (lambda: FactorGARCH(0), "`n_factors` must be a whole number"),
        (lambda: FactorGARCH(2, df=1.0), "`df` must be above 2"),
    ],
)
def test_bad_options_have_one_clear_error(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_hopeless_training_panels_are_named(panel):
    train = panel.isel(time=slice(TRAIN))
    rare = train.assign(returns=train.returns.where(train.time.dt.month == 1))
    with pytest.raises(FitError, match="`train` must hold an asset with returns in at least half"):
        EWMA().fit(rare)
    flat = train.assign(returns=train.returns * 0.0)
    with pytest.raises(FitError, match="`train` must hold returns that vary"):
        MultivariateT().fit(flat)


def test_misused_portfolios_are_named(panel, fitted):
    model = fitted["EWMA"]
    on = listed(panel).astype(float)
    with pytest.raises(ShapeError, match=r"`weights` must have dims \(time, asset\)"):
        model.portfolio(panel, on[0])
    with pytest.raises(ShapeError, match="`weights` must hold assets only in months"):
        model.portfolio(panel, xr.ones_like(on))
    with pytest.raises(ConfigError, match="`times` must name months of the panel"):
        model.portfolio(panel.isel(time=slice(5)), on[5:])


def test_a_damaged_file_is_named(fitted, tmp_path):
    path = fitted["EWMA"].save(tmp_path / "model")
    text = (path / "baseline.json").read_text()
    (path / "baseline.json").write_text(text.replace('"assets": [', '"assets": [ "extra",'))
    with pytest.raises(CheckpointError, match="is damaged: `mean` must have"):
        EWMA.load(path)


def test_one_asset_will_do(panel):
    one = panel.isel(asset=[int(listed(panel).sum("time").argmax("asset"))])
    for make in MODELS.values():
        model = make().fit(one.isel(time=slice(TRAIN)))
        assert np.isfinite(model.log_evidence(one)).all()
