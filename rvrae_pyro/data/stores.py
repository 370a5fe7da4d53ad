"""What stands at the place of a zarr folder that is about to be written."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from rvrae_pyro.errors import RvraeError
from rvrae_pyro.names import CHARACTERISTICS, RETURNS

_CALLED: Final = {"panel": "a panel", "tree": "draws"}
_OWN: Final = {"zarr.json", ".zgroup", ".zattrs", ".zmetadata"}
"""Files of zarr itself, in either version of its format."""


def check_replaceable(
    path: Path, kind: Literal["panel", "tree"], argument: str, error: type[RvraeError]
) -> None:
    """Refuse to put a zarr folder in the place of anything but an earlier one of its kind.

    Parameters
    ----------
    path : Path
        May not exist, or be an empty folder; nothing else than a folder is looked at.
    kind : {"panel", "tree"}
        A panel has arrays of returns and characteristics, a tree of draws groups only.
    argument : str
        What the user calls the path.
    error : type
        What is raised.
    """
    if not path.is_dir() or not any(path.iterdir()):
        return
    arrays, groups = _nodes(path)
    known = {RETURNS, CHARACTERISTICS} <= arrays if kind == "panel" else groups and not arrays
    if not known or {child.name for child in path.iterdir()} - _OWN - arrays - groups:
        raise error(
            f"`{argument}` {str(path)!r} holds something that is not {_CALLED[kind]}; choose "
            "another folder, or remove it first."
        )


def _nodes(path: Path) -> tuple[set[str], set[str]]:
    """Names of the arrays and groups in a store; none in a folder that is no store."""
    import zarr

    try:
        store = zarr.open_group(path, mode="r")
        return set(store.array_keys()), set(store.group_keys())
    except (OSError, ValueError):
        return set(), set()
