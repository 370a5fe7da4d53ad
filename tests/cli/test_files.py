"""Files and folders are put in place whole or not at all."""

from pathlib import Path

import pytest

from rvrae_pyro.cli.files import assembled, check_folder, replaced, write_text
from rvrae_pyro.errors import ConfigError
from tests.cli.helpers import content


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"
    with assembled(target) as folder:
        (folder / "a.txt").write_text("new")
        assert not target.exists()
    assert content(tmp_path) == {"deep/run/a.txt": 3}


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with assembled(target) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "old.txt").write_text("old")

    def fail() -> None:
        with assembled(target) as folder:
            (folder / "model").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert content(tmp_path) == {"run/model/old.txt": 3}


def test_sub_folders_are_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "run"
    for name in ("old.txt", "new.txt"):
        with assembled(target) as folder:
            (folder / "model").mkdir()
            (folder / "model" / name).write_text("x")
            (folder / "same.txt").write_text(name)
    assert content(tmp_path) == {"run/model/new.txt": 1, "run/same.txt": 7}


def test_text_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replaced(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert content(tmp_path) == {"a.txt": 3}


def test_an_empty_folder_and_an_earlier_run_will_do(tmp_path: Path) -> None:
    assert check_folder(tmp_path) == tmp_path
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="not a run"):
        check_folder(tmp_path)
    (tmp_path / "model" / "fit.json").touch()
    assert check_folder(tmp_path) == tmp_path


def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match="no permission"):
        check_folder(tmp_path / "run")
