"""What is proved where: every theorem of the suite, by day and by night. `python tests/theorems.py` writes THEOREMS.md.

A theorem is a test function; its cases are what it is proved of. By day, `make test`, run the cases that are not marked
`nightly`; by night, `make nightly`, all of them, and those that hypothesis draws with more examples.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).parent / "THEOREMS.md"
#: Every theorem, (file, name), and where it is proved, (by day, by night).
Theorems = dict[tuple[str, str], tuple[str, str]]
DRAWN, RECORDED = "all, more examples", "all, by `make orders`"
COLLECTED = pytest.StashKey[Theorems]()


def theorems(items: Iterable[pytest.Item]) -> Theorems:
    """Of all cases that were collected, before any is left out."""
    from hypothesis import is_hypothesis_test  # pytest wants to import it first

    nightly, how = defaultdict(list), {}
    for item in items:
        one = item.path.relative_to(ROOT).as_posix(), getattr(item, "originalname", item.name)
        nightly[one].append(item.get_closest_marker("nightly") is not None)
        if is_hypothesis_test(getattr(item, "obj", None)):  # hypothesis marks it later than this
            how[one] = DRAWN
        elif item.get_closest_marker("recorded") is not None:
            how[one] = RECORDED
    return {one: (_by_day(cases, how.get(one, "")), how.get(one, "all")) for one, cases in sorted(nightly.items())}


def _by_day(nightly: list[bool], how: str) -> str:
    return "-" if all(nightly) else "some" if any(nightly) or how == RECORDED else "all"


def page(found: Theorems) -> str:
    lines, file = [TEXT], ""
    for (path, name), (day, night) in found.items():
        if path != file:
            file = path
            lines += ["", f"## {path}", "", "| theorem | by day | by night |", "| --- | --- | --- |"]
        lines.append(f"| {name.removeprefix('test_').replace('_', ' ')} | {day} | {night} |")
    return "\n".join(lines) + "\n"


def of_file(text: str, path: str) -> str:
    """The part of a page that is about one file."""
    _, _, rest = text.partition(f"\n## {path}\n")
    return rest.partition("\n## ")[0].strip()


TEXT = """# Theorems

Every test states a theorem, and its name is that theorem. Here is where each is proved: by day, in `make test`, of
`all` that it is about, of `some` (one solver for each engine and each branch in it, found by `tests/engines.py`; one or
two schedules, predictions, coordinates), or of none, `-`; by night, in `make nightly`, of all, where hypothesis draws
with more examples. The orders of all solvers are measured by `make orders`, those of solvers that have changed before
every landing.
`python tests/theorems.py` writes this page; a test holds it to the suite."""


class Collector:
    """Writes the page of what was collected."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.testsfailed:
            raise pytest.UsageError("a file cannot be collected: see `pytest --collect-only`")
        PAGE.write_text(page(session.config.stash[COLLECTED]), encoding="utf-8")


if __name__ == "__main__":
    import theorems as imported  # the module that conftest.py knows

    sys.exit(pytest.main(["--collect-only", "-p", "no:terminal", "-m", ""], plugins=[imported.Collector()]))
