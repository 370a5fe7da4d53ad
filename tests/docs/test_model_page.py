"""The page that lays the paper beside the code: each equation leads to code that cites it."""

import inspect
import re
import textwrap

import pytest

import rvrae_pyro as rv
from tests.docs.pages import blocks_of, lookup, text_of

PAGE = text_of("model")
ROW = re.compile(r"^\| \((\d+)\) \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = [(int(number), formula, code) for number, formula, code in ROW.findall(PAGE)]
CITATION = re.compile(
    r"Wang\s+and\s+Guo\s+\(2024\),\s+arXiv\s+2403\.02500,\s+eqs?\.\s+"
    r"((?:\(\d+\)(?:-\(\d+\))?(?:,\s+)?)+)"
)


def cited(docstring: str) -> set[int]:
    """Return the numbers of the paper's equations that a docstring cites."""
    numbers: set[int] = set()
    for citation in CITATION.findall(docstring):
        for low, high in re.findall(r"\((\d+)\)(?:-\((\d+)\))?", citation):
            numbers |= set(range(int(low), int(high or low) + 1))
    return numbers


def test_citations_are_read_right() -> None:
    """Ranges, lists, line breaks; other papers' equations do not count."""
    text = (
        "Wang and Guo (2024), arXiv 2403.02500,\n    eqs. (5), (17)-(19).\n    Lo (2002), eq. (9)."
    )
    assert cited(text) == {5, 17, 18, 19}
    assert cited("Gu, Kelly and Xiu (2021), eq. (20).") == set()


def test_every_equation_has_a_row() -> None:
    """Equations (1) to (34), each once and in order, each with a formula."""
    assert [number for number, _, _ in ROWS] == list(range(1, 35))
    assert [number for number, formula, _ in ROWS if formula.count("$") < 2] == []


@pytest.mark.parametrize(("number", "code"), [(n, code) for n, _, code in ROWS])
def test_the_code_of_a_row_cites_its_equation(number: int, code: str) -> None:
    """The first name of the last column is importable, and its docstring has the number."""
    names = re.findall(r"`rv\.([\w.]+)`", code)
    assert names, f"({number}) names no code"
    owner = lookup(names[0])
    assert owner is not None, f"rv.{names[0]} does not exist"
    assert number in cited(inspect.getdoc(owner) or ""), (
        f"the docstring of rv.{names[0]} should cite: Wang and Guo (2024), arXiv 2403.02500, "
        f"eq. ({number})"
    )


@pytest.mark.parametrize(("number", "code"), [(n, code) for n, _, code in ROWS])
def test_members_named_beside_the_code_exist(number: int, code: str) -> None:
    """``rv.X (`member`)``: a method, attribute or parameter of X."""
    owner_name = re.findall(r"`rv\.([\w.]+)`", code)[0]
    owner = lookup(owner_name)
    members = re.findall(r"\(`(\w+)`[,)]", code)
    source = inspect.getsource(owner)
    assert [m for m in members if not hasattr(owner, m) and f"self.{m} =" not in source] == []


def test_every_contradiction_has_a_way_out() -> None:
    """All 25 that were found, numbered, each with what is done about it."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 26))
    assert all(len(answer) > 10 for _, _, answer in rows)


def test_references_within_the_page_are_to_rows_that_are_there() -> None:
    """ "See 5 below" is one of the 25."""
    below = {int(n) for n in re.findall(r"see (\d+) below", PAGE)}
    assert below
    assert below <= set(range(1, 26))


def test_the_page_opens_with_the_program() -> None:
    """Model and guide of ``rv.literal``, word for word but for the annotations."""
    program = rv.literal.RVRAE
    sources = [textwrap.dedent(inspect.getsource(f)) for f in (program.model, program.guide)]
    plain = [
        re.sub(r": Batch\b|: float \| Tensor| -> None", "", source).replace(" = 1.0)", "=1.0)")
        for source in sources
    ]
    _, opening = blocks_of("model")[0]
    assert opening == "\n\n".join(plain)
