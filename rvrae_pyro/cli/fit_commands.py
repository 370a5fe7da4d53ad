"""``rvrae fit`` and ``rvrae walk-forward``: train a model once, or again and again."""

import dataclasses
import json
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import pandas as pd
import typer
import xarray as xr

from rvrae_pyro.atomic import only_run, remove
from rvrae_pyro.cli.compare_commands import JobsOption, options_named, with_returns
from rvrae_pyro.cli.console import (
    echo,
    echo_error,
    echo_json,
    echo_pairs,
    echo_table,
    interruptible,
    strict,
)
from rvrae_pyro.cli.files import (
    CHECKPOINT,
    Run,
    assembled,
    check_folder,
    save_run,
    write_table,
    write_text,
)
from rvrae_pyro.cli.panels import Layout, PanelPath, layout_of, prepare, read_panel, takes_layout
from rvrae_pyro.cli.settings import cut, read_settings, split_parts, to_toml
from rvrae_pyro.data.validation import check_panel
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.names import ASSET, CHARACTERISTIC, RETURNS, TIME
from rvrae_pyro.predictive.storage import write_tree
from rvrae_pyro.risk.draws import months_of

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit

_SCORES: Final = "scores.csv"
_REFITS: Final = "refits.json"
_METRICS: Final = ("predictive_r2", "rank_ic", "crps", "log_score", "coverage")
_LEAST_DRAWS: Final = 200


@takes_layout
def fit(
    panel: PanelPath,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; an earlier run in it is replaced.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings (.toml) in sections data, model, fit, split, such as max_steps in "
            "[fit]; --print-config writes one."
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="TRAIN,VALID,TEST: counts of months, shares or last dates. Default: that of "
            "--config; else all months train if the same assets are listed throughout (a fixed "
            "universe), and otherwise the last 15 % of the months validate."
        ),
    ] = "",
    factors: Annotated[
        int | None,
        typer.Option(
            help="Factors (default: those of --config, or 5). Unless --config chooses parts, a "
            "fixed universe gets one more for every three assets (8 at most), and 200 stocks or "
            "more one per characteristic."
        ),
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

    Takes about four minutes on one core for 30 portfolios over 20 years; time grows with months and
    assets.
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
    ready, preparation = prepare(raw, **settings.data)
    preparation = dataclasses.replace(preparation, layout=layout_of(panel, layout))
    model, training = settings.build_model(ready), settings.build_config()
    factors_used = settings.describe_factors(ready, model)
    written = to_toml(settings, model, training, factors_used)
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
    _report_fit(out, shlex.quote(str(panel)), result, train, valid, factors_used, as_json)
    if result.stopped == "interrupted":
        echo_error(
            f"rvrae: interrupted; {out} holds the best state so far, of step {result.best_step}. "
            "The same command resumes from there."
        )
        raise typer.Exit(1)


def _report_fit(
    out: Path,
    source: str,
    result: "Fit",
    train: xr.Dataset,
    valid: xr.Dataset | None,
    factors: str,
    as_json: bool,
) -> None:
    summary = _summary(result, train, valid)
    judged = result.check()
    if as_json:
        found = [dataclasses.asdict(finding) for finding in judged.findings]
        echo_json({"run": str(out), **summary, "trusted": judged.trusted, "findings": found})
        return
    echo(f"Wrote {out}:")
    shown = {**summary, "factors": factors}
    echo_pairs({name.replace("_", " "): _text(value) for name, value in shown.items()})
    echo(f"\n{judged}")
    echo(f"\nNext: rvrae forecast {shlex.quote(str(out))} {source} --out forecast.csv")
    echo(f"      rvrae report {shlex.quote(str(out))} {source} --out report.html")
    echo(f"      rvrae risk {shlex.quote(str(out))} {source} --portfolio positions.csv")


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


@takes_layout
def walk_forward(
    panel: PanelPath,
    out: Annotated[Path, typer.Option(help="Folder; an earlier walk-forward is replaced.")],
    config: Annotated[
        Path | None, typer.Option(help="Settings (.toml) in sections data, model, fit.")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="TRAIN,VALID,TEST: months of the first training span, of every validation span, "
            "and between two refits."
        ),
    ] = "180,36,12",
    rolling: Annotated[
        bool, typer.Option("--rolling", help="Training spans keep their length (default: grow).")
    ] = False,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start",
            help="Start every refit from the first fit, with three tenths of the steps.",
        ),
    ] = False,
    factors: Annotated[
        int | None, typer.Option(help="As for `rvrae fit` (default: those of --config, or 5).")
    ] = None,
    jobs: JobsOption = 2,
    num_samples: Annotated[int, typer.Option(help="Predictive draws, 200 or more.")] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same numbers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    layout: Layout,
) -> None:
    """Refit repeatedly and forecast the months between, one step ahead; score against EWMA.

    Each month is forecast by the last refit before it. Writes forecast.nc (draws), scores.csv, and
    pictures of volatility, calibration and the cumulative log score. Every refit is kept as soon as
    it is done; the same command resumes.

    Takes as long as one `rvrae fit` per refit, divided by --jobs.
    """
    spans = _months(split)
    if num_samples < _LEAST_DRAWS:
        raise ConfigError(f"`--num-samples` must be at least {_LEAST_DRAWS}; got {num_samples}.")
    check_folder(out, (CHECKPOINT, _REFITS), "a walk-forward")
    settings = read_settings(config).with_options(factors=factors)
    ready, _ = prepare(with_returns(read_panel(panel, layout)), **settings.data)
    # torch loads for a second, which --help has no use for
    from rvrae_pyro.baselines import EWMA
    from rvrae_pyro.experiments.metrics import METRICS, score
    from rvrae_pyro.experiments.rolling_refits import walk_forward as walk

    model, training = settings.build_model(ready), settings.build_config()
    common: dict[str, Any] = {
        **dict(zip(("train", "valid", "test"), spans, strict=True)),
        "expanding": not rolling,
        "num_samples": num_samples,
        "seed": seed,
    }
    own: dict[str, Any] = {
        "config": training,
        "warm_start": warm_start,
        "checkpoint": out / CHECKPOINT,
        "n_jobs": jobs,
    }
    kept = f"refits that are done are kept in {out}, and the same command resumes."
    with options_named(), interruptible(kept):
        trees = {
            "RVRAE": walk(ready, model, **own, **common),
            "EWMA": walk(ready, EWMA(), progress=False, **common),
        }
    observed = trees["RVRAE"]["observed_data"].to_dataset()[RETURNS]
    seen = observed.dropna(TIME, how="all")
    found = {
        name: score(months_of(tree, seen[TIME]), seen, metrics=_METRICS).estimates
        for name, tree in trees.items()
    }
    rows = [
        {"model": name, "measure": key, "label": METRICS[key].label, "estimate": estimate,
         "standard_error": error}
        for name, each in found.items()
        for key, (estimate, error) in each.items()
    ]  # fmt: skip
    with assembled(out) as folder:
        write_tree(trees["RVRAE"], folder / "forecast.nc")
        write_table(pd.DataFrame(rows), folder / _SCORES)
        summary = {
            **_refit_summary(trees["RVRAE"], seen, spans, seed, num_samples),
            "warm_start": warm_start,
        }
        write_text(folder / _REFITS, json.dumps(strict(summary), indent=2) + "\n")
        _draw(trees, seen, folder)
    remove(out / CHECKPOINT)
    if as_json:
        echo_json({"out": str(out), **summary, "scores": rows})
        return
    first, last = (str(t)[:7] for t in seen[TIME].values[[0, -1]])
    table = [
        [
            METRICS[key].label,
            *(_score_text(found[name].get(key), METRICS[key].scale) for name in found),
        ]
        for key in _METRICS
    ]
    title = (
        f"One step ahead, {first} to {last}: {summary['months']} rows, {summary['refits']} refits"
    )
    echo_table(("", *found), table, title)
    echo(f"Wrote {out}: {', '.join(sorted(entry.name for entry in out.iterdir()))}.")


