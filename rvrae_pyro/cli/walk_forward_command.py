"""``rvrae walk-forward``: repeated refits, their joined forecasts, scores and pictures."""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
import typer
import xarray as xr

from rvrae_pyro.atomic import remove
from rvrae_pyro.cli.compare_command import (
    JobsOption,
    check_results_folder,
    options_named,
    with_returns,
)
from rvrae_pyro.cli.console import echo, echo_json, echo_table, interruptible, strict
from rvrae_pyro.cli.files import CHECKPOINT, assembled, write_table, write_text
from rvrae_pyro.cli.layout import Layout, takes_layout
from rvrae_pyro.cli.panels import PanelPath, prepare, read_panel
from rvrae_pyro.cli.settings import read_settings, split_parts
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.names import RETURNS, TIME
from rvrae_pyro.predictive.storage import write_tree

_SCORES: Final = "scores.csv"
_REFITS: Final = "refits.json"
_METRICS: Final = ("predictive_r2", "rank_ic", "crps", "log_score", "coverage")
_LEAST: Final = 200


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
        int | None, typer.Option(help="Factors (default: those of --config, or 5).")
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
    """
    spans = _months(split)
    if num_samples < _LEAST:
        raise ConfigError(f"`--num-samples` must be at least {_LEAST}; got {num_samples}.")
    begun = (out / CHECKPOINT).is_dir()
    check_results_folder(out, CHECKPOINT if begun else _REFITS, "a walk-forward")
    settings = read_settings(config).with_options(factors=factors)
    ready, _ = prepare(
        with_returns(read_panel(panel, layout)),
        rank=settings.data.get("rank", True),
        context=settings.data.get("context", True),
    )
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
        name: score(_seen(tree, seen), seen, metrics=_METRICS).estimates
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
            **_summary(trees["RVRAE"], seen, spans, seed, num_samples),
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
        [METRICS[key].label, *(_text(found[name].get(key), METRICS[key].scale) for name in found)]
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


def _seen(tree: xr.DataTree, seen: xr.DataArray) -> xr.DataTree:
    """Months of a tree that have a return."""
    groups = {
        name: node.to_dataset().sel({TIME: seen[TIME]}) for name, node in tree.children.items()
    }
    return xr.DataTree.from_dict({str(name): group for name, group in groups.items()})


def _summary(
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
    from rvrae_pyro.plots.picture_files import save_picture

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


def _text(found: tuple[float, float] | None, scale: float) -> str:
    if found is None or not np.isfinite(found[0]):
        return "-"
    return f"{scale * found[0]:.2f} ({scale * found[1]:.2f})"
