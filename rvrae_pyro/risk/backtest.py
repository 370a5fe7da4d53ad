"""Backtests of risk forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rvrae_pyro.data.rounding import rounding
from rvrae_pyro.data.timeline import in_time_order, labels_like
from rvrae_pyro.errors import ConfigError, ShapeError, check_count, check_number, warn_user
from rvrae_pyro.names import ASSET, RETURNS, TIME
from rvrae_pyro.predictive.storage import tree_of
from rvrae_pyro.risk.coverage_tests import (
    BINS,
    bootstrap_counts,
    christoffersen,
    clustered,
    holm,
    kupiec,
    kupiec_power,
    months_needed,
    pit_band,
    pit_test,
)
from rvrae_pyro.risk.draws import Array, Forecast, check_tails, read_forecast
from rvrae_pyro.risk.portfolio_weights import PORTFOLIO, Weights, first, read_weights
from rvrae_pyro.risk.tail_scores import Scores, TailScorer

_LEVEL: Final = 0.05
_HOLM: Final = {"kupiec_p_exact": "kupiec", "conditional_p": "christoffersen", "z2_p": "z2"}


def backtest(
    tree: xr.DataTree,
    returns: xr.DataArray | xr.Dataset,
    portfolios: Mapping[str, Weights] | None = None,
    tail: float | tuple[float, ...] = (0.05, 0.01),
    *,
    num_simulations: int = 1000,
    block: float | None = None,
    max_missing: float = 0.1,
    seed: int = 0,
) -> xr.DataTree:
    """Test forecast VaR, ES and distributions by asset, by portfolio and pooled.

    Parameters
    ----------
    tree : DataTree
        A forecast; see :func:`summarize`.
    returns : DataArray (time, asset), or a panel
        Realised excess returns of the forecast's months and assets, NaN where not observed;
        months in any order and dated by any of their days.
    portfolios : mapping from name to weights, optional
        Each as :func:`portfolio` takes it, for all months or some. Default: one with equal
        weights on all assets that have a forecast.
    tail : float or sequence of float
        Tail probabilities, each in (0, 1).
    num_simulations : int
        Simulated histories behind each null, and bootstrap samples behind each band.
    block : float, optional
        Mean block of the stationary bootstrap in months. Default: the cube root of their number.
    max_missing : float
        A portfolio's month does not count if more than this share of its gross weight has no
        return; else weights without a return are set to 0 in both forecast and outcome.
    seed : int

    Returns
    -------
    DataTree
        Groups ``asset`` and ``portfolio``, by tail and asset or portfolio:
        ``n_months``, ``exceptions``, ``rate``; ``kupiec``, ``kupiec_p``, ``kupiec_p_exact``;
        ``independence``, ``independence_p``, ``conditional``, ``conditional_p``
        (Christoffersen); ``z2``, ``z2_p`` (Acerbi and Szekely, one-sided: risk understated);
        ``kupiec_p_exact_holm``, ``conditional_p_holm``, ``z2_p_holm``, each adjusted over the
        group; ``quantile_score``, ``fz0`` (means, lower is better); ``power`` against a doubled
        rate of exceptions; ``verdict``. By asset or portfolio alone: ``pit_distance`` from
        uniform, ``pit_p``. By month too: ``var``, ``es``, ``hit``, ``pit``, ``realised``.

        Group ``pooled``, by tail, all assets together: ``n_cells``, ``n_months``, ``rate``,
        ``rate_se``, ``rate_p`` (clustered by month), ``rate_p_simulated``, and the true size of
        both at a nominal 5 %, ``rate_p_size`` and ``rate_p_simulated_size``; ``power``; ``z2``,
        ``z2_p``,
        ``quantile_score``, ``fz0`` and their ``_se``, ``verdict``; ``pit_share``, ``pit_lower``,
        ``pit_upper`` (bin), a 95 % band, ``pit_distance``, ``pit_p``. ``portfolio`` has these
        histograms too. Attribute ``conclusion`` is a summary in words.

    Raises
    ------
    ShapeError
        If the tree is no forecast, returns or weights lack its months or assets, or nothing was
        observed.
    ConfigError
        If a setting is out of range, a weight is NaN, or a tail holds no draw.

    Warns
    -----
    RvraeWarning
        If fewer than 10 draws are expected in a tail, or an ES is not positive.

    Notes
    -----
    Information set: forecasts know months to t-1, returns are month t's; weights must be known at
    t-1, which this cannot check.

    An exception is a loss strictly larger than VaR, so that cash, whose VaR and loss are 0, has
    none. Where draws tie with VaR, tests of the rate are against the forecast's own probability
    of a larger loss; where that is 0, a single exception rejects. Where an ES is not positive,
    the ratio ``z2`` is NaN, ``z2_p`` tests the sum of return and ES over the exceptions in return
    units, and the pooled ``z2`` and the means of ``fz0`` leave these cells out. In ``pit`` a
    return that ties with draws has a random place among them.

    A verdict is "rejected" if one of the three adjusted tests is below 5 %, naming it; "too few
    months to tell" if none is and there are fewer months than ``months_needed``; else "not
    rejected". Each test is held to 5 % by itself. Power is that of Kupiec's exact test at the
    level of the first rejection under Holm's adjustment over m series, 5 % / m: one half takes 137
    months at a tail of 5 % and 684 at 1 % for one portfolio, and 227 and 1134 for each of ten. The
    pooled verdict rests on ``rate_p_simulated`` and ``z2_p``; its power is simulated.

    ``rate_p`` is a t-test with months as clusters, which rejects right forecasts too often where
    few months hold most exceptions; ``rate_p_size`` is its true size here. ``rate_p_simulated``
    has at most its nominal size. The null of ``z2`` and of the pooled rate takes one forecast draw
    per month as the truth, the same for all assets, so that it also tests the dependence between
    assets that the forecast claims. PIT bands resample blocks of months; with some 36 months the
    PIT test rejects right forecasts about twice as often as it should (NaN below 10). Cost
    O(T S N) and ``num_simulations * T * N``.

    References
    ----------
    Kupiec (1995); Christoffersen (1998); Acerbi and Szekely (2014); Patton, Ziegel and Chen
    (2019); Politis and Romano (1994); see :mod:`rvrae_pyro.risk.coverage_tests`.
    """
    forecast = read_forecast(tree)
    tails = check_tails(tail, forecast.n_draws)
    check_count("num_simulations", num_simulations, 100)
    if block is not None:
        check_number("block", block, "[1, inf)", "It counts months.")
    check_number("max_missing", max_missing, "[0, 1)")
    observed = _observed(returns)
    realised = _align(observed, forecast)
    holdings = _stack(portfolios, forecast)
    rng = np.random.default_rng(seed)
    n_times = forecast.returns.sizes[TIME]
    picks = rng.integers(forecast.n_draws, size=(n_times, num_simulations))
    relative = rounding(forecast.returns, observed)
    assets = TailScorer(realised.shape, tails, picks, relative)
    held = TailScorer((n_times, holdings.sizes[PORTFOLIO]), tails, picks, relative)
    outcomes = np.full((n_times, holdings.sizes[PORTFOLIO]), np.nan)
    for t in range(n_times):
        draws = forecast.month(t)
        assets.add(t, draws, realised[t])
        own, outcomes[t], gross = _hold(draws, realised[t], holdings.values[t], max_missing)
        held.add(t, own, outcomes[t], gross)
    counts = bootstrap_counts(realised, block, num_simulations, rng)
    names: dict[str, NDArray[Any]]
    names = {ASSET: forecast.returns[ASSET].values, PORTFOLIO: holdings[PORTFOLIO].values}
    times = forecast.returns[TIME].values
    unscaled = _unscaled(forecast, realised, holdings, max_missing, (assets, held))
    groups = {
        dim: _group(scorer.scores(), seen, tails, times, (dim, names[dim]), counts, replaced)
        for (dim, scorer, seen), replaced in zip(
            ((ASSET, assets, realised), (PORTFOLIO, held, outcomes)), unscaled, strict=True
        )
    }
    groups["pooled"] = _pooled(assets.scores(), tails, counts)
    groups[PORTFOLIO] = groups[PORTFOLIO].merge(_histograms(held.pit, counts, names[PORTFOLIO]))
    for dim, replaced in zip((ASSET, PORTFOLIO), unscaled, strict=True):
        _warn_of_gains(dim, names[dim][list(replaced)])
    return tree_of(groups, {**tree.attrs, "conclusion": _conclude(groups, tails)})


def _unscaled(
    forecast: Forecast,
    realised: Array,
    holdings: xr.DataArray,
    most: float,
    scorers: tuple[TailScorer, TailScorer],
) -> tuple[dict[int, Array], dict[int, Array]]:
    """P-values (tail,) of the sum of return and ES over exceptions, by position of the column.

    Of columns whose ES is not positive in a month, for which the draws are read a second time.
    """
    positions = tuple(_without_ratio(scorer) for scorer in scorers)
    if not any(len(each) for each in positions):
        return {}, {}
    again = tuple(
        TailScorer(
            (len(realised), len(each)), scorer.tails, scorer.picks, scorer.rounding, ratios=False
        )
        for scorer, each in zip(scorers, positions, strict=True)
    )
    for t in range(len(realised)):
        draws = forecast.month(t)
        own, outcome, gross = _hold(draws, realised[t], holdings.values[t], most)
        again[0].add(t, draws[:, positions[0]], realised[t, positions[0]])
        again[1].add(t, own[:, positions[1]], outcome[positions[1]], gross[positions[1]])
    each_p = []
    for scorer, chosen in zip(again, positions, strict=True):
        total = np.nansum(scorer.cells["shortfall"], axis=1)[:, None]
        worse = (scorer.null <= total + 1e-12 * np.abs(total)).sum(axis=1)
        p_value = (1.0 + worse) / (1.0 + scorer.null.shape[1])
        each_p.append({int(i): p_value[:, j] for j, i in enumerate(chosen)})
    return each_p[0], each_p[1]


def _without_ratio(scorer: TailScorer) -> NDArray[np.intp]:
    """Columns with a month whose ES is a gain or nothing."""
    missing = ~np.isnan(scorer.cells["hit"]) & np.isnan(scorer.cells["shortfall"])
    return np.flatnonzero(missing.any(axis=(0, 1)))


def _warn_of_gains(dim: str, labels: NDArray[Any]) -> None:
    if not len(labels):
        return
    warn_user(
        f"ES is not positive in some months of {dim} {first(labels)}: a ratio to it has no "
        "meaning, so z2 is NaN there, z2_p compares losses beyond VaR with ES in return units, "
        "and pooled figures leave those cells out."
    )


def _observed(returns: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """Return the returns of a panel, or returns as they are, with their dims checked."""
    if isinstance(returns, xr.Dataset):
        if RETURNS not in returns:
            raise ShapeError("`returns` as a panel must have a variable 'returns'.")
        returns = returns[RETURNS]
    if not isinstance(returns, xr.DataArray) or set(returns.dims) != {TIME, ASSET}:
        raise ShapeError(
            "`returns` must be a DataArray with dims ('time', 'asset'), or a panel; got "
            f"{getattr(returns, 'dims', type(returns).__name__)}."
        )
    return returns


def _align(returns: xr.DataArray, forecast: Forecast) -> Array:
    """Give realised returns of the forecast's months and assets, in its order."""
    returns = in_time_order(returns, "returns")
    if TIME in returns.indexes:
        months = labels_like(
            returns.indexes[TIME], forecast.returns.indexes[TIME], "returns", "tree"
        )
        returns = returns.assign_coords({TIME: months.to_numpy()})
    for dim in (TIME, ASSET):
        lacking = forecast.returns.indexes[dim].difference(returns.indexes[dim])
        if lacking.size:
            raise ShapeError(
                f"`returns` must have every {dim} of the forecast; it lacks "
                f"{first(lacking.to_numpy())}. Select what both have, or pass NaN."
            )
    like = {dim: forecast.returns[dim].values for dim in (TIME, ASSET)}
    values: Array = returns.sel(like).transpose(TIME, ASSET).values.astype(np.float64)
    if not (np.isfinite(values) & forecast.listed.values).any():
        raise ShapeError("`returns` must hold a return of an asset with a forecast; it has none.")
    return values


