"""``rv.fit(on_check=...)``: progress, stopping and pruning."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

CONFIG = rv.FitConfig(max_steps=12, window=6)


@pytest.fixture(scope="module")
def parts() -> tuple[xr.Dataset, xr.Dataset]:
    panel = random_panel(16, 8, seed=1)
    return panel.isel(time=slice(0, 12)), panel.isel(time=slice(12, 16))


def test_called_at_every_evaluation_and_changes_nothing(
    parts: tuple[xr.Dataset, xr.Dataset],
) -> None:
    seen: list[rv.inference.Epoch] = []
    watched = rv.fit(rv.RVRAE(P, K), *parts, config=CONFIG, progress=False, on_check=seen.append)
    plain = rv.fit(rv.RVRAE(P, K), *parts, config=CONFIG, progress=False)
    assert [epoch.step for epoch in seen] == watched.history["step"].tolist()
    np.testing.assert_array_equal([e.valid_elbo for e in seen], watched.history["valid_elbo"])
    for mine, other in zip(
        watched.model.parts.parameters(), plain.model.parts.parameters(), strict=True
    ):
        assert torch.equal(mine, other)
    assert watched.stopped == plain.stopped == "max_steps"


def test_true_ends_training(parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path) -> None:
    def enough(epoch: rv.inference.Epoch) -> bool:
        return epoch.step >= 4

    fit = rv.fit(rv.RVRAE(P, K), *parts, config=CONFIG, progress=False, on_check=enough)
    assert fit.stopped == "callback"
    assert 4 <= fit.history["step"].iloc[-1] < 12
    fit.save(tmp_path / "fit")
    assert rv.load(tmp_path / "fit").stopped == "callback"
    fit.check()


def test_an_exception_is_raised_again_at_the_best_state(
    parts: tuple[xr.Dataset, xr.Dataset],
) -> None:
    class Pruned(Exception):
        pass

    def prune(epoch: rv.inference.Epoch) -> None:
        if epoch.step >= 4:
            raise Pruned

    model = rv.RVRAE(P, K)
    with pytest.raises(Pruned):
        rv.fit(model, *parts, config=CONFIG, progress=False, on_check=prune)
    stopped = rv.fit(
        rv.RVRAE(P, K),
        *parts,
        config=CONFIG,
        progress=False,
        on_check=lambda epoch: epoch.step >= 4,
    )
    for mine, other in zip(model.parts.parameters(), stopped.model.parts.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_anything_but_a_function_is_refused(parts: tuple[xr.Dataset, xr.Dataset]) -> None:
    with pytest.raises(rv.ConfigError, match="`on_check` must be a function"):
        rv.fit(rv.RVRAE(P, K), *parts, config=CONFIG, progress=False, on_check=3)  # type: ignore[arg-type]
