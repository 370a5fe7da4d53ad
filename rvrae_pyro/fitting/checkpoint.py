"""State of a training run on disk: one file, written atomically, with the run's identity."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from rvrae_pyro.atomic import write_bytes
from rvrae_pyro.errors import CheckpointError
from rvrae_pyro.inference.epochs import State
from rvrae_pyro.nn.digest import digest_of

STATE: Final = "training.safetensors"
"""Name of the file inside the checkpoint's folder."""

FORMAT: Final = 1
"""Version of the file's layout; another one raises."""

_SHARE: Final = 0.05
"""Largest share of the time that goes into writing the state."""


class Saved(NamedTuple):
    """Content of a checkpoint's file; see :class:`Checkpoint`."""

    identity: Mapping[str, Any]
    about: Mapping[str, Any]
    state: State


class Checkpoint:
    """A folder that keeps the state of one run.

    ``identity`` describes, as JSON types, what determines the run: data, model, settings, seed. A
    state of another identity raises. ``about`` has further information for readers.
    """

    def __init__(
        self, folder: str | os.PathLike[str], identity: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        self.folder = Path(folder)
        self.identity, self.about = json.loads(json.dumps(identity)), about
        self._waiting: State | None = None
        self._last, self._cost = -math.inf, 0.0

    def read_for(self, weights: str) -> State | None:
        """Read the state that an earlier run of the same identity left; None where there is none.

        A model with the ``weights`` (their hash) that a stopped run left also resumes.

        Raises
        ------
        CheckpointError
            If the file is damaged, of another version, or of another run.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        saved = read_state(path)
        left = (saved.state["best_weights"], saved.state["weights"])
        if weights in map(digest_of, left):
            self.identity["weights at the start"] = saved.identity.get("weights at the start")
        differing = _differences(saved.identity, self.identity)
        if differing:
            raise CheckpointError(
                f"{str(self.folder)!r} holds the training of another run: "
                f"{'; '.join(differing[:4])}. Repeat that run's call to resume it, or choose "
                "another folder, or delete this one to start again."
            )
        self.about = saved.about  # a model left by a stopped run starts as that run did
        return saved.state

    def keep(self, state: Callable[[], State]) -> None:
        """Write the state, or hold it while writing would take more than 5 % of the time.

        Raises
        ------
        CheckpointError
            On an I/O error; the state written before is left as it was.
        """
        self._waiting = state()
        if time.perf_counter() - self._last >= self._cost / _SHARE:
            self.flush()

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._waiting is None:
            return
        state, self._waiting = self._waiting, None
        begun = time.perf_counter()
        write_state(self.folder / STATE, Saved(self.identity, self.about, state))
        self._last = time.perf_counter()
        self._cost = self._last - begun


def write_state(path: Path, saved: Saved) -> None:
    """Write a state with what it belongs to.

    Raises
    ------
    CheckpointError
        If something in the state has no safe form on disk, or on an I/O error.
    """
    tensors: dict[str, Tensor] = {}
    content = json.dumps(saved._replace(state=_pack(saved.state, tensors))._asdict())
    header = {
        "package": "rvrae_pyro",
        "format": str(FORMAT),
        "content": content,
        "sha256": digest_of(tensors, content),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save_tensors(tensors, header))
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint {str(path)!r} cannot be written: {error}. Free some space or choose "
            "a folder you may write to; the same call then resumes from the last state written."
        ) from error


def read_state(path: Path) -> Saved:
    """Read a state and what it belongs to.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is damaged, foreign or of another version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        tensors = load_tensors(path.read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    if header.get("package") != "rvrae_pyro":
        raise CheckpointError(f"{str(path)!r} was not written by this package.")
    if header.get("format") != str(FORMAT):
        raise CheckpointError(
            f"the checkpoint {str(path)!r} has layout {header.get('format')}, this version of "
            f"rvrae_pyro reads and writes {FORMAT}. Finish the run with the version that began "
            "it, or delete the file to start again."
        )
    content = header.get("content", "")
    if header.get("sha256") != digest_of(tensors, content):
        raise _damaged(path, "its hash does not match")
    found = json.loads(content)
    return Saved(found["identity"], found["about"], _unpack(found["state"], tensors))


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {str(path)!r} is damaged: {reason}. Restore it from a copy, or delete it "
        "to start again."
    )


def _pack(value: Any, tensors: dict[str, Tensor], name: str = "state") -> Any:
    """Collect tensors by name and turn the rest into JSON types that keep the kind."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        pairs = [[key, _pack(v, tensors, f"{name}.{key}")] for key, v in value.items()]
        return {"pairs": pairs}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(v, tensors, f"{name}.{i}") for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(
        f"`checkpoint` cannot keep {name}: a {type(value).__name__} has no safe form on disk. Use "
        "an optimizer whose state is made of tensors and numbers, or train without `checkpoint`."
    )


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {key: _unpack(v, tensors) for key, v in content}
    items = [_unpack(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items


def _differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """Name what differs between two descriptions, with both values."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        names = [*ours, *(key for key in theirs if key not in ours)]
        return [
            line
            for key in names
            for line in _differences(
                theirs.get(key), ours.get(key), f"{name}.{key}" if name else str(key)
            )
        ]
    if theirs == ours:
        return []
    return [f"{name} was {_short(theirs)}, is now {_short(ours)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}...{text[-4:]}"
