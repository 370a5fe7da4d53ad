"""``rvrae demo``: real portfolios from fit to forecast, risk and pictures."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer
import xarray as xr

from rvrae_pyro.cli.console import echo, echo_json, echo_table, progress, strict
from rvrae_pyro.cli.files import Run, assembled, check_folder, save_run, write_table, write_text
from rvrae_pyro.cli.panels import Preparation, prepare
from rvrae_pyro.data.datasets import load_french
from rvrae_pyro.data.splits import Split, split
from rvrae_pyro.names import RETURNS, TIME
from rvrae_pyro.predictive.storage import write_tree
from rvrae_pyro.risk.summary import forecast_table, risk_table

if TYPE_CHECKING:
    from rvrae_pyro.cli.scores import Score
    from rvrae_pyro.fitting.fit import Fit
    from rvrae_pyro.predictive.filtered import Filtered

__all__ = ["FULL", "QUICK", "Sizes", "demo"]

_N_FACTORS: Final = 5
_WINDOW: Final = 12


@dataclass(frozen=True)
class Sizes:
    """Sizes of the demo, in months unless stated."""

    train: int = 180
    valid: int = 36
    test: int = 36
    max_steps: int = 900
    num_samples: int = 1000


FULL: Final = Sizes()
QUICK: Final = Sizes(
    train=48,
    valid=12,
    test=12,
    max_steps=30,
)

_UNKNOWN: Final = (
    "What this does not show: {test} test months, 30 overlapping portfolios and one seed. A "
    "standard error from {test} months is itself rough, and a difference of less than two of them "
    "is no difference; whether one model ranks assets better than another cannot be determined. "
    "Portfolios are diversified: single stocks are noisier, enter and leave. Trading costs are "
    "left out, and the network's weights are held at their fitted values: only effects by asset "
    "have a posterior. Naive: a Normal with the mean and covariance of the {past} months "
    "before the test. EWMA: rv.baselines.EWMA, fitted to the same months."
)


@dataclass(frozen=True)
class _Market:
    """Panel, split, fit and its forecasts."""

    raw: xr.Dataset
    panel: xr.Dataset
    cut: Split
    fit: "Fit"
    preparation: Preparation
    filtered: "Filtered"
    tree: xr.DataTree
    factors: xr.Dataset

    def marks(self) -> dict[str, np.datetime64]:
        """First month of every period."""
        parts = {"training": self.cut.train, "validation": self.cut.valid, "test": self.cut.test}
        return {name: part[TIME].values[0] for name, part in parts.items()}


def demo(
    out: Annotated[Path, typer.Option(help="Folder; an earlier demo in it is replaced.")] = Path(
        "runs/demo"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Far too small to mean anything: a trial run.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same numbers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit 30 real portfolios; write next month's forecast and risk, scores, pictures, a report."""
    check_folder(out)
    sizes = QUICK if quick else FULL
    with _one_thread(), assembled(out) as folder:
        metrics, scores = _run(sizes, seed, folder)
        written = sorted(entry.name for entry in folder.iterdir())
    if as_json:
        echo_json({"out": str(out), "files": written, **metrics})
    else:
        _report(out, written, metrics, scores, sizes)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Make sums in one order on any machine, so that the same seed gives the same numbers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(sizes: Sizes, seed: int, folder: Path) -> tuple[dict[str, Any], "list[Score]"]:
    from rvrae_pyro.cli.scores import score_forecasts

    market = _fit_market(sizes, seed)
    save_run(Run(market.fit, market.preparation), folder)
    progress("scoring, tables and pictures")
    _write_forecasts(market, folder)
    scores = score_forecasts(market.filtered, market.tree, market.factors["mean"], market.cut.test)
    _draw_market(market, folder)
    progress("writing the report")
    _write_report(market, sizes, seed, folder)
    metrics = {
        "seed": seed,
        "sizes": asdict(sizes),
        "periods": {
            name: [str(part[TIME].values[k])[:10] for k in (0, -1)]
            for name, part in market.cut._asdict().items()
        },
        "best_step": market.fit.best_step,
        "scores": {
            each.name: {
                "estimate": each.estimate,
                "standard_error": each.standard_error,
                "naive": each.naive,
                "ewma": each.ewma,
            }
            for each in scores
        },
        "versions": json.loads(str(market.fit.attrs["versions"])),
    }
    write_text(folder / "metrics.json", json.dumps(strict(metrics), indent=2) + "\n")
    return metrics, scores


