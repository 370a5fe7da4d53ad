"""``rvrae report``: one page about a run, its forecast and how far to trust it."""

from pathlib import Path
from typing import Annotated, Final

import pandas as pd
import typer
import xarray as xr

from rvrae_pyro.cli.console import echo, echo_json, progress
from rvrae_pyro.cli.files import check_file, write_text
from rvrae_pyro.cli.forecast_command import last_listed
from rvrae_pyro.cli.layout import Layout, takes_layout
from rvrae_pyro.cli.panels import PanelPath
from rvrae_pyro.cli.positions import read_positions
from rvrae_pyro.cli.runs import Run, load_run
from rvrae_pyro.data.validation import listed
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import TIME

__all__ = ["report"]

_SUFFIXES: Final = (".html", ".htm")
_LEAST: Final = 1000


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
    """
    check_file(out, _SUFFIXES)
    if benchmark is not None and portfolio is None:
        raise ConfigError("`--benchmark` needs `--portfolio`: name the portfolio to compare.")
    if num_samples < _LEAST:
        raise ConfigError(
            f"`--num-samples` must be at least {_LEAST}, or a tail of 1 % holds too few draws; got "
            f"{num_samples}."
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
