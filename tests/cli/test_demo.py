"""The demo at its smallest: files, numbers and pictures."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import norm

import rvrae_pyro as rv
from rvrae_pyro.cli.app import main
from rvrae_pyro.cli.demo_command import _verdict
from rvrae_pyro.cli.demo_sizes import FULL, QUICK
from rvrae_pyro.cli.demo_walk import DEFAULT, MEASURES, SIMPLE, SWAPPED, LiveFit, Walk, run_walk
from rvrae_pyro.fitting.parallel import InMemory
from rvrae_pyro.predictive.storage import read_tree
from tests.cli.conftest import Command

PICTURES = ("calibration", "factors", "forecast", "training", "volatility")
FILES = {
    "forecast.csv",
    "forecast.nc",
    "metrics.json",
    "model",
    "report.html",
    "risk.csv",
    *(f"{name}.png" for name in PICTURES),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick demo."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    threads = torch.get_num_threads()
    assert main(["demo", "--quick", "--out", str(out)]) == 0
    assert torch.get_num_threads() == threads
    return out


@pytest.fixture(scope="module")
def french() -> xr.Dataset:
    return rv.data.rank_characteristics(rv.data.market_context(rv.data.load_french()))


def test_every_file_is_there_and_nothing_else(folder: Path) -> None:
    assert {entry.name for entry in folder.iterdir()} == FILES
    assert [entry.name for entry in folder.parent.iterdir()] == ["demo"]


def test_the_full_demo_trains_on_eighteen_years_and_tests_three() -> None:
    assert (FULL.train, FULL.test, FULL.walk.train) == (18 * 12, 3 * 12, 18 * 12)


def test_the_split_ends_with_the_last_month(folder: Path) -> None:
    periods = json.loads((folder / "metrics.json").read_text())["periods"]
    assert periods["test"] == ["2016-04-30", "2017-03-31"]
    assert set(periods) == {"train", "test"}
    assert periods["train"][1] == "2016-03-31"


def test_draws_cover_the_test_and_the_live_month(folder: Path, french: xr.Dataset) -> None:
    tree = read_tree(folder / "forecast.nc")
    returns = tree["predictions"]["returns"]
    np.testing.assert_array_equal(returns["time"], french["time"][-13:])
    assert dict(returns.sizes) == {"chain": 1, "draw": 1000, "time": 13, "asset": 30}
    assert bool(returns.notnull().all())
    fit = rv.load(folder / "model")
    first = french["time"].size - 1 - QUICK.train - QUICK.test
    again = fit.forecast(french.isel(time=slice(first, None)), times="2017-04")
    np.testing.assert_array_equal(
        returns.isel(time=[-1]), again["predictions"]["returns"], strict=False
    )


def test_forecast_and_risk_tables_say_what_the_draws_say(folder: Path) -> None:
    returns = read_tree(folder / "forecast.nc")["predictions"]["returns"]
    table = pd.read_csv(folder / "forecast.csv")
    assert set(table["date"]) == {"2017-04-30"}
    assert sorted(table["rank"]) == list(range(1, 31))
    live = returns.isel(chain=0, time=-1).to_pandas()[table["asset"]]
    np.testing.assert_allclose(table["mean"], live.mean(), rtol=1e-4)
    np.testing.assert_allclose(table["q95"], live.quantile(0.95), rtol=1e-4)
    assert (
        table.loc[0, "name"]
        == {str(a): str(n) for a, n in zip(*names(), strict=True)}[table.loc[0, "asset"]]
    )
    risk = pd.read_csv(folder / "risk.csv")
    assert len(risk) == 13 * 30
    one = risk[(risk["date"] == "2016-07-31") & (risk["asset"] == "Money")].iloc[0]
    mine = returns.sel(time="2016-07-31", asset="Money").values.ravel().astype(float)
    assert one["sd"] == pytest.approx(mine.std(), rel=1e-4)
    assert one["es_05"] == pytest.approx(-np.sort(mine)[:50].mean(), rel=1e-4)
    assert one["factor_var"] + one["idio_var"] == pytest.approx(one["sd"] ** 2, rel=1e-5)


def names() -> tuple[np.ndarray, np.ndarray]:
    raw = rv.data.load_french()
    return raw["asset"].values, raw["name"].values


def test_scores_against_plain_numpy(folder: Path) -> None:
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    returns = rv.data.load_french()["returns"]
    test = returns.values[-13:-1]
    past = returns.values[-13 - QUICK.train : -13]
    draws = read_tree(folder / "forecast.nc")["predictions"]["returns"].values[0, :, :-1]
    draws = draws.astype(float)

    def r2(forecast: np.ndarray) -> float:
        return 1 - ((test - forecast) ** 2).sum() / (test**2).sum()

    assert scores["predictive_r2"]["estimate"] == pytest.approx(r2(draws.mean(0)), abs=1e-6)
    assert scores["predictive_r2"]["naive"] == pytest.approx(r2(past.mean(0)))
    low, high = np.quantile(draws, (0.05, 0.95), axis=0)
    inside = ((low <= test) & (test <= high)).mean()
    assert scores["coverage_90"]["estimate"] == pytest.approx(inside, abs=0.01)
    z = (test - past.mean(0)) / past.std(0, ddof=1)
    near = scores["coverage_90"]["naive"]
    assert near == pytest.approx((np.abs(z) < norm.ppf(0.95)).mean(), abs=0.03)
    covariance = np.cov(past.T)
    centred = test - past.mean(0)
    density = -0.5 * (
        30 * np.log(2 * np.pi)
        + np.linalg.slogdet(covariance)[1]
        + np.einsum("ti,ij,tj->t", centred, np.linalg.inv(covariance), centred)
    )
    assert scores["log_score"]["naive"] == pytest.approx(density.mean() / 30)
    assert 1.0 < scores["log_score"]["estimate"] < 3.5
    assert scores["total_r2"]["naive"] is scores["total_r2"]["ewma"] is None
    french = rv.data.rank_characteristics(rv.data.market_context(rv.data.load_french()))
    months = french.isel(time=slice(-13, -1))
    ewma = rv.baselines.EWMA().fit(french.isel(time=slice(-13 - len(past), -13)))
    assert scores["log_score"]["ewma"] == pytest.approx(
        float(ewma.log_evidence(months).mean()) / 30
    )
    assert scores["predictive_r2"]["ewma"] == pytest.approx(r2(ewma.predict(months).values))
    covered = float((abs(ewma.pit(months) - 0.5) <= 0.45).mean())
    assert scores["coverage_90"]["ewma"] == pytest.approx(covered, abs=0.03)
    # a share of 1 in every month does not vary
    assert all(each["standard_error"] > 0 or each["estimate"] == 1.0 for each in scores.values())


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_not_blank(folder: Path, name: str) -> None:
    from matplotlib.image import imread

    pixels = imread(folder / f"{name}.png")
    assert pixels.shape[1] >= 900
    assert 0.02 < (pixels[..., :3] < 0.9).any(-1).mean() < 0.9


def test_an_interrupted_demo_writes_nothing(
    rvrae: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.Adam, "step", interrupt)
    assert rvrae("demo", "--quick", "--out", tmp_path / "demo").code not in (0, 2)
    assert list(tmp_path.iterdir()) == []


def test_walk_forward_of_the_quick_demo(folder: Path) -> None:
    """Span, refits, and the simple models against their own log densities."""
    walk = json.loads((folder / "metrics.json").read_text())["walk_forward"]
    assert walk["span"] == ["2016-04", "2017-03"]
    assert (walk["months"], walk["refits"]) == (12, 2)
    assert list(walk["models"]) == [DEFAULT, SWAPPED, *SIMPLE]
    french = rv.data.rank_characteristics(rv.data.market_context(rv.data.load_french()))
    seen = french.isel(time=slice(None, -1))
    held = QUICK.walk.train
    models = {"EWMA": rv.baselines.EWMA(), "naive": rv.baselines.MultivariateT(df=math.inf)}
    for name, model in models.items():
        found = []
        for back in (12, 6):
            past = seen.isel(time=slice(-back - held, -back))
            ahead = seen.isel(time=slice(-back, -back + 6 or None))
            found.append(model.fit(past).log_evidence(ahead).values)
        estimate = walk["models"][name]["log_score"]["estimate"]
        assert estimate == pytest.approx(np.concatenate(found).mean() / 30)
    ours, swapped = (walk["models"][name]["log_score"]["estimate"] for name in (DEFAULT, SWAPPED))
    assert walk["swap"]["estimate"] == pytest.approx(ours - swapped)
    assert walk["models"]["EWMA"]["less EWMA"]["estimate"] is None


def test_walk_forward_cannot_look_ahead(french: xr.Dataset) -> None:
    """Returns of the last three months move nothing that was forecast before them."""
    sizes = replace(QUICK.walk, max_steps=2, num_samples=20)
    live = LiveFit(InMemory(french.isel(time=slice(100, 112))), 1, 1, 0)
    changed = french.copy(deep=True)
    changed["returns"][-4:-1] = 0.5 * changed["returns"][-4:-1] + 0.01
    first, second = (run_walk(panel, sizes, 1, 0, live)[0] for panel in (french, changed))
    for name, tree in first.predictions.items():
        draws, others = (
            each["predictions"]["returns"] for each in (tree, second.predictions[name])
        )
        np.testing.assert_array_equal(draws[:, :, :-2], others[:, :, :-2])
        assert (draws[:, :, -2:] != others[:, :, -2:]).any()
    assert not first.returns[-3:].equals(second.returns[-3:])


def test_what_was_learned_repeats_the_numbers(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    ours = metrics["walk_forward"]["models"][DEFAULT]
    text = " ".join(metrics["learned"])
    assert len(metrics["learned"]) == 5
    assert f"covered {100 * ours['coverage']['estimate']:.1f} % of returns" in text
    gain = ours["less EWMA"]["estimate"]
    assert f"{abs(gain):.3f} nats per return {'higher' if gain > 0 else 'lower'}" in text
    assert "In 2017-04, the live month" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.3, "up, by more"), (-0.3, "down, by more"), (0.2, "noise"), (-0.1, "noise")],
)
def test_a_verdict_takes_two_standard_errors(value: float, expected: str) -> None:
    assert _verdict(value, 0.1, "up", "down").startswith(expected)


def test_what_the_demo_says(rvrae: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rvrae_pyro.cli import demo_command as demo

    metrics = json.loads((folder / "metrics.json").read_text())
    columns = pd.MultiIndex.from_product([list(MEASURES), ["estimate", "s.e."]])
    table = pd.DataFrame(0.8, index=[DEFAULT, "EWMA"], columns=columns)
    table.loc["EWMA", "less EWMA"] = np.nan
    walk = Walk(table, {}, xr.DataArray([0.0], dims="time"), 2, 100.0, {})
    market = SimpleNamespace(walk=walk)
    monkeypatch.setattr(demo, "_run", lambda *_: (metrics, market))
    said = rvrae("demo", "--quick", "--out", folder)
    assert said.code == 0
    assert said.out.startswith("What was learned\n\n- Risk can be checked.")
    flowing = " ".join(said.out.split())
    assert "One month ahead, 2016-04 to 2017-03: 12 months, 2 short refits" in flowing
    assert "80.0 (80.0)" in said.out
    assert "refits of the table are short (4 steps and 100 draws" in flowing
    assert "nan" not in said.out
    said = rvrae("demo", "--quick", "--out", folder, "--json")
    assert json.loads(said.out)["periods"]["test"][1] == "2017-03-31"
