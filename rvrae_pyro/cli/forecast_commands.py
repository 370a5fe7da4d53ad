"""``rvrae forecast`` and ``rvrae report``: forecasts of a run as draws, a table or a page."""

from pathlib import Path
from typing import Annotated, Final

import pandas as pd
import typer
import xarray as xr

from rvrae_pyro.cli.console import echo, echo_json, echo_table, interruptible, progress
from rvrae_pyro.cli.files import TABLE_SUFFIXES, Run, check_file, load_run, write_table, write_text
from rvrae_pyro.cli.panels import (
    Layout,
    PanelPath,
    last_listed,
    months_asked,
    settled,
    takes_layout,
)
from rvrae_pyro.cli.risk_command import read_positions
from rvrae_pyro.data.io import check_replaceable
from rvrae_pyro.data.validation import listed
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import ASSET, RETURNS, TIME
from rvrae_pyro.predictive.storage import write_tree
from rvrae_pyro.risk.summary import forecast_table

_TREES: Final = (".nc", ".zarr")
_SHOWN: Final = 5

_PAGES: Final = (".html", ".htm")
_LEAST_DRAWS: Final = 1000


@takes_layout
def forecast(
    run: Annotated[Path, typer.Argument(help="Folder that `rvrae fit` wrote.")],
    panel: PanelPath,
    out: Annotated[
        Path,
        typer.Option(
            help="Table (.csv, .parquet), or all draws as a DataTree: .nc, or .zarr, written month "
            "by month, so that an interrupted run resumes."
        ),
    ],
    times: Annotated[
        str, typer.Option(help="last, all, a month such as 2017-04, or 2016-01:2016-12.")
    ] = "last",
    num_samples: Annotated[int, typer.Option(help="Draws.")] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    layout: Layout,
) -> None:
    """Forecast every listed asset one month ahead, each month from the months before it.

    The panel may be longer than that of the fit and hold other assets; its last row may be live,
    with characteristics and no returns yet.

    Takes about two minutes on one core for 30 portfolios over 20 years, all of whose months are
    filtered again.
    """
    check_file(out, (*_TREES, *TABLE_SUFFIXES), Path(panel))
    streams = out.suffix.lower() == ".zarr"
    if streams:
        check_replaceable(out, "tree", "--out", ConfigError)
    loaded = load_run(run)
    raw, prepared = loaded.read(panel, layout)
    kept = "nothing was written."
    if streams:
        kept = f"months that are done are kept next to {out}, and the same command resumes."
    with settled(prepared) as ready, interruptible(kept):
        tree = loaded.fit.forecast(
            ready,
            num_samples=num_samples,
            seed=seed,
            times=months_asked(times, ready),
            out=out if streams else None,
        )
    drawn = tree["predictions"].to_dataset()[RETURNS]
    table = None
    if out.suffix.lower() == ".nc":
        write_tree(tree, out)
    elif not streams:
        table = forecast_table(tree, raw)
        write_table(table, out)
    days = [str(day)[:10] for day in drawn[TIME].values]
    listed = drawn.isel(chain=0, draw=0, drop=True).notnull()
    if as_json:
        echo_json(
            {
                "out": str(out),
                "run": str(run),
                "first": days[0],
                "last": days[-1],
                "months": len(days),
                "forecasts": int(listed.sum()),
                "num_samples": num_samples,
                "seed": seed,
            }
        )
        return
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    echo(f"Wrote {out}: {int(listed.sum())} forecasts for {span}, {num_samples} draws each.")
    if table is not None:
        _show(table)
        _tell_of_noise(table, num_samples)


def _tell_of_noise(table: pd.DataFrame, num_samples: int) -> None:
    """Report Monte-Carlo error in the ranking, from variances of means."""
    month = table[table["date"] == table["date"].iloc[-1]]
    error = float((month["sd"] ** 2).mean() / num_samples) ** 0.5
    spread = float(month["mean"].std())
    if len(month) > 1 and spread < 2 * error:
        echo(
            f"Means of {num_samples} draws are off by {100 * error:.2f} % (s.e.) and differ by "
            f"{100 * spread:.2f} %: read no ranking into them. Give --num-samples more, or see "
            "`rvrae report`, which ranks without the noise of the draws."
        )


