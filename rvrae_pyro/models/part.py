"""What every part of a model shares: it is an ``nn.Module`` that can describe itself."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions.transforms import ExpTransform

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.hyperpriors import (
    Hyperparameter,
    Support,
    describe_distribution,
    is_allowed,
    is_distribution,
    read_hyperparameter,
    spell_distribution,
)
from rvrae_pyro.models.weights import check_weights

_WEIGHTS = ("weights", "skip_weights")
"""Attributes of parts that hold weight priors."""


class Part(nn.Module):
    """A swappable piece of a model with plain ``nn.Parameter`` weights.

    A part keeps every argument of its constructor under the argument's own name. That is all
    that saving it needs (:func:`describe`), and it lets a reader see how a part was made.
    """

    optional: ClassVar[tuple[str, ...]] = ()
    """Arguments that make an interpretable parameter only where they are given."""

    in_place_of: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Arguments by those that take their place, where one parameter has two names."""

    _stands_for: str | None = None
    """Name of the part that a private part is inside of, for messages."""

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

    def add_hyperparameter(
        self,
        name: str,
        given: Any,
        path: str,
        support: Support,
        shape: tuple[int, ...] = (),
        *,
        penalty: Any = None,
        learn: bool = True,
        keep: bool = True,
    ) -> None:
        """Make an interpretable parameter of a constructor argument.

        Parameters
        ----------
        name : str
            The argument, kept as attribute of the same name.
        given : float or TorchDistribution
            A number, where training starts, or a prior.
        path : str
            Attribute that becomes the unconstrained ``nn.Parameter``, or path of an existing one.
        support : Support
            One of ``REAL``, ``POSITIVE``, ``UNIT`` and ``SIGNED_UNIT``.
        shape : tuple of int
            Shape of the parameter; a prior of one number stands for independent ones.
        penalty : TorchDistribution, optional
            Prior that :meth:`FactorPrior.log_density` adds at the MAP where a number is given.
        learn : bool
            False freezes the parameter at a number.
        keep : bool
            False leaves the attribute ``name`` to the caller.

        Raises
        ------
        ConfigError
            For a number or prior outside the support, or a frozen parameter with a prior.

        Examples
        --------
        In a constructor: ``self.add_hyperparameter("scale", scale, "log_scale", POSITIVE, (5,))``;
        in methods: ``self.value("scale")``.
        """
        owner = self._stands_for or type(self).__name__
        transform, prior, start = read_hyperparameter(owner, name, given, support, shape)
        if prior is not None and not learn:
            raise ConfigError(
                f"`{name}` of {owner} is frozen and has a prior; got "
                f"{spell_distribution(given)}. Let it be learned, or give a number."
            )
        if keep:
            setattr(self, name, given)
        if "." in path:  # of a layer, which made it
            made = self.get_parameter(path)
            with torch.no_grad():
                made.copy_(start.reshape(made.shape))
        else:
            setattr(self, path, nn.Parameter(start, learn))
        self._own[name] = Hyperparameter(name, path, support, transform, shape, prior, penalty)

    def value(self, name: str) -> Tensor:
        """Value of an interpretable parameter on its own scale.

        That of the draw where the part is called with one; else the learned value, or the median
        of its posterior.
        """
        known = self._own[name]
        value: Tensor = known.transform(attrgetter(known.path)(self))
        return value.reshape(known.shape) if "." in known.path else value

    def log_value(self, name: str) -> Tensor:
        """Log of a positive interpretable parameter."""
        known = self._own[name]
        if isinstance(known.transform, ExpTransform):  # to the bit
            raw: Tensor = attrgetter(known.path)(self)
            return raw.reshape(known.shape) if "." in known.path else raw
        return self.value(name).log()

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter]:
        """Interpretable parameters of the part by name, without those of nested parts."""
        return self._own

    @property
    def _own(self) -> dict[str, Hyperparameter]:
        own: dict[str, Hyperparameter] = self.__dict__.setdefault("_hyperparameters", {})
        return own

    def set_units(self, batch: Batch) -> None:
        """Take the units of inputs from a batch of training months; by default there are none.

        ``rv.fit`` calls it once, before the first step, on every part of an untrained model.
        """

    def extra_repr(self) -> str:
        """Show scalar arguments in ``print(model)``."""
        shown = {k: v for k, v in self.arguments().items() if not isinstance(v, nn.Module)}
        return ", ".join(f"{name}={spell(value)}" for name, value in shown.items())


def spell(value: Any) -> str:
    """Write a part, or an argument of one, as the call that makes it."""
    if is_distribution(value):
        return spell_distribution(value)
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
    if is_distribution(value):
        # another is named, so that results say what they are of; loading then takes `model=`
        named = {"distribution": type(value).__name__}
        return describe_distribution(value) if is_allowed(value) else named
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
