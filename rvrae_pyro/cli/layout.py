"""Options of the commands that read a panel: how a plain long table is laid out."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Final, get_type_hints

import typer

from rvrae_pyro.data.frame import from_frame
from rvrae_pyro.errors import ConfigError

_PLAIN: Final = "Plain long tables (.csv, .parquet)"


@dataclass(frozen=True)
class Layout:
    """Layout of a plain long table; see ``rv.data.from_frame``. None: its default."""

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

    def check_against(self, remembered: Mapping[str, Any]) -> None:
        """Compare the settings that were given with those that a run's table was read by.

        Raises
        ------
        ConfigError
            If one contradicts.
        """
        for name, value in self.chosen().items():
            default = inspect.signature(from_frame).parameters[name].default
            kept = remembered.get(name, default)
            if value != kept:
                was = _option(name, kept) if kept not in (None, False) else f"no {_option(name)}"
                raise ConfigError(
                    f"`{_option(name, value)}` contradicts the run, whose table was read with "
                    f"{was}. Leave the option out: a run remembers its options; or fit again."
                )


def _option(name: str, value: object = True) -> str:
    """Spell a setting as words of a command line."""
    words = f"--{name.replace('_', '-')}"
    return words if value is True else f"{words} {value}"


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
