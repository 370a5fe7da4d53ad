"""Particle filter: the factors of a month from returns up to it, or up to the month before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.decoders import Identity
from rvrae_pyro.models.hand_over import Shared
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.models.priors.base import for_each
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.models.scan import at_level
from rvrae_pyro.nn.gaussian import Dispersion, Gaussian, Pooled, Posterior, Potential
from rvrae_pyro.nn.seeding import derived_seed, seeded
from rvrae_pyro.nn.transitions import StudentTPosterior

_TAIL_DF = 8.0
"""Degrees of freedom of proposals where the conjugate posterior is not exact."""


@dataclass(frozen=True)
class Particles:
    """Equally weighted draws of every month, and an unbiased estimate of the evidence.

    Attributes
    ----------
    predicted, predicted_codes : Tensor of shape (n_times, num_particles, n_factors)
        Factors and their codes given returns up to the month before.
    expected : Tensor of shape (n_times, n_factors)
        Mean of the factors given returns up to the month before: of the particles' conditional
        means where these have a closed form, which leaves out the noise of ``predicted``.
    expected_covariance : Tensor of shape (n_times, n_factors, n_factors)
        Covariance of the same, likewise of the particles' own means and covariances.
    predicted_level : Tensor of shape (n_times, num_particles) or None
        Log multiplier of the month's idiosyncratic scales, known by then.
    predicted_log_prior : Tensor of shape (n_times, num_particles)
        Log density of each of ``predicted_codes`` under the prior that its own past implies.
    filtered, filtered_codes : Tensor of shape (n_times, num_particles, n_factors)
        Factors and codes given returns up to the month.
    smoothed : Tensor of shape (n_times, num_particles, n_factors)
        Factors given returns up to ``lag`` months after the month.
    readings : dict of str to Tensor of shape (n_times, num_particles, size)
        Named summaries of the prior's state, given returns up to the month: regime
        probabilities, log variances; empty for most priors.
    log_evidence : Tensor of shape (n_times,)
        Estimate of log p(r_t | r_1..t-1); its exponential's product is unbiased.
    ess : Tensor of shape (n_times,)
        Effective number of particles before resampling.
    """

    predicted: Tensor
    predicted_codes: Tensor
    expected: Tensor
    expected_covariance: Tensor
    predicted_level: Tensor | None
    predicted_log_prior: Tensor
    filtered: Tensor
    filtered_codes: Tensor
    smoothed: Tensor
    readings: dict[str, Tensor]
    log_evidence: Tensor
    ess: Tensor


class Upcoming(NamedTuple):
    """A month as the particles predict it, from returns before the month.

    Attributes
    ----------
    state, latent_state, decoder_state : tuple of Tensor of shape (num_particles, size)
        States of the prior, of its auxiliary latent and of the decoder before the month.
    ahead : Transition
        Prior of the month's codes.
    codes : Tensor of shape (num_particles, n_factors)
        Drawn from it.
    level : Tensor or None
        Log multiplier of the idiosyncratic scales.
    latent : Tensor of shape (num_particles, size) or None
        The month's auxiliary latent, drawn from its own prior.
    """

    state: State
    latent_state: State
    decoder_state: State
    ahead: Transition
    codes: Tensor
    level: Tensor | None
    latent: Tensor | None


class _Auxiliary(NamedTuple):
    """A month's auxiliary latent of the prior.

    ``moment`` is the context that the factors' prior reads with the latent as proposed;
    ``value`` is the latter alone, None without a latent.
    """

    moment: Tensor | None
    value: Tensor | None
    log_weight: Tensor


@contextmanager
def month_random(seed: int, month: Any, purpose: str) -> Iterator[None]:
    """Random stream of one month and purpose; the caller's stream is left as it was.

    A month's draws depend on its date and the seed, not on how many months came before.
    """
    with seeded(derived_seed(f"{seed}|{np.datetime64(month, 's')}|{purpose}")):
        yield


@torch.no_grad()
def smc_filter(
    model: RVRAE,
    batch: Batch,
    num_particles: int = 1000,
    seed: int = 0,
    lag: int = 6,
    cross: CrossSection | None = None,
) -> Particles:
    """Filter the factors through a batch with particles.

    Each particle proposes from its own prior times the month's quadratic log-likelihood and is
    weighted by the exact density. For Normal returns that is the fully adapted filter: weights
    depend on the past alone, and particles are resampled before they move.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
    num_particles : int
    seed : int
        Each month has a random stream by its date.
    lag : int
        Months of later returns that ``smoothed`` may know.
    cross : CrossSection, optional
        Loadings and scales if they are known already.

    Returns
    -------
    Particles
        Month t's ``predicted`` depends on returns before t, ``filtered`` on those up to t.
        Costs O(num_particles n_assets n_factors) per month.

    References
    ----------
    Pitt and Shephard (1999), JASA 94; Kitagawa (1996), fixed-lag smoothing.
    """
    if num_particles < 1:
        raise ConfigError(f"`num_particles` must be at least 1; got {num_particles}.")
    shared = model.parts.prepare(batch, cross)
    cloud = Cloud(model.parts, batch, num_particles, seed, lag, shared)
    for t in range(batch.n_times):
        cloud.step(t)
        shared.cross.release()
    return cloud.result()


class Cloud:
    """The particles at the end of a month.

    Parameters
    ----------
    parts : Parts
    batch : Batch
    num_particles : int
    seed : int or None
        None draws from torch's global random stream.
    lag : int
    shared : Shared
        What ``parts.prepare`` computed.
    """

    def __init__(
        self,
        parts: Parts,
        batch: Batch,
        num_particles: int,
        seed: int | None,
        lag: int,
        shared: Shared,
    ) -> None:
        self.parts, self.batch, self.seed, self.lag = parts, batch, seed, lag
        self.cross, self.view = shared.cross, shared.view
        self.exact = parts.likelihood.exact_potential and parts.decoder.affine
        self.n = num_particles
        self.state = self._spread(shared.view.state)
        self.latent_state = self._spread(shared.view.latent_state)
        self.decoder_state = self._spread(batch.state("decoder") or parts.decoder.initial())
        self.proposals: dist.TorchDistribution | None = None
        if not parts.decoder.affine:
            weight = batch.returns.new_ones(batch.n_times)
            self.proposals = parts.guide(batch, shared.cross.potential, shared.view, weight)
        self.upcoming: Upcoming | None = None
        self.readings: list[dict[str, Tensor]] = []
        self.months: list[tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]] = []
        self.log_prior: list[Tensor] = []
        self.expected: list[Pooled] = []
        self.recent: list[Tensor] = []
        self.smoothed: list[Tensor] = []
        self.log_evidence: list[Tensor] = []
        self.ess: list[Tensor] = []

    def _spread(self, state: State) -> State:
        return tuple(s.expand(self.n, s.shape[-1]) for s in state)

    def _random(self, t: int) -> AbstractContextManager[None]:
        if self.seed is None:
            return nullcontext()
        return month_random(self.seed, self.batch.times[t], "filter")

    def forget(self) -> None:
        """Drop the records of past months; the particles themselves stay."""
        for record in (self.readings, self.months, self.log_prior, self.expected):
            record.clear()
        for record in (self.recent, self.smoothed, self.log_evidence, self.ess):
            record.clear()

    def step(self, t: int) -> None:
        """Move all particles through a month."""
        prior, decoder = self.parts.factor_prior, self.parts.decoder
        base = None if self.view.context is None else self.view.context[t]
        with self._random(t):
            latent_ahead, latent_coming = self._latent_ahead(t)
            moment = base if latent_coming is None else prior.drive(base, latent_coming)
            ahead, level = prior.ahead(self.state, moment)
            ahead = for_each(ahead, self.n)
            coming = ahead.sample(prior.noise(ahead.loc.shape, ahead.loc))
            self.upcoming = Upcoming(
                self.state,
                self.latent_state,
                self.decoder_state,
                ahead,
                coming,
                level,
                latent_coming,
            )
            # after all that is predicted: draws from here on depend on whether returns were seen
            latent = self._latent_proposed(t, base, latent_ahead, latent_coming)
            met, met_level = ahead, level
            if latent.value is not None:
                moment = latent.moment
                met, met_level = prior.ahead(self.state, moment)
                met = for_each(met, self.n)
            codes, log_weight, chosen = self._propose(t, met, met_level, latent.log_weight)
            keep = self._resample(log_weight) if chosen is None else chosen
        self.log_evidence.append(torch.logsumexp(log_weight, 0) - np.log(self.n))
        self.ess.append(1.0 / torch.softmax(log_weight, 0).square().sum())
        if chosen is None:
            codes = codes[keep]
        before = tuple(s[keep] for s in self.decoder_state)
        predicted = decoder.read(decoder.advance(self.decoder_state, coming), coming)
        self.expected.append(self._moments(ahead, predicted))
        after = decoder.advance(before, codes)
        filtered = decoder.read(after, codes)
        driver = codes
        if self.view.walk is not None:
            driver = self.view.walk.factors[t].expand_as(codes)
        if latent.value is not None and moment is not None:
            moment = moment[keep]
        self.state = prior.advance(tuple(s[keep] for s in self.state), driver, moment)
        self._advance_latent(t, latent, keep)
        self.readings.append(self._reading())
        self.decoder_state = after
        self.months.append((predicted, coming, level, filtered, codes))
        self.log_prior.append(ahead.log_prob(coming))
        self._remember(filtered, keep)

    def _moments(self, ahead: Transition, predicted: Tensor) -> Pooled:
        """Mean and covariance of a month's factors, of the particles' own where in closed form."""
        decoder = self.parts.decoder
        known = ahead.pooled() if decoder.affine else None
        if known is not None and isinstance(decoder, Identity):
            return known
        drawn = Pooled.of(predicted, torch.zeros_like(predicted))
        if known is None:
            return drawn
        mean = decoder.read(decoder.advance(self.decoder_state, ahead.mean), ahead.mean).mean(0)
        return Pooled(mean, drawn.covariance)

    def _propose(
        self, t: int, ahead: Transition, level: Tensor | None, log_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes, log weights, and the ancestors if they were chosen before the move.

        ``log_weight`` is that of the auxiliary latent, which has moved already.
        """
        potential = at_level(self._potential(t), level, self._dispersion(t))
        if self.exact and isinstance(ahead, Gaussian):
            log_weight = log_weight + ahead.evidence(potential) + self._constant(t, level)
            keep = self._resample(log_weight)
            posterior = ahead.update(potential)
            chosen = Posterior(*(field[keep] for field in posterior))
            codes = chosen.mean + chosen.deviate(torch.randn_like(chosen.mean))
            return codes, log_weight, keep
        codes, log_q = self._candidate(t, ahead, potential)
        log_weight = log_weight + ahead.log_prob(codes) - log_q
        return codes, log_weight + self._log_density(t, codes, level), None

    def _latent_ahead(self, t: int) -> tuple[Transition | None, Tensor | None]:
        """Move the auxiliary latent as it comes, with no regard to the month's returns."""
        latent = self.view.prior.auxiliary
        if latent is None:
            return None, None
        context = None if self.view.latent_context is None else self.view.latent_context[t]
        ahead = for_each(latent.transition(self.latent_state, context), self.n)
        return ahead, ahead.sample(latent.noise(ahead.loc.shape, ahead.loc))

    def _latent_proposed(
        self, t: int, base: Tensor | None, ahead: Transition | None, coming: Tensor | None
    ) -> _Auxiliary:
        """Move the auxiliary latent as the month's returns suggest."""
        prior, latent = self.parts.factor_prior, self.view.prior.auxiliary
        if latent is None or ahead is None or coming is None:
            return _Auxiliary(base, None, self.cross.scale.new_zeros(()))
        if self.proposals is not None or not bool(self.batch.observed[t].any()):
            # behind a decoder the quadratic form is not of the code
            value, log_weight = coming, coming.new_zeros(())
        else:
            noise = latent.noise(ahead.loc.shape, ahead.loc)
            value, log_q = prior.draw_auxiliary(
                ahead, self.state, base, self._potential(t), self._dispersion(t), noise
            )
            log_weight = ahead.log_prob(value) - log_q
        return _Auxiliary(prior.drive(base, value), value, log_weight)

    def _potential(self, t: int) -> Potential:
        return Potential(self.cross.potential.precision[t], self.cross.potential.shift[t])

    def _dispersion(self, t: int) -> Dispersion | None:
        found = self.cross.dispersion
        return None if found is None else Dispersion(*(field[t] for field in found))

    def _advance_latent(self, t: int, latent: _Auxiliary, keep: Tensor) -> None:
        prior = self.view.prior.auxiliary
        if prior is None or latent.value is None:
            return
        context = None if self.view.latent_context is None else self.view.latent_context[t]
        self.latent_state = prior.advance(
            tuple(s[keep] for s in self.latent_state), latent.value[keep], context
        )

    def _reading(self) -> dict[str, Tensor]:
        """Read the states by name: that of the prior, and of its auxiliary latent."""
        reading = self.parts.factor_prior.reading(self.state)
        own = self.view.prior.auxiliary
        return reading if own is None else {**own.reading(self.latent_state), **reading}

    def _candidate(self, t: int, ahead: Transition, potential: Potential) -> tuple[Tensor, Tensor]:
        """Codes from a heavy conjugate proposal, or from prior and guide in equal parts."""
        noise = self.parts.factor_prior.noise(ahead.loc.shape, ahead.loc)
        seen = bool(self.batch.observed[t].any())
        if self.proposals is None and isinstance(ahead, Gaussian) and seen:
            # the posterior of a robust likelihood has tails like the prior's: a Student-t
            # covers them and bounds the weights, which the conjugate Gaussian does not
            shock = dist.Chi2(noise.new_full((self.n,), _TAIL_DF)).sample() / _TAIL_DF
            heavy = StudentTPosterior(*ahead.update(potential), torch.full_like(shock, _TAIL_DF))
            noise = noise / shock.sqrt().unsqueeze(-1)
            return heavy.mean + heavy.deviate(noise), heavy.log_prob_of_noise(noise)
        if self.proposals is None:
            return ahead.propose(potential, noise)
        if not seen:  # nothing to weigh: the prior's own draws have equal weights
            codes = ahead.sample(noise)
            return codes, ahead.log_prob(codes)
        guide = self.proposals.base_dist
        loc, scale = guide.loc[t, 0], guide.scale[t, 0]
        proposal = Gaussian(loc.expand_as(noise), scale.expand_as(noise))
        from_prior = (torch.arange(self.n, device=noise.device) % 2 == 0).unsqueeze(-1)
        guided = proposal.sample(torch.randn_like(noise))
        codes = torch.where(from_prior, ahead.sample(noise), guided)
        # the mixture as a whole is the proposal, which bounds the weights
        log_q = torch.logaddexp(ahead.log_prob(codes), proposal.log_prob(codes)) - np.log(2.0)
        return codes, log_q

    def _constant(self, t: int, level: Tensor | None) -> Tensor:
        """Log p(r_t | zero factors) for Normal returns, from sums over the cross-section."""
        seen = self.batch.observed[t]
        residual = self.batch.returns[t]
        if self.cross.alpha is not None:
            residual = residual - self.cross.alpha[t]
        scale = self.cross.scale[t]
        level = residual.new_zeros(()) if level is None else level
        squares = ((residual / scale).square() * seen).sum()
        logs = ((scale.log() + 0.5 * np.log(2.0 * np.pi)) * seen).sum()
        constant: Tensor = -0.5 * squares * torch.exp(-2.0 * level) - logs - seen.sum() * level
        return constant

    def _log_density(self, t: int, codes: Tensor, level: Tensor | None) -> Tensor:
        """Exact log p(r_t | codes) of each particle."""
        decoder = self.parts.decoder
        factors = decoder.read(decoder.advance(self.decoder_state, codes), codes)
        return self.cross.log_likelihood(self.parts.likelihood, self.batch, t, factors, level)

    def _resample(self, log_weight: Tensor) -> Tensor:
        """Systematic resampling, in random order."""
        weight = torch.softmax(log_weight.detach(), 0)
        u = (
            torch.arange(self.n, device=weight.device) + torch.rand((), device=weight.device)
        ) / self.n
        chosen = torch.searchsorted(weight.cumsum(0), u.to(weight.dtype)).clamp_max(self.n - 1)
        return chosen[torch.randperm(self.n, device=weight.device)]

    def _remember(self, filtered: Tensor, keep: Tensor) -> None:
        """Carry the last months' factors along the surviving paths."""
        self.recent = [*(past[keep] for past in self.recent), filtered]
        if len(self.recent) > self.lag:
            self.smoothed.append(self.recent.pop(0))

    def result(self) -> Particles:
        """Put the months together."""
        predicted, coming, levels, filtered, codes = zip(*self.months, strict=True)
        return Particles(
            torch.stack(predicted),
            torch.stack(coming),
            torch.stack([each.mean for each in self.expected]),
            torch.stack([each.covariance for each in self.expected]),
            None if levels[0] is None else torch.stack([x.expand(self.n) for x in levels]),
            torch.stack(self.log_prior),
            torch.stack(filtered),
            torch.stack(codes),
            torch.stack([*self.smoothed, *self.recent]),
            {
                name: torch.stack([month[name] for month in self.readings])
                for name in self.readings[0]
            },
            torch.stack(self.log_evidence),
            torch.stack(self.ess),
        )
