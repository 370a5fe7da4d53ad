"""What Sphinx will be given, checked without Sphinx: contents, reference, formulas, examples."""

import doctest
import importlib
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import rvrae_pyro as rv
from tests.docs.pages import DOCS, GENERATED, PAGES, ROOT, lookup, prose_of, text_of

WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "rvrae_pyro").rglob("*.py")
    if any(
        ">>> " in line and "+SKIP" not in line
        for line in path.read_text(encoding="utf-8").splitlines()
    )
)


@pytest.fixture(scope="module")
def api_pages() -> ModuleType:
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        return importlib.import_module("api_pages")
    finally:
        sys.path.remove(str(DOCS / "_ext"))


def contents(page: str) -> list[str]:
    """Return the entries of a page's tables of contents, patterns filled in."""
    entries: list[str] = []
    for body in re.findall(r"^```\{toctree\}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE):
        for line in body.splitlines():
            if not line or line.startswith(":"):
                continue
            if "*" in line:
                found = sorted(DOCS.glob(f"{line}.md"))
                names = [path.relative_to(DOCS).with_suffix("").as_posix() for path in found]
                entries += [name for name in names if name not in entries]
            else:
                entries.append(line)
    return entries


def test_every_page_is_in_the_contents_once() -> None:
    """A reader reaches every page from the first one, in one place."""
    found = Counter(entry for page in PAGES for entry in contents(page))
    pages = {name for name in found if name.split("/")[0] not in GENERATED}
    assert sorted(set(PAGES) - pages - {"index"}) == [], "add these to a toctree"
    assert sorted(pages - set(PAGES)) == [], "these are in a toctree and do not exist"
    assert [name for name, times in found.items() if times > 1] == []


def test_every_public_name_is_in_the_reference(api_pages: ModuleType) -> None:
    """Of the package and of each public module, under one of its names."""
    shown = [n for page in api_pages.layout() for group in page["group"] for n in group["names"]]
    assert len(shown) == len(set(shown))
    documented = {id(lookup(name)) for name in shown}
    public = [name for name in rv.__all__ if name != "__version__"]
    for name in list(public):
        if isinstance(lookup(name), ModuleType):
            public.remove(name)
            public += [f"{name}.{each}" for each in lookup(name).__all__]
    assert len(public) > 100
    assert [name for name in public if id(lookup(name)) not in documented] == []


def test_every_public_module_has_a_page_in_the_reference(api_pages: ModuleType) -> None:
    """And the reference's contents list each page that is written."""
    homes = {space for page in api_pages.layout() for space in page.get("namespaces", ())}
    assert set(api_pages.namespaces()) <= homes
    written = {f"api/{page['name']}" for page in api_pages.layout()}
    named = re.findall(r"^(api/\w+)\*?$", text_of("reference"), re.MULTILINE)
    assert sorted(written - set(named)) == []


def test_what_the_reference_shows_has_a_docstring(api_pages: ModuleType) -> None:
    """A page without words helps nobody."""
    shown = [n for page in api_pages.layout() for group in page["group"] for n in group["names"]]
    empty = [n for n in shown if api_pages.has_page(n) and not (lookup(n).__doc__ or "").strip()]
    assert empty == []


@pytest.mark.parametrize("page", [page for page in PAGES if "$" in text_of(page)])
def test_formulas_are_understood(page: str) -> None:
    """The renderer, which is stricter than TeX, knows every command."""
    pytest.importorskip("docutils")
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        mathml = importlib.import_module("mathml")
    finally:
        sys.path.remove(str(DOCS / "_ext"))
    prose = re.sub(r"`[^`\n]*`", "", prose_of(page))
    blocks = re.findall(r"\$\$(.+?)\$\$", prose, re.DOTALL)
    inline = re.findall(r"\$([^$\n]+)\$", re.sub(r"\$\$.+?\$\$", "", prose, flags=re.DOTALL))
    for formula in blocks:
        assert "<math" in mathml.to_mathml(formula, block=True)
    for formula in inline:
        assert "<math" in mathml.to_mathml(formula, block=False)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_of_docstrings_run(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctests, with the output that they show."""
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert result.attempted > 0
    assert result.failed == 0


def test_citation_file_agrees_with_the_package() -> None:
    """Version, licence and the paper's number."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"version: {rv.__version__}\n" in text
    assert f"license: {project['license']}\n" in text
    assert "2403.02500" in text
    assert f"version = {{{rv.__version__}}}" in text_of("cite")


def test_figures_on_the_first_page_are_those_of_the_results() -> None:
    """Evidence and coverage are repeated from the page that says how they were measured."""
    front, results = text_of("index"), text_of("results")
    assert "−606.93 " in front
    assert "-606.931" in results
    assert "−606.82 " in front
    assert "-606.82" in results
    assert "89.9 %" in front
    assert "0.899" in results


def test_every_page_of_llms_txt_exists() -> None:
    text = (DOCS / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# rvrae_pyro\n\n> ")
    linked = re.findall(r"\]\(([\w/]+)\.html\)", text)
    assert len(linked) > 15
    assert sorted(set(linked) - set(PAGES)) == []
