"""Which characteristics matter on the Gu-Kelly-Xiu simulation: do the three real ones rank first?

Run with ``pytest -n 0 -m quality -s tests/benchmarks/test_relevance.py``; about a minute of CPU a
replication. RVRAE_REPLICATIONS sets how many (20), RVRAE_WEIGHTS the prior (GroupLog),
RVRAE_INFERENCE map or posterior.
"""

from __future__ import annotations

import json
import os
import sys

import pytest

import rvrae_pyro as rv

pytestmark = pytest.mark.quality

N = int(os.environ.get("RVRAE_REPLICATIONS", "20"))
PRIOR = os.environ.get("RVRAE_WEIGHTS", "GroupLog")
INFERENCE = os.environ.get("RVRAE_INFERENCE", "map")


def replicate(seed: int) -> dict[str, object]:
    """Fit 60 months, stop on 60, and rank the characteristics by mean relevance."""
    panel = rv.data.simulate_gkx("nonlinear", seed=seed)
    train, valid, _ = rv.data.split(panel, 60, 60, 60)
    prior = getattr(rv.weights, PRIOR)(inference=INFERENCE)
    model = rv.RVRAE(50, 3, loadings=rv.loadings.LSTM(50, 3, weights=prior))
    fit = rv.fit(model, train, valid, seed=seed, progress=False)
    found = fit.relevance(num_draws=50)["posterior"]["relevance"].mean(("chain", "draw"))
    order = (-found.to_numpy()).argsort()
    top = sorted(order[:3].tolist())
    return {
        "seed": seed,
        "top": top,
        "real": [round(float(v), 3) for v in found[:3]],
        "best_noise": round(float(found[3:].max()), 3),
        "ranks": [int(order.tolist().index(p)) + 1 for p in range(3)],
    }


def test_real_characteristics_rank_first() -> None:
    results = []
    for seed in range(N):
        results.append(replicate(seed))
        sys.stdout.write(json.dumps(results[-1]) + "\n")
    right = sum(result["top"] == [0, 1, 2] for result in results)
    assert right >= 0.95 * N, f"right in {right} of {N} replications"
