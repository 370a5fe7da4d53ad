"""The page on handing draws to an optimiser runs, where the optimiser is installed."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

import rvrae_pyro as rv
from tests.docs.pages import shorten

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto_skfolio.md"


def test_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first makes scenarios; the others need skfolio, whose dependencies warn."""
    monkeypatch.chdir(tmp_path)
    shorten(monkeypatch)
    text = PAGE.read_text(encoding="utf-8")
    first, second, third = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {"__name__": "howto_skfolio"}
    exec(compile(first, str(PAGE), "exec"), scope)
    assert scope["scenarios"].shape == (1000, 30)
    pytest.importorskip(
        "skfolio", reason="the extra `stocks` is not installed", exc_type=ImportError
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(second, str(PAGE), "exec"), scope)
        exec(compile(third, str(PAGE), "exec"), scope)
    assert len(scope["walked"].portfolios) == 6
    weights, risk = scope["weights"], scope["risk"]
    assert weights.sum() == pytest.approx(1.0)
    # in the same draws nothing equal has less expected shortfall
    equal = rv.risk.portfolio(scope["forecast"], weights * 0 + 1 / 30, tail=0.05)
    assert risk["es"].item() <= equal["es"].item()
