"""Fits on the workers of a dask.distributed scheduler."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.cli.app import main
from rvrae_pyro.data.panel_match import fingerprint
from rvrae_pyro.experiments import BaselineEntrant, cluster, connect
from rvrae_pyro.experiments.grid import Cell, Job, SimulatedGKX, run_cells, run_job
from rvrae_pyro.experiments.result_tables import long_table
from rvrae_pyro.fitting.parallel import InMemory
from tests.experiments.helpers import Slow, panel, small_model

pytest.importorskip("distributed")

ROOT = Path(__file__).resolve().parents[2]
MARKET = panel()


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a process of dask's, quiet, with this package and its tests on the path."""
    command = [sys.executable, "-m", "dask", *arguments]
    # a dead worker is asked for what it had until this time is up
    patience = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}
    path = {**os.environ, **patience, "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=path, stdout=quiet, stderr=quiet)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers of one thread, each a process of its own."""
    note = tmp_path / "scheduler.json"
    local = ("--host", "127.0.0.1", "--no-dashboard")
    processes = [start("scheduler", *local, "--port", "0", "--scheduler-file", str(note))]
    try:
        for _ in range(600):
            if note.exists() and note.read_text().strip().endswith("}"):
                break
            time.sleep(0.1)
        address = json.loads(note.read_text())["address"]
        lone = ("--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path))
        processes += [start("worker", address, *local, *lone) for _ in range(2)]
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def jobs_of(seeds: int) -> dict[Cell, Job]:
    mark, source = fingerprint(MARKET), InMemory(MARKET)
    entrants = [Slow(), BaselineEntrant("IPCA", rv.baselines.IPCA(2))]
    jobs = [
        Job(entrant, source, 20, 6, seed, num_samples=200)
        for seed in range(seeds)
        for entrant in entrants
    ]
    jobs.append(Job(Slow(name="unlucky", fails=(1,)), source, 20, 6, 1, num_samples=200))
    return {job.cell(MARKET, mark): job for job in jobs}


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_nothing_counts_twice(
    scheduler: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    address, workers = scheduler
    jobs = jobs_of(5)
    told: list[Cell] = []

    def on_done(cell: Cell) -> None:
        told.append(cell)
        if len(told) == len(jobs) // 3:
            workers[0].send_signal(signal.SIGKILL)

    with connect(address, timeout=60) as executor:
        executor.client.wait_for_workers(2, timeout=60)
        results, failures = run_cells(
            jobs, folder=tmp_path / "cells", executor=executor, on_done=on_done
        )
        assert len(executor.client.nthreads()) == 1
    assert workers[0].wait() == -signal.SIGKILL
    assert workers[1].poll() is None
    # every cell once, the one that raises among the failures, as where there is no cluster
    assert Counter(told) == Counter(list(jobs))
    assert [f.cell.model for f in failures] == ["unlucky"]
    assert failures[0].message == "RuntimeError: no luck with 1 second line"
    assert len(list((tmp_path / "cells").iterdir())) == len(results) == len(jobs) - 1
    here, _ = run_cells(jobs)
    ordered = long_table({cell: results[cell] for cell in here})
    pd.testing.assert_frame_equal(ordered, long_table(here))


@pytest.mark.slow
def test_commands_refits_and_members_are_sent(
    scheduler: tuple[str, list[subprocess.Popen[bytes]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, _ = scheduler
    rv.data.write_panel(MARKET, tmp_path / "panel.nc")

    def tables(*more: str) -> object:
        out = str(tmp_path / f"out{len(more)}")
        chosen = ("--models", "IPCA,ALSTM", "--split", "20,6,10", "--num-samples", "200", "--json")
        panel_file = str(tmp_path / "panel.nc")
        assert main(["compare", panel_file, *chosen, "--out", out, *more]) == 0
        return json.loads(capsys.readouterr().out)["tables"]

    assert tables("--scheduler", address) == tables("--jobs", "1", "--factors", "5")
    options = ["--case", "linear", "--models", "IPCA", "--json"]
    assert main(["benchmark", "gkx", *options, "--scheduler", address]) == 0
    there = json.loads(capsys.readouterr().out)["table"]
    assert main(["benchmark", "gkx", *options, "--jobs", "1"]) == 0
    assert there == json.loads(capsys.readouterr().out)["table"]

    with connect(address, timeout=60) as executor:
        check_walk_and_ensemble(executor=executor)


def test_threads_of_one_worker_take_turns() -> None:
    """Two threads, one scheduler, all in this process: quick, and the hardest on shared state."""
    from distributed import LocalCluster

    local = {"processes": False, "dashboard_address": None, "protocol": "inproc"}
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, **local) as workers,
        connect(workers.scheduler_address) as executor,
    ):
        there, here = compared(executor=executor), compared()
        assert walked(executor=executor).identical(walked())
    pd.testing.assert_frame_equal(there.results, here.results)


@pytest.mark.slow
def test_refits_and_members_in_processes() -> None:
    check_walk_and_ensemble(n_jobs=2)


def compared(**how: object) -> rv.experiments.Comparison:
    models = [rv.baselines.IPCA(2), Slow()]
    return rv.experiments.compare(MARKET, models, split=(20, 6, 10), num_samples=200, **how)  # type: ignore[arg-type]


def walked(**how: object) -> xr.DataTree:
    spans = {"train": 15, "valid": 5, "test": 10, "num_samples": 50}
    return rv.experiments.walk_forward(MARKET, rv.baselines.IPCA(2), **spans, **how)  # type: ignore[arg-type]


def ensemble(**how: object) -> rv.Ensemble:
    train, valid, _ = rv.data.split(MARKET, 20, 6, 10)
    config = rv.FitConfig(max_steps=2)
    quiet = {"seeds": (3, 1), "config": config, "progress": False}
    return rv.fit_ensemble(lambda: small_model(MARKET), train, valid, **quiet, **how)  # type: ignore[arg-type]


def check_walk_and_ensemble(**how: object) -> None:
    """Numbers are those of this process, to the bit."""
    assert walked(**how).identical(walked())
    there, here = ensemble(**how), ensemble()
    assert [member.seed for member in there.members] == [3, 1]
    for one, other in zip(there.members, here.members, strict=True):
        assert one.attrs == other.attrs
        weights = other.model.state_dict()
        for name, value in one.model.state_dict().items():
            assert torch.equal(value, weights[name]), name
    draws = [each.forecast(MARKET, 20, times=MARKET.time.values[-2:]) for each in (there, here)]
    assert draws[0].identical(draws[1])


class Recorder:
    """A client that only keeps what it is asked to do."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def submit(self, fn: object, *arguments: object, pure: bool) -> str:
        assert not pure
        self.asked.append((fn, *arguments))
        return f"future {len(self.asked)}"


def test_panels_travel_once() -> None:
    client = Recorder()
    executor = cluster.Cluster(client)  # type: ignore[arg-type]
    jobs = list(jobs_of(2).values())
    for job in jobs:
        executor.submit(len, job)
    drawn = Job(jobs[0].entrant, SimulatedGKX("linear", 0), 20, 6, 0)
    executor.submit(run_job, drawn)
    first, *others, last = client.asked
    assert first[1].identical(MARKET)  # type: ignore[attr-defined]
    assert len(others) == len(jobs)
    for (_, fn, bare, names, panel_), job in zip(others, jobs, strict=True):
        assert (fn, names, panel_) == (len, ["source"], "future 1")
        assert isinstance(bare, Job)
        assert (bare.entrant, bare.source) == (job.entrant, None)
    assert (last[1], last[3:]) == (run_job, ([],))


def test_an_address_that_does_not_answer() -> None:
    with socket.socket() as taken:  # bound, not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        message = f"no dask scheduler answers at '{address}'"
        with pytest.raises(rv.ConfigError, match=message), connect(address, timeout=0.5):
            pass
    with pytest.raises(rv.ConfigError, match="no dask scheduler answers"), connect("::", 0.5):
        pass


def test_without_dask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    command = ["benchmark", "gkx", "--models", "IPCA", "--scheduler", "tcp://127.0.0.1:1"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "needs dask.distributed, which is not installed" in said
    assert "rvrae-pyro[scale]" in said
