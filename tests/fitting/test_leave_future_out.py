"""Months left out, against brute force in models whose answers are known."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import rvrae_pyro as rv
from tests.helpers import linear_gaussian

T = 40


@pytest.fixture
def panel() -> xr.Dataset:
    """One asset's returns, Normal around an unknown mean."""
    panel = rv.data.simulate_linear_gaussian(1, T, 1, missing=0.0)
    panel["returns"] = panel["returns"].copy(
        data=np.random.default_rng(0).normal(0.02, 0.05, (T, 1))
    )
    return panel


class KnownMean:
    """Conjugate mean of Normal returns of known spread: exact draws, exact predictive."""

    def __init__(self, past: xr.Dataset, draws: int) -> None:
        values = past["returns"].to_numpy().ravel()
        precision = 1 / 0.1**2 + len(values) / 0.05**2
        self.mean, self.sd = values.sum() / 0.05**2 / precision, precision**-0.5
        grid = (np.arange(draws) + 0.5) / draws
        self.draws = stats.norm.ppf(grid, self.mean, self.sd)
        self.n_times = past.sizes["time"]

    def log_evidence(self, panel, num_samples=1000, seed=0) -> xr.DataArray:
        values = panel["returns"].to_numpy().ravel()
        total = stats.norm.logpdf(values, self.mean, np.hypot(self.sd, 0.05))
        return xr.DataArray(total, coords={"time": panel.time}, dims="time")

    def by_draw(self, panel: xr.Dataset) -> xr.DataArray:
        values = panel["returns"].to_numpy().ravel()
        density = stats.norm.logpdf(values, self.draws[:, None], 0.05)
        return xr.DataArray(density, coords={"time": panel.time}, dims=("draw", "time"))


def brute_force(panel: xr.Dataset, start: int) -> np.ndarray:
    """Refit before every month."""
    months = range(start, panel.sizes["time"])
    fits = [KnownMean(panel.isel(time=slice(0, t)), 2) for t in months]
    return np.array(
        [f.log_evidence(panel).to_numpy()[t] for f, t in zip(fits, months, strict=True)]
    )


def test_refitting_every_month_is_brute_force(panel) -> None:
    found = rv.evaluation.leave_future_out(lambda past: KnownMean(past, 2), panel, start=10, step=1)
    np.testing.assert_allclose(found["log_score"], brute_force(panel, 10))
    assert found["refit"].all()
    assert found.attrs["n_refits"] == T - 10
    assert found.attrs["elpd"] == pytest.approx(found["log_score"].sum().item())


def test_shortcuts_come_close_with_few_refits(panel) -> None:
    """Draws brought up to date by importance: 0.02 nats a month with a tenth of the refits."""
    found = rv.evaluation.leave_future_out(
        lambda past: KnownMean(past, 2000),
        panel,
        start=0.25,
        step=30,
        score=lambda fitted, months: fitted.by_draw(months),
    )
    gap = found["log_score"].to_numpy() - brute_force(panel, 10)
    assert np.abs(gap).max() < 0.02
    assert found.attrs["n_refits"] <= 3
    assert (found["khat"].dropna("time") < 0.7).all()
    # without weights the old fit is visibly worse
    stale = rv.evaluation.leave_future_out(
        lambda past: KnownMean(past, 10),
        panel,
        start=10,
        step=30,
        score=lambda fitted, months: fitted.by_draw(months),
    )
    worse = stale["log_score"].to_numpy() - brute_force(panel, 10)
    assert np.abs(worse).max() > 2 * np.abs(gap).max()
    assert stale["khat"].isnull().all()


def test_a_break_calls_for_a_refit(panel) -> None:
    panel["returns"][15:] += 0.4
    found = rv.evaluation.leave_future_out(
        lambda past: KnownMean(past, 500),
        panel,
        start=10,
        step=100,
        score=lambda fitted, months: fitted.by_draw(months),
    )
    refits = np.flatnonzero(found["refit"])
    assert refits[0] == 0
    assert 5 < refits[1] <= 8
    assert found["age"][refits[1]] == 0


def test_what_is_scored_is_not_in_what_is_fitted(panel) -> None:
    seen = []

    def make(past: xr.Dataset) -> KnownMean:
        seen.append(past.sizes["time"])
        return KnownMean(past, 2)

    rv.evaluation.leave_future_out(make, panel, start=10, step=12)
    assert seen == [10, 22, 34]


