"""The page in a real browser, by mouse, keyboard and screen reader, wide, narrow and dark.

Skips where Chromium and its driver are absent (Debian: packages chromium, chromium-driver).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.page import write_page
from tests.report.browser import CHROMIUM, DRIVER, Browser, chromium

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"
)

COLUMN = """
const rows = Array.from(document.querySelectorAll("#ranking tbody tr"));
const cells = rows.map(r => r.cells[arguments[0]]);
return cells.map(c => c.dataset.v === undefined ? c.textContent.trim() : Number(c.dataset.v));
"""
HEAD = "document.querySelectorAll('#ranking thead th')[arguments[0]]"
# relative luminance and contrast as WCAG 2 defines them
CONTRAST = """
function lum(text) {
  const rgb = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
}
const paper = lum(getComputedStyle(document.body).backgroundColor);
const worst = {};
for (const name of ["p", ".quiet", "a", "h2", "td", ".badge", "figcaption", "caption", ".remedy"]) {
  for (const each of document.querySelectorAll(name)) {
    const ink = lum(getComputedStyle(each).color);
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    worst[name] = Math.min(worst[name] ?? 99, ratio);
  }
}
for (const each of document.querySelectorAll("svg text")) {
  const ink = lum(getComputedStyle(each).fill);
  worst.svg = Math.min(worst.svg ?? 99,
    (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05));
}
return worst;
"""
PICTURES = """
return Array.from(document.querySelectorAll("svg"), function (svg) {
  const box = svg.getBoundingClientRect();
  const marks = svg.querySelectorAll("path");
  let length = 0;
  for (const mark of marks) length += mark.getTotalLength ? mark.getTotalLength() : 1;
  return [box.width, box.height, marks.length, length];
});
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as session:
        yield session


@pytest.fixture(scope="module")
def file(facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(write_page(facts), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Browser, file: Path) -> Browser:
    """The page freshly opened on a desktop, in light colours."""
    browser.resize(1280, 900)
    browser.open(file)
    return browser


def test_console_stays_silent(page: Browser) -> None:
    for column in range(4):
        page.run(f"{HEAD}.querySelector('button').click()", column)
    page.run("document.querySelector('.theme').click()")
    assert page.log() == []


def test_table_sorts_both_ways(page: Browser, facts: Facts) -> None:
    heads = page.run(
        "return Array.from(document.querySelectorAll('#ranking thead th'), h => h.textContent)"
    )
    column = heads.index("Sd %")
    before = page.run(COLUMN, column)
    page.run(f"{HEAD}.querySelector('button').click()", column)
    down = page.run(COLUMN, column)
    assert down == sorted(before, reverse=True)
    assert down != before
    assert page.run(f"return {HEAD}.getAttribute('aria-sort')", column) == "descending"
    page.run(f"{HEAD}.querySelector('button').click()", column)
    assert page.run(COLUMN, column) == sorted(before)
    assert page.run(f"return {HEAD}.getAttribute('aria-sort')", column) == "ascending"
    assert "ascending" in page.run("return document.getElementById('said').textContent")
    page.run(f"{HEAD}.querySelector('button').click()", heads.index("Asset"))
    names = page.run(COLUMN, 0)
    assert names == sorted(names, key=str.lower)
    assert len(names) == len(facts.ranking)


def test_table_sorts_by_keyboard(page: Browser) -> None:
    page.run(f"{HEAD}.querySelector('button').focus()", 1)
    page.press("\ue007")  # Enter
    assert page.run(f"return {HEAD}.getAttribute('aria-sort')", 1) == "ascending"
    page.press(" ")
    assert page.run(f"return {HEAD}.getAttribute('aria-sort')", 1) == "descending"
    ranks = page.run(COLUMN, 1)
    assert ranks == sorted(ranks, reverse=True)


def test_every_control_is_reached_and_seen_by_tab(page: Browser) -> None:
    """From the top: the skip link first, then buttons, links and tables, each with an outline."""
    wanted = page.run(
        "return document.querySelectorAll("
        "'a, button:not([hidden]), input, summary, [tabindex=\"0\"]').length"
    )
    seen = []
    for _ in range(wanted + 5):
        page.press("\ue004")  # Tab
        what = page.run(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.tagName, e.textContent.slice(0, 20), s.outlineStyle, s.outlineWidth]"
        )
        if what[0] == "BODY":
            break
        seen.append(what)
    assert seen[0][1] == "Skip to the report"
    kinds = {each[0] for each in seen}
    assert {"A", "BUTTON", "INPUT", "DIV", "SUMMARY"} <= kinds
    assert len(seen) >= wanted - 1  # what is inside the closed details is not reached
    assert all(each[2] != "none" and each[3] != "0px" for each in seen)


def test_finding_an_asset(page: Browser, facts: Facts) -> None:
    wanted = facts.ranking["asset"].iloc[3]
    page.run(
        "const f = document.getElementById('find'); f.value = arguments[0];"
        "f.dispatchEvent(new Event('input'))",
        f"({wanted})",
    )
    shown = page.run(
        "return Array.from(document.querySelectorAll('#ranking tbody tr'))"
        ".filter(r => r.getBoundingClientRect().height > 0).map(r => r.cells[0].textContent)"
    )
    assert len(shown) == 1
    assert wanted in shown[0]
    assert page.run("return document.getElementById('said').textContent").startswith("1 of ")


@pytest.mark.parametrize("width", [1280, 390])
def test_pictures_are_not_empty(page: Browser, width: int) -> None:
    page.resize(width, 900)
    pictures = page.run(PICTURES)
    assert len(pictures) >= 5
    for across, down, marks, length in pictures:
        assert across >= 300
        assert down >= 120
        assert marks >= 1
        assert length > 20


def test_phone_needs_no_sideways_scrolling(page: Browser) -> None:
    page.resize(390, 844)
    assert page.run("return document.documentElement.scrollWidth") <= 390
    small = page.run(
        "return Array.from(document.querySelectorAll('p, li, td, th, figcaption, a, button'))"
        ".filter(e => e.offsetParent && parseFloat(getComputedStyle(e).fontSize) < 12).length"
    )
    assert small == 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out(page: Browser, file: Path, dark: bool) -> None:
    """Contrast of at least 4.5, as WCAG 2 AA asks."""
    page.resize(1280, 900, dark=dark)
    page.open(file)
    back = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(20, 24, 28)") is dark
    worst = page.run(CONTRAST)
    assert {"p", "a", "td", "svg"} <= set(worst)
    assert min(worst.values()) >= 4.5, worst


def test_colours_can_be_chosen(page: Browser) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.run("document.querySelector('.theme').click()")
    assert page.run(colour) != light
    assert page.run("return document.querySelector('.theme').textContent") == "Light colours"
    page.run("document.querySelector('.theme').click()")
    assert page.run(colour) == light


def test_screen_reader_is_told(page: Browser) -> None:
    """Pictures, tables, buttons and regions have names; headings come in order."""
    nodes = [node for node in page.accessible() if not node["ignored"]]

    def names(role: str) -> list[str]:
        return [
            node.get("name", {}).get("value", "")
            for node in nodes
            if node.get("role", {}).get("value") == role
        ]

    for role in ("image", "button", "link", "table", "searchbox", "region"):
        found = names(role)
        assert found, role
        assert all(found), role
    assert len(names("main")) == 1
    assert len(names("navigation")) == 1
    levels = page.run(
        "return Array.from(document.querySelectorAll('h1, h2, h3'), h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
    assert "columnheader" in {node.get("role", {}).get("value") for node in nodes}
