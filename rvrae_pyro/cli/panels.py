"""Panels of commands: options of plain tables, reading, and preparation for a model."""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import typer
import xarray as xr

from rvrae_pyro.atomic import scratch_folder
from rvrae_pyro.data.chunks import is_lazy
from rvrae_pyro.data.datasets import load_french, load_sp500
from rvrae_pyro.data.frame import from_frame
from rvrae_pyro.data.io import FORMAT_KEY, write_panel
from rvrae_pyro.data.io import read_panel as read_file
from rvrae_pyro.data.plain_tables import column_names, is_numeric, read_plain
from rvrae_pyro.data.transforms import market_context, rank_characteristics
from rvrae_pyro.data.validation import first_three, listed
from rvrae_pyro.data.wide import characteristics_from_returns
from rvrae_pyro.errors import CheckpointError, ConfigError, PanelError
from rvrae_pyro.names import ASSET, CONTEXT, FEATURE, RISK_FREE, TIME

_PLAIN: Final = "Plain tables (.csv, .parquet)"

# data that come with the package or with an extra of it, by the name used in place of a file
_EMBEDDED: Final = {"french": load_french, "sp500": load_sp500}
_TABLES: Final = (".csv", ".parquet")
PanelPath = Annotated[
    Path, typer.Argument(help="Panel (.parquet, .csv, .nc, .zarr) or a plain long table.")
]


def _plain(flag: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel=_PLAIN)


@dataclass(frozen=True)
class Layout:
    """Layout of a plain table; see ``rv.data.from_frame``. None: its default."""

    time: Annotated[str | None, _plain("--time", "Dates (default: date).", "COLUMN")] = None
    asset: Annotated[str | None, _plain("--asset", "Ids (default: asset).", "COLUMN")] = None
    returns: Annotated[
        str | None, _plain("--returns", "Simple returns, decimal (default: ret).", "COLUMN")
    ] = None
    lag: Annotated[
        int | None,
        _plain(
            "--lag",
            "0: characteristics are known before the row's month; 1: at its end (default: 0).",
        ),
    ] = None
    risk_free: Annotated[
        str | None, _plain("--risk-free", "Rate to subtract from the returns.", "COLUMN")
    ] = None
    excess: Annotated[
        bool, _plain("--excess", "Returns are in excess of the risk-free rate already.")
    ] = False
    weight: Annotated[
        str | None, _plain("--weight", "Market values (default: weight, if there).", "COLUMN")
    ] = None
    frequency: Annotated[
        str | None, _plain("--frequency", "monthly, weekly or daily (default: monthly).")
    ] = None
    date_format: Annotated[
        str | None,
        _plain("--date-format", "Dates in text whose year is not first, as %m/%d/%Y.", "FORMAT"),
    ] = None
    percent: Annotated[
        bool, _plain("--percent", "Returns and the risk-free rate are in percent.")
    ] = False
    wide: Annotated[
        bool, _plain("--wide", "One row per date and one column of returns per asset.")
    ] = False

    def chosen(self) -> dict[str, Any]:
        """Return the settings that were given, by name."""
        given = dataclasses.asdict(self)
        return {
            name: value for name, value in given.items() if value is not None and value is not False
        }

    def check_against(self, remembered: Mapping[str, Any]) -> None:
        """Raise ``ConfigError`` if a given setting contradicts that of the run."""
        for name, value in self.chosen().items():
            known = inspect.signature(from_frame).parameters
            kept = remembered.get(name, known[name].default if name in known else False)
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


