"""``rvrae paper``: the setting of Wang and Guo (2024) on any panel, as tables 1 to 3."""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
import xarray as xr

from rvrae_pyro.cli.compare_command import (
    JobsOption,
    SchedulerOption,
    check_results_folder,
    executor_at,
    kept_fits,
    options_named,
    read_numbers,
    read_split,
    report_comparison,
    with_returns,
)
from rvrae_pyro.cli.console import interruptible
from rvrae_pyro.cli.layout import Layout, takes_layout
from rvrae_pyro.cli.panels import PanelPath, prepare, read_panel, read_table
from rvrae_pyro.data.vendors import PAPER_CHARACTERISTICS, read_gkx
from rvrae_pyro.errors import ConfigError, PanelError

_GKX = "Gu, Kelly and Xiu's datashare"


@takes_layout
def paper(
    panel: PanelPath,
    out: Annotated[Path, typer.Option(help="Folder of tables; fits found there are reused.")],
    gkx: Annotated[
        bool,
        typer.Option(
            "--gkx",
            help="PANEL is datashare.csv of Gu, Kelly and Xiu: take the paper's 46 "
            "characteristics of its 94.",
            rich_help_panel=_GKX,
        ),
    ] = False,
    gkx_returns: Annotated[
        Path | None,
        typer.Option(
            "--gkx-returns",
            metavar="FILE",
            help="Table of its returns (default columns: date, permno, ret); implies --gkx.",
            rich_help_panel=_GKX,
        ),
    ] = None,
    start: Annotated[
        str, typer.Option(help="First month to read of it.", rich_help_panel=_GKX)
    ] = "2000-01",
    end: Annotated[
        str, typer.Option(help="Last month to read of it.", rich_help_panel=_GKX)
    ] = "2020-12",
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.")] = 10,
    omit: Annotated[
        str,
        typer.Option(
            help="Assets left out of training for Table 3 (default: 50,100,150, or a sixth, a "
            "third and half of the assets)."
        ),
    ] = "",
    split: Annotated[
        str,
        typer.Option(
            help="TRAIN,VALID,TEST: counts, shares or last dates (default: 15, 3 and 3 years, or "
            "as 5:1:1)."
        ),
    ] = "",
    factors: Annotated[int, typer.Option(help="Factors of every model that has any.")] = 5,
    jobs: JobsOption = 2,
    scheduler: SchedulerOption = "",
    num_samples: Annotated[int, typer.Option(help="Predictive draws, 200 or more.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    layout: Layout,
) -> None:
    """Reproduce the paper's tables 1 to 3 on a panel, with the printed figures.

    RVRAE as the paper describes it, IPCA, the conditional autoencoder, FactorVAE, ALSTM and the
    transformer, each fitted with every seed on 15 years, stopped by 3 and scored on the 3 that
    follow. PANEL may be `french`. A second run takes over the fits in --out. The paper's data are
    not public: its figures are no targets. Exit code 1 if a fit failed.
    """
    counts = read_numbers("--omit", omit) if omit else None
    check_results_folder(out)
    if gkx or gkx_returns is not None:
        found = _read_gkx(panel, gkx_returns, layout, start, end)
    else:
        found = read_panel(panel, layout)
    # the paper's models read no market context
    ready, _ = prepare(with_returns(found), context=False)
    parts = read_split(split, ready)
    with options_named(), interruptible(kept_fits(out)), executor_at(scheduler) as executor:
        from rvrae_pyro.experiments.replication import paper as compare_as_paper

        result = compare_as_paper(
            ready,
            out=out,
            split=parts,
            seeds=seeds,
            omit=counts,
            n_factors=factors,
            num_samples=num_samples,
            n_jobs=jobs,
            executor=executor,
        )
    report_comparison(out, result, as_json, published=True)


def _read_gkx(path: Path, returns: Path | None, layout: Layout, start: str, end: str) -> xr.Dataset:
    """Read the paper's characteristics of a datashare file, with returns of another file."""
    chosen: dict[str, Any] = {"excess": layout.excess}
    if returns is None:
        if layout.risk_free is not None:
            raise ConfigError(
                "`--risk-free` names a column of the returns file; pass --gkx-returns, or --excess "
                "if RET is in excess of the rate already."
            )
    else:
        table = read_table(returns, layout.asset or "permno")
        columns = {str(name).lower(): name for name in table.columns}

        def column(option: str, name: str) -> Any:
            if name.lower() not in columns:
                raise PanelError(
                    f"{returns} has no column {name!r}; it has {list(table.columns)[:8]}. Name it "
                    f"with --{option}."
                )
            return columns[name.lower()]

        time = column("time", layout.time or "date")
        asset = column("asset", layout.asset or "permno")
        value = column("returns", layout.returns or "ret")
        index = pd.MultiIndex.from_arrays([table[asset], table[time]])
        chosen["returns"] = pd.Series(table[value].to_numpy(), index=index, name=value).dropna()
        if layout.risk_free is not None:
            rate = column("risk-free", layout.risk_free)
            chosen["risk_free"] = table.drop_duplicates(time).set_index(time)[rate]
    return read_gkx(path, characteristics=PAPER_CHARACTERISTICS, start=start, end=end, **chosen)
