"""Guides q(z_1:T | r): how the posterior of the factors is proposed.

All are *filtering* guides unless their name says otherwise: month t's factors are proposed from
returns up to month t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.models.hyperguides import HyperGuide, MeanField, MultivariateNormal
from rvrae_pyro.models.part import Part
from rvrae_pyro.models.path_distributions import (
    AuxiliaryPath,
    FilteredPath,
    IndependentPath,
    JointPath,
)
from rvrae_pyro.models.priors import FactorPrior
from rvrae_pyro.models.priors.base import Updated
from rvrae_pyro.models.scan import Scan, at_level
from rvrae_pyro.models.weights import WeightPrior
from rvrae_pyro.nn.gaussian import Dispersion, Posterior, Potential
from rvrae_pyro.nn.month_summary import month_features
from rvrae_pyro.nn.sequences import by_month, rnn_weights

__all__ = [
    "Conjugate",
    "Guide",
    "HyperGuide",
    "MeanField",
    "MultivariateNormal",
    "PriorView",
    "Recurrent",
    "Smoothing",
]


@dataclass(frozen=True)
class PriorView:
    """The factor prior as a guide may know it.

    Attributes
    ----------
    prior : FactorPrior
    context : Tensor of shape (*particles, n_times, n_features) or None
        The month's context as the prior's ``encode`` left it, followed by the prior's auxiliary
        latent once that is drawn.
    state : tuple of Tensor
        State before the first month.
    walk : Scan or None
        For an observed recurrence: prior and posterior of every month, already known.
    latent_context : Tensor of shape (n_times, n_features) or None
        Context of the prior's auxiliary latent, if it has one.
    latent_state : tuple of Tensor
        State of the auxiliary latent before the first month; empty for none.
    dispersion : Dispersion or None
        What each month's returns tell of the common idiosyncratic scale, for a prior that reads
        it (``FactorPrior.reads_dispersion``); the potential is then at its level.
    joint : JointPath or None
        The draw of auxiliary latent and factors together, once the former is sampled.
    """

    prior: FactorPrior
    context: Tensor | None
    state: State
    walk: Scan | None
    latent_context: Tensor | None = None
    latent_state: State = ()
    dispersion: Dispersion | None = None
    joint: JointPath | None = None

    def given(self, latent: Tensor, proposal: object = None) -> PriorView:
        """View of the prior once its auxiliary latent is sampled.

        Parameters
        ----------
        latent : Tensor of shape (*particles, n_times, 1, size)
            As the site has it.
        proposal : TorchDistribution, optional
            What it was drawn from.
        """
        joint = getattr(proposal, "joint", None)
        if joint is not None and joint.value is not latent:
            joint = None
        return replace(
            self, context=self.prior.drive(self.context, latent.squeeze(-2)), joint=joint
        )

    def filtered_path(self, potential: Potential, dispersion: Dispersion | None) -> FilteredPath:
        """Path of the factors, each month's prior updated by a potential."""
        return FilteredPath(self.prior, potential, self.context, self.state, dispersion, self.joint)

    def auxiliary_path(
        self, potential: Potential, dispersion: Dispersion | None, *, together: bool
    ) -> AuxiliaryPath:
        """Path of the auxiliary latent; see ``AuxiliaryPath``."""
        return AuxiliaryPath(
            self.prior,
            potential,
            dispersion,
            self.context,
            self.state,
            self.latent_context,
            self.latent_state,
            together,
        )

    def tempered(self, potential: Potential, weight: Tensor) -> tuple[Potential, Dispersion | None]:
        """Potential and dispersion under a KL weight (n_times,)."""
        dispersion = None if self.dispersion is None else self.dispersion.tempered(weight)
        return potential.tempered(weight), dispersion