def read_panel(
    path: Path, layout: Layout, remembered: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Read a panel, or a plain long table by its layout; ``french`` and ``sp500`` are known names.

    Parameters
    ----------
    path : Path
    layout : Layout
        Options of this command.
    remembered : mapping, optional
        Layout that a run's table was read with (:func:`layout_of`): the default of every option
        of a plain table. An option that contradicts it raises ``ConfigError``.
    """
    if _is_embedded(path):
        return _EMBEDDED[str(path)]()
    if remembered is not None:
        layout.check_against(remembered)
    chosen = layout.chosen() or dict(remembered or {})
    if not chosen or (not layout.chosen() and _describes_itself(path)):
        return read_file(path)
    chosen = {**(remembered or {}), **chosen}
    try:
        panel = _read_wide(path, chosen) if chosen.get("wide") else _read_long(path, chosen)
    except PanelError as error:
        if str(path) in str(error):
            raise
        raise PanelError(f"{path}: {error}") from error
    panel.attrs["source"] = panel.attrs.get("source") or path.name
    return panel


def _read_long(path: Path, chosen: Mapping[str, Any]) -> xr.Dataset:
    """Read a table of one row per (date, asset)."""
    layout = {name: value for name, value in chosen.items() if name not in ("percent", "wide")}
    returns = layout.get("returns", "ret")
    frame = read_table(path, layout.get("asset", ASSET), layout.get("time", "date"), returns)
    if chosen.get("percent"):
        rate = layout.get("risk_free", RISK_FREE)
        frame = _divided(frame, [name for name in (returns, rate) if name in frame])
    return from_frame(frame, **layout)


def _read_wide(path: Path, chosen: Mapping[str, Any]) -> xr.Dataset:
    """Read a table of one row per date; characteristics are made from past returns."""
    taken = ("asset", "returns", "weight", "lag")
    given = [_option(name) for name in taken if chosen.get(name) is not None]
    if given:
        raise ConfigError(
            f"`--wide` reads every column but that of dates as an asset's returns, and takes no "
            f"{' or '.join(given)}. Leave it out, or write a table of one row per (date, asset)."
        )
    names = column_names(path) if path.is_file() else []
    usual = next((name for name in names if name.strip().lower() == "date"), (*names, "date")[0])
    time = chosen.get("time", usual)
    frame = read_table(path, "", time)
    rate = chosen.get("risk_free")
    absent = [name for name in (time, rate) if name is not None and name not in frame]
    if absent:
        raise PanelError(f"no column {absent[0]!r}; it has {first_three(frame.columns)}.")
    if chosen.get("percent"):
        frame = _divided(frame, [name for name in frame.columns if name != time])
    frame = frame.set_index(time)
    panel = characteristics_from_returns(
        frame.drop(columns=[] if rate is None else rate),
        risk_free=None if rate is None else frame[rate],
        excess=chosen.get("excess", False),
        frequency=chosen.get("frequency", "monthly"),
        date_format=chosen.get("date_format"),
    )
    return panel.assign_attrs(source=path.name)


def _divided(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Turn columns of percent into decimals; text stays, and raises later."""
    return frame.assign(**{n: frame[n] / 100.0 for n in names if is_numeric(frame[n])})


def layout_of(path: Path, layout: Layout) -> dict[str, Any] | None:
    """Layout that :func:`read_panel` reads a plain table by; None for files that need none."""
    return None if _is_embedded(path) or _describes_itself(path) else layout.chosen()


def _is_embedded(path: Path) -> bool:
    return str(path) in _EMBEDDED and not path.exists()


def _describes_itself(path: Path) -> bool:
    """Test whether a file is a panel with labels and attributes, not a plain table."""
    suffix = path.suffix.lower()
    if suffix not in _TABLES:
        return True
    try:
        if suffix == ".csv":
            with path.open("rb") as file:
                return file.readline().startswith(f"# {FORMAT_KEY} ".encode())
        return FORMAT_KEY.encode() in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError):
        return False  # reading it raises with the reason


