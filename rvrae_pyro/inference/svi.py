"""Stochastic variational inference on windows of months."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import FitError
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.divergence import marginal_kl, month_kl
from rvrae_pyro.inference.windows import draw_windows
from rvrae_pyro.models.rvrae import RVRAE, Walk

__all__ = ["Epoch", "Trained", "train", "window_loss"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch, all at KL weight 1 but ``kl_weight``.

    Attributes
    ----------
    step : int
        Gradient steps so far.
    elbo, log_likelihood, kl : float
        Bound on the training months and its two terms, in nats, at one draw of the guide.
    kl_weight : float
        Mean weight in the step that follows.
    log_weights : float
        Log prior density of the weights, up to a constant.
    valid_elbo : float
        Bound on the validation months given all before; NaN without any.
    seconds : float
        Wall time so far.
    kl_months : Tensor of shape (n_times,)
    kl_factors : Tensor of shape (n_times, n_factors)
    """

    step: int
    elbo: float
    log_likelihood: float
    kl: float
    kl_weight: float
    log_weights: float
    valid_elbo: float
    seconds: float
    kl_months: Tensor
    kl_factors: Tensor


@dataclass
class Trained:
    """Outcome of training.

    Attributes
    ----------
    epochs : list of Epoch
    stopped : str
        Why training ended: "converged", "max_steps" or "interrupted".
    best_step : int
        Step of the state that was kept.
    """

    epochs: list[Epoch] = field(default_factory=list)
    stopped: str = "max_steps"
    best_step: int = 0


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
        Share of the log weight prior: the window's months over all training months, times the
        warm-up of the weight priors.
    """
    loss: Tensor = elbo.differentiable_loss(model.model, model.guide, batch, kl_weight)
    return loss - share * model.log_weights()


def train(
    model: RVRAE,
    batch: Batch,
    n_train: int,
    config: FitConfig,
    *,
    seed: int = 0,
    elbo: ELBO | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train a model in place and leave it at its best state.

    Every epoch filters once through all months without gradient, which gives the states that
    windows start from and the bound on the validation months, and then takes one gradient step
    a window.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
        Training months followed by validation months, if any.
    n_train : int
        Number of training months.
    config : FitConfig
    seed : int
        Seeds windows and draws; the caller's random stream is left as it was.
    elbo : ELBO, optional
        Any Pyro ELBO; ``Trace_ELBO`` unless told.
    on_epoch : callable, optional
        Called after every epoch.

    Returns
    -------
    Trained

    Raises
    ------
    FitError
        If the bound is not finite; the message names step and site, and the model is left at
        its last good state.
    """
    if not bool(batch.observed[:n_train].any()):
        raise FitError(
            "`train` must hold at least one observed return of a listed asset; got none. "
            "Check the training span and the panel's returns."
        )
    run = _Run(model, batch, n_train, config, elbo)
    devices = [] if batch.returns.device.type == "cpu" else [batch.returns.device]
    with (
        torch.random.fork_rng(devices=devices),
        model.parts.silent() if _is_differentiable(run.elbo) else nullcontext(),
        pyro.settings.context(module_local_params=True),
        pyro.validation_enabled(False),
    ):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        try:
            run.loop(generator, on_epoch)
        except KeyboardInterrupt:
            run.trained.stopped = "interrupted"
            _logger.warning("interrupted at step %d; the best state so far is kept", run.step)
        finally:
            model.parts.load_state_dict(run.best_state)
    return run.trained


