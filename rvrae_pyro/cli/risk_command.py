"""``rvrae risk``: the distribution of a portfolio's next return, and where its risk is from."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import typer
import xarray as xr

from rvrae_pyro.cli.console import echo, echo_json, echo_table, interruptible
from rvrae_pyro.cli.files import load_run
from rvrae_pyro.cli.panels import Layout, PanelPath, months_asked, settled, takes_layout
from rvrae_pyro.data.plain_tables import asset_ids, column_names, read_plain
from rvrae_pyro.data.timeline import pick_rows
from rvrae_pyro.data.validation import first_three, listed
from rvrae_pyro.errors import ConfigError, PanelError, check_count
from rvrae_pyro.names import ASSET, TIME
from rvrae_pyro.risk import at_step
from rvrae_pyro.risk import portfolio as portfolio_risk
from rvrae_pyro.risk.draws import centred

_IDS: Final = ("asset", "id", "ticker", "symbol", "permno", "isin", "cusip")
_SIZES: Final = ("weight", "weights", "value", "position", "amount", "market_value")
_HEADER: Final = ("asset", "weight")
"""Column names of a file without any."""
_CASH: Final = "cash"
_TOLERANCE: Final = 1e-3
"""Distance of a sum from one up to which numbers are weights."""
_NET: Final = 0.01
"""Share of the gross exposure up to which a sum is that of a long-short portfolio."""

_TAILS: Final = (0.05, 0.01)
_SHOWN: Final = 10
_ROWS: Final = {
    "mean": "mean",
    "sd": "sd",
    "var_05": "VaR 5 %",
    "es_05": "ES 5 %",
    "var_01": "VaR 1 %",
    "es_01": "ES 1 %",
}


@dataclass(frozen=True)
class Positions:
    """A portfolio of one file.

    Attributes
    ----------
    weights : Series by asset
        Without cash, which has no excess return.
    value : float or None
        Divisor of the file's numbers; None for weights, taken as they are.
    rule : str
        How the weights follow from the file.
    cash : float
        Weight of cash.
    """

    weights: "pd.Series[float]"
    value: float | None
    rule: str
    cash: float


def read_positions(
    path: Path, option: str, listed: xr.DataArray, asset: str | None = None
) -> Positions:
    """Read one portfolio; bad content raises ``PanelError`` or ``ConfigError``.

    Numbers that sum to one within 0.001 are weights. Others are positions in one currency,
    divided by their sum; where that is below 1 % of the gross exposure, by the gross exposure (the
    sum of absolute positions). A row ``cash`` counts in the sum and has no excess return.

    Parameters
    ----------
    path : path
        ``.csv`` or ``.parquet``: a column of ids and one of weights, or of positions in currency.
        A ``.csv`` of these two columns may lack a row of column names: it does if a cell of its
        first row is a number or an asset of the panel.
    option : str
        Option that named the file, for messages.
    listed : bool DataArray (asset)
        Assets that have a forecast, of all assets of the panel; ``time`` as a scalar coordinate.
    asset : str, optional
        Column of ids. Default: one of the usual names, or else the first column.
    """
    where = f"`{option}` {path}"
    given = _read(path, where, asset, listed[ASSET].values)
    repeated = given.index[given.index.duplicated()].unique()
    if len(repeated):
        raise ConfigError(f"{where} repeats {first_three(repeated)}. Add up positions per asset.")
    lacking = given.index[~np.isfinite(given.to_numpy())]
    if len(lacking):
        raise ConfigError(f"{where} has no finite number for {first_three(lacking)}.")
    divisor, rule = _divisor(given.to_numpy(), where)
    weights = given / divisor
    known = listed[ASSET].values
    is_cash = [name.lower() == _CASH and name not in known for name in weights.index]
    cash, weights = float(weights[is_cash].sum()), weights[np.logical_not(is_cash)]
    weights = weights[weights != 0.0]
    _check_assets(weights, listed, where)
    value = None if divisor == 1.0 else float(divisor)
    return Positions(weights.reindex(known, fill_value=0.0), value, rule, cash)


def _read(path: Path, where: str, asset: str | None, known: "np.ndarray") -> "pd.Series[float]":
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise PanelError(f"{where} must be a table, .csv or .parquet; got {suffix!r}.")
    if not path.is_file():
        raise PanelError(f"{where} is missing or no file. Check the path.")
    names = pq.read_schema(path).names if suffix == ".parquet" else column_names(path)
    header = None
    if suffix == ".csv" and not _is_header(names, asset, known):
        if len(names) != len(_HEADER) or not _is_number(names[1]):
            raise PanelError(
                f"{where} has no row of column names: its first row is {first_three(names)}. Add "
                f"one on top, such as `{','.join(_HEADER)}`."
            )
        header = names = list(_HEADER)
    ids = _named(names, _IDS) or (str(names[0]) if names else "")
    if asset is not None and asset in names:
        ids = asset
    frame = read_plain(path, asset=ids, time="date", returns=None, header=header)
    numeric = [
        name
        for name in frame.columns
        if name != ids and pd.api.types.is_numeric_dtype(frame[name].dtype)
    ]
    size = _named(frame.columns, _SIZES)
    if size is None and len(numeric) == 1:
        size = numeric[0]
    if size is None or size not in numeric:
        raise PanelError(
            f"{where} must have one column of numbers, such as `weight`, and the ids in {ids!r};"
            f" got columns {first_three(frame.columns)}, of numbers {first_three(numeric)}."
        )
    index = pd.Index(asset_ids(frame[ids], f"{where}: column {ids!r}"), name=ASSET)
    if index.hasnans:
        raise PanelError(f"{where}: {np.count_nonzero(index.isna())} rows have no id in {ids!r}.")
    return pd.Series(frame[size].to_numpy(np.float64), index=index, name="weight")


def _is_header(names: list[str], asset: str | None, known: "np.ndarray") -> bool:
    """Test whether no cell of a file's first row is a number or an asset of the panel."""
    usual = {*_IDS, *_SIZES, asset}
    cells = [name for name in names if name.strip().lower() not in usual and name != asset]
    found = asset_ids(pd.Index(cells, dtype=object), "the first row")
    return not any(map(_is_number, cells)) and not np.isin(found.astype(str), known).any()


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _named(names: "pd.Index | list[str]", usual: tuple[str, ...]) -> str | None:
    small = {str(name).strip().lower(): str(name) for name in names}
    return next((small[name] for name in usual if name in small), None)


