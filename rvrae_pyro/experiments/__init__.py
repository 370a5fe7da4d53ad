"""Experiments: models against each other, on the same panel with the same protocol."""

from rvrae_pyro.experiments.cluster import Cluster, connect
from rvrae_pyro.experiments.comparison_report import Comparison
from rvrae_pyro.experiments.competitors import (
    ABLATIONS,
    ALL,
    COMPETITORS,
    BaselineEntrant,
    Entrant,
    FactoryEntrant,
    ModelEntrant,
    as_entrant,
)
from rvrae_pyro.experiments.forecast_tree import Fitted, build_outlook, forecast_tree
from rvrae_pyro.experiments.gkx import GKX_MODELS, Benchmark, Oracle, benchmark_gkx
from rvrae_pyro.experiments.grid import Failure
from rvrae_pyro.experiments.metrics import METRICS, Rules, Scores, score
from rvrae_pyro.experiments.model_comparison import compare
from rvrae_pyro.experiments.replication import PAPER_MODELS, paper, paper_omit, paper_split
from rvrae_pyro.experiments.risk_scores import (
    RISK_MEASURES,
    compare_risk,
    portfolio_var_tests,
    risk_record,
    risk_scores,
    risk_table,
)
from rvrae_pyro.experiments.rolling_refits import walk_forward
from rvrae_pyro.experiments.swap import swap

__all__ = [
    "ABLATIONS",
    "ALL",
    "COMPETITORS",
    "GKX_MODELS",
    "METRICS",
    "PAPER_MODELS",
    "RISK_MEASURES",
    "BaselineEntrant",
    "Benchmark",
    "Cluster",
    "Comparison",
    "Entrant",
    "FactoryEntrant",
    "Failure",
    "Fitted",
    "ModelEntrant",
    "Oracle",
    "Rules",
    "Scores",
    "as_entrant",
    "benchmark_gkx",
    "build_outlook",
    "compare",
    "compare_risk",
    "connect",
    "forecast_tree",
    "paper",
    "paper_omit",
    "paper_split",
    "portfolio_var_tests",
    "risk_record",
    "risk_scores",
    "risk_table",
    "score",
    "swap",
    "walk_forward",
]
