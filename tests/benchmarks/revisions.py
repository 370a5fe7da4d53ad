"""Benchmarks of two revisions side by side: what became slower by 1.3 x or more.

``python -m tests.benchmarks.revisions BASE [HEAD] [-- pytest arguments]``, or ``make
bench-compare BASE=...``. Each revision is checked out into a worktree of its own and runs its own
benchmarks, base and head in turn, so that a machine that warms up or gets busy hits both. Exit
code 1 if a benchmark crosses the line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["FLAG", "Change", "changes", "main", "scores_of", "to_text"]

FLAG = 1.3
SUITE = ("tests/benchmarks/test_step.py",)


@dataclass(frozen=True)
class Change:
    """One benchmark in both revisions; None where a revision lacks it.

    Attributes
    ----------
    name : str
    base, head : float or None
        Ratio to the dense reference of its process where the benchmark tells one, else seconds.
    """

    name: str
    base: float | None
    head: float | None

    @property
    def ratio(self) -> float | None:
        """Head over base; above 1 is slower."""
        return None if self.base is None or self.head is None else self.head / self.base

    @property
    def flagged(self) -> bool:
        """Whether head is slower by so much that no noise explains it."""
        return self.ratio is not None and self.ratio >= FLAG


def scores_of(content: Mapping[str, Any]) -> dict[str, float]:
    """Read the file that pytest-benchmark writes; the ratio a benchmark tells, or its median."""
    return {
        each["fullname"]: float(each["extra_info"].get("ratio", each["stats"]["median"]))
        for each in content["benchmarks"]
    }


def changes(
    base: Sequence[Mapping[str, float]], head: Sequence[Mapping[str, float]]
) -> list[Change]:
    """Compare medians over rounds, slowest relative to base first, then those without a pair."""

    def middle(rounds: Sequence[Mapping[str, float]], name: str) -> float | None:
        found = [each[name] for each in rounds if name in each]
        return median(found) if found else None

    names = dict.fromkeys(name for each in (*base, *head) for name in each)
    found = [Change(name, middle(base, name), middle(head, name)) for name in names]
    return sorted(found, key=lambda each: (each.ratio is None, -(each.ratio or 0.0)))


def to_text(found: Sequence[Change]) -> str:
    """Lay changes out as a table of Markdown."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    lines = ["| benchmark | base | head | head / base | |", "| --- | --- | --- | --- | --- |"]
    for each in found:
        mark = f"**{FLAG} x or more**" if each.flagged else ""
        values = " | ".join(map(number, (each.base, each.head, each.ratio)))
        lines.append(f"| {each.name} | {values} | {mark} |")
    return "\n".join(lines)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _run(tree: Path, more: Sequence[str], out: Path) -> dict[str, float]:
    """Run the benchmarks of a worktree, with its own package, and read what they say."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "benchmark", *more]
    # a run of pytest that this one may be part of says nothing of benchmarks
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = {**outside, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, f"--benchmark-json={out}"], cwd=tree, env=path, check=False)
    if not out.exists() or not out.stat().st_size:
        raise SystemExit(f"no benchmark ran in {tree} (pytest ended with {done.returncode})")
    return scores_of(json.loads(out.read_text(encoding="utf-8")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two revisions; 1 if a benchmark became slower by ``FLAG`` or more."""
    parser = argparse.ArgumentParser(prog="revisions", description=__doc__)
    parser.add_argument("base")
    parser.add_argument("head", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, in turn")
    parser.add_argument("--suite", nargs="+", default=SUITE, help="files or pytest arguments")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        trees = {name: Path(scratch) / name for name in ("base", "head")}
        try:
            for name, tree in trees.items():
                revision = _git("rev-parse", "--verify", f"{getattr(asked, name)}^{{commit}}")
                _git("worktree", "add", "--detach", str(tree), revision)
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
            for k in range(asked.rounds):
                for name, tree in trees.items():
                    out = Path(scratch) / f"{name}{k}.json"
                    rounds[name].append(_run(tree, asked.suite, out))
        finally:
            for tree in trees.values():
                if tree.exists():
                    _git("worktree", "remove", "--force", str(tree))
    found = changes(rounds["base"], rounds["head"])
    sys.stdout.write(to_text(found) + "\n")
    return int(any(each.flagged for each in found))


if __name__ == "__main__":
    sys.exit(main())