class Guide(Part):
    """Base of guides: ``forward`` returns the distribution of the ``factors`` site.

    Attributes
    ----------
    needs_affine_decoder : bool
        True where the proposal is only defined if factors are affine in the code.
    """

    needs_affine_decoder: bool = False
    weights: WeightPrior | None = None

    def forward(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Propose the whole path.

        Parameters
        ----------
        batch : Batch
            Returns of month t may enter month t's proposal and later ones.
        potential : Potential
            Quadratic log-likelihood of every month, batch shape (n_times,), or (*particles,
            n_times) where weights are latents: all that the cross-section says of the factors,
            whatever the number and order of assets.
        view : PriorView
        kl_weight : Tensor of shape (n_times,)
            Weight of each month's KL in the objective.

        Returns
        -------
        TorchDistribution
            Batch shape (n_times, 1), with the potential's particles in front; event shape
            (n_factors,).
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs a method `forward(batch, potential, view, kl_weight)`."
        )

    def auxiliary(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Propose the path of the prior's auxiliary latent, before the factors.

        Arguments as for ``forward``. By default month by month: the latent's prior updated by the
        month's cross-section, past factors being represented by their posterior means.

        Returns
        -------
        TorchDistribution
            Batch shape (n_times, 1), event shape (size of the latent,).
        """
        return view.auxiliary_path(*view.tempered(potential, kl_weight), together=False)

    def carry(self, batch: Batch, potential: Potential, starts: Sequence[int]) -> dict[int, State]:
        """State before each of some months; empty for a guide without one."""
        return dict.fromkeys(starts, ())


class Conjugate(Guide):
    r"""Prior times the month's quadratic log-likelihood: exact given the past for Normal returns.

    .. math::
        q(z_t \mid z_{<t}, r_t) \propto p(z_t \mid h_{t-1})\,
        \exp(\eta_t' z_t - \tfrac12 z_t' \Lambda_t z_t)

    The density is that of ``FilteredPath`` (``rvrae_pyro/models/path_distributions.py``).

    It has no parameter of its own, so a swapped prior needs no new guide. Under a KL weight w
    the optimum has data precision ``Lambda / w``, and so has this guide.

    References
    ----------
    Johnson et al. (2016), NIPS: structured recognition by conjugate potentials.
    """

    needs_affine_decoder = True

    def forward(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Independent Gaussians for an observed recurrence, a filtered path for a latent one."""
        tempered, dispersion = view.tempered(potential, kl_weight)
        if view.walk is None:
            return view.filtered_path(tempered, dispersion)
        posterior = view.walk.prior.update(at_level(tempered, view.walk.level, dispersion))
        return independent(posterior, view)

    def auxiliary(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Draw the auxiliary latent together with the factors, month by month."""
        return view.auxiliary_path(*view.tempered(potential, kl_weight), together=True)


class Recurrent(Guide):
    r"""The paper's encoder: a tanh recurrence over the months' returns, eqs. (11)-(16).

    Its input is the month's least-squares factor estimate under a unit prior and the log of its
    precision: they replace the vector of all returns, whose length changes from month to month.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Width of the state.

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eqs. (10)-(16).
    Fabius and van Amersfoort (2015), arXiv 1412.6581.
    """

    def __init__(self, n_factors: int, hidden: int = 32) -> None:
        super().__init__()
        self.n_factors, self.hidden = n_factors, hidden
        self.rnn = nn.RNN(2 * n_factors, hidden)
        self.loc = nn.Linear(hidden, n_factors)
        self.log_scale = nn.Linear(hidden, n_factors)

    def forward(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Diagonal Gaussians from the recurrent state at each month."""
        loc, scale = self._moments(batch, potential)
        months = dist.Normal(loc.unsqueeze(-2), scale.unsqueeze(-2), validate_args=False)
        path: dist.TorchDistribution = months.to_event(1)
        return path

    def auxiliary(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Propose the auxiliary latent from the encoder's distribution of the month's code.

        A decoder may stand between code and returns, whose quadratic form is then not of the
        code.
        """
        loc, scale = self._moments(batch, potential)
        precision = scale.square().reciprocal()
        encoded = Potential(torch.diag_embed(precision), precision * loc)
        return view.auxiliary_path(encoded, None, together=False)

    def _moments(self, batch: Batch, potential: Potential) -> tuple[Tensor, Tensor]:
        hidden = self._run(batch, potential)
        scale = by_month(self.log_scale, hidden).clamp(-8.0, 4.0).exp()
        return by_month(self.loc, hidden), scale

    def carry(self, batch: Batch, potential: Potential, starts: Sequence[int]) -> dict[int, State]:
        """Recurrent state before each of some months."""
        hidden = self._run(batch, potential)
        path = torch.cat([self._initial(batch, hidden), hidden], dim=0)
        return {start: (path[start],) for start in starts}

    def _run(self, batch: Batch, potential: Potential) -> Tensor:
        features = month_features(potential)
        if features.ndim > 2:
            # weights that are latents bring particles, which are the network's batch
            flat = features.reshape(-1, *features.shape[-2:]).transpose(0, 1)
            start = self._initial(batch, features).unsqueeze(1).expand(1, flat.shape[1], -1)
            along = self.rnn(flat, start.contiguous())[0].transpose(0, 1)
            together: Tensor = along.reshape(*features.shape[:-1], self.hidden)
            return together
        state = self._initial(batch, features)
        if torch.is_grad_enabled():
            hidden: Tensor = self.rnn(features, state)[0]
            return hidden
        # month by month, as in by_month
        months = []
        for month in features.unbind(0):
            state = torch.rnn_tanh_cell(month.unsqueeze(0), state, *rnn_weights(self.rnn))
            months.append(state)
        return torch.cat(months)

    def _initial(self, batch: Batch, like: Tensor) -> Tensor:
        state = batch.state("guide")
        return state[0].unsqueeze(0) if state else like.new_zeros(1, self.hidden)


class Smoothing(Guide):
    """Conjugate guide that also looks ahead: for in-sample analysis, never for forecasts.

    A backward recursion carries what later months say of this one through a learned linear
    transition ``z' = F z + a + Normal(0, diag q)``, so that the exact smoother of a linear
    Gaussian model is among its members; a backward recurrent network corrects it. It starts as
    the conjugate guide (``F = 0``). With an observed recurrence the months are independent given
    the data, and it is the conjugate guide.

    Parameters
    ----------
    n_factors : int
    hidden : int
        Width of the backward network.

    References
    ----------
    Krishnan, Shalit and Sontag (2017), arXiv 1609.09869: structured guides; the recursion is
    the information form of the Kalman smoother's backward messages.
    """

    needs_affine_decoder = True

    def __init__(self, n_factors: int, hidden: int = 16) -> None:
        super().__init__()
        self.n_factors, self.hidden = n_factors, hidden
        self.transition = nn.Parameter(torch.zeros(n_factors, n_factors))
        self.drift = nn.Parameter(torch.zeros(n_factors))
        self.log_scale = nn.Parameter(torch.zeros(n_factors))
        self.rnn = nn.GRU(2 * n_factors, hidden)
        self.correction = nn.Linear(hidden, 2 * n_factors)
        nn.init.zeros_(self.correction.weight)
        nn.init.constant_(self.correction.bias[:n_factors], 0.0)
        nn.init.constant_(self.correction.bias[n_factors:], -6.0)

    def forward(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Propose a filtered path under potentials that include the months to come."""
        if view.walk is not None:
            return Conjugate().forward(batch, potential, view, kl_weight)
        return view.filtered_path(*self._totals(potential, view, kl_weight))

    def auxiliary(
        self, batch: Batch, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> dist.TorchDistribution:
        """Draw the auxiliary latent together with the factors, month by month."""
        return view.auxiliary_path(*self._totals(potential, view, kl_weight), together=True)

    def _totals(
        self, potential: Potential, view: PriorView, kl_weight: Tensor
    ) -> tuple[Potential, Dispersion | None]:
        """Potentials that include the messages of later months."""
        tempered, dispersion = view.tempered(potential, kl_weight)
        ahead = self._corrected(potential, self._messages(tempered))
        total = Potential(tempered.precision + ahead.precision, tempered.shift + ahead.shift)
        return total, dispersion

    def _messages(self, potential: Potential) -> Potential:
        """Compute what later months say of each month's factors, by the backward recursion."""
        scale, transition = self.log_scale.exp(), self.transition
        eye = torch.eye(self.n_factors, dtype=scale.dtype, device=scale.device)
        zero = torch.zeros_like(potential.precision[..., 0, :, :])
        messages = [Potential(zero, torch.zeros_like(potential.shift[..., 0, :]))]
        for t in range(potential.shift.shape[-2] - 1, 0, -1):
            precision = potential.precision[..., t, :, :] + messages[-1].precision
            shift = potential.shift[..., t, :] + messages[-1].shift
            scaled = eye + scale.unsqueeze(-1) * precision * scale
            inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(scaled)[0])
            # seen through the noise: (Q + J^-1)^-1, written so that J may be singular
            seen = (eye - inverse) / (scale.unsqueeze(-1) * scale)
            pulled = ((inverse * scale) @ shift.unsqueeze(-1)).squeeze(-1) / scale
            pulled = pulled - (seen @ self.drift.unsqueeze(-1)).squeeze(-1)
            messages.append(
                Potential(
                    transition.mT @ seen @ transition,
                    (transition.mT @ pulled.unsqueeze(-1)).squeeze(-1),
                )
            )
        precisions, shifts = zip(*messages[::-1], strict=True)
        return Potential(torch.stack(precisions, -3), torch.stack(shifts, -2))

    def _corrected(self, potential: Potential, messages: Potential) -> Potential:
        features = month_features(potential)
        none = torch.zeros_like(features[..., :1, :])
        later = torch.cat([features[..., 1:, :], none], -2).flip(-2)
        # months lead in torch's recurrent networks; particles are their batch
        months = later.reshape(-1, *later.shape[-2:]).transpose(0, 1)
        output = self.rnn(months)[0].transpose(0, 1).reshape(*later.shape[:-1], self.hidden)
        shift, log_precision = self.correction(output.flip(-2)).chunk(2, dim=-1)
        # nothing comes after the last month
        known = torch.ones_like(shift[..., :1])
        known[..., -1, :] = 0.0
        extra = torch.diag_embed(known * log_precision.exp())
        return Potential(messages.precision + extra, messages.shift + known * shift)


def independent(posterior: Updated, view: PriorView) -> dist.TorchDistribution:
    """Months that are independent given the data, of batch shape (n_times, 1)."""
    if not isinstance(posterior, Posterior):
        return IndependentPath(view.prior, posterior, view.state)
    tril = torch.linalg.cholesky_ex(posterior.covariance())[0]
    return dist.MultivariateNormal(
        posterior.mean.unsqueeze(-2), scale_tril=tril.unsqueeze(-3), validate_args=False
    )
