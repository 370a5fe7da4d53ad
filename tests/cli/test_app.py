"""The command as a whole: help, exit codes, warnings, and what it does not import."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import rvrae_pyro as rv
from rvrae_pyro.cli import app, console
from rvrae_pyro.errors import CheckpointError, ConfigError, FitError, PanelError, ShapeError
from tests.cli.conftest import Command


def test_help_names_every_command_and_loads_no_torch() -> None:
    # importtime lists every module on standard error
    command = [sys.executable, "-X", "importtime", "-m", "rvrae_pyro", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    for name in ("demo", "check", "simulate", "fit", "forecast"):
        assert f" {name} " in answer.stdout
    loaded = {line.rsplit("|")[-1].strip() for line in answer.stderr.splitlines()}
    assert "rvrae_pyro.cli.app" in loaded
    assert not {"torch", "pyro", "matplotlib.pyplot", "arviz_stats"} & loaded


def test_the_version(rvrae: Command) -> None:
    outcome = rvrae("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{rv.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [(), ("chekc",), ("check",), ("check", "a", "--bad"), ("forecast", "a", "b")]
)
def test_usage_errors(rvrae: Command, arguments: tuple[str, ...]) -> None:
    outcome = rvrae(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PanelError("why"), 2),
        (ConfigError("why"), 2),
        (ShapeError("why"), 2),
        (CheckpointError("why"), 2),
        (FitError("why"), 1),
    ],
)
def test_exit_codes(
    rvrae: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(path: object) -> None:
        raise error

    monkeypatch.setattr("rvrae_pyro.cli.panels.read_file", fail)
    outcome = rvrae("check", "p.csv")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", "rvrae: why\n")


def test_an_unforeseen_error_is_raised(rvrae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("rvrae_pyro.cli.panels.read_file", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        rvrae("check", "p.csv")


def test_a_divergence_is_a_failure_and_writes_nothing(
    rvrae: Command, panel_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise FitError("The ELBO is not finite at step 3")

    monkeypatch.setattr("rvrae_pyro.fitting.training.fit", diverge)
    outcome = rvrae("fit", panel_file, "--out", tmp_path / "run")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "rvrae: The ELBO is not finite at step 3\n"
    assert list(tmp_path.iterdir()) == []


def test_warnings_of_the_package_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        before = warnings.showwarning
        with console.warnings_as_lines():
            warnings.warn("returns are odd", rv.RvraeWarning, stacklevel=1)
            warnings.warn("something else", DeprecationWarning, stacklevel=1)
        assert warnings.showwarning is before
    assert [str(other.message) for other in others] == ["something else"]
    assert capsys.readouterr().err == "warning: returns are odd\n"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.echo_json({"a": [float("nan"), 1.5, {"b": float("inf")}], "c": None})
    said = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert said == {"a": [None, 1.5, {"b": None}], "c": None}


def test_progress_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    console.progress("working")
    assert capsys.readouterr() == ("", "")


def test_main_takes_the_arguments_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rvrae", "--version"])
    assert app.main() == 0
    assert capsys.readouterr().out == f"{rv.__version__}\n"


@pytest.mark.parametrize("command", ["check", "fit", "forecast", "report"])
def test_help_shows_the_defaults_of_the_columns(rvrae: Command, command: str) -> None:
    """Brackets in a help text are taken for markup, and vanish."""
    said = " ".join(rvrae(command, "--help").out.replace("│", " ").split())
    for default in ("date", "asset", "ret", "monthly"):
        assert f"(default: {default})" in said
    if command == "fit":
        assert "data, model, fit, split" in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Pass time=...", "Pass --time COLUMN"),
        ("pass excess=True, risk_free='Rf'.", "pass --excess --risk-free Rf."),
        ("want frequency='weekly'", "want --frequency weekly"),
        (
            "Pass date_format='%m/%d/%Y' or '%d/%m/%Y' (dayfirst=True or dayfirst=False) where",
            "Pass --date-format %m/%d/%Y or '%d/%m/%Y' where",
        ),
        ("Pass date_format=... where", "Pass --date-format FORMAT where"),
        ("or pass lag=1 if", "or pass --lag 1 if"),
        ("Drop them, or pass characteristics=[...].", "Drop them."),
        ("rv.weights.Normal(weights=...)", "rv.weights.Normal(weights=...)"),
    ],
)
def test_arguments_are_named_as_options(text: str, told: str) -> None:
    assert console.as_options(text) == told


def test_help_states_how_long_a_command_takes() -> None:
    from rvrae_pyro.cli.app import app, benchmark

    commands = [*app.registered_commands, *benchmark.registered_commands]
    assert len(commands) == 11
    for command in commands:
        assert re.search(r"\n\nTakes [^.]*(seconds|minutes|hours|fit)", str(command.help)), command


def test_help_flows_with_the_width_of_the_terminal(
    rvrae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line of a paragraph ends early because the docstring's line did."""
    from rvrae_pyro.cli.app import app

    for command in app.registered_commands:
        for paragraph in str(command.help).split("\n\n"):
            assert "\n" not in paragraph
    monkeypatch.setenv("COLUMNS", "80")
    shown = rvrae("fit", "--help").out
    assert max(map(len, shown.splitlines())) <= 80