def _stack(portfolios: Mapping[str, Weights] | None, forecast: Forecast) -> xr.DataArray:
    """Stack weights (time, asset, portfolio); NaN in months that a portfolio does not have."""
    listed = forecast.listed
    if portfolios is None:
        total = listed.sum(ASSET)
        portfolios = {"equal weight": (listed / total.where(total > 0)).fillna(0.0)}
    if not portfolios:
        raise ConfigError("`portfolios` must name at least one; got an empty mapping.")
    holdings = []
    for name, weights in portfolios.items():
        held = read_weights(weights, listed, f"portfolios[{name!r}]")
        if held.sizes[PORTFOLIO] > 1:
            raise ShapeError(f"`portfolios[{name!r}]` must be one portfolio; select one.")
        holdings.append(held.isel({PORTFOLIO: 0}, drop=True).reindex({TIME: listed[TIME].values}))
    values = np.stack([each.values for each in holdings], axis=-1)
    coords = {TIME: listed[TIME].values, ASSET: listed[ASSET].values, PORTFOLIO: list(portfolios)}
    return xr.DataArray(values, coords, (TIME, ASSET, PORTFOLIO))


def _hold(draws: Array, realised: Array, weights: Array, most: float) -> tuple[Array, Array, Array]:
    """Draws and outcome of every portfolio on its observed assets, and gross size of the sums."""
    seen = ~(np.isnan(realised) | np.isnan(draws[0]))
    gross = np.abs(weights).sum(axis=0)
    lost = np.abs(weights[~seen]).sum(axis=0)
    outcome = realised[seen] @ weights[seen]
    outcome[~((gross > 0) & (lost <= most * gross))] = np.nan
    largest = np.abs(draws[:, seen]).max(axis=0)
    return draws[:, seen] @ weights[seen], outcome, largest @ np.abs(weights[seen])


