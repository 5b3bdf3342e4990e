"""Finding concrete classes by walking the package, and turning them into names and dictionaries and back."""

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
import re
import typing
from typing import Any, TypeVar

__all__ = ["concrete", "from_dict", "kebab", "name_of", "names", "nearest", "parse", "resolve", "to_dict"]

T = TypeVar("T")
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
    found, queue = [], [base]
    while queue:
        for cls in queue.pop().__subclasses__():
            queue.append(cls)
            if not inspect.isabstract(cls) and not cls.__name__.startswith("_") and cls not in found:
                found.append(cls)
    # a user's come first, in the order they were defined: of one name, the later one holds, and the package's above all
    own = [cls for cls in found if cls.__module__.startswith("scorediff.")]
    return [cls for cls in found if cls not in own] + sorted(own, key=lambda cls: (cls.__module__, cls.__name__))


def names(base: type[T]) -> dict[str, T]:
    """Every concrete object under `base` by name: the `variants` a class lists, else the class with defaults.

    A user's class without defaults for all its fields has no name.
    """
    made = {}
    for cls in concrete(base):
        variants = getattr(cls, "variants", None) or {kebab(cls.__name__): {}}
        for name, options in variants.items():
            if _takes(cls, options):
                made[name] = cls(**options)
    return made


def name_of(value: Any) -> str:
    """The name of an object, whatever its other options: that of the variant it is, else of its class."""
    variants: typing.Mapping[str, typing.Mapping[str, Any]] = getattr(value, "variants", None) or {}
    for name, options in sorted(variants.items(), key=lambda item: -len(item[1])):
        if all(getattr(value, key) == wanted for key, wanted in options.items()):
            return name
    return kebab(type(value).__name__)


def _takes(cls: Any, options: typing.Mapping[str, Any]) -> bool:
    try:
        inspect.signature(cls).bind(**options)
    except TypeError:
        return False
    return True


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing, for the end of an error message."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def parse(base: type[T], text: str) -> T:
    """The object that `name` or `name:option=value,option=value` stands for.

    Raises ValueError for an unknown name or option, naming the nearest known one.
    """
    name, _, options = text.partition(":")
    known = names(base)
    name = name if name in known else name.lower()
    if name not in known:
        hint = nearest(name, known)
        if not hint or len(known) <= _FEW:
            hint += f"{';' * (not hint)} known: {', '.join(sorted(known))}"
        raise ValueError(f"unknown {kebab(base.__name__)} {name!r}{hint}")
    made: Any = known[name]
    changes = {}
    for option in filter(None, re.split(r",(?![^(]*\))", options)):
        key, equals, value = option.partition("=")
        fields = {f.name for f in dataclasses.fields(made)}
        if key in fields and not equals:
            raise ValueError(f"option {key!r} of {name!r} has no value: write {key}=VALUE")
        if key not in fields:
            listed = ", ".join(sorted(fields)) or "none"
            raise ValueError(
                f"{name!r} has no option {key!r}{nearest(key, fields) or '; options: ' + listed} (as name=value)"
            )
        changes[key] = _value(typing.get_type_hints(type(made)).get(key), value)
    return dataclasses.replace(made, **changes)


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
        raise ValueError(f"{text!r} is no {'whole ' * (kind is int)}number")
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
    if hasattr(value, "tolist"):  # an array
        return value.tolist()
    if not callable(value):
        return repr(value)
    # a function by its name, another callable by its class's: a repr may hold an address, different in every run
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def from_dict(base: type[T], data: dict[str, Any]) -> T:
    """The inverse of `to_dict` for a class under `base`. Raises ValueError for an unknown type or field."""
    known = {cls.__name__: cls for cls in (base, *concrete(base)) if not inspect.isabstract(cls)}
    kind = data.get("type", "")
    if kind not in known:
        raise ValueError(f"unknown {base.__name__} type {kind!r}{nearest(kind, known)}")
    cls: Any = known[kind]
    hints, fields = typing.get_type_hints(cls), {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in data.items():
        if key == "type":
            continue
        if key not in fields:
            raise ValueError(f"{kind} has no field {key!r}{nearest(key, fields)}")
        if isinstance(value, dict) and "type" in value:
            value = from_dict(hints[key], value)
        values[key] = tuple(value) if isinstance(value, list) else value
    return typing.cast(T, cls(**values))
