"""Progress bars on a terminal, and nothing elsewhere; tqdm is imported only where a bar shows."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["Bar", "bar", "each"]

T = TypeVar("T")


class Bar:
    """What `bar` gives to its block: `drawn` is tqdm's bar, or None where nothing shows."""

    def __init__(self, drawn: Any = None) -> None:
        self._drawn = drawn

    def advance(self, count: int = 1) -> None:
        """Count `count` units more."""
        if self._drawn is not None:
            self._drawn.update(count)

    def note(self, words: str) -> None:
        """Write `words` behind the bar."""
        if self._drawn is not None:
            self._drawn.set_postfix_str(words)


@contextmanager
def bar(
    shown: bool, total: int | None, *, unit: str, label: str = "", done: int = 0, stays: bool = False
) -> Iterator[Bar]:
    """A bar for as long as the block runs, where it is to be `shown` and standard error is a terminal.

    `total`: how many units there are, None where nobody knows; `done` of them already. `unit`: what is counted, one of
    them. `label` stands before the bar. Where it `stays`, the full bar is left on the terminal.

    >>> with bar(False, 3, unit="step") as steps:
    ...     steps.advance()
    """
    if not shown or sys.stderr is None or not sys.stderr.isatty():
        yield Bar()
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, initial=done, desc=label or None, unit=unit, leave=stays) as drawn:
        yield Bar(drawn)


def each(items: Iterable[T], shown: bool, *, unit: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar that counts them; `total` is how many there are.

    >>> list(each([1, 2], False, unit="run"))
    [1, 2]
    """
    with bar(shown, total, unit=unit) as counted:
        for item in items:
            yield item
            counted.advance()
