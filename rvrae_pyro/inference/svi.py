"""Stochastic variational inference on windows of months."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.infer import ELBO

from rvrae_pyro.data.batch import Batch, Carry
from rvrae_pyro.errors import FitError
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.elbo import AnnealedELBO
from rvrae_pyro.inference.epochs import BackOff, Epoch, Keep, State, Trained
from rvrae_pyro.inference.gradients import BrokenBound, OnePanel, Slopes, Task
from rvrae_pyro.inference.kl import marginal_kl, month_kl
from rvrae_pyro.inference.windows import draw_windows
from rvrae_pyro.models.filter_pass import Walk
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.nn.seeding import seeded

_EPOCH_SEED = 0
"""Seed of the weights that epochs are judged at."""

_logger = logging.getLogger(__name__)

_SLOWER = 0.3
"""Factor on the learning rate when the bound breaks."""

_UNCHECKED = dict.fromkeys(
    (
        "validate_distributions_pyro",
        "validate_distributions_torch",
        "validate_infer",
        "validate_poutine",
    ),
    False,
)
"""Validation, which doubles the time of a step; each flag separately, so that all are restored."""

_TRIES = 5
"""Times in a row that training goes back to its last good epoch before it gives up."""

_EXPLODED = 10.0
"""Nats a return by which the objective may fall below its best: a sound run never comes near."""


def train(
    model: RVRAE,
    batch: Batch,
    n_train: int,
    config: FitConfig,
    *,
    seed: int = 0,
    elbo: ELBO | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
    resume: State | None = None,
    keep: Keep | None = None,
    slopes: Slopes | None = None,
) -> Trained:
    """Train a model in place and leave it at its best state.

    Every epoch filters once through all months without gradient, which gives the states that
    windows start from and the bound on the validation months, and then takes one gradient step
    a window, in ``config.passes`` passes. Where the bound breaks (not finite, or far below its
    was), training goes back to the last good epoch with a lower rate and other draws.

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
        Any Pyro ELBO, annealed as ``config`` states; an
        :class:`~rvrae_pyro.inference.elbo.AnnealedELBO` has its own schedule and reduction.
        Default: ``Trace_ELBO``.
    on_epoch : callable, optional
        Called after every epoch; True ends training. Its errors end training, too, and are raised
        again with the model at its best state.
    resume : State, optional
        State given to ``keep`` by a run of the same arguments: training resumes from there, to
        the bits of a run that was never stopped.
    keep : Keep, optional
        Called at the start of every epoch, and once more at the end.
    slopes : Slopes, optional
        Where gradients come from. Default: the batch, by ``elbo``. ``batch`` may then have
        months and no asset.

    Returns
    -------
    Trained

    Raises
    ------
    FitError
        If the bound breaks again and again; the message names step and site, and the model is
        left at its best state.
    """
    objective = AnnealedELBO.of(config, n_train, elbo)
    if slopes is None:
        slopes = OnePanel(model, batch, objective, config.asset_batch)
    if not slopes.n_observed(0, n_train):
        raise FitError(
            "`train` must hold at least one observed return of a listed asset; got none. "
            "Check the training span and the panel's returns."
        )
    run = _Run(model, slopes, n_train, config, objective)
    with (
        seeded(seed),
        run.slopes.quiet(),
        pyro.settings.context(module_local_params=True, **_UNCHECKED),
    ):
        run.generator.manual_seed(seed)
        if resume is not None:
            run.restore(resume)
        try:
            run.loop(on_epoch, keep)
        except KeyboardInterrupt:
            if not run.trained.epochs:
                raise
            run.trained.stopped = "interrupted"
            _logger.warning("interrupted at step %d; the model is left at its best state", run.step)
        finally:
            model.parts.load_state_dict(run.best_state)
    return run.trained


def _optimizer(config: FitConfig, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Optimizer over the weights; one fused kernel a step where the class has one."""
    kind = config.optimizer
    if issubclass(kind, (torch.optim.Adam, torch.optim.AdamW)):
        return kind(weights, lr=config.learning_rate, fused=True)
    return kind(weights, lr=config.learning_rate)  # type: ignore[call-arg]


