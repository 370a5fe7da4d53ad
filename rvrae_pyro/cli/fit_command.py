"""``rvrae fit``: train a model on a panel and keep it."""

import dataclasses
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import xarray as xr

from rvrae_pyro.atomic import only_run, remove
from rvrae_pyro.cli.console import echo, echo_error, echo_json, echo_pairs
from rvrae_pyro.cli.files import CHECKPOINT, assembled, check_folder, write_text
from rvrae_pyro.cli.layout import Layout, takes_layout
from rvrae_pyro.cli.panels import PanelPath, layout_of, prepare, read_panel
from rvrae_pyro.cli.runs import Run, save_run
from rvrae_pyro.cli.settings import cut, read_settings, to_toml
from rvrae_pyro.data.validation import check_panel
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import ASSET, CHARACTERISTIC, TIME

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit


@takes_layout
def fit(
    panel: PanelPath,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; an earlier run in it is replaced.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings (.toml) in sections data, model, fit, split.")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="TRAIN,VALID,TEST: counts, shares or last dates (default: that of --config, or "
            "nothing is held out, and the last 15 % validate but in a fixed universe)."
        ),
    ] = "",
    factors: Annotated[
        int | None, typer.Option(help="Factors (default: those of --config, or 5).")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings in force and stop.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same numbers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    layout: Layout,
) -> None:
    """Fit RVRAE to a panel.

    Characteristics are ranked unless the panel states it, and a market context is made from
    raw ones; `rvrae forecast` repeats both. Without settings for the split the last 15 % of the
    months decide when to stop, and those before them train; of a fixed universe, which gets
    effects by asset, all months train. Rerun the command to resume an interrupted fit.
    """
    if out is None and not print_config:
        raise ConfigError("`--out` is missing: name the folder to write the run to.")
    from rvrae_pyro.fitting.training import fit as fit_model  # torch loads for a second
    from rvrae_pyro.inference.sharded.distributed import joined

    settings = read_settings(config).with_options(split, factors)
    if out is not None:
        check_folder(out)
    raw = read_panel(panel, layout)
    check_panel(raw)
    ready, preparation = prepare(
        raw, rank=settings.data.get("rank", True), context=settings.data.get("context", True)
    )
    preparation = dataclasses.replace(preparation, layout=layout_of(panel, layout))
    model, training = settings.build_model(ready), settings.build_config()
    written = to_toml(settings, model, training)
    if print_config or out is None:
        echo(written.rstrip("\n"))
        return
    train, valid = cut(ready, settings.split)
    with joined(training.device) as team, only_run(out) if team.rank == 0 else nullcontext():
        result = fit_model(
            model, train, valid, config=training, seed=seed, checkpoint=out / CHECKPOINT
        )
        if team.rank > 0:
            return
        with assembled(out) as folder:
            save_run(Run(result, preparation), folder)
            write_text(folder / "config.toml", written)
        if result.stopped != "interrupted":
            remove(out / CHECKPOINT)
    _report(out, shlex.quote(str(panel)), result, train, valid, as_json)
    if result.stopped == "interrupted":
        echo_error(
            f"rvrae: interrupted; {out} holds the best state so far, of step {result.best_step}. "
            "The same command resumes from there."
        )
        raise typer.Exit(1)


def _report(
    out: Path,
    source: str,
    result: "Fit",
    train: xr.Dataset,
    valid: xr.Dataset | None,
    as_json: bool,
) -> None:
    summary = _summary(result, train, valid)
    judged = result.check()
    if as_json:
        found = [dataclasses.asdict(finding) for finding in judged.findings]
        echo_json({"run": str(out), **summary, "trusted": judged.trusted, "findings": found})
        return
    echo(f"Wrote {out}:")
    echo_pairs({name.replace("_", " "): _text(value) for name, value in summary.items()})
    echo(f"\n{judged}")
    echo(f"\nNext: rvrae forecast {shlex.quote(str(out))} {source} --out forecast.csv")
    echo(f"      rvrae report {shlex.quote(str(out))} {source} --out report.html")


def _summary(result: "Fit", train: xr.Dataset, valid: xr.Dataset | None) -> dict[str, Any]:
    """Say what came of the fit, in JSON types; bounds are those of the step that was kept."""
    history = result.history
    kept = history[history["step"] == result.best_step].iloc[-1]
    return {
        "factors": result.model.n_factors,
        "assets": int(train.sizes[ASSET]),
        "characteristics": int(train.sizes[CHARACTERISTIC]),
        "train": _span(train),
        "valid": _span(valid),
        "steps": int(history["step"].iloc[-1]),
        "stopped": result.stopped,
        "best_step": result.best_step,
        "train_elbo_a_return": float(kept["elbo"]) / int(result.attrs["n_train_returns"]),
        "valid_elbo_a_return": (
            None
            if valid is None
            else float(kept["valid_elbo"]) / max(1, int(result.attrs["n_valid_returns"]))
        ),
        "kl_a_month": float(kept["kl"]) / train.sizes[TIME],
        "seed": result.seed,
        "seconds": round(float(history["seconds"].iloc[-1]), 1),
    }


def _span(panel: xr.Dataset | None) -> list[str] | None:
    if panel is None:
        return None
    return [str(panel[TIME].values[k])[:10] for k in (0, -1)]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return " to ".join(value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)
