"""Gradients of the bound on a window of months, and the filter's pass through all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from pyro import poutine
from torch import Tensor

from rvrae_pyro.data.batch import Batch, Carry
from rvrae_pyro.errors import FitError
from rvrae_pyro.inference.elbo import AnnealedELBO
from rvrae_pyro.models.filter_pass import Walk
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.nn.sequences import together


class BrokenBound(FitError):
    """The bound or its gradient is not finite, or far below its last value: training backs off."""


class Task(NamedTuple):
    """Inputs of one gradient step.

    Attributes
    ----------
    start, stop : int
        The window's months.
    carry : mapping or None
        States before it.
    kl_weight : Tensor of shape (stop - start,)
        As the annealed ELBO has it at this step.
    share : float
        Share of the log weight prior that the step takes.
    step : int
        Gradient steps so far, for messages.
    """

    start: int
    stop: int
    carry: Carry | None
    kl_weight: Tensor
    share: float
    step: int


class Slopes(Protocol):
    """Source of gradients of a training loop: one panel, many shards, many processes."""

    device: torch.device

    def n_observed(self, start: int, stop: int | None = None) -> int:
        """Observed returns in months ``start`` to ``stop``, over all assets."""
        ...

    def quiet(self) -> AbstractContextManager[None]:
        """Skip Pyro statements that training does not need."""
        ...

    def walk(self, model: RVRAE, starts: Sequence[int]) -> Walk:
        """Filter once through all months, at given weights; see :meth:`RVRAE.walk`."""
        ...

    def descend(self, task: Task, factor: float) -> bool:
        """Add the gradient of ``factor`` times the window's loss; False if it has no return."""
        ...


def window_loss(model: RVRAE, batch: Batch, elbo: AnnealedELBO) -> Tensor:
    """Negative annealed objective of a window less its share of the log weight prior, in nats.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
        The window.
    elbo : AnnealedELBO
        With a differentiable estimator.
    """
    share = elbo.share(batch.n_times, batch.first)
    loss: Tensor = elbo(model.model, model.guide)(batch)
    return loss - share * model.log_weights()


class OnePanel:
    """Slopes of a panel in memory, by an annealed ELBO.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
    elbo : AnnealedELBO
        Of the training months; its step is the one of each task.
    asset_batch : int, optional
        Assets per step, drawn at random. Default: all.
    """

    def __init__(
        self, model: RVRAE, batch: Batch, elbo: AnnealedELBO, asset_batch: int | None = None
    ) -> None:
        self.model, self.batch, self.elbo, self.asset_batch = model, batch, elbo, asset_batch
        self.device = batch.returns.device

    def n_observed(self, start: int, stop: int | None = None) -> int:
        """Observed returns in months ``start`` to ``stop``."""
        return int(self.batch.observed[start:stop].sum())

    def quiet(self) -> AbstractContextManager[None]:
        """Only an estimator that takes its own gradient must hear of the weights."""
        return self.model.parts.silent() if self.elbo.differentiable else nullcontext()

    def walk(self, model: RVRAE, starts: Sequence[int]) -> Walk:
        """Filter once through all months, at given weights."""
        with together():
            return model.walk(self.batch, starts)

    def descend(self, task: Task, factor: float) -> bool:
        """Add the gradient of ``factor`` times the window's loss; False if it has no return."""
        window = self._thin(self.batch.window(task.start, task.stop, task.carry))
        if not bool(window.observed.any()):
            return False
        self.elbo.step = task.step
        # RenyiELBO and TraceGraph_ELBO only offer a gradient that they take themselves
        if self.elbo.differentiable:
            loss = window_loss(self.model, window, self.elbo)
            if not bool(torch.isfinite(loss)):
                raise not_finite(self.model, window, task)
            (loss * factor).backward()
        else:
            self._descend_alone(window, task, factor)
        return True

    def _descend_alone(self, window: Batch, task: Task, factor: float) -> None:
        value = self.elbo.loss_and_grads(self.model.model, self.model.guide, window)
        penalty = -task.share * self.model.log_weights()
        if not math.isfinite(value) or not bool(torch.isfinite(penalty)):
            raise not_finite(self.model, window, task)
        if penalty.requires_grad:
            penalty.backward()
        for weight in self.model.parts.parameters():
            if weight.grad is not None:
                weight.grad.mul_(factor)

    def _thin(self, window: Batch) -> Batch:
        """Draw a random sub-cross-section, a smaller panel, if so configured."""
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