class _Run:
    """State of one training run."""

    def __init__(
        self, model: RVRAE, slopes: Slopes, n_train: int, config: FitConfig, elbo: AnnealedELBO
    ) -> None:
        self.model, self.slopes, self.n_train, self.config = model, slopes, n_train, config
        self.elbo = elbo
        weights = [w for w in model.parts.parameters() if w.requires_grad]
        self.optimizer = _optimizer(config, weights)
        self.weights = weights
        self.n_cells = slopes.n_observed(0, n_train)
        self.has_valid = slopes.n_observed(n_train) > 0
        self.trained = Trained()
        self.rate = config.learning_rate
        self.step, self.started = 0, time.perf_counter()
        self.best, self.stale = -math.inf, 0
        self.best_state = copy.deepcopy(model.parts.state_dict())
        self.generator = torch.Generator()
        self.good, self.failures, self.done = self._snapshot(), 0, False

    def loop(self, on_epoch: Callable[[Epoch], object] | None, keep: Keep | None) -> None:
        while not self.done:
            if keep is not None:
                keep(self.state)
            try:
                self._epoch(on_epoch)
            except (BrokenBound, torch.linalg.LinAlgError) as failure:  # type: ignore[attr-defined]
                self._back_off(failure)
        if keep is not None:
            keep(self.state)

    def _epoch(self, on_epoch: Callable[[Epoch], object] | None) -> None:
        """Look at all months, judge the state, and take one step a window."""
        passes = range(self.config.passes)
        cuts = [draw_windows(self.n_train, self.config.window, self.generator) for _ in passes]
        windows = [(start, stop, len(cut)) for cut in cuts for start, stop in cut]
        self.elbo.step = self.step
        walk, log_weights = self._walk(list(dict.fromkeys(start for start, _, _ in windows)))
        epoch = self._report(walk, log_weights)
        self._refuse_broken(epoch)
        if self.failures and self.trained.epochs and self.trained.epochs[-1].step == self.step:
            self.trained.epochs.pop()  # it reported the state that training went back to
        self.trained.epochs.append(epoch)
        ended = self._judge(epoch)
        if on_epoch is not None and on_epoch(epoch) is True and not ended:
            self.trained.stopped, ended = "callback", True
        if ended or self.step >= self.config.max_steps:
            self.done = True
            return
        if self.step > self.good["step"]:
            self.failures = 0
        self.good = self._snapshot()
        carries = walk.carries
        del walk
        for start, stop, n_windows in windows:
            if self.step >= self.config.max_steps:
                break
            self._take_step(start, stop, carries[start] if start else None, n_windows)

    def state(self) -> State:
        """Resumable training state, fixed during a run."""
        device = self.slopes.device
        streams = {"windows": self.generator.get_state(), "draws": torch.get_rng_state()}
        if device.type == "cuda":
            streams["device"] = torch.cuda.get_rng_state(device)
        return {
            "weights": copy.deepcopy(self.model.parts.state_dict()),
            "best_weights": self.best_state,
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "good": self.good,
            "streams": streams,
            "trained": self.trained.state(),
            "step": self.step,
            "rate": self.rate,
            "best": self.best,
            "stale": self.stale,
            "failures": self.failures,
            "done": self.done,
            "seconds": time.perf_counter() - self.started,
        }

    def restore(self, state: State) -> None:
        """Resume from :meth:`state`, in this or another process."""
        self.model.parts.load_state_dict(state["weights"])
        self.best_state = copy.deepcopy(dict(state["best_weights"]))
        self.optimizer.load_state_dict(copy.deepcopy(dict(state["optimizer"])))
        self.good = copy.deepcopy(dict(state["good"]))
        self.trained = Trained.from_state(state["trained"])
        for name in ("step", "rate", "best", "stale", "failures", "done"):
            setattr(self, name, state[name])
        self.started = time.perf_counter() - state["seconds"]
        self.generator.set_state(state["streams"]["windows"])
        torch.set_rng_state(state["streams"]["draws"])
        if "device" in state["streams"]:
            torch.cuda.set_rng_state(state["streams"]["device"], self.slopes.device)

    def _snapshot(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "weights": copy.deepcopy(self.model.parts.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
        }

    def _back_off(self, failure: Exception) -> None:
        """Return to the last good epoch and go slower from there; give up after many tries."""
        self.failures += 1
        reason = str(failure)
        if not isinstance(failure, BrokenBound):
            reason = f"A month's matrix cannot be factored at step {self.step}: {reason}."
        if self.failures > _TRIES:
            raise FitError(
                f"{reason} Going back to the last good epoch with a lower learning rate did not "
                f"help, {_TRIES} times in a row. The model is back at its state of step "
                f"{self.trained.best_step}. Lower `learning_rate` or `clip_norm`, and look for "
                "extreme returns in those months."
            ) from failure
        self.rate *= _SLOWER
        broke_at = self.step
        self.step = self.good["step"]
        self.model.parts.load_state_dict(self.good["weights"])
        if self.failures == 1:
            self.optimizer.load_state_dict(copy.deepcopy(self.good["optimizer"]))
        else:  # the optimiser's memory may cause the divergence
            self.optimizer = _optimizer(self.config, self.weights)
        self.trained.backoffs.append(BackOff(broke_at, self.step, self.rate, reason))
        _logger.warning("%s Back to step %d, highest rate %g.", reason, self.step, self.rate)

    def _refuse_broken(self, epoch: Epoch) -> None:
        """Raise where the bound of an epoch is not finite or has exploded."""
        known = [epoch.elbo] + [epoch.valid_elbo] * self.has_valid
        if not all(map(math.isfinite, known)):
            raise BrokenBound(f"The ELBO is not finite at step {self.step}.")
        weight = min(1.0, epoch.kl_weight)
        past = [e.log_likelihood - weight * e.kl for e in self.trained.epochs]
        fall = max(past, default=-math.inf) - (epoch.log_likelihood - weight * epoch.kl)
        if fall > _EXPLODED * self.n_cells:
            raise BrokenBound(
                f"The ELBO exploded at step {self.step}: {fall / self.n_cells:.3g} nats per return "
                "below its best."
            )

    def _walk(self, starts: Sequence[int]) -> tuple[Walk, float]:
        """Filter at one draw of the weights; also their log density, or log prior over guide."""
        model = self.model
        with torch.no_grad():
            log_weights = model.log_weights()
            if not model.drawn_sites:
                return self.slopes.walk(model, starts), float(log_weights)
            # every epoch sees the same noise, so that epochs differ by their weights only
            with seeded(_EPOCH_SEED):
                drawn = model.draw_weights()
            log_weights = log_weights + model.parts.weight_guide.log_ratio(model.parts, drawn)
        return self.slopes.walk(model.at(drawn), starts), float(log_weights)

    def _take_step(self, start: int, stop: int, carry: Carry | None, n_windows: int) -> None:
        self.elbo.step = self.step
        months = stop - start
        kl_weight, share = self.elbo.weight(months, start), self.elbo.share(months, start)
        kl_weight = kl_weight.to(self.slopes.device, self.config.dtype)
        task = Task(start, stop, carry, kl_weight, share, self.step)
        progress = (self.step + 0.5) / self.config.max_steps
        rate = self.rate * self.config.rate_schedule.rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        if not self.slopes.descend(task, n_windows / self.n_cells):
            return  # the window holds no return
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise BrokenBound(
                f"The gradient of the ELBO is not finite at step {self.step}, in months "
                f"{start} to {stop - 1} of training."
            )
        self.optimizer.step()
        self.step += 1

    def _report(self, walk: Walk, log_weights: float) -> Epoch:
        kl, log_likelihood = month_kl(walk), walk.log_likelihood
        bound, n_train = log_likelihood - kl, self.n_train
        return Epoch(
            step=self.step,
            elbo=float(bound[:n_train].sum()),
            log_likelihood=float(log_likelihood[:n_train].sum()),
            kl=float(kl[:n_train].sum()),
            kl_weight=float(self.elbo.weight(n_train).mean()),
            log_weights=log_weights,
            valid_elbo=float(bound[n_train:].sum()) if self.has_valid else math.nan,
            seconds=time.perf_counter() - self.started,
            kl_months=kl[:n_train].cpu(),
            kl_factors=marginal_kl(walk)[:n_train].cpu(),
        )

    def _judge(self, epoch: Epoch) -> bool:
        """Keep the best state, slow down when stalled; True when it is time to stop.

        States only compare once KL and weight priors pull in full: before, validation favours
        those in which what learns slowly, such as volatility, has not been learned yet.
        """
        score = epoch.valid_elbo if self.has_valid else math.inf
        if not self.has_valid or score > self.best or self.elbo.annealed:
            if math.isfinite(epoch.elbo):
                self.best, self.stale = (score if self.has_valid else self.best), 0
                self.best_state = copy.deepcopy(self.model.parts.state_dict())
                self.trained.best_step = epoch.step
            return False
        self.stale += 1
        if self.stale % max(1, self.config.patience // 2) == 0:
            self.rate *= 0.5
        if self.stale >= self.config.patience:
            self.trained.stopped = "converged"
            return True
        return False
