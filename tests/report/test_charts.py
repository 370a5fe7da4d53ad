"""Pictures on the page: ids of their own, colours of the page, names for screen readers."""

import re
import xml.etree.ElementTree as ET

import pytest
from matplotlib.figure import Figure

from rvrae_pyro.report.charts import charts_of, to_svg
from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.tables import number, percent, real_minus


def test_a_figure_becomes_a_picture_of_the_page() -> None:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#0072B2")
    axes.set_title("<b>", color="#1A1A1A")
    pictures = [to_svg(figure, "a < b", "c & d", name) for name in ("one", "two")]
    ids = [set(re.findall(r'\bid="([^"]+)"', str(svg))) for svg in pictures]
    assert not ids[0] & ids[1]
    for svg, known in zip(pictures, ids, strict=True):
        root = ET.fromstring(str(svg))
        assert root.get("role") == "img"
        assert root[0].text == "a < b"
        assert root[1].text == "c & d"
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', str(svg)))
        assert used
        assert used <= known
        assert "var(--own)" in svg
        assert "#0072b2" not in svg
        assert "&lt;b&gt;" in svg
        for unwanted in ("http", "<style", "DejaVu", "<metadata", "xlink"):
            assert unwanted not in svg
    again = to_svg(figure, "a < b", "c & d", "one")
    assert again == pictures[0]


def test_every_section_has_its_pictures(facts: Facts) -> None:
    charts = charts_of(facts)
    assert [len(charts[name]) for name in ("books", "calibration")] == [2, 3]
    assert len(charts["factors"]) == len(facts.alive)
    for each in (chart for section in charts.values() for chart in section):
        assert each.caption
        assert "nan" not in each.svg.lower().replace("finance", "")


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (-1234.567, 2, False, "−1,234.57"),
        (0.0001, 2, True, "0.00"),
        (-0.0001, 2, False, "0.00"),
        (0.5, 1, True, "+0.5"),
        (float("nan"), 2, False, "–"),
    ],
)
def test_numbers(value: float, digits: int, sign: bool, text: str) -> None:
    assert number(value, digits, sign=sign) == text


def test_a_minus_in_a_sentence_is_that_of_numbers() -> None:
    text = "R2 -0.4 % (-5.44 against -1) on 2009-10-31, k-hat 0.7"
    assert real_minus(text) == "R2 −0.4 % (−5.44 against −1) on 2009-10-31, k-hat 0.7"


def test_the_fan_states_mean_and_spread(facts: Facts) -> None:
    caption = charts_of(facts)["books"][0].caption
    last = facts.horizons.loc[12]
    assert f"{percent(last['mean'])} % and {percent(last['sd'])} % after 12." in caption
    assert "differ little" not in caption


def test_percentages() -> None:
    assert percent(0.1234, 1) == "12.3"
