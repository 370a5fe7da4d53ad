"""Checks that a slot got the kind of object that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType

from rvrae_pyro.errors import ConfigError


def require_instance(
    slot: str,
    value: object,
    base: type,
    choices: Sequence[str],
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Raise unless a value is an instance of a slot's base class.

    Parameters
    ----------
    slot : str
        Name of the argument.
    value : object
    base : type
    choices : sequence of str
        What the slot takes, as a user writes it: ``"rv.loadings.MLP"``.
    sizes : mapping, optional
        Values of constructor arguments, for the example in the message.

    Raises
    ------
    ConfigError
        Naming slot, what came, and the choices; a class, or the name of one, gets the call that
        makes an instance.
    """
    if isinstance(value, base):
        return
    name = value.__name__ if isinstance(value, type) else value
    meant = [each for each in choices if str(name).lower() == each.rpartition(".")[2].lower()]
    remedy = f"Choose among {', '.join(choices)}."
    if isinstance(value, type) and issubclass(value, base):
        remedy = f"Pass an instance, e.g. {_call(_spelled(value, meant), value, sizes or {})}."
    elif meant:
        remedy = f"Pass an instance, e.g. {meant[0]}(...). {remedy}"
    raise ConfigError(
        f"`{slot}` must be an instance of {base.__name__}; got {describe_kind(value)}. {remedy}"
    )


def describe_kind(value: object) -> str:
    """Describe a value by its kind, for a message."""
    if isinstance(value, type):
        return f"the class {_full_name(value)}"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    if value is None or isinstance(value, str | int | float | bool):
        return repr(value)
    return f"an instance of {_full_name(type(value))}"


def choices_of(module: ModuleType, prefix: str, base: type) -> list[str]:
    """Names of a module's public classes that derive from a base and can be built.

    Bases themselves, which lack a method, are left out.
    """
    found = {name: getattr(module, name) for name in vars(module).get("__all__", ())}
    return [
        f"{prefix}.{name}"
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, base) and not _is_base(kind, base)
    ]


def _is_base(kind: type, base: type) -> bool:
    """Whether a class was written to be derived from: no constructor or method completes it."""
    return kind is base or kind.__name__.endswith(base.__name__)


def _spelled(kind: type, meant: Sequence[str]) -> str:
    """Name of a class as a user writes it."""
    return meant[0] if meant and kind.__module__.startswith("rvrae_pyro.") else kind.__name__


def _call(name: str, kind: type, sizes: Mapping[str, int]) -> str:
    """Spell a call with the arguments that have no default."""
    given = list(inspect.signature(kind).parameters.values())
    needed = [
        each.name
        for each in given
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    return f"{name}({', '.join(str(sizes.get(each, '...')) for each in needed)})"


def _full_name(kind: type) -> str:
    """Name of a class, with its package unless it is built in or ours."""
    package = kind.__module__.partition(".")[0]
    known = package in ("builtins", "__main__", "rvrae_pyro")
    return kind.__name__ if known else f"{package}'s {kind.__name__}"
