"""``rvrae benchmark``: experiments whose answers others have published."""

from pathlib import Path
from typing import Annotated

import typer

from rvrae_pyro.cli.compare_command import (
    JobsOption,
    SchedulerOption,
    check_results_folder,
    executor_at,
    kept_fits,
    options_named,
    read_names,
)
from rvrae_pyro.cli.console import echo, echo_error, echo_json, echo_table, interruptible
from rvrae_pyro.errors import ConfigError

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
    """
    if case not in ("linear", "nonlinear"):
        raise ConfigError(f"`--case` must be linear or nonlinear; got {case!r}.")
    if out is not None:
        check_results_folder(out)
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
