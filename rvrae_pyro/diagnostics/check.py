"""A page of plain words on what a fit can be trusted with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro import displays
from rvrae_pyro.diagnostics.advice import FULL_WEIGHT, NO_PRIOR, SINGLE, advise
from rvrae_pyro.names import TIME

__all__ = ["Check", "Finding", "Verdict", "check_evidence", "check_training"]

Verdict = Literal["good", "look", "bad"]


@dataclass(frozen=True)
class Finding:
    """One question, its answer with a figure, and what to try.

    Attributes
    ----------
    question : str
    verdict : {"good", "look", "bad"}
    answer : str
        Plain words with the figure they rest on.
    remedy : str
        What to try; empty where nothing is wrong.
    """

    question: str
    verdict: Verdict
    answer: str
    remedy: str = ""


@dataclass(frozen=True, repr=False)
class Check:
    """Findings on a fit; prints as a page of text.

    Attributes
    ----------
    findings : sequence of Finding
    limits : sequence of str
        What no figure here can tell.
    """

    findings: Sequence[Finding]
    limits: Sequence[str]

    @property
    def trusted(self) -> bool:
        """True if nothing was found to be bad."""
        return all(finding.verdict != "bad" for finding in self.findings)

    def __str__(self) -> str:
        mark = {"good": "ok  ", "look": "look", "bad": "BAD "}
        lines = []
        for finding in self.findings:
            lines.append(f"[{mark[finding.verdict]}] {finding.question} {finding.answer}")
            if finding.remedy:
                lines.append(f"       Try: {finding.remedy}")
        lines.append("Not known from this fit:")
        lines.extend(f"  - {limit}" for limit in self.limits)
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Count the verdicts."""
        verdicts = [finding.verdict for finding in self.findings]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("good", "look", "bad"))
        return f"Check({len(verdicts)} findings: {counts}; trusted={self.trusted})"

    def _repr_html_(self) -> str:
        """Show the findings with badges."""
        rows = []
        for finding in self.findings:
            remedy = f"<br>Try: {escape(finding.remedy)}" if finding.remedy else ""
            rows.append(
                f"<tr><td>{displays.badge(finding.verdict)}</td>"
                f'<th scope="row">{escape(finding.question)}</th>'
                f"<td>{escape(finding.answer)}{remedy}</td></tr>"
            )
        limits = displays.fold("Not known from this fit", displays.listing(self.limits))
        table = f"<table><tbody>{''.join(rows)}</tbody></table>"
        title = "Check: nothing bad found" if self.trusted else "Check: not to be trusted yet"
        return displays.card(title, table, limits)


def check_training(
    history: pd.DataFrame,
    kl: xr.DataArray,
    stopped: str,
    best_step: int,
    kl_reduction: str,
    n_train: int,
    n_valid: int,
    *,
    common: xr.Dataset | None = None,
    used: Collection[str] = (),
) -> list[Finding]:
    """Judge a training run from its records, and the loadings that it left.

    Parameters
    ----------
    history : DataFrame
        As ``Fit.history``.
    kl : DataArray (step, time, factor)
        As ``Fit.kl``.
    stopped, best_step
        As in ``Fit``.
    kl_reduction : str
        As in ``FitConfig``.
    n_train, n_valid : int
        Observed returns in the two spans.
    common : Dataset, optional
        As from ``rvrae_pyro.diagnostics.common_variation``, of the model as
        it is now.
    used : collection of str
        What the fit uses already, and advice must not recommend.

    Returns
    -------
    list of Finding
    """
    findings = [_converged(history, stopped, best_step, n_train, n_valid)]
    if kl_reduction != "sum" or float(history["kl_weight"].iloc[-1]) < 1.0:
        findings.append(_weight(history, kl_reduction))
    findings.append(_collapsed(kl, best_step, common, used))
    if common is not None:
        findings.append(_characteristics(common, used))
    if n_valid:
        findings.append(_generalises(history, best_step, n_train, n_valid, used))
    return findings


