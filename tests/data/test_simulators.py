"""The simulators against their published ceilings, reference numbers and own promises."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rvrae_pyro.data.simulators import simulate_dynamic, simulate_gkx, simulate_linear_gaussian
from rvrae_pyro.errors import ConfigError

SEEDS = range(24)
# population values: 1 - Var(noise) / E r^2, and 0.03^2 E|beta|^2 / E r^2
CEILINGS = {"linear": (0.404, 0.0330), "nonlinear": (0.399, 0.0326)}


def pooled(parts):
    """Pooled 1 - sum(a)/sum(b) over seeds with its delta-method standard error."""
    a, b = np.array(parts).T
    ratio = a.sum() / b.sum()
    return 1 - ratio, np.sqrt(len(a)) * np.std(a - ratio * b, ddof=1) / b.sum()


@pytest.mark.parametrize("case", ["linear", "nonlinear"])
def test_gkx_reaches_its_population_ceilings(case):
    # three comparisons a case at 4 standard errors with 23 degrees of freedom:
    # each fails one fresh set of seeds in about 1800
    total, refitted, predictive = [], [], []
    for seed in SEEDS:
        panel = simulate_gkx(case, n_characteristics=3, seed=seed)
        r, beta = panel.returns.values, panel.true_beta.values
        square = (r**2).sum()
        total.append((((r - np.einsum("tnk,tk->tn", beta, panel.true_factors)) ** 2).sum(), square))
        gram = np.einsum("tnk,tnl->tkl", beta, beta)
        ols = np.linalg.solve(gram, np.einsum("tnk,tn->tk", beta, r)[..., None])[..., 0]
        refitted.append((((r - np.einsum("tnk,tk->tn", beta, ols)) ** 2).sum(), square))
        predictive.append((((r - beta @ np.full(3, 0.03)) ** 2).sum(), square))
    ceiling, premium = CEILINGS[case]
    for parts, expected in (
        (total, ceiling),
        (refitted, 1 - (1 - ceiling) * (1 - 3 / 200)),
        (predictive, premium),
    ):
        estimate, error = pooled(parts)
        assert error < 0.006  # so that the comparison means something
        assert abs(estimate - expected) < 4 * error + 0.0005  # the ceilings are rounded


def test_gkx_defaults_labels_and_noise():
    panel = simulate_gkx()
    assert dict(panel.sizes) == {"time": 180, "asset": 200, "characteristic": 50, "factor": 3}
    assert panel.attrs["transform"] == "rank"
    assert panel.time.dtype == np.dtype("datetime64[ns]")
    assert (panel.time.to_index() == pd.date_range("2000-01-31", periods=180, freq="ME")).all()
    assert panel.asset.to_index().is_unique
    assert not panel.returns.isnull().any()
    noise = panel.returns.values - np.einsum("tnk,tk->tn", panel.true_beta, panel.true_factors)
    # Kolmogorov-Smirnov at 1e-3 on 36000 independent draws: scale 0.1, not standard deviation 0.1
    assert stats.kstest(noise.ravel() / 0.1, stats.t(5).cdf).pvalue > 1e-3
    assert stats.kstest(noise.ravel() / 0.1 * np.sqrt(5 / 3), stats.t(5).cdf).pvalue < 1e-6


@pytest.mark.parametrize("case", ["linear", "nonlinear"])
def test_gkx_loadings_are_the_published_functions_of_the_ranks(case):
    panel = simulate_gkx(case, n_assets=41, n_times=5, n_characteristics=4, seed=3)
    c1, c2, c3 = (panel.characteristics.isel(characteristic=i).values for i in range(3))
    expected = {
        "linear": [1.2 * c1, c2, 0.8 * c3],
        "nonlinear": [c1**2, 2 * c1 * c2, 0.6 * np.sign(c3)],
    }[case]
    np.testing.assert_allclose(panel.true_beta, np.stack(expected, axis=-1), rtol=1e-15)


def test_gkx_characteristics_are_ranks_and_persist():
    panel = simulate_gkx(n_assets=51, n_times=40, n_characteristics=6, seed=5)
    grid = 2 * np.arange(1, 52) / 52 - 1
    np.testing.assert_allclose(
        np.sort(panel.characteristics.values, axis=1),
        np.broadcast_to(grid[:, None], (40, 51, 6)),
        atol=1e-15,
    )
    now, before = panel.characteristics.values[1:], panel.characteristics.values[:-1]
    assert np.corrcoef(now.ravel(), before.ravel())[0, 1] > 0.8


# the table of reference evidences: observed cells and log p(r)
REFERENCE = [(12, 0.9, 0.5, 373, -606.9307), (4, 0.95, 0.2, 127, -212.5922)]


def dense_log_evidence(panel, phi, q, noise_scale):
    """log N(r; 0, V) with the whole path's covariance: no recursion anywhere."""
    beta, r = panel.characteristics.values, panel.returns.values
    steps = np.arange(len(r))
    variance = q * np.cumsum(phi ** (2.0 * steps))
    lag = np.abs(steps[:, None] - steps)
    path = phi**lag * variance[np.minimum(steps[:, None], steps)]
    cov = np.einsum("tik,sjk,ts->tisj", beta, beta, path).reshape(r.size, r.size)
    cov += noise_scale**2 * np.eye(r.size)
    seen = np.isfinite(r.ravel())
    law = stats.multivariate_normal(np.zeros(seen.sum()), cov[np.ix_(seen, seen)])
    return law.logpdf(r.ravel()[seen])


