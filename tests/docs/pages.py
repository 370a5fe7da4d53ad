"""What the tests of the pages share: which pages there are, and what stands on them."""

import re
import textwrap
from pathlib import Path
from typing import Any

import rvrae_pyro as rv

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# written when the site is built
GENERATED = {"_build", "api", "notebooks"}

PAGES = sorted(
    path.relative_to(DOCS).with_suffix("").as_posix()
    for path in DOCS.rglob("*.md")
    if path.relative_to(DOCS).parts[0] not in GENERATED
)

_FENCE = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.M)


def text_of(page: str) -> str:
    """Return a page as it is written."""
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """Return a page without its fenced code."""
    return re.sub(r"^( *)```.*?^\1```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def blocks_of(page: str) -> list[tuple[int, str]]:
    """Return first line and code of every fenced Python block, also of those in lists."""
    text = text_of(page)
    return [
        (text[: match.start("code")].count("\n") + 1, textwrap.dedent(match["code"]))
        for match in _FENCE.finditer(text)
    ]


def lookup(name: str) -> Any:
    """Return what a dotted name under ``rv`` is; None where there is no such thing."""
    value: Any = rv
    for step in name.split("."):
        value = getattr(value, step, None)
    return value
