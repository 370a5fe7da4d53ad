"""What stands at the place of a zarr folder that is about to be written."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from rvrae_pyro.errors import RvraeError
from rvrae_pyro.names import CHARACTERISTICS, RETURNS

__all__ = ["check_replaceable"]

_CALLED: Final = {"panel": "a panel", "tree": "draws"}


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
    nodes = {child.name: _node(child) for child in path.iterdir() if child.name not in _OWN}
    if kind == "panel":
        known = all(nodes.get(name) == "array" for name in (RETURNS, CHARACTERISTICS))
    else:
        known = bool(nodes) and all(node == "group" for node in nodes.values())
    if not known or _node(path) != "group":
        raise error(
            f"`{argument}` {str(path)!r} holds something that is not {_CALLED[kind]}; choose "
            "another folder, or remove it first."
        )


_OWN: Final = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


def _node(path: Path) -> str | None:
    """Tell a group from an array, in either version of zarr's format; None for anything else."""
    with suppress(OSError, ValueError, AttributeError):
        kind = json.loads((path / "zarr.json").read_bytes()).get("node_type")
        return None if kind is None else str(kind)
    for name, kind in ((".zgroup", "group"), (".zarray", "array")):
        if (path / name).is_file():
            return kind
    return None
