"""What priors around another prior share: they keep its state."""

from __future__ import annotations

from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.priors.base import FactorPrior
from rvrae_pyro.nn.gaussian import Gaussian


class Around(FactorPrior):
    """A prior around a Gaussian one, its ``base``, which alone has a state."""

    base: FactorPrior

    def initial(self) -> State:
        """State of the base."""
        return self.base.initial()

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """Level of the base."""
        return self.base.level(state, context)

    def encode(self, context: Tensor | None) -> Tensor | None:
        """Context of the base."""
        return self.base.encode(context)

    def reading(self, state: State) -> dict[str, Tensor]:
        """Summaries of the base's state."""
        return self.base.reading(state)

    def base_ahead(self, state: State, context: Tensor | None) -> tuple[Gaussian, Tensor | None]:
        """Transition and level of the base."""
        found, level = self.base.ahead(state, context)
        if not isinstance(found, Gaussian):
            raise ConfigError(
                f"`base` {type(self.base).__name__} must return rv.priors.Gaussian from "
                f"`transition`; got {type(found).__name__}."
            )
        return found, level
