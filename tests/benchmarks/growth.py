"""Fitted exponents of growth, and what the machine does: arithmetic of ``test_growth.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.benchmarks.reference_sizes import cpu_median

__all__ = ["Growth", "Machine", "exponent", "flops_of", "measure_machine", "to_text"]


@dataclass(frozen=True)
class Growth:
    """CPU seconds of some work as one size grows and the others stay.

    Attributes
    ----------
    what : str
    seconds : mapping from size to seconds
    """

    what: str
    seconds: Mapping[int, float]

    @property
    def exponent(self) -> float:
        """Least-squares slope in logs over all sizes."""
        return exponent(list(self.seconds), list(self.seconds.values()))

    @property
    def last(self) -> float:
        """Slope between the two largest sizes, where fixed costs weigh least."""
        return exponent(list(self.seconds)[-2:], list(self.seconds.values())[-2:])


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Least-squares slope of log seconds on log sizes."""
    slope, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return float(slope)


def to_text(rows: Sequence[Growth]) -> str:
    """Lay growth out as a table of Markdown."""
    lines = [
        "| grows | sizes | CPU ms | exponent | of the last two |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        sizes = ", ".join(str(size) for size in row.seconds)
        times = ", ".join(f"{1e3 * each:.0f}" for each in row.seconds.values())
        lines.append(f"| {row.what} | {sizes} | {times} | {row.exponent:.2f} | {row.last:.2f} |")
    return "\n".join(lines)


def flops_of(work: Callable[[], object]) -> float:
    """Floating-point operations in the matrix products of some work."""
    with _Count() as counter:
        work()
    return counter.total


_ADDMM = torch.ops.aten.addmm
_FORMULAS = {**flop_registry, torch.ops.aten.addmm_: flop_registry[_ADDMM]}


class _Count(TorchDispatchMode):
    """Adds up torch's own formulas; torch's counter trips over derivatives within derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        out = func(*args, **named)
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **named, out_val=out)
        return out


@dataclass(frozen=True)
class Machine:
    """What one thread of this machine does.

    Attributes
    ----------
    flops : float
        Of a large matrix product in single precision, a second.
    bytes : float
        Read and written by a copy that no cache holds, a second.
    """

    flops: float
    bytes: float


def measure_machine(side: int = 1024, megabytes: int = 128) -> Machine:
    """Time a matrix product and a copy."""
    a, b = torch.rand(2, side, side)
    source = torch.rand(megabytes * 2**18)
    target = torch.empty_like(source)
    product = cpu_median(lambda: torch.mm(a, b), 5)
    copy = cpu_median(lambda: target.copy_(source), 5)
    return Machine(2 * side**3 / product, 2 * source.nbytes / copy)
