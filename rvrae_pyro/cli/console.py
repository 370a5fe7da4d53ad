"""Output of commands: results on standard output, messages on standard error."""

import json
import math
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rvrae_pyro.errors import FitError, RvraeWarning

# `name=...` or `name='value'`, of the arguments of `rv.data.from_frame` that are options here
_PLACES: Final = {"date_format": "FORMAT"}
_ARGUMENT: Final = re.compile(
    r"\b(?P<name>time|asset|returns|weight|risk_free|frequency|date_format|lag)="
    r"(?:\.\.\.|'(?P<value>[^']*)'|(?P<number>[01])\b)"
)


def echo(text: str) -> None:
    """Write a result for people to standard output."""
    typer.echo(text)


def echo_json(result: Mapping[str, Any]) -> None:
    """Write a result for programs to standard output, as one JSON object; NaN becomes null."""
    typer.echo(json.dumps(strict(result), indent=2, allow_nan=False))


def strict(value: Any) -> Any:
    """Turn numbers that JSON does not know (NaN, infinite) into null, however deep."""
    if isinstance(value, Mapping):
        return {str(name): strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def echo_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Write a table to standard output: the first column to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for position, name in enumerate(columns):
        table.add_column(name, justify="right" if position else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def echo_pairs(pairs: Mapping[str, str]) -> None:
    """Write names and values to standard output, one pair a line."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        typer.echo(f"  {name:<{width}}  {value}")


def as_options(text: str) -> str:
    """Turn the arguments that a message of the library asks for into options of the commands.

    >>> as_options("Pass time=... or risk_free='rf'.")
    'Pass --time COLUMN or --risk-free rf.'
    """
    for words in (
        " (dayfirst=True or dayfirst=False)",
        " where a reader takes it",
        ", or pass characteristics=[...]",
        ", or choose the characteristics with characteristics=[...]",
    ):
        text = text.replace(words, "")

    def option(found: re.Match[str]) -> str:
        value = found["value"] or found["number"] or _PLACES.get(found["name"], "COLUMN")
        return f"--{found['name'].replace('_', '-')} {value}"

    text = _ARGUMENT.sub(option, text)
    return text.replace("excess=True, --risk-free", "--excess --risk-free").replace(
        "excess=True", "--excess"
    )


def echo_error(text: str) -> None:
    """Write a message to standard error."""
    typer.echo(text, err=True)


def progress(text: str) -> None:
    """Show the current step, on a terminal only."""
    console = Console(stderr=True, highlight=False, markup=False)
    if console.is_terminal:
        console.print(text, style="dim")


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show this package's warnings as one line each, without file and code."""
    with warnings.catch_warnings():
        plain = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, RvraeWarning):
                echo_error(f"warning: {as_options(str(message))}")
            else:
                plain(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


@contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Raise ``FitError`` that names the saved results on Ctrl-C or SIGTERM."""
    try:
        yield
    except KeyboardInterrupt:
        raise FitError(f"interrupted; {kept}") from None


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: partial files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
