"""Error classes, each also the built-in that a Python user would expect, and checks.

A message says which argument, what was expected, what came, and what to do.
"""

import math
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path


class RvraeError(Exception):
    """Base of every error that this package raises on purpose."""


class PanelError(RvraeError, ValueError):
    """A panel, or a file that should hold one, is not fit for use.

    The message lists every problem found, with the first offending dates or
    assets, and the remedy.
    """


class ShapeError(RvraeError, ValueError):
    """A tensor or array has the wrong shape, or parts of a model do not fit together."""


class ConfigError(RvraeError, ValueError):
    """A setting is unknown, of the wrong type, or outside its range."""


class ContractError(RvraeError, AssertionError):
    """A part does not keep the contract that all parts share; see ``rv.testing``."""


class FitError(RvraeError, RuntimeError):
    """Training failed; the last good state is kept and named in the message."""


class CheckpointError(RvraeError, RuntimeError):
    """A saved model cannot be read: missing, damaged, foreign or of another version."""


class RvraeWarning(UserWarning):
    """Something is odd but usable."""


def warn_user(message: str) -> None:
    """Warn at the line of the user's code that called into the package, however deep."""
    package = str(Path(__file__).parent)
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RvraeWarning, stacklevel=level)


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return a whole number of at least ``least``, or say what is wrong with it.

    Raises
    ------
    ConfigError
        Naming the argument.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise ConfigError(f"`{name}` must be a whole number of at least {least}; got {value!r}.")
    return int(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Hint at the known name that an unknown one resembles; empty where there is none."""
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Say what is wrong with a value that is none of some names.

    Raises
    ------
    ConfigError
        Naming the argument and the choices.
    """
    known = [str(choice) for choice in choices]
    if not isinstance(value, str) or value not in known:
        wanted = " or ".join(filter(None, [", ".join(map(repr, known[:-1])), repr(known[-1])]))
        raise ConfigError(f"`{name}` must be {wanted}; got {value!r}.")


def check_number(name: str, value: object, interval: str, remedy: str = "") -> float:
    """Return a number of an interval such as "(0, 1]" or "[0, inf)", or say what is wrong with it.

    An infinite number is one of "(0, inf]". Arrays and tensors that hold one number are taken.

    Raises
    ------
    ConfigError
        Naming the argument; ``remedy`` ends the message.
    """
    low, high = map(float, interval[1:-1].split(","))
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # an array or tensor that holds one number
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        above = low < number or (interval[0] == "[" and number == low)
        below = number < high or (interval[-1] == "]" and number == high)
        if above and below:
            return number
    wanted = f"in {interval}"
    if math.isinf(high):
        wanted = f"above {low:g}" if interval[0] == "(" else f"at least {low:g}"
        wanted += " and finite" if number == high else ""
    raise ConfigError(f"`{name}` must be {wanted}; got {value!r}.{remedy and ' '}{remedy}")


def check_seeds(seeds: object) -> list[int]:
    """Turn a count, which stands for 0, 1, ..., or a sequence into distinct seeds.

    Raises
    ------
    ConfigError
        If a seed is not a whole number of at least 0, or there is none.
    """
    if isinstance(seeds, Integral) and not isinstance(seeds, bool):
        return list(range(check_count("seeds", int(seeds))))
    listed = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else []
    good = all(isinstance(s, Integral) and not isinstance(s, bool) and int(s) >= 0 for s in listed)
    if not listed or not good or len(set(listed)) < len(listed):
        raise ConfigError(
            f"`seeds` must be a count or distinct whole numbers of at least 0; got {seeds!r}."
        )
    return [int(s) for s in listed]
