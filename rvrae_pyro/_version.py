"""The version, in its only place."""

from typing import Final

__all__ = ["__version__"]

__version__: Final = "0.1.0"
