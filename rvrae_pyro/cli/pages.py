"""Two further experiments of the demo: a market with known factors, and KL annealing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import rvrae_pyro as rv
from rvrae_pyro.cli.drawing import COLOURS, GREY, label, legend_above, months_axis, new_figure
from rvrae_pyro.cli.figures import draw_coverage
from rvrae_pyro.cli.summaries import Aligned, Calibration, align, calibrate
from rvrae_pyro.names import ASSET, CHARACTERISTIC, FACTORS, FEATURE, RETURNS, TIME

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit
    from rvrae_pyro.inference.schedules import Schedule

_BLUE, _ORANGE = COLOURS[0], COLOURS[1]
_ANNEALED, _PLAIN = "KL annealed", "not annealed"


@dataclass(frozen=True)
class Simulation:
    """A fit to a simulated market, against the truth.

    Attributes
    ----------
    panel : Dataset
    aligned : Aligned
        Filtered factors on the axes of the true ones.
    before, test : Calibration
        Of one-month-ahead returns, in the months that the weights were fitted on and in those
        after them.
    first_test : datetime64
    """

    panel: xr.Dataset
    aligned: Aligned
    before: Calibration
    test: Calibration
    first_test: np.datetime64

    def numbers(self) -> dict[str, object]:
        """Return the numbers of the page, in JSON types."""
        near = int(np.argmin(np.abs(self.test.levels - 0.9)))
        return {
            "factor_r2": self.aligned.r2.tolist(),
            "factor_coverage_90": self.aligned.inside.tolist(),
            "volatility_against_training": self.rise(),
            "return_coverage_90": float(self.test.covered[near]),
        }

    def rise(self) -> float:
        """Return the true volatility of the test months, relative to the months before."""
        volatility, late = self.panel["true_volatility"], self.panel[TIME] >= self.first_test
        return float(volatility[late].mean() / volatility[~late].mean()) - 1.0


def run_simulation(
    n_assets: int, n_times: int, max_steps: int, num_samples: int, seed: int
) -> Simulation:
    """Simulate a market with entry and exit, fit it, and compare with the truth.

    Parameters
    ----------
    n_assets, n_times : int
        The last fifth of the months is the test, the tenth before it the validation.
    max_steps, num_samples, seed : int

    Returns
    -------
    Simulation
    """
    panel = rv.data.simulate_dynamic(n_assets, n_times, seed=seed)
    n_factors = panel.sizes["factor"]
    test, valid = n_times // 5, max(2, n_times // 10)
    cut = rv.data.split(panel, n_times - test - valid, valid, test)
    model = rv.RVRAE(panel.sizes[CHARACTERISTIC], n_factors, n_context=panel.sizes[FEATURE])
    config = rv.FitConfig(max_steps=max_steps)
    fit = rv.fit(model, cut.train, cut.valid, config=config, seed=seed, progress=False)
    fit = fit.uninterrupted()
    filtered = fit.filter(panel, num_samples=num_samples, seed=seed)
    factors = filtered.factors()[FACTORS]
    draws = filtered.forecast()["predictions"].to_dataset()[RETURNS]
    first = cut.test[TIME].values[0]
    before, after = (
        calibrate(panel[RETURNS].sel({TIME: months}), draws.sel({TIME: months}))
        for months in (panel[TIME] < first, panel[TIME] >= first)
    )
    aligned = align(panel["true_factors"].values, factors.values[0])
    return Simulation(panel, aligned, before, after, first)


def draw_simulation(result: Simulation) -> Figure:
    """Draw true against inferred factors, and the coverage of forecasts."""
    panel, aligned = result.panel, result.aligned
    truth, times = panel["true_factors"].values, panel[TIME].values
    listed = rv.data.listed(panel).values.sum(axis=1)
    title = (
        f"A simulated market: {panel.sizes[ASSET]} stocks, {listed.min()} to {listed.max()} "
        "of them listed at a time"
    )
    figure = new_figure(title, width=11.5, height=1.6 + 1.75 * truth.shape[1])
    left, right = figure.subfigures(1, 2, width_ratios=(1.9, 1))
    for k, axes in enumerate(left.subplots(truth.shape[1], 1, sharex=True)):
        low, high = 100 * aligned.low[:, k], 100 * aligned.high[:, k]
        axes.fill_between(times, low, high, color=_BLUE, alpha=0.3, lw=0, label="5 % to 95 %")
        axes.plot(times, 100 * aligned.mean[:, k], color=_BLUE, lw=1.2, label="inferred")
        axes.plot(times, 100 * truth[:, k], ".", color=_ORANGE, ms=5, label="true")
        text = (
            f"Factor {k + 1}: {100 * aligned.r2[k]:.0f} % explained, "
            f"{100 * aligned.inside[k]:.0f} % in the band"
        )
        label(axes, text, "month" if k == truth.shape[1] - 1 else "", "% a month")
        months_axis(axes, times)
        axes.axvline(result.first_test, color=GREY, linewidth=0.9, linestyle=":")
        if k == 0:
            legend_above(axes)
    axes = right.subplots()
    draw_coverage(axes, result.before, _ORANGE, f"first {result.before.n_months} months")
    draw_coverage(axes, result.test, _BLUE, f"last {result.test.n_months} months, test", band=True)
    change = 100 * result.rise()
    text = (
        "Coverage of one-month-ahead intervals.\nTrue volatility of the test months is "
        f"{abs(change):.0f} %\n{'above' if change > 0 else 'below'} that of the months before."
    )
    label(axes, text, "nominal coverage", "share of returns inside")
    axes.legend(fontsize=9, loc="upper left", frameon=False)
    figure.supxlabel(
        "Filtered factors, mapped to the true ones by least squares: they are identified up to a "
        "linear map. Dotted: the test begins.",
        fontsize=9,
        color=GREY,
    )
    return figure


@dataclass(frozen=True)
class Annealing:
    """Fits of the recurrent guide that differ in their KL schedule alone."""

    fits: "dict[str, Fit]"
    n_valid: int

    def numbers(self) -> dict[str, object]:
        """Return the numbers of the page, in JSON types: nats a month, nats a return."""
        return {
            name: {
                "kl_a_month": float(kept(fit).mean()),
                "valid_elbo_a_return": float(fit.history["valid_elbo"].max()) / self.n_valid,
                "best_step": fit.best_step,
            }
            for name, fit in self.fits.items()
        }


def kept(fit: "Fit") -> xr.DataArray:
    """KL of every training month at the state that a fit kept."""
    steps = fit.kl_total["step"].values
    return fit.kl_total.isel(step=int(np.argmin(np.abs(steps - fit.best_step))))


def run_annealing(
    train: xr.Dataset,
    valid: xr.Dataset,
    n_factors: int,
    max_steps: int,
    seed: int,
) -> Annealing:
    """Fit the paper's encoder with the KL annealed, and without.

    Parameters
    ----------
    train, valid : Dataset
    n_factors : int
    max_steps : int
        Of each fit; the annealing takes the first two fifths.
    seed : int
    """
    linear = rv.schedules.Linear(start=0.02, steps=max(1, 2 * max_steps // 5))
    schedules: dict[str, Schedule] = {_ANNEALED: linear, _PLAIN: rv.schedules.Constant()}
    fits = {}
    for name, schedule in schedules.items():
        model = rv.RVRAE(
            train.sizes[CHARACTERISTIC],
            n_factors,
            guide=rv.guides.Recurrent(n_factors),
            n_context=train.sizes.get(FEATURE, 0),
        )
        config = rv.FitConfig(max_steps=max_steps, kl_schedule=schedule, patience=max_steps)
        fit = rv.fit(model, train, valid, config=config, seed=seed, progress=False)
        fits[name] = fit.uninterrupted()
    return Annealing(fits, int(valid[RETURNS].notnull().sum()))


def draw_annealing(result: Annealing) -> Figure:
    """Draw the KL over training and month by month, and the bound, with and without annealing."""
    title = "Appendix: the recurrent guide with and without KL annealing"
    figure = new_figure(title, height=6.6)
    grid = figure.add_gridspec(2, 2)
    bound, spent = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    monthly = figure.add_subplot(grid[1, :])
    for (name, fit), colour in zip(result.fits.items(), (_BLUE, _ORANGE), strict=True):
        steps = fit.history["step"]
        bound.plot(steps, fit.history["valid_elbo"] / result.n_valid, color=colour, label=name)
        spent.plot(steps, fit.kl_total.mean(TIME), color=colour, label=name)
        last = kept(fit)
        text = f"{name}: mean {float(last.mean()):.1f} nats"
        monthly.plot(last[TIME].values, last.values, color=colour, linewidth=1.2, label=text)
    weights = result.fits[_ANNEALED].history
    shade = spent.twinx()
    shade.fill_between(weights["step"], weights["kl_weight"], color=GREY, alpha=0.15, linewidth=0)
    shade.set_ylim(0, 1.05)
    # the shaded weight goes behind the curves
    spent.set_zorder(shade.get_zorder() + 1)
    spent.patch.set_visible(False)
    shade.set_ylabel("KL weight when annealed (shaded)", fontsize=9, color=GREY)
    label(bound, "Bound on the validation months", "gradient step", "nats a return")
    label(spent, "KL of the training months", "gradient step", "nats a month, mean")
    label(monthly, "KL month by month, at the state that is kept", "training month", "nats a month")
    late = np.concatenate(
        [fit.history["valid_elbo"].iloc[1:] / result.n_valid for fit in result.fits.values()]
    )
    bound.set_ylim(np.quantile(late, 0.1) - 0.1, late.max() + 0.05)
    months_axis(monthly, next(iter(result.fits.values())).kl_total[TIME].values)
    for axes in (bound, spent, monthly):
        axes.legend(fontsize=9, loc="lower right" if axes is bound else "upper right")
    return figure
