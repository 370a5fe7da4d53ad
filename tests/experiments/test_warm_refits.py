"""Refits that start from the first fit, and walks that are stopped and resumed."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.experiments import walk_forward
from rvrae_pyro.experiments.competitors import ModelEntrant, as_entrant
from tests.experiments.helpers import Slope, panel, small_model

MARKET = panel(36, 8)
CONFIG = rv.FitConfig(max_steps=6)
SPANS = {"train": 12, "valid": 4, "test": 5, "num_samples": 20, "config": CONFIG, "seed": 2}
REFIT = "rvrae_pyro.experiments.competitors.fit_rvrae"


@dataclass
class Fits:
    """Calls of ``rv.fit``, and where to fail."""

    fails_at: int | None = None
    train: list[xr.Dataset] = field(default_factory=list)
    valid: list[xr.Dataset] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)

    def __call__(
        self, model: rv.RVRAE, train: xr.Dataset, valid: xr.Dataset, **options: Any
    ) -> rv.Fit:
        if len(self.train) == self.fails_at:
            raise ZeroDivisionError
        for kept, given in ((self.train, train), (self.valid, valid), (self.options, options)):
            kept.append(given)
        return rv.fit(model, train, valid, **options)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    calls = Fits()
    monkeypatch.setattr(REFIT, calls)
    return calls


def walk(market: xr.Dataset = MARKET, **options: Any) -> xr.DataTree:
    return walk_forward(market, small_model(market), **{**SPANS, "warm_start": True, **options})


@pytest.mark.parametrize("expanding", [True, False])
def test_every_refit_starts_from_the_first_and_earliest(fits: Fits, expanding: bool) -> None:
    tree = walk(expanding=expanding)
    records = json.loads(tree.attrs["refits"])
    assert len(records) == len(fits.train) == 4
    assert [r["attrs"]["start"] for r in records] == ["seed", "init", "init", "init"]
    assert "init" not in fits.options[0]
    firsts = {id(options["init"]) for options in fits.options[1:]}
    assert len(firsts) == 1
    first = fits.options[1]["init"]
    last_seen = np.datetime64(first.attrs["last_seen_month"])
    assert last_seen == fits.valid[0].time.values[-1].astype("datetime64[D]")
    forecast = tree["forecasts"]["refit"]
    for number in (1, 2, 3):
        assert last_seen < fits.valid[number].time.values[-1]
        mine = forecast.time.values[forecast.values == number]
        assert fits.train[number].time.values[-1] < fits.valid[number].time.values[0]
        assert fits.valid[number].time.values[-1] < mine[0]
    steps = [json.loads(r["attrs"]["config"])["config"]["max_steps"] for r in records]
    assert steps == [6, 2, 2, 2]


def test_a_warm_refit_is_rv_fit_from_the_first_fit() -> None:
    tree = walk()
    spans = [(slice(0, 12), slice(12, 16)), (slice(0, 17), slice(17, 21))]
    (train, valid), (later, last) = [tuple(MARKET.isel(time=s) for s in pair) for pair in spans]
    quiet = {"seed": 2, "progress": False}
    first = rv.fit(small_model(MARKET), train, valid, config=CONFIG, **quiet)
    refit = rv.fit(small_model(MARKET), later, last, config=CONFIG.warm(), init=first, **quiet)
    seen = MARKET.isel(time=slice(26))
    drawn = refit.forecast(seen, 20, seed=2, times=MARKET.time.values[21:26])
    joined = tree["predictions"]["returns"].isel(time=slice(5, 10)).drop_vars("refit")
    xr.testing.assert_equal(joined, drawn["predictions"]["returns"])


def test_returns_after_the_validation_of_a_refit_leave_its_weights_as_they_are(
    fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scramble all returns after a refit's validation months: the same weights, to the bit."""
    kept: list[dict[int, dict[str, torch.Tensor]]] = [{}, {}]

    def run(market: xr.Dataset, into: dict[int, dict[str, torch.Tensor]]) -> None:
        def fit(*args: Any, **options: Any) -> rv.Fit:
            done = fits(*args, **options)
            into[len(into)] = done.model.parts.state_dict()
            return done

        monkeypatch.setattr(REFIT, fit)
        walk(market, config=replace(CONFIG, window=None))  # every step sees every month

    end = 21  # rows up to the last validation month of the second refit
    changed = MARKET.copy(deep=True)
    later = changed.time >= MARKET.time.values[end]
    changed["returns"] = changed["returns"].where(~later, 0.02 - 0.7 * changed["returns"])
    run(MARKET, kept[0])
    run(changed, kept[1])
    assert fits.valid[1].time.values[-1] == MARKET.time.values[end - 1]

    def same(number: int) -> bool:
        one, other = (each[number] for each in kept)
        return all(torch.equal(one[name], other[name]) for name in one)

    assert [same(number) for number in range(4)] == [True, True, False, False]


