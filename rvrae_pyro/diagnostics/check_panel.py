"""Findings on the months of a panel: guide, calibration, tails, skill too good to be true."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from rvrae_pyro.diagnostics.check import (
    CONTEXT,
    FULL_WEIGHT,
    HEAVY_TAILS,
    LAGGED,
    MEMORY,
    Finding,
    Verdict,
    advise,
)
from rvrae_pyro.names import ASSET, CHAIN, DRAW, TIME

_PROB: Final = 0.9
_RARE: Final = 0.005  # of each of four tails: below 1 replicate of 200
_NEARLY: Final = 0.9  # effective share of draws from which their weights count as equal
_FEW: Final = 20.0  # effective particles below which a month's estimates are not to be used


def check_filter(
    ess: xr.DataArray, num_particles: int, exact: bool = False, used: Collection[str] = ()
) -> Finding:
    """Judge the particle filter by the effective sample size of every month before resampling."""
    question = "Does the particle filter hold?"
    if exact:
        return Finding(question, "good", "The model is exact: no particles are needed.")
    low = ess < _FEW
    order = ess.isel({TIME: np.argsort(ess.to_numpy(), kind="stable")[:3]})
    worst = ", ".join(f"{_size(float(each))} ({str(each[TIME].values)[:10]})" for each in order)
    answer = (
        f"Effective sample size of {num_particles} particles: median {_size(float(ess.median()))}, "
        f"smallest {worst}."
    )
    if not bool(low.any()):
        return Finding(question, "good", answer)
    share, count = float(low.mean()), int(low.sum())
    has, their = ("has", "its") if count == 1 else ("have", "their")
    return Finding(
        question,
        "bad" if share > 0.1 else "look",
        f"{answer} {count} of {ess.sizes[TIME]} months {has} fewer than {_FEW:.0f}: {their} "
        "evidence, filtered factors and the forecasts that follow are rough.",
        advise(
            used,
            ("", "more particles (`num_particles`, `num_samples`)"),
            (
                "prior:CommonVolatility",
                "a level that is latent in its month: "
                "rv.priors.CommonVolatility(rv.priors.Recurrent(K, idio_level=False))",
            ),
        ),
    )


def _size(ess: float) -> str:
    """Write an effective sample size; below 10 with one decimal."""
    return f"{ess:.1f}" if ess < 9.95 else f"{ess:.0f}"


def check_weights(found: xr.Dataset, used: Collection[str] = ()) -> Finding:
    """Judge the guide's draws by their k-hat, as ``rv.diagnostics.psis`` finds it."""
    limit = float(found.attrs["good_khat"])
    khat = found["khat"]
    # weights that are nearly equal have a tail shape too, which no answer depends on
    uneven = found["ess"] < _NEARLY if "ess" in found else xr.ones_like(khat, bool)
    share = float(((khat > limit) & uneven).mean())
    answer = (
        f"k-hat by month: median {float(khat.median()):.2f}; {100 * share:.0f} % of months above "
        f"{limit:.2f} with an effective share of the draws below {100 * _NEARLY:.0f} % (whole path "
        f"{float(found['khat_path']):.2f}: it grows with the months)."
    )
    question = "Can the guide's draws be used as they are?"
    if share <= 0.05:
        return Finding(question, "good", answer)
    return Finding(
        question,
        "look" if share <= 0.25 else "bad",
        f"{answer} Do not read the guide's factor intervals in those months.",
        advise(
            used,
            ("", "kind='filtered' factors, which come from the particle filter"),
            ("guide:Conjugate", "guide=rv.guides.Conjugate()"),
        ),
    )


def check_spread(guide: xr.DataArray, exact: xr.DataArray, used: Collection[str] = ()) -> Finding:
    """Judge the deviations (time, factor) of the guide's posterior against filter or smoother."""
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
        advise(
            used,
            (FULL_WEIGHT, "a KL weight that ends at 1"),
            ("", "longer training"),
            ("guide:Conjugate", "guide=rv.guides.Conjugate()"),
        ),
    )