def _group(
    scores: Scores,
    realised: Array,
    tails: tuple[float, ...],
    times: NDArray[np.datetime64],
    columns: tuple[str, Array],
    counts: Array,
    unscaled: Mapping[int, Array],
) -> xr.Dataset:
    """Test every column by tail and its PIT; keep its cells."""
    dim, labels = columns
    over, cells = ("tail", dim), ("tail", TIME, dim)
    n_months = (~np.isnan(scores.hit[0])).sum(axis=0)
    table: dict[str, Array] = {}
    for k, tail in enumerate(tails):
        for i in range(len(labels)):
            for name, value in _column_tests(scores, k, i, tail).items():
                table.setdefault(name, np.full((len(tails), len(labels)), np.nan))[k, i] = value
    for i, p_values in unscaled.items():
        never = np.nanmax(scores.expected[:, :, i], axis=1) == 0.0
        table["z2_p"][:, i] = np.where(never, np.nan, p_values)
    # Level of the first rejection under Holm's adjustment, by tail.
    levels = _LEVEL / np.maximum(1, (~np.isnan(table["kupiec_p_exact"])).sum(axis=1))
    table["power"], table["months_needed"] = _power(scores, levels)
    for name in _HOLM:
        table[f"{name}_holm"] = np.stack([holm(row) for row in table[name]])
    pits = [pit_test(scores.pit[:, [i]], counts) for i in range(len(labels))]
    verdicts = [
        [
            _verdict(
                {n: table[f"{n}_holm"][k, i] for n in _HOLM},
                enough=n_months[i] >= table["months_needed"][k, i],
            )
            for i in range(len(labels))
        ]
        for k in range(len(tails))
    ]
    group = xr.Dataset(
        {
            "n_months": (dim, n_months),
            **{name: (over, values) for name, values in table.items()},
            "verdict": (over, np.array(verdicts)),
            "pit_distance": (dim, [each[0] for each in pits]),
            "pit_p": (dim, [each[1] for each in pits]),
            **{name: (cells, getattr(scores, name)) for name in ("var", "es", "hit")},
            "pit": ((TIME, dim), scores.pit),
            "realised": ((TIME, dim), realised),
        },
        {"tail": list(tails), TIME: times, dim: labels},
    )
    group["power"].attrs["long_name"] = (
        "probability that Kupiec's exact test detects a doubled rate of exceptions, under Holm"
    )
    group["months_needed"].attrs["long_name"] = "months from which on the power is at least 0.5"
    group.attrs["adjustment"] = f"Holm over {len(labels)} of {dim}, each test and tail by itself"
    return group


