"""Files that appear whole or not at all, and folders that one run at a time writes."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Final
from zlib import crc32

from rvrae_pyro.errors import CheckpointError, FitError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

LOCK: Final = ".lock"
"""Name of the file that a run holds while it writes to a folder; inside: its process and host."""

_HERE = f"{crc32(socket.gethostname().encode()):08x}"


def draft(path: Path) -> Path:
    """Name a temporary beside ``path``, and clear away those of processes that died.

    The name tells host and process, so what a killed run left behind is known as such by the
    next run that writes the same file or folder; those of other hosts are left alone.
    """
    kin = re.compile(
        rf"\.{re.escape(path.stem)}\.{_HERE}-(\d+)-[0-9a-f]{{8}}{re.escape(path.suffix)}"
    )
    if path.parent.is_dir():
        for other in path.parent.iterdir():
            found = kin.fullmatch(other.name)
            if found and not _alive(int(found.group(1))):
                remove(other)
    own = f"{_HERE}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.stem}.{own}{path.suffix}")


def remove(path: Path) -> None:
    """Delete a file or folder, whether or not it is still there."""
    if path.is_dir() and not path.is_symlink():
        for pause in (0.0, 0.05, 0.2, 0.8):  # threads of a library may still write into it
            time.sleep(pause)
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that after a crash, too, it is the old one or the new one, whole.

    Raises
    ------
    OSError
        On an I/O error; the old file is left as it was.
    """
    temporary = draft(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        remove(temporary)
    with suppress(OSError):  # not every system lets a folder be synchronised
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def put(new: Path, path: Path) -> None:
    """Put a file or folder in place of an earlier one, which goes only when this one is there.

    Raises
    ------
    OSError
        On an I/O error, or where a folder has the name of the file; that is left as it was.
    """
    if not (path.is_dir() and new.is_dir()):
        os.replace(new, path)
        return
    if _exchange(new, path):
        remove(new)
        return
    old = draft(path)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places at once, where Linux and its file system can.

    Two renames would leave a moment in which a killed process leaves neither in place.
    """
    if not sys.platform.startswith("linux"):
        return False
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    return swap is not None and not swap(
        _HERE_FOLDER, os.fsencode(one), _HERE_FOLDER, os.fsencode(other), _EXCHANGE
    )


_HERE_FOLDER, _EXCHANGE = -100, 2  # Linux's AT_FDCWD and RENAME_EXCHANGE


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what is written there takes its place on success.

    A file or a folder; a folder that was there before is put back if the disk refuses.
    """
    temporary = draft(path)
    try:
        yield temporary
        put(temporary, path)
    finally:
        remove(temporary)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder where the system keeps temporary files, and remove it in the end.

    What killed processes left behind there is cleared away first.

    Raises
    ------
    FitError
        On an I/O error.
    """
    where = Path(gettempdir())
    folder = draft(where / "rvrae-scratch")
    with room_in(where):
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Say it in one sentence if the disk refuses scratch files.

    Raises
    ------
    FitError
        In place of the system's own error.
    """
    try:
        yield
    except OSError as error:
        raise FitError(
            f"scratch files cannot be written to {folder}: {error}. Free some space, or name a "
            "larger folder in the environment variable TMPDIR."
        ) from error


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder against any other run that would write to it.

    It is made if need be, and then removed in the end if nothing is in it.

    The lock dies with the process that holds it, however that ends, so a lock file that a
    killed run left behind holds nobody up.

    Raises
    ------
    CheckpointError
        If another run holds the folder, or it cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _held(folder / LOCK)
    except OSError as error:
        raise CheckpointError(
            f"{str(folder)!r} cannot be written: {error}. Choose a folder you may write to."
        ) from error
    try:
        yield
    finally:
        # unlinked while still held: whoever waits on this very file finds it gone and looks again
        with suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
            if made:
                folder.rmdir()  # which a folder with content refuses
        os.close(handle)


def _held(path: Path) -> int:
    """Open and lock a file that is still the one of that name once it is locked."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                content = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
                os.ftruncate(handle, 0)
                os.write(handle, content.encode())
                return handle
        except BlockingIOError:
            holder = os.read(handle, 500).decode(errors="replace") or "not named"
            os.close(handle)
            raise CheckpointError(
                f"another run writes to {str(path.parent)!r} (lock file {path.name}: {holder}). "
                "Wait for it to end, stop it, or choose another folder."
            ) from None
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
