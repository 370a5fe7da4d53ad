"""Fits on disk: the same bits back, and one clear error for whatever is not a fit."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.fitting.saved import FORMAT
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

CONFIG = rv.FitConfig(
    max_steps=4, window=4, kl_schedule=rv.schedules.Linear(0.2, 3, profile=[1.0, 2.0])
)


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(10, 9, seed=5)


@pytest.fixture(scope="module")
def fit(panel: xr.Dataset) -> rv.Fit:
    train, valid = panel.isel(time=slice(0, 7)), panel.isel(time=slice(7, 9))
    return rv.fit(rv.RVRAE(P, K, n_context=2), train, valid, config=CONFIG, progress=False)


@pytest.fixture
def saved(fit: rv.Fit, tmp_path: Path) -> Path:
    return fit.save(tmp_path / "fit")


def same(ours: rv.Fit, theirs: rv.Fit, panel: xr.Dataset) -> None:
    for name, value in theirs.model.parts.state_dict().items():
        assert torch.equal(ours.model.parts.state_dict()[name], value)
        assert ours.model.parts.state_dict()[name].dtype == value.dtype
    assert ours.config == theirs.config
    assert (ours.seed, ours.stopped, ours.best_step) == (
        theirs.seed,
        theirs.stopped,
        theirs.best_step,
    )
    assert ours.attrs == theirs.attrs
    assert ours.history.equals(theirs.history)
    for name in ("kl_total", "kl"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dims == b.dims
        np.testing.assert_array_equal(a, b)
        for dim in b.dims:
            np.testing.assert_array_equal(a[dim], b[dim])
    forecasts = [f.forecast(panel, num_samples=6)["predictions"] for f in (ours, theirs)]
    xr.testing.assert_identical(forecasts[0].to_dataset(), forecasts[1].to_dataset())


def test_everything_comes_back(fit: rv.Fit, saved: Path, panel: xr.Dataset) -> None:
    same(rv.load(saved), fit, panel)
    assert sorted(p.name for p in saved.iterdir()) == [
        "fit.json",
        "model.safetensors",
        "training.nc",
    ]


@pytest.mark.parametrize("kind", ["paper", "observed", "double"])
def test_other_models_come_back(kind: str, panel: xr.Dataset, tmp_path: Path) -> None:
    model = {
        "paper": lambda: rv.RVRAE.paper(P, K, hidden=4),
        "observed": lambda: rv.RVRAE(
            P,
            K,
            loadings=rv.loadings.MLP(P, K, hidden=(4, 3), weights=rv.weights.Laplace()),
            factor_prior=rv.priors.Recurrent(K, recurrence="observed", weights=None),
            likelihood=rv.likelihoods.Normal(alpha=rv.likelihoods.Alpha(P)),
        ),
        "double": lambda: rv.RVRAE(P, K, factor_prior=rv.priors.AR1(K)),
    }[kind]()
    config = rv.FitConfig(max_steps=2, dtype=torch.float64 if kind == "double" else torch.float32)
    fit = rv.fit(model, panel, config=config, progress=False)
    same(rv.load(fit.save(tmp_path / "fit")), fit, panel)


def test_saving_again_replaces_and_leaves_nothing_behind(
    fit: rv.Fit, saved: Path, panel: xr.Dataset
) -> None:
    fit.save(saved)
    fit.save(str(saved))
    same(rv.load(str(saved)), fit, panel)
    assert [p.name for p in saved.parent.iterdir()] == ["fit"]


def test_moved_folder_loads(fit: rv.Fit, saved: Path, panel: xr.Dataset, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "elsewhere")
    same(rv.load(tmp_path / "elsewhere"), fit, panel)


def test_a_loaded_fit_trains_on(saved: Path, panel: xr.Dataset) -> None:
    fit = rv.load(saved)
    before = torch.cat([p.flatten().clone() for p in fit.model.parts.parameters()])
    again = rv.fit(fit.model, panel, config=rv.FitConfig(max_steps=3), progress=False)
    after = torch.cat([p.flatten() for p in again.model.parts.parameters()])
    moved = (after - before).abs().max().item()
    assert 0 < moved < 0.1  # three steps from there, not from fresh weights


def edit(saved: Path, **changes: object) -> None:
    meta = json.loads((saved / "fit.json").read_text())
    meta.update(changes)
    (saved / "fit.json").write_text(json.dumps(meta))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "cut weights": (lambda s: cut(s / "model.safetensors"), "is damaged"),
    "no weights": (lambda s: (s / "model.safetensors").unlink(), "is damaged"),
    "garbled weights": (lambda s: (s / "model.safetensors").write_bytes(b"\x80\x04pickle"), "dam"),
    "cut training": (lambda s: cut(s / "training.nc"), "is damaged"),
    "no training": (lambda s: (s / "training.nc").unlink(), "is damaged"),
    "cut json": (lambda s: cut(s / "fit.json"), "is damaged"),
    "binary json": (lambda s: (s / "fit.json").write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "no json": (lambda s: (s / "fit.json").unlink(), "fit.json is missing"),
    "foreign": (lambda s: edit(s, package="other"), "was not written by this package"),
    "a list": (lambda s: (s / "fit.json").write_text("[]"), "was not written by this package"),
    "newer": (lambda s: edit(s, format=FORMAT + 1), f"layout {FORMAT + 1}, this version reads up"),
    "wrong layout": (lambda s: edit(s, format="one"), "layout|damaged"),
    "other sizes": (
        lambda s: edit(s, model={"n_characteristics": P, "n_factors": K + 1}),
        "do not fit the model",
    ),
    "unknown part": (
        lambda s: edit(
            s, model={"n_characteristics": P, "n_factors": K, "guide": {"kind": "Oracle"}}
        ),
        "cannot be rebuilt.*Oracle",
    ),
    "no model": (lambda s: edit(s, model={}), "cannot be rebuilt|damaged"),
    "unknown setting": (lambda s: edit(s, config={"speed": 3}), "no setting 'speed'"),
    "missing field": (lambda s: edit_out(s, "seed"), "seed|damaged"),
}


def edit_out(saved: Path, name: str) -> None:
    meta = json.loads((saved / "fit.json").read_text())
    del meta[name]
    (saved / "fit.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_whatever_is_not_a_fit_is_one_clear_error(damage: str, saved: Path) -> None:
    act, match = DAMAGES[damage]
    act(saved)
    with pytest.raises(rv.CheckpointError, match=match):
        rv.load(saved)


@pytest.mark.parametrize("place", ["nowhere", "file", "empty"])
def test_folders_that_hold_no_fit(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    if place == "file":
        path.write_text("hello")
    elif place == "empty":
        path.mkdir()
    with pytest.raises(rv.CheckpointError, match=r"no fit in|is damaged"):
        rv.load(path)


def test_unwritable_place_is_refused_and_nothing_written(fit: rv.Fit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(rv.CheckpointError, match="cannot be written"):
        fit.save(tmp_path / "file" / "fit")
    with pytest.raises(rv.CheckpointError, match=r"cannot be written|not a fit"):
        fit.save(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_folder_is_refused(fit: rv.Fit, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(rv.CheckpointError, match="cannot be written"):
            fit.save(tmp_path / "fit")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_of_something_else_is_not_replaced(fit: rv.Fit, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_text("meow")
    with pytest.raises(rv.CheckpointError, match="not a fit; choose another folder"):
        fit.save(other)
    assert (other / "cat.jpg").read_text() == "meow"
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_a_failed_save_keeps_the_old_fit(
    fit: rv.Fit, saved: Path, panel: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.raises(rv.CheckpointError, match="No space left"):
        fit.save(saved)
    monkeypatch.undo()
    same(rv.load(saved), fit, panel)
    assert [p.name for p in saved.parent.iterdir()] == ["fit"]


def test_a_failed_swap_puts_the_old_fit_back(
    fit: rv.Fit, saved: Path, panel: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new folder cannot be moved into place: the old one must not be gone."""
    real, calls = os.replace, []

    def flaky(source: object, target: object) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("the second move fails")
        real(source, target)

    monkeypatch.setattr(os, "replace", flaky)
    monkeypatch.setattr("rvrae_pyro.atomic._exchange", lambda *_: False)  # as on other systems
    with pytest.raises(rv.CheckpointError, match="cannot be written"):
        fit.save(saved)
    monkeypatch.undo()
    same(rv.load(saved), fit, panel)


