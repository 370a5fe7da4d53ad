"""Files and folders that take the place of earlier ones, or leave these as they were."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from rvrae_pyro.atomic import put, remove, replacing


def folder_of(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "inside").write_text(text)
    return path


def test_a_folder_takes_the_place_of_a_folder_and_nothing_else_is_left(tmp_path: Path) -> None:
    put(folder_of(tmp_path / "new", "new"), folder_of(tmp_path / "place", "old"))
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place" / "inside").read_text() == "new"


def test_a_folder_in_the_way_of_a_file_is_refused_and_kept(tmp_path: Path) -> None:
    """It may be a table in pieces, under a name that a file could have."""
    place = folder_of(tmp_path / "table.parquet", "pieces")
    with pytest.raises(OSError, match=r"table\.parquet"), replacing(place) as temporary:
        temporary.write_text("one file")
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]
    assert (place / "inside").read_text() == "pieces"


def test_the_earlier_folder_comes_back_if_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder_of(tmp_path / "place", "old")
    move = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError("disk full")
        move(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("rvrae_pyro.atomic._exchange", lambda *_: False)  # as on other systems
    with pytest.raises(OSError, match="disk full"):
        put(folder_of(tmp_path / "new", "new"), place)
    assert (place / "inside").read_text() == "old"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can exchange folders")
def test_there_is_no_moment_without_a_folder_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    place = folder_of(tmp_path / "place", "old")
    monkeypatch.setattr(os, "replace", killed)  # between two renames neither would be there
    put(folder_of(tmp_path / "new", "new"), place)
    assert (place / "inside").read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


def test_what_threads_still_write_into_a_folder_goes_too(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "place", "old")
    done = threading.Event()

    def busy() -> None:
        for number in range(200):
            with suppress(OSError):
                (place / f"late {number}").write_text("x")
        done.set()

    writer = threading.Thread(target=busy)
    writer.start()
    remove(place)
    writer.join()
    assert done.is_set()
    assert not place.exists()
