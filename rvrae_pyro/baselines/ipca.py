"""Instrumented principal components: loadings linear in characteristics, least squares."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.baselines.base import Fitting
from rvrae_pyro.baselines.factors import FactorBaseline
from rvrae_pyro.baselines.views import FactorHistory, FactorView, cholesky_like, refit_factors
from rvrae_pyro.data.batch import Batch, to_light_batch
from rvrae_pyro.data.blocks import row_blocks
from rvrae_pyro.data.portfolios import CONSTANT
from rvrae_pyro.errors import (
    ConfigError,
    FitError,
    PanelError,
    RvraeWarning,
    ShapeError,
    check_count,
)
from rvrae_pyro.names import ASSET, CHARACTERISTIC, CHARACTERISTICS, FACTOR, TIME
from rvrae_pyro.predictive.months import factor_coord

__all__ = ["IPCA", "Solution", "Statistics", "alternate", "month_statistics"]


@dataclass(frozen=True)
class Statistics:
    """All that least squares needs to know of the months that have returns, in float64.

    Attributes
    ----------
    gram : Tensor of shape (n_months, P, P)
        Z'Z over the assets with an observed return.
    moment : Tensor of shape (n_months, P)
        Z'r over them.
    counts : int64 Tensor of shape (n_months,)
        How many there are.
    squares : Tensor of shape (n_months,)
        Sum of squared returns over them.
    """

    gram: Tensor
    moment: Tensor
    counts: Tensor
    squares: Tensor

    def select(self, months: Tensor) -> Statistics:
        """Keep some months, a bool mask."""
        if bool(months.all()):
            return self
        return Statistics(
            self.gram[months], self.moment[months], self.counts[months], self.squares[months]
        )


class IPCA(FactorBaseline):
    r"""Instrumented principal component analysis.

    .. math:: r_{it} = z_{i,t-1}' (\Gamma_\alpha + \Gamma f_t) + \varepsilon_{it}

    Parameters
    ----------
    n_factors : int
    constant : bool
        Add a one to the characteristics.
    alpha : bool
        The unrestricted model: the characteristics have an intercept :math:`\Gamma_\alpha`.
    max_iter : int
        Iterations at the most.
    tol : float
        Iterations stop when no entry of :math:`\Gamma` or the factors moved by more.

    Notes
    -----
    Training and validation months are both fitted, as there is nothing to tune. A missing
    return just leaves the sums, which is exact. Months whose characteristics span no more
    dimensions than there are factors, for lack of assets or of histories, are left out: they say
    nothing of the mapping, and their factors are missing. Identification:
    :math:`\Gamma'\Gamma = I`, second moments of the factors diagonal and descending, means not
    negative, :math:`\Gamma_\alpha` orthogonal to :math:`\Gamma`. Factors of later months are
    their cross-sectional least squares.

    Forecasts are loadings times the mean of all earlier factors: of the months fitted and of
    earlier months in the panel given. The predictive distribution is Gaussian around it, with
    the factors' covariance and one residual standard deviation over the fitted months (corrected
    for K factors a month); estimation error is left out.

    Cost: one pass O(T N P^2) for the sums, then O(T P^2 K^2 + (P K)^3) an iteration whatever N.

    References
    ----------
    Kelly, Pruitt and Su (2019), Characteristics are covariances, Journal of Financial Economics
    134, 501-524, section 2.
    """

    _settings = ("n_factors", "constant", "alpha", "max_iter", "tol")

    def __init__(
        self,
        n_factors: int,
        constant: bool = False,
        *,
        alpha: bool = False,
        max_iter: int = 10_000,
        tol: float = 1e-5,
    ) -> None:
        super().__init__()
        self.n_factors = check_count("n_factors", n_factors)
        self.max_iter = check_count("max_iter", max_iter)
        if not tol > 0:
            raise ConfigError(f"`tol` must be above 0; got {tol!r}.")
        self.constant, self.alpha, self.tol = bool(constant), bool(alpha), float(tol)
        self._numbers: dict[str, Tensor] = {}

    @property
    def gamma(self) -> xr.DataArray:
        r"""Mapping :math:`\Gamma` from characteristics to loadings (characteristic, factor)."""
        self._require_fit()
        return xr.DataArray(
            self._numbers["gamma"].numpy(),
            coords={
                CHARACTERISTIC: self._instruments(),
                FACTOR: factor_coord(self.n_factors),
            },
            dims=(CHARACTERISTIC, FACTOR),
            name="gamma",
        )

    @property
    def gamma_alpha(self) -> xr.DataArray:
        r"""Mapping :math:`\Gamma_\alpha` to the intercept (characteristic); 0 without ``alpha``."""
        self._require_fit()
        return xr.DataArray(
            self._numbers["gamma_alpha"].numpy(),
            coords={CHARACTERISTIC: self._instruments()},
            dims=CHARACTERISTIC,
            name="gamma_alpha",
        )

    def _instruments(self) -> list[str]:
        return [*self._names, *([CONSTANT] if self.constant else [])]

    def _to_tensors(self, panel: xr.Dataset, device: str, dtype: torch.dtype) -> Batch:
        # a few sums over the characteristics are all that is needed of them
        return to_light_batch(panel, device, dtype)

    def _wants_double(self) -> bool:
        return True

    def _learn(self, fitting: Fitting) -> None:
        batch = fitting.batch
        if self.constant and CONSTANT in batch.names:
            raise PanelError(
                f"`train`: the characteristic {CONSTANT!r} must be renamed or dropped, or pass "
                "constant=False."
            )
        n_instruments = batch.n_characteristics + self.constant
        if self.n_factors > n_instruments:
            raise ShapeError(
                f"`n_factors` must be at most the number of characteristics, {n_instruments}; "
                f"got {self.n_factors}."
            )
        values = fitting.panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)
        statistics = month_statistics(batch, values, self.constant)
        telling = spanning(statistics, self.n_factors)
        if not bool(telling.any()):
            raise FitError(
                f"`train` must hold months in which the characteristics of the assets with a "
                f"return span more than {self.n_factors} dimensions, or {self.n_factors} factors "
                "fit anything; got none. Ask for fewer factors."
            )
        statistics = statistics.select(telling)
        found = alternate(
            statistics, self.n_factors, alpha=self.alpha, max_iter=self.max_iter, tol=self.tol
        )
        moved = found.changes[-1]
        if moved > self.tol:
            warnings.warn(
                f"IPCA moved by {moved:.2g} in its last of {len(found.changes)} iterations, more "
                f"than `tol` {self.tol:.2g}. Ask for fewer factors, leave out early months, in "
                "which characteristics lack their histories, or raise `max_iter`.",
                RvraeWarning,
                stacklevel=4,
            )
        factors = torch.full((batch.n_times, self.n_factors), torch.nan, dtype=torch.float64)
        factors[batch.observed.any(1).cpu().nonzero()[telling.cpu(), 0]] = found.factors.cpu()
        freedom = int(statistics.counts.sum()) - self.n_factors * len(statistics.counts)
        variance = found.squares(statistics) / max(1, freedom)
        # what a perfect fit leaves is rounding, and no distribution has a scale of 0
        least = 1e-12 * float(statistics.squares.sum()) / int(statistics.counts.sum())
        stamps = torch.as_tensor(batch.times.astype("datetime64[ns]").astype(np.int64))
        self._numbers = {
            "gamma": found.gamma.cpu().contiguous(),
            "gamma_alpha": found.gamma_alpha.cpu().contiguous(),
            "times": stamps,
            "factors": factors,
            "idio_scale": torch.tensor(max(variance, least) ** 0.5, dtype=torch.float64),
        }
        steps = range(1, len(found.changes) + 1)
        self.history = pd.DataFrame({"iteration": steps, "largest_change": found.changes})

    def _loadings_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return loadings (n_times, n_assets, n_factors) and intercepts (n_times, n_assets)."""
        gamma = torch.cat(
            [self._numbers["gamma"], self._numbers["gamma_alpha"].unsqueeze(1)], dim=1
        )
        shift = gamma[-1] if self.constant else torch.zeros_like(gamma[0])
        inner = gamma[:-1] if self.constant else gamma
        # month by month: a product over all rows at once may round by where a month stands
        both = torch.stack([x.double() @ inner + shift for x in batch.characteristics])
        return both[..., :-1].contiguous(), both[..., -1].contiguous()

    def _views(self, panel: xr.Dataset, batch: Batch) -> Iterator[FactorView]:
        numbers = self._numbers
        beta, alpha = self._loadings_of(batch)
        factors = refit_factors(beta, batch.returns - alpha, batch.observed)
        past = FactorHistory(numbers["times"].numpy().astype("datetime64[ns]"), numbers["factors"])
        tril = cholesky_like(past.covariance())
        yield FactorView(
            alpha=alpha,
            beta=beta,
            loc=past.running_mean(batch.times, factors),
            factor_scale=tril.expand(batch.n_times, -1, -1),
            idio_scale=numbers["idio_scale"].expand_as(batch.returns),
            factors=factors,
        )

    def _state(self) -> dict[str, Tensor]:
        return dict(self._numbers)

    def _restore(self, state: dict[str, Tensor]) -> None:
        names = ("gamma", "gamma_alpha", "times", "factors", "idio_scale")
        self._numbers = {name: state[name] for name in names}