@pytest.mark.parametrize(("n_assets", "phi", "q", "n_observed", "log_evidence"), REFERENCE)
def test_linear_gaussian_reproduces_the_reference_evidence(
    n_assets, phi, q, n_observed, log_evidence
):
    panel = simulate_linear_gaussian(n_assets, 40, 2, phi, q, 1.0, 0.2, 0)
    assert int(panel.returns.notnull().sum()) == n_observed
    assert dense_log_evidence(panel, phi, q, 1.0) == pytest.approx(log_evidence, abs=6e-5)


def test_linear_gaussian_defaults_are_the_reference_recipe_in_return_units():
    plain = simulate_linear_gaussian(q=0.5, noise_scale=1.0)
    scaled = simulate_linear_gaussian()
    assert int(plain.returns.notnull().sum()) == 1932
    np.testing.assert_allclose(scaled.returns, 0.05 * plain.returns, rtol=1e-12)
    np.testing.assert_array_equal(scaled.true_beta, scaled.characteristics)
    assert float(np.abs(scaled.returns).median()) < 0.5


def test_linear_gaussian_without_missing_cells():
    panel = simulate_linear_gaussian(5, 6, 1, missing=0.0, noise_scale=1e-12)
    fitted = np.einsum("tnk,tk->tn", panel.true_beta, panel.true_factors)
    np.testing.assert_allclose(panel.returns, fitted, atol=1e-10)


@given(seed=st.integers(0, 2**32), size=st.integers(2, 12), months=st.integers(2, 9))
@settings(max_examples=25, deadline=None)
def test_dynamic_structure_holds_for_any_seed_and_size(seed, size, months):
    panel = simulate_dynamic(size, months, 4, 2, turnover=0.9, missing=0.3, seed=seed)
    listed = panel.characteristics.notnull()
    assert (listed.any("characteristic") == listed.all("characteristic")).all()
    listed = listed.all("characteristic")
    assert listed.any("time").all()
    assert not (panel.returns.notnull() & ~listed).any()
    assert (panel.true_beta.notnull().all("factor") == listed).all()
    assert panel.context.notnull().all()
    assert float(panel.context.isel(time=0).sum()) == 0.0
    count = listed.sum("asset")
    highest = panel.characteristics.max("asset").isel(characteristic=0)
    expected = (2 * count / (count + 1) - 1).where(count > 0)
    np.testing.assert_allclose(highest, expected, atol=1e-15)


