"""Settings of the right type: what is wanted as a number is one."""

import inspect
import types
import typing
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np

__all__ = ["TypedFields"]

#: By class, and gone with it.
_FOUND: WeakKeyDictionary[Any, Mapping[str, frozenset[type]]] = WeakKeyDictionary()


class TypedFields:
    """What a dataclass comes of whose fields of type `float`, `int`, or one of them or None, are to be so.

    That is checked before anything is made of them, in `__post_init__` or later: `VPLinear("0.1")` raises TypeError
    with the name of the field, and so do True and a tensor; NaN raises ValueError.
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made: Any = cls
        wanted = _numbers_of(made)
        for name, value in _given(made, args, kwargs).items() if wanted else ():
            if name in wanted:
                _check(made, name, value, wanted[name])
        return super().__new__(cls)


def _numbers_of(cls: Any) -> Mapping[str, frozenset[type]]:
    """The fields that are to be numbers, and of which types each may be."""
    found = _FOUND.get(cls)
    if found is None:
        found = _FOUND[cls] = _look_up(cls)
    return found


def _look_up(cls: Any) -> Mapping[str, frozenset[type]]:
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # of a class whose annotations name what is local to a function
        return {}
    found = {}
    for name, field in getattr(cls, "__dataclass_fields__", {}).items():
        either = typing.get_origin(hints[name]) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hints[name]) if either else (hints[name],)
        if field.init and all(kind in (float, int, type(None)) for kind in kinds):
            found[name] = frozenset(kinds)
    return found


def _given(cls: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """What an object is made of, by name; nothing where `__init__` does not take it, and will say so."""
    try:
        return inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments
    except TypeError:
        return {}


def _check(cls: Any, name: str, value: Any, kinds: frozenset[type]) -> None:
    if value is None and type(None) in kinds:
        return
    number = Real if float in kinds else Integral
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, number):
        what = "a number" if float in kinds else "a whole number"
        raise TypeError(f"{cls.__name__}: {name} = {value!r}; {what} is wanted")
    if value != value:
        raise ValueError(f"{cls.__name__}: {name} = {value!r}; a number is wanted, and this is none")
