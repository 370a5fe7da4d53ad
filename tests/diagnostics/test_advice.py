"""No finding recommends what the fit uses already."""

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.diagnostics.check import CONTEXT, FULL_WEIGHT, LAGGED, MEMORY, advise, in_use
from rvrae_pyro.diagnostics.check_panel import (
    check_calibration,
    check_filter,
    check_skill,
    check_spread,
    check_tails,
    check_weights,
)
from rvrae_pyro.diagnostics.check_training import check_evidence


def model(likelihood=None, guide=None, prior=None, context=0):
    return rv.RVRAE(
        4,
        2,
        n_context=context,
        likelihood=likelihood or rv.likelihoods.Normal(),
        guide=guide or rv.guides.Recurrent(2),
        factor_prior=prior or rv.priors.AR1(2),
    )


def normal(shape, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def narrow(used):
    returns = xr.DataArray(normal((30, 40)), dims=("time", "asset"))
    draws = xr.DataArray(normal((1, 200, 30, 40), 0.5), dims=("chain", "draw", "time", "asset"))
    return check_calibration(returns, draws, used=used).remedy


def wide(used):
    returns = xr.DataArray(normal((30, 40)), dims=("time", "asset"))
    draws = xr.DataArray(normal((1, 200, 30, 40), 3.0), dims=("chain", "draw", "time", "asset"))
    return check_calibration(returns, draws, used=used).remedy


def tails(extra):
    def remedy(used):
        made = xr.Dataset({"tails": ("draw", np.full(50, 0.02)), "kurtosis": ("draw", [0.6] * 50)})
        seen = xr.Dataset({"tails": 0.02, "kurtosis": 0.6 + extra})
        p_value = xr.Dataset({"tails": 0.5, "kurtosis": 0.0})
        tree = {"posterior_predictive": made, "observed_data": seen, "p_value": p_value}
        return check_tails(xr.DataTree.from_dict(tree), used).remedy

    return remedy


def gap(used):
    evidence = xr.DataArray(normal(40), dims="time")
    return check_evidence(evidence - 9.0, evidence, used).remedy


def spread(used):
    wide = xr.DataArray(np.ones((5, 2)), dims=("time", "factor"))
    return check_spread(0.3 * wide, wide, used).remedy


def khat(used):
    found = xr.Dataset(
        {"khat": ("time", np.full(9, 2.0)), "khat_path": 2.0}, attrs={"good_khat": 0.7}
    )
    return check_weights(found, used).remedy


def few_particles(used):
    ess = xr.DataArray(np.full(12, 3.0), {"time": np.arange(12)}, "time")
    return check_filter(ess, 100, used=used).remedy


def leak(used):
    returns = xr.DataArray(normal((30, 40)), dims=("time", "asset"))
    return check_skill(returns, returns, used=used).remedy


@pytest.mark.parametrize(
    ("built", "remedy", "text"),
    [
        (model(guide=rv.guides.Conjugate()), gap, "Conjugate"),
        (model(guide=rv.guides.Conjugate()), spread, "Conjugate"),
        (model(guide=rv.guides.Conjugate()), khat, "Conjugate"),
        (model(rv.likelihoods.StudentT()), narrow, "heavier tails"),
        (model(rv.likelihoods.SkewStudentT()), narrow, "heavier tails"),
        (model(prior=rv.priors.StochasticVolatility(2)), narrow, "memory of volatility"),
        (model(prior=rv.priors.Recurrent(2)), wide, "memory of volatility"),
        (model(prior=rv.priors.Recurrent(2, n_context=3), context=3), narrow, "market context"),
        (model(rv.likelihoods.StudentT()), tails(4.0), "StudentT()"),
        (model(rv.likelihoods.StudentT()), tails(4.0), ".StudentT("),
        (model(), tails(-4.0), "likelihoods.Normal("),
        (
            model(prior=rv.priors.CommonVolatility(rv.priors.Recurrent(2, idio_level=False))),
            few_particles,
            "CommonVolatility",
        ),
    ],
)
def test_what_is_in_use_is_not_recommended(built, remedy, text):
    assert text not in remedy(in_use(built))
    assert remedy(in_use(built)).endswith(".")


def test_what_is_not_in_use_is_recommended():
    plain = in_use(model())
    assert "Conjugate" in gap(plain)
    assert "heavier tails" in narrow(plain)
    assert "heavier tails" not in wide(plain)  # would make forecasts wider still
    assert "memory of volatility" in narrow(plain)
    assert "market context" in narrow(plain)
    assert "StudentT" in tails(4.0)(plain)
    assert "lag=1" in leak(plain)
    assert "lag=1" not in leak({LAGGED})
    assert "CommonVolatility" in few_particles(plain)
    assert "KL weight" in spread(plain)
    assert "KL weight" not in spread({FULL_WEIGHT})
    assert in_use(model(prior=rv.priors.AR1(2))).isdisjoint({CONTEXT, MEMORY})


def test_advice_is_never_empty():
    assert "compare" in advise({"a"}, ("a", "this"))
    assert advise((), ("a", "this")) == "this."
    assert advise((), ("a", "this"), ("b", "that")) == "this, or that."


def test_a_fit_is_advised_by_its_own_parts():
    """A wide gap of a Conjugate guide, from the public method."""
    panel = rv.data.rank_characteristics(rv.data.simulate_dynamic(20, 30, 4, 2, seed=2))
    built = model(rv.likelihoods.StudentT(), rv.guides.Conjugate(), rv.priors.Recurrent(2))
    fit = rv.fit(built, panel, config=rv.FitConfig(max_steps=2), progress=False)
    page = "".join(each.remedy for each in fit.check(panel, num_particles=60).findings)
    for used in ("Conjugate", "rv.likelihoods.StudentT(", "memory of volatility", "heavier tails"):
        assert used not in page
