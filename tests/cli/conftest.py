"""A command runner, a small panel on disk and a small run, shared by the tests of the commands."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.cli.app import main
from tests.cli.helpers import write_settings


@dataclass(frozen=True)
class Outcome:
    """What a command returned and said."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def assert_refused(outcome: Outcome, match: str) -> None:
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("rvrae: ")
    assert outcome.err.count("rvrae: ") == 1
    assert re.search(match, outcome.err), outcome.err


@pytest.fixture
def rvrae(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``rvrae`` with some arguments."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(each) for each in arguments])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def panel() -> xr.Dataset:
    """A ranked, simulated panel with context, whose last month is live."""
    simulated = rv.data.simulate_dynamic(12, 24, 4, 2, seed=3)
    simulated["returns"][-1] = float("nan")
    return simulated


@pytest.fixture(scope="session")
def panel_file(panel: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("panel") / "panel.parquet"
    rv.data.write_panel(panel, path)
    return path


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_settings(tmp_path_factory.mktemp("settings") / "small.toml")


@pytest.fixture(scope="session")
def run_folder(
    panel_file: Path, settings_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of ``rvrae fit``."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", str(panel_file), "--config", str(settings_file), "--out", str(out)]) == 0
    return out