def _optimizer(config: FitConfig, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Optimizer over the weights; one fused kernel a step where the class has one."""
    kind = config.optimizer
    if issubclass(kind, (torch.optim.Adam, torch.optim.AdamW)):
        return kind(weights, lr=config.learning_rate, fused=True)
    return kind(weights, lr=config.learning_rate)  # type: ignore[call-arg]


def _is_differentiable(elbo: ELBO) -> bool:
    """Whether an ELBO offers its loss with a gradient, as a tensor."""
    return hasattr(elbo, "differentiable_loss")


class _Run:
    """State of one training run."""

    def __init__(
        self, model: RVRAE, batch: Batch, n_train: int, config: FitConfig, elbo: ELBO | None
    ) -> None:
        self.model, self.batch, self.n_train, self.config = model, batch, n_train, config
        many = config.num_particles > 1
        self.elbo = elbo or Trace_ELBO(
            num_particles=config.num_particles, vectorize_particles=many, max_plate_nesting=2
        )
        weights = [w for w in model.parts.parameters() if w.requires_grad]
        self.optimizer = _optimizer(config, weights)
        self.weights = weights
        self.n_cells = int(batch.observed[:n_train].sum())
        self.has_valid = bool(batch.observed[n_train:].any())
        self.trained = Trained()
        self.rate = config.learning_rate
        self.step, self.started = 0, time.perf_counter()
        self.best, self.stale = -math.inf, 0
        self.best_state = copy.deepcopy(model.parts.state_dict())

    def loop(self, generator: torch.Generator, on_epoch: Callable[[Epoch], None] | None) -> None:
        while True:
            windows = draw_windows(self.n_train, self.config.window, generator)
            starts = [start for start, _ in windows]
            walk = self.model.walk(self.batch, starts)
            epoch = self._report(walk)
            self.trained.epochs.append(epoch)
            if on_epoch is not None:
                on_epoch(epoch)
            if self._judge(epoch) or self.step >= self.config.max_steps:
                return
            carries = walk.carries
            del walk
            for start, stop in windows:
                if self.step >= self.config.max_steps:
                    break
                carry = carries[start] if start else None
                self._take_step(self.batch.window(start, stop, carry), start, stop, len(windows))

    def _take_step(self, window: Batch, start: int, stop: int, n_windows: int) -> None:
        window = self._thin(window)
        if not bool(window.observed.any()):
            return
        share = self._weights_pull() * (stop - start) / self.n_train
        progress = (self.step + 0.5) / self.config.max_steps
        rate = self.rate * self.config.rate_schedule.rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        kl_weight = self._kl_weight(start, stop)
        self.optimizer.zero_grad()
        self._backward(window, kl_weight, share, n_windows / self.n_cells)
        torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
        self.optimizer.step()
        self.step += 1

    def _backward(
        self, window: Batch, kl_weight: float | Tensor, share: float, factor: float
    ) -> None:
        """Leave the gradient of ``factor`` times the window's loss on the weights."""
        if _is_differentiable(self.elbo):
            loss = window_loss(self.model, window, self.elbo, kl_weight, share)
            if not bool(torch.isfinite(loss)):
                raise self._failure(window, kl_weight)
            (loss * factor).backward()
            return
        # RenyiELBO and TraceGraph_ELBO only offer a gradient that they take themselves
        step = self.elbo.loss_and_grads  # type: ignore[attr-defined]
        value = step(self.model.model, self.model.guide, window, kl_weight)
        penalty = -share * self.model.log_weights()
        if not math.isfinite(value) or not bool(torch.isfinite(penalty)):
            raise self._failure(window, kl_weight)
        if penalty.requires_grad:
            penalty.backward()
        for weight in self.weights:
            if weight.grad is not None:
                weight.grad.mul_(factor)

    def _thin(self, window: Batch) -> Batch:
        """Draw a random sub-cross-section, a smaller panel of its own, if so configured."""
        size = self.config.asset_batch
        if size is None or size >= window.n_assets:
            return window
        return window.select(torch.randperm(window.n_assets)[:size].to(window.returns.device))

    def _kl_weight(self, start: int, stop: int) -> float | Tensor:
        weight = self.config.kl_schedule.weight(self.step, self.n_train)
        if isinstance(weight, Tensor):
            weight = weight[start:stop].to(self.batch.returns)
        if self.config.kl_reduction == "mean":
            return weight / (stop - start)
        return weight

    def _report(self, walk: Walk) -> Epoch:
        kl, log_likelihood = month_kl(walk), walk.log_likelihood
        weight = self._kl_weight(0, self.n_train)
        with torch.no_grad():
            log_weights = float(self.model.log_weights())
        bound, n_train = log_likelihood - kl, self.n_train
        return Epoch(
            step=self.step,
            elbo=float(bound[:n_train].sum()),
            log_likelihood=float(log_likelihood[:n_train].sum()),
            kl=float(kl[:n_train].sum()),
            kl_weight=float(torch.as_tensor(weight).mean()),
            log_weights=log_weights,
            valid_elbo=float(bound[n_train:].sum()) if self.has_valid else math.nan,
            seconds=time.perf_counter() - self.started,
            kl_months=kl[:n_train].cpu(),
            kl_factors=marginal_kl(walk)[:n_train].cpu(),
        )

    def _judge(self, epoch: Epoch) -> bool:
        """Keep the best state, slow down when stalled; True when it is time to stop.

        Validation is at full KL weight whatever training's weight was, so states compare from
        the end of the KL's annealing on; nothing counts as a stall while a pull still grows.
        """
        score = epoch.valid_elbo if self.has_valid else math.inf
        if not self.has_valid or score > self.best or not self._kl_is_whole():
            if math.isfinite(epoch.elbo):
                self.best, self.stale = (score if self.has_valid else self.best), 0
                self.best_state = copy.deepcopy(self.model.parts.state_dict())
                self.trained.best_step = epoch.step
            return False
        if self._weights_pull() < 1.0:
            return False
        self.stale += 1
        if self.stale % max(1, self.config.patience // 2) == 0:
            self.rate *= 0.5
        if self.stale >= self.config.patience:
            self.trained.stopped = "converged"
            return True
        return False

    def _weights_pull(self) -> float:
        """Share of the weight priors' pull at this step."""
        rising = self.config.weights_warmup * self.config.max_steps
        return min(1.0, self.step / rising) if rising else 1.0

    def _kl_is_whole(self) -> bool:
        weight = torch.as_tensor(self.config.kl_schedule.weight(self.step, self.n_train))
        return bool((weight >= 1).all())

    def _failure(self, window: Batch, kl_weight: float | Tensor) -> FitError:
        """Name the site whose density is not finite."""
        with torch.no_grad():
            guide = poutine.trace(self.model.guide).get_trace(window, kl_weight)
            model = poutine.trace(poutine.replay(self.model.model, guide)).get_trace(
                window, kl_weight
            )
        bad = []
        for owner, trace in (("guide", guide), ("model", model)):
            trace.compute_log_prob()
            for name, site in trace.nodes.items():
                if site["type"] == "sample" and not bool(torch.isfinite(site["log_prob_sum"])):
                    bad.append(f"{name} ({owner})")
        where = ", ".join(bad) or "the log prior of the weights"
        return FitError(
            f"The ELBO is not finite at step {self.step}: log density of {where} in the months "
            f"{window.times[0]} to {window.times[-1]}. The model is back at its state of step "
            f"{self.trained.best_step}. Lower `learning_rate` or `clip_norm`, and look for "
            "extreme returns in those months."
        )
