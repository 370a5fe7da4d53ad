"""What the page says, against the functions it is drawn from."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.report.facts import Facts, gather
from rvrae_pyro.report.forecast_sections import forecast_sections
from rvrae_pyro.report.held_out import Measure, check_risk, check_rival, spans_of
from rvrae_pyro.report.page import write_page
from rvrae_pyro.report.portfolio_tables import fifths
from rvrae_pyro.report.validation_sections import trust, validation_sections
from rvrae_pyro.risk.draws import centred


def test_ranking_is_by_the_mean_without_noise(facts: Facts, fit: rv.Fit, panel: xr.Dataset) -> None:
    live = panel["time"].values[-1]
    table = facts.ranking.set_index("asset")
    mean = fit.attribution(panel, seed=4, times=[live]).sum("factor", min_count=1).isel(time=0)
    expected = mean.to_series().dropna()
    assert set(table.index) == set(expected.index)
    np.testing.assert_allclose(table["mean"], expected.loc[table.index], rtol=1e-8)
    assert table["mean"].is_monotonic_decreasing
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    tree = centred(fit.forecast(panel, seed=4, times=[live]))
    risk = rv.risk.summarize(tree).isel(time=0)
    for column, value in {
        "sd": risk["sd"],
        "es_05": risk["es"].sel(tail=0.05),
        "factor_share": risk["factor_var"] / risk["sd"] ** 2,
    }.items():
        np.testing.assert_allclose(table[column], value.to_series().loc[table.index])


def test_attribution_by_principal_factor_keeps_the_sum(
    facts: Facts, fit: rv.Fit, panel: xr.Dataset
) -> None:
    mean = fit.attribution(panel, seed=4, times=[facts.live]).sum("factor").isel(time=0).to_series()
    total = facts.attribution.sum(axis=1)
    np.testing.assert_allclose(total, mean.loc[total.index], rtol=1e-8)


def test_portfolios_have_the_risk_of_their_draws(
    facts: Facts, fit: rv.Fit, panel: xr.Dataset
) -> None:
    tree = centred(fit.forecast(panel, seed=4, times=[facts.live]))
    listed = rv.data.listed(panel).sel(time=[facts.live])
    value = panel["weight"].where(listed).sel(time=[facts.live])
    direct = rv.risk.portfolio(tree, (value / value.sum()).fillna(0.0)).to_dataset().isel(time=0)
    shown = facts.portfolios.sel(portfolio="Value weights")
    for name in ("mean", "sd", "var", "es", "factor_var"):
        np.testing.assert_allclose(shown[name], direct[name])
    assert set(facts.portfolios["portfolio"].values) == {
        "Equal weights",
        "Value weights",
        "Best fifth by mean",
        "Best fifth less worst fifth",
        "Least variance, long and short",
    }
    assert facts.parts["part"].sum() == pytest.approx(1.0)
    assert facts.parts["sd_part"].sum() == pytest.approx(1.0)


def test_a_fall_moves_the_average_asset_to_it(facts: Facts) -> None:
    """One fall on the page: equal weights two standard deviations below their mean."""
    assert facts.ranking["fall"].mean() == pytest.approx(facts.fall, abs=1e-6)
    equal = facts.portfolios.sel(portfolio="Equal weights")
    below = float(equal["mean"] - 2.0 * equal["sd"])
    assert facts.fall == pytest.approx(below, abs=6e-4)
    assert facts.scenarios.loc["Equal weights fall", "given"] == pytest.approx(facts.fall)


def test_a_mean_is_the_same_in_every_table(facts: Facts, fit: rv.Fit, panel: xr.Dataset) -> None:
    """Means by asset, of portfolios, and of the first step ahead have no noise of the draws."""
    equal = facts.portfolios.sel(portfolio="Equal weights")
    mean = facts.ranking["mean"].mean()
    assert float(equal["mean"]) == pytest.approx(mean, abs=1e-7)
    assert facts.horizons.loc[1, "mean"] == pytest.approx(mean, abs=1e-7)
    assert facts.horizons.loc[1, "var"] == pytest.approx(float(equal["var"].sel(tail=0.05)))
    tree = fit.forecast(panel, seed=4, times=[facts.live])
    drawn = rv.risk.portfolio(tree, facts.weights).to_dataset().isel(time=0)
    assert abs(float(drawn["mean"]) - mean) > 1e-6
    assert float(drawn["sd"]) == pytest.approx(float(equal["sd"]))


def test_months_are_sorted_by_what_the_fit_did_with_them(fit: rv.Fit, panel: xr.Dataset) -> None:
    spans = spans_of(fit, panel)
    assert [len(each) for each in (spans.train, spans.valid, spans.test)] == [20, 6, 13]
    assert spans.kind == "test"
    assert spans.judged[0] == panel["time"].values[26]
    short = spans_of(fit, panel.isel(time=slice(0, 30)))
    assert (short.kind, len(short.judged)) == ("valid", 10)
    assert spans_of(fit, panel.isel(time=slice(0, 20))).kind == "none"
    assert len(spans_of(fit, panel.isel(time=slice(22, None))).train) == 0


def test_judged_months_are_those_of_the_backtest(facts: Facts, panel: xr.Dataset) -> None:
    judged = facts.judged
    assert judged is not None
    pit = judged.backtest["asset"]["pit"]
    np.testing.assert_array_equal(pit["time"], panel["time"][26:39])
    observed = panel["returns"].isel(time=slice(26, 39)).notnull()
    assert int(pit.notnull().sum()) == int((observed & rv.data.listed(panel)[26:39]).sum())
    known = pit.values[np.isfinite(pit.values)]
    by_cells = judged.by_year["coverage"].to_numpy()
    assert by_cells.min() <= (np.abs(known - 0.5) <= 0.45).mean() <= by_cells.max()
    assert judged.by_year["months"].sum() == 13


def test_measures_are_those_of_the_evaluation(facts: Facts, fit: rv.Fit, panel: xr.Dataset) -> None:
    assert facts.judged is not None
    measures = {each.label: each for each in facts.judged.measures}
    months = facts.spans.judged
    draws = fit.forecast(panel, seed=4, times=months)["predictions"]["returns"]
    returns = panel["returns"].sel(time=months)
    crps = rv.evaluation.crps(returns, draws, standard_error=True)
    assert measures["CRPS, %"].own == pytest.approx(float(crps["estimate"]))
    assert measures["CRPS, %"].own_error == pytest.approx(float(crps["standard_error"]))
    past = panel.isel(time=slice(0, 26))
    rival = rv.baselines.IPCA(2, constant=True).fit(past, seed=4)
    theirs = rival.reconstruct(panel).sel(time=months)
    total = measures["Total R², %"]
    assert total.other == pytest.approx(float(rv.evaluation.total_r2(returns, theirs)))
    assert total.difference == pytest.approx(total.own - total.other)
    for each in measures.values():
        assert np.isfinite([each.difference, each.difference_error, each.other_error]).all()
        assert each.difference_error > 0


@pytest.mark.parametrize(
    ("own", "other", "error", "better", "verdict"),
    [
        (0.5, 0.4, 0.2, "high", "no difference that these months can show"),
        (0.5, 0.4, 0.01, "high", "this model better"),
        (0.5, 0.4, 0.01, "low", "IPCA better"),
        (0.97, 0.92, 0.01, "near", "IPCA better"),
        (0.87, 0.82, 0.01, "near", "this model better"),
        # on both sides of 0.9 it is the distances that count: 0.018 against 0.008
        (0.918, 0.892, 0.01, "near", "no difference that these months can show"),
        (0.97, 0.88, 0.01, "near", "IPCA better"),
        (0.5, 0.4, float("nan"), "high", "no difference that these months can show"),
    ],
)
def test_verdicts(own: float, other: float, error: float, better: str, verdict: str) -> None:
    measure = Measure("x", "y", own, error, other, error, own - other, error, better)  # type: ignore[arg-type]
    assert measure.verdict == verdict


def measure(label: str, difference: float, error: float, better: str) -> Measure:
    return Measure(label, "", 0.5 + difference, 0.1, 0.5, 0.1, difference, error, better)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("measures", "verdict", "words"),
    [
        (
            [("CRPS, %", 0.1, 0.01, "low")],
            "look",
            "No, IPCA is better. CRPS: 0.600 against 0.500 %",
        ),
        ([("CRPS, %", -0.1, 0.01, "low")], "good", "Yes, it is better than IPCA. CRPS: 0.400"),
        ([("QLIKE", -5.5, 0.1, "low")], "good", "QLIKE: −5.000 against 0.500 (standard error of"),
        ([("CRPS, %", 0.1, 0.09, "low")], "good", "No difference that these months can show"),
        (
            [("CRPS, %", -0.1, 0.01, "low"), ("Rank correlation", -0.2, 0.05, "high")],
            "look",
            "IPCA is better. Rank correlation",
        ),
        # fit, no foresight: that IPCA fits the months better is no verdict on forecasts
        (
            [("CRPS, %", 0.1, 0.09, "low"), ("Total R², %", -0.2, 0.01, "high")],
            "good",
            "No difference",
        ),
    ],
)
def test_the_verdict_against_ipca(
    measures: list[tuple[str, float, float, str]], verdict: str, words: str
) -> None:
    finding = check_rival([measure(*each) for each in measures])
    assert finding.verdict == verdict
    assert words in finding.answer
    assert bool(finding.remedy) == (verdict != "good")


def test_the_verdict_against_ipca_reaches_the_summary(facts: Facts) -> None:
    assert facts.judged is not None
    questions = [each.question for each in facts.check.findings]
    assert [each.question for each in facts.judged.findings] == questions[-2:]
    assert all("IPCA believable" not in each for each in questions)
    worse = check_rival([measure("CRPS, %", 0.1, 0.01, "low")])
    passed = [dataclasses.replace(each, verdict="good") for each in facts.check.findings[:-2]]
    lost = dataclasses.replace(
        facts, check=rv.diagnostics.Check([*passed, worse], facts.check.limits)
    )
    kind, sentence = trust(lost)
    assert kind == "look"
    assert "as well as IPCA" in sentence


def test_risk_is_held_against_an_ewma(facts: Facts, fit: rv.Fit, panel: xr.Dataset) -> None:
    assert facts.judged is not None
    measures = {each.label: each for each in facts.judged.risk}
    months, returns = facts.spans.judged, panel["returns"].sel(time=facts.spans.judged)
    ewma = rv.baselines.EWMA().fit(panel.isel(time=slice(0, 26)), seed=4)
    count = (returns.notnull() & rv.data.listed(panel).sel(time=months)).sum("asset")
    joint = measures["Joint log density, nats per return"]
    for value, model in ((joint.own, fit), (joint.other, ewma)):
        evidence = model.log_evidence(panel, 1000, 4).sel(time=months)
        assert value == pytest.approx(float((evidence / count).mean()))
    size = measures["QLIKE of equal weights"]
    weights = returns.notnull() / returns.notnull().sum("asset")
    book = ewma.portfolio(panel, weights)
    exact = 2 * np.log(book["sd"].to_numpy()) + ((book["return"] - book["mean"]) / book["sd"]) ** 2
    assert size.other == pytest.approx(float(exact.mean()), abs=0.2)  # 1,000 draws of 13 months
    for each in measures.values():
        assert each.rival == "EWMA"
        assert np.isfinite([each.difference, each.difference_error]).all()
    assert "EWMA" in check_risk([dataclasses.replace(joint, difference=-1.0)]).answer
    good = dataclasses.replace(joint, difference=1.0, difference_error=0.1)
    assert check_risk([good]).verdict == "good"


def test_skill_is_judged_on_the_months_after_the_training(facts: Facts) -> None:
    finding = next(f for f in facts.check.findings if f.question == "Is the skill believable?")
    assert "; 19 months, 6 of them validation)" in finding.answer  # and 13 of the test
    inside = next(f for f in facts.check.findings if "calibrated" in f.question)
    assert "19 months, 6 of them validation)" in inside.answer


def test_fifths_hold_the_ends() -> None:
    values = np.array([[3.0, 1.0, np.nan, 2.0, 5.0, 4.0], [np.nan] * 6])
    mean = xr.DataArray(values, {"time": [0, 1], "asset": list("abcdef")}, ("time", "asset"))
    high, low = fifths(mean)
    assert high[0].to_series().to_dict() == dict.fromkeys("abcdf", 0.0) | {"e": 1.0}
    assert low[0].to_series().to_dict() == dict.fromkeys("acdef", 0.0) | {"b": 1.0}
    assert not high[1].any()
    many = xr.DataArray(np.arange(23.0)[None], dims=("time", "asset"))
    assert int((fifths(many)[0] > 0).sum()) == 4


def test_a_panel_without_the_training_months(fit: rv.Fit, panel: xr.Dataset) -> None:
    """No IPCA then, and the reason is told; the rest stands."""
    late = gather(fit, panel.isel(time=slice(22, None)), panel)
    assert late.judged is not None
    assert late.judged.measures == late.judged.risk == []
    assert late.judged.risk_missing == late.judged.missing
    assert "does not hold all months" in late.judged.missing
    early = gather(fit, panel.isel(time=slice(0, 20)), panel)
    assert early.judged is None
    assert not early.waiting


def test_nothing_listed_is_refused(fit: rv.Fit, panel: xr.Dataset) -> None:
    empty = panel.copy(deep=True)
    empty["characteristics"][:] = np.nan
    with pytest.raises(rv.PanelError, match="no asset is listed"):
        gather(fit, empty, empty)


def test_sensitivity_is_sorted_by_effect(facts: Facts) -> None:
    assert list(facts.sensitivity.columns) == ["slope", "effect"]
    assert facts.sensitivity["effect"].is_monotonic_decreasing
    assert isinstance(facts.sensitivity, pd.DataFrame)
    assert (facts.sensitivity["effect"] >= 0).all()


def test_changes_since_the_last_month(facts: Facts, fit: rv.Fit, panel: xr.Dataset) -> None:
    months = panel["time"].values[-2:]
    assert facts.before == months[0]
    tree = fit.forecast(panel, seed=4, times=months)
    sd = tree["predictions"]["returns"].std(("chain", "draw"))
    moved = facts.moved
    np.testing.assert_allclose(moved["sd_now"], sd[1].to_series().loc[moved.index], rtol=1e-6)
    np.testing.assert_allclose(moved["sd_before"], sd[0].to_series().loc[moved.index], rtol=1e-6)
    size = (moved["sd_now"] - moved["sd_before"]).abs()
    assert size.is_monotonic_decreasing
    if not facts.changed.empty:
        equal = facts.portfolios.sel(portfolio="Equal weights")
        assert facts.changed.loc["sd", "now"] == pytest.approx(float(equal["sd"]))


def test_groups_add_up_to_the_portfolio(facts: Facts) -> None:
    groups = facts.groups
    assert groups is not None
    assert groups.index.name == "industry"
    assert groups["assets"].sum() == len(facts.ranking)
    assert groups["weight"].sum() == pytest.approx(1.0)
    assert groups["part"].sum() == pytest.approx(1.0)
    means = facts.ranking.groupby("industry")["mean"].mean()
    np.testing.assert_allclose(groups["mean"], means.loc[groups.index], rtol=1e-8)


def test_scenarios_move_the_portfolio_to_what_is_given(facts: Facts) -> None:
    fall, rise = facts.scenarios.iloc[0], facts.scenarios.iloc[1]
    assert facts.scenarios.index[0] == "Equal weights fall"
    # the portfolio that is held has equal weights: it returns what is given
    assert fall["mean"] == pytest.approx(fall["given"], abs=1e-9)
    assert rise["mean"] == pytest.approx(rise["given"], abs=1e-9)
    assert fall["given"] < 0 < rise["given"]
    assert fall["sd"] == pytest.approx(0.0, abs=1e-9)


def test_ranks_need_a_past_that_supports_them(facts: Facts) -> None:
    assert facts.judged is not None
    skilled = xr.Dataset({"estimate": 0.3, "standard_error": 0.1})
    judged = dataclasses.replace(facts.judged, rank_ic=skilled)
    better = dataclasses.replace(facts, judged=judged)
    assert better.ranked
    assert not dataclasses.replace(facts, judged=None).ranked
    heads = [column.head for column in forecast_sections(better)["ranking"].columns]
    assert "Rank" in heads
    plain = [column.head for column in forecast_sections(facts)["ranking"].columns]
    assert "Rank" not in plain
    assert any("Highest mean" in line for line in forecast_sections(better)["short"])


def test_dead_factors_are_one_sentence(facts: Facts) -> None:
    assert facts.alive == [0, 1]
    assert forecast_sections(facts)["dead"] == ""
    shares = facts.factors["share"].copy(data=[0.999, 0.001])
    dead = dataclasses.replace(facts, factors=facts.factors.assign(share=shares))
    assert dead.alive == [0]
    assert forecast_sections(dead)["dead"] == (
        "Factor 2 carries less than half a percent of the common variation and is not shown."
    )
    assert len(forecast_sections(dead)["profile"].rows) == 1
    made = forecast_sections(dead)["made_of"]
    assert [column.head for column in made.columns] == [
        "Asset", "Factor 1", "Other factors", "Sum"
    ]  # fmt: skip
    assert [row[-1] for row in made.rows] == [
        row[-1] for row in forecast_sections(facts)["made_of"].rows
    ]


def test_effects_by_asset_are_named(facts: Facts) -> None:
    assert "learned how 4 characteristics of each asset" in forecast_sections(facts)["fitted"]
    loadings = rv.loadings.AssetEffects(rv.loadings.Linear(4, 2), ["a", "b"])
    model = rv.RVRAE(4, 2, loadings=loadings)
    other = dataclasses.replace(facts, fit=dataclasses.replace(facts.fit, model=model))
    text = forecast_sections(other)["fitted"]
    assert "effects by asset in addition to a map from 4 characteristics" in text
    assert "learned how" not in text


def test_the_portfolio_comes_first_then_the_verdict(facts: Facts) -> None:
    page = write_page(facts)
    lead = page.index('<p class="lead">')
    assert page[lead:].startswith('<p class="lead">An equally weighted portfolio')
    verdict = validation_sections(facts)["verdict"]["sentence"]
    assert lead < page.index(verdict) < page.index("The range of mean forecasts")


@pytest.mark.parametrize(("source", "said"), [("", "not stated"), ("mine.csv", "mine.csv")])
def test_the_source_of_the_panel_is_never_blank(facts: Facts, source: str, said: str) -> None:
    panel = facts.panel.assign_attrs(source=source)
    again = validation_sections(dataclasses.replace(facts, panel=panel))["again"]
    assert again["Source of the panel"] == said


def test_a_given_portfolio_is_backtested_with_the_weights_of_today(
    fit: rv.Fit, panel: xr.Dataset
) -> None:
    live = rv.data.listed(panel).isel(time=-1)
    always = rv.data.listed(panel)[-14:].all("time") & live
    weights = pd.Series(0.0, panel["asset"].values)
    weights[always["asset"].values[always.values][:2]] = 0.5
    found = gather(fit, panel, panel, seed=4, given={"Mine": weights})
    assert found.held == "Mine"
    assert found.judged is not None
    assert "Mine" in found.judged.backtest["portfolio"]["portfolio"].values
    assert set(found.parts.index) == set(weights.index[weights > 0])


def test_horizons_are_those_of_the_paths(facts: Facts) -> None:
    assert facts.paths is not None
    assert facts.horizons.index.tolist() == [1, 3, 6, 12]
    drawn = rv.risk.portfolio_draws(facts.paths, facts.weights).isel(time=0)
    sd = drawn.std(("chain", "draw")).sel(step=[1, 3, 6, 12])
    np.testing.assert_allclose(facts.horizons["sd"], sd, rtol=1e-6)
    assert facts.horizons["sd"].is_monotonic_increasing
