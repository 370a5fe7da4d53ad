"""What every part of a model shares: it is an ``nn.Module`` that can describe itself."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from torch import nn

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models.weights import check_weights

__all__ = ["Part", "describe", "rebuild", "spell"]


_WEIGHTS = ("weights", "skip_weights")
"""Attributes of parts that hold weight priors."""


class Part(nn.Module):
    """A swappable piece of a model with plain ``nn.Parameter`` weights.

    A part keeps every argument of its constructor under the argument's own name. That is all
    that saving it needs (:func:`describe`), and it lets a reader see how a part was made.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Raise where a weight prior is kept that is none."""
        if name in _WEIGHTS:
            check_weights(name, value)
        super().__setattr__(name, value)

    def arguments(self) -> dict[str, Any]:
        """Return constructor arguments by name, read back from the attributes of the same name."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def lost_arguments(self) -> list[str]:
        """Return names of constructor arguments that are not kept; there should be none."""
        given = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        named = [
            each.name for each in given if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        return [name for name in named if not hasattr(self, name)]

    def set_units(self, batch: Batch) -> None:
        """Take the units of inputs from a batch of training months; by default there are none.

        ``rv.fit`` calls it once, before the first step, on every part of an untrained model.
        """

    def extra_repr(self) -> str:
        """Show scalar arguments in ``print(model)``."""
        shown = {k: v for k, v in self.arguments().items() if not isinstance(v, nn.Module)}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def spell(value: Any) -> str:
    """Write a part, or an argument of one, as the call that makes it."""
    if not isinstance(value, Part):
        return repr(value)
    arguments = ", ".join(f"{name}={spell(v)}" for name, v in value.arguments().items())
    return f"{type(value).__name__}({arguments})"


def describe(value: Any) -> Any:
    """Describe a part, or a value inside one, with JSON types only.

    Parts and frozen dataclasses become ``{"kind": class name, argument: value, ...}``.
    """
    if isinstance(value, Part):
        arguments = {name: describe(v) for name, v in value.arguments().items()}
        return {"kind": type(value).__name__, **arguments}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    return value


def rebuild(part: nn.Module) -> nn.Module:
    """Construct a part anew from its own arguments, with freshly drawn weights."""
    if not isinstance(part, Part):
        raise TypeError(f"{type(part).__name__} does not keep its arguments; derive it from Part.")
    lost = part.lost_arguments()
    if lost:  # a default in its place would be another part
        raise TypeError(f"{type(part).__name__} does not keep its arguments {', '.join(lost)}.")
    arguments = {
        name: rebuild(value) if isinstance(value, nn.Module) else value
        for name, value in part.arguments().items()
    }
    return type(part)(**arguments)