def _divisor(values: "np.ndarray", where: str) -> tuple[float, str]:
    total, gross = float(values.sum()), float(np.abs(values).sum())
    if gross == 0.0:
        raise ConfigError(f"{where} has no position: all numbers are zero.")
    if abs(total - 1.0) <= _TOLERANCE:
        return 1.0, "weights as given"
    if total > _NET * gross:
        return total, "positions divided by their sum"
    return gross, "long-short positions divided by the sum of their absolute values"


def _check_assets(weights: "pd.Series[float]", listed: xr.DataArray, where: str) -> None:
    known, able = listed[ASSET].values, listed[ASSET].values[listed.values]
    unknown = weights.index.difference(pd.Index(known))
    if len(unknown):
        raise ConfigError(
            f"{where} holds assets that the panel does not have: {first_three(unknown)}. Its ids "
            f"are such as {str(known[0])!r}; leave out the others."
        )
    without = weights.index.difference(pd.Index(able))
    if len(without):
        month = np.datetime_as_string(listed[TIME].values, "D")
        raise ConfigError(
            f"{where} holds assets without characteristics in {month}, which have no forecast: "
            f"{first_three(without)}. Leave them out, or pick another month with --times."
        )


@takes_layout
def risk(
    run: Annotated[Path, typer.Argument(help="Folder that `rvrae fit` wrote.")],
    panel: PanelPath,
    portfolio: Annotated[
        Path,
        typer.Option(
            help="Table (.csv, .parquet): a column of ids, and one of weights or of positions in "
            "currency."
        ),
    ],
    benchmark: Annotated[
        Path | None, typer.Option(help="Such a table of a benchmark, for active risk.")
    ] = None,
    horizon: Annotated[
        int, typer.Option(help="Periods that the portfolio is held, from the month on.")
    ] = 1,
    times: Annotated[str, typer.Option(help="last, or one month such as 2017-04.")] = "last",
    num_samples: Annotated[int, typer.Option(help="Draws.")] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    layout: Layout,
) -> None:
    """Measure the risk of a portfolio over the next periods, and what each position adds to it.

    Numbers that sum to one are weights. Others are positions in one currency, divided by their sum
    (long-short portfolios that sum to about zero: by the sum of absolute values). A row `cash`
    counts in the sum and has no excess return; assets that are not in the table have weight 0.
    With --horizon 3 figures are of the excess return compounded over three periods, of a portfolio
    that is bought and held; characteristics keep their last value.

    Takes about two minutes on one core for 30 portfolios over 20 years.
    """
    check_count("--horizon", horizon)
    loaded = load_run(run)
    _, prepared = loaded.read(panel, layout)
    column = (loaded.preparation.layout or {}).get("asset", layout.asset)
    with settled(prepared) as ready, interruptible("nothing was written."):
        month = _one_month(ready, times)
        cells = listed(ready).sel({TIME: month})
        held = read_positions(portfolio, "--portfolio", cells, column)
        other = None
        if benchmark is not None:
            other = read_positions(benchmark, "--benchmark", cells, column)
        tree = loaded.fit.forecast(
            ready, num_samples=num_samples, seed=seed, times=[month], horizon=horizon
        )
    tree = centred(tree)  # means as in `rvrae report`
    against = None if other is None else other.weights
    trees = [tree]
    if horizon > 1:  # returns compounded up to each step
        trees = [at_step(tree, step) for step in range(1, horizon + 1)]
    by_step = [
        portfolio_risk(one, held.weights, against, tail=_TAILS).isel({TIME: 0}) for one in trees
    ]
    last = by_step[-1]
    figures = {"portfolio": _figures(last.to_dataset(), held.value)}
    for name in ("benchmark", "active"):
        if name in last.children:
            figures[name] = _figures(last[name].to_dataset(), None)
    positions = _positions(last.to_dataset(), held)
    steps = [_figures(each.to_dataset(), held.value) for each in by_step]
    if as_json:
        echo_json(
            {
                "run": str(run),
                "date": str(month)[:10],
                "horizon": horizon,
                "num_samples": num_samples,
                "seed": seed,
                "rule": held.rule,
                "value": held.value,
                "cash": held.cash,
                **figures,
                "steps": [{"step": number, **each} for number, each in enumerate(steps, 1)],
                "positions": positions,
            }
        )
        return
    span = str(month)[:7]
    if horizon > 1:
        span = f"{horizon} periods from {span}, bought and held"
    _show(span, held, figures, positions)
    if horizon > 1:
        _show_steps(steps)


