"""Checkpoints: a stopped run goes on to the same bits, whatever is wrong is one clear error."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import xarray as xr
from pyro.infer import Trace_ELBO
from safetensors.torch import load_file, save_file
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.atomic import LOCK, draft, only_run, write_bytes
from rvrae_pyro.fitting.checkpoint import STATE, Saved, read_state, write_state
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

CONFIG = rv.FitConfig(max_steps=24, window=4, patience=4, kl_schedule=rv.schedules.Linear(0.2, 9))


@pytest.fixture(scope="module")
def parts() -> tuple[xr.Dataset, xr.Dataset]:
    panel = random_panel(16, 14, seed=5)
    return panel.isel(time=slice(0, 11)), panel.isel(time=slice(11, 15))


def build() -> rv.RVRAE:
    """Weights that depend on nothing but what ``rv.fit`` draws with its seed."""
    return rv.RVRAE(P, K, n_context=2)


def run(parts: tuple[xr.Dataset, xr.Dataset], model: rv.RVRAE | None = None, **more: object):
    settings = {"config": CONFIG, "seed": 3, "progress": False, **more}
    return rv.fit(build() if model is None else model, *parts, **settings)


class Fails(Trace_ELBO):
    """Raises at a step, as a power cut would."""

    def __init__(
        self, at: int, error: type[BaseException] = RuntimeError, **settings: object
    ) -> None:
        super().__init__(**settings)
        self.left, self.error = at, error

    def differentiable_loss(self, *arguments: object) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error("power cut")
        return super().differentiable_loss(*arguments)


def assert_same(ours: rv.Fit, theirs: rv.Fit) -> None:
    """Every bit but the clock's."""
    for name, value in theirs.model.parts.state_dict().items():
        assert torch.equal(ours.model.parts.state_dict()[name], value), name
    columns = [c for c in theirs.history if c != "seconds"]
    assert ours.history[columns].equals(theirs.history[columns])
    xr.testing.assert_identical(ours.kl_total, theirs.kl_total)
    xr.testing.assert_identical(ours.kl, theirs.kl)
    assert (ours.stopped, ours.best_step, ours.attrs) == (
        theirs.stopped,
        theirs.best_step,
        theirs.attrs,
    )


@pytest.fixture(scope="module")
def undisturbed(parts: tuple[xr.Dataset, xr.Dataset]) -> rv.Fit:
    return run(parts)


def stopped(parts: tuple[xr.Dataset, xr.Dataset], folder: Path, at: int = 8) -> Path:
    """A folder in which training broke off."""
    with pytest.raises(RuntimeError, match="power cut"):
        run(parts, checkpoint=folder, elbo=Fails(at))
    return folder


@pytest.mark.parametrize("at", [0, 1, 7, 23])
def test_the_same_call_goes_on_to_the_same_bits(
    at: int, parts: tuple[xr.Dataset, xr.Dataset], undisturbed: rv.Fit, tmp_path: Path
) -> None:
    folder = stopped(parts, tmp_path / "run", at)
    assert [p.name for p in folder.iterdir()] == [STATE]
    torch.manual_seed(99)  # whatever the new process drew before
    again = run(parts, checkpoint=folder)
    assert_same(again, undisturbed)
    assert_same(rv.load(folder), undisturbed)
    assert [p.name for p in tmp_path.rglob("*")] == ["run", STATE]


def test_stopped_many_times(
    parts: tuple[xr.Dataset, xr.Dataset], undisturbed: rv.Fit, tmp_path: Path
) -> None:
    for _ in range(6):
        stopped(parts, tmp_path / "run", 4)
    assert_same(run(parts, checkpoint=tmp_path / "run"), undisturbed)


def test_an_interrupted_notebook_goes_on_with_the_model_it_has(
    parts: tuple[xr.Dataset, xr.Dataset], undisturbed: rv.Fit, tmp_path: Path
) -> None:
    model = build()
    first = run(parts, model, checkpoint=tmp_path, elbo=Fails(10, KeyboardInterrupt))
    assert first.stopped == "interrupted"
    assert_same(run(parts, model, checkpoint=tmp_path), undisturbed)


