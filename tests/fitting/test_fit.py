"""rv.fit from panel to result: what it promises, what it refuses."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

import rvrae_pyro as rv
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel

HISTORY = [
    "step",
    "elbo",
    "log_likelihood",
    "kl",
    "kl_weight",
    "log_weights",
    "valid_elbo",
    "seconds",
]
SMALL = rv.FitConfig(max_steps=12, window=4)


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(16, 14, seed=5)


@pytest.fixture(scope="module")
def parts(panel: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    return panel.isel(time=slice(0, 11)), panel.isel(time=slice(11, 15))


@pytest.fixture(scope="module")
def fitted(parts: tuple[xr.Dataset, xr.Dataset]) -> rv.Fit:
    return rv.fit(rv.RVRAE(P, K), *parts, config=SMALL, seed=3, progress=False)


def weights(model: rv.RVRAE) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parts.parameters()])


def test_history_and_divergences(fitted: rv.Fit, parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    history = fitted.history
    assert list(history.columns) == HISTORY
    assert history["step"].is_monotonic_increasing
    assert history["step"].iloc[0] == 0
    assert history["step"].iloc[-1] == 12
    np.testing.assert_allclose(
        history["elbo"], history["log_likelihood"] - history["kl"], rtol=1e-4, atol=1e-3
    )
    assert fitted.kl_total.dims == ("step", "time")
    assert fitted.kl.dims == ("step", "time", "factor")
    np.testing.assert_array_equal(fitted.kl_total["time"], parts[0]["time"])
    np.testing.assert_array_equal(fitted.kl_total["step"], history["step"])
    np.testing.assert_array_equal(fitted.kl["factor"], np.arange(1, K + 1))
    np.testing.assert_allclose(fitted.kl_total.sum("time"), history["kl"], rtol=1e-5)
    assert bool((fitted.kl.sum("factor") <= fitted.kl_total + 1e-5).all())
    assert fitted.stopped == "max_steps"
    assert np.isfinite(history.to_numpy()).all()


def test_seed_fixes_every_bit(parts: tuple[xr.Dataset, xr.Dataset], fitted: rv.Fit) -> None:
    """Whatever was drawn before, and whatever the model started from."""
    torch.manual_seed(99)
    again = rv.fit(rv.RVRAE(P, K), *parts, config=SMALL, seed=3, progress=False)
    assert torch.equal(weights(again.model), weights(fitted.model))
    columns = [c for c in HISTORY if c != "seconds"]
    assert again.history[columns].equals(fitted.history[columns])
    xr.testing.assert_identical(again.kl_total, fitted.kl_total)
    other = rv.fit(rv.RVRAE(P, K), *parts, config=SMALL, seed=4, progress=False)
    assert not torch.equal(weights(other.model), weights(fitted.model))


def test_training_learns(panel: xr.Dataset) -> None:
    """On a market with factors the bound rises by far more than its noise."""
    market = rv.data.simulate_dynamic(60, 30, 4, 2, seed=2)
    fit = rv.fit(
        rv.RVRAE(4, 2), market, config=rv.FitConfig(max_steps=80, window=3), progress=False
    )
    cells = int(double(market).observed.sum())
    gain = (fit.history["elbo"].iloc[-1] - fit.history["elbo"].iloc[0]) / cells
    assert gain > 0.02


def test_unit_of_returns_is_set_from_the_training_months(
    fitted: rv.Fit, parts: tuple[xr.Dataset, xr.Dataset]
) -> None:
    batch = double(parts[0])
    typical = batch.returns[batch.observed].abs().median() / 0.6745
    assert fitted.model.return_scale.item() == pytest.approx(typical.item(), rel=1e-5)


def test_unit_of_returns_is_set_for_parts_that_cannot_be_rebuilt(
    parts: tuple[xr.Dataset, xr.Dataset],
) -> None:
    class Scaled(rv.loadings.Linear):
        def __init__(self, size: float) -> None:
            super().__init__(P, K)
            self._hidden_from_describe = size

    model = rv.RVRAE(P, K, loadings=Scaled(2.0))
    fit = rv.fit(model, parts[0], config=SMALL, progress=False)
    batch = double(parts[0])
    typical = batch.returns[batch.observed].abs().median() / 0.6745
    assert fit.model.return_scale.item() == pytest.approx(typical.item(), rel=1e-5)


def test_touched_weights_are_kept(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    model = rv.RVRAE(P, K, factor_prior=rv.priors.Recurrent(K))
    with torch.no_grad():
        model.factor_prior.head.bias[0] = 1.25
    config = rv.FitConfig(max_steps=1, learning_rate=1e-12)
    rv.fit(model, parts[0], config=config, progress=False)
    assert model.factor_prior.head.bias[0].item() == pytest.approx(1.25, abs=1e-6)


def test_validation_stops_early_and_restores_the_best_state(panel: xr.Dataset) -> None:
    """Trained on noise the validation bound peaks early; the state kept is the peak's."""
    rng = np.random.default_rng(0)
    noise = panel.copy(deep=True)
    noise["returns"] = noise["returns"].copy(
        data=np.where(noise["returns"].isnull(), np.nan, 0.05 * rng.standard_t(3, (16, 14)))
    )
    train, valid = noise.isel(time=slice(0, 10)), noise.isel(time=slice(10, 16))
    config = rv.FitConfig(
        max_steps=400,
        window=3,
        patience=4,
        learning_rate=0.02,
        rate_schedule=rv.schedules.Flat(),
        weights_warmup=0.0,
        kl_schedule=rv.schedules.Constant(),
        dtype=torch.float64,
    )
    model = rv.RVRAE(P, K, factor_prior=rv.priors.Recurrent(K))
    states = {}
    original = model.walk

    def walk(*arguments: object) -> object:
        states[len(states)] = copy.deepcopy(model.parts.state_dict())
        return original(*arguments)

    model.walk = walk  # type: ignore[method-assign]
    fit = rv.fit(model, train, valid, config=config, progress=False)
    del model.walk
    assert fit.stopped == "converged"
    assert fit.history["step"].iloc[-1] < 400
    best = int(fit.history["valid_elbo"].argmax())
    assert fit.best_step == fit.history["step"][best]
    assert len(fit.history) - 1 - best == 4
    for name, value in fit.model.parts.state_dict().items():
        torch.testing.assert_close(value, states[best][name], rtol=0, atol=0)


