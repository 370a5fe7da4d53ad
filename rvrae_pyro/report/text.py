"""Numbers as text."""

from __future__ import annotations

from typing import SupportsFloat

import numpy as np


def number(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """Write a number with a real minus sign; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: SupportsFloat, digits: int = 1, *, sign: bool = False) -> str:
    """Write a share or a return in %, without the sign %."""
    return number(100 * float(value), digits, sign=sign)