def _column_tests(scores: Scores, k: int, i: int, tail: float) -> dict[str, float]:
    """All tests of one column at one tail."""
    hits = scores.hit[k, :, i]
    known = ~np.isnan(hits)
    size, exceptions = int(known.sum()), int(np.nansum(hits))
    if not size:
        return {"exceptions": 0.0, "kupiec_p_exact": np.nan,
                "conditional_p": np.nan, "z2_p": np.nan}  # fmt: skip
    chance = float(scores.expected[k, known, i].mean())
    if chance == 0.0:
        return _never(exceptions, size)
    coverage, alone = kupiec(exceptions, size, chance), christoffersen(hits, chance)
    z2, z2_p = _z2(float(scores.shortfall[k, known, i].sum()), scores.null_shortfall[k, :, i],
                   size, tail)  # fmt: skip
    return {
        "exceptions": exceptions,
        "rate": exceptions / size,
        "kupiec": coverage.statistic,
        "kupiec_p": coverage.p_value,
        "kupiec_p_exact": coverage.p_exact,
        "independence": alone.independence.statistic,
        "independence_p": alone.independence.p_value,
        "conditional": alone.conditional.statistic,
        "conditional_p": alone.conditional.p_value,
        "z2": z2,
        "z2_p": z2_p,
        "quantile_score": float(scores.quantile_score[k, known, i].mean()),
        "fz0": _mean(scores.fz0[k, known, i]),
    }


