"""Commands that take an option for each field of a dataclass: its type, its default and its help are the field's."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from scorediff._core import registry

__all__ = ["with_options_of"]

_PLAIN = (bool, int, float, str)


def with_options_of(kind: type, parameter: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes of a command that takes `parameter`, an object of the dataclass `kind`, one that takes its fields.

    A field's metadata are `help`, `panel`, and, where there are such, its bounds `min` and `max`. A field that holds an
    object, such as a schedule, is given by name, with options after a colon.
    """
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    options = [_option(field, hints[field.name]) for field in fields]

    def wrap(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            values = {field.name: _value(hints[field.name], given.pop(field.name)) for field in fields}
            return command(**given, **{parameter: kind(**values)})

        parameters = []
        for own in inspect.signature(command).parameters.values():
            parameters += options if own.name == parameter else [own.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        # what typer looks at
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return wrap


def _option(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    plain = hint in _PLAIN
    default = field.default if plain else registry.short_name_of(hint, field.default)
    said = typer.Option(
        *([f"--{field.name.replace('_', '-')}"] if hint is bool else []),  # without a --no- beside it
        help=field.metadata["help"],
        rich_help_panel=field.metadata["panel"],
        min=field.metadata.get("min"),
        max=field.metadata.get("max"),
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[hint if plain else str, said],
    )


def _value(hint: Any, given: Any) -> Any:
    return given if hint in _PLAIN else registry.parse(hint, given)
