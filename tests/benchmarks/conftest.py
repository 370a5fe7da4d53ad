"""A table of every ratio against its aim ends a run; pytest-benchmark itself shows times only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

_ROWS = pytest.StashKey[list[tuple[str, float, float]]]()


@pytest.fixture(autouse=True)
def keep_the_ratio(request: pytest.FixtureRequest) -> Iterator[None]:
    """Note the ratio that a benchmark leaves in its extra information."""
    if "benchmark" not in request.fixturenames:
        yield
        return
    benchmark = request.getfixturevalue("benchmark")
    yield
    found = benchmark.extra_info
    if {"ratio", "target"} <= found.keys():
        row = (request.node.name, found["ratio"], found["target"])
        request.config.stash.setdefault(_ROWS, []).append(row)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    rows = config.stash.get(_ROWS, [])
    if not rows:
        return
    terminalreporter.section("CPU time over that of the reference")
    width = max(len(name) for name, _, _ in rows)
    for name, ratio, target in rows:
        verdict = "met" if ratio <= target else "missed"
        terminalreporter.write_line(f"{name:<{width}}  {ratio:6.3f}  aim {target:5.2f}  {verdict}")