def check_calibration(
    returns: xr.DataArray,
    draws: xr.DataArray,
    n_trained: int = 0,
    used: Collection[str] = (),
    n_valid: int = 0,
) -> Finding:
    """Judge forecasts one month ahead by the share of returns inside central 90 % intervals.

    ``n_trained`` of the months were used in training, and ``n_valid`` decided when it stopped.
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
        f"{month.sizes[TIME]} months{_seen(n_trained, n_valid)})."
    )
    miss = abs(share - _PROB)
    if miss < max(0.05, 3 * error):
        return Finding(question, "good", answer)
    verdict: Verdict = "look" if miss < 0.1 else "bad"
    narrow = share < _PROB
    way = "narrow: losses will be larger than it says" if narrow else "wide"
    remedies = [
        (CONTEXT, "market context (n_context=)"),
        (MEMORY, "a factor prior with memory of volatility"),
        *([(HEAVY_TAILS, "a likelihood with heavier tails")] if narrow else []),
        ("", "a refit that has seen more recent months (init= this fit)"),
    ]
    return Finding(question, verdict, f"{answer} Forecasts are too {way}.", advise(used, *remedies))


def check_tails(check: xr.DataTree, used: Collection[str] = ()) -> Finding:
    """Judge the likelihood by the tails of an in-sample ``rv.diagnostics.predictive_check``."""
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
    if p_value >= _RARE:
        return Finding(question, "good", answer)
    thin = curve[0] + tails[0] > curve[1] + tails[1]
    choices = ("StudentT", "NormalMixture", "SkewStudentT") if thin else ("Normal", "Laplace")
    other = next((name for name in choices if f"likelihood:{name}" not in used), choices[-1])
    remedy = f"rv.likelihoods.{other}(...)"
    if f"likelihood:{other}" in used:
        remedy = "one of your own (rv.likelihoods.Likelihood)"
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


def check_skill(
    returns: xr.DataArray,
    forecast: xr.DataArray,
    n_trained: int = 0,
    used: Collection[str] = (),
    n_valid: int = 0,
) -> Finding:
    """Judge whether forecasts are too good to be true, or worse than none.

    ``n_trained`` of the months were used in training; skill is only what is left without them.
    ``n_valid`` decided when it stopped. Standard errors take months as independent.
    """
    known = returns.notnull() & forecast.notnull()
    gain = (returns**2 - (returns - forecast) ** 2).where(known).sum(ASSET).to_numpy()
    size = (returns**2).where(known).sum(ASSET).to_numpy()
    r2 = float(gain.sum() / size.sum()) if size.sum() > 0 else float("nan")
    r2_error = _mean_error(gain - r2 * size) / size.mean() if size.sum() > 0 else float("nan")
    months = _rank_correlations(returns.where(known), forecast.where(known))
    ic = float(months.mean()) if months.size else 0.0
    ic_error = _mean_error(months)
    question = "Is the skill believable?"
    answer = (
        f"Predictive R2 {100 * r2:.1f} % (s.e. {100 * r2_error:.1f}), mean rank correlation "
        f"{ic:.2f} per month (s.e. {ic_error:.2f}; {returns.sizes[TIME]} months"
        f"{_seen(n_trained, n_valid)})."
    )
    if n_trained >= returns.sizes[TIME]:
        answer = f"Not known out of sample. In training: {answer[0].lower()}{answer[1:]}"
    elif n_trained:
        answer = f"In part in sample: {answer[0].lower()}{answer[1:]}"
    if r2 < -1.0:
        return Finding(
            question,
            "look",
            f"{answer} Forecasts err far more than a forecast of zero.",
            "a longer training, or a likelihood whose mean exists (a Cauchy has none).",
        )
    verdict = judge_skill(r2, r2_error, ic, ic_error)
    if verdict != "good":
        return Finding(
            question,
            verdict,
            f"{answer} {SUSPECT}",
            advise(
                used,
                (LAGGED, "lag=1 in rv.data.from_frame"),
                ("", "rv.data.check_panel"),
                ("", "dates of publication of every characteristic"),
            ),
        )
    if r2 < -0.05 and r2 < -3 * r2_error:
        return Finding(
            question,
            "look",
            f"{answer} Forecasts err more than a forecast of zero.",
            "a stronger weight prior, a simpler factor prior, or more months of training.",
        )
    if n_trained < returns.sizes[TIME] and not (r2 > 2 * r2_error or ic > 2 * ic_error):
        answer = f"No skill in the means, and none claimed. {answer}"
    return Finding(question, "good", answer)


SUSPECT: Final = (
    "Real monthly returns allow a percent or two: suspect a characteristic that knows the month it "
    "predicts, and believe no backtest before it is found."
)


def judge_skill(r2: float, r2_error: float, ic: float, ic_error: float) -> Verdict:
    """Judge whether predictive R2 and mean monthly rank correlation are too good to be true."""
    if (r2 > 0.1 and r2 > 3 * r2_error) or (ic > 0.2 and ic > 3 * ic_error):
        return "bad" if r2 > 0.2 or ic > 0.35 else "look"
    return "good"


def _seen(n_trained: int, n_valid: int) -> str:
    """State how many of the months training has used."""
    trained = f", {n_trained} of them trained on" if n_trained else ""
    return trained + (f", {n_valid} of them validation" if n_valid else "")


def _rank_correlations(returns: xr.DataArray, forecast: xr.DataArray) -> np.ndarray:
    """Rank correlation across assets of every month that has one."""
    first, second = (array.transpose(TIME, ASSET).to_numpy() for array in (returns, forecast))
    months = []
    for a, b in zip(first, second, strict=True):
        known = np.isfinite(a) & np.isfinite(b)
        x, y = rankdata(a[known]), rankdata(b[known])
        if known.sum() >= 4 and np.ptp(x) > 0 and np.ptp(y) > 0:
            months.append(np.corrcoef(x, y)[0, 1])
    return np.array(months)


def _mean_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of independent values; 0 of fewer than two."""
    if values.size < 2:
        return 0.0
    return float(values.std(ddof=1) / np.sqrt(values.size))
