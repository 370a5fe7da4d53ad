"""Schedules of the KL weight, which all end at 1, and of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rvrae_pyro.errors import ConfigError, check_number

__all__ = ["Constant", "Cosine", "Cyclical", "Flat", "Linear", "RateSchedule", "Schedule"]


class RateSchedule(Protocol):
    """A share of the learning rate for every stage of training."""

    def rate(self, progress: float) -> float:
        """Share of the learning rate when ``progress`` of the steps, in [0, 1), are done."""
        ...


@dataclass(frozen=True)
class Flat:
    """The full rate from the first step to the last."""

    def rate(self, progress: float) -> float:
        """Return 1 at any progress."""
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Up in a straight line, then down along half a cosine.

    Parameters
    ----------
    warmup : float
        Share of the steps in which the rate rises, in [0, 1).
    end : float
        Share of the rate that is left at the end, in (0, 1].

    References
    ----------
    Loshchilov and Hutter (2017), arXiv 1608.03983.
    """

    warmup: float = 0.05
    end: float = 0.01

    def __post_init__(self) -> None:
        check_number("warmup", self.warmup, "[0, 1)")
        check_number("end", self.end, "(0, 1]")

    def rate(self, progress: float) -> float:
        """Rise to 1 at ``warmup``, and fall to ``end`` from there."""
        if progress < self.warmup:
            return max(self.end, progress / self.warmup)
        falling = (min(progress, 1.0) - self.warmup) / (1.0 - self.warmup)
        return self.end + (1.0 - self.end) * 0.5 * (1.0 + math.cos(math.pi * falling))


class Schedule(Protocol):
    """A KL weight for every step and month."""

    def weight(self, step: int, n_times: int) -> float | Tensor:
        """Weight at a step: a number, or one of shape (n_times,) for the training months."""
        ...


@dataclass(frozen=True)
class Constant:
    """The bound itself from the first step on: weight 1."""

    def weight(self, step: int, n_times: int) -> float | Tensor:
        """Return 1 at any step."""
        return 1.0


@dataclass(frozen=True)
class Linear:
    """Warm-up in a straight line to 1.

    Parameters
    ----------
    start : float
        Weight at the first step, in (0, 1].
    steps : int
        Steps until the weight is 1.
    profile : sequence of float, optional
        Factors on the starting weight from the first to the last training month, in (0, 1 /
        start], interpolated in between: per-timestep annealing. All months end at 1.

    References
    ----------
    Bowman et al. (2016), CoNLL; Krishnan et al. (2017), arXiv 1609.09869.
    """

    start: float = 0.1
    steps: int = 200
    profile: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_number("start", self.start, "(0, 1]")
        check_number("steps", self.steps, "[1, inf)")
        if self.profile is not None:
            values = np.asarray(self.profile, dtype=float)
            if values.ndim != 1 or values.size == 0 or not (values > 0).all():
                raise ConfigError("`profile` must be a non-empty list of numbers above 0.")
            if (values * self.start > 1).any():
                raise ConfigError("`profile` times `start` must not exceed 1.")
            object.__setattr__(self, "profile", tuple(values.tolist()))

    def weight(self, step: int, n_times: int) -> float | Tensor:
        """Straight line from the start, month by month, to 1."""
        progress = min(1.0, step / self.steps)
        if progress >= 1.0:
            return 1.0
        if self.profile is None:
            return self.start + (1.0 - self.start) * progress
        grid = np.linspace(0.0, 1.0, len(self.profile))
        first = self.start * np.interp(np.linspace(0.0, 1.0, n_times), grid, self.profile)
        return torch.as_tensor(first + (1.0 - first) * progress)


@dataclass(frozen=True)
class Cyclical:
    """Several warm-ups in a row, each to 1; after the last the weight stays 1.

    Parameters
    ----------
    cycles : int
    steps : int
        Steps a cycle.
    start : float
        Weight at the start of each cycle, in (0, 1].
    rising : float
        Share of a cycle in which the weight rises; for the rest it is 1.

    References
    ----------
    Fu et al. (2019), NAACL: cyclical annealing.
    """

    cycles: int = 4
    steps: int = 100
    start: float = 0.1
    rising: float = 0.5

    def __post_init__(self) -> None:
        for name in ("start", "rising"):
            check_number(name, getattr(self, name), "(0, 1]")
        for name in ("cycles", "steps"):
            check_number(name, getattr(self, name), "[1, inf)")

    def weight(self, step: int, n_times: int) -> float | Tensor:
        """Straight line within each cycle; 1 after the last."""
        if step >= self.cycles * self.steps:
            return 1.0
        progress = (step % self.steps) / (self.rising * self.steps)
        return min(1.0, self.start + (1.0 - self.start) * progress)


def compress(schedule: Schedule, share: float) -> Schedule:
    """Run a schedule's course in a share of its steps; one of no stated length is unchanged.

    Parameters
    ----------
    schedule : Schedule
    share : float
        In (0, 1].
    """
    if isinstance(schedule, Linear | Cyclical):
        return replace(schedule, steps=math.ceil(share * schedule.steps))
    return schedule
