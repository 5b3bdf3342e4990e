"""Times to step through."""

from collections.abc import Iterator
from itertools import pairwise
from operator import index
from typing import Any, overload

import numpy as np

from scorediff._core.arrays import real

__all__ = ["Grid"]


class Grid:
    """An immutable, strictly monotone float64 array `times` of shape (steps + 1,); falling times sample, rising encode.

    `steps` is how many steps it has, `start` and `end` are its first and last time. Its nodes are numbered from `first`
    on, 0 by default. A slice `grid[a:b]` keeps the numbers, so that `grid[n:]` is the rest of the same run; `grid[n]`
    is a time.

    Raises ValueError for fewer than two times, a time that is not finite, a repeat or a turn, a first number below 0,
    and a slice that leaves out nodes between others; TypeError for what is not an array of real numbers, and for a
    number that is not whole.

    >>> list(Grid([1.0, 0.5, 0.25]).pairs())
    [(1.0, 0.5), (0.5, 0.25)]
    >>> Grid([1.0, 0.5, 0.25])[1:]
    Grid(1 step from node 1, t = 0.5 .. 0.25)
    """

    __slots__ = ("first", "times")

    times: np.ndarray
    first: int

    def __init__(self, times: Any, first: int = 0) -> None:
        array = real("a grid", times).numpy()
        if array.ndim != 1 or array.size < 2:
            raise ValueError(f"a grid wants at least two times in one row, got shape {array.shape}")
        if not np.all(np.isfinite(array)):
            i = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"grid time {i} is {array[i]}: times must be finite")
        steps = np.diff(array)
        wrong = np.flatnonzero(steps * np.sign(array[-1] - array[0]) <= 0)
        if wrong.size:
            i = int(wrong[0])
            kind = "repeats" if steps[i] == 0 else "turns"
            raise ValueError(
                f"the grid {kind} at times {i} and {i + 1} ({float(array[i])!r}, {float(array[i + 1])!r}): "
                "it must be strictly monotone"
            )
        if isinstance(first, bool) or index(first) < 0:
            raise ValueError(f"first = {first!r}: nodes are numbered by whole numbers from 0 on")
        array.flags.writeable = False
        object.__setattr__(self, "times", array)
        object.__setattr__(self, "first", index(first))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Grid is immutable: make a new one instead of setting {name!r}")

    def __len__(self) -> int:
        return self.times.size

    @overload
    def __getitem__(self, which: int) -> float: ...
    @overload
    def __getitem__(self, which: slice) -> "Grid": ...
    def __getitem__(self, which: int | slice) -> "float | Grid":
        if not isinstance(which, slice):
            return float(self.times[index(which)])
        start, stop, stride = which.indices(len(self))
        if stride != 1:
            raise ValueError(f"grid[::{stride}] would number its nodes anew: give Grid(grid.times[::{stride}])")
        return Grid(self.times[start:stop], self.first + start)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.first == other.first and np.array_equal(self.times, other.times)

    def __hash__(self) -> int:
        return hash((self.first, self.times.tobytes()))

    def __reduce__(self) -> tuple[type["Grid"], tuple[np.ndarray, int]]:
        return Grid, (self.times, self.first)

    def __repr__(self) -> str:
        steps = f"{self.steps} step{'s' * (self.steps > 1)}"
        numbered = f" from node {self.first}" if self.first else ""
        return f"Grid({steps}{numbered}, t = {self.start:.6g} .. {self.end:.6g})"

    @property
    def steps(self) -> int:
        """The number of steps, one less than that of times."""
        return self.times.size - 1

    @property
    def start(self) -> float:
        """The first time."""
        return float(self.times[0])

    @property
    def end(self) -> float:
        """The last time."""
        return float(self.times[-1])

    def pairs(self) -> Iterator[tuple[float, float]]:
        """The steps `(from, to)` as floats."""
        return pairwise(self.times.tolist())

    def reversed(self) -> "Grid":
        """The grid of the same times in the other direction, its nodes numbered from 0."""
        return Grid(self.times[::-1])
