"""A whole fit at default settings: its price in dense-reference steps, and what 4 x more buys.

``RVRAE_SCALE_SIZE=b pytest -n 0 -m benchmark tests/benchmarks/test_default_fit.py``. Target, at
size c: at most 250 dense-reference steps of CPU, and a validation score within 0.5 % of that of a
run of 4 x as many steps. The validation score is the best validation ELBO a return, in nats.
"""

from __future__ import annotations

import dataclasses
import os
import time

import pytest

import rvrae_pyro as rv
from rvrae_pyro.data.batch import to_batch
from tests.benchmarks.reference_sizes import SIZES, cpu_median, dense_reference

pytestmark = pytest.mark.benchmark

SIZE = os.environ.get("RVRAE_SCALE_SIZE", "a")
N_VALID = 36


def test_a_default_fit(capsys: pytest.CaptureFixture[str]) -> None:
    n_times, n_assets, n_characteristics = SIZES[SIZE]
    panel = rv.data.simulate_dynamic(
        n_assets, n_times + N_VALID, n_characteristics, 5, turnover=0.5, seed=0
    )
    train, valid = panel.isel(time=slice(0, n_times)), panel.isel(time=slice(n_times, None))
    reference = cpu_median(dense_reference(to_batch(train)), 3)
    default = rv.FitConfig()
    found = {}
    for factor in (1, 4):
        config = dataclasses.replace(default, max_steps=factor * default.max_steps)
        model = rv.RVRAE(n_characteristics, 5, n_context=panel.sizes["feature"])
        begun = time.process_time()
        fit = rv.fit(model, train, valid, config=config, progress=False)
        cpu = time.process_time() - begun
        score = float(fit.history["valid_elbo"].max()) / int(fit.attrs["n_valid_returns"])
        found[factor] = (cpu / reference, score, int(fit.history["step"].iloc[-1]))
    with capsys.disabled():
        print(f"\n\nsize {SIZE}, one dense-reference step {reference:.2f} s of CPU")
        for factor, (price, score, steps) in found.items():
            print(
                f"  {factor} x: {steps} steps, {price:.0f} dense-reference steps, validation "
                f"{score:.4f} nats a return"
            )
        gap = (found[4][1] - found[1][1]) / abs(found[4][1])
        print(f"  left by the default: {100 * gap:.2f} % of the longer run's score")
    assert found[1][0] < 2 * 250  # a busy machine may miss the target; twice it no noise explains
