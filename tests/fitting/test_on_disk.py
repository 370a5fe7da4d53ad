"""Panels on disk: every answer is that of the same panel in memory."""

import dataclasses
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.atomic import scratch_folder
from rvrae_pyro.cli.panels import settled
from rvrae_pyro.data.batch import Batch, to_batch, to_light_batch
from rvrae_pyro.data.chunks import is_lazy, row_blocks
from rvrae_pyro.inference.sharded.shards import CutPanel, Scratch, SpilledPanel
from rvrae_pyro.predictive import filtering
from rvrae_pyro.predictive.filtering import stream_cross_section
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

pytest.importorskip("dask")
CONFIG = rv.FitConfig(max_steps=9, window=4, dtype=torch.float64)


def raw_panel() -> xr.Dataset:
    """Characteristics that are not ranks, some missing inside listed cells, no context."""
    panel = random_panel(18, 14, seed=5).drop_dims("feature")
    panel["characteristics"] = np.exp(3.0 * panel["characteristics"])
    listed = panel["characteristics"].notnull().all("characteristic")
    gap = listed & (np.arange(14) % 5 == 0)
    first = panel["characteristics"][..., 0].where(~gap)
    panel["characteristics"][..., 0] = first
    panel.attrs["transform"] = "none"
    return panel


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return raw_panel()


@pytest.fixture
def on_disk(panel: xr.Dataset, tmp_path: Path) -> xr.Dataset:
    """The panel in pieces far smaller than itself."""
    path = tmp_path / "panel.zarr"
    rv.data.write_panel(panel, path)
    lazy = rv.data.read_panel(path)
    lazy["characteristics"] = lazy["characteristics"].chunk(time=5, asset=3, characteristic=2)
    return lazy


def ready(panel: xr.Dataset) -> xr.Dataset:
    return rv.data.rank_characteristics(rv.data.market_context(panel))


def test_a_zarr_panel_comes_back_and_stays_on_disk(panel: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "panel.zarr"
    rv.data.write_panel(panel, path)
    rv.data.write_panel(panel, path)
    back = rv.data.read_panel(path)
    assert is_lazy(back)
    assert not is_lazy(panel)
    xr.testing.assert_identical(back.load(), panel)
    assert all(back[name].dtype == panel[name].dtype for name in panel.variables)
    assert [p.name for p in tmp_path.iterdir()] == ["panel.zarr"]


def test_a_lazy_panel_is_written_piece_by_piece(on_disk: xr.Dataset, tmp_path: Path) -> None:
    rv.data.write_panel(ready(on_disk), tmp_path / "ranked.zarr")
    xr.testing.assert_identical(
        rv.data.read_panel(tmp_path / "ranked.zarr").load(), ready(on_disk.load())
    )


def test_blocks_are_consecutive_rows(on_disk: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = on_disk["characteristics"].values
    for most in (1, 14 * 4 * 2, 14 * 4 * 11, 10**9):
        monkeypatch.setattr("rvrae_pyro.data.chunks._CELLS", most)
        monkeypatch.setattr("rvrae_pyro.data.chunks._MOST", 2 * most)
        blocks = list(row_blocks(on_disk["characteristics"]))
        np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), whole)
        starts = np.cumsum([0, *(len(b) for _, b in blocks)])[:-1]
        assert [first for first, _ in blocks] == starts.tolist()


def test_transforms_of_a_panel_on_disk(panel: xr.Dataset, on_disk: xr.Dataset) -> None:
    mine, whole = ready(on_disk), ready(panel)
    assert is_lazy(mine)
    xr.testing.assert_identical(mine.compute(), whole)
    xr.testing.assert_identical(rv.data.managed_portfolios(mine), rv.data.managed_portfolios(whole))
    assert rv.data.fingerprint(mine) == rv.data.fingerprint(whole)
    np.testing.assert_array_equal(rv.data.listed(mine), rv.data.listed(whole))


def test_spilled_windows_are_those_of_the_batch(
    panel: xr.Dataset, on_disk: xr.Dataset, tmp_path: Path
) -> None:
    whole = to_batch(ready(panel), dtype=torch.float64)
    light = to_light_batch(ready(on_disk), dtype=torch.float64)
    assert light.n_characteristics == whole.n_characteristics
    for rank in (0, 1):
        shards = SpilledPanel(ready(on_disk), light, tmp_path, 3, rank, 2)
        assert shards.sizes == [3, 3, 1]
        first = 0
        for shard, size in enumerate(shards.sizes):
            mine = shards.window(shard, 2, 7)
            place = torch.arange(rank, 14, 2)[first : first + size]
            expected = whole.window(2, 7, every_asset=True).select(place)
            first += size
            for name in ("returns", "observed", "listed", "characteristics", "context"):
                assert torch.equal(getattr(mine, name), getattr(expected, name)), name
            assert list(mine.assets) == list(expected.assets)
        assert shards.n_observed(0, 9) == int(whole.observed[:9, rank::2].sum())
        assert shards.n_observed(9, None) == int(whole.observed[9:, rank::2].sum())