def _fit_market(sizes: Sizes, seed: int) -> _Market:
    """Fit the embedded panel, its last months held out, and forecast all of them."""
    raw = load_french()
    panel, preparation = prepare(raw)
    cut = split(panel, sizes.train, sizes.valid, sizes.test)
    panel = panel.sel({TIME: panel[TIME] >= cut.train[TIME].values[0]})
    from rvrae_pyro.fitting.training import fit as fit_model  # torch takes seconds
    from rvrae_pyro.inference.config import FitConfig
    from rvrae_pyro.models.rvrae import RVRAE

    model = RVRAE.for_panel(cut.train, _N_FACTORS)
    progress(f"fitting {panel.sizes['asset']} portfolios, {sizes.train} months")
    config = FitConfig(max_steps=sizes.max_steps)
    fit = fit_model(model, cut.train, cut.valid, config=config, seed=seed).uninterrupted()
    progress("forecasting every month from the months before it")
    filtered = fit.filter(panel, num_samples=sizes.num_samples, seed=seed)
    tree, factors = filtered.forecast(), filtered.factors()
    return _Market(raw, panel, cut, fit, preparation, filtered, tree, factors)


def _from(tree: xr.DataTree, first: np.datetime64) -> xr.DataTree:
    """Months of a tree from ``first`` on."""
    groups = {}
    for name, node in tree.children.items():
        dataset = node.to_dataset()
        groups[name] = dataset.sel({TIME: dataset[TIME] >= first})
    cut = xr.DataTree.from_dict(groups)
    cut.attrs = dict(tree.attrs)
    return cut


def _write_forecasts(market: _Market, folder: Path) -> None:
    held_out = _from(market.tree, market.cut.test[TIME].values[0])
    live = _from(market.tree, market.panel[TIME].values[-1])
    write_tree(held_out, folder / "forecast.nc")
    write_table(forecast_table(live, market.raw), folder / "forecast.csv")
    write_table(risk_table(held_out), folder / "risk.csv")


def _draw_market(market: _Market, folder: Path) -> None:
    from matplotlib.figure import Figure

    from rvrae_pyro import plots
    from rvrae_pyro.plots.style import save_picture

    panel, tree, marks = market.panel, market.tree, market.marks()
    seen = panel[RETURNS].dropna(TIME, how="all")
    both = Figure(figsize=(9.0, 6.6), layout="constrained")
    top, bottom = both.subplots(2, 1)
    plots.volatility(tree, seen, window=_WINDOW, marks=marks, ax=top, style="light")
    plots.volatility(tree, seen, quantity="cross_section", marks=marks, ax=bottom, style="light")
    test = market.cut.test[RETURNS]
    pictures = {
        "training": plots.training(market.fit, style="light"),
        "factors": plots.factors(market.filtered, marks=marks, style="light"),
        "forecast": plots.forecast(tree, market.raw, groups="group", style="light"),
        "calibration": plots.calibration(tree, test, style="light"),
        "volatility": both,
    }
    for name, picture in pictures.items():
        save_picture(picture, folder / f"{name}.png")


def _write_report(market: _Market, sizes: Sizes, seed: int, folder: Path) -> None:
    from rvrae_pyro.report.facts import gather
    from rvrae_pyro.report.page import write_page

    raw = market.raw.sel({TIME: market.panel[TIME]})
    facts = gather(market.fit, market.panel, raw, sizes.num_samples, seed, filtered=market.filtered)
    write_text(folder / "report.html", write_page(facts))


def _report(
    out: Path,
    written: list[str],
    metrics: Mapping[str, Any],
    scores: "list[Score]",
    sizes: Sizes,
) -> None:
    rows = [
        [
            each.label,
            *(
                "" if np.isnan(value) else f"{each.scale * value:.2f}"
                for value in (each.estimate, each.standard_error, each.naive, each.ewma)
            ),
        ]
        for each in scores
    ]
    first, last = (day[:7] for day in metrics["periods"]["test"])
    title = f"One month ahead, {first} to {last}: {sizes.test} months, 30 portfolios"
    echo_table(("", "estimate", "s.e.", "naive", "EWMA"), rows, title)
    echo(textwrap.fill(_UNKNOWN.format(test=sizes.test, past=sizes.train + sizes.valid), 96))
    echo(f"\nWrote {out}: {', '.join(written)}.")
