"""ArviZ reads a stored tree of ``fit.posterior``, with and without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from rvrae_pyro import plots

# rv.fit(...).posterior(60, seed=1) of the model in tests/fitting/test_posterior.py
STORED = Path(__file__).with_name("posterior.nc")


@pytest.fixture
def tree() -> Iterator[xr.DataTree]:
    with xr.open_datatree(STORED) as stored:
        yield stored.load()
    plt.close("all")


@pytest.fixture
def azp():
    return pytest.importorskip("arviz_plots", exc_type=ImportError)


def test_summaries(tree: xr.DataTree) -> None:
    stats = pytest.importorskip("arviz_stats", exc_type=ImportError)
    summary = stats.summary(tree, round_to="none")
    assert "factor_prior.base.coefficient[1]" in summary.index
    drawn = tree["posterior"]["factor_prior.persistence"]
    assert summary.loc["factor_prior.persistence", "mean"] == pytest.approx(float(drawn.mean()))
    with np.errstate(all="ignore"):
        assert len(stats.psense_summary(tree)) == len(summary) == 6


@pytest.mark.parametrize("name", ["plot_prior_posterior", "plot_forest"])
def test_pictures_of_arviz(azp, tree: xr.DataTree, name: str) -> None:
    assert getattr(azp, name)(tree, backend="matplotlib") is not None


def test_ranks_compare_the_chains_of_an_ensemble(azp, tree: xr.DataTree) -> None:
    """ArviZ 1.x wants two chains or more: members of an ensemble, here halves of the draws."""
    posterior = tree["posterior"].to_dataset()
    halves = [
        posterior.isel(draw=slice(half, half + 30)).assign_coords(draw=np.arange(30))
        for half in (0, 30)
    ]
    members = xr.concat(halves, "chain").assign_coords(chain=[0, 1])
    assert azp.plot_rank(xr.DataTree.from_dict({"posterior": members}), backend="matplotlib")


def test_picture_of_the_package(tree: xr.DataTree) -> None:
    assert plots.prior_posterior(tree) is not None
