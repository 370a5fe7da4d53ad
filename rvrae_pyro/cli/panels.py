"""Panels from files, and what is done to one before a model sees it."""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import pandas as pd
import pyarrow.parquet as pq
import typer
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.atomic import scratch_folder
from rvrae_pyro.cli.layout import Layout
from rvrae_pyro.data.blocks import is_lazy
from rvrae_pyro.data.tables import FORMAT_KEY
from rvrae_pyro.errors import CheckpointError, PanelError, RvraeWarning
from rvrae_pyro.names import ASSET, CHARACTERISTIC, CONTEXT, FEATURE, TIME

__all__ = ["PanelPath", "Preparation", "prepare", "read_panel", "settled"]

# data that come with the package or with an extra of it, by the name that stands for a file
_EMBEDDED: Final = {"french": rv.data.load_french, "sp500": rv.data.load_sp500}
PanelPath = Annotated[
    Path, typer.Argument(help="Panel (.parquet, .csv, .nc, .zarr) or a plain long table.")
]


def read_panel(path: Path, layout: Layout) -> xr.Dataset:
    """Read a panel, or a plain long table as ``layout`` tells; ``french`` and ``sp500`` are known.

    Raises
    ------
    PanelError
        If the file is missing, damaged, of an unknown suffix, or holds no valid panel.
    """
    if str(path) in _EMBEDDED and not path.exists():
        return _EMBEDDED[str(path)]()
    chosen = layout.chosen()
    if not chosen:
        return rv.data.read_panel(path)
    frame = _read_table(path, layout.asset or ASSET)
    if "weight" not in chosen and "weight" in frame.columns:
        chosen["weight"] = "weight"
    try:
        return rv.data.from_frame(frame, **chosen)
    except PanelError as error:
        raise PanelError(f"{path}: {error}") from error


def _read_table(path: Path, asset: str) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise PanelError(
            f"{path}: column options are for plain tables, .csv or .parquet; got {suffix!r}."
        )
    if not path.is_file():
        raise PanelError(f"cannot read {path}: it is missing or no file. Check the path.")
    try:
        if suffix == ".csv":
            with path.open("rb") as file:
                known = file.readline().startswith(f"# {FORMAT_KEY} ".encode())
            # ids keep their leading zeros
            frame = pd.DataFrame() if known else pd.read_csv(path, dtype={asset: "str"})
        else:
            known = FORMAT_KEY.encode() in (pq.read_schema(path).metadata or {})
            frame = pd.DataFrame() if known else pd.read_parquet(path)
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        text = str(error).strip() or type(error).__name__
        raise PanelError(
            f"cannot read {path}: it is damaged or no {suffix} file "
            f"({text.splitlines()[0]}). Write it again."
        ) from error
    if known:
        raise PanelError(
            f"{path} is a panel and says itself what its columns are. Leave out the column options."
        )
    named = any(name is not None for name in frame.index.names)
    return frame.reset_index() if named else frame


