"""A panel larger than memory should need: peak resident memory of a whole fit and forecast."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

pytestmark = pytest.mark.benchmark

N_ASSETS = int(os.environ.get("RVRAE_SCALE_ASSETS", "56820"))
N_TIMES, N_CHARACTERISTICS = 252, 46
SETTINGS = """
[model]
n_factors = 5
[data]
context = false
[fit]
max_steps = 8
window = 12
"""


def write_big(path: Path) -> float:
    """Write a panel of noise, 45 % of its cells alive, month by month; return its size in GiB."""
    da = pytest.importorskip("dask.array")
    rng = np.random.default_rng(0)
    first = rng.integers(-N_TIMES // 2, N_TIMES, N_ASSETS)
    months = np.arange(N_TIMES)[:, None]
    alive = (months >= first) & (months < first + 150)
    returns = np.where(alive, 0.1 * rng.standard_normal(alive.shape).clip(-4, 4), np.nan)
    shape, chunks = (*alive.shape, N_CHARACTERISTICS), (12, 4096, N_CHARACTERISTICS)
    values = da.random.default_rng(0).standard_normal(shape, chunks=chunks, dtype=np.float32)
    mask = da.from_array(alive[..., None], chunks=(12, 4096, 1))
    panel = xr.Dataset(
        {
            "returns": (("time", "asset"), returns.astype(np.float32)),
            "characteristics": (
                ("time", "asset", "characteristic"),
                da.where(mask, values, np.float32(np.nan)),
            ),
        },
        coords={
            "time": pd.date_range("2000-01-31", periods=N_TIMES, freq="ME").to_numpy(),
            "asset": [f"a{i:06d}" for i in range(N_ASSETS)],
            "characteristic": [f"c{i:02d}" for i in range(N_CHARACTERISTICS)],
        },
        attrs={"frequency": "monthly", "transform": "none"},
    )
    from rvrae_pyro.data import write_panel

    write_panel(panel, path)
    return float(np.prod(shape)) * 4 / 2**30


def peak_of(*arguments: object) -> tuple[float, float]:
    """Run ``rvrae``; peak resident memory in GiB and wall seconds."""
    begun = time.perf_counter()
    code = (
        "import sys; from rvrae_pyro.cli.app import main; from tests.memory import peak_gibibytes; "
    )
    code += "c = main(sys.argv[1:]); print('peak', peak_gibibytes()); sys.exit(c)"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split("peak")[-1]), time.perf_counter() - begun


def test_fit_and_forecast_of_a_panel_on_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resource.RLIMIT_AS  # the figures below need a POSIX system
    big, run = tmp_path / "big.zarr", tmp_path / "run"
    size = write_big(big)
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS)
    fitted = peak_of("fit", big, "--config", settings, "--out", run)
    drawn = peak_of("forecast", run, big, "--out", tmp_path / "f.csv", "--num-samples", 100)
    with capsys.disabled():
        print(f"\n{N_ASSETS} assets, {size:.2f} GiB of characteristics as float32")
        for name, (peak, seconds) in (("fit", fitted), ("forecast", drawn)):
            print(f"  {name:<9} peak {peak:.2f} GiB, {seconds:.0f} s")
    assert fitted[0] <= 2.0
    assert drawn[0] <= 2.0
