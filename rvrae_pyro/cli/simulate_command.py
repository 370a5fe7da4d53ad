"""``rvrae simulate``: panels whose loadings and factors are known."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import xarray as xr

from rvrae_pyro.cli.console import echo, echo_json
from rvrae_pyro.cli.files import check_file
from rvrae_pyro.data import simulate_dynamic, simulate_gkx, simulate_linear_gaussian, write_panel
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import ASSET, CHARACTERISTIC, TIME

_SUFFIXES: Final = (".parquet", ".csv", ".nc")


def _gkx_linear(**sizes: Any) -> xr.Dataset:
    return simulate_gkx("linear", **sizes)


def _gkx_nonlinear(**sizes: Any) -> xr.Dataset:
    return simulate_gkx("nonlinear", **sizes)


def _linear_gaussian(**sizes: Any) -> xr.Dataset:
    if "n_characteristics" in sizes:
        raise ConfigError("linear-gaussian takes no `--n-characteristics`: they are its loadings.")
    return simulate_linear_gaussian(**sizes)


def _dynamic(**sizes: Any) -> xr.Dataset:
    return simulate_dynamic(**sizes)


_CASES: Final[Mapping[str, Callable[..., xr.Dataset]]] = {
    "gkx-linear": _gkx_linear,
    "gkx-nonlinear": _gkx_nonlinear,
    "linear-gaussian": _linear_gaussian,
    "dynamic": _dynamic,
}


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
    """
    if case not in _CASES:
        close = get_close_matches(case, _CASES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"CASE must be one of {', '.join(_CASES)}; got {case!r}.{hint}")
    check_file(out, _SUFFIXES)
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
