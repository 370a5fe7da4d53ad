"""Learned factors with many small ones beside them: residuals that characteristics share."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import multivariate_normal

import rvrae_pyro as rv
from rvrae_pyro.models import exact
from rvrae_pyro.models.registry import build_model, describe_model
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import double, random_panel, stir

K = 2


def augmented(prior: rv.priors.FactorPrior | None = None, **parts: object) -> rv.RVRAE:
    """Two learned factors and one small factor for every characteristic."""
    learned = parts.pop("learned", None) or rv.loadings.Linear(P, K)
    return rv.RVRAE(
        P,
        K + P,
        loadings=rv.loadings.Augmented(learned),
        factor_prior=rv.priors.Augmented(prior or rv.priors.StandardNormal(K), P),
        likelihood=parts.pop("likelihood", None) or rv.likelihoods.Normal(),
        **parts,
    )


def fitted(panel: xr.Dataset, model: rv.RVRAE, steps: int = 3) -> rv.Fit:
    config = rv.FitConfig(max_steps=steps, window=4)
    return rv.fit(model, panel, config=config, progress=False)


def recurrent(**settings: object) -> rv.priors.Recurrent:
    return rv.priors.Recurrent(K, hidden=3, n_context=2, **settings)


def test_residuals_have_the_covariance_of_the_equation() -> None:
    """Evidence of a month is that of the Normal with B B' + X diag(s^2) X' + d I."""
    panel = random_panel(empty_months=[3])
    model, batch = stir(augmented()).double(), double(panel)
    beta = model.parts.cross_section(batch).beta[..., :K].detach().numpy()
    unit = float(model.return_scale)
    small = (2 * model.factor_prior.log_scale).exp().detach().numpy()
    noise = (unit * model.likelihood.scale.log_scale.exp().item()) ** 2
    total = 0.0
    for t in range(batch.n_times):
        seen = batch.observed[t].numpy()
        if not seen.any():
            continue
        b, x = beta[t, seen], unit * batch.characteristics[t, seen].numpy()
        covariance = b @ b.T + (x * small) @ x.T + noise * np.eye(seen.sum())
        returns = batch.returns[t, seen].numpy()
        total += multivariate_normal(np.zeros(len(returns)), covariance).logpdf(returns)
    assert exact.is_exact(model)
    assert exact.evidence(model, batch).item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize(
    "prior",
    [lambda: rv.priors.AR1(K), lambda: rv.priors.Recurrent(K, hidden=3, recurrence="observed")],
)
def test_bound_at_the_exact_posterior_is_the_filter_evidence(prior) -> None:
    """The particle filter agrees with the closed form: within 0.2 nats at 2000 particles."""
    panel = random_panel()
    model = stir(augmented(prior()), size=0.1).double()
    fit = fitted(panel, model, steps=1)
    closed = exact.evidence(copy.deepcopy(fit.model).double(), double(panel)).item()
    assert exact.is_exact(fit.model)
    assert float(fit.log_evidence(panel, num_samples=2000).sum()) == pytest.approx(closed, abs=0.2)


def test_only_the_first_factors_are_remembered_and_the_level_moves_the_small_ones() -> None:
    prior = stir(
        rv.RVRAE(
            P,
            K + P,
            loadings=rv.loadings.Augmented(rv.loadings.Linear(P, K)),
            factor_prior=rv.priors.Augmented(recurrent(), P),
            n_context=2,
        )
    )
    prior = prior.factor_prior.double()
    path = torch.randn(9, K + P, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    context = prior.encode(torch.randn(9, 2, dtype=torch.float64))
    states = prior.unroll(path, context, prior.initial())
    other = torch.cat([path[:, :K], torch.zeros(9, P, dtype=torch.float64)], -1)
    for one, two in zip(states, prior.unroll(other, context, prior.initial()), strict=True):
        assert torch.equal(one, two)
    before = tuple(each[:-1] for each in states)
    months, base = prior.transition(before, context), prior.base.transition(before, context)
    assert torch.equal(months.loc[:, :K], base.loc)
    assert not months.loc[:, K:].any()
    level = prior.level(before, context)
    wanted = (prior.log_scale + level.unsqueeze(-1)).exp()
    assert level.std() > 0
    torch.testing.assert_close(months.scale[:, K:], wanted)


@pytest.mark.parametrize("learned", [rv.loadings.LSTM(P, K, hidden=3), rv.loadings.MLP(P, K)])
def test_last_loadings_are_the_characteristics_of_listed_cells(learned) -> None:
    batch = double(random_panel())
    part = rv.loadings.Augmented(learned).double()
    for beta in (part(batch), part.online(batch)[0]):
        x = torch.where(batch.listed.unsqueeze(-1), batch.characteristics, 0.0)
        assert torch.equal(beta[..., K:], x)
    torch.testing.assert_close(part(batch)[batch.listed][:, :K], learned(batch)[batch.listed])


def test_sorted_portfolios_keep_a_risk_that_does_not_diversify_away() -> None:
    """Fitted to returns with a common shock by characteristic, the spread's risk is found.

    Without the small factors one learned factor that is taken by the market leaves the spread's
    standard deviation at that of independent noise: a third of what it is.
    """
    rng = np.random.default_rng(0)
    times, assets = 120, 80
    x = rng.uniform(-1, 1, (times, assets, P))
    common = 0.05 * rng.standard_normal((times, 1)) + 0.02 * x[..., 0] * rng.standard_normal(
        (times, 1)
    )
    returns = common + 0.05 * rng.standard_normal((times, assets))
    months = np.datetime64("2000-01-31", "ns") + np.arange(times) * np.timedelta64(31, "D")
    panel = xr.Dataset(
        {
            "returns": (("time", "asset"), returns),
            "characteristics": (("time", "asset", "characteristic"), x),
        },
        {
            "time": months,
            "asset": [f"A{i}" for i in range(assets)],
            "characteristic": [f"c{i}" for i in range(P)],
        },
    )
    panel.attrs["frequency"] = "daily"
    config = rv.FitConfig(max_steps=250, window=12)
    small = 1  # learned factors
    plain = rv.RVRAE(
        P,
        small,
        loadings=rv.loadings.Linear(P, small),
        factor_prior=rv.priors.StandardNormal(small),
        likelihood=rv.likelihoods.Normal(),
    )
    rich = rv.RVRAE(
        P,
        small + P,
        loadings=rv.loadings.Augmented(rv.loadings.Linear(P, small)),
        factor_prior=rv.priors.Augmented(rv.priors.StandardNormal(small), P),
        likelihood=rv.likelihoods.Normal(),
    )
    last = panel.time.values[-1]
    order = np.argsort(x[-1, :, 0])
    weights = np.zeros(assets)
    weights[order[-20:]], weights[order[:20]] = 0.05, -0.05
    spread = x[-1, :, 0] @ weights
    true = np.sqrt((0.02 * spread) ** 2 + 0.05**2 * (weights @ weights))
    found = {}
    for name, model in {"plain": plain, "rich": rich}.items():
        fit = rv.fit(model, panel, config=config, progress=False)
        covariance = rv.risk.covariance(fit, panel, times=last)
        dense = covariance.to_dense(panel.asset.values).values.squeeze()
        found[name] = float(np.sqrt(weights @ dense @ weights))
    assert found["rich"] == pytest.approx(true, rel=0.25)
    assert found["plain"] < 0.75 * true


def test_a_saved_fit_and_a_description_bring_it_back(tmp_path: Path) -> None:
    panel = random_panel()
    fit = fitted(panel, augmented(recurrent(), n_context=2))
    again = rv.load(fit.save(tmp_path / "fit"))
    draws = [f.forecast(panel, num_samples=5)["predictions"]["returns"] for f in (fit, again)]
    xr.testing.assert_identical(draws[0], draws[1])
    spec = describe_model(fit.model)
    assert describe_model(build_model(spec)) == spec
    assert spec["factor_prior"]["base"]["n_factors"] == K


def test_forecasts_know_no_return_of_their_month_or_later() -> None:
    panel = random_panel(n_times=14)
    fit = fitted(panel, augmented(recurrent(), n_context=2))
    future = panel.copy(deep=True)
    future["returns"][9:] = 3.0 * future["returns"][9:] + 0.1
    draws = [
        fit.forecast(p, num_samples=4)["predictions"]["returns"].isel(time=slice(None, 10))
        for p in (panel, future)
    ]
    xr.testing.assert_identical(draws[0], draws[1])


def test_the_model_for_stocks_has_these_parts_and_forecasts() -> None:
    panel = random_panel()
    model = rv.RVRAE.for_stocks(P, K, n_context=2)
    assert model.n_factors == K + P
    spec = describe_model(model)
    assert spec["loadings"]["kind"] == spec["factor_prior"]["kind"] == "Augmented"
    assert spec["likelihood"]["kind"] == "SkewStudentT"
    assert spec["likelihood"]["scale"]["n_context"] == 2
    assert describe_model(build_model(spec)) == spec
    fit = fitted(panel, model)
    forecast = fit.forecast(panel, num_samples=200, times=panel.time[-1])
    risk = rv.risk.summarize(forecast, tail=0.05)
    assert float(risk["sd"].min()) > 0


def test_bad_arguments_are_named() -> None:
    with pytest.raises(rv.errors.ConfigError, match="`n_small` must be a whole number"):
        rv.priors.Augmented(rv.priors.AR1(K), 0)
    heavy = rv.priors.Recurrent(K, innovation="student_t")
    with pytest.raises(rv.errors.ConfigError, match="`base` must have Gaussian transitions"):
        rv.priors.Augmented(heavy, P)
    with pytest.raises(rv.errors.ConfigError, match="no auxiliary latent; got StochasticVol"):
        rv.priors.Augmented(rv.priors.StochasticVolatility(K), P)
    with pytest.raises(rv.errors.ShapeError, match="n_factors"):
        rv.RVRAE(P, K, loadings=rv.loadings.Augmented(rv.loadings.Linear(P, K)))


def test_the_prior_keeps_the_contract_of_all_parts() -> None:
    rv.testing.check_part("factor_prior", lambda: rv.priors.Augmented(rv.priors.AR1(1), 1))
