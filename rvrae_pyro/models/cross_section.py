"""Algebra of the months' cross-sections: loadings, scales, locations and log-likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models import likelihoods
from rvrae_pyro.nn.asset_sums import along_factors
from rvrae_pyro.nn.gaussian import Dispersion, Potential


@dataclass(frozen=True)
class CrossSection:
    """All that model and guide both need to know of the months' cross-sections.

    Attributes
    ----------
    beta : Tensor of shape (n_times, n_assets, n_factors)
        Loadings, return per unit of factor; like all below with particles in front where weights
        are latents and particles are vectorised.
    alpha : Tensor of shape (n_times, n_assets) or None
        Mispricing, in return units.
    scale : Tensor of shape (n_times, n_assets)
        Idiosyncratic scales at level 0, in return units.
    potential : Potential
        Quadratic log-likelihood of every month, at level 0 or at that of ``dispersion``.
    dispersion : Dispersion or None
        What each month's returns tell of the common idiosyncratic scale, for a prior that reads
        it.
    """

    beta: Tensor
    alpha: Tensor | None
    scale: Tensor
    potential: Potential
    dispersion: Dispersion | None = None

    @classmethod
    def joined(cls, months: Sequence[CrossSection]) -> CrossSection:
        """Put months that were computed one by one together again."""
        alphas = [month.alpha for month in months if month.alpha is not None]
        return cls(
            torch.cat([month.beta for month in months]),
            torch.cat(alphas) if alphas else None,
            torch.cat([month.scale for month in months]),
            Potential(
                torch.cat([month.potential.precision for month in months]),
                torch.cat([month.potential.shift for month in months]),
            ),
            join_dispersions([month.dispersion for month in months]),
        )

    def release(self) -> None:
        """Release memory that can be filled again from a file; there is none here."""

    def location(self, factors: Tensor) -> Tensor:
        """Compute expected returns (*particles, n_times, n_assets) from factors of each month."""
        loc = along_factors(self.beta, factors)
        return loc if self.alpha is None else loc + self.alpha

    def scale_at(self, level: Tensor | None) -> Tensor:
        """Idiosyncratic scales given log multipliers (*particles, n_times)."""
        return self.scale if level is None else self.scale * level.exp().unsqueeze(-1)

    def given(
        self, t: int, assets: Tensor, factors: Tensor, level: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Location and scale of a month's returns under each draw of its factors.

        Parameters
        ----------
        t : int
            Position of the month.
        assets : int Tensor of shape (n_chosen,)
            Positions of the assets asked for.
        factors : Tensor of shape (num_draws, n_factors)
        level : Tensor of shape (num_draws,) or (), or None
            Log multiplier of the idiosyncratic scales.

        Returns
        -------
        loc, scale : Tensor of shape (num_draws, n_chosen)
            In return units, for ``Likelihood.distribution``.
        """
        loc = factors @ self.beta[t].index_select(0, assets).mT
        if self.alpha is not None:
            loc = loc + self.alpha[t, assets]
        scale = self.scale[t, assets]
        if level is not None:
            scale = scale * level.exp().unsqueeze(-1)
        return loc, scale.expand_as(loc)

    def log_likelihood(
        self,
        likelihood: likelihoods.Likelihood,
        batch: Batch,
        t: int,
        factors: Tensor,
        level: Tensor | None,
    ) -> Tensor:
        """Log density (num_draws,) of a month's observed returns, in nats; 0 where none is.

        Parameters as for :meth:`given`, and what else it takes to score returns.
        """
        seen = batch.observed[t].nonzero().squeeze(-1)
        returns, found = batch.returns[t, seen], []
        # some draws at a time: what is made of all of them would outgrow cache and memory
        rows = max(1, _CELLS // max(1, len(seen)))
        for first in range(0, len(factors), rows):
            some = slice(first, first + rows)
            own = level[some] if level is not None and level.ndim else level
            law = likelihood.distribution(*self.given(t, seen, factors[some], own))
            found.append(law.log_prob(returns).sum(-1))
        return torch.cat(found)


_CELLS = 65_536
"""Returns of draws that are scored at once."""


def join_dispersions(months: Sequence[Dispersion | None]) -> Dispersion | None:
    """Concatenate the dispersions of some months; None where there are none."""
    known = [month for month in months if month is not None]
    if not known:
        return None
    return Dispersion(*(torch.cat(field) for field in zip(*known, strict=True)))
