"""Every Python block of the pages runs, and the names and links in them lead somewhere."""

import inspect
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import rvrae_pyro as rv
from tests.docs.pages import DOCS, PAGES, blocks_of, lookup, prose_of, shorten, text_of

# An example of a part of one's own should fit on half a page.
LONGEST_PART = 25
# Has a test of its own, for it uses what an ordinary installation lacks.
APART = {"howto_skfolio"}
# A change log speaks of what was there at the time.
CURRENT = [page for page in PAGES if page != "changelog"]


def test_there_are_pages() -> None:
    """An empty list would make every test below pass."""
    assert {"index", "data", "model", "information_set", "howto_own_data", "glossary"} <= set(PAGES)


@pytest.mark.parametrize("page", sorted({page for page in PAGES if blocks_of(page)} - APART))
def test_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in order, in one namespace and an empty folder; fits are short.

    Pages show real sizes: steps, months and draws are cut here.
    """
    monkeypatch.chdir(tmp_path)
    shorten(monkeypatch)
    scope: dict[str, Any] = {"__name__": f"docs_{page}"}
    for line, code in blocks_of(page):
        # leading newlines make a traceback point to the line of the page
        exec(compile("\n" * (line - 1) + code, str(DOCS / f"{page}.md"), "exec"), scope)
    plt.close("all")


@pytest.mark.parametrize("page", CURRENT)
def test_names_exist(page: str) -> None:
    """Each ``rv.something`` is there, so that a renamed function takes its page with it."""
    names = sorted(set(re.findall(r"\brv\.([A-Za-z_][\w.]*\w)", text_of(page))))
    assert [f"rv.{name}" for name in names if lookup(name) is None] == []


@pytest.mark.parametrize("page", CURRENT)
def test_methods_exist(page: str) -> None:
    """Likewise ``fit.something`` of a fitted model and ``FitConfig.something``."""
    owners = {"fit": rv.Fit, "Fit": rv.Fit, "FitConfig": rv.FitConfig}
    missing = []
    for owner, name in sorted(set(re.findall(r"`(fit|Fit|FitConfig)\.(\w+)", prose_of(page)))):
        owned = owners[owner]
        known = set(dir(owned)) | set(inspect.signature(owned).parameters)
        known |= set(getattr(owned, "__annotations__", ()))
        if name not in known:
            missing.append(f"{owner}.{name}")
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Relative links point to files, and to headings that are there."""
    broken = []
    here = (DOCS / f"{page}.md").parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (here / path).resolve() if path else DOCS / f"{page}.md"
        if not file.is_file() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_code_exist(page: str) -> None:
    """``tests/...`` and ``rvrae_pyro/...`` in running text are files of the repository."""
    named = set(re.findall(r"`((?:tests|rvrae_pyro|notebooks|docs)/[\w/.]+\.\w+)`", prose_of(page)))
    assert [name for name in sorted(named) if not (DOCS.parent / name).is_file()] == []


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_own_parts_are_short() -> None:
    """Classes shown as examples of one's own parts have a few lines, as the pages promise."""
    classes = [
        code for page in PAGES for _, code in blocks_of(page) for code in _classes(code.strip())
    ]
    assert len(classes) >= 4
    assert max(len(code.splitlines()) for code in classes) <= LONGEST_PART


def _classes(code: str) -> list[str]:
    return [part for part in re.split(r"\n\n\n", code) if part.startswith("class ")]


def test_defaults_in_the_data_page_are_those_of_from_frame() -> None:
    """The table of arguments repeats the signature."""
    parameters = inspect.signature(rv.data.from_frame).parameters
    rows = dict(re.findall(r"^\| `(\w+)` *\| `([^`]+)` *\|", text_of("data"), re.MULTILINE))
    assert set(rows) == set(parameters) - {"frame"}
    assert {name: repr(parameters[name].default).replace("'", '"') for name in rows} == rows