def _power(scores: Scores, levels: Array) -> tuple[Array, Array]:
    """Power to detect a doubled rate, and months from which on it is one half: (tail, column)."""
    sizes = (~np.isnan(scores.hit[0])).sum(axis=0)
    power = np.where(sizes > 0, 1.0, 0.0) * np.ones((len(levels), 1))
    needed = np.ones_like(power)
    chances = np.nansum(scores.expected, axis=1) / np.maximum(1, sizes)
    for k, level in enumerate(levels):
        # Columns without months need as many as the others of their tail.
        usual = np.nanmax(scores.expected[k]) if sizes.any() else np.nan
        for i, size in enumerate(sizes):
            chance = float(chances[k, i]) if size else float(usual)
            if chance > 0.0:
                power[k, i] = kupiec_power(int(size), chance, min(1.0, 2 * chance), float(level))
                # In steps of a hundredth, so that columns with a few ties share one search.
                needed[k, i] = months_needed(float(f"{chance:.3g}"), 0.5, float(level))
    return power, needed


def _never(exceptions: int, size: int) -> dict[str, float]:
    """Test a column that never loses more than VaR by its forecast, as cash: one loss rejects."""
    p_value = 0.0 if exceptions else np.nan
    return {"exceptions": exceptions, "rate": exceptions / size, "kupiec_p": p_value,
            "kupiec_p_exact": p_value, "conditional_p": np.nan, "z2_p": np.nan}  # fmt: skip


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _z2(total: float, null: Array, size: int, tail: float) -> tuple[float, float]:
    """Acerbi and Szekely's statistic, and the share of simulated histories as bad."""
    if not size or np.isnan(total):
        return float("nan"), float("nan")
    share = (1 + (null <= total + 1e-12).sum()) / (1 + len(null))
    return total / (size * tail) + 1.0, float(share)


def _histograms(pit: Array, counts: Array, labels: Array) -> xr.Dataset:
    bands = np.stack([pit_band(pit[:, [i]], counts) for i in range(len(labels))], axis=-1)
    names = ("pit_share", "pit_lower", "pit_upper")
    return xr.Dataset(
        {name: (("bin", PORTFOLIO), bands[row]) for row, name in enumerate(names)},
        {"bin": (np.arange(BINS) + 0.5) / BINS, PORTFOLIO: labels},
    )


def _pooled(scores: Scores, tails: tuple[float, ...], counts: Array) -> xr.Dataset:
    """All cells together, months as clusters."""
    rows = []
    for k, tail in enumerate(tails):
        hits = scores.hit[k]
        n_cells, n_months = int((~np.isnan(hits)).sum()), int((~np.isnan(hits)).any(axis=1).sum())
        rate, error = clustered(hits)
        null = scores.pooled_null_hits[k]
        simulated = _two_sided(null, np.array([np.nansum(hits)]))[0]
        shortfall = float(np.nansum(scores.shortfall[k]))
        n_ratios = int((~np.isnan(scores.shortfall[k])).sum())
        z2, z2_p = _z2(shortfall, scores.pooled_null_shortfall[k], n_ratios, tail)
        quantile, quantile_error = clustered(scores.quantile_score[k])
        fz0, fz0_error = clustered(scores.fz0[k])
        chance = float(np.nanmean(scores.expected[k]))
        # The test that decides, applied to simulated histories with twice the rate.
        power = float((_two_sided(null, scores.pooled_doubled_hits[k]) < _LEVEL).mean())
        row = {
            "n_cells": n_cells,
            "n_months": n_months,
            "rate": rate,
            "rate_se": error,
            "rate_p": _clustered_p(rate, error, chance, n_months),
            "rate_p_size": _clustered_size(scores, k, chance),
            "rate_p_simulated": simulated,
            "rate_p_simulated_size": float((_two_sided(null, null) < _LEVEL).mean()),
            "z2": z2,
            "z2_p": z2_p,
            "quantile_score": quantile,
            "quantile_score_se": quantile_error,
            "fz0": fz0,
            "fz0_se": fz0_error,
            "power": power,
            "verdict": _verdict({"rate_p_simulated": simulated, "z2_p": z2_p}, enough=power >= 0.5),
        }
        rows.append(row)
    pooled = xr.Dataset(
        {name: ("tail", np.array([row[name] for row in rows])) for name in rows[0]},
        {"tail": list(tails), "bin": (np.arange(BINS) + 0.5) / BINS},
    )
    band = pit_band(scores.pit, counts)
    for name, values in zip(("pit_share", "pit_lower", "pit_upper"), band, strict=True):
        pooled[name] = ("bin", values)
    pooled["pit_distance"], pooled["pit_p"] = pit_test(scores.pit, counts)
    pooled.attrs["standard_error"] = "clustered by month"
    for name in ("rate_p_size", "rate_p_simulated_size"):
        pooled[name].attrs["long_name"] = (
            f"share of histories drawn from the forecast that {name.removesuffix('_size')} "
            f"rejects at {_LEVEL:g}"
        )
    return pooled


