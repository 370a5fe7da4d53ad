"""Rounding of numbers, relative to their size: guards without a preferred unit, sign or dtype."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["constant", "rounding"]

_LEAST: Final = 1e-12
_STEPS: Final = 4.0


def rounding(*values: Any) -> float:
    """Relative rounding error of numbers that passed through the coarsest of some dtypes.

    Parameters
    ----------
    *values : arrays, numbers or dtypes
        Integers are exact.

    Returns
    -------
    float
        1e-12 for double precision, about 5e-7 for single precision. A double that was computed
        from single-precision numbers still has their error, so cast after asking.
    """
    coarsest = 0.0
    for each in values:
        dtype = each if isinstance(each, np.dtype) else getattr(each, "dtype", None)
        dtype = dtype if isinstance(dtype, np.dtype) else np.asarray(each).dtype
        if dtype.kind == "f":
            coarsest = max(coarsest, float(np.finfo(dtype).eps))
    return max(_LEAST, _STEPS * coarsest)


def constant(
    values: NDArray[Any], axis: int = -1, relative: float | None = None
) -> NDArray[np.bool_]:
    """Whether numbers differ along an axis by no more than the rounding of the largest.

    Parameters
    ----------
    values : array
        NaN is left out. Without two numbers the answer is True.
    axis : int
    relative : float, optional
        Relative rounding error. Default: that of the dtype, :func:`rounding`.

    Returns
    -------
    array of bool, without ``axis``
    """
    tolerance = rounding(values) if relative is None else relative
    numbers = np.asarray(values, dtype=np.float64)
    high = np.fmax.reduce(numbers, axis=axis, initial=-np.inf)
    low = np.fmin.reduce(numbers, axis=axis, initial=np.inf)
    size = np.maximum(np.abs(high), np.abs(low))
    # written so that an axis without numbers, where high < low, is constant
    return np.asarray(~(high - low > tolerance * size))
