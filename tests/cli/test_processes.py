"""Two processes that train one model: the fit of one process, resumed by another number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.cli.files import CHECKPOINT
from rvrae_pyro.fitting.checkpoint import STATE
from tests.cli.conftest import Command
from tests.cli.helpers import write_settings
from tests.cli.test_faults import fail_at, weights

SETTINGS = """
[model]
n_factors = 2
[fit]
max_steps = 20
window = 5
patience = 100
dtype = "{dtype}"
"""

COMMON = """
[model.factor_prior]
kind = "CommonVolatility"
[model.factor_prior.base]
kind = "AR1"
"""


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "rvrae_pyro", *map(str, arguments)]
    # gloo asks the host for its own name, which a sandbox may not resolve
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=environment
    )


def close(ours: Path, theirs: Path, tolerance: float) -> None:
    mine, other = weights(ours).double(), weights(theirs).double()
    assert ((mine - other).norm() / other.norm()).item() < tolerance
    histories = [rv.load(run / "model").history for run in (ours, theirs)]
    assert histories[0]["step"].tolist() == histories[1]["step"].tolist()
    for name in ("elbo", "valid_elbo", "log_weights"):
        mine, other = (torch.tensor(h[name].to_numpy()) for h in histories)
        assert ((mine - other).abs() / other.abs()).max().item() < tolerance


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(
    rvrae: Command, panel_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision, to 1e-9 of one process that was never stopped."""
    settings = write_settings(tmp_path / "double.toml", SETTINGS.format(dtype="float64"))
    alone, together = tmp_path / "alone", tmp_path / "together"
    command = ("fit", panel_file, "--config", settings, "--out")
    assert rvrae(*command, alone).code == 0
    with monkeypatch.context() as patched:
        fail_at(patched, 6)
        with pytest.raises(ZeroDivisionError):
            rvrae(*command, together)
    assert (together / CHECKPOINT / STATE).exists()
    finished = torchrun(*command, together, "--json")
    assert finished.returncode == 0, finished.stderr
    said = json.loads(finished.stdout)  # one process talks
    assert said["steps"] == 20
    close(together, alone, 1e-9)
    assert sorted(entry.name for entry in together.iterdir()) == ["config.toml", "model"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "prior", "tolerance"),
    [("float32", "", 1e-5), ("float64", "", 1e-9), ("float64", COMMON, 1e-9)],
    ids=["float32", "float64", "common volatility"],
)
def test_twenty_steps_of_two_processes(
    dtype: str, prior: str, tolerance: float, rvrae: Command, panel_file: Path, tmp_path: Path
) -> None:
    settings = write_settings(tmp_path / "settings.toml", SETTINGS.format(dtype=dtype) + prior)
    command = ("fit", panel_file, "--config", settings, "--out")
    assert rvrae(*command, tmp_path / "alone").code == 0
    finished = torchrun(*command, tmp_path / "together")
    assert finished.returncode == 0, finished.stderr
    close(tmp_path / "together", tmp_path / "alone", tolerance)


def test_one_message_of_many_processes(panel_file: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path / "bad.toml", "[fit]\nmax_steps = 5\nasset_batch = 4\n")
    refused = torchrun("fit", panel_file, "--config", settings, "--out", tmp_path / "run")
    assert refused.returncode == 1  # torchrun's own
    assert refused.stderr.count("rvrae: `asset_batch` 4 draws from a whole") == 1
    assert not (tmp_path / "run").exists()
