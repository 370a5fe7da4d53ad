"""Options of the commands that read a panel: how a plain long table is laid out."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Final, get_type_hints

import typer

__all__ = ["Layout", "takes_layout"]

_PLAIN: Final = "Plain long tables (.csv, .parquet)"


@dataclass(frozen=True)
class Layout:
    """How a plain long table is laid out; see ``rv.data.from_frame``. None: its default."""

    time: Annotated[
        str | None,
        typer.Option(
            "--time", metavar="COLUMN", help="Dates (default: date).", rich_help_panel=_PLAIN
        ),
    ] = None
    asset: Annotated[
        str | None,
        typer.Option(
            "--asset", metavar="COLUMN", help="Ids (default: asset).", rich_help_panel=_PLAIN
        ),
    ] = None
    returns: Annotated[
        str | None,
        typer.Option(
            "--returns",
            metavar="COLUMN",
            help="Simple returns, decimal (default: ret).",
            rich_help_panel=_PLAIN,
        ),
    ] = None
    lag: Annotated[
        int | None,
        typer.Option(
            "--lag",
            help="0: characteristics are known before the row's month; 1: at its end (default: 0).",
            rich_help_panel=_PLAIN,
        ),
    ] = None
    risk_free: Annotated[
        str | None,
        typer.Option(
            "--risk-free",
            metavar="COLUMN",
            help="Rate to subtract from the returns.",
            rich_help_panel=_PLAIN,
        ),
    ] = None
    excess: Annotated[
        bool,
        typer.Option(
            "--excess",
            help="Returns are in excess of the risk-free rate already.",
            rich_help_panel=_PLAIN,
        ),
    ] = False
    weight: Annotated[
        str | None,
        typer.Option(
            "--weight",
            metavar="COLUMN",
            help="Market values (default: weight, if there).",
            rich_help_panel=_PLAIN,
        ),
    ] = None
    frequency: Annotated[
        str | None,
        typer.Option(
            "--frequency",
            help="monthly, weekly or daily (default: monthly).",
            rich_help_panel=_PLAIN,
        ),
    ] = None

    date_format: Annotated[
        str | None,
        typer.Option(
            "--date-format",
            metavar="FORMAT",
            help="Dates in text whose year is not first, as %m/%d/%Y.",
            rich_help_panel=_PLAIN,
        ),
    ] = None

    def chosen(self) -> dict[str, Any]:
        """Return the settings that were given, by name."""
        given = dataclasses.asdict(self)
        return {
            name: value for name, value in given.items() if value is not None and value is not False
        }

    def options(self) -> list[str]:
        """Return the settings that were given, as words of a command line."""
        words = []
        for name, value in self.chosen().items():
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append(str(value))
        return words


def takes_layout(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option a field of :class:`Layout`, which it gets as ``layout``."""
    kinds = get_type_hints(Layout, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=kinds[field.name],
        )
        for field in dataclasses.fields(Layout)
    ]

    @wraps(command)
    def run(**given: Any) -> None:
        layout = Layout(**{option.name: given.pop(option.name) for option in options})
        command(**given, layout=layout)

    signature = inspect.signature(command)
    own = [each for each in signature.parameters.values() if each.name != "layout"]
    # what typer reads the options from
    run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in [*own, *options]}
    return run