def test_dynamic_has_entry_exit_gaps_and_missing_returns():
    panel = simulate_dynamic(seed=2)
    listed = panel.characteristics.notnull().any("characteristic").values
    starts_late, ends_early = ~listed[0], ~listed[-1]
    # 300 assets, 25 % each: binomial sd 2.5 points; 4 sd
    assert abs(starts_late.mean() - 0.25) < 0.10
    assert abs(ends_early.mean() - 0.25) < 0.10
    changes = np.abs(np.diff(listed.astype(int), axis=0)).sum(axis=0)
    assert (changes == 2).any()  # suspended, then back
    share = panel.returns.isnull().values[listed].mean()
    assert 0.015 < share < 0.025  # 2 % of some 27000 cells: sd 0.09 points


def test_dynamic_has_tails_clusters_and_persistent_factors():
    # bounds leave 4 or more sampling sds, measured over 40 seeds (0.03 for the factors' and
    # 0.015 for the log volatility's autocorrelation; the weaker feature correlates 0.58 +- 0.06)
    panel = simulate_dynamic(40, 1500, 4, 2, turnover=0.0, missing=0.0, seed=4)
    factors = panel.true_factors.values
    for column in factors.T:
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1] - 0.5) < 0.15
    log_volatility = np.log(panel.true_volatility.values)
    assert abs(np.corrcoef(log_volatility[1:], log_volatility[:-1])[0, 1] - 0.9) < 0.065
    residual = panel.returns.values - np.einsum("tnk,tk->tn", panel.true_beta, factors)
    standardised = (residual / panel.true_idio_scale.values).ravel()
    standardised = standardised[panel.returns.values.ravel() > -0.99]
    assert stats.kstest(standardised, stats.t(5).cdf).pvalue > 1e-3
    for feature in panel.context.values.T:
        assert np.corrcoef(feature, log_volatility)[0, 1] > 0.34


def test_dynamic_context_uses_earlier_returns_only():
    panel = simulate_dynamic(20, 30, 4, 2, seed=7)
    longer = simulate_dynamic(20, 30, 4, 2, missing=0.9, seed=7)  # other returns observed
    assert not np.allclose(panel.context[5:], longer.context[5:])
    # an independent computation from returns of months before t
    r = panel.returns.values
    state = 0.06
    for t in range(1, 30):
        row = r[t - 1][np.isfinite(r[t - 1])]
        state = 0.7 * state + 0.3 * np.mean(np.abs(row - row.mean()))
        assert float(panel.context[t, 0]) == pytest.approx(np.log(state / 0.06), rel=1e-10)


@pytest.mark.parametrize("simulate", [simulate_gkx, simulate_linear_gaussian, simulate_dynamic])
def test_seeds_repeat_differ_and_leave_the_global_state(simulate):
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the state we must not touch
    first, again, other = (simulate(n_assets=8, n_times=6, seed=s) for s in (1, 1, 2))
    assert first.identical(again)
    assert not first.equals(other)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert json.loads(first.attrs["parameters"])["seed"] == 1
    assert simulate(n_assets=8, n_times=6, start="2015-02").time.values[0] == np.datetime64(
        "2015-02-28"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate_gkx("cubic"), r"`case` must be 'linear' or 'nonlinear'; got 'cubic'"),
        (lambda: simulate_gkx(n_characteristics=2), "`n_characteristics` .* at least 3; got 2"),
        (lambda: simulate_gkx(n_assets=2.5), "`n_assets` .* whole number .* got 2.5"),
        (lambda: simulate_gkx(start="soon"), "`start` must be a month"),
        (lambda: simulate_linear_gaussian(phi=1.2), r"`phi` must be in \[-1, 1\]"),
        (lambda: simulate_linear_gaussian(noise_scale=0), r"`noise_scale` must be above 0"),
        (lambda: simulate_linear_gaussian(missing=1.0), r"`missing` must be in \[0, 1\)"),
        (lambda: simulate_dynamic(n_characteristics=2), "at least `n_factors` \\(3\\)"),
        (lambda: simulate_dynamic(degrees_of_freedom=2), "`degrees_of_freedom`"),
        (lambda: simulate_dynamic(ar=1.0), "`ar` must be in"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
