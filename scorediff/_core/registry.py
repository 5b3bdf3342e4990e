"""Finding concrete classes by walking the package, and turning them into names and dictionaries and back."""

import ast
import collections.abc
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

__all__ = [
    "concrete",
    "from_dict",
    "from_plain",
    "kebab",
    "name_of",
    "names",
    "nearest",
    "parse",
    "resolve",
    "short_name_of",
    "shown",
    "to_dict",
]

T = TypeVar("T")
#: What may stand in plain data for a field of a kind, and the kind in words.
_PLAIN: dict[Any, tuple[Any, str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    dict: ((dict,), "an object {...}"),
}
_FEW = 24  # names that an error can list


def kebab(name: str) -> str:
    """`VPLinear` as `vp-linear`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


@functools.cache
def _load_package() -> None:
    """Import every module that may declare a class: once, since it looks at the disk."""
    import scorediff

    # nothing is declared there, or not without other libraries
    aside = ("scorediff.__main__", "scorediff.cli", "scorediff.interop", "scorediff.testing")
    for module in pkgutil.walk_packages(scorediff.__path__, "scorediff."):
        if not module.name.startswith(aside):
            importlib.import_module(module.name)


def concrete(base: type[T]) -> list[type[T]]:
    """Every class of the package under `base` that can be instantiated, and every loaded one of a user's, by name."""
    _load_package()
    found: dict[type[T], None] = {}
    queue = [base]
    while queue:
        for cls in queue.pop().__subclasses__():
            queue.append(cls)
            if not inspect.isabstract(cls) and not cls.__name__.startswith("_"):
                found[cls] = None
    # a user's come first, in the order they were defined: of one name, the later one holds, and the package's above all
    foreign = [cls for cls in found if not cls.__module__.startswith("scorediff.")]
    package = [cls for cls in found if cls.__module__.startswith("scorediff.")]
    return foreign + sorted(package, key=lambda cls: (cls.__module__, cls.__name__))


def names(base: type[T]) -> dict[str, T]:
    """Every concrete object under `base` by name: the `variants` a class lists, else the class with defaults.

    A user's class without defaults for all its fields has no name.
    """
    return {name: cls(**options) for name, cls, options in _declared(base) if _takes(cls, options)}


def name_of(made: Any) -> str:
    """The name that stands for an object: that of the variant it is, whatever its other options; else its class's."""
    for name, options in sorted(_variants(type(made)).items(), key=lambda item: -len(item[1])):
        if all(getattr(made, key) == value for key, value in options.items()):
            return name
    return kebab(type(made).__name__)


def short_name_of(base: type, made: Any) -> str:
    """The name that stands for an object under `base`, without the family's word."""
    return name_of(made).removesuffix(f"-{_family(base)}")


def _family(base: type) -> str:
    return kebab(base.__name__).rpartition("-")[2]


def _variants(cls: type) -> Mapping[str, Mapping[str, Any]]:
    return getattr(cls, "variants", None) or {kebab(cls.__name__): {}}


def _declared(base: type[T]) -> Iterator[tuple[str, type[T], Mapping[str, Any]]]:
    """Every name that a class declares, with the class and the options it stands for; of one name, the last holds."""
    for cls in concrete(base):
        for name, options in _variants(cls).items():
            yield name, cls, options


def _takes(cls: Any, options: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(cls).bind(**options)
    except TypeError:
        return False
    return True


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing, for the end of an error message."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def parse(base: type[T], text: str) -> T:
    """The object that `name` or `name:option=value,option=value` stands for; no other is made.

    Case does not matter, and the family's word may be left out: `noise` is `noise-prediction` among predictions.
    Raises ValueError for an unknown name or option, naming the nearest known one.
    """
    name, _, options = text.partition(":")
    cls, preset = _lookup(base, name)
    fields = {f.name for f in dataclasses.fields(cls)} if options else set()
    hints = typing.get_type_hints(cls) if options else {}
    chosen = {}
    for option in filter(None, re.split(r",(?![^(]*\))", options)):
        key, equals, value = option.partition("=")
        if key in fields and not equals:
            raise ValueError(f"option {key!r} of {name!r} has no value: write {key}=VALUE")
        if key not in fields:
            listed = ", ".join(sorted(fields)) or "none"
            raise ValueError(
                f"{name!r} has no option {key!r}{nearest(key, fields) or '; options: ' + listed} (as name=value)"
            )
        chosen[key] = _value(hints.get(key), value)
    return typing.cast(T, cls(**{**preset, **chosen}))


def _lookup(base: type[T], name: str) -> tuple[Any, Mapping[str, Any]]:
    """The class and the options that a name stands for."""
    declared = list(_declared(base))
    for wanted in (name, name.lower(), f"{name.lower()}-{_family(base)}"):
        for known, cls, options in reversed(declared):
            if known == wanted and _takes(cls, options):
                return cls, options
    takers = list(dict.fromkeys(known for known, cls, options in declared if _takes(cls, options)))
    short = [known.removesuffix(f"-{_family(base)}") for known in takers]
    hint = nearest(name.lower(), [*short, *takers])
    if not hint or len(takers) <= _FEW:
        hint += f"{';' * (not hint)} known: {', '.join(sorted(takers))}"
    raise ValueError(f"unknown {kebab(base.__name__)} {name.lower()!r}{hint}")


def resolve(base: type[T], value: T | str) -> T:
    """An object under `base` itself, or by its name. Raises TypeError for anything else, ValueError as `parse`."""
    if isinstance(value, str):
        return parse(base, value)
    if not isinstance(value, base):
        example = next(iter(names(base)))
        raise TypeError(f"{value!r} is not a {base.__name__}: give one, or its name, such as {example!r}")
    return value


def _value(kind: Any, text: str) -> Any:
    if inspect.isclass(kind) and inspect.isabstract(kind):
        return parse(kind, text)
    if dataclasses.is_dataclass(kind):
        raise ValueError(f"{text!r}: a {typing.cast(type, kind).__name__} is given in Python")
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = float("inf") if kind is float and text == "inf" else text
    if typing.get_origin(kind) is tuple and not isinstance(value, tuple):
        value = (value,)
    if kind in (int, float) and not isinstance(value, (int, kind)):
        raise ValueError(f"{text!r} is not a {'whole ' * (kind is int)}number")
    return value


def to_dict(value: Any) -> Any:
    """A frozen dataclass as plain data: its class name under `type`, then its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    if isinstance(value, dict):
        return {key: to_dict(v) for key, v in value.items()}
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return value.tolist()
    if not callable(value):
        return repr(value)
    # a function by its name, another callable by its class's: a repr may hold an address, different in every run
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def from_dict(base: type[T], data: Any) -> T:
    """The inverse of `to_dict` for a class under `base`.

    Raises ValueError for what is not an object with a known type, for an unknown field, and for a value that is not of
    its field's kind or that the class refuses.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{shown(data)} is not a {base.__name__}: an object with its 'type' is wanted")
    known = {cls.__name__: cls for cls in (base, *concrete(base)) if not inspect.isabstract(cls)}
    kind = data.get("type", "")
    if not isinstance(kind, str) or kind not in known:
        hint = nearest(kind, known) if isinstance(kind, str) else ""
        raise ValueError(f"unknown {base.__name__} type {shown(kind)}{hint}")
    cls: Any = known[kind]
    hints, fields = typing.get_type_hints(cls), {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in data.items():
        if key == "type":
            continue
        if key not in fields:
            raise ValueError(f"{kind} has no field {shown(key)}{nearest(key, fields)}")
        values[key] = from_plain(hints[key], value, f"{kind}.{key}")
    try:
        return typing.cast(T, cls(**values))
    except (TypeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"{kind} cannot be made of {shown(values)}: {error}") from error


def from_plain(hint: Any, value: Any, name: str) -> Any:
    """What a field of the kind `hint` holds, from plain data; `name` is for errors. Lists become tuples.

    Raises ValueError for a value of another kind, and for a number that is none.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType) and type(None) in inner and len(inner) == 2:
        kind = next(kind for kind in inner if kind is not type(None))
        return None if value is None else from_plain(kind, value, name)
    if origin is tuple:
        kinds = inner[:-1] * len(value) if isinstance(value, (list, tuple)) and inner[-1] is ... else inner
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            raise ValueError(f"{name} = {shown(value)}: a list is wanted, as in {hint}")
        return tuple(
            from_plain(kind, entry, f"{name}[{i}]") for i, (kind, entry) in enumerate(zip(kinds, value, strict=True))
        )
    if inspect.isclass(hint) and (dataclasses.is_dataclass(hint) or inspect.isabstract(hint)):
        return value if isinstance(value, hint) else from_dict(hint, value)
    if origin is collections.abc.Callable and not callable(value):
        raise ValueError(f"{name} = {shown(value)}: a function is given in Python")
    accepted, words = _PLAIN.get(origin or hint, ((object,), "something else"))
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint in (int, float)) or value != value:
        raise ValueError(f"{name} = {shown(value)}: {words} is wanted")
    if hint is float and abs(value) > sys.float_info.max and abs(value) != math.inf:
        raise ValueError(f"{name} = {shown(value)}: a number below 1.8e308 is wanted")
    return tuple(value) if isinstance(value, list) else value


def shown(value: Any) -> str:
    """A value in an error message, cut short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits; nested without end
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= 60 else f"{text[:57]}..."
