"""``rvrae demo``: real portfolios from fit to forecast, risk and pictures."""

import json
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import pandas as pd
import typer
import xarray as xr

from rvrae_pyro.cli.console import echo, echo_json, echo_table, progress, strict
from rvrae_pyro.cli.demo_sizes import FULL, QUICK, Sizes
from rvrae_pyro.cli.files import Run, assembled, check_folder, save_run, write_table, write_text
from rvrae_pyro.cli.panels import Preparation, prepare
from rvrae_pyro.data.datasets import load_french
from rvrae_pyro.data.splits import Split, split
from rvrae_pyro.errors import RvraeWarning
from rvrae_pyro.names import ASSET, TIME
from rvrae_pyro.predictive.storage import write_tree
from rvrae_pyro.risk import portfolio, summarize
from rvrae_pyro.risk.draws import months_of
from rvrae_pyro.risk.summary import forecast_table, risk_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rvrae_pyro.cli.demo_walk import Walk
    from rvrae_pyro.fitting.fit import Fit
    from rvrae_pyro.predictive.filtered import Filtered

_N_FACTORS: Final = 5
_WINDOW: Final = 12
_WIDTH: Final = 79
_ERRORS: Final = 2.0
_CRISES: Final = {"1987": "1987-10-31", "2000": "2000-03-31", "2008": "2008-09-30"}


_LEGEND: Final = (
    "Log density: joint, of a month's returns, nats per return. QLIKE: of the variance of equal "
    "weights, low is good. Predictive R2 and Rank IC: of the means. Swapped: the same model with "
    "the prior rv.priors.StandardNormal: no memory, and one volatility for all months. "
    "Naive: a Normal with the mean and covariance of the {past} months before each refit. EWMA: "
    "rv.baselines.EWMA, fitted to the same months."
)
_LIMITS: Final = (
    "What this does not show: refits of the table are short ({steps} steps and {draws} draws, "
    "every {between} months, effects by asset at one best value), to take seconds; "
    "docs/development/risk_log.md has full ones. "
    "Thirty overlapping portfolios and one seed; portfolios are diversified: single stocks are "
    "noisier, enter and leave. A difference of less than two standard errors is no difference. "
    "Trading costs are left out, and the network's weights are held at their fitted values: only "
    "effects by asset have a posterior."
)


@dataclass(frozen=True)
class _Market:
    """Panel, split, fit and its forecasts."""

    raw: xr.Dataset
    panel: xr.Dataset
    cut: Split
    fit: "Fit"
    walk: "Walk"
    preparation: Preparation
    filtered: "Filtered"
    tree: xr.DataTree
    factors: xr.Dataset

    def marks(self) -> dict[str, np.datetime64]:
        """First month of every period."""
        parts = {"training": self.cut.train, "test": self.cut.test}
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
    """Fit 30 real portfolios; forecast over decades and next month; write pictures and a report.

    Takes about three minutes on two cores; --quick, less than one.
    """
    check_folder(out)
    # torch loads for a second, which --help has no use for
    from rvrae_pyro.fitting.parallel import one_thread

    sizes = QUICK if quick else FULL
    with one_thread(), assembled(out) as folder, warnings.catch_warnings():
        # the report's checks state what these warn of, such as few effective particles
        warnings.simplefilter("ignore", RvraeWarning)
        metrics, market = _run(sizes, seed, folder)
        written = sorted(entry.name for entry in folder.iterdir())
    if as_json:
        echo_json({"out": str(out), "files": written, **metrics})
    else:
        _report(out, written, metrics, market.walk, sizes)


def _run(sizes: Sizes, seed: int, folder: Path) -> tuple[dict[str, Any], "_Market"]:
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
            if part.sizes[TIME]
        },
        "best_step": market.fit.best_step,
        "learned": _learned(market),
        "walk_forward": market.walk.as_dict(),
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
    return metrics, market


