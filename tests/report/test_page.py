"""The page as a file: whole, safe, small, and readable without seeing it."""

import dataclasses
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.report.facts import Facts, gather
from rvrae_pyro.report.forecast_sections import MOST_ROWS
from rvrae_pyro.report.page import SECTIONS, build_report, write_page
from tests.report.conftest import NASTY

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(facts: Facts) -> str:
    return write_page(facts)


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_page_needs_nothing_else(page: str, read: Reader) -> None:
    assert len(page.encode()) < 5_000_000
    for _, attrs in read.tags:
        for name in ("src", "href", "action", "data"):
            link = attrs.get(name)
            assert link is None or link.startswith("#") or link == "data:,"
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)
    assert "@import" not in page


def test_names_from_data_stay_text(page: str, read: Reader) -> None:
    assert "<img" not in page
    assert NASTY in "".join(read.text)


def test_every_section_is_there_with_its_heading(read: Reader) -> None:
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert max(Counter(ids).values()) == 1
    for name in SECTIONS:
        assert name in ids
    linked = {attrs["href"] for attrs in read.all("a")}
    assert {f"#{name}" for name in SECTIONS} <= linked
    assert all(str(link)[1:] in ids for link in linked)
    assert len(read.all("h1")) == 1
    for _, attrs in read.tags:
        for name in (attrs.get("aria-labelledby") or "").split():
            assert name in ids


def test_pictures_and_tables_have_names(read: Reader) -> None:
    pictures = read.all("svg")
    assert len(pictures) >= 5
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] for attrs in pictures)
    assert len(read.all("title")) == len(pictures) + 1
    assert len(read.all("desc")) == len(pictures)
    assert len(read.all("table")) == len(read.all("caption"))
    assert all("scope" in attrs for attrs in read.all("th"))
    scrolled = [attrs for attrs in read.all("div") if attrs.get("class") == "scroll"]
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolled)


def test_what_it_says(facts: Facts, read: Reader) -> None:
    text = "".join(read.text)
    assert not facts.ranked
    assert "Their order cannot be distinguished from chance" in text
    assert "Highest mean" not in text
    assert "Judged on" in text
    assert "IPCA" in text
    assert "Not known from this fit" in text
    assert "20 months" in text
    for finding in facts.check.findings:
        assert finding.question in text
    assert "nan" not in re.findall(r"\b[a-z]+\b", text)


def test_same_seed_same_page(fit: rv.Fit, panel: xr.Dataset, page: str) -> None:
    assert build_report(fit, panel, seed=4) == page
    assert build_report(fit, panel, seed=5) != page


def test_thousands_of_assets_fit(facts: Facts) -> None:
    count = 5000
    many = pd.concat([facts.ranking] * (count // len(facts.ranking) + 1), ignore_index=True)
    many = many[:count].assign(asset=[f"id{k:05d}" for k in range(count)])
    many = many.assign(sd=np.linspace(0.05, 0.1, count))  # the order where means are not ranked
    parts = pd.DataFrame(
        np.tile(facts.attribution.to_numpy()[:1], (count, 1)),
        index=pd.Index(many["asset"]),
        columns=facts.attribution.columns,
    )
    shares = pd.DataFrame(
        {"weight": 1 / count, "part": 1 / count, "sd_part": 1 / count}, parts.index
    )
    large = dataclasses.replace(facts, ranking=many, attribution=parts, parts=shares)
    page = write_page(large)
    assert len(page.encode()) < 5_000_000
    assert f"5000 assets; the {MOST_ROWS // 2} at either end are shown" in page
    assert "id00000" in page
    assert "id04999" in page
    assert "id02500" not in page


@pytest.mark.parametrize(
    ("months", "said"),
    [
        (slice(0, 30), "Most of these months decided when training stopped"),
        (slice(0, 20), "nothing here says how good its forecasts are"),
        (slice(22, None), "does not hold all months that the model was trained on"),
    ],
)
def test_other_panels(fit: rv.Fit, panel: xr.Dataset, months: slice, said: str) -> None:
    """Panels that end early or begin late still make a whole page that says what it lacks."""
    page = write_page(gather(fit, panel.isel(time=months), panel))
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert said in "".join(reader.text)


def test_weekly_panel_speaks_of_weeks() -> None:
    panel = rv.data.simulate_dynamic(10, 30, 3, 2, seed=1)[["returns", "characteristics"]]
    fridays = np.datetime64("2015-01-02", "ns") + np.arange(30) * np.timedelta64(7, "D")
    panel = panel.assign_coords(time=fridays)
    panel.attrs["frequency"] = "weekly"
    panel["returns"][-1] = np.nan
    model = rv.RVRAE(3, 2, factor_prior=rv.priors.AR1(2), likelihood=rv.likelihoods.Normal())
    fit = rv.fit(model, panel.isel(time=slice(0, 15)), config=rv.FitConfig(max_steps=2),
                 progress=False)  # fmt: skip
    page = build_report(fit, panel)
    assert "Next week, asset by asset" in page
    assert "MktRF" not in page
    assert "forecast, 2015-07-24" in page


@pytest.mark.parametrize("waiting", [True, False])
def test_a_month_that_has_happened_is_not_called_next(facts: Facts, waiting: bool) -> None:
    page = write_page(dataclasses.replace(facts, waiting=waiting))
    assert ("Next month, asset by asset" in page) == waiting
    assert ("over the next month" in page) == waiting
    assert ("next month" in page.lower()) == waiting
    assert ("already has returns in the panel" in page) == (not waiting)
    day = pd.Timestamp(facts.live)
    assert (f"{day:%B %Y}, asset by asset" in page) == (not waiting)