def _two_sided(null: Array, totals: Array) -> Array:
    """Two-sided p-values of totals, by the share of simulated ones at least as extreme."""
    ordered = np.sort(null)
    more = 1 + len(null) - np.searchsorted(ordered, totals, side="left")
    fewer = 1 + np.searchsorted(ordered, totals, side="right")
    return np.minimum(1.0, 2.0 * np.minimum(more, fewer) / (1 + len(null)))


def _clustered_p(rate: ArrayLike, error: ArrayLike, chance: float, n_months: int) -> Array:
    """Two-sided p-value of rates by their standard error; NaN where this is 0 or unknown."""
    error = np.asarray(error)
    apart = np.abs(np.asarray(rate) - chance)
    ratio = np.divide(apart, error, out=np.full(error.shape, np.nan), where=error > 0)
    values: Array = 2.0 * stats.t.sf(ratio, max(1, n_months - 1))
    return values


def _clustered_size(scores: Scores, k: int, chance: float) -> float:
    """Share of histories drawn from the forecast whose clustered p-value is below the level."""
    cells = (~np.isnan(scores.hit[k])).sum(axis=1)
    size, n_months = cells.sum(), int((cells > 0).sum())
    if n_months < 2:
        return float("nan")
    rate = scores.pooled_null_hits[k] / size
    squares = (
        scores.pooled_null_squares[k]
        - 2.0 * rate * scores.pooled_null_products[k]
        + rate**2 * (cells**2).sum()
    )
    error = np.sqrt(np.maximum(squares, 0.0) * n_months / (n_months - 1)) / size
    return float((_clustered_p(rate, error, chance, n_months) < _LEVEL).mean())


def _verdict(p_values: Mapping[str, float], *, enough: bool) -> str:
    names = {**_HOLM, "rate_p_simulated": "rate"}
    failed = [names[name] for name, p in p_values.items() if p < _LEVEL]
    if failed:
        return f"rejected ({', '.join(failed)})"
    return "not rejected" if enough else "too few months to tell"


def _conclude(groups: Mapping[str, xr.Dataset], tails: tuple[float, ...]) -> str:
    """Summarise the results in a few sentences."""
    sentences = []
    for tail in tails:
        pooled = groups["pooled"].sel(tail=tail)
        found = groups[PORTFOLIO].sel(tail=tail)
        sentences.append(
            f"VaR at {tail:.3g}: losses exceeded it in {float(pooled['rate']):.2%} of "
            f"{int(pooled['n_cells'])} cells (s.e. {float(pooled['rate_se']):.2%}, "
            f"{int(pooled['n_months'])} months); pooled: {pooled['verdict'].item()}."
        )
        for name in found[PORTFOLIO].values:
            here = found.sel({PORTFOLIO: name})
            verdict = here["verdict"].item()
            months = int(here["n_months"])
            text = f"Portfolio {name}: {int(here['exceptions'])} in {months} months, {verdict}"
            if verdict.startswith("too few"):
                text += (
                    f" (twice as many would be noticed with probability "
                    f"{float(here['power']):.2f}; from {int(here['months_needed'])} months on "
                    "with at least one half)"
                )
            sentences.append(text + ".")
    return " ".join(sentences)
