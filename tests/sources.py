"""What the measured orders of a solver depend on: a hash of all code that they are computed with.

From the solver's class, its parts and `verify.audit` on, definition by definition: a class, a function or a constant of
a module, and all that its text names, wherever the package defines it. Docstrings, comments, layout and annotations do
not count, nor do the words of errors; the versions of what computes the numbers do.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
COMPUTES = ("numpy", "scipy", "torch", "torchdiffeq", "torchsde")
MEASURE = ("scorediff.verify.audit", "audit")
#: Where numbers are shown and written, not made.
PRESENTS = ("scorediff._core.files", "scorediff._core.progress", "scorediff._core.tables", "scorediff.study")

#: A module, and the name of what it defines; "" for the statements that bind no name.
Definition = tuple[str, str]


def sources(solver: Any, changed: Mapping[str, str] | None = None) -> str:
    """The hash, 12 hexadecimal digits. `changed`: texts of modules in the place of their files."""
    read = _reader(changed or {})
    lines = [f"{one}: {read(one[0]).defined[one[1]].text}" for one in sorted(depends_on(solver, changed))]
    return hashlib.sha256("\n".join([*lines, *_versions()]).encode()).hexdigest()[:12]


def depends_on(solver: Any, changed: Mapping[str, str] | None = None) -> frozenset[Definition]:
    """All definitions that the hash is made of."""
    roots = frozenset({*_classes(solver), MEASURE})
    return _closure(roots, _reader(changed)) if changed else _closure_of_files(roots)


@functools.cache
def _closure_of_files(roots: frozenset[Definition]) -> frozenset[Definition]:
    return _closure(roots, _of_file)


def _closure(roots: frozenset[Definition], read: Any) -> frozenset[Definition]:
    found: set[Definition] = set()
    queue = sorted(roots)
    while queue:
        module, name = one = queue.pop()
        here = read(module)
        if one in found or module.startswith(PRESENTS):
            continue
        if name in here.defined:
            found.add(one)
            queue += _named(here, name, read)
            queue += [(module, "")] if "" in here.defined else []
        elif name in here.imported and here.imported[name].name is not None:
            queue.append((here.imported[name].module, str(here.imported[name].name)))
    return frozenset(found)


def _classes(value: Any) -> Iterator[Definition]:
    """The classes of an object and of all that its fields hold."""
    if type(value).__module__.startswith("scorediff."):
        yield type(value).__module__, type(value).__name__
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _classes(getattr(value, field.name))


def _named(here: "_Module", name: str, read: Any) -> Iterator[Definition]:
    """What the text of a definition names, in its own module or in another of the package."""
    for word, attribute in here.defined[name].uses:
        if word in here.defined:
            yield here.name, word
        elif word in here.imported:
            module, imported = here.imported[word]
            if imported is not None and not _is_module(module, imported, read):
                yield module, imported
            elif attribute is not None and not _is_module(
                full := ".".join(filter(None, (module, imported))), attribute, read
            ):
                yield full, attribute


def _is_module(package: str, name: str, read: Any) -> bool:
    """Whether `name` is a module of the package, and nothing that it defines or imports under this name."""
    here = read(package)
    return name not in here.defined and name not in here.imported and _exists(f"{package}.{name}")


@functools.cache
def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not a package
        return False


@functools.cache
def _versions() -> list[str]:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return sorted(line for line in lines if line.partition("==")[0] in COMPUTES)


def _reader(changed: Mapping[str, str]) -> Any:
    made = {name: _Module(name, text) for name, text in changed.items()}
    return lambda name: made.get(name) or _of_file(name)


@functools.cache
def _of_file(name: str) -> "_Module":
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return _Module(name, Path(spec.origin).read_text(encoding="utf-8"))


class _Defined(NamedTuple):
    text: str
    uses: tuple[tuple[str, str | None], ...]  # names, each with the attribute that is asked of it


class _From(NamedTuple):
    module: str
    name: str | None  # None: the module itself


class _Module:
    """What the text of a module defines and imports, inside functions too."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.imported: dict[str, _From] = {}
        self.defined: dict[str, _Defined] = {}
        outside: dict[str, str] = {}  # what a name from another library stands for
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scorediff"):
                self.imported |= {a.asname or a.name: _From(str(node.module), a.name) for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                outside |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            elif isinstance(node, ast.Import):
                self.imported |= {a.asname or a.name: _From(a.name, None) for a in node.names if a.name == "scorediff"}
                outside |= {a.asname or a.name.partition(".")[0]: a.name for a in node.names if a.name != "scorediff"}
        for statement in _Bare().visit(tree).body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                continue
            for bound in _bound(statement):
                text, uses = self.defined.get(bound, _Defined("", ()))
                used = _used(statement)
                others = sorted({f"{name} is {outside[name]}" for name, _ in used if name in outside})
                text = "\n".join([text, ast.unparse(statement), *others])
                self.defined[bound] = _Defined(text, (*uses, *used))


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    return [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)] or [""]


def _used(statement: ast.stmt) -> list[tuple[str, str | None]]:
    names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    asked = {id(n.value): n.attr for n in ast.walk(statement) if isinstance(n, ast.Attribute)}
    return [(name.id, asked.get(id(name))) for name in names]


class _Bare(ast.NodeTransformer):
    """Without docstrings and annotations."""

    def _without_docstring(self, node: Any) -> Any:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    visit_ClassDef = visit_Module = _without_docstring

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.returns = None
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> Any:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        # that there is one makes a field of a dataclass, unless it is one of the class
        if "ClassVar" not in ast.unparse(node.annotation):
            node.annotation = ast.Constant(...)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> Any:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node
