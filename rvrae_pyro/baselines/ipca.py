"""Instrumented principal components: loadings linear in characteristics, least squares."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.baselines.alternating import (
    alternate,
    month_statistics,
    spanning,
    spanning_months,
)
from rvrae_pyro.baselines.baseline import Fitting
from rvrae_pyro.baselines.factor_baseline import FactorBaseline
from rvrae_pyro.baselines.linear_gaussian import (
    FactorHistory,
    FactorView,
    cholesky_like,
    refit_factors,
)
from rvrae_pyro.data.batch import Batch, to_light_batch
from rvrae_pyro.data.transforms import CONSTANT
from rvrae_pyro.errors import (
    FitError,
    PanelError,
    RvraeWarning,
    ShapeError,
    check_count,
    check_number,
)
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
    Training and validation months are both fitted, as there is nothing to tune. A missing
    return just leaves the sums, which is exact. Months whose characteristics span no more
    dimensions than there are factors, for lack of assets or of histories, are left out, during
    the fit and after it: they carry no information on the mapping, and their factors are NaN
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
        self.tol = check_number("tol", tol, "(0, inf]")
        self.constant, self.alpha = bool(constant), bool(alpha)
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
            warnings.warn(
                f"IPCA moved by {moved:.2g} in its last of {len(found.changes)} iterations, more "
                f"than `tol` {self.tol:.2g}. Ask for fewer factors, leave out early months, in "
                "which characteristics lack their histories, or raise `max_iter`.",
                RvraeWarning,
                stacklevel=4,
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
        self.history = {"iteration": steps, "largest_change": found.changes}

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
