"""The competitors of the comparison, on the same panel with the same protocol.

Each has ``fit(train, valid=None, seed=0)``, ``predict(panel)``, ``save(path)`` and
``load(path)``; those with a predictive distribution (``has_distribution``) also ``forecast``,
``log_evidence`` and ``moments``; those with factors (``has_factors``) also ``reconstruct``,
``factor_parts``, ``factors`` and ``loadings``. ``filter(panel)`` binds a panel, as for a fit.
"""

from rvrae_pyro.baselines.alstm import ALSTM
from rvrae_pyro.baselines.autoencoder import ConditionalAutoencoder
from rvrae_pyro.baselines.baseline import Baseline
from rvrae_pyro.baselines.ewma import EWMA, MultivariateT
from rvrae_pyro.baselines.ewma_mixture import EWMAMixture
from rvrae_pyro.baselines.factor_garch import FactorGARCH
from rvrae_pyro.baselines.factorvae import FactorVAE
from rvrae_pyro.baselines.ipca import IPCA
from rvrae_pyro.baselines.loader import KINDS, load
from rvrae_pyro.baselines.network_training import TrainConfig
from rvrae_pyro.baselines.transformer import Transformer

__all__ = [
    "ALSTM",
    "EWMA",
    "IPCA",
    "KINDS",
    "Baseline",
    "ConditionalAutoencoder",
    "EWMAMixture",
    "FactorGARCH",
    "FactorVAE",
    "MultivariateT",
    "TrainConfig",
    "Transformer",
    "load",
]
