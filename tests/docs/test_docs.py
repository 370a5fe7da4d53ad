"""Every Python block of the pages runs, and the names and links in them lead somewhere."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import rvrae_pyro as rv

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (
    "index",
    "data",
    "model",
    "information_set",
    "parts",
    "risk",
    "howto_own_data",
    "howto_compare",
    "glossary",
    "scale",
    "diagnostics",
)
# An example of a part of one's own should fit on half a page.
LONGEST_PART = 25


def _text(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def _blocks(page: str) -> list[tuple[int, str]]:
    """First line and code of every fenced Python block."""
    text = _text(page)
    return [
        (text[: match.start(1)].count("\n") + 1, match[1])
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)])
def test_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in order, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": f"docs_{page}"}
    for line, code in _blocks(page):
        # leading newlines make a traceback point to the line of the page
        exec(compile("\n" * (line - 1) + code, str(DOCS / f"{page}.md"), "exec"), scope)


@pytest.mark.parametrize("page", PAGES)
def test_names_exist(page: str) -> None:
    """Each ``rv.something`` is there, so that a renamed function takes its page with it."""
    missing = []
    for name in sorted(set(re.findall(r"\brv\.([A-Za-z_][\w.]*\w)", _text(page)))):
        value: Any = rv
        for step in name.split("."):
            value = getattr(value, step, None)
        if value is None:
            missing.append(f"rv.{name}")
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Relative links point to files, and to headings that are there."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _text(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (DOCS / path).resolve() if path else DOCS / f"{page}.md"
        if not file.is_file() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_own_parts_are_short() -> None:
    """The page promises classes of a few lines."""
    classes = [code for _, code in _blocks("parts") if code.startswith("class ")]
    assert len(classes) == 4
    assert max(len(code.strip().splitlines()) for code in classes) <= LONGEST_PART


def test_model_page_covers_every_equation() -> None:
    """Equations (1) to (34) of the paper, and a way out of each of its 25 contradictions."""
    text = _text("model")
    first_cells = re.findall(r"^\| *\(([\d]+)\)(?:[-–]\(([\d]+)\))? *\|", text, re.MULTILINE)
    covered = {n for low, high in first_cells for n in range(int(low), int(high or low) + 1)}
    assert covered == set(range(1, 35))
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == list(range(1, 26))


def test_model_page_names_classes_that_exist() -> None:
    """Tests, modules and methods that the page points to."""
    for name in sorted(set(re.findall(r"`(Fit(?:Config)?\.\w+)`", _text("model")))):
        owner, attribute = name.split(".")
        owned = getattr(rv, owner)
        known = set(dir(owned)) | set(inspect.signature(owned).parameters)
        assert attribute in known, name
    for path in sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", _text("model")))):
        assert (ROOT / path).is_file(), path


def test_defaults_in_the_data_page_are_those_of_from_frame() -> None:
    """The table of arguments repeats the signature."""
    parameters = inspect.signature(rv.data.from_frame).parameters
    rows = dict(re.findall(r"^\| `(\w+)` *\| `([^`]+)` *\|", _text("data"), re.MULTILINE))
    assert set(rows) == set(parameters) - {"frame"}
    assert {name: repr(parameters[name].default).replace("'", '"') for name in rows} == rows