@pytest.mark.parametrize("lazy", [True, False], ids=["on disk", "in memory"])
def test_shards_keep_nothing_of_the_batch_in_memory(
    panel: xr.Dataset, on_disk: xr.Dataset, tmp_path: Path, lazy: bool
) -> None:
    """The batch of all assets goes once training has its shards; its months hold no asset."""
    batch = to_light_batch(ready(on_disk)) if lazy else to_batch(ready(panel))
    kept = {name: weakref.ref(getattr(batch, name)) for name in ("returns", "observed", "listed")}
    shards = SpilledPanel(ready(on_disk), batch, tmp_path, 5) if lazy else CutPanel(batch, 5)
    months = shards.months
    assert months.returns.shape == (18, 0)
    assert months.characteristics.shape == (18, 0, 4)
    sizes = [getattr(months, name).untyped_storage().nbytes() for name in kept]
    assert sizes == [0, 0, 0]
    del batch
    assert [name for name, there in kept.items() if there() is not None] == []


def test_fit_and_forecast_of_a_panel_on_disk(panel: xr.Dataset, on_disk: xr.Dataset) -> None:
    """Training agrees to rounding; given the weights, forecasts agree to the bit."""
    fits = []
    for each in (ready(panel), ready(on_disk)):
        months = {name: slice(*cut) for name, cut in (("train", (0, 12)), ("valid", (12, 17)))}
        train, valid = (each.isel(time=cut) for cut in months.values())
        model = rv.RVRAE(4, K, n_context=each.sizes["feature"])
        fits.append(rv.fit(model, train, valid, config=CONFIG, progress=False))
    for name in ("elbo", "valid_elbo", "log_weights"):
        np.testing.assert_allclose(fits[1].history[name], fits[0].history[name], rtol=1e-7)
    trees = [fits[0].forecast(each, num_samples=20) for each in (ready(panel), ready(on_disk))]
    for group in ("predictions", "predictions_constant_data"):
        xr.testing.assert_identical(trees[0][group].to_dataset(), trees[1][group].to_dataset())


def test_gaps_are_found_on_disk(on_disk: xr.Dataset) -> None:
    with pytest.raises(rv.PanelError, match="must be complete inside listed cells"):
        rv.fit(rv.RVRAE(4, K), on_disk, config=CONFIG, progress=False)


