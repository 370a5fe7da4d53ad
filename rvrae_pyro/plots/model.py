"""Pictures of what a model learned: factors, characteristics, and its hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvrae_pyro.displays import NEGLIGIBLE, share_text
from rvrae_pyro.errors import ConfigError, check_choice, check_count
from rvrae_pyro.names import ASSET, CHAIN, CHARACTERISTIC, DRAW, FACTOR, FACTORS, SAMPLE_DIMS, TIME
from rvrae_pyro.plots.plot_sources import described, factor_draws, group_of, period_of, wrong
from rvrae_pyro.plots.style import (
    BAND,
    Style,
    Theme,
    canvas,
    date_axis,
    dress,
    legend,
    mark_dates,
    note,
)

_FEW: Final = 100
"""Draws below which a density is drawn as its empirical distribution function."""
_MOST_PANELS: Final = 12
_SMALL: Final = 0.005
"""Share of the common variation below which a principal factor is not drawn."""
_TITLES: Final = {
    "filtered": "given returns to the month",
    "predicted": "given returns to the month before",
    "smoothed": "given all returns",
}


def factors(
    source: object,
    panel: xr.Dataset | None = None,
    *,
    kind: Literal["filtered", "smoothed", "predicted"] = "filtered",
    principal: bool | None = None,
    marks: Mapping[str, Any] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    style: Style | None = None,
) -> Figure | Axes:
    """Draw the paths of the factors with 90 % bands.

    Parameters
    ----------
    source : Filtered, Fit, Ensemble, Dataset or DataTree
        A filtered panel, a fit, the result of ``fit.factors``, or a posterior tree.
    panel : Dataset, optional
        Panel to filter, where ``source`` is a fit.
    kind : {"filtered", "smoothed", "predicted"}
        Information set, where ``source`` is a filtered panel or a fit.
    principal : bool, optional
        Turn the factors to their principal axes and scale them to their root mean square effect
        on the assets' returns. Default: where loadings are known.
    marks : mapping from name to date, optional
        Vertical lines, such as the beginning of the test months.
    ax : Axes or sequence of Axes, optional
        One per factor, or a single one for all of them. Default: a new pyplot figure, without
        principal factors that carry less than 0.5 % of the common variation.
    style : {"light", "dark"}, optional
        Default: the settings of matplotlib.

    Returns
    -------
    Figure or Axes
        A figure with one panel per factor; Axes where ``ax`` is a single one. Principal factors
        are in % per month, others in the model's own units.

    Raises
    ------
    ConfigError
        If ``source`` holds no factors, or ``principal`` needs loadings that it lacks.

    Notes
    -----
    Factors are identified up to a linear map; their principal axes are unique up to sign.
    """
    check_choice("kind", kind, _TITLES)
    found, beta, attrs = factor_draws(source, panel, kind)
    if CHAIN in getattr(beta, "dims", ()):
        assert beta is not None  # as it has dims
        beta = beta.mean(CHAIN)
    if principal is None:
        principal = beta is not None and FACTORS in found
    if principal:
        if beta is None or FACTORS not in found:
            raise ConfigError(
                "`principal` needs draws of the factors and loadings, got "
                f"{described(source)}. Pass fit.filter(panel), or principal=False."
            )
        shown = principal_factors(beta, found[FACTORS])
    else:
        shown = _bands(found)
    period = period_of(getattr(source, "panel", None), panel, shown)
    scaled = "share" in shown
    unit, scale = (f"% per {period}", 100.0) if scaled else ("factor units", 1.0)
    what = _TITLES.get(str(attrs.get("kind", kind)), "posterior")
    small: list[str] = []
    if scaled and (ax is None or isinstance(ax, Axes)):
        drawn = shown["share"].values >= _SMALL
        drawn[0] = True
        small = [str(label) for label in shown[FACTOR].values[~drawn]]
        shown = shown.isel({FACTOR: np.flatnonzero(drawn)})
    count = shown.sizes[FACTOR]
    single = isinstance(ax, Axes) or count == 1
    on = canvas(
        ax,
        style,
        1 if single else count,
        size=(9.0, 1.1 + 1.35 * count if count > 1 else 3.4),
        remedy="A single Axes shows all factors.",
        **({} if single else {"sharex": True}),
    )
    times = shown[TIME].values
    for k in range(count):
        axes = on.axes[0 if single else k]
        colour = on.theme.colour(k if single else 0)
        one = shown.isel({FACTOR: k})
        low, high = scale * one["low"].values, scale * one["high"].values
        name = f"{'principal factor' if scaled else 'factor'} {one[FACTOR].item()}"
        axes.fill_between(times, low, high, color=colour, alpha=BAND, linewidth=0)
        axes.plot(times, scale * one["mean"].values, color=colour, linewidth=1.1, label=name)
        if single and k < count - 1:
            continue
        axes.axhline(0.0, color=on.theme.muted, linewidth=0.7)
        title = f"Factors {what}: mean and 90 % band"
        if not single:
            title = name.capitalize()
            if scaled:
                title += f": {100 * float(one['share']):.1f} % of the common variation"
        last = single or k == count - 1
        dress(axes, on.theme, title, period if last else "", unit)
        date_axis(axes, times)
        if marks:
            mark_dates(axes, on.theme, dict(marks), named=single or k == 0)
        if single and count > 1:
            legend(axes, on.theme)
    if not single:
        left_out = ""
        if small:
            plural = "s" if len(small) > 1 else ""
            left_out = f" Not drawn, below {100 * _SMALL:g} %: factor{plural} {', '.join(small)}."
        note(on, f"Mean and 90 % band {what}.{left_out}")
    return on.result


def principal_factors(beta: xr.DataArray, factors: xr.DataArray) -> xr.Dataset:
    r"""Turn factors to their principal axes, in units of return.

    Factors are identified up to a linear map. With :math:`M` the mean of :math:`\beta \beta'` over
    listed cells, :math:`g = M^{1/2} f` has :math:`|g|^2 = \mathrm{mean}_i (\beta_i' f)^2`; the axes
    are those of the second moments of the posterior means of :math:`g`, largest first, with
    loadings that are positive on average. Takes loadings (time, asset, factor), NaN where not
    listed, and draws (chain, draw, time, factor).

    Returns
    -------
    Dataset
        ``mean``, ``low`` and ``high`` (5 % and 95 %) (time, factor): the root mean square effect
        on the assets' returns, decimal; ``share`` (factor) of the common variation.
    """
    loads = beta.transpose(TIME, ASSET, FACTOR).values.reshape(-1, beta.sizes[FACTOR])
    loads = loads[~np.isnan(loads).any(axis=1)]
    values, vectors = np.linalg.eigh(loads.T @ loads / len(loads))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = factors.transpose(CHAIN, DRAW, TIME, FACTOR).values
    scaled = draws.reshape(-1, *draws.shape[2:]) @ root
    mean = scaled.mean(axis=0)
    power, axes = np.linalg.eigh(mean.T @ mean / len(mean))
    power, axes = np.maximum(power[::-1], 0.0), axes[:, ::-1]
    # mean loadings on the new axes
    axes = axes * np.where((loads.mean(axis=0) @ np.linalg.pinv(root.T)) @ axes < 0, -1.0, 1.0)
    turned = scaled @ axes
    low, high = np.quantile(turned, (0.05, 0.95), axis=0)
    over = (TIME, FACTOR)
    return xr.Dataset(
        {
            "mean": (over, turned.mean(axis=0)),
            "low": (over, low),
            "high": (over, high),
            "share": (FACTOR, power / power.sum()),
        },
        coords={TIME: factors[TIME].values, FACTOR: factors[FACTOR].values},
    )


def _bands(found: xr.Dataset) -> xr.Dataset:
    """Means and 90 % bands (time, factor) of factors in the model's own units."""
    if FACTORS in found and set(SAMPLE_DIMS) <= set(found[FACTORS].dims):
        draws = found[FACTORS]
        over = list(SAMPLE_DIMS)
        low, high = (draws.quantile(q, over).drop_vars("quantile") for q in (0.05, 0.95))
        bands = {"mean": draws.mean(over), "low": low, "high": high}
    elif {"mean", "low", "high"} <= set(found.data_vars):
        return found
    elif {"mean", "sd"} <= set(found.data_vars):
        mean, sd = found["mean"], found["sd"]
        bands = {"mean": mean, "low": mean - 1.645 * sd, "high": mean + 1.645 * sd}
    else:
        raise wrong(
            "source", "factors (chain, draw, time, factor), or `mean` and `sd`", found,
            "Pass fit.factors(panel).",
        )  # fmt: skip
    missing = {TIME, FACTOR} - set(bands["mean"].dims)
    if missing:
        raise wrong("source", f"factors with dims time and factor (lacks {sorted(missing)})",
                    bands["mean"], "Pass fit.factors(panel).")  # fmt: skip
    return xr.Dataset(bands)


