"""Progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial


@contextmanager
def progress_bar(name: str, total: int, wanted: bool) -> Iterator[Callable[..., None]]:
    """Show a bar on a terminal or in a notebook, and nothing in a pipe.

    Yields
    ------
    callable
        Takes ``completed`` or ``advance``, a number of steps, and ``note``, text next to the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    shown = wanted and (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        yield partial(bar.update, bar.add_task(name, total=total, note=""))