@pytest.mark.parametrize("name", ["model.safetensors", "training.nc"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_single_bit_that_flipped_is_told(saved: Path, name: str, share: float) -> None:
    content = bytearray((saved / name).read_bytes())
    content[int(share * len(content))] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(rv.CheckpointError, match=f"hash of {name} does not match"):
        rv.load(saved)


def test_a_fit_saved_before_there_were_checksums_is_read(
    fit: rv.Fit, saved: Path, panel: xr.Dataset
) -> None:
    meta = json.loads((saved / "fit.json").read_text())
    del meta["sha256"]
    (saved / "fit.json").write_text(json.dumps(meta))
    same(rv.load(saved), fit, panel)


def test_nothing_is_pickled(saved: Path) -> None:
    for path in saved.iterdir():
        assert b"\x80\x04\x95" not in path.read_bytes()[:64]
        assert not path.name.endswith((".pt", ".pkl"))


class Steep:
    """A KL schedule of a user's own, and no dataclass: weight 0.5, then 1."""

    def __init__(self, turn: int) -> None:
        self.turn = turn

    def weight(self, step: int, n_times: int) -> float:
        return 0.5 if step < self.turn else 1.0


class Linear(Steep):
    """Of the same name as a schedule of the package, which it is not."""


@pytest.mark.parametrize("own", [Steep, Linear])
def test_a_schedule_of_ones_own_is_passed_again(
    own: type[Steep], panel: xr.Dataset, tmp_path: Path
) -> None:
    def config(turn: int) -> rv.FitConfig:
        return rv.FitConfig(max_steps=3, window=4, kl_schedule=own(turn))

    model = rv.RVRAE(P, K, n_context=2)
    where = tmp_path / "run"
    fit = rv.fit(model, panel, config=config(2), checkpoint=where, progress=False)
    for folder in (where, fit.save(tmp_path / "fit")):
        needed = f"`kl_schedule` {own.__name__} is user-defined.*pass it as `config=`"
        with pytest.raises(rv.CheckpointError, match=needed):
            rv.load(folder)
        with pytest.raises(rv.CheckpointError, match=r"`config` differs .* in kl_schedule"):
            rv.load(folder, config=config(1))
        chosen = config(2)
        again = rv.load(folder, config=chosen)
        assert again.config is chosen
        for name, value in fit.model.parts.state_dict().items():
            assert torch.equal(again.model.parts.state_dict()[name], value)


def test_a_configuration_that_is_not_needed_must_still_be_the_same(saved: Path) -> None:
    assert rv.load(saved, config=CONFIG).config is CONFIG
    with pytest.raises(rv.CheckpointError, match="differs from the saved one in window: 5 is not"):
        rv.load(saved, config=dataclasses.replace(CONFIG, window=5))
