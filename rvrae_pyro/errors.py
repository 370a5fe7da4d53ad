"""Error classes. Each is also the built-in that a Python user would expect.

A message says which argument, what was expected, what came, and what to do.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "FitError",
    "PanelError",
    "RvraeError",
    "RvraeWarning",
    "ShapeError",
]


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
