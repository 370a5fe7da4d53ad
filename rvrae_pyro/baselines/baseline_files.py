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
    if target.exists() and not is_baseline(target) and not _is_empty(target):
        raise CheckpointError(
            f"`path` {str(target)!r} holds something that is not a baseline; choose another."
        )
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


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def read_folder(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a folder of :func:`write_folder`.

    Raises
    ------
    CheckpointError
        If the folder is missing, damaged, foreign or of a newer layout.
    """
    folder = Path(path)
    try:
        meta = json.loads((folder / _META).read_text())
        state = load_file(folder / _NUMBERS)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no baseline in {str(folder)!r}: {Path(error.filename or _NUMBERS).name} is missing. "
            "Pass the folder that save wrote."
        ) from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{str(folder)!r} is damaged: {error}. Restore it from a copy or fit again."
        ) from error
    if not isinstance(meta, dict) or meta.get("package") != "rvrae_pyro":
        raise CheckpointError(f"{str(folder)!r} was not written by this package.")
    if meta.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"{str(folder)!r} has layout {meta.get('format')}, this version reads up to {FORMAT}. "
            "Install the version of rvrae_pyro that wrote it, or a newer one."
        )
    return meta, state