def _one_month(panel: xr.Dataset, times: str) -> np.datetime64:
    index = panel.indexes[TIME]
    rows = pick_rows(
        index, months_asked(times, panel), name="--times", what="panel", error=ConfigError
    )
    if len(rows) != 1:
        raise ConfigError(f"`--times` must pick one month; got {len(rows)} with {times!r}.")
    month: np.datetime64 = panel[TIME].values[rows[0]]
    return month


def _figures(data: xr.Dataset, value: float | None) -> dict[str, Any]:
    """Figures of one portfolio, returns as decimals; in currency where its value is known."""
    found = {name: data[name].item() for name in ("mean", "sd", "prob_loss")}
    for tail in _TAILS:
        for name in ("var", "es"):
            found[f"{name}_{round(100 * tail):02d}"] = data[name].sel(tail=tail).item()
    for name in ("factor_var", "idio_var", "parameter_var"):
        if name in data and np.isfinite(data[name].item()):
            found[name] = data[name].item()
    if value is not None:
        found["in_currency"] = {name: value * found[name] for name in _ROWS}
    return found


def _positions(data: xr.Dataset, held: Positions) -> list[dict[str, Any]]:
    """Weight and parts of risk per position, the largest part of the expected shortfall first."""
    tail = {"tail": _TAILS[0]}
    parts = {
        "component_sd": data["component_sd"],
        "component_var_05": data["component_var"].sel(tail),
        "component_es_05": data["component_es"].sel(tail),
    }
    rows = []
    for asset, weight in held.weights[held.weights != 0.0].items():
        row: dict[str, Any] = {"asset": str(asset), "weight": float(weight)}
        if held.value is not None:
            row["position"] = float(weight) * held.value
        rows.append(row | {name: part.sel({ASSET: asset}).item() for name, part in parts.items()})
    return sorted(rows, key=lambda row: -row["component_es_05"])


