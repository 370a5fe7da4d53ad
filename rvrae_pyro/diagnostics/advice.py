"""Advice that leaves out what a fit uses already."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from rvrae_pyro.models.priors import Recurrent, RegimeSwitching, StochasticVolatility
from rvrae_pyro.models.rvrae import RVRAE

__all__ = [
    "CONTEXT",
    "FULL_WEIGHT",
    "HEAVY_TAILS",
    "LAGGED",
    "MEMORY",
    "SINGLE",
    "advise",
    "in_use",
]

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

    ``"guide:<class>"``, ``"likelihood:<class>"``, ``"loadings:<class>"``, ``"scale:<class>"``,
    and the constants of this module that apply.
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
    volatile = any(type(part).__name__ == "CommonVolatility" for part in priors)
    if volatile or any(isinstance(part, _MEMORY) for part in priors):
        found.add(MEMORY)
    if not any(getattr(part, "weights", None) for part in parts.loadings.modules()):
        found.add(NO_PRIOR)
    if model.n_factors == 1:
        found.add(SINGLE)
    return frozenset(found)


def advise(used: Collection[str], *remedies: tuple[str, str]) -> str:
    """Join remedies that are not in use.

    Parameters
    ----------
    used : collection of str
        What the fit uses already; see :func:`in_use`.
    remedies : tuple of (str, str)
        What a remedy would introduce, as :func:`in_use` names it ("" if nothing), and its text.

    Returns
    -------
    str
        A sentence; never empty.
    """
    chosen = [text for name, text in remedies if name not in used]
    if not chosen:
        chosen = ["other parts: rv.evaluation.compare shows which of two fits scores better"]
    *first, last = chosen
    return f"{', '.join([*first, 'or ' + last]) if first else last}."
