"""Windows of months, KL schedules and settings."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rvrae_pyro as rv
from rvrae_pyro.inference.windows import draw_windows


@given(n_times=st.integers(1, 60), window=st.integers(1, 70) | st.none(), seed=st.integers(0, 99))
def test_windows_cover_every_month_once(n_times: int, window: int | None, seed: int) -> None:
    windows = draw_windows(n_times, window, torch.Generator().manual_seed(seed))
    months = [t for start, stop in windows for t in range(start, stop)]
    assert sorted(months) == list(range(n_times))
    longest = n_times if window is None else window
    assert all(0 < stop - start <= longest for start, stop in windows)


def test_windows_move_and_shuffle_from_epoch_to_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    epochs = [draw_windows(24, 4, generator) for _ in range(30)]
    assert {min(epoch)[1] for epoch in epochs} == {1, 2, 3, 4}
    assert len({tuple(epoch) for epoch in epochs}) == 30
    again = torch.Generator().manual_seed(0)
    assert [draw_windows(24, 4, again) for _ in range(30)] == epochs


@given(
    start=st.floats(0.01, 1.0),
    steps=st.integers(1, 500),
    step=st.integers(0, 2000),
    n_times=st.integers(1, 40),
)
def test_linear_rises_to_one_and_stays(start: float, steps: int, step: int, n_times: int) -> None:
    schedule = rv.schedules.Linear(start, steps)
    weight = schedule.weight(step, n_times)
    assert start <= weight <= 1.0
    assert weight <= schedule.weight(step + 1, n_times) + 1e-15
    assert schedule.weight(steps, n_times) == 1.0
    assert schedule.weight(0, n_times) == pytest.approx(start)


def test_profile_sets_the_starting_weight_of_every_month() -> None:
    schedule = rv.schedules.Linear(0.1, 10, profile=[1.0, 5.0])
    first = schedule.weight(0, 5)
    np.testing.assert_allclose(first, [0.1, 0.2, 0.3, 0.4, 0.5])
    half = schedule.weight(5, 5)
    np.testing.assert_allclose(half, [0.55, 0.6, 0.65, 0.7, 0.75])
    assert schedule.weight(10, 5) == 1.0
    one = rv.schedules.Linear(0.1, 10, profile=[2.0]).weight(0, 3)
    np.testing.assert_allclose(one, 0.2)


@given(warmup=st.floats(0.0, 0.9), end=st.floats(0.01, 1.0), progress=st.floats(0.0, 1.0))
def test_cosine_rises_to_the_whole_rate_and_falls_to_its_end(
    warmup: float, end: float, progress: float
) -> None:
    schedule = rv.schedules.Cosine(warmup, end)
    assert end - 1e-12 <= schedule.rate(progress) <= 1.0
    assert schedule.rate(warmup) == pytest.approx(1.0)
    assert schedule.rate(1.0) == pytest.approx(end)
    middle = 0.5 * (1.0 + warmup)
    assert schedule.rate(middle) == pytest.approx(0.5 * (1.0 + end))
    later = min(1.0, progress + 0.05)
    if progress >= warmup:
        assert schedule.rate(later) <= schedule.rate(progress) + 1e-12


def test_flat_never_moves() -> None:
    assert {rv.schedules.Flat().rate(p) for p in (0.0, 0.3, 1.0)} == {1.0}


def test_constant_is_the_bound_itself() -> None:
    assert {rv.schedules.Constant().weight(step, 7) for step in (0, 5, 10**6)} == {1.0}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.schedules.Linear(0.0), r"`start` must be in \(0, 1\]"),
        (lambda: rv.schedules.Linear(1.5), "`start`"),
        (lambda: rv.schedules.Linear(steps=0), "`steps` must be at least 1"),
        (lambda: rv.schedules.Linear(profile=[]), "`profile` must be a non-empty"),
        (lambda: rv.schedules.Linear(profile=[1.0, -1.0]), "`profile`"),
        (lambda: rv.schedules.Linear(0.5, profile=[3.0]), "must not exceed 1"),
        (lambda: rv.FitConfig(learning_rate=0.0), "`learning_rate` must be above 0; got 0.0"),
        (lambda: rv.FitConfig(clip_norm=-1.0), "`clip_norm`"),
        (lambda: rv.FitConfig(kl_schedule=0.5), "`kl_schedule` must be an object with"),
        (lambda: rv.FitConfig(kl_schedule=rv.schedules.Linear), "`kl_schedule` must be an object"),
        (lambda: rv.FitConfig(rate_schedule="cosine"), "`rate_schedule` must be an object"),
        (lambda: rv.FitConfig(weights_warmup=1.0), "`weights_warmup` must be in"),
        (lambda: rv.schedules.Cosine(warmup=1.0), "`warmup` must be in"),
        (lambda: rv.schedules.Cosine(end=0.0), r"`end` must be in \(0, 1\]"),
        (lambda: rv.FitConfig(max_steps=0), "`max_steps` must be a whole number of at least 1"),
        (lambda: rv.FitConfig(max_steps=1.5), "`max_steps`"),
        (lambda: rv.FitConfig(num_particles=0), "`num_particles`"),
        (lambda: rv.FitConfig(patience=0), "`patience`"),
        (lambda: rv.FitConfig(window=0), "`window` must be a whole number of at least 1, or None"),
        (lambda: rv.FitConfig(asset_batch=0), "`asset_batch`"),
        (lambda: rv.FitConfig(dtype=torch.bfloat16), "`dtype` must be torch.float32"),
        (lambda: rv.FitConfig(optimizer="adam"), "`optimizer` must be a class"),
        (lambda: rv.FitConfig(learning_rate=float("inf")), "`learning_rate` must be above 0"),
        (lambda: rv.FitConfig(asset_batch=5, shard_size=5), "`shard_size` cuts it"),
        (lambda: rv.FitConfig(kl_reduction="max"), "'sum' or 'mean'; got 'max'"),
    ],
)
def test_impossible_settings_are_refused(make: object, match: str) -> None:
    with pytest.raises(rv.ConfigError, match=match):
        make()


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        rv.FitConfig().max_steps = 3


def test_paper_settings() -> None:
    paper = rv.FitConfig.paper()
    assert paper.kl_reduction == "mean"
    assert paper.window is None
    assert paper.kl_schedule == rv.schedules.Linear()


def test_warm_settings_compress_the_whole_course() -> None:
    given = rv.FitConfig(max_steps=50, learning_rate=0.1, window=7, patience=3)
    warm = given.warm()
    assert warm.max_steps == 15
    assert (warm.learning_rate, warm.window, warm.patience) == (pytest.approx(0.15), 7, 3)
    for share in (0.0, 0.1, 0.5, 1.0):
        # the default rises for 200 steps
        expected = given.kl_schedule.weight(round(share * 200), 9)
        assert warm.kl_schedule.weight(round(share * 100), 9) == pytest.approx(expected)
    cyclical = rv.FitConfig(kl_schedule=rv.schedules.Cyclical(cycles=2, steps=10)).warm()
    assert cyclical.kl_schedule == rv.schedules.Cyclical(cycles=2, steps=5)
    constant = rv.schedules.Constant()
    assert rv.FitConfig(kl_schedule=constant).warm().kl_schedule is constant
    assert rv.FitConfig(max_steps=1).warm().max_steps == 1
