"""One ELBO step over the whole training panel, as a ratio to the dense reference.

Run with ``make bench``. Ratios of CPU seconds, one thread, medians, same process. The targets
are stated beside each size; a busy machine can miss them, so the ratio is reported and the test
fails only beyond twice the target, which no noise explains.
"""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import rvrae_pyro as rv
from tests.benchmarks.reference_sizes import cpu_median, dense_reference, make_batch

pytestmark = pytest.mark.benchmark

TARGETS = {
    ("a", "observed"): 1.0,
    ("a", "latent"): 2.0,
    ("b", "observed"): 0.5,
    ("b", "latent"): 0.8,
    ("c", "observed"): 0.5,
    ("c", "latent"): 0.55,
}


@pytest.mark.parametrize(("size", "recurrence"), sorted(TARGETS))
def test_step(benchmark, size, recurrence):
    batch = make_batch(size)
    reference = cpu_median(dense_reference(batch))
    prior = rv.priors.Recurrent(5, recurrence=recurrence)
    model = rv.RVRAE(batch.n_characteristics, 5, factor_prior=prior)
    elbo = Trace_ELBO()

    def step():
        model.zero_grad()
        elbo.differentiable_loss(model.model, model.guide, batch).backward()

    with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
        seconds = cpu_median(step)
        benchmark.pedantic(step, rounds=1)
    ratio = seconds / reference
    target = TARGETS[size, recurrence]
    benchmark.extra_info.update(
        ratio=round(ratio, 3), target=target, threads=torch.get_num_threads()
    )
    assert ratio < 2 * target