def _months(split: str) -> tuple[int, int, int]:
    """Read three counts of rows."""
    parts = split_parts(split)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int):
            raise ConfigError(
                f"`--split` must be three counts of months, such as 180,36,12; got {split!r}."
            )
    train, valid, test = (
        check_count("--split", part, least) for part, least in zip(parts, (1, 0, 1), strict=True)
    )
    return train, valid, test


def _refit_summary(
    tree: xr.DataTree, seen: xr.DataArray, spans: tuple[int, int, int], seed: int, num_samples: int
) -> dict[str, Any]:
    refits = json.loads(str(tree.attrs["refits"]))
    return {
        "refits": len(refits),
        "months": seen.sizes[TIME],
        "split": list(spans),
        "seed": seed,
        "num_samples": num_samples,
        "spans": [{name: each[name] for name in ("train", "valid", "test")} for each in refits],
    }


def _draw(trees: dict[str, xr.DataTree], seen: xr.DataArray, folder: Path) -> None:
    from rvrae_pyro import plots
    from rvrae_pyro.evaluation import compare
    from rvrae_pyro.plots.style import save_picture

    pictures = {
        "volatility": plots.volatility(trees, seen, style="light"),
        "calibration": plots.calibration(trees["RVRAE"], seen, style="light"),
    }
    scores = {
        name: tree["forecasts"].to_dataset()["log_evidence"].sel({TIME: seen[TIME]})
        for name, tree in trees.items()
    }
    if seen.sizes[TIME] > 1:
        table = compare(scores)
        pictures["log_score"] = plots.comparison(
            table, kind="cumulative", reference="EWMA", style="light"
        )
    for name, picture in pictures.items():
        save_picture(picture, folder / f"{name}.png")


def _score_text(found: tuple[float, float] | None, scale: float) -> str:
    if found is None or not np.isfinite(found[0]):
        return "-"
    return f"{scale * found[0]:.2f} ({scale * found[1]:.2f})"
