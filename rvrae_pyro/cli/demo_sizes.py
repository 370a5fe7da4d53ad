"""Sizes of ``rvrae demo``."""

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class WalkSizes:
    """Sizes of the walk-forward, in months unless stated.

    Attributes
    ----------
    months : int
        Months that are forecast, up to the last with returns.
    train, between : int
        Training months of every refit, and months between two refits.
    burn_in : int
        Months before the first forecast that a refit's filter begins with.
    max_steps, num_samples : int
        Training steps of a refit, and draws.
    n_jobs : int
        Processes.
    """

    months: int = 507
    train: int = 216
    between: int = 60
    burn_in: int = 24
    max_steps: int = 150
    num_samples: int = 200
    n_jobs: int = 2


@dataclass(frozen=True)
class Sizes:
    """Sizes of the demo, in months unless stated.

    Attributes
    ----------
    train, test : int
        Of the fit that is kept; a fixed universe trains on all months before the test.
    max_steps, num_samples : int
        Its training steps and draws.
    walk : WalkSizes
        Of the walk-forward.
    """

    train: int = 216
    test: int = 36
    max_steps: int = 500
    num_samples: int = 1000
    walk: WalkSizes = field(default_factory=WalkSizes)


FULL: Final = Sizes()
QUICK: Final = Sizes(
    train=48,
    test=12,
    max_steps=30,
    walk=WalkSizes(
        months=12, train=48, between=6, burn_in=6, max_steps=4, num_samples=100, n_jobs=1
    ),
)
