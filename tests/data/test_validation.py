"""What check_panel refuses, and how it says so."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rvrae_pyro.data import check_panel, listed, periods_per_year
from rvrae_pyro.data.build import build_panel, canonical
from rvrae_pyro.errors import PanelError, RvraeWarning
from tests.data.helpers import dates, small_panel


def test_a_good_panel_passes_with_all_its_variables():
    panel = small_panel()
    panel["context"] = (("time", "feature"), np.zeros((18, 2)))
    panel["weight"] = (("time", "asset"), np.ones((18, 7)))
    panel["risk_free"] = ("time", np.zeros(18))
    check_panel(panel.assign_coords(feature=["u", "v"]))


def test_simulated_style_extras_pass():
    panel = small_panel()
    panel["true_factors"] = (("time", "factor"), np.zeros((18, 2)))
    check_panel(panel)


def test_not_a_dataset():
    with pytest.raises(PanelError, match=r"xarray\.Dataset; got DataArray.*from_frame"):
        check_panel(small_panel()["returns"])


@pytest.mark.parametrize("name", ["returns", "characteristics"])
def test_missing_variable(name):
    with pytest.raises(PanelError, match=f"no variable `{name}`"):
        check_panel(small_panel().drop_vars(name))


def test_wrong_dims_say_what_came():
    with pytest.raises(PanelError, match=r"`returns` must have dims \('time', 'asset'\); got"):
        check_panel(small_panel().transpose("asset", "time", "characteristic"))


def test_missing_labels():
    with pytest.raises(PanelError, match="dimension `asset` has no labels"):
        check_panel(small_panel().drop_vars("asset"))
    for dim in ("time", "asset"):
        with pytest.raises(PanelError, match=f"dimension `{dim}` has no labels"):
            check_panel(small_panel().drop_indexes(dim))


def test_labels_may_be_categories_but_not_missing():
    panel = small_panel()
    names = pd.Index(panel["asset"].values)
    check_panel(panel.assign_coords(asset=pd.CategoricalIndex(names)))
    for dtype in ("object", "string"):
        broken = pd.Index([None, *names[1:]], dtype=dtype)
        with pytest.raises(PanelError, match="`asset` labels must be non-empty strings"):
            check_panel(panel.assign_coords(asset=broken))


def test_text_and_integer_values():
    panel = small_panel()
    panel["returns"] = panel["returns"].astype(str)
    panel["characteristics"] = panel["characteristics"].fillna(0.0).astype(int)
    with pytest.raises(PanelError, match=r"(?s)`returns` must be of a float dtype.*int64"):
        check_panel(panel)


def test_empty_panel():
    with pytest.raises(PanelError, match="`returns` is empty"):
        check_panel(small_panel().isel(asset=slice(0, 0)))


def test_every_problem_is_listed_at_once():
    panel = small_panel()
    panel["returns"][3, 1] = np.inf
    panel["characteristics"][:, :, 2] = np.nan
    panel["characteristics"][4, 0, 0] = -np.inf
    panel = panel.assign_coords(asset=["a", "a", *"bcdef"]).isel(time=[0, 1, 3, 4, 5])
    with pytest.raises(PanelError) as caught:
        check_panel(panel)
    text = str(caught.value)
    assert text.startswith("`panel` has 5 problems:")
    assert "repeated `asset` labels: a (1 in all)" in text
    assert "skips months: 2002-01 (1 in all)" in text
    assert "`returns` are infinite at 2002-02-28 a (1 in all)" in text
    assert "infinite characteristics in c0 (1 in all), at 2002-03-31 a (1 in all)" in text
    assert "characteristics without a single value: c2 (1 in all)" in text


def test_the_first_three_of_many_are_named():
    panel = small_panel(missing=0.0)
    panel["returns"][2:7, 0] = np.inf
    with pytest.raises(
        PanelError, match=r"2002-01-31 a0, 2002-02-28 a0, 2002-03-31 a0, \.\.\. \(5"
    ):
        check_panel(panel)


def test_unsorted_and_repeated_dates():
    panel = small_panel()
    with pytest.raises(PanelError, match="not sorted, it goes back at 2001-11-30"):
        check_panel(panel.isel(time=[1, 0, 2]))
    with pytest.raises(PanelError, match="repeated dates of `time`: 2001-12-31"):
        check_panel(panel.isel(time=[0, 1, 1, 2]))


def test_dates_that_are_no_month_ends():
    panel = small_panel()
    moved = panel.assign_coords(time=panel["time"] - np.timedelta64(1, "D"))
    with pytest.raises(PanelError, match="must be month ends; got 2001-11-29"):
        check_panel(moved)


def test_missing_date_and_wrong_kind_of_date():
    panel = small_panel()
    times = panel["time"].values.copy()
    times[4] = np.datetime64("NaT", "ns")
    with pytest.raises(PanelError, match="1 dates of `time` are missing"):
        check_panel(panel.assign_coords(time=times))
    with pytest.raises(PanelError, match="`time` must be datetime64; got int64"):
        check_panel(panel.assign_coords(time=np.arange(18)))


def test_integer_ids():
    with pytest.raises(PanelError, match=r"`asset` labels must be non-empty strings; got 0, 1, 2"):
        check_panel(small_panel().assign_coords(asset=np.arange(7)))


def test_percent_returns():
    panel = small_panel()
    panel["returns"] = panel["returns"] * 100
    with pytest.raises(PanelError, match="look like percent: the median absolute return is"):
        check_panel(panel)


@pytest.mark.parametrize("seed", range(30))
def test_percent_is_told_by_the_median(seed):
    """An even or odd number of returns about half of which are large; infinite ones apart."""
    rng = np.random.default_rng(seed)
    panel = small_panel(6, 4, missing=0.0)
    sizes = np.append(rng.choice([0.1, 0.45, 0.5, 0.6, 0.9], rng.integers(1, 23)), 0.5)
    panel["returns"][:] = np.nan
    panel["returns"].values.flat[: len(sizes)] = sizes * rng.choice([-1.0, 1.0], len(sizes))
    median = np.median(sizes)
    if median > 0.5:
        with pytest.raises(PanelError, match=f"median absolute return is {median:.3g}"):
            check_panel(panel)
    else:
        check_panel(panel)
    panel["returns"].values.flat[-1] = -np.inf
    with pytest.raises(PanelError, match=r"infinite at .* \(1 in all\)"):
        check_panel(panel)


def test_returns_below_minus_one_warn():
    panel = small_panel()
    panel["returns"][0, 0] = -1.5
    with pytest.warns(RvraeWarning, match="below -1 at 2001-11-30 a0"):
        check_panel(panel)


def test_no_returns_at_all():
    panel = small_panel()
    panel["returns"][:] = np.nan
    with pytest.raises(PanelError, match="no observed return"):
        check_panel(panel)
    check_panel(panel, returns_required=False)


def test_context_weight_and_rate_must_be_usable():
    panel = small_panel().assign_coords(feature=["u", "v"])
    panel["context"] = (("time", "feature"), np.full((18, 2), np.nan))
    panel["weight"] = (("time", "asset"), -np.ones((18, 7)))
    panel["risk_free"] = ("time", np.full(18, np.inf))
    with pytest.raises(PanelError) as caught:
        check_panel(panel)
    for part in ("`context` has NaN", "`weight` must be finite", "`risk_free` is infinite"):
        assert part in str(caught.value)


def test_ranks_that_are_none():
    panel = small_panel()
    panel.attrs["transform"] = "rank"
    panel["characteristics"][0, 0, 0] = 3.0
    with pytest.raises(PanelError, match=r"leave \[-1, 1\]"):
        check_panel(panel)


def test_nested_attributes_are_refused():
    panel = small_panel()
    panel.attrs["parameters"] = {"a": 1}
    with pytest.raises(PanelError, match=r"parameters \(1 in all\) are not.*json\.dumps"):
        check_panel(panel)


def test_frequencies():
    check_panel(small_panel(frequency="weekly"))
    check_panel(small_panel(frequency="daily").isel(time=[0, 1, 4, 5]))
    with pytest.raises(PanelError, match="skips weeks: 2001-11-25"):
        check_panel(small_panel(frequency="weekly").isel(time=[0, 1, 3]))
    odd = small_panel(frequency="weekly")
    times = odd["time"].values.copy()
    times[-1] += np.timedelta64(2, "D")
    with pytest.raises(PanelError, match="not in steps of seven days at"):
        check_panel(odd.assign_coords(time=times))
    with pytest.raises(PanelError, match="monthly, weekly, daily; got 'hourly'"):
        check_panel(small_panel().assign_attrs(frequency="hourly"))
    assert [periods_per_year(small_panel(frequency=f)) for f in ("monthly", "weekly")] == [12, 52]
    with pytest.raises(PanelError, match="hourly"):
        periods_per_year(small_panel().assign_attrs(frequency="hourly"))


@pytest.mark.parametrize("n_characteristics", [1, 2, 7, 8, 9, 16, 17])
def test_listed_cells_are_those_with_any_characteristic(n_characteristics):
    rng = np.random.default_rng(n_characteristics)
    panel = small_panel(n_characteristics=n_characteristics)
    values = panel["characteristics"].transpose("time", "asset", "characteristic")
    holes = rng.uniform(size=values.shape) < 0.6
    holes[..., 0] &= rng.uniform(size=holes.shape[:2]) < 0.9
    panel["characteristics"] = values.where(~holes)
    expected = ~np.isnan(panel["characteristics"].values).all(axis=-1)
    assert 0 < expected.sum() <= expected.size
    np.testing.assert_array_equal(listed(panel).values, expected)


def test_listed_needs_one_characteristic_and_no_return():
    panel = small_panel(missing=0.0)
    panel["characteristics"][2, 3] = np.nan
    panel["characteristics"][4, 1, :2] = np.nan
    panel["returns"][5, 5] = np.nan
    cells = listed(panel)
    assert cells.dims == ("time", "asset")
    assert (~cells).sum() == 1
    assert not cells[2, 3]
    xr.testing.assert_equal(cells, listed(panel.assign(returns=panel["returns"] * np.nan)))


def test_labels_become_canonical():
    objects = build_panel(
        np.zeros((2, 2)),
        np.zeros((2, 2, 1)),
        time=dates(2).astype("datetime64[s]"),
        asset=np.array(["x", "long"], dtype=object),
        characteristic=np.array(["c"], dtype=object),
        asset_coords={"industry": np.array(["mining", "steel"], dtype=object)},
    )
    kinds = {n: objects[n].dtype.str for n in objects.coords}
    assert kinds == {"time": "<M8[ns]", "asset": "<U4", "characteristic": "<U1", "industry": "<U6"}
    assert canonical(objects).identical(objects)
