"""Instrumented principal components: loadings linear in characteristics, by least squares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import pad

from rvrae_pyro.baselines.baseline import Fitting
from rvrae_pyro.baselines.factor_baseline import FactorBaseline
from rvrae_pyro.baselines.linear_gaussian import (
    FactorHistory,
    FactorView,
    cholesky_like,
    refit_factors,
)
from rvrae_pyro.data.batch import Batch, to_light_batch
from rvrae_pyro.data.chunks import row_blocks
from rvrae_pyro.data.transforms import CONSTANT
from rvrae_pyro.errors import FitError, PanelError, ShapeError, check_count, check_number, warn_user
from rvrae_pyro.names import CHARACTERISTIC, CHARACTERISTICS, FACTOR
from rvrae_pyro.predictive.months import factor_coord


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
    Training and validation months are both fitted, as there is nothing to tune. Missing returns
    are left out of the sums. Months whose characteristics span no more dimensions than there are
    factors are left out: they carry no information on the mapping, and their factors are NaN
    (``factors(panel, kind="ols")`` gives the smallest that fit). Identification:
    :math:`\Gamma'\Gamma = I`, second moments of the factors diagonal and descending, means not
    negative, :math:`\Gamma_\alpha` orthogonal to :math:`\Gamma`. Factors of later months are
    their cross-sectional least squares.

    Forecasts are loadings times the mean of all earlier factors: of the months fitted and of
    earlier months in the panel given. The predictive distribution is Gaussian around it, with
    the factors' covariance and one residual standard deviation over the fitted months (corrected
    for K factors per month); estimation error is left out.

    Cost: one pass O(T N P^2) for the sums, then O(T P^2 K^2 + (P K)^3) per iteration for any N.

    References
    ----------
    Kelly, Pruitt and Su (2019), Characteristics are covariances, Journal of Financial Economics
    134, 501-524, section 2.
    """

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
        self.tol = check_number("tol", tol, "(0, inf]")
        self.constant, self.alpha = bool(constant), bool(alpha)
        self._numbers: dict[str, Tensor] = {}

    @property
    def gamma(self) -> xr.DataArray:
        r"""Mapping :math:`\Gamma` from characteristics to loadings (characteristic, factor)."""
        self._require_fit()
        return xr.DataArray(
            self._numbers["gamma"].numpy(),
            coords={CHARACTERISTIC: self._instruments(), FACTOR: factor_coord(self.n_factors)},
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

    def _to_tensors(self, panel: xr.Dataset, device: str) -> Batch:
        # without characteristics, of which sums are enough; in double precision if the panel is
        double = panel.variables[CHARACTERISTICS].dtype == np.float64
        return to_light_batch(panel, device, torch.float64 if double else torch.float32)

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
        values = fitting.panel.variables[CHARACTERISTICS]
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
            warn_user(
                f"IPCA moved by {moved:.2g} in its last of {len(found.changes)} iterations, more "
                f"than `tol` {self.tol:.2g}. Ask for fewer factors, leave out early months, in "
                "which characteristics lack their histories, or raise `max_iter`."
            )
        factors = torch.full((batch.n_times, self.n_factors), torch.nan, dtype=torch.float64)
        factors[statistics.months.cpu()] = found.factors.cpu()
        freedom = int(statistics.counts.sum()) - self.n_factors * len(statistics.counts)
        variance = found.squares(statistics) / max(1, freedom)
        # a perfect fit leaves rounding only, and no distribution has a scale of 0
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
        # month by month: a product over all rows at once may round by the position of a month
        both = torch.stack([x.double() @ inner + shift for x in batch.characteristics])
        return both[..., :-1].contiguous(), both[..., -1].contiguous()

    def _observed_instruments(self, batch: Batch) -> Iterator[Tensor]:
        """Instruments of the assets with a return, (n_observed, P), month by month."""
        for x, seen in zip(batch.characteristics, batch.observed, strict=True):
            rows = x[seen].double()
            yield torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1) if self.constant else rows

    def _views(self, panel: xr.Dataset, batch: Batch) -> Iterator[FactorView]:
        numbers = self._numbers
        beta, alpha = self._loadings_of(batch)
        factors = refit_factors(beta, batch.returns - alpha, batch.observed)
        factors[~spanning_months(self._observed_instruments(batch), self.n_factors)] = torch.nan
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
        wanted = (len(self._instruments()), self.n_factors)
        if self._numbers["gamma"].shape != wanted:
            raise ShapeError(
                f"`gamma` must have shape {wanted}; got {tuple(self._numbers['gamma'].shape)}"
            )


_SINGULAR = 1e-11  # share of the largest eigenvalue below which one counts as none
_CELLS = 2**17  # characteristics of the months that are processed at once


