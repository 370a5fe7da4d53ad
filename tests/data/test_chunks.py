"""Blocks, rows and pieces of large arrays, and what preparing a panel takes in memory."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.data.chunks import each_row, row_blocks

SCATTERED = """
import sys
import numpy as np
import psutil
from rvrae_pyro.data.chunks import give_back

arrays = [np.ones(4_000) for _ in range(3_000)]  # 32 kB each, below what the library maps
kept = arrays[::50]
before = psutil.Process().memory_info().rss
del arrays
give_back()
print((before - psutil.Process().memory_info().rss) / 2**20)
"""


@pytest.mark.parametrize("chunks", [(5, 5, 5, 3), (2, 7, 1, 1, 7), (18,), (1,) * 18, (9, 2, 7)])
@pytest.mark.parametrize("most", [1, 6 * 4, 6 * 9, 10**9])
def test_blocks_follow_the_chunks(
    chunks: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask")
    monkeypatch.setattr("rvrae_pyro.data.chunks._CELLS", most)
    monkeypatch.setattr("rvrae_pyro.data.chunks._MOST", 2 * most)
    whole = np.random.default_rng(0).standard_normal((18, 6))
    array = xr.DataArray(whole, dims=("time", "asset")).chunk(time=chunks, asset=4)
    blocks = list(row_blocks(array))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), whole)
    np.testing.assert_array_equal(list(each_row(array)), whole)
    starts = [first for first, _ in blocks]
    assert starts == np.cumsum([0, *(len(block) for _, block in blocks)])[:-1].tolist()
    edges = np.cumsum([0, *chunks]).tolist()
    large = max(chunks) * 6 > 2 * most
    for first, block in blocks:
        inside = [edge for edge in edges if first < edge < first + len(block)]
        whole_chunks = first in edges and first + len(block) in edges
        # no chunk is read for two blocks unless it is too large for one
        assert whole_chunks or (large and not inside)
        assert block.size <= max(2 * most, 6)


def test_rows_of_an_array_on_disk_keep_no_block() -> None:
    pytest.importorskip("dask")
    array = xr.DataArray(np.ones((6, 3)), dims=("time", "asset"))
    assert all(row.base is None for row in each_row(array.chunk(time=4)))
    assert all(np.shares_memory(row, array.values) for row in each_row(array))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another C library")
def test_freed_memory_between_what_stays_is_given_back() -> None:
    # in a process of its own: what this one has freed before would count too
    done = subprocess.run(
        [sys.executable, "-c", SCATTERED], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) > 60  # of 92 MiB


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def lazy_panel(n_assets: int) -> xr.Dataset:
    """A panel of which three months at a time are made, half of its cells listed."""
    da = pytest.importorskip("dask.array")
    shape = (96, n_assets)
    rng = np.random.default_rng(0)
    listed = rng.random(shape) < 0.5
    values = np.where(listed[..., None], np.float32(0.5), np.float32(np.nan))
    returns = np.where(listed, 0.1 * rng.standard_normal(shape), np.nan).astype(np.float32)
    months = np.datetime64("2000-01", "M") + np.arange(97)
    return xr.Dataset(
        {
            "returns": (("time", "asset"), returns),
            "characteristics": (
                ("time", "asset", "characteristic"),
                da.from_array(values, chunks=(3, -1, -1)),
            ),
        },
        coords={
            "time": months[1:].astype("datetime64[ns]") - np.timedelta64(1, "D"),
            "asset": np.array([f"a{i:05d}" for i in range(n_assets)]),
            "characteristic": ["c"],
        },
        attrs={"frequency": "monthly", "transform": "none"},
    )


def light_batch(panel: xr.Dataset) -> object:
    return pytest.importorskip("rvrae_pyro.data.batch").to_light_batch(panel)


@pytest.mark.parametrize(
    ("work", "most"),
    [
        (rv.data.check_panel, 2.0),  # marks of infinite cells
        (rv.data.listed, 2.0),
        (rv.data.fingerprint, 1.0),
        (rv.data.market_context, 2.0),
        (rv.data.rank_characteristics, 2.0),
        (lambda panel: rv.data.split(panel, 60, 20, 10), 2.0),
        (light_batch, 8.0),  # four of returns, one of each mask, and marks while it is checked
    ],
    ids=["check", "listed", "fingerprint", "context", "rank", "split", "batch"],
)
def test_memory_of_preparing_a_panel_on_disk(
    work: Callable[[xr.Dataset], object], most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes a cell by which the peak grows with the assets; blocks of three months aside."""
    for name in ("_CELLS", "_MOST"):  # a block of either size has 18,000 values
        monkeypatch.setattr(f"rvrae_pyro.data.chunks.{name}", 18_000)
    peaks = []
    for n_assets in (1_000, 6_000):
        panel = lazy_panel(n_assets)
        work(panel)  # what is imported or remembered once
        peaks.append(peak_bytes(lambda: work(panel)))  # noqa: B023 - called here and now
    growth = (peaks[1] - peaks[0]) / (96 * 5_000)
    assert growth < most
