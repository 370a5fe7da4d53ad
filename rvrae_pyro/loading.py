"""One loader for everything that was fitted and saved: fits, ensembles, baselines."""

from __future__ import annotations

import os
from pathlib import Path

from rvrae_pyro.baselines.baseline import Baseline
from rvrae_pyro.baselines.baseline_files import is_baseline
from rvrae_pyro.baselines.loader import load as load_baseline
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.fitting.ensemble import Ensemble
from rvrae_pyro.fitting.ensemble import load as load_fitted
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.rvrae import RVRAE


def load(
    path: str | os.PathLike[str], model: RVRAE | None = None, *, config: FitConfig | None = None
) -> Fit | Ensemble | Baseline:
    """Read what any ``save`` of the package wrote, or the best state of a checkpoint.

    Parameters
    ----------
    path : path
        The folder.
    model : RVRAE, optional
        For a fit or an ensemble with user-defined parts: a model built as the saved one was.
        Its weights are filled in; for an ensemble every member gets a copy.
    config : FitConfig, optional
        For a fit with a user-defined schedule: the configuration it was fitted with.

    Returns
    -------
    Fit, Ensemble or Baseline
        The saved object; all three have ``predict``, ``forecast``, ``log_evidence``,
        ``moments``, ``reconstruct`` and ``save``.

    Raises
    ------
    CheckpointError
        If the folder is missing, damaged, foreign or of a newer version, or needs ``model``.
    ConfigError
        If ``model`` or ``config`` is given for a baseline.
    """
    if not is_baseline(Path(path)):
        return load_fitted(path, model, config=config)
    if model is not None or config is not None:
        raise ConfigError(
            f"`path` {str(path)!r} holds a baseline, which needs neither `model` nor `config`; "
            "got one. Use rv.load(path)."
        )
    return load_baseline(path)
