"""Error rates of ``fit.check`` on simulated fits: the table of docs/diagnostics.md.

Run with ``pytest -n 0 -m quality -s tests/benchmarks/test_check_calibration.py``; about 17 minutes
of CPU. ``python -m tests.benchmarks.check_calibration 40 5`` prints smaller tables. A false alarm
is any verdict but "good" on one of 200 healthy fits, a detection such a verdict of a question that
is meant to notice the fault. The aims are at most 5 % and at least 90 %; at rates equal to these,
counts exceed the limits below (two standard errors further) with a probability of about 2 % each.
"""

from __future__ import annotations

import pytest

from tests.benchmarks.check_calibration import calibrate, collapse, healthy, leak, tables, verdicts

N_HEALTHY, N_FAULTY = 200, 20


@pytest.mark.quality
def test_false_alarms_and_detections(capsys: pytest.CaptureFixture[str]) -> None:
    rates = calibrate(N_HEALTHY, N_FAULTY)
    with capsys.disabled():
        print("\n\n" + tables(rates))
        print(f"\n{rates.seconds:.0f} s of CPU time. Alarms by fault: {rates.alarms}")
    allowed = 0.05 + 2 * (0.05 * 0.95 / N_HEALTHY) ** 0.5
    assert {name: rate for name, rate in rates.false_alarms.items() if rate > allowed} == {}
    needed = 0.9 - 2 * (0.9 * 0.1 / N_FAULTY) ** 0.5
    assert {name: rate for name, rate in rates.detected.items() if rate < needed} == {}


def test_one_healthy_fit_and_two_faulty_ones() -> None:
    """The machinery itself, on one seed each: seconds, so that it does not rust."""
    assert set(verdicts(*healthy(0)).values()) == {"good"}
    lost = verdicts(*collapse(1000))
    assert lost["moved"] == "bad"
    assert lost["rank"] != "good"
    assert verdicts(*leak(1000))["skill"] == "bad"
