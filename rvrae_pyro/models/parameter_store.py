"""A module whose plain parameters are declared to Pyro, under a unique name."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.distributions import constraints

from rvrae_pyro.models.untrained import TracksTraining

_serial = itertools.count()


class InParameterStore(TracksTraining):
    """Base of modules that Pyro trains through its parameter store or as local parameters.

    Parts hold plain ``nn.Parameter``s, which a ``PyroModule`` would rename. Each model declares
    them itself, under a serial name, at the start of every call of its model and guide.
    """

    def __init__(self) -> None:
        super().__init__()
        self._silent = False
        self._known: tuple[Tensor, ...] = ()
        self._enrol()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._silent, self._known = False, ()  # a copy is not in the loop that its origin is in
        self._enrol()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Skip the declaration to Pyro in a training loop that holds the weights itself.

        Meanwhile no part may be exchanged for another.
        """
        self._silent, self._known = True, tuple(self._tensors())
        try:
            yield
        finally:
            self._silent, self._known = False, ()

    def _enrol(self) -> None:
        """Take a name that is unique in this process, and release it with the model."""
        self.serial = f"rvrae_{next(_serial)}"
        weakref.finalize(self, _forget, self.serial).atexit = False

    def declare(self) -> None:
        """Declare the weights to Pyro: in its store, or as local ones by the user's setting."""
        if self._silent:
            return
        self.mark_used()
        if not pyro.settings.get("module_local_params"):
            # Pyro warns of every frozen weight of a module in training mode; this one only
            # holds the parts, whose own modes stay as they are
            training, self.training = self.training, False
            pyro.module(self.serial, self)
            self.training = training
            return
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                value = weight.detach()
                value.unconstrained = weakref.ref(weight)  # type: ignore[attr-defined]
                full = param_with_module_name(self.serial, name)
                _declare(value, full, constraint=constraints.real, event_dim=None, name=full)

    def version(self) -> tuple[Any, ...]:
        """Identities and versions of all weights and buffers: equal until one is changed."""
        return tuple((id(w), w._version) for w in self._known or self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        return itertools.chain(self.parameters(), self.buffers())

    def token(self) -> tuple[Any, ...]:
        """:meth:`version`, and whether gradients are recorded."""
        return (torch.is_grad_enabled(), *self.version())


def _forget(serial: str) -> None:
    """Drop a model's names from Pyro's parameter store once the model is gone."""
    store = pyro.get_param_store()
    for name in [n for n in store.keys() if n.startswith(f"{serial}$$$")]:  # noqa: SIM118
        del store[name]


@effectful(type="param")
def _declare(value: Tensor, name: str, **_: Any) -> Tensor:
    """State a parameter that lives outside Pyro's store."""
    return value
