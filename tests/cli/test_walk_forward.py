"""``rvrae walk-forward``: refits, forecasts, scores and pictures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from rvrae_pyro.cli.files import CHECKPOINT
from rvrae_pyro.predictive.storage import read_tree
from tests.cli.conftest import Command, assert_refused
from tests.cli.helpers import content, long_table

SIZES = ("--split", "14,4,3", "--factors", "2", "--jobs", "1", "--num-samples", "200")
FILES = {
    "calibration.png",
    "forecast.nc",
    "log_score.png",
    "refits.json",
    "scores.csv",
    "volatility.png",
}


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rvrae_pyro", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def once(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Wait until a file is there."""
    limit = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("walk") / "table.csv"
    long_table(24, 10).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "short.toml"
    path.write_text("[fit]\nmax_steps = 3\n")
    return path


def test_forecasts_are_joined_and_scored(
    rvrae: Command, table: Path, settings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "walk"
    call = ("walk-forward", table, "--excess", *SIZES, "--config", settings, "--out", out)
    done = rvrae(*call)
    assert done.code == 0, done.err
    assert "2 refits" in done.out
    assert "EWMA" in done.out
    assert set(content(out)) == FILES
    tree = read_tree(out / "forecast.nc")
    drawn = tree["predictions"]["returns"]
    assert drawn.sizes["time"] == 6
    assert np.unique(drawn["refit"]).tolist() == [0, 1]
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores["model"]) == {"RVRAE", "EWMA"}
    assert {"log_score", "crps", "coverage"} <= set(scores["measure"])
    assert (scores["standard_error"] > 0).any()
    spans = json.loads((out / "refits.json").read_text())["spans"]
    for each in spans:
        assert each["train"][1] < each["valid"][0] <= each["valid"][1] < each["test"][0]
    again = rvrae(*call, "--json")
    said = json.loads(again.out)
    assert said["refits"] == 2
    assert said["scores"][0]["estimate"] == pytest.approx(scores["estimate"][0])


def test_a_killed_command_resumes_with_warm_refits(
    rvrae: Command, table: Path, settings: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "walk", tmp_path / "whole"
    call = ("walk-forward", table, "--excess", *SIZES, "--config", settings, "--warm-start")
    process = begin(*call, "--out", out)
    once(process, out / CHECKPOINT, "refit-*.nc")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "forecast.nc").exists()  # killed on the way, not after
    kept = {path: path.stat().st_mtime_ns for path in (out / CHECKPOINT).glob("refit-*.nc")}
    assert kept
    before = rvrae(*call, "--out", out, "--seed", "-1")
    assert_refused(before, "seed")  # leaves what is there
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    resumed, done = rvrae(*call, "--out", out), rvrae(*call, "--out", whole)
    assert (resumed.code, done.code) == (0, 0), resumed.err + done.err
    assert set(content(out)) == FILES
    one, other = (read_tree(folder / "forecast.nc") for folder in (out, whole))
    xr.testing.assert_identical(one, other)
    starts = [each["attrs"]["start"] for each in json.loads(one.attrs["refits"])]
    assert starts == ["seed", "init"]
    summary = json.loads((out / "refits.json").read_text())
    assert summary["warm_start"] is True
    for name in ("refits.json", "scores.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_terminated_command_says_what_is_kept(
    rvrae: Command, table: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = torch.optim.Adam.step, []

    def terminate(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 4:  # in the second refit
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *args, **kwargs)

    out = tmp_path / "walk"
    call = ("walk-forward", table, "--excess", *SIZES, "--config", settings, "--out", out)
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", terminate)
        stopped = rvrae(*call)
    assert stopped.code == 1
    assert "refits that are done are kept in" in stopped.err
    assert "Traceback" not in stopped.err
    assert len(list((out / CHECKPOINT).glob("refit-*.nc"))) == 1
    assert rvrae(*call).code == 0
    assert set(content(out)) == FILES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "14,4"), "`--split` must be TRAIN,VALID,TEST"),
        (("--split", "0.5,0.2,0.3"), "`--split` must be three counts of months"),
        (("--split", "140,4,4"), "row"),
        (("--num-samples", "20"), "`--num-samples` must be at least 200"),
    ],
)
def test_bad_options(
    rvrae: Command, table: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    out = ("--out", tmp_path / "walk")
    assert_refused(rvrae("walk-forward", table, "--excess", *SIZES, *options, *out), message)
    assert content(tmp_path) == {}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    refused = rvrae("walk-forward", table, "--excess", *SIZES, "--out", tmp_path / "other")
    assert_refused(refused, "not a walk-forward")
