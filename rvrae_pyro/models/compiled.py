"""Which of Pyro's compiled paths the pair supports."""

from __future__ import annotations

import sys

from pyro.ops.jit import CompiledFunction

from rvrae_pyro.errors import ConfigError

_CALL = CompiledFunction.__call__.__code__


def reject_jit() -> None:
    """Raise where a ``Jit*_ELBO`` of Pyro is about to trace the pair.

    TorchScript traces tensors, and a batch is not one: torch would fail at the types of the
    arguments, after printing all of them. Pyro runs the pair once by itself before it traces, and
    only the call stack tells that run from an ordinary one. ``NUTS(jit_compile=True)`` traces
    the potential, a function of tensors, and goes another way.

    Raises
    ------
    ConfigError
        In such a run.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CALL:
            raise ConfigError(
                "Pyro's Jit ELBOs trace tensors, and the pair takes a batch: they are not "
                "supported. Use Trace_ELBO or TraceMeanField_ELBO, or rv.fit."
            )
        frame = frame.f_back  # type: ignore[assignment]
