"""Filtering variational objective: a particle filter's evidence as the bound to train on."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.inference.particle_filter import Cloud
from rvrae_pyro.models.hand_over import Shared
from rvrae_pyro.models.pair import month_weights, shared_parts
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.models.scan import at_level
from rvrae_pyro.nn.gaussian import Potential


class FIVO(Trace_ELBO):
    r"""Bound on the evidence by a particle filter: ``E log prod_t mean_i w_t^i <= log p(r)``.

    Particles that explain a month badly are dropped before the next, so the bound tightens with
    the number of particles month by month, where importance weights of whole paths
    (``RenyiELBO(alpha=0)``) degenerate with their length. Particles propose as the conjugate
    guide does, each from its own past; with a decoder in between, half of them from the guide
    and half from the prior.

    Parameters
    ----------
    num_particles : int
        1 gives the ELBO of such a proposal.

    Notes
    -----
    The gradient leaves out the choice of survivors, whose score term is nearly all noise: it is
    that of the weights given the choice. A KL weight below 1 tempers the weights' ratio of
    prior to proposal, as it does the ELBO's; at weight 1 the objective is the bound itself.
    Costs a filter's pass with gradient, O(num_particles n_assets n_factors) per month.

    References
    ----------
    Maddison et al. (2017), arXiv 1705.09279; Naesseth et al. (2018), arXiv 1705.11140; Le et al.
    (2018), arXiv 1705.10306.

    Examples
    --------
    ``rv.fit(model, train, valid, elbo=rv.inference.FIVO(num_particles=8))``
    """

    def __init__(self, num_particles: int = 8) -> None:
        check_count("num_particles", num_particles)
        super().__init__(num_particles=1, max_plate_nesting=2)  # type: ignore[no-untyped-call]
        self.size = num_particles

    def differentiable_loss(
        self, model: Any, guide: Any, batch: Batch, kl_weight: float | Tensor = 1.0
    ) -> Tensor:
        """Negative bound of a batch in nats, a scalar with gradient.

        Parameters
        ----------
        model, guide : PyroModule
            ``model.model`` and ``model.guide`` of one RVRAE.
        batch : Batch
        kl_weight : float or Tensor of shape (n_times,)

        Raises
        ------
        ConfigError
            If the two are not a pair, or weights have a posterior.
        """
        parts = shared_parts(model, guide)
        if parts.weight_guide.sites:
            raise ConfigError(
                "FIVO takes weights as they are, and "
                f"{parts.weight_guide.sites[0].name!r} has a posterior. Build its "
                "prior with inference='map' or give a number, or train with Trace_ELBO or "
                "RenyiELBO(alpha=0)."
            )
        parts.declare()
        weight = month_weights(kl_weight, batch)
        cloud = _TemperedCloud(parts, batch, self.size, parts.prepare(batch), weight)
        for t in range(batch.n_times):
            cloud.step(t)
        return -torch.stack(cloud.log_evidence).sum()

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Negative bound, a number."""
        return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Negative bound, with its gradient added to the weights'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())


class _TemperedCloud(Cloud):
    """Particles whose ratio of prior to proposal counts with the month's KL weight."""

    def __init__(
        self, parts: Parts, batch: Batch, num_particles: int, shared: Shared, kl_weight: Tensor
    ) -> None:
        super().__init__(parts, batch, num_particles, None, 0, shared)
        self.kl_weight = kl_weight

    def _propose(
        self, t: int, ahead: Transition, level: Tensor | None, log_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        weight = self.kl_weight[t]
        if bool(weight == 1):
            return super()._propose(t, ahead, level, log_weight)
        month = Potential(self.cross.potential.precision[t], self.cross.potential.shift[t])
        codes, log_q = self._candidate(t, ahead, at_level(month, level).tempered(weight))
        ratio = log_weight + ahead.log_prob(codes) - log_q
        return codes, weight * ratio + self._log_density(t, codes, level), None
