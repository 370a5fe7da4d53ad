"""The documented rule that chooses parts and sizes of a model for a panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr

from rvrae_pyro.data.validation import listed
from rvrae_pyro.models import likelihoods, loadings, priors
from rvrae_pyro.names import ASSET, CHARACTERISTIC, TIME

_STAYS: Final = 0.9
"""Share of months in which the assets of a fixed universe are listed, on average."""
_FEW: Final = 100
"""Assets up to which a fixed universe gets effects by asset."""
_HISTORY: Final = 60
"""Months below which effects by asset are not learned: 60 returns per loading vector."""
_MANY: Final = 200
"""Listed assets from which characteristics are small factors of their own."""
_MOST_SMALL: Final = 60
"""Characteristics up to which each is a small factor."""
_MORE: Final = 8
"""Further factors of a fixed universe at the most, one for every three assets."""
_SHARED: Final = "for what single assets share"
_SMALL: Final = "small ones, one per characteristic"


@dataclass(frozen=True)
class PanelKind:
    """What the rule looks at; characteristics and listing only, no return.

    Attributes
    ----------
    n_assets : int
        Median number of listed assets per month.
    n_times : int
    stays : float
        Share of months in which an asset is listed, on average over assets.
    n_characteristics : int
    """

    n_assets: int
    n_times: int
    stays: float
    n_characteristics: int

    @classmethod
    def of(cls, panel: xr.Dataset) -> PanelKind:
        """Inspect a panel."""
        live = listed(panel).transpose(TIME, ASSET).to_numpy()
        ever = live.any(0)
        return cls(
            n_assets=int(np.median(live.sum(1))) if live.size else 0,
            n_times=len(live),
            stays=float(live[:, ever].mean()) if ever.any() else 0.0,
            n_characteristics=panel.sizes[CHARACTERISTIC],
        )

    @property
    def fixed_universe(self) -> bool:
        """Whether effects particular to an asset can be learned."""
        return self.stays >= _STAYS and self.n_assets <= _FEW and self.n_times >= _HISTORY

    @property
    def many_stocks(self) -> bool:
        """Whether portfolios sorted by characteristics diversify all but common risk."""
        return self.n_assets >= _MANY and self.n_characteristics <= _MOST_SMALL

    @property
    def n_more(self) -> int:
        """Factors in addition to those asked for."""
        if self.fixed_universe:
            return min(_MORE, self.n_assets // 3)
        return self.n_characteristics if self.many_stocks else 0


def choose_parts(
    panel: xr.Dataset, n_factors: int, n_context: int = 0, given: int | None = None
) -> tuple[int, dict[str, Any], str]:
    """Choose the parts for a panel.

    Parameters
    ----------
    panel : Dataset
    n_factors : int
        Factors with dynamics.
    n_context : int
        Features of context that the prior and the scale read.
    given : int, optional
        Number of factors of a part that the caller brings; then there are no small ones.

    Returns
    -------
    n_factors : int
        Of the model, small ones included.
    parts : dict
        Arguments of ``RVRAE`` by name.
    reason : str
        What was chosen and why, in one line.
    """
    kind = PanelKind.of(panel)
    n_characteristics, n_more = kind.n_characteristics, kind.n_more
    if given is not None:
        n_factors, n_more = given, 0
    total = n_factors + n_more
    n_dynamic = total if kind.fixed_universe else n_factors
    base: priors.FactorPrior = priors.Recurrent(
        n_dynamic, n_context=n_context, idio_level=n_context > 0
    )
    scale: likelihoods.Scale = likelihoods.CharacteristicScale(n_characteristics, n_context)
    learned: loadings.Loadings = loadings.LSTM(n_characteristics, n_factors)
    student: type[likelihoods.Likelihood] = likelihoods.StudentT
    if kind.fixed_universe:
        labels = panel[ASSET].values.tolist()
        learned = loadings.AssetEffects(loadings.LSTM(n_characteristics, total), labels)
        scale = likelihoods.AssetScale(scale, labels)
    elif n_more:
        learned, student = loadings.Augmented(learned), likelihoods.SkewStudentT
        base = priors.Augmented(base, n_more)
    parts = {
        "loadings": learned,
        "factor_prior": priors.CommonVolatility(base, persistence=0.97, gain=0.3),
        "likelihood": student(scale),
        "n_context": n_context,
    }
    return total, parts, describe_panel_kind(kind, n_factors, n_more, n_context)


def describe_n_factors(kind: PanelKind, n_factors: int, n_more: int) -> str:
    """State the factors asked for and those that the rule adds, as in "2 + 3 for what ..."."""
    if not n_more:
        return str(n_factors)
    return f"{n_factors} + {n_more} {_SHARED if kind.fixed_universe else _SMALL}"


def describe_panel_kind(kind: PanelKind, n_factors: int, n_more: int, n_context: int) -> str:
    """State the choice and its reason."""
    seen = (
        f"{kind.n_assets} assets per month, listed in {kind.stays:.0%} of {kind.n_times} months on "
        "average"
    )
    read = f", {n_context} features of context" if n_context else ", no context"
    if kind.fixed_universe:
        chosen = (
            f"a fixed universe with history: loadings and scales by asset, {n_factors} factors and "
            f"{n_more} more {_SHARED}{read}; validation months are best used for training, too"
        )
    elif n_more:
        chosen = (
            f"many stocks: no effects by asset, {n_factors} learned factors and {n_more} {_SMALL}, "
            f"two-piece Student-t returns{read}"
        )
    else:
        chosen = f"no effects by asset, {n_factors} factors, Student-t returns{read}"
    return f"{seen}: {chosen}; common volatility"
