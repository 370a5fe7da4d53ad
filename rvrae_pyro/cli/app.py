"""The command ``rvrae``: its sub-commands, and what becomes of errors."""

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from rvrae_pyro._version import __version__
from rvrae_pyro.cli.compare_commands import benchmark, compare, paper
from rvrae_pyro.cli.console import as_options, echo_error, terminable, warnings_as_lines
from rvrae_pyro.cli.demo_command import demo
from rvrae_pyro.cli.fit_commands import fit, walk_forward
from rvrae_pyro.cli.forecast_commands import forecast, report
from rvrae_pyro.cli.panel_commands import check, simulate
from rvrae_pyro.cli.risk_command import risk
from rvrae_pyro.errors import FitError, RvraeError

app = typer.Typer(
    name="rvrae",
    help="Bayesian dynamic latent factor models of stock returns: fit, forecast, measure risk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _flowing(text: str | None) -> str:
    """Join the lines of each paragraph: the terminal breaks them where it ends."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


for _command in (demo, check, simulate, fit, forecast, report, risk, walk_forward, compare, paper):
    app.command(help=_flowing(_command.__doc__))(_command)
for _registered in benchmark.registered_commands:
    _registered.help = _flowing(getattr(_registered.callback, "__doc__", ""))
app.add_typer(benchmark)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments after ``rvrae``. Default: ``sys.argv``.

    Returns
    -------
    int
        0: done. 1: failed on the way, such as training that diverged or was interrupted.
        2: bad input, reported in one message on standard error; nothing was written.
        An unforeseen error is raised.
    """
    # typer's own call would replace sys.excepthook
    command = typer.main.get_command(app)
    with warnings_as_lines(), terminable():
        try:
            command(args=None if arguments is None else list(arguments), prog_name="rvrae")
        except SystemExit as done:
            return done.code if isinstance(done.code, int) else int(done.code is not None)
        except RvraeError as error:
            if os.environ.get("RANK", "0") == "0":  # of many processes, one talks
                echo_error(f"rvrae: {as_options(str(error))}")
            return 1 if isinstance(error, FitError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
