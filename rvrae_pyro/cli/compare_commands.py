"""``rvrae compare``, ``paper`` and ``benchmark gkx``: competitors on one panel, as tables."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import pandas as pd
import typer
import xarray as xr

from rvrae_pyro.cli.console import echo, echo_error, echo_json, echo_table, interruptible
from rvrae_pyro.cli.files import check_folder
from rvrae_pyro.cli.panels import Layout, PanelPath, prepare, read_panel, read_table, takes_layout
from rvrae_pyro.cli.settings import split_parts
from rvrae_pyro.data.validation import check_panel
from rvrae_pyro.data.vendors import PAPER_CHARACTERISTICS, read_gkx
from rvrae_pyro.errors import ConfigError, PanelError
from rvrae_pyro.names import RETURNS

if TYPE_CHECKING:
    from rvrae_pyro.experiments.cluster import Cluster
    from rvrae_pyro.experiments.comparison_report import Comparison


_COMPARISON: Final = ("cells",)
JobsOption = Annotated[int, typer.Option("--jobs", help="Processes.")]
SchedulerOption = Annotated[
    str,
    typer.Option(help="Address of a dask scheduler whose workers take the fits, tcp://HOST:PORT."),
]


@takes_layout
def compare(
    panel: PanelPath,
    out: Annotated[Path, typer.Option(help="Folder of tables; fits found there are reused.")],
    models: Annotated[
        str, typer.Option(help="'all', or names with commas: IPCA, CA, RVRAE, ...")
    ] = "all",
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.")] = 1,
    omit: Annotated[
        str, typer.Option(help="Assets left out of training, with commas: 50,100,150.")
    ] = "",
    split: Annotated[
        str,
        typer.Option(
            help="TRAIN,VALID,TEST: months, shares or last dates (default: 180,36,36, or as 5:1:1)."
        ),
    ] = "",
    factors: Annotated[int, typer.Option(help="Factors of every model that has any.")] = 5,
    ablation: Annotated[
        bool | None, typer.Option(help="Also fit the variants of Table 5 (default: with 'all').")
    ] = None,
    jobs: JobsOption = 2,
    scheduler: SchedulerOption = "",
    num_samples: Annotated[int, typer.Option(help="Predictive draws, 200 or more.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    layout: Layout,
) -> None:
    """Compare RVRAE with its competitors on a panel: tables, tests and pictures.

    Fits train and validate on the months before the test months and are scored there once. PANEL
    may be `french`, the portfolios that come with the package. Fits run in parallel, each kept as
    soon as it is done; a second run takes them over. Exit code 1 if a fit failed: the tables hold
    the others.

    Takes about eight minutes on two cores for all models on `french` with three seeds and three
    counts of omitted assets.
    """
    counts = read_numbers("--omit", omit)
    check_folder(out, _COMPARISON, "a comparison")
    ready, _ = prepare(with_returns(read_panel(panel, layout)))
    names, parts = read_names(models), read_split(split, ready)
    with options_named(), interruptible(kept_fits(out)), executor_at(scheduler) as executor:
        from rvrae_pyro.experiments.model_comparison import compare as compare_models

        result = compare_models(
            ready,
            names,
            split=parts,
            seeds=seeds,
            omit=counts,
            out=out,
            n_factors=factors,
            ablation=ablation,
            num_samples=num_samples,
            n_jobs=jobs,
            executor=executor,
        )
    report_comparison(out, result, as_json)


def with_returns(panel: xr.Dataset) -> xr.Dataset:
    """Check a panel that models are to be trained and scored on."""
    check_panel(panel)
    if not bool(panel[RETURNS].notnull().any()):
        raise PanelError("the panel has no observed return to train on or to score.")
    return panel


_OPTIONS: Final = {
    "case": "--case",
    "n_factors": "--factors",
    "n_jobs": "--jobs",
    "num_samples": "--num-samples",
    "warm_start": "--warm-start",
    **{name: f"--{name}" for name in ("ablation", "models", "omit", "reps", "seeds", "split")},
}


@contextmanager
def options_named() -> Iterator[None]:
    """Name options where a message of the library names its arguments."""
    try:
        yield
    except (ConfigError, PanelError) as error:
        text = re.sub(r"`(\w+)`", lambda name: f"`{_OPTIONS.get(name[1], name[1])}`", str(error))
        raise type(error)(text) from error


def kept_fits(out: Path | None) -> str:
    """Describe the finished fits of an interrupted grid."""
    if out is None:
        return "without a folder no fit is kept."
    return f"fits that are done are kept in {out}, and the same command resumes."


def executor_at(address: str) -> AbstractContextManager["Cluster | None"]:
    """Connect to a scheduler; without an address there is no executor."""
    from rvrae_pyro.experiments.cluster import connect

    return connect(address) if address else nullcontext()


def read_names(models: str) -> list[str]:
    """Read names with commas between them; at least one."""
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names:
        raise ConfigError("`--models` must name at least one competitor, or be 'all'.")
    return names


def read_numbers(option: str, text: str) -> list[int]:
    """Read whole numbers with commas between them; none from empty text."""
    try:
        return [int(each) for each in text.split(",") if each.strip()]
    except ValueError as error:
        raise ConfigError(
            f"`{option}` must be whole numbers with commas between them; got {text!r}."
        ) from error


def read_split(text: str, panel: xr.Dataset) -> tuple[Any, ...]:
    """Read TRAIN,VALID,TEST; the paper's spans from empty text."""
    if not text:
        from rvrae_pyro.experiments.replication import paper_split

        return paper_split(panel)
    return split_parts(text)