def _fit_market(sizes: Sizes, seed: int) -> _Market:
    """Fit the embedded panel, its last months held out, and forecast all of them."""
    raw = load_french()
    whole, preparation = prepare(raw)
    cut = split(whole, sizes.train, 0, sizes.test)
    panel = whole.sel({TIME: whole[TIME] >= cut.train[TIME].values[0]})
    # torch takes seconds
    from rvrae_pyro.cli.demo_walk import LiveFit, run_walk
    from rvrae_pyro.fitting.parallel import InMemory

    progress(f"fitting {panel.sizes['asset']} portfolios, and refitting over decades")
    live = LiveFit(InMemory(cut.train), _N_FACTORS, sizes.max_steps, seed)
    walk, fit = run_walk(whole, sizes.walk, _N_FACTORS, seed, live)
    progress("forecasting every month from the months before it")
    filtered = fit.filter(panel, num_samples=sizes.num_samples, seed=seed)
    tree, factors = filtered.forecast(), filtered.factors()
    return _Market(raw, panel, cut, fit, walk, preparation, filtered, tree, factors)


def _write_forecasts(market: _Market, folder: Path) -> None:
    held_out = months_of(market.tree, slice(market.cut.test[TIME].values[0], None))
    live = months_of(market.tree, market.panel[TIME].values[-1:])
    write_tree(held_out, folder / "forecast.nc")
    write_table(forecast_table(live, market.raw), folder / "forecast.csv")
    write_table(risk_table(held_out), folder / "risk.csv")


def _draw_market(market: _Market, folder: Path) -> None:
    from rvrae_pyro import plots
    from rvrae_pyro.cli.demo_walk import DEFAULT
    from rvrae_pyro.plots.style import save_picture

    tree, marks, walk = market.tree, market.marks(), market.walk
    first, last = walk.returns[TIME].values[[0, -1]]
    crises = {name: day for name, day in _CRISES.items() if first <= np.datetime64(day) <= last}
    pictures = {
        "training": plots.training(market.fit, style="light"),
        "factors": plots.factors(market.filtered, marks=marks, style="light"),
        "forecast": plots.forecast(tree, market.raw, groups="group", style="light"),
        "calibration": plots.calibration(walk.predictions[DEFAULT], walk.returns, style="light"),
        "volatility": _tall(walk, crises),
    }
    for name, picture in pictures.items():
        save_picture(picture, folder / f"{name}.png")


def _tall(walk: "Walk", crises: Mapping[str, str]) -> "Figure":
    """Draw volatility of the walk-forward, of equal weights and of the cross-section."""
    from matplotlib.figure import Figure

    from rvrae_pyro import plots
    from rvrae_pyro.cli.demo_walk import DEFAULT

    both = Figure(figsize=(9.0, 6.6), layout="constrained")
    top, bottom = both.subplots(2, 1)
    options: dict[str, Any] = {"marks": crises, "style": "light"}
    plots.volatility(walk.predictions, walk.returns, window=_WINDOW, ax=top, **options)
    plots.volatility(
        walk.predictions[DEFAULT], walk.returns, quantity="cross_section", ax=bottom, **options
    )
    return both


def _write_report(market: _Market, sizes: Sizes, seed: int, folder: Path) -> None:
    from rvrae_pyro.report.facts import gather
    from rvrae_pyro.report.page import write_page

    raw = market.raw.sel({TIME: market.panel[TIME]})
    facts = gather(market.fit, market.panel, raw, sizes.num_samples, seed, filtered=market.filtered)
    write_text(folder / "report.html", write_page(facts))


