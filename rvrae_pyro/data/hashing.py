"""Content hash of a panel."""

import hashlib

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.chunks import each_row


def fingerprint(panel: xr.Dataset) -> str:
    """Hash the labels and values of a panel.

    Parameters
    ----------
    panel : Dataset

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits. Equal for panels with the same variables,
        dimensions, labels in the same order, and values, on every machine; attributes
        and the width of floats do not matter, so a file round trip leaves it unchanged.

    Examples
    --------
    >>> from rvrae_pyro.data.datasets import load_french
    >>> panel = load_french()
    >>> fingerprint(panel) == fingerprint(panel.copy(deep=True))
    True
    """
    digest = hashlib.sha256()
    for name in sorted(map(str, panel.variables)):
        array = panel[name]
        digest.update(f"{name}{array.dims}{array.shape}".encode())
        # a row at a time, so that large panels are not copied whole
        for row in each_row(array) if array.ndim > 1 else [array.values]:
            digest.update(_plain_bytes(np.asarray(row)))
    return digest.hexdigest()


def _plain_bytes(values: NDArray[np.generic]) -> bytes:
    """Bytes of values in one form, for any width, byte order and kind of NaN."""
    if values.dtype.kind in "fiub":
        plain = values.astype("<f8")
        plain[np.isnan(plain)] = np.nan
        return plain.tobytes()
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]").astype("<i8").tobytes()
    return "\0".join(map(str, values.ravel())).encode()
