"""Every public class says what each of its fields is, and every name at the top what it does."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest

import scorediff as sd


def public_dataclasses():
    """The dataclasses in an `__all__` of the package, each once, with the place it is defined in."""
    found = {}
    for module in pkgutil.walk_packages(sd.__path__, "scorediff."):
        if not module.name.endswith("__main__"):
            made = importlib.import_module(module.name)
            for name in getattr(made, "__all__", ()):
                cls = getattr(made, name)
                if inspect.isclass(cls) and dataclasses.is_dataclass(cls):
                    found[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return [pytest.param(cls, id=place) for place, cls in sorted(found.items())]


def quoted(text):
    """The words that stand in backticks."""
    return {word for span in re.findall(r"`+([^`]+)`+", text) for word in re.findall(r"\w+", span)}


def public_fields(cls):
    return [field.name for field in dataclasses.fields(cls) if not field.name.startswith("_")]


@pytest.mark.parametrize("cls", public_dataclasses())
def test_a_docstring_names_every_public_field_of_its_class(cls):
    missing = set(public_fields(cls)) - quoted(cls.__doc__ or "")
    assert not missing, f"{cls.__name__} does not say what {', '.join(sorted(missing))} is"


def test_a_field_that_no_docstring_names_is_found():
    @dataclasses.dataclass(frozen=True)
    class Half:
        """It has `rho`, a number, and says nothing of its other field, kappa."""

        rho: float = 1.0
        kappa: float = 2.0

    assert set(public_fields(Half)) - quoted(Half.__doc__) == {"kappa"}


@pytest.mark.parametrize("name", [name for name in sd.__all__ if not inspect.ismodule(getattr(sd, name))])
def test_a_name_at_the_top_has_a_docstring_with_an_example_or_a_formula(name):
    text = inspect.getdoc(getattr(sd, name)) or ""
    formula = re.search(r"`[^`]*[=+*/^(-][^`]*`", text) or re.search(r"^ {4}\S.* = ", text, re.MULTILINE)
    assert ">>>" in text or formula, f"{name}: {text}"
