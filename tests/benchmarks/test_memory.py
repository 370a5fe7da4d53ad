"""Peak memory above the loaded panel at the paper's size: of a step, a fit and a forecast.

Run with ``make bench``. Each runs in a process of its own, which samples its resident memory
every two milliseconds; RVRAE_SCALE_SIZE takes a smaller size than c.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc"),
]

SIZE = os.environ.get("RVRAE_SCALE_SIZE", "c")
TARGET = 1.0
MONTHS, DRAWS = 36, 1000

WATCH = """
import sys, threading
import torch
import rvrae_pyro as rv
from tests.benchmarks.reference_sizes import make_batch, make_panel

torch.set_num_threads(1)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**30

def watched(work):
    loaded, peak, done = resident(), 0.0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    print(peak - loaded)
"""
STEP = """
from pyro.infer import Trace_ELBO

def steps():
    model = rv.RVRAE(batch.n_characteristics, 5)
    for _ in range(2):
        model.zero_grad()
        Trace_ELBO().differentiable_loss(model.model, model.guide, batch).backward()

batch = make_batch(sys.argv[1])
watched(steps)
"""
PANEL = """
make_panel(sys.argv[1]).astype("float32").to_netcdf(sys.argv[2] + "/panel.nc")
"""
FIT = """
import xarray as xr

panel = xr.load_dataset(sys.argv[2] + "/panel.nc")
last = int(sys.argv[3])
train, valid, _ = rv.data.split(panel, panel.sizes["time"] - last - 12, 12, last)
config = rv.FitConfig(max_steps=150)  # two epochs, each with a look at all months
fits, model = [], lambda panel: rv.RVRAE(panel.sizes["characteristic"], 5)
watched(lambda: fits.append(rv.fit(model(panel), train, valid, config=config, progress=False)))
fits[0].save(sys.argv[2] + "/fit")
"""
FORECAST = """
import xarray as xr

fit = rv.load(sys.argv[2] + "/fit")
panel = xr.load_dataset(sys.argv[2] + "/panel.nc")
times = slice(panel["time"].values[-int(sys.argv[3])], None)
watched(lambda: fit.forecast(panel, int(sys.argv[4]), times=times, out=sys.argv[2] + "/f.zarr"))
"""


def run(script: str, *arguments: object) -> str:
    """Run a script in a process of its own and return what it printed."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", WATCH + script, SIZE, *map(str, arguments)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def held_against_the_aim(benchmark, peak: float) -> None:
    benchmark.extra_info.update(gibibytes=round(peak, 3), target=TARGET)
    print(f"peak {peak:.2f} GiB above the loaded panel")
    assert peak < TARGET


def test_a_step(benchmark) -> None:
    held_against_the_aim(benchmark, float(benchmark.pedantic(lambda: run(STEP), rounds=1)))


def test_a_fit(benchmark, tmp_path: Path) -> None:
    run(PANEL, tmp_path)
    found = benchmark.pedantic(lambda: run(FIT, tmp_path, MONTHS), rounds=1)
    held_against_the_aim(benchmark, float(found))


def test_a_forecast_written_to_disk(benchmark, tmp_path: Path) -> None:
    run(PANEL, tmp_path)
    run(FIT, tmp_path, MONTHS)
    found = benchmark.pedantic(lambda: run(FORECAST, tmp_path, MONTHS, DRAWS), rounds=1)
    held_against_the_aim(benchmark, float(found))