def month_statistics(
    batch: Batch, characteristics: xr.DataArray, constant: bool = False
) -> Statistics:
    """Sum Z'Z and Z'r over the observed assets of each month that has any.

    Parameters
    ----------
    batch : Batch
        Returns and marks; its characteristics are not looked at.
    characteristics : DataArray of dims (time, asset, characteristic)
        May be on disk: it is read once, a block of months at a time.
    constant : bool
        Add a one to the characteristics, as the last.

    Returns
    -------
    Statistics
        In float64, whatever the batch holds. Cost O(T N P^2), memory of a few months.
    """
    n_times, n_assets, size = characteristics.shape
    counts = batch.observed.sum(1)
    # returns and constant stand beside the characteristics, so that one product has all sums; a
    # width that a processor's registers divide takes half the time of one that they do not
    n_instruments = size + constant
    width = -(-(n_instruments + 1) // _REGISTER) * _REGISTER
    whole = batch.returns.new_empty(n_times, width, width, dtype=torch.float64)
    months = max(1, _CELLS // max(1, n_assets * size))
    # filled anew for every few months, which on disk begin wherever a chunk does
    joint = whole.new_zeros(min(months, n_times) * int(counts.max()), width)
    joint[:, size:n_instruments] = 1.0
    for start, block in row_blocks(characteristics):
        for first in range(start, start + len(block), months):
            some = slice(first, min(first + months, start + len(block)))
            seen = batch.observed[some].reshape(-1).nonzero().squeeze(-1)
            cells = block[first - start : some.stop - start].reshape(-1, size)
            here = joint[: len(seen)]
            here[:, :size] = torch.from_numpy(cells.take(seen.cpu().numpy(), axis=0))
            here[:, n_instruments] = batch.returns[some].reshape(-1).index_select(0, seen)
            for rows, sums in zip(here.split(counts[some].tolist()), whole[some], strict=True):
                torch.mm(rows.mT, rows, out=sums)
        del block
    gram = whole[:, :n_instruments, :n_instruments].contiguous()
    moment = whole[:, :n_instruments, n_instruments].contiguous()
    every = Statistics(gram, moment, counts, whole[:, n_instruments, n_instruments])
    return every.select(counts > 0)


def spanning(statistics: Statistics, n_factors: int) -> Tensor:
    """Months that say something of the mapping: (n_months,) bool.

    Their characteristics span more dimensions than there are factors. Any mapping fits the
    others alike, as far as it can, so the least squares do not hang on them; but their own
    factors are barely determined or not at all, and no mean of factors would survive them.
    """
    gram = statistics.gram
    size = gram.shape[-1]
    needed = min(n_factors + 1, size)
    # each characteristic in a unit of its own, seen along random directions: their number is
    # that of the dimensions asked about, so that months are told apart by small matrices
    unit = gram.diagonal(dim1=-2, dim2=-1).sum(0).sqrt()
    random = torch.Generator().manual_seed(0)
    probe = torch.randn(size, needed, generator=random, dtype=gram.dtype).to(gram.device)
    probe = torch.linalg.qr(probe)[0] / torch.where(unit > 0.0, unit, 1.0).unsqueeze(1)
    seen = torch.linalg.eigvalsh(probe.mT @ (gram @ probe))
    enough: Tensor = seen[:, 0] > _SINGULAR * seen[:, -1]
    return enough


_SINGULAR = 1e-11  # share of the largest eigenvalue below which one counts as none
_CELLS = 2**19  # characteristics of the months that are looked at at once
_REGISTER = 8  # double-precision numbers in the widest register of a processor


@dataclass(frozen=True)
class Solution:
    """Where alternating least squares ended.

    Attributes
    ----------
    gamma : Tensor of shape (P, n_factors)
    gamma_alpha : Tensor of shape (P,)
    factors : Tensor of shape (n_months, n_factors)
    changes : list of float
        Largest move of any entry of the mapping or the factors, by iteration.
    """

    gamma: Tensor
    gamma_alpha: Tensor
    factors: Tensor
    changes: list[float]

    def squares(self, statistics: Statistics) -> float:
        """Sum of squared residuals."""
        mapped = self.factors @ self.gamma.mT + self.gamma_alpha
        fitted = (statistics.gram @ mapped.unsqueeze(-1)).squeeze(-1)
        return float(statistics.squares.sum() + (mapped * (fitted - 2.0 * statistics.moment)).sum())


def alternate(
    statistics: Statistics, n_factors: int, *, alpha: bool, max_iter: int, tol: float
) -> Solution:
    """Alternate between the factors given the mapping and the mapping given the factors.

    Parameters
    ----------
    statistics : Statistics
    n_factors : int
    alpha : bool
        Estimate an intercept of the characteristics too.
    max_iter : int
    tol : float

    Returns
    -------
    Solution

    Notes
    -----
    Starts at the leading left singular vectors of the months' mean cross moments, as the public
    package does: the first for the loadings, the next for the intercept, if any.
    """
    scaled = statistics.moment / statistics.counts.to(statistics.moment).unsqueeze(1)
    directions, sizes, past = torch.linalg.svd(scaled.mT, full_matrices=False)
    if directions.shape[1] < n_factors:
        raise ShapeError(
            "`n_factors` must be at most the number of months with returns, "
            f"{directions.shape[1]}; got {n_factors}."
        )
    gamma, factors = directions[:, :n_factors], (sizes.unsqueeze(1) * past)[:n_factors].mT
    gamma_alpha = gamma.new_zeros(gamma.shape[0])
    if alpha and directions.shape[1] > n_factors:
        gamma_alpha = directions[:, n_factors]
    changes: list[float] = []
    while len(changes) < max_iter and (not changes or changes[-1] > tol):
        old = gamma, gamma_alpha, factors
        factors = _factors_given(statistics, gamma, gamma_alpha)
        if alpha:
            known = torch.cat([factors, torch.ones_like(factors[:, :1])], dim=1)
            whole = _mapping_given(statistics, known)
            gamma, gamma_alpha = whole[:, :-1], whole[:, -1]
        else:
            gamma = _mapping_given(statistics, factors)
        gamma, factors, gamma_alpha = _identify(gamma, factors, gamma_alpha)
        new = gamma, gamma_alpha, factors
        changes.append(max(float((a - b).abs().max()) for a, b in zip(new, old, strict=True)))
    return Solution(gamma, gamma_alpha, factors, changes)


def _factors_given(statistics: Statistics, gamma: Tensor, gamma_alpha: Tensor) -> Tensor:
    """Least-squares factors (n_months, n_factors)."""
    seen = statistics.gram @ gamma
    gram = gamma.mT @ seen
    moment = statistics.moment @ gamma - (gamma_alpha @ seen if gamma_alpha.any() else 0.0)
    solution: Tensor = torch.linalg.solve(gram, moment)
    return solution


def _mapping_given(statistics: Statistics, factors: Tensor) -> Tensor:
    """Least-squares mapping (P, n_factors), all months at once."""
    n_months, size = statistics.moment.shape
    k = factors.shape[1]
    # each pair of factors once
    first, second = torch.triu_indices(k, k, device=factors.device).unbind()
    pairs = (factors[:, first] * factors[:, second]).mT @ statistics.gram.reshape(n_months, -1)
    place = torch.empty(k, k, dtype=torch.int64, device=factors.device)
    place[first, second] = place[second, first] = torch.arange(len(first), device=factors.device)
    blocks = pairs.reshape(-1, size, size)[place]
    left = blocks.permute(2, 0, 3, 1).reshape(size * k, size * k)
    right = (statistics.moment.mT @ factors).reshape(size * k, 1)
    root, info = torch.linalg.cholesky_ex(left)
    if int(info) == 0:
        solution = torch.cholesky_solve(right, root)
    else:
        solution = torch.linalg.pinv(left, hermitian=True) @ right
    return solution.reshape(size, k)


def _identify(gamma: Tensor, factors: Tensor, gamma_alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate to the identified form; fitted values stay as they are."""
    basis, triangle = torch.linalg.qr(gamma)
    turned = factors @ triangle.mT
    values, rotation = torch.linalg.eigh(turned.mT @ turned)
    rotation = rotation[:, torch.argsort(values, descending=True)]
    gamma, factors = basis @ rotation, turned @ rotation
    inside = gamma.mT @ gamma_alpha
    factors = factors + inside
    sign = torch.where(factors.mean(0) < 0, -1.0, 1.0).to(gamma)
    return gamma * sign, factors * sign, gamma_alpha - gamma @ inside
