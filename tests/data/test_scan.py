"""The scan of a panel's characteristics, against the same computed value by value."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rvrae_pyro.data import simulate_gkx
from rvrae_pyro.data.validation import scan_cells

VALUES = st.sampled_from([np.nan, np.nan, 0.0, -0.0, 0.5, -2.0, np.inf, -np.inf, 3e38, -3e38])


def as_array(values):
    return xr.DataArray(values, dims=("time", "asset", "characteristic"))


def check(values, scan):
    missing = np.isnan(values)
    listed = ~missing.all(-1)
    np.testing.assert_array_equal(scan.listed, listed)
    np.testing.assert_array_equal(scan.present, ~missing.all((0, 1)))
    assert scan.n_missing == int((missing & listed[..., None]).sum())
    lacking = np.argwhere(missing.any(-1) & listed)[:3]
    assert scan.holes == [tuple(cell) for cell in lacking.tolist()]
    bad = np.isinf(values)
    np.testing.assert_array_equal(scan.infinite_names, bad.any((0, 1)))
    assert (scan.infinite is None) == (not bad.any())
    if scan.infinite is not None:
        np.testing.assert_array_equal(scan.infinite, bad.any(-1))
    assert scan.largest == np.nanmax(np.abs(values), initial=0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_scan_is_what_each_value_shows(data, dtype):
    shape = data.draw(npst.array_shapes(min_dims=3, max_dims=3, max_side=4))
    values = data.draw(npst.arrays(np.float64, shape, elements=VALUES)).astype(dtype)
    check(values, scan_cells(as_array(values)))


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_reads_a_panel_on_disk_once(size, monkeypatch):
    dask_array = pytest.importorskip("dask.array")
    batches = pytest.importorskip("rvrae_pyro.data.batch")
    monkeypatch.setattr("rvrae_pyro.data.chunks._CELLS", 1)  # every chunk is a block
    panel = simulate_gkx(seed=0, n_times=6, n_assets=8, n_characteristics=5)
    panel["characteristics"][2, 1] = np.nan
    reads = []

    def read(block, block_info=None):
        if block_info:  # else dask asks for the type
            reads.append(block_info[0]["chunk-location"][0])
        return block

    values = panel["characteristics"].to_numpy()
    lazy = dask_array.from_array(values, chunks=(size, -1, -1)).map_blocks(read, dtype=values.dtype)
    on_disk = panel.assign(characteristics=(panel["characteristics"].dims, lazy))
    batch = batches.to_light_batch(on_disk)
    assert reads == list(range(6 // size))
    assert batch.listed.equal(batches.to_light_batch(panel).listed)
