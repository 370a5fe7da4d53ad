"""Both kinds of error, counted: spoilt tables that pass in silence, and false alarms.

`pytest -s tests/data/test_corruption.py` prints the tables.
"""

import warnings
import zlib
from collections import Counter

import numpy as np
import pytest

from rvrae_pyro.data import check_panel
from tests.data.corruptions import CLEAN, CORRUPTIONS, clean, judge

INSTANCES = 4
PANELS = 10
OUTCOMES = ("error", "warning", "right", "silent", "raw")


def _rng(kind, number):
    return np.random.default_rng([zlib.crc32(kind.encode()), number])


def test_spoilt_tables_are_caught(tmp_path):
    """At least 95 % of all, and most instances of every kind."""
    counts = {}
    for kind, spoil in CORRUPTIONS.items():
        counts[kind] = Counter()
        for number in range(INSTANCES):
            folder = tmp_path / f"{len(counts)}-{number}"
            folder.mkdir()
            rng = _rng(kind, number)
            counts[kind][judge(spoil(rng, clean(rng), folder))] += 1
    total = sum(counts.values(), Counter())
    print(f"\n{'corruption':36}" + "".join(f"{name:>9}" for name in OUTCOMES))
    for kind, found in [*counts.items(), ("all", total)]:
        print(f"{kind:36}" + "".join(f"{found[name] or '.':>9}" for name in OUTCOMES))
    caught = 1 - (total["silent"] + total["raw"]) / total.total()
    print(f"caught: {caught:.1%} of {total.total()} tables, {len(counts)} kinds")
    assert len(counts) >= 25
    assert caught >= 0.95
    assert total["raw"] == 0
    assert {kind: found for kind, found in counts.items() if found["silent"] > INSTANCES / 3} == {}


@pytest.mark.statistical
def test_tables_in_order_are_silent(tmp_path):
    """At most 2 % with any warning; a true rate of 0.5 % fails once in 80 draws of seeds."""
    alarms, texts = Counter(), []
    for kind, make in CLEAN.items():
        for number in range(PANELS):
            folder = tmp_path / f"{len(alarms)}-{kind[:4].strip()}-{number}"
            folder.mkdir(parents=True)
            read = make(_rng(kind, number), folder)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                check_panel(read())
            alarms[kind] += bool(seen)
            texts += [f"{kind}: {each.message}" for each in seen]
    print(f"\n{'panels in order':36}{'panels':>9}{'warned':>9}")
    for kind, count in alarms.items():
        print(f"{kind:36}{PANELS:>9}{count or '.':>9}")
    share = alarms.total() / (PANELS * len(CLEAN))
    print(f"false alarms: {share:.1%} of {PANELS * len(CLEAN)} panels, {len(CLEAN)} kinds")
    assert share <= 0.02, texts
