"""Equal content, equal name."""

import numpy as np
import pytest

from rvrae_pyro.data import fingerprint
from tests.data.helpers import small_panel


def test_what_does_not_matter():
    panel = small_panel()
    name = fingerprint(panel)
    assert len(name) == 64
    assert fingerprint(panel.assign_attrs(source="elsewhere")) == name
    assert fingerprint(panel.assign_coords(asset=panel["asset"].astype(object))) == name
    exact = panel.assign(returns=panel["returns"].astype(np.float32).astype(np.float64))
    narrow = exact.assign(returns=exact["returns"].astype(np.float32))
    assert fingerprint(exact) == fingerprint(narrow)
    other_nan = panel.copy(deep=True)
    values = other_nan["characteristics"].values
    values[np.isnan(values)] = np.array([0xFFF8000000000001], dtype="<u8").view("<f8")[0]
    assert fingerprint(other_nan) == name


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.isel(asset=slice(None, None, -1)),
        lambda p: p.isel(time=slice(1, None)),
        lambda p: p.assign_coords(asset=[*"abcdef", "h"]),
        lambda p: p.assign_coords(characteristic=["c0", "c", "1c2"]),
        lambda p: p.assign(returns=p["returns"] + 1e-17),
        lambda p: p.assign(extra=("time", np.zeros(18))),
        lambda p: p.rename(returns="return"),
    ],
)
def test_what_matters(change):
    assert fingerprint(change(small_panel())) != fingerprint(small_panel())


def test_stable_over_versions():
    # made by this function on 2026-11-22; a change orphans fingerprints stored with old fits
    panel = small_panel(3, 2, 1, missing=0.0)
    panel["returns"][:] = np.arange(6.0).reshape(3, 2) / 10
    panel["characteristics"][:] = np.nan
    panel["characteristics"][:, 0] = 1.0
    assert fingerprint(panel) == (
        "bb193223526bfffcd228536c224275943b69ffc867b2e05db3ee28f65b753eba"
    )