def test_a_full_scratch_disk_is_one_clear_error(
    on_disk: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rvrae_pyro.inference.sharded.shards.SpilledPanel._spill", full)
    with pytest.raises(rv.FitError, match=r"No space left.*TMPDIR"):
        rv.fit(rv.RVRAE(4, K), ready(on_disk), config=CONFIG, progress=False)


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(rv.PanelError, match="does not exist"):
        rv.data.read_panel(tmp_path / "none.zarr")
    (tmp_path / "file.zarr").write_text("x")
    with pytest.raises(rv.PanelError, match="is a file"):
        rv.data.read_panel(tmp_path / "file.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(rv.PanelError, match="cannot read"):
        rv.data.read_panel(tmp_path / "empty.zarr")


def test_scratch_gives_back_what_was_put(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    values = [torch.randn(3, 4), torch.arange(5), torch.randn(2, 2, dtype=torch.float64)]
    kept = [scratch.put(value) for value in values]
    assert list(tmp_path.iterdir()) == []  # nameless: nothing is left by a killed process
    for value, copy in zip(values, kept, strict=True):
        assert copy.dtype == value.dtype
        assert copy.data_ptr() != value.data_ptr()
        assert torch.equal(copy, value)
    scratch.release()
    assert all(torch.equal(copy, value) for value, copy in zip(values, kept, strict=True))
    for odd in (torch.zeros(0, 3), torch.ones(()).expand(4, 5)):
        assert scratch.put(odd) is odd


def test_scratch_takes_memory_only_while_it_is_read(tmp_path: Path) -> None:
    def resident() -> float:
        return psutil.Process().memory_info().rss / 2**20

    scratch = Scratch(tmp_path)
    kept = scratch.put(torch.ones(16 * 2**20))  # 64 MiB
    before = resident()
    assert float(kept.sum()) == kept.numel()
    assert resident() - before > 50
    scratch.release()
    assert resident() - before < 10


def test_tensors_come_one_after_another_and_are_read_as_one(tmp_path: Path) -> None:
    scratch, pieces = Scratch(tmp_path), [torch.randn(n, 3, 2).double() for n in (2, 1, 4)]
    pieces[1] = pieces[1].mT.contiguous().mT  # in another order in memory
    with scratch.pile() as pile:
        for piece in pieces:
            pile.add(piece)
        whole = pile.joined()
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert torch.equal(whole, torch.cat(pieces))
        scratch.release()


@pytest.mark.parametrize("alpha", [False, True])
def test_a_streamed_cross_section_is_that_of_memory_and_lets_go_of_it(
    panel: xr.Dataset, on_disk: xr.Dataset, alpha: bool
) -> None:
    likelihood = rv.likelihoods.StudentT(alpha=rv.likelihoods.Alpha(4)) if alpha else None
    model = rv.RVRAE(4, K, likelihood=likelihood).double()
    whole = model.parts.online_cross_section(to_batch(ready(panel), dtype=torch.float64))
    light = to_light_batch(ready(on_disk), dtype=torch.float64)
    streamed = stream_cross_section(model, ready(on_disk), light)
    for _ in range(2):
        for name in ("beta", "alpha", "scale"):
            mine, theirs = getattr(streamed, name), getattr(whole, name)
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.equal(mine, theirs)
        streamed.release()
    assert all(map(torch.equal, streamed.potential, whole.potential))
    own = {mine.untyped_storage().data_ptr() for mine in (streamed.beta, streamed.scale)}
    assert len(own) == 2


@pytest.mark.parametrize("cells", [1, 200, 10**9])
def test_months_of_a_panel_in_memory_come_alike_however_many_at_a_time(
    panel: xr.Dataset, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filtering, "_CELLS", cells)
    model = rv.RVRAE(4, K).double()
    light = to_light_batch(ready(panel), dtype=torch.float64)
    streamed = stream_cross_section(model, ready(panel), light)
    whole = model.parts.online_cross_section(to_batch(ready(panel), dtype=torch.float64))
    assert torch.equal(streamed.beta, whole.beta)
    assert torch.equal(streamed.scale, whole.scale)
    assert all(map(torch.equal, streamed.potential, whole.potential))


def test_a_disk_that_cannot_be_read_is_not_taken_for_a_full_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"), Scratch(tmp_path).pile():
        raise OSError("the panel is gone")


def test_scratch_without_room(tmp_path: Path) -> None:
    with pytest.raises(rv.FitError, match=r"cannot be written to .* TMPDIR"):
        Scratch(tmp_path / "gone").put(torch.ones(3))


def test_scratch_of_a_killed_process_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "from rvrae_pyro.atomic import scratch_folder as f; import os, tempfile, sys\n"
    code += "tempfile.tempdir = sys.argv[1]\nwith f() as d: (d / 'x').write_text('x'); os._exit(9)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert folder.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(rv.FitError, match="TMPDIR"), scratch_folder():
        pass


def _with_small_files(code: str, folder: Path, size: int) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose files cannot grow beyond a size, as on a full disk."""
    head = (
        "import resource, tempfile\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        f"tempfile.tempdir = {str(folder)!r}\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no limits of this kind")
@pytest.mark.parametrize("n_numbers", [1_000, 2_000, 30_000, 200_000])
def test_a_disk_that_fills_up_is_one_clear_error(tmp_path: Path, n_numbers: int) -> None:
    """Whether the last numbers wait in a buffer or not."""
    code = (
        "import torch, rvrae_pyro as rv\n"
        "from pathlib import Path\n"
        "from rvrae_pyro.inference.sharded.shards import Scratch\n"
        "try:\n"
        f"    Scratch(Path({str(tmp_path)!r})).put(torch.ones({n_numbers}))\n"
        "except rv.FitError as error:\n"
        "    print(error)\n"
    )
    done = _with_small_files(code, tmp_path, 2_000)
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    assert "TMPDIR" in done.stdout
    assert done.stderr == ""


def test_copies_for_commands_and_processes_are_cleared_away_after_a_kill(
    on_disk: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in the folders that the next run clears away."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with settled(on_disk) as kept:
        assert is_lazy(kept)
        assert [path.name.split(".")[1] for path in scratch.iterdir()] == ["rvrae-scratch"]
    assert list(scratch.iterdir()) == []


def test_shards_of_several_gpus_are_cut_where_the_panel_is(
    panel: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device of tensors without content; there is no GPU here."""
    asked = []

    def select(self: Batch, keep: torch.Tensor) -> Batch:
        asked.append(keep.device.type)
        return self

    monkeypatch.setattr(Batch, "select", select)
    shards = CutPanel(to_batch(ready(panel)).to("meta"), 4, 1, 2)
    assert asked == ["meta"] * (1 + shards.n_shards)


@pytest.mark.parametrize("shape", [(5, 11), (7, 3)])
def test_months_in_which_all_are_listed_round_alike_wherever_they_lie(
    shape: tuple[int, int],
) -> None:
    """Products round by where in memory their rows begin."""
    n_assets, n_characteristics = shape
    rng = np.random.default_rng(0)
    values = torch.as_tensor(rng.normal(size=(6, n_assets, n_characteristics)))
    rows = to_batch(rv.data.simulate_dynamic(n_assets, 6, n_characteristics, 2, seed=0))
    whole = dataclasses.replace(
        rows, characteristics=values, listed=torch.ones(values.shape[:2], dtype=torch.bool)
    )
    for t in range(6):
        month = whole.window(t, t + 1, every_asset=True).row_characteristics
        assert month.data_ptr() % 16 == 0
        assert torch.equal(month, values[t])
