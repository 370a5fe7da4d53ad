"""Variants in one call: fits, scores, statistics, and misuse."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.errors import warn_user
from rvrae_pyro.experiments import Comparison
from tests.experiments.helpers import panel

MARKET = panel()
P = MARKET.sizes["characteristic"]
SPLIT = (20, 6, 10)
PARTS = rv.data.split(MARKET, *SPLIT)
STUDY = MARKET.sel(time=slice(PARTS.train.time[0], None))
CONTEXT = MARKET.sizes["feature"]
FAST = {"max_steps": 2, "num_samples": 200, "progress": False}


@pytest.fixture(scope="module")
def found() -> Comparison:
    variants = {
        "AR1": rv.priors.AR1(2),
        "volatility": rv.priors.CommonVolatility(rv.priors.StandardNormal(2)),
        "EWMA": rv.baselines.EWMA(),
        "whole": rv.RVRAE(P, 2, factor_prior=rv.priors.AR1(2), n_context=CONTEXT),
    }
    return rv.swap(variants, MARKET, split=SPLIT, power_scaling=True, **FAST)


def test_scores_are_those_of_the_fits_on_the_same_months(found: Comparison) -> None:
    assert set(found.table.index) == {"AR1", "volatility", "EWMA", "whole"}
    test = PARTS.test.time
    for name, fit in found.fits.items():
        scores = fit.filter(STUDY, 200, 0).log_evidence().sel(time=test)
        assert found.table.loc[name, "log_score"] == pytest.approx(float(scores.mean()), rel=1e-9)
    direct = rv.evaluation.compare(found.fits, STUDY, times=test, num_samples=200)
    for name in ("difference", "difference_error", "weight", "filter_error"):
        np.testing.assert_allclose(
            found.scores[name], direct[name].sel(model=found.scores["model"]), atol=1e-8
        )
    # an error of the filter only where particles filter
    assert found.table.loc["volatility", "filter_error"] > 0
    assert found.table.loc["EWMA", "filter_error"] == 0
    assert found.table["weight"].sum() == pytest.approx(1.0)


def test_a_part_goes_into_a_default_model(found: Comparison) -> None:
    part = found.fits["AR1"].model
    assert isinstance(part.factor_prior, rv.priors.AR1)
    assert part.n_factors == 2
    # the same as the model written out, whatever came before: fits start from the seed
    np.testing.assert_array_equal(
        found.scores["log_scores"].sel(model="AR1"), found.scores["log_scores"].sel(model="whole")
    )
    original = rv.priors.AR1(2)
    rv.swap({"a": original, "b": original}, MARKET, split=SPLIT, **FAST)
    assert float(original.log_scale.detach().abs().max()) == 0.0  # copies were trained


def test_statistics_side_by_side_and_sensitivity(found: Comparison) -> None:
    table = found.statistics
    assert {"observed", "mean", "sd", "p_value", "p_value_error", "prior_mean"} <= set(table)
    assert "tail_dependence" in table["statistic"].values
    test = PARTS.test
    real = rv.diagnostics.statistics(test["returns"].where(rv.data.listed(test)))
    np.testing.assert_allclose(
        table["observed"].sel(statistic="volatility"), float(real["volatility"])
    )
    assert table["prior_mean"].sel(model="EWMA").isnull().all()
    assert table["prior_mean"].sel(model="AR1", statistic="spread") > 0
    assert "sensitivity" in found.table
    assert np.isnan(found.table.loc["EWMA", "sensitivity"])
    assert found.sensitivity["sensitivity"].dims == ("model", "time", "asset")


def test_shown_in_text_and_html(found: Comparison) -> None:
    text, page = repr(found), found._repr_html_()
    for name in ("AR1", "EWMA", "whole"):
        assert name in text
        assert name in page
    assert page.count("<table") >= 2
    assert text.count("\n") == 1


def test_plot_draws_every_model(found: Comparison) -> None:
    pytest.importorskip("rvrae_pyro.plots")
    axes = found.plot()
    assert {"AR1", "EWMA"} <= {each.get_text() for each in axes.get_yticklabels()}
    found.plot(kind="cumulative")


def test_other_slots_own_statistics_and_failures() -> None:
    def broken(train: xr.Dataset) -> object:
        raise ValueError("no such thing")

    found = rv.swap(
        {"linear": rv.loadings.Linear(P, 2), "mlp": rv.loadings.MLP(P, 2), "broken": broken},
        MARKET,
        split=SPLIT,
        slot="loadings",
        statistics={"worst": lambda r: r.min()},
        config=rv.FitConfig(learning_rate=0.01),
        **FAST,
    )
    assert list(found.statistics["statistic"].values) == ["worst"]
    assert [f.cell.model for f in found.failures] == ["broken"]
    assert "no such thing" in found.failures[0].message
    normal = rv.swap(
        {"normal": rv.likelihoods.Normal(), "t": rv.likelihoods.StudentT()},
        MARKET,
        split=SPLIT,
        slot="likelihood",
        n_factors=2,
        **FAST,
    )
    assert normal.fits["t"].model.n_factors == 2


def test_comparisons_of_experiments_have_the_table() -> None:
    found = rv.experiments.compare(
        MARKET,
        {"EWMA": rv.baselines.EWMA(), "t": rv.baselines.MultivariateT()},
        split=SPLIT,
        num_samples=200,
        progress=False,
    )
    assert set(found.table.index) == {"EWMA", "t"}
    assert found.statistics is None
    alone = rv.experiments.compare(
        MARKET, {"EWMA": rv.baselines.EWMA()}, split=SPLIT, num_samples=200, progress=False
    )
    assert alone.table.empty
    assert "EWMA" in repr(alone)
    with pytest.raises(rv.ConfigError, match="nothing to plot"):
        alone.plot()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"variants": {"one": rv.priors.AR1(2)}}, "two names or more"),
        ({"slot": "prior"}, "`slot` must be 'loadings', "),
        ({"slot": "guide"}, "guide"),
        ({"speed": 3}, "unknown option 'speed'"),
        ({"config": 3}, "`config` must be"),
        ({"max_steps": -1}, "max_steps"),
        ({"num_samples": 5}, "num_samples"),
    ],
)
def test_misuse(given: dict, message: str) -> None:
    variants = {"a": rv.priors.AR1(2), "b": rv.priors.StandardNormal(2)}
    arguments = {"variants": variants, "split": SPLIT, **FAST, **given}
    with pytest.raises(rv.ConfigError, match=message):
        rv.swap(panel=MARKET, **arguments)


def test_a_trained_model_and_only_failures_are_refused() -> None:
    def broken(train: xr.Dataset) -> object:
        raise ValueError("no such thing")

    with pytest.raises(rv.FitError, match="fewer than two variants"):
        rv.swap({"a": broken, "b": broken}, MARKET, split=SPLIT, **FAST)
    model = rv.RVRAE(P, 2)
    rv.fit(model, PARTS.train, config=rv.FitConfig(max_steps=1), progress=False)
    with pytest.raises(rv.ConfigError, match="must be untrained"):
        rv.swap({"a": model, "b": rv.priors.AR1(2)}, MARKET, split=SPLIT, **FAST)


def test_no_validation_months(tmp_path) -> None:
    """A split with 0 of them trains on all months before the test, and the page says so."""
    variants = {"AR1": rv.priors.AR1(2), "none": rv.priors.StandardNormal(2)}
    found = rv.swap(variants, MARKET, split=(26, 0, 10), **FAST)
    assert "valid" not in found.info
    assert found.info["train"][1] < found.info["test"][0]
    assert len(found.table) == 2
    page = found.write(tmp_path / "out").read_text(encoding="utf-8")
    assert "Months: train" in page
    assert "valid" not in page.split("Months:")[1].splitlines()[0]


class Rough(rv.baselines.EWMA):
    """A model whose fit warns, as this package or another does."""

    ours = True

    def fit(self, *arguments: Any, **options: Any) -> Any:
        if self.ours:
            warn_user("months are rough")
        else:
            warnings.warn("of another library", FutureWarning, stacklevel=2)
        return super().fit(*arguments, **options)


class Foreign(Rough):
    ours = False


def test_warnings_name_the_variant_and_the_callers_line() -> None:
    variants = {"smooth": rv.baselines.EWMA(), "rough one": Rough()}
    with pytest.warns(rv.RvraeWarning, match="^variant 'rough one': months are rough$") as caught:
        rv.swap(variants, MARKET, split=SPLIT, **FAST)
    ours = [each for each in caught if issubclass(each.category, rv.RvraeWarning)]
    assert len(ours) == 1
    assert ours[0].filename == __file__
    with pytest.warns(FutureWarning, match="^of another library$"):
        rv.swap({**variants, "rough one": Foreign()}, MARKET, split=SPLIT, **FAST)


def test_the_bar_names_variant_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, object]] = []

    @contextmanager
    def bar(name: str, total: int, wanted: bool) -> Iterator[Callable[..., None]]:
        assert (name, total, wanted) == ("fitting variants", 2, True)
        yield lambda **change: shown.append(change)

    monkeypatch.setattr(import_module("rvrae_pyro.experiments.swap"), "progress_bar", bar)
    epochs: list[int] = []
    rv.swap(
        {"AR1": rv.priors.AR1(2), "EWMA": rv.baselines.EWMA()},
        MARKET,
        split=SPLIT,
        on_check=lambda epoch: epochs.append(epoch.step),
        **{**FAST, "progress": True},
    )
    notes = [str(change["note"]) for change in shown]
    assert notes[0] == "AR1"
    assert f"AR1: step {epochs[-1]}" in notes
    assert "EWMA" in notes
    assert sum(int(str(change.get("advance", 0))) for change in shown) == 2
    assert epochs  # that of the user is called, too
