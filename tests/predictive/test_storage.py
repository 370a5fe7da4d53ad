"""Blocks of draws joined in memory or on disk: equal, all or nothing."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.predictive import storage
from rvrae_pyro.predictive.storage import Block, Drawing, assemble, write_tree


def blocks(sizes: tuple[int, ...] = (2, 1, 3)) -> Iterator[dict[str, xr.Dataset]]:
    """Yield a few months each, with a cell dimension of uneven length and text labels."""
    rng = np.random.default_rng(0)
    months = np.datetime64("2020-01-31", "ns") + np.arange(sum(sizes)) * np.timedelta64(31, "D")
    first = 0
    for size in sizes:
        when = months[first : first + size]
        n_cells = 3 * size + first
        names = [f"asset{'x' * (i % 4)}{i}" for i in range(n_cells)]
        yield {
            "posterior": xr.Dataset(
                {"factors": (("draw", "time"), rng.normal(size=(4, size)))},
                coords={"draw": np.arange(4), "time": when},
            ),
            "observed_data": xr.Dataset(
                {"returns": ("obs", rng.normal(size=n_cells))},
                coords={"asset": ("obs", names), "time": ("obs", np.resize(when, n_cells))},
            ),
        }
        first += size


def drawing(sizes: tuple[int, ...] = (2, 1, 3), **attrs: int) -> Drawing:
    """Draws of so many months a block."""
    return Drawing(lambda done: islice(blocks(sizes), done, None), attrs, {"months": sum(sizes)})


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_file_equals_memory(tmp_path: Path) -> None:
    memory = assemble(drawing(seed=3), None)
    disk = assemble(drawing(seed=3), tmp_path / "draws.zarr")
    assert disk.attrs == memory.attrs == {"seed": 3}
    assert set(disk.groups) == set(memory.groups)
    for group in ("posterior", "observed_data"):
        ours, theirs = disk[group].to_dataset().load(), memory[group].to_dataset()
        assert dict(ours.sizes) == dict(theirs.sizes)
        for name in theirs.variables:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert memory["posterior"].sizes["time"] == 6


def test_one_block_needs_no_joining(tmp_path: Path) -> None:
    memory = assemble(drawing((4,)), None)
    disk = assemble(drawing((4,)), tmp_path / "draws.zarr")
    np.testing.assert_array_equal(
        disk["posterior"]["factors"].to_numpy(), memory["posterior"]["factors"]
    )


def test_older_file_is_replaced_only_by_a_finished_one(tmp_path: Path) -> None:
    path = tmp_path / "draws.zarr"
    assemble(drawing((2,), run=1), path)

    def broken(done: int) -> Iterator[dict[str, xr.Dataset]]:
        yield from blocks((2,))
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        assemble(Drawing(broken, {"run": 2}, {}), path)
    assert [p.name for p in tmp_path.iterdir()] == ["draws.zarr"]
    assert xr.open_datatree(path, engine="zarr", consolidated=False).attrs["run"] == 1
    assert assemble(drawing((2,), run=3), path).attrs["run"] == 3


def test_wrong_suffix_and_unwritable_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(rv.ConfigError, match=r"`out` must end in \.zarr"):
        assemble(drawing(), tmp_path / "draws.nc")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(rv.ConfigError, match="cannot be written"):
        assemble(drawing(), tmp_path / "file" / "draws.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_not_draws_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thesis.zarr"
    path.write_text("five years of work")
    with pytest.raises(rv.ConfigError, match=r"cannot be written|not a folder"):
        assemble(drawing(), path)
    assert path.read_text() == "five years of work"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.zarr"]


def test_a_folder_that_holds_something_else_is_not_overwritten(tmp_path: Path) -> None:
    panel = rv.data.simulate_dynamic(5, 8, 2, 1, seed=0)
    stores = {name: tmp_path / f"{name}.zarr" for name in ("panel", "notes", "arrays", "empty")}
    rv.data.write_panel(panel, stores["panel"])
    stores["notes"].mkdir()
    (stores["notes"] / "thesis.txt").write_text("five years of work")
    xr.Dataset({"returns": ("time", [1.0, 2.0])}).to_zarr(stores["arrays"], consolidated=False)
    stores["empty"].mkdir()
    for name in ("panel", "notes", "arrays"):
        before = sorted(p.name for p in stores[name].rglob("*"))
        with pytest.raises(rv.ConfigError, match=r"`out` .* something that is not draws"):
            assemble(drawing(), stores[name])
        with pytest.raises(rv.ConfigError, match=r"`path` .* something that is not draws"):
            write_tree(assemble(drawing(), None), stores[name])
        assert sorted(p.name for p in stores[name].rglob("*")) == before
    assert assemble(drawing(run=1), stores["empty"]).attrs["run"] == 1
    for name in ("notes", "arrays", "empty"):
        with pytest.raises(rv.PanelError, match="something that is not a panel"):
            rv.data.write_panel(panel, stores[name])
    rv.data.write_panel(panel, stores["panel"])  # over itself


class Killed(BaseException):
    """Ends a run where it stands, without any of its clearing up but what `finally` says."""


def interrupted(number: int, group: str) -> Callable[..., None]:
    """Write as ever, but end after a group of a block was written and before it was recorded."""
    append, calls = storage._append, []

    def write(store: Path, name: str, dataset: xr.Dataset, sizes: dict[str, int]) -> None:
        append(store, name, dataset, sizes)
        calls.append(name)
        if calls.count(group) == number and name == group:
            raise Killed

    return write


@pytest.mark.parametrize("group", ["posterior", "observed_data"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_run_that_ended_half_way_goes_on_to_the_same_bits(
    number: int, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "draws.zarr", tmp_path / "whole.zarr"
    assemble(drawing((4,), run=0), path)  # an older one, which stays until the end
    before = files(path)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "_append", interrupted(number, group))
        with pytest.raises(Killed):
            assemble(drawing(run=1), path)
    assert files(path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".draws.partial", "draws.zarr"]
    asked: list[int] = []

    def noted(done: int) -> Iterator[dict[str, xr.Dataset]]:
        asked.append(done)
        return islice(blocks(), done, None)

    assemble(Drawing(noted, {"run": 1}, {"months": 6}), path)
    assert asked == [number - 1]  # blocks that were complete are not drawn again
    assemble(drawing(run=1), whole)
    assert files(path) == files(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["draws.zarr", "whole.zarr"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "record.json").write_text("{"),
        lambda folder: (folder / "record.json").unlink(),
        lambda folder: (folder / "draws.zarr/posterior/zarr.json").unlink(),
        lambda folder: (folder / "draws.zarr/observed_data/returns/zarr.json").write_text("{}"),
    ],
)
def test_what_cannot_be_gone_on_with_is_begun_anew(
    spoil: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "draws.zarr", tmp_path / "whole.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(storage, "_append", interrupted(3, "posterior"))
        with pytest.raises(Killed):
            assemble(drawing(run=1), path)
    spoil(tmp_path / ".draws.partial")
    assemble(drawing(run=1), path)
    assemble(drawing(run=1), whole)
    assert files(path) == files(whole)


def test_draws_of_something_else_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "draws.zarr"
    others = [drawing(run=2), Drawing(drawing().blocks, {"run": 1}, {"months": 7})]
    for other in others:
        with monkeypatch.context() as patched:
            patched.setattr(storage, "_append", interrupted(2, "posterior"))
            with pytest.raises(Killed):
                assemble(drawing(run=1), path)
        asked: list[int] = []

        def noted(done: int, other: Drawing = other, asked: list[int] = asked) -> Iterator[Block]:
            asked.append(done)
            return other.blocks(done)

        assemble(Drawing(noted, other.attrs, other.identity), path)
        assert asked == [0]


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    path = tmp_path / "draws.zarr"

    def twice(done: int) -> Iterator[dict[str, xr.Dataset]]:
        with pytest.raises(rv.CheckpointError, match="another run writes to"):
            assemble(drawing(run=1), path)
        return islice(blocks(), done, None)

    assemble(Drawing(twice, {"run": 1}, {"months": 6}), path)
    assert [p.name for p in tmp_path.iterdir()] == ["draws.zarr"]


def test_a_disk_that_fills_up_keeps_what_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "draws.zarr", tmp_path / "whole.zarr"
    append = storage._append

    def full(room: int) -> Callable[..., None]:
        calls: list[int] = []

        def write(*arguments: Any) -> None:
            calls.append(1)
            if len(calls) > room:
                raise OSError(28, "No space left on device")
            append(*arguments)

        return write

    for room, kept in ((1, False), (3, True)):  # groups, of which each block has two
        with monkeypatch.context() as patched:
            patched.setattr(storage, "_append", full(room))
            with pytest.raises(rv.ConfigError, match="No space left") as caught:
                assemble(drawing(run=1), path)
        assert ("Months that are done are kept" in str(caught.value)) == kept
        assert [p.name for p in tmp_path.iterdir()] == ([".draws.partial"] if kept else [])
    asked: list[int] = []

    def noted(done: int) -> Iterator[Block]:
        asked.append(done)
        return islice(blocks(), done, None)

    assemble(Drawing(noted, {"run": 1}, {"months": 6}), path)
    assert asked == [1]
    assemble(drawing(run=1), whole)
    assert files(path) == files(whole)
