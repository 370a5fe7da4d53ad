"""A weekly panel through everything; a real panel of stocks within time and memory; imports."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro.data as data
from rvrae_pyro.errors import PanelError

FOLDER = Path(os.environ.get("RVRAE_US_PANEL", ""))

needs_us_panel = pytest.mark.skipif(
    not (FOLDER / "us_panel.parquet").is_file(),
    reason="set RVRAE_US_PANEL to the folder of us_panel.parquet",
)


def test_a_weekly_panel_goes_through_everything(tmp_path):
    rng = np.random.default_rng(0)
    fridays = pd.date_range("2015-01-02", periods=160, freq="W-FRI")
    dates = fridays.to_numpy().copy()
    dates[50] -= np.timedelta64(1, "D")  # a Thursday before a holiday
    index = pd.MultiIndex.from_product([dates, range(12)], names=["date", "asset"])
    table = pd.DataFrame(
        rng.standard_normal((len(index), 3)) * [0.02, 1.0, 0.3] + [0.0, 0.0, 2.0],
        index,
        columns=["ret", "mom", "vol"],
    ).reset_index()
    rate = pd.Series(0.0004, pd.DatetimeIndex(fridays))
    panel = data.from_frame(table, frequency="weekly", risk_free=rate, lag=1)
    assert panel.sizes["time"] == 161
    assert panel["time"].to_index().day_of_week.unique().tolist() == [6]
    data.check_panel(panel)
    ranked = data.rank_characteristics(data.market_context(panel))
    assert ranked["feature"].values.tolist() == ["vol_median", "vol_iqr"]
    portfolios = data.managed_portfolios(ranked)
    assert portfolios.notnull().all("characteristic").sum() == 159
    assert data.periods_per_year(ranked) == 52
    parts = data.split(ranked, 104, 26, 26)
    assert parts.test["time"].values[-1] == panel["time"].values[-2]
    assert len(list(data.walk_forward(ranked, 104, 26, 10))) == 3
    data.write_panel(ranked, tmp_path / "weekly.csv")
    xr.testing.assert_identical(data.read_panel(tmp_path / "weekly.csv"), ranked)
    with pytest.raises(PanelError, match="skips weeks: 2015-12-20"):
        data.from_frame(table[table["date"] != dates[50]], frequency="weekly", excess=True)


def _load_us_panel():
    table = pd.read_parquet(FOLDER / "us_panel.parquet").drop(columns="dy")
    rate = pd.read_parquet(FOLDER / "ff_factors.parquet").set_index("date")["rf"]
    return table, data.from_frame(table, risk_free=rate)


@needs_us_panel
@pytest.mark.realdata
def test_us_stocks_are_read_in_one_call():
    table, panel = _load_us_panel()
    assert dict(panel.sizes) == {"time": 228, "asset": 4149, "characteristic": 25}
    assert "dy" not in panel["characteristic"]
    assert int(panel["returns"].notnull().sum()) == len(table)
    rate = pd.read_parquet(FOLDER / "ff_factors.parquet").set_index("date")["rf"]
    for row in table.sample(20, random_state=0).itertuples():
        cell = panel.sel(time=row.date, asset=row.asset)
        assert cell["returns"].item() == pytest.approx(float(row.ret) - rate[row.date], abs=1e-15)
        np.testing.assert_array_equal(
            cell["characteristics"].values,
            [getattr(row, c) for c in panel["characteristic"].values],
        )


@needs_us_panel
@pytest.mark.realdata
def test_us_stocks_take_little_time_and_memory():
    # a process of its own, so that the peak is the reader's
    script = (
        "import time\n"
        "from tests.data.test_real_panels import _load_us_panel\n"
        "from tests.memory import peak_gibibytes\n"
        "began = time.perf_counter()\n"
        "_load_us_panel()\n"
        "print(time.perf_counter() - began, peak_gibibytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    seconds, gibibytes = map(float, done.stdout.split())
    assert seconds < 15.0
    assert gibibytes < 1.0


def test_import_does_without_torch():
    script = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'pyro'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "import rvrae_pyro.data as data\n"
        "data.simulate_gkx; data.load_french()\n"
        "assert {'to_batch', 'Batch'} <= set(dir(data))\n"
        "try:\n    data.to_batch\nexcept ImportError:\n    print('needs torch')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout == "needs torch\n"


def test_every_public_name_exists():
    pytest.importorskip("torch")  # a batch is made of tensors
    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        data.nonsense  # noqa: B018
