"""``rvrae check`` and ``rvrae simulate``: validity and contents of a panel; simulated ones."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
import xarray as xr

from rvrae_pyro.cli.console import echo, echo_json, echo_pairs
from rvrae_pyro.cli.files import check_file, load_run
from rvrae_pyro.cli.panels import Layout, PanelPath, layout_of, read_panel, takes_layout
from rvrae_pyro.data import simulate_dynamic, simulate_gkx, simulate_linear_gaussian, write_panel
from rvrae_pyro.data.oddities import find_oddities
from rvrae_pyro.data.validation import check_panel
from rvrae_pyro.data.validation import listed as listed_cells
from rvrae_pyro.errors import ConfigError, did_you_mean, warn_user
from rvrae_pyro.names import (
    ASSET,
    CHARACTERISTIC,
    CHARACTERISTICS,
    CONTEXT,
    FEATURE,
    RETURNS,
    TIME,
    WEIGHT,
)

_PANELS: Final = (".parquet", ".csv", ".nc")
_CASES: Final[Mapping[str, Callable[..., xr.Dataset]]] = {
    "gkx-linear": partial(simulate_gkx, "linear"),
    "gkx-nonlinear": partial(simulate_gkx, "nonlinear"),
    "linear-gaussian": simulate_linear_gaussian,
    "dynamic": simulate_dynamic,
}


@takes_layout
def check(
    panel: PanelPath,
    run: Annotated[
        Path | None,
        typer.Option(help="Run to compare with; the table is read as that of its fit was."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    layout: Layout,
) -> None:
    """Check a panel and describe it; every problem is listed.

    With a run: also whether the panel matches that of the fit. What is valid and most
    likely wrong, such as a characteristic that knows the return of its row, comes as a warning.

    Takes seconds.
    """
    dataset = read_panel(panel, layout) if run is None else load_run(run).read(panel, layout)[0]
    check_panel(dataset)
    described = describe(dataset)
    odd = find_oddities(dataset, layout.returns or "ret")
    if layout_of(panel, layout) is None:  # readers of plain tables have warned of these
        for text in odd:
            warn_user(text)
    if as_json:
        echo_json({"panel": str(panel), **described, "warnings": odd})
        return
    kind = "" if run is None else f", of the kind that {run} was fitted on"
    echo(f"{panel} is a panel in order{kind}.")
    echo_pairs({name.replace("_", " "): _text(value) for name, value in described.items()})


def describe(panel: xr.Dataset) -> dict[str, Any]:
    """Summarise the contents of a panel in JSON types.

    ``live_rows`` are those after the last observed return; ``characteristics_missing`` is the share
    of gaps inside listed cells, which ranking fills.
    """
    listed = listed_cells(panel).values
    seen = ~np.isnan(panel[RETURNS].values)
    usable = listed & seen
    last = int(np.flatnonzero(seen.any(axis=1))[-1])
    gaps = np.isnan(panel[CHARACTERISTICS].values[listed]).mean() if listed.any() else 0.0
    days = panel[TIME].values.astype("datetime64[D]").astype(str)
    return {
        "frequency": str(panel.attrs.get("frequency", "monthly")),
        "first": str(days[0]),
        "last": str(days[-1]),
        "last_with_returns": str(days[last]),
        "rows": int(panel.sizes[TIME]),
        "live_rows": int(panel.sizes[TIME] - last - 1),
        "assets": int(panel.sizes[ASSET]),
        "assets_a_row": [int(listed.sum(axis=1).min()), int(listed.sum(axis=1).max())],
        "listed_cells": int(listed.sum()),
        "returns_of_listed_assets": int(usable.sum()),
        "returns_of_unlisted_assets": int((seen & ~listed).sum()),
        "median_absolute_return": float(np.median(np.abs(panel[RETURNS].values[seen]))),
        "returns_are": str(panel.attrs.get("return_kind", "simple excess")),
        "characteristics": [str(name) for name in panel[CHARACTERISTIC].values],
        "characteristics_missing": float(gaps),
        "transform": str(panel.attrs.get("transform", "none")),
        "context": [str(name) for name in panel[FEATURE].values] if CONTEXT in panel else [],
        "has_weight": WEIGHT in panel,
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        if value and isinstance(value[0], int):
            return f"{value[0]} to {value[1]}"
        shown = ", ".join(value[:4]) or "none"
        return shown if len(value) <= 4 else f"{len(value)}: {shown}, ..."
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else str(value)


def simulate(
    case: Annotated[str, typer.Argument(help=f"One of {', '.join(_CASES)}.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .nc.")],
    n_assets: Annotated[int | None, typer.Option(help="Assets.")] = None,
    n_times: Annotated[int | None, typer.Option(help="Months.")] = None,
    n_characteristics: Annotated[int | None, typer.Option(help="Characteristics.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same panel.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a simulated panel, the true loadings and factors in it.

    gkx-linear and gkx-nonlinear: the design of Gu, Kelly and Xiu (2021); linear-gaussian: one
    that a Kalman filter solves; dynamic: entry and exit, heavy tails, volatility clusters.

    Takes seconds.
    """
    if case not in _CASES:
        hint = did_you_mean(case, _CASES)
        raise ConfigError(f"CASE must be one of {', '.join(_CASES)}; got {case!r}{hint}.")
    if case == "linear-gaussian" and n_characteristics is not None:
        raise ConfigError("linear-gaussian takes no `--n-characteristics`: they are its loadings.")
    check_file(out, _PANELS)
    sizes: dict[str, Any] = {
        "n_assets": n_assets,
        "n_times": n_times,
        "n_characteristics": n_characteristics,
    }
    panel = _CASES[case](seed=seed, **{k: v for k, v in sizes.items() if v is not None})
    write_panel(panel, out)
    shape = {name: int(panel.sizes[name]) for name in (TIME, ASSET, CHARACTERISTIC)}
    if as_json:
        echo_json({"out": str(out), "case": case, "seed": seed, **shape})
    else:
        echo(
            f"Wrote {out}: {shape[TIME]} months, {shape[ASSET]} assets, {shape[CHARACTERISTIC]} "
            f"characteristics ({case}, seed {seed})."
        )