def _learned(market: _Market) -> list[str]:
    """Say in plain words what the numbers show."""
    from rvrae_pyro.cli.demo_walk import DEFAULT

    walk = market.walk
    covered, error = walk.score(DEFAULT, "coverage")
    below, below_error = walk.score(DEFAULT, "below_5")
    gain, gain_error = walk.score(DEFAULT, "less EWMA")
    r2, r2_error = walk.score(DEFAULT, "predictive_r2")
    swap, swap_error = walk.swap["estimate"], walk.swap["standard_error"]
    first, last = walk.span
    month = market.panel[TIME].values[-1]
    live = months_of(market.tree, [month])
    assets = market.panel.indexes[ASSET]
    equal = pd.Series(1.0 / len(assets), assets)
    held = portfolio(live, equal).to_dataset().isel({TIME: 0})
    single = summarize(live).isel({TIME: 0})["sd"].to_series()
    named = market.raw["name"]
    calm, rough = (
        str(named.sel({ASSET: asset}).item()) for asset in (single.idxmin(), single.idxmax())
    )
    return [
        f"Risk can be checked. Over {walk.returns.sizes[TIME]} months, {first} to {last}, with "
        f"{walk.n_refits} refits, 90 % intervals covered {100 * covered:.1f} % of returns (s.e. "
        f"{100 * error:.1f}; naive {100 * walk.score('naive', 'coverage')[0]:.1f}), and "
        f"{100 * below:.1f} % fell below the 5 % VaR (s.e. {100 * below_error:.1f}; naive "
        f"{100 * walk.score('naive', 'below_5')[0]:.1f}).",
        f"Next to an EWMA, the joint log density of a month's returns is {abs(gain):.3f} nats per "
        f"return {'higher' if gain > 0 else 'lower'} (s.e. {gain_error:.3f}): "
        + _verdict(gain, gain_error, "better", "worse"),
        f"Means: no significant difference to a forecast of zero, predictive R2 "
        f"{100 * r2:.2f} % (s.e. {100 * r2_error:.2f})."
        if abs(r2) <= _ERRORS * r2_error
        else f"Means: predictive R2 {100 * r2:.2f} % (s.e. {100 * r2_error:.2f}), "
        + _verdict(r2, r2_error, "better than a forecast of zero", "worse than a forecast of zero"),
        f"Swapping the prior for one whose months share one volatility "
        f"{'costs' if swap > 0 else 'gains'} {abs(swap):.3f} nats per return (s.e. "
        f"{swap_error:.3f}): "
        + _verdict(swap, swap_error, "the default is better", "the default is worse"),
        f"In {str(month)[:7]}, the live month, an equally weighted portfolio has a predictive "
        f"standard deviation of {100 * float(held['sd']):.1f} % and a 5 % VaR of "
        f"{100 * float(held['var'].sel(tail=0.05)):.1f} %; single portfolios have standard "
        f"deviations from {100 * single.min():.1f} % ({calm}) to {100 * single.max():.1f} % "
        f"({rough}).",
    ]


def _verdict(value: float, error: float, above: str, below: str) -> str:
    if abs(value) <= _ERRORS * error:
        return "noise could explain the difference."
    return (above if value > 0 else below) + ", by more than two standard errors."


def _report(
    out: Path, written: list[str], metrics: Mapping[str, Any], found: "Walk", sizes: Sizes
) -> None:
    from rvrae_pyro.cli.demo_walk import table_rows

    echo("What was learned\n")
    for line in metrics["learned"]:
        echo(textwrap.fill(line, _WIDTH, initial_indent="- ", subsequent_indent="  "))
    walk = metrics["walk_forward"]
    first, last = walk["span"]
    title = (
        f"\nOne month ahead, {first} to {last}: {walk['months']} months, {walk['refits']} short "
        "refits (standard errors)"
    )
    echo_table(("", *found.models), table_rows(found), title)
    echo(textwrap.fill(_LEGEND.format(past=sizes.walk.train), _WIDTH))
    limits = _LIMITS.format(
        steps=sizes.walk.max_steps, draws=sizes.walk.num_samples, between=sizes.walk.between
    )
    echo("\n" + textwrap.fill(limits, _WIDTH))
    echo(f"\nWrote {out}: {', '.join(written)}. Begin with {out / 'report.html'}.")
