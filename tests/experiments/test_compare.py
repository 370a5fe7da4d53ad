"""The comparison: cells, tables, failures, files."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.atomic import only_run
from rvrae_pyro.experiments import ModelEntrant, compare
from rvrae_pyro.experiments.competitors import ABLATIONS, ALL, COMPETITORS, enter_all
from rvrae_pyro.experiments.forecast_tree import forecast_tree
from rvrae_pyro.experiments.grid import Cell, Result, read_result, write_result
from rvrae_pyro.experiments.metrics import Rules, Scores, _ratio
from rvrae_pyro.experiments.result_tables import PAPER_TABLE, compare_densities, pooled
from tests.experiments.helpers import SHORT, PressedKeys, Slope, panel, small_model

MARKET = panel()
SPLIT = (20, 6, 10)
CONFIG = rv.FitConfig(max_steps=2)


def models(**more):
    return {
        "IPCA": rv.baselines.IPCA(2, constant=True),
        "ALSTM": rv.baselines.ALSTM(4, 1, 3, config=SHORT),
        "RVRAE": ModelEntrant("RVRAE", small_model(MARKET), CONFIG),
        **more,
    }


def test_all_is_the_seven_of_the_paper_and_three_risk_models():
    assert [e.name for e in enter_all("all")] == list(ALL)
    neural = ("CA", "FactorVAE", "ALSTM", "Transformer", "RVRAE", "RVRAE (paper)")
    assert ("IPCA", *neural, "EWMA", "MultivariateT", "EWMAMixture") == ALL
    for name, make in COMPETITORS.items():
        entrant = make(2)
        assert entrant.name == name
        json.dumps(entrant.describe(MARKET))


def test_the_model_for_stocks_goes_by_name():
    (entrant,) = enter_all("stocks", 2)
    assert entrant.name == "RVRAE (stocks)"
    model = entrant.make(MARKET)
    assert model.n_factors == 2 + MARKET.sizes["characteristic"]


def test_variants_differ_from_what_they_are_held_against():
    described = {}
    for name, make in {**COMPETITORS, **ABLATIONS}.items():
        described[name] = make(2).describe(MARKET)
    assert len(set(map(json.dumps, described.values()))) == len(described)
    paper, last = (described[name] for name in ("RVRAE (paper)", "RVRAE (paper), last code"))
    parts = [each["model"] for each in (paper, last)]
    differ = [name for name in parts[0] if parts[0][name] != parts[1][name]]
    assert differ == ["decoder"]
    assert parts[1]["decoder"]["kind"] == "LastCode"


def test_tables_files_and_a_second_run(tmp_path):
    fails = Slope(name="unlucky", fails=(1,))
    first = compare(
        MARKET,
        models(unlucky=fails),
        split=SPLIT,
        seeds=2,
        omit=(4,),
        out=tmp_path / "out",
        num_samples=200,
    )
    # a failed cell is reported, the others are there
    assert [(f.cell.model, f.cell.seed, f.cell.omitted) for f in first.failures] == [
        ("unlucky", 1, 0),
        ("unlucky", 1, 4),
    ]
    assert first.failures[0].message == "RuntimeError: no luck with 1 second line"
    assert len(first.monthly) == 4 * 2 * 2 - 2
    one = first.tables["1"].set_index(["model", "metric"])
    assert {"total_r2", "total_r2_gls", "total_r2_ols", "predictive_r2_running"} <= set(
        one.loc["RVRAE"].index
    )
    # forecasters have no factors
    assert list(one.loc["ALSTM"].index) == ["predictive_r2"]
    assert set(first.tables["3"]["omitted"]) == {0, 4}
    assert set(first.tables["4"]["model"]) == {"IPCA", "RVRAE"}
    for table in first.tables.values():
        assert np.isfinite(table["standard_error"]).all()
    assert first.p_values["model"].unique().tolist() == ["IPCA"]
    for name in ("report.md", "table1.csv", "p_values.csv", "failures.csv", "figures/table3.png"):
        assert (tmp_path / "out" / name).stat().st_size > 20
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| ALSTM | – |" in page
    assert "Not comparable" in page
    written = pd.read_csv(tmp_path / "out" / "table2.csv")
    printed = written.pop("printed_not_comparable")
    pd.testing.assert_frame_equal(written, first.tables["2"], check_dtype=False)
    pairs = zip(written["model"], written["metric"], strict=True)
    expected = [PAPER_TABLE.get(model, {}).get(metric, np.nan) for model, metric in pairs]
    np.testing.assert_array_equal(printed, expected)
    assert printed.notnull().any()

    # the second run takes over what is there and tries the failed ones again
    fails.fails = ()
    runs = len(fails.trained)
    again = compare(
        MARKET,
        models(unlucky=fails),
        split=SPLIT,
        seeds=2,
        omit=(4,),
        out=tmp_path / "out",
        num_samples=200,
    )
    assert not again.failures
    assert len(fails.trained) == runs + 2
    kept = first.results.merge(again.results, on=["model", "omitted", "seed", "metric"])
    np.testing.assert_array_equal(kept["estimate_x"], kept["estimate_y"])


def test_another_panel_seed_or_setting_is_another_cell(tmp_path):
    entrant = Slope()

    def run(market=MARKET, slope=1.0, **settings):
        entrant.slope = slope
        chosen = {"split": SPLIT, "seeds": [0], "num_samples": 200, **settings}
        compare(market, [entrant], out=tmp_path, **chosen)
        return len(entrant.trained)

    assert [run(), run()] == [1, 1]
    changed = MARKET.copy(deep=True)
    changed["returns"][30, 3] = 0.01
    assert [run(changed), run(seeds=[3]), run(slope=2.0), run(split=(19, 6, 10))] == [2, 3, 4, 5]
    for file in (tmp_path / "cells").glob("*.json"):
        file.write_text(file.read_text()[:-20])  # damaged
    assert run(slope=1.0) == 6


def test_omitted_assets_are_never_seen():
    entrant = Slope()
    result = compare(
        MARKET, [entrant], split=SPLIT, seeds=[0, 5], omit=[6], num_samples=200, progress=False
    )
    drawn = []
    for (train, valid, _), shown in zip(entrant.trained[2:], entrant.shown[2:], strict=True):
        gone = set(MARKET.asset.values) - set(train.asset.values)
        assert len(gone) == 6
        assert not gone & set(valid.asset.values)
        hidden = shown.sel(asset=sorted(gone))
        assert hidden["returns"].isnull().all()  # in the test months too
        assert hidden["characteristics"].notnull().any()
        others = sorted(set(MARKET.asset.values) - gone)
        assert shown["returns"].sel(asset=others).notnull().any()
        drawn.append(gone)
    assert drawn[0] != drawn[1]
    test = rv.data.split(MARKET, *SPLIT).test.sel(asset=sorted(drawn[0]))
    guess = test["characteristics"].isel(characteristic=0)
    expected = float(rv.evaluation.rank_ic(test["returns"], guess).mean())
    rows = result.results.query("omitted == 6 and seed == 0 and metric == 'rank_ic'")
    assert rows["estimate"].item() == pytest.approx(expected)


def test_standard_errors_count_months_and_seeds():
    long = pd.DataFrame(
        {
            "model": "a",
            "omitted": 0,
            "seed": [0, 1, 2],
            "metric": "rank_ic",
            "estimate": [0.1, 0.2, 0.6],
            "standard_error": [0.1, 0.2, 0.3],
        }
    )
    row = pooled(long).iloc[0]
    spread = np.std([0.1, 0.2, 0.6], ddof=1)
    assert row["estimate"] == pytest.approx(0.3)
    assert row["standard_error"] == pytest.approx(np.sqrt(0.2**2 + spread**2 / 3))
    single = pooled(long.iloc[:1]).iloc[0]
    assert single["standard_error"] == 0.1
    assert np.isnan(single["seed_sd"])


def test_densities_are_tested_against_the_reference():
    rng = np.random.default_rng(0)
    months = [f"2010-{m:02d}-28" for m in range(1, 13)]
    mine, theirs = rng.normal(size=(2, 12)), rng.normal(size=12)
    cells = {
        Cell("RVRAE", s, 0, str(s)): Result(Scores({}, {"crps": list(mine[s])}, months), 1.0, {})
        for s in (0, 1)
    }
    cells[Cell("IPCA", 0, 0, "x")] = Result(Scores({}, {"crps": list(theirs)}, months), 1.0, {})
    row = compare_densities(cells, "RVRAE", ["RVRAE", "IPCA"]).iloc[0]
    when = {"time": np.array(months, dtype="datetime64[ns]")}
    first, second = (xr.DataArray(x, coords=when, dims="time") for x in (mine.mean(0), theirs))
    expected = rv.evaluation.diebold_mariano(first, second)
    assert row["difference"] == pytest.approx((mine.mean(0) - theirs).mean())
    assert row["p_value"] == pytest.approx(float(expected["p_value"]))


def test_an_executor_takes_the_fits():
    entrant = Slope()
    with ThreadPoolExecutor(2) as pool:
        there = compare(MARKET, [entrant], split=SPLIT, seeds=3, num_samples=200, executor=pool)
    here = compare(MARKET, [Slope()], split=SPLIT, seeds=3, num_samples=200)
    pd.testing.assert_frame_equal(there.results, here.results)


@pytest.mark.slow
def test_processes_give_the_same_numbers(tmp_path):
    chosen = {"split": SPLIT, "seeds": 2, "num_samples": 200}
    alone = compare(MARKET, models(), **chosen)
    shared = compare(MARKET, models(), n_jobs=2, out=tmp_path, **chosen)
    pd.testing.assert_frame_equal(alone.results, shared.results)


def test_split_may_be_made_before():
    parts = rv.data.split(MARKET, *SPLIT)
    one = compare(MARKET, [Slope()], split=parts, seeds=1, num_samples=200)
    two = compare(
        MARKET,
        [Slope()],
        split=dict(zip(parts._fields, SPLIT, strict=True)),
        seeds=[0],
        num_samples=200,
    )
    pd.testing.assert_frame_equal(one.results, two.results)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"omit": [13]}, rv.ConfigError, "`omit` must hold whole numbers from 3 .* to 1[0-2]"),
        ({"omit": [2]}, rv.ConfigError, "`omit` must hold whole numbers from 3"),
        ({"omit": ["4"]}, rv.ConfigError, "got '4'"),
        ({"seeds": 0}, rv.ConfigError, "`seeds` must be a whole number of at least 1"),
        ({"seeds": [1, 1]}, rv.ConfigError, "`seeds` must be a count or distinct"),
        ({"models": "IPAC"}, rv.ConfigError, "Did you mean 'IPCA'"),
        ({"models": []}, rv.ConfigError, "at least one competitor"),
        ({"models": ["IPCA", "ipca"]}, rv.ConfigError, "'IPCA' comes twice"),
        ({"split": (1, 2)}, rv.ConfigError, r"`split` must be \(train, valid, test\)"),
        ({"split": (200, 6, 10)}, rv.PanelError, "ask for 216 rows"),
        ({"num_samples": 20}, rv.ConfigError, "`num_samples` must be at least 200"),
        ({"n_jobs": 0}, rv.ConfigError, "`n_jobs` must be a whole number"),
        ({"ablation": True}, rv.ConfigError, "`ablation` needs the model 'RVRAE'"),
    ],
)
def test_misuse(settings, error, match, tmp_path):
    chosen = {"models": [Slope()], "split": SPLIT, "seeds": 1, "out": tmp_path / "out", **settings}
    with pytest.raises(error, match=match):
        compare(MARKET, chosen.pop("models"), **chosen)
    assert not (tmp_path / "out").exists()


def test_all_failing_is_an_error():
    with pytest.raises(rv.FitError, match="every fit failed; the first error: RuntimeError"):
        compare(MARKET, [Slope(fails=(0,))], split=SPLIT, seeds=1, num_samples=200)


def test_a_full_disk_keeps_the_fits_that_are_done(tmp_path, monkeypatch):
    plain, written = os.replace, []

    def full(old, new):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        plain(old, new)
        written.append(new)

    def run(entrant):
        return compare(
            MARKET, [entrant], split=SPLIT, seeds=4, num_samples=200, out=tmp_path / "out"
        )

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        with pytest.raises(rv.CheckpointError, match=r"No space left .* fits that are in it"):
            run(Slope())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cells"]
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2
    entrant = Slope()
    assert len(run(entrant).monthly) == 4
    assert [seed for *_, seed in entrant.trained] == [2, 3]


def test_a_fit_that_was_interrupted_is_no_result(tmp_path):
    """Ctrl-C ends the run; a fit keeps its best state then, and that must not pass for a fit."""
    config = rv.FitConfig(max_steps=6, kl_schedule=PressedKeys())
    half = ModelEntrant("half", small_model(MARKET), config)
    kept = rv.fit(small_model(MARKET), MARKET, config=config, progress=False)
    assert kept.stopped == "interrupted"
    with pytest.raises(KeyboardInterrupt):
        kept.uninterrupted()
    with pytest.raises(KeyboardInterrupt):
        compare(MARKET, [Slope(), half], split=SPLIT, seeds=1, num_samples=200, out=tmp_path)
    assert [p.name.split("-")[0] for p in (tmp_path / "cells").iterdir()] == ["slope"]
    with pytest.raises(KeyboardInterrupt):
        rv.fit_ensemble(
            lambda: small_model(MARKET), MARKET, seeds=(0, 1), config=config, progress=False
        )


def test_two_runs_into_one_folder(tmp_path):
    with only_run(tmp_path), pytest.raises(rv.CheckpointError, match="another run writes to"):
        compare(MARKET, [Slope()], split=SPLIT, seeds=1, num_samples=200, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[]", "{}", '{"key": 3}', "", "\x00\xff", "null"])
def test_a_foreign_file_in_a_cells_place_is_no_result(tmp_path, content):
    cell = Cell("mine", 0, 0, "a" * 64)
    (tmp_path / cell.file_name).write_text(content)
    assert read_result(tmp_path, cell) is None
    result = Result(Scores({"a": (1.0, float("nan"))}, {"a": [0.1]}, ["2000-01"]), 2.5, {"x": 1})
    write_result(tmp_path, cell, result)
    whole = json.loads((tmp_path / cell.file_name).read_text())
    for broken in ({**whole, "estimates": []}, {**whole, "estimates": {"a": []}}):
        (tmp_path / cell.file_name).write_text(json.dumps(broken))
        assert read_result(tmp_path, cell) is None
    # a key is of everything, so another one's file is never taken over
    write_result(tmp_path, cell, result)
    assert read_result(tmp_path, replace(cell, key="a" * 63 + "b")) is None
    found = read_result(tmp_path, cell)
    assert found is not None
    assert (found.seconds, found.attrs) == (2.5, {"x": 1})


class Profile:
    """A KL schedule that keeps what decides it where JSON cannot see it."""

    __slots__ = ("weights",)

    def __init__(self, weight):
        self.weights = np.full(3, weight)

    def weight(self, step, n_times):
        return float(self.weights[0])


def test_settings_of_ones_own_are_told_apart(tmp_path):
    def run(weight):
        config = rv.FitConfig(max_steps=4, kl_schedule=Profile(weight))
        entrant = ModelEntrant("RVRAE", small_model(MARKET), config)
        return compare(MARKET, [entrant], split=SPLIT, out=tmp_path, num_samples=200)

    first, other, again = run(1.0), run(9.0), run(1.0)
    cells = [next(iter(each.monthly)) for each in (first, other, again)]
    assert cells[0] == cells[2] != cells[1]
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_a_part_named_like_ours_is_not_taken_for_it():
    class AR1(rv.priors.AR1):
        def level(self, state, context):
            return None

    def described(prior):
        return ModelEntrant("RVRAE", rv.RVRAE(4, 2, factor_prior=prior)).describe(MARKET)

    assert described(AR1(2)) != described(rv.priors.AR1(2))


def test_variants_may_not_bear_a_name_that_is_taken():
    taken = {"RVRAE": rv.RVRAE(4, 2), "standard prior": rv.RVRAE(4, 2)}
    with pytest.raises(rv.ConfigError, match="'standard prior' comes twice"):
        compare(MARKET, taken, split=SPLIT, ablation=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_factors": 0}, "`n_factors` must be"),
        ({"split": (30, 9, 1)}, "at least two test months"),
        ({"omit": (4,), "models": "IPCA", "panel": panel(n_assets=4)}, "at least 5 assets"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_fit(change, match, tmp_path):
    given = {"panel": MARKET, "models": [Slope()], "split": SPLIT, **change}
    with pytest.raises((rv.ConfigError, rv.PanelError), match=match):
        compare(given.pop("panel"), given.pop("models"), out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_gaps_in_characteristics_are_refused_once():
    holed = MARKET.copy(deep=True)
    whole = np.argwhere(holed["characteristics"].notnull().all("characteristic").values)
    time, asset = whole[len(whole) // 2]
    holed["characteristics"][time, asset, 0] = np.nan
    with pytest.raises(rv.PanelError, match="rank_characteristics"):
        compare(holed, [Slope()], split=SPLIT)


@pytest.mark.parametrize(
    ("rules", "match"),
    [({"quantile": 0.7}, "quantile"), ({"cost": -1.0}, "cost"), ({"periods": 0.0}, "periods")],
)
def test_rules_are_checked_when_they_are_made(rules, match):
    with pytest.raises(rv.ConfigError, match=match):
        Rules(**rules)


def test_rules_annualise_by_the_panel_unless_they_say_otherwise():
    def net(panel, rules):
        found = compare(panel, [Slope()], split=SPLIT, rules=rules, num_samples=200)
        return found.tables["2"].set_index("metric")["estimate"]["sharpe_gross"]

    weekly = MARKET.assign_coords(
        time=pd.date_range("2010-01-03", periods=MARKET.sizes["time"], freq="7D", unit="ns")
    ).assign_attrs(frequency="weekly")
    monthly = net(MARKET, Rules(cost=0.0))
    assert net(weekly, Rules(cost=0.0)) == pytest.approx(monthly * (52 / 12) ** 0.5)
    assert net(weekly, Rules(periods=12)) == pytest.approx(monthly)


def test_a_seed_without_a_number_does_not_count():
    rows = [("m", 0, seed, "crps", value, 0.1) for seed, value in enumerate((0.1, 0.3, np.nan))]
    columns = ["model", "omitted", "seed", "metric", "estimate", "standard_error"]
    found = pooled(pd.DataFrame(rows, columns=columns)).iloc[0]
    assert found["n_seeds"] == 2
    assert found["estimate"] == pytest.approx(0.2)
    assert found["standard_error"] == pytest.approx((0.1**2 + 0.02 / 2) ** 0.5)


def test_results_of_another_kind_are_not_written_over(tmp_path):
    compare(MARKET, [Slope()], split=SPLIT, out=tmp_path, num_samples=200)
    before = (tmp_path / "report.md").read_text()
    with pytest.raises(rv.ConfigError, match="results of another kind, 'Comparison'"):
        rv.experiments.benchmark_gkx("linear", 1, 3, [Slope()], out=tmp_path, num_samples=200)
    assert (tmp_path / "report.md").read_text() == before


def test_a_month_without_a_score_is_left_out_above_and_below():
    above, below = (
        xr.DataArray(values, {"time": MARKET.time[:3]}, ("time",))
        for values in ([10.0, np.nan, 10.0], [10.0, 10.0, 10.0])
    )
    assert float(_ratio(above, below)["estimate"]) == 1.0


@pytest.mark.parametrize("size", [1e3, 1e9])
def test_alpha_of_a_month_does_not_know_its_returns(size):
    n = MARKET.sizes["characteristic"]
    likelihood = rv.likelihoods.Normal(alpha=rv.likelihoods.Alpha(n))
    model = rv.RVRAE(
        n,
        2,
        loadings=rv.loadings.MLP(n, 2, hidden=(4,)),
        factor_prior=rv.priors.StandardNormal(2),
        likelihood=likelihood,
    )
    fitted = ModelEntrant("RVRAE", model, CONFIG).fit(MARKET.isel(time=slice(26)), None, 0)
    wild = MARKET.copy(deep=True)
    wild["returns"][-1] *= size
    months = MARKET.time.values[-3:]
    said, same = (
        forecast_tree(fitted, each, months, 200, 0)["forecasts"] for each in (MARKET, wild)
    )
    for name in ("mean", "mean_running", "mean_ols"):
        np.testing.assert_array_equal(said[name], same[name])


def test_risk_models_are_compared_on_assets_that_they_have_never_seen():
    """Their mean forecasts of new assets are all alike, so that ranks are undefined."""
    named = ["EWMA", "MultivariateT", "EWMAMixture", "FactorGARCH"]
    found = compare(MARKET, named, split=SPLIT, omit=(4,), num_samples=200)
    assert not found.failures
    whole = [result.scores for cell, result in found.monthly.items() if not cell.omitted]
    assert all(np.isfinite(each.estimates["log_score"]).all() for each in whole)
    scores = [result.scores for cell, result in found.monthly.items() if cell.omitted == 4]
    assert len(scores) == 4
    assert all(np.isnan(each.estimates["rank_ic"][0]) for each in scores)