def _show(table: pd.DataFrame) -> None:
    """Show both ends of the last month's ranking."""
    month = table[table["date"] == table["date"].iloc[-1]]
    ends = month if len(month) <= 2 * _SHOWN else pd.concat([month[:_SHOWN], month[-_SHOWN:]])
    rows = [
        [
            f"{row['rank']:>4}  {row[ASSET]}",
            *(f"{100 * row[name]:.2f}" for name in ("mean", "sd", "q05", "q95", "es_05")),
            f"{100 * row['prob_loss']:.0f}",
        ]
        for _, row in ends.iterrows()
    ]
    title = f"{month['date'].iloc[0]:%Y-%m}, excess returns in %, ES as a loss"
    head = ("rank  asset", "mean", "sd", "5 %", "95 %", "ES 5 %", "P(loss) %")
    echo_table(head, rows, title)


@takes_layout
def report(
    run: Annotated[Path, typer.Argument(help="Folder that `rvrae fit` wrote.")],
    panel: PanelPath,
    out: Annotated[Path, typer.Option(help="The page (.html); one file that needs no network.")],
    portfolio: Annotated[
        Path | None,
        typer.Option(
            help="Table of a portfolio, as for `rvrae risk`: its risk is on the page, too."
        ),
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option(help="Such a table of a benchmark of --portfolio.")
    ] = None,
    num_samples: Annotated[int, typer.Option(help="Draws, 1000 or more.")] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same page.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    layout: Layout,
) -> None:
    """Write one page: ranking and risk of the last listed month, factors, and whether to trust it.

    The panel may be longer than that of the fit: months after training judge the forecasts, and
    the last listed row is forecast.

    Takes about five minutes on one core for 30 portfolios over 20 years.
    """
    check_file(out, _PAGES)
    if benchmark is not None and portfolio is None:
        raise ConfigError("`--benchmark` needs `--portfolio`: name the portfolio to compare.")
    if num_samples < _LEAST_DRAWS:
        raise ConfigError(
            f"`--num-samples` must be at least {_LEAST_DRAWS}, or a tail of 1 % holds too few "
            f"draws; got {num_samples}."
        )
    loaded = load_run(run)
    raw, ready = loaded.read(panel, layout)
    given = _given(loaded, ready, portfolio, benchmark)
    progress("forecasting, scoring and writing the page")
    # the pieces below load torch, which --help has no use for
    from rvrae_pyro.report.facts import gather
    from rvrae_pyro.report.page import write_page

    facts = gather(loaded.fit, ready, raw, num_samples, seed, given)
    page = write_page(facts)
    write_text(out, page)
    size = len(page.encode())
    summary = {
        "out": str(out),
        "run": str(run),
        "month": str(facts.live)[:10],
        "assets": len(facts.ranking),
        "judged_months": len(facts.spans.judged),
        "judged_on": facts.spans.kind,
        "trusted": facts.check.trusted,
        "bytes": size,
    }
    if as_json:
        echo_json(summary)
        return
    echo(
        f"Wrote {out}: {len(facts.ranking)} assets, {summary['month']}, {size / 1e6:.1f} MB. "
        "Open it in a browser."
    )
    echo(str(facts.check))


def _given(
    loaded: Run, panel: xr.Dataset, portfolio: Path | None, benchmark: Path | None
) -> "dict[str, pd.Series[float]]":
    """Weights of the user's portfolio, its benchmark, and their difference, by name."""
    if portfolio is None:
        return {}
    cells = listed(panel).sel({TIME: last_listed(panel)})
    column = (loaded.preparation.layout or {}).get("asset")
    held = read_positions(portfolio, "--portfolio", cells, column).weights
    if benchmark is None:
        return {"Your portfolio": held}
    other = read_positions(benchmark, "--benchmark", cells, column).weights
    return {
        "Your portfolio": held,
        "Your benchmark": other,
        "Your portfolio less benchmark": held - other,
    }
