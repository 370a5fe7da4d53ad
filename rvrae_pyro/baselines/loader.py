"""Baselines by the name of their class, for files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from rvrae_pyro.baselines.alstm import ALSTM
from rvrae_pyro.baselines.autoencoder import ConditionalAutoencoder
from rvrae_pyro.baselines.baseline import Baseline
from rvrae_pyro.baselines.baseline_files import read_folder
from rvrae_pyro.baselines.ewma import EWMA, MultivariateT
from rvrae_pyro.baselines.ewma_mixture import EWMAMixture
from rvrae_pyro.baselines.factor_garch import FactorGARCH
from rvrae_pyro.baselines.factorvae import FactorVAE
from rvrae_pyro.baselines.ipca import IPCA
from rvrae_pyro.baselines.transformer import Transformer
from rvrae_pyro.errors import CheckpointError

KINDS: Final[dict[str, type[Baseline]]] = {
    "ALSTM": ALSTM,
    "ConditionalAutoencoder": ConditionalAutoencoder,
    "EWMA": EWMA,
    "EWMAMixture": EWMAMixture,
    "FactorGARCH": FactorGARCH,
    "FactorVAE": FactorVAE,
    "IPCA": IPCA,
    "MultivariateT": MultivariateT,
    "Transformer": Transformer,
}
"""Every baseline by the name of its class."""


def load(path: str | os.PathLike[str]) -> Baseline:
    """Read a baseline of any kind that ``save`` wrote, of a custom class too once defined.

    Parameters
    ----------
    path : path
        The folder.

    Returns
    -------
    Baseline

    Raises
    ------
    CheckpointError
        If the folder is missing, damaged, foreign, of a newer layout or of an unknown kind.
    """
    meta, _ = read_folder(path)
    known = {**{kind.__name__: kind for kind in _kinds_of(Baseline)}, **KINDS}
    if meta.get("kind") not in known:
        raise CheckpointError(
            f"{str(path)!r} holds a baseline of kind {meta.get('kind')!r}; known are "
            f"{', '.join(KINDS)}. Import a custom class before you load it."
        )
    return known[meta["kind"]].load(path)


def _kinds_of(kind: type[Any]) -> Iterator[type[Baseline]]:
    """Every class that derives from one, the latest definitions last."""
    for each in kind.__subclasses__():
        yield each
        yield from _kinds_of(each)
