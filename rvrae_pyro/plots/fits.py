"""Pictures of training and of comparisons between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvrae_pyro.errors import ConfigError, check_choice
from rvrae_pyro.names import TIME
from rvrae_pyro.plots.plot_sources import described, period_of, wrong
from rvrae_pyro.plots.style import BAND, Style, canvas, date_axis, dress, legend

_MODEL: Final = "model"


def training(source: object, *, ax: Axes | None = None, style: Style | None = None) -> Axes:
    """Draw the evidence lower bound of training and validation months by gradient step.

    Parameters
    ----------
    source : Fit, Ensemble or DataFrame, or mapping from name to these
        A fit, or its ``history``. A mapping or an ensemble draws one line per fit: of the
        validation months, or of the training months where a fit has none.
    ax, style : optional
        Axes (default: of a new pyplot figure); "light" or "dark" (default: matplotlib's settings).

    Returns
    -------
    Axes
        In nats per return where the number of returns is known (a fit), else in nats. The
        vertical axis covers the last 90 % of training.

    Raises
    ------
    ConfigError
        If ``source`` has no training history.

    Examples
    --------
    >>> import pandas as pd, rvrae_pyro as rv
    >>> history = pd.DataFrame({"step": [10, 20, 30], "elbo": [1.0, 2.0, 2.5]})
    >>> rv.plots.training(history).get_ylabel()
    'nats'
    """
    members = getattr(source, "members", None)
    if isinstance(members, tuple):  # an ensemble
        source = {f"seed {each.seed}": each for each in members}
    if isinstance(source, Mapping):
        return _several(source, ax, style)
    history, attrs = _history(source)
    counts = [_count(attrs, name) for name in ("n_train_returns", "n_valid_returns")]
    curves = {"training": history["elbo"].to_numpy(float) / (counts[0] or 1)}
    judged = "valid_elbo" in history and bool(history["valid_elbo"].notna().any())
    if judged and (counts[0] is None or counts[1]):
        curves["validation"] = history["valid_elbo"].to_numpy(float) / (counts[1] or 1)
    steps = history["step"].to_numpy(float)
    on = canvas(ax, style, size=(7.5, 3.4))
    axes, theme = on.axes[0], on.theme
    for k, (name, curve) in enumerate(curves.items()):
        axes.plot(steps, curve, color=theme.colour(k), linewidth=1.5, label=f"{name} months")
    best = getattr(source, "best_step", None)
    _late_limits(axes, steps, list(curves.values()))
    if best is not None:
        axes.axvline(best, color=theme.muted, linestyle="--", linewidth=1.3, label="kept state")
        ends = axes.get_xlim()
        if best > 0.97 * ends[1]:  # the line would lie on the edge of the picture
            axes.set_xlim(ends[0], 1.03 * max(best, ends[1]))
    unit = "nats" if counts[0] is None else "nats per return"
    dress(axes, theme, "Evidence lower bound", "gradient step", unit)
    legend(axes, theme)
    return axes


def _several(sources: Mapping[str, object], ax: Axes | None, style: Style | None) -> Axes:
    """Draw the bound of several fits, on their validation months if all have some."""
    if not sources:
        raise ConfigError("`source` must map at least one name to a fit, got an empty mapping.")
    found = {str(name): _history(each) for name, each in sources.items()}
    judged = all(
        "valid_elbo" in history and bool(history["valid_elbo"].notna().any())
        for history, _ in found.values()
    )
    column, count = ("valid_elbo", "n_valid_returns") if judged else ("elbo", "n_train_returns")
    counts = {name: _count(attrs, count) for name, (_, attrs) in found.items()}
    known = all(counts.values())
    on = canvas(ax, style, size=(7.5, 3.4))
    axes, theme = on.axes[0], on.theme
    curves, last = [], 0.0
    for k, (name, (history, _)) in enumerate(found.items()):
        steps = history["step"].to_numpy(float)
        curve = history[column].to_numpy(float) / (counts[name] or 1 if known else 1)
        axes.plot(steps, curve, color=theme.colour(k), linewidth=1.5, label=name)
        curves.append(curve[steps >= 0.1 * steps[-1]])
        last = max(last, float(steps[-1]))
    shown = np.concatenate(curves)
    _late_limits(axes, np.full(shown.size, last), [shown])
    axes.set_xlim(0.0, last)
    months = "validation" if judged else "training"
    unit = "nats per return" if known else "nats"
    dress(axes, theme, f"Evidence lower bound, {months} months", "gradient step", unit)
    legend(axes, theme)
    return axes


def elbo(
    source: object, *, ax: Axes | Sequence[Axes] | None = None, style: Style | None = None
) -> Figure | Axes:
    """Draw the parts of the evidence lower bound, and the KL of every training month.

    Parameters
    ----------
    source : Fit or DataFrame
        A fit, or its ``history``, which has no KL by month.
    ax : Axes or sequence of two Axes, optional
        A single one shows the parts. Default: a new pyplot figure.
    style : {"light", "dark"}, optional
        Default: the settings of matplotlib.

    Returns
    -------
    Figure or Axes
        A figure of two panels: expected log likelihood and bound at KL weight 1, whose distance
        is the KL, in nats per return; and the KL by month and gradient step, in nats per month.

    Raises
    ------
    ConfigError
        If ``source`` has no training history.
    """
    history, attrs = _history(source)
    lacking = [name for name in ("log_likelihood", "kl") if name not in history]
    if lacking:
        raise wrong("source", f"a history with {lacking}", history, "Pass the fit.")
    kl = getattr(source, "kl_total", None)
    both = isinstance(kl, xr.DataArray) and not isinstance(ax, Axes)
    count = _count(attrs, "n_train_returns")
    steps = history["step"].to_numpy(float)
    fitted = history["log_likelihood"].to_numpy(float) / (count or 1)
    bound = fitted - history["kl"].to_numpy(float) / (count or 1)
    panels = 2 if both else 1
    on = canvas(
        ax, style, panels, size=(8.0, 2.9 * panels + 0.4), sharex=True,
        remedy="A single Axes shows the parts of the bound.",
        height_ratios=(5, 4)[:panels],
    )  # fmt: skip
    axes, theme = on.axes[0], on.theme
    axes.fill_between(
        steps, bound, fitted, color=theme.colour(1), alpha=BAND, linewidth=0, label="KL"
    )
    axes.plot(steps, fitted, color=theme.colour(1), linewidth=1.5, label="expected log likelihood")
    axes.plot(steps, bound, color=theme.colour(0), linewidth=1.5, label="evidence lower bound")
    _late_limits(axes, steps, [fitted, bound])
    unit = "nats" if count is None else "nats per return"
    dress(axes, theme, "Parts of the bound, training months", "" if both else "gradient step", unit)
    legend(axes, theme)
    if not both:
        return on.result
    assert isinstance(kl, xr.DataArray)  # checked above
    period = period_of(kl)
    below = on.axes[1]
    values = kl.transpose(TIME, "step").values
    mesh = below.pcolormesh(
        kl["step"].values,
        kl[TIME].values,
        values,
        cmap="cividis",
        vmin=0.0,
        vmax=float(np.nanquantile(values, 0.995)) or 1.0,
        shading="nearest",
        rasterized=True,
    )
    dress(below, theme, f"KL by training {period}", "gradient step", f"training {period}")
    below.grid(visible=False)
    bar = on.figure.colorbar(mesh, ax=below, extend="max", pad=0.01)
    bar.set_label(f"nats per {period}", fontsize=9.5, color=theme.label)
    bar.ax.tick_params(labelsize=8.5, colors=theme.tick)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return on.result


def _history(source: object) -> tuple[pd.DataFrame, dict[str, Any]]:
    found = source if isinstance(source, pd.DataFrame) else getattr(source, "history", None)
    if not isinstance(found, pd.DataFrame) or not {"step", "elbo"} <= set(found.columns):
        raise wrong("source", "a fit or its `history`", source, "Pass the result of rv.fit.")
    if found.empty:
        raise ConfigError("`source` must have at least one epoch of training, got none.")
    attrs = {} if isinstance(source, pd.DataFrame) else dict(getattr(source, "attrs", {}))
    return found, attrs


def _count(attrs: dict[str, Any], name: str) -> int | None:
    value = attrs.get(name)
    return int(value) if value is not None else None


def _late_limits(axes: Axes, steps: np.ndarray, curves: list[np.ndarray]) -> None:
    """Limit the vertical axis to the last 90 % of training: the start would flatten the rest."""
    late = steps >= 0.1 * steps[-1]
    shown = np.concatenate([curve[late] for curve in curves])
    shown = shown[np.isfinite(shown)]
    if shown.size:
        room = 0.08 * float(np.ptp(shown)) + 1e-9
        axes.set_ylim(shown.min() - room, shown.max() + room)
    if steps[-1] > steps[0]:
        axes.set_xlim(0.0, steps[-1])


def comparison(
    source: object,
    *,
    kind: Literal["difference", "cumulative"] = "difference",
    reference: str | None = None,
    ax: Axes | None = None,
    style: Style | None = None,
) -> Axes:
    """Draw the log scores of several models, with errors of their differences.

    Parameters
    ----------
    source : Dataset, DataFrame, or object with such a ``table``
        The result of ``rv.evaluation.compare`` or ``rv.swap``.
    kind : {"difference", "cumulative"}
        Mean difference per month (default), or its sum over time.
    reference : str, optional
        Model that the others are compared with. Default: the best of ``kind="difference"``,
        the worst of ``kind="cumulative"``.
    ax, style : optional
        Axes (default: of a new pyplot figure); "light" or "dark" (default: matplotlib's settings).

    Returns
    -------
    Axes
        In nats per month; bars are two standard errors. The title says so where no difference
        exceeds them. Cumulated: in nats.

    Raises
    ------
    ConfigError
        If ``source`` is no comparison, lacks the monthly scores that the picture needs, or the
        reference is not in it.

    Examples
    --------
    >>> import numpy as np, pandas as pd, rvrae_pyro as rv, xarray as xr
    >>> random = np.random.default_rng(0)
    >>> months = pd.date_range("2000-01-31", periods=24, freq="ME")
    >>> score = xr.DataArray(random.normal(size=24), {"time": months}, "time")
    >>> table = rv.evaluation.compare({"A": score, "B": score - 0.1 * random.random(24)})
    >>> rv.plots.comparison(table).get_xlabel()
    'log score less that of A, nats per month'
    """
    check_choice("kind", kind, ("difference", "cumulative"))
    table = source
    if not isinstance(source, xr.Dataset | pd.DataFrame):
        scores = getattr(source, "scores", None)
        table = scores if isinstance(scores, xr.Dataset) else getattr(source, "table", source)
    if isinstance(table, pd.DataFrame):
        table = table if table.index.name == _MODEL or _MODEL not in table else (
            table.set_index(_MODEL)
        )  # fmt: skip
        table = xr.Dataset.from_dataframe(table.rename_axis(_MODEL))
    if not isinstance(table, xr.Dataset) or not {"difference", "difference_error"} <= set(
        table.data_vars
    ):
        raise wrong("source", "the result of rv.evaluation.compare", source,
                    "Pass it, or its table with `difference` and `difference_error`.")  # fmt: skip
    models = [str(name) for name in table[_MODEL].values]
    if reference is not None:
        check_choice("reference", reference, models)
    scores = table.get("log_scores")
    if scores is None and (kind == "cumulative" or reference not in (None, models[0])):
        raise ConfigError(
            f"`source` must have `log_scores` (model, time) for kind={kind!r} and this reference, "
            f"got {described(source)}. Pass the Dataset that rv.evaluation.compare returns."
        )
    if kind == "cumulative":
        assert scores is not None  # checked above
        return _cumulative(scores, reference or models[-1], ax, style)
    base = reference or models[0]
    gap, error = table["difference"].values, table["difference_error"].values
    if scores is not None and base != models[0]:
        from rvrae_pyro.evaluation import hac_standard_error

        apart = scores - scores.sel({_MODEL: base}, drop=True)
        gap = apart.mean(TIME).values
        error = np.nan_to_num(hac_standard_error(apart).values)
    period = period_of(table)
    on = canvas(ax, style, size=(7.0, 1.4 + 0.32 * len(models)))
    axes, theme = on.axes[0], on.theme
    rows = np.arange(len(models))[::-1]
    axes.axvline(0.0, color=theme.muted, linewidth=0.9)
    axes.errorbar(
        gap, rows, xerr=2.0 * np.nan_to_num(error), fmt="o", color=theme.colour(0), ms=6,
        linewidth=1.8, capsize=0,
    )  # fmt: skip
    axes.margins(x=0.08)
    axes.set_yticks(rows, models)
    axes.set_ylim(-0.6, len(models) - 0.4)
    months = table.attrs.get("n_times")
    title = f"Log score one {period} ahead, ± 2 standard errors"
    title += f", {months} {period}s" if months else ""
    others = np.array([name != base for name in models])
    if others.any() and not (np.abs(gap) > 2.0 * error)[others].any():
        title += "\nNo difference exceeds two standard errors"
    dress(axes, theme, title,
          f"log score less that of {base}, nats per {period}", "model", grid="x")  # fmt: skip
    return axes


def _cumulative(scores: xr.DataArray, base: str, ax: Axes | None, style: Style | None) -> Axes:
    scores = scores.transpose(_MODEL, TIME)
    total = (scores - scores.sel({_MODEL: base}, drop=True)).cumsum(TIME)
    on = canvas(ax, style)
    axes, theme = on.axes[0], on.theme
    times = scores[TIME].values
    axes.axhline(0.0, color=theme.muted, linewidth=0.9, label=base)
    others = [name for name in scores[_MODEL].values if str(name) != base]
    for k, name in enumerate(others):
        one = total.sel({_MODEL: name}).values
        axes.plot(times, one, color=theme.colour(k), linewidth=1.6, label=str(name))
    date_axis(axes, times)
    period = period_of(scores)
    dress(axes, theme, f"Cumulative log score one {period} ahead", period,
          f"log score less that\nof {base}, nats")  # fmt: skip
    legend(axes, theme)
    return axes
