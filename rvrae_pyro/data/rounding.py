"""Rounding of numbers, relative to their size: guards without a preferred unit, sign or dtype."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LEAST: Final = 1e-12
_STEPS: Final = 4.0


def rounding(*values: Any) -> float:
    """Relative rounding error of numbers that passed through the coarsest of some dtypes.

    Takes arrays, numbers and dtypes; integers are exact. 1e-12 for double precision, about 5e-7 for
    single precision. A double that was computed from single-precision numbers still has their
    error, so cast after asking.
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
    """Test whether numbers differ along an axis by no more than the rounding of the largest.

    NaN is left out; without two numbers the answer is True. ``relative`` is the rounding error.
    Default: that of the dtype, :func:`rounding`.
    """
    tolerance = rounding(values) if relative is None else relative
    numbers = np.asarray(values, dtype=np.float64)
    high = np.fmax.reduce(numbers, axis=axis, initial=-np.inf)
    low = np.fmin.reduce(numbers, axis=axis, initial=np.inf)
    size = np.maximum(np.abs(high), np.abs(low))
    # written so that an axis without numbers, where high < low, is constant
    return np.asarray(~(high - low > tolerance * size))


def scaled(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide columns by their spread, rounded to a power of two so that no digit is lost.

    Returns columns (n_rows, n_columns) with a standard deviation between 0.7 and 1.5, without NaN
    as they came, and the scale (n_columns,); a column of zeros stays.
    """
    numbers = np.asarray(values, dtype=np.float64)
    largest = np.abs(numbers).max(axis=0, initial=0.0)
    unit = np.where(largest > 0, largest, 1.0)
    # of numbers up to 1, whose squares neither overflow nor vanish
    spread = (numbers / unit).std(axis=0)
    size = unit * np.where(spread > 0, spread, 1.0)
    scale = np.exp2(np.rint(np.log2(size)))
    return numbers / scale, scale


def independent(values: NDArray[Any], relative: float | None = None) -> bool:
    """Test whether no column is constant, or a combination of others and a constant.

    ``values`` (n_rows, n_columns) are in any units, without NaN; ``relative`` as in
    :func:`constant`.
    """
    tolerance = rounding(values) if relative is None else relative
    if not values.shape[0] or bool(constant(values, axis=0, relative=tolerance).any()):
        return False
    numbers, _ = scaled(values)
    centred = numbers - numbers.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    noise = tolerance * np.sqrt(len(numbers)) * np.abs(numbers).max(axis=0) / length
    if len(numbers) <= centred.shape[1]:
        return False
    singular = np.linalg.svd(centred / length, compute_uv=False)
    return bool(singular[-1] > 10.0 * noise.max())
