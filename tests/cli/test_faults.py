"""Commands that are killed, stopped or refused: the same command again makes it good."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.atomic import only_run
from rvrae_pyro.cli.files import CHECKPOINT
from rvrae_pyro.fitting.checkpoint import STATE
from rvrae_pyro.predictive import forecast
from tests.cli.conftest import Command
from tests.cli.helpers import write_settings

LONG = """
[model]
n_factors = 2
[model.loadings]
kind = "MLP"
hidden = [4]
[fit]
max_steps = 30
patience = 100
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_settings(tmp_path_factory.mktemp("long") / "long.toml", LONG)


def weights(run: Path) -> torch.Tensor:
    model = rv.load(run / "model").model
    return torch.cat([p.detach().flatten() for p in model.parts.parameters()])


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rvrae_pyro", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def once(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until a file is there."""
    limit = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    plain, calls = torch.optim.Adam.step, []

    def cut(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == step:
            raise ZeroDivisionError
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", cut)


def test_a_killed_fit_goes_on_to_the_same_bits(
    rvrae: Command, panel_file: Path, settings: Path, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = ("fit", panel_file, "--config", settings, "--seed", 4, "--out")
    process = begin(*command, run)
    once(process, run / CHECKPOINT / STATE)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (run / CHECKPOINT).is_dir()  # killed on the way, not after
    unfinished = rvrae("forecast", run, panel_file, "--out", tmp_path / "f.csv")
    assert unfinished.code == 2
    assert "is not finished" in unfinished.err
    assert rvrae(*command, run).code == 0
    assert rvrae(*command, whole).code == 0
    assert torch.equal(weights(run), weights(whole))
    assert sorted(entry.name for entry in run.iterdir()) == ["config.toml", "model"]


def test_a_terminated_fit_keeps_its_state_and_goes_on(
    rvrae: Command,
    panel_file: Path,
    settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = ("fit", panel_file, "--config", settings, "--out")
    plain, calls = torch.optim.Adam.step, []

    def terminate(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *args, **kwargs)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", terminate)
        stopped = rvrae(*command, run)
    assert stopped.code == 1
    assert "interrupted" in stopped.err
    assert "The same command resumes" in stopped.err
    assert "Traceback" not in stopped.err
    assert signal.getsignal(signal.SIGTERM) is before
    assert rv.load(run / "model").stopped == "interrupted"
    assert rvrae(*command, run).code == 0
    assert rvrae(*command, whole).code == 0
    assert torch.equal(weights(run), weights(whole))
    assert not (run / CHECKPOINT).exists()


def test_other_settings_do_not_take_over_an_unfinished_run(
    rvrae: Command,
    panel_file: Path,
    settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    command = ("fit", panel_file, "--config", settings, "--out", run)
    with monkeypatch.context() as patched:
        fail_at(patched, 20)
        with pytest.raises(ZeroDivisionError):
            rvrae(*command)
    before = (run / CHECKPOINT / STATE).read_bytes()
    outcome = rvrae(*command, "--seed", 9)
    assert outcome.code == 2
    assert "seed was 0, is now 9" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert (run / CHECKPOINT / STATE).read_bytes() == before
    (run / CHECKPOINT / STATE).write_bytes(before[:100])
    damaged = rvrae(*command)
    assert damaged.code == 2
    assert "is damaged" in damaged.err


def test_two_runs_into_one_folder(
    rvrae: Command, panel_file: Path, settings: Path, tmp_path: Path
) -> None:
    with only_run(tmp_path / "run"):
        outcome = rvrae("fit", panel_file, "--config", settings, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "another run writes to" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_what_there_was(
    rvrae: Command,
    panel_file: Path,
    run_folder: Path,
    settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, tree = tmp_path / "f.csv", tmp_path / "f.nc"
    for out in (table, tree):
        assert rvrae("forecast", run_folder, panel_file, "--out", out).code == 0
    before = {path: path.read_bytes() for path in (table, tree)}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    for out in (table, tree):
        outcome = rvrae("forecast", run_folder, panel_file, "--out", out, "--seed", 1)
        assert outcome.code == 2
        assert "No space left" in outcome.err
        assert out.read_bytes() == before[out]
    outcome = rvrae("fit", panel_file, "--config", settings, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "No space left" in outcome.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.csv", "f.nc"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no limits of this kind")
@pytest.mark.parametrize("name", ["f.nc", "f.csv", "f.parquet"])
def test_a_disk_that_fills_up_under_a_forecast_is_one_clear_error(
    name: str, panel_file: Path, run_folder: Path, tmp_path: Path
) -> None:
    """Files cannot grow beyond 2,000 bytes: the file's own library meets the limit."""
    code = (
        "import resource, sys\n"
        "from rvrae_pyro.cli.app import main\n"
        "import rvrae_pyro.cli.forecast_commands, rvrae_pyro.fitting.fit\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["forecast", run_folder, panel_file, "--times", "all", "--out", tmp_path / name]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_forecast_leaves_nothing_and_starts_anew(
    rvrae: Command, panel_file: Path, run_folder: Path, tmp_path: Path
) -> None:
    """Killed half-way through the file; the same command clears the draft away."""
    script = (
        "import os, signal, sys\n"
        "import pandas as pd\n"
        "def half(self, path, **_):\n"
        "    path.write_text('half a table')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "pd.DataFrame.to_csv = half\n"
        "from rvrae_pyro.cli.app import main\n"
        "main(sys.argv[1:])\n"
    )
    out = tmp_path / "f.csv"
    arguments = ["forecast", str(run_folder), str(panel_file), "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1
    assert rvrae(*arguments).code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["f.csv"]
    whole = tmp_path / "whole.csv"
    assert rvrae(*arguments[:-1], whole).code == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_forecast_of_draws_goes_on_to_the_same_bits(
    number: signal.Signals,
    rvrae: Command,
    panel_file: Path,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after its third month; months that are done are not drawn again."""
    script = (
        "import os, sys\n"
        "from rvrae_pyro.predictive import months, storage\n"
        "months._CELLS_A_BLOCK = 1\n"
        "write, calls = storage.write_bytes, []\n"
        "def third(path, content):\n"
        "    write(path, content)\n"
        "    calls.append(1)\n"
        f"    if len(calls) == 3: os.kill(os.getpid(), {int(number)})\n"
        "storage.write_bytes = third\n"
        "from rvrae_pyro.cli.app import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out, whole = tmp_path / "f.zarr", tmp_path / "whole.zarr"
    arguments = ["forecast", run_folder, panel_file, "--times", "all", "--num-samples", 20, "--out"]
    command = [sys.executable, "-c", script, *map(str, arguments), str(out)]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    if number == signal.SIGKILL:
        assert stopped.returncode == -signal.SIGKILL
    else:
        assert stopped.returncode == 1
        assert "months that are done are kept next to" in stopped.stderr
        assert "Traceback" not in stopped.stderr
    assert [p.name for p in tmp_path.iterdir()] == [".f.partial"]
    monkeypatch.setattr("rvrae_pyro.predictive.months._CELLS_A_BLOCK", 1)
    drawn, draw = [], forecast._draw_months

    def noted(member: object, batch: object, chosen: list[int], returns: object) -> object:
        drawn.extend(chosen)
        return draw(member, batch, chosen, returns)

    monkeypatch.setattr(forecast, "_draw_months", noted)
    assert rvrae(*arguments, out).code == 0
    assert drawn[0] == 3
    assert rvrae(*arguments, whole).code == 0
    assert drawn.count(0) == 1
    found = [
        {p.relative_to(each): p.read_bytes() for p in each.rglob("*") if p.is_file()}
        for each in (out, whole)
    ]
    assert found[0] == found[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.zarr", "whole.zarr"]
    refused = rvrae("forecast", run_folder, panel_file, "--out", tmp_path)
    assert refused.code == 2
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "notes.txt").write_text("mine")
    refused = rvrae("forecast", run_folder, panel_file, "--out", tmp_path / "mine.zarr")
    assert refused.code == 2
    assert "`--out`" in refused.err
    assert "something that is not draws" in refused.err


@pytest.mark.slow
def test_a_killed_comparison_goes_on_to_the_same_bits(
    rvrae: Command, panel_file: Path, tmp_path: Path
) -> None:
    """Killed after its first fit; that one is kept, and no process of it is left behind."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = ("compare", panel_file, "--models", "IPCA", "--seeds", 4, "--factors", 2)
    command += ("--split", "14,4,5", "--num-samples", 200)
    process = begin(*command, "--jobs", 2, "--out", out)
    limit = time.monotonic() + 120
    while not list(out.glob("cells/[!.]*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert not (out / "report.md").exists()
    kept = {path: path.read_bytes() for path in out.glob("cells/[!.]*.json")}
    assert 0 < len(kept) < 4
    assert rvrae(*command, "--jobs", 1, "--out", out).code == 0
    assert {path: path.read_bytes() for path in kept} == kept
    assert rvrae(*command, "--jobs", 1, "--out", whole).code == 0
    for name in ("results.csv", "p_values.csv", "failures.csv", "table1.csv", "table4.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    names = [
        sorted(p.relative_to(each).as_posix() for p in each.rglob("*")) for each in (out, whole)
    ]
    assert names[0] == names[1]


@pytest.mark.slow
def test_a_terminated_comparison_does_not_wait_for_fits_under_way(
    panel_file: Path, tmp_path: Path
) -> None:
    """The fits would take minutes; whoever stops them has the prompt back at once."""
    out = tmp_path / "out"
    command = ("compare", panel_file, "--models", "IPCA,RVRAE", "--seeds", 4, "--factors", 2)
    command += ("--split", "14,4,5", "--num-samples", 200, "--jobs", 2, "--out", out)
    process = begin(*command)
    limit = time.monotonic() + 120
    # the first IPCA: the other process has begun an RVRAE by then
    while not list(out.glob("cells/[!.]*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    begun = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == 1
    assert "interrupted; fits that are done are kept in" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_a_panel_on_disk_just_works(
    rvrae: Command, panel_file: Path, settings: Path, tmp_path: Path
) -> None:
    pytest.importorskip("dask")
    big = tmp_path / "big.zarr"
    rv.data.write_panel(rv.data.read_panel(panel_file), big)
    scores = []
    for panel, name in ((panel_file, "memory"), (big, "disk")):
        run, table = tmp_path / name, tmp_path / f"{name}.csv"
        assert rvrae("fit", panel, "--config", settings, "--out", run).code == 0
        assert rvrae("forecast", run, panel, "--out", table).code == 0
        scores.append(rv.load(run / "model").history["elbo"].to_numpy())
        assert len(table.read_text().splitlines()) > 1
    # in single precision, after as many steps as there are
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)