def test_warm_start(parts: tuple[xr.Dataset, xr.Dataset], fitted: rv.Fit) -> None:
    config = rv.FitConfig(max_steps=1, learning_rate=1e-12, window=4)
    warm = rv.fit(rv.RVRAE(P, K), parts[0], config=config, init=fitted, progress=False)
    torch.testing.assert_close(weights(warm.model), weights(fitted.model), rtol=1e-5, atol=1e-6)
    assert warm.model.return_scale == fitted.model.return_scale
    assert warm.model is not fitted.model
    last = str(parts[0].time.values[-1])[:10]
    assert last < fitted.attrs["last_seen_month"]  # which the weights of the warm start know
    assert warm.attrs["last_seen_month"] == fitted.attrs["last_seen_month"]
    with pytest.raises(rv.ShapeError, match="`init` must be a fit of the same parts"):
        rv.fit(rv.RVRAE(P, K + 1), parts[0], init=fitted, progress=False)


def test_a_second_fit_goes_on_where_the_first_ended(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    model = rv.RVRAE(P, K, factor_prior=rv.priors.Recurrent(K))
    first = rv.fit(model, parts[0], config=SMALL, progress=False)
    kept = weights(model)
    config = rv.FitConfig(max_steps=1, learning_rate=1e-12, window=4)
    rv.fit(model, parts[0], config=config, progress=False)
    torch.testing.assert_close(weights(model), kept, rtol=1e-5, atol=1e-6)
    assert first.model is model


@pytest.mark.parametrize(
    "elbo",
    [TraceMeanField_ELBO, lambda: RenyiELBO(alpha=0, num_particles=2)],
    ids=["meanfield", "renyi"],
)
def test_other_elbos(elbo: object, parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    fit = rv.fit(rv.RVRAE(P, K), parts[0], config=SMALL, elbo=elbo(), progress=False)
    assert np.isfinite(fit.history["elbo"]).all()
    assert fit.history["step"].iloc[-1] == 12


def test_checkpoint_holds_the_result_in_the_end_and_the_best_so_far_on_the_way(
    parts: tuple[xr.Dataset, xr.Dataset], panel: xr.Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    fit = rv.fit(rv.RVRAE(P, K), *parts, config=SMALL, checkpoint=path, progress=False)
    assert torch.equal(weights(rv.load(path).model), weights(fit.model))

    class Stop(Trace_ELBO):
        left = 8

        def differentiable_loss(self, *arguments: object) -> Tensor:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("power cut")
            return super().differentiable_loss(*arguments)

    other = tmp_path / "other"
    model = rv.RVRAE(P, K)
    with pytest.raises(RuntimeError, match="power cut"):
        rv.fit(model, *parts, config=SMALL, checkpoint=other, elbo=Stop(), progress=False)
    survived = rv.load(other)
    assert survived.stopped == "interrupted"
    assert survived.best_step <= 8
    assert np.isfinite(survived.forecast(panel, num_samples=5)["predictions"]["factors"]).all()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_interrupt_returns_what_there_is(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    class Interrupt(Trace_ELBO):
        left = 8

        def differentiable_loss(self, *arguments: object) -> Tensor:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().differentiable_loss(*arguments)

    fit = rv.fit(rv.RVRAE(P, K), *parts, config=SMALL, elbo=Interrupt(), progress=False)
    assert fit.stopped == "interrupted"
    assert 0 < fit.history["step"].iloc[-1] <= 8


def test_paper_preset_trains(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    config = rv.FitConfig.paper()
    fit = rv.fit(
        rv.RVRAE.paper(P, K, hidden=6),
        *parts,
        config=dataclasses.replace(config, max_steps=7),
        progress=False,
    )
    assert fit.history["step"].tolist() == [0, 5, 7]  # a look at all months costs a step
    # averaged over the months: eq. (31), not a bound; the history is at weight one
    # eq. (31)'s mean over 11 months, annealed from a tenth of it over 200 steps
    annealed = (0.1 + 0.9 * fit.history["step"] / 200) / 11
    assert fit.history["kl_weight"].to_numpy() == pytest.approx(annealed.to_numpy())
    np.testing.assert_allclose(fit.kl_total.sum("time"), fit.history["kl"], rtol=1e-5)


def test_an_epoch_of_several_passes(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    config = dataclasses.replace(SMALL, window=None, max_steps=6)
    each, other = (
        rv.fit(rv.RVRAE(P, K), *parts, config=dataclasses.replace(config, passes=n), progress=False)
        for n in (1, 3)
    )
    assert each.history["step"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert other.history["step"].tolist() == [0, 3, 6]
    windows = dataclasses.replace(config, window=4, passes=2)  # 11 months: 3 or 4 windows a pass
    fit = rv.fit(rv.RVRAE(P, K), *parts, config=windows, progress=False)
    assert fit.history["step"].iloc[-1] == 6
    assert len(fit.history) == 2
    assert np.isfinite(fit.history["elbo"]).all()


def test_attributes_say_where_it_comes_from(fitted: rv.Fit) -> None:
    assert fitted.attrs["seed"] == 3
    assert {"versions", "config", "data_fingerprint"} <= set(fitted.attrs)


def test_no_progress_in_a_pipe(
    parts: tuple[xr.Dataset, xr.Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    rv.fit(rv.RVRAE(P, K), parts[0], config=rv.FitConfig(max_steps=2), progress=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_wrong_panels_are_refused(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    train, valid = parts

    def refused(
        error: type[Exception], match: str, panel: xr.Dataset, later: xr.Dataset | None = None
    ) -> None:
        model = rv.RVRAE(P, K)
        before = weights(model)
        with pytest.raises(error, match=match):
            rv.fit(model, panel, later, config=SMALL, progress=False)
        # a span without returns is found after the weights were drawn from the seed
        assert error is rv.FitError or torch.equal(weights(model), before)
        assert bool(torch.isfinite(weights(model)).all())

    silent = train.copy(deep=True)
    silent["returns"][:] = np.nan
    refused(rv.FitError, "`train` must hold at least one observed return", silent, valid)
    gaps = train.copy(deep=True)
    x = gaps["characteristics"].transpose("time", "asset", "characteristic")
    t, i = np.argwhere(x.notnull().any("characteristic").to_numpy())[5]
    x[t, i, 1] = np.nan
    gaps["characteristics"] = x
    refused(rv.PanelError, r"complete inside listed cells.*rank_characteristics", gaps)
    refused(
        rv.ShapeError,
        f"`characteristics` must have {P} columns",
        train.isel(characteristic=slice(0, 2)),
    )
    refused(rv.PanelError, "`valid` must follow `train`", valid, train)
    other = valid.isel(characteristic=[1, 0])
    refused(rv.PanelError, "`valid` does not match .* must be the 4 of the fit", train, other)
    percent = train.copy(deep=True)
    percent["returns"] = percent["returns"] * 100
    refused(rv.PanelError, "percent", percent)
    refused(rv.PanelError, "characteristics", train.drop_vars("characteristics"))
    skipped = train.isel(time=[0, 1, 2, 5, 6])
    refused(rv.PanelError, "month", skipped)


def test_validation_may_lack_returns_or_months(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    """Live months after training: nothing to validate on, so the last state is kept."""
    train, valid = parts
    live = valid.copy(deep=True)
    live["returns"][:] = np.nan
    fit = rv.fit(rv.RVRAE(P, K), train, live, config=SMALL, progress=False)
    assert fit.history["valid_elbo"].isna().all()
    assert fit.best_step == 12


def test_assets_may_come_and_go_between_train_and_valid(
    parts: tuple[xr.Dataset, xr.Dataset],
) -> None:
    train, valid = parts
    newcomers = valid.isel(asset=slice(4, 14))
    leavers = train.isel(asset=slice(0, 10))
    fit = rv.fit(rv.RVRAE(P, K), leavers, newcomers, config=SMALL, progress=False)
    assert np.isfinite(fit.history["valid_elbo"]).all()


def test_weekly_panel() -> None:
    weekly = random_panel(14, 10, seed=8, frequency="weekly")
    fit = rv.fit(
        rv.RVRAE(P, K),
        weekly.isel(time=slice(0, 9)),
        weekly.isel(time=slice(9, 12)),
        config=SMALL,
        progress=False,
    )
    forecast = fit.forecast(weekly, num_samples=10)["predictions"]
    np.testing.assert_array_equal(forecast["time"], weekly["time"])
    assert math.isfinite(fit.history["valid_elbo"].iloc[-1])


def test_results_do_not_depend_on_the_order_of_assets(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    """Trained on a shuffled panel in double precision, the weights agree to rounding."""
    order = np.random.default_rng(0).permutation(14)
    config = rv.FitConfig(max_steps=6, window=4, dtype=torch.float64)
    fits = [
        rv.fit(rv.RVRAE(P, K), p, config=config, progress=False)
        for p in (parts[0], parts[0].isel(asset=order))
    ]
    torch.testing.assert_close(weights(fits[0].model), weights(fits[1].model), rtol=1e-6, atol=1e-8)


def test_a_fit_shows_itself_in_a_line():
    panel = random_panel()
    shown = repr(rv.fit(rv.RVRAE(P, K), panel, config=rv.FitConfig(max_steps=1), progress=False))
    assert "\n" not in shown
    assert len(shown) < 200
    assert f"{K} factors" in shown
    assert "max_steps at step 1" in shown


def test_fields_of_the_configuration_by_name(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    base = dataclasses.replace(SMALL, max_steps=9)
    named = rv.fit(rv.RVRAE(P, K), *parts, config=base, max_steps=3, seed=3, progress=False)
    whole = dataclasses.replace(SMALL, max_steps=3)
    same = rv.fit(rv.RVRAE(P, K), *parts, config=whole, seed=3, progress=False)
    assert named.config == whole
    pd.testing.assert_frame_equal(
        named.history.drop(columns="seconds"), same.history.drop(columns="seconds")
    )
    with pytest.raises(rv.ConfigError, match=r"'max_step' \(did you mean 'max_steps'\?\).*by name"):
        rv.fit(rv.RVRAE(P, K), *parts, max_step=3)
    with pytest.raises(rv.ConfigError, match="`max_steps`"):
        rv.fit(rv.RVRAE(P, K), *parts, max_steps=0)
    with pytest.raises(rv.ConfigError, match="`config` must be an rv"):
        rv.fit(rv.RVRAE(P, K), *parts, config=3, max_steps=3)