def relevance(
    source: object,
    panel: xr.Dataset | None = None,
    *,
    variable: Literal["share", "relevance", "idio_relevance", "alpha_relevance"] = "share",
    max_characteristics: int = 15,
    ax: Axes | None = None,
    style: Style | None = None,
) -> Axes:
    """Draw how far each characteristic moves the loadings, the most relevant at the top.

    Parameters
    ----------
    source : DataTree, Fit or Ensemble
        The result of ``fit.relevance``, or a fit.
    panel : Dataset, optional
        Where the slopes are taken, if ``source`` is a fit. Default: ranks uniform on [-1, 1].
    variable : {"share", "relevance", "idio_relevance", "alpha_relevance"}
        Default: the share in the sum of squared slopes, in %.
    max_characteristics : int
        Default: 15.
    ax, style : optional
        Axes (default: of a new pyplot figure); "light" or "dark" (default: matplotlib's settings).

    Returns
    -------
    Axes
        Dots are means; lines are 90 % intervals where weights have a posterior (20 draws or
        more). The members of an ensemble with fixed weights are small dots. The title states the
        share of the common variance that all characteristics move together.

    Raises
    ------
    ConfigError
        If ``source`` holds no relevance, or not this variable.
    """
    check_count("max_characteristics", max_characteristics)
    tree = source
    if not isinstance(source, xr.DataTree) and callable(getattr(source, "relevance", None)):
        tree = source.relevance(panel)  # type: ignore[attr-defined]
    posterior = group_of(tree, "posterior")
    if posterior is None or "relevance" not in posterior:
        raise wrong("source", "a fit or the result of fit.relevance", source,
                    "Pass fit.relevance().")  # fmt: skip
    check_choice("variable", variable, posterior.data_vars)
    values = posterior[variable].transpose(CHAIN, DRAW, CHARACTERISTIC)
    scale, unit = (100.0, "share of the squared slopes of the loadings, %")
    if variable != "share":
        scale = 1.0
        unit = {
            "relevance": "root mean square slope of the loadings, per unit of characteristic",
            "idio_relevance": "slope of the log idiosyncratic scale, per unit of characteristic",
            "alpha_relevance": "slope of alpha, return per unit of characteristic",
        }[variable]
    draws = scale * values.values.reshape(-1, values.sizes[CHARACTERISTIC])
    mean = draws.mean(axis=0)
    order = np.argsort(mean, kind="stable")[-max_characteristics:]
    names = values[CHARACTERISTIC].values.astype(str)
    on = canvas(ax, style, size=(7.0, 1.3 + 0.23 * len(order)))
    axes, theme = on.axes[0], on.theme
    rows = np.arange(len(order))
    main = theme.colour(0)
    spread = bool((np.ptp(draws[:, order], axis=0) > 1e-6 * np.abs(mean[order])).any())
    if spread and len(draws) >= 20:
        low, high = np.quantile(draws[:, order], (0.05, 0.95), axis=0)
        axes.hlines(rows, low, high, color=main, linewidth=2.4, label="90 % interval")
    elif spread:
        axes.plot(draws[:, order].T, rows, "o", color=main, alpha=0.35, ms=4)
        axes.plot([], [], "o", color=main, alpha=0.35, ms=4, label="members")
    axes.plot(mean[order], rows, "o", color=main, mec=theme.background, ms=6.5, label="mean")
    axes.set_yticks(rows, names[order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlim(-0.015 * axes.get_xlim()[1], None)
    total = len(mean)
    few = f", {len(order)} of {total}" if len(order) < total else ""
    title = f"Relevance of characteristics{few}"
    if variable in ("share", "relevance") and "common_share" in posterior:
        moved = float(posterior["common_share"].mean())
        title += f"\nTogether they move {share_text(moved)} of the common variance"
        if moved < NEGLIGIBLE:
            title = (
                f"No characteristic moves the loadings ({share_text(moved)} of the common variance)"
            )
    dress(axes, theme, title, unit, "characteristic", grid="x")
    if spread:
        legend(axes, theme)
    return axes


def prior_posterior(
    source: object,
    *,
    var_names: Sequence[str] | str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    style: Style | None = None,
) -> Figure | Axes:
    """Draw the prior and the posterior of every hyperparameter.

    Parameters
    ----------
    source : DataTree, Fit or Ensemble
        With groups ``prior`` and ``posterior``, as ``fit.posterior()`` returns; variables have
        the dims ``chain`` and ``draw`` and any others. Or a fit.
    var_names : str or sequence of str, optional
        Variables. Default: all that both groups have.
    ax : Axes or sequence of Axes, optional
        One per component. Default: a new pyplot figure.
    style : {"light", "dark"}, optional
        Default: the settings of matplotlib.

    Returns
    -------
    Figure or Axes
        One panel per component, at most 12 in a new figure; Axes where there is one. Densities,
        or where a group has fewer than 100 draws, empirical distribution functions.

    Raises
    ------
    ConfigError
        If a group is missing, a variable is not in both, or ``ax`` has another number of Axes.

    Examples
    --------
    >>> import numpy as np, rvrae_pyro as rv, xarray as xr
    >>> random = np.random.default_rng(0)
    >>> groups = {
    ...     name: xr.Dataset({"persistence": (("chain", "draw"), random.beta(*ab, (1, 500)))})
    ...     for name, ab in {"prior": (2, 2), "posterior": (20, 4)}.items()
    ... }
    >>> rv.plots.prior_posterior(xr.DataTree.from_dict(groups)).get_xlabel()
    'persistence'
    """
    if not isinstance(source, xr.DataTree) and callable(getattr(source, "posterior", None)):
        source = source.posterior()  # type: ignore[attr-defined]
    prior, posterior = group_of(source, "prior"), group_of(source, "posterior")
    if prior is None or posterior is None:
        raise wrong("source", "a DataTree with groups `prior` and `posterior`", source,
                    "Pass fit.posterior().")  # fmt: skip
    both = [str(name) for name in posterior.data_vars if name in prior]
    names = both if var_names is None else ([var_names] if isinstance(var_names, str)
                                            else list(var_names))  # fmt: skip
    unknown = [name for name in names if name not in both]
    if unknown or not names:
        raise ConfigError(
            f"`var_names` must be among the variables of both groups, {both}; got {unknown}. "
            "A model whose hyperparameters have no prior has none."
        )
    parts = [part for name in names for part in _components(prior, posterior, name)]
    if ax is None and len(parts) > _MOST_PANELS:
        parts = parts[:_MOST_PANELS]
    columns = min(3, len(parts))
    rows = -(-len(parts) // columns)
    on = canvas(
        ax, style, len(parts), columns=columns, size=(3.4 * columns + 0.6, 2.5 * rows + 0.3),
        remedy="Choose with `var_names`.",
    )  # fmt: skip
    for axes, (label, before, after) in zip(on.axes, parts, strict=True):
        _draw_pair(axes, on.theme, label, before, after)
    legend(on.axes[0], on.theme)  # one explains the colours of all
    return on.result


_WORDS: Final = {"df": "degrees of freedom", "excess_df": "degrees of freedom above 2"}


def _readable(name: str, where: Sequence[str]) -> str:
    """Write a parameter's name in words: ``factor_prior.scale[2]`` is "scale 2 (factor prior)"."""
    *parts, last = name.split(".")
    label = " ".join([_WORDS.get(last, last.replace("_", " ")), ", ".join(where)]).strip()
    owner = ", ".join(part.replace("_", " ") for part in parts)
    return f"{label} ({owner})" if owner else label


def _components(
    prior: xr.Dataset, posterior: xr.Dataset, name: str
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Draws of every scalar component, with its label."""
    before, after = (group[name].transpose(*SAMPLE_DIMS, ...) for group in (prior, posterior))
    rest = after.dims[2:]
    if before.dims[2:] != rest or before.shape[2:] != after.shape[2:]:
        raise ConfigError(
            f"`source` must have {name!r} with the same dims in both groups, got {before.dims} "
            f"{before.shape} and {after.dims} {after.shape}."
        )
    found = []
    for place in np.ndindex(*after.shape[2:]):
        at = [str(after[dim].values[i]) for dim, i in zip(rest, place, strict=True)]
        label = _readable(name, at)
        draws = [each.values[(slice(None), slice(None), *place)].ravel()
                 for each in (before, after)]  # fmt: skip
        finite = [each[np.isfinite(each)] for each in draws]
        found.append((label, finite[0], finite[1]))
    return found


def _draw_pair(axes: Axes, theme: Theme, label: str, before: np.ndarray, after: np.ndarray) -> None:
    if not before.size or not after.size:
        raise ConfigError(f"`source` must have finite draws of {label}; got none in a group.")
    low = min(after.min(), np.quantile(before, 0.02))
    high = max(after.max(), np.quantile(before, 0.98))
    support = min(before.min(), after.min()), max(before.max(), after.max())
    few = min(before.size, after.size) < _FEW
    for draws, colour, text in (
        (before, theme.muted, "prior"),
        (after, theme.colour(0), "posterior"),
    ):
        if few or np.ptp(draws) == 0:
            x = np.sort(draws)
            axes.step(x, np.arange(1, x.size + 1) / x.size, where="post", color=colour,
                      linewidth=1.8, label=text)  # fmt: skip
            continue
        x, height = _density(draws, support)
        if draws is after:
            low, high = min(low, x[0]), max(high, x[-1])
        axes.plot(x, height, color=colour, linewidth=1.8, label=text)
        axes.fill_between(x, height, color=colour, alpha=0.18, linewidth=0)
    axes.set_ylim(0.0, None)
    if high > low:
        axes.set_xlim(low, high)
    dress(axes, theme, "", label, "cumulative probability" if few else "density")
    axes.locator_params(axis="x", nbins=5)


def _density(draws: np.ndarray, support: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Kernel density on a grid that reaches as far as it is above zero, inside the support.

    The outer 0.1 % of very long tails are left out.
    """
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    low, first, third, high = np.quantile(draws, (0.001, 0.25, 0.75, 0.999))
    reach = 10.0 * (third - first)
    low = draws.min() if draws.min() > first - reach else low
    high = draws.max() if draws.max() < third + reach else high
    inner = draws[(draws >= low) & (draws <= high)]
    room = 0.4 * (high - low)
    ends = max(low - room, support[0]), min(high + room, support[1])
    x, height, _ = array_stats.kde(inner, custom_lims=ends)  # type: ignore[no-untyped-call]
    x, height = np.asarray(x), np.asarray(height)
    above = np.flatnonzero(height > 1e-3 * height.max())
    shown = slice(max(above[0] - 1, 0), above[-1] + 2)
    return x[shown], height[shown]
