"""How much one has to read: the lines of some definitions, at some revision of this repository.

    python benchmarks/definitions.py REVISION PATH:NAME,NAME.MEMBER,... PATH:...

A definition is a function, a class, or a member of a class; `PATH:NAME` is one of `scorediff/PATH`. Printed are the
files, the definitions and their lines, docstrings and comments included, blank lines left out.
"""

import ast
import subprocess
import sys


def definition(tree: ast.Module, name: str) -> ast.AST:
    """The function, class or member of this name. Raises SystemExit where there is none."""
    found: ast.AST = tree
    for part in name.split("."):
        inside = [node for node in ast.iter_child_nodes(found) if getattr(node, "name", None) == part]
        if not inside:
            raise SystemExit(f"there is no {name}")
        found = inside[-1]
    return found


def lines_of(source: str, names: list[str]) -> int:
    """The lines of these definitions that are not blank, decorators included, each line once."""
    tree, text, seen = ast.parse(source), source.splitlines(), set()
    for name in names:
        node = definition(tree, name)
        first = min(part.lineno for part in (node, *node.decorator_list))
        seen.update(range(first, node.end_lineno + 1))
    return sum(bool(text[n - 1].strip()) for n in seen)


def main(revision: str, *places: str) -> None:
    total = count = 0
    for place in places:
        path, _, names = place.partition(":")
        shown = subprocess.run(
            ["git", "show", f"{revision}:scorediff/{path}"], capture_output=True, text=True, check=True
        ).stdout
        lines = lines_of(shown, names.split(","))
        total, count = total + lines, count + len(names.split(","))
        print(f"{lines:5d}  {path}: {names.replace(',', ', ')}")
    print(f"{total:5d}  lines, {count} definitions in {len(places)} files at {revision}")


if __name__ == "__main__":
    main(*sys.argv[1:])
