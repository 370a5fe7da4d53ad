"""Exact gradients over shards of assets, in one process or many.

All that the factors need to know of a month's cross-section is its potential, a sum over assets.
So one pass without gradient adds the potentials up; a small graph on them gives the factors, the
divergence and its derivatives; a last pass computes each shard's loadings again and carries the
derivatives back through them. Memory of one shard's networks, gradient of the whole panel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.gradients import BrokenBound, Task
from rvrae_pyro.inference.sharded.shard_observations import (
    Cells,
    DrawnPath,
    Mode,
    Samples,
    cells_of,
    draw_months,
    light,
)
from rvrae_pyro.inference.sharded.shards import Shards
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.filter_pass import Walk, follow
from rvrae_pyro.models.likelihood_base import (
    LevelSearch,
    RobustLikelihood,
    require_additive,
    scale_at,
    weighted_potential,
)
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.nn.gaussian import Dispersion, Potential
from rvrae_pyro.nn.month_summary import MonthStatistics
from rvrae_pyro.nn.sequences import together

Total = Callable[[Tensor], Tensor]
"""Sum of a tensor over all processes."""


def alone(value: Tensor) -> Tensor:
    """Sum over one process: the value itself."""
    return value


class Streamed:
    """Slopes of a panel that comes in shards, of which each process may hold some.

    Parameters
    ----------
    model : RVRAE
    shards : Shards
        Those of this process.
    config : FitConfig
    total : Total
        Sum over processes. Default: this one alone.
    rank : int
        Number of this process.

    Raises
    ------
    ConfigError
        For a likelihood whose potential need not be a sum over assets, weights with a posterior,
        or ``config.asset_batch`` as a composite likelihood.

    Notes
    -----
    The loss and its gradient are those of ``Trace_ELBO`` on the whole panel, up to rounding. The
    factors' noise comes from the global stream, identical in every process.

    With ``config.asset_batch`` the guide still knows the whole cross-section, by a pass without
    gradient. The likelihood is taken over one random sample of each shard and scaled up, and the
    derivatives by the potentials are carried back through another: the gradient is a product of
    the two, so it is unbiased because they are independent.
    """

    def __init__(
        self, model: RVRAE, shards: Shards, config: FitConfig, total: Total = alone, rank: int = 0
    ) -> None:
        require_additive(model.likelihood)
        if model.drawn_sites:
            raise ConfigError(
                f"`model` draws {model.drawn_sites[0]!r}: weights with a posterior "
                "(`inference='posterior'`) and parameters with a prior need the whole "
                "panel at once. Train in one process on a panel in memory, or use "
                "inference='map' and numbers."
            )
        if config.asset_batch is not None and config.asset_sampling != "whole":
            raise ConfigError(
                f"`asset_batch` {config.asset_batch} draws from a whole cross-section in memory; "
                "with shards of assets, as a panel on disk has them, leave it None or set "
                "asset_sampling='whole'."
            )
        self.asset_batch, self.rank = config.asset_batch, rank
        self.model, self.parts, self.shards, self.total = model, model.parts, shards, total
        self.num_particles, self.loss = config.num_particles, math.nan
        self.device = shards.months.returns.device
        self.weights = [w for w in model.parts.parameters() if w.requires_grad]

    def n_observed(self, start: int, stop: int | None = None) -> int:
        """Observed returns in months ``start`` to ``stop``, of all processes."""
        mine = torch.tensor([float(self.shards.n_observed(start, stop))], dtype=torch.float64)
        return int(self.total(mine).item())

    def quiet(self) -> AbstractContextManager[None]:
        """Pyro need not hear of the weights: no site is traced."""
        return self.parts.silent()

    def descend(self, task: Task, factor: float) -> bool:
        """Add the gradient of ``factor`` times the window's loss; False if it has no return."""
        if not self.n_observed(task.start, task.stop):
            return False
        months = self._months(task)
        with torch.no_grad():
            cells = [light(cells_of(self.parts, batch)) for batch in self._windows(task)]
            potential, dispersion, mode = self._potentials(months, cells)
            sums = self._statistics(months, cells)
            samples = self._samples([each.batch.n_assets for each in cells])
        leaves = Potential(*(each.requires_grad_() for each in potential))
        summary = None
        if sums is not None:
            sums = MonthStatistics(*(each.requires_grad_() for each in sums))
            summary = sums.summary()
        path = draw_months(
            self.parts, months, leaves, dispersion, task.kl_weight, self.num_particles, summary
        )
        factors = path.factors.detach().requires_grad_()
        level = None if path.level is None else path.level.detach().requires_grad_()
        log_likelihood, pulls = self._pulls(cells, samples, factors, level)
        del cells
        penalty = task.share * self.model.log_weights()
        self.loss = float((path.divergence - log_likelihood - penalty).detach())
        if not math.isfinite(self.loss):
            raise self._not_finite(task, path, log_likelihood)
        wanted = [*leaves, *(sums or ())]
        cotangents = self._descend_months(path, wanted, pulls, penalty, factor)
        self._descend_shards(task, samples, mode, factors, level, cotangents, factor)
        return True

    @torch.no_grad()
    def walk(self, model: RVRAE, starts: Sequence[int]) -> Walk:
        """Filter once through all months; see :meth:`RVRAE.walk`.

        ``cross`` of the result holds the potentials and no asset.
        """
        parts, months = model.parts, self.shards.months
        cells, states = [], []
        for shard in range(self.shards.n_shards):
            batch = self.shards.window(shard, 0, months.n_times)
            beta, of_shard = parts.loadings.online(batch, starts)
            cells.append(light(cells_of(parts, batch, beta)).kept(self.shards.put))
            states.append({t: tuple(map(self.shards.put, s)) for t, s in of_shard.items()})
            self.shards.release()
        potential, dispersion, _ = self._potentials(months, cells)
        sums = self._statistics(months, cells)

        def joined(t: int) -> tuple[Tensor, ...]:
            # taken out as they are joined, or they would all be there twice
            return self._joined([s.pop(t) for s in states])

        with together():
            summary = None if sums is None else sums.summary()
            view = parts.view(months, potential, dispersion, summary=summary)
            course = follow(parts, months, view, potential, starts, joined)
        log_likelihood = course.factors.new_zeros(months.n_times)
        for each in self._turns(cells):
            log_likelihood += each.log_likelihood(
                parts.likelihood, parts.return_scale, course.factors, course.draw.level
            )
        nothing = months.returns
        cross = CrossSection(nothing.unsqueeze(-1), None, nothing, potential, dispersion)
        return course.walk(cross, self.total(log_likelihood))

    def _months(self, task: Task) -> Batch:
        carry = None if task.carry is None else {**task.carry, "loadings": ()}
        return self.shards.months.window(task.start, task.stop, carry, every_asset=True)

    def _windows(self, task: Task) -> Iterator[Batch]:
        """Windows of the shards that have a listed asset in them, each with its states."""
        first = 0
        for shard, size in enumerate(self.shards.sizes):
            batch = self.shards.window(shard, task.start, task.stop)
            carry = task.carry
            if carry is not None:
                mine = tuple(s[first : first + size] for s in carry["loadings"])
                carry = {**carry, "loadings": mine}
            first += size
            if bool(batch.listed.any()):
                yield batch.window(0, batch.n_times, carry)
            self.shards.release()

    def _turns(self, cells: Sequence[Cells]) -> Iterator[Cells]:
        """Cells of one shard after another; memory is released in between."""
        for each in cells:
            yield each
            self.shards.release()

    def _joined(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """States of all shards, one after another along the assets."""
        whole = tuple(self.shards.put(torch.cat(each)) for each in zip(*states, strict=True))
        self.shards.release()
        return whole

    def _samples(self, sizes: Sequence[int]) -> list[Samples]:
        """Draw assets of each shard for the likelihood and, apart, for the potentials."""
        if self.asset_batch is None:
            return [Samples(None, None, 1.0) for _ in sizes]
        n_assets = float(self.total(torch.tensor([float(sum(sizes))], dtype=torch.float64)))
        key = int(torch.randint(2**62, (1,)))  # identical in every process
        generator = torch.Generator().manual_seed(key + self.rank)
        samples = []
        for size in sizes:
            n = min(size, max(1, round(self.asset_batch * size / n_assets)))
            first, second = (
                torch.randperm(size, generator=generator)[:n].to(self.device) for _ in range(2)
            )
            samples.append(Samples(first, second, size / n))
        return samples

    @torch.no_grad()
    def _potentials(
        self, months: Batch, cells: Sequence[Cells]
    ) -> tuple[Potential, Dispersion | None, Mode | None]:
        """Potentials and dispersions of all months over all shards and processes."""
        likelihood, prior = self.parts.likelihood, self.parts.factor_prior
        start, mode, search = prior.start(months.context), None, None
        if isinstance(likelihood, RobustLikelihood):
            if prior.reads_dispersion:
                search = self._search(likelihood, months, cells, start)
                mode = Mode(search.mode, search.covariance, search.level)
            else:
                mode = self._mode(likelihood, months, cells, start)
        potential = self._sum(
            months, [c.potential(likelihood, mode, start) for c in self._turns(cells)]
        )
        if not prior.reads_dispersion:
            return potential, None, mode
        if search is not None and isinstance(likelihood, RobustLikelihood):
            score = self._scale_score(likelihood, months, cells, search)
            return potential, search.dispersion(score, potential), mode
        sums = months.returns.new_zeros(2, months.n_times)
        for c in self._turns(cells):
            found = likelihood.energy(c.residual, c.scale, c.batch.observed)
            sums += torch.stack([found.energy, found.n_returns])
        energy, count = self.total(sums)
        return potential, Dispersion(energy, count, torch.zeros_like(energy)), mode

    def _plain(self, months: Batch, cells: Sequence[Cells]) -> Potential:
        """Weighted least squares at level 0 over all shards."""
        return self._sum(
            months,
            [
                weighted_potential(c.residual, c.beta, c.batch.observed / c.scale.square())
                for c in self._turns(cells)
            ],
        )

    @torch.no_grad()
    def _statistics(self, months: Batch, cells: Sequence[Cells]) -> MonthStatistics | None:
        """Add up what summarises the months' returns; None for a prior that reads none."""
        if not self.parts.factor_prior.summarises:
            return None
        k, like = self.model.n_factors, months.returns
        both = like.new_zeros(months.n_times, k * k + k + 2)
        for each in self._turns(cells):
            sums = each.statistics()
            flat = (sums.precision.flatten(-2), sums.shift, sums.energy[:, None])
            both += torch.cat([*flat, sums.n_observed[:, None]], -1)
        precision, shift, energy, n_observed = self.total(both).split([k * k, k, 1, 1], -1)
        return MonthStatistics(
            precision.reshape(-1, k, k).clone(),
            shift.clone(),
            energy.squeeze(-1).clone(),
            n_observed.squeeze(-1).clone(),
        )

    def _mode(
        self, likelihood: RobustLikelihood, months: Batch, cells: Sequence[Cells], start: Transition
    ) -> Mode:
        """Find what ``RobustLikelihood.potential`` finds, one pass over the cells per sweep."""
        plain = self._plain(months, cells)
        posterior, fisher = start.update(plain), likelihood.information() * plain.precision
        for _ in range(likelihood.sweeps):
            mode = posterior.mean
            pull = torch.zeros_like(plain.shift)
            for c in self._turns(cells):
                pull += likelihood.pull(c.residual, c.beta, c.scale, c.batch.observed, mode)
            shift = self.total(pull) + (fisher @ mode.unsqueeze(-1)).squeeze(-1)
            posterior = start.update(Potential(fisher, shift))
        return Mode(posterior.mean, posterior.covariance())

    def _search(
        self, likelihood: RobustLikelihood, months: Batch, cells: Sequence[Cells], start: Transition
    ) -> LevelSearch:
        """Find what ``RobustLikelihood.dispersed_potential`` finds, one pass per sweep."""
        plain = self._plain(months, cells)
        count = months.returns.new_zeros(months.n_times)
        for c in cells:
            count += c.batch.observed.sum(-1)
        search = LevelSearch(likelihood, start, plain, self.total(count))
        while search.unfinished:
            pull = torch.zeros_like(plain.shift)
            for c in self._turns(cells):
                at = scale_at(c.scale, search.level)
                pull += likelihood.pull(c.residual, c.beta, at, c.batch.observed, search.mode)
            search.step(self.total(pull), self._scale_score(likelihood, months, cells, search))
        return search

    def _scale_score(
        self,
        likelihood: RobustLikelihood,
        months: Batch,
        cells: Sequence[Cells],
        search: LevelSearch,
    ) -> Tensor:
        """Gradient of each month's log-likelihood in the log of all scales."""
        score = months.returns.new_zeros(months.n_times)
        for c in self._turns(cells):
            at = scale_at(c.scale, search.level)
            score += likelihood.scale_score(c.residual, c.beta, at, c.batch.observed, search.mode)
        return self.total(score)

    def _sum(self, months: Batch, potentials: Sequence[Potential]) -> Potential:
        """Add potentials up, over processes too."""
        k, like = self.model.n_factors, months.returns
        both = like.new_zeros(months.n_times, k, k + 1)
        for potential in potentials:
            both += torch.cat([potential.precision, potential.shift.unsqueeze(-1)], -1)
        both = self.total(both)
        return Potential(both[..., :k].contiguous(), both[..., k].contiguous())

    def _pulls(
        self,
        cells: Sequence[Cells],
        samples: Sequence[Samples],
        factors: Tensor,
        level: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Log-likelihood of a draw over all cells, and its derivatives by the draw."""
        wanted = [each for each in (factors, level) if each is not None]
        sums = [torch.zeros_like(each) for each in wanted]
        value = factors.new_zeros(())
        for c, sample in zip(cells, samples, strict=True):
            seen = c if sample.returns is None else c.select(sample.returns)
            term = seen.log_likelihood(self.parts.likelihood, self._unit, factors, level).sum()
            term = sample.weight * term / self.num_particles
            value += term.detach()
            for total, slope in zip(sums, torch.autograd.grad(term, wanted), strict=True):
                total += slope
        flat = torch.cat([value.reshape(1), *(each.reshape(-1) for each in sums)])
        flat = self.total(flat)
        sizes = [each.numel() for each in sums]
        parts = flat[1:].split(sizes)
        return flat[0], [p.reshape(each.shape) for p, each in zip(parts, sums, strict=True)]

    def _descend_months(
        self,
        path: DrawnPath,
        leaves: Sequence[Tensor],
        pulls: Sequence[Tensor],
        penalty: Tensor,
        factor: float,
    ) -> list[Tensor]:
        """Add the months' gradient, identical in every process; derivatives by the sums."""
        drawn = [each for each in (path.factors, path.level) if each is not None]
        objective = path.divergence - penalty
        for each, pull in zip(drawn, pulls, strict=True):
            objective = objective - (each * pull).sum()
        slopes = torch.autograd.grad(
            factor * objective, [*leaves, *self.weights], allow_unused=True
        )
        for weight, slope in zip(self.weights, slopes[len(leaves) :], strict=True):
            weight.grad = slope
        return [
            torch.zeros_like(leaf) if slope is None else slope
            for leaf, slope in zip(leaves, slopes[: len(leaves)], strict=True)
        ]

    def _descend_shards(
        self,
        task: Task,
        samples: Sequence[Samples],
        mode: Mode | None,
        factors: Tensor,
        level: Tensor | None,
        cotangents: Sequence[Tensor],
        factor: float,
    ) -> None:
        """Add the gradient that runs through the cells, shard by shard, over all processes."""
        likelihood, months = self.parts.likelihood, self._months(task)
        prior = self.parts.factor_prior
        with torch.no_grad():
            start = prior.start(months.context)
            factors, level = factors.detach(), None if level is None else level.detach()
        sums = [torch.zeros_like(weight) for weight in self.weights]
        used = torch.zeros(len(sums), dtype=sums[0].dtype, device=self.device)
        for batch, sample in zip(self._windows(task), samples, strict=True):
            cells = cells_of(self.parts, sample.take(batch, sample.returns))
            fit = cells.log_likelihood(likelihood, self._unit, factors, level).sum()
            objective = -factor * sample.weight / self.num_particles * fit
            if sample.potentials is not None:
                cells = cells_of(self.parts, batch.select(sample.potentials))
            terms = [*cells.potential(likelihood, mode, start)]
            if prior.summarises:
                terms += cells.statistics()
            for each, cotangent in zip(terms, cotangents, strict=True):
                objective = objective + sample.weight * (each * cotangent).sum()
            slopes = torch.autograd.grad(objective, self.weights, allow_unused=True)
            for i, slope in enumerate(slopes):
                if slope is not None:
                    sums[i] += slope
                    used[i] = 1.0
        flat = self.total(torch.cat([used, *(each.reshape(-1) for each in sums)]))
        used, *slopes_of = flat.split([len(sums), *(each.numel() for each in sums)])
        for weight, slope, share in zip(self.weights, slopes_of, used, strict=True):
            # a weight that nothing depends on keeps no gradient: optimisers leave it alone
            if bool(share > 0):
                slope = slope.reshape(weight.shape)
                weight.grad = slope if weight.grad is None else weight.grad + slope

    @property
    def _unit(self) -> Tensor:
        return self.parts.return_scale

    def _not_finite(self, task: Task, path: DrawnPath, log_likelihood: Tensor) -> BrokenBound:
        terms = {"factors": path.divergence, "returns": log_likelihood}
        bad = [name for name, term in terms.items() if not bool(torch.isfinite(term))]
        times = self.shards.months.times[task.start : task.stop]
        return BrokenBound(
            f"The ELBO is not finite at step {task.step}: log density of "
            f"{', '.join(bad) or 'the log prior of the weights'} in the months {times[0]} to "
            f"{times[-1]}."
        )
