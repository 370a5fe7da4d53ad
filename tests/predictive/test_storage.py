"""Blocks of draws joined in memory or on disk: equal, all or nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.predictive.storage import assemble
from rvrae_pyro.predictive.tree_files import write_tree


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


def test_file_equals_memory(tmp_path: Path) -> None:
    memory = assemble(blocks(), {"seed": 3}, None)
    disk = assemble(blocks(), {"seed": 3}, tmp_path / "draws.zarr")
    assert disk.attrs == memory.attrs == {"seed": 3}
    assert set(disk.groups) == set(memory.groups)
    for group in ("posterior", "observed_data"):
        ours, theirs = disk[group].to_dataset().load(), memory[group].to_dataset()
        assert dict(ours.sizes) == dict(theirs.sizes)
        for name in theirs.variables:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert memory["posterior"].sizes["time"] == 6


def test_one_block_needs_no_joining(tmp_path: Path) -> None:
    memory = assemble(blocks((4,)), {}, None)
    disk = assemble(blocks((4,)), {}, tmp_path / "draws.zarr")
    np.testing.assert_array_equal(
        disk["posterior"]["factors"].to_numpy(), memory["posterior"]["factors"]
    )


def test_older_file_is_replaced_only_by_a_finished_one(tmp_path: Path) -> None:
    path = tmp_path / "draws.zarr"
    assemble(blocks((2,)), {"run": 1}, path)

    def broken() -> Iterator[dict[str, xr.Dataset]]:
        yield from blocks((2,))
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        assemble(broken(), {"run": 2}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["draws.zarr"]
    assert xr.open_datatree(path, engine="zarr", consolidated=False).attrs["run"] == 1
    assert assemble(blocks((2,)), {"run": 3}, path).attrs["run"] == 3


def test_wrong_suffix_and_unwritable_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(rv.ConfigError, match=r"`out` must end in \.zarr"):
        assemble(blocks(), {}, tmp_path / "draws.nc")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(rv.ConfigError, match="cannot be written"):
        assemble(blocks(), {}, tmp_path / "file" / "draws.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_not_draws_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thesis.zarr"
    path.write_text("five years of work")
    with pytest.raises(rv.ConfigError, match=r"cannot be written|not a folder"):
        assemble(blocks(), {}, path)
    assert path.read_text() == "five years of work"


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
            assemble(blocks(), {}, stores[name])
        with pytest.raises(rv.ConfigError, match=r"`path` .* something that is not draws"):
            write_tree(assemble(blocks(), {}, None), stores[name])
        assert sorted(p.name for p in stores[name].rglob("*")) == before
    assert assemble(blocks(), {"run": 1}, stores["empty"]).attrs["run"] == 1
    for name in ("notes", "arrays", "empty"):
        with pytest.raises(rv.PanelError, match="something that is not a panel"):
            rv.data.write_panel(panel, stores[name])
    rv.data.write_panel(panel, stores["panel"])  # over itself
