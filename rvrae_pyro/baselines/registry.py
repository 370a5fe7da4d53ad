"""Baselines by name, for files and the command line: a new one is one line here."""

from __future__ import annotations

import os
from typing import Final

from rvrae_pyro.baselines.alstm import ALSTM
from rvrae_pyro.baselines.autoencoder import ConditionalAutoencoder
from rvrae_pyro.baselines.base import Baseline
from rvrae_pyro.baselines.factorvae import FactorVAE
from rvrae_pyro.baselines.ipca import IPCA
from rvrae_pyro.baselines.saved import read_folder
from rvrae_pyro.baselines.transformer import Transformer
from rvrae_pyro.errors import CheckpointError

__all__ = ["KINDS", "load"]

KINDS: Final[dict[str, type[Baseline]]] = {
    "ALSTM": ALSTM,
    "ConditionalAutoencoder": ConditionalAutoencoder,
    "FactorVAE": FactorVAE,
    "IPCA": IPCA,
    "Transformer": Transformer,
}
"""Every baseline by the name of its class."""


def load(path: str | os.PathLike[str]) -> Baseline:
    """Read a baseline of any kind that ``save`` wrote.

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
    if meta.get("kind") not in KINDS:
        raise CheckpointError(
            f"{str(path)!r} holds a baseline of kind {meta.get('kind')!r}; this version knows "
            f"{', '.join(KINDS)}. For a class of your own call its .load."
        )
    return KINDS[meta["kind"]].load(path)
