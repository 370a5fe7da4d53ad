"""Covariance of returns, kept as loadings, factor covariance and idiosyncratic variances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr

from rvrae_pyro.data.timeline import in_time_order
from rvrae_pyro.errors import ConfigError, PanelError, ShapeError
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, OTHER_FACTOR, TIME
from rvrae_pyro.risk.draws import Array, read_forecast
from rvrae_pyro.risk.portfolio_weights import PORTFOLIO, Weights, first, pick_times, read_weights

OTHER_ASSET = "other_asset"


@runtime_checkable
class Moments(Protocol):
    """Fit, ensemble or baseline: members, each with its mean and covariance."""

    def moments(
        self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0, times: object | None = None
    ) -> xr.Dataset:
        """Return ``mean``, ``beta``, ``factor_cov``, ``idio_var`` and ``share`` by member."""
        ...


def covariance(
    fit: Moments,
    panel: xr.Dataset,
    times: object | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> FactorCovariance:
    r"""Predict the covariance of returns of every month, low-rank plus diagonal.

    .. math:: \Sigma_t = \sum_m \pi_m (B_{mt} S_{mt} B_{mt}' + D_{mt})
        + \sum_m \pi_m (\mu_{mt} - \bar\mu_t)(\mu_{mt} - \bar\mu_t)'

    over members m with shares :math:`\pi_m`: one where weights are fixed, so that
    :math:`\Sigma_t = B_t S_t B_t' + D_t`; the fits of an ensemble; draws of the weights where
    these have a posterior.

    Parameters
    ----------
    fit : Fit, Ensemble, or baseline with a distribution
    panel : Dataset
        May be longer than the training panel; its last month may be live.
    times : label, slice or list, optional
        Months of the result. Default: all. The panel is read up to the last of them.
    num_samples, seed : int
        Particles behind ``S_t``. It averages their own covariances, so that its error is that of
        what they differ in; for flows and nonlinear decoders it is the covariance of draws, whose
        entries have a relative error near ``sqrt(2 / num_samples)``.

    Returns
    -------
    FactorCovariance

    Raises
    ------
    ConfigError
        If ``fit`` has no ``moments``.
    PanelError
        If ``panel`` has no ``time``.
    ShapeError
        If ``times`` are outside the panel.

    Notes
    -----
    Information set: month t's covariance knows data up to t-1. ``S_t`` is the covariance of the
    predicted factors, including uncertainty about their state. Uncertainty about the weights
    is in the differences between members; a single member has none. M > 1 members
    have a root of M (K + 1) columns: K per member and one for its mean, so ``factor`` then counts
    columns ("member 1 factor 2", "member 1 mean"). Cost: one filtering pass per member, then
    O(T N M^2 (K + 1)^2).
    """
    if not isinstance(fit, Moments):
        raise ConfigError(
            f"`fit` must have `moments`, as a Fit, an Ensemble and baselines with a distribution "
            f"do; got {type(fit).__name__}."
        )
    if TIME not in getattr(panel, "coords", {}):
        raise PanelError(f"`panel` must be a Dataset with coordinate 'time'; got {panel!r:.60}.")
    panel = in_time_order(panel, "panel")
    rows = pick_times(panel.indexes[TIME], times)
    panel = panel.isel({TIME: slice(0, int(rows[-1]) + 1)})
    months = panel[TIME].to_numpy()[rows]
    return FactorCovariance.from_moments(fit.moments(panel, num_samples, seed, months))


@dataclass(frozen=True, eq=False)
class FactorCovariance:
    r"""Covariances :math:`\Sigma_t = B_t S_t B_t' + D_t` of all months, never dense unless asked.

    Parameters
    ----------
    beta : DataArray (time, asset, factor)
        Loadings; NaN where an asset is not listed. It is then not part of that month's matrix.
    factor_cov : DataArray (time, factor, other_factor)
        Symmetric, positive semi-definite.
    idio_var : DataArray (time, asset)
        Positive where listed, in squared return units.

    Raises
    ------
    ShapeError
        If dims or labels do not fit together.
    ConfigError
        If a variance is not positive, or ``factor_cov`` no covariance.

    Notes
    -----
    Vectors go in as a Series by asset, a DataFrame by month or a DataArray (then with one more
    dim if wished), aligned by label, and come out as DataArrays, NaN where not listed; one number
    means a vector that holds it at every listed asset. A product, solve or determinant costs
    O(N K) per month once the first has prepared O(N K^2).
    """

    beta: xr.DataArray
    factor_cov: xr.DataArray
    idio_var: xr.DataArray

    def __post_init__(self) -> None:
        dims = {
            "beta": (TIME, ASSET, FACTOR),
            "factor_cov": (TIME, FACTOR, OTHER_FACTOR),
            "idio_var": (TIME, ASSET),
        }
        for name, expected in dims.items():
            values = getattr(self, name)
            if not isinstance(values, xr.DataArray) or set(values.dims) != set(expected):
                raise ShapeError(
                    f"`{name}` must be a DataArray with dims {expected}; got "
                    f"{getattr(values, 'dims', type(values).__name__)}."
                )
            values = in_time_order(values, name).transpose(*expected).astype(np.float64)
            object.__setattr__(self, name, values)
        for name, other, dim in (
            ("factor_cov", self.factor_cov, TIME),
            ("factor_cov", self.factor_cov, FACTOR),
            ("idio_var", self.idio_var, TIME),
            ("idio_var", self.idio_var, ASSET),
        ):
            if not np.array_equal(other[dim].values, self.beta[dim].values):
                raise ShapeError(f"`{name}` must have the labels of `beta` along {dim!r}.")
        self._check_values()

    @classmethod
    def from_moments(cls, moments: xr.Dataset) -> FactorCovariance:
        """Join the members of ``moments`` by the law of total variance, kept low-rank.

        Parameters
        ----------
        moments : Dataset
            From ``moments`` of a fit, an ensemble, a baseline or a filtered panel.

        Returns
        -------
        FactorCovariance
            As from :func:`covariance`.
        """
        if moments.sizes[CHAIN] > 1:
            return _mixture(moments)
        only = moments.isel({CHAIN: 0}, drop=True)
        return cls(only["beta"], only["factor_cov"], only["idio_var"])

    @classmethod
    def from_forecast(cls, tree: xr.DataTree) -> FactorCovariance:
        """Take the covariance behind a forecast's draws, without a fit.

        Where weights have a posterior it is that of the mean loadings; :func:`covariance` of the
        fit also includes uncertainty about them.

        Raises
        ------
        ShapeError
            If the tree lacks factors, loadings or idiosyncratic scales, or its members differ
            in their loadings.
        """
        forecast = read_forecast(tree)
        constant = tree.children.get("predictions_constant_data")
        scale = None if constant is None else constant.to_dataset().get("idio_scale")
        if forecast.factors is None or forecast.beta is None or scale is None:
            raise ShapeError(
                "`tree` must hold 'factors' with its returns, and 'beta' and 'idio_scale' in "
                "group 'predictions_constant_data'. `fit.forecast` writes them."
            )
        if forecast.beta.sizes[CHAIN] > 1 or CHAIN in scale.dims:
            raise ShapeError(
                "`tree` must have one set of loadings; its members have their own. Select one "
                "chain."
            )
        beta = forecast.beta.isel({CHAIN: 0}, drop=True)
        return cls(beta, _sample_covariance(forecast.factors), scale**2)

    @property
    def listed(self) -> xr.DataArray:
        """Assets of each month's matrix: bool (time, asset)."""
        return self.idio_var.notnull()

    def sel(self, times: object) -> FactorCovariance:
        """Pick months by label, slice or list."""
        rows = {TIME: pick_times(self.beta.indexes[TIME], times)}
        return FactorCovariance(
            self.beta.isel(rows), self.factor_cov.isel(rows), self.idio_var.isel(rows)
        )

    def dot(self, x: Weights | float) -> xr.DataArray:
        """Multiply: ``Sigma x`` of every month, with the dims of ``x`` and ``time``."""
        vector = self._vector(x)
        values = vector.transpose(TIME, ASSET, PORTFOLIO).values
        product = self._diagonal(np.nan)[..., None] * values
        product += self._root @ (self._root.mT @ values)
        return self._like(product, vector, x)

    def solve(self, x: Weights | float) -> xr.DataArray:
        """Solve ``Sigma y = x`` of every month by Woodbury's identity."""
        vector = self._vector(x)
        scaled = vector.transpose(TIME, ASSET, PORTFOLIO).values / self._diagonal(1.0)[..., None]
        inner = np.linalg.solve(self._capacitance, self._root.mT @ scaled)
        weighted = self._root / self._diagonal(1.0)[..., None]
        answer = np.where(self.listed.values[..., None], scaled - weighted @ inner, np.nan)
        return self._like(answer, vector, x)

    def logdet(self) -> xr.DataArray:
        """Log determinant (time,), over the listed assets; 0 for a month without any."""
        value = np.log(self._diagonal(1.0)).sum(axis=-1)
        value = value + np.linalg.slogdet(self._capacitance)[1]
        return xr.DataArray(value, {TIME: self.beta[TIME]}, TIME, name="logdet")

    def sample(self, num_samples: int, seed: int = 0) -> xr.DataArray:
        """Draw normal returns with mean zero and this covariance: (draw, time, asset)."""
        if num_samples < 1:
            raise ConfigError(f"`num_samples` must be at least 1; got {num_samples!r}.")
        rng = np.random.default_rng(seed)
        n_times, n_assets, rank = self._root.shape
        common = rng.standard_normal((num_samples, n_times, rank, 1))
        draws = np.matmul(self._root, common)[..., 0]
        noise = rng.standard_normal((num_samples, n_times, n_assets))
        draws += noise * np.sqrt(self._diagonal(np.nan))
        coords = {DRAW: np.arange(num_samples), TIME: self.beta[TIME], ASSET: self.beta[ASSET]}
        return xr.DataArray(draws, coords, (DRAW, TIME, ASSET), name="returns")

    def variance(self) -> xr.DataArray:
        """Variance of every asset (time, asset): the diagonal."""
        values = self._diagonal(np.nan) + (self._root**2).sum(axis=-1)
        return self.idio_var.copy(data=values).rename("variance")

    def to_dense(self, assets: object | None = None) -> xr.DataArray:
        """Write the matrix out: (time, asset, other_asset), NaN where not listed.

        Parameters
        ----------
        assets : list of labels, optional
            Rows and columns. Default: all. Memory is O(T n^2).

        Raises
        ------
        ShapeError
            If an asset is unknown or repeated.
        """
        labels = self.beta[ASSET].values if assets is None else np.atleast_1d(np.asarray(assets))
        rows = self.beta.indexes[ASSET].get_indexer(labels)
        if (rows < 0).any() or len(set(rows.tolist())) < len(rows):
            wrong = labels[rows < 0]
            raise ShapeError(
                "`assets` must be different assets of the covariance; "
                + (f"unknown: {first(wrong)}." if wrong.size else "some are repeated.")
            )
        root, diagonal = self._root[:, rows], self._diagonal(np.nan)[:, rows]
        dense = root @ root.mT
        dense[:, np.arange(len(rows)), np.arange(len(rows))] += diagonal
        absent = np.isnan(diagonal)
        dense[absent[:, :, None] | absent[:, None, :]] = np.nan
        coords = {TIME: self.beta[TIME], ASSET: labels, OTHER_ASSET: labels}
        return xr.DataArray(dense, coords, (TIME, ASSET, OTHER_ASSET), name="covariance")

    def minimum_variance(self) -> xr.DataArray:
        """Weights (time, asset) of the fully invested portfolio with the least variance."""
        raw = self.solve(1.0)
        return (raw / raw.sum(ASSET)).rename("weights")

    @cached_property
    def _root(self) -> Array:
        """Loadings on uncorrelated unit factors, 0 where unlisted: B S^(1/2)."""
        values, vectors = np.linalg.eigh(self.factor_cov.values)
        half = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        root: Array = np.nan_to_num(self.beta.values) @ half
        return root

    @cached_property
    def _capacitance(self) -> Array:
        weighted = self._root / self._diagonal(1.0)[..., None]
        return np.eye(self._root.shape[-1]) + self._root.mT @ weighted

    def _diagonal(self, fill: float) -> Array:
        values: Array = self.idio_var.values
        return np.where(np.isnan(values), fill, values)

    def _vector(self, x: Weights | float) -> xr.DataArray:
        if np.isscalar(x):
            level = float(x)  # type: ignore[arg-type]
            return self.idio_var.copy(data=self.listed.values * level).expand_dims(PORTFOLIO, -1)
        vector = read_weights(x, self.listed, "x")  # type: ignore[arg-type]
        if vector.sizes[TIME] < self.beta.sizes[TIME]:
            raise ShapeError(
                f"`x` must cover the months of the covariance: {vector.sizes[TIME]} of "
                f"{self.beta.sizes[TIME]} given. Pick them with .sel(months) first."
            )
        return vector

    def _like(self, values: Array, vector: xr.DataArray, x: Weights | float) -> xr.DataArray:
        """Label a result (time, asset, portfolio) as its argument was."""
        result = vector.transpose(TIME, ASSET, PORTFOLIO).copy(data=values)
        extra = [d for d in x.dims if d not in (TIME, ASSET)] if isinstance(x, xr.DataArray) else []
        if not extra:
            return result.isel({PORTFOLIO: 0}, drop=True)
        return result.rename({PORTFOLIO: extra[0]})

    def _check_values(self) -> None:
        listed = self.idio_var.notnull().values
        if (np.isfinite(self.beta.values).all(axis=-1) != listed).any():
            raise ShapeError("`beta` and `idio_var` must be missing for the same cells.")
        if not (self.idio_var.values[listed] > 0).all():
            raise ConfigError("`idio_var` must be positive where an asset is listed.")
        matrix = self.factor_cov.values
        size = np.abs(matrix).max(axis=(-2, -1), initial=0.0)
        if (
            not np.isfinite(matrix).all()
            or (np.abs(matrix - matrix.mT).max(axis=(-2, -1), initial=0.0) > 1e-8 * size).any()
        ):
            raise ConfigError("`factor_cov` must be finite and symmetric.")
        if (np.linalg.eigvalsh(matrix)[..., 0] < -1e-8 * size).any():
            raise ConfigError("`factor_cov` must be positive semi-definite.")


def _mixture(data: xr.Dataset) -> FactorCovariance:
    """Covariance of two or more members by the law of total variance, kept low-rank."""
    n_members, share = data.sizes[CHAIN], data["share"].values
    beta = data["beta"].transpose(TIME, ASSET, CHAIN, FACTOR).values
    mean = data["mean"].transpose(TIME, ASSET, CHAIN).values
    apart = mean - (mean * share).sum(-1, keepdims=True)
    n_times, n_assets, _, n_factors = beta.shape
    columns = np.concatenate([beta, apart[..., None]], -1).reshape(n_times, n_assets, -1)
    cov = np.zeros((n_times, n_members, n_factors + 1, n_members, n_factors + 1))
    within = data["factor_cov"].transpose(CHAIN, TIME, FACTOR, OTHER_FACTOR).values
    for m in range(n_members):
        cov[:, m, :-1, m, :-1] = share[m] * within[m]
        cov[:, m, -1, m, -1] = share[m]
    of_member = [*(f"factor {k}" for k in data[FACTOR].values), "mean"]
    labels = np.array([f"member {m + 1} {name}" for m in range(n_members) for name in of_member])
    months, assets = {TIME: data[TIME].values}, {ASSET: data[ASSET].values}
    factors, others = {FACTOR: labels}, {OTHER_FACTOR: labels}
    return FactorCovariance(
        xr.DataArray(columns, months | assets | factors, (TIME, ASSET, FACTOR)),
        xr.DataArray(
            cov.reshape(n_times, len(labels), len(labels)),
            months | factors | others,
            (TIME, FACTOR, OTHER_FACTOR),
        ),
        (data["idio_var"] * data["share"]).sum(CHAIN, skipna=False),
    )


def _sample_covariance(factors: xr.DataArray) -> xr.DataArray:
    """Covariance of draws (chain, draw, time, factor), all chains pooled, with ddof 0."""
    draws = factors.transpose(CHAIN, DRAW, TIME, FACTOR).astype(np.float64)
    values = draws.values.reshape(-1, *draws.shape[2:]).swapaxes(0, 1)
    centred = values - values.mean(axis=1, keepdims=True)
    cov = centred.mT @ centred / values.shape[1]
    labels = draws[FACTOR].values
    coords = {TIME: draws[TIME].values, FACTOR: labels, OTHER_FACTOR: labels}
    return xr.DataArray(cov, coords, (TIME, FACTOR, OTHER_FACTOR), name="factor_cov")
