"""Returns of characteristic-managed portfolios."""

import numbers
from typing import Final

import numpy as np
import xarray as xr

from rvrae_pyro.data.chunks import each_row
from rvrae_pyro.data.validation import first_three, validate_panel
from rvrae_pyro.errors import ConfigError, PanelError
from rvrae_pyro.names import CHARACTERISTIC, CHARACTERISTICS, RETURNS, TIME

CONSTANT: Final = "constant"
"""Label of the portfolio of the constant: close to equal weights."""


def managed_portfolios(panel: xr.Dataset, ridge: float = 1.0) -> xr.DataArray:
    """Regress each row's returns on its characteristics and a constant.

    With X the (n_t, P + 1) matrix of a one and the characteristics of the assets with an
    observed return, the portfolios' returns are (X'X + ridge I)^-1 X'r.

    Parameters
    ----------
    panel : Dataset
        Ranked, or at least with no NaN in a cell that is listed and has a return.
    ridge : float
        Not negative; in units of X'X, so 1 weighs as much as one asset with
        characteristics of 1. It matters for rows with few assets and is lost in
        rows with thousands; 0 is least squares, of smallest norm where assets are few.

    Returns
    -------
    DataArray of shape (n_times, P + 1), dims (time, characteristic)
        Excess return per unit of characteristic, float64; the first label is
        ``"constant"``. Row t is known at the end of t. NaN in rows without a usable
        cell, such as the live one.

    Raises
    ------
    PanelError
        If the panel fails ``check_panel``, has a NaN among the characteristics of a cell
        in use, or a characteristic of the name ``constant``.
    ConfigError
        If ``ridge`` is negative or no number.

    Notes
    -----
    Cost O(T N P^2). Permuting the assets changes nothing but rounding.

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, Journal of Econometrics
    222, section 2.3: the input of the factor side of the conditional autoencoder.
    """
    validate_panel(panel, returns_required=False)
    if not isinstance(ridge, numbers.Real) or not 0.0 <= ridge < np.inf:
        raise ConfigError(f"`ridge` must be a number of at least 0; got {ridge!r}.")
    names = [str(v) for v in panel[CHARACTERISTIC].values]
    if CONSTANT in names:
        raise PanelError(f"`panel`: the characteristic {CONSTANT!r} must be renamed or dropped.")
    returns = panel[RETURNS].values
    rows = each_row(panel[CHARACTERISTICS])
    out = np.full((len(returns), len(names) + 1), np.nan)
    unfilled: list[str] = []
    for t, (r, x) in enumerate(zip(returns, rows, strict=True)):
        use = ~np.isnan(r) & ~np.isnan(x).all(axis=-1)
        if not use.any():
            continue
        design = np.column_stack([np.ones(use.sum()), x[use].astype(np.float64)])
        if np.isnan(design).any():
            unfilled.append(str(panel[TIME].values[t])[:10])
            continue
        gram = design.T @ design + ridge * np.eye(design.shape[1])
        moment = design.T @ r[use].astype(np.float64)
        out[t] = np.linalg.solve(gram, moment) if ridge else np.linalg.pinv(design) @ r[use]
    if unfilled:
        raise PanelError(
            f"`panel`: listed cells with missing characteristics on {first_three(unfilled)}. "
            "rank_characteristics fills them."
        )
    return xr.DataArray(
        out,
        coords={TIME: panel[TIME], CHARACTERISTIC: np.array([CONSTANT, *names])},
        dims=(TIME, CHARACTERISTIC),
        name="managed_portfolios",
        attrs={"long_name": "return of the managed portfolio", "units": "1"},
    )