def read_table(
    path: Path, asset: str, time: str = "date", returns: str | None = None
) -> pd.DataFrame:
    """Read a plain table, .csv or .parquet: ids and labels as they are written."""
    suffix = path.suffix.lower()
    if suffix not in _TABLES:
        raise PanelError(
            f"{path}: column options are for plain tables, .csv or .parquet; got {suffix!r}."
        )
    if not path.is_file():
        raise PanelError(f"cannot read {path}: it is missing or no file. Check the path.")
    if _describes_itself(path):
        raise PanelError(f"{path} is a panel and states its columns. Leave out the column options.")
    return read_plain(path, asset=asset, time=time, returns=returns)


@dataclass(frozen=True)
class Preparation:
    """Preparation of a panel before the fit; later commands repeat it.

    Attributes
    ----------
    ranked : bool
        Whether the characteristics were ranked here.
    context : {"none", "market", "given"}
        None, ``rv.data.market_context``, or the panel's own.
    layout : mapping or None
        Layout that the plain table was read by; None for a file that needs none.
    """

    ranked: bool
    context: Literal["none", "market", "given"]
    layout: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """Describe the preparation; :meth:`from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, path: Path) -> "Preparation":
        """Read the preparation saved with a fit."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(content["ranked"], content["context"], content.get("layout"))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path} is missing: it states the panel's preparation. Fit with `rvrae fit`, or "
                "load another fit in Python."
            ) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}. Fit again.") from error

    def repeat(self, panel: xr.Dataset) -> xr.Dataset:
        """Prepare another panel as that of the fit; nothing in a row uses later rows.

        Whether the panel matches that of the fit is not checked here.
        """
        if self.context == "none" and FEATURE in panel.dims:
            panel = panel.drop_dims(FEATURE)
        elif self.context == "market" and CONTEXT not in panel:
            if panel.attrs.get("transform", "none") != "none":
                raise PanelError(
                    "the model knows a market context made from raw characteristics; those of the "
                    "panel are transformed already. Give it the raw panel."
                )
            panel = market_context(panel)
        return rank_characteristics(panel) if self.ranked else panel


@contextmanager
def settled(panel: xr.Dataset) -> Iterator[xr.Dataset]:
    """Give a panel on disk with its ranks written once; a panel in memory as it is."""
    if not is_lazy(panel):
        yield panel
        return
    with scratch_folder() as folder:
        path = folder / "prepared.zarr"
        write_panel(panel, path)
        yield read_file(path)


def prepare(
    panel: xr.Dataset, *, rank: bool = True, context: bool = True
) -> tuple[xr.Dataset, Preparation]:
    """Add the market context and rank the characteristics, where that is still to be done.

    Parameters
    ----------
    panel : Dataset
        Raw, or ranked already according to its attribute ``transform``.
    rank : bool
        Rank unless it is ranked.
    context : bool
        Add ``rv.data.market_context`` to raw characteristics unless the panel has a context;
        False leaves out any context.
    """
    kind: Literal["none", "market", "given"] = "given" if CONTEXT in panel else "none"
    if not context and kind == "given":
        panel, kind = panel.drop_dims(FEATURE), "none"
    elif context and kind == "none" and panel.attrs.get("transform", "none") == "none":
        panel, kind = market_context(panel), "market"
    ranked = rank and panel.attrs.get("transform") != "rank"
    if ranked:
        panel = rank_characteristics(panel)
    return panel, Preparation(ranked=ranked, context=kind)


def months_asked(times: str, panel: xr.Dataset) -> object | None:
    """Turn the option ``--times`` into what ``Fit.forecast`` takes."""
    if times == "all":
        return None
    if times == "last":
        return [last_listed(panel)]
    first, colon, last = times.partition(":")
    return slice(first or None, last or None) if colon else times


def last_listed(panel: xr.Dataset) -> np.datetime64:
    """Date of the last row with a listed asset: the live month where there is one."""
    rows = np.flatnonzero(listed(panel).values.any(axis=1))
    if not rows.size:
        raise PanelError("no asset is listed in any row: there is nothing to forecast.")
    date: np.datetime64 = panel[TIME].values[rows[-1]]
    return date