def report_comparison(
    out: Path, result: "Comparison", as_json: bool, *, published: bool = False
) -> None:
    """Print the results of a comparison, and end with exit code 1 if a fit failed.

    ``published``: print the paper's tables with its figures. Default: all tables, without these.
    """
    if as_json:
        _say_as_json(out, result)
    else:
        for number, title, shown in result.readable(published=published):
            echo_table(list(shown.columns), shown.values.tolist(), f"Table {number}. {title}")
        echo(f"Wrote {out / 'report.md'}, tables and figures next to it.")
    if result.failures:
        first = result.failures[0]
        echo_error(
            f"rvrae: {len(result.failures)} of {len(result.failures) + len(result.monthly)} fits "
            f"failed; the first, {first.cell.model} with seed {first.cell.seed}: "
            f"{first.message.rstrip('.')}. "
            f"All are in {out / 'failures.csv'}; run again to try only those."
        )
        raise typer.Exit(1)


def _say_as_json(out: Path, result: "Comparison") -> None:
    echo_json(
        {
            "out": str(out),
            **result.info,
            "tables": {
                number: table.to_dict(orient="records") for number, table in result.tables.items()
            },
            "p_values": result.p_values.to_dict(orient="records"),
            "failures": [
                {
                    "model": f.cell.model,
                    "seed": f.cell.seed,
                    "omitted": f.cell.omitted,
                    "message": f.message,
                }
                for f in result.failures
            ],
        }
    )


_DATASHARE = "Gu, Kelly and Xiu's datashare"


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
            rich_help_panel=_DATASHARE,
        ),
    ] = False,
    gkx_returns: Annotated[
        Path | None,
        typer.Option(
            "--gkx-returns",
            metavar="FILE",
            help="Table of its returns (default columns: date, permno, ret); implies --gkx.",
            rich_help_panel=_DATASHARE,
        ),
    ] = None,
    start: Annotated[
        str, typer.Option(help="First month to read of it.", rich_help_panel=_DATASHARE)
    ] = "2000-01",
    end: Annotated[
        str, typer.Option(help="Last month to read of it.", rich_help_panel=_DATASHARE)
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

    Takes hours for a few thousand stocks with the paper's seeds, divided by --jobs.
    """
    counts = read_numbers("--omit", omit) if omit else None
    check_folder(out, _COMPARISON, "a comparison")
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


benchmark = typer.Typer(
    name="benchmark", help="Run experiments with published answers.", no_args_is_help=True
)


@benchmark.callback()
def _root() -> None:
    """Run experiments with published answers."""


@benchmark.command()
def gkx(
    case: Annotated[str, typer.Option(help="linear or nonlinear.")] = "nonlinear",
    reps: Annotated[int, typer.Option(help="Repetitions; the published table has 100.")] = 1,
    factors: Annotated[int, typer.Option(help="Factors of the models; 3 are true.")] = 3,
    models: Annotated[
        str, typer.Option(help="Names with commas: IPCA, CA0, CA, CA2, CA3, FactorVAE, ALSTM, ...")
    ] = "IPCA,CA,CA2,FactorVAE,RVRAE",
    seed: Annotated[int, typer.Option(help="Seed of the first repetition.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of tables; fits found there are reused.")
    ] = None,
    jobs: JobsOption = 2,
    scheduler: SchedulerOption = "",
    num_samples: Annotated[int, typer.Option(help="Predictive draws.")] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the simulation of Gu, Kelly and Xiu (2021).

    60 months each to train, validate and test, 200 assets, 50 characteristics of which 3 matter.
    Every model is shown with the oracle, which knows the true loadings, and in brackets with the
    published figure.

    Takes minutes per repetition: one fit of each model, divided by --jobs.
    """
    if out is not None:
        check_folder(out, _COMPARISON, "a comparison")
    names = read_names(models)
    with options_named(), interruptible(kept_fits(out)), executor_at(scheduler) as executor:
        from rvrae_pyro.experiments.gkx import benchmark_gkx  # torch takes seconds

        result = benchmark_gkx(
            case,  # type: ignore[arg-type]
            reps,
            factors,
            names,
            seed=seed,
            out=out,
            num_samples=num_samples,
            n_jobs=jobs,
            executor=executor,
        )
    if as_json:
        rows = result.table.to_dict(orient="records")
        failures = [{"model": f.cell.model, "message": f.message} for f in result.failures]
        echo_json({"case": case, **result.info, "table": rows, "failures": failures})
    else:
        shown = result.readable()
        title = f"Gu-Kelly-Xiu, {case} case: {reps} repetitions, {factors} factors"
        echo_table(list(shown.columns), shown.values.tolist(), title)
        if out is not None:
            echo(f"Wrote {out / 'report.md'}.")
    if result.failures:
        first = result.failures[0]
        echo_error(
            f"rvrae: {len(result.failures)} fit{'s' * (len(result.failures) > 1)} failed; "
            f"{first.cell.model}: {first.message.rstrip('.')}."
        )
        raise typer.Exit(1)