def check_evidence(
    bound: xr.DataArray, evidence: xr.DataArray, used: Collection[str] = ()
) -> Finding:
    """Judge the guide: how far its bound lies under the particle filter's evidence.

    Parameters
    ----------
    bound, evidence : DataArray (time,)
        ELBO and log evidence of every month, in nats.
    used : collection of str
        What the fit uses already.
    """
    gap = float((evidence - bound).mean(TIME))
    error = float((evidence - bound).std(TIME, ddof=1)) / np.sqrt(bound.sizes[TIME])
    side = "below" if gap >= 0 else "above"
    answer = f"Its bound lies {abs(gap):.2f} nats per month (s.e. {error:.2f}) {side} the evidence."
    question = "Is the guide good enough?"
    if gap < -(0.1 + 3 * error):
        return Finding(
            question,
            "look" if gap > -1 else "bad",
            f"{answer} No lower bound can lie above: the particle filter's estimate of the "
            "evidence is too low, and so are log scores that come from it.",
            "more particles (`num_particles`, `num_samples`).",
        )
    if gap < 0.5 + 2 * error:
        if gap < 0:
            answer = f"{answer} The difference is within the error of both estimates."
        return Finding(question, "good", answer)
    verdict: Verdict = "look" if gap < 5 else "bad"
    remedy = advise(
        used,
        ("guide:Conjugate", "guide=rv.guides.Conjugate()"),
        ("", "longer training (`max_steps`)"),
    )
    return Finding(question, verdict, answer, remedy)


