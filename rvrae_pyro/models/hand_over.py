"""What the guide leaves for the model's next call: computed once, used once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.likelihood_base import Likelihood
from rvrae_pyro.models.path_draw import PathDraw
from rvrae_pyro.models.random_weights import Weights


@dataclass(frozen=True)
class Shared:
    """What model and guide both compute from a batch and the weights.

    Attributes
    ----------
    cross : CrossSection
    view : PriorView
        Before the auxiliary latent is given.
    draw : PathDraw or None
        The guide's draw, where it has been there.
    likelihood : Likelihood or None
        With drawn values in place.
    """

    cross: CrossSection
    view: PriorView
    draw: PathDraw | None = None
    likelihood: Likelihood | None = None


class HandOver:
    """Single-use slot between the guide and the next call of the model.

    Pyro calls guide and model apart, and both need the month's loadings and scales, which cost
    more than everything else. The slot halves that. It is emptied by the next call, and its
    content used only for the same batch, the same drawn weights and unmodified parameters: a
    stale value would be a wrong gradient.
    """

    def __init__(self) -> None:
        self._slot: tuple[Batch, Weights, tuple[Any, ...], Shared] | None = None

    def put(self, batch: Batch, weights: Weights, token: tuple[Any, ...], shared: Shared) -> None:
        """Leave what the guide computed, for parameters of a version ``token``."""
        self._slot = (batch, weights, token, shared)

    def take(self, batch: Batch, weights: Weights, token: tuple[Any, ...]) -> Shared | None:
        """Empty the slot; None unless its content is for these very values."""
        slot, self._slot = self._slot, None
        if slot is None or slot[0] is not batch or slot[2] != token:
            return None
        # values that the guide drew reach the model as they are, not as copies
        same = all(slot[1].get(name) is value for name, value in weights.items())
        return slot[3] if same else None
