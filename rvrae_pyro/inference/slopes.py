"""Gradients of the bound on a window of months, and the filter's pass through all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from rvrae_pyro.data.batch import Batch, Carry
from rvrae_pyro.errors import FitError
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.shares import WeightShare
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.models.walk import Walk
from rvrae_pyro.nn.sequences import together

__all__ = ["BrokenBound", "OnePanel", "Slopes", "Task", "not_finite", "window_loss"]


class BrokenBound(FitError):
    """The bound or its gradient is not finite, or far below what it was: training backs off."""


_LEAST = 1e-6
"""A site's scale must be above 0, also in the first step of a warm-up."""


class Task(NamedTuple):
    """What one gradient step is about.

    Attributes
    ----------
    start, stop : int
        The window's months.
    carry : mapping or None
        States before it.
    kl_weight : float or Tensor of shape (stop - start,)
    share : float
        Share of the log weight prior that the step takes.
    step : int
        Gradient steps so far, for messages.
    """

    start: int
    stop: int
    carry: Carry | None
    kl_weight: float | Tensor
    share: float
    step: int


class Slopes(Protocol):
    """Where a training loop gets its gradients from: one panel, many shards, many processes."""

    device: torch.device

    def n_observed(self, start: int, stop: int | None = None) -> int:
        """Observed returns in months ``start`` to ``stop``, over all assets."""
        ...

    def quiet(self) -> AbstractContextManager[None]:
        """Spare Pyro what it need not know while training runs."""
        ...

    def walk(self, model: RVRAE, starts: Sequence[int]) -> Walk:
        """Filter once through all months, at given weights; see :meth:`RVRAE.walk`."""
        ...

    def descend(self, task: Task, factor: float) -> bool:
        """Add the gradient of ``factor`` times the window's loss; False if it has no return."""
        ...


def window_loss(
    model: RVRAE, batch: Batch, elbo: Any, kl_weight: float | Tensor, share: float
) -> Tensor:
    """Negative bound of a window less a share of the log weight prior, in nats.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
        The window.
    elbo : ELBO
        Any Pyro ELBO.
    kl_weight : float or Tensor of shape (n_times,)
    share : float
        Share of the log weight prior, or of the divergence of weights with a posterior: the
        window's months over all training months, times the warm-up of the weight priors.
    """
    with WeightShare(model.weight_sites, max(share, _LEAST)):
        loss: Tensor = elbo.differentiable_loss(model.model, model.guide, batch, kl_weight)
    return loss - share * model.log_weights()


class OnePanel:
    """Slopes of a panel in memory, by any Pyro ELBO.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
    config : FitConfig
    elbo : ELBO, optional
        ``Trace_ELBO`` unless told.
    """

    def __init__(self, model: RVRAE, batch: Batch, config: FitConfig, elbo: ELBO | None) -> None:
        self.model, self.batch, self.asset_batch = model, batch, config.asset_batch
        self.device = batch.returns.device
        many = config.num_particles > 1
        self.elbo = elbo or Trace_ELBO(
            num_particles=config.num_particles, vectorize_particles=many, max_plate_nesting=2
        )
        # RenyiELBO and TraceGraph_ELBO only offer a gradient that they take themselves
        self.differentiable = hasattr(self.elbo, "differentiable_loss")

    def n_observed(self, start: int, stop: int | None = None) -> int:
        """Observed returns in months ``start`` to ``stop``."""
        return int(self.batch.observed[start:stop].sum())

    def quiet(self) -> AbstractContextManager[None]:
        """Only an estimator that takes its own gradient must hear of the weights."""
        return self.model.parts.silent() if self.differentiable else nullcontext()

    def walk(self, model: RVRAE, starts: Sequence[int]) -> Walk:
        """Filter once through all months, at given weights."""
        with together():
            return model.walk(self.batch, starts)

    def descend(self, task: Task, factor: float) -> bool:
        """Add the gradient of ``factor`` times the window's loss; False if it has no return."""
        window = self._thin(self.batch.window(task.start, task.stop, task.carry))
        if not bool(window.observed.any()):
            return False
        if self.differentiable:
            loss = window_loss(self.model, window, self.elbo, task.kl_weight, task.share)
            if not bool(torch.isfinite(loss)):
                raise not_finite(self.model, window, task)
            (loss * factor).backward()
        else:
            self._descend_alone(window, task, factor)
        return True

    def _descend_alone(self, window: Batch, task: Task, factor: float) -> None:
        step = self.elbo.loss_and_grads  # type: ignore[attr-defined]
        with WeightShare(self.model.weight_sites, max(task.share, _LEAST)):
            value = step(self.model.model, self.model.guide, window, task.kl_weight)
        penalty = -task.share * self.model.log_weights()
        if not math.isfinite(value) or not bool(torch.isfinite(penalty)):
            raise not_finite(self.model, window, task)
        if penalty.requires_grad:
            penalty.backward()
        for weight in self.model.parts.parameters():
            if weight.grad is not None:
                weight.grad.mul_(factor)

    def _thin(self, window: Batch) -> Batch:
        """Draw a random sub-cross-section, a smaller panel of its own, if so configured."""
        size = self.asset_batch
        if size is None or size >= window.n_assets:
            return window
        return window.select(torch.randperm(window.n_assets)[:size].to(self.device))


def not_finite(model: RVRAE, window: Batch, task: Task) -> BrokenBound:
    """Name the site whose density is not finite."""
    with torch.no_grad():
        guide = poutine.trace(model.guide).get_trace(window, task.kl_weight)
        trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(window, task.kl_weight)
    bad = []
    for owner, each in (("guide", guide), ("model", trace)):
        each.compute_log_prob()
        for name, site in each.nodes.items():
            if site["type"] == "sample" and not bool(torch.isfinite(site["log_prob_sum"])):
                bad.append(f"{name} ({owner})")
    where = ", ".join(bad) or "the log prior of the weights"
    return BrokenBound(
        f"The ELBO is not finite at step {task.step}: log density of {where} in the months "
        f"{window.times[0]} to {window.times[-1]}."
    )
