"""Objects in one readable line."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

__all__ = ["brief", "by_fields"]


def brief(value: Any) -> str:
    """A value as its repr, but tensors by their shapes, and by its name what a repr shows by its address."""
    if isinstance(value, Tensor):
        return f"Tensor{tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {brief(v)}" for key, v in value.items()) + "}"
    if inspect.isroutine(value):
        return str(value.__name__)
    plain: Any = object.__repr__
    return type(value).__name__ if type(value).__repr__ is plain else repr(value)


def by_fields(value: Any) -> str:
    """A dataclass as `Type(field=...)`, each field in brief."""
    said = ", ".join(f"{f.name}={brief(getattr(value, f.name))}" for f in fields(value) if f.repr)
    return f"{type(value).__name__}({said})"
