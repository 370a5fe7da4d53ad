"""What the tests of the pages share: which pages there are, and what stands on them."""

import dataclasses
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

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


# The most months to train, to validate and to test.
_MONTHS = (40, 12, 24)


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut steps, months and draws of the pages' code, which shows real sizes."""
    from rvrae_pyro.data.splits import split
    from rvrae_pyro.experiments.swap import swap
    from rvrae_pyro.fitting.ensemble import fit_ensemble
    from rvrae_pyro.fitting.training import fit

    def short_fit(*args: Any, config: rv.FitConfig | None = None, **keywords: Any) -> rv.Fit:
        return fit(*args, config=_few_steps(config), **keywords)

    def short_ensemble(*args: Any, config: rv.FitConfig | None = None, **keywords: Any) -> Any:
        return fit_ensemble(*args, config=_few_steps(config), **keywords)

    def short_swap(*args: Any, **keywords: Any) -> Any:
        keywords.update(max_steps=3, num_samples=200, split=_few(*keywords["split"]))
        return swap(*args, **keywords)

    def short_split(panel: xr.Dataset, *spans: Any) -> Any:
        return split(panel, *_few(*spans))

    monkeypatch.setattr(rv, "fit", short_fit)
    monkeypatch.setattr(rv, "fit_ensemble", short_ensemble)
    monkeypatch.setattr(rv, "swap", short_swap)
    monkeypatch.setattr(rv.data, "split", short_split)


def _few_steps(config: rv.FitConfig | None) -> rv.FitConfig:
    config = config or rv.FitConfig()
    return dataclasses.replace(config, max_steps=min(4, config.max_steps))


def _few(*spans: Any) -> tuple[Any, ...]:
    """Cut counts of months; fractions and dates stay as they are."""
    if not all(isinstance(span, int) for span in spans):
        return spans
    return tuple(min(pair) for pair in zip(spans, _MONTHS, strict=True))
