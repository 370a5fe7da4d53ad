"""Configuration of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch

from rvrae_pyro.errors import ConfigError, check_count, check_number, did_you_mean
from rvrae_pyro.inference.schedules import Cosine, Flat, Linear, RateSchedule, Schedule, compress
from rvrae_pyro.models.kinds import describe_kind

_WARM_SHARE = 0.3
"""Share of the steps of a fit that a warm refit takes."""
_WARM_RATE = 1.5
"""Its learning rate, relative to that of a fit."""
_WARM_ANNEALING = 0.5
"""Its steps of the KL schedule, likewise."""


@dataclass(frozen=True)
class FitConfig:
    """Settings of :func:`rvrae_pyro.fit`; the defaults are the best known.

    Parameters
    ----------
    optimizer : type
        A torch optimizer class, called with the parameters and ``lr``.
    learning_rate : float
        The highest rate; ``rate_schedule`` sets its course, and it is halved for good when
        validation stalls for half the patience.
    rate_schedule : RateSchedule
        Share of the learning rate over the share of ``max_steps`` that is done: up, then down to
        almost nothing, so that the run ends on an average of its iterates.
    weights_warmup : float
        Share of ``max_steps`` over which the pull of the weight priors rises from 0 to its full
        size. A sparse prior at full strength from the first step can close a characteristic
        before the data had an effect: on the Gu-Kelly-Xiu simulation one run in two then lost two
        factors of three.
    max_steps : int
        Gradient steps at the most.
    window : int or None
        Months per step; None takes all training months at once. Many small steps learn better
        than few large ones.
    asset_batch : int or None
        Assets per step, drawn at random; None takes all. Of a panel on disk, which is cut into
        shards, only with ``asset_sampling="whole"``.
    asset_sampling : {"composite", "whole"}
        Meaning of such a draw. ``"composite"``: a smaller panel, unscaled, guide
        included: a composite likelihood, consistent, not the bound of the whole panel.
        ``"whole"``: the guide knows the whole cross-section and only the likelihood is sampled
        and scaled up: an unbiased gradient of the whole panel's bound.
    shard_size : int or None
        Assets that the networks see at once. None: all of a window; a number: as many, one shard
        after another, for the same gradient in less memory and more passes
        (:mod:`rvrae_pyro.inference.sharded.streaming`). Default of a panel on disk: 1024.
    kl_schedule : Schedule
        KL weight over steps and months, ending at 1. Default: from 0.5 to 1 over 200 steps. With
        a smaller start and many factors, scales of assets that a factor can follow go to zero
        while the factors' KL costs nothing, and training breaks.
    kl_reduction : {"sum", "mean"}
        ``"mean"`` divides the KL by the number of training months, regardless of ``window``, as
        the paper's eq. (31): **not a bound**, an ablation.
    num_particles : int
        Monte-Carlo draws of the ELBO per step.
    clip_norm : float
        Largest norm of the gradient of the mean log density per observation.
    patience : int
        Epochs without a better validation ELBO before training stops.
    passes : int
        Passes over the training months per epoch. Each epoch begins with a filter pass, which
        costs about as much as a step on all months: worth several passes where ``window`` is None.
    refine_draws : int or None
        Draws per round of the importance sampling that ends training where an interpretable
        parameter has a prior (:func:`rvrae_pyro.inference.refine`), 20 or more. Default: 2000 where
        the evidence has a closed form, which costs seconds, and no such sampling elsewhere, where
        each draw costs a particle filter.
    dtype : torch.dtype
    device : str

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (30), (31).
    """

    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    learning_rate: float = 2e-2
    rate_schedule: RateSchedule = field(default_factory=Cosine)
    weights_warmup: float = 0.6
    max_steps: int = 1000
    window: int | None = 3
    asset_batch: int | None = None
    asset_sampling: Literal["composite", "whole"] = "composite"
    shard_size: int | None = None
    kl_schedule: Schedule = field(default_factory=lambda: Linear(start=0.5))
    kl_reduction: Literal["sum", "mean"] = "sum"
    num_particles: int = 1
    clip_norm: float = 5.0
    patience: int = 25
    passes: int = 1
    refine_draws: int | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm"):
            check_number(name, getattr(self, name), "(0, inf)")
        if self.dtype not in (torch.float32, torch.float64):
            raise ConfigError(
                f"`dtype` must be torch.float32 or torch.float64; got {self.dtype!r}. Lower "
                "precision breaks the factors' matrices."
            )
        optimizer = self.optimizer
        if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
            raise ConfigError(
                f"`optimizer` must be a class such as torch.optim.Adam; got {optimizer!r}."
            )
        check_number("weights_warmup", self.weights_warmup, "[0, 1)")
        for name, method in (("kl_schedule", "weight"), ("rate_schedule", "rate")):
            part = getattr(self, name)
            if isinstance(part, type) or not callable(getattr(part, method, None)):
                raise ConfigError(
                    f"`{name}` must be an object with a method `{method}`; got {part!r}. "
                    "rv.schedules has some."
                )
        for name in ("max_steps", "num_particles", "patience", "passes"):
            check_count(name, getattr(self, name))
        if self.refine_draws is not None:
            check_count("refine_draws", self.refine_draws, 20)
        for name in ("window", "asset_batch", "shard_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(
                    f"`{name}` must be a whole number of at least 1, or None; got {value!r}."
                )
        if self.asset_sampling not in ("composite", "whole"):
            raise ConfigError(
                f"`asset_sampling` must be 'composite' or 'whole'; got {self.asset_sampling!r}."
            )
        if (
            self.asset_batch is not None
            and self.shard_size is not None
            and self.asset_sampling == "composite"
        ):
            raise ConfigError(
                "`asset_batch` draws from a whole cross-section, and `shard_size` cuts it into "
                f"pieces; got {self.asset_batch} and {self.shard_size}. Leave one of them None, or "
                "set asset_sampling='whole'."
            )
        if self.kl_reduction not in ("sum", "mean"):
            raise ConfigError(f"`kl_reduction` must be 'sum' or 'mean'; got {self.kl_reduction!r}.")

    def warm(self) -> FitConfig:
        """Derive the settings of a refit that starts from an earlier fit (``rv.fit(init=)``).

        The whole course of training in three tenths of the steps at one and a half times the
        learning rate, with half of the steps of the KL schedule: annealing again lets effects by
        asset move to what new months say of them. A user-defined KL schedule stays as it is.

        Examples
        --------
        >>> FitConfig().warm().max_steps
        300
        """
        return replace(
            self,
            max_steps=math.ceil(_WARM_SHARE * self.max_steps),
            learning_rate=_WARM_RATE * self.learning_rate,
            kl_schedule=compress(self.kl_schedule, _WARM_ANNEALING),
        )

    @classmethod
    def paper(cls) -> FitConfig:
        """Train as the paper does: all months per step, per-timestep KL annealed and averaged.

        The average of eq. (31) is **not a bound**.
        """
        return cls(
            learning_rate=1e-3,
            rate_schedule=Flat(),
            weights_warmup=0.0,
            kl_schedule=Linear(),
            max_steps=1000,
            window=None,
            kl_reduction="mean",
            patience=20,
            passes=5,
        )


def with_fields(config: object, changes: Mapping[str, Any]) -> FitConfig:
    """Replace fields of a configuration, that of the defaults where there is none.

    Raises
    ------
    ConfigError
        If ``config`` is no ``FitConfig``, or a name is no field of it.
    """
    if config is not None and not isinstance(config, FitConfig):
        raise ConfigError(
            f"`config` must be an rv.FitConfig; got {describe_kind(config)}. Pass an instance, "
            "e.g. rv.FitConfig(max_steps=500)."
        )
    known = [each.name for each in fields(FitConfig)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise ConfigError(
            f"unknown argument {unknown[0]!r}{did_you_mean(unknown[0], known)}. Fields of "
            f"rv.FitConfig are taken by name: {', '.join(known)}."
        )
    return replace(config or FitConfig(), **changes)
