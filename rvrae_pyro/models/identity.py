"""Tell objects of a user's own apart: what a description in JSON types cannot say of them."""

from __future__ import annotations

import functools
import hashlib
import json
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from rvrae_pyro.models.part import Part

_KNOWN = ("rvrae_pyro", "torch", "pyro", "builtins")
"""Packages whose classes are told apart by their names."""


def own_identity(*values: object) -> str | None:
    """Hash what a user's own classes, functions and arrays among some values make of results.

    Parameters
    ----------
    *values : object
        Parts, schedules, settings, classes.

    Returns
    -------
    str or None
        Equal for equal code and equal contents, in this and other processes of one version of
        Python. None if there is nothing of a user's own, so that names and plain arguments say
        everything.

    Notes
    -----
    Code is compared as Python compiled it, of the own classes and of their own bases; what that
    code calls elsewhere is not followed. Weights of modules are not part of it: each fit draws
    them anew.
    """
    teller = _Teller()
    content = [teller.tell(value) for value in values]
    if not teller.own:
        return None
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _Teller:
    """Turns objects into JSON types, and remembers whether any was a user's own."""

    def __init__(self) -> None:
        self.own = False
        self._open: list[int] = []

    def tell(self, value: object) -> Any:
        """Describe a value; an object that holds itself is described once."""
        if isinstance(value, float):
            return repr(float(value))
        if value is None or isinstance(value, bool | int | str | bytes):
            return repr(value)
        if id(value) in self._open:
            return "itself"
        self._open.append(id(value))
        try:
            return self._inside(value)
        finally:
            self._open.pop()

    def _inside(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return sorted([self.tell(key), self.tell(held)] for key, held in value.items())
        if isinstance(value, list | tuple):
            return [self.tell(each) for each in value]
        if isinstance(value, set | frozenset):
            return sorted(json.dumps(self.tell(each)) for each in value)
        if isinstance(value, Tensor):
            return self._array(value.detach().cpu().numpy())
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, _FUNCTIONS):
            return self._function(value)
        if isinstance(value, Part):
            return [self._class(type(value)), self.tell(value.arguments())]
        if isinstance(value, nn.Module):
            return [self._class(type(value)), repr(value)]
        return [self._class(type(value)), self.tell(_held(value))]

    def _array(self, values: np.ndarray) -> list[str]:
        self.own = True
        digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        return [str(values.dtype), str(values.shape), digest]

    def _class(self, kind: type) -> Any:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__.partition(".")[0] in _KNOWN:
            return name
        self.own = True
        own = {key: member for key, member in vars(kind).items() if _decides(key, member)}
        return [name, self.tell(own), [self._class(base) for base in kind.__bases__]]

    def _function(self, function: Any) -> Any:
        self.own = True
        if isinstance(function, functools.partial):
            return self.tell([function.func, function.args, function.keywords])
        if isinstance(function, property):
            return self.tell([function.fget, function.fset])
        if isinstance(function, functools.cached_property):
            return self.tell(function.func)
        if isinstance(function, types.MethodType):
            return [self.tell(function.__func__), self.tell(function.__self__)]
        if isinstance(function, staticmethod | classmethod):
            return self.tell(function.__func__)
        cells = function.__closure__ or ()
        enclosed = [self.tell(cell.cell_contents) for cell in cells if _is_filled(cell)]
        return [self._code(function.__code__), self.tell(function.__defaults__), enclosed]

    def _code(self, code: types.CodeType) -> Any:
        constants = [
            self._code(each) if isinstance(each, types.CodeType) else self.tell(each)
            for each in code.co_consts
        ]
        return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _held(value: Any) -> dict[str, Any]:
    """Attributes of an object, in slots too."""
    slots = [
        name
        for kind in type(value).__mro__
        for name in np.atleast_1d(vars(kind).get("__slots__", ())).tolist()
    ]
    inside = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {**inside, **getattr(value, "__dict__", {})}


_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    functools.partial,
    functools.cached_property,
    property,
    staticmethod,
    classmethod,
)

_SAYS_NOTHING = frozenset(
    ("__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__")
)


def _decides(name: str, member: object) -> bool:
    """Whether a member of a class decides what its objects do; docstrings and lines do not."""
    plain = member is None or isinstance(member, bool | int | float | str | tuple | frozenset)
    held = isinstance(member, (*_FUNCTIONS, Tensor, np.ndarray))
    return name not in _SAYS_NOTHING and (plain or held)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
