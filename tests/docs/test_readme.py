"""The README's example runs as printed, but for the number of training steps."""

import re
from pathlib import Path

import pytest

from rvrae_pyro.models.registry import PARTS
from tests.docs.pages import shorten

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def example(name: str = "example") -> str:
    found = re.search(rf"<!-- {name}.*?-->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, f"README.md has no block {name!r} marked for the tests"
    return found.group(1)


def test_example_runs_from_panel_to_risk(capsys):
    code = example()
    steps = "config=rv.FitConfig(max_steps=20), progress=False"
    short = code.replace("seed=0)", f"seed=0, {steps})").replace("-253", "-37")
    short = short.replace("216, 0, 36", "30, 0, 6")
    assert short != code
    names = {}
    exec(compile(short, str(README), "exec"), names)
    assert list(names["records"]) == ["RVRAE", "EWMA"]
    risk = names["risk"]
    assert risk.sizes["time"] == 1
    assert risk["es"].sel(tail=0.05).notnull().all()
    assert (risk["es"] >= risk["var"]).all()
    assert "Did training converge?" in capsys.readouterr().out


def test_literal_program_trains():
    code = example("literal")
    short = code.replace("steps=100", "steps=10")
    assert short != code
    names = {}
    exec(compile(short, str(README), "exec"), names)
    assert len(names["losses"]) == 10
    assert names["losses"][-1] < names["losses"][0]


def test_example_is_as_short_as_promised():
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 18


def test_swap_runs_and_has_ten_lines(monkeypatch):
    code = example("swap")
    assert len(code.splitlines()) <= 12
    assert len([line for line in code.splitlines()[2:] if line.strip()]) <= 10
    shorten(monkeypatch)
    names = {}
    exec(compile(code, str(README), "exec"), names)
    assert set(names["found"].table.index) == set(names["priors"])


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#\s]+)\)", README.read_text())
    assert [t for t in targets if "://" not in t and not (ROOT / t).is_file()] == []


def test_each_claim_names_what_holds_it():
    rows = re.findall(r"^\| (?!what|-)([^|]+) \| ([^|]+) \| ([^|]+) \|$", README.read_text(), re.M)
    assert len(rows) >= 7
    assert [claim for claim, _, held in rows if "](" not in held] == []


@pytest.mark.parametrize(
    ("slot", "word"),
    [
        ("factor_prior", "factor priors"),
        ("loadings", "loadings"),
        ("likelihood", "likelihoods"),
        ("guide", "guides"),
        ("decoder", "decoders"),
        ("weights", "weight priors"),
    ],
)
def test_parts_are_counted_right(slot, word):
    assert f" {len(PARTS[slot])} {word}" in README.read_text()
