"""Panels: read, check, transform, cut and simulate. Works without torch.

``to_batch`` and ``Batch`` need torch and are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rvrae_pyro.data.calendar import periods_per_year
from rvrae_pyro.data.datasets import load_french, load_french_factors, load_sp500
from rvrae_pyro.data.frame import from_frame, to_frame
from rvrae_pyro.data.io import read_panel, write_panel
from rvrae_pyro.data.panel_match import fingerprint
from rvrae_pyro.data.prices import characteristics_from_prices
from rvrae_pyro.data.readers import ColumnMap, read_long
from rvrae_pyro.data.simulators import simulate_dynamic, simulate_gkx, simulate_linear_gaussian
from rvrae_pyro.data.splits import Split, split, walk_forward
from rvrae_pyro.data.transforms import (
    context_changes,
    managed_portfolios,
    market_context,
    rank_characteristics,
)
from rvrae_pyro.data.validation import check_panel, listed
from rvrae_pyro.data.vendors import (
    GKX_COLUMNS,
    PAPER_CHARACTERISTICS,
    PAPER_GROUPS,
    read_gkx,
    read_jkp,
    read_openap,
)
from rvrae_pyro.data.wide import characteristics_from_returns, from_prices, from_wide

if TYPE_CHECKING:
    from rvrae_pyro.data.batch import Batch, to_batch

__all__ = [
    "GKX_COLUMNS",
    "PAPER_CHARACTERISTICS",
    "PAPER_GROUPS",
    "Batch",
    "ColumnMap",
    "Split",
    "characteristics_from_prices",
    "characteristics_from_returns",
    "check_panel",
    "context_changes",
    "fingerprint",
    "from_frame",
    "from_prices",
    "from_wide",
    "listed",
    "load_french",
    "load_french_factors",
    "load_sp500",
    "managed_portfolios",
    "market_context",
    "periods_per_year",
    "rank_characteristics",
    "read_gkx",
    "read_jkp",
    "read_long",
    "read_openap",
    "read_panel",
    "simulate_dynamic",
    "simulate_gkx",
    "simulate_linear_gaussian",
    "split",
    "to_batch",
    "to_frame",
    "walk_forward",
    "write_panel",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    if name in ("Batch", "to_batch"):
        return getattr(importlib.import_module("rvrae_pyro.data.batch"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