def _show(
    month: str, held: Positions, figures: dict[str, dict[str, Any]], positions: list[dict[str, Any]]
) -> None:
    value = "" if held.value is None else f" of {held.value:,.2f}"
    echo(f"{len(positions)} positions: {held.rule}{value}; cash {100 * held.cash:.1f} %.")
    money = figures["portfolio"].get("in_currency")
    rows = []
    for name, label in _ROWS.items():
        row = [label, *(f"{100 * each[name]:.2f}" for each in figures.values())]
        rows.append(row if money is None else [*row, f"{money[name]:,.2f}"])
    blank = [] if money is None else [""]
    rows.append(["P(loss) %", *(f"{100 * e['prob_loss']:.0f}" for e in figures.values()), *blank])
    if any(map(_share, figures.values())):
        rows.append(["variance from factors, %", *map(_share, figures.values()), *blank])
    head = ("", *figures, *([] if money is None else ["in currency"]))
    echo_table(head, rows, f"{month}, excess returns in %")
    echo("VaR and ES are positive losses.")
    sd, es = figures["portfolio"]["sd"], figures["portfolio"]["es_05"]
    shown = positions if len(positions) <= _SHOWN + 1 else positions[:_SHOWN]
    lines = [_line(row["asset"], [row], sd, es) for row in shown]
    rest = positions[len(shown) :]
    if rest:
        lines.append(_line(f"{len(rest)} others", rest, sd, es))
    lines.append(_line("sum", positions, sd, es))
    echo_table(
        ("position", "weight, %", "part of sd, %", "part of ES 5 %, %"), lines, "Parts of the risk"
    )


def _show_steps(steps: list[dict[str, Any]]) -> None:
    """Print figures of the return compounded up to each step."""
    rows = [
        [str(number), *(f"{100 * each[name]:.2f}" for name in _ROWS)]
        for number, each in enumerate(steps, 1)
    ]
    echo_table(("periods", *_ROWS.values()), rows, "Compounded up to each period, in %")


def _line(name: str, rows: list[dict[str, Any]], sd: float, es: float) -> list[str]:
    weight = sum(row["weight"] for row in rows)
    parts = sum(row["component_sd"] for row in rows), sum(row["component_es_05"] for row in rows)
    # a share of what is no loss has no meaning
    shares = (
        f"{100 * part / whole:.1f}" if whole > 0 else "-"
        for part, whole in zip(parts, (sd, es), strict=True)
    )
    return [name, f"{100 * weight:.2f}", *shares]


def _share(figures: dict[str, Any]) -> str:
    """Share of variance from factors; empty where the forecast has no factors."""
    if "factor_var" not in figures or not figures["sd"] > 0:
        return ""
    return f"{100 * figures['factor_var'] / figures['sd'] ** 2:.0f}"
