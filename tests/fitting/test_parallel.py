"""Processes that run fits end when the one that started them is told to."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

SLEEPER = """
    import time
    from dataclasses import dataclass
    from pathlib import Path

    from rvrae_pyro.fitting.parallel import outcomes

    @dataclass(frozen=True)
    class Job:
        name: str

    def sleep(job):
        Path(job.name).write_text("begun")
        time.sleep(300)

    if __name__ == "__main__":
        list(outcomes(sleep, {name: Job(name) for name in ("one", "two")}, n_jobs=2))
"""


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/status").exists() and "Z (zombie)" not in Path(
        f"/proc/{pid}/status"
    ).read_text(encoding="utf-8")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text(encoding="utf-8").split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see processes")
def test_an_interrupt_does_not_wait_for_fits_that_run(tmp_path):
    (tmp_path / "sleeper.py").write_text(textwrap.dedent(SLEEPER), encoding="utf-8")
    root = str(Path(__file__).parents[2])
    running = subprocess.Popen(
        [sys.executable, "sleeper.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
    )
    try:
        patience = time.monotonic() + 120
        while not all((tmp_path / name).exists() for name in ("one", "two")):
            assert running.poll() is None, running.stderr.read().decode()
            assert time.monotonic() < patience
            time.sleep(0.1)
        workers = children(running.pid)
        assert len(workers) >= 2
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)  # the jobs would take 300
    finally:
        running.kill()
    assert running.returncode != 0
    assert b"KeyboardInterrupt" in said
    patience = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < patience
        time.sleep(0.1)