def test_a_stopped_walk_resumes_to_the_same_result(
    fits: Fits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = walk()
    folder = tmp_path / "kept"
    stopped = Fits(fails_at=2)
    monkeypatch.setattr(REFIT, stopped)
    with pytest.raises(ZeroDivisionError):
        walk(checkpoint=folder)
    assert len(list(folder.glob("refit-*.nc"))) == 2

    def fits_of(**options: Any) -> int:
        calls = Fits()
        monkeypatch.setattr(REFIT, calls)
        found = walk(checkpoint=folder, **options)
        if options.keys() <= {"n_jobs"}:
            xr.testing.assert_identical(found, whole)
        return len(calls.train)

    assert fits_of() == 2
    assert fits_of() == 0
    damaged = sorted(folder.glob("refit-*.nc"))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert fits_of() == 1
    assert fits_of(seed=3) == 4  # its files have other keys
    assert fits_of() == 0
    assert fits_of(warm_start=rv.FitConfig(max_steps=1)) == 3
    assert fits_of(warm_start=False) == 3  # the first refit is a cold one in any case


def test_the_first_fit_is_run_again_where_only_it_was_lost(
    fits: Fits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = walk(checkpoint=tmp_path)
    (weights,) = tmp_path.glob("fit-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:50])
    trees = {path.name: path for path in tmp_path.glob("refit-*.nc")}
    assert len(trees) == 4
    calls = Fits()
    monkeypatch.setattr(REFIT, calls)
    xr.testing.assert_identical(walk(checkpoint=tmp_path), whole)
    assert calls.train == []  # no refit needs it
    for path in sorted(trees.values(), key=lambda path: path.stat().st_mtime)[1:]:
        path.unlink()
    xr.testing.assert_identical(walk(checkpoint=tmp_path), whole)
    assert len(calls.train) == 4


def test_a_longer_panel_runs_only_new_refits(fits: Fits, tmp_path: Path) -> None:
    walk(MARKET.isel(time=slice(26)), checkpoint=tmp_path)
    assert len(fits.train) == 2
    found = walk(checkpoint=tmp_path)
    assert len(fits.train) == 4
    xr.testing.assert_identical(found, walk())


@dataclass
class Counted(ThreadPoolExecutor):
    """An executor that records how many results were there when a job came."""

    def __post_init__(self) -> None:
        super().__init__(max_workers=2)
        self.futures: list[Any] = []
        self.done: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:  # type: ignore[override]
        self.done.append(sum(future.done() for future in self.futures))
        self.futures.append(super().submit(fn, *args))
        return self.futures[-1]


def test_an_executor_gets_the_first_refit_alone_and_then_the_others_together() -> None:
    with Counted() as executor:
        tree = walk(executor=executor)
    assert executor.done[:2] == [0, 1]
    assert len(executor.done) == 4
    xr.testing.assert_identical(tree, walk())


@pytest.mark.slow
def test_processes_give_the_same_numbers() -> None:
    xr.testing.assert_identical(walk(n_jobs=2), walk())


def by_label(train: xr.Dataset) -> rv.RVRAE:
    """Loadings of the assets that have been listed so far."""
    n = train.sizes["characteristic"]
    live = rv.data.listed(train).any("time")
    labels = train["asset"].values[live.values].tolist()
    return rv.RVRAE(
        n,
        2,
        loadings=rv.loadings.AssetEffects(rv.loadings.MLP(n, 2, hidden=(4,)), labels),
        factor_prior=rv.priors.AR1(2),
    )


def test_effects_by_asset_map_by_label_and_new_assets_start_from_the_prior(fits: Fits) -> None:
    market = rv.data.simulate_dynamic(10, 30, 3, 2, turnover=0.5, seed=4)
    models = []

    def make(train: xr.Dataset) -> rv.RVRAE:
        models.append(by_label(train))
        return models[-1]

    still = replace(CONFIG, max_steps=1, learning_rate=1e-12)
    tree = walk_forward(market, make, **{**SPANS, "warm_start": still})
    first = fits.options[1]["init"].model.loadings
    last = by_label(fits.train[-1]).loadings.assets
    assert not set(last) <= set(first.assets)
    assert tree["forecasts"]["mean"].notnull().any()
    refit = as_entrant(make, config=CONFIG).made(fits.train[-1])
    assert isinstance(refit, ModelEntrant)
    fitted = refit.warm(fits.options[1]["init"], still).fit(fits.train[-1], fits.valid[-1], 2)
    effects = fitted.model.loadings
    for row, label in enumerate(effects.assets):
        if label in first.assets:
            before = first.effects[list(first.assets).index(label)]
            torch.testing.assert_close(effects.effects[row], before, atol=1e-6, rtol=0)
        else:
            assert float(effects.effects[row].detach().abs().max()) < 1e-6


def test_without_validation_months(fits: Fits, tmp_path: Path) -> None:
    tree = walk(valid=0, checkpoint=tmp_path)
    assert [train.sizes["time"] for train in fits.train] == [12, 17, 22, 27, 32]
    assert fits.valid == [None] * 5
    last = fits.options[1]["init"].attrs["last_seen_month"]
    assert last == str(fits.train[0].time.values[-1])[:10]
    xr.testing.assert_identical(walk(valid=0, checkpoint=tmp_path), tree)


def test_the_configuration_of_warm_refits_may_be_given(fits: Fits) -> None:
    given = rv.FitConfig(max_steps=4, learning_rate=1e-3)
    walk(warm_start=given)
    assert [options["config"] for options in fits.options] == [CONFIG, given, given, given]


def test_misuse() -> None:
    spans = {"train": 12, "valid": 4, "test": 5}
    with pytest.raises(rv.ConfigError, match=r"`warm_start` needs an RVRAE.* got 'IPCA'"):
        walk_forward(MARKET, "IPCA", **spans, warm_start=True)
    with pytest.raises(rv.ConfigError, match=r"`warm_start` needs an RVRAE.* got 'slope'"):
        walk_forward(MARKET, Slope(), **spans, warm_start=True)
    with pytest.raises(rv.ConfigError, match="`warm_start` must be True, False or an"):
        walk_forward(MARKET, small_model(MARKET), **spans, warm_start=300)

    def grows(train: xr.Dataset) -> rv.RVRAE:
        return rv.RVRAE(4, 1 + train.sizes["time"] // 12, factor_prior=None)

    with pytest.raises(rv.ConfigError, match="`warm_start` needs the same parts and sizes in all"):
        walk_forward(MARKET, grows, **{**SPANS, "test": 12, "warm_start": True})


def test_a_folder_that_is_in_use_or_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(rv.CheckpointError, match="cannot be written"):
        walk(checkpoint=tmp_path / "file")
    with (
        rv.atomic.only_run(tmp_path / "held"),
        pytest.raises(rv.CheckpointError, match="another run writes"),
    ):
        walk(checkpoint=tmp_path / "held")
