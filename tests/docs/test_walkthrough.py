"""The walkthrough names code that exists, and a forecast's way through files that are few."""

import importlib
import re
from pathlib import Path

import pytest

from tests.docs.pages import text_of

PAGE = text_of("walkthrough")
ROW = re.compile(r"^\| .+? \| `([\w.]+)` \| `([\w/.]+)` \|$", re.MULTILINE)
SECTION = PAGE.split("## What happens in `fit.forecast`")[1].split("\n## ")[0]
ROWS = ROW.findall(SECTION)
PAPER = ROW.findall(PAGE.split("## Where the paper is")[1].split("\n## ")[0])
NAMES = [*(name for name, _ in [*ROWS, *PAPER]), "models.path_draw.draw_path", "models.scan.scan"]


def find(name: str) -> object:
    """Import as much of a dotted name as is a module, and take the rest as attributes."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module("rvrae_pyro." + ".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"rvrae_pyro.{name} does not exist")


@pytest.mark.parametrize("name", NAMES)
def test_names_exist(name: str) -> None:
    assert callable(find(name))


def test_a_likelihood_is_added_where_the_page_says() -> None:
    base = find("models.likelihood_base.Likelihood")
    assert f"`{base.__module__.replace('.', '/')}.py`" in PAGE  # type: ignore[attr-defined]
    assert "howto_own_part.md#a-likelihood" in PAGE
    assert "\n## A likelihood\n" in text_of("howto_own_part")


def test_a_forecast_passes_few_files_and_returns_to_none() -> None:
    files = [file for _, file in ROWS]
    assert 5 <= len(files) <= 8
    assert len(set(files)) == len(files)
    root = Path(importlib.import_module("rvrae_pyro").__file__).parents[1]
    for name, file in ROWS:
        assert (root / file).is_file()
        assert file == "rvrae_pyro/" + "/".join(name.split(".")[:2]) + ".py"


def test_the_papers_parts_are_defined_where_the_page_says() -> None:
    assert len(PAPER) == 11
    for name, file in PAPER:
        found = find(name)
        assert file == f"{found.__module__.replace('.', '/')}.py"  # type: ignore[attr-defined]
