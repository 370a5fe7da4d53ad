"""Joint Student-t distributions of a panel's months, and mixtures of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp, ndtr, stdtr

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Distances(NamedTuple):
    """Quadratic forms of the months' observed returns under a covariance of scale 1."""

    squared: Array  # (n_times,), squared Mahalanobis distance; 0 in months without returns
    logdet: Array  # (n_times,), log determinant of the covariance of the observed returns
    n_observed: Array  # (n_times,), number of observed returns


@dataclass(frozen=True, eq=False)
class JointT:
    r"""Student-t distributions of every month's returns, parametrised by their covariance.

    .. math:: r_t \sim t_\nu(\mu, \Sigma_t), \quad
        \Sigma_t = h_t \, (B \, \mathrm{diag}(s_t) \, B' + \mathrm{diag}(d_t))

    with :math:`\Sigma_t` the covariance, not the scale matrix.
    """

    mean: Array  # (n_assets,)
    beta: Array  # (n_assets, n_factors)
    factor_var: Array  # (n_times, n_factors), or (1, n_factors) where it is the same in all months
    idio_var: Array  # (n_times, n_assets), or (1, n_assets); positive
    scale: Array  # (n_times,), common scale of the covariance
    df: float  # degrees of freedom, above 2; infinite for a Normal

    def variance(self) -> Array:
        """Variance of every return, of shape (n_times, n_assets)."""
        # no matrix product: it may round a month by the number of months
        unit = np.einsum("tk,nk->tn", self.factor_var, self.beta**2) + self.idio_var
        result: Array = self.scale[:, None] * unit
        return result

    def covariance(self, t: int, chosen: Mask) -> Array:
        """Covariance (n, n) of the ``chosen`` assets in month ``t``."""
        dense: Array = self.scale[t] * self.unit_covariance(t, chosen)
        return dense

    def project(self, weights: Array) -> tuple[Array, Array]:
        """Mean and variance (n_times,) of portfolios with ``weights`` (n_times, n_assets)."""
        exposure = weights @ self.beta
        unit = (exposure**2 * self.factor_var).sum(1) + (weights**2 * self.idio_var).sum(1)
        mean: Array = weights @ self.mean
        return mean, self.scale * unit

    def distances(self, returns: Array, observed: Mask, rows: Sequence[int]) -> Distances:
        """Quadratic forms of the months ``rows``, under scale 1; others are NaN.

        Missing returns are marginalised. Cost per month: O(n K^2) with few factors, else O(n^3), or
        O(n^2) where the covariance and the observed assets repeat.
        """
        squared, logdet = np.full((2, len(returns)), np.nan)
        static = len(self.factor_var) == len(self.idio_var) == 1
        known: dict[bytes, tuple[Array, float]] = {}
        for t in rows:
            seen = observed[t]
            error = (returns[t] - self.mean)[seen]
            if 3 * self.beta.shape[1] < error.size:
                squared[t], logdet[t] = self._woodbury(t, seen, error)
                continue
            key = seen.tobytes() if static else b""
            if not static or key not in known:
                root = np.linalg.cholesky(self.unit_covariance(t, seen)).astype(np.float64)
                known[key] = root, 2.0 * float(np.log(np.diag(root)).sum())
            chol, logdet[t] = known[key]
            # month by month: a product of several months at once may round by their number
            white = solve_triangular(chol, error, lower=True, check_finite=False)
            squared[t] = white @ white
        return Distances(squared, logdet, observed.sum(1).astype(np.float64))

    def log_density(self, returns: Array, observed: Mask) -> Array:
        """Joint log density (n_times,) of the observed returns, nats; 0 without any."""
        found = self.distances(returns, observed, range(len(returns)))
        return log_density_t(found, self.scale, self.df)

    def cdf(self, value: Array, mean: Array, variance: Array) -> Array:
        """Probability below ``value`` of a marginal or portfolio with mean and variance."""
        z = (value - mean) / np.sqrt(variance)
        if math.isinf(self.df):
            normal: Array = ndtr(z)
            return normal
        student: Array = stdtr(self.df, z * math.sqrt(self.df / (self.df - 2.0)))
        return student

    def unit_covariance(self, t: int, chosen: Mask | NDArray[np.intp]) -> Array:
        """Covariance (n, n) of the ``chosen`` assets in month ``t`` at scale 1."""
        beta = self.beta[chosen]
        dense: Array = (beta * self.factor_var[t % len(self.factor_var)]) @ beta.T
        dense[np.diag_indices(len(beta))] += self.idio_var[t % len(self.idio_var), chosen]
        return dense

    def _woodbury(self, t: int, chosen: Mask, error: Array) -> tuple[float, float]:
        factor_var = self.factor_var[t % len(self.factor_var)]
        idio = self.idio_var[t % len(self.idio_var), chosen]
        scaled = self.beta[chosen] * np.sqrt(factor_var) / np.sqrt(idio)[:, None]
        white = error / np.sqrt(idio)
        chol = np.linalg.cholesky(np.eye(len(factor_var)) + scaled.T @ scaled)
        inner = solve_triangular(chol, scaled.T @ white, lower=True, check_finite=False)
        logdet = float(np.log(idio).sum() + 2.0 * np.log(np.diag(chol)).sum())
        return float(white @ white - inner @ inner), logdet


