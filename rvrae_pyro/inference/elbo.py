"""The per-timestep KL-annealed ELBO, an ordinary Pyro ELBO."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, check_count, check_number
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.schedules import Linear, Schedule
from rvrae_pyro.names import TIME

__all__ = ["AnnealedELBO"]

_LEAST = 1e-6
"""Smallest scale of a site, which Pyro requires to be positive, in the first step of a warm-up."""


class AnnealedELBO(ELBO):
    r"""Evidence lower bound whose KL has a weight for every gradient step and every month.

    .. math::
        \mathcal L_s = \sum_t \left\{\mathbb E_q \log p(r_t \mid z_{\le t})
        - w_{s,t}\, \mathrm{KL}\big(q(z_t \mid z_{<t}, r)\,\Vert\,p(z_t \mid z_{<t})\big)\right\}

    A schedule gives :math:`w_{s,t}` for gradient step s and month t. It ends at 1, where the
    objective is the ELBO itself. Every evaluation with gradient counts as one step;
    :meth:`loss`, for evaluation, is the negative ELBO at weight 1. All months share one weight
    unless the schedule varies it (``Linear(profile=...)``).

    Parameters
    ----------
    schedule : Schedule, optional
        KL weights over steps and months. Default: ``rv.schedules.Linear()``; ``rv.fit`` takes
        ``FitConfig.kl_schedule``.
    reduction : {"sum", "mean"}
        ``"mean"`` divides the weights by the number of training months T, as the paper's
        eq. (31): **not a bound**, an ablation.
    estimator : pyro.infer.ELBO, optional
        Any Pyro ELBO, which estimates the objective. Default: ``Trace_ELBO(**options)``.
    n_times : int, optional
        Training months T, of which a batch may be a window (``Batch.first`` is its
        position). Default: the months of the batch.
    weights_warmup : float
        Steps over which the weight of latents outside the plate ``time``, such as network weights
        with a posterior, rises from 0 to 1. Default: 0.
    **options
        Passed to ``Trace_ELBO``: ``num_particles``, ``vectorize_particles``,
        ``max_plate_nesting``.

    Attributes
    ----------
    step : int
        Gradient steps so far; assign to it to resume a schedule.

    Raises
    ------
    ConfigError
        If an argument is outside its range, ``options`` come with an ``estimator``, or the
        objective is called with more than a batch.

    Notes
    -----
    ``model`` and ``guide`` take ``(batch, kl_weight)``, as those of :class:`rvrae_pyro.RVRAE` and
    :class:`rvrae_pyro.literal.RVRAE` do; the weights of the batch's months are passed as
    ``kl_weight``, a tensor of shape (n_times,), and the pair scales the latents of each month by
    them, in model and guide alike (``_weighted`` in ``rvrae_pyro/models/pair.py``). The guide
    ``Conjugate`` also divides its precision by the weight, the optimum under it.
    A batch that is a window of the training months takes its share of the divergence of
    latents outside the plate ``time``, which a panel pays once.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (30), (31).
    Bowman et al. (2016), CoNLL: KL annealing. Li et al. (2020), arXiv 2011.01136: TWR-VAE.

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> elbo = rv.elbo.AnnealedELBO(rv.schedules.Linear(start=0.1, steps=200))
    >>> elbo.weight(n_times=3)
    tensor([0.1000, 0.1000, 0.1000], dtype=torch.float64)
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        reduction: Literal["sum", "mean"] = "sum",
        *,
        estimator: ELBO | None = None,
        n_times: int | None = None,
        weights_warmup: float = 0.0,
        **options: Any,
    ) -> None:
        if estimator is not None and options:
            raise ConfigError(
                f"`estimator` has its options; got {', '.join(options)} in addition. Pass "
                f"them to {type(estimator).__name__}."
            )
        weigh = getattr(schedule, "weight", None)
        if schedule is not None and (isinstance(schedule, type) or not callable(weigh)):
            raise ConfigError(
                f"`schedule` must have a method `weight`; got {schedule!r:.80}. Pass an instance, "
                "such as rv.schedules.Linear(steps=200)."
            )
        if not (estimator is None or isinstance(estimator, ELBO)):
            raise ConfigError(
                f"`estimator` must be a pyro.infer.ELBO; got {estimator!r:.80}. Pass an instance, "
                "such as Trace_ELBO()."
            )
        if isinstance(estimator, AnnealedELBO):
            raise ConfigError("`estimator` must not be annealed itself; pass its `estimator`.")
        if reduction not in ("sum", "mean"):
            raise ConfigError(f"`reduction` must be 'sum' or 'mean', got {reduction!r}.")
        if n_times is not None:
            check_count("n_times", n_times)
        self.schedule: Schedule = Linear() if schedule is None else schedule
        self.reduction, self.n_times = reduction, n_times
        self.weights_warmup = check_number("weights_warmup", weights_warmup, "[0, inf)")
        self.given, self.options = estimator, options
        self.estimator: ELBO = Trace_ELBO(**options) if estimator is None else estimator
        self.step = 0
        super().__init__(  # type: ignore[no-untyped-call]
            num_particles=self.estimator.num_particles,
            vectorize_particles=self.estimator.vectorize_particles,
        )

    @classmethod
    def of(cls, config: FitConfig, n_times: int, elbo: ELBO | None = None) -> AnnealedELBO:
        """Build the objective of a configuration, for windows of ``n_times`` training months.

        Parameters
        ----------
        config : FitConfig
            Schedule, reduction, warm-up and, without an ``elbo``, particles.
        n_times : int
        elbo : ELBO, optional
            Estimator; an ``AnnealedELBO`` decides schedule, reduction and particles itself.
        """
        config, estimator = settle(config, elbo)
        options = {}
        if estimator is None:
            many = config.num_particles > 1
            options = {
                "num_particles": config.num_particles,
                "vectorize_particles": many,
                "max_plate_nesting": 2,
            }
        return cls(
            config.kl_schedule,
            config.kl_reduction,
            estimator=estimator,
            n_times=n_times,
            weights_warmup=config.weights_warmup * config.max_steps,
            **options,
        )

    @property
    def differentiable(self) -> bool:
        """True if the estimator gives a differentiable loss; some only take their own gradient."""
        return hasattr(self.estimator, "differentiable_loss")

    @property
    def annealed(self) -> bool:
        """True if a weight is still below its final value at this step."""
        if self._global_weight() < 1.0:
            return True
        weight = self.schedule.weight(self.step, self.n_times or 1)
        return not bool((torch.as_tensor(weight) >= 1).all())

    def weight(self, n_times: int, first: int = 0) -> Tensor:
        """KL weights at this step, of shape (n_times,) in double precision.

        Parameters
        ----------
        n_times : int
            Months of the batch.
        first : int
            Position of its first month among the training months.
        """
        total = self._total(n_times, first)
        weight = torch.as_tensor(self.schedule.weight(self.step, total), dtype=torch.float64)
        if weight.ndim:
            weight = weight[first : first + n_times]
        if self.reduction == "mean":
            weight = weight / total
        return weight.expand(n_times)

    def share(self, n_times: int, first: int = 0) -> float:
        """Share of a batch in terms that the training span pays once; arguments as for `weight`."""
        return self._global_weight() * n_times / self._total(n_times, first)

    def loss(self, model: Any, guide: Any, batch: Batch, *args: Any, **kwargs: Any) -> float:
        """Negative ELBO at weight 1, for evaluation; counts no step."""
        _alone(args, kwargs)
        ones = batch.returns.new_ones(batch.n_times)
        value: float = self.estimator.loss(model, guide, batch, ones)  # type: ignore[attr-defined]
        return value

    def differentiable_loss(
        self, model: Any, guide: Any, batch: Batch, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Negative annealed objective of a batch, in nats.

        Raises
        ------
        ConfigError
            For an estimator without a differentiable loss.
        """
        _alone(args, kwargs)
        if not self.differentiable:
            raise ConfigError(
                f"`estimator` {type(self.estimator).__name__} has no differentiable loss. Use "
                "SVI(model, guide, optimizer, elbo).step(batch), or rv.fit."
            )
        loss: Tensor = self._evaluate(
            self.estimator.differentiable_loss,  # type: ignore[attr-defined]
            model,
            guide,
            batch,
        )
        return loss

    def loss_and_grads(
        self, model: Any, guide: Any, batch: Batch, *args: Any, **kwargs: Any
    ) -> float:
        """Negative annealed objective of a batch; adds its gradient to the parameters'."""
        _alone(args, kwargs)
        loss: float = self._evaluate(
            self.estimator.loss_and_grads,  # type: ignore[attr-defined]
            model,
            guide,
            batch,
        )
        return loss

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """Trace of guide and model, as the estimator takes it."""
        return self.estimator._get_trace(model, guide, args, kwargs)

    def _evaluate(self, objective: Callable[..., Any], model: Any, guide: Any, batch: Batch) -> Any:
        like = batch.returns
        weight = self.weight(batch.n_times, self._first(batch)).to(like.device, like.dtype)
        share = self.share(batch.n_times, self._first(batch))
        with nullcontext() if share == 1.0 else _GlobalShare(max(share, _LEAST)):
            value = objective(model, guide, batch, weight)
        if torch.is_grad_enabled():
            self.step += 1
        return value

    def _first(self, batch: Batch) -> int:
        """Position of a batch among the training months; the batch is all where T is not given."""
        return 0 if self.n_times is None else batch.first

    def _total(self, n_times: int, first: int) -> int:
        total = n_times if self.n_times is None else self.n_times
        if not 0 <= first <= total - n_times:
            raise ConfigError(
                f"`batch` must lie within the {total} training months that `n_times` states; got "
                f"months {first} to {first + n_times - 1}."
            )
        return total

    def _global_weight(self) -> float:
        """Weight at this step of latents outside the plate ``time``, and of weight priors."""
        return min(1.0, self.step / self.weights_warmup) if self.weights_warmup else 1.0


def settle(config: FitConfig, elbo: ELBO | None) -> tuple[FitConfig, ELBO | None]:
    """Return the configuration and the estimator that an ``elbo``, annealed or not, amounts to."""
    if not isinstance(elbo, AnnealedELBO):
        return config, elbo
    config = replace(config, kl_schedule=elbo.schedule, kl_reduction=elbo.reduction)
    if elbo.given is not None:
        return config, elbo.given
    return replace(config, num_particles=elbo.num_particles), None


def _alone(args: Any, kwargs: Any) -> None:
    if args or kwargs:
        raise ConfigError(
            "AnnealedELBO sets `kl_weight` from its schedule; call it with the batch alone, or use "
            "Trace_ELBO with a `kl_weight`."
        )


class _GlobalShare(Messenger):
    """Effect handler that scales the latents outside the plate ``time``.

    The bound of a panel has their divergence once. Cut into windows, each window's bound has a
    share of it; without that, every step would shrink network weights as if the window were all
    the data.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def _pyro_sample(self, msg: Any) -> None:
        inside = any(frame.name == TIME for frame in msg["cond_indep_stack"])
        if not msg["is_observed"] and not inside:
            msg["scale"] = self.share * msg["scale"]
