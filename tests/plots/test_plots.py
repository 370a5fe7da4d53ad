"""Every picture on small inputs: axes, units, labels that do not overlap, and misuse."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

import rvrae_pyro as rv

N_TIMES, N_DRAWS = 30, 200
TIMES = pd.date_range("2000-01-31", periods=N_TIMES, freq="ME").astype("datetime64[ns]").values
ASSETS = [f"a{i}" for i in range(5)]
RANDOM = np.random.default_rng(0)
OVER = ("chain", "draw", "time", "asset")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def _forecast() -> xr.DataTree:
    beta = RANDOM.normal(0.05, 0.01, (N_TIMES, 5, 2))
    factors = RANDOM.normal(size=(1, N_DRAWS, N_TIMES, 2))
    noise = 0.03 * RANDOM.normal(size=(1, N_DRAWS, N_TIMES, 5))
    returns = np.einsum("tnk,cdtk->cdtn", beta, factors) + noise
    coords = {"time": TIMES, "asset": ASSETS, "factor": [1, 2]}
    draws = {"returns": (OVER, returns), "factors": (("chain", "draw", "time", "factor"), factors)}
    constants = {"beta": (("time", "asset", "factor"), beta)}
    return xr.DataTree.from_dict(
        {
            "predictions": xr.Dataset(draws, coords),
            "predictions_constant_data": xr.Dataset(constants, coords),
        }
    )


def _steps(horizon: int = 6) -> xr.DataTree:
    size = (1, N_DRAWS, horizon, 1, 5)
    returns = 0.04 * RANDOM.normal(size=size)
    over = ("chain", "draw", "step", "time", "asset")
    coords = {"step": np.arange(1, horizon + 1), "time": TIMES[-1:], "asset": ASSETS}
    both = {"returns": (over, returns), "compounded_returns": (over, (1 + returns).cumprod(2) - 1)}
    return xr.DataTree.from_dict({"predictions": xr.Dataset(both, coords)})


TREE = _forecast()
STEPS = _steps()
PANEL = xr.Dataset(
    {"returns": (("time", "asset"), 0.07 * RANDOM.normal(size=(N_TIMES, 5)))},
    {"time": TIMES, "asset": ASSETS, "name": ("asset", [f"Asset {i}" for i in range(5)])},
)
BACKTEST = rv.risk.backtest(TREE, PANEL, tail=(0.05,), num_simulations=100)
HISTORY = pd.DataFrame(
    {
        "step": [10, 20, 30, 40],
        "elbo": [10.0, 90.0, 100.0, 104.0],
        "log_likelihood": [40.0, 110.0, 118.0, 120.0],
        "kl": [30.0, 20.0, 18.0, 16.0],
        "valid_elbo": [1.0, 9.0, 11.0, 10.5],
    }
)
KL = xr.DataArray(
    RANDOM.random((4, N_TIMES)), {"step": HISTORY["step"], "time": TIMES}, ("step", "time")
)
FIT = SimpleNamespace(
    history=HISTORY, kl_total=KL, best_step=30, attrs={"n_train_returns": 50, "n_valid_returns": 5}
)
FACTORS = xr.Dataset(
    {"factors": (("chain", "draw", "time", "factor"), RANDOM.normal(size=(1, 50, N_TIMES, 2)))},
    {"time": TIMES, "factor": [1, 2]},
)


def _hyper(num_draws: int = 300) -> xr.DataTree:
    groups = {}
    for name, shape in (("prior", (2.0, 2.0)), ("posterior", (20.0, 6.0))):
        one = (("chain", "draw"), RANDOM.beta(*shape, (1, num_draws)))
        many = (("chain", "draw", "factor"), RANDOM.beta(*shape, (1, num_draws, 2)))
        values = {"factor_prior.persistence": one, "factor_prior.coefficient": many}
        groups[name] = xr.Dataset(values, {"factor": [1, 2]})
    return xr.DataTree.from_dict(groups)


def _relevance(num_draws: int = 50) -> xr.DataTree:
    share = RANDOM.dirichlet(np.arange(1, 5), (1, num_draws))
    over = ("chain", "draw", "characteristic")
    data = {"share": (over, share), "relevance": (over, share**0.5)}
    coords = {"characteristic": ["size", "value", "momentum", "beta"]}
    return xr.DataTree.from_dict({"posterior": xr.Dataset(data, coords)})


SCORES = {
    name: xr.DataArray(value + RANDOM.normal(size=N_TIMES), {"time": TIMES}, "time")
    for name, value in (("best", 3.0), ("middle", 2.0), ("worst", 1.0))
}
TABLE = rv.evaluation.compare(SCORES)
HYPER, RELEVANCE = _hyper(), _relevance()

# picture, its labels (x, y) or those of its first panel, and how many panels it has
CASES: dict[str, tuple[Callable[..., Any], str, str, int]] = {
    "factors": (lambda **k: rv.plots.factors(FACTORS, **k), "", "factor units", 2),
    "forecast": (
        lambda **k: rv.plots.forecast(TREE, PANEL, **k),
        "excess return, % per month",
        "asset",
        1,
    ),
    "fan": (lambda **k: rv.plots.fan(STEPS, **k), "months ahead", "compounded excess return, %", 1),
    "volatility": (
        lambda **k: rv.plots.volatility(TREE, PANEL, **k),
        "month",
        "standard deviation,\n% per month",
        1,
    ),
    "calibration": (
        lambda **k: rv.plots.calibration(TREE, PANEL, **k),
        "probability integral transform",
        "density",
        2,
    ),
    "training": (lambda **k: rv.plots.training(FIT, **k), "gradient step", "nats per return", 1),
    "elbo": (lambda **k: rv.plots.elbo(FIT, **k), "", "nats per return", 2),
    "risk_split": (
        lambda **k: rv.plots.risk_split(TREE, **k),
        "share of the forecast variance, %",
        "asset",
        1,
    ),
    "var_backtest": (
        lambda **k: rv.plots.var_backtest(BACKTEST, **k),
        "month",
        "excess return, % per month",
        1,
    ),
    "prior_posterior": (
        lambda **k: rv.plots.prior_posterior(HYPER, **k),
        "persistence (factor prior)",
        "density",
        3,
    ),
    "comparison": (
        lambda **k: rv.plots.comparison(TABLE, **k),
        "log score less that of best, nats per month",
        "model",
        1,
    ),
    "relevance": (
        lambda **k: rv.plots.relevance(RELEVANCE, **k),
        "share of the squared slopes of the loadings, %",
        "characteristic",
        1,
    ),
}


def test_the_functions_are_those_of_the_interface() -> None:
    assert sorted(rv.plots.__all__) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_new_figure_has_labels_with_units(name: str) -> None:
    draw, x, y, panels = CASES[name]
    result = draw()
    assert isinstance(result, Axes if panels == 1 else Figure)
    figure = result.figure if isinstance(result, Axes) else result
    first = figure.axes[0]
    assert (first.get_xlabel(), first.get_ylabel()) == (x, y)
    shown = [
        axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"
    ]
    assert len(shown) == panels
    for axes in shown:
        assert axes.get_ylabel()
    assert shown[-1].get_xlabel()
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("name", CASES)
def test_given_axes_are_drawn_on(name: str) -> None:
    draw, _, y, panels = CASES[name]
    if name == "prior_posterior":
        _, grid = plt.subplots(1, panels)
        assert draw(ax=grid) is grid[0].figure
        assert grid[0].get_ylabel() == y
        with pytest.raises(rv.ConfigError, match=r"`ax` must be 3 Axes for 3 panels, got 1"):
            draw(ax=grid[0])
    else:
        figure, (left, right) = plt.subplots(1, 2)
        assert draw(ax=left) is left
        assert left.get_ylabel() == y
        assert left.get_xlabel()
        assert not right.has_data()
        assert [axes for axes in figure.axes if axes not in (left, right)] == []
    assert len(plt.get_fignums()) == 1
    with pytest.raises(rv.ConfigError, match="`ax` must be"):
        draw(ax="left")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("style", ["light", "dark"])
def test_texts_are_readable_and_apart(name: str, style: str) -> None:
    """Text contrasts with what is behind it, lies inside the figure, and covers no other text."""
    result = CASES[name][0](style=style)
    figure = result.figure if isinstance(result, Axes) else result
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]
    whole = figure.bbox
    boxes = [(text, text.get_window_extent()) for text in _texts(figure)]
    for text, box in boxes:
        assert _contrast(text.get_color(), figure.get_facecolor()) > 4.5, text
        assert min(box.x0 - whole.x0, whole.x1 - box.x1) > -1, text
    for i, (one, a) in enumerate(boxes):
        for other, b in boxes[i + 1 :]:
            apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
            assert apart, (one, other)


def _texts(figure: Figure) -> list[Text]:
    """Texts that are drawn."""
    found: list[Text] = list(figure.texts)
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]  # type: ignore[attr-defined]
        found += list(axes.texts)
        legend = axes.get_legend()
        if legend is not None:
            found += legend.get_texts()
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            places = axis.get_majorticklocs()
            pairs = zip(axis.get_ticklabels(), places, strict=False)
            found += [text for text, at in pairs if low - 1e-9 <= at <= high + 1e-9]
            found.append(axis.get_offset_text())
    return [text for text in found if text.get_text() and text.get_visible()]


def _contrast(front: Any, back: Any) -> float:
    """Contrast ratio of WCAG 2."""

    def luminance(colour: Any) -> float:
        parts = [int(to_hex(colour)[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(front), luminance(back)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_follow_the_settings_of_matplotlib() -> None:
    with plt.style.context("dark_background"):
        axes = rv.plots.training(HISTORY)
    assert to_hex(axes.xaxis.label.get_color()) == "#ffffff"
    assert to_hex(axes.get_facecolor()) == "#000000"
    light = rv.plots.training(HISTORY)
    assert to_hex(light.xaxis.label.get_color()) == "#000000"
    assert to_hex(axes.lines[0].get_color()) != to_hex(light.lines[0].get_color())
    assert plt.rcParams["axes.facecolor"] == "white"
    with pytest.raises(rv.ConfigError, match="`style` must be 'light', 'dark' or None"):
        rv.plots.training(HISTORY, style="sepia")  # type: ignore[arg-type]


def test_forecast_shows_quantiles_names_and_groups() -> None:
    axes = rv.plots.forecast(TREE, PANEL, time="2001-03", groups=dict.fromkeys(ASSETS[:2], "big"))
    draws = TREE["predictions/returns"].sel(time="2001-03-31").values[0]
    order = np.argsort(draws.mean(axis=0))
    assert [t.get_text() for t in axes.get_yticklabels()] == [f"Asset {i}" for i in order]
    ends = axes.collections[0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, 100 * np.quantile(draws[:, order[0]], (0.05, 0.95)))
    assert axes.get_title(loc="left") == "Forecast for March 2001"
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()][:2] == ["big", "other"]
    few = rv.plots.forecast(TREE, max_assets=4)
    assert len(few.get_yticks()) == 4
    assert few.get_title(loc="left").endswith("4 of 5 assets")


def test_fan_compounds_a_portfolio_and_one_asset() -> None:
    returns = STEPS["predictions/returns"].isel(time=0).values[0]  # draw, step, asset
    axes = rv.plots.fan(STEPS)
    expected = np.median(((1 + returns).cumprod(1) - 1).mean(-1), axis=0)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.r_[0, 100 * expected])
    one = rv.plots.fan(STEPS, asset="a3")
    expected = np.median((1 + returns[..., 3]).cumprod(1) - 1, axis=0)
    np.testing.assert_allclose(one.lines[0].get_ydata(), np.r_[0, 100 * expected])
    weights = pd.Series([1.0, -1.0, 0.0, 0.0, 0.0], ASSETS)
    spread = rv.plots.fan(STEPS, weights=weights, compounded=False)
    expected = np.median(returns[..., 0] - returns[..., 1], axis=0)
    np.testing.assert_allclose(spread.lines[0].get_ydata(), 100 * expected)
    assert spread.get_ylabel() == "excess return, % per month"


def test_fan_of_a_fit_asks_for_the_horizon() -> None:
    asked: list[dict[str, Any]] = []

    def forecast(panel: xr.Dataset, **keywords: Any) -> xr.DataTree:
        asked.append(keywords)
        return STEPS

    rv.plots.fan(SimpleNamespace(forecast=forecast), PANEL, horizon=6)
    assert asked[0]["horizon"] == 6
    assert asked[0]["times"] == [TIMES[-1]]


def test_volatility_is_that_of_the_draws() -> None:
    returns = PANEL["returns"].copy()
    returns[4, 2] = np.nan
    axes = rv.plots.volatility({"one": TREE, "two": TREE}, returns)
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    drawn = np.delete(TREE["predictions/returns"].values[0, :, 4], 2, axis=1).mean(-1)
    assert lines["one"][4] == pytest.approx(100 * drawn.std())
    months = returns.mean("asset").values[4:16]
    np.testing.assert_allclose(lines["realised, 12 months around"][10],
                               100 * np.sqrt((months**2).mean()))  # fmt: skip
    np.testing.assert_allclose(lines["one"], lines["two"])
    size = rv.plots.volatility(TREE, returns, quantity="cross_section", marks={"test": TIMES[20]})
    assert "root mean square" in size.get_ylabel()


def test_backtest_marks_losses_beyond_var() -> None:
    axes = rv.plots.var_backtest(BACKTEST)
    held = BACKTEST["portfolio"].to_dataset().isel(portfolio=0, tail=0)
    count = int(held["exceptions"])
    assert (
        f": {count or 'no'} losses beyond the 5 % VaR in {N_TIMES} months, 1.5"
        in axes.get_title("left")
    )
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    assert len(lines["loss beyond VaR"]) == count
    np.testing.assert_allclose(lines["VaR 5 %"], -100 * held["var"].values)
    assert (lines["ES 5 %"] <= lines["VaR 5 %"]).all()
    direct = rv.plots.var_backtest(TREE, PANEL)
    assert direct.get_title("left") == axes.get_title("left")
    assert isinstance(rv.plots.calibration(BACKTEST), Figure)


def test_backtest_of_given_weights() -> None:
    assets = [str(name) for name in PANEL["asset"].values]
    one = pd.Series(0.0, assets)
    one[assets[0]] = 1.0
    axes = rv.plots.var_backtest(TREE, PANEL, weights=one)
    same = rv.plots.var_backtest(TREE, PANEL, portfolios={"mine": one})
    lines = [{e.get_label(): np.asarray(e.get_ydata()) for e in a.lines} for a in (axes, same)]
    np.testing.assert_array_equal(lines[0]["VaR 5 %"], lines[1]["VaR 5 %"])
    equal = rv.plots.var_backtest(TREE, PANEL)
    others = {each.get_label(): np.asarray(each.get_ydata()) for each in equal.lines}
    assert (lines[0]["VaR 5 %"] != others["VaR 5 %"]).any()
    with pytest.raises(rv.ConfigError, match="`weights` exclude `portfolios`"):
        rv.plots.var_backtest(TREE, PANEL, weights=one, portfolios={"mine": one})
    with pytest.raises(rv.ConfigError, match="`weights` exclude a backtest"):
        rv.plots.var_backtest(BACKTEST, weights=one)


def test_risk_split_adds_up() -> None:
    axes = rv.plots.risk_split(TREE, time="2001-03")
    first, second = axes.containers
    widths = [a.get_width() + b.get_width() for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(widths, 100.0)
    over = rv.plots.risk_split(rv.risk.summarize(TREE, tail=0.5), by="time")
    assert "forecast variance, %" in over.get_ylabel()


def test_few_draws_become_a_distribution_function() -> None:
    few = rv.plots.prior_posterior(_hyper(40), var_names="factor_prior.persistence")
    assert isinstance(few, Axes)
    assert few.get_ylabel() == "cumulative probability"
    y = np.asarray(few.lines[0].get_ydata())
    assert (np.diff(y) > 0).all()
    assert y[-1] == 1.0


def test_parameters_are_named_in_words_and_posteriors_end_at_zero() -> None:
    figure = rv.plots.prior_posterior(HYPER)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[1:] == ["coefficient 1 (factor prior)", "coefficient 2 (factor prior)"]
    for axes in figure.axes:  # never outside what the prior allows
        x, _ = np.asarray(axes.lines[1].get_data())
        assert 0.0 <= x[0] < x[-1] <= 1.0
    groups = {
        name: xr.Dataset({"ar": (("chain", "draw"), RANDOM.normal(*law, (1, 300)))})
        for name, law in {"prior": (0.0, 1.0), "posterior": (0.2, 0.1)}.items()
    }
    axes = rv.plots.prior_posterior(xr.DataTree.from_dict(groups))
    x, height = np.asarray(axes.lines[1].get_data())
    assert height[[0, -1]].max() < 0.01 * height.max()
    assert axes.get_xlim()[0] <= x[0] < x[-1] <= axes.get_xlim()[1]


def test_a_state_kept_at_the_last_step_is_seen() -> None:
    for best, apart in ((30, False), (int(HISTORY["step"].iloc[-1]), True)):
        axes = rv.plots.training(SimpleNamespace(**{**vars(FIT), "best_step": best}))
        kept = next(line for line in axes.lines if line.get_label() == "kept state")
        place = float(np.asarray(kept.get_xdata())[0])
        assert place == best
        assert place < axes.get_xlim()[1]
        assert (axes.get_xlim()[1] > HISTORY["step"].iloc[-1]) == apart


def test_the_heat_map_takes_at_most_half_of_its_picture() -> None:
    figure = rv.plots.elbo(FIT)
    figure.canvas.draw()
    top, below = (axes.get_position().height for axes in figure.axes[:2])
    assert below < top
    assert below <= 0.5


def test_a_comparison_without_a_significant_difference_says_so() -> None:
    assert "No difference" not in rv.plots.comparison(TABLE).get_title("left")
    noise = xr.DataArray(np.random.default_rng(3).normal(size=N_TIMES), {"time": TIMES}, "time")
    same = rv.evaluation.compare({"one": SCORES["best"], "two": SCORES["best"] + noise})
    title = rv.plots.comparison(same).get_title("left")
    assert title.endswith("No difference exceeds two standard errors")


def test_relevance_states_what_all_characteristics_move() -> None:
    group = RELEVANCE["posterior"].to_dataset()
    for share, words in (
        (0.1234, "Together they move 12 % of the common variance"),
        (1e-6, "No characteristic moves the loadings (less than 0.01 % of the common variance)"),
    ):
        data = group.assign(common_share=("chain", [share]))
        axes = rv.plots.relevance(xr.DataTree.from_dict({"posterior": data}))
        assert words in axes.get_title("left")
        assert axes.get_legend() is not None
    assert "common variance" not in rv.plots.relevance(RELEVANCE).get_title("left")


def test_relevance_has_a_legend_only_for_intervals() -> None:
    """Draws that are all the same, of weights without a posterior, have no interval."""
    group = RELEVANCE["posterior"].to_dataset()
    fixed = group.isel(draw=[0] * 50).assign_coords(draw=np.arange(50))
    axes = rv.plots.relevance(xr.DataTree.from_dict({"posterior": fixed}))
    assert axes.get_legend() is None
    assert not axes.collections


def test_factors_that_carry_nothing_are_not_drawn() -> None:
    beta = TREE["predictions_constant_data/beta"].copy()
    beta[{"factor": 1}] *= 1e-3
    filtered = SimpleNamespace(
        factors=lambda kind: FACTORS.assign_attrs(kind=kind), loadings=lambda: beta, panel=PANEL
    )
    axes = rv.plots.factors(filtered)
    assert isinstance(axes, Axes)
    assert "100.0 %" in axes.get_title("left") or "mean and 90 % band" in axes.get_title("left")
    _, given = plt.subplots(2)
    rv.plots.factors(filtered, ax=given)  # one for each: all are drawn
    assert all(each.lines for each in given)


def test_cumulative_scores_are_against_the_reference() -> None:
    axes = rv.plots.comparison(TABLE, kind="cumulative", reference="middle")
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    expected = (SCORES["best"] - SCORES["middle"]).cumsum("time")
    np.testing.assert_allclose(lines["best"], expected)
    other = rv.plots.comparison(SimpleNamespace(table=TABLE), reference="worst")
    assert "less that of worst" in other.get_xlabel()
    frame = TABLE.drop_dims("time").to_dataframe()
    assert rv.plots.comparison(frame).get_yticks().tolist() == [2, 1, 0]


def test_factors_of_a_filtered_panel_are_principal_and_scaled() -> None:
    beta = TREE["predictions_constant_data/beta"]
    filtered = SimpleNamespace(
        factors=lambda kind: FACTORS.assign_attrs(kind=kind), loadings=lambda: beta, panel=PANEL
    )
    figure = rv.plots.factors(filtered, kind="predicted", marks={"test": TIMES[10]})
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_ylabel() == "% per month"
    assert "of the common variation" in figure.axes[0].get_title("left")
    means = xr.Dataset({"mean": FACTORS["factors"].mean(("chain", "draw"))})
    plain = rv.plots.factors(means.assign(sd=0.1 + 0.0 * means["mean"]))
    assert isinstance(plain, Figure)


WEEKS_AGO = np.timedelta64(7000, "D")
WEEKS = pd.date_range("2000-01-07", periods=N_TIMES, freq="W-FRI").astype("datetime64[ns]").values


def test_weekly_data_are_called_so() -> None:
    weekly = PANEL.assign_coords(time=WEEKS)
    tree = TREE["predictions"].to_dataset().assign_coords(time=WEEKS)
    forecast = xr.DataTree.from_dict({"predictions": tree})
    assert rv.plots.volatility(forecast, weekly).get_ylabel().endswith("% per week")
    assert rv.plots.forecast(forecast).get_xlabel() == "excess return, % per week"


def ewma() -> xr.DataTree:
    """Forecast without factors."""
    only = TREE["predictions"].to_dataset()[["returns"]]
    return xr.DataTree.from_dict({"predictions": only})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rv.plots.forecast(PANEL), "`source` must be a forecast .* got Dataset with"),
        (lambda: rv.plots.forecast(HYPER), "got DataTree with groups .*Pass fit.forecast"),
        (lambda: rv.plots.forecast(TREE, time="1990-01"), "1990-01"),
        (lambda: rv.plots.forecast(TREE, labels="sector"), "`labels` must be a coordinate"),
        (lambda: rv.plots.forecast(TREE, max_assets=1), "`max_assets` must be a whole number"),
        (
            lambda: rv.plots.forecast(SimpleNamespace(forecast=len)),
            "`panel` must be the panel to forecast",
        ),
        (lambda: rv.plots.fan(TREE), r"several steps \(dim `step`\).*horizon=12"),
        (lambda: rv.plots.fan(STEPS, asset="zz"), "`asset` must be one of the 5 assets"),
        (lambda: rv.plots.fan(STEPS, asset="a1", weights=1), "exclude each other"),
        (
            lambda: rv.plots.volatility(TREE, quantity="cross_section"),
            "`panel` must be a panel or its returns",
        ),
        (lambda: rv.plots.volatility(TREE, PANEL, quantity="x"), "`quantity` must be"),
        (lambda: rv.plots.volatility({}, PANEL), "`source` must be one forecast"),
        (
            lambda: rv.plots.volatility(TREE, PANEL.assign_coords(time=TIMES - WEEKS_AGO)),
            "`panel` must have returns in months of the forecast",
        ),
        (lambda: rv.plots.calibration(TREE), "`panel` must be a panel"),
        (lambda: rv.plots.calibration(TREE, PANEL, kind="qq"), "`kind` must be 'pit'"),
        (lambda: rv.plots.training(TREE), "`source` must be a fit or its `history`"),
        (lambda: rv.plots.training(HISTORY[:0]), "at least one epoch"),
        (lambda: rv.plots.elbo(HISTORY[["step", "elbo"]]), "log_likelihood"),
        (lambda: rv.plots.risk_split(PANEL), "rv.risk.summarize"),
        (lambda: rv.plots.risk_split(ewma()), "factors and loadings"),
        (lambda: rv.plots.risk_split(TREE, by="factor"), "`by` must be 'asset' or 'time'"),
        (lambda: rv.plots.var_backtest(BACKTEST, portfolio="mine"), "`portfolio` must be '"),
        (lambda: rv.plots.var_backtest(BACKTEST, tail=0.2), "`tail` must be one of the backtest"),
        (lambda: rv.plots.var_backtest(BACKTEST, tail=2), "`tail` must be in"),
        (lambda: rv.plots.prior_posterior(TREE), "groups `prior` and `posterior`"),
        (lambda: rv.plots.prior_posterior(HYPER, var_names="x"), r"`var_names` must be .*\['x'\]"),
        (lambda: rv.plots.comparison(PANEL), "rv.evaluation.compare"),
        (lambda: rv.plots.comparison(TABLE, reference="x"), "`reference` must be '"),
        (lambda: rv.plots.comparison(TABLE, kind="x"), "`kind` must be"),
        (
            lambda: rv.plots.comparison(TABLE.drop_dims("time"), kind="cumulative"),
            "`source` must have `log_scores`",
        ),
        (lambda: rv.plots.relevance(TREE), "the result of fit.relevance"),
        (lambda: rv.plots.relevance(RELEVANCE, variable="x"), "`variable` must be '"),
        (lambda: rv.plots.factors(TREE), "a fit, a filtered panel, or a Dataset of factors"),
        (lambda: rv.plots.factors(FACTORS, kind="x"), "`kind` must be 'filtered', 'predicted' or"),
        (lambda: rv.plots.factors(FACTORS, principal=True), "`principal` needs"),
        (
            lambda: rv.plots.factors(SimpleNamespace(filter=len)),
            "`panel` must be the panel to filter",
        ),
    ],
)
def test_misuse_is_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(rv.ConfigError, match=message):
        call()
    assert plt.get_fignums() == []


def test_training_of_several_fits_shares_a_picture() -> None:
    axes = rv.plots.training({"one": FIT, "two": FIT})
    assert axes.get_title("left") == "Evidence lower bound, validation months"
    assert axes.get_ylabel() == "nats per return"
    np.testing.assert_allclose(axes.lines[1].get_ydata(), HISTORY["valid_elbo"] / 5)
    plain = rv.plots.training({"one": HISTORY[["step", "elbo"]]})
    assert plain.get_title("left") == "Evidence lower bound, training months"
    with pytest.raises(rv.ConfigError, match="at least one name"):
        rv.plots.training({})


def test_a_tree_alone_is_enough_where_it_holds_the_returns() -> None:
    alone = rv.plots.volatility(TREE)
    assert [line.get_label() for line in alone.lines] == ["predicted"]
    both = xr.DataTree.from_dict(
        {
            "predictions": TREE["predictions"].to_dataset(),
            "observed_data": PANEL[["returns"]].drop_vars("name"),
        }
    )
    assert isinstance(rv.plots.calibration(both), Figure)
    assert len(rv.plots.volatility(both).lines) == 2
    flat = PANEL["returns"].drop_vars("name").stack(obs=["time", "asset"])
    drawn = TREE["predictions/returns"].stack(obs=["time", "asset"])
    coords = {"time": ("obs", flat["time"].values), "asset": ("obs", flat["asset"].values)}
    replicates = xr.DataTree.from_dict(
        {
            "posterior_predictive": xr.Dataset(
                {"returns": (("chain", "draw", "obs"), drawn.values)}, coords
            ),
            "observed_data": xr.Dataset({"returns": ("obs", flat.values)}, coords),
        }
    )
    figure = rv.plots.calibration(replicates, kind="coverage")
    same = rv.plots.calibration(both, kind="coverage")
    assert isinstance(figure, Axes)
    assert isinstance(same, Axes)
    np.testing.assert_allclose(figure.lines[1].get_ydata(), same.lines[1].get_ydata())