def log_density_t(found: Distances, scale: Array, df: float) -> Array:
    r"""Joint log density of months from their quadratic forms.

    .. math:: \log\Gamma(\tfrac{\nu+n}{2}) - \log\Gamma(\tfrac{\nu}{2})
        - \tfrac n2 \log(\pi(\nu-2)) - \tfrac12 \log|\Sigma|
        - \tfrac{\nu+n}{2} \log(1 + \tfrac{q}{\nu-2})

    In nats; exactly 0 in months without returns. The common ``scale`` (n_times,) divides the
    squared distances; ``df`` is infinite for a Normal.
    """
    n = found.n_observed
    squared = found.squared / scale
    logdet = found.logdet + n * np.log(scale)
    if math.isinf(df):
        value = -0.5 * (squared + logdet + n * math.log(2.0 * math.pi))
    else:
        value = gammaln((df + n) / 2) - gammaln(df / 2) - 0.5 * n * math.log(math.pi * (df - 2.0))
        value = value - 0.5 * logdet - 0.5 * (df + n) * np.log1p(squared / (df - 2.0))
    return np.where(n > 0, value, 0.0)


@dataclass(frozen=True, eq=False)
class MixtureOfT:
    """Student-t distributions of every month, weighted by month."""

    laws: Sequence[JointT]
    # (n_laws, n_times), log weights, known before the month; their exponentials add up to 1
    log_weight: Array

    @classmethod
    def of(cls, law: JointT) -> MixtureOfT:
        """One law with all the weight."""
        return cls([law], np.zeros((1, len(law.scale))))

    @property
    def weight(self) -> Array:
        """Weights (n_laws, n_times)."""
        return np.exp(self.log_weight)

    def mean(self) -> Array:
        """Mean of every return, of shape (n_times, n_assets)."""
        # one law after the other: a matrix product may round a month by the number of months
        return sum(
            (w[:, None] * law.mean for w, law in zip(self.weight, self.laws, strict=True)),
            np.zeros((len(self.laws[0].scale), len(self.laws[0].mean))),
        )

    def variance(self) -> Array:
        """Variance of every return, of shape (n_times, n_assets)."""
        mean = self.mean()
        total = np.zeros_like(mean)
        for w, law in zip(self.weight, self.laws, strict=True):
            total += w[:, None] * (law.variance() + (law.mean - mean) ** 2)
        return total

    def log_density(self, returns: Array, observed: Mask) -> Array:
        """Joint log density (n_times,) of the observed returns, nats; 0 without any."""
        each = np.stack([law.log_density(returns, observed) for law in self.laws])
        density: Array = logsumexp(self.log_weight + each, axis=0)
        return np.where(observed.any(1), density, 0.0)

    def cdf(self, returns: Array) -> Array:
        """Probability that each return (n_times, n_assets) is below its value."""
        return sum(
            (
                w[:, None] * law.cdf(returns, law.mean, law.variance())
                for w, law in zip(self.weight, self.laws, strict=True)
            ),
            np.zeros_like(returns),
        )

    def portfolio(self, weights: Array) -> tuple[Array, Array, list[tuple[Array, Array]]]:
        """Mean and variance (n_times,) of portfolios, and those of every law."""
        each = [law.project(weights) for law in self.laws]
        pairs = list(zip(self.weight, each, strict=True))
        mean = sum((w * m for w, (m, _) in pairs), np.zeros(len(weights)))
        variance = sum((w * (v + (m - mean) ** 2) for w, (m, v) in pairs), np.zeros(len(weights)))
        return mean, variance, each

    def covariance(self, t: int, chosen: Mask) -> tuple[Array, Array]:
        """Covariance of ``chosen`` assets as a positive semi-definite part and a diagonal.

        Returns
        -------
        common : ndarray of shape (n, n)
        idio_var : ndarray of shape (n,)
            Positive.
        """
        weight = self.weight[:, t]
        mean = sum(w * law.mean[chosen] for w, law in zip(weight, self.laws, strict=True))
        size = int(chosen.sum())
        common, idio = np.zeros((size, size)), np.zeros(size)
        for w, law in zip(weight, self.laws, strict=True):
            own = law.scale[t] * law.idio_var[t % len(law.idio_var), chosen]
            dense = law.covariance(t, chosen)
            dense[np.diag_indices(size)] -= own
            apart = law.mean[chosen] - mean
            common += w * (dense + np.outer(apart, apart))
            idio += w * own
        return common, idio
