"""Published reference results, for context."""

from __future__ import annotations

from typing import Final

PAPER_NAME: Final = "RVRAE (paper)"

NOT_COMPARABLE: Final = (
    "Printed in arXiv 2403.02500: other data (CRSP and Compustat, 5,682 stocks, 2000-2020, not "
    "public), other months, no standard errors. Not comparable, and not targets."
)

PAPER_TABLE: Final[dict[str, dict[str, float]]] = {
    "IPCA": {
        "total_r2": 18.32,
        "predictive_r2_running": 0.36,
        "sharpe_gross": 0.86,
        "sharpe_net": 0.64,
    },
    "CA": {
        "total_r2": 17.52,
        "predictive_r2_running": 0.74,
        "sharpe_gross": 1.12,
        "sharpe_net": 0.96,
    },
    "FactorVAE": {
        "total_r2": 18.71,
        "predictive_r2_running": 0.92,
        "sharpe_gross": 1.92,
        "sharpe_net": 1.43,
    },
    "ALSTM": {
        "total_r2": 20.33,
        "predictive_r2_running": 0.91,
        "sharpe_gross": 2.15,
        "sharpe_net": 2.01,
    },
    "Transformer": {
        "total_r2": 19.23,
        "predictive_r2_running": 1.46,
        "sharpe_gross": 12.03,
        "sharpe_net": 1.92,
    },
    PAPER_NAME: {
        "total_r2": 20.06,
        "predictive_r2_running": 1.57,
        "sharpe_gross": 2.26,
        "sharpe_net": 2.03,
    },
}
"""By competitor and metric, in the unit of the tables. Total R2 of ALSTM and Transformer has no
meaning for pure forecasters; a Sharpe ratio of 12.03 is presumably a slip for 2.03."""

PAPER_RANK: Final[dict[int, tuple[float, float]]] = {
    50: (0.055, 0.295),
    100: (0.053, 0.361),
    150: (0.053, 0.363),
}
"""Rank IC and Rank ICIR of the paper's RVRAE by number of omitted stocks."""

GKX_TABLE: Final[dict[str, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]]] = {
    "linear": {
        "PCA": ((3.5, 4.7, 5.5, 6.3, 7.1, 7.8), (0.17, 0.10, 0.04, 0.01, -0.01, -0.03)),
        "IPCA": ((18.6, 32.2, 40.7, 41.0, 41.4, 41.7), (2.20, 2.93, 3.33, 3.32, 3.32, 3.32)),
        "CA0": ((15.6, 26.7, 33.7, 33.5, 33.4, 33.2), (2.04, 2.84, 3.17, 3.14, 3.12, 3.13)),
        "CA": ((17.6, 30.3, 38.1, 37.7, 37.3, 37.1), (2.11, 2.93, 3.27, 3.29, 3.26, 3.26)),
        "CA2": ((17.7, 29.2, 36.8, 36.5, 36.3, 35.9), (2.10, 2.85, 3.22, 3.22, 3.23, 3.22)),
        "CA3": ((17.6, 25.6, 30.0, 29.5, 26.3, 23.4), (2.06, 2.57, 2.89, 2.86, 2.58, 2.39)),
    },
    "nonlinear": {
        "PCA": ((3.4, 5.1, 6.0, 6.6, 7.3, 7.9), (0.15, 0.19, 0.15, 0.12, 0.10, 0.09)),
        "IPCA": ((11.0, 11.4, 11.9, 12.3, 12.7, 13.1), (0.84, 0.82, 0.81, 0.80, 0.79, 0.79)),
        "CA0": ((8.5, 8.2, 7.9, 7.6, 7.4, 7.2), (0.80, 0.76, 0.77, 0.76, 0.72, 0.70)),
        "CA": ((15.0, 24.6, 31.8, 32.0, 31.9, 31.8), (1.83, 2.31, 2.70, 2.70, 2.71, 2.73)),
        "CA2": ((15.7, 23.5, 30.9, 31.8, 30.2, 28.2), (1.95, 2.24, 2.73, 2.80, 2.69, 2.53)),
        "CA3": ((15.9, 15.6, 14.6, 14.0, 11.2, 9.2), (1.77, 1.43, 1.32, 1.26, 1.06, 0.86)),
    },
}
"""Gu, Kelly and Xiu (2021), Journal of Econometrics 222, Table 6: total and predictive R2 in %
for 1 to 6 factors, means of 100 repetitions, by case and competitor (CA is their CA1)."""