@dataclass(frozen=True)
class Preparation:
    """What was done to a panel before the fit; a forecast repeats it.

    Attributes
    ----------
    characteristics : tuple of str
        Names, in the order the model knows them.
    ranked : bool
        Whether the characteristics were ranked here.
    transform : str
        The panel's ``transform`` as the model saw it.
    context : {"none", "market", "given"}
        None, ``rv.data.market_context``, or the panel's own.
    features : tuple of str
        Names of the context's features.
    first : str
        First date, from which ``market_context`` standardises.
    frequency : str
    """

    characteristics: tuple[str, ...]
    ranked: bool
    transform: str
    context: Literal["none", "market", "given"]
    features: tuple[str, ...]
    first: str
    frequency: str

    def to_json(self) -> str:
        """Describe the preparation; :meth:`from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, path: Path) -> "Preparation":
        """Read the preparation beside a fit.

        Raises
        ------
        CheckpointError
            If the file is missing or does not describe a preparation.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for name in ("characteristics", "features"):
                content[name] = tuple(map(str, content[name]))
            return cls(**content)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path} is missing: it tells how the panel was prepared. Fit with `rvrae fit`, or "
                "load a fit of your own in Python."
            ) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}. Fit again.") from error

    def repeat(self, panel: xr.Dataset) -> xr.Dataset:
        """Do to another panel what was done to the one of the fit.

        Parameters
        ----------
        panel : Dataset
            Longer or with other assets, with the same characteristics in any order.

        Returns
        -------
        Dataset
            Characteristics in the model's order; nothing in a row uses later rows.

        Raises
        ------
        PanelError
            If characteristics, transform, frequency or context differ from the fit's.
        """
        panel = self._same_characteristics(panel)
        frequency = str(panel.attrs.get("frequency", "monthly"))
        if frequency != self.frequency:
            raise PanelError(f"the panel is {frequency}; the model was fitted on {self.frequency}.")
        panel = self._same_context(panel)
        if self.ranked:
            return rv.data.rank_characteristics(panel)
        transform = str(panel.attrs.get("transform", "none"))
        if transform != self.transform:
            raise PanelError(
                f"the attribute `transform` of the panel says {transform!r}; the model was fitted "
                f"on {self.transform!r} characteristics. Transform them alike."
            )
        return panel

    def _same_characteristics(self, panel: xr.Dataset) -> xr.Dataset:
        have = [str(name) for name in panel[CHARACTERISTIC].values]
        absent = [name for name in self.characteristics if name not in have]
        extra = [name for name in have if name not in self.characteristics]
        if absent or extra:
            raise PanelError(
                f"the panel's characteristics differ from the model's: missing {_few(absent)}; "
                f"unknown to the model {_few(extra)}. Give it the {len(self.characteristics)} of "
                "the fit, or fit again."
            )
        return panel.sel({CHARACTERISTIC: list(self.characteristics)})

    def _same_context(self, panel: xr.Dataset) -> xr.Dataset:
        if self.context == "none":
            return panel.drop_dims(FEATURE) if FEATURE in panel.dims else panel
        if CONTEXT not in panel and self.context == "market":
            if panel.attrs.get("transform", "none") != "none":
                raise PanelError(
                    "the model knows a market context made from raw characteristics; those of the "
                    "panel are transformed already. Give it the raw panel."
                )
            panel = rv.data.market_context(panel)
            _warn_other_start(self.first, _first(panel))
        if CONTEXT not in panel:
            raise PanelError(
                f"the panel has no `context`; the model was fitted with {_few(self.features)}."
            )
        have = [str(name) for name in panel[FEATURE].values]
        if sorted(have) != sorted(self.features):
            raise PanelError(
                f"the context differs from the model's: it has {_few(have)}, the model was fitted "
                f"with {_few(self.features)}."
            )
        return panel.sel({FEATURE: list(self.features)})


def _few(names: "list[str] | tuple[str, ...]") -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown}, ... ({len(names)} in all)"


def _first(panel: xr.Dataset) -> str:
    return str(panel[TIME].values[0])[:10]


def _warn_other_start(expected: str, got: str) -> None:
    if got != expected:
        warnings.warn(
            f"the panel starts {got}, that of the fit {expected}: the market context is "
            "standardised from the first row on, so forecasts differ from those of the full panel",
            RvraeWarning,
            stacklevel=2,
        )


@contextmanager
def settled(panel: xr.Dataset) -> Iterator[xr.Dataset]:
    """Give a panel on disk whose ranks are made once and kept for as long as they are needed.

    A panel in memory is given back as it is.
    """
    if not is_lazy(panel):
        yield panel
        return
    with scratch_folder() as folder:
        path = folder / "prepared.zarr"
        rv.data.write_panel(panel, path)
        yield rv.data.read_panel(path)


def prepare(
    panel: xr.Dataset, *, rank: bool = True, context: bool = True
) -> tuple[xr.Dataset, Preparation]:
    """Add the market context and rank the characteristics, where that is still to be done.

    Parameters
    ----------
    panel : Dataset
        Raw, or ranked already as its attribute ``transform`` says.
    rank : bool
        Rank unless it is ranked.
    context : bool
        Add ``rv.data.market_context`` unless the panel has a context, where its characteristics
        are raw; False leaves out any context.

    Returns
    -------
    Dataset
        Nothing in a row uses later rows.
    Preparation
        What was done.
    """
    kind: Literal["none", "market", "given"] = "given" if CONTEXT in panel else "none"
    if not context and kind == "given":
        panel, kind = panel.drop_dims(FEATURE), "none"
    elif context and kind == "none" and panel.attrs.get("transform", "none") == "none":
        panel, kind = rv.data.market_context(panel), "market"
    ranked = rank and panel.attrs.get("transform") != "rank"
    if ranked:
        panel = rv.data.rank_characteristics(panel)
    return panel, Preparation(
        characteristics=tuple(map(str, panel[CHARACTERISTIC].values)),
        ranked=ranked,
        transform=str(panel.attrs.get("transform", "none")),
        context=kind,
        features=tuple(map(str, panel[FEATURE].values)) if kind != "none" else (),
        first=_first(panel),
        frequency=str(panel.attrs.get("frequency", "monthly")),
    )
