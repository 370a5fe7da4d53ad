"""What the competitors cost: IPCA over the public package, an epoch over the dense reference.

Run with ``make bench``. Ratios of CPU seconds, one thread, same process. An epoch is a third of
the difference between four epochs and one, so that neither preparation nor scoring counts. As for
the model's step, the ratio is reported and the test fails only beyond twice the target.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

import rvrae_pyro as rv
from rvrae_pyro.baselines import TrainConfig
from tests.benchmarks.reference_sizes import cpu_median, dense_reference, make_batch, make_panel

pytestmark = pytest.mark.benchmark

EPOCHS = {
    ("ALSTM", "b"): 4.0,
    ("FactorVAE", "b"): 2.0,
    ("Transformer", "a"): 20.0,
    ("CA", "b"): 0.2,
}
MAKE = {
    "ALSTM": lambda config: rv.baselines.ALSTM(config=config),
    "FactorVAE": lambda config: rv.baselines.FactorVAE(5, config=config),
    "Transformer": lambda config: rv.baselines.Transformer(config=config),
    "CA": lambda config: rv.baselines.ConditionalAutoencoder(5, n_members=1, config=config),
}


def cpu_once(work) -> float:
    """CPU seconds of one run."""
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.parametrize(("size", "target"), [("a", 0.1), ("b", 0.1), ("c", 0.2)])
def test_ipca_over_the_public_package(benchmark, size: str, target: float) -> None:
    package = pytest.importorskip("ipca")
    panel = make_panel(size)
    use = panel["returns"].notnull().to_numpy()
    time_index, asset_index = np.nonzero(use)
    given = {
        "X": panel["characteristics"].to_numpy()[use].astype(float),
        "y": panel["returns"].to_numpy()[use],
        "indices": np.column_stack([asset_index, time_index]),
    }

    def theirs() -> None:
        model = package.InstrumentedPCA(n_factors=5, intercept=False, iter_tol=1e-6)
        model.fit(**given, quiet=True)

    # numpy's own threads would count, mostly for waiting
    with pytest.importorskip("threadpoolctl").threadpool_limits(1):
        reference = cpu_median(theirs, rounds=3)  # after one run in which it compiles itself
        ours = cpu_median(lambda: rv.baselines.IPCA(5, tol=1e-6).fit(panel), rounds=9)
    benchmark.pedantic(lambda: rv.baselines.IPCA(5, tol=1e-6).fit(panel), rounds=1)
    benchmark.extra_info.update(ratio=round(ours / reference, 4), target=target)
    assert ours < 2 * target * reference


@pytest.mark.parametrize(("name", "size"), sorted(EPOCHS))
def test_epoch_over_the_dense_reference(benchmark, name: str, size: str) -> None:
    panel, target = make_panel(size), EPOCHS[name, size]
    reference = cpu_median(dense_reference(make_batch(size)), rounds=3)
    plain = MAKE[name](None).config
    assert isinstance(plain, TrainConfig)

    def train(epochs: int) -> float:
        config = dataclasses.replace(plain, max_epochs=epochs)
        return cpu_once(lambda: MAKE[name](config).fit(panel, progress=False))

    train(1)  # what a process does only once is no part of an epoch
    one = benchmark.pedantic(lambda: train(1), rounds=1)
    ratio = (train(4) - one) / 3.0 / reference
    benchmark.extra_info.update(ratio=round(ratio, 3), target=target)
    assert ratio < 2 * target
