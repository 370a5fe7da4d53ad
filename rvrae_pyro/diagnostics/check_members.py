"""A page on several fits at once: the worst of each question, and whether they agree."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from rvrae_pyro.diagnostics.check import Check, Finding
from rvrae_pyro.names import ASSET, CHAIN, TIME

__all__ = ["check_members"]

_ORDER = {"good": 0, "look": 1, "bad": 2}
_LIMITS = (
    "what all members share: the same data, parts and settings; their differences are a lower "
    "bound on what is unknown about the weights",
    "survivorship and errors in your data; the model takes them as they are",
)


def check_members(
    pages: Sequence[Check], alignment: xr.Dataset, fitted: xr.DataArray | None = None
) -> Check:
    """Judge an ensemble from its members' pages and their agreement.

    Parameters
    ----------
    pages : sequence of Check
        One a member.
    alignment : Dataset
        As from ``rv.diagnostics.align``.
    fitted : DataArray (chain, time, asset), optional
        Fitted returns of each member.

    Returns
    -------
    Check
        For every question the finding of the member that does worst, then the agreement.
    """
    findings = [_worst(pages, i) for i in range(len(pages[0].findings))]
    if len(pages) > 1:
        findings.append(check_rotation(alignment))
        if fitted is not None:
            findings.append(check_agreement(fitted))
    return Check(findings, _LIMITS)


def check_rotation(alignment: xr.Dataset) -> Finding:
    """Say whether members have the same factors, as they are and once aligned."""
    others = alignment.isel({CHAIN: slice(1, None)})
    before, after = float(others["before"].mean()), float(others["agreement"].mean())
    question = "Do members have the same factors?"
    figures = (
        f"correlation with the first member's {before:.2f} as they are, {after:.2f} once aligned."
    )
    if after < 0.7:
        return Finding(
            question,
            "bad",
            f"No, not even up to rotation: {figures} Read no factor; read B_t f_t.",
            "fewer factors, longer training, a stronger weight prior.",
        )
    if before > 0.9:
        return Finding(question, "good", f"Yes: {figures}")
    return Finding(
        question,
        "look",
        f"The same space in other coordinates: {figures} Never average raw factors or loadings.",
        "the ensemble's own factors() and loadings(), which are aligned.",
    )


def check_agreement(fitted: xr.DataArray) -> Finding:
    """Say whether members fit the same returns: share of variance common to all."""
    mean = fitted.mean(CHAIN)
    apart = ((fitted - mean) ** 2).mean((CHAIN, TIME, ASSET))
    total = (fitted**2).mean((CHAIN, TIME, ASSET))
    common = float(1.0 - apart / total) if float(total) > 0 else 0.0
    question = "Do members say the same of returns?"
    answer = f"{100 * common:.0f} % of the variance of their fitted returns is common to all."
    if common > 0.9:
        return Finding(question, "good", answer)
    return Finding(
        question,
        "look" if common > 0.5 else "bad",
        answer,
        "longer training, more data or a stronger weight prior; average forecasts over members.",
    )


def _worst(pages: Sequence[Check], i: int) -> Finding:
    each = [page.findings[i] for page in pages]
    member = max(range(len(each)), key=lambda k: _ORDER[each[k].verdict])
    worst = each[member]
    if len(pages) == 1:
        return worst
    alike = sum(finding.verdict == worst.verdict for finding in each)
    where = f"(member {member + 1}; {alike} of {len(each)} the same verdict) "
    return Finding(worst.question, worst.verdict, where + worst.answer, worst.remedy)