def test_a_finished_run_returns_at_once(
    parts: tuple[xr.Dataset, xr.Dataset], undisturbed: rv.Fit, tmp_path: Path
) -> None:
    run(parts, checkpoint=tmp_path)
    # not a step is taken
    assert_same(run(parts, checkpoint=tmp_path, elbo=Fails(0)), undisturbed)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": torch.optim.SGD},
        {"optimizer": torch.optim.RMSprop, "window": None},
        {"dtype": torch.float64, "asset_batch": 5, "num_particles": 2},
    ],
    ids=["sgd", "rmsprop", "thinned"],
)
def test_other_settings_go_on_too(
    settings: dict[str, object], parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    config = rv.FitConfig(**{"max_steps": 9, "window": 5, **settings})
    particles = config.num_particles
    given = {"num_particles": particles, "vectorize_particles": particles > 1}
    given["max_plate_nesting"] = 2
    with pytest.raises(RuntimeError, match="power cut"):
        run(parts, config=config, checkpoint=tmp_path, elbo=Fails(5, **given))
    again = run(parts, config=config, checkpoint=tmp_path, elbo=Trace_ELBO(**given))
    assert_same(again, run(parts, config=config))


def test_a_run_that_backed_off_goes_on_too(
    parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    class Spoiled(Fails):
        count = 0

        def differentiable_loss(self, *arguments: object) -> Tensor:
            self.count += 1
            loss = super().differentiable_loss(*arguments)
            return loss * float("nan") if self.count == 6 else loss

    whole = run(parts, elbo=Spoiled(99))
    assert whole.attrs["n_backoffs"] == 1
    assert "not finite" in json.loads(str(whole.attrs["backoffs"]))[0]["reason"]
    with pytest.raises(RuntimeError, match="power cut"):
        run(parts, checkpoint=tmp_path, elbo=Spoiled(14))
    assert_same(run(parts, checkpoint=tmp_path), whole)


def test_repeated_failure_keeps_the_last_good_state(
    parts: tuple[xr.Dataset, xr.Dataset], undisturbed: rv.Fit, tmp_path: Path
) -> None:
    class Spoiled(Fails):
        def differentiable_loss(self, *arguments: object) -> Tensor:
            loss = super().differentiable_loss(*arguments)
            return loss if self.left > 0 else loss * float("nan")

    class Patient(Spoiled):
        def __init__(self) -> None:
            super().__init__(8)

        def differentiable_loss(self, *arguments: object) -> Tensor:
            self.left = max(self.left, 1)
            return super().differentiable_loss(*arguments)

    with pytest.raises(rv.FitError, match=r"5 times in a row.*keeps the last good state"):
        run(parts, checkpoint=tmp_path, elbo=Patient())
    kept = rv.load(tmp_path)
    assert kept.best_step == kept.history["step"].iloc[-1] == 7
    assert all(bool(torch.isfinite(w).all()) for w in kept.model.parts.parameters())
    before = undisturbed.history.set_index("step").loc[:6, "elbo"]
    assert kept.history.set_index("step").loc[:6, "elbo"].equals(before)


def test_a_fit_can_be_loaded_on_the_way_and_saved_over(
    parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    folder = stopped(parts, tmp_path / "run")
    early = rv.load(folder)
    assert early.stopped == "interrupted"
    early.save(folder)
    assert not (folder / STATE).exists()
    assert_same(rv.load(folder), early)


def test_no_epoch_yet(parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path) -> None:
    stopped(parts, tmp_path)
    saved = read_state(tmp_path / STATE)
    trained = {**saved.state["trained"], "epochs": []}
    write_state(tmp_path / STATE, saved._replace(state={**saved.state, "trained": trained}))
    with pytest.raises(rv.CheckpointError, match="has not finished its first epoch"):
        rv.load(tmp_path)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"seed": 4}, "seed was 3, is now 4"),
        ({"config": rv.FitConfig(max_steps=25, window=4)}, "config.max_steps was 24, is now 25"),
        ({"model": rv.RVRAE(P, K)}, r"model.n_context was 2, is now 0"),
        ({"valid": None}, "valid was .* is now null"),
        ({"elbo": Trace_ELBO(num_particles=3)}, "elbo was null"),
    ],
    ids=["seed", "config", "model", "valid", "elbo"],
)
def test_another_run_is_refused_and_leaves_the_state_alone(
    more: dict[str, object], named: str, parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    folder = stopped(parts, tmp_path)
    before = (folder / STATE).read_bytes()
    more = dict(more)
    model = more.pop("model", None)
    both = (parts[0], more.pop("valid", parts[1]))
    with pytest.raises(rv.CheckpointError, match=f"another run.*{named}.*another folder"):
        run(both, model, checkpoint=folder, **more)
    assert (folder / STATE).read_bytes() == before


def test_other_data_are_refused(parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path) -> None:
    stopped(parts, tmp_path)
    other = parts[0].copy(deep=True)
    other["returns"][2] += 1e-6
    with pytest.raises(rv.CheckpointError, match=r"train was .* is now"):
        run((other, parts[1]), checkpoint=tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-40] ^= 4
    path.write_bytes(bytes(content))


def retell(path: Path, **changes: str) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, {**header, **changes})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "is damaged"),
        (empty, "is damaged"),
        (flip, "is damaged: its hash does not match"),
        (lambda path: retell(path, format="7"), "has layout 7, this version .* 1"),
        (lambda path: retell(path, package="else"), "was not written by this package"),
        (lambda path: retell(path, content="{}"), "hash"),
    ],
    ids=["cut", "empty", "flipped", "version", "foreign", "text"],
)
def test_damage_is_one_clear_error(
    spoil: Callable[[Path], None],
    message: str,
    parts: tuple[xr.Dataset, xr.Dataset],
    tmp_path: Path,
) -> None:
    folder = stopped(parts, tmp_path)
    spoil(folder / STATE)
    before = (folder / STATE).read_bytes()
    with pytest.raises(rv.CheckpointError, match=message):
        run(parts, checkpoint=folder)
    with pytest.raises(rv.CheckpointError, match=message):
        rv.load(folder)
    assert (folder / STATE).read_bytes() == before
    assert [p.name for p in folder.iterdir()] == [STATE]


