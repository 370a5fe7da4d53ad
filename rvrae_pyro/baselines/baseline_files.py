"""Baselines on disk: numbers as safetensors, everything else as JSON; never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from rvrae_pyro.atomic import replacing
from rvrae_pyro.errors import CheckpointError
from rvrae_pyro.fitting.saved import damaged, read_meta, reject_foreign

FORMAT = 1
"""Version of the folder's layout; an older layout stays readable, a newer one raises."""

_NUMBERS, _META = "baseline.safetensors", "baseline.json"


def is_baseline(folder: Path) -> bool:
    """Test whether a folder holds a saved baseline."""
    return (folder / _META).exists()


def write_folder(
    path: str | os.PathLike[str], meta: dict[str, Any], state: dict[str, Tensor]
) -> Path:
    """Write a baseline to a folder, atomically.

    Parameters
    ----------
    path : path
        A new folder, an empty one, or one that holds a baseline, which is then replaced.
    meta : dict
        JSON types.
    state : dict of Tensor

    Raises
    ------
    CheckpointError
        If the folder cannot be written; earlier content is unchanged.
    """
    target = Path(path)
    reject_foreign(target, (_META,), "a baseline")
    try:
        with replacing(target) as temporary:
            temporary.mkdir(parents=True)
            tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
            save_file(tensors, temporary / _NUMBERS)
            whole = {"format": FORMAT, "package": "rvrae_pyro", **meta}
            (temporary / _META).write_text(json.dumps(whole, indent=2))
    except OSError as error:
        raise CheckpointError(
            f"`path` {str(target)!r} cannot be written: {error}. Choose a folder you may write to."
        ) from error
    return target


def read_folder(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a folder of :func:`write_folder`.

    Raises
    ------
    CheckpointError
        If the folder is missing, damaged, foreign or of a newer layout.
    """
    folder = Path(path)
    meta = read_meta(folder, _META, "baseline", FORMAT)
    try:
        return meta, load_file(folder / _NUMBERS)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise damaged(folder, error) from error
