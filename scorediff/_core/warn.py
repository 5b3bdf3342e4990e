"""Warnings that point to the line outside of the package that led to them."""

import sys
import warnings

__all__ = ["warn"]

_PACKAGE = "scorediff."


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning of this `category`, at the innermost line that is not of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
