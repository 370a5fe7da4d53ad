"""A mixture of exponentially weighted models, weighted by their past scores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp

from rvrae_pyro.baselines.baseline import Fitting
from rvrae_pyro.baselines.ewma import exponential_weights
from rvrae_pyro.baselines.joint_baseline import JointTBaseline, cells_of, sorted_cells, stamps_of
from rvrae_pyro.baselines.joint_t import Array, Distances, JointT, MixtureOfT, log_density_t
from rvrae_pyro.baselines.shrunk_moments import (
    History,
    MomentOptions,
    continue_scale,
    estimate_moments,
    filter_scale,
    history_distances,
    known_states,
)
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, check_number

_MOMENTS: Final = ("mean", "beta", "idio_var")


class EWMAMixture(JointTBaseline):
    r"""Mixture of :class:`~rvrae_pyro.baselines.EWMA` models over a grid of their settings.

    .. math:: p(r_t \mid r_{1:t-1}) = \sum_m w_{mt} \, p_m(r_t \mid r_{1:t-1}), \quad
        \log w_{m,t+1} = \phi (\log w_{mt} + \log p_m(r_t \mid r_{1:t-1})) + \mathrm{const}

    over every combination of the settings; the default has 60.

    Parameters
    ----------
    decay, scale_decay, df, shrinkage : sequence of float
        Values of the settings of :class:`~rvrae_pyro.baselines.EWMA`.
    forgetting : float
        :math:`\phi`, in (0, 1]: how slowly past scores are forgotten.
    cap, n_factors, min_history, burn_in, scale_refit
        As in :class:`~rvrae_pyro.baselines.EWMA`, the same for all.

    Notes
    -----
    Information set: weights of month t know scores of months before t only. Within training,
    scores are those of moments that were estimated before the month. Months without returns leave
    the weights as they are; before ``burn_in`` they are equal. Rules for gaps, entry, exit and
    more assets than months: those of :class:`~rvrae_pyro.baselines.EWMA`.

    ``history`` has the joint log density of every training month after ``burn_in``, one step
    ahead, as refits every ``scale_refit`` months would have given it.

    Cost of a fit: that of one :class:`~rvrae_pyro.baselines.EWMA` for each pair of ``decay`` and
    ``shrinkage``.

    References
    ----------
    Raftery, Karny and Ettler (2010), Online prediction under model uncertainty via dynamic model
    averaging, Technometrics 52, 52-66 (forgetting of weights).
    """

    def __init__(
        self,
        decay: Sequence[float] = (0.97, 0.98, 0.985, 0.99, 0.995),
        scale_decay: Sequence[float] = (0.75, 0.85, 0.93),
        df: Sequence[float] = (7.0, 12.0),
        shrinkage: Sequence[float] = (0.05, 0.15),
        *,
        forgetting: float = 0.9,
        cap: float = 6.0,
        n_factors: int = 5,
        min_history: int = 24,
        burn_in: int = 60,
        scale_refit: int = 12,
    ) -> None:
        super().__init__()
        self.decay = _grid("decay", decay, "(0, 1]")
        self.scale_decay = _grid("scale_decay", scale_decay, "(0, 1]")
        self.df = _grid("df", df, "(2, inf]")
        self.shrinkage = _grid("shrinkage", shrinkage, "(0, 1]")
        self.forgetting = check_number("forgetting", forgetting, "(0, 1]")
        self.cap = check_number("cap", cap, "(0, inf]")
        self._options = [MomentOptions(a, n_factors, min_history) for a in self.shrinkage]
        self._history_of_scale = History(burn_in, scale_refit)
        self.n_factors, self.min_history = n_factors, min_history
        self.burn_in, self.scale_refit = burn_in, scale_refit

    @property
    def members(self) -> list[dict[str, float]]:
        """Settings of every model, in the order of the weights."""
        names = ("decay", "shrinkage", "scale_decay", "df")
        grid = product(self.decay, self.shrinkage, self.scale_decay, self.df)
        return [dict(zip(names, values, strict=True)) for values in grid]

    def _learn(self, fitting: Fitting) -> None:
        batch = fitting.batch
        labels, returns, observed = sorted_cells(batch)
        numbers: dict[str, NDArray[Any]] = {"times": stamps_of(batch)}
        paths, densities = [], []
        for number, (decay, options) in enumerate(product(self.decay, self._options)):

            def weights(n_times: int, decay: float = decay) -> Array:
                return exponential_weights(n_times, decay)

            found = estimate_moments(returns, observed, weights(len(returns)), options)
            for name in _MOMENTS:
                numbers[f"{name}.{number}"] = np.ascontiguousarray(getattr(found, name))
            distances = history_distances(
                returns, observed, weights, options, self._history_of_scale
            )
            for scale_decay in self.scale_decay:
                path = filter_scale(distances, scale_decay, self.cap)
                paths.append(path)
                densities += [log_density_t(distances, path[:-1], df) for df in self.df]
        scores = self._scores(np.stack(densities), distances, np.zeros(len(densities)))
        numbers["scale"], numbers["score"] = np.stack(paths), scores
        self._assets = tuple(labels[found.known].tolist())
        self._numbers = numbers
        mixed = logsumexp(_log_weights(scores[:, :-1]) + np.stack(densities), axis=0)
        rows = ~np.isnan(mixed)
        self.history = pd.DataFrame(
            {
                "log_evidence": mixed[rows].tolist(),
                "month": np.datetime_as_string(batch.times[rows], "D").tolist(),
            }
        )

    def _scores(self, densities: Array, found: Distances, start: Array) -> Array:
        """Discounted past scores (n_models, n_times + 1); entry t knows months before t only."""
        path = np.empty((len(densities), densities.shape[1] + 1))
        path[:, 0] = start
        for t, count in enumerate(found.n_observed):
            path[:, t + 1] = path[:, t]
            if count > 0 and not np.isnan(densities[:, t]).any():
                path[:, t + 1] = self.forgetting * (path[:, t] + densities[:, t])
        return path

    def _number_names(self) -> Sequence[str]:
        pairs = range(len(self.decay) * len(self.shrinkage))
        moments = [f"{name}.{number}" for number in pairs for name in _MOMENTS]
        return ["times", "scale", "score", *moments]

    def _laws(self, batch: Batch) -> MixtureOfT:
        numbers, positions = self._numbers, self._positions(batch)
        trained, stamps = numbers["times"], stamps_of(batch)
        returns, observed = cells_of(batch)
        laws: list[JointT] = []
        densities: list[Array] = []
        later: list[int] = []
        for number in range(len(self.decay) * len(self.shrinkage)):
            mean, beta, idio_var = (numbers[f"{name}.{number}"][positions] for name in _MOMENTS)
            ones = np.ones((1, beta.shape[1]))
            unit = JointT(mean, beta, ones, idio_var[None], np.ones(batch.n_times), np.inf)
            _, later = known_states(numbers["scale"][0], trained, stamps, 1.0)
            found = unit.distances(returns, observed, later)
            for row, scale_decay in enumerate(self.scale_decay):
                kept = numbers["scale"][number * len(self.scale_decay) + row]
                states, _ = known_states(kept, trained, stamps, 1.0)
                scale = continue_scale(found, kept, later, states, scale_decay, self.cap)
                for df in self.df:
                    laws.append(JointT(mean, beta, ones, idio_var[None], scale, df))
                    densities.append(log_density_t(found, scale, df))
        score = np.stack([known_states(kept, trained, stamps, 0.0)[0] for kept in numbers["score"]])
        if later:
            rest = Distances(*(each[later] for each in found))
            new = np.stack(densities)[:, later]
            score[:, later] = self._scores(new, rest, numbers["score"][:, -1])[:, :-1]
        return MixtureOfT(laws, _log_weights(score))


def _log_weights(score: Array) -> Array:
    weights: Array = score - logsumexp(score, axis=0)
    return weights


def _grid(name: str, values: object, interval: str) -> tuple[float, ...]:
    """Check a sequence of distinct numbers of an interval."""
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if not listed or len(set(listed)) < len(listed):
        raise ConfigError(
            f"`{name}` must be a sequence of distinct numbers; got {values!r}. Pass (0.98, 0.99), "
            "choose."
        )
    return tuple(check_number(name, value, interval) for value in listed)
