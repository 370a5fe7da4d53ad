"""A page of plain words on what a fit can be trusted with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

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


@dataclass(frozen=True)
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

    def _repr_markdown_(self) -> str:
        return f"```text\n{self}\n```"


def check_training(
    history: pd.DataFrame,
    kl: xr.DataArray,
    stopped: str,
    best_step: int,
    kl_reduction: str,
    n_train: int,
    n_valid: int,
) -> list[Finding]:
    """Judge a training run from its records.

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

    Returns
    -------
    list of Finding
    """
    findings = [_converged(history, stopped, best_step, n_train, n_valid)]
    if kl_reduction != "sum" or float(history["kl_weight"].iloc[-1]) < 1.0:
        findings.append(_weight(history, kl_reduction))
    findings.append(_collapsed(kl, best_step))
    if n_valid:
        findings.append(_generalises(history, best_step, n_train, n_valid))
    return findings


def check_evidence(bound: xr.DataArray, evidence: xr.DataArray) -> Finding:
    """Judge the guide: how far its bound lies under the particle filter's evidence.

    Parameters
    ----------
    bound, evidence : DataArray (time,)
        ELBO and log evidence of every month, in nats.
    """
    gap = float((evidence - bound).mean(TIME))
    error = float((evidence - bound).std(TIME, ddof=1)) / np.sqrt(bound.sizes[TIME])
    answer = f"Its bound lies {gap:.2f} nats a month (s.e. {error:.2f}) under the evidence."
    question = "Is the guide good enough?"
    if gap < 0.5 + 2 * error:
        return Finding(question, "good", answer)
    verdict: Verdict = "look" if gap < 5 else "bad"
    return Finding(question, verdict, answer, "guide=rv.guides.Conjugate(), or train for longer.")


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
    judged = history["valid_elbo"].notna().any()
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
        f"It used all {last} steps; the bound moved by {gain:+.3f} nats a return over the last "
        f"tenth of them, {longer:+.3f} over the last third (best at step {best_step})."
    )
    verdict: Verdict = "look" if gain < 0.01 and longer < 0.03 else "bad"
    return Finding(question, verdict, answer, "a larger `max_steps`, or init= this fit.")


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


def _collapsed(kl: xr.DataArray, best_step: int) -> Finding:
    question = "Are all factors in use?"
    mean = kl.sel(step=best_step, method="nearest").mean(TIME)
    unused = mean.to_numpy() < 0.02
    figures = ", ".join(f"{value:.2f}" for value in mean.to_numpy())
    answer = f"KL by factor, nats a month: {figures}."
    if not unused.any():
        return Finding(question, "good", answer)
    verdict: Verdict = "bad" if unused.all() else "look"
    return Finding(
        question,
        verdict,
        f"{answer} {int(unused.sum())} of {unused.size} carry nothing.",
        "fewer factors, slower KL annealing, or a guide built on the month's statistics.",
    )


def _generalises(history: pd.DataFrame, best_step: int, n_train: int, n_valid: int) -> Finding:
    row = history[history["step"] == best_step].iloc[-1]
    seen, unseen = row["elbo"] / n_train, row["valid_elbo"] / n_valid
    answer = (
        f"Bound a return, in nats: {seen:.3f} in training, {unseen:.3f} in validation. Months "
        "differ in how hard they are, so only a large drop means overfitting."
    )
    verdict: Verdict = "good" if seen - unseen < 0.15 else "look"
    remedy = "" if verdict == "good" else "a stronger weight prior, fewer factors, more data."
    return Finding("Does it hold outside the training months?", verdict, answer, remedy)