def _converged(
    history: pd.DataFrame, stopped: str, best_step: int, n_train: int, n_valid: int
) -> Finding:
    question = "Did training converge?"
    last = int(history["step"].iloc[-1])
    if stopped == "converged":
        answer = f"Yes: nothing better after step {best_step}, stopped at {last}."
        return Finding(question, "good", answer)
    if stopped == "interrupted":
        return Finding(
            question,
            "bad",
            f"No: interrupted at step {last}.",
            "run it again, or rv.fit(init=...).",
        )
    judged = n_valid > 0 and history["valid_elbo"].notna().any()
    if judged and best_step <= 0.75 * last:
        answer = f"As far as validation can tell: nothing better after step {best_step} of {last}."
        return Finding(question, "good", answer)
    # by return: a percentage of a log density would change with the unit of the returns
    bound = history["valid_elbo"] / n_valid if judged else history["elbo"] / n_train
    final = float(bound.iloc[-1])
    tenth = bound.iloc[-max(2, len(bound) // 10)]
    # a rate that falls to nothing hides what is left to gain in the last tenth, less in a third
    third = bound[history["step"] <= last * 2 / 3].iloc[-1]
    gain, longer = final - float(tenth), final - float(third)
    answer = (
        f"It used all {last} steps; the bound moved by {gain:+.3f} nats per return over the last "
        f"tenth of them, {longer:+.3f} over the last third (best at step {best_step})."
    )
    if _settled(history["step"], bound, gain, longer):
        return Finding(question, "good", f"{answer} That is too little to matter.")
    verdict: Verdict = "look" if gain < 0.01 and longer < 0.03 else "bad"
    return Finding(question, verdict, answer, "a larger `max_steps`, or init= this fit.")


def _settled(steps: pd.Series, bound: pd.Series, gain: float, longer: float) -> bool:
    """Whether what the bound gained at the end is within 0.01 nats per return and its noise.

    The bound is an estimate by few draws. Its noise is what it moves by between epochs of the last
    third, there being five or more, or what a line through them leaves.
    """
    late = steps > steps.iloc[-1] * 2 / 3
    recent, when = bound[late].to_numpy(), steps[late].to_numpy(dtype=float)
    if recent.size < 5:
        return gain < 0.002 and longer < 0.01
    noise = float(np.diff(recent).std()) / np.sqrt(2)
    if noise > 0.02:
        return False
    if gain < 0.002 + 2 * noise and longer < 0.01 + 2 * noise:
        return True
    centred = when - when.mean()
    slope = float(centred @ recent / (centred @ centred))
    left = recent - recent.mean() - slope * centred
    error = np.sqrt(left @ left / (recent.size - 2) / (centred @ centred))
    span = when[-1] - when[0]
    return bool(slope * span < 0.01 + 2 * error * span)


def _weight(history: pd.DataFrame, kl_reduction: str) -> Finding:
    weights = history["kl_weight"].to_numpy()
    weight = float(weights[-1])
    answer = f"No: the KL weight ended at {weight:.3g} (kl_reduction={kl_reduction!r})."
    remedy = "kl_reduction='sum' and a schedule that ends at 1."
    if kl_reduction == "sum":
        remedy = "a `kl_schedule` that ends at 1."
        if len(weights) > 1 and weight > weights[-2]:
            answer = (
                f"No: training ended while the KL weight was still rising, at {weight:.3g} of 1."
            )
            remedy = "a larger `max_steps`, or a `kl_schedule` that reaches 1 in fewer steps."
    # two digits: 1.1 times is not 1
    narrow = f"{1.0 / np.sqrt(weight):.1f}".removesuffix(".0")
    return Finding(
        "Was the objective a bound on the evidence?",
        "bad",
        f"{answer} A learned guide's factor posteriors can be up to {narrow} times too narrow.",
        remedy,
    )


def _collapsed(
    kl: xr.DataArray, best_step: int, common: xr.Dataset | None, used: Collection[str]
) -> Finding:
    """Judge the rank of the common variation, and whether the guide sees the returns.

    A factor whose KL is 0 is not used. The converse does not hold: several factors with a KL
    can be one, seen from different sides, so the loadings are judged too.
    """
    question = "Are all factors in use?"
    mean = kl.sel(step=best_step, method="nearest").mean(TIME).to_numpy()
    blind = int((mean < _NOTHING).sum())
    answer = f"KL by factor, nats per month: {_listed(mean)}."
    unused, size = blind, mean.size
    if common is not None:
        information = common["information"].to_numpy()
        lost = int((information < _NOTHING).sum())
        if lost / information.size >= blind / size:
            unused, size = lost, information.size
            answer = (
                "Information of a month's returns by principal axis of the common variation, "
                f"nats: {_listed(information)}."
            )
    if not unused:
        return Finding(question, "good", answer)
    verdict: Verdict = "bad" if unused == size else "look"
    return Finding(
        question,
        verdict,
        f"{answer} {unused} of {size} carry nothing.",
        advise(
            used,
            (SINGLE, "fewer factors"),
            (NO_PRIOR, WEAKER),
            ("guide:Conjugate", "guide=rv.guides.Conjugate(), which is built on the month's sums"),
            (FULL_WEIGHT, "a slower KL annealing that ends at 1"),
        ),
    )


def _characteristics(common: xr.Dataset, used: Collection[str]) -> Finding:
    """Judge whether loadings differ by the assets' characteristics."""
    question = "Do characteristics move the loadings?"
    share = float(common["moved"])
    figure = "less than 0.01" if share < 1e-4 else f"{100 * min(share, 1.0):.2g}"
    percent = f"{figure} % of the common variance goes with them."
    if share >= _HARDLY:
        return Finding(question, "good", f"Yes: {percent}")
    linear = "loadings:Linear"
    remedy = advise(
        used,
        (NO_PRIOR, WEAKER),
        (linear, "loadings=rv.loadings.Linear(...), whose few weights need less data"),
        ("", "longer training"),
    )
    if share < _FIXED:
        return Finding(
            question,
            "bad",
            f"No characteristic moves any loading: {percent} Assets have the same exposures, "
            "whatever the panel says of them.",
            remedy,
        )
    return Finding(question, "look", f"Hardly: {percent}", remedy)


WEAKER: Final = "a weaker prior of the loadings' weights (`weights=` of the loadings)"
_NOTHING: Final = 0.02  # nats per month below which a factor or axis carries nothing
_FIXED: Final = 1e-4  # share of the common variance: loadings vary by 1 % of their size
_HARDLY: Final = 2.5e-3  # by 5 %


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _generalises(
    history: pd.DataFrame, best_step: int, n_train: int, n_valid: int, used: Collection[str]
) -> Finding:
    row = history[history["step"] == best_step].iloc[-1]
    seen, unseen = row["elbo"] / n_train, row["valid_elbo"] / n_valid
    answer = (
        f"Bound per return, in nats: {seen:.3f} in training, {unseen:.3f} in validation. Months "
        "differ in how hard they are, so only a large drop means overfitting."
    )
    verdict: Verdict = "good" if seen - unseen < 0.15 else "look"
    remedy = ""
    if verdict != "good":
        remedy = advise(
            used, ("", "a stronger weight prior"), (SINGLE, "fewer factors"), ("", "more data")
        )
    return Finding("Does it hold outside the training months?", verdict, answer, remedy)
