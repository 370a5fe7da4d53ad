"""One way to draw a path: auxiliary latent, then codes, with the prior met on the way.

Guide, filter pass, importance sampling and streamed training all draw here, and read the result
as explicit values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models.guides import Guide, PriorView
from rvrae_pyro.models.path_distributions import AuxiliaryPath, FilteredPath, PriorPath
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.names import FACTORS
from rvrae_pyro.nn.gaussian import Potential

Sample = Callable[[str, dist.TorchDistribution], Tensor]
"""Draw the site of a name from a distribution; ``pyro.sample`` in a guide."""


@dataclass(frozen=True)
class AuxiliaryDraw:
    """The auxiliary latent of a path.

    Attributes
    ----------
    site : str
    value : Tensor of shape (*particles, n_times, 1, size)
        As the site has it.
    proposal : TorchDistribution
    prior : Transition
        p(x_t | x_{t-1}) along the draw.
    """

    site: str
    value: Tensor
    proposal: dist.TorchDistribution
    prior: Transition

    @property
    def path(self) -> Tensor:
        """Values of shape (*particles, n_times, size)."""
        return self.value.squeeze(-2)


@dataclass(frozen=True)
class PathDraw:
    """A draw of the guide, and the prior along it.

    Attributes
    ----------
    view : PriorView
        With the auxiliary latent given, where there is one.
    value : Tensor of shape (*particles, n_times, 1, n_factors)
        Codes, as the site has them.
    proposal : TorchDistribution
        The guide's distribution of the codes.
    prior : Transition
        p(z_t | h_{t-1}) along the draw.
    level : Tensor of shape (*particles, n_times) or None
        Log multiplier of the idiosyncratic scales along the draw.
    auxiliary : AuxiliaryDraw or None
    """

    view: PriorView
    value: Tensor
    proposal: dist.TorchDistribution
    prior: Transition
    level: Tensor | None
    auxiliary: AuxiliaryDraw | None

    @property
    def codes(self) -> Tensor:
        """Codes of shape (*particles, n_times, n_factors)."""
        return self.value.squeeze(-2)

    def log_q(self) -> Tensor:
        """Log density (*particles, n_times) of all latents of the time plate under the guide."""
        density: Tensor = self.proposal.log_prob(self.value).squeeze(-1)
        if self.auxiliary is None:
            return density
        return density + self.auxiliary.proposal.log_prob(self.auxiliary.value).squeeze(-1)

    def log_prior(self) -> Tensor:
        """Log density (*particles, n_times) of all latents of the time plate under the model."""
        density = self.prior.log_prob(self.codes)
        if self.auxiliary is None:
            return density
        return density + self.auxiliary.prior.log_prob(self.auxiliary.path)


def draw_path(
    guide: Guide,
    months: Batch,
    view: PriorView,
    potential: Potential,
    kl_weight: Tensor,
    *,
    particles: tuple[int, ...] = (),
    sample: Sample | None = None,
) -> PathDraw:
    """Draw from the guide, and find the prior along the draw.

    Parameters
    ----------
    guide : Guide
    months : Batch
        Its characteristics are not read.
    view : PriorView
    potential : Potential
        Quadratic log-likelihood of every month.
    kl_weight : Tensor of shape (n_times,)
        Weight of each month's KL under which the guide answers.
    particles : tuple of int
        Draws of the path.
    sample : Sample, optional
        Default: a reparametrised draw with torch's global random stream.
    """
    draw = sample or (lambda _, proposal: proposal.rsample())
    shape = torch.Size((*particles, months.n_times, 1))

    def expanded(proposal: dist.TorchDistribution) -> dist.TorchDistribution:
        return proposal.expand(shape) if particles else proposal

    auxiliary, latent = None, view.prior.auxiliary
    if latent is not None:
        proposal = expanded(guide.auxiliary(months, potential, view, kl_weight))
        value = draw(latent.site, proposal)
        ahead = _met(proposal, value)
        if ahead is None:
            path = PriorPath(latent, months.n_times, view.latent_context, view.latent_state)
            ahead = path.along(value)[0]
        auxiliary = AuxiliaryDraw(latent.site, value, proposal, ahead)
        view = view.given(value, proposal)
    proposal = expanded(guide(months, potential, view, kl_weight))
    value = draw(FACTORS, proposal)
    if auxiliary is not None and isinstance(auxiliary.proposal, AuxiliaryPath):
        auxiliary.proposal.given_factors(value)
    prior, level = along_prior(view, value, proposal)
    return PathDraw(view, value, proposal, prior, level, auxiliary)


def along_prior(
    view: PriorView, value: Tensor, proposal: object = None
) -> tuple[Transition, Tensor | None]:
    """Prior and level of every month along codes.

    Parameters
    ----------
    view : PriorView
    value : Tensor of shape (*particles, n_times, 1, n_factors)
    proposal : TorchDistribution, optional
        The distribution that the codes were drawn from, which may have met the prior on its way.
    """
    if view.walk is not None:
        return view.walk.prior, view.walk.level
    if isinstance(proposal, FilteredPath) and proposal.drawn is not None:
        drawn, walk, _ = proposal.drawn
        if drawn is value:
            return walk.prior, walk.level
    n_times = value.shape[-3]
    return PriorPath(view.prior, n_times, view.context, view.state).along(value)


def _met(proposal: object, value: Tensor) -> Transition | None:
    """Prior of an auxiliary latent that its proposal met on its way."""
    if isinstance(proposal, AuxiliaryPath) and proposal.drawn is not None:
        drawn, walk, _ = proposal.drawn
        if drawn is value and walk.auxiliary is not None:
            return walk.auxiliary.prior
    return None