def test_what_has_no_safe_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rv.CheckpointError, match=r"state\.optimizer.*no safe form"):
        write_state(tmp_path / STATE, Saved({}, {}, {"optimizer": object()}))
    assert list(tmp_path.iterdir()) == []


def test_state_comes_back_with_its_types(tmp_path: Path) -> None:
    state = {
        "weights": {"a": torch.arange(3), "b": torch.tensor(0.5, dtype=torch.float64)},
        "by_position": {0: [1, (2.5, None)], 1: []},
        "extremes": [float("inf"), -0.0, 1e-300, True, "text"],
        "empty": torch.zeros(0, 2),
    }
    write_state(tmp_path / STATE, Saved({"seed": 1}, {"note": "x"}, state))
    back = read_state(tmp_path / STATE)
    assert (back.identity, back.about) == ({"seed": 1}, {"note": "x"})
    assert torch.equal(back.state["weights"]["a"], state["weights"]["a"])
    assert back.state["weights"]["b"].dtype == torch.float64
    assert back.state["by_position"] == state["by_position"]
    assert back.state["extremes"] == state["extremes"]
    assert back.state["empty"].shape == (0, 2)


def test_a_full_disk_is_one_clear_error_and_keeps_the_last_state(
    parts: tuple[xr.Dataset, xr.Dataset],
    undisturbed: rv.Fit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = stopped(parts, tmp_path / "run")
    before = (folder / STATE).read_bytes()

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.fsync", refuse)
        with pytest.raises(rv.CheckpointError, match=r"cannot be written: .*No space left"):
            run(parts, checkpoint=folder)
    assert (folder / STATE).read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*")] == ["run", STATE]
    assert_same(run(parts, checkpoint=folder), undisturbed)


def test_a_folder_without_permission_is_one_clear_error(
    parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser may write anywhere, so the refusal is the system call's own."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rvrae_pyro.atomic.os.open", refuse)
    with pytest.raises(rv.CheckpointError, match=r"cannot be written: .*Permission denied"):
        run(parts, checkpoint=tmp_path / "run")


def test_a_path_under_a_file_is_one_clear_error(
    parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(rv.CheckpointError, match="cannot be written"):
        run(parts, checkpoint=tmp_path / "file" / "run")


def test_two_runs_into_one_folder(
    parts: tuple[xr.Dataset, xr.Dataset], undisturbed: rv.Fit, tmp_path: Path
) -> None:
    with (
        only_run(tmp_path),
        pytest.raises(rv.CheckpointError, match=rf'another run writes to .*"pid": {os.getpid()}'),
    ):
        run(parts, checkpoint=tmp_path)
    # the lock of a process that is gone holds nobody up
    (tmp_path / LOCK).write_text('{"pid": 999999999, "host": "gone"}')
    assert_same(run(parts, checkpoint=tmp_path), undisturbed)
    assert [p.name for p in tmp_path.iterdir()] == [STATE]


def test_drafts_of_dead_processes_are_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    own = draft(path)
    own.write_text("being written")
    dead = Path(str(own).replace(f"-{os.getpid()}-", "-999999999-"))
    dead.write_text("left behind")
    write_bytes(path, b"content")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([own.name, "table.csv"])


SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
import rvrae_pyro as rv
panel = rv.data.simulate_dynamic(14, 16, 4, 2, seed=5)[["returns", "characteristics", "context"]]
config = rv.FitConfig(max_steps=40, window=3, patience=200)
fit = rv.fit(
    rv.RVRAE(4, 2, n_context=2), panel.isel(time=slice(0, 11)), panel.isel(time=slice(11, 15)),
    config=config, seed=3, progress=False, checkpoint=sys.argv[1],
)
print("done", fit.history["step"].iloc[-1])
"""


def start(folder: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def first_state(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until the run has begun to train."""
    limit = time.monotonic() + 120
    while not (folder / STATE).exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL twice, at moments of a fixed seed; then the same program again."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    moments = random.Random(7)
    for _ in range(2):
        process = start(folder)
        first_state(process, folder)
        time.sleep(moments.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        assert read_state(folder / STATE).identity["seed"] == 3
    for each in (whole, folder):
        process = start(each)
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert said.split() == ["done", "40"]
    assert_same(rv.load(folder), rv.load(whole))
    assert [p.name for p in folder.iterdir()] == [STATE]


def test_a_real_limit_on_file_sizes(tmp_path: Path) -> None:
    """The system refuses the write half-way: one clear error, nothing half-written."""
    resource = pytest.importorskip("resource")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(tmp_path / "run", preexec_fn=limit)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "CheckpointError: the checkpoint" in errors.splitlines()[-1]
    assert "File too large" in errors.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_curves_of_a_resumed_run_are_plain_arrays(
    parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    """A resumed fit saves and loads like any other."""
    stopped(parts, tmp_path / "run")
    fit = run(parts, checkpoint=tmp_path / "run")
    assert_same(rv.load(fit.save(tmp_path / "copy")), fit)
    assert np.isfinite(fit.kl_total).all()


class _Version:
    __version__ = "99.1"


@pytest.mark.parametrize("name", ["rvrae_pyro", "torch"])
def test_a_run_of_another_version_is_not_gone_on_with(
    name: str, parts: tuple[xr.Dataset, xr.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a run of each would be neither; the best state so far can still be read."""
    with pytest.raises(RuntimeError, match="power cut"):
        run(parts, elbo=Fails(9), checkpoint=tmp_path)
    other = {"rvrae_pyro": ("__version__", "99.1"), "torch": ("torch", _Version)}
    where, value = other[name]
    monkeypatch.setattr(f"rvrae_pyro.fitting.training.{where}", value)
    with pytest.raises(rv.CheckpointError, match=rf"{name} was .* is now \"99\.1\""):
        run(parts, checkpoint=tmp_path)
    assert isinstance(rv.load(tmp_path), rv.Fit)
