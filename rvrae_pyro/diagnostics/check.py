"""A page of findings on a fit or an ensemble, and advice that leaves out what is in use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

import xarray as xr

from rvrae_pyro import displays
from rvrae_pyro.models.priors import Recurrent, RegimeSwitching, StochasticVolatility
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, TIME

Verdict = Literal["good", "look", "bad"]


@dataclass(frozen=True)
class Finding:
    """One question, its verdict, its answer with a figure, and a remedy (empty if good)."""

    question: str
    verdict: Verdict
    answer: str
    remedy: str = ""


@dataclass(frozen=True, repr=False)
class Check:
    """Findings on a fit, and limits of what they can show; prints as a page of text."""

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


CONTEXT: Final = "market context"
MEMORY: Final = "memory of volatility"
HEAVY_TAILS: Final = "heavy tails"
FULL_WEIGHT: Final = "a KL weight of 1"
SINGLE: Final = "one factor"
LAGGED: Final = "lagged characteristics"
NO_PRIOR: Final = "loadings without a weight prior"

_HEAVY: Final = ("StudentT", "SkewStudentT", "Laplace", "NormalMixture")
_MEMORY: Final = (Recurrent, RegimeSwitching, StochasticVolatility)


def in_use(model: RVRAE) -> frozenset[str]:
    """Names of what a model uses, for :func:`advise`.

    ``"guide:<class>"``, ``"likelihood:<class>"``, ``"loadings:<class>"``, ``"prior:<class>"``,
    ``"scale:<class>"``, and the constants of this module that apply.
    """
    parts = model.parts
    found = {
        f"guide:{type(parts.guide).__name__}",
        f"likelihood:{type(parts.likelihood).__name__}",
        f"scale:{type(parts.likelihood.scale).__name__}",
    }
    found |= {f"loadings:{type(part).__name__}" for part in parts.loadings.modules()}
    if type(parts.likelihood).__name__ in _HEAVY:
        found.add(HEAVY_TAILS)
    if model.n_context or any(getattr(part, "n_context", 0) for part in parts.modules()):
        found.add(CONTEXT)
    priors = list(parts.factor_prior.modules())
    found |= {f"prior:{type(part).__name__}" for part in priors}
    if "prior:CommonVolatility" in found or any(isinstance(part, _MEMORY) for part in priors):
        found.add(MEMORY)
    if not any(getattr(part, "weights", None) for part in parts.loadings.modules()):
        found.add(NO_PRIOR)
    if model.n_factors == 1:
        found.add(SINGLE)
    return frozenset(found)


def advise(used: Collection[str], *remedies: tuple[str, str]) -> str:
    """Join the texts of remedies that are not ``used``, by their names in :func:`in_use`."""
    chosen = [text for name, text in remedies if name not in used]
    if not chosen:
        chosen = ["other parts: rv.evaluation.compare shows which of two fits scores better"]
    *first, last = chosen
    return f"{', '.join([*first, 'or ' + last]) if first else last}."


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
        One per member.
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
    same = sum(finding.verdict == worst.verdict for finding in each)
    where = f"(member {member + 1}; {same} of {len(each)} the same verdict) "
    return Finding(worst.question, worst.verdict, where + worst.answer, worst.remedy)
