"""How cost grows with every size: exponents of CPU time, operations and bytes of a step.

``pytest -n 0 -m benchmark tests/benchmarks/test_growth.py``, about three minutes. One thread,
medians of five, sizes in turn; the table is printed, and the test fails only where growth is of
another order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import rvrae_pyro as rv
from tests.benchmarks.growth import Growth, Machine, exponent, flops_of, measure_machine, to_text
from tests.benchmarks.reference_sizes import cpu_median, random_batch

BASE = {"T": 120, "N": 800, "P": 24, "K": 5}
SIZES = {
    "N": (400, 800, 1600, 3200),
    "T": (60, 120, 240, 480),
    "P": (12, 24, 48, 96),
    "K": (2, 4, 8, 16),
}
DRAWS = (250, 500, 1000, 2000)
MOST = {"N": 1.15, "T": 1.15, "P": 1.1, "K": 1.5, "draws": 1.15}
"""Exponents above which growth would be of another order; K^2 and K^3 terms are small here."""


def step_at(**sizes: int) -> tuple[Callable[[], None], int]:
    """An ELBO step over a whole panel, and the panel's listed cells."""
    chosen = {**BASE, **sizes}
    batch = random_batch(chosen["T"], chosen["N"], chosen["P"])
    model = rv.RVRAE(chosen["P"], chosen["K"])
    elbo = Trace_ELBO()

    def step() -> None:
        model.zero_grad()
        elbo.differentiable_loss(model.model, model.guide, batch).backward()

    return step, int(batch.listed.sum())


def forecasts() -> Growth:
    """A forecast of one year, as draws grow."""
    panel = rv.data.simulate_dynamic(200, 72, 8, 5, seed=0)
    train = panel.isel(time=slice(0, 60))
    model = rv.RVRAE(8, 5, n_context=panel.sizes["feature"])
    fit = rv.fit(model, train, config=rv.FitConfig(max_steps=1), progress=False)
    times = panel.time.values[-12:]
    works = {n: partial(fit.forecast, panel, n, times=times) for n in DRAWS}
    return Growth("draws", in_turn(works))


def in_turn(works: Mapping[int, Callable[[], object]], rounds: int = 5) -> dict[int, float]:
    """Median CPU seconds of works that take turns, so that a busy spell hits all of them."""
    for work in works.values():
        work()  # once to warm up
    seconds: dict[int, list[float]] = {n: [] for n in works}
    for _ in range(rounds):
        for n, work in works.items():
            started = time.process_time()
            work()
            seconds[n].append(time.process_time() - started)
    return {n: float(np.median(each)) for n, each in seconds.items()}


@pytest.mark.benchmark
def test_growth(capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
        for name, sizes in SIZES.items():
            rows.append(Growth(name, in_turn({n: step_at(**{name: n})[0] for n in sizes})))
        rows.append(forecasts())
        step, cells = step_at()
        seconds, flops = cpu_median(step, 5), flops_of(step)
    machine = measure_machine()
    with capsys.disabled():
        print(
            f"\n\nOne ELBO step over the whole panel, otherwise {BASE}; a forecast of 12 months of"
        )
        print(f"200 assets. {torch.get_num_threads()} thread(s).\n\n{to_text(rows)}\n")
        print(roofline(flops, cells, seconds, machine))
    for row in rows:
        assert row.exponent < MOST[row.what], row


def roofline(flops: float, cells: int, seconds: float, machine: Machine) -> str:
    """Say what a step asks of the machine, and what the machine could do."""
    read = 4.0 * cells * BASE["P"]
    return (
        f"step: {flops / cells:,.0f} operations and {read / cells:.0f} bytes of characteristics a "
        f"cell, {flops / 1e9:.1f} GFLOP in {seconds:.2f} s: {flops / seconds / 1e9:.0f} GFLOP/s\n"
        f"machine: {machine.flops / 1e9:.0f} GFLOP/s in a matrix product, "
        f"{machine.bytes / 1e9:.1f} GB/s in a copy; bound by operations "
        f"{flops / machine.flops:.2f} s, by reading the panel three times "
        f"{3 * read / machine.bytes:.3f} s"
    )


def test_exponents_of_known_powers() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0]
    assert exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    # a fixed cost hides growth; the last two sizes show more of it than all four
    row = Growth("N", {n: 1.0 + n / 4 for n in (1, 2, 4, 8)})
    assert 0 < row.exponent < row.last < 1
    assert to_text([row]).splitlines()[-1].startswith("| N | 1, 2, 4, 8 | 1250, 1500, 2000, 3000 |")


def test_operations_of_a_product() -> None:
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert flops_of(lambda: a @ b) == 2 * 3 * 5 * 7
    assert flops_of(lambda: torch.zeros(3, 7).addmm_(a, b)) == 2 * 3 * 5 * 7
