"""Small baselines and a small market for them."""

import xarray as xr

from rvrae_pyro import baselines
from rvrae_pyro.baselines import TrainConfig
from rvrae_pyro.data import split
from rvrae_pyro.data.simulators import simulate_dynamic
from rvrae_pyro.data.splits import Split

SHORT = TrainConfig(max_epochs=2, months=4)

MAKE = {
    "IPCA": lambda: baselines.IPCA(2, constant=True),
    "ConditionalAutoencoder": lambda: baselines.ConditionalAutoencoder(
        2, (4,), n_members=2, config=SHORT
    ),
    "EWMA": lambda: baselines.EWMA(burn_in=4, scale_refit=2),
    "EWMAMixture": lambda: baselines.EWMAMixture(
        (0.97, 0.99), (0.8,), (6.0, 9.0), burn_in=4, scale_refit=2
    ),
    "FactorGARCH": lambda: baselines.FactorGARCH(2),
    "FactorVAE": lambda: baselines.FactorVAE(2, hidden=4, n_portfolios=3, window=3, config=SHORT),
    "ALSTM": lambda: baselines.ALSTM(4, 2, 3, config=SHORT),
    "MultivariateT": lambda: baselines.MultivariateT(10),
    "Transformer": lambda: baselines.Transformer(4, 1, 2, 3, config=SHORT),
}
WITH_FACTORS = ("IPCA", "ConditionalAutoencoder", "FactorVAE")
RISK_MODELS = ("EWMA", "EWMAMixture", "FactorGARCH", "MultivariateT")
"""Joint Student-t distributions; characteristics and random numbers play no part in them."""


def market(n_times: int = 20, n_assets: int = 13, seed: int = 0) -> xr.Dataset:
    """Late entry, early exit, suspension, missing returns, and a month without any."""
    panel = simulate_dynamic(n_assets, n_times, 4, 2, turnover=0.6, missing=0.1, seed=seed)
    panel = panel[["returns", "characteristics"]]
    panel["returns"][n_times // 2] = float("nan")
    return panel


def parts(panel: xr.Dataset) -> Split:
    """Train, validation and test months of the market."""
    return split(panel, 12, 4, 4)
