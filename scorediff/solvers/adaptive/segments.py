"""The parts of a run between the times that are landed on, and what errors on the way become at its end."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scorediff.schedules import Schedule
from scorediff.spacings import Grid

#: How `Solution.error` comes about.
SUM_OF_STEPS = (
    "the errors of the steps, each as large as a Gaussian's flow makes it at the end, added up and calibrated"
)

__all__ = ["SUM_OF_STEPS", "Segments", "error_weight"]


def error_weight(schedule: Schedule, t: Any, data_std: float = 1.0) -> Any:
    """By how much an error of the state at time `t` weighs: what becomes of it in the data, on the flow of an isotropic
    Gaussian.
    """
    return data_std / np.hypot(schedule.sigma(t), data_std * schedule.alpha(t))


@dataclass(frozen=True)
class Segments:
    """The parts of a run, each stepped through to its end exactly.

    `start` is where the run begins, `ends` are the times where segments end; `near` and `far` where the network is
    evaluated there by the segment that ends and by the one that begins: a unit in the last place to either side of a
    time where the denoiser jumps (its `discontinuities`).
    """

    start: float
    ends: np.ndarray
    near: np.ndarray
    far: np.ndarray

    @classmethod
    def of(cls, denoiser: Any, grid: Grid, stops: bool = True) -> "Segments":
        """Segments between the discontinuities of a denoiser, and with `stops` between the nodes of the grid too."""
        lo, hi = sorted((grid.start, grid.end))
        # a discontinuity within rounding of another, or of an end, is not one
        found, least = np.empty(0), 1e-12 * (hi - lo)
        for t in sorted(float(t) for t in denoiser.discontinuities):
            if t - (found[-1] if found.size else lo) > least and hi - t > least:
                found = np.append(found, t)
        ends = np.unique(np.concatenate([found, grid.times[1:] if stops else grid.times[-1:]]))
        ends = ends if grid.end > grid.start else ends[::-1]
        jumps = np.isin(ends, found)
        near, far = (np.where(jumps, np.nextafter(ends, side), ends) for side in (grid.start, grid.end))
        return cls(grid.start, ends, near, far)

    @cached_property
    def jumps(self) -> np.ndarray:
        """Which ends are discontinuities."""
        return self.near != self.far

    def bounds(self, segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest time at which the network may be evaluated in each of some segments."""
        lowest, highest = self._bounds
        return lowest[segment], highest[segment]

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        begin = np.concatenate([[self.start], self.far[:-1]])
        return np.minimum(begin, self.near), np.maximum(begin, self.near)
