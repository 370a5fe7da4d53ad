"""The embedded portfolios against their source and plain regressions."""

import time

import numpy as np
import pytest
from linearmodels.datasets import french

from rvrae_pyro.data import check_panel, datasets, fingerprint, listed, load_french
from rvrae_pyro.errors import PanelError

TABLE = french.load().set_index("dates")
FACTORS = ["MktRF", "SMB", "HML", "Mom"]


def test_shape_labels_and_live_month():
    panel = load_french()
    check_panel(panel)
    assert dict(panel.sizes) == {"time": 820, "asset": 30, "characteristic": 15}
    assert panel["time"].values[0] == np.datetime64("1949-01-31")
    assert panel["time"].values[-1] == np.datetime64("2017-04-30")
    assert panel["returns"].isel(time=-1).isnull().all()
    assert panel["returns"].isel(time=slice(-1)).notnull().all()
    assert listed(panel).isel(time=slice(1, None)).all()
    assert panel["characteristics"].isel(time=slice(60, None)).notnull().all()
    assert panel["name"].sel(asset="S1V5").item() == "Small value"
    assert panel["group"].sel(asset="S5M1").item() == "size-momentum"
    assert panel["name"].sel(asset="Enrgy").item() == "Energy"


def test_returns_are_in_excess_of_the_shipped_rate():
    panel = load_french()
    raw = panel["returns"].values[:-1] + panel["risk_free"].values[:-1, None]
    np.testing.assert_allclose(raw, TABLE[panel["asset"].values], atol=1e-15)


@pytest.mark.parametrize(
    ("row", "asset"), [(60, "NoDur"), (500, "S1M1"), (819, "S5V3"), (30, "Hlth")]
)
def test_characteristics_against_plain_calculations(row, asset):
    excess = TABLE[asset].to_numpy() - TABLE["RF"].to_numpy()
    got = load_french()["characteristics"].sel(asset=asset).isel(time=row)
    got = dict(zip(got["characteristic"].values.tolist(), got.values, strict=True))
    year, five = excess[row - 12 : row], excess[max(0, row - 60) : row]
    design = np.column_stack(
        [np.ones(len(five)), TABLE[FACTORS].to_numpy()[max(0, row - 60) : row]]
    )
    slopes, square, *_ = np.linalg.lstsq(design, five)
    centred = five - five.mean()
    expected = {
        "mom_1m": excess[row - 1],
        "mom_6m": np.prod(1 + excess[row - 6 : row - 1]) - 1,
        "mom_12m": np.prod(1 + excess[row - 12 : row - 1]) - 1,
        "mom_36m": np.prod(1 + excess[row - 36 : row - 12]) - 1 if row >= 36 else np.nan,
        "intmom": np.prod(1 + excess[row - 12 : row - 6]) - 1,
        "seas": np.mean([excess[row - k] for k in (12, 24, 36, 48, 60) if row >= k]),
        "vol_12m": year.std(),
        "vol_60m": five.std(),
        "maxret_12m": year.max(),
        "skew_60m": (centred**3).mean() / five.std() ** 3,
        "idiovol_60m": np.sqrt(square[0] / (len(five) - 5)),
        **dict(zip(("beta_mkt", "beta_smb", "beta_hml", "beta_mom"), slopes[1:], strict=True)),
    }
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name


def test_no_row_knows_its_own_month(monkeypatch):
    before = load_french()["characteristics"].values
    changed = TABLE.copy()
    changed.iloc[600:] = np.random.default_rng(0).normal(0.0, 0.1, changed.iloc[600:].shape)
    monkeypatch.setattr(datasets, "_read_table", lambda: changed)
    after = datasets._french.__wrapped__()["characteristics"].values
    np.testing.assert_array_equal(before[:601], after[:601])
    assert not np.array_equal(before[601], after[601])


def test_each_call_gives_a_panel_of_its_own_quickly():
    began = time.perf_counter()
    one = load_french()
    one["returns"][:] = 0.0
    two = load_french()
    assert time.perf_counter() - began < 3.0
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(two) == fingerprint(load_french())


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PanelError, match="pip install linearmodels"):
        datasets._read_table()