def test_misuse_is_refused(panel) -> None:
    def make(past: xr.Dataset) -> KnownMean:
        return KnownMean(past, 2)

    for start in (0, T, 1.0):
        with pytest.raises(rv.ConfigError, match="`start`"):
            rv.evaluation.leave_future_out(make, panel, start=start)
    with pytest.raises(rv.ConfigError, match="`step`"):
        rv.evaluation.leave_future_out(make, panel, start=5, step=0)
    with pytest.raises(rv.ShapeError, match="`score`"):
        rv.evaluation.leave_future_out(
            make, panel, start=5, score=lambda f, p: f.log_evidence(p).expand_dims("x")
        )


class Exact:
    """The linear Gaussian model with its own parameters."""

    def __init__(self, model: rv.RVRAE) -> None:
        self.model = model

    def log_evidence(self, panel, num_samples=1000, seed=0) -> xr.DataArray:
        batch = rv.data.to_batch(panel, dtype=torch.float64)
        values = rv.exact.month_evidence(self.model, batch).detach().numpy()
        return xr.DataArray(values, coords={"time": panel.time}, dims="time")


def test_a_month_given_all_others_is_that_of_dense_algebra() -> None:
    panel = rv.data.simulate_linear_gaussian(4, 8, 1, missing=0.0, seed=2)
    model = linear_gaussian(rv.data.to_batch(panel, dtype=torch.float64), phi=0.9, q=0.5)
    with torch.no_grad():
        model.return_scale.fill_(0.05)
    found = rv.evaluation.leave_month_out(Exact(model), panel)
    phi, q, t = 0.9, 0.5, np.arange(8)
    start = np.minimum.outer(t, t)
    lag = np.abs(np.subtract.outer(t, t))
    factor = q * phi**lag * (1 - phi ** (2 * (start + 1))) / (1 - phi**2)
    beta = panel["characteristics"].to_numpy()[..., 0]
    dense = np.einsum("ti,ts,sj->tisj", beta, factor, beta).reshape(32, 32) + np.eye(32)
    dense = 0.05**2 * dense
    returns = panel["returns"].to_numpy().reshape(-1)
    for month in range(8):
        mine = np.arange(4 * month, 4 * month + 4)
        rest = np.setdiff1d(np.arange(32), mine)
        gain = np.linalg.solve(dense[np.ix_(rest, rest)], dense[np.ix_(rest, mine)]).T
        expected = stats.multivariate_normal.logpdf(
            returns[mine],
            gain @ returns[rest],
            dense[np.ix_(mine, mine)] - gain @ dense[np.ix_(rest, mine)],
        )
        assert found["log_score"][month].item() == pytest.approx(expected, abs=1e-6)
    last = found.isel(time=-1)
    assert last["log_score"].item() == pytest.approx(last["ahead"].item(), abs=1e-8)
    chosen = rv.evaluation.leave_month_out(Exact(model), panel, times=panel.time[2:4])
    np.testing.assert_allclose(chosen["log_score"], found["log_score"][2:4])
    with pytest.raises(rv.ConfigError, match="`times`"):
        rv.evaluation.leave_month_out(Exact(model), panel, times=["1890-01-31"])
    panel["returns"][3] = np.nan
    assert rv.evaluation.leave_month_out(Exact(model), panel).sizes["time"] == 7
    with pytest.raises(rv.ConfigError, match="got none"):
        rv.evaluation.leave_month_out(Exact(model), panel, times=panel.time[3])


def test_a_real_fit_beats_one_that_was_not_trained() -> None:
    panel = rv.data.rank_characteristics(rv.data.simulate_dynamic(40, 40, 4, 2, seed=2))
    train, test = panel.isel(time=slice(0, 30)), panel.isel(time=slice(30, None))
    fits = {
        name: rv.fit(
            rv.RVRAE(4, 2, loadings=rv.loadings.MLP(4, 2)),
            train,
            config=rv.FitConfig(max_steps=steps, learning_rate=0.01),
            progress=False,
        )
        for name, steps in {"short": 1, "long": 60}.items()
    }
    found = rv.evaluation.compare(fits, panel, times=test.time, num_samples=100)
    assert found["model"].values.tolist() == ["long", "short"]
    assert found["difference"][1] < -2 * found["difference_error"][1]