@dataclass(frozen=True)
class Statistics:
    """Sums over the assets of the months that have returns, in float64."""

    gram: Tensor  # (n_months, P, P), Z'Z over the assets with an observed return
    moment: Tensor  # (n_months, P), Z'r over them
    counts: Tensor  # (n_months,), how many there are
    squares: Tensor  # (n_months,), sum of squared returns over them
    months: Tensor  # (n_months,), positions of the months in the panel

    def select(self, months: Tensor) -> Statistics:
        """Keep some months, a bool mask."""
        if bool(months.all()):
            return self
        return Statistics(
            self.gram[months],
            self.moment[months],
            self.counts[months],
            self.squares[months],
            self.months[months],
        )

    def forms(self, columns: Tensor) -> Tensor:
        """C'Z'ZC of every month (n_months, k, k), for columns C (P, k) or (n_months, P, k)."""
        return columns.mT @ self.gram @ columns


def month_statistics(
    batch: Batch, characteristics: xr.DataArray | xr.Variable, constant: bool = False
) -> Statistics:
    """Sum Z'Z and Z'r over the observed assets of each month that has any.

    Characteristics (time, asset, characteristic), with a one as the last if ``constant``, may be on
    disk: they are read once, a block of months at a time. Cost O(T N P^2) on the CPU; memory of a
    few months. The result is on the batch's device.
    """
    n_times, n_assets, size = characteristics.shape
    observed, returns = batch.observed.cpu().numpy(), batch.returns.cpu().numpy()
    counts = observed.sum(1)
    # returns and constant follow the characteristics, so that one product has all sums
    n_instruments = size + constant
    whole = np.zeros((n_times, n_instruments + 1, n_instruments + 1))
    months = max(1, _CELLS // max(1, n_assets * size))
    # refilled for every few months, which on disk begin with each chunk
    joint = np.ones((min(months, n_times) * int(counts.max()), n_instruments + 1))
    for start, block in row_blocks(characteristics):
        for first in range(start, start + len(block), months):
            some = slice(first, min(first + months, start + len(block)))
            seen = observed[some].reshape(-1).nonzero()[0]
            cells = block[first - start : some.stop - start].reshape(-1, size)
            joint[: len(seen), :size] = cells.take(seen, axis=0)
            joint[: len(seen), n_instruments] = returns[some].reshape(-1).take(seen)
            stop = 0
            for count, sums in zip(counts[some].tolist(), whole[some], strict=True):
                rows, stop = joint[stop : stop + count], stop + count
                np.matmul(rows.T, rows, out=sums)  # which numpy knows to be symmetric
        del block
    sums = torch.from_numpy(whole).to(batch.returns.device)
    every = Statistics(
        sums[:, :-1, :-1].contiguous(),
        sums[:, :-1, -1].contiguous(),
        torch.from_numpy(counts).to(sums.device),
        sums[:, -1, -1],
        torch.arange(n_times, device=sums.device),
    )
    return every.select(every.counts > 0)


def spanning(statistics: Statistics, n_factors: int) -> Tensor:
    """Months (n_months,) whose characteristics span more dimensions than there are factors.

    Any mapping fits the others equally well, so the least squares do not depend on them; their own
    factors are barely determined.
    """
    squares = statistics.gram.diagonal(dim1=-2, dim2=-1)
    return _full_rank(statistics.forms(_probe(squares, n_factors)))


def spanning_months(instruments: Iterable[Tensor], n_factors: int) -> Tensor:
    """Apply the rule of :func:`spanning` to months given as rows (n_observed, P) of instruments.

    Each month is judged by its own rows alone. Cost O(n_observed P n_factors) per month.
    """
    forms = []
    for rows in instruments:
        seen = rows @ _probe(rows.square().sum(0), n_factors)
        forms.append(seen.mT @ seen)
    return _full_rank(torch.stack(forms))


def _probe(squares: Tensor, n_factors: int) -> Tensor:
    """Random directions (..., P, k) through instruments of given sums of squares (..., P).

    Each instrument counts in its own unit of the month, so that neither units nor other months
    matter.
    """
    size = squares.shape[-1]
    needed = min(n_factors + 1, size)
    random = torch.Generator().manual_seed(0)
    probe = torch.linalg.qr(torch.randn(size, needed, generator=random, dtype=torch.float64))[0]
    unit = squares.sqrt()
    scaled: Tensor = probe.to(squares) / torch.where(unit > 0.0, unit, 1.0).unsqueeze(-1)
    return scaled


def _full_rank(forms: Tensor) -> Tensor:
    """Test whether each Gram matrix (n_months, k, k) has rank k."""
    values = torch.linalg.eigvalsh(forms)
    enough: Tensor = values[:, 0] > _SINGULAR * values[:, -1]
    return enough


@dataclass(frozen=True)
class Solution:
    """Result of alternating least squares."""

    gamma: Tensor  # (P, n_factors)
    gamma_alpha: Tensor  # (P,)
    factors: Tensor  # (n_months, n_factors)
    changes: list[float]  # largest move of any entry of the mapping or the factors, by iteration

    def squares(self, statistics: Statistics) -> float:
        """Sum of squared residuals."""
        both = torch.cat([self.gamma, self.gamma_alpha.unsqueeze(1)], dim=1)
        known = pad(self.factors, (0, 1), value=1.0)
        fitted = (statistics.forms(both) @ known.unsqueeze(-1)).squeeze(-1)
        explained = known * (fitted - 2.0 * statistics.moment @ both)
        return float(statistics.squares.sum() + explained.sum())


def alternate(
    statistics: Statistics, n_factors: int, *, alpha: bool, max_iter: int, tol: float
) -> Solution:
    """Alternate between the factors given the mapping and the mapping given the factors.

    Starts at the leading left singular vectors of the months' mean cross moments, as the public
    package does: the first for the loadings, the next for the intercept (``alpha``), if any.
    """
    scaled = statistics.moment / statistics.counts.to(statistics.moment).unsqueeze(1)
    directions, sizes, past = torch.linalg.svd(scaled.mT, full_matrices=False)
    if directions.shape[1] < n_factors:
        raise ShapeError(
            "`n_factors` must be at most the number of months with returns, "
            f"{directions.shape[1]}; got {n_factors}."
        )
    factors = (sizes.unsqueeze(1) * past)[:n_factors].mT
    # the intercept's mapping, if any, is the last column, that of a factor which is always one;
    # its sign is that of the decomposition, on which it hangs where the iterations end
    n_columns = n_factors + alpha
    mapping = pad(directions, (0, 1))[:, :n_columns]
    changes: list[float] = []
    while len(changes) < max_iter and (not changes or changes[-1] > tol):
        old = mapping, factors
        factors = _factors_given(statistics, mapping, n_factors)
        mapping = _mapping_given(statistics, pad(factors, (0, int(alpha)), value=1.0))
        mapping, factors = _identify(mapping, factors)
        changes.append(
            max(
                float(torch.dist(*pair, math.inf))
                for pair in zip((mapping, factors), old, strict=True)
            )
        )
    gamma_alpha = mapping[:, n_factors] if alpha else torch.zeros_like(mapping[:, 0])
    return Solution(mapping[:, :n_factors], gamma_alpha, factors, changes)


def _factors_given(statistics: Statistics, mapping: Tensor, n_factors: int) -> Tensor:
    """Least-squares factors (n_months, n_factors)."""
    gram, shift = statistics.forms(mapping)[:, :n_factors].tensor_split([n_factors], dim=2)
    moment = statistics.moment @ mapping[:, :n_factors] - shift.sum(2)
    solution: Tensor = torch.linalg.solve(gram, moment)
    return solution


def _mapping_given(statistics: Statistics, factors: Tensor) -> Tensor:
    """Least-squares mapping (P, k) to factors (n_months, k), all months at once.

    Sums each pair of factors once, 1.9 times as fast as all pairs (46 characteristics, 5 factors).
    """
    n_months, size = statistics.moment.shape
    k = factors.shape[1]
    first, second, place = _pairs(k, factors.device)
    rows = factors.mT.contiguous()
    weights = rows.index_select(0, first) * rows.index_select(0, second)
    pairs = (weights @ statistics.gram.reshape(n_months, -1)).reshape(-1, size, size)
    # mirrored in both ways, so that whole rows are copied
    left = pairs[place].permute(0, 2, 1, 3).reshape(size * k, size * k)
    right = (rows @ statistics.moment).reshape(size * k, 1)
    root, info = torch.linalg.cholesky_ex(left)
    if int(info) == 0:
        solution = torch.cholesky_solve(right, root)
    else:
        solution = torch.linalg.pinv(left, hermitian=True) @ right
    return solution.reshape(k, size).mT


@cache
def _pairs(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Name each pair of factors once: first and second of each, and the position of a pair."""
    first, second = torch.triu_indices(size, size, device=device).unbind()
    place = torch.empty(size, size, dtype=torch.int64, device=device)
    place[first, second] = place[second, first] = torch.arange(len(first), device=device)
    return first, second, place


def _identify(mapping: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate to the identified form; fitted values stay as they are."""
    gamma, alpha = mapping.tensor_split([factors.shape[1]], dim=1)
    basis, triangle = torch.linalg.qr(gamma)
    turned = factors @ triangle.mT
    rotation = torch.linalg.eigh(turned.mT @ turned)[1].flip(1)
    gamma, factors = basis @ rotation, turned @ rotation
    inside = gamma.mT @ alpha
    factors = factors + inside.sum(1)
    sign = torch.where(factors.mean(0) < 0, -1.0, 1.0)
    return torch.cat([gamma * sign, alpha - gamma @ inside], dim=1), factors * sign
