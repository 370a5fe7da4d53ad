"""The 46 characteristics of the paper's setting, among those of Gu, Kelly and Xiu's file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import Final

PAPER_GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "past returns": ("mom1m", "mom6m", "mom12m", "mom36m", "chmom", "indmom"),
        "investment": ("agr", "egr", "invest", "chcsho", "chinv", "grcapx", "grltnoa"),
        "profitability": (
            "gma",
            "operprof",
            "roaq",
            "roeq",
            "roic",
            "chatoia",
            "chpmia",
            "depr",
            "cashdebt",
        ),
        "intangibles": ("acc", "absacc", "pctacc", "pchgm_pchsale"),
        "value": ("bm", "bm_ia", "cash", "cfp", "cfp_ia", "dy", "ep", "lev", "sp"),
        "trading frictions": (
            "baspread",
            "beta",
            "betasq",
            "dolvol",
            "idiovol",
            "ill",
            "maxret",
            "mvel1",
            "retvol",
            "std_turn",
            "turn",
        ),
    }
)
"""Characteristics by group, under the names of ``datashare.csv``.

Wang and Guo (2024) use 46 characteristics and do not print their names; the number is that of
Chen, Pelger and Zhu (2024, Management Science), whose six groups these are. For every group the
file's characteristics nearest to theirs were chosen; some of theirs are not in the file (operating
leverage, standard unexplained volume, closeness to the 52-week high), and others of the group take
their place.
"""

PAPER_CHARACTERISTICS: Final[tuple[str, ...]] = tuple(chain(*PAPER_GROUPS.values()))
"""All 46, group by group."""
