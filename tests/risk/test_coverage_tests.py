"""Coverage tests against small tables worked by hand, simulations and other packages."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rvrae_pyro.data.timeline import stationary_bootstrap
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.risk import coverage_tests as ct


def test_kupiec_by_hand():
    # 5 of 50 at 5 %: LR = 2 [5 log(.1/.05) + 45 log(.9/.95)]
    expected = 2 * (5 * np.log(2) + 45 * np.log(0.9 / 0.95))
    test = ct.kupiec(5, 50, 0.05)
    assert test.statistic == pytest.approx(expected) == pytest.approx(2.06538, abs=1e-4)
    assert test.p_value == pytest.approx(0.150681, abs=1e-4)
    # none of 36: LR = -72 log(.95), just short of 3.84
    assert ct.kupiec(0, 36, 0.05).statistic == pytest.approx(3.69311, abs=1e-4)
    assert ct.kupiec(36, 36, 0.05).statistic == pytest.approx(-72 * np.log(0.05))
    # exact, two months at one half: 0 or 2 exceptions are equally far out, 1 is no surprise
    assert ct.kupiec(2, 2, 0.5).p_exact == pytest.approx(0.5)
    assert ct.kupiec(1, 2, 0.5).p_exact == pytest.approx(1.0)
    assert np.isnan(ct.kupiec(0, 0, 0.05).statistic)


def test_christoffersen_by_hand():
    # 0 1 1 0 0 0 1 0: transitions 00 2, 01 2, 10 2, 11 1; pi 3/7, pi01 2/4, pi11 1/3
    hits = [0, 1, 1, 0, 0, 0, 1, 0]
    free = 2 * np.log(0.5) + 2 * np.log(0.5) + 2 * np.log(2 / 3) + np.log(1 / 3)
    same = 4 * np.log(4 / 7) + 3 * np.log(3 / 7)
    test = ct.christoffersen(hits, 0.3)
    assert test.independence.statistic == pytest.approx(2 * (free - same))
    joint = 2 * (free - same) + ct.kupiec(3, 8, 0.3).statistic
    assert test.conditional.statistic == pytest.approx(joint)
    assert test.conditional.p_value == pytest.approx(np.exp(-joint / 2))
    # a gap is no transition: 0 1 . 1 0 has 01 once and 10 once
    gap = ct.christoffersen([0, 1, np.nan, 1, 0], 0.3)
    assert gap.independence.statistic == pytest.approx(-4 * np.log(0.5))
    assert ct.christoffersen(np.zeros(30), 0.05).independence.statistic == 0.0
    clustered = np.repeat([0, 1, 0], [20, 6, 20])
    assert ct.christoffersen(clustered, 0.13).independence.p_value < 1e-4


def test_tests_reject_at_their_level():
    # 800 series of 500 months: rejection rates at 5 % have s.e. 0.0077 and the asymptotic
    # tests are off by up to 0.02 at this size; the exact one never rejects more than it may
    rng = np.random.default_rng(0)
    hits = (rng.uniform(size=(800, 500)) < 0.05).astype(float)
    tests = [(ct.kupiec(int(h.sum()), 500, 0.05), ct.christoffersen(h, 0.05)) for h in hits]
    assert np.mean([t[0].p_value < 0.05 for t in tests]) == pytest.approx(0.05, abs=0.035)
    assert np.mean([t[0].p_exact < 0.05 for t in tests]) < 0.05 + 3 * 0.0077
    assert np.mean([t[1].conditional.p_value < 0.05 for t in tests]) == pytest.approx(
        0.06, abs=0.04
    )


@settings(max_examples=20)
@given(size=st.integers(1, 300), share=st.floats(0, 1), tail=st.sampled_from([0.01, 0.05, 0.1]))
def test_agrees_with_vartests(size, share, tail):
    vartests = pytest.importorskip("vartests")
    exceptions = round(share * size)
    ours = ct.kupiec(exceptions, size, tail)
    theirs = vartests.kupiec_test(x=exceptions, n=size, risk_conf_level=1 - tail)
    assert ours.statistic == pytest.approx(theirs["statistic"], rel=1e-9, abs=1e-9)
    assert ours.p_value == pytest.approx(theirs["p-value"], rel=1e-9, abs=1e-12)


def test_power_counts_the_binomial():
    # 36 months at 5 %: 0 exceptions have exact p-value 0.27, 5 have 0.034, 4 have 0.16
    p = [ct.kupiec(x, 36, 0.05).p_exact for x in range(37)]
    assert p[5] < 0.05 < p[4]
    assert p[0] == pytest.approx(stats.binom.pmf(0, 36, 0.05) + stats.binom.sf(4, 36, 0.05))
    assert ct.kupiec_power(36, 0.05, 0.10) == pytest.approx(stats.binom.sf(4, 36, 0.10))
    assert ct.kupiec_power(0, 0.05, 0.1) == 0.0
    # next to two other tests under Holm, the first to reject must be below 0.05 / 3
    x = np.arange(37)
    rejects = np.array(p) < 0.05 / 3
    expected = stats.binom.pmf(x, 36, 0.1)[rejects].sum()
    assert ct.kupiec_power(36, 0.05, 0.10, 0.05 / 3) == pytest.approx(expected)


@pytest.mark.parametrize("size", [1, 7, 36, 250])
@pytest.mark.parametrize("tail", [0.01, 0.05, 0.1, 0.5])
def test_exact_p_values_add_up_what_is_as_extreme(size, tail):
    x = np.arange(size + 1)
    chance = stats.binom.pmf(x, size, tail)
    found = [ct.kupiec(int(k), size, tail) for k in x]
    ratio = np.array([each.statistic for each in found])
    for k in x:
        expected = chance[ratio >= ratio[k] - 1e-9].sum()
        assert found[k].p_exact == pytest.approx(min(expected, 1.0), abs=1e-12)
    # an exact test: its size is at most its level
    p = np.array([each.p_exact for each in found])
    for level in (0.05, 0.005):
        assert chance[p < level].sum() <= level


@pytest.mark.parametrize(("tail", "tests"), [(0.05, 1), (0.05, 10), (0.01, 1), (0.1, 3)])
def test_months_needed_are_enough_for_good(tail, tests):
    """No larger number of months has less power: the search ends on no tooth of the saw."""
    level = 0.05 / tests
    needed = ct.months_needed(tail, 0.5, level)
    later = range(needed, needed + int(8 / tail), 1 + int(0.05 / tail))
    power = [ct.kupiec_power(size, tail, 2 * tail, level) for size in later]
    assert min(power) >= 0.5
    assert ct.kupiec_power(needed - 1, tail, 2 * tail, level) < 0.5
    # one tooth earlier there are months that would do by themselves, which is no use
    earlier = range(needed - int(2 / tail), needed)
    assert max(ct.kupiec_power(size, tail, 2 * tail, level) for size in earlier) > 0.5


def test_months_needed_as_documented():
    figures = [ct.months_needed(tail, 0.5, 0.05 / m) for m in (1, 10) for tail in (0.05, 0.01)]
    assert figures == [137, 684, 227, 1134]
    assert ct.months_needed(0.05, 0.9) > ct.months_needed(0.05)
    # 87 months happen to be enough, 99 are not
    assert ct.kupiec_power(87, 0.05, 0.1) > 0.5 > ct.kupiec_power(99, 0.05, 0.1)
    with pytest.raises(ConfigError, match="`power` must be"):
        ct.months_needed(0.05, 1.0)


def test_acerbi_szekely_by_hand_and_under_the_null():
    # one loss of 3 beyond VaR 2, ES 2.5, four months at 25 %: -3 / (4 x .25 x 2.5) + 1
    value = ct.acerbi_szekely([1.0, -3.0, 0.5, 0.0, np.nan], np.full(5, 2.0), np.full(5, 2.5), 0.25)
    assert value == pytest.approx(-0.2)
    # normal returns with the right VaR and ES: Z2 has mean 0, s.e. 0.0025 at 400000 months
    z = stats.norm.ppf(0.05)
    draws = np.random.default_rng(1).standard_normal(400_000)
    var, es = np.full_like(draws, -z), np.full_like(draws, stats.norm.pdf(z) / 0.05)
    assert ct.acerbi_szekely(draws, var, es, 0.05) == pytest.approx(0.0, abs=0.03)
    assert ct.acerbi_szekely(1.3 * draws, var, es, 0.05) < -0.5
    assert np.isnan(ct.acerbi_szekely([np.nan], [1.0], [1.0], 0.05))


def test_scores_are_least_for_the_truth():
    # 200000 draws; the differences of scores are an order of magnitude above their s.e.
    draws = np.random.default_rng(2).standard_normal(200_000)
    z = stats.norm.ppf(0.05)
    var, es = -z, stats.norm.pdf(z) / 0.05
    best = ct.fz0_score(draws, var, es, 0.05).mean()
    for factor in (0.8, 1.25):
        assert ct.fz0_score(draws, var * factor, es * factor, 0.05).mean() > best + 0.01
        assert ct.fz0_score(draws, var, es * factor, 0.05).mean() > best + 0.005
        worse = ct.quantile_score(draws, var * factor, 0.05).mean()
        assert worse > ct.quantile_score(draws, var, 0.05).mean() + 0.001
    assert np.isnan(ct.fz0_score([0.0], [-0.1], [0.2], 0.05)).all()
    # y = -3, v = -2, e = -2.5 at 25 %: (1 / .625) + .8 + log 2.5 - 1
    assert ct.fz0_score(-3.0, 2.0, 2.5, 0.25) == pytest.approx(1.6 + 0.8 + np.log(2.5) - 1)
    # tail 25 %, q = -2: (1 - .25) x 1 for y = -3, and .25 x 3 for y = 1
    np.testing.assert_allclose(ct.quantile_score([-3.0, 1.0], 2.0, 0.25), [0.75, 0.75])


def test_holm_agrees_with_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(3).uniform(size=12) ** 3
    np.testing.assert_allclose(ct.holm(p), multipletests(p, method="holm")[1])
    np.testing.assert_allclose(ct.holm([0.04, np.nan, 0.01]), [0.04, np.nan, 0.02])


def test_bootstrap_has_the_variance_of_the_stationary_bootstrap():
    # known variance of a bootstrap mean (Politis and Romano 1994, lemma 1); 4000 resamples give
    # a variance to 2.2 %, 4 sd allowed; arch's bootstrap must come as near
    arch = pytest.importorskip("arch.bootstrap")
    rng = np.random.default_rng(4)
    noise = rng.standard_normal(121)
    series = noise[1:] + 0.8 * noise[:-1]
    size, block = 120, 6.0
    centred = series - series.mean()
    circular = [np.mean(centred * np.roll(centred, -k)) for k in range(size)]
    keep = (1 - 1 / block) ** np.arange(size)
    weights = (1 - np.arange(size) / size) * keep
    known = (circular[0] + 2 * np.sum(weights[1:] * circular[1:])) / size
    ours = series[stationary_bootstrap(size, 4000, block, rng)].mean(axis=1)
    assert ours.var() == pytest.approx(known, rel=0.09)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bootstrap = arch.StationaryBootstrap(block, series, seed=5)
        theirs = bootstrap.apply(lambda x: x.mean(), 2000)
    assert theirs.var() == pytest.approx(known, rel=0.13)


def test_bad_arguments_are_refused():
    for tail in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match=r"`tail` must be in \(0, 1\)"):
            ct.kupiec(1, 10, tail)
    with pytest.raises(ConfigError, match="`exceptions` must be in 0 to 10"):
        ct.kupiec(11, 10, 0.05)
    with pytest.raises(ConfigError, match="must hold 0, 1 and NaN only"):
        ct.christoffersen([0.0, 0.5], 0.05)
    with pytest.raises(ShapeError, match="must have one dimension"):
        ct.christoffersen(np.zeros((2, 2)), 0.05)
    with pytest.raises(ConfigError, match="`block` must be at least 1"):
        stationary_bootstrap(10, 5, 0.5, np.random.default_rng(0))
