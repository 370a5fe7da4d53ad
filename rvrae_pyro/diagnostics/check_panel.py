"""Findings that need months to look at: guide, calibration, tails, skill too good to be true."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from rvrae_pyro.diagnostics.check import Finding, Verdict
from rvrae_pyro.names import ASSET, CHAIN, DRAW, TIME

__all__ = ["check_calibration", "check_skill", "check_spread", "check_tails", "check_weights"]

_PROB = 0.9


def check_weights(found: xr.Dataset) -> Finding:
    """Judge the guide's draws by their k-hat.

    Parameters
    ----------
    found : Dataset
        As from ``rv.diagnostics.psis``.
    """
    limit = float(found.attrs["good_khat"])
    khat = found["khat"]
    share = float((khat > limit).mean())
    answer = (
        f"k-hat by month: median {float(khat.median()):.2f}, {100 * share:.0f} % of months above "
        f"{limit:.2f} (whole path {float(found['khat_path']):.2f}: it grows with the months)."
    )
    question = "Can the guide's draws be used as they are?"
    if share <= 0.05:
        return Finding(question, "good", answer)
    return Finding(
        question,
        "look" if share <= 0.25 else "bad",
        f"{answer} Do not read the guide's factor intervals in those months.",
        "kind='filtered' factors, which come from the particle filter; or guide="
        "rv.guides.Conjugate().",
    )


def check_spread(guide: xr.DataArray, exact: xr.DataArray) -> Finding:
    """Judge the width of the guide's posterior against the filter's.

    Parameters
    ----------
    guide, exact : DataArray (time, factor)
        Posterior deviations of the factors under the guide, and under filter or smoother.
    """
    ratio = float((guide / exact.where(exact > 0)).median())
    question = "Is the guide as sure as it should be?"
    answer = f"Its factor deviations are {ratio:.2f} times the filter's."
    if 0.8 <= ratio <= 1.25:
        return Finding(question, "good", answer)
    verdict: Verdict = "look" if 0.6 <= ratio <= 1.67 else "bad"
    much = "sure" if ratio < 1 else "doubtful"
    return Finding(
        question,
        verdict,
        f"{answer} It is too {much}: do not believe intervals or replicates that come from it.",
        "a KL weight that ends at 1, longer training, guide=rv.guides.Conjugate().",
    )


def check_calibration(returns: xr.DataArray, draws: xr.DataArray, n_trained: int = 0) -> Finding:
    """Judge forecasts by the share of returns inside their central 90 % intervals.

    Parameters
    ----------
    returns : DataArray (time, asset)
    draws : DataArray (chain, draw, time, asset)
        One month ahead.
    n_trained : int
        Months among them whose returns the weights have seen.
    """
    ends = draws.quantile([(1 - _PROB) / 2, (1 + _PROB) / 2], (CHAIN, DRAW), skipna=False)
    known = returns.notnull() & ends.notnull().all("quantile")
    inside = (returns >= ends.isel(quantile=0)) & (returns <= ends.isel(quantile=1))
    month = inside.where(known).mean(ASSET).dropna(TIME)
    question = "Are forecasts calibrated, one month ahead?"
    if month.sizes[TIME] < 6:
        answer = f"Not known: {month.sizes[TIME]} months with returns are too few."
        return Finding(question, "look", answer, "pass a panel with a year of months or more.")
    share = float(month.mean())
    error = float(month.std(ddof=1)) / np.sqrt(month.sizes[TIME])
    answer = (
        f"{100 * share:.0f} % of returns fell inside 90 % intervals (s.e. {100 * error:.0f}, "
        f"{month.sizes[TIME]} months{_trained_on(n_trained)})."
    )
    miss = abs(share - _PROB)
    if miss < max(0.04, 2 * error):
        return Finding(question, "good", answer)
    verdict: Verdict = "look" if miss < 0.1 else "bad"
    way = "narrow: losses will be larger than it says" if share < _PROB else "wide"
    return Finding(
        question,
        verdict,
        f"{answer} Forecasts are too {way}.",
        "market context (n_context=), a likelihood with heavier tails, a prior with memory of "
        "volatility.",
    )


def check_tails(check: xr.DataTree) -> Finding:
    """Judge the likelihood by the tails of replicated months.

    Parameters
    ----------
    check : DataTree
        As from ``rv.diagnostics.predictive_check``, in sample.
    """
    made, seen = check["posterior_predictive"].to_dataset(), check["observed_data"].to_dataset()
    question = "Does the likelihood have the right tails?"
    tails = float(seen["tails"].mean()), float(made["tails"].mean())
    curve = float(seen["kurtosis"].mean()), float(made["kurtosis"].mean())
    p_value = min(
        min(float(check["p_value"][name]), 1.0 - float(check["p_value"][name]))
        for name in ("tails", "kurtosis")
    )
    answer = (
        f"Kurtosis across assets {curve[0]:.1f} seen, {curve[1]:.1f} replicated; beyond three "
        f"deviations {100 * tails[0]:.1f} % seen, {100 * tails[1]:.1f} % replicated."
    )
    if p_value > 0.01:
        return Finding(question, "good", answer)
    thin = curve[0] + tails[0] > curve[1] + tails[1]
    remedy = "rv.likelihoods.StudentT()" if thin else "rv.likelihoods.Normal()"
    if abs(curve[0] - curve[1]) <= max(0.5, 0.25 * abs(curve[1])):
        way, size = ("thin", "small") if thin else ("heavy", "large")
        return Finding(
            question,
            "look",
            f"{answer} Its tails are a little {way}: far out, VaR and expected shortfall come out "
            f"somewhat {size}.",
            f"rv.evaluation.compare with a fit that has likelihood={remedy}.",
        )
    return Finding(
        question,
        "bad",
        f"{answer} Its tails are too {'thin' if thin else 'heavy'}: do not believe VaR and "
        "expected shortfall.",
        f"likelihood={remedy}.",
    )


def check_skill(returns: xr.DataArray, forecast: xr.DataArray, n_trained: int = 0) -> Finding:
    """Judge whether forecasts are too good to be true.

    Parameters
    ----------
    returns, forecast : DataArray (time, asset)
        Realised returns and their means one month ahead.
    n_trained : int
        Months among them whose returns the weights have seen.
    """
    known = returns.notnull() & forecast.notnull()
    squared = ((returns - forecast) ** 2).where(known).sum()
    r2 = float(1.0 - squared / (returns**2).where(known).sum())
    ic = _rank_correlation(returns.where(known), forecast.where(known))
    question = "Is the skill believable?"
    answer = (
        f"Predictive R2 {100 * r2:.1f} %, mean rank correlation {ic:.2f} a month "
        f"({returns.sizes[TIME]} months{_trained_on(n_trained)})."
    )
    if r2 < -1.0:
        return Finding(
            question,
            "look",
            f"{answer} Forecasts err far more than a forecast of zero.",
            "a longer training, or a likelihood whose mean exists (a Cauchy has none).",
        )
    if r2 < 0.1 and not ic > 0.2:
        return Finding(question, "good", answer)
    return Finding(
        question,
        "bad" if r2 > 0.2 or ic > 0.35 else "look",
        f"{answer} Real monthly returns allow a percent or two: suspect a characteristic that "
        "knows the month it predicts, and believe no backtest before it is found.",
        "lag=1 in rv.data.from_frame, rv.data.check_panel, dates of publication of every "
        "characteristic.",
    )


def _trained_on(n_trained: int) -> str:
    return f", {n_trained} of them trained on" if n_trained else ""


def _rank_correlation(returns: xr.DataArray, forecast: xr.DataArray) -> float:
    """Mean over months of the rank correlation across assets; 0 where none has one."""
    first, second = (array.transpose(TIME, ASSET).to_numpy() for array in (returns, forecast))
    months = []
    for a, b in zip(first, second, strict=True):
        known = np.isfinite(a) & np.isfinite(b)
        x, y = rankdata(a[known]), rankdata(b[known])
        if known.sum() >= 4 and np.ptp(x) > 0 and np.ptp(y) > 0:
            months.append(np.corrcoef(x, y)[0, 1])
    return float(np.mean(months)) if months else 0.0
