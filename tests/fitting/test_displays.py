"""Displays: one or two lines of text, and HTML that escapes what comes from data."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro import displays
from rvrae_pyro.diagnostics.check import Check, Finding

CONFIG = rv.FitConfig(max_steps=3)


class _Balance(HTMLParser):
    """Raises where a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(shown: object) -> str:
    page = _Balance()
    page.feed(shown._repr_html_())  # type: ignore[attr-defined]
    assert page.open == []
    return re.sub(r"\s+", " ", page.text)


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return rv.data.simulate_linear_gaussian(8, 24, 2, seed=1)


@pytest.fixture(scope="module")
def fit(panel: xr.Dataset) -> rv.Fit:
    cut = rv.data.split(panel, 18, 3, 3)
    return rv.fit(rv.RVRAE(2, 2), cut.train, cut.valid, config=CONFIG, progress=False)


def test_a_model_shows_its_parts() -> None:
    model = rv.RVRAE(46, 5)
    assert re.match(r"RVRAE\(46 characteristics, 5 factors, [\d,]+ weights\)\n  load", repr(model))
    assert len(repr(model).splitlines()) == 2
    shown = text_of(model)
    for part in ("factor_prior", "Recurrent", "StudentT", "Conjugate", "hidden=32"):
        assert part in shown


def test_a_fit_and_its_filtered_panel(fit: rv.Fit, panel: xr.Dataset) -> None:
    shown = text_of(fit)
    assert "max_steps at step 3, kept step" in shown
    assert "nats per return" in shown
    assert "factor_prior" in shown
    filtered = fit.filter(panel, num_samples=50)
    assert "8" in text_of(filtered)
    assert "smallest effective sample size" in text_of(filtered)
    assert "\n" not in repr(filtered)


def test_an_ensemble_and_a_check(panel: xr.Dataset) -> None:
    ensemble = rv.fit_ensemble(
        lambda: rv.RVRAE(2, 2), panel, seeds=[3, 4], config=CONFIG, progress=False
    )
    assert repr(ensemble).startswith("Ensemble(2 members of 2 factors, seeds 3, 4; saw data to 200")
    assert "factor correlation with chain 0" in text_of(ensemble)
    check = ensemble.check()
    assert re.match(r"Check\(\d+ findings: \d+ good, \d+ look, \d+ bad; trusted=", repr(check))
    assert str(check).startswith("[")
    assert "Did training converge?" in text_of(check)


def test_baselines(panel: xr.Dataset) -> None:
    ewma = rv.baselines.EWMA(decay=0.97)
    assert repr(ewma).startswith("EWMA(decay=0.97, ")
    assert repr(ewma).endswith("(not fitted)")
    assert "fittedno" in text_of(ewma).replace(" ", "")
    ewma.fit(panel)
    assert "not fitted" not in repr(ewma)
    assert "predict, forecast, log_evidence, moments" in text_of(ewma)


def test_what_comes_from_data_is_escaped() -> None:
    bad = "<script>alert(1)</script>"
    check = Check([Finding(bad, "bad", bad, bad)], [bad])
    shown = check._repr_html_() + displays.pairs({bad: bad}) + displays.grid([bad], [[bad]])
    shown += displays.card(bad) + displays.fold(bad, "") + displays.badge(bad)
    assert "<script" not in shown
    assert shown.count("&lt;script") >= 10
