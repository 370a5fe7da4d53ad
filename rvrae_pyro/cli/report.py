"""``rvrae report``: one page about a run, its forecast and how far to trust it."""

from pathlib import Path
from typing import Annotated, Final

import typer

from rvrae_pyro.cli.console import progress, say, say_json
from rvrae_pyro.cli.files import check_file, write_text
from rvrae_pyro.cli.layout import Layout, takes_layout
from rvrae_pyro.cli.panels import PanelPath
from rvrae_pyro.cli.runs import load_run
from rvrae_pyro.errors import ConfigError

__all__ = ["report"]

_SUFFIXES: Final = (".html", ".htm")
_LEAST: Final = 1000


@takes_layout
def report(
    run: Annotated[Path, typer.Argument(help="Folder that `rvrae fit` wrote.")],
    panel: PanelPath,
    out: Annotated[Path, typer.Option(help="The page (.html); one file that needs no network.")],
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
    if num_samples < _LEAST:
        raise ConfigError(
            f"`--num-samples` must be at least {_LEAST}, or a tail of 1 % holds too few draws; got "
            f"{num_samples}."
        )
    loaded = load_run(run)
    raw, ready = loaded.read(panel, layout)
    progress("forecasting, scoring and writing the page")
    # the pieces below load torch, which --help has no use for
    from rvrae_pyro.report.facts import gather
    from rvrae_pyro.report.page import write_page

    facts = gather(loaded.fit, ready, raw, num_samples, seed)
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
        say_json(summary)
        return
    say(
        f"Wrote {out}: {len(facts.ranking)} assets, {summary['month']}, {size / 1e6:.1f} MB. "
        "Open it in a browser."
    )
    say(str(facts.check))
